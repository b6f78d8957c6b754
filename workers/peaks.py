"""How much memory of the computing device each stage takes at its peak, in bytes, by rules of thumb and without torch.

Legend: N = parameters, N_t = those trained, t = tokens computed at once, d = hidden size, f = width of the FFN,
V = vocabulary size, e = bytes an element of the arithmetic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from workers.contracts.recipe import LONGEST_SEQUENCE, Recipe
from workers.contracts.results import StageName, Subject
from workers.contracts.training import TrainingSettings
from workers.forecast import PROBE_TOKENS, Sizes
from workers.models.family import Config

_FULL, _HALF = 4, 2
"""Bytes of an element of float32, and of bfloat16 or float16."""

_MOMENTS_BYTES = {"adamw": 8, "adamw_8bit": 2}
"""Both moments of a trained parameter; scales of 8-bit blocks are within the error."""

_KEPT_OF_STREAM, _KEPT_OF_FFN = 12, 4
"""Activations that a layer keeps for the backward pass, a token: multiples of d and of f."""

_LOSS_COPIES = 3
"""Logits, their logarithms and the gradient of both, all in float32."""

_BASIS_SEQUENCES = 8
"""Sequences at once while the basis is looked for."""

Items = dict[str, int]
"""What takes the memory, in bytes."""


@dataclass(frozen=True)
class Rules:
    """The recipe, the model's widths, and what both say of a stage."""

    recipe: Recipe
    config: Config
    sizes: Sizes
    export_bytes: int
    """Of an element of the exported weights."""

    def items(self, stage: tuple[StageName, Subject | None]) -> Items:
        """What the peak of a stage, told by its name and subject, is made of."""
        name, subject = stage
        made = {
            "evaluate": self._evaluate,
            "basis": self._basis,
            "regularize": self._regularize,
            "prune": self._prune,
            "recover": self._recover,
            "benchmark": self._benchmark,
        }[name](subject or "dense")
        return {item: size_bytes for item, size_bytes in made.items() if size_bytes}

    def _evaluate(self, subject: Subject) -> Items:
        settings = self.recipe.evaluate
        if not settings.perplexity:
            return {"weights": 0}
        length = settings.sequence_length or min(LONGEST_SEQUENCE, self._context)
        tokens = settings.batch_size * length
        element = self._computed_bytes
        return {
            "weights": element * self._parameters(subject),
            "activations": element * tokens * self._kept_by_a_layer(subject),
            "logits": (element + 2 * _FULL) * tokens * self._vocabulary,
        }

    def _basis(self, subject: Subject) -> Items:
        tokens = _BASIS_SEQUENCES * self._sequence_length
        layers = _FULL * tokens * self._kept_by_a_layer(subject) * self._layers
        return {
            "weights": _FULL * self._parameters(subject),
            "activations": layers,
            "logits": _LOSS_COPIES * _FULL * tokens * self._vocabulary,
            "statistics": 8 * self.sizes[subject].hidden_size ** 2 * _LOSS_COPIES,
        }

    def _regularize(self, subject: Subject) -> Items:
        settings = self.recipe.method
        parameters = self._parameters(subject)
        if settings.kind != "dress" or not settings.trains:
            return {"weights": _FULL * parameters}
        return self._training(subject, settings.training, parameters, bool(settings.distillation))

    def _recover(self, _subject: Subject) -> Items:
        settings = self.recipe.recover
        if settings.kind == "none":
            return {}
        trained = self._parameters("recovered")
        if settings.kind == "lora":
            trained = 2 * settings.rank * self._layers * (4 * self._hidden("recovered") + 3 * self._ffn)
        return self._training("recovered", settings.training, trained, bool(settings.distillation))

    def _prune(self, subject: Subject) -> Items:
        return {
            "weights": _FULL * (self._parameters(subject) + self._parameters("pruned")),
            "logits": 2 * _FULL * PROBE_TOKENS * self._vocabulary,
        }

    def _benchmark(self, _subject: Subject) -> Items:
        return {"weights": self._computed_bytes * sum(size.parameters for size in self.sizes.values())}

    def _training(self, subject: Subject, settings: TrainingSettings, trained: int, has_teacher: bool) -> Items:
        parameters = self._parameters(subject)
        weight = _HALF if settings.weights == "bfloat16" else _FULL
        is_half = settings.precision in ("bfloat16", "float16") or (settings.precision == "auto" and self._on_gpu)
        element = _HALF if is_half or settings.weights == "bfloat16" else _FULL
        tokens = math.ceil(settings.batch_size / settings.accumulation_steps) * self._sequence_length
        at_once = min(tokens, settings.loss_chunk_tokens or tokens)
        a_layer, layers = element * tokens * self._kept_by_a_layer(subject), self._layers
        activations = a_layer * layers
        if settings.activation_checkpointing:
            activations = a_layer + element * tokens * self._hidden(subject) * layers
        trained_bytes = weight if trained == parameters else _FULL
        models = 2 if has_teacher else 1
        return {
            "weights": weight * parameters + (0 if trained == parameters else _FULL * trained),
            "weights cast for the arithmetic": element * parameters if is_half and weight == _FULL else 0,
            "gradients": 0 if settings.step_in_backward else trained_bytes * trained,
            "moments": _MOMENTS_BYTES[settings.optimizer] * trained,
            "teacher": (_HALF if self._on_gpu else _FULL) * self._parameters("dense") if has_teacher else 0,
            "activations": activations,
            "logits": models * (element + _LOSS_COPIES * _FULL) * at_once * self._vocabulary,
        }

    def _parameters(self, subject: Subject) -> int:
        return self.sizes[subject].parameters

    def _hidden(self, subject: Subject) -> int:
        return self.sizes[subject].hidden_size

    def _kept_by_a_layer(self, subject: Subject) -> int:
        """Elements a token."""
        return _KEPT_OF_STREAM * self._hidden(subject) + _KEPT_OF_FFN * self._ffn

    @property
    def _on_gpu(self) -> bool:
        return bool(self.recipe.resources.gpus)

    @property
    def _computed_bytes(self) -> int:
        """Bytes of an element where a model is only asked: as exported on a GPU, float32 on a CPU."""
        return self.export_bytes if self._on_gpu else _FULL

    @property
    def _context(self) -> int:
        return int(getattr(self.config, "max_position_embeddings", LONGEST_SEQUENCE))

    @property
    def _sequence_length(self) -> int:
        return self.recipe.data.resolved_sequence_length(self._context)

    @property
    def _layers(self) -> int:
        return int(self.config.num_hidden_layers)

    @property
    def _ffn(self) -> int:
        named = getattr(self.config, "intermediate_size", None) or getattr(self.config, "ffn_dim", None)
        return int(named or 4 * self.config.hidden_size)

    @property
    def _vocabulary(self) -> int:
        return int(self.config.vocab_size)
