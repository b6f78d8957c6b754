"""OPT: LayerNorm before each block, learned positions, biases everywhere, plain FFN, the head tied by default.

The head size is hidden size over heads in stock code, so an export of another width needs a modelling file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workers.models.family import (
    Config,
    HeadSlot,
    Slot,
    StreamSite,
    at_width,
    head_dim_of,
    is_tied,
    layer_norm,
    linear,
    readers,
    refuse_quantized,
    refuse_unless,
)

DECODER = "model.decoder"
ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


class Opt:
    """The OPT family, post-norm variants aside."""

    model_type = "opt"
    norm = "layer"
    norm_offset = 0.0
    embeddings_scaled = False
    defaults: Mapping[str, Any] = {
        "do_layer_norm_before": True,
        "_remove_final_layer_norm": False,
        "enable_bias": True,
        "layer_norm_elementwise_affine": True,
        "tie_word_embeddings": True,
    }
    stored_names: Mapping[str, str] = {}
    block_list = f"{DECODER}.layers"

    def check(self, config: Config) -> None:
        """Pre-norm with γ and β, and embeddings of the stream's own width."""
        refuse_quantized(config)
        refuse_unless(
            config.do_layer_norm_before,
            "with do_layer_norm_before: false (OPT-350m) a norm stands on the stream itself, and no cut is exact; "
            "choose an OPT model of another size",
        )
        embedded = getattr(config, "word_embed_proj_dim", None) or config.hidden_size
        refuse_unless(
            embedded == config.hidden_size,
            f"its embeddings are {embedded} wide and projected to {config.hidden_size}, and no slot describes "
            "project_in and project_out; choose an OPT model whose word_embed_proj_dim is its hidden_size",
        )
        refuse_unless(
            config.layer_norm_elementwise_affine,
            "with layer_norm_elementwise_affine: false its norms have no weight that could hold γ",
        )
        refuse_unless(
            not config._remove_final_layer_norm,
            "with _remove_final_layer_norm: true the head reads the stream through no norm",
        )

    def slots(self, config: Config) -> list[Slot]:
        """See `ModelFamily.slots`. The biases of q, k, v and fc1 do not touch the stream."""
        slots = [
            Slot(f"{DECODER}.embed_tokens.weight", 1, "writer"),
            Slot(f"{DECODER}.embed_positions.weight", 1, "writer"),
        ]
        for layer in range(config.num_hidden_layers):
            block = f"{DECODER}.layers.{layer}"
            slots += layer_norm(f"{block}.self_attn_layer_norm")
            slots += readers(block, ATTENTION)
            slots += linear(f"{block}.self_attn.out_proj", 0, "writer", config.enable_bias)
            slots += layer_norm(f"{block}.final_layer_norm")
            slots += readers(block, ["fc1"])
            slots += linear(f"{block}.fc2", 0, "writer", config.enable_bias)
        slots += layer_norm(f"{DECODER}.final_layer_norm")
        return slots if is_tied(config) else [*slots, Slot("lm_head.weight", 1, "reader")]

    def head_slots(self, config: Config) -> list[HeadSlot]:
        """See `ModelFamily.head_slots`."""
        size, slots = head_dim_of(config), []
        for layer in range(config.num_hidden_layers):
            block = f"{DECODER}.layers.{layer}"
            for name in ATTENTION:
                kinds = ("weight", "bias") if config.enable_bias else ("weight",)
                slots += [HeadSlot(f"{block}.{name}.{kind}", 0, size, layer) for kind in kinds]
            slots.append(HeadSlot(f"{block}.self_attn.out_proj.weight", 1, size, layer))
        return slots

    def sites(self, config: Config) -> list[StreamSite]:
        """See `ModelFamily.sites`."""
        sites = []
        for layer in range(config.num_hidden_layers):
            block = f"{DECODER}.layers.{layer}"
            for norm, names in (("self_attn_layer_norm", ATTENTION), ("final_layer_norm", ("fc1",))):
                place = f"{block}.{norm}"
                sites.append(StreamSite(place, place, tuple(f"{block}.{name}" for name in names)))
        final = f"{DECODER}.final_layer_norm"
        return [*sites, StreamSite(final, final, ("lm_head",))]

    def width_multiple(self, config: Config) -> int:
        """Any width: the modelling file says the head size."""
        return 1

    def epsilon(self, config: Config) -> str | None:
        """None: it is 1e-5 in the code, so writers are scaled instead."""
        return None

    def narrow_type(self, config: Config) -> str | None:
        """Stock code ignores `head_dim`."""
        return "narrow_opt"

    def narrowed(self, config: Config, width: int) -> Config:
        """See `ModelFamily.narrowed`."""
        narrow = at_width(config, width)
        narrow.word_embed_proj_dim = width
        return narrow


FAMILY = Opt()
