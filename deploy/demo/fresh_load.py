"""Loads a downloaded model as anyone would, in a process of its own: measures it and lets it write a sentence.

    python fresh_load.py MODEL_DIR CORPUS SEQUENCE_LENGTH WINDOWS PROMPT

Prints one JSON object: `{parameters, perplexity, sentence}`.
"""

import json
import math
import sys
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils.logging import disable_progress_bar

from workers.contracts.places import Places
from workers.datasets import dataset


@torch.no_grad()
def perplexity(model: torch.nn.Module, tokens: list[int], sequence_length: int, windows: int) -> float:
    """exp of the mean cross-entropy over disjoint windows, as the service defines it, written anew."""
    total = 0.0
    for start in range(0, windows * sequence_length, sequence_length):
        window = torch.tensor([tokens[start : start + sequence_length]])
        total += cross_entropy(model(input_ids=window).logits[0, :-1].float(), window[0, 1:]).item()
    return math.exp(total / windows)


def sentence(model: torch.nn.Module, tokenizer: AutoTokenizer, prompt: str) -> str:
    """The prompt and what the model makes of it, up to the last sentence's end."""
    torch.manual_seed(0)  # greedy decoding makes so small a model repeat itself
    given = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
    how = GenerationConfig(
        max_new_tokens=60,
        do_sample=True,
        temperature=0.7,
        top_k=40,
        repetition_penalty=1.1,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    decoded = tokenizer.decode(model.generate(given, generation_config=how)[0], skip_special_tokens=True)
    written = " ".join(decoded.split())
    end = written.rfind(".", len(prompt))
    return written[: end + 1 if end > 0 else None]


def main(folder: Path, corpus: str, sequence_length: int, windows: int, prompt: str) -> None:
    """Load, measure, write, print."""
    disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, trust_remote_code=False).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    text = dataset.load(corpus, "evaluation", Places()).text
    tokens = tokenizer(text, verbose=False)["input_ids"]
    found = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "perplexity": perplexity(model, tokens, sequence_length, windows),
        "sentence": sentence(model, tokenizer, prompt),
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
