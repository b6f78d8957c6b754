"""Tiny models, texts and recipes, made anew for each run: no download, no fixture file."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from service.database.schema import upgrade
from service.database.session import Database
from tests.postgresql import Cluster
from workers import pipeline
from workers.contracts.events import Succeeded
from workers.contracts.places import Places
from workers.contracts.recipe import Recipe
from workers.contracts.results import Results
from workers.local_store import LocalStore

if TYPE_CHECKING:
    from tests.object_server import ObjectServer

WORDS = ["the", "stream", "carries", "what", "every", "layer", "reads", "and", "writes", "so", "a", "channel", "that"]
WORDS += ["nobody", "needs", "may", "be", "taken", "away"]


def sentences(count: int, seed: int) -> str:
    """`count` paragraphs of pseudo-random sentences over a small vocabulary."""
    random = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(WORDS), (count, 24), generator=random).tolist()
    return "\n\n".join(" ".join(WORDS[index] for index in row) + "." for row in rows)


def tiny_llama(**changes: Any) -> LlamaForCausalLM:
    """A random two-layer Llama with grouped-query attention and norms that are not all ones."""
    torch.manual_seed(0)
    config = LlamaConfig(
        **{
            "vocab_size": 300,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 64,
            "initializer_range": 0.2,
            "bos_token_id": 0,
            "eos_token_id": 1,
            **changes,
        }
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 1:
                weight.copy_(1 + 0.3 * torch.randn_like(weight) if "norm" in name else 0.1 * torch.randn_like(weight))
    return model


BACKENDS = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]
"""Parameters of `backend`, for tests that must pass on either database."""


def run_on_both(metafunc: pytest.Metafunc) -> None:
    """Run a test on either database, unless it chooses its own."""
    chosen = any("backend" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if "backend" in metafunc.fixturenames and not chosen:
        metafunc.parametrize("backend", BACKENDS)


@pytest.fixture
def backend() -> str:
    """Which database a test runs on. Test folders say which of theirs run on both."""
    return "sqlite"


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """This session's own PostgreSQL. Skips the test where none is installed."""
    made = Cluster()
    yield made
    made.close()


@pytest.fixture(scope="session")
def migrated_name(cluster: Cluster) -> str:
    """A PostgreSQL database at the newest schema, to be copied."""
    name = cluster.create()
    database = Database(cluster.url(name))
    upgrade(database)
    database.dispose()
    return name


@pytest.fixture
def postgresql_url(cluster: Cluster, migrated_name: str) -> Iterator[str]:
    """A PostgreSQL database of the test's own, at the newest schema."""
    name = cluster.create(migrated_name)
    yield cluster.url(name)
    cluster.drop(name)


@pytest.fixture(scope="session")
def started_object_server() -> Iterator[ObjectServer]:
    from tests.object_server import ObjectServer  # takes a second, and most tests want no server

    server = ObjectServer()
    yield server
    server.close()


@pytest.fixture
def object_server(
    started_object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[ObjectServer]:
    """An S3-compatible server that the environment points at, and a node's cache of the test's own."""
    for name, value in started_object_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DRESS_CACHE_DIR", str(tmp_path / "cache"))
    started_object_server.settle()
    yield started_object_server
    started_object_server.settle()


@pytest.fixture
def bucket_url(object_server: ObjectServer) -> str:
    """A folder of the server's bucket that nobody else uses."""
    return f"s3://{object_server.bucket}/{uuid.uuid4().hex}"


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `train.txt` and `valid.txt`, which share no paragraph."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "train.txt").write_text(sentences(200, seed=1))
    (folder / "valid.txt").write_text(sentences(40, seed=2))
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """A Hugging Face checkpoint folder: the tiny Llama and a byte-level tokenizer of 300 tokens."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        [(corpus / "train.txt").read_text()],
        trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=["<s>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    tiny_llama().save_pretrained(folder)
    return folder


@pytest.fixture
def recipe(checkpoint: Path, corpus: Path) -> Recipe:
    """A recipe that runs in a few seconds: 12 regularize and 4 recover steps."""
    return Recipe.model_validate(
        {
            "model": {"source": str(checkpoint)},
            "method": {"kind": "dress", "ratio": 0.25, "training": {"batch_size": 4}},
            "data": {"name": "text", "path": str(corpus / "train.txt"), "samples": 64, "sequence_length": 32},
            "recover": {"kind": "lora", "rank": 2, "training": {"batch_size": 4}},
            "evaluate": {"perplexity": [{"name": "text", "path": str(corpus / "valid.txt"), "label": "valid"}]},
        }
    )


def changed(recipe: Recipe, **changes: object) -> Recipe:
    """The recipe with fields replaced, by path with `__` between the parts, and validated again."""
    plain = recipe.model_dump(mode="json")
    for path, value in changes.items():
        *parents, name = path.split("__")
        target = plain
        for parent in parents:
            target = target[parent]
        target[name] = value
    return Recipe.model_validate(plain)


def run_here(recipe: Recipe, folder: Path) -> Results:
    """The results of a recipe run in this process, undisturbed, with a store of its own under `folder`."""
    workspace = folder / "workspace"
    workspace.mkdir()
    *_, last = pipeline.run(recipe, LocalStore(folder / "store"), workspace, Places(), owner="here")
    assert isinstance(last, Succeeded)
    return last.results
