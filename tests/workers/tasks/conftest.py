"""Local rows of the five tasks, and an lm-eval that does not describe the machine each time."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.workers.tasks.official import write_all
from workers.contracts.places import Places


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A folder with the rows of all five tasks in the official form."""
    return write_all(tmp_path)


@pytest.fixture
def places(data_dir: Path) -> Places:
    """Places that know `data_dir` and ask no hub."""
    return Places(data_dirs=[str(data_dir)], ask_hub=False)


@pytest.fixture(autouse=True)
def _no_description_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """lm-eval starts a dozen commands to describe the machine, which take seconds and change no figure."""
    monkeypatch.setattr("torch.utils.collect_env.get_pretty_env_info", lambda: "")
