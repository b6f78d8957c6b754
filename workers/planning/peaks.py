"""How much memory of the computing device each stage takes at its peak, in bytes, by rules of thumb and without torch.

Legend: N = parameters, N_t = those trained, t = tokens computed at once, d = hidden size, f = width of the FFN,
V = vocabulary size, e = bytes an element of the arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass

from workers.contracts.recipe import LONGEST_SEQUENCE, Recipe
from workers.contracts.results import StageName, Subject
from workers.contracts.rivals import LlmSurgeonSettings, SlebSettings, SliceGptSettings
from workers.contracts.training import TrainingSettings
from workers.models.family import Config
from workers.planning.forecast import PROBE_TOKENS, SITES_A_BLOCK, Sizes

_FULL, _HALF = 4, 2
"""Bytes of an element of float32, and of bfloat16 or float16."""

_MOMENTS_BYTES = {"adamw": 8, "adamw_8bit": 2}
"""Both moments of a trained parameter; scales of 8-bit blocks are within the error."""

_KEPT_OF_STREAM, _KEPT_OF_FFN = 12, 4
"""Activations that a layer keeps for the backward pass, a token: multiples of d and of f."""

_LOSS_COPIES = 3
"""Logits, their logarithms and the gradient of both, all in float32."""

_HEAP_BYTES, _HEAP_FRACTION = 200 * 2**20, 0.5
"""What stays resident on a CPU though it was freed, and what kernel libraries hold: at most so much, or this share of
the tensors. 190 to 280 MiB were measured while training 100 million parameters."""

_FFN_MATRICES = 3
"""Linear layers of an FFN with a gate; those without have fewer."""

_LONGEST_QUESTION = 256
"""Tokens of the longest question with an answer, about; lm-eval fills shorter ones up to the longest of a batch."""

_LOOKED_AT_SEQUENCES = 8
"""Sequences at once while the dense model is looked at."""

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
            "zero_shot": self._zero_shot,
            "covariance": self._covariance,
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

    def _zero_shot(self, subject: Subject) -> Items:
        """The longest questions come first, so that the first batch is the largest."""
        settings = self.recipe.evaluate
        shots = max((task.num_fewshot or 0 for task in settings.wanted_tasks), default=0)
        tokens = settings.tasks_batch_size * min(self._context, _LONGEST_QUESTION * (1 + shots))
        element = self._computed_bytes
        return {
            "weights": element * self._parameters(subject),
            "activations": element * tokens * self._kept_by_a_layer(subject),
            "logits": 2 * element * tokens * self._vocabulary,
        }

    def _basis(self, subject: Subject) -> Items:
        settings = self.recipe.method
        if settings.kind == "sleb" or settings.kind == "slicegpt":
            return self._looking(subject, settings)
        if settings.kind == "dress" and settings.refines:
            return self._looking_at_all_layers(subject, settings.training.batch_size)
        if self._looks_at_heads:
            return self._covariance(subject)
        gram = 0 if settings.kind == "random" else 8 * self._hidden(subject) ** 2
        held = _LOSS_COPIES * gram if settings.kind == "dress" else gram
        return {"weights": _FULL * self._parameters(subject), "statistics": held}

    def _covariance(self, subject: Subject) -> Items:
        return self._looking_at_all_layers(subject, _LOOKED_AT_SEQUENCES)

    def _looking_at_all_layers(self, subject: Subject, sequences: int) -> Items:
        """With gradients of what flows through the model, and none of its weights."""
        tokens = sequences * self._sequence_length
        return {
            "weights": _FULL * self._parameters(subject),
            "activations": _FULL * tokens * self._kept_by_a_layer(subject) * self._layers,
            "logits": _LOSS_COPIES * _FULL * tokens * self._vocabulary,
            "statistics": _LOSS_COPIES * 8 * self._hidden(subject) ** 2,
        }

    def _looking(self, subject: Subject, settings: SlebSettings | SliceGptSettings) -> Items:
        """Block by block, without gradients: a few streams, one block's activations, and what each method keeps."""
        tokens, width = settings.batch_size * self._sequence_length, self._hidden(subject)
        held = {
            "weights": _FULL * self._parameters(subject),
            "activations": _FULL * tokens * self._kept_by_a_layer(subject),
        }
        if settings.kind == "sleb":
            held["streams"] = 2 * _FULL * tokens * width
            held["logits"] = _FULL * tokens * self._vocabulary + 2 * _FULL * self._sequence_length * self._vocabulary
            return held
        samples = min(settings.calibration_samples, self.recipe.data.regularize_samples or self.recipe.data.samples)
        held["streams"] = 0 if self._on_gpu else _FULL * samples * self._sequence_length * width
        held["axes"] = _FULL * SITES_A_BLOCK * self._layers * width * self._hidden("pruned")
        held["statistics"] = _LOSS_COPIES * 8 * width**2
        return held

    def _curvature(self, subject: Subject, settings: LlmSurgeonSettings) -> Items:
        """Both factors of every linear layer of the blocks, and the passes that fill them; no weight has a gradient."""
        tokens, width = settings.batch_size * self._sequence_length, self._hidden(subject)
        attention, ffn = 4 * 2 * width**2, _FFN_MATRICES * (width**2 + self._ffn**2)
        return {
            "weights": _FULL * self._parameters(subject),
            "factors": _FULL * self._layers * (attention + ffn),
            "activations": _FULL * tokens * self._kept_by_a_layer(subject) * self._layers,
            "logits": _LOSS_COPIES * _FULL * tokens * self._vocabulary,
            "inverses": _LOSS_COPIES * 8 * max(width, self._ffn) ** 2,
        }

    def _regularize(self, subject: Subject) -> Items:
        settings = self.recipe.method
        parameters = self._parameters(subject)
        if settings.kind == "llm_surgeon":
            return self._curvature(subject, settings)
        if settings.kind != "dress" or not settings.trains:
            return {"weights": _FULL * parameters}
        held = self._training(subject, settings.training, parameters, settings.has_teacher)
        if settings.stream_distillation and settings.training.activation_checkpointing:
            # Backward computes the distances again, so the teacher's streams stay.
            tokens = settings.training.sequences_at_once * self._sequence_length
            element = _HALF if self._on_gpu else _FULL
            held["teacher's streams"] = element * tokens * self._hidden(subject) * SITES_A_BLOCK * self._layers
        return held

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
        """All models at once; the dense one's passes take most."""
        form, element = self.recipe.speed_form(self._context), self._computed_bytes
        if form is None:
            return {}
        a_token = element * self._kept_by_a_layer("dense")
        width = self._attention_width
        generating = {
            "cache": element * form.batch_size * (1 + form.new_tokens) * self._layers * 2 * width,
            "activations": form.batch_size * a_token,
            "logits": (element + _FULL) * form.batch_size * self._vocabulary,
        }
        reading = {
            "activations": form.prompt_tokens * a_token,
            "logits": element * form.prompt_tokens * self._vocabulary,
        }
        larger = generating if sum(generating.values()) > sum(reading.values()) else reading
        return {"weights": element * sum(size.parameters for size in self.sizes.values()), **larger}

    def _training(self, subject: Subject, settings: TrainingSettings, trained: int, has_teacher: bool) -> Items:
        parameters = self._parameters(subject)
        weight = _HALF if settings.weights == "bfloat16" else _FULL
        is_half = settings.precision in ("bfloat16", "float16") or (settings.precision == "auto" and self._on_gpu)
        element = _HALF if is_half or settings.weights == "bfloat16" else _FULL
        tokens = settings.sequences_at_once * self._sequence_length
        at_once = min(tokens, settings.loss_chunk_tokens or tokens)
        a_layer, layers = element * tokens * self._kept_by_a_layer(subject), self._layers
        activations = a_layer * layers
        if settings.activation_checkpointing:
            activations = a_layer + element * tokens * self._hidden(subject) * layers
        trained_bytes = weight if trained == parameters else _FULL
        models = 2 if has_teacher else 1
        logits = models * (element + _LOSS_COPIES * _FULL) * at_once * self._vocabulary
        gradients = 0 if settings.step_in_backward else trained_bytes * trained
        if settings.accumulation_steps == 1:
            gradients = max(0, gradients - activations - logits)  # they come as these go
        held = {
            "weights": weight * parameters + (0 if trained == parameters else _FULL * trained),
            "weights cast for the arithmetic": element * parameters if is_half and weight == _FULL else 0,
            "gradients": gradients,
            "moments": _MOMENTS_BYTES[settings.optimizer] * trained,
            "teacher": (_HALF if self._on_gpu else _FULL) * self._parameters("dense") if has_teacher else 0,
            "activations": activations,
            "logits": logits,
        }
        kept = 0 if self._on_gpu else min(_HEAP_BYTES, int(_HEAP_FRACTION * sum(held.values())))
        return {**held, "heap": kept}

    def _parameters(self, subject: Subject) -> int:
        return self.sizes[subject].parameters

    def _hidden(self, subject: Subject) -> int:
        return self.sizes[subject].hidden_size

    def _kept_by_a_layer(self, subject: Subject) -> int:
        """Elements a token."""
        return _KEPT_OF_STREAM * self._hidden(subject) + _KEPT_OF_FFN * self._ffn

    @property
    def _looks_at_heads(self) -> bool:
        """Whether attention heads may be ordered, for which a text is looked at."""
        return getattr(self.recipe.method, "export", "auto") == "native"

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
    def _attention_width(self) -> int:
        """Elements of a token's keys in a layer, and of its values."""
        heads = int(self.config.num_attention_heads)
        channels = getattr(self.config, "head_dim", None) or int(self.config.hidden_size) // heads
        return int(getattr(self.config, "num_key_value_heads", None) or heads) * int(channels)

    @property
    def _vocabulary(self) -> int:
        return int(self.config.vocab_size)
