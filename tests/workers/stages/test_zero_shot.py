"""Zero-shot tasks in a job: which models they are run on, what they say, what is shared, what is refused early."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import changed
from tests.workers.tasks.official import FILES, OFFICIAL, write_all, write_rows
from workers import pipeline
from workers.contracts.events import Event, Notice, Progress, StageFinished, StageStarted, Succeeded
from workers.contracts.places import Places
from workers.contracts.recipe import Recipe
from workers.contracts.tasks import PAPER_METRICS, PAPER_ZERO_SHOT, TaskFigure, mean_figure
from workers.errors import RecipeError
from workers.local_store import LocalStore
from workers.tasks import harness


@pytest.fixture(autouse=True)
def _no_description_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """lm-eval starts a dozen commands to describe the machine, which take seconds and change no figure."""
    monkeypatch.setattr("torch.utils.collect_env.get_pretty_env_info", lambda: "")


class Jobs:
    """Runs recipes over the rows in `folder` and one store each run may share."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        self.places = Places(data_dirs=[str(write_all(folder / "data"))], ask_hub=False)

    def start(self, recipe: Recipe, store: str = "store") -> Iterator[Event]:
        self.count += 1
        workspace = self.folder / f"workspace-{self.count}"
        workspace.mkdir()
        return pipeline.run(recipe, LocalStore(self.folder / store), workspace, self.places, owner="job")


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return Jobs(tmp_path)


@pytest.fixture
def untrained(recipe: Recipe) -> Recipe:
    """The quickest job with a recovered model: cut at once, then a few steps."""
    method = {"kind": "dress", "preset": "paper", "ratio": 0.25, "solver": "none"}
    return changed(recipe, method=method, data__samples=8, data__split="0:1")


def of_type(events: list[Event], kind: type) -> list:
    return [event for event in events if isinstance(event, kind)]


def test_the_five_and_their_mean_on_the_models_asked_for(untrained: Recipe, jobs: Jobs) -> None:
    recipe = changed(
        untrained, evaluate__tasks=[PAPER_ZERO_SHOT], evaluate__tasks_limit=4, evaluate__tasks_of=["dense", "recovered"]
    )
    events = list(jobs.start(recipe))
    told = [(event.stage, event.subject) for event in of_type(events, StageStarted)]
    assert told == [
        *(("evaluate", "dense"), ("zero_shot", "dense"), ("regularize", None), ("prune", None)),
        *(("evaluate", "pruned"), ("recover", None), ("evaluate", "recovered"), ("zero_shot", "recovered")),
    ]
    results = of_type(events, Succeeded)[0].results
    assert results.pruned.tasks is None
    for measured in (results.dense, results.recovered):
        assert set(measured.tasks) == {*PAPER_METRICS, PAPER_ZERO_SHOT} and measured.perplexity
        five = [measured.tasks[name] for name in PAPER_METRICS]
        assert [figure.metric for figure in five] == list(PAPER_METRICS.values())
        assert {figure.n for figure in five} == {4} and {figure.num_fewshot for figure in five} == {0}
        mean = measured.tasks[PAPER_ZERO_SHOT]
        assert mean.value == pytest.approx(sum(figure.value for figure in five) / 5)
        assert mean.stderr == pytest.approx(sum(figure.stderr**2 for figure in five) ** 0.5 / 5)
        assert mean.n == 20 and mean.truncated == sum(figure.truncated for figure in five) > 0
    progress = [event for event in of_type(events, Progress) if event.stage == "zero_shot"]
    assert [(event.step, event.steps) for event in progress] == 2 * [(step, 5) for step in range(1, 6)]
    assert progress[1].metrics == {"acc.winogrande": results.dense.tasks["winogrande"].value}
    assert any("longer than the model's context of 64" in event.message for event in of_type(events, Notice))


def test_a_task_more_computes_no_perplexity_anew(untrained: Recipe, jobs: Jobs) -> None:
    recipe = changed(untrained, recover={"kind": "none"}, evaluate__tasks=["piqa"])
    first = of_type(list(jobs.start(recipe)), Succeeded)[0].results
    more = changed(recipe, evaluate__tasks=["winogrande", {"name": "piqa", "limit": 2}], evaluate__tasks_limit=3)
    events = list(jobs.start(more))
    found = {(event.stage, event.subject) for event in of_type(events, StageFinished) if not event.reused}
    assert found == {("zero_shot", "dense"), ("zero_shot", "pruned")}
    results = of_type(events, Succeeded)[0].results
    assert results.dense.perplexity == first.dense.perplexity
    assert (first.dense.tasks["piqa"].n, results.dense.tasks["piqa"].n) == (5, 2)
    assert PAPER_ZERO_SHOT not in results.dense.tasks
    again = of_type(list(jobs.start(recipe, store="another")), Succeeded)[0].results
    assert again.pruned.tasks == first.pruned.tasks and again.dense.tasks == first.dense.tasks


def test_a_task_more_runs_alone(untrained: Recipe, jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = changed(untrained, recover={"kind": "none"}, evaluate__tasks=["piqa"], evaluate__tasks_limit=3)
    first = of_type(list(jobs.start(recipe)), Succeeded)[0].results
    ran: list[str] = []

    def watched(examiner: harness.Examiner, task: harness.Prepared, seed: int) -> dict[str, TaskFigure]:
        ran.append(task.wanted.name)
        return examine(examiner, task, seed)

    examine = harness.examine
    monkeypatch.setattr(harness, "examine", watched)
    events = list(jobs.start(changed(recipe, evaluate__tasks=[PAPER_ZERO_SHOT])))
    others = [name for name in PAPER_METRICS if name != "piqa"]
    assert ran == 2 * others
    results = of_type(events, Succeeded)[0].results
    for subject in ("dense", "pruned"):
        tasks = getattr(results, subject).tasks
        assert (
            list(tasks) == [*PAPER_METRICS, PAPER_ZERO_SHOT] and tasks["piqa"] == getattr(first, subject).tasks["piqa"]
        )
        assert tasks[PAPER_ZERO_SHOT] == mean_figure(tasks)
    ran.clear()
    fewer = of_type(list(jobs.start(changed(recipe, evaluate__tasks=["arc_easy"]))), Succeeded)[0].results
    assert ran == [] and list(fewer.dense.tasks) == ["arc_easy"]


@pytest.mark.parametrize(
    ("tasks", "field", "words"),
    [
        (["winogrande", "piqa"], "evaluate.tasks.1", "label is None"),
        ([{"name": "arc_easy", "num_fewshot": 3}], "evaluate.tasks.0", "arc_easy_train.jsonl"),
    ],
)
def test_bad_rows_are_told_before_anything_is_computed(
    tasks: list, field: str, words: str, untrained: Recipe, jobs: Jobs
) -> None:
    rows = [{**row, "label": None} for row in OFFICIAL["piqa"]]
    write_rows(jobs.folder / "data", FILES["piqa"], rows)
    events: list[Event] = []
    with pytest.raises(RecipeError, match=words) as refused:
        for event in jobs.start(changed(untrained, evaluate__tasks=tasks)):
            events.append(event)
    assert (refused.value.field, events) == (field, [])


@pytest.mark.slow
def test_nothing_of_lm_eval_is_loaded_unless_tasks_are_asked_for() -> None:
    code = "import sys\nfrom workers import local_run, pipeline\nprint(*{'lm_eval', 'evaluate'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr
