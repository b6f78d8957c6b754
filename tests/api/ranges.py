"""What an answer to a range must be, whoever has the bytes."""

from __future__ import annotations

from fastapi.testclient import TestClient


def check_range(http: TestClient, path: str, content: bytes, asked: tuple[int, int, str]) -> None:
    """Ask for a part of a file and hold the answer against the slice.

    Args:
        asked: a place, a length, and how the range is written: `a` from place to place, `b` from a place on, `c` so
            many bytes at the end.
    """
    (first, length, form), size = asked, len(content)
    header, wanted = {
        "a": (f"bytes={first}-{first + length}", content[first : first + length + 1]),
        "b": (f"bytes={first}-", content[first:]),
        "c": (f"bytes=-{length}", content[max(size - length, 0) :] if length else b""),
    }[form]
    answer = http.get(path, headers={"Range": header})
    if not wanted:
        assert answer.status_code == 416 and answer.headers["Content-Range"] == f"bytes */{size}"
        assert answer.json()["type"].endswith(":range_not_satisfiable")
        return
    assert (answer.status_code, answer.content) == (206, wanted)
    begin = first if form != "c" else max(size - length, 0)
    assert answer.headers["Content-Range"] == f"bytes {begin}-{begin + len(wanted) - 1}/{size}"
