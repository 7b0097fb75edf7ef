"""GPT-2's weights into runs and out of them: the same bits arrive, and each bad folder gets its one sentence."""

import json
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import folders
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from runs import ONE_THREAD, contents, flags

from gpt import pretrained
from gpt.config import GPTConfig
from gpt.model import GPT
from gpt.pretrained import layout, vocabulary
from gpt.training import checkpoint

ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes has the dtype bfloat16")

UNTIED = {**folders.CONFIG, "tie_word_embeddings": False}


# ----- what goes in arrives ---------------------------------------------------------------------------------------


def prefixed(tensors: dict) -> dict:
    return {name if name == "lm_head.weight" else f"transformer.{name}": x for name, x in tensors.items()}


def with_buffers(tensors: dict) -> dict:
    mask = {"h.0.attn.bias": np.ones((1, 1, 6, 6), "?"), "h.1.attn.masked_bias": np.array(-1e4, "f4")}
    return prefixed(tensors | mask)


VARIANTS = {
    "without a prefix": (folders.CONFIG, lambda x: x),
    "with the prefix": (folders.CONFIG, prefixed),
    "with buffers": (folders.CONFIG, with_buffers),
    "untied": (UNTIED, prefixed),
    "tied, and the head there": (folders.CONFIG, lambda x: prefixed(x | {"lm_head.weight": x["wte.weight"]})),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_weights_of_a_folder(tmp_path, dtype, variant):
    config, change = VARIANTS[variant]
    theirs = {name: x.astype(dtype) for name, x in folders.weights(config).items()}
    model = pretrained.load(folders.write(tmp_path / "hf", config, change(theirs)))
    folders.same_bits(model, folders.ours({name: x.astype("f4") for name, x in theirs.items()}))
    assert not model.training
    assert model.config == GPTConfig(
        vocab_size=260, context_length=6, n_layer=2, n_head=2, n_embd=8, qkv_bias=True, tie_head=config is not UNTIED
    ).with_dropout(0.1)


def test_bfloat16_needs_no_ml_dtypes(tmp_path, monkeypatch):
    theirs = {name: x.astype(ml_dtypes.bfloat16) for name, x in folders.weights(folders.CONFIG).items()}
    folder = folders.write(tmp_path / "hf", tensors=theirs)
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    folders.same_bits(pretrained.load(folder), folders.ours({name: x.astype("f4") for name, x in theirs.items()}))


def shard(folder: Path) -> dict[str, str]:
    """Cut a folder's weights into three files; the index's map."""
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    where = {name: f"model-0000{i % 3 + 1}-of-00003.safetensors" for i, name in enumerate(tensors)}
    for file in set(where.values()):
        safetensors.numpy.save_file({name: x for name, x in tensors.items() if where[name] == file}, folder / file)
    index(folder, where)
    return where


def index(folder: Path, where: dict[str, str]) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def test_shards(tmp_path):
    folder = folders.write(tmp_path / "hf")
    shard(folder)
    folders.same_bits(pretrained.load(folder), folders.ours(folders.weights(folders.CONFIG)))


@pytest.mark.parametrize("n", [1, 3])
def test_any_size(tmp_path, n):
    config = {"vocab_size": 257 + n, "n_positions": n, "n_embd": 2 * n, "n_layer": n, "n_head": n}
    model = pretrained.load(folders.write(tmp_path / "hf", config))
    folders.same_bits(model, folders.ours(folders.weights(config)))
    assert (model.config.n_layer, model.config.n_head, model.config.context_length) == (n, n, n)


@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("tie_head", [True, False])
def test_the_table_of_names_has_every_parameter(qkv_bias, tie_head):
    config = GPTConfig(
        vocab_size=7, context_length=3, n_layer=2, n_head=2, n_embd=4, qkv_bias=qkv_bias, tie_head=tie_head
    )
    assert layout.our_shapes(config) == {name: p.shape for name, p in GPT(config).named_parameters()}


# ----- a run of it ------------------------------------------------------------------------------------------------


def test_a_run_that_is_named_like_a_flag_is_shown_as_it_is_typed(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, shown in (("-run", "./-run"), ("my run", "'my run'")):
        output = call("import", folders.write(tmp_path / f"of {name}"), "--", name)[1]
        assert output.endswith(f": gpt generate {shown} --prompt ...\n")
        errors = (
            call("chat", "--once", "x", "--", name)[2] if name == "my run" else call("classify", "--", name, "x")[2]
        )
        assert f" {shown} --data FILE first" in errors


def test_import_makes_a_run_that_writes(call, tmp_path):
    folder, run = folders.write(tmp_path / "hf"), tmp_path / "[b]run"
    status, output, errors = call("import", folder, run)
    assert (status, errors) == (0, "")
    assert "2 layers, 2 heads, 8 wide, context 6" in output
    assert output.endswith(f"run        {run}: gpt generate '{run}' --prompt ...\n")
    model, tokenizer = checkpoint.load_model(run)
    folders.same_bits(model, folders.ours(folders.weights(folders.CONFIG)))
    assert (tokenizer.tokens, tokenizer.special_tokens) == (folders.TOKENIZER.tokens, {"<|endoftext|>": 259})
    status, output, _ = call("generate", run, "--prompt", "abc", "--max-new-tokens", 9, "--temperature", 0)
    assert (status, output[:3]) == (0, "abc")
    assert checkpoint.read_config(run / "config.json")["imported"] == {
        "from": str(folder),
        "format": "Hugging Face's",
    }


def test_an_imported_run_is_not_overwritten_unasked(call, tmp_path):
    folder, run = folders.write(tmp_path / "hf"), tmp_path / "run"
    assert call("import", folder, run)[0] == 0
    before = contents(run)
    for args in (("import", folder, run), (*flags(tmp_path), "--out", run)):
        status, _, errors = call(*args)
        assert (status, contents(run)) == (1, before)
        assert "has a run already" in errors
        assert ("--resume" in errors) == (args[0] == "train")  # gpt import has no such flag
    folders.write(folder, tensors=folders.weights(folders.CONFIG, seed=1))
    assert call("import", folder, run, "--overwrite")[0] == 0
    folders.same_bits(checkpoint.load_model(run)[0], folders.ours(folders.weights(folders.CONFIG, seed=1)))


def test_an_imported_run_cannot_be_resumed(call, tmp_path):
    pretrained.import_folder(folders.write(tmp_path / "hf"), tmp_path / "run")
    status, _, errors = call("train", "--resume", tmp_path / "run")
    assert status == 1
    assert re.fullmatch(r"gpt: .*/run was imported, so it has no training to resume: .*\n", errors)


def test_the_same_folder_gives_the_same_bytes(tmp_path):
    folder = folders.write(tmp_path / "hf")
    for name in ("a", "b"):
        pretrained.import_folder(folder, tmp_path / name)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.slow
def test_memory_is_that_of_one_tensor(tmp_path):
    """In a new process: the most that it ever held, over what it held before."""
    pytest.importorskip("resource", reason="Unix says how much memory a process has held")
    config = {**folders.CONFIG, "n_embd": 384, "n_layer": 12, "n_head": 6}
    folder = folders.write(tmp_path / "hf", config)
    code = (
        "import resource, sys; from gpt import pretrained; most = lambda: "
        "resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; before = most(); "
        "pretrained.import_folder(sys.argv[1], sys.argv[2]); print(most() - before)"
    )
    command = [sys.executable, "-c", code, str(folder), str(tmp_path / "run")]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=ONE_THREAD)
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(result.stdout) * unit < 0.5 * (folder / "model.safetensors").stat().st_size


def test_what_is_not_finite_is_not_imported(tmp_path):
    tensors = folders.weights(folders.CONFIG)
    tensors["h.1.mlp.c_fc.bias"][3] = np.inf
    with pytest.raises(FloatingPointError, match=r"blocks.1.feed_forward.expand.bias in .*/hf has values that are not"):
        pretrained.import_folder(folders.write(tmp_path / "hf", tensors=tensors), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_full_disk_leaves_no_half_of_a_run_and_no_half_of_a_folder(call, tmp_path):
    resource = pytest.importorskip("resource", reason="only Unix limits the size of files")
    folder, run = folders.write(tmp_path / "hf"), tmp_path / "run"
    pretrained.import_folder(folder, run)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        into = call("import", folder, tmp_path / "other")
        out = call("export", run, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert into[0] == out[0] == 1
    assert re.fullmatch(r"gpt: step 0 cannot be saved in .*/other: File too large.*\n", into[2])
    assert re.fullmatch(r"gpt: .*/out cannot be written: File too large.*; nothing is left of it\n", out[2])
    assert not checkpoint.is_run(tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "run"]
    assert call("import", folder, tmp_path / "other")[0] == 0  # as if nothing had been


def test_too_little_room_is_seen_before_writing(call, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000))
    status, _, errors = call("import", folders.write(tmp_path / "hf"), tmp_path / "run")
    assert status == 1
    assert re.fullmatch(
        r"gpt: step 0 cannot be saved in .*: it takes more than .* KiB and 1000 bytes are free.*\n", errors
    )
    assert not checkpoint.is_run(tmp_path / "run")


# ----- what does not fit ------------------------------------------------------------------------------------------


def test_all_that_does_not_fit_is_listed_at_once(call, tmp_path):
    tensors = folders.weights(folders.CONFIG)
    tensors["h.0.attn.c_attn.weight"] = tensors["h.0.attn.c_attn.weight"].T
    tensors["h.1.mlp.c_fc.bias"] = tensors["h.1.mlp.c_fc.bias"].astype("i1")
    tensors["wpe.weight"] = tensors["wpe.weight"].astype("f8")
    del tensors["h.0.ln_1.weight"], tensors["ln_f.bias"]
    tensors |= {"score.weight": np.zeros(2, "f4"), "h.2.ln_1.bias": np.zeros(8, "f4")}
    status, _, errors = call("import", folders.write(tmp_path / "hf", tensors=tensors), tmp_path / "run")
    assert status == 1
    assert errors.startswith(f"gpt: the weights in {tmp_path}/hf are not those of its config: ")
    problems = errors.strip().partition("its config: ")[2].split("; ")
    assert problems[0] == "missing h.0.ln_1.weight, ln_f.bias"
    assert {*problems[1].removeprefix("unexpected ").split(", ")} == {"score.weight", "h.2.ln_1.bias"}
    assert set(problems[2:]) == {
        "wpe.weight has dtype float64 and not one of float32, float16, bfloat16",
        "h.0.attn.c_attn.weight has shape (24, 8) and not (8, 24)",
        "h.1.mlp.c_fc.bias has dtype int8 and not one of float32, float16, bfloat16",
    }
    assert not (tmp_path / "run").exists()


def test_every_field_of_a_config_that_computes_something_else_is_listed(call, tmp_path):
    wrong = {
        "model_type": "gpt_neo", "activation_function": "relu", "layer_norm_epsilon": 1e-6, "scale_attn_weights": False,
        "scale_attn_by_inverse_layer_idx": True, "add_cross_attention": True, "pruned_heads": {"0": [1]}, "n_inner": 7,
        "quantization_config": {"bits": 4}, "n_head": 3,
    }  # fmt: skip
    status, _, errors = call("import", folders.write(tmp_path / "hf", folders.CONFIG | wrong), tmp_path / "run")
    assert status == 1
    for name, value in wrong.items():
        assert f"{name} is {value!r} and must be" in errors or f"got {name} 3 and n_embd 8" in errors
    assert "activation_function is 'relu' and must be 'gelu_new': otherwise the feed-forward" in errors
    assert errors.count("\n") == 1
    harmless = {"n_inner": 32, "reorder_and_upcast_attn": True, "quantization_config": None, "pruned_heads": {},
                "n_ctx": 6, "summary_type": "cls_index", "torch_dtype": "float16"}  # fmt: skip
    pretrained.load(folders.write(tmp_path / "hf", folders.CONFIG | harmless))


def test_a_head_that_is_there_although_tied_must_be_the_embedding(tmp_path):
    tensors = folders.weights(folders.CONFIG)
    head = {"lm_head.weight": tensors["wte.weight"] + 1}
    with pytest.raises(
        ValueError, match=r"lm_head.weight that differs from wte.weight.*\"tie_word_embeddings\": false"
    ):
        pretrained.load(folders.write(tmp_path / "hf", tensors=tensors | head))
    model = pretrained.load(folders.write(tmp_path / "hf", UNTIED, tensors | head))
    np.testing.assert_array_equal(model.head.weight.numpy(), head["lm_head.weight"])
    with pytest.raises(ValueError, match=r"its config: missing lm_head\.weight"):
        pretrained.load(folders.write(tmp_path / "hf", UNTIED, tensors))
    small = {"lm_head.weight": np.zeros((3, 8), "f4")}
    with pytest.raises(ValueError, match=r"its config: unexpected lm_head\.weight"):
        pretrained.load(folders.write(tmp_path / "hf", tensors=tensors | small))
    del tensors["wte.weight"]
    with pytest.raises(ValueError, match=r"its config: missing wte\.weight; unexpected lm_head\.weight"):
        pretrained.load(folders.write(tmp_path / "hf", tensors=tensors | head))


def test_a_name_with_and_without_the_prefix(tmp_path):
    tensors = folders.weights(folders.CONFIG)
    with pytest.raises(ValueError, match=r"have wte.weight twice, with and without the prefix transformer\."):
        pretrained.load(folders.write(tmp_path / "hf", tensors=tensors | {"transformer.wte.weight": np.zeros(1)}))


PICKLES = {"pickle": pickle.dumps({"x": 1}), "torch's zip": b"PK\x03\x04" + b"\0" * 60}


@pytest.mark.parametrize("content", PICKLES.values(), ids=PICKLES)
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth"])
@pytest.mark.parametrize("what", ["beside config.json", "alone in a folder", "the file itself"])
def test_a_pickle_is_refused_with_the_way_to_convert_it(call, tmp_path, content, name, what):
    folder = folders.write(tmp_path / "hf")
    (folder / "model.safetensors").unlink()
    if what == "alone in a folder":
        (folder / "config.json").unlink()
    (folder / name).write_bytes(content)
    source = folder / name if what == "the file itself" else folder
    status, _, errors = call("import", source, tmp_path / "run")
    assert status == 1
    assert re.fullmatch(rf"gpt: {folder}/{name} is a pickle, which can run any code when it is loaded; .*\n", errors)
    assert f"M.from_pretrained('{folder}').save_pretrained('{folder}-safetensors')" in errors


def damage(folder: Path, what: str) -> None:
    weights, config = folder / "model.safetensors", folder / "config.json"
    index_file = folder / "model.safetensors.index.json"
    if what == "truncated":
        weights.write_bytes(weights.read_bytes()[:-5])
    elif what == "pickle by another name":
        weights.write_bytes(PICKLES["torch's zip"])
    elif what == "no weights":
        weights.unlink()
    elif what == "no config":
        config.unlink()
        (folder / "photos.zip").write_bytes(PICKLES["torch's zip"])  # no pickle by its name
        (folder / "model.bin").mkdir()
    elif what == "config cut off":
        config.write_text('{\n "n_layer": 2,\n "n_head" 2}')
    elif what == "config is a list":
        config.write_text("[]")
    elif what == "config not UTF-8":
        config.write_bytes(b'{"n_layer": "\xff"}')
    elif what == "sizes missing":
        config.write_text('{"n_layer": 2, "n_head": 2, "n_embd": 8}')
    elif what == "size is text":
        config.write_text(json.dumps(folders.CONFIG | {"n_layer": "2"}))
    elif what == "a shard missing":
        shard(folder)
        (folder / "model-00002-of-00003.safetensors").unlink()
    elif what == "a shard elsewhere":
        index(folder, {**shard(folder), "wte.weight": "../x.safetensors"})
    elif what == "index astray":
        where = shard(folder)
        index(folder, where | {"wte.weight": where["wpe.weight"]})
    elif what == "index without a map":
        shard(folder)
        index_file.write_text("{}")
    elif what == "no tokenizer":
        (folder / "merges.txt").unlink()
    elif what == "tokenizer too large":
        (folder / "vocab.json").write_text(json.dumps(folders.vocabulary() | {"x y": 260}))


SENTENCES = {
    "truncated": r"model\.safetensors is not a safetensors file that can be used: .*",
    "pickle by another name": r"model\.safetensors is not a safetensors file .*it looks like a pickle.*save_file.*",
    "no weights": r"{folder} has no model\.safetensors, and no model\.safetensors\.index\.json of its parts",
    "no config": r"{folder} has neither config\.json \(Hugging Face\) nor hparams\.json.*",
    "config cut off": r"{folder}/config\.json is not JSON: .*line 3 column 11.*",
    "config is a list": r"{folder}/config\.json must hold a JSON object, got list",
    "config not UTF-8": r"{folder}/config\.json is not JSON: 'utf-8' codec.*",
    "sizes missing": r"{folder}/config\.json describes .*: vocab_size is missing; n_positions is missing",
    "size is text": r"{folder}/config\.json describes .*: n_layer must be an integer of at least 1, got '2'",
    "a shard missing": r"{folder} lacks model-00002-of-00003\.safetensors, which .*\.index\.json names",
    "a shard elsewhere": r".*index\.json names files that are not in its folder: \.\./x\.safetensors",
    "index astray": r".*index\.json does not agree .*: wte\.weight is not in model-.*; model-.* has wte\.weight too",
    "index without a map": r".*index\.json has no weight_map from names to files",
    "no tokenizer": r"{folder} has no tokenizer: put its tokenizer\.json there, .* and it has 260",
    "tokenizer too large": r"{folder}/vocab\.json is not a tokenizer that can .*: it has 261 tokens, and the model 260",
    "no folder": r"there is no folder {folder}",
    "a file": r"{folder} is a file: name the folder with config\.json and model\.safetensors",
}


@pytest.mark.parametrize("what", SENTENCES)
def test_a_bad_folder_is_refused_in_one_sentence_and_no_run_begins(call, tmp_path, what):
    folder = tmp_path / "hf"
    if what == "a file":
        folder.write_text("x")
    elif what != "no folder":
        damage(folders.write(folder), what)
    status, _, errors = call("import", folder, tmp_path / "run")
    assert status == 1
    assert re.fullmatch(rf"gpt: .*{SENTENCES[what].format(folder=re.escape(str(folder)))}\n", errors), errors
    assert not (tmp_path / "run").exists()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
FILES = ("config.json", "model.safetensors.index.json", "tokenizer.json")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with each of FILES."""
    folder = folders.write(tmp_path_factory.mktemp("whole") / "hf", tokenizer=False)
    shard(folder)
    for name, text in vocabulary.tokenizer_files(folders.TOKENIZER, 6).items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@given(data=st.data())
def test_any_value_anywhere_in_the_json_is_refused_or_read(whole, data):
    """One value of a file changed, at any depth: a ValueError or OSError in one line, or a model."""
    path = whole / data.draw(st.sampled_from(FILES))
    text = path.read_text(encoding="utf-8")
    place = fields = json.loads(text)
    while True:
        keys = sorted(place) if isinstance(place, dict) else range(len(place))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = data.draw(VALUES)
    said = ""
    try:
        path.write_text(json.dumps(fields), encoding="utf-8")
        pretrained.load(whole)
        pretrained.load_tokenizer(whole, 260)
    except (ValueError, OSError) as error:
        said = str(error)
    finally:
        path.write_text(text, encoding="utf-8")
    assert "\n" not in said


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["import"], "RUN"),
        (["import", "a"], "give SOURCE and RUN, got 1 path"),
        (["import", "a", "b", "c"], "give SOURCE and RUN, got 3 paths"),
        (["import", "a", "b", "--model", "gpt2"], "give RUN alone, since --model says what to import, got 2 paths"),
        (["import", "a", "--model", "gpt3"], "gpt3"),
        (["export", "a"], "FOLDER is missing (gpt export --help)"),
    ],
)
def test_wrong_usage_is_2(call, args, says):
    status, output, errors = call(*args)
    assert status == 2
    assert says in re.sub(r"[│\s]+", " ", output + errors)


def test_a_model_by_name_is_downloaded_first(call, tmp_path, monkeypatch):
    asked = []

    def fetch(name, console):
        asked.append(name)
        return folders.write(tmp_path / "cache")

    monkeypatch.setattr("gpt.cli.import_.fetch_model", fetch)
    for _ in range(2):
        status, _, errors = call("import", "--model", "gpt2-medium", tmp_path / "run")
        assert asked == ["gpt2-medium"]  # not again for a run that is there already
    assert "has a run already" in errors
    assert checkpoint.is_run(tmp_path / "run")
    assert status == 1
