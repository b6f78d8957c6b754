"""What is told at rungs: at the right steps, of the model as it would be cut, again after a kill, and at no price."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tests.conftest import changed, tiny_llama
from tests.workers.models.variants import opt
from workers import checkpoints, pipeline
from workers.contracts.events import CheckpointSaved, Event, Notice, Progress, StageFinished, Succeeded
from workers.contracts.places import Places
from workers.contracts.recipe import Recipe
from workers.contracts.records import TrainingRecord
from workers.contracts.results import Results
from workers.contracts.training import TrainingSettings
from workers.local_store import LocalStore
from workers.models.family import family_of
from workers.models.width import Width
from workers.pruning.masking import masked_to
from workers.stages.rungs import RungReports, held_out_loss, steps_at
from workers.training.loop import Step
from workers.workbench import Workbench

RUNGS = (1 / 9, 1 / 3, 0.75, 0.9, 1.0)
"""Of the 12 regularize and 4 recover steps of the recipe, the 2nd, the 6th and the 12th, and the 3rd and the 4th."""
STEPS = [("regularize", 2), ("regularize", 6), ("regularize", 12), ("recover", 3), ("recover", 4)]


class Runs:
    """Runs recipes over one store, each in a workspace of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, LocalStore(folder / "store")
        self.count = 0

    def start(self, recipe: Recipe, rungs: tuple[float, ...] = RUNGS) -> Iterator[Event]:
        self.count += 1
        workspace = self.folder / f"workspace-{self.count}"
        workspace.mkdir()
        return pipeline.run(recipe, self.store, workspace, Places(), "job", rungs)

    def bench(self, recipe: Recipe) -> Workbench:
        return Workbench(recipe, self.store, self.folder / "bench", Places())

    def result_of(self, events: list[Event], stage: str) -> Path:
        """The folder that a stage left."""
        key = next(event.key for event in events if isinstance(event, StageFinished) and event.stage == stage)
        found = self.store.find(key)
        assert found is not None
        folder = self.folder / "results" / key
        for stored in found.files:
            self.store.fetch(stored, folder)
        return folder


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


@pytest.fixture
def recipe(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """Without perplexities and figures, which take longer than the training."""
    monkeypatch.setattr(pipeline, "drawn", lambda *_: [])
    return changed(recipe, evaluate__perplexity=[])


def told(events: list[Event]) -> list[tuple[str, int, float, float]]:
    """Stage, step, fraction and loss of each report."""
    reports = [event for event in events if isinstance(event, Progress) and "cut_loss" in event.metrics]
    return [
        (event.stage, event.step, event.metrics["training_fraction"], event.metrics["cut_loss"]) for event in reports
    ]


def results(events: list[Event]) -> Results:
    assert isinstance(events[-1], Succeeded)
    return events[-1].results


@torch.no_grad()
def loss_of(folder: Path, ids: torch.Tensor) -> float:
    """Of a model on disk, written down once more."""
    model = checkpoints.load_model(folder, torch.float32, torch.device("cpu")).eval()
    logits = model(input_ids=ids).logits[:, :-1].double()
    return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).item()


@given(
    fractions=st.lists(st.floats(0.001, 1.0), max_size=6, unique=True),
    regularize=st.integers(2, 60),
    recover=st.integers(2, 60),
    kind=st.sampled_from(["none", "full"]),
)
def test_each_rung_is_reached_once_at_the_first_step_that_has_it_behind_it(
    fractions: list[float], regularize: int, recover: int, kind: str
) -> None:
    recipe = Recipe.model_validate(
        {
            "model": {"source": "some/model"},
            "method": {"kind": "dress", "ratio": 0.25, "training": {"batch_size": 1}},
            "data": {"samples": regularize + recover, "split": f"{regularize}:{recover}"},
            "recover": {"kind": kind} if kind == "none" else {"kind": kind, "training": {"batch_size": 1}},
        }
    )
    total = regularize + (recover if kind == "full" else 0)
    steps = {fraction: step for step, own in steps_at(recipe, "regularize", fractions).items() for fraction in own}
    later = {fraction: step for step, own in steps_at(recipe, "recover", fractions).items() for fraction in own}
    assert steps.keys().isdisjoint(later) and set(steps) | set(later) == set(fractions)
    assert steps_at(recipe, "evaluate", fractions) == {}
    for fraction, step in {**steps, **{each: regularize + step for each, step in later.items()}}.items():
        assert step / total >= fraction - 1e-8 and (step == 1 or (step - 1) / total < fraction)


def test_a_third_of_the_steps_is_the_step_that_one_expects(recipe: Recipe) -> None:
    alone = changed(recipe, recover={"kind": "none"}, data__split="1:0", data__samples=48)
    assert steps_at(alone, "regularize", (1 / 9 * 3, 2 / 3)) == {4: [1 / 3], 8: [2 / 3]}
    assert steps_at(alone, "regularize", (0.5, 0.49)) == {6: [0.49, 0.5]}, "two rungs at one step"


def test_a_method_that_trains_nothing_reports_while_it_recovers(recipe: Recipe, runs: Runs) -> None:
    events = list(runs.start(changed(recipe, method={"kind": "magnitude", "ratio": 0.25}), rungs=(0.5, 1.0)))
    assert [report[:3] for report in told(events)] == [("recover", 2, 0.5), ("recover", 4, 1.0)]
    nothing = changed(recipe, method={"kind": "magnitude", "ratio": 0.25}, recover={"kind": "none"})
    assert told(list(runs.start(nothing))) == []


@pytest.mark.parametrize("architecture", ["llama", "opt"])
def test_the_last_loss_before_the_cut_is_the_cut_models(
    architecture: str, recipe: Recipe, checkpoint: Path, tmp_path: Path, runs: Runs
) -> None:
    """And that at the end of recovery is the recovered model's: on 16 windows of the corpus that nothing trains on."""
    if architecture == "opt":
        opt(vocab_size=300).save_pretrained(tmp_path / "opt")
        AutoTokenizer.from_pretrained(checkpoint).save_pretrained(tmp_path / "opt")
        recipe = changed(recipe, model__source=str(tmp_path / "opt"))
    bench = runs.bench(recipe)
    events = list(runs.start(recipe))
    reports = told(events)
    assert [report[:2] for report in reports] == STEPS and tuple(report[2] for report in reports) == RUNGS
    ids = bench.validation_sequences
    trained_on = {tuple(row) for row in bench.sequences.tolist()}
    assert len(ids) == 16 and trained_on.isdisjoint(map(tuple, ids.tolist()))
    assert reports[2][3] == pytest.approx(loss_of(runs.result_of(events, "prune"), ids), rel=1e-4)
    assert reports[4][3] == pytest.approx(loss_of(runs.result_of(events, "recover"), ids), rel=1e-4)
    assert reports[0][3] != pytest.approx(reports[2][3], rel=1e-3), "the cut costs something else at each step"


@pytest.mark.parametrize(
    "changes",
    [
        {"method__solver": "anneal", "recover": {"kind": "lora", "rank": 2, "dropout": 0.3}},
        {"method__solver": "proximal", "recover__distillation": 0.5, "recover__dropout": 0.2},
        {"method__preset": "paper", "method__solver": "penalty", "recover": {"kind": "full"}},
        {"method__solver": "elastic", "method__elastic_ratios": [0.25, 0.5]},
        {
            "method__training": {"batch_size": 4, "loss_chunk_tokens": 20, "accumulation_steps": 2},
            "recover": {"kind": "lora", "rank": 2, "dropout": 0.3, "training": {"loss_chunk_tokens": 20}},
        },
        {
            "method__training": {
                **{"weights": "bfloat16", "optimizer": "adamw_8bit", "activation_checkpointing": True},
                **{"step_in_backward": True, "clip_norm": None},
            },
            "recover": {"kind": "full", "training": {"activation_checkpointing": True, "precision": "bfloat16"}},
        },
    ],
    ids=["anneal", "proximal", "penalty", "elastic", "chunked", "frugal"],
)
def test_no_bit_differs_with_rungs(changes: dict[str, Any], recipe: Recipe, tmp_path: Path) -> None:
    recipe = changed(recipe, **changes)
    with_rungs, without = [], []
    for name, rungs, digests in (("with", RUNGS, with_rungs), ("without", (), without)):
        (tmp_path / name).mkdir()
        runs = Runs(tmp_path / name)
        events = list(runs.start(recipe, rungs))
        assert len(told(events)) == len(rungs)
        digests += [results(events).pruned, results(events).recovered]
        digests += [(runs.result_of(events, "regularize") / "model.safetensors").read_bytes()]
        record = json_record(runs, events, "recover")
        losses = [loss for loss in record.metrics["loss"] if loss is not None]
        digests += [losses]
    assert with_rungs == without


def json_record(runs: Runs, events: list[Event], stage: str) -> TrainingRecord:
    file = runs.result_of(events, stage) / "records" / f"{stage}.json"
    return TrainingRecord.model_validate_json(file.read_text("utf-8"))


def test_measuring_leaves_no_trace() -> None:
    model = tiny_llama(attention_dropout=0.5).train()
    ids = torch.randint(300, (5, 12), generator=torch.Generator().manual_seed(1))
    state, hooks = torch.get_rng_state(), [len(module._forward_hooks) for module in model.modules()]
    family = family_of(model.config)
    loss = held_out_loss(model, ids, TrainingSettings(batch_size=4), lambda: masked_to(Width(24), model, family))
    assert loss() == loss() != pytest.approx(held_out_loss(model, ids, TrainingSettings(batch_size=4))())
    assert torch.equal(torch.get_rng_state(), state)
    assert [len(module._forward_hooks) for module in model.modules()] == hooks
    assert all(module.training for module in model.modules())
    assert all(weight.grad is None for weight in model.parameters())
    whole = F.cross_entropy(model.eval()(input_ids=ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    portions = held_out_loss(model, ids, TrainingSettings(batch_size=2, loss_chunk_tokens=7))
    assert portions() == pytest.approx(whole.item(), rel=1e-5)
    assert not model.training


class Losses:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self) -> float:
        self.asked += 1
        return float(self.asked)


def test_a_checkpoint_brings_its_reports_along_and_the_others_follow() -> None:
    """A kill between checkpoint and event would lose a report; one of another width, or none, is not told."""
    at = {1: [0.1], 3: [0.3, 0.35], 4: [0.4], 6: [0.6]}
    first, extra = Losses(), dict[str, torch.Tensor]()
    before = list(RungReports(at, first, 24, extra).following(Step(step, 6) for step in range(1, 4)))
    assert [(step.step, step.metrics.get("training_fraction")) for step in before] == [
        *((1, None), (1, 0.1), (2, None), (3, None), (3, 0.3), (3, 0.35))
    ]
    assert first.asked == 2, "two rungs at one step share a loss"
    resumed = [Step(4, 6, resumed=True), Step(5, 6), Step(6, 6)]
    second = Losses()
    after = list(RungReports(at, second, 24, {**extra}).following(resumed))
    reports = [
        (step.step, step.metrics["training_fraction"], step.metrics["cut_loss"]) for step in after if step.metrics
    ]
    assert reports == [(1, 0.1, 1.0), (3, 0.3, 2.0), (3, 0.35, 2.0), (4, 0.4, 1.0), (6, 0.6, 2.0)]
    other = list(RungReports(at, Losses(), 16, {**extra}).following(resumed))
    assert [step.step for step in other if step.metrics] == [4, 6]


@pytest.mark.parametrize("stage", ["regularize", "recover"])
def test_a_resumed_run_tells_what_follows_and_records_all(
    stage: str, recipe: Recipe, runs: Runs, tmp_path: Path
) -> None:
    recipe = changed(recipe, recover={"kind": "lora", "rank": 2, "dropout": 0.2}, resources__checkpoint_every_steps=1)
    (tmp_path / "undisturbed").mkdir()
    undisturbed = Runs(tmp_path / "undisturbed")
    wanted = list(undisturbed.start(recipe))
    saved, before = 0, []
    for event in runs.start(recipe):
        before.append(event)
        saved += isinstance(event, CheckpointSaved) and event.stage == stage
        if saved == 3:
            break
    after = list(runs.start(recipe))
    assert {*told(before), *told(after)} == set(told(wanted))
    assert set(told(after)) >= {report for report in told(wanted) if report[:2] > (stage, 3)}
    for each in ("regularize", "recover"):
        assert json_record(runs, after, each) == json_record(undisturbed, wanted, each)
    assert results(after).recovered == results(wanted).recovered


def test_a_stage_that_is_found_tells_again_what_this_recipes_rungs_ask(recipe: Recipe, runs: Runs) -> None:
    first = told(list(runs.start(recipe)))
    assert told(list(runs.start(recipe))) == first
    assert told(list(runs.start(recipe, rungs=()))) == []
    assert told(list(runs.start(recipe, rungs=(1 / 3, 0.5)))) == [first[1]], "nothing was measured at a half"
    other = told(list(runs.start(changed(recipe, recover__rank=4))))
    assert other[:3] == first[:3] and other[3:] != first[3:], "the recover stage is another"
    longer = list(runs.start(changed(recipe, recover__training__epochs=5)))
    assert told(longer)[0][:3] == ("recover", 12, 0.75), "of 32 steps, a ninth and a third are the 4th and the 11th"


def test_an_elastic_run_tells_only_the_width_that_was_asked(recipe: Recipe, runs: Runs) -> None:
    elastic = {"kind": "dress", "solver": "elastic", "ratio": 0.5, "elastic_ratios": [0.25, 0.5]}
    recipe = changed(recipe, method=elastic, recover={"kind": "none"})
    events = list(runs.start(recipe))
    assert [
        event.metrics["channels_kept"]
        for event in events
        if isinstance(event, Progress) and "cut_loss" in event.metrics
    ] == [16.0] * 5
    assert told(list(runs.start(recipe))) == told(events)
    assert told(list(runs.start(changed(recipe, method__ratio=0.25)))) == []


@pytest.mark.parametrize("sampling", ["disjoint", "overlapping"])
def test_a_corpus_that_is_used_up_is_told(sampling: str, recipe: Recipe, runs: Runs, tmp_path: Path) -> None:
    (tmp_path / "small.txt").write_text("the stream carries what every layer reads and writes " * 24)
    recipe = changed(recipe, data__path=str(tmp_path / "small.txt"), data__sampling=sampling, recover={"kind": "none"})
    count = available(runs.bench(recipe), sampling)
    used_up = changed(recipe, data__samples=count)
    bench = runs.bench(used_up)
    assert not bench.has_validation_sequences
    assert torch.equal(bench.validation_sequences, bench.recover_sequences[-16:])
    notices = [event.message for event in runs.start(used_up) if isinstance(event, Notice)]
    assert any("cut_loss is measured on text that is trained on" in message for message in notices)
    quiet = [event.message for event in runs.start(changed(used_up, seed=1), rungs=()) if isinstance(event, Notice)]
    assert not any("cut_loss" in message for message in quiet)
    spared = runs.bench(changed(recipe, data__samples=count - 3))
    assert spared.has_validation_sequences and len(spared.validation_sequences) == 3


def available(bench: Workbench, sampling: str) -> int:
    """Sequences that the corpus gives."""
    ids = bench.tokenizer(bench.training_text.text, add_special_tokens=False).input_ids
    return len(ids) // 32 if sampling == "disjoint" else len(ids) - 31


def test_a_loss_that_is_no_number_is_told_as_it_is() -> None:
    (step,) = (step for step in RungReports({1: [0.5]}, lambda: math.nan, None).following([Step(1, 2)]) if step.metrics)
    assert math.isnan(step.metrics["cut_loss"]) and "channels_kept" not in step.metrics
