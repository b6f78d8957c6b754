"""Files written tensor by tensor are those the library reads, whole or in shards, and hold one tensor at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.conftest import tiny_llama
from workers import checkpoints, stored_model
from workers.shards import TYPES, write_shards

SHAPES = st.dictionaries(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1).filter(
        lambda name: name != "__metadata__"
    ),
    st.lists(st.integers(0, 5), min_size=1, max_size=3),
    min_size=1,
    max_size=6,
)


def outlines(shapes: Mapping[str, list[int]], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: torch.empty(shape, dtype=dtype, device="meta") for name, shape in shapes.items()}


@settings(max_examples=50, deadline=None)
@given(shapes=SHAPES, dtype=st.sampled_from(list(TYPES)), most_bytes=st.integers(1, 200), seed=st.integers(0, 9))
def test_what_is_written_is_read(
    shapes: dict[str, list[int]],
    dtype: torch.dtype,
    most_bytes: int,
    seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    random = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(*shape, generator=random) for name, shape in shapes.items()}
    write_shards(outlines(shapes, dtype), tensors.__getitem__, folder, most_bytes)
    files = sorted(folder.glob("*.safetensors"))
    found = {name: tensor for file in files for name, tensor in load_file(file).items()}
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor.to(dtype))
        assert found[name].dtype == dtype
    assert sorted(stored_model.weight_files(folder)) == files
    if len(files) > 1:
        mapped = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
        assert mapped.keys() == tensors.keys()
        for file in files:
            held = load_file(file)
            assert len(held) == 1 or sum(tensor.nbytes for tensor in held.values()) <= most_bytes


def test_one_tensor_is_held_at_a_time(tmp_path: Path) -> None:
    alive: list[int] = []
    held = 0

    class Counted(Tensor):
        def __del__(self) -> None:
            nonlocal held
            held -= 1

    def tensor_of(_name: str) -> Tensor:
        nonlocal held
        held += 1
        alive.append(held)
        return torch.zeros(8).as_subclass(Counted)

    write_shards(outlines({str(number): [8] for number in range(20)}, torch.bfloat16), tensor_of, tmp_path, 1_000)
    assert len(alive) == 20
    assert max(alive) <= 3, "of the tensor written and of the one before, views may linger"


def test_a_tensor_of_another_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"one has shape \[3\], the config says \[4\]"):
        write_shards(outlines({"one": [4]}, torch.float32), lambda _name: torch.zeros(3), tmp_path, 1_000)


@pytest.mark.parametrize(
    "change", [lambda weights: weights.popitem(), lambda weights: weights.update(more=torch.ones(1))]
)
def test_weights_of_another_model_are_refused(change: Callable[[dict[str, Tensor]], object], tmp_path: Path) -> None:
    model = tiny_llama()
    weights = checkpoints.weights_of(model)
    change(weights)
    with pytest.raises(ValueError, match="different tensors"):
        checkpoints.save_weights(model.config, weights, torch.float32, tmp_path)


@pytest.mark.parametrize("is_tied", [False, True])
def test_a_sharded_export_is_the_same_model(is_tied: bool, tmp_path: Path) -> None:
    model = tiny_llama(tie_word_embeddings=is_tied)
    weights = checkpoints.weights_of(model)
    checkpoints.save_weights(model.config, weights, torch.float32, tmp_path / "whole")
    checkpoints.save_weights(model.config, weights, torch.float32, tmp_path / "sharded", most_shard_bytes=20_000)
    assert (
        len(stored_model.weight_files(tmp_path / "whole")) == 1 < len(stored_model.weight_files(tmp_path / "sharded"))
    )
    assert stored_model.weights_digest(tmp_path / "whole") == stored_model.weights_digest(tmp_path / "sharded")
    again, found = AutoModelForCausalLM.from_pretrained(tmp_path / "sharded", output_loading_info=True)
    assert not any(found.values())
    for name, weight in again.named_parameters():
        assert torch.equal(weight, weights[name])


def test_the_export_is_what_the_library_would_write(tmp_path: Path) -> None:
    """Config, generation config and tensors, file by file."""
    model = tiny_llama()
    checkpoints.save_weights(model.config, checkpoints.weights_of(model), torch.float32, tmp_path / "ours")
    model.save_pretrained(tmp_path / "theirs")
    for name in ("config.json", "generation_config.json"):
        ours, theirs = (json.loads((tmp_path / folder / name).read_text()) for folder in ("ours", "theirs"))
        assert ours == theirs
    assert stored_model.weights_digest(tmp_path / "ours") == stored_model.weights_digest(tmp_path / "theirs")


def names_of(tree: Iterator[Path]) -> list[str]:
    return sorted(file.name for file in tree)


def test_the_licence_and_the_tokenizer_travel(tmp_path: Path) -> None:
    source, folder = tmp_path / "source", tmp_path / "folder"
    source.mkdir()
    folder.mkdir()
    for name in (
        "LICENSE",
        "NOTICE.txt",
        "tokenizer.json",
        "generation_config.json",
        "README.md",
        "modeling_theirs.py",
    ):
        (source / name).write_text(name)
    (source / "LICENSES").mkdir()
    checkpoints.copy_companions(source, folder)
    assert names_of(folder.iterdir()) == ["LICENSE", "NOTICE.txt", "generation_config.json", "tokenizer.json"]
