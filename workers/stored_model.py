"""A checkpoint folder as its files describe it, read without torch: tensors, types, sizes, digests, config.

A safetensors file starts with the length of its header (8 bytes, little-endian), then comes the header, a JSON object
with the type, shape and byte range of every tensor, then the bytes themselves.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

from workers.errors import RecipeError
from workers.models.family import family_named

TOKENIZER_FILES = [
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "spiece.model", "chat_template.jinja"),
]

_FIELD = "model.source"
_LENGTH_BYTES = 8
_LARGEST_HEADER_BYTES = 100_000_000
_PIECE_BYTES = 4 * 1024 * 1024
_SETTLED_SECONDS = 2.0
"""A file that was written more recently may be written again without its time stamp telling."""

_REMEMBERED = 64
_NO_PARAMETER = "rotary_emb.inv_freq"
"""A buffer that old exports have among their weights."""


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies, and what it is."""

    dtype: str
    """As safetensors writes it: `F32`, `BF16`."""
    shape: tuple[int, ...]
    file: Path
    start_bytes: int
    """Offset of its first byte in the file."""
    size_bytes: int

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers loads: those of the index, else the one file, else whatever there is.

    Raises:
        RecipeError: the index cannot be read, or names a file that is not in the folder.
    """
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        single = folder / "model.safetensors"
        return [single] if single.is_file() else sorted(folder.glob("*.safetensors"))
    try:
        names = sorted({str(name) for name in json.loads(index.read_text("utf-8"))["weight_map"].values()})
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise RecipeError(_FIELD, f"{index.name} cannot be read: {error!r}; download the model again") from error
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise RecipeError(_FIELD, f"{index.name} names {name}, which is not in the folder; download it too")
    return [folder / name for name in names]


def tensors(folder: Path) -> dict[str, StoredTensor]:
    """The tensors of a checkpoint by name, in the order of names. Reads headers only.

    Raises:
        RecipeError: a file is no safetensors file, or is cut short.
    """
    found = {name: tensor for file in weight_files(folder) for name, tensor in _header(file).items()}
    if not found:
        raise RecipeError(_FIELD, "its safetensors files hold no tensor; download the model again")
    return dict(sorted(found.items()))


def parameters(folder: Path) -> dict[str, StoredTensor]:
    """As `tensors`, without the buffers of old exports. A tied tensor is stored once.

    Raises:
        RecipeError: see `tensors`.
    """
    return {name: tensor for name, tensor in tensors(folder).items() if not name.endswith(_NO_PARAMETER)}


def count_parameters(folder: Path) -> int:
    """Number of stored elements that are parameters."""
    return sum(tensor.elements for tensor in parameters(folder).values())


def stored_bytes(folder: Path) -> int:
    """Bytes of the safetensors files."""
    return sum(file.stat().st_size for file in weight_files(folder))


def stored_dtype(folder: Path, asked: str) -> str:
    """The element type to export, as torch names it: the one asked for, or for `auto` that of most stored elements."""
    if asked != "auto":
        return asked
    elements: Counter[str] = Counter()
    for tensor in tensors(folder).values():
        elements[tensor.dtype] += tensor.elements
    return {"F16": "float16", "BF16": "bfloat16"}.get(elements.most_common(1)[0][0], "float32")


def weights_digest(folder: Path) -> str:
    """SHA-256 over every tensor's name, type, shape and bytes, in the order of names: independent of sharding.

    Files that did not change since this process read them are not read again.

    Raises:
        RecipeError: see `tensors`.
    """
    identity = tuple(_identity(file) for file in weight_files(folder))
    with _DIGESTS_LOCK:
        known = _DIGESTS.get(identity)
    if known is not None:
        return known
    made = _weights_digest(tensors(folder))
    is_settled = all(time.time_ns() - modified_ns > _SETTLED_SECONDS * 1e9 for _, _, modified_ns, _ in identity)
    if is_settled and identity == tuple(_identity(file) for file in weight_files(folder)):
        with _DIGESTS_LOCK:
            while len(_DIGESTS) >= _REMEMBERED:
                del _DIGESTS[next(iter(_DIGESTS))]
            _DIGESTS[identity] = made
    return made


def folder_digest(folder: Path) -> str:
    """SHA-256 over what decides a model's behaviour: weights, config and tokenizer files.

    Raises:
        RecipeError: see `tensors`.
    """
    digest = hashlib.sha256(weights_digest(folder).encode())
    for name in sorted(["config.json", *TOKENIZER_FILES]):
        file = folder / name
        if file.is_file():
            digest.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


class PlainConfig(SimpleNamespace):
    """A config's fields as attributes. One that is asked for and missing raises AttributeError, with its name."""


def plain_config(folder: Path) -> PlainConfig:
    """The fields of config.json, over the family's defaults, as attributes: what a `ModelFamily` asks of a config.

    Raises:
        RecipeError: it cannot be read, or no family knows its architecture.
    """
    try:
        fields = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RecipeError(_FIELD, f"{folder.name}/config.json cannot be read: {error}") from error
    if not isinstance(fields, dict):
        raise RecipeError(_FIELD, f"{folder.name}/config.json holds no object; name a Hugging Face checkpoint folder")
    family = family_named(fields.get("model_type"))
    return PlainConfig(**{**family.defaults, **fields})


_Identity = tuple[Path, int, int, int]
"""A file's path, size, time of change in nanoseconds and inode: as long as they stay, so do its bytes."""

_DIGESTS: dict[tuple[_Identity, ...], str] = {}
_DIGESTS_LOCK = threading.Lock()


def _identity(file: Path) -> _Identity:
    status = file.stat()
    return file.resolve(), status.st_size, status.st_mtime_ns, status.st_ino


def _weights_digest(found: dict[str, StoredTensor]) -> str:
    """Reads in pieces: a tensor may be larger than the memory that is left."""
    digest = hashlib.sha256()
    piece = memoryview(bytearray(_PIECE_BYTES))
    streams: dict[Path, BinaryIO] = {}
    try:
        for name, tensor in found.items():
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            if tensor.file not in streams:
                streams[tensor.file] = tensor.file.open("rb", buffering=0)
            stream, left = streams[tensor.file], tensor.size_bytes
            stream.seek(tensor.start_bytes)
            while left:
                count = stream.readinto(piece[: min(left, _PIECE_BYTES)])  # type: ignore[attr-defined]  # raw
                if not count:
                    raise RecipeError(_FIELD, f"{tensor.file.name} became shorter while it was read; try again")
                digest.update(piece[:count])
                left -= count
    finally:
        for stream in streams.values():
            stream.close()
    return digest.hexdigest()


def _header(file: Path) -> dict[str, StoredTensor]:
    """What one file's header says, checked against the file's size."""
    try:
        with file.open("rb") as stream:
            length_bytes = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
            start, end = _LENGTH_BYTES + length_bytes, file.stat().st_size
            if not 0 < length_bytes <= min(_LARGEST_HEADER_BYTES, end - _LENGTH_BYTES):
                raise ValueError("no header is where one should be")
            header = json.loads(stream.read(length_bytes))
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        return {name: _tensor(entry, file, start, end) for name, entry in entries.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        message = f"{file.name} is no whole safetensors file ({error}); download it again"
        raise RecipeError(_FIELD, message) from error


def _tensor(entry: dict[str, Any], file: Path, start_bytes: int, end_bytes: int) -> StoredTensor:
    first, last = (int(offset) for offset in entry["data_offsets"])
    shape = tuple(int(length) for length in entry["shape"])
    if not 0 <= first <= last <= end_bytes - start_bytes or any(length < 0 for length in shape):
        raise ValueError("a tensor lies outside the file")
    return StoredTensor(str(entry["dtype"]), shape, file, start_bytes + first, last - first)
