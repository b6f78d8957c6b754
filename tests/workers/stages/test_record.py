"""What a stage records of its steps: all of them once, whether or not the run was interrupted, and the loss's terms."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.conftest import tiny_llama
from workers.contracts.recipe import Resources
from workers.contracts.records import TrainingRecord
from workers.contracts.training import TrainingSettings
from workers.local_store import LocalStore
from workers.stages.record import Record, thinned
from workers.training.checkpoints import TrainingCheckpoints
from workers.training.loop import Step, train
from workers.training.objectives import Parts, distillation

SEQUENCES = torch.randint(300, (16, 12), generator=torch.Generator().manual_seed(3))


def run(store: Path, workspace: Path, stop_after: int | None = None, **settings: object) -> TrainingRecord | None:
    """The record of a distilled run over a store, or None if it was stopped."""
    model, teacher = tiny_llama(attention_dropout=0.1), tiny_llama(initializer_range=0.3)
    keeper = TrainingCheckpoints(LocalStore(store), "ab" * 32, workspace, Resources(checkpoint_every_steps=3))
    keeper.found()
    parts: Parts = {}
    training = TrainingSettings.model_validate({"batch_size": 2, "learning_rate": 5e-4, **settings})
    objective = distillation(model, teacher, 0.25, chunk_tokens=training.loss_chunk_tokens, parts=parts)
    record = Record("recover")
    steps = record.following(train(model, SEQUENCES, training, objective, seed=5, keeper=keeper, parts=parts))
    for step in islice(steps, stop_after):
        assert step.steps == 8
    if stop_after is not None:
        return None
    record.write(workspace)
    return TrainingRecord.model_validate_json((workspace / "records" / "recover.json").read_text())


def test_a_resumed_run_records_what_an_undisturbed_one_does(tmp_path: Path) -> None:
    wanted = run(tmp_path / "store", tmp_path / "one")
    run(tmp_path / "other", tmp_path / "two", stop_after=5)
    assert run(tmp_path / "other", tmp_path / "three") == wanted
    assert wanted is not None and wanted.step == [1, 2, 3, 4, 5, 6, 7, 8]
    assert set(wanted.metrics) == {"loss", "learning_rate", "cross_entropy", "divergence"}


@pytest.mark.parametrize("settings", [{}, {"accumulation_steps": 2}, {"loss_chunk_tokens": 5}], ids=str)
def test_the_terms_make_up_the_loss(settings: dict, tmp_path: Path) -> None:
    record = run(tmp_path / "store", tmp_path / "one", **settings)
    assert record is not None
    columns = [torch.tensor(record.metrics[name]) for name in ("loss", "cross_entropy", "divergence")]
    torch.testing.assert_close(columns[0], 0.75 * columns[1] + 0.25 * columns[2], rtol=1e-5, atol=1e-6)
    assert (columns[2] > 0).all()


def test_columns_have_gaps_where_a_step_said_nothing(tmp_path: Path) -> None:
    record = Record("basis")
    steps = [Step(1, 3, {"loss": 2.0, "seconds": 9.0}), Step(2, 3), Step(3, 3, {"loss": float("inf"), "shots": 1.0})]
    assert list(record.following(steps)) == steps
    record.write(tmp_path)
    assert json.loads((tmp_path / "records" / "basis.json").read_text()) == {
        "stage": "basis",
        "steps": 3,
        "step": [1, 3],
        "metrics": {"loss": [2.0, None], "shots": [None, 1.0]},
    }


def test_a_stage_that_reports_nothing_leaves_no_record(tmp_path: Path) -> None:
    record = Record("regularize")
    assert list(record.following([])) == []
    record.write(tmp_path)
    assert list(tmp_path.iterdir()) == []


@given(st.integers(0, 300), st.integers(2, 60))
def test_thinning_keeps_the_ends_and_even_steps(count: int, most: int) -> None:
    points = [(step, {"loss": float(step)}) for step in range(count)]
    kept = thinned(points, most)
    assert len(kept) == min(count, most)
    assert kept[:1] == points[:1] and kept[-1:] == points[-1:]
    gaps = {later[0] - earlier[0] for earlier, later in zip(kept, kept[1:], strict=False)}
    assert not gaps or (min(gaps) > 0 and max(gaps) - min(gaps) <= 1)


def test_columns_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValidationError, match="loss: 1 values for 2 steps"):
        TrainingRecord(stage="recover", steps=2, step=[1, 2], metrics={"loss": [1.0]})
