"""What every stage of an attempt works with: sources located, texts drawn, keys, and folders of earlier results."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.utils.logging import disable_progress_bar

from workers import checkpoints, stored_model, texts
from workers.contracts.places import Places
from workers.contracts.recipe import Recipe
from workers.contracts.results import StageResult
from workers.contracts.store import ArtifactStore
from workers.datasets import dataset, sampling
from workers.errors import RecipeError
from workers.models.family import family_of
from workers.planning.plan import Sources, code_digest, device_kind, model_digest
from workers.pruning.method import method_of
from workers.training.adapters import check_targets

if TYPE_CHECKING:
    from workers.tasks.harness import Prepared

VALIDATION_SEQUENCES = 16
"""So many sequences, at most, stand apart from those that are trained on."""


class Workbench:
    """One attempt's surroundings. Making it checks all of the recipe that can be checked before time is spent.

    Raises:
        RecipeError: a source is missing or unsuitable.
    """

    def __init__(
        self, recipe: Recipe, store: ArtifactStore, workspace: Path, places: Places, rungs: Sequence[float] = ()
    ) -> None:
        """`rungs`: see `pipeline.run`."""
        self.recipe, self.store, self.workspace, self.rungs = recipe, store, workspace, tuple(rungs)
        self.device = _device(recipe)
        self.dense_folder = checkpoints.locate(recipe.model, places)
        self.config = checkpoints.load_config(self.dense_folder)
        self.family = family_of(self.config)
        method_of(recipe.method).check(recipe.method, self.family, self.config)
        if recipe.recover.kind == "lora":
            check_targets(recipe.recover, self.config)
        self.export_dtype: torch.dtype = getattr(
            torch, stored_model.stored_dtype(self.dense_folder, recipe.model.dtype)
        )
        self.texts = {
            text.key: texts.load(text, "evaluation", places, store, f"evaluate.perplexity.{index}", workspace)
            for index, text in enumerate(recipe.evaluate.perplexity)
        }
        training = texts.load(recipe.data, "train", places, store, "data.name", workspace)
        self.training_text = dataset.without(training, self.texts.values())
        self._check_lengths()
        self.tasks = _prepared(recipe, places)
        _prepare_torch(recipe)

    @cached_property
    def sources(self) -> Sources:
        """Digests of what goes into the stages."""
        return Sources(
            model=self.dense_digest,
            training_text=self.training_text.sha256,
            texts={name: text.sha256 for name, text in self.texts.items()},
            code=code_digest(),
            machine=machine_type(),
            sequence_length=self.sequence_length,
            tasks={name: task.digest for name, task in self.tasks.items()},
        )

    @cached_property
    def dense_digest(self) -> str:
        """See `plan.model_digest`."""
        return model_digest(self.dense_folder, str(self.export_dtype).removeprefix("torch."))

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The dense model's tokenizer."""
        return checkpoints.load_tokenizer(self.dense_folder)

    @property
    def sequence_length(self) -> int:
        """Tokens of a training sequence: the recipe's, or what suits the model."""
        return self.recipe.data.resolved_sequence_length(getattr(self.config, "max_position_embeddings", None))

    @cached_property
    def _drawn(self) -> Tensor:
        """Those that are trained on, then those that are not: token ids [samples or a few more, sequence_length]."""
        samples, length, seed = self.recipe.data.samples, self.sequence_length, self.recipe.seed
        draw = sampling.draw_overlapping if self.recipe.data.sampling == "overlapping" else sampling.draw
        tokens = sampling.tokens_of(self.training_text, self.tokenizer, known_as=self.dense_digest)
        return draw(tokens, samples, length, seed, VALIDATION_SEQUENCES)

    @property
    def sequences(self) -> Tensor:
        """Token ids [samples, sequence_length], the regularize share first.

        Raises:
            RecipeError: the corpus has fewer sequences than asked for.
        """
        return self._drawn[: self.recipe.data.samples]

    @property
    def has_validation_sequences(self) -> bool:
        """Whether the corpus has sequences beside those that are trained on."""
        return len(self._drawn) > self.recipe.data.samples

    @property
    def validation_sequences(self) -> Tensor:
        """Token ids [at most `VALIDATION_SEQUENCES`, sequence_length]: those that the seed would draw next.

        Overlapping ones begin where no other does, and may share tokens with others. Where the corpus has none left,
        the last of the recover share, or of all where there is no such share.
        """
        if self.has_validation_sequences:
            return self._drawn[self.recipe.data.samples :]
        seen = self.recover_sequences if self.recipe.data.recover_samples else self.sequences
        return seen[-VALIDATION_SEQUENCES:]

    @property
    def regularize_sequences(self) -> Tensor:
        """Token ids [regularize share, sequence_length]; all of them where a method only looks and has no share."""
        return self.sequences[: self.recipe.data.regularize_samples or None]

    @property
    def recover_sequences(self) -> Tensor:
        """Token ids [recover share, sequence_length]."""
        return self.sequences[self.recipe.data.regularize_samples :]

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
        speed = self.recipe.evaluate.speed_settings
        if context is not None and speed is not None and (fault := speed.too_long(context)):
            field, asked, most = fault
            raise RecipeError(field, f"{asked} tokens do not fit the model's context of {context}; at most {most} do")


def _device(recipe: Recipe) -> torch.device:
    if recipe.resources.gpus and not torch.cuda.is_available():
        raise RecipeError("resources.gpus", "torch finds no GPU on this machine; ask for 0, or run where there is one")
    return torch.device(device_kind(recipe))


def _prepared(recipe: Recipe, places: Places) -> dict[str, Prepared]:
    """The recipe's zero-shot tasks by name, their rows here.

    Raises:
        RecipeError: a task is not known, or its rows cannot be had.
    """
    if not recipe.evaluate.tasks:
        return {}
    from workers.tasks.harness import prepare  # takes seconds, and most jobs ask for no task

    return {wanted.name: prepare(wanted, places) for wanted in recipe.evaluate.wanted_tasks}


def _prepare_torch(recipe: Recipe) -> None:
    """Threads as the recipe says, however this was started, and kernels that give the same bits every time."""
    disable_progress_bar()  # an attempt reports by events
    torch.set_num_threads(recipe.resources.cpus)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False


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
