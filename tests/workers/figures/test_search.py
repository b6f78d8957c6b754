"""What is drawn of a search is what its trials say; what cannot be drawn loses nothing else."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure

from tests.workers.figures.drawn import POINT, QUALITY, figures, legend
from tests.workers.searching.trials import (
    STRENGTHS,
    ended,
    record,
    search,
    succeeded,
)
from workers.contracts.trials import SearchRecord, TrialRecord
from workers.figures import search as drawing
from workers.figures.rendering import FORMS, rendered
from workers.figures.search import search_figures, write_search_figures
from workers.searching.table import TrialRow, rows_of


def test_the_figures_of_a_search_have_names_that_files_allow(whole: dict[str, Figure]) -> None:
    assert set(whole) == {
        f"{QUALITY}_by_strength",
        f"{QUALITY}_by_ratio",
        f"{QUALITY}_against_parameters",
        f"{QUALITY}_by_ending",
        f"{QUALITY}_over_time",
        "parallel_coordinates",
        "loss_at_rungs",
    }
    assert all(figure.get_suptitle().endswith("\nλ at three ratios") for figure in whole.values())


def test_nothing_to_draw_gives_no_figure() -> None:
    assert figures() == {}
    assert figures(*(ended(n, "failed", {**POINT, "method.strength": 10.0**-n}) for n in (1, 2, 3))) == {}
    assert figures(TrialRecord(trial=1, point=POINT)) == {}
    assert figures(succeeded(1, POINT, None), succeeded(2, {**POINT, "method.strength": 1e-2}, None)) == {}
    assert set(figures(succeeded(1, POINT, 7.0))) == {f"{QUALITY}_by_ending"}, "one trial has a value and no more"


def test_what_no_dense_model_is_known_for_has_no_level() -> None:
    row = TrialRow(trial=1, status="succeeded", point=POINT, values={"recovered.perplexity.wikitext2": 7.0})
    other = row.model_copy(update={"trial": 2, "point": {**POINT, "method.strength": 0.1}})
    made = search_figures(search(), [row, other])
    assert set(made) == {f"{QUALITY}_by_strength", f"{QUALITY}_by_ending", "parallel_coordinates"}
    assert "dense model" not in legend(made[f"{QUALITY}_by_strength"])
    assert len(made["parallel_coordinates"].axes[0].get_xticklabels()) == 2, "no parameters were measured"


def test_a_figure_that_fails_loses_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    def broken(*_: object) -> Figure:
        raise ValueError("nobody thought of this")

    monkeypatch.setattr(drawing, "parallel_coordinates", broken)
    really = drawing.saved

    def saved(figures: dict[str, Figure], folder: Path) -> list[Path]:
        return broken() and [] if "loss_at_rungs" in figures else really(figures, folder)

    monkeypatch.setattr(drawing, "saved", saved)
    rows = rows_of(search(), record())
    with caplog.at_level(logging.ERROR):
        files = write_search_figures(search(), rows, tmp_path)
    assert {file.stem for file in files} == {
        f"{QUALITY}_by_strength",
        f"{QUALITY}_by_ratio",
        f"{QUALITY}_against_parameters",
        f"{QUALITY}_by_ending",
    }
    assert [each.getMessage() for each in caplog.records] == [
        "the search's figure parallel_coordinates cannot be drawn",
        "the search's figure loss_at_rungs cannot be rendered",
    ]


def test_one_figure_can_be_had_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def unwanted(*_: object) -> Figure:
        raise AssertionError("not asked for")

    monkeypatch.setattr(drawing, "at_rungs", unwanted)
    assert set(search_figures(search(), rows_of(search(), record()), only="parallel_coordinates")) == {
        "parallel_coordinates"
    }
    assert search_figures(search(), rows_of(search(), record()), only="no such figure") == {}


def test_figures_are_files_whose_text_stays_text(tmp_path: Path) -> None:
    asked = search(title="costs $5 & <more>")
    files = write_search_figures(asked, rows_of(asked, record()), tmp_path)
    assert len(files) == 12 and {file.suffix for file in files} == {".svg", ".png"}
    assert all(file.stat().st_size > 5000 for file in files)
    for file in files:
        if file.suffix == ".svg":
            root = ElementTree.fromstring(file.read_text("utf-8"))
            told = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
            assert "costs $5 & <more>" in told
    assert "strength" in (tmp_path / "parallel_coordinates.svg").read_text("utf-8")


def test_the_same_trials_give_the_same_bytes(whole: dict[str, Figure]) -> None:
    again = search_figures(search(), rows_of(search(), record()))
    for form in FORMS:
        for name in ("parallel_coordinates", f"{QUALITY}_against_parameters"):
            assert rendered(again[name], form) == rendered(whole[name], form)


def test_many_trials_and_long_names_can_be_rendered(tmp_path: Path) -> None:
    space = {**search().model_dump()["space"], "seed": "randint(0, 9999)"}
    asked = search(title="a title that is long " * 8, space=space)
    trials = []
    for n in range(1, 200):
        point = {"method.strength": STRENGTHS[n % 7] * (1 + n / 500), "method.ratio": 0.3, "seed": n}
        trials.append(succeeded(n, point, 6.0 + n % 13))
    files = write_search_figures(asked, rows_of(asked, SearchRecord(trials=trials)), tmp_path)
    assert f"{QUALITY}_by_seed.png" in {file.name for file in files} and len(files) == 8


def test_figures_need_no_torch() -> None:
    code = "import sys, workers.figures.search; print(*{'torch', 'ray', 'optuna'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
