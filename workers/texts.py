"""The texts that a recipe names, wherever they are: corpora, files, and data sets that were uploaded."""

from __future__ import annotations

import tempfile
from pathlib import Path

from workers.contracts.places import Places
from workers.contracts.recipe import NamedText
from workers.contracts.store import KeepsUploads, Uploads
from workers.datasets import dataset
from workers.datasets.dataset import Documents, Part
from workers.errors import RecipeError


def load(
    text: NamedText, part: Part, places: Places, store: KeepsUploads, field: str, scratch: Path | None = None
) -> Documents:
    """A text's training or evaluation part. An uploaded text is read as a file of one's own: both parts are all of it.

    Args:
        field: path of the recipe's field that names the text, for the error.
        scratch: folder in which an uploaded text lies while it is read; None takes the system's.

    Raises:
        RecipeError: the text cannot be had.
        Transient: the store's bytes cannot be read, or are damaged.
    """
    if text.dataset is None:
        return dataset.load(text.name, part, places, text.path, field)
    own = f"{field.removesuffix('.name')}.dataset"
    with tempfile.TemporaryDirectory(prefix="text-", dir=scratch) as folder:
        file = Path(folder) / "text"
        _fetch(text, store.uploads, file, own)
        return dataset.load("text", part, Places(), str(file), own)


def _fetch(text: NamedText, uploads: Uploads, file: Path, field: str) -> None:
    if text.dataset_sha256 is None:
        raise RecipeError(field, "only the service knows data sets by their ids; give the text's file as `path` here")
    if not uploads.holds(text.dataset_sha256):
        raise RecipeError(
            field,
            f"the bytes of {text.dataset} ({text.dataset_sha256}) are not in this artifact store; "
            "upload the file to the service again, or, without a service, give it as `path`",
        )
    uploads.fetch(text.dataset_sha256, file)
