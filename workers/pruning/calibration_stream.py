"""The residual stream of calibration sequences, carried from block to block through a model that is being sliced.

Legend: x = the stream [batch, L, d], Q [d, d'] = orthonormal axes kept, P = QQᵀ, C = I - 11ᵀ/d for LayerNorm, else I.

A sliced block computes in d' channels what the dense block computes on PCx, if its norms divide by d: Qᵀ and Q cancel
between writers, shortcuts and readers. So the dense block runs, on projected streams, and no sliced model is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


class _Reached(Exception):
    """A pass came as far as it had to; what lies behind need not be computed."""


class CalibrationStream:
    """The stream before one block, for all sequences; on the CPU, batch by batch on the model's device."""

    def __init__(
        self,
        model: PreTrainedModel,
        first_block: str,
        sequences: Tensor,
        batch_size: int,
        norm: Literal["rms", "layer"],
    ) -> None:
        """Compute what enters the first block.

        Args:
            model: in evaluation mode; it is left as it is.
            first_block: dotted name.
            sequences: token ids [samples, L].
            norm: of the family; under `layer` the stream is known less its mean over the channels.
        """
        self._model, self._norm = model, norm
        self._states: list[Tensor] = []
        self._arguments: dict[int, dict[str, Any]] = {}
        for ids in sequences.split(batch_size):
            entered, arguments = _entering(model, first_block, ids.to(model.device))
            self._states.append(entered.cpu())
            self._arguments.setdefault(len(ids), arguments)

    def states(self) -> Iterator[Tensor]:
        """Cx before the block, batch by batch [≤batch_size, L, d]."""
        for states in self._states:
            yield self._centred(states.to(self._model.device))

    @torch.no_grad()
    def project(self, axes: Tensor) -> None:
        """x ← PCx, what a site that keeps these axes lets into the block."""
        for number, states in enumerate(self.states()):
            self._states[number] = _projected(states, axes).cpu()

    @torch.no_grad()
    def halfway(self, block: str, writer: str) -> Iterator[Tensor]:
        """Cx after this writer of the block, which is the one that adds to the stream first."""
        for entered, arguments in self._batches():
            reached: list[Tensor] = []

            def catch(_module: nn.Module, _inputs: Any, written: Tensor, entered: Tensor = entered) -> None:
                reached.append(entered + written.view_as(entered))  # noqa: B023  read before the next turn
                raise _Reached

            with self._hooked(writer, catch):
                try:
                    self._model.get_submodule(block)(entered, **arguments)
                except _Reached:
                    yield self._centred(reached[0])

    @torch.no_grad()
    def run(self, block: str, writer: str | None = None, axes: Tensor | None = None) -> None:
        """x ← what the block gives; with a writer and axes, PCx goes on after that writer."""
        for number, (entered, arguments) in enumerate(self._batches()):

            def turn(_module: nn.Module, _inputs: Any, written: Tensor, entered: Tensor = entered) -> Tensor:
                assert axes is not None  # noqa: S101  given with the writer
                met = self._centred(entered + written.view_as(entered))
                return (_projected(met, axes) - entered).view_as(written)  # the shortcut adds what entered

            with self._hooked(writer, turn):
                given = self._model.get_submodule(block)(entered, **arguments)
            self._states[number] = (given[0] if isinstance(given, tuple) else given).cpu()

    def _batches(self) -> Iterator[tuple[Tensor, dict[str, Any]]]:
        for states in self._states:
            yield states.to(self._model.device), self._arguments[len(states)]

    def _centred(self, states: Tensor) -> Tensor:
        return states - states.mean(-1, keepdim=True) if self._norm == "layer" else states

    @contextmanager
    def _hooked(self, module: str | None, hook: Any) -> Iterator[None]:
        handle = self._model.get_submodule(module).register_forward_hook(hook) if module else None
        try:
            yield
        finally:
            if handle:
                handle.remove()


def _projected(states: Tensor, axes: Tensor) -> Tensor:
    """QQᵀx."""
    turn = axes.to(states.device, states.dtype)
    return (states @ turn) @ turn.T


@torch.no_grad()
def _entering(model: PreTrainedModel, block: str, ids: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """The stream [batch, L, d] that a model gives to its first block, and the other arguments, equal for all blocks."""
    caught: list[tuple[Tensor, dict[str, Any]]] = []

    def catch(_module: nn.Module, inputs: tuple[Tensor, ...], arguments: dict[str, Any]) -> None:
        caught.append((inputs[0], arguments))
        raise _Reached

    handle = model.get_submodule(block).register_forward_pre_hook(catch, with_kwargs=True)
    try:
        model(input_ids=ids, use_cache=False)
    except _Reached:
        pass
    finally:
        handle.remove()
    return caught[0]
