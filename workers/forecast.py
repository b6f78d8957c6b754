"""What a recipe's stages will take, told beforehand and without torch: parameters, arithmetic, bytes moved.

Legend: N = parameters, t = tokens. A forward pass costs 2·N·t floating-point operations; a backward pass costs 2·N·t
for the gradients of what flows through the model and another 2·N·t for those of its weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from workers import stored_model
from workers.contracts.recipe import Recipe
from workers.contracts.results import Subject
from workers.contracts.training import TrainingSettings
from workers.models.family import Config, ModelFamily, Slot, family_of, is_tied
from workers.models.width import Width, is_principal, width_of
from workers.plan import PlannedStage
from workers.stored_model import PlainConfig

FORWARD, BACKWARD, BACKWARD_TO_WEIGHTS = 2, 4, 2
"""Operations a parameter and token: a forward pass, a backward pass, and its part for the weights' own gradients."""

CALIBRATION_SEQUENCES = 128
"""As `workers.pruning.dress`, which looks at so many sequences before it trains."""

PROBES, PROBE_TOKENS = 2, 256
"""As `workers.stages.prune`, which compares two models on one sequence."""

TRAINED_BYTES = 4
"""Of a parameter while a stage holds it: weights are read into float32."""

GENERATION = {"cuda": (64, 128, 11), "cpu": (8, 32, 6)}
"""Batch, new tokens and rounds (the warm-up too) of the benchmark, as `workers.stages.benchmark`."""


@dataclass(frozen=True)
class Size:
    """How large a model is."""

    parameters: int
    """Tied tensors once."""
    hidden_size: int


Sizes = dict[Subject, Size]
"""Of the dense model, of what the cut leaves, and of what recovery makes of that."""


@dataclass(frozen=True)
class Effort:
    """What a stage asks of a machine."""

    operations: float
    """Floating-point operations."""
    moved_bytes: float
    """Bytes of weights read from and written to disk."""


def sizes_of(recipe: Recipe, folder: Path) -> Sizes:
    """The true sizes of the dense model in this folder, and of what the recipe makes of it.

    Raises:
        RecipeError: the checkpoint cannot be read, is of an unknown architecture, or the ratio does not suit it.
        AttributeError: config.json lacks a field (`name`).
        LookupError: the tensors are not named as the architecture names them.
    """
    config = stored_model.plain_config(folder)
    family = family_of(config)
    head = _head(family, config)
    stored = {name: list(tensor.shape) for name, tensor in stored_model.parameters(folder).items()}
    if is_tied(config):  # some exports store a tied head once more
        stored.pop(head.parameter, None)
    dense = Size(_elements(stored), int(config.hidden_size))
    sizes: Sizes = {"dense": dense, "pruned": dense}
    if recipe.method.kind == "dress":
        width = width_of(recipe.method, family, config)
        if is_tied(config) and is_principal(recipe.method, family, config):
            # The rotation folds the last norm into the head, which then is the embedding no longer.
            stored[head.parameter] = [int(config.vocab_size), dense.hidden_size]
            config.tie_word_embeddings = False
        sizes["pruned"] = Size(_elements(_cut(stored, family, config, width)), width.channels)
    if recipe.recover.kind != "none":
        sizes["recovered"] = sizes["pruned"]
    return sizes


def _head(family: ModelFamily, config: Config) -> Slot:
    """The head's slot, as of a model whose head is a tensor of its own."""

    def slots(tied: bool) -> list[Slot]:
        return family.slots(PlainConfig(**{**vars(config), "tie_word_embeddings": tied}))

    shared = {slot.parameter for slot in slots(True)}
    return next(slot for slot in slots(False) if slot.parameter not in shared)


def _cut(stored: dict[str, list[int]], family: ModelFamily, config: Config, width: Width) -> dict[str, list[int]]:
    """Each tensor that touches the residual stream loses its share along its own axis; nothing else changes."""
    left = {name: list(shape) for name, shape in stored.items()}
    cuts = [(slot.parameter, slot.axis, width.channels) for slot in family.slots(config)]
    if width.heads is not None:
        heads = family.head_slots(config)
        cuts += [(slot.parameter, slot.axis, width.heads * slot.per_head) for slot in heads]
    for parameter, axis, kept in cuts:
        # A checkpoint of the bare decoder leaves the first part of the names out.
        names = (parameter, family.stored_names.get(parameter, ""), parameter.partition(".")[2])
        left[next((name for name in names if name in left), parameter)][axis] = kept
    return left


def _elements(shapes: Mapping[str, list[int]]) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def effort_of(
    stage: PlannedStage, recipe: Recipe, sizes: Mapping[Subject, Size], sequence_length: int, measured_tokens: int
) -> Effort:
    """What a stage asks of a machine; caches, embeddings and attention's own part are within the error of the rule.

    Args:
        sequence_length: tokens of a training sequence.
        measured_tokens: tokens of all windows on which perplexity is measured.
    """
    dense, pruned = sizes["dense"].parameters, sizes["pruned"].parameters
    estimates: dict[str, Callable[[], Effort]] = {
        "evaluate": lambda: _evaluate(sizes[stage.subject or "dense"].parameters, measured_tokens),
        "basis": lambda: _basis(recipe, dense, sequence_length),
        "regularize": lambda: _regularize(recipe, dense, sequence_length),
        "prune": lambda: _moving(FORWARD * PROBES * PROBE_TOKENS * dense, dense + 3 * pruned),
        "recover": lambda: _recover(recipe, dense, pruned, sequence_length),
        "benchmark": lambda: _benchmark(recipe, sizes),
    }
    return estimates[stage.name]()


def _evaluate(parameters: int, tokens: int) -> Effort:
    return _moving(FORWARD * parameters * tokens, 2 * parameters if tokens else parameters)


def _basis(recipe: Recipe, parameters: int, sequence_length: int) -> Effort:
    """Looking at the stream, then refining the axes, for which the dense model runs along."""
    settings, samples = recipe.method, recipe.data.regularize_samples or recipe.data.samples
    if settings.kind != "dress":
        return Effort(0.0, 0.0)
    is_rotated = settings.basis != "channels"
    rate = FORWARD + (BACKWARD if is_rotated and settings.sensitivity > 0 else 0)
    operations = float(rate * parameters * min(CALIBRATION_SEQUENCES, samples) * sequence_length)
    if is_rotated:
        rate = 2 * FORWARD + BACKWARD - BACKWARD_TO_WEIGHTS
        operations += rate * parameters * settings.refinement * samples * sequence_length
    return _moving(operations, parameters)


def _regularize(recipe: Recipe, parameters: int, sequence_length: int) -> Effort:
    settings = recipe.method
    if settings.kind != "dress" or not settings.trains:
        return _moving(0, 2 * parameters)
    rate = _training(settings.training) + (FORWARD if settings.distillation else 0)
    tokens = recipe.data.regularize_samples * sequence_length * settings.training.epochs
    return _moving(rate * parameters * tokens, (3 if settings.distillation else 2) * parameters)


def _recover(recipe: Recipe, dense: int, pruned: int, sequence_length: int) -> Effort:
    settings = recipe.recover
    if settings.kind == "none":
        return Effort(0.0, 0.0)
    rate = _training(settings.training) - (BACKWARD_TO_WEIGHTS if settings.kind == "lora" else 0)
    tokens = recipe.data.recover_samples * sequence_length * settings.training.epochs
    teacher = FORWARD * dense if settings.distillation else 0
    return _moving((rate * pruned + teacher) * tokens, 2 * pruned)


def _benchmark(recipe: Recipe, sizes: Mapping[Subject, Size]) -> Effort:
    batch, new_tokens, rounds = GENERATION["cuda" if recipe.resources.gpus else "cpu"]
    parameters = sum(size.parameters for size in sizes.values())
    return _moving(FORWARD * parameters * batch * new_tokens * rounds, parameters)


def _training(settings: TrainingSettings) -> int:
    """Operations a parameter and token of one training step; checkpointed activations are computed twice."""
    return FORWARD + BACKWARD + (FORWARD if settings.activation_checkpointing else 0)


def _moving(operations: float, parameters: int) -> Effort:
    """An effort that reads and writes so many parameters."""
    return Effort(float(operations), float(TRAINED_BYTES * parameters))
