"""Where each weight lies in a model's safetensors files. Owns the reading of their headers, and distrusts
them; must not read the weights themselves: ONNX Runtime maps those bytes from the same files."""

from __future__ import annotations

import math
import re
from pathlib import Path

import msgspec

from embedmill.errors import ConfigurationError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

BYTES_OF_DTYPE = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8,
}  # fmt: skip

_LONGEST_HEADER = 100_000_000  # the format's own limit


class StoredTensor(msgspec.Struct, frozen=True):
    """A tensor at rest: `offset` and `size` in bytes, counted from the start of `path`."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int


class _Entry(msgspec.Struct):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def read_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Find every tensor of a model folder by its name, over one file or the shards of an index.

    Raises ConfigurationError where the weights are missing, damaged, or in another format.
    """
    tensors: dict[str, StoredTensor] = {}
    for path in _weight_files(folder):
        tensors.update(_read_header(path))
    return tensors


def _weight_files(folder: Path) -> list[Path]:
    single, index = folder / SINGLE_FILE, folder / INDEX_FILE
    if single.is_file():
        return [single]
    if index.is_file():
        try:
            shards = sorted(set(msgspec.json.decode(index.read_bytes(), type=_Index).weight_map.values()))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{index} cannot be read: {error}; fetch the model anew.") from error
        for shard in shards:
            if not re.fullmatch(r"[\w.-]+", shard) or not (folder / shard).is_file():
                raise ConfigurationError(f"{index} names the weights {shard!r}, which are not beside it.")
        return [folder / shard for shard in shards]
    other = " (it has weights in PyTorch's own format: convert them)" if any(folder.glob("*.bin")) else ""
    raise ConfigurationError(f"{folder} has no {SINGLE_FILE}{other}; save the model as safetensors.")


def _read_header(path: Path) -> dict[str, StoredTensor]:
    # Resolved, because the hub's cache holds links to blobs and ONNX Runtime refuses to follow a link out.
    path = path.resolve()
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(_LONGEST_HEADER, size - 8):
            raise _damaged(path, "its header does not fit the file")
        raw = file.read(length)
    try:
        entries = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
        entries.pop("__metadata__", None)
        decoded = {name: msgspec.json.decode(entry, type=_Entry) for name, entry in entries.items()}
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _damaged(path, f"its header is not valid ({error})") from error
    return {name: _placed(path, name, entry, 8 + length, size) for name, entry in decoded.items()}


def _placed(path: Path, name: str, entry: _Entry, base: int, file_size: int) -> StoredTensor:
    begin, end = entry.data_offsets
    item_size = BYTES_OF_DTYPE.get(entry.dtype)
    if item_size is not None and end - begin != item_size * math.prod(entry.shape):
        raise _damaged(path, f"the size of {name} does not fit its shape")
    if min((0, *entry.shape)) < 0 or not 0 <= begin <= end <= file_size - base:
        raise _damaged(path, f"{name} lies outside the file")
    return StoredTensor(path, entry.dtype, entry.shape, base + begin, end - begin)


def _damaged(path: Path, what: str) -> ConfigurationError:
    return ConfigurationError(f"{path} is not a whole safetensors file: {what}; fetch the model anew.")
