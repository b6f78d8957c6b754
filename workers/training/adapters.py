"""Low-rank adapters (peft) on a model's linear layers: which layers, and whether a recipe's targets name any."""

from __future__ import annotations

import logging

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from workers.contracts.training import RecoverWithLora
from workers.errors import RecipeError

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # peft imports it; it then tells which kernels it lacks


def check_targets(settings: RecoverWithLora, config: PreTrainedConfig) -> None:
    """Refuse targets that name no linear layer of a model of this config; no weight is loaded.

    Raises:
        RecipeError: an entry of `recover.targets` matches nothing, or only the head.
    """
    if settings.targets == "all-linear":
        return
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    _require_matches(settings.targets, model)


def with_adapters(model: PreTrainedModel, settings: RecoverWithLora, seed: int) -> PreTrainedModel:
    """The model frozen, with a trainable float32 adapter on every target; the head stays as it is.

    Raises:
        RecipeError: as `check_targets`.
    """
    from peft import LoraConfig, get_peft_model  # seconds that only this needs

    if settings.targets != "all-linear":
        _require_matches(settings.targets, model)
    torch.manual_seed(seed)
    adapters = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.targets,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, adapters)


def _require_matches(targets: list[str], model: PreTrainedModel) -> None:
    linear = _linear_layers(model)
    missing = [target for target in targets if not any(f".{name}".endswith(f".{target}") for name in linear)]
    if missing:
        there = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
        raise RecipeError(
            "recover.targets", f"no linear layer's name ends in {missing[0]!r}; this model has: {there}, or all-linear"
        )


def _linear_layers(model: PreTrainedModel) -> list[str]:
    """The dotted names of the layers that an adapter can sit on, the head apart."""
    head = model.get_output_embeddings()
    return [
        name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D) and module is not head
    ]
