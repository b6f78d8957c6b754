"""Operations and bytes told by formula, against what torch counts and what is held."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache

from tests.conftest import tiny_llama
from tests.workers.models.variants import VARIANTS
from workers.ideal import held_bytes, outline, shapes_of

IDS = torch.arange(60).view(2, 30)


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_a_prompt_takes_the_operations_that_torch_counts(name: str) -> None:
    """With attention written out, since the counter does not know the kernel of a CPU."""
    model = VARIANTS[name]()
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        model(input_ids=IDS[:1], use_cache=False)
    rotary = sum(
        count for module, kinds in counter.get_flop_counts().items() if "rotary" in module for count in kinds.values()
    )
    assert shapes_of(model).prompt(30).operations == counter.get_total_flops() - rotary


@pytest.mark.parametrize("name", ["llama", "llama-tied", "opt", "phi", "gpt_neox", "qwen3"])
@torch.no_grad()
def test_generation_takes_the_operations_that_torch_counts(name: str) -> None:
    model = VARIANTS[name]()
    model.set_attn_implementation("eager")
    cache, total = DynamicCache(config=model.config), 0
    for step in range(9):
        with FlopCounterMode(display=False) as counter:
            model(input_ids=IDS[:, step : step + 1], past_key_values=cache, use_cache=True)
        kinds = counter.get_flop_counts()
        rotary = sum(count for module in kinds if "rotary" in module for count in kinds[module].values())
        total += counter.get_total_flops() - rotary
    work = shapes_of(model).generation(batch_size=2, new_tokens=9)
    assert work.operations == total
    held = sum(part.nbytes for layer in cache.layers for part in (layer.keys, layer.values))
    cached = work.read_bytes - 9 * shapes_of(model).weight_bytes
    assert cached == held / 9 * (9 * 10 / 2), "the cache is read at each of its lengths"


def test_tables_are_not_read_and_tied_heads_are() -> None:
    plain, tied = tiny_llama(), tiny_llama(tie_word_embeddings=True)
    table_bytes = 4 * 300 * 32
    assert shapes_of(plain).weight_bytes == held_bytes_of_weights(plain) - table_bytes
    assert shapes_of(tied).weight_bytes == held_bytes_of_weights(tied)
    assert shapes_of(plain).matrix_elements == shapes_of(tied).matrix_elements


def held_bytes_of_weights(model: torch.nn.Module) -> int:
    return sum(weight.nbytes for weight in model.parameters())


def test_what_is_held_counts_tied_tensors_once() -> None:
    plain, tied = tiny_llama(), tiny_llama(tie_word_embeddings=True)
    assert held_bytes(plain) - held_bytes(tied) == 4 * 300 * 32
    assert held_bytes(plain) >= held_bytes_of_weights(plain)
    assert held_bytes(tiny_llama().bfloat16()) < 0.6 * held_bytes(plain)


def test_outlines_tell_shapes_apart() -> None:
    assert outline(tiny_llama()) == outline(tiny_llama(tie_word_embeddings=False))
    assert outline(tiny_llama()) != outline(tiny_llama(num_hidden_layers=1))
