"""What does not compare: each kind of difference is marked at its figures and told, and nothing else is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.comparison.rows import dense, measured, protocol, results, row, score, speed
from workers.comparison.caveats import notes_of
from workers.comparison.comparison import Comparison
from workers.contracts.results import Results


def test_rows_measured_alike_need_no_notes() -> None:
    other_batch = {"valid": protocol(batch_size=2)}
    same = results(dense=dense(perplexity_protocol=other_batch), recovered=measured(1400, 11.0))
    assert notes_of([row(), row("two", results=same), row("failed", status="failed", results=Results())]) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"windows": 4}, "windows 4 instead of 12"),
        (
            {"sequence_length": 2048, "tokens": 90},
            "tokens of the text 90 instead of 800, window length 2,048 instead of 64",
        ),
        ({"text_sha256": "b" * 64}, "text bbbbbbbbbbbb… instead of 000000000000…"),
        ({"dtype": "bfloat16"}, "weights bfloat16 instead of float32"),
        ({"arithmetic": "float16"}, "arithmetic float16 instead of float32"),
    ],
)
def test_another_protocol_is_marked(change: dict[str, Any], words: str) -> None:
    other = results(dense=dense(perplexity_protocol={"valid": protocol(**change)}))
    made = Comparison.of([row(), row("other", results=other), row("third")])
    [note] = made.notes
    assert (note.cause, note.rows, note.message) == ("perplexity_protocol", [1], f"perplexity on valid: {words}")
    marked = [name for name, numbers in made.rows[1].marks.items() if numbers == [1]]
    assert marked == [f"perplexity.valid.{part}" for part in ("dense", "pruned", "recovered", "ratio")]
    assert made.rows[0].marks == made.rows[2].marks == {}
    assert "12.00 [1]" in made.markdown() and f"- [1] {note.message}." in made.markdown()


def test_an_unknown_protocol_is_not_taken_for_the_same() -> None:
    silent = Results(dense=dense(perplexity_protocol=None), pruned=measured(1500, 9.0, perplexity_protocol=None))
    [note] = notes_of([row(), row("old", results=silent)])
    assert note.rows == [1] and "windows unknown instead of 12" in note.message


def test_another_dense_model_is_marked_by_its_weights() -> None:
    moved = row("moved", recipe={"model": {"source": "/elsewhere/name"}})
    other = row("other", results=results(dense=dense(weights_digest="c" * 64)))
    made = Comparison.of([row(), moved, other])
    [note] = made.notes
    assert (note.cause, note.rows) == ("dense_model", [2])
    assert note.message.startswith("another dense model: weights cccccccccccc… instead of aaaaaaaaaaaa…; its figures")
    assert {"parameters_fraction", "perplexity.valid.recovered"} <= set(made.rows[2].marks)
    assert "parameters" not in made.rows[2].marks and "seconds" not in made.rows[2].marks


def test_other_rows_of_a_task_are_marked() -> None:
    def scored(**changes: Any) -> Results:
        return results(recovered=measured(1500, 12.0, tasks={"piqa": score(0.5, **changes)}))

    made = Comparison.of([row(results=scored()), row("short", results=scored(n=20, stderr=0.1, source="another file"))])
    [note] = made.notes
    assert (note.cause, note.message) == ("task_protocol", "task piqa: questions 20 instead of 100")
    assert set(made.rows[1].marks) == {"tasks.piqa.final", "tasks.piqa.final.stderr"}


def test_another_machine_marks_speed_and_cost() -> None:
    def timed(**changes: Any) -> Results:
        return results(dense=dense(speed=speed(100)), recovered=measured(1500, 12.0, speed=speed(130, **changes)))

    made = Comparison.of([row(results=timed()), row("there", results=timed(machine="another", new_tokens=128))])
    assert [note.cause for note in made.notes] == ["speed_protocol", "machine"]
    assert made.notes[0].message == "speed: machine another instead of one machine, new tokens 128 instead of 32"
    assert made.rows[1].marks["speed.generation"] == [1] and made.rows[1].marks["seconds"] == [2]
    unmeasured = Comparison.of([row(results=timed()), row("no speed")])
    assert unmeasured.notes == [], "what is not known to differ is not said to"
    on_gpu = Comparison.of([row(), row("on a GPU", recipe={"resources": {"gpus": 1, "cpus": 8}})])
    assert [note.message for note in on_gpu.notes] == ["cost: GPUs 1 instead of 0, CPU cores 8 instead of 1"]


@given(st.lists(st.sampled_from([4, 8, 12]), min_size=1, max_size=9))
def test_the_largest_class_is_unmarked_and_every_other_figure_is_marked(windows: list[int]) -> None:
    rows = [
        row(str(place), results=results(dense=dense(perplexity_protocol={"valid": protocol(windows=count)})))
        for place, count in enumerate(windows)
    ]
    made = Comparison.of(rows)
    own = max(windows, key=lambda count: (windows.count(count), -windows.index(count)))
    for count, each in zip(windows, made.rows, strict=True):
        numbers = each.marks.get("perplexity.valid.recovered", [])
        assert len(numbers) == (0 if count == own else 1)
        if numbers:
            assert f"windows {count} instead of {own}" in made.notes[numbers[0] - 1].message
    assert len(made.notes) == len(set(windows)) - 1
