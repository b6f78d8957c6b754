"""Phi-3 with long-context factors whose attention heads keep their size when the residual stream is narrower.

This file travels with an exported model and needs torch and transformers (5 or later) only. It differs from stock Phi-3
in one place: the config counts the factors against `head_dim`, where stock code takes hidden_size over heads.
"""

from huggingface_hub.dataclasses import strict
from transformers import Phi3Config, Phi3ForCausalLM, PreTrainedConfig


@strict
class NarrowPhi3Config(Phi3Config):
    """A config of Phi-3 that says its head size."""

    model_type = "narrow_phi3"

    head_dim: int = 0
    """Channels a head; hidden size over heads if left out."""

    def __post_init__(self, **kwargs):
        self.head_dim = self.head_dim or self.hidden_size // self.num_attention_heads
        super().__post_init__(**kwargs)

    def validate_rope(self):
        """There is a long and a short factor for every pair of rotated channels of a head."""
        PreTrainedConfig.validate_rope(self)
        rope = self.rope_parameters
        rotated = int(self.head_dim * rope["partial_rotary_factor"])
        for name in ("short_factor", "long_factor"):
            if name in rope and len(rope[name]) != rotated // 2:
                raise ValueError(f"{name} has {len(rope[name])} entries for {rotated} rotated channels a head")


class NarrowPhi3ForCausalLM(Phi3ForCausalLM):
    """Stock Phi-3, whose attention and rotary positions read `head_dim`."""

    config_class = NarrowPhi3Config
