"""The whole story on a tiny model: its events, its figures, what is found again, and what is refused early."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.conftest import changed, run_here, sentences
from workers import attempt, checkpoints, pipeline
from workers.contracts.events import (
    ArtifactStored,
    CheckpointLoaded,
    CheckpointSaved,
    Event,
    Failed,
    Notice,
    Progress,
    StageFinished,
    StageStarted,
    Succeeded,
)
from workers.contracts.places import Places
from workers.contracts.recipe import Recipe
from workers.contracts.results import Results, StageResult
from workers.errors import RecipeError
from workers.local_store import LocalStore

STAGES = ["evaluate", "covariance", "basis", "regularize", "prune", "evaluate", "recover", "evaluate"]


class Runs:
    """Runs recipes over one store, each in a workspace of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store, self.count = folder, LocalStore(folder / "store"), 0

    def start(self, recipe: Recipe, owner: str = "job") -> Iterator[Event]:
        self.count += 1
        workspace = self.folder / f"workspace-{self.count}"
        workspace.mkdir()
        return pipeline.run(recipe, self.store, workspace, Places(), owner)

    def results(self, recipe: Recipe) -> Results:
        *_, last = self.start(recipe)
        assert isinstance(last, Succeeded)
        return last.results


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


def of_type(events: list[Event], kind: type) -> list:
    return [event for event in events if isinstance(event, kind)]


def test_a_job_from_recipe_to_model(recipe: Recipe, runs: Runs, corpus: Path, tmp_path: Path) -> None:
    events = list(runs.start(recipe))
    assert [event.stage for event in of_type(events, StageStarted)] == STAGES
    assert not any(event.reused for event in of_type(events, StageFinished))
    results = of_type(events, Succeeded)[0].results
    assert events[-1] == of_type(events, Succeeded)[0]
    assert (results.dense.hidden_size, results.pruned.hidden_size, results.recovered.hidden_size) == (32, 24, 24)
    assert results.pruned.weights_digest != results.recovered.weights_digest
    for stored in of_type(events, ArtifactStored)[0].files:
        runs.store.fetch(stored, tmp_path / "artifact")
    folder = tmp_path / "artifact" / "model"
    names = {file.name for file in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= names
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.num_parameters() == results.recovered.parameters
    assert plain_perplexity(model, folder, corpus / "valid.txt") == pytest.approx(
        results.recovered.perplexity["valid"], rel=1e-5
    )


@torch.no_grad()
def plain_perplexity(model: torch.nn.Module, folder: Path, text: Path) -> float:
    """The protocol of METHOD §7 written down again: disjoint windows of the context, tail dropped."""
    ids = AutoTokenizer.from_pretrained(folder)(text.read_text(), return_tensors="pt").input_ids[0]
    losses = []
    for start in range(0, len(ids) - 63, 64):
        window = ids[start : start + 64][None]
        losses.append(F.cross_entropy(model(window).logits[0, :-1], window[0, 1:], reduction="none"))
    return math.exp(torch.cat(losses).double().mean())


def test_every_stage_says_what_it_took(recipe: Recipe, runs: Runs) -> None:
    """The model is tiny: what was resident before, Python and its libraries, is nearly all of what was measured."""
    memory = runs.results(recipe).memory
    assert memory is not None and set(memory) == set(STAGES)
    for stage, taken in memory.items():
        assert taken.predicted_bytes is not None and 0 < taken.predicted_bytes < 20e6, stage
        assert taken.measured_bytes is None or taken.before_bytes * 0.5 < taken.measured_bytes < 20e9, stage


def test_the_cut_changes_nothing_when_the_channels_are_zero(recipe: Recipe, runs: Runs) -> None:
    (notice,) = of_type(list(runs.start(recipe)), Notice)
    assert float(notice.message.split()[-1]) < 1e-4


def test_the_same_recipe_is_not_computed_twice(recipe: Recipe, runs: Runs) -> None:
    first = runs.results(recipe)
    events = list(runs.start(recipe))
    assert all(event.reused for event in of_type(events, StageFinished))
    assert of_type(events, Succeeded)[0].results == first


def test_what_does_not_change_the_weights_does_not_change_the_keys(recipe: Recipe, runs: Runs) -> None:
    runs.results(recipe)
    other = changed(recipe, resources__checkpoint_every_steps=1, recover__rank=4)
    reused = {(event.stage, event.subject): event.reused for event in of_type(list(runs.start(other)), StageFinished)}
    assert reused[("regularize", None)] and reused[("prune", None)] and reused[("evaluate", "dense")]
    assert not reused[("recover", None)] and not reused[("evaluate", "recovered")]


@pytest.mark.parametrize(
    "variant",
    [
        {"method": {"kind": "dress", "preset": "paper", "ratio": 0.5, "norm": "l1"}},
        {"method": {"kind": "dress", "preset": "paper", "ratio": 0.5, "norm": "l2"}},
        {"recover": {"kind": "full"}},
        {
            "recover": {
                "kind": "full",
                "distillation": 0.5,
                "training": {"optimizer": "adamw_8bit", "weights": "bfloat16", "loss_chunk_tokens": 50},
            }
        },
        {"recover": {"kind": "lora", "rank": 2, "targets": ["q_proj", "v_proj"], "distillation": 1.0}},
    ],
    ids=["paper-l1", "paper-l2", "full-recovery", "frugal-distilled-recovery", "lora-on-some-layers"],
)
def test_every_form_of_the_recipe_runs(variant: dict, recipe: Recipe, runs: Runs) -> None:
    results = runs.results(changed(recipe, **variant))
    assert results.recovered.parameters == results.pruned.parameters < results.dense.parameters


def test_without_recovery_the_pruned_model_is_the_final_one(recipe: Recipe, runs: Runs) -> None:
    events = list(runs.start(changed(recipe, recover={"kind": "none"}, evaluate__speed=True)))
    results = of_type(events, Succeeded)[0].results
    assert results.recovered is None
    assert results.dense.speed.generation_tokens_per_second > 0
    assert results.pruned.speed.slowest <= results.pruned.speed.fastest
    files = {stored.path: stored.sha256 for stored in of_type(events, ArtifactStored)[0].files}
    pruned = runs.store.find(of_type(events, StageFinished)[4].key)
    assert {stored.sha256 for stored in pruned.files} <= set(files.values())


@pytest.mark.parametrize("stage", ["regularize", "recover"])
def test_an_attempt_that_dies_is_resumed_from_its_checkpoint(
    stage: str, recipe: Recipe, runs: Runs, tmp_path: Path
) -> None:
    recipe = changed(recipe, recover={"kind": "lora", "rank": 2, "dropout": 0.2, "training": {"batch_size": 2}})
    (tmp_path / "undisturbed").mkdir()
    wanted = run_here(recipe, tmp_path / "undisturbed")
    saved = 0
    for event in runs.start(recipe):
        saved += isinstance(event, CheckpointSaved) and event.stage == stage
        if saved == 3:
            break
    events = list(runs.start(recipe))
    (loaded,) = of_type(events, CheckpointLoaded)
    assert loaded.stage == stage
    assert loaded.step == 3
    assert of_type(events, Succeeded)[0].results.recovered.weights_digest == wanted.recovered.weights_digest


def test_of_two_that_want_a_stage_one_computes_it(recipe: Recipe, runs: Runs) -> None:
    """The second finds the claim of the first and waits; the first's result is then the second's too."""
    first = runs.start(recipe, owner="one")
    told = next(first)
    next(first)  # computing: the claim stands
    second = runs.start(recipe, owner="two")
    next(second)
    waiting = next(second)
    assert isinstance(waiting, Notice) and "waiting" in waiting.message
    assert of_type([told], StageStarted)
    *_, last = first
    reused = of_type(list(second), StageFinished)
    assert all(event.reused for event in reused) and len(reused) == len(STAGES)
    assert isinstance(last, Succeeded)


def test_the_export_keeps_the_checkpoints_type(recipe: Recipe, checkpoint: Path, tmp_path: Path, runs: Runs) -> None:
    half = tmp_path / "half"
    AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float16).save_pretrained(half)
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(half)
    results = runs.results(changed(recipe, model={"source": str(half)}, recover={"kind": "none"}))
    assert results.dense.dtype == results.pruned.dtype == "float16"
    assert results.pruned.bytes < 0.6 * 4 * results.pruned.parameters
    wide = changed(recipe, model={"source": str(half), "dtype": "float32"}, recover={"kind": "none"})
    assert runs.results(wide).pruned.bytes >= 4 * results.pruned.parameters


def test_threads_are_the_recipes(recipe: Recipe, runs: Runs) -> None:
    for cpus in (2, 1):
        next(iter(runs.start(changed(recipe, resources__cpus=cpus))))
        assert torch.get_num_threads() == cpus


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"model__source": "/nowhere"}, "model.source", "no folder /nowhere"),
        ({"data__samples": 100_000}, "data.samples", "100000"),
        ({"data__sequence_length": 65}, "data.sequence_length", "context of 64"),
        ({"evaluate__sequence_length": 65}, "evaluate.sequence_length", "context of 64"),
        ({"recover__targets": ["q_proj", "query"]}, "recover.targets", "'query'; this model has: down_proj"),
        ({"method__ratio": 0.001}, "method.ratio", "choose a ratio between"),
        ({"evaluate__perplexity": [{"name": "text", "path": "/nowhere"}]}, "evaluate.perplexity.0", "/nowhere"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_computed(
    changes: dict, field: str, words: str, recipe: Recipe, runs: Runs
) -> None:
    events: list[Event] = []
    with pytest.raises(RecipeError) as refused:
        for event in runs.start(changed(recipe, **changes)):
            events.append(event)
    assert refused.value.field.startswith(field)
    assert words in str(refused.value)
    assert events == []


def test_a_gpu_that_is_not_there_is_said(recipe: Recipe, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RecipeError, match="resources.gpus: torch finds no GPU"):
        next(iter(runs.start(changed(recipe, resources__gpus=1))))


def test_training_on_the_evaluation_text_is_refused(recipe: Recipe, runs: Runs) -> None:
    path = recipe.evaluate.perplexity[0].path
    with pytest.raises(RecipeError) as refused:
        list(runs.start(changed(recipe, data__path=path)))
    assert refused.value.field == "data.name"
    assert "train on another text" in str(refused.value)


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (RecipeError("data.samples", "too many"), "recipe"),
        (MemoryError(), "out_of_memory"),
        (torch.OutOfMemoryError("no"), "out_of_memory"),
        (OSError("disk"), "transient"),
    ],
)
def test_an_attempt_never_raises(
    error: Exception, fault: str, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Iterator[Event]:
        raise error
        yield

    monkeypatch.setattr(pipeline, "run", broken)
    (failed,) = attempt.run(recipe, LocalStore(tmp_path), tmp_path, Places(), "job")
    assert isinstance(failed, Failed)
    assert failed.fault == fault
    assert failed.message


def test_an_elastic_run_is_found_again_at_another_ratio(recipe: Recipe, runs: Runs) -> None:
    elastic = {"kind": "dress", "solver": "elastic", "ratio": 0.5, "elastic_ratios": [0.25, 0.5]}
    first = runs.results(changed(recipe, method=elastic, recover={"kind": "none"}))
    other = changed(recipe, method={**elastic, "ratio": 0.25}, recover={"kind": "none"})
    events = list(runs.start(other))
    reused = {(event.stage, event.subject): event.reused for event in of_type(events, StageFinished)}
    assert reused[("basis", None)] and reused[("regularize", None)] and not reused[("prune", None)]
    assert first.pruned.hidden_size < of_type(events, Succeeded)[0].results.pruned.hidden_size


def test_the_dense_control_removes_nothing(recipe: Recipe, runs: Runs) -> None:
    results = runs.results(changed(recipe, method={"kind": "dense"}, recover={"kind": "full"}, data__split="0:1"))
    assert results.pruned.parameters == results.recovered.parameters == results.dense.parameters
    assert results.pruned.perplexity == results.dense.perplexity
    assert results.recovered.perplexity != results.dense.perplexity


@pytest.fixture
def another_text(tmp_path: Path) -> dict[str, str]:
    """A second evaluation text, which shares no paragraph with any other."""
    path = tmp_path / "another.txt"
    path.write_text(sentences(20, seed=3))
    return {"name": "text", "path": str(path), "label": "another"}


def measured_texts(events: list[Event]) -> set[tuple[str | None, str]]:
    """The models and texts on which windows were computed."""
    told = [event for event in of_type(events, Progress) if event.stage == "evaluate"]
    return {(event.subject, name.removeprefix("perplexity.")) for event in told for name in event.metrics}


def test_a_text_more_is_measured_alone(recipe: Recipe, runs: Runs, another_text: dict[str, str]) -> None:
    recipe = changed(recipe, recover={"kind": "none"})
    first = runs.results(recipe)
    both = changed(recipe, evaluate__perplexity=[another_text, recipe.evaluate.perplexity[0].model_dump(mode="json")])
    events = list(runs.start(both))
    assert measured_texts(events) == {("dense", "another"), ("pruned", "another")}
    finished = of_type(events, StageFinished)
    assert {(event.stage, event.subject) for event in finished if not event.reused} == {
        ("evaluate", "dense"),
        ("evaluate", "pruned"),
    }
    files = (runs.folder / "store" / "stages").glob("*.json")
    parts = [part for part in map(StageResult.model_validate_json, map(Path.read_bytes, files)) if part.measurements]
    assert len(parts) == 6, "the sizes and two texts of two models"
    for event in (event for event in finished if event.stage == "evaluate"):
        cost = sum(part.seconds for part in parts if event.subject in part.measurements)
        assert event.cost_seconds == pytest.approx(cost), "of all parts, whoever measured them"
    results = of_type(events, Succeeded)[0].results
    for subject in ("dense", "pruned"):
        before, after = getattr(first, subject), getattr(results, subject)
        assert list(after.perplexity) == list(after.perplexity_protocol) == ["another", "valid"]
        assert after.perplexity["valid"] == before.perplexity["valid"] != after.perplexity["another"]
        assert after.model_copy(update={"perplexity": None, "perplexity_protocol": None}) == before.model_copy(
            update={"perplexity": None, "perplexity_protocol": None}
        )
    again = list(runs.start(both))
    assert all(event.reused for event in of_type(again, StageFinished)) and not measured_texts(again)
    assert of_type(again, Succeeded)[0].results == results


def test_two_labels_of_one_text_share_its_figure(recipe: Recipe, runs: Runs) -> None:
    recipe = changed(recipe, recover={"kind": "none"})
    text = recipe.evaluate.perplexity[0].model_dump(mode="json")
    runs.results(recipe)
    named = changed(recipe, evaluate__perplexity=[{**text, "label": "one"}, {**text, "label": "two"}])
    events = list(runs.start(named))
    assert all(event.reused for event in of_type(events, StageFinished))
    pruned = of_type(events, Succeeded)[0].results.pruned
    assert list(pruned.perplexity) == list(pruned.perplexity_protocol) == ["one", "two"]
    assert len(set(pruned.perplexity.values())) == 1


def test_a_text_that_another_measures_is_waited_for_and_no_other(
    recipe: Recipe, runs: Runs, another_text: dict[str, str]
) -> None:
    """The first is at `valid`; the second measures its own text meanwhile, and then finds that of the first."""
    plain = recipe.evaluate.perplexity[0].model_dump(mode="json")
    first = runs.start(recipe, owner="one")
    while not isinstance(next(first), Progress):
        pass
    second = runs.start(changed(recipe, evaluate__perplexity=[another_text, plain]), owner="two")
    told: list[Event] = []
    while not (told and isinstance(told[-1], Notice)):
        told.append(next(second))
    assert measured_texts(told) == {("dense", "another")}
    assert told[-1].message == "waiting for another attempt that computes the same evaluate stage (valid)"
    list(first)
    rest = list(second)
    assert measured_texts(rest) == {("pruned", "another"), ("recovered", "another")}


def test_what_an_attempt_had_measured_when_it_died_is_found_again(
    recipe: Recipe, runs: Runs, another_text: dict[str, str]
) -> None:
    plain = recipe.evaluate.perplexity[0].model_dump(mode="json")
    recipe = changed(recipe, evaluate__perplexity=[plain, another_text], recover={"kind": "none"})
    attempt = runs.start(recipe)
    while measured_texts([next(attempt)]) != {("dense", "another")}:
        pass
    attempt.close()
    assert measured_texts(list(runs.start(recipe))) == {
        ("dense", "another"),
        ("pruned", "valid"),
        ("pruned", "another"),
    }


def test_the_model_is_loaded_once_for_all_texts_and_not_for_found_ones(
    recipe: Recipe, runs: Runs, another_text: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Path] = []
    load = checkpoints.load_model

    def counted(folder: Path, *rest: object) -> torch.nn.Module:
        loaded.append(folder)
        return load(folder, *rest)

    plain = recipe.evaluate.perplexity[0].model_dump(mode="json")
    recipe = changed(recipe, evaluate__perplexity=[plain, another_text], recover={"kind": "none"})
    monkeypatch.setattr(checkpoints, "load_model", counted)
    events = runs.start(recipe)
    while not isinstance(next(events), StageFinished):
        pass
    assert len(loaded) == 1, "the dense model"
    list(events)
    loaded.clear()
    list(runs.start(recipe))
    assert loaded == []
