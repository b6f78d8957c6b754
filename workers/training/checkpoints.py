"""The checkpoints that a training stage leaves behind, and goes on from. Safetensors and JSON; nothing is unpickled."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from workers.contracts.recipe import Resources
from workers.contracts.store import ArtifactStore
from workers.training.loop import TrainingState

PARTS = ("weights", "optimizer", "random", "extra")
"""The files of a training checkpoint, each a safetensors file."""

A_STAGE = 10
"""Checkpoints a stage, unless the recipe says how many steps lie between them."""

log = logging.getLogger(__name__)


class TrainingCheckpoints:
    """Where a stage leaves its state and finds it again: parameters, optimizer, loss scale, random state, step.

    Data order, learning rate and rounding follow from the step, so this is all of it. Every tensor is stored in the
    type in which it is held, 8-bit moments as 8 bits. The store keeps the newest checkpoint, and writes it atomically.
    """

    def __init__(
        self,
        store: ArtifactStore,
        key: str,
        workspace: Path,
        resources: Resources,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` tells seconds."""
        self._store, self._key, self._resources, self._clock = store, key, resources, clock
        self._folder = workspace / f"checkpoint-{key[:16]}"
        self.extra: dict[str, Tensor] = {}
        """Small tensors of the stage's own that travel with the checkpoint."""
        self._read: dict[str, dict[str, Tensor]] = {}
        self._state: dict[str, Any] = {"step": 0}
        self._last_seconds = clock()

    def found(self) -> int | None:
        """Read the newest checkpoint, if there is one, and return its step. A damaged one is dropped: begin anew."""
        self._clear()
        if self._store.load_checkpoint(self._key, self._folder) is None:
            return None
        try:
            state = json.loads((self._folder / "state.json").read_text("utf-8"))
            step = int(state["step"])
            self._read = {part: load_file(self._folder / f"{part}.safetensors") for part in PARTS}
        except (OSError, ValueError, KeyError, SafetensorError):
            log.exception("the checkpoint of stage %s is damaged; the stage begins anew", self._key)
            self._store.drop_checkpoint(self._key)
            return None
        finally:
            self._clear()
        self.extra, self._state = self._read["extra"], state
        return step

    def due(self, step: int, steps: int) -> bool:
        """True every so many steps and every so many minutes; not at the end, whose result is kept anyway."""
        every = self._resources.checkpoint_every_steps or max(1, steps // A_STAGE)
        minutes = self._resources.checkpoint_every_minutes
        old = minutes is not None and self._clock() - self._last_seconds >= 60 * minutes
        return step < steps and (step % every == 0 or old)

    def load(self, state: TrainingState) -> int:
        """Put the checkpoint that was found into the parameters and the optimizers; its step, 0 if there was none."""
        if not self._read:
            return 0
        weights, kept, random = (self._read[part] for part in ("weights", "optimizer", "random"))
        states: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for name, tensor in kept.items():
            owner, _, quantity = name.rpartition(".")
            states[owner][quantity] = tensor
        with torch.no_grad():
            for name, parameter in state.parameters.items():
                parameter.copy_(weights[name])
                if name in states:
                    state.optimizers.restore(parameter, states[name])
        if state.scaler.is_enabled():
            state.scaler.load_state_dict(self._state["scaler"])
        torch.set_rng_state(random["cpu"])
        if "cuda" in random and torch.cuda.is_available():
            torch.cuda.set_rng_state(random["cuda"])
        state.curve[:] = [(int(step), figures) for step, figures in self._state.get("curve", [])]
        self._read = {}
        self._last_seconds = self._clock()
        return int(self._state["step"])

    def save(self, step: int, state: TrainingState) -> None:
        """Write the state and hand it to the store, in place of the one before."""
        self._clear()
        weights = {name: weight.detach() for name, weight in state.parameters.items()}
        kept = {
            f"{name}.{quantity}": tensor
            for name, weight in state.parameters.items()
            for quantity, tensor in state.optimizers.state(weight).items()
        }
        random = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            random["cuda"] = torch.cuda.get_rng_state()
        for part, tensors in zip(PARTS, (weights, kept, random, self.extra), strict=True):
            save_file(tensors, self._folder / f"{part}.safetensors")
        told = {"step": step, "scaler": state.scaler.state_dict(), "curve": state.curve}
        (self._folder / "state.json").write_text(json.dumps(told))
        self._store.save_checkpoint(self._key, step, self._folder)
        self._clear()
        self._last_seconds = self._clock()

    def _clear(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
