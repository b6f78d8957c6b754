"""Where recipes may point: folders that model and text paths must lie under, and local copies of named corpora."""

from __future__ import annotations

import os
from pathlib import Path

from workers.contracts.base import Contract
from workers.errors import RecipeError


class Places(Contract):
    """The folders that one deployment opens to recipes. `None` roots confine nothing (a person's own process)."""

    model_roots: list[str] | None = None
    """Folders that `model.source` may name a path under."""
    data_roots: list[str] | None = None
    """Folders that a `text` corpus may be read from."""
    data_dirs: list[str] = []
    """Folders with local copies of the named corpora, searched in order before the hub is asked."""
    ask_hub: bool = True
    """Whether the Hugging Face hub is asked for corpora of which no local copy is there."""

    @classmethod
    def from_environment(cls) -> Places:
        """The places that DRESS_MODEL_ROOTS, DRESS_DATA_ROOTS and DRESS_DATA_DIR name (colon-separated)."""
        return cls(
            model_roots=_folders("DRESS_MODEL_ROOTS"),
            data_roots=_folders("DRESS_DATA_ROOTS"),
            data_dirs=_folders("DRESS_DATA_DIR") or [],
        )

    def model_folder(self, source: str, revision: str | None = None) -> Path | None:
        """The checkpoint folder that `model.source` names, or None if it is a hub id.

        Raises:
            RecipeError: the path is missing, leads out of the roots, or holds no safetensors checkpoint.
        """
        if not _is_path(source):
            return None
        if revision is not None:
            raise RecipeError("model.revision", "only a model of the hub has revisions; leave it out for a folder")
        folder = _confined("model.source", source, self.model_roots, "DRESS_MODEL_ROOTS")
        if not os.path.isdir(folder):
            raise RecipeError("model.source", f"there is no folder {source}; name a checkpoint folder or a hub id")
        names = _names_in(folder)
        for name in names:  # a link in the folder must not bring in what lies elsewhere
            _confined("model.source", str(folder / name), self.model_roots, "DRESS_MODEL_ROOTS")
        if "config.json" not in names:
            raise RecipeError("model.source", f"{source} has no config.json; name a Hugging Face checkpoint folder")
        if not any(name.endswith(".safetensors") for name in names):
            raise RecipeError(
                "model.source", f"{source} has no *.safetensors; convert the weights, nothing else is read"
            )
        return folder

    def text_file(self, path: str, field: str = "data.path") -> Path:
        """The file that a `text` corpus names.

        Raises:
            RecipeError: the file is missing or outside the roots.
        """
        file = _confined(field, path, self.data_roots, "DRESS_DATA_ROOTS")
        if not os.path.isfile(file):
            raise RecipeError(field, f"there is no file {path}")
        return file


def _is_path(source: str) -> bool:
    """A hub id is `name` or `owner/name`; what starts at a root or a dot, goes deeper or exists is a path."""
    return source.startswith(("/", ".", "~")) or source.count("/") > 1 or os.path.exists(source)


def _confined(field: str, text: str, roots: list[str] | None, variable: str) -> Path:
    """The real path (symbolic links followed), which must lie under a root."""
    try:
        path = Path(os.path.expanduser(text)).resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise RecipeError(field, f"{text[:80]!r} is no path that can be followed: {error}") from error
    if roots is None or any(path.is_relative_to(Path(root).expanduser().resolve()) for root in roots):
        return path
    raise RecipeError(field, f"{text} lies outside the allowed folders; add its folder to {variable}")


def _names_in(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise RecipeError("model.source", f"{folder} cannot be read: {error}") from error


def _folders(variable: str) -> list[str] | None:
    listed = [part for part in os.environ.get(variable, "").split(":") if part]
    return listed or None
