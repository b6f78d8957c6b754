"""What a recipe's stages will take, told beforehand and without torch: parameters, arithmetic, bytes moved.

Legend: N = parameters, t = tokens. A forward pass costs 2·N·t floating-point operations; a backward pass costs 2·N·t
for the gradients of what flows through the model and another 2·N·t for those of its weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from workers import stored_model
from workers.contracts.recipe import Recipe
from workers.contracts.results import Subject
from workers.contracts.speed import UNTIMED
from workers.contracts.training import TrainingSettings
from workers.models.family import family_of, is_tied
from workers.planning.plan import CALIBRATION_SEQUENCES, PlannedStage
from workers.planning.shapes import head_slot, pruned_shapes

FORWARD, BACKWARD, BACKWARD_TO_WEIGHTS = 2, 4, 2
"""Operations a parameter and token: a forward pass, a backward pass, and its part for the weights' own gradients."""

FACTORS = 5
"""Operations a parameter and token that go into LLM Surgeon's Kronecker factors, of layers about as wide as long."""

BLOCK_AREAS, SITES_A_BLOCK = 12, 2
"""A transformer block holds about so many times width² parameters, and reads the stream at so many sites."""

EIGEN = 9
"""Operations that all eigenvectors of a symmetric matrix take, in units of its width³."""

PROBES, PROBE_TOKENS = 2, 256
"""As `workers.stages.prune`, which compares two models on one sequence."""

TASK_SIZES = {
    "piqa": (1838, 2, 40),
    "winogrande": (1267, 2, 25),
    "hellaswag": (10042, 4, 90),
    "arc_easy": (2376, 4, 35),
    "arc_challenge": (1172, 4, 40),
}
"""Rows, choices a row and tokens a choice with its context, about, under the usual tokenizers."""

UNKNOWN_TASK = (2000, 4, 100)
"""The same of a task that is not in the table."""

TRAINED_BYTES = 4
"""Of a parameter while a stage holds it: weights are read into float32."""


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
    stored = {name: list(tensor.shape) for name, tensor in stored_model.parameters(folder).items()}
    if is_tied(config):  # some exports store a tied head once more
        stored.pop(head_slot(family, config).parameter, None)
    left, hidden_size = pruned_shapes(recipe.method, family, config, stored)
    sizes: Sizes = {
        "dense": Size(_elements(stored), int(config.hidden_size)),
        "pruned": Size(_elements(left), hidden_size),
    }
    if recipe.recover.kind != "none":
        sizes["recovered"] = sizes["pruned"]
    return sizes


def _elements(shapes: Mapping[str, list[int]]) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def effort_of(
    stage: PlannedStage,
    recipe: Recipe,
    sizes: Mapping[Subject, Size],
    sequence_length: int,
    measured_tokens: Mapping[str, int],
) -> Effort:
    """What a stage asks of a machine; caches, embeddings and attention's own part are within the error of the rule.

    Args:
        stage: of an evaluation the parts that it names are counted.
        sequence_length: tokens of a training sequence.
        measured_tokens: tokens of all windows of each text on which perplexity is measured, by its key in the recipe.
    """
    dense, pruned = sizes["dense"].parameters, sizes["pruned"].parameters
    parts = {part.name for part in stage.parts}
    estimates: dict[str, Callable[[], Effort]] = {
        "evaluate": lambda: _evaluate(
            sizes[stage.subject or "dense"].parameters, sum(measured_tokens.get(part, 0) for part in parts)
        ),
        "zero_shot": lambda: _zero_shot(recipe, sizes[stage.subject or "dense"].parameters, parts),
        "covariance": lambda: _covariance(recipe, dense, sequence_length),
        "basis": lambda: _basis(recipe, sizes, sequence_length),
        "regularize": lambda: _regularize(recipe, dense, sequence_length),
        "prune": lambda: _moving(FORWARD * PROBES * PROBE_TOKENS * dense, dense + 3 * pruned),
        "recover": lambda: _recover(recipe, dense, pruned, sequence_length),
        "benchmark": lambda: _benchmark(recipe, sizes),
    }
    return estimates[stage.name]()


def _evaluate(parameters: int, tokens: int) -> Effort:
    return _moving(FORWARD * parameters * tokens, 2 * parameters if tokens else parameters)


def _zero_shot(recipe: Recipe, parameters: int, tasks: Collection[str]) -> Effort:
    """Every choice of every row once, examples and all; the sizes of tasks that are not the paper's are guessed."""
    tokens = 0
    for task in recipe.evaluate.wanted_tasks:
        if task.name not in tasks:
            continue
        rows, choices, length = TASK_SIZES.get(task.name, UNKNOWN_TASK)
        tokens += min(rows, task.limit or rows) * choices * length * (1 + (task.num_fewshot or 0))
    return _moving(FORWARD * parameters * tokens, 2 * parameters)


def _covariance(recipe: Recipe, dense: int, sequence_length: int) -> Effort:
    """One pass over a few sequences, and back where the loss's gradient is heeded."""
    settings, samples = recipe.method, recipe.data.regularize_samples or recipe.data.samples
    heeds = settings.kind == "dress" and settings.basis != "channels" and settings.sensitivity > 0
    rate = FORWARD + (BACKWARD if heeds else 0)
    return _moving(rate * dense * min(CALIBRATION_SEQUENCES, samples) * sequence_length, dense)


def _basis(recipe: Recipe, sizes: Mapping[Subject, Size], sequence_length: int) -> Effort:
    """How rivals look at the dense model; for DReSS refining the axes, for which the dense model runs along."""
    settings, samples = recipe.method, recipe.data.regularize_samples or recipe.data.samples
    dense, width = sizes["dense"].parameters, sizes["dense"].hidden_size
    if settings.kind == "sleb":
        tokens = min(settings.calibration_samples, samples) * sequence_length
        return _moving(FORWARD * _parameters_passed(settings.ratio, sizes) * tokens, dense)
    if settings.kind == "slicegpt":
        # Every block runs once to its second norm, once to its end, and every site has a covariance and its axes.
        tokens = min(settings.calibration_samples, samples) * sequence_length
        sites = SITES_A_BLOCK * _blocks(dense, width)
        return _moving((2 * FORWARD * dense + 2 * sites * width**2) * tokens + EIGEN * sites * width**3, dense)
    if settings.kind != "dress" or not settings.refines:
        return _moving(0, dense)
    rate = 2 * FORWARD + BACKWARD - BACKWARD_TO_WEIGHTS
    return _moving(rate * dense * settings.refinement * samples * sequence_length, dense)


def _blocks(parameters: int, width: int) -> int:
    """About so many blocks a model of this size has."""
    return max(1, round(parameters / (BLOCK_AREAS * width**2)))


def _parameters_passed(ratio: float, sizes: Mapping[Subject, Size]) -> float:
    """Parameters that a token passes while SLEB looks for blocks: those of blocks, and the head's at every trial."""
    dense, gone = sizes["dense"].parameters, sizes["dense"].parameters - sizes["pruned"].parameters
    blocks = max(3, _blocks(round(gone / ratio), sizes["dense"].hidden_size))
    rest = max(0.0, dense - gone / ratio)
    alive = [blocks - removal for removal in range(max(1, min(blocks - 2, round(ratio * blocks))))]
    runs = sum((each - 2) * (each + 1) / 2 for each in alive)
    return runs * gone / (ratio * blocks) + sum(each - 2 for each in alive) * rest


def _regularize(recipe: Recipe, parameters: int, sequence_length: int) -> Effort:
    settings = recipe.method
    if settings.kind == "llm_surgeon":
        samples = min(settings.calibration_samples, recipe.data.regularize_samples or recipe.data.samples)
        rate = FORWARD + BACKWARD - BACKWARD_TO_WEIGHTS + FACTORS
        return _moving(rate * parameters * samples * sequence_length * settings.shots_taken, 2 * parameters)
    if settings.kind != "dress" or not settings.trains:
        return _moving(0, 2 * parameters)
    rate = _training(settings.training) + (FORWARD if settings.has_teacher else 0)
    tokens = recipe.data.regularize_samples * sequence_length * settings.training.epochs
    return _moving(rate * parameters * tokens, (3 if settings.has_teacher else 2) * parameters)


def _recover(recipe: Recipe, dense: int, pruned: int, sequence_length: int) -> Effort:
    settings = recipe.recover
    if settings.kind == "none":
        return Effort(0.0, 0.0)
    rate = _training(settings.training) - (BACKWARD_TO_WEIGHTS if settings.kind == "lora" else 0)
    tokens = recipe.data.recover_samples * sequence_length * settings.training.epochs
    teacher = FORWARD * dense if settings.distillation else 0
    return _moving((rate * pruned + teacher) * tokens, 2 * pruned)


def _benchmark(recipe: Recipe, sizes: Mapping[Subject, Size]) -> Effort:
    """As long as the context allows; a model of a smaller one is asked less."""
    form, parameters = recipe.speed_form(), sum(size.parameters for size in sizes.values())
    if form is None:
        return Effort(0.0, 0.0)
    generated = form.batch_size * form.new_tokens * (form.rounds + UNTIMED)
    read = form.prompt_tokens * (form.prompt_rounds + UNTIMED)
    return _moving(FORWARD * parameters * (generated + read), parameters)


def _training(settings: TrainingSettings) -> int:
    """Operations a parameter and token of one training step; checkpointed activations are computed twice."""
    return FORWARD + BACKWARD + (FORWARD if settings.activation_checkpointing else 0)


def _moving(operations: float, parameters: int) -> Effort:
    """An effort that reads and writes so many parameters."""
    return Effort(float(operations), float(TRAINED_BYTES * parameters))
