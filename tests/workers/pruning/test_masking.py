"""A model whose writers are silenced is the model that the cut leaves, in every family, whatever its weights are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.workers.models.trials import FIRST, FIRST_ROTATABLE, apart, cut, logits, regularized, settings
from workers.models.family import family_of
from workers.models.width import width_of
from workers.pruning.masking import masked_to, silenced

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"{name}, channels": (name, {"basis": "channels"}) for name in FIRST},
    **{f"{name}, principal": (name, {"basis": "principal"}) for name in FIRST_ROTATABLE},
    **{f"{name}, native": (name, {"export": "native"}) for name in ("opt", "gpt_neox")},
    **{f"{name}, channels": (name, {"basis": "channels"}) for name in ("phi-tied", "gpt_neox-tied", "gemma-untied")},
    "gpt_neox-without-biases, principal": ("gpt_neox-without-biases", {}),
    "llama, penalty": ("llama", {"basis": "channels", "solver": "penalty"}),
    "opt, penalty": ("opt", {"basis": "channels", "solver": "penalty"}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_masked_model_is_the_cut_one(case: str, tmp_path: Path) -> None:
    name, changes = CASES[case]
    wanted = settings(**{"solver": "none", **changes})
    model = regularized(name, wanted)
    family = family_of(model.config)
    whole = logits(model)
    with masked_to(width_of(wanted, family, model.config), model, family):
        masked = logits(model)
    assert apart(masked, logits(cut(model, wanted, tmp_path))) < 1e-4
    assert apart(masked, whole) > 0.01
    assert torch.equal(logits(model), whole), "no hook is left"


def test_what_is_silenced_is_zero_and_loses_its_mean_where_asked() -> None:
    output, mask = torch.arange(8.0).view(2, 4), torch.tensor([1.0, 1.0, 0.0, 0.0])
    assert silenced(output, mask, centred=False).tolist() == [[0, 1, 0, 0], [4, 5, 0, 0]]
    assert silenced(output, mask, centred=True).tolist() == [[-0.5, 0.5, 0, 0], [-0.5, 0.5, 0, 0]]
