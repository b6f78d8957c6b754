"""Modelling files for what stock code cannot say (heads that keep their size, sliced streams): they go with exports.

The service itself never runs a file that lies in a checkpoint folder: it knows these architectures by `register`.
"""

from __future__ import annotations

import shutil
from copy import deepcopy
from functools import cache
from pathlib import Path

from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

from workers.models.family import NARROW, SLICED
from workers.models.narrow.modeling_narrow_gpt_neox import NarrowGPTNeoXForCausalLM
from workers.models.narrow.modeling_narrow_opt import NarrowOPTForCausalLM
from workers.models.narrow.modeling_narrow_phi3 import NarrowPhi3ForCausalLM
from workers.models.narrow.modeling_sliced_llama import SlicedLlamaForCausalLM
from workers.models.narrow.modeling_sliced_opt import SlicedOPTForCausalLM
from workers.models.narrow.modeling_sliced_phi import SlicedPhiForCausalLM

MODELS = {
    model.config_class.model_type: model
    for model in (
        NarrowOPTForCausalLM,
        NarrowGPTNeoXForCausalLM,
        NarrowPhi3ForCausalLM,
        SlicedLlamaForCausalLM,
        SlicedOPTForCausalLM,
        SlicedPhiForCausalLM,
    )
}
"""The models that modelling files define, by `model_type`."""

_NOT_CARRIED = ("model_type", "auto_map", "architectures", "transformers_version")
"""What a config says of its class, which is not the class it turns into."""


@cache
def register() -> None:
    """Make transformers know these architectures in this process, so that loading them needs no remote code."""
    for model_type, model in MODELS.items():
        AutoConfig.register(model_type, model.config_class)
        AutoModelForCausalLM.register(model.config_class, model)


def with_modelling_file(config: PreTrainedConfig, narrow_type: str | None) -> PreTrainedConfig:
    """The config as the modelling file's own class, which names the file; as stock code's class where that suffices."""
    if narrow_type is None:
        is_narrow = config.model_type in MODELS
        return _recast(config, CONFIG_MAPPING[config.model_type.removeprefix(NARROW)]) if is_narrow else config
    register()
    model = MODELS[narrow_type]
    recast = _recast(config, model.config_class)
    file = _file(narrow_type).stem
    recast.auto_map = {
        "AutoConfig": f"{file}.{model.config_class.__name__}",
        "AutoModelForCausalLM": f"{file}.{model.__name__}",
    }
    if not getattr(recast, "tokenizer_class", None):  # else looked up by model_type, where tokenizer files name none
        recast.tokenizer_class = TOKENIZER_MAPPING_NAMES.get(narrow_type.removeprefix(NARROW).removeprefix(SLICED))
    return recast


def as_exported(config: PreTrainedConfig) -> PreTrainedConfig:
    """A copy that names the modelling file if it needs one, and no other: the source's own code does not come along."""
    if config.model_type in MODELS:
        return with_modelling_file(config, config.model_type)
    copy = deepcopy(config)
    copy.__dict__.pop("auto_map", None)
    return copy


def copy_modelling_file(config: PreTrainedConfig, folder: Path) -> None:
    """Put the file that the config needs, if any, beside its weights."""
    if config.model_type in MODELS:
        shutil.copyfile(_file(config.model_type), folder / _file(config.model_type).name)


def _recast(config: PreTrainedConfig, kind: type[PreTrainedConfig]) -> PreTrainedConfig:
    fields = {name: value for name, value in config.to_dict().items() if name not in _NOT_CARRIED}
    return kind(**fields)


def _file(narrow_type: str) -> Path:
    return Path(__file__).parent / f"modeling_{narrow_type}.py"
