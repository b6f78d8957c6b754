"""One suite for every family and every rival: cuts are exact, exports reload, sizes are foretold, caches agree.

To add a method: a row in `RIVALS`, called by its kind, and by what else tells it from other rows of that kind.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tests.workers.models.trials import CPU, FIRST, KEPT, PROBE, RATIO, SEQUENCES, NoKeeper, apart, logits, result_of
from tests.workers.models.variants import HEADS, HIDDEN, VARIANTS
from workers import checkpoints, stored_model
from workers.contracts.recipe import Recipe
from workers.models.family import SLICED, family_of
from workers.models.narrow import MODELS
from workers.planning.forecast import sizes_of
from workers.pruning.method import Preparation, Regularization, method_of

EXACT = 1e-4
BLOCKS = 5
SLICEABLE = [name.removeprefix(SLICED) for name in MODELS if name.startswith(SLICED)]


@dataclass(frozen=True)
class Rival:
    """A method, on which models it is tried, and what it leaves of them."""

    settings: dict[str, Any]
    kept: Callable[[Any], bool]
    """Whether the config of the cut model says what the method promises."""
    variants: tuple[str, ...] = tuple(VARIANTS)
    model: dict[str, Any] = field(default_factory=dict)
    """Changes to the models' configs."""
    says_zero: bool = True
    """Whether the stock architecture can hold zeros in place of what goes."""


RIVALS = {
    "magnitude": Rival({"ratio": RATIO}, lambda config: config.hidden_size == KEPT),
    "magnitude, heads too": Rival(
        {"ratio": 0.5, "export": "native"},
        lambda config: (config.hidden_size, config.num_attention_heads) == (HIDDEN // 2, HEADS // 2),
        tuple(name for name in VARIANTS if name.partition("-")[0] in ("opt", "gpt_neox")),
    ),
    "random": Rival({"ratio": RATIO}, lambda config: config.hidden_size == KEPT),
    "sleb": Rival(
        {"ratio": 0.4, "batch_size": 5},
        lambda config: config.num_hidden_layers == BLOCKS - 2,
        model={"num_hidden_layers": BLOCKS},
    ),
    "slicegpt": Rival(
        {"ratio": RATIO},
        lambda config: config.hidden_size == KEPT,
        tuple(name for name in VARIANTS if name.partition("-")[0] in SLICEABLE),
        says_zero=False,
    ),
    "slicegpt, head too": Rival(
        {"ratio": RATIO, "slice_head": True},
        lambda config: config.hidden_size == KEPT,
        tuple(name for name in VARIANTS if name.partition("-")[0] in SLICEABLE),
        says_zero=False,
    ),
    "llm_surgeon": Rival(
        {"ratio": 0.25, "shots": 2}, lambda config: config.num_hidden_layers == 2, tuple(FIRST), says_zero=False
    ),
}
ROWS = [(kind, name) for kind, rival in RIVALS.items() for name in rival.variants]
by_row = pytest.mark.parametrize(("kind", "name"), ROWS)


def recipe_of(kind: str, **changes: Any) -> Recipe:
    method = {"kind": kind.partition(",")[0], **RIVALS[kind].settings, **changes}
    return Recipe.model_validate({"model": {"source": "tiny"}, "method": method})


@cache
def _made(kind: str, name: str) -> PreTrainedModel:
    return VARIANTS[name](**RIVALS[kind].model)


def dense(kind: str, name: str) -> PreTrainedModel:
    """The dense model; each call gives another copy of the same."""
    return deepcopy(_made(kind, name))


def pruned(kind: str, name: str, folder: Path, **changes: Any) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    """The model after the regularize stage, and what was prepared; the cut model is in the folder."""
    settings = recipe_of(kind, **changes).method
    method, model = method_of(settings), dense(kind, name)
    family = family_of(model.config)
    method.check(settings, family, model.config)
    before = deepcopy(model.state_dict())
    prepared = result_of(method.prepare(settings, family, Preparation(model, SEQUENCES, 0, NoKeeper())))
    after = model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[each], before[each]) for each in before)
    task = Regularization(model, folder, prepared, SEQUENCES, 0, NoKeeper(), resumed=False)
    for _step in method.regularize(settings, family, task):
        pass
    narrowed = method.cut(settings, family, model.eval(), prepared)
    checkpoints.save_weights(narrowed.config, narrowed.weights, torch.float32, folder)
    return model, prepared


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Where the cut model of a row lies."""
    folder = tmp_path_factory.mktemp("rivals")

    @cache
    def export(kind: str, name: str) -> Path:
        pruned(kind, name, folder / kind / name)
        return folder / kind / name

    return export


@pytest.mark.parametrize(("kind", "name"), [row for row in ROWS if RIVALS[row[0]].says_zero])
def test_zeroed_and_cut_models_agree(kind: str, name: str, tmp_path: Path) -> None:
    model, prepared = pruned(kind, name, tmp_path)
    before = logits(model)
    settings = recipe_of(kind).method
    method_of(settings).zero(settings, family_of(model.config), model, prepared)
    reference = logits(model)
    assert apart(reference, before) > 100 * EXACT, "what goes mattered to this model"
    assert apart(logits(checkpoints.load_model(tmp_path, torch.float32, CPU)), reference) < EXACT


@by_row
def test_the_cut_model_has_the_predicted_size(
    kind: str, name: str, exports: Callable[[str, str], Path], tmp_path: Path
) -> None:
    model = dense(kind, name)
    model.save_pretrained(tmp_path)
    predicted = sizes_of(recipe_of(kind), tmp_path)
    folder = exports(kind, name)
    cut = checkpoints.load_model(folder, torch.float32, CPU)
    assert RIVALS[kind].kept(cut.config)
    assert predicted["dense"].parameters == model.num_parameters()
    assert predicted["pruned"].parameters == cut.num_parameters() == stored_model.count_parameters(folder)
    assert predicted["pruned"].hidden_size == cut.config.hidden_size


@by_row
def test_generation_with_and_without_the_cache_agrees(
    kind: str, name: str, exports: Callable[[str, str], Path]
) -> None:
    cut = checkpoints.load_model(exports(kind, name), torch.float32, CPU)
    length = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    mask = torch.ones_like(PROBE)
    cached = cut.generate(PROBE, attention_mask=mask, use_cache=True, **length)
    assert cached.shape[1] == PROBE.shape[1] + 6
    assert torch.equal(cached, cut.generate(PROBE, attention_mask=mask, use_cache=False, **length))


def test_the_suite_holds_every_family() -> None:
    for kind in ("magnitude", "random", "sleb"):
        assert {name.partition("-")[0] for name in RIVALS[kind].variants} == {name.partition("-")[0] for name in FIRST}
