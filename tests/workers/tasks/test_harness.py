"""Our task definitions against lm-eval's own: one model, the same rows, equal figures and log-likelihoods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import lm_eval
import pytest
import torch
import yaml
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.workers.tasks.official import OFFICIAL, write_rows
from workers.contracts.places import Places
from workers.contracts.tasks import PAPER_METRICS, WantedTask
from workers.errors import RecipeError
from workers.tasks import harness
from workers.tasks.harness import Examiner, examine, prepare

DEFINITIONS = {
    "piqa": "piqa/piqa.yaml",
    "winogrande": "winogrande/default.yaml",
    "hellaswag": "hellaswag/hellaswag.yaml",
    "arc_easy": "arc/arc_easy.yaml",
    "arc_challenge": "arc/arc_challenge.yaml",
}
FOLDER = Path(lm_eval.__file__).parent / "tasks"


def official(name: str, examples: list[dict[str, Any]] | None = None) -> ConfigurableTask:
    """lm-eval's own definition, whose table is replaced by the rows of this test and by nothing else."""
    config = load_yaml(FOLDER / DEFINITIONS[name], resolve_func=True)
    assert config["task"] == name
    splits = [config.get("validation_split"), config.get("test_split")]
    table = {split: datasets.Dataset.from_list(OFFICIAL[name]) for split in splits if split}
    table["train"] = datasets.Dataset.from_list(examples or OFFICIAL[name])
    config["custom_dataset"] = lambda **_settings: datasets.DatasetDict(table)
    return ConfigurableTask(config={key: value for key, value in config.items() if key not in ("tag", "include")})


@pytest.fixture(scope="session")
def examiner(checkpoint: Path) -> Examiner:
    """The tiny model, whose 64 tokens of context are fewer than some of the rows need."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    return Examiner(model, AutoTokenizer.from_pretrained(checkpoint), batch_size=4)


def wanted(name: str, num_fewshot: int | None = 0, limit: int | None = None) -> WantedTask:
    return WantedTask(name, limit, num_fewshot, "evaluate.tasks.0")


def told(examiner: Examiner, task: ConfigurableTask, num_fewshot: int) -> dict[str, Any]:
    return lm_eval.simple_evaluate(
        model=examiner,
        tasks=[task],
        num_fewshot=num_fewshot,
        task_manager=TaskManager(include_defaults=False),
        fewshot_random_seed=7,
    )


def scored(answer: dict[str, Any], name: str) -> list[list[tuple[str, float]]]:
    """Log-likelihoods of every choice of every row."""
    samples = sorted(answer["samples"][name], key=lambda sample: sample["doc_id"])
    return [[response[0] for response in sample["resps"]] for sample in samples]


def arguments(answer: dict[str, Any], name: str) -> list[list[tuple[str, str]]]:
    samples = sorted(answer["samples"][name], key=lambda sample: sample["doc_id"])
    return [[tuple(each) for each in sample["arguments"]] for sample in samples]


@pytest.mark.parametrize("num_fewshot", [0, 2])
@pytest.mark.parametrize("name", PAPER_METRICS)
def test_ours_is_the_official_task(
    name: str, num_fewshot: int, examiner: Examiner, data_dir: Path, places: Places
) -> None:
    """The same prompts and answers, hence the same log-likelihoods to the bit, hence the same acc and acc_norm."""
    write_rows(data_dir, f"tasks/{name}_train.jsonl", OFFICIAL[name])
    (ours,) = prepare(wanted(name, num_fewshot), places).tasks
    here, there = told(examiner, ours, num_fewshot), told(examiner, official(name), num_fewshot)
    assert arguments(here, name) == arguments(there, name)
    assert scored(here, name) == scored(there, name)
    assert len({likelihood for row in scored(here, name) for likelihood, _ in row}) > 5
    for metric in {"acc", PAPER_METRICS[name]}:
        for key in (f"{metric},none", f"{metric}_stderr,none"):
            assert here["results"][name][key] == there["results"][name][key]
    assert here["n-samples"][name] == there["n-samples"][name]
    assert str(float(here["versions"][name])) == str(float(there["versions"][name]))


def test_the_figure_is_what_lm_eval_says(examiner: Examiner, places: Places) -> None:
    prepared = prepare(wanted("arc_easy", limit=4), places)
    (figure,) = examine(examiner, prepared, seed=2**40).values()
    (task,) = prepared.tasks
    plain = lm_eval.simple_evaluate(examiner, tasks=[task], limit=4, task_manager=TaskManager(include_defaults=False))
    measured = plain["results"]["arc_easy"]
    assert (figure.metric, figure.value, figure.stderr, figure.n) == (
        "acc_norm",
        measured["acc_norm,none"],
        measured["acc_norm_stderr,none"],
        4,
    )
    assert figure.metrics == {"acc": measured["acc,none"], "acc_norm": measured["acc_norm,none"]}
    assert (figure.num_fewshot, figure.source) == (0, "tasks/arc_easy.jsonl")
    assert figure.stderr == pytest.approx((figure.value * (1 - figure.value) / 3) ** 0.5)
    assert [row["doc"]["gold"] for row in plain["samples"]["arc_easy"]] == [0, 1, 1, 1]  # the first rows


def test_what_is_longer_than_the_context_is_counted(examiner: Examiner, data_dir: Path, places: Places) -> None:
    """A long beginning changes nothing but the count: lm-eval cuts from the left."""
    short = {"question": "x" * 400, "choices": {"text": ["heat", "cold"], "label": ["A", "B"]}, "answerKey": "A"}
    long = {**short, "question": "why and what " * 40 + short["question"]}
    figures = []
    for row in (short, long, OFFICIAL["arc_easy"][0]):
        write_rows(data_dir, "tasks/arc_easy.jsonl", [row] * 2)
        figures.append(examine(examiner, prepare(wanted("arc_easy"), places), seed=0)["arc_easy"])
    assert [figure.truncated for figure in figures] == [4, 4, 0]
    assert figures[0].metrics == figures[1].metrics


def test_an_answer_longer_than_the_context_is_refused(examiner: Examiner, data_dir: Path, places: Places) -> None:
    row = {"goal": "wait", "sol1": "again, " * 60, "sol2": "no", "label": 0}
    write_rows(data_dir, "tasks/piqa.jsonl", [row])
    with pytest.raises(RecipeError, match="tokens and the model's context 64"):
        examine(examiner, prepare(wanted("piqa"), places), seed=0)


def test_without_a_network_the_files_that_would_do_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "_registry", lambda: TaskManager(include_defaults=False, include_path=FOLDER / "arc"))
    nowhere = Places(data_dirs=[str(tmp_path)], ask_hub=False)
    with pytest.raises(RecipeError, match=r"put tasks/arc_easy.jsonl into a folder of DRESS_DATA_DIR") as refused:
        prepare(wanted("arc_easy"), nowhere)
    assert refused.value.field == "evaluate.tasks.0"

    def unreachable(table: str, revision: str | None = None) -> None:
        raise OSError(f"no route to {table}")

    monkeypatch.setattr(harness, "require_hub", unreachable)
    with pytest.raises(RecipeError, match="no route to allenai/ai2_arc.*give this machine access to the hub"):
        prepare(wanted("arc_easy"), nowhere.model_copy(update={"ask_hub": True}))


def test_an_unknown_name_is_answered_with_names_close_to_it(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "_registry", lambda: TaskManager(include_defaults=False, include_path=FOLDER / "arc"))
    with pytest.raises(RecipeError, match="knows no task 'arc_chalenge'; close to it: arc_challenge"):
        prepare(wanted("arc_chalenge"), places)


def test_a_registered_task_is_run_by_lm_evals_own_definition(
    examiner: Examiner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registry of one task, whose table is a local file: no name of ours stands in its way."""
    rows = write_rows(
        tmp_path, "rows.json", [{"text": "the stream carries what", "end": w} for w in ("every", "layer")]
    )
    definition = {
        "task": "last_word",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(rows)}, "cache_dir": str(tmp_path / "cache")},
        "test_split": "test",
        "output_type": "loglikelihood",
        "doc_to_text": "{{text}}",
        "doc_to_target": "{{end}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 3.0},
    }
    (tmp_path / "registry").mkdir()
    (tmp_path / "registry" / "last_word.yaml").write_text(yaml.safe_dump(definition), "utf-8")
    monkeypatch.setattr(
        harness, "_registry", lambda: TaskManager(include_defaults=False, include_path=tmp_path / "registry")
    )
    prepared = prepare(wanted("last_word", num_fewshot=None), Places())
    figure = examine(examiner, prepared, seed=0)["last_word"]
    assert (figure.metric, figure.n, figure.num_fewshot) == ("acc", 2, 0)
    assert figure.version.endswith("task version 3.0") and len(figure.rows_digest or "") == 64
    assert figure.source == "hub: json"
