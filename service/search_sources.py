"""The folders, files and data sets that a search names: in its base, among the values of its space, in first points."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from service.errors import InvalidRecipe
from service.screening import absolute
from workers.contracts.dimension import Dimension
from workers.contracts.fields import holds, with_change
from workers.contracts.places import Places
from workers.contracts.search import Search
from workers.errors import RecipeError

_DATASET, _DIGEST = "dataset", "dataset_sha256"


@dataclass(frozen=True)
class _Named:
    """A source that a part of a recipe names."""

    field: str
    """Of the recipe, such as `data.path`."""
    told: str
    """Of the search: where it says so."""
    section: dict[str, Any]
    """What holds it, to be written to."""

    @property
    def name(self) -> str:
        return self.field.rpartition(".")[2]

    @property
    def value(self) -> str:
        value: str = self.section[self.name]
        return value


_Write = Callable[[_Named], None]


def anchored(search: Search, places: Places) -> Search:
    """The search with every path absolute. Those of the base that the space replaces are left as they are.

    Raises:
        InvalidRecipe: a path cannot be used; names the search's field.
    """

    def write(found: _Named) -> None:
        try:
            if found.name == "source" and places.model_folder(found.value) is None:
                return  # a model of the hub
            if found.name == "path":
                places.text_file(found.value, found.field)
        except RecipeError as error:
            raise InvalidRecipe(found.told, error.detail) from error
        if found.name in ("source", "path"):
            found.section[found.name] = absolute(found.value)

    return _rewritten(search, write)


def require_whole_texts(search: Search) -> None:
    """Let pass only what can be told by digest too.

    Raises:
        InvalidRecipe: the space varies a data set's id without the section that also holds its digest.
    """
    for field in search.space:
        section, _, name = field.rpartition(".")
        if name in (_DATASET, _DIGEST):
            whole = f"`{section}: {{choice: [{{name: text, dataset: ID}}, ...]}}`"
            raise InvalidRecipe(f"space.{field}", f"a data set goes with its digest; vary the whole section: {whole}")


def datasets_of(search: Search) -> dict[str, str]:
    """The data sets that any of its trials may need, each with a field of the search that names it."""
    found: dict[str, str] = {}

    def note(each: _Named) -> None:
        if each.name == _DATASET:
            found.setdefault(each.value, each.told)

    _rewritten(search, note)
    return found


def with_digests(search: Search, digests: Mapping[str, str]) -> Search:
    """The search, each data set told by its digest too: so each trial's recipe is complete by itself.

    Raises:
        InvalidRecipe: it says another digest; names the search's field.
    """

    def write(found: _Named) -> None:
        if found.name != _DATASET:
            return
        digest, given = digests[found.value], found.section.get(_DIGEST)
        if given not in (None, digest):
            raise InvalidRecipe(found.told, f"{found.value} has the digest {digest}; leave out dataset_sha256")
        found.section[_DIGEST] = digest

    return _rewritten(search, write)


def _rewritten(search: Search, write: _Write) -> Search:
    base = deepcopy(search.base)
    for found in _sources(base, "base"):
        if not any(holds(varied, found.field) for varied in search.space):
            write(found)
    space = {field: _choices(field, dimension, write) for field, dimension in search.space.items()}
    first = [
        {field: _value(field, value, f"first.{place}", write) for field, value in point.items()}
        for place, point in enumerate(search.first)
    ]
    return search.model_copy(update={"base": base, "space": space, "first": first})


def _choices(field: str, dimension: Dimension, write: _Write) -> Dimension:
    if dimension.choice is None:
        return dimension
    choice = [_value(field, value, f"space.{field}", write) for value in dimension.choice]
    return dimension.model_copy(update={"choice": choice})


def _value(field: str, value: Any, told: str, write: _Write) -> Any:
    """The value of a field, which may be a whole section, with its sources rewritten."""
    part: Any = with_change({}, field, value)
    for found in _sources(part, told):
        write(found)
    for name in field.split("."):
        part = part[name]
    return part


def _sources(part: dict[str, Any], told: str) -> Iterator[_Named]:
    """All that a part of a recipe names, as far as it is written as a recipe is."""
    sections = [("model", part.get("model"), ("source",)), ("data", part.get("data"), ("path", _DATASET))]
    evaluate = part.get("evaluate")
    texts = evaluate.get("perplexity") if isinstance(evaluate, dict) else None
    for place, text in enumerate(texts if isinstance(texts, list) else []):
        sections.append((f"evaluate.perplexity.{place}", text, ("path", _DATASET)))
    for field, section, names in sections:
        for name in names:
            if isinstance(section, dict) and isinstance(section.get(name), str):
                whole = f"{field}.{name}"
                yield _Named(whole, f"{told}.{whole}" if told == "base" else told, section)
