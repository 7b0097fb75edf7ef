"""Tensors on disk: round trips, malformed files refused in a sentence, and writes that fail leave the old file."""

import errno
import io as _io
import json
import os
import pickle
import stat
import struct
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tensorlite as tl
from tensorlite import files, io

bfloat16 = pytest.importorskip("ml_dtypes", reason="ml_dtypes has the dtype bfloat16").bfloat16

# ----- round trips ------------------------------------------------------------------------------------------------

VIEWS = {
    "as it is": lambda x: x,
    "transposed": lambda x: x.T,
    "Fortran order": lambda x: np.asarray(x, order="F"),
    "strided": lambda x: x[..., ::2] if x.ndim else x,
    "reversed": lambda x: x[::-1] if x.ndim else x,
    "broadcast": lambda x: np.broadcast_to(x, (2, *x.shape)),
    "big-endian": lambda x: x if x.dtype == bfloat16 else x.astype(x.dtype.newbyteorder(">")),
}


@given(
    array=hnp.arrays(
        st.sampled_from([np.dtype(name) for name in io.DTYPES if name != "bfloat16"]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
    ),
    view=st.sampled_from(sorted(VIEWS)),
)
def test_every_dtype_shape_and_stride_comes_back(tmp_path_factory, array, view):
    path = tmp_path_factory.mktemp("io") / "x.safetensors"
    given_array = VIEWS[view](array)
    io.save(path, {"x": tl.Tensor(given_array)})
    for loaded in (io.load(path)["x"].data, safetensors.numpy.load_file(path)["x"]):
        assert (loaded.shape, loaded.dtype) == (given_array.shape, array.dtype)
        np.testing.assert_array_equal(loaded, given_array)


@pytest.mark.parametrize("view", sorted(VIEWS))
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
@pytest.mark.parametrize("dtype", [bfloat16, np.float32, np.int64])
def test_every_stride_comes_back(tmp_path, dtype, shape, view):
    x = VIEWS[view](np.arange(1, 1 + np.prod(shape, dtype=int)).reshape(shape).astype(dtype))
    io.save(tmp_path / "x", {"x": tl.Tensor(x)})
    loaded = io.load(tmp_path / "x")["x"].data
    assert (loaded.dtype, loaded.shape) == (dtype, x.shape)
    np.testing.assert_array_equal(loaded.astype(float), x.astype(float))


def test_the_bytes_are_the_librarys_and_always_the_same(tmp_path):
    arrays = {"b": np.ones((2, 3), "f4"), "c": np.arange(3), "ü": np.array(True), "a": np.zeros((0, 2), "f2")}
    tensors = {name: tl.Tensor(x) for name, x in arrays.items()}
    for metadata in (None, {"format": 'np "quoted"\n'}):
        io.save(tmp_path / "x", tensors, metadata)
        assert (tmp_path / "x").read_bytes() == safetensors.numpy.save(arrays, metadata)
    many = {str(i): "x" * i for i in range(9)}
    io.save(tmp_path / "x", tensors, many)
    io.save(tmp_path / "y", dict(reversed(tensors.items())), many)
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()
    assert io.metadata(tmp_path / "x") == many
    assert io.metadata(tmp_path / "x") is not many
    io.save(tmp_path / "z", {})
    assert (io.load(tmp_path / "z"), io.metadata(tmp_path / "z")) == ({}, {})


def test_loaded_tensors_are_ones_own(tmp_path):
    path = tmp_path / "x"
    io.save(path, {"x": tl.ones((2, 2)), "y": tl.ones(1)})
    first, second = io.load(path), io.load(path)
    path.write_bytes(b"")
    first["x"].data[...] = 5
    assert second["x"].tolist() == [[1, 1], [1, 1]]
    assert first["y"].tolist() == [1]
    assert not first["x"].requires_grad


def test_importing_tensorlite_does_not_import_safetensors():
    code = "import sys, tensorlite; print([m for m in ('safetensors', 'ml_dtypes', 'cupy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({"x": np.ones(2, complex)}, None, "'x' has dtype complex128, which the format lacks; it has float64, float32"),
        ({"x": [1.0]}, None, "'x' must be a Tensor, not list"),
        ({1: np.ones(2)}, None, "1 cannot be the name of a Tensor"),
        ({"__metadata__": np.ones(2)}, None, "'__metadata__' cannot be the name of a Tensor"),
        ({"x": np.ones(2)}, {"step": 1}, "metadata maps strings to strings; 'step' maps to 1"),
        ({"x" * 960: np.ones(2)}, None, "names and metadata take 1016 bytes; the format allows 1000"),
    ],
)
def test_what_cannot_be_saved_is_named_and_the_old_file_stays(tmp_path, monkeypatch, tensors, metadata, message):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    monkeypatch.setattr(io, "HEADER_LIMIT", 1000)
    with pytest.raises((TypeError, ValueError), match=message):
        io.save(path, tensors, metadata)
    assert (path.read_bytes(), os.listdir(tmp_path)) == (b"old", ["x"])


# ----- malformed files --------------------------------------------------------------------------------------------


def blob(header, data=b"\0" * 8) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


GOOD = blob({"x": entry()})
HALVES = {"x": entry(shape=(1,), offsets=(0, 4))}
MALFORMED = {
    "empty file": b"",
    "7 bytes": GOOD[:7],
    "header longer than the file": struct.pack("<Q", 1000) + GOOD[8:],
    "header over 100 MB": struct.pack("<Q", 100_000_001) + b"{" + b" " * 50,
    "header length 2**63": struct.pack("<Q", 2**63) + GOOD[8:],
    "no header": struct.pack("<Q", 0) + b"\0" * 8,
    "not UTF-8": blob(b'{"\xff": 1}'),
    "not JSON": blob(b"{x}"),
    "array": blob(b"[]"),
    "null": blob(b"null"),
    "trailing NUL": blob(json.dumps({"x": entry()}).encode() + b"\0"),
    "leading space": blob(b" " + json.dumps({"x": entry()}).encode()),
    "leading newline": blob(b"\n" + json.dumps({"x": entry()}).encode()),
    "unknown dtype": blob({"x": entry("F31")}),
    "lower-case dtype": blob({"x": entry("f32")}),
    "dtype missing": blob({"x": {"shape": [2], "data_offsets": [0, 8]}}),
    "shape missing": blob({"x": {"dtype": "F32", "data_offsets": [0, 8]}}),
    "offsets missing": blob({"x": {"dtype": "F32", "shape": [2]}}),
    "negative shape": blob({"x": entry(shape=(-2,))}),
    "float shape": blob({"x": entry(shape=(2.0,))}),
    "string shape": blob({"x": {"dtype": "F32", "shape": "2", "data_offsets": [0, 8]}}),
    "negative offset": blob({"x": entry(offsets=(-8, 0))}),
    "swapped offsets": blob({"x": entry(offsets=(8, 0))}),
    "three offsets": blob({"x": entry(offsets=(0, 4, 8))}),
    "offsets past the end": blob({"x": entry(offsets=(0, 16), shape=(4,))}),
    "size does not match": blob({"x": entry(shape=(3,))}),
    "size overflows": blob({"x": entry(shape=(2**62, 4), offsets=(0, 0))}, b""),
    "empty, but too large for NumPy": blob({"x": entry(shape=(0, 2**60, 2**60), offsets=(0, 0))}, b""),
    "more axes than NumPy has": blob({"x": entry(shape=(1,) * 70 + (2,))}),
    "overlap": blob({"x": entry(), "y": entry(shape=(1,), offsets=(4, 8))}),
    "hole": blob({**HALVES, "y": entry(shape=(1,), offsets=(8, 12))}, b"\0" * 12),
    "hole at the start": blob({"x": entry(shape=(1,), offsets=(4, 8))}),
    "trailing bytes": GOOD + b"\0",
    "truncated data": GOOD[:-1],
    "same name twice": blob(b'{"x":' + json.dumps(entry()).encode() + b',"x":' + json.dumps(entry()).encode() + b"}"),
    "same field twice": blob(b'{"x":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}'),
    "metadata is no object": blob({"__metadata__": "x", "x": entry()}),
    "metadata is no string": blob({"__metadata__": {"a": 1}, "x": entry()}),
    "deep JSON": blob(b'{"x":' * 100_000 + b"1" + b"}" * 100_000),
    "another format": b"\x93NUMPY\x01\x00" + b" " * 100,
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_file_is_refused_in_a_sentence(tmp_path, case):
    path = tmp_path / "x.safetensors"
    path.write_bytes(MALFORMED[case])
    with pytest.raises(ValueError, match=r"x.safetensors is not a safetensors file that can be used: ..") as error:
        io.load(path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400 + len(str(path))
    assert "pickle" not in str(error.value)


def test_the_well_formed_twin_of_those_loads(tmp_path):
    for content in (GOOD, blob(json.dumps({"x": entry()}).encode() + b"    ")):
        (tmp_path / "x").write_bytes(content)
        assert io.load(tmp_path / "x")["x"].tolist() == [0, 0]


@given(st.data())
def test_a_damaged_header_is_refused_or_harmless(tmp_path_factory, data):
    """Any byte of a file changed: a ValueError or another well-formed file, never another error."""
    path = tmp_path_factory.mktemp("io") / "x"
    good = bytearray(blob({"x": entry(), "y": entry("I64", (1,), (8, 16))}, b"\0" * 16))
    position = data.draw(st.integers(0, len(good) - 1))
    good[position] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(good)
    try:
        loaded = io.load(path)
    except ValueError as error:
        loaded = str(error)
    if isinstance(loaded, str):
        assert "not a safetensors file that can be used" in loaded
    else:
        assert sum(x.data.nbytes for x in loaded.values()) == 16


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "C64"])
def test_a_dtype_that_tensors_lack_is_named(tmp_path, dtype):
    size = 16 if dtype == "C64" else 2
    (tmp_path / "x").write_bytes(blob({"x": entry(dtype, (2,), (0, size))}, b"\0" * size))
    with pytest.raises(ValueError, match=f"'x' has dtype {dtype}, which Tensors do not have: convert it first"):
        io.load(tmp_path / "x")


def test_bfloat16_without_ml_dtypes_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes(blob({"x": entry("BF16", (4,))}))
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ImportError, match="bfloat16 needs ml_dtypes: pip install ml_dtypes"):
        io.load(tmp_path / "x")


@pytest.mark.parametrize(
    "content", [pickle.dumps({"x": [1]}), b"PK\x03\x04" + b"\0" * 60], ids=["pickle", "torch's zip"]
)
def test_a_pickle_is_refused_with_the_way_to_convert_it(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"looks like a pickle, which can run any code.*safetensors\.torch\.save_file"):
        io.load(tmp_path / "model.safetensors")


def test_a_header_whose_length_looks_like_a_pickle_is_none(tmp_path):
    content = blob(json.dumps({"x": entry()}).encode().ljust(0x280))
    assert content[:2] == pickle.dumps(0, protocol=2)[:2]
    (tmp_path / "x").write_bytes(content)
    assert io.load(tmp_path / "x")["x"].tolist() == [0, 0]


def test_missing_file_and_folder_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        io.load(tmp_path / "absent")
    with pytest.raises(IsADirectoryError, match=tmp_path.name):
        io.metadata(tmp_path)


# ----- one Tensor at a time ---------------------------------------------------------------------------------------


@given(
    arrays=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
        hnp.arrays(
            st.sampled_from([np.dtype(name) for name in io.DTYPES if name != "bfloat16"]),
            hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
        ),
        max_size=4,
    )
)
def test_entries_and_save_each_are_load_and_save_in_pieces(tmp_path_factory, arrays):
    folder = tmp_path_factory.mktemp("io")
    arrays.pop("__metadata__", None)
    io.save(folder / "whole", {name: tl.Tensor(x) for name, x in arrays.items()}, {"a": "b"})
    kinds = {name: (x.dtype, x.shape) for name, x in arrays.items()}
    asked = []
    io.save_each(folder / "each", kinds, lambda name: asked.append(name) or tl.Tensor(arrays[name]), {"a": "b"})
    assert (folder / "each").read_bytes() == (folder / "whole").read_bytes()
    assert sorted(asked) == sorted(arrays)
    found = io.entries(folder / "each")
    assert list(found) == asked == list(io.load(folder / "each"))  # in the order of their bytes
    for name, entry in found.items():
        assert (np.dtype(entry.dtype), entry.shape) == kinds[name]
        np.testing.assert_array_equal(entry.read().data, arrays[name], strict=True)


def test_what_save_each_gets_must_be_what_it_was_told(tmp_path):
    kinds = {"x": (np.dtype("f4"), (2,))}
    for wrong in (tl.ones(3), tl.ones((2, 1)), tl.ones(2, dtype=tl.float64)):
        with pytest.raises(ValueError, match=r"save: 'x' was to be .*float32.*\(2,\).*, and is float"):
            io.save_each(tmp_path / "x", kinds, lambda name, wrong=wrong: wrong)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("dtype", [np.float16, bfloat16, np.float32])
def test_every_half_becomes_the_same_float32(tmp_path, dtype):
    """All 65,536 patterns of bits: ml_dtypes and NumPy say what each one is."""
    patterns = np.arange(2**16, dtype=np.uint16)
    x = patterns.view(dtype) if dtype != np.float32 else patterns.astype(dtype)
    io.save(tmp_path / "x", {"x": tl.Tensor(x)})
    found = io.entries(tmp_path / "x")["x"].read_float32()
    np.testing.assert_array_equal(found.data, x.astype(np.float32), strict=True)


@pytest.mark.parametrize("dtype", ["float64", "int8", "bool"])
def test_what_does_not_become_float32_is_refused(tmp_path, dtype):
    io.save(tmp_path / "x", {"x": tl.Tensor(np.ones(2, dtype))})
    with pytest.raises(TypeError, match=f"'x' is {dtype}, which does not become float32 exactly"):
        io.entries(tmp_path / "x")["x"].read_float32()


def test_a_file_that_shrinks_after_it_was_looked_at_is_refused(tmp_path):
    io.save(tmp_path / "x", {"x": tl.ones(4)})
    entry = io.entries(tmp_path / "x")["x"]
    os.truncate(tmp_path / "x", (tmp_path / "x").stat().st_size - 1)
    with pytest.raises(ValueError, match="it ends inside 'x'"):
        entry.read()


@pytest.mark.slow
def test_a_loaded_file_is_in_memory_once(tmp_path):
    pytest.importorskip("resource", reason="Unix says how much memory a process has held")
    path = tmp_path / "x"
    io.save(path, {str(i): tl.ones(2_000_000) for i in range(8)})
    code = (
        "import resource, sys, numpy; from tensorlite import io; most = lambda: "
        "resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; "
        "import safetensors; before = most(); x = io.load(sys.argv[1]); print(most() - before)"
    )
    result = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert int(result.stdout) * (1 if sys.platform == "darwin" else 1024) < 1.3 * path.stat().st_size


# ----- replacing a file -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_the_mode_is_a_new_files(tmp_path, umask):
    before = os.umask(umask)
    try:
        io.save(tmp_path / "x", {"x": tl.ones(1)})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o666 & ~umask


def write_save(path):
    io.save(path, {"x": tl.ones(1)})


def write_token_file(path):
    tl.data.write_tokens(path, [1, 2], 10)


def write_nothing(path):
    with files.replacing(path):
        pytest.fail("the block was entered")


writers = pytest.mark.parametrize("write", [write_save, write_token_file, write_nothing])


@writers
@pytest.mark.parametrize("kind", ["pipe", "device", "link to a pipe", "loop", "folder"])
def test_what_is_not_a_regular_file_is_not_replaced(tmp_path, write, kind):
    path = tmp_path / "x"
    if kind in ("pipe", "device", "link to a pipe") and os.name != "posix":
        pytest.skip("only Unix has pipes and devices among its files")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        try:
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))  # what /dev/null is
        except PermissionError:
            pytest.skip("only root makes devices")
    elif kind == "link to a pipe":
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to(tmp_path / "pipe")
    elif kind == "loop":
        path.symlink_to(tmp_path / "y")
        (tmp_path / "y").symlink_to(path)
    else:
        path.mkdir()
    before = {name: (tmp_path / name).lstat() for name in os.listdir(tmp_path)}
    sentence = {"loop": "cannot be replaced by a file", "folder": "it is a folder"}.get(kind, "not a regular file")
    with pytest.raises(OSError, match=rf"{sentence}.*x'"):
        write(path)
    assert {name: (tmp_path / name).lstat()[:2] for name in os.listdir(tmp_path)} == {
        k: v[:2] for k, v in before.items()
    }


@writers
@pytest.mark.parametrize("mode", [0o444, 0o400, 0o000])
def test_a_read_only_file_is_not_replaced(tmp_path, write, mode):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    path.chmod(mode)
    with pytest.raises(PermissionError, match=r"it is read-only and is not replaced.*x'"):
        write(path)
    path.chmod(0o600)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("write", [write_save, write_token_file])
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o755])
def test_a_file_that_is_replaced_hands_on_its_mode(tmp_path, write, mode):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    path.chmod(mode)
    write(path)
    assert path.read_bytes() != b"old"
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_nobody_else_can_read_the_new_bytes_of_a_private_file(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    path.chmod(0o600)
    with files.replacing(path) as file:
        (temporary,) = [name for name in os.listdir(tmp_path) if name != "x"]
        assert stat.S_IMODE((tmp_path / temporary).stat().st_mode) == 0o600
        file.write(b"new")
    assert path.read_bytes() == b"new"


def test_a_symlink_stays_and_its_target_is_replaced(tmp_path):
    (tmp_path / "store").mkdir()
    target, link = tmp_path / "store" / "real", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    io.save(link, {"x": tl.ones(1)})
    assert link.is_symlink()
    assert io.load(target)["x"].tolist() == io.load(link)["x"].tolist() == [1]
    assert sorted(os.listdir(tmp_path)) == ["link", "store"]
    assert os.listdir(tmp_path / "store") == ["real"]


@pytest.mark.parametrize("function", ["os.fsync", "os.replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch, function, error):
    path = tmp_path / "x"
    io.save(path, {"x": tl.ones(1)})

    def fail(*args):
        raise error

    monkeypatch.setattr(function, fail)
    with pytest.raises(type(error)) as raised:
        io.save(path, {"x": tl.zeros(1)})
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["x"]
    assert io.load(path)["x"].tolist() == [1]
    if isinstance(error, OSError):
        assert raised.value.errno == errno.ENOSPC
        assert "not written, the old file is unchanged" in str(raised.value)
        assert str(path) in str(raised.value)


def test_a_full_disk_leaves_what_was_there(tmp_path):
    resource = pytest.importorskip("resource", reason="only Unix limits the size of files")
    path = tmp_path / "x"
    io.save(path, {"x": tl.ones(1)})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="not written, the old file is unchanged"):
            io.save(path, {"x": tl.ones(1000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == ["x"]
    assert io.load(path)["x"].tolist() == [1]


def test_data_and_name_reach_the_disk_in_order(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor):
        calls.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else os.fstat(descriptor).st_size)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("rename"), replace(a, b)))
    io.save(tmp_path / "x", {"x": tl.ones(1)})
    assert calls == [(tmp_path / "x").stat().st_size, "rename", "folder"]


def test_an_error_of_another_file_is_left_as_it_is(tmp_path):
    def write():
        with files.replacing(tmp_path / "x") as file:
            file.write((tmp_path / "absent").read_bytes())

    with pytest.raises(FileNotFoundError, match="absent") as error:
        write()
    assert "not written" not in str(error.value)
    assert os.listdir(tmp_path) == []


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"not written.*absent/x"):
        io.save(tmp_path / "absent" / "x", {})


# ----- arguments that cannot be used --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [None, 3, True, b"x", _io.BytesIO(), 1.5])
@pytest.mark.parametrize(
    "call",
    [io.load, io.entries, io.metadata, lambda path: io.save(path, {}), tl.data.TokenFile,
     lambda path: tl.data.write_tokens(path, [1], 2)],
)  # fmt: skip
def test_what_is_no_path_is_refused(call, path):
    with pytest.raises(TypeError, match=f"path must be a string or a pathlib.Path, not {type(path).__name__}"):
        call(path)


def test_a_path_with_nul_is_refused():
    for call in (io.load, lambda path: io.save(path, {}), tl.data.TokenFile):
        with pytest.raises(ValueError, match="path has a NUL character"):
            call("a\0b")


def test_save_says_what_it_takes(tmp_path):
    with pytest.raises(TypeError, match=r"the path comes first.*tl.io.save\(path, tensors\)"):
        io.save({"x": tl.ones(1)}, tmp_path / "x")
    with pytest.raises(TypeError, match=r"must be a dict of names and Tensors, model.state_dict\(\), not Linear"):
        io.save(tmp_path / "x", tl.nn.Linear(1, 1))
    with pytest.raises(TypeError, match=r"must be a dict of names and Tensors, .* not Tensor"):
        io.save(tmp_path / "x", tl.ones(1))
    assert os.listdir(tmp_path) == []


def test_a_file_of_numpys_says_how_to_read_it(tmp_path):
    np.save(tmp_path / "x.npy", np.ones(2))
    np.savez(tmp_path / "x.npz", x=np.ones(2))
    for name in ("x.npy", "x.npz"):
        with pytest.raises(ValueError, match=r"it is in NumPy's format: read it with np\.load"):
            io.load(tmp_path / name)


def test_an_entry_is_read_into_an_array_or_says_where_the_file_ends(tmp_path):
    x = tl.tensor(np.arange(12, dtype=np.float32).reshape(3, 4))
    tl.io.save(tmp_path / "x.safetensors", {"a": x, "b": x + 1})
    entries = tl.io.entries(tmp_path / "x.safetensors")
    out = np.zeros((3, 4), np.float32)
    entries["b"].read_into(out)
    np.testing.assert_array_equal(out, x.data + 1)
    with open(tmp_path / "x.safetensors", "r+b") as file:
        file.truncate(entries["b"].offset + 5)
    with pytest.raises(ValueError, match="it ends inside 'b'"):
        entries["b"].read_into(out)


def test_what_is_no_dict_is_answered_with_what_to_write(tmp_path):
    with pytest.raises(TypeError, match=r'a dict of names and Tensors, \{"name": tensor\}, not Tensor'):
        io.save(tmp_path / "x.safetensors", tl.ones(2))
    with pytest.raises(TypeError, match=r"a dict of names and Tensors, model\.state_dict\(\), not Linear"):
        io.save(tmp_path / "x.safetensors", tl.nn.Linear(2, 2))


def test_a_pointer_of_git_lfs_is_recognised(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n")
    with pytest.raises(ValueError, match="it is a pointer of Git LFS and not the file itself: `git lfs pull`"):
        io.load(path)


def test_a_file_that_was_never_there_is_not_called_unchanged(tmp_path):
    with pytest.raises(OSError, match="not written") as raised:
        io.save(tmp_path / "nowhere" / "x", {"x": tl.ones(1)})
    assert "unchanged" not in str(raised.value.strerror)
