"""Tiny local copies of the corpora in the layout of DRESS_DATA_DIR, and a word tokenizer."""

import os
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from workers.contracts.places import Places


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """An empty folder to put local copies in."""
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


@pytest.fixture
def places(data_dir: Path) -> Places:
    """Places that know `data_dir` only."""
    return Places(data_dirs=[str(data_dir)])


@pytest.fixture
def write(data_dir: Path):
    """Writes a file below `data_dir`."""

    def write(name: str, content: bytes | str) -> Path:
        file = data_dir / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    return write


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any question to the hub fails the test."""

    def refuse(table, split):
        raise AssertionError(f"the hub was asked for {table.id}")

    monkeypatch.setattr("workers.datasets.hub._download", refuse)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch):
    """A hub that answers with the given rows, and notes what it was asked."""
    asked = []

    def answering(*rows):
        def download(table, split):
            asked.append((table, split))
            return list(rows)

        monkeypatch.setattr("workers.datasets.hub._download", download)
        return asked

    return answering


@pytest.fixture
def real_places() -> Places:
    """The real local copies; the test is skipped where there are none."""
    if "DRESS_DATA_DIR" not in os.environ:
        pytest.skip("DRESS_DATA_DIR is not set: no local copies of the real corpora to test with")
    return Places.from_environment()


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word or newline; `w0` to `w999` have the ids 1 to 1000, a newline 1001, all else 0."""
    vocabulary = {"?": 0, **{f"w{index}": index + 1 for index in range(1000)}, "\n": 1001}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Split(" ", "removed")]
    )
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?", bos_token="w999", eos_token="w998")
