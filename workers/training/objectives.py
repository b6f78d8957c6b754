"""What training minimizes: cross-entropy, or its mixture with the divergence to a teacher; whole or chunk by chunk.

Legend: B = batch size, L = sequence length, d = hidden size, V = vocabulary size, n = B·(L-1) predicted tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

Objective = Callable[[Tensor], Tensor]
"""Token ids [B, L] → scalar loss."""

Parts = dict[str, Tensor]
"""Where an objective leaves the terms of its last loss, detached and unweighted: `cross_entropy`, `divergence`."""

_PROBE_TOKENS = 8
_PROBE_TOLERANCE = 1e-3
"""Relative to the largest logit; the arithmetic of a half-width type may differ so much between two orders."""


def language_modelling(model: nn.Module, *, chunk_tokens: int | None = None) -> Objective:
    """Mean cross-entropy of the next token, in nats.

    Args:
        chunk_tokens: compute head and loss over so many tokens at a time (see `chunked`); None computes them at once.
    """
    student = _split(model) if chunk_tokens else None
    if student and chunk_tokens:
        return _chunked(student, None, 0.0, chunk_tokens, {})

    def loss(ids: Tensor) -> Tensor:
        logits = model(input_ids=ids, use_cache=False).logits  # [B, L, V]
        return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())

    return loss


def distillation(
    model: nn.Module, teacher: nn.Module, share: float, *, chunk_tokens: int | None = None, parts: Parts | None = None
) -> Objective:
    """(1 - share)·cross-entropy + share·KL(teacher ‖ model), both means over tokens, in nats.

    Args:
        teacher: of the same vocabulary; its output is a constant.
        chunk_tokens: as in `language_modelling`, for both models.
        parts: takes both terms.
    """
    told: Parts = {} if parts is None else parts
    student, master = (_split(model), _split(teacher)) if chunk_tokens else (None, None)
    if student and master and chunk_tokens:
        return _chunked(student, master, share, chunk_tokens, told)

    def loss(ids: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = F.log_softmax(teacher(input_ids=ids, use_cache=False).logits[:, :-1].flatten(0, 1).float(), -1)
        given = F.log_softmax(model(input_ids=ids, use_cache=False).logits[:, :-1].flatten(0, 1).float(), -1)
        cross_entropy = F.nll_loss(given, ids[:, 1:].flatten())
        divergence = F.kl_div(given, wanted, log_target=True, reduction="batchmean")
        told.update(cross_entropy=cross_entropy.detach(), divergence=divergence.detach())
        return (1 - share) * cross_entropy + share * divergence

    return loss


@dataclass(frozen=True)
class _Split:
    """A causal model in two: what makes the hidden states, and what makes logits of them."""

    backbone: nn.Module
    head: nn.Linear
    divisor: float
    """Granite divides its logits by a number of its config."""
    cap: float | None
    """Gemma 2 bends its logits: cap·tanh(logits / cap)."""

    def hidden(self, ids: Tensor) -> Tensor:
        """Token ids [B, L] → [B, L, d]."""
        return self.backbone(input_ids=ids, use_cache=False).last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """[tokens, d] → [tokens, V]."""
        logits = self.head(hidden)
        if self.divisor != 1.0:
            logits = logits / self.divisor
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)


def _split(model: PreTrainedModel) -> _Split | None:
    """The model in two, or None where the two together would not give the model's own logits.

    Whether they do is tried on a few tokens rather than looked up by class: architectures end in many ways.
    """
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model  # adapters stay in their places
    backbone, head = getattr(causal, "base_model", causal), causal.get_output_embeddings()
    if backbone is causal or head is None:
        return None
    config = causal.config
    divisor = getattr(config, "logits_scaling", None) or 1.0
    split = _Split(backbone, head, float(divisor), getattr(config, "final_logit_softcapping", None))
    return split if _gives_the_same(split, model) else None


@torch.no_grad()
def _gives_the_same(split: _Split, model: nn.Module) -> bool:
    device = next(model.parameters()).device
    ids = torch.arange(_PROBE_TOKENS, device=device)[None] % split.head.weight.shape[0]
    training = model.training
    model.eval()  # dropout would make two passes differ, and draw random numbers
    try:
        wanted = model(input_ids=ids, use_cache=False).logits.float()
        hidden = split.hidden(ids)
        given = split.logits(hidden).float() if isinstance(hidden, Tensor) else None
    except (AttributeError, RuntimeError, TypeError):  # parts that do not fit together
        return False
    finally:
        model.train(training)
    if given is None or given.shape != wanted.shape:
        return False
    return bool((given - wanted).abs().max() <= _PROBE_TOLERANCE * wanted.abs().max())


def _chunked(student: _Split, teacher: _Split | None, share: float, chunk_tokens: int, told: Parts) -> Objective:
    """The same losses, with head, softmax and sum over one chunk of tokens at a time.

    A chunk's logits are dropped after the forward pass and computed again in the backward pass, so that besides the
    hidden states [n, d] never more than a few tensors [chunk, V] exist.
    """

    def part(hidden: Tensor, targets: Tensor, known: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The chunk's share of the loss, summed over its tokens, and its terms, detached."""
        given = F.log_softmax(student.logits(hidden).float(), -1)  # [chunk, V]
        cross_entropy = F.nll_loss(given, targets, reduction="sum")
        if teacher is None or known is None:
            return cross_entropy, cross_entropy.detach(), torch.zeros_like(cross_entropy)
        with torch.no_grad():
            wanted = F.log_softmax(teacher.logits(known).float(), -1)
        divergence = F.kl_div(given, wanted, log_target=True, reduction="sum")
        return (1 - share) * cross_entropy + share * divergence, cross_entropy.detach(), divergence.detach()

    def loss(ids: Tensor) -> Tensor:
        known: list[Tensor] | None = None
        if teacher is not None:
            with torch.no_grad():
                known = list(teacher.hidden(ids)[:, :-1].flatten(0, 1).split(chunk_tokens))
        hidden = student.hidden(ids)[:, :-1].flatten(0, 1).split(chunk_tokens)
        targets = ids[:, 1:].flatten().split(chunk_tokens)
        total, terms = torch.zeros((), device=ids.device), torch.zeros(2, device=ids.device)
        for number, (chunk, wanted) in enumerate(zip(hidden, targets, strict=True)):
            share_of_loss, *its_terms = checkpoint(
                part, chunk, wanted, known[number] if known else None, use_reentrant=False
            )
            total, terms = total + share_of_loss, terms + torch.stack(its_terms)
        tokens = sum(len(chunk) for chunk in targets)
        told.update(cross_entropy=terms[0] / tokens, divergence=terms[1] / tokens)
        return total / tokens

    return loss
