"""From an artifacts URL to the store that keeps them. A new kind of store is one more line in `_STORES`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from service.errors import Misconfigured, StoreSilent
from workers.errors import Transient
from workers.local_store import LocalStore

if TYPE_CHECKING:
    from workers.object_store.store import ObjectStore

log = logging.getLogger(__name__)


def open_store(url: str) -> LocalStore | ObjectStore:
    """The store at this URL. No store is asked yet: one that does not answer may do so later.

    Raises:
        Misconfigured: the URL names no store that is known, or the environment lacks what it takes to find it.
    """
    scheme = urlsplit(url).scheme
    if scheme not in _STORES:
        known = ", ".join(f"{name}://" for name in sorted(_STORES))
        raise Misconfigured(
            f"DRESS_ARTIFACTS_URL={url}: no store is known for {scheme or 'a URL without scheme'}; known are {known}"
        )
    return _STORES[scheme](url)


@contextmanager
def answering() -> Iterator[None]:
    """Put the store's silence in words for a caller, who need not know where it is.

    Raises:
        StoreSilent: it cannot be asked at present.
    """
    try:
        yield
    except Transient as error:
        log.error("%s", error)
        raise StoreSilent("the artifact store does not answer at present; try again shortly") from error


def _local(url: str) -> LocalStore:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise Misconfigured(f"DRESS_ARTIFACTS_URL={url}: write file:///absolute/folder")
    return LocalStore(Path(unquote(parts.path)))


def _objects(url: str) -> ObjectStore:
    from workers.object_store.store import ObjectStore  # its library is loaded where it is wanted

    parts = urlsplit(url)
    if not parts.netloc or parts.query or parts.fragment or "@" in parts.netloc:
        raise Misconfigured(
            f"DRESS_ARTIFACTS_URL={parts.scheme}://…: write {parts.scheme}://bucket/prefix alone; endpoint and "
            "credentials go into the environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and so on)"
        )
    try:
        return ObjectStore(url)
    except ValueError as error:
        raise Misconfigured(f"DRESS_ARTIFACTS_URL={url}: {error}; set what is missing in the environment") from error


_STORES: dict[str, Callable[[str], LocalStore | ObjectStore]] = {
    "file": _local,
    **dict.fromkeys(("s3", "gs", "az"), _objects),
}
