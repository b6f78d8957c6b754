"""The licence of a checkpoint: which files carry it, and how the card of a model made from it names it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

LICENCE_FILES = ["LICENSE*", "LICENCE*", "License*", "license*", "NOTICE*", "Notice*"]
"""Files that travel with everything made from a model."""

_FRONT_MATTER = re.compile(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*$", re.DOTALL | re.MULTILINE)
_FIELDS = ("license", "license_name", "license_link")
_MOST_BYTES = 1_000_000
_MOST_CHARACTERS = 500


def licence_of(folder: Path) -> dict[str, Any]:
    """The fields of a model card's front matter that name the licence of the model in this folder.

    Taken from the folder's own card (README.md); else `other`, if there is a licence file; else `unknown`.
    """
    stated = {name: value for name, value in _front_matter(folder / "README.md").items() if name in _FIELDS}
    stated = {name: value for name, value in stated.items() if _is_plain(value)}
    if "license" in stated:
        return stated
    files = sorted(file.name for pattern in LICENCE_FILES[:4] for file in folder.glob(pattern) if file.is_file())
    return (
        {"license": "other", "license_name": "see-file", "license_link": files[0]} if files else {"license": "unknown"}
    )


def _front_matter(card: Path) -> dict[str, Any]:
    """The plain values between the card's first two rules; none where it has none that can be read."""
    try:
        with card.open(encoding="utf-8") as stream:
            found = _FRONT_MATTER.match(stream.read(_MOST_BYTES))
        values = yaml.safe_load(found.group(1)) if found else None
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return values if isinstance(values, dict) else {}


def _is_plain(value: Any) -> bool:
    """A short text, or a list of them."""
    texts = value if isinstance(value, list) else [value]
    return bool(texts) and all(isinstance(text, str) and 0 < len(text) <= _MOST_CHARACTERS for text in texts)
