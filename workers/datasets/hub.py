"""Rows of public tables on the Hugging Face hub, for corpora that have no local copy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from workers.contracts.places import Places
from workers.datasets.dataset import FIELD
from workers.errors import RecipeError

_PROBE_SECONDS = 10


@dataclass(frozen=True)
class HubTable:
    """Rows on the Hugging Face hub, at a pinned revision."""

    id: str
    revision: str
    config: str | None = None
    """The table's configuration, where it has several."""
    file: str | None = None
    """One file of the repository in place of a configuration: a bounded download."""


def hub_rows(places: Places, table: HubTable, split: str, layout: str) -> list[dict[str, Any]]:
    """The rows of one split.

    Args:
        places: whether the hub may be asked at all.
        table: what to download.
        split: name of the split; `train[:100]` takes its first rows only.
        layout: the local files that were looked for before, relative to DRESS_DATA_DIR, for the error.

    Raises:
        RecipeError: the hub may not be asked, cannot be reached or does not have it; the message names both places.
    """
    if not places.ask_hub:
        raise RecipeError(FIELD, f"no local copy ({layout} under a folder of DRESS_DATA_DIR)")
    try:
        return _download(table, split)
    # The hub's libraries raise from three unrelated trees, and plain ValueError besides.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise RecipeError(
            FIELD,
            f"no local copy ({layout} under a folder of DRESS_DATA_DIR) and none from the Hugging Face hub "
            f"({table.id}, {reason}); put the files there, or give this machine access to the hub",
        ) from error


def _download(table: HubTable, split: str) -> list[dict[str, Any]]:
    """The one place that asks the hub."""
    import datasets

    require_hub(table.id, table.revision)
    name = split.partition("[")[0]
    rows = datasets.load_dataset(
        table.id,
        table.config,
        revision=table.revision,
        data_files={name: table.file} if table.file else None,
        split=split,
        # The repository states the sizes of all its files, not of the one asked for.
        verification_mode="no_checks" if table.file else None,
    )
    return list(rows)


def require_hub(table: str, revision: str | None = None) -> None:
    """Let pass if the hub answers about a table, or if the library is told to answer from its cache.

    Raises:
        OSError, huggingface_hub.errors.HfHubHTTPError: it does not answer, or knows no such table.
    """
    import huggingface_hub

    if not huggingface_hub.is_offline_mode():
        # Without a network the library alone retries for half a minute, file by file; one question tells as much.
        huggingface_hub.HfApi().dataset_info(table, revision=revision, timeout=_PROBE_SECONDS)
