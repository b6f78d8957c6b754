"""Tasks in a recipe: names and objects, defaults, the group of five, the mean, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from workers.contracts.recipe import EvaluateSettings, Recipe
from workers.contracts.results import Measurement
from workers.contracts.tasks import PAPER_METRICS, PAPER_ZERO_SHOT, TaskFigure, mean_figure


def wanted(**settings: Any) -> list[tuple[str, int | None, int | None]]:
    tasks = EvaluateSettings.model_validate(settings).wanted_tasks
    return [(task.name, task.limit, task.num_fewshot) for task in tasks]


def test_names_and_objects_take_what_the_recipe_says_of_all() -> None:
    tasks = ["arc_easy", {"name": "lambada_openai", "limit": 7}, {"name": "mmlu", "num_fewshot": 5}]
    assert wanted(tasks=tasks) == [("arc_easy", None, 0), ("lambada_openai", 7, None), ("mmlu", None, 5)]
    assert wanted(tasks=tasks, tasks_limit=3, tasks_num_fewshot=1) == [
        *(("arc_easy", 3, 1), ("lambada_openai", 7, 1), ("mmlu", 3, 5)),
    ]


def test_the_group_is_the_five_without_examples() -> None:
    five = wanted(tasks=[{"name": PAPER_ZERO_SHOT, "limit": 500}], tasks_num_fewshot=2)
    assert five == [(name, 500, 0) for name in PAPER_METRICS]
    tasks = EvaluateSettings.model_validate({"tasks": ["sciq", PAPER_ZERO_SHOT, "piqa"]}).wanted_tasks
    assert [task.name for task in tasks] == ["sciq", *PAPER_METRICS]
    assert {task.field for task in tasks} == {"evaluate.tasks.0", "evaluate.tasks.1"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tasks": [PAPER_ZERO_SHOT, {"name": "piqa", "limit": 5}]}, "asked for twice"),
        ({"tasks": [{"name": PAPER_ZERO_SHOT, "num_fewshot": 5}]}, "is 0-shot"),
        ({"tasks": ["../tasks/own.yaml"]}, "pattern"),
        ({"tasks": [{"name": "piqa", "limit": 0}]}, "greater than or equal to 1"),
        ({"tasks": [{"task": "piqa"}]}, "name"),
        ({"tasks_of": []}, "at least 1"),
        ({"tasks_of": ["teacher"]}, "dense"),
    ],
)
def test_what_makes_no_sense_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        EvaluateSettings.model_validate(settings)


def test_a_recovered_model_must_be_made_to_be_examined() -> None:
    plain = {"model": {"source": "a/b"}, "method": {"kind": "dense"}, "recover": {"kind": "none"}}
    with pytest.raises(ValidationError, match="evaluate.tasks_of"):
        Recipe.model_validate({**plain, "evaluate": {"tasks": ["piqa"], "tasks_of": ["recovered"]}})
    assert Recipe.model_validate({**plain, "evaluate": {"tasks": ["piqa"], "tasks_of": ["pruned", "recovered"]}})


def figure(value: float | None, stderr: float | None = None, n: int = 10) -> TaskFigure:
    return TaskFigure(metric="acc", value=value, stderr=stderr, n=n, num_fewshot=0, version="lm-eval 1, x", source="s")


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.5)), min_size=5, max_size=5))
def test_the_mean_counts_tasks_alike_and_adds_variances(told: list[tuple[float, float]]) -> None:
    figures = {name: figure(*each) for name, each in zip(PAPER_METRICS, told, strict=True)}
    mean = mean_figure(figures)
    assert mean.value == pytest.approx(sum(value for value, _ in told) / 5)
    assert mean.stderr == pytest.approx(math.sqrt(sum(error**2 for _, error in told)) / 5)
    assert (mean.n, mean.version) == (50, "lm-eval 1")


def test_a_mean_of_what_is_not_known_is_not_known() -> None:
    figures = {name: figure(0.5, 0.1) for name in PAPER_METRICS}
    assert mean_figure({**figures, "piqa": figure(None, 0.1)}).value is None
    assert mean_figure({**figures, "piqa": figure(0.5)}).stderr is None


def test_tasks_join_what_else_was_measured() -> None:
    perplexed, examined = Measurement(parameters=3, perplexity={"a": 1.0}), Measurement(tasks={"piqa": figure(0.5)})
    both = perplexed.merged(examined)
    assert both == examined.merged(perplexed)
    assert both.perplexity == {"a": 1.0} and both.tasks == examined.tasks
    more = both.merged(Measurement(perplexity={"b": None}, tasks={"arc_easy": figure(0.1), "piqa": figure(0.2)}))
    assert more.perplexity == {"a": 1.0, "b": None} and more.parameters == 3
    assert more.tasks == {"piqa": figure(0.2), "arc_easy": figure(0.1)}
