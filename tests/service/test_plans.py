"""Plans: what is known by digest, how long the rest takes, and what is said where something cannot be known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from service import jobs, pace, plans, queue
from service.artifacts.stores import open_store
from service.database.session import Database
from service.errors import InvalidRecipe
from service.plans import Plan
from service.settings import Settings
from tests.conftest import changed, run_here
from tests.stored import SMALL_LLAMA, write_model
from workers.contracts.events import Event, NumberedEvent, StageFinished, Succeeded
from workers.contracts.recipe import Recipe
from workers.contracts.results import Measurement, PerplexityProtocol, Results, StageResult
from workers.errors import Transient
from workers.local_store import LocalStore
from workers.planning.forecast import effort_of, sizes_of
from workers.planning.plan import SIZES, Sources, device_kind, stages_of

GIB = 2**30


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


@pytest.fixture
def here(recipe: Recipe, model: Path) -> Recipe:
    """A recipe whose model and texts are all on this machine."""
    text = {"name": "text", "path": recipe.data.path, "label": "own"}
    return changed(recipe, model={"source": str(model)}, evaluate__perplexity=[text], data__sequence_length=None)


@pytest.fixture
def opened(settings: Settings, tmp_path: Path) -> Settings:
    """Settings that let recipes read the test's folder."""
    return settings.model_copy(update={"model_roots": (str(tmp_path),), "data_roots": (str(tmp_path),)})


def planned(recipe: Recipe, database: Database, settings: Settings, store: Any = None) -> Plan:
    with database.reading() as session:
        speed = pace.of_device(session, device_kind(recipe), settings)
    return plans.plan(recipe, store or open_store(settings.artifacts_url), speed, settings)


def known(plan: Plan) -> list[bool | None]:
    return [stage.known for stage in plan.stages]


@pytest.mark.parametrize("backend", ["sqlite"])  # it trains a model, for seconds
def test_what_a_job_left_is_known_to_the_next_plan(
    checkpoint: Path, corpus: Path, database: Database, settings: Settings, tmp_path: Path
) -> None:
    """The keys of the plan, made without torch, are those under which the pipeline published."""
    recipe = Recipe.model_validate(
        {
            "model": {"source": str(checkpoint)},
            "method": {"kind": "dress", "ratio": 0.25, "training": {"batch_size": 8}},
            "data": {"name": "text", "path": str(corpus / "train.txt"), "samples": 16},
            "recover": {"kind": "lora", "rank": 2},
            "evaluate": {"perplexity": [{"name": "text", "path": str(corpus / "valid.txt")}]},
        }
    )
    roots = {"model_roots": (str(checkpoint.parent),), "data_roots": (str(corpus.parent),)}
    settings = settings.model_copy(update=roots)
    (tmp_path / "run").mkdir()
    results = run_here(recipe, tmp_path / "run")
    store = LocalStore(tmp_path / "run" / "store")
    again = planned(recipe, database, settings, store)
    assert all(known(again)) and again.seconds == again.gpu_hours == 0
    for subject in ("dense", "pruned", "recovered"):
        measured = getattr(results, subject)
        size = again.models[subject]
        assert (size.parameters, size.hidden_size) == (measured.parameters, measured.hidden_size)
    other = planned(changed(recipe, recover__rank=4), database, settings, store)
    assert [stage.stage for stage in other.stages if not stage.known] == ["recover", "evaluate"]
    assert other.seconds is not None and other.seconds > 0
    assert not any(known(planned(changed(recipe, seed=1), database, settings))), "another store, another seed"


def test_a_plan_tells_sizes_and_times_of_what_is_here(here: Recipe, database: Database, opened: Settings) -> None:
    plan = planned(here, database, opened)
    assert known(plan) == [False] * 8
    assert all(stage.key is not None and (stage.seconds or 0) > 0 for stage in plan.stages)
    assert {stage.basis for stage in plan.stages} == {"default"}
    assert plan.seconds == pytest.approx(sum(stage.seconds or 0 for stage in plan.stages))
    assert plan.models["dense"].parameters > plan.models["pruned"].parameters
    assert plan.models["pruned"].hidden_size == 48
    assert plan.gpu_hours == 0
    assert plan.notes == []


def test_gpu_hours_are_those_of_the_gpus(here: Recipe, database: Database, opened: Settings) -> None:
    plan = planned(changed(here, resources__gpus=1), database, opened)
    assert plan.seconds is not None and plan.gpu_hours == pytest.approx(plan.seconds / 3600)


def test_a_model_of_the_hub_is_noted_not_fetched(recipe: Recipe, database: Database, opened: Settings) -> None:
    plan = planned(recipe, database, opened)
    assert set(known(plan)) == {None} and plan.models == {}
    assert plan.seconds is None and plan.gpu_hours is None
    assert [note for note in plan.notes if "some/model is a model of the hub" in note]


def test_a_corpus_that_is_elsewhere_is_noted(here: Recipe, database: Database, opened: Settings) -> None:
    measured = changed(here, evaluate__perplexity=["wikitext2"])
    plan = planned(measured, database, opened)
    assert set(known(plan)) == {None}, "training leaves out what the evaluation text holds"
    (note,) = (
        note for note in plan.notes if note.startswith("evaluate.perplexity.0: wikitext2 is not on this machine")
    )
    assert "DRESS_DATA_DIR" in note and "Hugging Face" not in note, "the hub was not asked"
    assert {stage.stage for stage in plan.stages if stage.seconds is None} == {"evaluate"}
    bounded = planned(changed(measured, evaluate__windows=2), database, opened)
    assert None not in {stage.seconds for stage in bounded.stages}
    trained = planned(changed(here, data={"name": "ptb", "samples": 8}), database, opened)
    assert known(trained)[0] is False and set(known(trained)[1:]) == {None}


def test_a_text_that_is_here_and_unreadable_is_refused(here: Recipe, database: Database, opened: Settings) -> None:
    Path(str(here.data.path)).write_bytes(b"\xff\xff")
    with pytest.raises(InvalidRecipe, match="UTF-8"):
        planned(here, database, opened)


def test_a_large_model_is_not_read_for_a_plan(here: Recipe, database: Database, opened: Settings) -> None:
    plan = planned(here, database, opened.model_copy(update={"plan_digest_gib": 0.0}))
    assert set(known(plan)) == {None} and plan.models and plan.seconds
    assert any("DRESS_PLAN_DIGEST_GIB" in note for note in plan.notes)


def test_foreign_tensors_leave_the_sizes_open(
    here: Recipe, database: Database, opened: Settings, tmp_path: Path
) -> None:
    foreign = write_model(tmp_path / "foreign", shapes={"w": (2,)})
    plan = planned(changed(here, model={"source": str(foreign)}), database, opened)
    assert plan.models == {} and plan.seconds is None
    assert any("lacks the tensor" in note for note in plan.notes)


def test_a_benchmark_is_of_a_machine(here: Recipe, database: Database, opened: Settings) -> None:
    plan = planned(changed(here, evaluate__speed=True), database, opened)
    assert known(plan) == [False] * 8 + [None]
    assert any(note.startswith("benchmark: ") for note in plan.notes)


def test_code_that_is_not_installed_here_is_noted(
    here: Recipe, database: Database, opened: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workers.planning import plan as keys

    monkeypatch.setattr(keys, "LIBRARIES", ("surely-not-installed",))
    keys.code_digest.cache_clear()
    plan = planned(here, database, opened)
    keys.code_digest.cache_clear()
    assert set(known(plan)) == {None} and plan.seconds
    assert any("surely-not-installed is not installed" in note for note in plan.notes)


def test_a_store_that_fails_is_noted(here: Recipe, database: Database, opened: Settings) -> None:
    class Broken:
        def find(self, key: str) -> StageResult | None:
            raise Transient("the disk is gone")

    plan = planned(here, database, opened, Broken())
    assert set(known(plan)) == {None} and any("the disk is gone" in note for note in plan.notes)


def finish(
    database: Database,
    recipe: Recipe,
    results: Results,
    seconds: dict[str, float],
    reused: bool = False,
    cost_seconds: float | None = None,
) -> None:
    """A job that succeeded, whose stages took so long."""
    told: list[Event] = [
        StageFinished.model_validate(
            {
                "stage": stage,
                "key": "k",
                "seconds": each,
                "reused": reused,
                "cost_seconds": cost_seconds,
                **SUBJECT.get(stage, {}),
            }
        )
        for stage, each in seconds.items()
    ]
    told.append(Succeeded(results=results))
    rules = Settings(state_dir=Path("/nowhere")).retry_rules
    with database.writing() as session:
        job = jobs.submit(session, recipe=recipe, metadata={}, labels={}, priority=0)
        held = queue.lease(session, job.id, owner="test", seconds=600)
        assert held is not None
        batch = [NumberedEvent(sequence=place, event=event) for place, event in enumerate(told, start=1)]
        queue.apply(session, held, batch, rules)


SUBJECT = {"evaluate": {"subject": "dense"}}


def results_of(recipe: Recipe, model: Path, windows: int = 4) -> Results:
    sizes = sizes_of(recipe, model)
    protocol = PerplexityProtocol(
        sequence_length=128,
        windows=windows,
        tokens=600,
        batch_size=8,
        dtype="float32",
        arithmetic="float32",
        text_sha256="s",
    )
    return Results(
        sequence_length=128,
        **{
            subject: Measurement(
                parameters=size.parameters, hidden_size=size.hidden_size, perplexity_protocol={"own": protocol}
            )
            for subject, size in sizes.items()
        },
    )


def by_rule(recipe: Recipe, model: Path, name: str, settings: Settings) -> float:
    stage = next(stage for stage in stages_of(recipe, Sources.unknown()) if stage.name == name)
    effort = effort_of(stage, recipe, sizes_of(recipe, model), 128, {"own": 4 * 128})
    return pace.rule_seconds(recipe, effort, settings)


def test_measured_stages_put_the_rule_right(here: Recipe, model: Path, database: Database, opened: Settings) -> None:
    before = planned(here, database, opened)
    took = {name: 3 * by_rule(here, model, name, opened) for name in ("regularize", "evaluate")}
    finish(database, here, results_of(here, model), took)
    finish(database, here, results_of(here, model), {"regularize": 1e9}, reused=True)
    finish(database, changed(here, resources__gpus=1), results_of(here, model), {"regularize": 1e9})
    after = planned(here, database, opened)
    for one, other in zip(before.stages, after.stages, strict=True):
        if one.stage in took:
            assert other.basis == "measured"
            assert other.seconds == pytest.approx(3 * (one.seconds or 0))
        else:
            assert (other.basis, other.seconds) == ("default", one.seconds)


def test_an_evaluation_that_found_some_of_its_texts_counts_for_what_all_cost(
    here: Recipe, model: Path, database: Database, opened: Settings
) -> None:
    """The seconds of the attempt are those of one text, the rule's those of all."""
    by_default = planned(here, database, opened).stages[0].seconds
    cost = 5 * by_rule(here, model, "evaluate", opened)
    finish(database, here, results_of(here, model), {"evaluate": cost / 4}, cost_seconds=cost)
    measured = planned(here, database, opened).stages[0]
    assert by_default and (measured.basis, measured.seconds) == ("measured", pytest.approx(5 * by_default))


def test_a_text_more_is_all_that_is_left_of_an_evaluation(
    here: Recipe, database: Database, opened: Settings, tmp_path: Path
) -> None:
    store = open_store(opened.artifacts_url)
    for stage in planned(here, database, opened).stages:
        for part in stage.parts:
            store.publish(StageResult(stage=stage.stage, key=str(part.key), seconds=1.0))
    longer = tmp_path / "longer.txt"
    longer.write_text("Words that stand nowhere else.\n" * 4000, "utf-8")
    own = here.evaluate.perplexity[0].model_dump(mode="json")
    more = {"name": "text", "path": str(longer), "label": "longer"}
    dense = planned(changed(here, evaluate__perplexity=[own, more]), database, opened).stages[0]
    assert [(part.name, part.known) for part in dense.parts] == [(SIZES, True), ("own", True), ("longer", False)]
    assert (dense.known, planned(here, database, opened).stages[0].known) == (False, True)
    alone = planned(changed(here, evaluate__perplexity=[more]), database, opened, LocalStore(tmp_path / "empty"))
    both = planned(
        changed(here, evaluate__perplexity=[own, more]), database, opened, LocalStore(tmp_path / "empty")
    ).stages[0]
    assert dense.seconds == pytest.approx(alone.stages[0].seconds) and (dense.seconds or 0) < (both.seconds or 0)


def test_the_nearest_stages_are_heeded(
    here: Recipe, model: Path, database: Database, opened: Settings, tmp_path: Path
) -> None:
    """Many large models that ran fast do not drown the few that are as small as this one."""
    wide = write_model(tmp_path / "wide", {**SMALL_LLAMA, "hidden_size": 512, "intermediate_size": 1024})
    for _ in range(6):
        finish(database, here, results_of(here, wide), {"regularize": by_rule(here, wide, "regularize", opened)})
    for _ in range(5):
        finish(database, here, results_of(here, model), {"regularize": 9 * by_rule(here, model, "regularize", opened)})
    (stage,) = (each for each in planned(here, database, opened).stages if each.stage == "regularize")
    assert stage.seconds == pytest.approx(9 * by_rule(here, model, "regularize", opened))


def test_the_assumed_throughput_is_the_deployments(here: Recipe, database: Database, opened: Settings) -> None:
    def regularize(**update: float) -> float:
        plan = planned(changed(here, resources__cpus=4), database, opened.model_copy(update=update))
        return next(stage.seconds or 0 for stage in plan.stages if stage.stage == "regularize")

    without_disk = {"disk_megabytes_per_second": 1e12}
    assert regularize(core_gigaflops=10.0, **without_disk) == pytest.approx(
        2 * regularize(core_gigaflops=20.0, **without_disk)
    )
    assert regularize(disk_megabytes_per_second=1e-3) > regularize()


def test_memory_is_predicted_and_compared_with_the_deployments(
    here: Recipe, database: Database, opened: Settings
) -> None:
    open_end = planned(here, database, opened)
    assert (open_end.fits, open_end.limit_bytes, open_end.refusal) == (None, None, None)
    assert open_end.peak_bytes == max(stage.peak_bytes or 0 for stage in open_end.stages)
    for stage in open_end.stages:
        assert stage.peak_bytes == sum(stage.memory.values()) > 0
    roomy = planned(here, database, opened.model_copy(update={"node_memory_gib": 1.0}))
    assert (roomy.fits, roomy.limit_bytes, roomy.refusal) == (True, GIB, None)
    other_device = planned(here, database, opened.model_copy(update={"gpu_memory_gib": 1e-6}))
    assert other_device.fits is None
    tight = planned(here, database, opened.model_copy(update={"node_memory_gib": 1e-6}))
    assert tight.fits is False and "MiB" in (tight.refusal or "")


def test_what_cannot_fit_is_refused_with_the_figures(here: Recipe, opened: Settings) -> None:
    store = open_store(opened.artifacts_url)
    tight = opened.model_copy(update={"node_memory_gib": 1e-6})
    with pytest.raises(InvalidRecipe, match=r"needs about [0-9.]+ MiB .* the node has 0\.0 MiB; ") as refused:
        plans.refuse_what_cannot_fit(here, store, tight)
    assert refused.value.field == "resources"
    plans.refuse_what_cannot_fit(here, store, opened)
    plans.refuse_what_cannot_fit(here, store, opened.model_copy(update={"node_memory_gib": 1.0}))
    plans.refuse_what_cannot_fit(changed(here, resources__gpus=1), store, tight)
    hub = changed(here, model={"source": "some/model"})
    plans.refuse_what_cannot_fit(hub, store, tight)


def test_a_stage_that_is_known_need_not_fit(here: Recipe, database: Database, opened: Settings) -> None:
    store = open_store(opened.artifacts_url)
    tight = opened.model_copy(update={"node_memory_gib": 1e-6})
    for stage in planned(here, database, opened).stages:
        for key in [part.key for part in stage.parts] or [stage.key]:
            assert key is not None
            store.publish(StageResult(stage=stage.stage, key=key, seconds=1.0))
    plans.refuse_what_cannot_fit(here, store, tight)
    plan = planned(here, database, tight)
    assert plan.fits is True and plan.peak_bytes == 0 and all(known(plan))
