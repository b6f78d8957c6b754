"""What every stage of an attempt works with: sources located, texts drawn, keys, and folders of earlier results."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.utils.logging import disable_progress_bar

from workers import checkpoints
from workers.contracts.places import Places
from workers.contracts.recipe import Recipe
from workers.contracts.results import StageResult
from workers.contracts.store import ArtifactStore
from workers.datasets import dataset
from workers.errors import RecipeError
from workers.models.family import family_of
from workers.pruning.method import method_of

CODE = ["models", "pruning", "stages", "datasets", "training.py", "checkpoints.py", "workbench.py"]
"""The parts of this package that decide results."""


class Workbench:
    """One attempt's surroundings. Making it checks all of the recipe that can be checked before time is spent.

    Raises:
        RecipeError: a source is missing or unsuitable.
    """

    def __init__(self, recipe: Recipe, store: ArtifactStore, workspace: Path, places: Places) -> None:
        self.recipe, self.store, self.workspace = recipe, store, workspace
        self.device = _device(recipe)
        self.dense_folder = checkpoints.locate(recipe.model, places)
        self.config = checkpoints.load_config(self.dense_folder)
        self.family = family_of(self.config)
        method_of(recipe.method).check(recipe.method, self.family, self.config)
        self.export_dtype = checkpoints.stored_dtype(self.dense_folder, recipe.model.dtype)
        self.texts = {
            text.key: dataset.load(text.name, "evaluation", places, text.path, f"evaluate.perplexity.{index}")
            for index, text in enumerate(recipe.evaluate.perplexity)
        }
        training = dataset.load(recipe.data.name, "train", places, recipe.data.path, "data.name")
        self.training_text = dataset.without(training, self.texts.values())
        self._check_lengths()
        _prepare_torch(recipe)

    @cached_property
    def dense_digest(self) -> str:
        """Digest of the dense model's weights, config and tokenizer, and of the type it is evaluated in."""
        return self.digest("dense", checkpoints.folder_digest(self.dense_folder), str(self.export_dtype))

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The dense model's tokenizer."""
        return checkpoints.load_tokenizer(self.dense_folder)

    @cached_property
    def sequences(self) -> Tensor:
        """Token ids [samples, sequence_length], the regularize share first.

        Raises:
            RecipeError: the corpus has fewer sequences than asked for.
        """
        data = self.recipe.data
        return dataset.draw(self.training_text, self.tokenizer, data.samples, data.sequence_length, self.recipe.seed)

    @property
    def regularize_sequences(self) -> Tensor:
        """Token ids [regularize share, sequence_length]."""
        return self.sequences[: self.recipe.data.regularize_samples]

    @property
    def recover_sequences(self) -> Tensor:
        """Token ids [recover share, sequence_length]."""
        return self.sequences[self.recipe.data.regularize_samples :]

    def digest(self, *parts: Any) -> str:
        """SHA-256 of plain values: how stages are keyed."""
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def folder_of(self, result: StageResult) -> Path:
        """The local folder with a stage's files, fetched from the store if they are not here."""
        folder = self.workspace / result.key
        for stored in result.files:
            if not (folder / stored.path).is_file():
                self.store.fetch(stored, folder)
        return folder

    def new_folder(self, key: str) -> Path:
        """An empty folder for the files of the stage with this key."""
        folder = self.workspace / key
        folder.mkdir(parents=True)
        return folder

    def _check_lengths(self) -> None:
        context = getattr(self.config, "max_position_embeddings", None)
        for field, length in (
            ("data.sequence_length", self.recipe.data.sequence_length),
            ("evaluate.sequence_length", self.recipe.evaluate.sequence_length),
        ):
            if context is not None and length is not None and length > context:
                raise RecipeError(field, f"{length} tokens are more than the model's context of {context}")


def _device(recipe: Recipe) -> torch.device:
    if recipe.resources.gpus and not torch.cuda.is_available():
        raise RecipeError("resources.gpus", "torch finds no GPU on this machine; ask for 0, or run where there is one")
    return torch.device("cuda" if recipe.resources.gpus else "cpu")


def _prepare_torch(recipe: Recipe) -> None:
    """Threads as the recipe says, however this was started, and kernels that give the same bits every time."""
    disable_progress_bar()  # an attempt reports by events
    torch.set_num_threads(recipe.resources.cpus)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False


@cache
def code_digest() -> str:
    """Digest of the code that decides results: this package's own, torch's and transformers' versions."""
    root = Path(__file__).parent
    files = sorted(
        file for part in CODE for file in ([root / part] if part.endswith(".py") else root.glob(f"{part}/*.py"))
    )
    digest = hashlib.sha256()
    for file in files:
        digest.update(str(file.relative_to(root)).encode() + file.read_bytes())
    digest.update(" ".join(version(name) for name in ("torch", "transformers", "peft")).encode())
    return digest.hexdigest()


def machine_type() -> str:
    """What the speed of a model depends on, in words."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{platform.machine()}, {_processor()}, {os.cpu_count()} cores, {device}"


def _processor() -> str:
    """The processor's model; Linux tells it in a file alone."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
