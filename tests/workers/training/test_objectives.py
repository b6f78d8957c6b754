"""Losses computed by chunks are those computed at once, gradients included, whatever a model does to its logits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tests.conftest import tiny_llama
from workers.contracts.training import RecoverWithLora
from workers.training.adapters import with_adapters
from workers.training.objectives import _split, distillation, language_modelling

IDS = torch.randint(300, (3, 17), generator=torch.Generator().manual_seed(3))
SIZES = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
OTHERS = {
    "gemma2": {"intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8, "final_logit_softcapping": 0.5},
    "granite": {"intermediate_size": 48, "num_key_value_heads": 2, "logits_scaling": 4.0},
    "phi": {"intermediate_size": 48},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 64},
    "gpt_neox": {"intermediate_size": 48},
    "qwen2": {"intermediate_size": 48, "num_key_value_heads": 2},
}


def model_of(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    config = CONFIG_MAPPING[name](**SIZES, **OTHERS[name], initializer_range=0.2, pad_token_id=0)
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter_name, weight in model.named_parameters():
        if parameter_name.endswith("bias"):
            nn.init.normal_(weight)  # Phi's head has one
    return model


def gradients(loss: Tensor, model: nn.Module) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys() and one
    for name, gradient in one.items():
        assert torch.allclose(gradient, other[name], rtol=1e-3, atol=1e-5 * float(gradient.abs().max()) + 1e-7), name


@pytest.mark.parametrize("chunk", [1, 7, 48, 1000])
def test_chunked_cross_entropy_is_cross_entropy(chunk: int) -> None:
    model = tiny_llama()
    whole, parts = language_modelling(model)(IDS), language_modelling(model, chunk_tokens=chunk)(IDS)
    assert parts.item() == pytest.approx(whole.item(), rel=1e-5)
    same(gradients(whole, model), gradients(parts, model))


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_chunked_distillation_is_distillation(share: float) -> None:
    model, teacher = tiny_llama(tie_word_embeddings=True), tiny_llama(hidden_size=48)
    teacher.requires_grad_(False)
    whole = distillation(model, teacher, share)(IDS)
    parts = distillation(model, teacher, share, chunk_tokens=10)(IDS)
    assert parts.item() == pytest.approx(whole.item(), rel=1e-5)
    same(gradients(whole, model), gradients(parts, model))


@pytest.mark.parametrize("name", OTHERS)
def test_heads_of_every_kind_are_taken_apart(name: str) -> None:
    model = model_of(name)
    assert _split(model) is not None
    whole, parts = language_modelling(model)(IDS), language_modelling(model, chunk_tokens=10)(IDS)
    assert parts.item() == pytest.approx(whole.item(), rel=1e-5)
    same(gradients(whole, model), gradients(parts, model))


def test_adapters_are_trained_by_chunks_too() -> None:
    model = with_adapters(tiny_llama(), RecoverWithLora(rank=2), seed=0)
    assert _split(model) is not None
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight)  # zero at the start, which would leave A without a gradient
    whole, parts = language_modelling(model)(IDS), language_modelling(model, chunk_tokens=10)(IDS)
    same(gradients(whole, model), gradients(parts, model))


class Twisted(type(tiny_llama())):  # type: ignore[misc]
    """A model that does to its logits what nobody foresaw."""

    def forward(self, *args: object, **kwargs: object) -> object:
        out = super().forward(*args, **kwargs)
        out.logits = out.logits * 1.5
        return out


def test_an_unknown_head_falls_back_to_whole_logits() -> None:
    model = Twisted(tiny_llama().config)
    assert _split(model) is None
    model.train()
    whole, parts = language_modelling(model)(IDS), language_modelling(model, chunk_tokens=10)(IDS)
    assert torch.equal(whole, parts)
    assert model.training and _split(tiny_llama().train()) is not None


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation made."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, tuple | list) else (out,):
            if isinstance(one, Tensor):
                self.elements = max(self.elements, one.numel())
        return out


def test_by_chunks_no_tensor_is_as_large_as_the_logits() -> None:
    model = tiny_llama(vocab_size=2000, hidden_size=16)
    sizes = {}
    for chunk in (None, 4):
        with Largest() as seen:
            language_modelling(model, chunk_tokens=chunk)(IDS).backward()
        sizes[chunk] = seen.elements
    assert sizes[None] >= IDS[:, 1:].numel() * 2000
    assert sizes[4] < sizes[None] * 0.7


def test_distillation_of_a_model_from_itself_leaves_the_cross_entropy() -> None:
    model, teacher = tiny_llama(), tiny_llama()
    ids = IDS[:2]
    assert distillation(model, teacher, 1.0)(ids).item() == pytest.approx(0.0, abs=1e-5)
    plain = language_modelling(model)(ids).item()
    assert distillation(model, teacher, 0.0)(ids).item() == pytest.approx(plain, rel=1e-5)
