"""One suite for every family: slots are complete, bases are exact, cuts are lossless where they promise it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.workers.models.trials import (
    CPU,
    FIRST,
    FIRST_ROTATABLE,
    KEPT,
    PROBE,
    ROTATABLE,
    SEQUENCES,
    apart,
    cut,
    dense,
    logits,
    prepared,
    regularized,
    settings,
    zeroed,
)
from tests.workers.models.variants import VARIANTS
from workers import checkpoints, stored_model
from workers.contracts.recipe import Recipe
from workers.models.family import family_of
from workers.models.narrow import with_modelling_file
from workers.planning.forecast import sizes_of
from workers.pruning.basis import stream_statistics, untie_head, weight_gram
from workers.stages.prune import prune

EXACT = 1e-4
"""Logits of these models lie between -30 and 30; float32 computes them to about 1e-5."""
BASES = [*((name, "channels") for name in VARIANTS), *((name, "principal") for name in ROTATABLE)]
LOSSLESS = [
    (name, basis) for name, basis in BASES if basis == "principal" or family_of(dense(name).config).norm == "rms"
]
LOSSY = [pair for pair in BASES if pair not in LOSSLESS]

by_variant = pytest.mark.parametrize("name", VARIANTS)


def watched(model: PreTrainedModel, modules: set[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """First input and output of each module, in one pass."""
    given: dict[str, Tensor] = {}
    returned: dict[str, Tensor] = {}

    def watching(name: str) -> Any:
        def watch(_module: object, inputs: tuple[Tensor, ...], output: Any) -> None:
            given[name] = inputs[0] if inputs else torch.empty(0)
            returned[name] = output[0] if isinstance(output, tuple) else output

        return watch

    hooks = [model.get_submodule(name).register_forward_hook(watching(name)) for name in modules]
    logits(model)
    for hook in hooks:
        hook.remove()
    return given, returned


def falls(values: Tensor) -> bool:
    """Whether the values stand in falling order, up to rounding."""
    return bool((values[:-1] - values[1:]).min() > -1e-5 * values.abs().max())


@by_variant
@pytest.mark.parametrize("width", [KEPT, KEPT + 4])
def test_the_slots_are_just_what_another_width_changes(name: str, width: int) -> None:
    """transformers itself says which axes shrink: the shapes of its own model of the narrower config."""
    model = dense(name)
    family = family_of(model.config)
    slots = {slot.parameter: slot for slot in family.slots(model.config)}
    assert len(slots) == len(family.slots(model.config)), "each parameter has one slot"
    narrow = with_modelling_file(family.narrowed(model.config, width), family.narrow_type(model.config))
    with torch.device("meta"):
        shell = AutoModelForCausalLM.from_config(narrow)
    shapes = {name: list(weight.shape) for name, weight in shell.named_parameters()}
    predicted = {name: list(weight.shape) for name, weight in model.named_parameters()}
    for slot in slots.values():
        assert predicted[slot.parameter][slot.axis] == model.config.hidden_size
        predicted[slot.parameter][slot.axis] = width
    assert predicted == shapes


@by_variant
def test_a_narrower_config_keeps_everything_else(name: str) -> None:
    """Heads, positions, windows, caps: a field that changes along with the width would change the model."""
    config = dense(name).config
    family = family_of(config)
    before, after = config.to_dict(), family.narrowed(config, KEPT).to_dict()
    changed = {field for field in before.keys() | after.keys() if before.get(field) != after.get(field)}
    assert "hidden_size" in changed
    assert changed <= {"hidden_size", "head_dim", "word_embed_proj_dim", "rotary_pct", "partial_rotary_factor"}


@by_variant
def test_nothing_but_the_writers_feeds_the_stream(name: str) -> None:
    model = dense(name)
    family = family_of(model.config)
    sites = {site.module for site in family.sites(model.config)}
    assert all(stream.any() for stream in watched(model, sites)[0].values())
    with torch.no_grad():
        for slot in family.slots(model.config):
            if slot.role == "writer":
                model.get_parameter(slot.parameter).zero_()
    streams, _ = watched(model, sites)
    assert all(stream.shape[-1] == model.config.hidden_size for stream in streams.values())
    assert not any(stream.any() for stream in streams.values())


@by_variant
def test_every_reader_stands_at_exactly_one_site(name: str) -> None:
    """And what it reads there is what the norm of the site returns, or the stream itself."""
    model = dense(name)
    family = family_of(model.config)
    untie_head(model)
    sites = family.sites(model.config)
    behind = [f"{reader}.weight" for site in sites for reader in site.readers]
    readers = [slot.parameter for slot in family.slots(model.config) if slot.role in ("reader", "bare_reader")]
    assert sorted(behind) == sorted(readers)
    bare = {slot.parameter for slot in family.slots(model.config) if slot.role == "bare_reader"}
    norms = {site.norm for site in sites if site.norm}
    given, returned = watched(model, {site.module for site in sites} | norms | {r for s in sites for r in s.readers})
    for site in sites:
        source = returned[site.norm] if site.norm else given[site.module]
        for reader in site.readers:
            assert torch.equal(given[reader].flatten(0, -2), source.flatten(0, -2))
            assert (f"{reader}.weight" in bare) == (site.norm is None)


@pytest.mark.parametrize(("name", "basis"), BASES)
def test_a_basis_changes_no_logit(name: str, basis: str) -> None:
    model = regularized(name, settings(basis=basis, solver="none"))
    before, after = dense(name), model
    assert apart(logits(after), logits(before)) < EXACT
    embedding = model.get_input_embeddings().weight
    assert apart(embedding, before.get_input_embeddings().weight) > 0.01, "the stream should stand in other axes now"


@pytest.mark.parametrize("by", ["last", "random", "magnitude", "activation"])
@pytest.mark.parametrize("name", FIRST)
def test_the_channel_that_matters_least_stands_last(name: str, by: str) -> None:
    before = dense(name)
    model = regularized(name, settings(basis="channels", channels=by, solver="none"))
    family = family_of(model.config)
    old, new = before.get_input_embeddings().weight, model.get_input_embeddings().weight
    if by == "last":
        assert torch.equal(new, old)
    elif by == "random":
        places = [int((old == column[:, None]).all(0).nonzero()) for column in new.T]
        assert sorted(places) == list(range(len(places))) != places
    elif by == "magnitude":
        assert falls(weight_gram(model, family).diagonal())
    else:
        assert falls(stream_statistics(model, family, [SEQUENCES]).activation.diagonal())


@pytest.mark.parametrize("by", ["last", "random", "magnitude", "activation"])
@pytest.mark.parametrize("name", FIRST_ROTATABLE)
def test_the_axis_that_matters_least_stands_last(name: str, by: str) -> None:
    model = dense(name)
    family = family_of(model.config)
    axes = prepared(model, settings(basis="principal", channels=by))["axes"]
    width, count = axes.shape
    assert count == width - (family.norm == "layer")
    assert apart(axes.T @ axes, torch.eye(count, dtype=axes.dtype)) < 1e-9
    if family.norm == "layer":
        assert axes.sum(0).abs().max() < 1e-9, "LayerNorm lets nothing through along the mean"
    activation = stream_statistics(model, family, [SEQUENCES]).activation
    variances = (axes * (activation @ axes)).sum(0)
    if by == "magnitude":
        assert falls((axes * (weight_gram(model, family) @ axes)).sum(0))
    elif by == "random":
        assert not falls(variances)
        assert variances.sum().item() == pytest.approx(activation.trace().item(), rel=1e-6)
    else:
        assert falls(variances)


@pytest.mark.parametrize(("name", "basis"), LOSSLESS)
def test_zeroed_and_cut_models_agree(name: str, basis: str, tmp_path: Path) -> None:
    wanted = settings(basis=basis, solver="none")
    model = regularized(name, wanted)
    assert apart(logits(cut(model, wanted, tmp_path)), logits(zeroed(model, wanted))) < EXACT


@pytest.mark.parametrize(("name", "basis"), [pair for pair in LOSSLESS if pair[0] in FIRST])
def test_a_cut_without_exact_norms_jumps(name: str, basis: str, tmp_path: Path) -> None:
    """The paper's cut leaves the norms' statistics behind; were the test above blind, this one would fail."""
    wanted = settings(basis=basis, solver="none", exact_norms=False)
    model = regularized(name, wanted)
    assert apart(logits(cut(model, wanted, tmp_path)), logits(zeroed(model, wanted))) > 100 * EXACT


@pytest.mark.parametrize(("name", "basis"), [pair for pair in BASES if pair[0] in FIRST])
def test_the_prune_stage_reports_the_jump(name: str, basis: str, tmp_path: Path) -> None:
    wanted = settings(basis=basis, solver="none")
    model = regularized(name, wanted)
    checkpoints.save_weights(model.config, checkpoints.weights_of(model), torch.float32, tmp_path / "regularized")
    recipe = Recipe.model_validate({"model": {"source": "tiny"}, "method": wanted.model_dump()})
    bench = SimpleNamespace(
        recipe=recipe,
        family=family_of(model.config),
        config=model.config,
        device=CPU,
        export_dtype=torch.float32,
        sequence_length=20,
        new_folder=lambda _key: tmp_path / "pruned",
    )
    *_, notice = prune(bench, "key", tmp_path / "regularized", None)  # type: ignore[arg-type]
    reported = float(notice.message.rpartition(" ")[2])
    narrow = checkpoints.load_model(tmp_path / "pruned", torch.float32, CPU)
    ids = torch.randint(model.config.vocab_size, (1, 20), generator=torch.Generator().manual_seed(0))
    measured = apart(logits(narrow, ids), logits(zeroed(model, wanted), ids))
    assert reported == pytest.approx(measured, rel=1e-2, abs=1e-9)
    assert (measured > 100 * EXACT) == ((name, basis) in LOSSY)


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every variant, cut in the basis that `auto` takes, and its logits by name."""
    folder = tmp_path_factory.mktemp("exports")
    wanted = settings(solver="none")
    answers = {name: logits(cut(regularized(name, wanted), wanted, folder / name)) for name in VARIANTS}
    save_file(answers, folder / "answers.safetensors")
    return folder


@by_variant
def test_the_cut_model_has_the_predicted_size(name: str, exports: Path, tmp_path: Path) -> None:
    model = dense(name)
    model.save_pretrained(tmp_path)
    recipe = Recipe.model_validate({"model": {"source": "tiny"}, "method": settings(solver="none").model_dump()})
    predicted = sizes_of(recipe, tmp_path)
    assert predicted["dense"].parameters == model.num_parameters()
    assert predicted["pruned"].hidden_size == KEPT
    narrow = checkpoints.load_model(exports / name, torch.float32, CPU)
    assert narrow.num_parameters() == stored_model.count_parameters(exports / name) == predicted["pruned"].parameters
    assert narrow.config.hidden_size == KEPT


@by_variant
def test_generation_with_and_without_the_cache_agrees(name: str, exports: Path) -> None:
    narrow = checkpoints.load_model(exports / name, torch.float32, CPU)
    length = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    mask = torch.ones_like(PROBE)
    cached = narrow.generate(PROBE, attention_mask=mask, use_cache=True, **length)
    assert cached.shape[1] == PROBE.shape[1] + 6
    assert torch.equal(cached, narrow.generate(PROBE, attention_mask=mask, use_cache=False, **length))


def test_transformers_reloads_the_exports_in_a_fresh_process(exports: Path) -> None:
    """Of remote code only where a modelling file travels along."""
    with_code = {name: any((exports / name).glob("*.py")) for name in VARIANTS}
    for name, has_code in with_code.items():
        config = dense(name).config
        assert has_code == (family_of(config).narrow_type(config) is not None)
    script = (
        "import json, sys, torch\n"
        "from safetensors.torch import load_file\n"
        "from transformers import AutoModelForCausalLM\n"
        "folder, ids, names = sys.argv[1], torch.tensor(json.loads(sys.argv[2])), json.loads(sys.argv[3])\n"
        "answers, found = load_file(f'{folder}/answers.safetensors'), {}\n"
        "for name, has_code in names.items():\n"
        "    model = AutoModelForCausalLM.from_pretrained(\n"
        "        f'{folder}/{name}', dtype=torch.float32, trust_remote_code=has_code)\n"
        "    with torch.no_grad():\n"
        "        found[name] = (model(ids).logits - answers[name]).abs().max().item()\n"
        "print(json.dumps(found))\n"
    )
    command = [sys.executable, "-I", "-c", script, str(exports), json.dumps(PROBE.tolist()), json.dumps(with_code)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=exports)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found) == set(VARIANTS)
    assert max(found.values()) < EXACT, found


@by_variant
def test_statistics_are_finite_and_of_the_stated_size(name: str) -> None:
    model = dense(name)
    family = family_of(model.config)
    found = stream_statistics(model, family, [SEQUENCES], gradients=True)
    width = model.config.hidden_size
    assert found.activation.trace().item() == pytest.approx(width, rel=1e-4)  # |z|² = d for every token
    for matrix in (found.activation, found.gradient):
        assert matrix.isfinite().all()
        assert apart(matrix, matrix.T) < 1e-6 * matrix.trace()
        assert torch.linalg.eigvalsh(matrix).min() > -1e-6 * matrix.trace()
    assert found.gradient.trace() > 0


def test_the_suite_holds_every_family() -> None:
    assert {name.partition("-")[0] for name in VARIANTS} == {family_of(dense(name).config).model_type for name in FIRST}
    assert set(FIRST_ROTATABLE) < set(FIRST)
