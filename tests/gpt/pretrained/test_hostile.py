"""Files that somebody else made: what they say decides neither memory nor time, and an error is one bounded sentence.

tests/meta/fuzz.py looks for more of them; what it found, and what it cannot find, is here.
"""

import json
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import folders
import numpy as np
import pytest
import safetensors.numpy
from test_bundle import RELEASE, field, message, table, varint
from test_vocabulary import tokenizer_json

from gpt import jsonfile, lora, pretrained, tokenizer
from gpt.config import GPTConfig, check_number, listed
from gpt.model import GPT
from gpt.pretrained import bundle, vocabulary
from gpt.tasks import classify
from gpt.tasks.classify import ClassifyConfig
from gpt.tasks.classify.model import build
from gpt.tasks.instruct import InstructConfig
from gpt.tasks.pretrain import TrainConfig
from gpt.training import checkpoint, plots, weights
from tensorlite import io
from tensorlite.data import TokenFile

SIZES = ("vocab_size", "context_length", "n_layer", "n_embd")
HUGE = (10**7, 10**9, 2**32 - 1, 2**32, 10**300)
SHAPE = {"vocab_size": 9, "context_length": 4, "n_layer": 1, "n_head": 1, "n_embd": 4}


# ----- sizes ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """A folder with config.json, tokenizer.json and model.safetensors."""
    folder = tmp_path_factory.mktemp("bare")
    tokenizer.CharTokenizer("abcdefghi").save(folder / "tokenizer.json")
    model = GPT(GPTConfig(**SHAPE))
    io.save(folder / "model.safetensors", model.state_dict())
    describe(folder, model=model.config.to_dict())
    return folder


def describe(folder: Path, **description) -> None:
    (folder / "config.json").write_text(json.dumps({"format": "gpt.run", "version": 1, **description}))


@pytest.mark.finding("A7")
@pytest.mark.parametrize("value", HUGE)
@pytest.mark.parametrize("name", SIZES)
def test_a_run_that_asks_for_more_than_its_weights_is_not_built(bare, tmp_path, monkeypatch, name, value):
    monkeypatch.setattr(GPT, "__init__", None)  # what is asked for is never begun
    shutil.copytree(bare, tmp_path, dirs_exist_ok=True)
    describe(tmp_path, model={**GPTConfig(**SHAPE).to_dict(), name: value})
    with pytest.raises(
        ValueError, match=r"does not hold the weights of the model in config\.json|must be below 2\*\*32"
    ):
        checkpoint.load_model(tmp_path)


@pytest.mark.finding("A7")
@pytest.mark.parametrize("value", HUGE)
@pytest.mark.parametrize("name", ["vocab_size", "n_positions", "n_layer", "n_embd"])
def test_a_folder_that_asks_for_more_than_its_weights_is_not_built(tmp_path, monkeypatch, name, value):
    monkeypatch.setattr(GPT, "__init__", None)
    folders.write(tmp_path, tensors=folders.weights(folders.CONFIG))
    (tmp_path / "config.json").write_text(json.dumps({**folders.CONFIG, name: value}))
    with pytest.raises(ValueError, match=r"are not those of its config|must be below 2\*\*32|must divide"):
        pretrained.load(tmp_path)


@pytest.mark.finding("A7")
@pytest.mark.parametrize(
    "adapters",
    [
        {"rank": 10**9, "alpha": 1, "targets": ["*"]}, {"rank": 2, "alpha": 1, "targets": 5}, {"alpha": 1}, [2], "x",
        {"rank": [2], "alpha": 1, "targets": ["*"]}, {"rank": 2, "alpha": 1, "targets": ["*"], "more": 1},
    ],
)  # fmt: skip
def test_adapters_are_those_of_the_file(tmp_path, adapters):
    model = GPT(GPTConfig(**SHAPE))
    lora.apply(model, rank=2)
    io.save(tmp_path / "model.safetensors", model.state_dict())
    entries = io.entries(tmp_path / "model.safetensors")
    description = {"model": model.config.to_dict(), "lora": {"rank": 2, "alpha": 1, "targets": ["*"]}}
    assert weights.config_of(description, entries, tmp_path) == model.config
    with pytest.raises(ValueError, match=r"does not hold the LoRA adapters that config\.json describes"):
        weights.config_of({**description, "lora": adapters}, entries, tmp_path)


@pytest.mark.finding("A7")
@pytest.mark.parametrize("rank", [3, 10**9, "2", None, [2]])
def test_the_adapters_of_a_classifier_are_those_of_the_file(tmp_path, rank):
    model = build(ClassifyConfig(), GPTConfig(**SHAPE), 2)
    lora.apply(model, rank=2)
    io.save(tmp_path / "model.safetensors", model.state_dict())
    entries = io.entries(tmp_path / "model.safetensors")
    description = {"model": GPTConfig(**SHAPE).to_dict(), "training": {"layers": "lora", "rank": 2, "alpha": 1}}
    assert weights.config_of(description, entries, tmp_path).n_layer == 1
    description["training"]["rank"] = rank
    with pytest.raises(ValueError, match="does not hold the LoRA adapters"):
        weights.config_of(description, entries, tmp_path)


@pytest.mark.parametrize("lengths", [[20_000], [400] * 200])
def test_tokens_that_take_too_long_to_check_are_refused(tmp_path, lengths):
    fields = tokenizer_json()
    vocab, merges = fields["model"]["vocab"], fields["model"]["merges"]
    end = vocab.pop("<|endoftext|>")
    for i, length in enumerate(lengths):
        vocab["a" * length + str(i)] = end + i
        merges.append("a b")
    fields["added_tokens"] = []
    (tmp_path / "tokenizer.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match="its tokens are too long: one has"):
        pretrained.load_tokenizer(tmp_path, len(vocab))
    assert vocabulary.MOST_WORK < 10**8


def test_a_vocabulary_is_rounded_up_and_not_made_up(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer_json()))
    assert pretrained.load_tokenizer(tmp_path, 512).vocab_size == 512
    with pytest.raises(
        ValueError, match="it has 260 tokens, and the model 4000000000: that is more than rounding up adds"
    ):
        pretrained.load_tokenizer(tmp_path, 4 * 10**9)


def test_more_merges_than_tokens(tmp_path):
    fields = tokenizer_json()
    fields["model"]["merges"] += ["a b"] * 9
    fields["added_tokens"] = []
    (tmp_path / "tokenizer.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match="it has 12 merges, and 260 tokens for 256 bytes and them"):
        pretrained.load_tokenizer(tmp_path, 260)


# ----- TensorFlow's index: all that a few bytes can stand for ------------------------------------------------------

X = np.ones((2, 2), "f4")
HEADER = (b"", field(1, 1))
AXES = b"".join(field(2, field(1, 2**62)) for _ in range(1000))
BOMBS = {
    "a number of a million bytes": (table([HEADER, (b"x", b"\x08" + b"\xff" * 10**6)]), "is not the index of a T"),
    "a number of eleven bytes": (table([HEADER, (b"x", b"\x08" + b"\xff" * 10 + b"\1")]), "is not the index of a T"),
    "a long name": (table([HEADER, (b"x" * 600, message(X, 0))]), "it has a name of 600 bytes, and at most 512"),
    "a thousand axes": (table([HEADER, (b"x", field(1, 1) + field(2, AXES))]), "x has 1,000 axes, and at most 32"),
    "names twice": (table([HEADER, (b"x", message(X, 0)), (b"x", message(X, 0))]), "its names are not in order"),
    "Tensors in one place": (
        table([HEADER, *((b"x%04d" % i, message(X, 0)) for i in range(100))]), "overlap: it is damaged",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BOMBS)
def test_an_index_that_says_much_in_few_bytes_is_refused(tmp_path, case):
    content, says = BOMBS[case]
    (tmp_path / "m.index").write_bytes(content)
    (tmp_path / "m.data-00000-of-00001").write_bytes(X.tobytes())
    with pytest.raises(ValueError, match=says):
        bundle.entries(tmp_path / "m")


def test_one_block_does_not_stand_for_many(tmp_path):
    """The block of handles names the same block twice."""
    (tmp_path / "m.data-00000-of-00001").write_bytes(X.tobytes())
    from test_bundle import block

    one = block([HEADER, (b"x", message(X, 0))])
    handle = varint(0) + varint(len(one) - 5)
    out, places = one, b""
    for last in (block([]), block([(b"x", handle), (b"y", handle)])):
        places += varint(len(out)) + varint(len(last) - 5)
        out += last
    (tmp_path / "m.index").write_bytes(out + places.ljust(40, b"\0") + struct.pack("<Q", bundle.MAGIC))
    with pytest.raises(ValueError, match="its names are not in order"):
        bundle.entries(tmp_path / "m")


# ----- what is no file, and what lies elsewhere --------------------------------------------------------------------

READERS = {
    "config.json": lambda path: checkpoint.read_config(path),
    "tokenizer.json": lambda path: tokenizer.load(path),
    "model.safetensors": lambda path: io.entries(path),
    "hf/config.json": lambda path: pretrained.load(path.parent),
    "hf/model.safetensors": lambda path: pretrained.load(path.parent),
    "hf/vocab.json": lambda path: pretrained.load_tokenizer(path.parent, 260),
    "hf/merges.txt": lambda path: pretrained.load_tokenizer(path.parent, 260),
    "release/hparams.json": lambda path: pretrained.load(path.parent),
    "release/model.ckpt.index": lambda path: pretrained.load(path.parent),
    "release/model.ckpt.data-00000-of-00001": lambda path: pretrained.load(path.parent),
}


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pipes with a name")
@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize("name", READERS)
def test_a_pipe_or_a_device_in_place_of_a_file_is_refused(tmp_path, bare, name, kind):
    """Nobody writes into the pipe, and /dev/zero has no end: reading either would never return."""
    shutil.copytree(bare, tmp_path, dirs_exist_ok=True)
    folders.write(tmp_path / "hf")
    shutil.copytree(RELEASE, tmp_path / "release")
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name) if kind == "pipe" else (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(OSError, match=re.escape(f"{tmp_path / name} is not a regular file")):
        READERS[name](tmp_path / name)


def sharded(folder: Path, name: str) -> Path:
    folders.write(folder)
    (folder / "model.safetensors").rename(folder / "part")
    tensors = safetensors.numpy.load_file(folder / "part")
    where = {"weight_map": dict.fromkeys(tensors, name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(where))
    return folder / "part"


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/passwd", "", ".", "..", "a/../part", "x" * 300, "part\0", "linked", "looped"]
)
def test_a_shard_outside_the_folder_is_refused(tmp_path, name):
    part = sharded(tmp_path / "hf", name)
    shutil.copy(part, tmp_path / "outside")
    (tmp_path / "hf" / "linked").symlink_to("../outside")
    (tmp_path / "hf" / "looped").symlink_to("looped")
    with pytest.raises((ValueError, FileNotFoundError), match=r"names files that are not in its folder|lacks looped"):
        pretrained.load(tmp_path / "hf")


def test_links_in_the_folder_and_in_hugging_faces_cache_are_followed(tmp_path):
    folder = tmp_path / "models--gpt2" / "snapshots" / "0123"
    part = sharded(folder, "model-1.safetensors")
    blobs = tmp_path / "models--gpt2" / "blobs"
    blobs.mkdir()
    part.rename(blobs / "abc")
    (folder / "model-1.safetensors").symlink_to("../../blobs/abc")
    folders.same_bits(pretrained.load(folder), folders.ours(folders.weights(folders.CONFIG)))
    (folder / "model-1.safetensors").unlink()
    (blobs / "abc").rename(folder / "real")
    (folder / "model-1.safetensors").symlink_to("real")
    folders.same_bits(pretrained.load(folder), folders.ours(folders.weights(folders.CONFIG)))


@pytest.mark.finding("C13")
def test_a_pointer_of_git_lfs_is_called_that(tmp_path):
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:248dfc\nsize 548105171\n"
    (tmp_path / "model.safetensors").write_text(text)
    with pytest.raises(ValueError, match="it is a pointer of Git LFS and not the file itself: `git lfs pull` fetches"):
        io.load(tmp_path / "model.safetensors")


# ----- sentences --------------------------------------------------------------------------------------------------

DEEP = "[" * 100_000
NESTED = {
    "config.json": lambda path: checkpoint.read_config(path),
    "tokenizer.json": lambda path: tokenizer.load(path),
    "metrics.jsonl": lambda path: plots.read_metrics(path),
    "hf/config.json": lambda path: pretrained.load(path.parent),
    "hf/vocab.json": lambda path: pretrained.load_tokenizer(path.parent, 260),
    "other/tokenizer.json": lambda path: pretrained.load_tokenizer(path.parent, 260),
}


@pytest.mark.parametrize("name", NESTED)
def test_json_that_nests_too_deeply_is_a_sentence(tmp_path, name):
    folders.write(tmp_path / "hf")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(DEEP)
    with pytest.raises(ValueError, match=f"{name}.*it nests too deeply"):
        NESTED[name](tmp_path / name)


def test_json_files(tmp_path):
    path = tmp_path / "x.json"
    for text, says in (
        ("{", "is not JSON: "),
        ("[]", "must hold a JSON object, got list"),
        ("9" * 5000, "is not JSON: "),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=f"x.json {says}"):
            jsonfile.read_object(path)
    path.write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"x\.json is not JSON: 'utf-8' codec can't decode"):
        jsonfile.read(path)


@pytest.mark.finding("C13")
def test_a_folder_that_fits_nothing_is_a_short_sentence(call, tmp_path):
    """Names of 5,000 tensors, one of them with the codes that clear a terminal."""
    tensors = {f"x{i}\x1b[2J": np.zeros(1, "f4") for i in range(5000)}
    folders.write(tmp_path / "hf", {**folders.CONFIG, "n_layer": 100}, tensors)
    status, _, errors = call("import", tmp_path / "hf", tmp_path / "run")
    assert status == 1
    assert "missing wte.weight, wpe.weight, h.0.ln_1.weight" in errors
    assert "unexpected x0\\x1b[2J, x" in errors
    assert "and 4,992 more" in errors
    assert len(errors) < 1600
    assert errors.removesuffix("\n").isprintable()


def test_a_list_of_names_is_cut():
    assert listed([]) == ""
    assert listed(["a", "b"]) == "a, b"
    assert listed(["a", "b", "c"], most=2) == "a, b, and 1 more"
    assert listed(["a" * 100], width=3) == "aaa"
    assert listed(["a", "b"], between="; ") == "a; b"


@pytest.mark.parametrize("value", [10**400, -(10**400), float("inf"), float("nan"), True, "1", None])
def test_a_number_that_no_float_holds_is_refused(value):
    with pytest.raises(ValueError, match="lr must be a finite number of at least 0"):
        check_number("lr", value, low=0)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (TrainConfig, {"text": 5}), (TrainConfig, {"text": [5]}), (TrainConfig, {"text": "a"}),
        (TrainConfig, {"preset": 5}), (InstructConfig, {"style": None, "base": 5}),
        (TrainConfig, {"steps": "5"}), (TrainConfig, {"min_lr": "x"}), (TrainConfig, {"validation": None}),
        (TrainConfig, {"overwrite": 1}), (TrainConfig, {"seed": True}), (ClassifyConfig, {"base": 5}),
        (ClassifyConfig, {"label_column": []}), (InstructConfig, {"targets": 5}), (InstructConfig, {"targets": [1]}),
        (TrainConfig, []), (TrainConfig, None), (GPTConfig, 5),
    ],
)  # fmt: skip
def test_settings_of_the_wrong_type_are_a_sentence(kind, values):
    with pytest.raises(ValueError, match=r"has the wrong type: got |the fields must be a JSON object"):
        kind.from_dict(values)


@pytest.mark.parametrize("kind", [TrainConfig, ClassifyConfig, InstructConfig])
def test_settings_come_back_from_json(kind):
    paths = {"text": (Path("a"), Path("b"))} if kind is TrainConfig else {"base": Path("a"), "data": Path("b")}
    settings = kind(**paths, lr=1, threads=2)
    assert kind.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


@pytest.mark.parametrize(
    "about",
    [
        "[", DEEP, "[]", "5", '{"version": 1}', '{"version": 1, "layers": 5}', '{"version": 1, "layers": {"x": 5}}',
        '{"version": 1, "layers": {"blocks.0.attention.W_query": [1000000000, 1]}, "base": ""}',
        '{"version": 1, "layers": {"blocks.0.attention.W_query": ["2", 1]}}', '{"version": "%s"}' % ("x" * 9000),
    ],
)  # fmt: skip
def test_an_adapter_with_odd_metadata_is_a_sentence(tmp_path, about):
    model = GPT(GPTConfig(**SHAPE))
    lora.apply(model, rank=2, targets="W_query")
    tensors = {name: p for name, p in model.state_dict().items() if "lora" in name}
    io.save(tmp_path / "adapter.safetensors", tensors, {lora.FORMAT: about})
    with pytest.raises(ValueError, match=r"adapter\.safetensors .{0,200}$"):
        lora.load(GPT(GPTConfig(**SHAPE)), tmp_path / "adapter.safetensors")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Path:
    """A folder with the files of a classifier of two labels."""
    folder = tmp_path_factory.mktemp("classifier")
    tokenizer.CharTokenizer("abcdefgh", ["<|endoftext|>"]).save(folder / "tokenizer.json")
    settings = ClassifyConfig(layers="all")
    model = build(settings, GPTConfig(**SHAPE), 2)
    io.save(folder / "model.safetensors", model.state_dict())
    about = {"labels": ["a", "b"], "length": 4, "padding": 8, "task": "classify", "training": settings.to_dict()}
    describe(folder, model=GPTConfig(**SHAPE).to_dict(), **about)
    return folder


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("labels", 5), ("labels", ["a"]), ("labels", ["a"] * 10**5), ("labels", ["a", 5]), ("length", 10**9),
        ("length", "4"), ("padding", 9), ("padding", -1), ("training", None), ("training", {"layers": 5}),
        ("training", {"layers": "lora", "rank": 10**9}), ("model", {**SHAPE, "n_layer": 10**9}), ("padding", None),
    ],
)  # fmt: skip
def test_a_classifier_whose_config_does_not_fit_is_a_sentence(classifier, tmp_path, name, value):
    shutil.copytree(classifier, tmp_path, dirs_exist_ok=True)
    assert classify.load(tmp_path).labels == ["a", "b"]
    about = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**about, name: value}))
    with pytest.raises(ValueError, match=r"^.{20,300}$"):
        classify.load(tmp_path)


def test_a_token_file_says_its_size_truly(tmp_path):
    header = struct.pack("<8sIIQQ", b"tltokens", 1, 2, 100, 2**62)
    (tmp_path / "a.tokens").write_bytes(header + bytes(20))
    with pytest.raises(ValueError, match="its header says 4611686018427387904 ids of 2 bytes, but 20 bytes follow it"):
        TokenFile(tmp_path / "a.tokens")


# ----- the fuzzer -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="its limits of memory are Linux's")
@pytest.mark.slow
def test_changed_files_of_each_kind():
    """Drawn from a seed, so the same everywhere: python -m tests.meta.fuzz --random --cases 60."""
    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-m", "tests.meta.fuzz", "--random", "--cases", "60"]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"60 cases drawn from a seed", done.stdout)) == 16
