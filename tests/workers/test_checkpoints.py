"""Models on disk: what is refused instead of being filled in, and what a damaged checkpoint costs."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from tests.conftest import tiny_llama
from workers import checkpoints
from workers.contracts.places import Places
from workers.contracts.recipe import ModelSettings
from workers.errors import RecipeError, Transient

CPU = torch.device("cpu")


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[PreTrainedModel, Path]:
    model = tiny_llama(tie_word_embeddings=request.param)
    model.save_pretrained(tmp_path / "model")
    return model, tmp_path / "model"


def test_a_missing_tensor_is_not_made_up(saved: tuple[PreTrainedModel, Path]) -> None:
    _, folder = saved
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.0.mlp.down_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RecipeError, match="down_proj"):
        checkpoints.load_model(folder, torch.float32, CPU)


def test_an_unknown_architecture_is_the_recipes_fault(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "of_the_future"}')
    with pytest.raises(RecipeError, match="of_the_future"):
        checkpoints.load_config(tmp_path)


@pytest.mark.parametrize(
    ("status", "kind"), [(401, RecipeError), (404, RecipeError), (429, Transient), (503, Transient), (None, Transient)]
)
def test_the_hubs_answers_are_classed(status: int | None, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        if status is None:
            raise LocalEntryNotFoundError("no network")
        request = httpx2.Request("GET", "http://hub")
        raise HfHubHTTPError("no", response=httpx2.Response(status, request=request))

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(kind):
        checkpoints.locate(ModelSettings(source="owner/name"), Places())


@pytest.fixture
def aligned(tmp_path: Path) -> Path:
    """A float32 checkpoint whose tensors all start at a multiple of 64 bytes."""
    tiny_llama().save_pretrained(tmp_path / "aligned")
    return shifted(tmp_path / "aligned", 0)


def shifted(folder: Path, offset_bytes: int) -> Path:
    """The folder, its tensors moved to so many bytes behind a multiple of 64: a header may be padded with spaces."""
    file = folder / "model.safetensors"
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length].rstrip(b" ")
    header += b" " * ((offset_bytes - 8 - len(header)) % 64)
    file.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])
    return folder


def mapped_bytes(model: PreTrainedModel, folder: Path) -> int:
    """Bytes of parameters that lie in a mapping of the folder's file."""
    ranges = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(str(folder / "model.safetensors")):
            start, stop = line.split()[0].split("-")
            ranges.append((int(start, 16), int(stop, 16)))
    weights = list(model.parameters())
    return sum(weight.nbytes for weight in weights if any(low <= weight.data_ptr() < high for low, high in ranges))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells what is mapped")
def test_a_teacher_stays_in_the_file(aligned: Path) -> None:
    teacher = checkpoints.load_teacher(aligned, CPU)
    assert mapped_bytes(teacher, aligned) == sum(weight.nbytes for weight in teacher.parameters())
    assert mapped_bytes(checkpoints.load_model(aligned, torch.float32, CPU), aligned) == 0
    assert not teacher.training and not any(weight.requires_grad for weight in teacher.parameters())


@pytest.mark.parametrize("offset_bytes", [0, 8, 16, 40])
def test_a_teacher_answers_as_the_model_does_to_the_last_bit(offset_bytes: int, aligned: Path) -> None:
    ids = torch.arange(60).view(2, 30)
    wanted = checkpoints.load_model(aligned, torch.float32, CPU).eval()(ids).logits
    given = checkpoints.load_teacher(shifted(aligned, offset_bytes), CPU)
    assert torch.equal(wanted, given(ids).logits)
    assert all(weight.data_ptr() % 64 == 0 for weight in given.parameters())
