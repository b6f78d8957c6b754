"""The search: which fields of a recipe may vary, what is sought, by what rule, and how much may be spent."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal, Self

from pydantic import Field, JsonValue, ValidationError, field_validator, model_validator

from workers.contracts.base import Contract, field_path
from workers.contracts.dimension import Dimension
from workers.contracts.fields import FieldPath, holds, with_changes
from workers.contracts.metrics import Constraint, Objective
from workers.contracts.recipe import Recipe
from workers.errors import RecipeError

MOST_TRIALS = 10_000
_COMBINATIONS = 64
"""Points tried before a value is said to make no recipe."""

Point = dict[FieldPath, JsonValue]
"""A value for each field of the space: what one trial changes in the base."""

RATIO = "method.ratio"

_NOT_VARIED = ("resources",)
"""Sections that decide how much of the cluster a search takes, which is booked before its first trial."""


class Asha(Contract):
    """Asynchronous successive halving (Li et al., 2020): at each rung a trial goes on if it is among the best
    1/`reduction` of those of its kind that came so far."""

    kind: Literal["asha"] = "asha"
    reduction: Annotated[int, Field(ge=2, le=16)] = 3
    """η: one of so many goes on, and rungs lie this factor apart."""
    first_fraction: Annotated[float, Field(gt=0, lt=1)] = 1 / 9
    """The first rung, as a fraction of a trial's training steps, regularize and recover together."""

    @property
    def rungs(self) -> tuple[float, ...]:
        """Fractions of the training steps at which trials are compared, rising, all below 1."""
        fractions = [self.first_fraction]
        while (following := fractions[-1] * self.reduction) < 1 - 1e-9:
            fractions.append(following)
        return tuple(fractions)


class Median(Contract):
    """Median stopping (Golovin et al., 2017): a trial ends whose best value so far is worse than the median of the
    others' running means at the same rung."""

    kind: Literal["median"] = "median"
    least_trials: Annotated[int, Field(ge=2, le=1000)] = 3
    """Others of its kind that must have come as far before one is judged."""
    first_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """No trial is judged before this fraction of its training steps."""

    @property
    def rungs(self) -> tuple[float, ...]:
        """Every eighth of the training steps from the first on."""
        return tuple(step / 8 for step in range(1, 8) if step / 8 >= self.first_fraction) or (self.first_fraction,)


class Budget(Contract):
    """What a search may spend; whichever is used up first ends it. Trials under way are then stopped."""

    wall_hours: Annotated[float, Field(gt=0)] | None = None
    """Hours during which attempts of the search run; waiting and pauses do not count."""
    gpu_hours: Annotated[float, Field(gt=0)] | None = None
    """Hours of its trials times the GPUs of each."""


class Search(Contract):
    """A base recipe, the fields that may vary, and what is sought."""

    title: Annotated[str, Field(max_length=200)] = ""
    """What tables and plots call it."""
    base: dict[str, Any]
    """The recipe that every trial starts from. What every trial sets anyway may be left out."""
    space: Annotated[dict[FieldPath, Dimension], Field(min_length=1, max_length=64)]
    """Values by field: `method.strength: loguniform(1e-5, 1e-1)`, `method.ratio: {choice: [0.2, 0.3]}`."""
    objective: Annotated[list[Objective], Field(min_length=1, max_length=4)]
    """What is sought: `{metric: recovered.perplexity.wikitext2, mode: min}`, also written
    `perplexity.wikitext2 min`; of several, the result is a frontier. With `method.ratio` in the space, the parameters
    are an objective too."""
    constraints: Annotated[list[Constraint], Field(max_length=8)] = []
    """What a trial must keep to be the best: `parameters <= 0.75 dense`, `latency.prompt <= 0.8 dense`."""
    algorithm: Literal["grid", "random", "tpe", "nsga2"] = "tpe"
    """How values are chosen. `grid` walks through all combinations, under a scheduler in an order drawn from the seed;
    `random` draws; `tpe` learns from what was found (Optuna's, for one objective or several); `nsga2` breeds (Optuna's
    NSGA-II, meant for several)."""
    scheduler: Annotated[Asha | Median, Field(discriminator="kind")] | None = None
    """Which trials end early, judged by the loss on held-out text with the chosen channels masked (`cut_loss`), and
    compared only with trials of the same ratio, model and text: `asha`, `median`, or settings of one; `none` ends
    none."""
    trials: Annotated[int, Field(ge=1, le=MOST_TRIALS)] | None = None
    """Trials at most; `null` takes the whole grid, or goes on until the budget is used up."""
    budget: Budget = Budget()
    concurrency: Annotated[int, Field(ge=1, le=1024)] = 1
    """Trials under way at once, each with the resources of the base recipe. On a cluster with less room, fewer."""
    first: Annotated[list[Point], Field(max_length=MOST_TRIALS)] = []
    """Points to try before any is chosen; fields left out stay as the base has them."""
    keep: Literal["best", "frontier", "all", "none"] = "best"
    """Whose files are the search's artifacts. Any trial's can be had later by promoting it to a job."""
    most_failed: Annotated[int, Field(ge=1, le=MOST_TRIALS)] | None = None
    """So many failed trials end the search as failed; `null` takes three, or a quarter of `trials` if that is more."""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    """Seed of the choice of values. The recipe's own `seed` is that of each trial."""

    @field_validator("objective", mode="before")
    @classmethod
    def _one_or_many(cls, given: Any) -> Any:
        return given if isinstance(given, list) else [given]

    @field_validator("scheduler", mode="before")
    @classmethod
    def _by_name(cls, given: Any) -> Any:
        return None if given == "none" else {"kind": given} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for field in self.space:
            if any(holds(section, field) for section in _NOT_VARIED):
                raise ValueError(f"space: {field} cannot vary; the cluster's room is booked for the whole search")
            if any(other != field and holds(field, other) for other in self.space):
                raise ValueError(f"space: {field} holds another field of the space; vary one of the two")
        for place, point in enumerate(self.first):
            if unknown := [field for field in point if field not in self.space]:
                raise ValueError(f"first.{place}: {unknown[0]} is not in the space; add it there")
        if self.algorithm == "grid":
            self._grid_is_finite()
        elif self.trials is None and self.budget == Budget():
            raise ValueError("trials: how many? Or give a budget: wall_hours, gpu_hours")
        if self.scheduler is not None and RATIO in self.space and self.space[RATIO].values is None:
            raise ValueError(
                f"scheduler: it compares trials of one ratio only, and {RATIO} is drawn from a range in which none "
                "repeats; use choice or quniform there, or scheduler: none"
            )
        return self

    def _grid_is_finite(self) -> None:
        for field, dimension in self.space.items():
            if dimension.values is None:
                raise ValueError(
                    f"space.{field}: a grid needs values that can be counted; use choice, quniform or randint, "
                    "or another algorithm"
                )
        if self.grid_size > MOST_TRIALS and self.trials is None:
            raise ValueError(f"the grid has {self.grid_size} points; say with `trials` how many of them are tried")

    @property
    def grid_size(self) -> int:
        """Combinations of a finite space."""
        return math.prod(len(dimension.values or ()) for dimension in self.space.values())

    def grid_point(self, place: int) -> Point | None:
        """A combination of a finite space, from 0; the first field changes slowest. None behind the last.

        Under a scheduler the order is drawn from the seed: it judges a trial by those before it, and would let most
        of a grid through that goes from bad to good.
        """
        if place >= min(self.grid_size, MOST_TRIALS):
            return None
        if self.scheduler is not None:
            place = _drawn_order(self.seed, self.grid_size)[place]
        point: Point = {}
        for name, dimension in reversed(self.space.items()):
            values = dimension.values or ()
            place, nth = divmod(place, len(values))
            point[name] = values[nth]
        return {name: point[name] for name in self.space}

    @property
    def trials_at_most(self) -> int:
        """Trials that are begun, if the budget allows."""
        most = self.trials or MOST_TRIALS
        return min(most, self.grid_size + len(self.first)) if self.algorithm == "grid" else most

    @property
    def failures_at_most(self) -> int:
        """See `most_failed`; one fewer does not end the search."""
        return self.most_failed or max(3, self.trials_at_most // 4)

    @property
    def objectives(self) -> list[Objective]:
        """Those asked for, and the parameters where the ratio varies and nobody said otherwise."""
        told = {objective.metric.partition(".")[2] or objective.metric for objective in self.objective}
        told |= {objective.metric for objective in self.objective}
        if RATIO not in self.space or "parameters" in told:
            return self.objective
        return [*self.objective, Objective(metric="parameters", mode="min")]

    def recipe_at(self, point: Mapping[str, Any]) -> Recipe:
        """The recipe of a trial.

        Raises:
            RecipeError: it is none; names the field.
        """
        # As the recipe's own default says, where a field of `recover` varies and the base does not name its kind.
        plain: dict[str, Any] = {"recover": {"kind": "lora"}, **self.base}
        try:
            plain = with_changes(plain, point)
            return Recipe.model_validate(plain)
        except ValidationError as error:
            flaws = [(field_path(plain, flaw["loc"]) or "base", flaw) for flaw in error.errors()]
            # What the point itself says comes first: the base may lack a field that other points set.
            field, flaw = min(flaws, key=lambda told: told[0] not in point)
            raise RecipeError(field, _complaint(flaw)) from error

    def probes(self) -> Iterator[tuple[str, Point]]:
        """Points that try each value of each field once, the others at their first; with the field each is about."""
        start: Point = {field: dimension.probes[0] for field, dimension in self.space.items()}
        for field, dimension in self.space.items():
            for value in dimension.probes:
                yield field, {**start, field: value}

    def around(self, point: Point, field: str) -> Iterator[Point]:
        """The point, then others that have the same value of this field."""
        others = [name for name in self.space if name != field]
        yield point
        for values in itertools.product(*(self.space[name].probes for name in others)):
            yield {**point, **dict(zip(others, values, strict=True))}


def is_search(plain: object) -> bool:
    """Whether a YAML document is a search; else it is meant as a study or a recipe."""
    return isinstance(plain, dict) and "space" in plain


@lru_cache(8)
def _drawn_order(seed: int, size: int) -> list[int]:
    """Places of a grid in random order, as many as a search may try; a grid may be too large to be a range."""
    drawing = random.Random(seed)
    if size <= MOST_TRIALS:
        return drawing.sample(range(size), size)
    drawn: dict[int, None] = {}
    while len(drawn) < MOST_TRIALS:
        drawn[drawing.randrange(size)] = None
    return list(drawn)


def checked(search: Search) -> Recipe:
    """What can be seen to be wrong with a search before it is queued. Returns the recipe of its first point.

    Raises:
        RecipeError: a field of the space is none of the recipe's, or takes no value that is given for it; an objective
            or a constraint that no trial reports; an early stop where nothing trains. Names the field.
    """
    recipes = [_any_recipe(search, field, point) for field, point in search.probes()]
    for place, point in enumerate(search.first):
        try:
            search.recipe_at(point)
        except RecipeError as error:
            raise RecipeError(f"first.{place}", f"{error.field}: {error.detail}") from error
    _require_reports(search, recipes)
    return recipes[0]


def _any_recipe(search: Search, field: str, point: Point) -> Recipe:
    """A recipe with this value of the field, which may go with some values of the others only."""
    told: RecipeError | None = None
    for tried in itertools.islice(search.around(point, field), _COMBINATIONS):
        try:
            return search.recipe_at(tried)
        except RecipeError as error:
            told = told or error
    assert told is not None  # noqa: S101  at least one point was tried
    if holds(field, told.field) or holds(told.field, field):
        raise RecipeError(f"space.{field}", f"{point[field]!r}: {told.detail}") from told
    raise RecipeError(_where(told.field, search), told.detail) from told


def _require_reports(search: Search, recipes: list[Recipe]) -> None:
    for section, wanted in (("objective", search.objective), ("constraints", search.constraints)):
        for place, each in enumerate(wanted):
            if fault := next(filter(None, (each.fault(recipe) for recipe in recipes)), None):
                raise RecipeError(f"{section}.{place}", fault)
    if search.scheduler is not None and not any(_trains(recipe) for recipe in recipes):
        raise RecipeError(
            "scheduler", "no stage of these recipes trains, so nothing is reported on the way; leave it out"
        )


def _trains(recipe: Recipe) -> bool:
    return recipe.method.trains or recipe.recover.kind != "none"


def _where(field: str, search: Search) -> str:
    """A fault of the recipe, told where the user wrote the field."""
    at = next((varied for varied in search.space if holds(varied, field) or holds(field, varied)), None)
    return f"space.{at}" if at else f"base.{field}"


def _complaint(flaw: Any) -> str:
    if flaw["type"] == "extra_forbidden":
        return "the recipe has no such field; see GET /openapi.json or workers/contracts/recipe.py for those it has"
    message = str(flaw["msg"]).removeprefix("Value error, ")
    return message[:1].lower() + message[1:]
