"""Conditional requests (RFC 9110): does the caller already have this version?"""

import re

_TAGS = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')


def strong_etag(version: str | int) -> str:
    """The ETag of a version: equal tags mean equal bytes."""
    return f'"{version}"'


def already_has(if_none_match: str | None, etag: str) -> bool:
    """Whether `If-None-Match` names this ETag, compared weakly as RFC 9110 wants it here."""
    if if_none_match is None:
        return False
    if if_none_match.strip() == "*":
        return True
    return any(tag.removeprefix("W/") == etag for tag in _TAGS.findall(if_none_match))
