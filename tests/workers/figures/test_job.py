"""What is drawn of a job is what its records say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from workers.contracts.records import PreservedRecord, TrainingRecord
from workers.figures.job import MANY_POINTS, JobRecords, job_figures, running_mean
from workers.figures.rendering import rendered


def record(points: int = 5, stage: str = "regularize", **metrics: list[float | None]) -> TrainingRecord:
    steps = [3 * place for place in range(1, points + 1)]
    return TrainingRecord.model_validate({"stage": stage, "steps": steps[-1], "step": steps, "metrics": metrics})


def lines_called(figure: Figure, label: str, panel: int = 0) -> list[Line2D]:
    return [line for line in figure.axes[panel].lines if line.get_label() == label]


def test_the_curves_are_the_records() -> None:
    loss, terms = [4.0, 3.5, 3.2, 3.0, 2.9], [5.0, 4.9, 4.8, 4.7, 4.6]
    regularize = record(
        loss=loss, cross_entropy=terms, learning_rate=[1e-3] * 5, preserved_ratio=[0.9, 0.7, 0.5, 0.3, 0.0]
    )
    recover = record(stage="recover", loss=[2.0, 1.0, 1.5, 1.2, 1.1])
    figures = job_figures(JobRecords([regularize, recover]))
    assert set(figures) == {"loss", "learning_rate", "preserved_ratio"}
    for name, wanted in (("loss, as minimized", loss), ("cross-entropy", terms)):
        (line,) = lines_called(figures["loss"], name)
        assert list(line.get_xdata()) == [3, 6, 9, 12, 15]
        assert list(line.get_ydata()) == wanted
    (second,) = lines_called(figures["loss"], "loss, as minimized", panel=1)
    assert list(second.get_ydata()) == [2.0, 1.0, 1.5, 1.2, 1.1]
    (left,) = lines_called(figures["preserved_ratio"], "all matrices")
    assert list(left.get_xdata()) == [0, 3, 6, 9, 12, 15]
    assert list(left.get_ydata()) == pytest.approx([100, 90, 70, 50, 30, 0])
    assert figures["loss"].axes[0].get_ylabel() == "Loss (nats a token)"
    assert figures["preserved_ratio"].axes[0].get_ylabel().endswith("(%)")
    assert [axes.get_xlabel() for axes in figures["loss"].axes] == ["Optimizer steps"] * 2


def test_long_runs_get_a_running_mean_over_what_was_reported() -> None:
    noisy = [math.sin(place) for place in range(MANY_POINTS)]
    figure = job_figures(JobRecords([record(MANY_POINTS, loss=[*noisy])]))["loss"]
    (pale,), (strong,) = (
        lines_called(figure, label) for label in ("_loss, as minimized, each step", "loss, as minimized")
    )
    assert list(pale.get_ydata()) == noisy
    assert list(strong.get_ydata()) == running_mean(noisy)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=120))
def test_a_running_mean_is_the_mean_of_neighbours(values: list[float]) -> None:
    reach = max(1, len(values) // 20)
    wanted = [np.mean(values[max(0, place - reach) : place + reach + 1]) for place in range(len(values))]
    assert running_mean(values) == pytest.approx(wanted, abs=1e-6)


def test_gaps_are_left_out_and_a_single_point_is_seen() -> None:
    figure = job_figures(JobRecords([record(3, loss=[None, 2.0, float("nan")])]))["loss"]
    (line,) = lines_called(figure, "loss, as minimized")
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([6], [2.0])
    assert line.get_marker() == "o"
    assert rendered(figure, "png").startswith(b"\x89PNG")


def test_nothing_recorded_draws_nothing() -> None:
    assert job_figures(JobRecords()) == {}
    assert job_figures(JobRecords([record(2, loss=[None, None])])) == {}


PRESERVED = PreservedRecord(
    steps=[0, 4, 8],
    parameters={
        "model.embed_tokens.weight": [1.0, 0.8, 0.6],
        "model.layers.0.self_attn.q_proj.weight": [1.0, 0.5, 0.25],
        "model.layers.1.self_attn.q_proj.weight": [1.0, 0.4, 0.125],
        "model.layers.1.mlp.fc1.bias": [1.0, None, None],
    },
    activations={"model.layers.0.input_layernorm": 0.5, "model.norm": 0.75},
)


def test_the_heat_map_has_a_cell_for_each_layer_and_matrix() -> None:
    figure = job_figures(JobRecords(preserved=PRESERVED))["preserved_by_matrix"]
    inside, outside = figure.axes[:2]
    rows = [label.get_text().replace("\n", " ") for label in inside.get_yticklabels()]
    assert rows == ["self_attn.q_proj", "mlp.fc1.bias", "input_layernorm (activations)"]
    grid = inside.images[0].get_array().filled(np.nan)
    np.testing.assert_allclose(grid, [[25, 12.5], [np.nan, np.nan], [50, np.nan]])
    assert [label.get_text() for label in outside.get_yticklabels()] == ["embed_tokens", "norm (activations)"]
    np.testing.assert_allclose(outside.images[0].get_array(), [[60], [75]])
    assert [text.get_text() for text in inside.texts] == ["25", "12", "50"]
    assert figure.axes[2].get_ylabel() == "Preserved ratio, after / before (%)"


def test_many_layers_still_fit() -> None:
    names = [f"model.layers.{layer}.mlp.up_proj.weight" for layer in range(80)]
    record = PreservedRecord(steps=[0], parameters={name: [0.5] for name in names}, activations={})
    (cells, *_) = job_figures(JobRecords(preserved=record))["preserved_by_matrix"].axes
    assert cells.images[0].get_array().shape == (1, 80)
    assert not cells.texts and len(cells.get_xticks()) <= 12


def test_the_range_over_the_matrices_is_drawn() -> None:
    whole = record(2, preserved_ratio=[0.6, 0.3])
    figure = job_figures(JobRecords([whole], PRESERVED))["preserved_ratio"]
    median = next(line for line in figure.axes[0].lines if line.get_label() == "median over the matrices")
    assert list(median.get_ydata()) == pytest.approx([100, 50, 25])
    edges = figure.axes[0].collections[0].get_paths()[0].vertices
    assert edges[:, 1].min() == pytest.approx(12.5) and edges[:, 1].max() == pytest.approx(100)
