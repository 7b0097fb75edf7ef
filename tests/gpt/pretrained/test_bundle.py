"""TensorFlow checkpoints: one that TensorFlow wrote, and others written here, every one of their bytes damaged once.

tests/gpt/release is a GPT-2 release with 260 tokens, 6 positions, 2 layers, 2 heads and width 4, saved by
tf.compat.v1.train.Saver of TensorFlow 2.21: the k-th Tensor in the order of the names holds 0, 1, 2, ... / 64 - k.
"""

import shutil
import struct
from pathlib import Path

import folders
import google_crc32c
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt import pretrained
from gpt.config import GPTConfig
from gpt.pretrained import bundle
from gpt.training import checkpoint

RELEASE = Path(__file__).parents[1] / "support" / "release"
INDEX = (RELEASE / "model.ckpt.index").read_bytes()


def stored() -> dict[str, np.ndarray]:
    """What the release holds, by OpenAI's names."""
    C = 4
    shapes = {"model/wte": (260, C), "model/wpe": (6, C), "model/ln_f/g": (C,), "model/ln_f/b": (C,)}
    for i in (0, 1):
        for norm in ("ln_1", "ln_2"):
            shapes |= {f"model/h{i}/{norm}/g": (C,), f"model/h{i}/{norm}/b": (C,)}
        for name, a, b in (("attn/c_attn", C, 3 * C), ("attn/c_proj", C, C), ("mlp/c_fc", C, 4 * C)):
            shapes |= {f"model/h{i}/{name}/w": (1, a, b), f"model/h{i}/{name}/b": (b,)}
        shapes |= {f"model/h{i}/mlp/c_proj/w": (1, 4 * C, C), f"model/h{i}/mlp/c_proj/b": (C,)}
    return {
        name: (np.arange(np.prod(shapes[name])).reshape(shapes[name]) / 64 - k).astype("f4")
        for k, name in enumerate(sorted(shapes))
    }


def test_what_tensorflow_wrote():
    found = bundle.entries(RELEASE / "model.ckpt")
    assert found.keys() == stored().keys()
    for name, x in stored().items():
        np.testing.assert_array_equal(found[name].read().numpy(), x, err_msg=name, strict=True)


@pytest.fixture
def release(tmp_path) -> Path:
    """The release with its tokenizer."""
    folder = tmp_path / "release"
    shutil.copytree(RELEASE, folder)
    folders.write(tmp_path / "hf")
    (tmp_path / "hf" / "vocab.json").rename(folder / "encoder.json")
    (tmp_path / "hf" / "merges.txt").rename(folder / "vocab.bpe")
    return folder


def test_a_release_becomes_a_run(tmp_path, release):
    pretrained.import_folder(release, tmp_path / "run")
    model, tokenizer = checkpoint.load_model(tmp_path / "run")
    size = {"vocab_size": 260, "context_length": 6, "n_layer": 2, "n_head": 2, "n_embd": 4}
    assert model.config == GPTConfig(**size, qkv_bias=True).with_dropout(0.1)
    kinds = {"g": "weight", "w": "weight", "b": "bias"}
    theirs = {}
    for name, x in stored().items():
        start, _, kind = name.removeprefix("model/").replace("/", ".").rpartition(".")
        name = f"{start}.{kinds[kind]}" if start else f"{kind}.weight"
        theirs[name.replace("h0.", "h.0.").replace("h1.", "h.1.")] = x.squeeze(0) if x.ndim == 3 else x
    expected = folders.ours(theirs)
    assert expected.keys() == model.state_dict().keys()
    for name, p in model.named_parameters():
        np.testing.assert_array_equal(p.numpy(), expected[name], err_msg=name, strict=True)
    assert tokenizer.tokens == folders.TOKENIZER.tokens


# ----- damaged ----------------------------------------------------------------------------------------------------


def test_a_changed_bit_anywhere_in_the_index_is_refused(tmp_path):
    shutil.copytree(RELEASE, tmp_path, dirs_exist_ok=True)
    for position in range(len(INDEX)):
        damaged = bytearray(INDEX)
        damaged[position] ^= 1 << position % 8
        (tmp_path / "model.ckpt.index").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"^[^\n]*model\.ckpt\.index[^\n]*$"):
            bundle.entries(tmp_path / "model.ckpt")


@pytest.mark.parametrize("length", [0, 7, 47, 48, 100, len(INDEX) - 1])
def test_an_index_cut_off(tmp_path, length):
    (tmp_path / "model.ckpt.index").write_bytes(INDEX[:length])
    with pytest.raises(ValueError, match=r"model\.ckpt\.index cannot be used: it is not a LevelDB table"):
        bundle.entries(tmp_path / "model.ckpt")


@given(st.data())
def test_a_changed_bit_in_the_data_is_refused(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("release")
    shutil.copytree(RELEASE, folder, dirs_exist_ok=True)
    path = folder / "model.ckpt.data-00000-of-00001"
    values = bytearray(path.read_bytes())
    values[data.draw(st.integers(0, len(values) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(values)
    with pytest.raises(ValueError, match=r"the checksum of model/\S+ in .*data-00000-of-00001 is wrong: it is damaged"):
        bundle.entries(folder / "model.ckpt")


def test_data_cut_off_or_missing(tmp_path, release):
    path = release / "model.ckpt.data-00000-of-00001"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"is cut off: model/wte ends at byte 6,240 of 6,239"):
        pretrained.load(release)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="data-00000-of-00001"):
        pretrained.load(release)


def test_a_config_that_does_not_fit(release):
    (release / "hparams.json").write_text('{"n_vocab": 260, "n_ctx": 6, "n_embd": 4, "n_head": 2, "n_layer": 3}')
    with pytest.raises(
        ValueError, match=r"are not those of its config: missing h\.2\.ln_1\.weight, .*c_proj\.bias, and 4 more"
    ):
        pretrained.load(release)
    (release / "hparams.json").write_text('{"n_vocab": 260, "n_ctx": 6, "n_embd": 4, "n_head": 3, "n_what": 2}')
    with pytest.raises(
        ValueError, match=r"describes a model that gpt cannot compute: n_what is not known; n_layer is missing"
    ):
        pretrained.load(release)


# ----- written here -----------------------------------------------------------------------------------------------


def varint(n: int) -> bytes:
    return bytes([n & 127 | 128]) + varint(n >> 7) if n > 127 else bytes([n])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def masked(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32


def block(pairs: list[tuple[bytes, bytes]], kind: int = 0) -> bytes:
    """A block with a restart every second key, and its trailer."""
    out, restarts, before = b"", [], b""
    for i, (key, value) in enumerate(pairs):
        shared = 0
        if i % 2 == 0:
            restarts.append(len(out))
        else:
            while shared < min(len(before), len(key)) and before[shared] == key[shared]:
                shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    out += b"".join(struct.pack("<I", at) for at in restarts or [0]) + struct.pack("<I", len(restarts or [0]))
    out += bytes([kind])
    return out + struct.pack("<I", masked(out))


def table(pairs: list[tuple[bytes, bytes]], per_block: int = 3, kind: int = 0) -> bytes:
    out, where = b"", []
    for start in range(0, len(pairs), per_block):
        piece = pairs[start : start + per_block]
        written = block(piece, kind)
        where.append((piece[-1][0], varint(len(out)) + varint(len(written) - 5)))
        out += written
    handles = b""
    for last in (block([]), block(where)):
        handles += varint(len(out)) + varint(len(last) - 5)
        out += last
    return out + handles.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def message(x: np.ndarray, offset: int, shard: int = 0, dtype: int = 1, more: bytes = b"") -> bytes:
    shape = b"".join(field(2, field(1, n)) for n in x.shape)
    place = field(3, shard) + field(4, offset) + field(5, x.nbytes)
    checksum = varint(6 << 3 | 5) + struct.pack("<I", masked(x.tobytes()))
    return field(1, dtype) + field(2, shape) + place + checksum + more


def test_many_blocks_and_several_data_files(tmp_path):
    arrays = {f"x/{i:02}": np.full((i, 2), i, "f4") for i in range(20)}
    pairs, data = [(b"", field(1, 2) + field(3, b""))], [b"", b""]
    for i, (name, x) in enumerate(arrays.items()):
        pairs.append((name.encode(), message(x, len(data[i % 2]), i % 2)))
        data[i % 2] += x.tobytes()
    (tmp_path / "m.index").write_bytes(table(pairs))
    for i in (0, 1):
        (tmp_path / f"m.data-0000{i}-of-00002").write_bytes(data[i])
    found = bundle.entries(tmp_path / "m")
    assert list(found) == list(arrays)
    for name, x in arrays.items():
        np.testing.assert_array_equal(found[name].read().numpy(), x, strict=True)


TENSORFLOW = {  # tensorflow/core/framework/types.proto
    "float32": 1, "float64": 2, "int32": 3, "int64": 9, "bfloat16": 14, "float16": 19,
}  # fmt: skip


@pytest.mark.parametrize("name", TENSORFLOW)
def test_every_dtype_that_can_be_read(tmp_path, name):
    """Its values come back, bit for bit; a Tensor of another size than shape and dtype say is refused."""
    dtype = ml_dtypes.bfloat16 if name == "bfloat16" else name
    x = np.array([[0, 1, -2], [3, 100, -128]]).astype(dtype)
    header = field(1, 1)
    for wrong, pairs in enumerate(([x], [x, x.ravel()[:-1]])):
        entries, data = [(b"", header)], b""
        for i, array in enumerate(pairs):
            given = message(array, len(data), dtype=TENSORFLOW[name])
            shape = b"".join(field(2, field(1, n)) for n in array.shape)
            given = given.replace(field(2, shape), field(2, field(2, field(1, 6)))) if i else given
            entries.append((b"xy"[i : i + 1], given))
            data += array.tobytes()
        (tmp_path / "m.index").write_bytes(table(entries))
        (tmp_path / "m.data-00000-of-00001").write_bytes(data)
        if wrong:
            size = 5 * x.itemsize
            with pytest.raises(ValueError, match=rf"y has {size} bytes, which are not \(6,\) of {name}"):
                bundle.entries(tmp_path / "m")
        else:
            found = bundle.entries(tmp_path / "m")["x"]
            np.testing.assert_array_equal(found.read().numpy(), x, strict=True)


def test_a_release_whose_matrix_is_two_is_refused(release):
    pairs, data = [(b"", field(1, 1))], b""
    for name, x in stored().items():
        x = np.concatenate([x, x]) if name == "model/h1/mlp/c_fc/w" else x
        pairs.append((name.encode(), message(x, len(data))))
        data += x.tobytes()
    (release / "model.ckpt.index").write_bytes(table(pairs))
    (release / "model.ckpt.data-00000-of-00001").write_bytes(data)
    with pytest.raises(ValueError, match=r"config: h\.1\.mlp\.c_fc\.weight has shape \(2, 4, 16\) and not \(4, 16\)$"):
        pretrained.load(release)


X = np.ones((2, 2), "f4")
HEADER = field(1, 1)
REFUSED = {
    "compressed": (table([(b"", HEADER)], kind=1), "it has a compressed block"),
    "big-endian": (table([(b"", HEADER + field(2, 1)), (b"x", message(X, 0))]), "big-endian machine"),
    "slices": (table([(b"", HEADER), (b"x", message(X, 0, more=field(7, b"")))]), "x is cut into slices"),
    "size": (
        table([(b"", HEADER), (b"x", message(X, 0, dtype=2))]),
        r"x has 16 bytes, which are not \(2, 2\) of float64",
    ),
    "shard": (table([(b"", HEADER), (b"x", message(X, 0, shard=7))]), "is not the index of a TensorFlow checkpoint"),
    "no header": (table([(b"x", message(X, 0))]), "is not the index of a TensorFlow checkpoint"),
    "no message": (table([(b"", b"\xff")]), "is not the index of a TensorFlow checkpoint"),
    "wire type": (table([(b"", b"\x0f")]), "is not the index of a TensorFlow checkpoint"),
    "not UTF-8": (table([(b"", HEADER), (b"\xff", message(X, 0))]), "is not the index of a TensorFlow checkpoint"),
    "shape is a number": (table([(b"", HEADER), (b"x", field(2, 3))]), "is not the index of a TensorFlow checkpoint"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(tmp_path, case):
    content, says = REFUSED[case]
    (tmp_path / "m.index").write_bytes(content)
    (tmp_path / "m.data-00000-of-00001").write_bytes(X.tobytes())
    with pytest.raises(ValueError, match=rf"m\.index.*{says}"):
        bundle.entries(tmp_path / "m")


def test_the_twin_of_those_loads(tmp_path):
    unknown = varint(9 << 3 | 1) + struct.pack("<Q", 5)  # a field of eight bytes that another version may add
    pairs = [(b"", HEADER), (b"x", message(X, 0, more=unknown)), (b"y", message(X, 0, dtype=77))]
    (tmp_path / "m.index").write_bytes(table(pairs))
    (tmp_path / "m.data-00000-of-00001").write_bytes(X.tobytes())
    found = bundle.entries(tmp_path / "m")
    np.testing.assert_array_equal(found["x"].read().numpy(), X)
    with pytest.raises(ValueError, match="'y' has dtype number 77 of TensorFlow, which Tensors do not have"):
        found["y"].read()
