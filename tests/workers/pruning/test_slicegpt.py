"""SliceGPT slices the principal axes of the stream as it is after all slices before, and changes nothing else."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForCausalLM, OPTConfig, PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from tests.conftest import changed, run_here
from tests.workers.models.trials import SEQUENCES, NoKeeper, apart, dense, logits, result_of
from tests.workers.models.variants import FFN, HEADS, HIDDEN, VARIANTS, VOCABULARY
from workers.contracts.recipe import Recipe
from workers.contracts.rivals import SliceGptSettings
from workers.contracts.training import RecoverWithLora
from workers.errors import RecipeError
from workers.models.family import family_named, family_of
from workers.pruning.method import Preparation
from workers.pruning.slicegpt import METHOD, covariance_of, damped_axes
from workers.training.adapters import with_adapters

FAMILIES = ("llama", "opt", "phi")
SLICEABLE = [name for name in VARIANTS if name.partition("-")[0] in FAMILIES]
KEPT = 16
LAYERS = 2
LAST_WRITERS = {
    "llama": ["model.layers.1.mlp.down_proj"],
    "opt": ["model.decoder.layers.1.fc2"],
    "phi": ["model.layers.1.self_attn.dense", "model.layers.1.mlp.fc2"],
}
"""What gives to the head; of full width unless the head is sliced too."""


def settings(ratio: float = 1 / 3, **changes: Any) -> SliceGptSettings:
    """By default 16 of 24 channels are kept."""
    return SliceGptSettings.model_validate({"ratio": ratio, "batch_size": 5, **changes})


def axes_of(model: PreTrainedModel, wanted: SliceGptSettings) -> dict[str, Tensor]:
    task = Preparation(model, SEQUENCES, 0, NoKeeper())
    return result_of(METHOD.prepare(wanted, family_of(model.config), task))


def sliced(model: PreTrainedModel, wanted: SliceGptSettings, axes: dict[str, Tensor] | None = None) -> PreTrainedModel:
    narrowed = METHOD.cut(wanted, family_of(model.config), model, axes or axes_of(model, wanted))
    made = AutoModelForCausalLM.from_config(narrowed.config, dtype=model.dtype).eval()
    made.load_state_dict(dict(narrowed.weights))
    return made


@cache
def one_sliced(name: str, ratio: float = 1 / 3, slice_head: bool = False) -> PreTrainedModel:
    return sliced(dense(name), settings(ratio, slice_head=slice_head))


def streams(model: PreTrainedModel, sites: list[str], ids: Tensor = SEQUENCES) -> list[Tensor]:
    """What enters these norms, [tokens, width] each."""
    seen: dict[str, Tensor] = {}
    hooks = [
        model.get_submodule(site).register_forward_pre_hook(
            lambda _module, inputs, site=site: seen.__setitem__(site, inputs[0].detach().flatten(0, -2))
        )
        for site in sites
    ]
    logits(model, ids)
    for hook in hooks:
        hook.remove()
    return [seen[site] for site in sites]


def norms(model: PreTrainedModel) -> list[str]:
    return [site.module for site in family_of(model.config).sites(model.config)]


@pytest.mark.parametrize("slice_head", [False, True])
@pytest.mark.parametrize("name", SLICEABLE)
def test_slicing_nothing_changes_no_logit(name: str, slice_head: bool) -> None:
    assert apart(logits(one_sliced(name, 0.0, slice_head)), logits(dense(name))) < 1e-4


@pytest.mark.parametrize("name", FAMILIES)
def test_slicing_nothing_is_exact_in_float64(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def norm(self: LlamaRMSNorm, stream: Tensor) -> Tensor:  # the stock one computes in float32
        return self.weight * stream * (stream.square().mean(-1, keepdim=True) + self.variance_epsilon).rsqrt()

    monkeypatch.setattr(LlamaRMSNorm, "forward", norm)
    model = dense(name).double()
    assert apart(logits(sliced(model, settings(0.0))), logits(model)) < 1e-9


@pytest.mark.parametrize("name", SLICEABLE)
def test_every_site_has_the_principal_axes_of_the_sliced_stream(name: str) -> None:
    """The covariance of the sliced model's own stream is diagonal and falls: the axes heed all slices before."""
    model = dense(name)
    sites = norms(model)
    for stream in streams(one_sliced(name), sites):
        covariance = covariance_of([stream])
        variances = covariance.diagonal()
        assert (covariance - torch.diag(variances)).abs().max() < 1e-4 * variances.max()
        assert all(later <= earlier * (1 + 1e-4) for earlier, later in pairwise(variances.tolist()))


@pytest.mark.parametrize("damping", [0.0, 0.01, 0.5])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_first_site_reconstructs_as_well_as_direct_pca(name: str, damping: float) -> None:
    """The singular vectors of the recorded states, with √(damping) rows below them."""
    model = dense(name).double()
    wanted = settings(damping=damping)
    axes = axes_of(model, wanted)["axes.000"]
    (states,) = streams(model, norms(model)[:1])
    if name != "llama":
        states = states - states.mean(-1, keepdim=True)
    shift = damping * states.square().sum(0).mean()
    best = torch.linalg.svd(torch.cat([states, shift.sqrt() * torch.eye(HIDDEN)]), full_matrices=False).Vh[:KEPT].T

    def error(basis: Tensor) -> float:
        return (states - states @ basis @ basis.T).square().sum().item()

    assert error(axes) == pytest.approx(error(best), rel=1e-9)
    assert error(axes) > 1e-3 * states.square().sum().item()


@given(
    st.integers(2, 12).flatmap(lambda width: st.tuples(st.just(width), st.integers(1, width - 1))),
    st.integers(1, 30),
    st.floats(0, 1),
    st.integers(0, 1000),
)
def test_axes_are_orthonormal_and_reconstruct_best(
    widths: tuple[int, int], rows: int, damping: float, seed: int
) -> None:
    width, kept = widths
    random = torch.Generator().manual_seed(seed)
    states = torch.randn(rows, width, dtype=torch.float64, generator=random) @ torch.randn(
        width, width, dtype=torch.float64, generator=random
    )
    axes = damped_axes(covariance_of(states.split(7)), damping)
    assert torch.allclose(axes.T @ axes, torch.eye(width, dtype=torch.float64), atol=1e-10)
    lost = (states - states @ axes[:, :kept] @ axes[:, :kept].T).square().sum()
    least = torch.linalg.svdvals(states)[kept:].square().sum()
    assert torch.allclose(lost, least, atol=1e-8 * states.square().sum())


@pytest.mark.parametrize("name", FAMILIES)
def test_more_ratio_is_more_error(name: str) -> None:
    ratios = (0.0, 0.2, 0.5, 0.65)
    wanted = logits(dense(name), SEQUENCES)
    errors = [(logits(one_sliced(name, ratio), SEQUENCES) - wanted).square().mean().item() for ratio in ratios]
    assert errors == sorted(errors)
    assert errors[0] < 1e-8 < errors[1]


@pytest.mark.parametrize("slice_head", [False, True])
@pytest.mark.parametrize("name", SLICEABLE)
def test_parameters_count_what_the_docstring_says(name: str, slice_head: bool) -> None:
    model = dense(name)
    family, config = family_of(model.config), model.config
    sites, slots = family.sites(config), family.slots(config)
    folded = {slot.parameter for slot in slots if slot.role == "norm"}
    expected = sum(weight.numel() for key, weight in model.named_parameters() if key not in folded)
    if config.tie_word_embeddings:
        expected += VOCABULARY * HIDDEN
    if name.startswith("opt"):
        expected += VOCABULARY + (0 if config.enable_bias else LAYERS * (3 * HIDDEN + FFN))
    touching = sum(model.get_parameter(slot.parameter).numel() for slot in slots if slot.role != "norm")
    touching += VOCABULARY * HIDDEN if config.tie_word_embeddings else 0
    expected -= touching - touching * KEPT // HIDDEN
    expected += (len(sites) - 1) * KEPT**2
    if not slice_head:
        last = [f"{module}.weight" for module in LAST_WRITERS[name.partition("-")[0]]]
        inner = sum(model.get_parameter(each).shape[1] for each in last)
        biases = sum(each.replace("weight", "bias") in dict(model.named_parameters()) for each in last)
        expected += (HIDDEN - KEPT) * (inner + biases + VOCABULARY + KEPT)
    made = one_sliced(name, slice_head=slice_head)
    assert made.num_parameters() == expected
    assert (made.config.hidden_size, made.config.dense_hidden_size) == (KEPT, HIDDEN)
    assert made.config.head_hidden_size == (KEPT if slice_head else HIDDEN)


@pytest.mark.parametrize(("ratio", "round_to", "kept"), [(0.25, 8, 16), (0.25, 1, 18), (0.3, 1, 16), (0.5, 5, 10)])
def test_the_width_is_rounded_down(ratio: float, round_to: int, kept: int) -> None:
    wanted = settings(ratio, round_to=round_to)
    axes = axes_of(dense("llama"), wanted)
    assert [tuple(axes[key].shape) for key in sorted(axes)] == [(HIDDEN, kept)] * 4 + [(HIDDEN, HIDDEN)]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_preparation_leaves_the_model_and_does_not_depend_on_the_batch(name: str) -> None:
    model = dense(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    one, other = axes_of(model, settings(batch_size=1)), axes_of(model, settings(batch_size=12))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    for key, axes in one.items():
        if axes.shape[1] == KEPT:  # the spaces kept; single axes may turn where variances are close
            assert torch.allclose(axes @ axes.T, other[key] @ other[key].T, atol=1e-3)


@pytest.mark.parametrize("name", FAMILIES)
def test_only_so_many_sequences_are_looked_at(name: str) -> None:
    model = dense(name).double()
    few = axes_of(model, settings(calibration_samples=3))["axes.000"]
    task = Preparation(model, SEQUENCES[:3], 0, NoKeeper())
    assert torch.equal(few, result_of(METHOD.prepare(settings(), family_of(model.config), task))["axes.000"])
    assert apart(few, axes_of(model, settings())["axes.000"]) > 1e-3


@pytest.mark.parametrize("name", FAMILIES)
def test_progress_tells_blocks_and_energy(name: str) -> None:
    model = dense(name)
    steps = list(METHOD.prepare(settings(), family_of(model.config), Preparation(model, SEQUENCES, 0, NoKeeper())))
    assert [(step.step, step.steps) for step in steps] == [(1, LAYERS), (2, LAYERS)]
    assert all(0.5 < step.metrics["energy_kept_fraction"] < 1 for step in steps)


@pytest.mark.parametrize("name", FAMILIES)
def test_adapters_leave_the_shortcuts_alone(name: str) -> None:
    """They join two bases and hold no features; the adapters sit on what reads and writes."""
    model = sliced(dense(name), settings())
    adapted = with_adapters(model, RecoverWithLora(rank=2), seed=0)
    trained = [key for key, weight in adapted.named_parameters() if weight.requires_grad]
    readers = {"llama": "gate_proj", "opt": "fc1", "phi": "fc1"}
    assert any(readers[name] in key for key in trained)
    assert not any("shortcut" in key for key in trained)


@pytest.mark.parametrize("name", ["qwen2", "mistral", "gpt_neox", "phi3"])
def test_other_families_are_refused(name: str) -> None:
    config = dense(name).config
    with pytest.raises(RecipeError, match="llama, opt, phi") as refused:
        METHOD.check(settings(), family_of(config), config)
    assert refused.value.field == "method.kind"


@pytest.mark.parametrize(("field", "value"), [("do_layer_norm_before", False), ("word_embed_proj_dim", HIDDEN // 2)])
def test_variants_of_opt_that_no_rotation_leaves_as_they_are_are_refused(field: str, value: int) -> None:
    config = OPTConfig(hidden_size=HIDDEN, num_attention_heads=HEADS, **{field: value})
    with pytest.raises(RecipeError, match=field):
        family_of(config)


def test_a_multiple_wider_than_what_is_left_is_refused() -> None:
    config = dense("llama").config
    with pytest.raises(RecipeError) as refused:
        METHOD.check(settings(0.75, round_to=8), family_of(config), config)
    assert refused.value.field == "method.round_to"


@pytest.mark.parametrize("name", FAMILIES)
def test_a_sliced_model_is_not_pruned_again(name: str) -> None:
    with pytest.raises(RecipeError, match="slicegpt") as refused:
        family_named(one_sliced(name).config.model_type)
    assert refused.value.field == "model.source"


def test_a_recipe_runs_from_end_to_end(recipe: Recipe, tmp_path: Any) -> None:
    wanted = changed(recipe, method={"kind": "slicegpt", "ratio": 0.25}, data__split="1:1")
    results = run_here(wanted, tmp_path)
    dense_, pruned, recovered = results.dense, results.pruned, results.recovered
    assert dense_ and pruned and recovered
    assert (dense_.hidden_size, pruned.hidden_size, recovered.hidden_size) == (32, 24, 24)
    assert pruned.parameters == recovered.parameters
    assert pruned.perplexity and recovered.perplexity
    assert recovered.perplexity["valid"] < pruned.perplexity["valid"]
