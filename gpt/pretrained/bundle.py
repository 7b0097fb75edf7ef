"""TensorFlow's checkpoints (its "tensor bundle"), read without TensorFlow.

A bundle consists of an index and one or more data files. The index is a table in LevelDB's format: blocks of sorted
keys and values, an index block with the places of the blocks, and a footer with the position of the index block. A
value is a protocol buffer with the dtype, shape, data file, offset and checksum of one Tensor. The data are the
Tensors' values, little-endian, in C order. Every checksum is a masked CRC-32C, and is compared before use.

Not supported: compressed blocks, Tensors cut into slices, and bundles of big-endian machines.
Formats: https://github.com/google/leveldb/blob/main/doc/table_format.md, tensorflow/core/util/tensor_bundle and
tensorflow/core/protobuf/tensor_bundle.proto, https://protobuf.dev/programming-guides/encoding.
"""

import math
import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import google_crc32c

from tensorlite.files import check_regular
from tensorlite.io import Entry

MAGIC = 0xDB4775248B80FB57
FOOTER = 48  # bytes: the positions of two blocks, padded with zeros, and the magic number
DTYPES = {
    1: ("float32", 4),
    2: ("float64", 8),
    3: ("int32", 4),
    9: ("int64", 8),
    14: ("bfloat16", 2),
    19: ("float16", 2),
}
PIECE = 1 << 20  # bytes of data in memory while checksums are computed
LONGEST = 512  # bytes of a name: names share their beginnings, so a small index can hold very many long ones
MOST_AXES = 32


def entries(prefix: Path) -> dict[str, Entry]:
    """The Tensors of the bundle PREFIX.index, PREFIX.data-00000-of-00001, ..., by name, with all checksums verified.

    ValueError names the file that is damaged or cannot be read, FileNotFoundError the one that is missing.
    """
    index = prefix.with_name(prefix.name + ".index")
    check_regular(index)
    data = index.read_bytes()
    try:
        found = dict(_table(data))
        header = _fields(found.pop(b""))
        shards = _one(header, 1, 0)
        if _one(header, 2, 0):
            raise ValueError("it was written on a big-endian machine")
        files = [prefix.with_name(f"{prefix.name}.data-{i:05d}-of-{shards:05d}") for i in range(min(shards, 1000))]
        named = {key.decode(): _fields(value) for key, value in found.items()}
        places = {name: _entry(name, message, files) for name, message in named.items()}
        _check_sizes(places.values())
        for name, entry in places.items():
            _check_data(entry, _one(named[name], 5, 0), _one(named[name], 6, 0))
        return places
    except (LookupError, struct.error, TypeError, UnicodeDecodeError):
        raise ValueError(f"{index} is not the index of a TensorFlow checkpoint, or it is damaged") from None
    except ValueError as error:
        raise ValueError(f"{index} cannot be used: {error}") from None


def _entry(name: str, message: dict[int, list[Any]], files: list[Path]) -> Entry:
    """The Tensor that a BundleEntryProto describes."""
    if message[7]:
        raise ValueError(f"{name} is cut into slices (a partitioned variable): save it whole")
    dtype, itemsize = DTYPES.get(_one(message, 1, 0), (f"number {_one(message, 1, 0)} of TensorFlow", 0))
    dims = _fields(_one(message, 2, b""))[2]
    if len(dims) > MOST_AXES:
        raise ValueError(f"{name} has {len(dims):,} axes, and at most {MOST_AXES} can be read")
    shape = tuple(_one(_fields(dim), 1, 0) for dim in dims)
    file, offset, size = files[_one(message, 3, 0)], _one(message, 4, 0), _one(message, 5, 0)
    check_regular(file)
    if itemsize and math.prod(shape) * itemsize != size:
        raise ValueError(f"{name} has {size} bytes, which are not {shape} of {dtype}")
    if file.stat().st_size < offset + size:
        raise ValueError(f"{file} is cut off: {name} ends at byte {offset + size:,} of {file.stat().st_size:,}")
    return Entry(file, name, dtype, shape, offset)


def _check_sizes(entries: Iterable[Entry]) -> None:
    """ValueError where the Tensors of a file are together larger than the file: they overlap."""
    taken: dict[Path, int] = defaultdict(int)
    for entry in entries:
        taken[entry.path] += math.prod(entry.shape)  # elements, which have at least a byte
    for file, size in taken.items():
        if size > file.stat().st_size:
            raise ValueError(f"the Tensors in {file} overlap: it is damaged, fetch it again")


def _check_data(entry: Entry, size: int, checksum: int) -> None:
    """ValueError where the `size` bytes of a Tensor do not match its checksum."""
    crc = 0
    with open(entry.path, "rb") as opened:
        opened.seek(entry.offset)
        for start in range(0, size, PIECE):
            crc = google_crc32c.extend(crc, opened.read(min(PIECE, size - start)))
    if _masked(crc) != checksum:
        raise ValueError(f"the checksum of {entry.name} in {entry.path} is wrong: it is damaged, fetch it again")


def _masked(crc: int) -> int:
    """LevelDB's mask of a checksum, used because a CRC of data that contain CRCs is weak."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


# ----- LevelDB's table --------------------------------------------------------------------------------------------


def _table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values in the order of the keys."""
    if len(data) < FOOTER or struct.unpack("<Q", data[-8:])[0] != MAGIC:
        raise ValueError("it is not a LevelDB table, or it is cut off")
    footer = data[-FOOTER:-8]
    unused, unused_size, at = _handle(footer, 0)  # the block of filters: read for its checksum only
    begin, size, at = _handle(footer, at)
    if footer[at:].strip(b"\0") or any(True for _ in _block(data, unused, unused_size)):
        raise ValueError("its footer is not as TensorFlow writes it: it is damaged, fetch it again")
    last: bytes | None = None
    for _, handle in _block(data, begin, size):
        begin, size, _ = _handle(handle, 0)
        for key, value in _block(data, begin, size):
            if last is not None and key <= last:  # as where one block is listed many times
                raise ValueError("its names are not in order: it is damaged, fetch it again")
            yield key, value
            last = key


def _block(data: bytes, begin: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block. Each key is stored without the beginning that it shares with the key before."""
    contents, kind, checksum = data[begin : begin + size], data[begin + size], data[begin + size + 1 : begin + size + 5]
    if _masked(google_crc32c.value(data[begin : begin + size + 1])) != struct.unpack("<I", checksum)[0]:
        raise ValueError("the checksum of a block does not match: it is damaged, fetch it again")
    if kind != 0:
        raise ValueError(f"it has a compressed block (kind {kind}): save the checkpoint without compression")
    restarts = struct.unpack("<I", contents[-4:])[0]
    at, end, key = 0, len(contents) - 4 * (restarts + 1), b""
    while at < end:
        shared, at = _varint(contents, at)
        own, at = _varint(contents, at)
        length, at = _varint(contents, at)
        if shared + own > LONGEST:
            raise ValueError(f"it has a name of {shared + own:,} bytes, and at most {LONGEST} can be read")
        key = key[:shared] + contents[at : at + own]
        yield key, contents[at + own : at + own + length]
        at += own + length


def _handle(data: bytes, at: int) -> tuple[int, int, int]:
    """The start of a block, its size, and the position in `data` after these two numbers."""
    begin, at = _varint(data, at)
    size, at = _varint(data, at)
    return begin, size, at


# ----- protocol buffers -------------------------------------------------------------------------------------------


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number that begins at `at`, seven bits in each byte, and where it ends; IndexError for more than 64 bits."""
    value = shift = 0
    while True:
        if shift > 63:
            raise IndexError("a number has at most ten bytes")
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _fields(message: bytes) -> dict[int, list[Any]]:
    """The values of a message by field number, a list of all occurrences each; [] for a field that is absent."""
    found: dict[int, list[Any]] = defaultdict(list)
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind, size = tag & 7, {1: 8, 5: 4}.get(tag & 7, 0)
        if kind == 0:
            value, at = _varint(message, at)
            found[tag >> 3].append(value)
            continue
        if kind == 2:
            size, at = _varint(message, at)
        raw, at = message[at : at + size], at + size
        found[tag >> 3].append(raw if kind == 2 else struct.unpack({8: "<Q", 4: "<I"}[size], raw)[0])
    return found


def _one(message: dict[int, list[Any]], field: int, absent: Any) -> Any:
    """The value of a field that occurs at most once; the last one if there are several."""
    return message[field][-1] if message[field] else absent
