"""How training sequences are drawn from a corpus."""

from __future__ import annotations

import threading
from collections import OrderedDict

import torch
from transformers import PreTrainedTokenizerBase as Tokenizer

from workers.datasets.dataset import FIELD, Documents
from workers.errors import RecipeError

_DOCUMENTS_A_BATCH = 1000

_TOKENS_KEPT = 16_000_000
"""So many tokens of corpora stay in memory, 64 MB: a search's trials differ in much, but seldom in their text."""

_kept: OrderedDict[tuple[str, str], torch.Tensor] = OrderedDict()
"""int32 [tokens], by the text's digest and the tokenizer's."""

_lock = threading.Lock()


def tokens_of(documents: Documents, tokenizer: Tokenizer, known_as: str | None = None) -> torch.Tensor:
    """The whole corpus as token ids, int32 [tokens].

    Documents are tokenized one by one, with the separator that follows them and without special tokens, and laid end to
    end.

    Args:
        known_as: what tells this tokenizer from every other; with it the corpus is tokenized once a process.

    Raises:
        RecipeError: no document holds text.
    """
    if known_as is None:
        return _tokens(documents, tokenizer)
    key = (documents.sha256, known_as)
    with _lock:
        tokens = _kept.get(key)
        if tokens is None:
            tokens = _kept[key] = _tokens(documents, tokenizer)
        _kept.move_to_end(key)
        while sum(map(len, _kept.values())) > _TOKENS_KEPT:
            _kept.popitem(last=False)
        return tokens


def draw(tokens: torch.Tensor, samples: int, sequence_length: int, seed: int, spare: int = 0) -> torch.Tensor:
    """A seeded choice, in random order, among the disjoint windows that the corpus is cut into.

    The tail is dropped.

    Args:
        tokens: the corpus, see `tokens_of`.
        spare: so many windows more, as far as there are any; the first `samples` are the same with and without.
    Returns:
        Token ids, int64 [samples to samples + spare, sequence_length].

    Raises:
        RecipeError: the corpus gives fewer windows than `samples`.
    """
    windows = len(tokens) // sequence_length
    if windows < samples:
        raise RecipeError(
            "data.samples",
            f"asked for {samples}, the corpus gives {windows} sequences of {sequence_length} tokens; "
            "lower data.samples or data.sequence_length, set data.sampling to overlapping, or choose a larger corpus",
        )
    order = torch.randperm(windows, generator=torch.Generator().manual_seed(seed))
    return tokens[: windows * sequence_length].view(windows, sequence_length)[order[: samples + spare]].long()


def draw_overlapping(
    tokens: torch.Tensor, samples: int, sequence_length: int, seed: int, spare: int = 0
) -> torch.Tensor:
    """As `draw`, but each sequence begins at a token of its own, chosen at random; two may share tokens.

    Returns:
        Token ids, int64 [samples to samples + spare, sequence_length].

    Raises:
        RecipeError: the corpus has fewer places to begin than `samples`.
    """
    starts = max(0, len(tokens) - sequence_length + 1)
    if starts < samples:
        raise RecipeError(
            "data.samples",
            f"asked for {samples}, the corpus has {len(tokens)} tokens, in which {starts} sequences of "
            f"{sequence_length} tokens begin; lower data.samples or data.sequence_length, or choose a larger corpus",
        )
    order = torch.randperm(starts, generator=torch.Generator().manual_seed(seed))
    return torch.stack([tokens[start : start + sequence_length] for start in order[: samples + spare].tolist()]).long()


def _tokens(documents: Documents, tokenizer: Tokenizer) -> torch.Tensor:
    """See `tokens_of`; a tensor a batch, so that Python's own integers never pile up."""
    if not any(document.strip() for document in documents.documents):
        raise RecipeError(
            FIELD,
            "no training document is left once those of the evaluation texts are taken out; "
            "train on another text than the one that is evaluated",
        )
    last = len(documents.documents) - 1
    pieces = [text if index == last else text + documents.separator for index, text in enumerate(documents.documents)]
    parts = []
    for start in range(0, len(pieces), _DOCUMENTS_A_BATCH):
        batch = pieces[start : start + _DOCUMENTS_A_BATCH]
        ids = tokenizer(batch, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        parts.append(torch.tensor([token for row in ids for token in row], dtype=torch.int32))
    return torch.cat(parts)
