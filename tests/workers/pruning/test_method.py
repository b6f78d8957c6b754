"""The menu of methods and the folder agree, and every method keeps the protocol."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from workers.contracts import methods
from workers.pruning import method as protocol
from workers.pruning.method import method_of

FOLDER = Path(protocol.__file__).parent
SETTINGS = {kind.model_fields["kind"].default: kind for kind in get_args(get_args(methods.MethodSettings)[0])}
FIRST_OF = {"ratio": 0.25}


def test_menu_and_folder_agree() -> None:
    files = {file.stem for file in FOLDER.glob("*.py") if "\nMETHOD = " in file.read_text("utf-8")}
    assert files == set(SETTINGS)


@pytest.mark.parametrize("kind", SETTINGS)
def test_a_method_answers_to_its_files_name(kind: str) -> None:
    given = FIRST_OF if "ratio" in SETTINGS[kind].model_fields else {}
    found = method_of(SETTINGS[kind].model_validate(given))
    assert type(found).__module__.startswith("workers.pruning.")
    assert found.leaves_zeros == (kind == "llm_surgeon")
    for name in ("check", "prepare", "regularize", "cut", "zero"):
        assert callable(getattr(found, name))
    told = found.cut_in_words.format(zeroing="<zeroing>", cutting="<cutting>")
    makes_zeros = kind in ("dress", "magnitude", "random", "sleb")
    assert "<cutting>" in told and ("<zeroing>" in told) == makes_zeros, "others have no zeroed model to tell of"
