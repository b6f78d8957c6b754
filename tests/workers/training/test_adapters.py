"""Adapters sit where the recipe says, on fused and foreign layers too, and targets that name nothing are refused."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tests.conftest import tiny_llama
from workers.contracts.training import LoraTrainingSettings, RecoverWithLora
from workers.errors import RecipeError
from workers.training.adapters import check_targets, with_adapters
from workers.training.loop import train
from workers.training.objectives import language_modelling

SEQUENCES = torch.randint(300, (8, 12), generator=torch.Generator().manual_seed(3))
SIZES = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": 0}
OTHERS = {
    "phi": {"intermediate_size": 48},
    "phi3": {"intermediate_size": 48},  # fused q, k, v
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 64},
    "gpt_neox": {"intermediate_size": 48},  # fused q, k, v; a head of another name
    "gpt2": {"n_inner": 48},  # layers that are no nn.Linear
}


def model_of(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIG_MAPPING[name](**SIZES, **OTHERS[name]))


def adapted(model: torch.nn.Module) -> set[str]:
    return {name.partition(".lora_A")[0].rpartition(".")[2] for name, _ in model.named_parameters() if "lora_A" in name}


@pytest.mark.parametrize("name", OTHERS)
def test_every_architecture_takes_adapters_and_merges_them(name: str) -> None:
    model = model_of(name)
    before = {key: weight.clone() for key, weight in model.named_parameters()}
    trained = with_adapters(model, RecoverWithLora(rank=2), seed=0)
    assert adapted(trained) and not adapted(trained) & {"lm_head", "embed_out"}
    settings = LoraTrainingSettings(
        learning_rate=1e-3, batch_size=4, activation_checkpointing=True, loss_chunk_tokens=9
    )
    *_, last = train(
        trained, SEQUENCES, settings, language_modelling(trained, chunk_tokens=settings.loss_chunk_tokens), seed=0
    )
    assert last.metrics["loss"] > 0
    merged = trained.merge_and_unload()
    after = dict(merged.named_parameters())
    assert after.keys() == before.keys()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed and not any("embed" in key or "norm" in key or "lm_head" in key for key in changed)


def test_targets_are_ends_of_names() -> None:
    settings = RecoverWithLora(targets=["q_proj", "mlp.down_proj"])
    assert adapted(with_adapters(tiny_llama(), settings, seed=0)) == {"q_proj", "down_proj"}
    check_targets(settings, tiny_llama().config)


@pytest.mark.parametrize("target", ["query", "lm_head", "proj", "input_layernorm"])
def test_targets_that_name_nothing_are_refused_with_what_there_is(target: str) -> None:
    with pytest.raises(RecipeError, match=f"'{target}'.*down_proj, gate_proj, k_proj, .*all-linear") as refused:
        check_targets(RecoverWithLora(targets=["q_proj", target]), tiny_llama().config)
    assert refused.value.field == "recover.targets"


def test_the_adapters_follow_from_the_seed() -> None:
    one, same, other = (with_adapters(tiny_llama(), RecoverWithLora(rank=2), seed) for seed in (1, 1, 2))
    weights = [
        torch.cat([w.flatten() for n, w in model.named_parameters() if "lora_A" in n]) for model in (one, same, other)
    ]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
