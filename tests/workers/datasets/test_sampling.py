"""Overlapping sequences: any number from a small corpus, each a piece of it, none drawn twice."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import sentences
from workers.datasets import sampling
from workers.datasets.dataset import Documents
from workers.errors import RecipeError

CORPUS = Documents(tuple(sentences(3, seed=5).split("\n\n")), "\n\n")


class Letters:
    """A tokenizer with a token a byte."""

    def __call__(self, texts: list[str], **_: object) -> dict[str, list[list[int]]]:
        return {"input_ids": [list(text.encode()) for text in texts]}


TOKENS = sampling.tokens_of(CORPUS, Letters())


@given(samples=st.integers(1, 60), length=st.integers(8, 64), seed=st.integers(0, 2**32))
def test_each_is_a_piece_of_the_corpus_and_none_comes_twice(samples: int, length: int, seed: int) -> None:
    drawn = sampling.draw_overlapping(TOKENS, samples, length, seed)
    assert drawn.shape == (samples, length) and drawn.dtype == torch.int64
    text = CORPUS.text.encode()
    assert all(bytes(row) in text for row in drawn.tolist())
    assert torch.equal(drawn, sampling.draw_overlapping(TOKENS, samples, length, seed))


def test_more_than_the_corpus_cut_into_pieces_would_give() -> None:
    tokens = len(CORPUS.text.encode())
    most = tokens - 32 + 1
    drawn = sampling.draw_overlapping(TOKENS, most, 32, seed=0)
    text = CORPUS.text.encode()
    assert sorted(map(bytes, drawn.tolist())) == sorted(text[start : start + 32] for start in range(most))
    with pytest.raises(RecipeError, match=f"data.samples: asked for {most + 1}, the corpus has {tokens} tokens"):
        sampling.draw_overlapping(TOKENS, most + 1, 32, seed=0)
    with pytest.raises(RecipeError, match="set data.sampling to overlapping"):
        sampling.draw(TOKENS, most, 32, seed=0)


@pytest.mark.parametrize("draw", [sampling.draw, sampling.draw_overlapping])
def test_spare_sequences_are_others_and_change_none_of_the_rest(draw: Callable[..., torch.Tensor]) -> None:
    tokens = len(CORPUS.text.encode())
    most = tokens // 16 if draw is sampling.draw else tokens - 16 + 1
    alone = draw(TOKENS, 5, 16, seed=3)
    along = draw(TOKENS, 5, 16, seed=3, spare=4)
    assert torch.equal(along[:5], alone) and len(along) == 9
    assert len({tuple(row) for row in along.tolist()}) == 9
    assert torch.equal(along, draw(TOKENS, 9, 16, seed=3)), "the same permutation goes on"
    assert len(draw(TOKENS, most - 2, 16, seed=3, spare=4)) == most, "as far as there are any"
    assert len(draw(TOKENS, most, 16, seed=3, spare=4)) == most


def test_a_corpus_without_text_is_named() -> None:
    with pytest.raises(RecipeError, match="no training document is left"):
        sampling.tokens_of(Documents((" ",), "\n"), Letters())


def test_a_corpus_is_tokenized_once_for_a_known_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "_kept", type(sampling._kept)())
    asked: list[str] = []

    class Counted(Letters):
        def __call__(self, texts: list[str], **_: object) -> dict[str, list[list[int]]]:
            asked.extend(texts)
            return super().__call__(texts)

    def tokens(documents: Documents = CORPUS, known_as: str | None = "bytes") -> torch.Tensor:
        return sampling.tokens_of(documents, Counted(), known_as)

    first = tokens()
    once = len(asked)
    assert torch.equal(first, TOKENS) and torch.equal(tokens(), first)
    assert len(asked) == once
    tokens(known_as="others")
    tokens(known_as=None)
    assert len(asked) == 3 * once
    monkeypatch.setattr(sampling, "_TOKENS_KEPT", 5 * len(TOKENS) // 2)
    for number in range(3):
        tokens(Documents((*CORPUS.documents, str(number)), "\n"))
    assert len(sampling._kept) == 2, "memory stays small"
    monkeypatch.setattr(sampling, "_TOKENS_KEPT", len(TOKENS) // 2)
    assert torch.equal(tokens(), TOKENS) and not sampling._kept, "one that is too large is not kept"
