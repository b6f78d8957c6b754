"""The matrices of the basis: Helmert's frame, its embedding, what counts as important."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from workers.pruning.basis import StreamStatistics, centred_axes, embedded, helmert, importance, principal_axes


def symmetric(width: int, seed: int) -> torch.Tensor:
    factor = torch.randn(width, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return factor @ factor.T


@given(width=st.integers(2, 40))
def test_the_first_columns_span_the_first_channels_centred(width: int) -> None:
    frame = helmert(width)
    assert torch.allclose(frame.T @ frame, torch.eye(width - 1, dtype=torch.float64), atol=1e-12)
    assert frame.sum(0).abs().max() < 1e-12
    for kept in range(2, width):
        first = frame[:, : kept - 1]
        assert not first[kept:].any()
        centring = torch.eye(kept, dtype=torch.float64) - 1.0 / kept
        assert torch.allclose(first[:kept] @ first[:kept].T, centring, atol=1e-12)


@given(width=st.integers(2, 20), seed=st.integers(0, 5))
def test_embedding_leaves_the_mean_alone_and_keeps_lengths(width: int, seed: int) -> None:
    axes = centred_axes(symmetric(width, seed))
    turn = embedded(axes)
    ones = torch.ones(width, dtype=torch.float64)
    assert torch.allclose(turn @ ones, ones, atol=1e-10) and torch.allclose(turn.T @ ones, ones, atol=1e-10)
    assert torch.allclose(turn.T @ turn, torch.eye(width, dtype=torch.float64), atol=1e-10)
    assert torch.allclose(turn.T @ axes, helmert(width), atol=1e-10)


def test_axes_stand_by_falling_importance() -> None:
    matrix = symmetric(12, 0)
    axes = principal_axes(matrix)
    assert torch.allclose(axes @ axes.T, torch.eye(12, dtype=torch.float64), atol=1e-12)
    along = (axes.T @ matrix @ axes).diagonal()
    assert torch.equal(along.argsort(descending=True), torch.arange(12))


def test_sensitivity_weighs_two_matrices_of_equal_trace() -> None:
    statistics = StreamStatistics(symmetric(6, 1), 100 * symmetric(6, 2))
    for share in (0.0, 0.3, 1.0):
        mixed = importance(statistics, share)
        assert torch.isclose(mixed.trace(), torch.tensor(1.0, dtype=torch.float64))
    assert torch.allclose(importance(statistics, 0.0) * statistics.activation.trace(), statistics.activation)
    assert torch.allclose(importance(statistics, 1.0) * statistics.gradient.trace(), statistics.gradient)
