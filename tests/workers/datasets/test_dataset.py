"""What the corpora share: finding, drawing, holding apart, and failing in clear words."""

import gzip
import hashlib
import time
from pathlib import Path
from typing import get_args

import pytest
import torch

from workers.contracts.places import Places
from workers.contracts.recipe import DATASETS, FamilyName
from workers.datasets import dataset, hub, sampling
from workers.datasets.dataset import Documents
from workers.errors import RecipeError

WORKERS = Path(dataset.__file__).parents[1]


def modules(package: str, *shared: str) -> set[str]:
    return {file.stem for file in (WORKERS / package).glob("*.py")} - {"__init__", *shared}


def test_the_menu_of_corpora_is_the_folder():
    assert set(DATASETS) == modules("datasets", "dataset", "hub", "sampling")


def test_the_menu_of_families_is_the_folder():
    assert set(get_args(FamilyName)) == modules("models", "decoder", "family", "width")


def test_text_and_its_digest():
    documents = Documents(("a", "b"), "\n\n")
    assert documents.text == "a\n\nb"
    assert documents.sha256 == hashlib.sha256(b"a\n\nb").hexdigest()


def test_an_unknown_corpus_is_refused_by_the_field_that_named_it():
    with pytest.raises(RecipeError, match="no corpus 'nope'.*wikitext2") as caught:
        dataset.load("nope", "train", Places(), field="evaluate.perplexity.1.name")
    assert caught.value.field == "evaluate.perplexity.1.name"


def test_errors_carry_the_callers_field(write, places):
    file = write("x.txt", b"good\xff")
    with pytest.raises(RecipeError, match="not UTF-8 at byte 4") as caught:
        dataset.load("text", "evaluation", places, str(file), field="evaluate.perplexity.0.name")
    assert caught.value.field == "evaluate.perplexity.0.path"


def test_a_corpus_without_text_is_an_error(write, places):
    file = write("blank.txt", " \n\n")
    with pytest.raises(RecipeError, match="holds no text"):
        dataset.load("text", "train", places, str(file))


def test_without_drops_what_is_evaluated_however_it_is_spaced():
    train = Documents(("one  fish", "two fish", "", "red\nfish"), "\n\n")
    kept = dataset.without(train, [Documents((" one fish\n", ""), ""), Documents(("red fish",), "")])
    assert kept == Documents(("two fish", ""), "\n\n")


class TestDraw:
    corpus = Documents(tuple(" ".join(f"w{ten + one}" for one in range(10)) for ten in range(0, 200, 10)), "\n")

    def drawn(self, tokenizer, *arguments, **named):
        return sampling.draw(sampling.tokens_of(self.corpus, tokenizer), *arguments, **named)

    def test_windows_are_disjoint_pieces_of_the_joined_text(self, tokenizer):
        whole = tokenizer(self.corpus.text, add_special_tokens=False)["input_ids"]
        windows = {tuple(whole[start : start + 7]) for start in range(0, len(whole) - 6, 7)}
        drawn = self.drawn(tokenizer, samples=len(windows), sequence_length=7, seed=3)
        assert drawn.dtype == torch.int64
        assert drawn.shape == (len(windows), 7)
        assert {tuple(row) for row in drawn.tolist()} == windows

    def test_the_seed_alone_decides(self, tokenizer):
        first, again = (self.drawn(tokenizer, 10, 8, seed=1) for _ in range(2))
        other = self.drawn(tokenizer, 10, 8, seed=2)
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_the_global_generator_is_left_alone(self, tokenizer):
        before = torch.get_rng_state()
        self.drawn(tokenizer, 4, 8, seed=1)
        assert torch.equal(before, torch.get_rng_state())

    def test_batches_do_not_show(self, tokenizer, monkeypatch):
        whole = self.drawn(tokenizer, 10, 8, seed=1)
        monkeypatch.setattr(sampling, "_DOCUMENTS_A_BATCH", 3)
        assert torch.equal(whole, self.drawn(tokenizer, 10, 8, seed=1))

    def test_fewer_windows_than_samples_name_both_counts(self, tokenizer):
        with pytest.raises(RecipeError, match="asked for 1000, the corpus gives 27 sequences of 8 tokens") as caught:
            self.drawn(tokenizer, 1000, 8, seed=0)
        assert caught.value.field == "data.samples"

    def test_nothing_left_to_train_on_says_why(self, tokenizer):
        nothing = dataset.without(self.corpus, [self.corpus])
        with pytest.raises(RecipeError, match="no training document is left.*another text"):
            sampling.tokens_of(nothing, tokenizer)


class TestLocalFiles:
    def test_the_first_pattern_that_matches_wins(self, write, places):
        write("a/part.2.txt", "")
        write("a/part.1.txt", "")
        assert [file.name for file in dataset.local_files(places, "a/whole.txt", "a/part.*")] == [
            "part.1.txt",
            "part.2.txt",
        ]
        write("a/whole.txt", "")
        assert [file.name for file in dataset.local_files(places, "a/whole.txt", "a/part.*")] == ["whole.txt"]

    def test_a_packed_file_stands_in_but_never_doubles(self, write, places):
        write("a/x.txt.gz", gzip.compress(b"packed"))
        assert [dataset.read_text(file) for file in dataset.local_files(places, "a/x.txt")] == ["packed"]
        write("a/x.txt", "plain")
        assert [dataset.read_text(file) for file in dataset.local_files(places, "a/*.txt")] == ["plain"]

    def test_folders_are_searched_in_order(self, tmp_path):
        for name in ("first", "second"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "x.txt").write_text(name)
        places = Places(data_dirs=[str(tmp_path / "absent"), str(tmp_path / "first"), str(tmp_path / "second")])
        assert [file.read_text() for file in dataset.local_files(places, "x.txt")] == ["first"]

    def test_a_torn_gzip_is_a_clear_error(self, write):
        file = write("x.gz", gzip.compress(b"word " * 1000)[:-9])
        with pytest.raises(RecipeError, match="x.gz cannot be read"):
            dataset.read_text(file)

    def test_broken_json_names_the_file(self, write):
        with pytest.raises(RecipeError, match="x.jsonl is no JSON"):
            dataset.read_json_rows(write("x.jsonl", '{"text": "a"}\n{"text"'))
        with pytest.raises(RecipeError, match="y.json holds something else"):
            dataset.read_json_rows(write("y.json", "[1, 2]"))


@pytest.mark.parametrize("name", ["wikitext2", "wikitext2_tokens", "ptb", "alpaca", "c4"])
@pytest.mark.parametrize("part", ["train", "evaluation"])
def test_neither_here_nor_on_the_hub_names_both(name, part, monkeypatch):
    def unreachable(table, split):
        raise OSError("Name or service not known\nand more")

    monkeypatch.setattr(hub, "_download", unreachable)
    with pytest.raises(RecipeError) as caught:
        dataset.load(name, part, Places())
    assert "DRESS_DATA_DIR" in caught.value.detail
    assert f"{name[:3]}" in caught.value.detail
    assert "/" in caught.value.detail.partition("hub (")[2].partition(",")[0], "a hub id"
    assert "and more" not in caught.value.detail


def test_an_unreachable_hub_fails_within_seconds(monkeypatch):
    """For real: no stand-in for the library, only a hub's address where nobody listens."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.hf_api.ENDPOINT", "http://127.0.0.1:9", raising=False)
    table = hub.HubTable("nobody/nothing", "0" * 40)
    began = time.monotonic()
    with pytest.raises(RecipeError, match=r"DRESS_DATA_DIR.*nobody/nothing"):
        hub.hub_rows(Places(), table, "train", "nothing/nothing.txt")
    assert time.monotonic() - began < 30
