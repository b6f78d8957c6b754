"""A list of methods in place of one: `methods:` makes a recipe a study that has a row for each of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import ConfigDict, Field, JsonValue, TypeAdapter, ValidationError, model_validator

from workers.contracts.base import Contract
from workers.contracts.fields import FieldPath, shown
from workers.contracts.methods import MethodSettings

ALL_TO_RECOVERY = "0:1"
"""The split of a method that trains nothing before the cut."""

_STUDY_FIELDS = ("title", "about", "rows", "grid", "controls")
_METHOD: TypeAdapter[Any] = TypeAdapter(MethodSettings)


class MethodRow(Contract):
    """A method of the list: its settings as under `method`, and what the row is called.

    A method that trains nothing before the cut (all but `dress` with a solver) gives all samples to recovery: its row's
    `data.split` is `0:1`, and it calibrates on the first of them, unless `change` or the study's grid says a split.
    """

    model_config = ConfigDict(extra="allow")

    name: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """What the row is called; made from the settings if it is left out."""
    change: dict[FieldPath, JsonValue] = {}
    """Other fields in which this row differs: `{recover: {kind: none}, data.split: "1:3"}`."""

    @model_validator(mode="after")
    def _has_settings(self) -> MethodRow:
        if not self.settings:
            raise ValueError("a method needs its settings, such as {kind: sleb, ratio: 0.25}")
        if inside := [field for field in self.change if field.partition(".")[0] == "method"]:
            raise ValueError(f"change.{inside[0]}: write it as a setting of the method itself")
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """The method's own fields, as written."""
        return dict(self.__pydantic_extra__ or {})

    @property
    def title(self) -> str:
        """The name, or one made from the settings, such as `dress paper l1, ratio 0.25`."""
        if self.name:
            return self.name
        settings = {"kind": "dress", **self.settings}
        words = " ".join(shown(field, value) for field, value in settings.items() if isinstance(value, str))
        others = [shown(field, value) for field, value in settings.items() if not isinstance(value, str | dict)]
        return ", ".join([words, *others, *(shown(field, value) for field, value in self.change.items())])[:200]


def is_list_of_methods(plain: object) -> bool:
    """Whether a YAML document is a recipe with `methods`."""
    return isinstance(plain, dict) and "methods" in plain and "base" not in plain


def as_study(plain: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe with `methods` as a study's plain values: what is no field of a study is the base recipe."""
    base = {name: value for name, value in plain.items() if name not in (*_STUDY_FIELDS, "methods")}
    kept = {name: plain[name] for name in ("methods", *_STUDY_FIELDS) if name in plain}
    model = base.get("model")
    source = str(model.get("source") or "") if isinstance(model, dict) else ""
    short = source.rstrip("/").rpartition("/")[2]
    told = {"title": f"Methods on {short}"[:200] if short else "Methods", "about": "Methods side by side."}
    return {**told, **kept, "base": base}


def trains_nothing_first(method: object) -> bool:
    """Whether these settings train nothing before the cut; false where they are invalid, which others say better."""
    try:
        return not _METHOD.validate_python(method).trains
    except ValidationError:
        return False
