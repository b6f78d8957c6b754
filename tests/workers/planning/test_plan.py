"""Keys: they change with what decides a stage's result and with nothing else, and need no torch to be known."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import changed
from workers.contracts.recipe import Recipe
from workers.planning import plan
from workers.planning.plan import SIZES, PlannedStage, Sources, stages_of

ROOT = Path(plan.__file__).parents[2]
SOURCES = Sources("model", "training", {"valid": "text"}, "code", "machine")
RECIPE = Recipe.model_validate(
    {
        "model": {"source": "some/model"},
        "method": {"kind": "dress", "ratio": 0.25, "training": {"batch_size": 4}},
        "data": {"name": "text", "path": "/some/text", "samples": 64, "sequence_length": 32},
        "recover": {"kind": "lora", "rank": 2, "training": {"batch_size": 4}},
        "evaluate": {"perplexity": [{"name": "text", "path": "/another", "label": "valid"}], "speed": True},
    }
)
DENSE, COVARIANCE, BASIS, REGULARIZE, PRUNE, PRUNED, RECOVER, RECOVERED, BENCHMARK = range(9)
NAMES = [
    *(("evaluate", "dense"), ("covariance", None), ("basis", None), ("regularize", None), ("prune", None)),
    *(("evaluate", "pruned"), ("recover", None), ("evaluate", "recovered"), ("benchmark", None)),
]
ALL = set(range(9))
AFTER_COVARIANCE = ALL - {DENSE, COVARIANCE}
AFTER_BASIS = AFTER_COVARIANCE - {BASIS}


def keys(recipe: Recipe = RECIPE, sources: Sources = SOURCES) -> list[str | None]:
    return [stage.key for stage in stages_of(recipe, sources)]


def differing(recipe: Recipe = RECIPE, sources: Sources = SOURCES) -> set[int]:
    """The stages whose keys differ from those of the plain recipe."""
    return {place for place, (one, other) in enumerate(zip(keys(), keys(recipe, sources), strict=True)) if one != other}


def test_the_stages_stand_in_order_and_no_two_share_a_key() -> None:
    assert [(stage.name, stage.subject) for stage in stages_of(RECIPE, SOURCES)] == NAMES
    assert len(set(keys())) == len(NAMES) and all(len(key or "") == 64 for key in keys())


def test_stages_that_nobody_asked_for_are_not_planned() -> None:
    plain = changed(RECIPE, recover={"kind": "none"}, evaluate__speed=False)
    assert [(stage.name, stage.subject) for stage in stages_of(plain, SOURCES)] == NAMES[:6]
    as_they_stand = changed(plain, method={"kind": "dress", "preset": "paper", "ratio": 0.25})
    assert [stage.name for stage in stages_of(as_they_stand, SOURCES)] == [
        "evaluate",
        "regularize",
        "prune",
        "evaluate",
    ]


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"recover__rank": 4}, {RECOVER, RECOVERED, BENCHMARK}),
        ({"method__ratio": 0.5}, AFTER_COVARIANCE),
        ({"method__refinement": 0.1}, AFTER_COVARIANCE),
        ({"method__training__learning_rate": 1e-4}, AFTER_BASIS),
        ({"method__sensitivity": 0.1}, AFTER_COVARIANCE),
        ({"method__sensitivity": 0.0}, ALL - {DENSE}),
        ({"data__samples": 32}, ALL - {DENSE}),
        ({"data__split": "1:1"}, ALL - {DENSE}),
        ({"seed": 1}, ALL - {DENSE}),
        ({"evaluate__windows": 3}, {DENSE, PRUNED, RECOVERED}),
        ({"resources__cpus": 2}, {BENCHMARK}),
        ({"evaluate__speed": {"rounds": 3}}, {BENCHMARK}),
        ({"evaluate__speed": {}}, set()),
        ({"evaluate__speed": {"batch_size": 8, "prompt_tokens": 256}}, set()),
        ({"resources__gpus": 1}, ALL),
        ({"resources__checkpoint_every_steps": 1}, set()),
        ({"data__path": "/elsewhere"}, set()),
        ({"evaluate__perplexity": [{"name": "text", "path": "/moved", "label": "valid"}]}, set()),
        ({"model__source": "the/same/elsewhere"}, set()),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_a_key_changes_with_what_decides_the_result(changes: dict[str, object], wanted: set[int]) -> None:
    assert differing(changed(RECIPE, **changes)) == wanted


@pytest.mark.parametrize(
    ("source", "value", "wanted"),
    [
        ("model", "another", ALL),
        ("training_text", "another", ALL - {DENSE}),
        ("texts", {"valid": "another"}, {DENSE, PRUNED, RECOVERED}),
        ("code", "another", ALL),
        ("machine", "another", {BENCHMARK}),
    ],
)
def test_a_key_changes_with_its_sources_and_is_unknown_without_them(
    source: str, value: object, wanted: set[int]
) -> None:
    assert differing(sources=replace(SOURCES, **{source: value})) == wanted
    absent = {"valid": None} if source == "texts" else None
    unknown = {place for place, key in enumerate(keys(sources=replace(SOURCES, **{source: absent}))) if key is None}
    assert unknown == wanted


def test_a_length_left_to_the_model_counts_as_the_models() -> None:
    left = changed(RECIPE, data__sequence_length=None)
    assert differing(left, replace(SOURCES, sequence_length=32)) == set()
    assert differing(left, replace(SOURCES, sequence_length=16)) == ALL - {DENSE}


@pytest.mark.parametrize(
    "solver", [{"method__solver": "elastic"}, {"method__solver": "penalty", "method__regularized": "ordered"}]
)
def test_one_run_serves_every_ratio(solver: dict[str, str]) -> None:
    def planned(ratio: float) -> list[PlannedStage]:
        return stages_of(changed(RECIPE, **solver, method__ratio=ratio), SOURCES)

    shared = [one.name for one, other in zip(planned(0.3), planned(0.5), strict=True) if one.key == other.key]
    assert shared == ["evaluate", "covariance", "basis", "regularize"]


def test_the_dense_model_is_looked_at_once_for_all_ratios_and_shares() -> None:
    """Only the first sequences are looked at; those after them decide nothing of it."""

    def shared(base: Recipe, **changes: object) -> list[str]:
        pairs = zip(stages_of(base, SOURCES), stages_of(changed(base, **changes), SOURCES), strict=True)
        return [one.name for one, other in pairs if one.key == other.key]

    assert shared(RECIPE, method__ratio=0.5) == ["evaluate", "covariance"]
    unrefined = changed(RECIPE, method__refinement=0.0)
    assert shared(unrefined, method__ratio=0.5) == ["evaluate", "covariance", "basis"]
    many = changed(RECIPE, data__samples=1000)
    for changes in ({"data__samples": 500}, {"data__split": "1:1"}):
        assert shared(many, **changes) == ["evaluate", "covariance"]
    assert shared(many, data__samples=100) == ["evaluate"], "75 are fewer than are looked at"


@pytest.mark.parametrize(
    "method",
    [
        {"kind": "dress", "ratio": 0.25, "basis": "channels", "channels": "magnitude"},
        *({"kind": kind, "ratio": 0.25} for kind in ("magnitude", "random", "sleb", "slicegpt", "llm_surgeon")),
        {"kind": "dense"},
    ],
    ids=lambda method: method["kind"],
)
def test_where_nothing_looks_at_the_model_nothing_is_planned(method: dict[str, object]) -> None:
    assert "covariance" not in [stage.name for stage in stages_of(changed(RECIPE, method=method), SOURCES)]


def test_what_does_not_decide_is_there() -> None:
    """A name that is no longer there would hide that its successor counts."""
    package = Path(plan.__file__).parents[1]
    assert [name for name in (*plan.NOT_DECIDING, *plan.DECIDING_CONTRACTS) if not (package / name).exists()] == []


def test_planning_loads_no_torch() -> None:
    code = (
        "import sys\n"
        "from workers import stored_model\n"
        "from workers.planning import forecast, needs, peaks, plan, shapes\n"
        "from workers.contracts.recipe import FAMILIES, DATASETS\n"
        "from workers.datasets import dataset\n"
        "from workers.models.family import family_named\n"
        "from importlib import import_module\n"
        "plan.code_digest(), [family_named(name) for name in FAMILIES]\n"
        "[import_module(f'workers.datasets.{name}') for name in DATASETS]\n"
        "print(*sorted({'torch', 'transformers', 'ray', 'peft', 'datasets'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr


def test_a_length_left_out_is_keyed_as_the_models_own() -> None:
    left_out = changed(RECIPE, data__sequence_length=None)
    of_the_model = replace(SOURCES, sequence_length=64)
    assert keys(left_out, of_the_model) == keys(changed(RECIPE, data__sequence_length=64))
    assert keys(left_out, of_the_model) != keys(left_out, replace(SOURCES, sequence_length=32))


EXAMINED = changed(RECIPE, evaluate__tasks=["piqa"])
ROWS = replace(SOURCES, tasks={"piqa": "rows", "arc_easy": "others"})


def examined(recipe: Recipe = EXAMINED, sources: Sources = ROWS) -> dict[str | None, str | None]:
    """The keys of the zero-shot stages by subject."""
    return {stage.subject: stage.key for stage in stages_of(recipe, sources) if stage.name == "zero_shot"}


def test_each_evaluation_is_followed_by_the_tasks_of_its_model() -> None:
    stages = [(stage.name, stage.subject) for stage in stages_of(EXAMINED, ROWS)]
    assert stages[:2] == [("evaluate", "dense"), ("zero_shot", "dense")]
    assert stages[6:8] == [("evaluate", "pruned"), ("zero_shot", "pruned")]
    assert stages[9:] == [("evaluate", "recovered"), ("zero_shot", "recovered"), ("benchmark", None)]
    some = changed(EXAMINED, evaluate__tasks_of=["recovered"])
    assert list(examined(some)) == ["recovered"] and examined(some)["recovered"] == examined()["recovered"]


def test_tasks_change_no_other_key() -> None:
    others = [stage.key for stage in stages_of(EXAMINED, ROWS) if stage.name != "zero_shot"]
    assert others == keys()
    limited = changed(EXAMINED, evaluate__tasks_limit=3, evaluate__tasks_batch_size=2)
    assert [stage.key for stage in stages_of(limited, ROWS) if stage.name != "zero_shot"] == keys()


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"evaluate__tasks": ["piqa", "arc_easy"]}, {"dense", "pruned", "recovered"}),
        ({"evaluate__tasks_limit": 5}, {"dense", "pruned", "recovered"}),
        ({"evaluate__tasks_num_fewshot": 1}, {"dense", "pruned", "recovered"}),
        ({"evaluate__tasks_num_fewshot": 0}, set()),
        ({"evaluate__tasks_batch_size": 1}, {"dense", "pruned", "recovered"}),
        ({"evaluate__windows": 3}, set()),
        ({"method__ratio": 0.5}, {"pruned", "recovered"}),
        ({"recover__rank": 4}, {"recovered"}),
    ],
)
def test_what_decides_the_figures_of_tasks(changes: dict, wanted: set[str]) -> None:
    plain, other = examined(), examined(changed(EXAMINED, **changes))
    assert {subject for subject in plain if plain[subject] != other[subject]} == wanted


def test_unknown_rows_leave_the_tasks_keys_open_and_no_other() -> None:
    assert set(examined(sources=replace(SOURCES, tasks={"piqa": "others"})).values()).isdisjoint(examined().values())
    open_rows = stages_of(EXAMINED, replace(SOURCES, tasks={"piqa": None}))
    assert {stage.name for stage in open_rows if stage.key is None} == {"zero_shot"}


SEVERAL = changed(
    EXAMINED,
    evaluate__tasks=["piqa", "arc_easy"],
    evaluate__perplexity=[{"name": "text", "path": "/another", "label": "valid"}, "ptb"],
)
TEXTS = replace(ROWS, texts={"valid": "text", "ptb": "words"})


def parts(recipe: Recipe = SEVERAL, sources: Sources = TEXTS, subject: str = "pruned") -> dict[str, str | None]:
    """The keys of what is measured of one model, by name."""
    stages = [stage for stage in stages_of(recipe, sources) if stage.subject == subject]
    return {part.name: part.key for stage in stages for part in stage.parts}


def test_an_evaluation_consists_of_the_sizes_and_of_each_text_and_task() -> None:
    assert list(parts()) == [SIZES, "valid", "ptb", "piqa", "arc_easy"]
    subjects = ("dense", "pruned", "recovered")
    everything = [key for subject in subjects for key in parts(subject=subject).values()]
    assert len(set(everything)) == 15 and all(len(key or "") == 64 for key in everything)
    for stage in stages_of(SEVERAL, TEXTS):
        keys = [part.key for part in stage.parts]
        assert list(stage.result_keys) == (keys or [stage.key]) and stage.key not in keys


def test_a_text_or_a_task_more_changes_no_other_part() -> None:
    assert parts(RECIPE, SOURCES).items() < parts().items()
    assert parts(EXAMINED, ROWS).items() < parts().items()


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"evaluate__windows": 3}, {"valid", "ptb"}),
        ({"evaluate__sequence_length": 16}, {"valid", "ptb"}),
        ({"evaluate__batch_size": 1}, {"valid", "ptb"}),
        ({"evaluate__tasks": ["piqa", {"name": "arc_easy", "limit": 5}]}, {"arc_easy"}),
        ({"evaluate__tasks": [{"name": "piqa", "num_fewshot": 2}, "arc_easy"]}, {"piqa"}),
        ({"evaluate__tasks_batch_size": 1}, {"piqa", "arc_easy"}),
        ({"resources__gpus": 1}, {"valid", "ptb", "piqa", "arc_easy"}),
        ({"evaluate__tasks": ["arc_easy", "piqa"]}, set()),
    ],
    ids=str,
)
def test_a_part_changes_with_what_decides_it(changes: dict[str, object], wanted: set[str]) -> None:
    """Of the dense model, whose own key is the same whatever device computes."""
    plain, other = parts(subject="dense"), parts(changed(SEVERAL, **changes), subject="dense")
    assert {name for name, key in plain.items() if other[name] != key} == wanted


def test_names_and_order_decide_nothing() -> None:
    text = {"name": "text", "path": "/another"}
    one, two = {**text, "label": "one"}, {**text, "label": "two"}
    sources = replace(ROWS, texts={"one": "text", "two": "text", "ptb": "words"})
    twice = changed(SEVERAL, evaluate__perplexity=["ptb", one, two])
    renamed = parts(twice, sources)
    assert renamed["one"] == renamed["two"] == parts()["valid"] and renamed["ptb"] == parts()["ptb"]
    assert keys(twice, sources) == keys(SEVERAL, TEXTS)


def test_a_label_cannot_be_taken_for_the_sizes() -> None:
    with pytest.raises(ValueError, match="label"):
        changed(SEVERAL, evaluate__perplexity=[{"name": "ptb", "label": SIZES}])


def test_one_unknown_text_leaves_the_others_known() -> None:
    dense = parts(sources=replace(TEXTS, texts={"valid": "text", "ptb": None}), subject="dense")
    assert [name for name, key in dense.items() if key is None] == ["ptb"]
