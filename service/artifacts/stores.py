"""From an artifacts URL to the store that keeps them. A new kind of store is one more line in `_STORES`."""

from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from service.errors import Misconfigured
from workers.local_store import LocalStore


def open_store(url: str) -> LocalStore:
    """The store at this URL.

    Raises:
        Misconfigured: no store is known for the URL's scheme.
    """
    scheme = urlsplit(url).scheme
    if scheme not in _STORES:
        known = ", ".join(f"{name}://" for name in sorted(_STORES))
        raise Misconfigured(
            f"DRESS_ARTIFACTS_URL={url}: no store is known for {scheme or 'a URL without scheme'}; known are {known}"
        )
    return _STORES[scheme](url)


def _local(url: str) -> LocalStore:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise Misconfigured(f"DRESS_ARTIFACTS_URL={url}: write file:///absolute/folder")
    return LocalStore(Path(unquote(parts.path)))


_STORES: dict[str, Callable[[str], LocalStore]] = {"file": _local}
