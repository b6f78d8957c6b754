"""A file of one's own: the text is the file, paragraph by paragraph."""

import pytest
from hypothesis import HealthCheck, given, settings, strategies

from workers.contracts.places import Places
from workers.datasets import dataset, sampling, text
from workers.errors import RecipeError


def test_paragraphs_keep_their_blank_lines(write, places):
    file = write("a.txt", "\nOne\nstill one\n\n \nTwo\r\n\r\nThree")
    documents = text.load("train", places, str(file))
    assert documents.documents == ("\nOne\nstill one\n\n \n", "Two\r\n\r\n", "Three")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(content=strategies.text(alphabet=strategies.sampled_from("ab \n\r\t\u2028é"), min_size=1))
def test_the_text_is_the_file_as_it_stands(tmp_path, content):
    file = tmp_path / "any.txt"
    file.write_bytes(content.encode())
    assert text.load("evaluation", Places(), str(file)).text == content


def test_training_on_what_is_evaluated_leaves_nothing(write, places, tokenizer):
    file = str(write("a.txt", "One.\n\nTwo.\n"))
    train, held = (dataset.load("text", part, places, file) for part in ("train", "evaluation"))
    with pytest.raises(RecipeError, match="no training document is left"):
        sampling.tokens_of(dataset.without(train, [held]), tokenizer)


def test_two_files_that_share_a_paragraph(write, places):
    one, two = (str(write(name, body)) for name, body in (("1", "Shared.\n\nMine.\n"), ("2", "Yours.\n\nShared.\n")))
    kept = dataset.without(text.load("train", places, one), [text.load("evaluation", places, two)])
    assert kept.text == "Mine.\n"


def test_outside_the_allowed_folders_is_refused(tmp_path):
    (tmp_path / "secret").write_text("x")
    (tmp_path / "open").mkdir()
    places = Places(data_roots=[str(tmp_path / "open")])
    with pytest.raises(RecipeError, match="outside the allowed folders"):
        dataset.load("text", "train", places, str(tmp_path / "open" / ".." / "secret"))


def test_a_missing_path_is_named(places):
    with pytest.raises(RecipeError, match="path"):
        text.load("train", places)
