"""How speed is measured: what a recipe may ask, and what is taken where it leaves a figure out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field

from workers.contracts.base import Contract

_Tokens = Annotated[int, Field(ge=1, le=1_048_576)]
_Rounds = Annotated[int, Field(ge=1, le=10_000)]


@dataclass(frozen=True)
class SpeedForm:
    """What is measured, every figure known. Two untimed passes come before the timed ones."""

    batch_size: int
    """Sequences generated at once, each from a prompt of one token."""
    new_tokens: int
    """Tokens generated a sequence."""
    rounds: int
    """Timed generations of each model."""
    prompt_tokens: int
    """Tokens of the one prompt that is read without a cache."""
    prompt_rounds: int
    """Timed prompts of each model."""


ON_GPU = SpeedForm(batch_size=64, new_tokens=128, rounds=10, prompt_tokens=2048, prompt_rounds=50)
"""As SLEB and the paper measure (METHOD §7)."""
ON_CPU = SpeedForm(batch_size=8, new_tokens=32, rounds=5, prompt_tokens=256, prompt_rounds=10)
"""Smaller, since a CPU takes minutes for the above; the result says so."""

UNTIMED = 2
"""Passes of each kind before the timed ones: one warms up, one measures memory."""


class SpeedSettings(Contract):
    """Sizes of the speed measurement.

    What is left out suits the device: 64 sequences of 128 tokens and a prompt of 2,048 on a GPU, as SLEB measures,
    smaller ones on a CPU; never more than the model's context. The result says what it was.
    """

    batch_size: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Sequences generated at once, each from a prompt of one token. `null`: 64 on a GPU, 8 on a CPU."""
    new_tokens: _Tokens | None = None
    """Tokens generated a sequence, stop tokens or not; with the prompt's one at most the model's context. `null`: 128
    on a GPU, 32 on a CPU, less where the context is smaller."""
    rounds: _Rounds | None = None
    """Timed generations of each model, the models in turns. `null`: 10 on a GPU, 5 on a CPU."""
    prompt_tokens: _Tokens | None = None
    """Tokens of the one prompt that is read at once, without a cache; at most the model's context. `null`: 2048 on a
    GPU, 256 on a CPU, less where the context is smaller."""
    prompt_rounds: _Rounds | None = None
    """Timed prompts of each model, the models in turns. `null`: 50 on a GPU, 10 on a CPU."""

    def form(self, on_gpu: bool, context: int | None = None) -> SpeedForm:
        """Every figure, the recipe's own or what suits the device and a model of this context; None: of any."""
        given = {name: value for name, value in self.model_dump().items() if value is not None}
        suited = ON_GPU if on_gpu else ON_CPU
        if context is not None:
            new_tokens = max(1, min(suited.new_tokens, context - 1))
            suited = replace(suited, new_tokens=new_tokens, prompt_tokens=min(suited.prompt_tokens, context))
        return replace(suited, **given)

    def too_long(self, context: int) -> tuple[str, int, int] | None:
        """The field that asks for more than this context holds, what it asks and the most it may; None if none does."""
        for name, asked, most in (
            ("new_tokens", self.new_tokens, context - 1),
            ("prompt_tokens", self.prompt_tokens, context),
        ):
            if asked is not None and asked > most:
                return f"evaluate.speed.{name}", asked, most
        return None
