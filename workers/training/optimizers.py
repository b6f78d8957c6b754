"""AdamW over named parameters: float32 or 8-bit moments, float32 or bfloat16 weights, one optimizer or one a parameter.

Legend: w = weight, m = first moment, v = second moment, e = elements, b = ceil(e / 256) blocks.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from workers.contracts.training import TrainingSettings

BLOCK_ELEMENTS = 256
"""Elements that share one scale in an 8-bit moment; the kernels know no other number."""

SMALLEST_8BIT_ELEMENTS = 4096
"""Smaller tensors keep float32 moments: they cost nothing, and norms and biases are sensitive."""

CHUNK_ELEMENTS = {"cuda": BLOCK_ELEMENTS * 16_384, "cpu": BLOCK_ELEMENTS * 2048}
"""So many elements are updated at a time: the float32 scratch is about eight times as large; GPUs want few calls."""

EPSILON = 1e-8

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # on import it tells which 4-bit kernels it lacks


class ScratchAdamW(torch.optim.Optimizer):
    """AdamW whose moments may have 8 bits and whose weights may be bfloat16; the arithmetic is float32.

    A chunk of the weights is widened to float32, updated, and written back. bfloat16 weights are rounded
    stochastically: up or down with the probabilities that make the expected value exact. The noise follows from the
    seed, the parameter's number and its count of updates, so it needs no state of its own.

    The state of a parameter is `step` (float32, []) with either `exp_avg` and `exp_avg_sq` (float32, like the
    parameter) or `exp_avg_8bit`, `exp_avg_sq_8bit` (uint8 [e]) and `exp_avg_scale`, `exp_avg_sq_scale` (float32 [b]).
    """

    def __init__(self, parameters: dict[int, nn.Parameter], settings: TrainingSettings, seed: int) -> None:
        """`parameters` by their number in the model."""
        self._numbers = {parameter: number for number, parameter in parameters.items()}
        self._settings, self._seed = settings, seed
        super().__init__(list(parameters.values()), {"lr": settings.peak_rate})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # none of ours is re-evaluated
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, group["lr"])

    def _update(self, weight: nn.Parameter, rate: float) -> None:
        state = self.state[weight]
        if not state:
            state.update(_empty_state(weight, self._settings.optimizer == "adamw_8bit"))
        state["step"] += 1
        count = int(state["step"].item())
        flat, gradient = weight.detach().view(-1), weight.grad.reshape(-1)  # type: ignore[union-attr]  # asked above
        noise = None
        if weight.dtype == torch.bfloat16:
            noise = _generator(weight.device, self._seed, self._numbers[weight], count)
        for start, stop in _chunks(flat.numel(), CHUNK_ELEMENTS[weight.device.type]):
            wide = flat[start:stop].float()
            self._update_chunk(wide, gradient[start:stop].float(), state, (start, stop), rate)
            if noise is not None:
                flat[start:stop] = stochastically_rounded(wide, noise)
            elif wide.data_ptr() != flat[start:stop].data_ptr():
                flat[start:stop] = wide

    def _update_chunk(
        self, wide: Tensor, gradient: Tensor, state: dict[str, Tensor], place: tuple[int, int], rate: float
    ) -> None:
        settings, (start, stop) = self._settings, place
        if "exp_avg" in state:
            adamw(
                [wide],
                [gradient],
                exp_avgs=[state["exp_avg"].view(-1)[start:stop]],
                exp_avg_sqs=[state["exp_avg_sq"].view(-1)[start:stop]],
                max_exp_avg_sqs=[],
                state_steps=[state["step"] - 1],  # it counts the update itself
                fused=True,
                amsgrad=False,
                beta1=settings.beta1,
                beta2=settings.beta2,
                lr=rate,
                weight_decay=settings.weight_decay,
                eps=EPSILON,
                maximize=False,
            )
            return
        blocks = slice(start // BLOCK_ELEMENTS, -(-stop // BLOCK_ELEMENTS))
        _update_8bit(wide, gradient, state, (slice(start, stop), blocks), rate, settings)


def _update_8bit(
    wide: Tensor,
    gradient: Tensor,
    state: dict[str, Tensor],
    place: tuple[slice, slice],
    rate: float,
    settings: TrainingSettings,
) -> None:
    """One AdamW step on a chunk; the chunk starts at a block's start."""
    from bitsandbytes.functional import optimizer_update_8bit_blockwise

    elements, blocks = place
    signed, unsigned = _codes(wide.device)
    optimizer_update_8bit_blockwise(
        "adam",
        gradient,
        wide,
        state["exp_avg_8bit"][elements],
        state["exp_avg_sq_8bit"][elements],
        settings.beta1,
        settings.beta2,
        0.0,
        0.0,
        EPSILON,
        int(state["step"].item()),
        rate,
        signed,
        unsigned,
        state["exp_avg_scale"][blocks],
        state["exp_avg_sq_scale"][blocks],
        weight_decay=settings.weight_decay,
    )


def _empty_state(weight: nn.Parameter, eight_bit: bool) -> dict[str, Tensor]:
    """Moments of zero."""
    device, elements = weight.device, weight.numel()
    step = torch.zeros((), device=device)
    if not eight_bit or elements < SMALLEST_8BIT_ELEMENTS:
        moments = {name: torch.zeros(weight.shape, device=device) for name in ("exp_avg", "exp_avg_sq")}
        return {"step": step, **moments}
    blocks = -(-elements // BLOCK_ELEMENTS)
    state = {"step": step}
    for name, code in zip(("exp_avg", "exp_avg_sq"), _codes(device), strict=True):
        zero = int(code.abs().argmin())
        state[f"{name}_8bit"] = torch.full((elements,), zero, dtype=torch.uint8, device=device)
        state[f"{name}_scale"] = torch.zeros(blocks, device=device)
    return state


@cache
def _codes(device: torch.device) -> tuple[Tensor, Tensor]:
    """The 256 values that 8 bits stand for, as fractions of a block's largest: signed for m, unsigned for v."""
    from bitsandbytes.functional import create_dynamic_map

    return create_dynamic_map(signed=True).to(device), create_dynamic_map(signed=False).to(device)


def stochastically_rounded(wide: Tensor, generator: torch.Generator) -> Tensor:
    """float32 → bfloat16 of the same shape, rounded up with the probability of the cut fraction.

    bfloat16 is the upper half of a float32. Adding 16 random bits carries into the upper half just as often as the
    lower half is large; what is left below is then dropped. Values that bfloat16 can hold stay as they are.
    """
    noise = torch.randint(0, 1 << 16, wide.shape, generator=generator, dtype=torch.int32, device=wide.device)
    return ((wide.view(torch.int32) + noise) & -(1 << 16)).view(torch.float32).to(torch.bfloat16)


def _generator(device: torch.device, *seeds: int) -> torch.Generator:
    """A generator whose seed mixes the given ones."""
    digest = hashlib.blake2b(repr(seeds).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest) >> 1)


def _chunks(elements: int, most: int) -> Iterator[tuple[int, int]]:
    for start in range(0, elements, most):
        yield start, min(elements, start + most)


class Optimizers:
    """The optimizers of a run, and whose state is whose."""

    def __init__(self, parameters: dict[str, nn.Parameter], settings: TrainingSettings, seed: int) -> None:
        """One optimizer for all parameters, or one each where the step is taken in backward."""
        numbered = dict(enumerate(parameters.values()))
        parts = [{number: weight} for number, weight in numbered.items()] if settings.step_in_backward else [numbered]
        self.all = [_optimizer(part, settings, seed) for part in parts]
        self._of = {weight: one for one in self.all for group in one.param_groups for weight in group["params"]}

    def of(self, weight: nn.Parameter) -> torch.optim.Optimizer:
        """The optimizer that updates this parameter."""
        return self._of[weight]

    def set_rate(self, rate: float) -> None:
        """The learning rate of the next update."""
        for optimizer in self.all:
            for group in optimizer.param_groups:
                group["lr"] = rate

    def state(self, weight: nn.Parameter) -> dict[str, Tensor]:
        """The state of a parameter, as it is kept; empty before its first update."""
        return dict(self._of[weight].state.get(weight, {}))

    def restore(self, weight: nn.Parameter, state: dict[str, Tensor]) -> None:
        """Put a parameter's state back, in memory of its own on the parameter's device."""
        self._of[weight].state[weight] = {name: kept.to(weight.device, copy=True) for name, kept in state.items()}


def _optimizer(parameters: dict[int, nn.Parameter], settings: TrainingSettings, seed: int) -> torch.optim.Optimizer:
    if settings.optimizer == "adamw_8bit" or any(weight.dtype == torch.bfloat16 for weight in parameters.values()):
        return ScratchAdamW(parameters, settings, seed)
    return torch.optim.AdamW(
        parameters.values(),
        lr=settings.peak_rate,
        betas=(settings.beta1, settings.beta2),
        weight_decay=settings.weight_decay,
        fused=True,
    )
