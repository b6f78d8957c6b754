"""The benchmark: exact counts of tokens, turns in rotated order, paired quotients, memory of each model alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import changed, tiny_llama
from tests.workers.models.variants import VARIANTS
from workers.contracts.events import Progress
from workers.contracts.places import Places
from workers.contracts.recipe import Recipe
from workers.contracts.results import Measurement, Subject
from workers.errors import RecipeError
from workers.local_store import LocalStore
from workers.stages import benchmark as stage
from workers.workbench import Workbench

SMALL = {"batch_size": 2, "new_tokens": 5, "rounds": 4, "prompt_tokens": 12, "prompt_rounds": 3}
Benches = Callable[..., Workbench]


@pytest.fixture
def benches(recipe: Recipe, tmp_path: Path) -> Benches:
    """Makes workbenches of the recipe with these settings of `evaluate.speed`."""

    def make(speed: object = SMALL, **changes: object) -> Workbench:
        workspace = tmp_path / "workspace"
        workspace.mkdir(exist_ok=True)
        wanted = changed(recipe, evaluate__speed=speed, **changes)
        return Workbench(wanted, LocalStore(tmp_path / "store"), workspace, Places())

    return make


@pytest.fixture
def narrower(tmp_path: Path) -> Path:
    """The tiny Llama at half its width, heads as wide as before; half of the matrices, all of the cache."""
    folder = tmp_path / "narrower"
    tiny_llama(hidden_size=16, head_dim=8).save_pretrained(folder)
    return folder


def run(bench: Workbench, folders: dict[Subject, Path]) -> tuple[dict[Subject, Measurement], list[Progress]]:
    """What the stage measured, and its events."""
    steps, events = stage.benchmark(bench, folders), []
    while True:
        try:
            events.append(next(steps))
        except StopIteration as done:
            return done.value.measurements, events


def test_every_figure_of_every_model_is_told(benches: Benches, checkpoint: Path, narrower: Path) -> None:
    measured, events = run(benches(), {"dense": checkpoint, "pruned": narrower, "recovered": narrower})
    assert [event.step for event in events] == [1, 2, 3, 4, 5, 6, 7] and events[-1].steps == 7
    dense, pruned, recovered = (measured[name].speed for name in ("dense", "pruned", "recovered"))
    assert dense.generation.ratio is None and dense.prompt.ideal_ratio is None, "nothing is compared with itself"
    assert (dense.same_shapes_as, pruned.same_shapes_as, recovered.same_shapes_as) == ([], ["recovered"], ["pruned"])
    for speed in (dense, pruned, recovered):
        assert speed.slowest <= speed.generation_tokens_per_second <= speed.fastest
        assert speed.generation_tokens_per_second == pytest.approx(2 * 5 / speed.generation.seconds)
        assert speed.prompt_tokens_per_second == pytest.approx(12 / speed.prompt.seconds)
        assert (speed.batch_size, speed.new_tokens, speed.rounds, speed.prompt_tokens) == (2, 5, 4, 12)
        assert (speed.generation.rounds, speed.prompt.rounds, speed.arithmetic) == (4, 3, "float32")
        assert speed.attention == "sdpa" and speed.machine and speed.device == "cpu"
    assert pruned.generation.ratio.rounds == 4 and pruned.prompt.ratio.rounds == 3
    assert 1 < pruned.generation.ideal_ratio < 2, "the cache did not shrink"
    assert pruned.generation.read_bytes < dense.generation.read_bytes
    assert pruned.prompt.ideal_ratio == dense.prompt.operations / pruned.prompt.operations
    assert pruned.generation.ideal_ratio == recovered.generation.ideal_ratio


def test_memory_is_of_one_model_alone(benches: Benches, checkpoint: Path, narrower: Path) -> None:
    bench = benches()
    together, _ = run(bench, {"dense": checkpoint, "pruned": narrower, "recovered": narrower})
    alone, _ = run(bench, {"dense": checkpoint})
    assert together["dense"].speed.prompt.peak_bytes == alone["dense"].speed.prompt.peak_bytes
    parameters = sum(weight.numel() for weight in tiny_llama().parameters())
    logits_bytes = 4 * 12 * 300
    assert alone["dense"].speed.prompt.peak_bytes > 4 * parameters + logits_bytes
    assert together["pruned"].speed.generation.peak_bytes < alone["dense"].speed.generation.peak_bytes


def test_longer_work_holds_more(benches: Benches, checkpoint: Path) -> None:
    peaks = []
    for new_tokens, prompt_tokens in ((4, 8), (40, 60)):
        asked = {**SMALL, "new_tokens": new_tokens, "prompt_tokens": prompt_tokens, "batch_size": 16}
        speed = run(benches(asked), {"dense": checkpoint})[0]["dense"].speed
        peaks.append((speed.generation.peak_bytes, speed.prompt.peak_bytes))
    cache_bytes = 4 * 2 * 2 * 2 * 8 * 16 * (40 - 4)  # e · (keys, values) · layers · heads · channels · batch · tokens
    assert peaks[1][0] - peaks[0][0] >= cache_bytes
    assert peaks[1][1] - peaks[0][1] >= 4 * 300 * (60 - 8), "the logits of the longer prompt"


def test_models_take_turns_in_rotated_order(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(stage.time, "perf_counter", lambda: float(next(clock)))
    seen: list[str] = []
    names = ("dense", "pruned", "recovered")
    for number in range(3):
        seconds = stage._round(dict(zip(names, names, strict=True)), seen.append, torch.device("cpu"), number)
        assert set(seconds) == set(names)
    assert seen == [*names, "pruned", "recovered", "dense", "recovered", "dense", "pruned"]


@given(
    st.lists(st.floats(0.5, 2.0), min_size=1, max_size=30),
    st.floats(1.1, 4.0),
    st.lists(st.floats(0.1, 10.0), min_size=30, max_size=30),
)
def test_drift_that_hits_a_whole_round_cancels(seconds: list[float], factor: float, drift: list[float]) -> None:
    dense = [each * slower for each, slower in zip(seconds, drift, strict=False)]
    own = [each / factor for each in dense]
    ratio = stage.times_as_fast(dense, own)
    assert ratio.rounds == len(seconds)
    assert ratio.p10 == pytest.approx(factor) and ratio.p90 == pytest.approx(factor)
    assert ratio.median == pytest.approx(factor)


@given(st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)), min_size=1, max_size=30))
def test_the_spread_holds_the_median(pairs: list[tuple[float, float]]) -> None:
    dense, own = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    ratio = stage.times_as_fast(dense, own)
    quotients = [one / other for one, other in pairs]
    rising = [min(quotients), ratio.p10, ratio.median, ratio.p90, max(quotients)]
    assert rising == pytest.approx(sorted(rising), rel=1e-12)


def test_the_prompts_follow_from_the_seed(benches: Benches, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def prompts(**changes: object) -> list[list[int]]:
        seen: list[list[int]] = []
        monkeypatch.setattr(stage, "_read", lambda model, prompt: seen.append(prompt.tolist()))
        run(benches(**changes), {"dense": checkpoint})
        return seen

    first = prompts()
    assert all(prompt == first[0] for prompt in first) and prompts() == first
    assert prompts(seed=1)[0] != first[0]


@pytest.mark.parametrize("name", ["llama", "opt", "gpt_neox", "gemma2", "phi3-long-context", "mistral"])
def test_a_broken_model_that_wants_to_stop_generates_the_count(name: str, tmp_path: Path) -> None:
    """Without finite weights greedy choice takes token 0: here a stop token, and there is none to pad with."""
    model = VARIANTS[name]()
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(float("nan"))
    model.config.eos_token_id = model.generation_config.eos_token_id = 0
    model.generation_config.num_beams = 3
    stage.as_asked(model)
    made = []
    generate = type(model).generate
    model.generate = lambda *given, **named: made.append(generate(model, *given, **named)) or made[-1]
    stage._generate(model, torch.zeros((2, 1), dtype=torch.long), 7)
    assert made[0].shape == (2, 8)


def test_sizes_are_cut_to_the_context_unless_the_recipe_says_them(benches: Benches, checkpoint: Path) -> None:
    speed = run(benches({"rounds": 1, "prompt_rounds": 1, "batch_size": 1}), {"dense": checkpoint})[0]["dense"].speed
    assert (speed.new_tokens, speed.prompt_tokens) == (32, 64), "the tiny Llama's context holds 64"
    with pytest.raises(RecipeError, match="64 tokens do not fit the model's context of 64; at most 63 do") as refused:
        benches({"new_tokens": 64})
    assert refused.value.field == "evaluate.speed.new_tokens"
    with pytest.raises(RecipeError) as refused:
        benches({"prompt_tokens": 65})
    assert refused.value.field == "evaluate.speed.prompt_tokens"


def test_deterministic_kernels_come_back(benches: Benches, checkpoint: Path) -> None:
    bench = benches({**SMALL, "rounds": 1})
    seen = []
    steps = stage.benchmark(bench, {"dense": checkpoint})
    for _ in range(4):
        next(steps)
        seen.append(torch.are_deterministic_algorithms_enabled())
    assert all(seen) and torch.is_grad_enabled()
