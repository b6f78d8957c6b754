"""The standard library's documentation: always there, the same every time, parts apart."""

from pathlib import Path

import pytest

from workers.contracts.places import Places
from workers.datasets import dataset, stdlib_docs


@pytest.fixture(scope="module")
def parts():
    return {part: dataset.load("stdlib_docs", part, Places()) for part in ("train", "evaluation")}


def test_there_is_enough_to_train_on(parts):
    assert len(parts["train"].text) > 1_000_000
    assert len(parts["evaluation"].text) > 50_000


def test_the_parts_share_no_document_and_no_docstring(parts):
    assert dataset.without(parts["train"], [parts["evaluation"]]) == parts["train"]
    modules = [text for texts in parts["evaluation"].documents for text in texts.split("\n\n\n\n")]
    assert not set(parts["train"].documents) & set(modules)


def test_nothing_is_left_to_chance(parts):
    stdlib_docs._docstrings.cache_clear()
    assert stdlib_docs.load("train", Places()) == parts["train"]


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(tmp_path)})
    return tmp_path


def everything() -> list[str]:
    return sorted(stdlib_docs.load("train", Places()).documents + stdlib_docs.load("evaluation", Places()).documents)


def test_docstrings_in_source_order_and_nothing_is_run(library):
    (library / "one.py").write_text(
        '"""Module."""\nraise SystemExit\nclass A:\n  """Class."""\n  def f(self):\n    """Method."""\n'
        'def g():\n  """Function."""\n'
    )
    assert everything() == ["Module.\n\nClass.\n\nMethod.\n\nFunction."]


def test_files_that_cannot_be_parsed_and_tests_are_passed_over(library):
    (library / "broken.py").write_text('"""Doc."""\ndef (')
    (library / "binary.py").write_bytes(b'"""\xff\x00"""')
    for folder in ("test", "site-packages", "idlelib/idle_test"):
        (library / folder).mkdir(parents=True)
        (library / folder / "x.py").write_text('"""Not this."""')
    (library / "good.py").write_text('"""Good."""')
    assert everything() == ["Good."]


def test_a_docstring_that_recurs_stands_once(library):
    for index in range(40):
        (library / f"m{index}.py").write_text(f'"""Module {index}."""\ndef f():\n  """The same."""\n')
    documents = everything()
    assert len(documents) == 40
    assert sum("The same." in document for document in documents) == 1
    assert "The same." in stdlib_docs.load("evaluation", Places()).text


def test_topics_are_read_as_prose(library):
    (library / "pydoc_data").mkdir()
    (library / "pydoc_data" / "topics.py").write_text('topics = {"a": "First.\\n\\nBoth.", "b": "Both.\\n\\nLast."}')
    assert everything() == ["First.\n\nBoth.\n\nLast."]
