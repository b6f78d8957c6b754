"""LayerNorm families in float64: folding, rotating and cutting are exact to the last digits, whatever norms hold."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.workers.models.trials import PROBE, SEQUENCES, apart, cut, dense, logits, regularized, settings
from tests.workers.models.variants import HEADS, HIDDEN, VARIANTS
from workers.errors import RecipeError
from workers.models.family import ModelFamily, family_named, family_of
from workers.models.width import Width
from workers.pruning import basis
from workers.pruning.cut import cut_weights, zero_removed
from workers.pruning.elastic import ElasticWidths
from workers.pruning.order import head_order

EXACT = 1e-12
HEAD = HIDDEN // HEADS
LAYER = [name for name in VARIANTS if family_named(name.partition("-")[0]).norm == "layer"]
WITH_HEADS = [name for name in LAYER if family_of(dense(name).config).narrow_type(dense(name).config)]

by_variant = pytest.mark.parametrize("name", LAYER)


def exactly(name: str) -> tuple[PreTrainedModel, ModelFamily]:
    """The variant in float64."""
    model = dense(name).double()
    return model, family_of(model.config)


def rotated(model: PreTrainedModel, family: ModelFamily) -> None:
    basis.untie_head(model)
    basis.fold_norms(model, family)
    statistics = basis.stream_statistics(model, family, [SEQUENCES], gradients=True)
    basis.rotate(model, family, basis.embedded(basis.centred_axes(basis.importance(statistics, 0.5))))


@torch.no_grad()
def shaken(model: PreTrainedModel) -> None:
    """Move every parameter, as training does; folded norms are constant no longer."""
    random = torch.Generator().manual_seed(3)
    for weight in model.parameters():
        weight.add_(0.1 * torch.randn(weight.shape, generator=random, dtype=weight.dtype))


def narrowed(model: PreTrainedModel, family: ModelFamily, width: Width) -> PreTrainedModel:
    """The cut model, its tensors never rounded."""
    config, weights = cut_weights(model, family, width, True)
    narrow = AutoModelForCausalLM.from_config(config, dtype=torch.float64).eval()
    found = narrow.load_state_dict(dict(weights), strict=False)
    assert not found.unexpected_keys
    assert set(found.missing_keys) <= set(narrow._tied_weights_keys), "a tied head is stored once"
    narrow.tie_weights()
    return narrow


@by_variant
def test_folding_and_rotating_are_exact(name: str) -> None:
    model, family = exactly(name)
    before = logits(model)
    basis.untie_head(model)
    basis.fold_norms(model, family)
    assert apart(logits(model), before) < EXACT
    rotated(model, family)
    assert apart(logits(model), before) < EXACT


@by_variant
@pytest.mark.parametrize("is_rotated", [True, False])
@pytest.mark.parametrize("is_shaken", [False, True])
def test_zeroed_and_centred_models_are_cut_exactly(name: str, is_rotated: bool, is_shaken: bool) -> None:
    model, family = exactly(name)
    if is_rotated:
        rotated(model, family)
    if is_shaken:
        shaken(model)
    width = Width(17)
    zero_removed(model, family, width, centred=True)
    assert apart(logits(narrowed(model, family, width)), logits(model)) < EXACT


@by_variant
def test_the_mean_over_the_kept_channels_must_vanish_too(name: str) -> None:
    """Were the tests above blind, this one would fail: LayerNorm takes the mean over fewer channels after the cut."""
    model, family = exactly(name)
    width = Width(17)
    zero_removed(model, family, width, centred=False)
    assert apart(logits(narrowed(model, family, width)), logits(model)) > 0.01


@pytest.mark.parametrize("solver", ["anneal", "proximal"])
@pytest.mark.parametrize("basis_wanted", ["channels", "principal"])
@by_variant
def test_what_training_drives_to_zero_is_cut_without_a_jump(
    name: str, basis_wanted: str, solver: str, tmp_path: Path
) -> None:
    """In either basis, a tied head included: the mean over the channels kept is driven to zero along with the rest."""
    wanted = settings(basis=basis_wanted, solver=solver, anneal_fraction=0.5, strength=100.0)
    model = regularized(name, wanted)
    assert apart(logits(model), logits(dense(name))) > 0.01
    assert apart(logits(cut(model, wanted, tmp_path)), logits(model)) < 1e-4, "these are float32"


@pytest.mark.parametrize("name", WITH_HEADS)
def test_heads_may_be_put_into_another_order(name: str) -> None:
    model, family = exactly(name)
    before = logits(model)
    order = head_order(model, family, [SEQUENCES])
    assert order.sort(1).values.tolist() == [list(range(HEADS))] * 2
    basis.reorder_heads(model, family, order.flip(1))
    assert apart(logits(model), before) < EXACT
    assert head_order(model, family, [SEQUENCES]).tolist() == [list(range(HEADS))[::-1]] * 2


@pytest.mark.parametrize("name", WITH_HEADS)
@pytest.mark.parametrize("heads", [1, 3])
def test_heads_go_along_with_channels_exactly(name: str, heads: int) -> None:
    model, family = exactly(name)
    rotated(model, family)
    shaken(model)
    width = Width(heads * HEAD, heads)
    zero_removed(model, family, width, centred=True)
    narrow = narrowed(model, family, width)
    assert apart(logits(narrow), logits(model)) < EXACT
    assert narrow.config.model_type == family.model_type
    assert (narrow.config.num_attention_heads, narrow.config.hidden_size) == (heads, heads * HEAD)


@by_variant
def test_masked_sequences_see_the_narrower_model(name: str) -> None:
    """Each sequence at its own width, also where a block flattens its batch (OPT's FFN)."""
    model, family = exactly(name)
    rotated(model, family)
    masks = ElasticWidths([12, 17, 24], HIDDEN, seed=0, centred=True)
    masks.before_step(0)
    with masks.riding(model, family):
        masked = logits(model.train())
        widths = masks._mask.sum(-1).flatten().int().tolist()
    assert sorted(widths) == [12, 17, 24]
    model.eval()
    for number, width in enumerate(widths[: len(PROBE)]):
        wanted = logits(model if width == HIDDEN else narrowed(model, family, Width(width)))
        assert apart(masked[number], wanted[number]) < 1e-6, "the masks are float32"


def plain(model_type: str, **changes: Any) -> SimpleNamespace:
    fields = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 1}
    return SimpleNamespace(**{"model_type": model_type, **family_named(model_type).defaults, **fields, **changes})


@pytest.mark.parametrize(
    ("model_type", "changes", "named"),
    [
        ("opt", {"do_layer_norm_before": False}, "OPT-350m"),
        ("opt", {"word_embed_proj_dim": 16}, "project_in"),
        ("opt", {"layer_norm_elementwise_affine": False}, "layer_norm_elementwise_affine"),
        ("opt", {"_remove_final_layer_norm": True}, "_remove_final_layer_norm"),
        ("phi", {"qk_layernorm": True}, "qk_layernorm"),
        ("opt", {"quantization_config": {"bits": 4}}, "quantized"),
        ("phi", {"quantization_config": {"bits": 4}}, "quantized"),
        ("gpt_neox", {"quantization_config": {"bits": 4}}, "quantized"),
    ],
)
def test_variants_that_no_slot_describes_are_refused(model_type: str, changes: dict[str, Any], named: str) -> None:
    family_of(plain(model_type))
    with pytest.raises(RecipeError, match=named) as refused:
        family_of(plain(model_type, **changes))
    assert refused.value.field == "model.source"


def test_the_first_axes_span_the_first_channels_centred() -> None:
    frame = basis.helmert(7)
    assert apart(frame.T @ frame, torch.eye(6, dtype=torch.float64)) < EXACT
    assert frame.sum(0).abs().max() < EXACT
    for kept in range(2, 8):
        centred = torch.zeros(7, dtype=torch.float64)
        centred[:kept] = torch.arange(kept, dtype=torch.float64) - (kept - 1) / 2
        first: Tensor = frame[:, : kept - 1]
        assert apart(first @ (first.T @ centred), centred) < EXACT


@pytest.mark.parametrize("name", WITH_HEADS)
def test_what_a_head_adds_to_every_channel_alike_does_not_count(name: str) -> None:
    model, family = exactly(name)
    before = head_order(model, family, [SEQUENCES])
    outputs = [slot for slot in family.head_slots(model.config) if slot.axis == 1]
    with torch.no_grad():
        for slot in outputs:
            model.get_parameter(slot.parameter)[:, before[slot.layer, -1] * HEAD :][:, :HEAD] += 100.0
    assert torch.equal(head_order(model, family, [SEQUENCES]), before)
