"""How rows become the lines of a curve."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from workers.figures.rows import ComparedRow
from workers.figures.series import Line, Point, lines_along


def quality(row: ComparedRow) -> float | None:
    return row.perplexity.get("text")


def row(value: float | None, **settings: object) -> ComparedRow:
    return ComparedRow("row", **{"method": "DReSS", **settings}, perplexity={"text": value})  # type: ignore[arg-type]


def test_seeds_share_a_point() -> None:
    rows = [row(10.0, ratio=0.5), row(8.0, ratio=0.25), row(14.0, ratio=0.5)]
    assert lines_along(rows, "ratio", quality) == [
        Line("DReSS", [Point(0.25, 8.0, 8.0, 8.0, 1), Point(0.5, 12.0, 10.0, 14.0, 2)])
    ]


def test_what_else_varies_makes_another_line() -> None:
    rows = [row(1.0 + ratio, ratio=ratio, strength=strength) for strength in (1e-3, 1e-5) for ratio in (0.25, 0.5)]
    rows.append(row(3.0, method="SLEB", ratio=0.25))
    lines = lines_along(rows, "ratio", quality)
    assert [line.label for line in lines] == ["DReSS, λ 0.001", "DReSS, λ 1e-5", "SLEB"]


def test_methods_with_different_settings_of_their_own_are_named_plainly() -> None:
    rows = [row(1.0, ratio=0.25, samples=100), row(2.0, method="SLEB", ratio=0.25, samples=128)]
    assert [line.label for line in lines_along(rows, "ratio", quality)] == ["DReSS", "SLEB"]


def test_corpora_stay_in_their_order() -> None:
    rows = [row(float(place), corpus=name) for place, name in enumerate(("ptb", "alpaca", "c4"))]
    (line,) = lines_along(rows, "corpus", quality)
    assert [point.place for point in line.points] == ["ptb", "alpaca", "c4"]


def test_what_failed_is_left_out() -> None:
    values = [None, float("nan"), float("inf"), 5.0]
    rows = [row(value, ratio=0.1 * place) for place, value in enumerate(values, start=1)]
    rows += [row(6.0), ComparedRow("dense", is_dense=True, ratio=0.3, perplexity={"text": 3.0})]
    assert lines_along(rows, "ratio", quality) == [Line("DReSS", [Point(0.4, 5.0, 5.0, 5.0, 1)])]


VALUES = st.floats(1.0, 1e6)


@given(st.lists(st.tuples(st.sampled_from(["DReSS", "SLEB"]), st.sampled_from([0.1, 0.2, 0.3]), VALUES), min_size=1))
def test_no_row_is_lost_or_counted_twice(drawn: list[tuple[str, float, float]]) -> None:
    rows = [row(value, method=method, ratio=ratio) for method, ratio, value in drawn]
    lines = lines_along(rows, "ratio", quality)
    assert sum(point.count for line in lines for point in line.points) == len(rows)
    for line in lines:
        places = [point.place for point in line.points]
        assert places == sorted(set(places))
        for point in line.points:
            own = [value for method, ratio, value in drawn if (method, ratio) == (line.label, point.place)]
            assert (point.least, point.most) == (min(own), max(own))
            assert point.least <= point.mean * (1 + 1e-12) and point.mean <= point.most * (1 + 1e-12)
