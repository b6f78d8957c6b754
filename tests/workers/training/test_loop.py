"""The training loop: it learns, its order follows from the seed, and a run killed anywhere takes the very same path."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from tests.conftest import tiny_llama
from workers.contracts.recipe import Resources
from workers.contracts.training import LoraTrainingSettings, RecoverWithLora, TrainingSettings
from workers.errors import Diverged
from workers.local_store import LocalStore
from workers.training.adapters import with_adapters
from workers.training.checkpoints import TrainingCheckpoints
from workers.training.loop import Step, TrainingState, batch, learning_rate, steps_of, train
from workers.training.objectives import language_modelling
from workers.training.optimizers import BLOCK_ELEMENTS

SEQUENCES = torch.randint(300, (24, 16), generator=torch.Generator().manual_seed(3))
SETTINGS = TrainingSettings(batch_size=4, epochs=2, learning_rate=1e-2)
EARLY = {"step_in_backward": True, "clip_norm": None}
LORA = RecoverWithLora(rank=2, dropout=0.2)
KEY = "ab" * 32


def settings_of(**changes: object) -> TrainingSettings:
    return TrainingSettings.model_validate({**SETTINGS.model_dump(), **changes})


class Pull:
    """A rider that pulls every weight to zero and counts what it was told."""

    def __init__(self) -> None:
        self.before: list[int] = []
        self.after: list[int] = []
        self.names: list[str] = []

    def before_step(self, step: int) -> None:
        self.before.append(step)

    def add_gradient(self, name: str, weight: nn.Parameter) -> None:
        assert weight.grad is not None
        self.names.append(name)
        weight.grad.add_(weight.detach(), alpha=0.01)

    def after_step(self, step: int) -> None:
        self.after.append(step)

    def metrics(self) -> dict[str, float]:
        return {"pulls": float(len(self.names))}


def model_for(settings: TrainingSettings) -> nn.Module:
    model = tiny_llama(attention_dropout=0.1, tie_word_embeddings=True)
    return with_adapters(model, LORA, seed=1) if isinstance(settings, LoraTrainingSettings) else model


def run(settings: TrainingSettings, keeper: TrainingCheckpoints | None = None, rider: Pull | None = None) -> nn.Module:
    model = model_for(settings)
    for _ in steps(model, settings, keeper, rider):
        pass
    return model


def steps(
    model: nn.Module, settings: TrainingSettings, keeper: TrainingCheckpoints | None = None, rider: Pull | None = None
) -> Iterator[Step]:
    objective = language_modelling(model, chunk_tokens=settings.loss_chunk_tokens)
    return train(model, SEQUENCES, settings, objective, seed=5, keeper=keeper, rider=rider)


def keeper_in(folder: Path, every: int = 2) -> TrainingCheckpoints:
    return TrainingCheckpoints(
        LocalStore(folder / "store"), KEY, folder / "workspace", Resources(checkpoint_every_steps=every)
    )


def same_bits(one: nn.Module, other: nn.Module) -> bool:
    weights = zip(one.named_parameters(), other.named_parameters(), strict=True)
    return all(name == same and torch.equal(wanted, given) for (name, wanted), (same, given) in weights)


def distance(one: nn.Module, other: nn.Module) -> float:
    """The largest difference of any weight."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((wanted.float() - given.float()).abs().max()) for wanted, given in pairs)


COMBINATIONS = {
    "adamw": settings_of(),
    "adamw_8bit": settings_of(optimizer="adamw_8bit"),
    "bfloat16-weights": settings_of(weights="bfloat16"),
    "accumulation": settings_of(accumulation_steps=3, schedule="linear"),
    "float16": settings_of(precision="float16"),
    "step_in_backward": settings_of(**EARLY),
    "smallest-memory": settings_of(
        optimizer="adamw_8bit", weights="bfloat16", activation_checkpointing=True, loss_chunk_tokens=40, **EARLY
    ),
    "lora": LoraTrainingSettings(batch_size=4, epochs=2, learning_rate=5e-2),
    "lora-bfloat16": LoraTrainingSettings(
        batch_size=4,
        epochs=2,
        learning_rate=5e-2,
        weights="bfloat16",
        precision="bfloat16",
        activation_checkpointing=True,
    ),
}


TWENTY = ("accumulation", "float16", "smallest-memory", "lora")
"""Between them these have every kind of state; the others are killed five times."""


@pytest.mark.parametrize("name", COMBINATIONS)
def test_killed_at_random_points_a_run_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    """Each run dies at a random step, then goes on from its last checkpoint with another random state around it."""
    settings = COMBINATIONS[name]
    wanted = run(settings)
    total = steps_of(len(SEQUENCES), settings)
    choices = random.Random(name)
    for number in range(20 if name in TWENTY else 5):
        folder = tmp_path / str(number)
        every = choices.randint(1, 4)
        kill = choices.randint(1, total - 1)
        for step in steps(model_for(settings), settings, keeper_in(folder, every)):
            if step.step == kill:
                break
        torch.manual_seed(number)
        keeper = keeper_in(folder, every)
        assert (keeper.found() or 0) == kill // every * every
        assert same_bits(wanted, run(settings, keeper)), f"run {number}"


@pytest.mark.parametrize("settings", COMBINATIONS.values(), ids=COMBINATIONS.keys())
def test_the_loss_falls(settings: TrainingSettings) -> None:
    longer = settings.model_copy(update={"epochs": 3})
    model = model_for(longer)
    losses = [step.metrics["loss"] for step in steps(model, longer)]
    assert len(losses) == steps_of(24, longer) == 18
    assert losses[-1] < losses[0] - 0.2


@pytest.mark.parametrize(
    "changes",
    [{"activation_checkpointing": True}, EARLY, {"activation_checkpointing": True, **EARLY}],
    ids=["activation_checkpointing", "step_in_backward", "both"],
)
def test_what_only_saves_memory_changes_no_bit(changes: dict) -> None:
    plain = settings_of(clip_norm=None)
    assert same_bits(run(plain, rider=Pull()), run(settings_of(**{"clip_norm": None, **changes}), rider=Pull()))


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_accumulated_gradients_are_those_of_the_whole_batch(parts: int) -> None:
    """24 sequences in batches of 5: the last has 4, which do not part evenly."""
    model, objective = None, None
    gradients = []
    for accumulation_steps in (1, parts):
        settings = settings_of(batch_size=5, epochs=1, clip_norm=None, accumulation_steps=accumulation_steps)
        model = tiny_llama()
        objective = language_modelling(model)
        seen: list[torch.Tensor] = []

        class Look(Pull):
            def add_gradient(self, name: str, weight: nn.Parameter) -> None:
                seen.append(weight.grad.clone())  # noqa: B023  used up before the next turn

        for _ in train(model, SEQUENCES, settings, objective, seed=5, rider=Look()):
            pass
        gradients.append(seen)
    first = len(list(tiny_llama().parameters()))
    for whole, accumulated in zip(gradients[0][:first], gradients[1][:first], strict=True):
        assert torch.allclose(whole, accumulated, rtol=1e-4, atol=1e-6)
    assert len(gradients[0]) == len(gradients[1]) == 5 * first


def test_a_ragged_batch_weighs_every_token_alike() -> None:
    """One step over 5 sequences in parts of 2, 2 and 1."""
    weights = []
    for accumulation_steps in (1, 3):
        settings = settings_of(batch_size=5, epochs=1, clip_norm=None, accumulation_steps=accumulation_steps)
        model = tiny_llama()
        (step,) = train(model, SEQUENCES[:5], settings, language_modelling(model), seed=5)
        weights.append((step.metrics["loss"], model))
    assert weights[0][0] == pytest.approx(weights[1][0], rel=1e-6)


@pytest.mark.parametrize("early", [{}, EARLY], ids=["whole", "in-backward"])
def test_a_rider_is_told_of_every_step_and_every_parameter_once(early: dict) -> None:
    rider = Pull()
    settings = settings_of(**early)
    run(settings, rider=rider)
    total = steps_of(24, settings)
    assert rider.before == rider.after == list(range(total))
    names = [name for name, _ in model_for(settings).named_parameters()]
    assert sorted(rider.names) == sorted(names * total)


def test_in_backward_no_gradient_outlives_its_update() -> None:
    model = tiny_llama()
    held: list[int] = []

    class Count(Pull):
        def add_gradient(self, name: str, weight: nn.Parameter) -> None:
            held.append(sum(other.grad is not None for other in model.parameters()))

    for _ in train(model, SEQUENCES, settings_of(**EARLY), language_modelling(model), seed=5, rider=Count()):
        pass
    assert set(held) == {1}
    weight = model.model.embed_tokens.weight
    weight.sum().backward()  # the hooks are gone with the run
    assert weight.grad is not None


@pytest.mark.parametrize("changes", [{}, EARLY, {"weight_decay": 0.1}, {"optimizer": "adamw_8bit"}], ids=str)
def test_what_is_held_stays_and_is_kept_by_checkpoints(changes: dict, tmp_path: Path) -> None:
    """Its gradient has no part in the clipping either: the rest trains as if it were a constant."""
    settings, model = settings_of(**changes), model_for(SETTINGS)
    held = [name for name, _ in model.named_parameters() if "norm" in name]
    before = {name: model.get_parameter(name).detach().clone() for name in held}
    constant = model_for(SETTINGS)
    for name in held:
        constant.get_parameter(name).requires_grad_(False)
    keeper = keeper_in(tmp_path)
    objective = language_modelling(model)
    for _ in train(model, SEQUENCES, settings, objective, seed=5, keeper=keeper, held=held):
        pass
    for _ in steps(constant, settings):
        pass
    assert held and all(torch.equal(model.get_parameter(name), before[name]) for name in held)
    pairs = zip(model.parameters(), constant.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    again = model_for(SETTINGS)
    with torch.no_grad():
        again.get_parameter(held[0]).zero_()
    found = keeper_in(tmp_path)
    assert found.found() is not None
    for _ in train(again, SEQUENCES, settings, language_modelling(again), seed=5, keeper=found, held=held):
        pass
    assert torch.equal(again.get_parameter(held[0]), before[held[0]]), "the checkpoint had it"


def test_an_overflow_under_float16_skips_the_step_and_lowers_the_scale() -> None:
    model = tiny_llama()
    plain, calls = language_modelling(model), iter(range(100))
    before = [weight.clone() for weight in model.parameters()]
    run_ = train(
        model,
        SEQUENCES,
        settings_of(precision="float16"),
        lambda ids: plain(ids) * (1e34 if next(calls) == 0 else 1.0),
        seed=0,
    )
    first = next(run_)
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    second = next(run_)
    assert first.metrics["loss_scale"] == second.metrics["loss_scale"] == 2.0**15
    assert not torch.equal(before[0], model.model.embed_tokens.weight)


def test_checkpoints_hold_8_bit_moments_as_8_bits() -> None:
    sizes = {}
    for name in ("adamw", "adamw_8bit"):

        class Weigh:
            def load(self, state: TrainingState) -> int:
                return 0

            def due(self, step: int, steps: int) -> bool:
                return step == 1

            def save(self, step: int, state: TrainingState) -> None:
                big = state.parameters["model.embed_tokens.weight"]
                sizes[name] = sum(kept.nbytes for kept in state.optimizers.state(big).values()) / big.numel()  # noqa: B023

        model = tiny_llama()
        for _ in train(
            model, SEQUENCES[:8], settings_of(optimizer=name), language_modelling(model), seed=0, keeper=Weigh()
        ):
            pass
    assert sizes["adamw"] == pytest.approx(8, abs=0.01)
    assert sizes["adamw_8bit"] == pytest.approx(2 + 8 / BLOCK_ELEMENTS, abs=0.01)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"step_in_backward": True}, "set clip_norm to null"),
        ({**EARLY, "accumulation_steps": 2}, "set accumulation_steps to 1"),
        ({**EARLY, "precision": "float16"}, "set precision to bfloat16 or float32"),
        ({"weights": "bfloat16", "precision": "float16"}, "precision: float16 does not go with weights: bfloat16"),
        ({"batch_size": 2, "accumulation_steps": 3}, "accumulation_steps: 3 parts of a batch of 2"),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        settings_of(**changes)


def test_schedules_start_low_peak_and_end_as_asked() -> None:
    for schedule, last in (("cosine", 0.1), ("linear", 0.1), ("constant", 1.0)):
        settings = settings_of(schedule=schedule, warmup_fraction=0.2, learning_rate=0.5)
        rates = [learning_rate(step, 50, settings) / 0.5 for step in range(50)]
        assert rates[0] == pytest.approx(0.1)
        assert max(rates) == rates[10] == 1.0
        assert rates[-1] == pytest.approx(last)
        assert rates[10:] == sorted(rates[10:], reverse=True)
    linear = [learning_rate(step, 50, settings_of(schedule="linear", warmup_fraction=0.0)) for step in range(50)]
    falls = [one - other for one, other in zip(linear, linear[1:], strict=False)]
    assert max(falls) == pytest.approx(min(falls))


def test_each_epoch_sees_every_sequence_once_in_an_order_of_its_own() -> None:
    epochs = [torch.cat([batch(SEQUENCES, step, 5, seed=1) for step in range(start, start + 5)]) for start in (0, 5)]
    for epoch in epochs:
        assert sorted(map(tuple, epoch.tolist())) == sorted(map(tuple, SEQUENCES.tolist()))
    assert not torch.equal(*epochs)


def test_a_loss_that_is_no_number_ends_the_run_at_once() -> None:
    model = tiny_llama()
    plain = language_modelling(model)
    calls = iter(range(100))
    steps = train(
        model, SEQUENCES, SETTINGS, lambda ids: plain(ids) * (1.0 if next(calls) < 3 else float("nan")), seed=0
    )
    with pytest.raises(Diverged, match="step 4") as ended:
        list(steps)
    assert ended.value.fault == "recipe"
