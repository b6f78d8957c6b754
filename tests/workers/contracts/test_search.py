"""Searches as people write them: forms of a space, what is refused and how it is told, what is sought."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from workers.contracts.dimension import Dimension
from workers.contracts.metrics import Constraint, Objective
from workers.contracts.recipe import parse_yaml
from workers.contracts.results import Measurement, Results, Speed, TimesAsFast, Workload
from workers.contracts.search import Asha, Search, checked, is_search
from workers.contracts.tasks import TaskFigure
from workers.contracts.trials import TrialFinished
from workers.errors import RecipeError

BASE: dict[str, Any] = {"model": {"source": "some/model"}, "method": {"kind": "dress", "preset": "paper"}}
GOOD: dict[str, Any] = {
    "base": BASE,
    "space": {"method.ratio": {"choice": [0.2, 0.3]}, "method.strength": "loguniform(1e-5, 1e-1)"},
    "objective": {"metric": "recovered.perplexity.wikitext2", "mode": "min"},
    "trials": 4,
}


def made(**changes: Any) -> Search:
    return Search.model_validate({**GOOD, **changes})


def test_the_documented_file_is_read() -> None:
    """As in SERVICE: a search file in its fixed form."""
    plain = parse_yaml("""
        base: {model: {source: some/model}, method: {kind: dress, preset: paper}}
        space:
          method.strength: {loguniform: [1.0e-5, 1.0e-1]}
          method.ratio: {choice: [0.2, 0.3]}
        objective: {metric: recovered.perplexity.wikitext2, mode: min}
        algorithm: tpe
        scheduler: asha
        trials: 24
        concurrency: 2
        seed: 0
    """)
    assert is_search(plain) and not is_search({"base": {}, "rows": []})
    wanted = Search.model_validate(plain)
    assert wanted.scheduler == Asha() and wanted.trials_at_most == 24
    assert checked(wanted).method.ratio == 0.2
    assert Search.model_validate(wanted.model_dump(mode="json")) == wanted, "it travels in plain form"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("loguniform(1e-5, 1e-1)", {"loguniform": [1e-5, 1e-1]}),
        (" uniform ( 0 , 1 ) ", {"uniform": [0, 1]}),
        ("choice(l1, l2)", {"choice": ["l1", "l2"]}),
        ("choice({kind: none}, {kind: lora, rank: 4})", {"choice": [{"kind": "none"}, {"kind": "lora", "rank": 4}]}),
        ("boolean", {"choice": [False, True]}),
        ("randint(2, 8)", {"randint": [2, 8]}),
        ("quniform(0.1, 0.5, 0.1)", {"quniform": [0.1, 0.5, 0.1]}),
    ],
)
def test_a_dimension_in_words(written: str, meant: dict[str, Any]) -> None:
    assert Dimension.model_validate(written) == Dimension.model_validate(meant)


def test_values_that_can_be_counted() -> None:
    def values(written: str) -> Any:
        return Dimension.model_validate(written).values

    assert values("quniform(0.1, 0.5, 0.1)") == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert values("quniform(0.2, 0.3, 0.1)") == [0.2, 0.3]
    assert values("randint(2, 4)") == [2, 3, 4]
    assert values("choice(b, a)") == ["b", "a"]
    assert values("uniform(0, 1)") is None and values("randint(0, 100000)") is None


@pytest.mark.parametrize(
    ("written", "complaint"),
    [
        ("normal(0, 1)", "write one of choice"),
        ("loguniform(1e-5", "write one of choice"),
        ("loguniform(0, 1)", "a logarithm needs one above 0"),
        ("uniform(1, 0)", "empty range"),
        ("uniform(1, .nan)", "empty range"),
        ("quniform(0, 1, 2)", "does not fit"),
        ("choice()", "at least 1"),
        ({"choice": [1], "uniform": [0, 1]}, "exactly one"),
        ({}, "exactly one"),
        ({"chioce": [1]}, "Extra inputs"),
        ("choice([)", "no list of values"),
    ],
)
def test_a_bad_dimension_says_what_to_do(written: Any, complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        Dimension.model_validate(written)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"space": {}}, "at least 1"),
        ({"space": {"resources.gpus": {"choice": [0, 1]}}}, "cannot vary"),
        ({"space": {"method": {"choice": [{}]}, "method.ratio": "uniform(0.1, 0.2)"}}, "holds another field"),
        ({"trials": None}, "how many"),
        ({"algorithm": "grid"}, "can be counted"),
        ({"scheduler": "asha", "space": {"method.ratio": "uniform(0.1, 0.2)"}}, "none repeats"),
        ({"first": [{"seed": 3}]}, "seed is not in the space"),
        ({"objective": []}, "at least 1"),
        ({"objective": "perplexity.wikitext2"}, "write METRIC min"),
        ({"objective": "loss min"}, "is none of perplexity.NAME"),
        ({"objective": "perplexity min"}, "of what"),
        ({"constraints": ["parameters < 3"]}, "write METRIC <= BOUND"),
        ({"constraints": [{"metric": "bytes"}]}, "needs at_most or at_least"),
        ({"scheduler": "hyperband"}, "does not match any of the expected tags"),
        ({"concurrency": 0}, "greater than or equal to 1"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        made(**changes)


@pytest.mark.parametrize(
    ("changes", "field", "complaint"),
    [
        ({"space": {"method.strenght": "uniform(0.1, 1)"}}, "space.method.strenght", "no such field"),
        ({"space": {"nothing": "uniform(0.1, 1)"}}, "space.nothing", "no such field"),
        ({"space": {"method.ratio": {"choice": [0.2, 1.5]}}}, "space.method.ratio", "1.5: input should be less than"),
        ({"space": {"method.ratio": "uniform(0.1, 2)"}}, "space.method.ratio", "2.0: input should be less than"),
        ({"space": {"method.norm": {"choice": ["l3"]}}}, "space.method.norm", "'l3': input should be"),
        ({"space": {"seed": {"randint": [0, 3]}}}, "base.method.ratio", "field required"),
        ({"objective": "perplexity.ptb min"}, "objective.0", "evaluate.perplexity has wikitext2; add ptb"),
        ({"objective": "tasks.piqa max"}, "objective.0", "evaluate.tasks has no task"),
        ({"objective": ["perplexity.wikitext2 min", "latency.prompt min"]}, "objective.1", "set evaluate.speed"),
        ({"constraints": ["latency <= 0.8 dense"]}, "constraints.0", "set evaluate.speed"),
        ({"first": [{"method.ratio": 7}]}, "first.0", "method.ratio"),
        ({"base": {**BASE, "recover": {"kind": "none"}}}, "objective.0", "no recovered model"),
        (
            {
                "base": {**BASE, "recover": {"kind": "none"}},
                "space": {"method.ratio": {"choice": [0.2]}, "method.solver": {"choice": ["none"]}},
                "objective": "perplexity.wikitext2 min",
                "scheduler": "asha",
            },
            "scheduler",
            "no stage of these recipes trains",
        ),
    ],
)
def test_what_no_trial_could_do_is_told_before_it_is_queued(
    changes: dict[str, Any], field: str, complaint: str
) -> None:
    with pytest.raises(RecipeError, match=complaint) as told:
        checked(made(**changes))
    assert told.value.field == field


def test_values_that_go_with_others_only_are_no_mistake() -> None:
    """`elastic` wants a ratio among its own; other combinations run."""
    wanted = made(
        space={"method.ratio": {"choice": [0.25, 0.3]}, "method.solver": {"choice": ["penalty", "elastic"]}}, trials=4
    )
    assert checked(wanted).method.ratio == 0.25


def test_methods_may_vary_as_a_whole_and_recovery_by_its_fields() -> None:
    methods = {"choice": [{"kind": "sleb", "ratio": 0.25}, {"kind": "dress", "ratio": 0.25}]}
    assert checked(made(base={"model": {"source": "m"}}, space={"method": methods})).method.kind == "sleb"
    ranks = {"method.ratio": {"choice": [0.2]}, "recover.rank": "randint(2, 8)"}
    recover = checked(made(space=ranks)).recover
    assert recover.kind == "lora" and recover.rank == 2


def test_parameters_are_sought_too_where_the_ratio_varies() -> None:
    told = [(each.metric, each.mode) for each in made().objectives]
    assert told == [("recovered.perplexity.wikitext2", "min"), ("parameters", "min")]
    assert len(made(objective=["perplexity.wikitext2 min", "recovered.parameters min"]).objectives) == 2
    assert len(made(base={**BASE, "method": {"ratio": 0.2}}, space={"seed": {"randint": [0, 3]}}).objectives) == 1


def work(seconds: float, ratio: float | None = None) -> Workload:
    told = None if ratio is None else TimesAsFast(median=ratio, p10=ratio, p90=ratio, rounds=3)
    return Workload(
        seconds=seconds,
        shortest_seconds=seconds,
        longest_seconds=seconds,
        rounds=3,
        ratio=told,
        operations=1,
        read_bytes=1,
        peak_bytes=64,
    )


def speed(prompt: Workload) -> Speed:
    return Speed(
        generation_tokens_per_second=1.0,
        slowest=1.0,
        fastest=1.0,
        batch_size=1,
        new_tokens=1,
        rounds=3,
        threads=1,
        device="cpu",
        prompt=prompt,
    )


RESULTS = Results(
    dense=Measurement(parameters=1000, perplexity={"a": 5.0}, speed=speed(work(2.0))),
    pruned=Measurement(parameters=700, perplexity={"a": 9.0}, speed=speed(work(1.5, ratio=1.25))),
    recovered=Measurement(
        parameters=700,
        bytes=1400,
        perplexity={"a": 6.0, "broken": None},
        tasks={"piqa": TaskFigure.model_construct(metric="acc_norm", value=0.6, stderr=0.01)},
        speed=speed(work(1.5, ratio=1.25)),
    ),
)


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("perplexity.a", 6.0),
        ("recovered.perplexity.a", 6.0),
        ("pruned.perplexity.a", 9.0),
        ("dense.perplexity.a", 5.0),
        ("perplexity.broken", None),
        ("perplexity.absent", None),
        ("tasks.piqa", 0.6),
        ("parameters", 700),
        ("bytes", 1400),
        ("latency.prompt", 1.5),
        ("latency", 1.5),
        ("memory.prompt", 64),
        ("latency.generation", None),
    ],
)
def test_a_metric_reads_its_figure(metric: str, value: float | None) -> None:
    assert Objective(metric=metric).value(RESULTS) == value


@pytest.mark.parametrize(
    ("written", "excess"),
    [
        ("parameters <= 0.75", -0.05),
        ("parameters ≤ 700", 0.0),
        ("latency.prompt <= 0.8 dense", 0.0),  # by rounds taken in pairs, not by 1.5 of 2 seconds
        ("latency ≤ 0.7 × dense", 0.1),
        ("perplexity.a <= 1.1 x dense", 0.1),
        ("tasks.piqa >= 0.65", 0.05),
        ("perplexity.a >= 6", 0.0),
        ("memory.generation <= 3", None),
    ],
)
def test_a_bound_tells_how_far_it_is_passed(written: str, excess: float | None) -> None:
    told = Constraint.model_validate(written).excess(RESULTS)
    assert told == (None if excess is None else pytest.approx(excess))
    assert Constraint.model_validate(written).told()


def test_a_trial_is_feasible_only_if_all_was_measured_and_kept() -> None:
    def feasible(**changes: Any) -> bool:
        plain = {"trial": 1, "status": "succeeded", "values": [1.0], "excesses": [-1.0]}
        return TrialFinished.model_validate(plain | changes).is_feasible

    assert feasible()
    assert not feasible(values=[None]) and not feasible(values=None) and not feasible(excesses=[None])
    assert not feasible(excesses=[0.01]) and not feasible(status="stopped")
