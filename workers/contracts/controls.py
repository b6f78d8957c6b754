"""The controls of an experiment: what the same data does to the dense model, and to a model that is simply cut first.

Without them a table cannot tell what regularization adds (METHOD §3 and §5): fine-tuning on text like the evaluation's
lowers perplexity whatever was cut, and a cut model that trains all its parameters regains much by itself.
"""

from __future__ import annotations

from typing import Any

from workers.contracts.recipe import Recipe
from workers.contracts.training import RecoverInFull, TrainingSettings

DENSE = "control: dense, fine-tuned"
ROTATED = "control: rotated, cut first, then trained"
PLAIN = "control: cut first, then trained"


def controls_of(recipe: Recipe) -> dict[str, Recipe]:
    """The controls of one recipe by title: same model, data, seed and measurements.

    All of the samples train every parameter, with the settings of the recipe's regularize stage; nothing trains before
    the cut. Cut models distil from the dense one as that stage does; the dense model learns from the text alone. A
    recipe that removes no share of the channels has the dense control alone. A method that removes blocks or single
    rows is compared with channels cut at the same ratio, and one that trains nothing with cut models that learn from
    the text alone.
    """
    training = _training(recipe).model_dump(mode="json")
    full: dict[str, Any] = {"kind": "full", "training": training}
    plain = recipe.model_dump(mode="json")
    plain["data"]["split"] = "0:1"
    changes = {DENSE: {"method": {"kind": "dense"}, "recover": full}}
    if ratio := getattr(recipe.method, "ratio", 0.0):
        distillation = getattr(recipe.method, "distillation", 0.0)
        full = {**full, "distillation": distillation}
        cut = {"kind": "dress", "ratio": ratio, "solver": "none", "distillation": distillation, "training": training}
        if recipe.method.kind != "slicegpt":  # which rounds down, to a multiple that need not suit the heads
            cut["round_to"] = getattr(recipe.method, "round_to", None)
        changes[ROTATED] = {"method": {**cut, "preset": "recommended", "basis": "auto"}, "recover": full}
        plain_cut = {**cut, "preset": "paper", "basis": "channels"}
        changes[PLAIN] = {"method": plain_cut, "recover": full}
    return {title: Recipe.model_validate({**plain, **change}) for title, change in changes.items()}


def _training(recipe: Recipe) -> TrainingSettings:
    """How the recipe trains all parameters: in its regularize stage, else in its recovery."""
    found: TrainingSettings | None = getattr(recipe.method, "training", None)
    if found is None and isinstance(recipe.recover, RecoverInFull):
        found = recipe.recover.training
    return found or TrainingSettings()
