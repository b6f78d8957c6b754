"""The licence of a model made from another is the other's, as its folder states it, and never made up."""

from __future__ import annotations

from pathlib import Path

import pytest

from workers.licence import licence_of


@pytest.mark.parametrize(
    ("card", "fields"),
    [
        ("---\nlicense: apache-2.0\ntags: [a]\n---\n# Model\n", {"license": "apache-2.0"}),
        ("---\r\nlicense: mit\r\n---\r\n", {"license": "mit"}),
        (
            "---\nlicense: other\nlicense_name: opt-175b\nlicense_link: LICENSE.md\n---\n",
            {"license": "other", "license_name": "opt-175b", "license_link": "LICENSE.md"},
        ),
        ("---\nlicense: [mit, apache-2.0]\n---\n", {"license": ["mit", "apache-2.0"]}),
        ("---\nlicense: {a: b}\n---\n", {"license": "unknown"}),
        ("---\nlicense: 7\n---\n", {"license": "unknown"}),
        ("---\nlicense: [\n---\n", {"license": "unknown"}),
        ("---\nlicense: !!python/object/apply:os.getcwd []\n---\n", {"license": "unknown"}),
        ("---\nlicense_link: nowhere\n---\n", {"license": "unknown"}),
        ("# license: mit\n", {"license": "unknown"}),
        ("---\n- license\n---\n", {"license": "unknown"}),
        (None, {"license": "unknown"}),
    ],
)
def test_the_card_is_read(card: str | None, fields: dict[str, object], tmp_path: Path) -> None:
    if card is not None:
        (tmp_path / "README.md").write_bytes(card.encode())
    assert licence_of(tmp_path) == fields


def test_a_licence_file_counts_where_the_card_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "NOTICE").write_text("not a licence")
    assert licence_of(tmp_path) == {"license": "unknown"}
    (tmp_path / "LICENSE.md").write_text("All yours.")
    assert licence_of(tmp_path) == {"license": "other", "license_name": "see-file", "license_link": "LICENSE.md"}


def test_a_card_that_is_no_text_is_no_card(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_bytes(b"---\nlicense: \xff\n---\n")
    assert licence_of(tmp_path) == {"license": "unknown"}
