"""Tensors on disk: safetensors, and nothing that can run code.

One idea: a file is believed only after it was checked, and is replaced only by a whole one. Reading goes through the
safetensors library, which refuses nearly everything that is malformed; what it lets pass is refused here. Writing is
done here: the library (0.8) writes wrong bytes for arrays that are not C-contiguous, orders the metadata anew in each
run, replaces symlinks, makes files that only their owner can read, and does not fsync. Here the same Tensors give
the same bytes.

What it refuses: pickles (.pt, .bin, .ckpt), whatever their name, and dtypes that a Tensor cannot have.
Format: https://github.com/huggingface/safetensors#format
"""

import json
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from .backend import bfloat16, is_array, to_device, to_host
from .files import replacing
from .tensor import Tensor

DTYPES = {  # a Tensor's dtype -> its name in a file
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
HEADER_LIMIT = 100_000_000  # bytes; readers refuse more


# ----- writing ----------------------------------------------------------------------------------------------------


def save(path: str | os.PathLike, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write named Tensors, and strings about them, to a safetensors file.

    The file at `path` is replaced whole or not at all (see `files.replacing`). Any strides are fine, and any device.
    TypeError for what is no Tensor or has a dtype that the format lacks.
    """
    arrays = {name: _writable(name, x) for name, x in tensors.items()}
    arrays = dict(
        sorted(arrays.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    )  # so that all are aligned
    header: dict[str, Any] = {}
    if metadata:
        if wrong := [k for k, v in metadata.items() if not (isinstance(k, str) and isinstance(v, str))]:
            raise TypeError(f"save: metadata maps strings to strings; {wrong[0]!r} maps to {metadata[wrong[0]]!r:.80}")
        header["__metadata__"] = dict(metadata)
    end = 0
    for name, x in arrays.items():
        begin, end = end, end + x.nbytes
        header[name] = {"dtype": DTYPES[x.dtype.name], "shape": list(x.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > HEADER_LIMIT:
        raise ValueError(f"save: names and metadata take {len(text)} bytes; the format allows {HEADER_LIMIT}")
    with replacing(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for x in arrays.values():
            x = np.asarray(to_host(x), order="C")  # not ascontiguousarray, which gives a 0-d array an axis
            x = x.astype(x.dtype.newbyteorder("<")) if x.dtype.str[0] == ">" else x
            file.write(x.reshape(-1).view(np.uint8).data)


def _writable(name: str, x) -> Any:
    """The array of a Tensor that can be written under `name`."""
    x = x.data if isinstance(x, Tensor) else x
    if not isinstance(name, str) or name == "__metadata__":
        raise TypeError(f"save: {name!r} cannot be the name of a Tensor: give another string")
    if not is_array(x):
        raise TypeError(f"save: {name!r} is no Tensor but {type(x).__name__}")
    if x.dtype.name not in DTYPES:
        raise TypeError(f"save: {name!r} has dtype {x.dtype}, which the format lacks; it has {', '.join(DTYPES)}")
    return x


# ----- reading ----------------------------------------------------------------------------------------------------


def load(path: str | os.PathLike, device: str | None = None) -> dict[str, Tensor]:
    """The Tensors of a safetensors file by name, in the order of their bytes, each in memory of its own.

    ValueError says in a sentence what is wrong with a file that is not exactly as the format asks, or that holds a
    dtype that Tensors do not have. bfloat16 needs the ml_dtypes package (ImportError).
    """
    tensors = {}
    with _opened(path) as (file, entries, _):
        for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
            if entry["dtype"] == "BF16":
                bfloat16()  # makes the dtype known to NumPy, or says what to install
            elif entry["dtype"] not in DTYPES.values():
                raise _error(path, f"{name!r} has dtype {entry['dtype']}, which Tensors do not have: convert it first")
            try:
                array = file.get_tensor(name)
            except (ValueError, OverflowError) as error:
                raise _error(path, f"{name!r} has a shape that NumPy cannot hold: {entry['shape']!r:.80}") from error
            tensors[name] = Tensor(to_device(array, device))
    return tensors


def metadata(path: str | os.PathLike) -> dict[str, str]:
    """The strings that are stored beside the Tensors of a safetensors file ({} where there are none)."""
    with _opened(path) as (_, _, strings):
        return strings


@contextmanager
def _opened(path: str | os.PathLike) -> Iterator[tuple[Any, dict[str, dict], dict[str, str]]]:
    """The file as the library opens it; {name: {"dtype", "shape", "data_offsets"}}; the metadata. All checked."""
    import safetensors  # here, so that `import tensorlite` does not wait for it

    with open(path, "rb") as raw:  # the errors of a path that is missing, a folder or not readable come from here
        start = raw.read(8)
        try:
            file = safetensors.safe_open(path, framework="np")
        except (safetensors.SafetensorError, OSError) as error:
            raise _error(path, _pickle_advice(start) or str(error)) from error
        text = raw.read(struct.unpack("<Q", start)[0])
    if not text.startswith(b"{"):
        raise _error(path, "its header does not start with '{'")
    header = json.loads(text, object_pairs_hook=lambda pairs: _without_duplicates(path, pairs))
    strings = header.pop("__metadata__", None) or {}
    with file:
        yield file, header, strings


def _without_duplicates(path: str | os.PathLike, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = set()
    for name, _ in pairs:
        if name in names:
            raise _error(path, f"its header has {name!r} twice")
        names.add(name)
    return dict(pairs)


def _pickle_advice(start: bytes) -> str:
    """What to do with a file that starts like a pickle, bare or in torch's zip; '' for all others."""
    if not start.startswith((b"\x80", b"PK\x03\x04")):
        return ""
    return (
        "it looks like a pickle, which can run any code when it is loaded; if you trust it, convert it where torch is "
        "installed: safetensors.torch.save_file(torch.load(path, weights_only=True), 'model.safetensors')"
    )


def _error(path: str | os.PathLike, reason: str) -> ValueError:
    return ValueError(f"{os.fspath(path)} is not a safetensors file that can be used: {reason}")
