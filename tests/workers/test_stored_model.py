"""Checkpoints read without torch: counts, types and digests as torch would have them, and damaged files told apart."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers import PreTrainedModel

from tests.conftest import tiny_llama
from workers import stored_model
from workers.errors import RecipeError

NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int64: "I64"}
LONG_AGO_SECONDS = 1_000_000_000


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[PreTrainedModel, Path]:
    model = tiny_llama(tie_word_embeddings=request.param)
    model.save_pretrained(tmp_path / "model")
    return model, tmp_path / "model"


def settled(folder: Path) -> Path:
    """The folder, its files as old as a downloaded model's."""
    for file in folder.glob("*.safetensors"):
        os.utime(file, (LONG_AGO_SECONDS, LONG_AGO_SECONDS))
    return folder


def wanted_digest(weights: dict[str, torch.Tensor]) -> str:
    """The digest by its definition, from tensors in memory."""
    digest = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        digest.update(f"{name} {NAMES[weight.dtype]} {list(weight.shape)}\n".encode())
        digest.update(weight.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def test_counts_and_shapes_are_the_models(saved: tuple[PreTrainedModel, Path]) -> None:
    model, folder = saved
    shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    assert {name: tensor.shape for name, tensor in stored_model.tensors(folder).items()} == shapes
    assert stored_model.count_parameters(folder) == model.num_parameters()
    assert stored_model.stored_bytes(folder) == (folder / "model.safetensors").stat().st_size
    save_file({"again": torch.zeros(9)}, folder / "consolidated.safetensors")
    assert stored_model.count_parameters(folder) == model.num_parameters(), "another file beside the model's own"


def test_buffers_of_old_exports_are_no_parameters(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(3), "model.layers.0.rotary_emb.inv_freq": torch.zeros(4)}, tmp_path / "a.safetensors")
    assert stored_model.count_parameters(tmp_path) == 3


@pytest.mark.parametrize(("stored", "wanted"), [("float16", "float16"), ("bfloat16", "bfloat16"), ("int64", "float32")])
def test_the_type_is_that_of_most_elements(stored: str, wanted: str, tmp_path: Path) -> None:
    weights = {"w": torch.zeros(9, dtype=getattr(torch, stored)), "norm": torch.zeros(8)}
    save_file(weights, tmp_path / "model.safetensors")
    assert stored_model.stored_dtype(tmp_path, "auto") == wanted
    assert stored_model.stored_dtype(tmp_path, "float32") == "float32"


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=6),
    homes=st.lists(st.integers(0, 2), min_size=6, max_size=6),
    dtype=st.sampled_from(list(NAMES)),
    piece_bytes=st.integers(1, 64),
)
def test_the_digest_is_of_the_tensors_not_of_the_files(
    lengths: list[int],
    homes: list[int],
    dtype: torch.dtype,
    piece_bytes: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("sharded")
    weights = {f"t{place}": torch.arange(length).to(dtype).view(1, -1) for place, length in enumerate(lengths)}
    for shard in set(homes[: len(weights)]):
        part = {name: weights[name] for name, home in zip(weights, homes, strict=False) if home == shard}
        save_file(part, folder / f"shard-{shard}.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored_model, "_PIECE_BYTES", piece_bytes)
        assert stored_model.weights_digest(folder) == wanted_digest(weights)


def test_shards_of_transformers_have_the_digest_of_the_whole(
    saved: tuple[PreTrainedModel, Path], tmp_path: Path
) -> None:
    model, folder = saved
    model.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert len(stored_model.weight_files(tmp_path / "sharded")) > 1
    assert stored_model.weights_digest(tmp_path / "sharded") == stored_model.weights_digest(folder)


def test_every_part_of_a_tensor_counts(tmp_path: Path) -> None:
    plain = torch.arange(4.0)
    forms = {
        "plain": {"a": plain},
        "name": {"b": plain},
        "shape": {"a": plain.view(2, 2)},
        "type": {"a": plain.view(torch.int32)},
        "bytes": {"a": plain + 1},
        "more": {"a": plain, "b": plain.clone()},
    }
    digests = set()
    for form, weights in forms.items():
        (tmp_path / form).mkdir()
        save_file(weights, tmp_path / form / "model.safetensors")
        digests.add(stored_model.weights_digest(tmp_path / form))
    assert len(digests) == len(forms)


def test_unchanged_files_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model.safetensors"
    read = []
    whole = stored_model._weights_digest
    monkeypatch.setattr(stored_model, "_weights_digest", lambda found: read.append(1) or whole(found))
    save_file({"a": torch.zeros(4)}, file)
    first = stored_model.weights_digest(settled(tmp_path))
    assert stored_model.weights_digest(tmp_path) == first and len(read) == 1
    save_file({"a": torch.ones(4)}, file)
    second = stored_model.weights_digest(tmp_path)
    assert second != first and len(read) == 2
    assert stored_model.weights_digest(tmp_path) == second and len(read) == 3, "written a moment ago: not trusted yet"


def test_the_folders_digest_heeds_config_and_tokenizer(saved: tuple[PreTrainedModel, Path]) -> None:
    _, folder = saved
    digests = {stored_model.folder_digest(folder)}
    for name in ("tokenizer.json", "config.json"):
        with (folder / name).open("a") as stream:
            stream.write(" ")
        digests.add(stored_model.folder_digest(folder))
    (folder / "README.md").write_text("no matter")
    assert len(digests | {stored_model.folder_digest(folder)}) == 3


def header(entries: object, body_bytes: int = 8) -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + bytes(body_bytes)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not safetensors",
        (1 << 60).to_bytes(8, "little") + b"{}",
        header([1]),
        (100_000).to_bytes(8, "little") + b"[" * 100_000,
        header({"w": {"dtype": "F32", "shape": [2]}}),
        header({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}),
        header({"w": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}),
        header({"w": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}),
    ],
    ids=["empty", "text", "length", "list", "deep", "no-offsets", "cut-short", "backwards", "negative"],
)
def test_damaged_files_are_told(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(RecipeError, match=r"model\.source: model\.safetensors is no whole safetensors file"):
        stored_model.tensors(tmp_path)


def test_a_file_without_tensors_is_told(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(header({"__metadata__": {"format": "pt"}}, 0))
    with pytest.raises(RecipeError, match="hold no tensor"):
        stored_model.stored_dtype(tmp_path, "auto")


@pytest.mark.parametrize("index", ['{"weight_map": {"w": "../elsewhere"}}', '{"weight_map": {"w": "gone"}}', "[]", "{"])
def test_an_index_leads_nowhere_else(index: str, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    save_file({"w": torch.zeros(1)}, tmp_path / "elsewhere")
    (tmp_path / "model" / "model.safetensors.index.json").write_text(index)
    with pytest.raises(RecipeError, match=r"model\.safetensors\.index\.json"):
        stored_model.weight_files(tmp_path / "model")


def test_a_plain_config_has_the_familys_defaults_and_names_what_is_missing(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"model_type": "llama", "hidden_size": 8, "mlp_bias": true}')
    config = stored_model.plain_config(tmp_path)
    assert (config.hidden_size, config.mlp_bias, config.attention_bias) == (8, True, False)
    with pytest.raises(AttributeError) as missing:
        _ = config.num_attention_heads
    assert missing.value.name == "num_attention_heads"
    for text, words in (("{", "cannot be read"), ("[]", "holds no object"), ('{"model_type": "mamba"}', "mamba")):
        file.write_text(text)
        with pytest.raises(RecipeError, match=words):
            stored_model.plain_config(tmp_path)
