"""Trains a small Llama on Python's own documentation, once: the model that the demo prunes.

Prints the checkpoint folder on stdout, everything else on stderr. The folder lies under `.cache/demo`, named by a
digest of the settings, of this Python and of the text; a second run only prints it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from workers.contracts.places import Places
from workers.datasets import dataset

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "demo"


@dataclass(frozen=True)
class Settings:
    """What the small Llama is and how it trains; part of the cache key."""

    hidden_size: int = 192
    ffn_size: int = 512
    layers: int = 5
    heads: int = 8
    vocabulary: int = 2048
    context_tokens: int = 256
    steps: int = 900
    batch_size: int = 4
    peak_learning_rate: float = 3e-3
    weight_decay: float = 0.1
    seed: int = 0


SHORT = Settings(hidden_size=128, ffn_size=352, layers=4, vocabulary=1024, context_tokens=128, steps=320, batch_size=8)
"""Good enough to show the way, in well under a minute."""

console = Console(stderr=True)


def prepared(settings: Settings) -> Path:
    """The checkpoint folder, trained now unless it is there already."""
    train = dataset.load("stdlib_docs", "train", Places())
    key = json.dumps([asdict(settings), platform.python_version(), train.sha256], sort_keys=True)
    folder = CACHE / f"small-llama-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    if folder.is_dir():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=CACHE, prefix="unfinished-"))
    try:
        _train(settings, train, scratch)
        scratch.chmod(0o755)
        os.replace(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _train(settings: Settings, train: dataset.Documents, folder: Path) -> None:
    torch.manual_seed(settings.seed)
    started = time.monotonic()
    tokenizer = _tokenizer(settings, train)
    tokens = _tokens(tokenizer, train)
    model = _model(settings, tokenizer)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    console.print(f"Training a Llama of {parameters:,} parameters on {len(tokens):,} tokens of Python's documentation")
    _fit(model, tokens, settings)
    held_out = _tokens(tokenizer, dataset.load("stdlib_docs", "evaluation", Places()))
    loss = _held_out_loss(model, held_out, settings.context_tokens)
    seconds = time.monotonic() - started
    console.print(f"Held-out perplexity {math.exp(loss):.1f} (loss {loss:.3f}) after {seconds:.0f} s")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _tokenizer(settings: Settings, train: dataset.Documents) -> PreTrainedTokenizerFast:
    """A byte-level BPE of the same text; it adds no special token by itself."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocabulary,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(train.documents, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        model_max_length=settings.context_tokens,
    )


def _tokens(tokenizer: PreTrainedTokenizerFast, documents: dataset.Documents) -> torch.Tensor:
    """Token ids of the whole text, each document closed by the end token, int64 [tokens]."""
    rows = tokenizer(list(documents.documents), add_special_tokens=False, verbose=False)["input_ids"]
    return torch.tensor([token for row in rows for token in (*row, tokenizer.eos_token_id)])


def _model(settings: Settings, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden_size,
        intermediate_size=settings.ffn_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        max_position_embeddings=settings.context_tokens,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    return LlamaForCausalLM(config)


def _fit(model: LlamaForCausalLM, tokens: torch.Tensor, settings: Settings) -> None:
    """AdamW over random windows, linear warm-up over a twentieth of the steps, cosine decay to a twentieth."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.peak_learning_rate, betas=(0.9, 0.95), weight_decay=settings.weight_decay
    )
    warmup_steps = max(1, settings.steps // 20)

    def rate(step: int) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * step / settings.steps))
        return min((step + 1) / warmup_steps, 0.05 + 0.95 * cosine)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    offsets = torch.arange(settings.context_tokens)
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]:.3f}"))
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("training", total=settings.steps, loss=math.nan)
        for step in range(1, settings.steps + 1):
            starts = torch.randint(len(tokens) - settings.context_tokens, (settings.batch_size, 1))
            loss = _loss(model, tokens[starts + offsets])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            progress.update(task, advance=1, loss=loss.item())
            if not console.is_terminal and step % (settings.steps // 10) == 0:  # a log shows no bar
                console.print(f"  step {step} of {settings.steps}, loss {loss.item():.3f}", highlight=False)


def _loss(model: LlamaForCausalLM, windows: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of predicting positions 1..L-1 of int64 [windows, L]."""
    logits = model(input_ids=windows, use_cache=False).logits[:, :-1]
    return cross_entropy(logits.flatten(0, 1).float(), windows[:, 1:].flatten())


@torch.no_grad()
def _held_out_loss(model: LlamaForCausalLM, tokens: torch.Tensor, context_tokens: int) -> float:
    count = min(128, len(tokens) // context_tokens)
    windows = tokens[: count * context_tokens].view(count, context_tokens)
    return sum(_loss(model, batch).item() * len(batch) for batch in windows.split(16)) / count


def main() -> None:
    """Parse the one flag, train if need be, print the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="a smaller model, in less than a minute")
    settings = SHORT if parser.parse_args().short else Settings()
    sys.stdout.write(f"{prepared(settings)}\n")


if __name__ == "__main__":
    main()
