"""Tensors on disk, as safetensors files: https://github.com/huggingface/safetensors#format

`save` and `load` write and read a dict of Tensors; `save_each` and `entries` do so one Tensor at a time, for models
that do not fit in memory twice. A file is checked completely before it is used and replaced only by a complete one.
Pickles (.pt, .bin, .ckpt) are refused, because loading one can run any code, as are dtypes that Tensors do not have.

The safetensors library checks the header; the few malformed files that it accepts are refused here. Values are read
here, because the library (0.8) maps the whole file in addition to the arrays. Files are written here, because the
library writes wrong bytes for arrays that are not C-contiguous, orders the metadata differently in each run, replaces
symlinks, makes files that only their owner can read, and does not call fsync. Here the same Tensors give the same
bytes.
"""

import json
import math
import os
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .backend import Array, bfloat16, float32, is_array, to_device, to_host
from .files import StrPath, check_path, check_regular, naming, replacing
from .tensor import Tensor

DTYPES = {  # a Tensor's dtype -> its name in a file
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
HEADER_LIMIT = 100_000_000  # bytes; readers refuse more


# ----- writing ----------------------------------------------------------------------------------------------------


def save(path: StrPath, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write named Tensors, and strings about them, to a safetensors file.

    The file at `path` is replaced completely or not at all (see `files.replacing`). Tensors may have any strides and be
    on any device. TypeError for what is not a Tensor or has a dtype that the format does not have.
    """
    if isinstance(path, Mapping) and not isinstance(tensors, Mapping):
        raise TypeError("save: the path comes first, then the Tensors: tl.io.save(path, tensors)")
    check_path("save", path)
    if not isinstance(tensors, Mapping):
        advice = "model.state_dict()" if hasattr(tensors, "state_dict") else '{"name": tensor}'
        raise TypeError(f"save: tensors must be a dict of names and Tensors, {advice}, not {type(tensors).__name__}")
    arrays = {name: _writable(name, x) for name, x in tensors.items()}
    save_each(path, {name: (x.dtype, x.shape) for name, x in arrays.items()}, arrays.__getitem__, metadata)


def save_each(
    path: StrPath,
    kinds: Mapping[str, tuple[np.dtype, tuple[int, ...]]],
    make: Callable[[str], Tensor],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """`save` with one Tensor in memory at a time: `kinds` has each one's dtype and shape, and `make(name)` makes it.

    `make` is called once per name, just before it is written, and its result is not kept. ValueError where that has
    another dtype or shape than `kinds` says.
    """
    check_path("save", path)
    if metadata and (wrong := [k for k, v in metadata.items() if not (isinstance(k, str) and isinstance(v, str))]):
        raise TypeError(f"save: metadata maps strings to strings; {wrong[0]!r} maps to {metadata[wrong[0]]!r:.80}")
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in sorted(kinds, key=lambda name: (-kinds[name][0].itemsize, name)):  # so that all are aligned
        dtype, shape = kinds[name]
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": DTYPES[dtype.name], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > HEADER_LIMIT:
        raise ValueError(f"save: names and metadata take {len(text)} bytes; the format allows {HEADER_LIMIT}")
    with replacing(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in [name for name in header if name != "__metadata__"]:
            x = np.asarray(to_host(_writable(name, make(name))), order="C")  # ascontiguousarray gives 0-d an axis
            if (x.dtype, x.shape) != (kinds[name][0], tuple(kinds[name][1])):
                raise ValueError(f"save: {name!r} was to be {kinds[name]}, and is {x.dtype} of shape {x.shape}")
            x = x.astype(x.dtype.newbyteorder("<")) if x.dtype.str[0] == ">" else x
            file.write(x.reshape(-1).view(np.uint8).data)


def _writable(name: str, x: Any) -> Array:
    """The array of a Tensor, after checking that it can be written under `name`."""
    x = x.data if isinstance(x, Tensor) else x
    if not isinstance(name, str) or name == "__metadata__":
        raise TypeError(f"save: {name!r} cannot be the name of a Tensor: give another string")
    if not is_array(x):
        raise TypeError(f"save: {name!r} must be a Tensor, not {type(x).__name__}")
    if x.dtype.name not in DTYPES:
        raise TypeError(f"save: {name!r} has dtype {x.dtype}, which the format lacks; it has {', '.join(DTYPES)}")
    return x


# ----- reading ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """A Tensor in a file, not read yet: its position (C order, little-endian), dtype and shape."""

    path: Path  # of the file
    name: str  # for errors
    dtype: str  # "float32"; of a dtype that Tensors do not have, the format's name, "F8_E5M2"
    shape: tuple[int, ...]
    offset: int  # of its first byte in the file

    def read(self, device: str | None = None) -> Tensor:
        """Read the Tensor, on `device` (None: the default device). Errors as `load`."""
        with naming(self.path), open(self.path, "rb") as file:
            return Tensor(to_device(self._array(file), device))

    def read_float32(self, device: str | None = None) -> Tensor:
        """Read a Tensor of float32, float16 or bfloat16 (which needs no ml_dtypes here), exactly, as float32.

        TypeError for any other dtype.
        """
        with naming(self.path), open(self.path, "rb") as file:
            if self.dtype == "bfloat16":  # the upper half of a float32's bits
                x = (replace(self, dtype="uint16")._array(file).astype(np.uint32) << 16).view(float32)
            elif self.dtype in ("float16", "float32"):
                x = self._array(file).astype(float32, copy=False)
            else:
                raise TypeError(f"{self.name!r} is {self.dtype}, which does not become float32 exactly")
        return Tensor(to_device(x, device))

    def read_into(self, out: np.ndarray) -> None:
        """Read the values into a C-contiguous array of this dtype and shape, without a copy. Errors as `load`."""
        if sys.byteorder != "little":
            out[...] = self.read("cpu").data
            return
        with naming(self.path), open(self.path, "rb") as file:
            file.seek(self.offset)
            if file.readinto(out.reshape(-1).view(np.uint8).data) < out.nbytes:
                raise _error(self.path, f"it ends inside {self.name!r}")

    def _array(self, file: BinaryIO) -> np.ndarray:
        if self.dtype not in DTYPES:
            raise _error(
                self.path, f"{self.name!r} has dtype {self.dtype}, which Tensors do not have: convert it first"
            )
        dtype = bfloat16() if self.dtype == "bfloat16" else np.dtype(self.dtype)
        stored = dtype if dtype.itemsize == 1 or sys.byteorder == "little" else dtype.newbyteorder("<")
        file.seek(self.offset)
        x = np.fromfile(file, stored, math.prod(self.shape))
        if x.size < math.prod(self.shape):
            raise _error(self.path, f"it ends inside {self.name!r}")
        try:
            return x.reshape(self.shape).astype(dtype, copy=False)
        except (ValueError, OverflowError) as error:
            shape = f"{list(self.shape)!r:.80}"
            raise _error(self.path, f"{self.name!r} has a shape that NumPy cannot hold: {shape}") from error


def load(path: StrPath, device: str | None = None) -> dict[str, Tensor]:
    """The Tensors of a safetensors file by name, in the order of the file, on `device` (None: the default device).

    ValueError says what is wrong with a file that does not follow the format, or that holds a dtype that Tensors do not
    have; OSError for a file that cannot be read. bfloat16 needs the ml_dtypes package (ImportError).
    """
    with _opened(path) as (file, found, _):
        return {name: Tensor(to_device(entry._array(file), device)) for name, entry in found.items()}


def entries(path: StrPath) -> dict[str, Entry]:
    """The entries of a safetensors file by name, in the order of the file, without reading any values.

    The header is checked as by `load`, with the same errors.
    """
    with _opened(path) as (_, found, _):
        return found


def metadata(path: StrPath) -> dict[str, str]:
    """The metadata of a safetensors file: names and strings; {} where there are none. Errors as `load`."""
    with _opened(path) as (_, _, strings):
        return strings


@contextmanager
def _opened(path: StrPath) -> Iterator[tuple[BinaryIO, dict[str, Entry], dict[str, str]]]:
    """The opened file, its entries and its metadata, after its header was checked."""
    import safetensors  # imported here, so that `import tensorlite` stays fast

    check_path("load", path)
    check_regular(path)
    with naming(path), open(path, "rb") as file:  # raises for a missing path or a folder
        start = file.read(8)
        try:
            with safetensors.safe_open(path, framework="np"):
                pass  # opening checks the whole header against the file's length
        except (safetensors.SafetensorError, OSError) as error:
            raise _error(
                path, numpy_advice(path, start) or pickle_advice(start) or pointer_advice(path) or str(error)
            ) from error
        length = struct.unpack("<Q", start)[0]
        text = file.read(length)
        if not text.startswith(b"{"):
            raise _error(path, "its header does not start with '{'")
        header = json.loads(text, object_pairs_hook=lambda pairs: _without_duplicates(path, pairs))
        strings = header.pop("__metadata__", None) or {}
        words = {word: name for name, word in DTYPES.items()}
        found = [
            Entry(
                Path(path),
                name,
                words.get(e["dtype"], e["dtype"]),
                tuple(e["shape"]),
                8 + length + e["data_offsets"][0],
            )
            for name, e in header.items()
        ]
        yield file, {entry.name: entry for entry in sorted(found, key=lambda entry: entry.offset)}, strings


def _without_duplicates(path: StrPath, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = set()
    for name, _ in pairs:
        if name in names:
            raise _error(path, f"its header has {name!r} twice")
        names.add(name)
    return dict(pairs)


def pickle_advice(start: bytes) -> str:
    """The advice for a file that starts like a pickle, plain or in PyTorch's zip; '' for all others."""
    if not start.startswith((b"\x80", b"PK\x03\x04")):
        return ""
    return (
        "it looks like a pickle, which can run any code when it is loaded; if you trust it, convert it where torch is "
        "installed: safetensors.torch.save_file(torch.load(path, weights_only=True), 'model.safetensors')"
    )


def numpy_advice(path: StrPath, start: bytes) -> str:
    """The advice for a file of np.save or np.savez; '' for all others."""
    zipped = start.startswith(b"PK\x03\x04") and os.fspath(path).endswith(".npz")
    return "it is in NumPy's format: read it with np.load" if zipped or start.startswith(b"\x93NUMPY") else ""


def pointer_advice(path: StrPath) -> str:
    """The advice for a pointer file of Git LFS; '' for all others."""
    with open(path, "rb") as file:
        pointer = file.read(24) == b"version https://git-lfs."
    return "it is a pointer of Git LFS and not the file itself: `git lfs pull` fetches that" if pointer else ""


def _error(path: StrPath, reason: str) -> ValueError:
    return ValueError(f"{os.fspath(path)} is not a safetensors file that can be used: {reason}")
