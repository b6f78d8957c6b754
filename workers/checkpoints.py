"""Models on disk: find, load, save.

Everything is safetensors and JSON; nothing is ever unpickled. What is only read is in `workers.stored_model`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.core_model_loading import revert_weight_conversion

from workers.contracts.places import Places
from workers.contracts.recipe import ModelSettings
from workers.errors import RecipeError, Transient
from workers.licence import LICENCE_FILES
from workers.models import narrow
from workers.shards import write_shards
from workers.stored_model import TOKENIZER_FILES, stored_dtype

MODEL_FILES = ["config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json"]

MOST_SHARD_BYTES = 5_000_000_000
"""A larger model is exported in several files."""

_ALIGNMENT_BYTES = 64
"""Where torch lets a tensor start when it takes memory itself."""


def locate(settings: ModelSettings, places: Places) -> Path:
    """The folder that holds the dense checkpoint; a hub model is fetched once into the node's hub cache.

    Raises:
        RecipeError: the path or the hub id leads to no safetensors checkpoint.
        Transient: the hub could not be reached.
    """
    folder = places.model_folder(settings.source, settings.revision)
    if folder is not None:
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        fetched = snapshot_download(
            settings.source,
            revision=settings.revision,
            allow_patterns=[*MODEL_FILES, *TOKENIZER_FILES, "README.md", *LICENCE_FILES],
        )
    except HFValidationError as error:
        raise RecipeError("model.source", f"{settings.source!r} is neither a folder nor a hub id: {error}") from error
    except OSError as error:  # the hub library's HTTP errors are OSErrors too
        answer = getattr(error, "response", None) if isinstance(error, HfHubHTTPError) else None
        if answer is not None and 400 <= answer.status_code < 500 and answer.status_code != 429:
            raise RecipeError("model.source", f"the hub does not give {settings.source!r}: {error}") from error
        raise Transient(f"model.source: {settings.source!r} could not be fetched from the hub: {error}") from error
    folder = Path(fetched)
    if not any(folder.glob("*.safetensors")):
        raise RecipeError("model.source", f"{settings.source} has no safetensors weights; nothing else is read")
    return folder


def load_config(folder: Path) -> PreTrainedConfig:
    """The config of a checkpoint folder; never runs code from it.

    Raises:
        RecipeError: it is unreadable, or of an architecture that transformers does not know.
    """
    narrow.register()
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise RecipeError("model.source", f"config.json cannot be used: {error}") from error


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a checkpoint folder.

    Raises:
        RecipeError: the folder holds none.
    """
    narrow.register()
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise RecipeError("model.source", f"no tokenizer could be loaded beside the weights: {error}") from error


def load_model(folder: Path, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """The model of a checkpoint folder, safetensors only, every tensor in memory of its own.

    Tensors are copied out of the mapped file: where in the file a tensor starts would else decide which kernels run,
    and with them the last bits of a result.

    Raises:
        RecipeError: tensors are missing or of another shape; transformers would put random ones in their place.
    """
    model = _loaded(folder, dtype)
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model.to(device)


def load_teacher(folder: Path, device: torch.device) -> PreTrainedModel:
    """The model of a checkpoint folder, frozen and in evaluation mode, in as little memory as the device allows.

    On a GPU it is held in 16 bits: the type it is stored in, or bfloat16. On a CPU it computes in float32, and where
    the file holds float32 its tensors stay mapped: pages that all processes share and the system may drop. A tensor
    that does not start where torch would let one start is copied, so that the same kernels run and no bit differs.

    Raises:
        RecipeError: as `load_model`.
    """
    if device.type == "cuda":
        half = stored_dtype(folder, "auto")
        model = _loaded(folder, torch.float16 if half == "float16" else torch.bfloat16).to(device)
    else:
        model = _loaded(folder, torch.float32)
        for parameter in model.parameters():
            if parameter.data_ptr() % _ALIGNMENT_BYTES:
                parameter.data = parameter.data.clone()
    return model.eval().requires_grad_(False)


def _loaded(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The model on the CPU; tensors of the stored type are views of the mapped file."""
    narrow.register()
    model, found = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
        output_loading_info=True,
    )
    if unfit := [*found["missing_keys"], *(str(key) for key in found["mismatched_keys"])]:
        raise RecipeError("model.source", f"the checkpoint lacks tensors or has them in other shapes: {unfit[:3]}")
    return model


def save_weights(
    config: PreTrainedConfig,
    weights: Mapping[str, Tensor],
    dtype: torch.dtype,
    folder: Path,
    most_shard_bytes: int = MOST_SHARD_BYTES,
) -> None:
    """Write config and weights as transformers reads them, cast to `dtype` one tensor at a time.

    Args:
        weights: the parameters by name, a tied tensor once.
        most_shard_bytes: the weights are split into files of at most so many bytes, or one tensor.
    Raises:
        ValueError: the weights are not those of a model of this config.
    """
    narrow.register()
    config = narrow.as_exported(config)
    config.dtype = dtype
    with torch.device("meta"):
        shell = AutoModelForCausalLM.from_config(config)
    names = _stored_names(shell)
    if differing := sorted(set(weights) ^ set(names.values())):
        raise ValueError(f"the config and the weights name different tensors: {', '.join(differing[:3])}")
    shell.config.architectures = [type(shell).__name__]
    folder.mkdir(parents=True, exist_ok=True)
    shell.config.save_pretrained(folder)
    shell.generation_config.save_pretrained(folder)
    narrow.copy_modelling_file(config, folder)
    outlines = {stored: shell.get_parameter(name).to(dtype) for stored, name in names.items()}
    write_shards(outlines, lambda stored: weights[names[stored]], folder, most_shard_bytes)


def _stored_names(shell: PreTrainedModel) -> dict[str, str]:
    """The model's name of each parameter by the name that transformers gives it in a file; they seldom differ."""
    shell.tie_weights()
    names = {id(weight): name for name, weight in shell.named_parameters()}
    stored = revert_weight_conversion(shell, dict(shell.named_parameters()))
    return {name: names[id(weight)] for name, weight in stored.items()}


def copy_companions(source: Path, folder: Path) -> None:
    """Bring the tokenizer, the generation config and the licence along, byte for byte."""
    for pattern in ["generation_config.json", *TOKENIZER_FILES, *LICENCE_FILES]:
        for file in source.glob(pattern):
            if file.is_file():
                shutil.copyfile(file, folder / file.name)


def weights_of(model: PreTrainedModel) -> dict[str, Tensor]:
    """The parameters by name, a tied tensor once."""
    return {name: weight.detach() for name, weight in model.named_parameters()}
