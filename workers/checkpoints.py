"""Models on disk: find, load, save, count, digest; and the checkpoints that training leaves behind.

Everything is safetensors and JSON; nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
from collections import Counter
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from workers.contracts.places import Places
from workers.contracts.recipe import ModelSettings
from workers.contracts.store import ArtifactStore
from workers.errors import RecipeError, Transient

MODEL_FILES = ["config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json"]
TOKENIZER_FILES = [
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "spiece.model", "chat_template.jinja"),
]

PARTS = ("weights", "moments", "random", "extra")
"""The files of a training checkpoint, each a safetensors file."""

log = logging.getLogger(__name__)


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
            settings.source, revision=settings.revision, allow_patterns=[*MODEL_FILES, *TOKENIZER_FILES]
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
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise RecipeError("model.source", f"config.json cannot be used: {error}") from error


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a checkpoint folder.

    Raises:
        RecipeError: the folder holds none.
    """
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
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model.to(device)


def stored_dtype(folder: Path, asked: str) -> torch.dtype:
    """The element type to export: the one asked for, or for `auto` that of most of the stored elements."""
    if asked != "auto":
        return getattr(torch, asked)
    elements: Counter[str] = Counter()
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118  not a dict
                tensor = stored.get_slice(name)
                elements[tensor.get_dtype()] += math.prod(tensor.get_shape())
    return {"F16": torch.float16, "BF16": torch.bfloat16}.get(elements.most_common(1)[0][0], torch.float32)


def save_weights(config: PreTrainedConfig, weights: dict[str, Tensor], dtype: torch.dtype, folder: Path) -> None:
    """Write config and weights as stock transformers reads them, sharded when large, cast to `dtype`."""
    config.dtype = dtype
    with torch.device("meta"):
        shell = AutoModelForCausalLM.from_config(config)
    cast = {name: weight.detach().to("cpu", dtype).contiguous() for name, weight in weights.items()}
    shell.save_pretrained(folder, state_dict=cast)


def copy_companions(source: Path, folder: Path) -> None:
    """Bring the tokenizer and the generation config along, byte for byte."""
    for pattern in ["generation_config.json", *TOKENIZER_FILES]:
        for file in source.glob(pattern):
            if file.is_file():
                shutil.copyfile(file, folder / file.name)


def weights_of(model: PreTrainedModel) -> dict[str, Tensor]:
    """The parameters by name, a tied tensor once."""
    return {name: weight.detach() for name, weight in model.named_parameters()}


def count_parameters(folder: Path) -> int:
    """Number of stored elements; a tied tensor is stored once, and the buffers of old exports are no parameters."""
    names = ((file, name) for file in weight_files(folder) for name in _names(file))
    return sum(_size(file, name) for file, name in names if not name.endswith("rotary_emb.inv_freq"))


def stored_bytes(folder: Path) -> int:
    """Bytes of the safetensors files."""
    return sum(file.stat().st_size for file in weight_files(folder))


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers loads: those of the index, else the one file, else whatever there is."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return sorted({folder / name for name in json.loads(index.read_text("utf-8"))["weight_map"].values()})
    single = folder / "model.safetensors"
    return [single] if single.is_file() else sorted(folder.glob("*.safetensors"))


def weights_digest(folder: Path) -> str:
    """SHA-256 over every tensor's name, type, shape and bytes, in the order of names: independent of sharding."""
    digest = hashlib.sha256()
    where = {name: file for file in weight_files(folder) for name in _names(file)}
    for name in sorted(where):
        with safe_open(where[name], framework="pt") as stored:
            tensor = stored.get_tensor(name).contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def folder_digest(folder: Path) -> str:
    """SHA-256 over what decides a model's behaviour: weights, config and tokenizer files."""
    digest = hashlib.sha256(weights_digest(folder).encode())
    for name in sorted(["config.json", *TOKENIZER_FILES]):
        file = folder / name
        if not file.is_file():
            continue
        digest.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _names(file: Path) -> list[str]:
    with safe_open(file, framework="pt") as stored:
        return list(stored.keys())


def _size(file: Path, name: str) -> int:
    with safe_open(file, framework="pt") as stored:
        return math.prod(stored.get_slice(name).get_shape())


class TrainingCheckpoints:
    """Where a training stage leaves its state and finds it again: parameters, AdamW's moments, random state, step.

    Data order and learning rate follow from the step, so this is all of it.
    """

    def __init__(self, store: ArtifactStore, key: str, workspace: Path, every_steps: int | None) -> None:
        self._store, self._key, self._every = store, key, every_steps
        self._folder = workspace / f"checkpoint-{key[:16]}"
        self.extra: dict[str, Tensor] = {}
        """Small tensors of the stage's own that travel with the checkpoint."""
        self._read: dict[str, dict[str, Tensor]] = {}
        self._step = 0

    def found(self) -> int | None:
        """Read the newest checkpoint, if there is one, and return its step. A damaged one is dropped: begin anew."""
        self._clear()
        if self._store.load_checkpoint(self._key, self._folder) is None:
            return None
        try:
            step = int(json.loads((self._folder / "state.json").read_text("utf-8"))["step"])
            self._read = {part: load_file(self._folder / f"{part}.safetensors") for part in PARTS}
        except (OSError, ValueError, KeyError, SafetensorError):
            log.exception("the checkpoint of stage %s is damaged; the stage begins anew", self._key)
            self._store.drop_checkpoint(self._key)
            return None
        finally:
            self._clear()
        self.extra = self._read["extra"]
        self._step = step
        return step

    def due(self, step: int, steps: int) -> bool:
        """True every `every_steps`, by default ten times a stage; not at the end, whose result is kept anyway."""
        every = self._every or max(1, steps // 10)
        return step % every == 0 and step < steps

    def load(self, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> int:
        """Put the checkpoint that was found into the parameters and the optimizer; its step, 0 if there was none."""
        if not self._read:
            return 0
        weights, moments, random = (self._read[part] for part in ("weights", "moments", "random"))
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(weights[name])
                optimizer.state[parameter] = {
                    "step": torch.tensor(float(self._step), device=parameter.device),  # fused AdamW counts there
                    "exp_avg": torch.empty_like(parameter).copy_(moments[f"{name}.exp_avg"]),
                    "exp_avg_sq": torch.empty_like(parameter).copy_(moments[f"{name}.exp_avg_sq"]),
                }
        torch.set_rng_state(random["cpu"])
        if "cuda" in random and torch.cuda.is_available():
            torch.cuda.set_rng_state(random["cuda"])
        self._read = {}
        return self._step

    def save(self, step: int, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
        """Write the state and hand it to the store, in place of the one before."""
        self._clear()
        moments = {}
        for name, parameter in parameters.items():
            for moment in ("exp_avg", "exp_avg_sq"):
                moments[f"{name}.{moment}"] = optimizer.state[parameter][moment]
        random = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            random["cuda"] = torch.cuda.get_rng_state()
        weights = {name: weight.detach() for name, weight in parameters.items()}
        for part, tensors in zip(PARTS, (weights, moments, random, self.extra), strict=True):
            save_file(tensors, self._folder / f"{part}.safetensors")
        (self._folder / "state.json").write_text(json.dumps({"step": step}))
        self._store.save_checkpoint(self._key, step, self._folder)
        self._clear()

    def _clear(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
