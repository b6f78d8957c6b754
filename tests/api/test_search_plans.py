"""Plans of searches: which trials they show, and what they say of those that they do not."""

from __future__ import annotations

from typing import Any

import pytest

from api.recipes import BadFile
from api.search_plans import MOST_PLANNED, planned_trials, read_search
from tests.workers.searching.searches import search

GRID: dict[str, Any] = {
    "algorithm": "grid",
    "trials": None,
    "space": {"method.strength": {"choice": [1e-4, 1e-3, 1e-2]}, "method.ratio": {"choice": [0.25, 0.5]}},
}


def test_a_grid_is_planned_in_full_and_in_its_order() -> None:
    rows, notes = planned_trials(search(**GRID))
    assert [(row.recipe.method.strength, row.recipe.method.ratio) for row in rows] == [
        (strength, ratio) for strength in (1e-4, 1e-3, 1e-2) for ratio in (0.25, 0.5)
    ]
    assert rows[3].name == "strength 0.001, ratio 0.5" and notes == []
    assert len(planned_trials(search(**GRID | {"trials": 4}))[0]) == 4


def test_what_a_plan_leaves_out_is_told() -> None:
    many = {"method.strength": {"choice": [step / 1000 for step in range(1, 101)]}}
    rows, notes = planned_trials(search(**GRID | {"space": many}))
    assert len(rows) == MOST_PLANNED and notes == [f"the first {MOST_PLANNED} of 100 trials are shown"]
    rows, notes = planned_trials(search(space=many))
    assert len(rows) == MOST_PLANNED and notes[1] == f"the first {MOST_PLANNED} of these 100 are shown"
    rows, notes = planned_trials(search(scheduler="asha", first=[{"method.strength": 0.5}], trials=8))
    assert rows[0].recipe.method.strength == 0.5 and len(rows) > 1
    assert len({row.recipe.model_dump_json() for row in rows}) == len(rows), "none is shown twice"
    assert "at most 8 trials will be begun" in notes[0] and "asha ends some of them early" in notes[1]


def test_values_that_make_no_recipe_together_are_counted() -> None:
    space = {"method.solver": {"choice": ["penalty", "elastic"]}, "method.ratio": {"choice": [0.25, 0.3]}}
    rows, notes = planned_trials(search(**GRID | {"space": space}))
    assert len(rows) == 3 and notes == [
        "1 of the trials looked at would fail, since their values make no recipe together"
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"objective": "perplexity.ptb min"}, "ptb"),
        ({"trials": 0}, "trials"),
        ({"space": {"method.strenght": {"choice": [1e-3]}}}, "method.strenght"),
    ],
)
def test_a_bad_search_is_refused_as_when_it_is_queued(changes: dict[str, Any], said: str) -> None:
    plain = search().model_dump(mode="json") | changes
    with pytest.raises(BadFile, match=said):
        read_search(plain)
