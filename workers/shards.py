"""Write weights as safetensors files one tensor after the other, so that exporting holds one tensor, not one model.

The library that reads these files writes them too, but from tensors that all lie in memory. A file is the length of
its header (8 bytes, little-endian), the header, a JSON object with the type, shape and byte range of every tensor,
and the bytes themselves.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from torch import Tensor

TYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
"""The element types that are exported, as safetensors writes them."""

_ALIGNMENT_BYTES = 64
"""The first tensor starts at a multiple of this, where torch would let one start."""


def write_shards(
    outlines: Mapping[str, Tensor], tensor_of: Callable[[str], Tensor], folder: Path, most_bytes: int
) -> None:
    """Write `model.safetensors`, or several files and their index where one would be larger than `most_bytes`.

    Args:
        outlines: type and shape of each tensor by its name in the file, on the device `meta`.
        tensor_of: asked for each name once, in that order; the tensor is cast, written and let go.
    Raises:
        ValueError: a tensor has another shape than its outline.
    """
    split = split_torch_state_dict_into_shards(dict(outlines), max_shard_size=most_bytes)
    for file, names in split.filename_to_tensors.items():
        _write_file(folder / file, {name: outlines[name] for name in names}, tensor_of)
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        text = json.dumps(index, indent=2, sort_keys=True)
        (folder / "model.safetensors.index.json").write_text(f"{text}\n", "utf-8")


def _write_file(file: Path, outlines: Mapping[str, Tensor], tensor_of: Callable[[str], Tensor]) -> None:
    with file.open("wb") as stream:
        stream.write(_header(outlines.items()))
        for name, outline in outlines.items():
            tensor = tensor_of(name).detach()
            if tensor.shape != outline.shape:
                raise ValueError(f"{name} has shape {list(tensor.shape)}, the config says {list(outline.shape)}")
            cast = tensor.to("cpu", outline.dtype).contiguous()
            stream.write(cast.flatten().view(torch.uint8).numpy().data)


def _header(outlines: Iterable[tuple[str, Tensor]]) -> bytes:
    """The header's length and the header, padded with spaces."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, outline in outlines:
        start, end = end, end + outline.numel() * outline.element_size()
        entries[name] = {"dtype": TYPES[outline.dtype], "shape": list(outline.shape), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT_BYTES)
    return len(text).to_bytes(8, "little") + text
