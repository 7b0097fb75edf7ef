"""A run out into a folder for transformers: whole or not at all, and in again it is the same model.

That transformers makes the same of it is tested in tests/peers.
"""

import os
from pathlib import Path

import folders
import numpy as np
import pytest
import safetensors
from runs import contents, tiny, train

import tensorlite as tl
from gpt import lora, pretrained
from gpt.config import GPTConfig
from gpt.model import GPT
from gpt.pretrained import runs
from gpt.tokenizer import BPETokenizer, CharTokenizer, WordTokenizer
from gpt.training import checkpoint
from tensorlite import io

LORA = {"rank": 2, "alpha": 4, "targets": ["*"]}


def run_of(folder: Path, config: GPTConfig, tokenizer) -> tuple[Path, GPT]:
    """A run with random weights, as three files; its model."""
    folder.mkdir()
    tl.manual_seed(3)
    model = GPT(config)
    for p in model.parameters():
        p.data[...] += tl.rand(*p.shape).data
    checkpoint.write_json(folder / "config.json", {"format": "gpt.run", "version": 1, "model": config.to_dict()})
    tokenizer.save(folder / "tokenizer.json")
    io.save(folder / "model.safetensors", model.state_dict())
    return folder, model


@pytest.mark.parametrize("tie_head", [True, False])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_out_and_in_again_is_the_same_model(call, tmp_path, tie_head, qkv_bias):
    config = GPTConfig(
        vocab_size=260, context_length=6, n_layer=2, n_head=2, n_embd=8, qkv_bias=qkv_bias, tie_head=tie_head,
        embedding_dropout=0.1, attention_dropout=0.2, residual_dropout=0.3,
    )  # fmt: skip
    run, model = run_of(tmp_path / "run", config, folders.TOKENIZER)
    status, output, errors = call("export", run, tmp_path / "out")
    assert status == 0
    assert errors.startswith(f"gpt: warning: {run} has no checkpoints: ")
    assert errors.count("\n") == 1
    assert "config.json, merges.txt, model.safetensors, tokenizer.json, tokenizer_config.json, vocab.json" in output
    again = pretrained.load(tmp_path / "out")
    assert {**vars(again.config), "qkv_bias": qkv_bias} == vars(config)
    weights = {name: p.numpy() for name, p in model.named_parameters()}
    zeros = {} if qkv_bias else {
        f"blocks.{i}.attention.W_{name}.bias": np.zeros(8, "f4") for i in (0, 1) for name in ("query", "key", "value")
    }  # fmt: skip
    folders.same_bits(again, weights | zeros)
    idx = tl.tensor([[5, 17, 80, 2]])
    np.testing.assert_array_equal(again(idx)[0].numpy(), model.eval()(idx)[0].numpy())
    found = pretrained.load_tokenizer(tmp_path / "out", 260)
    assert (found.tokens, found.special_tokens) == (folders.TOKENIZER.tokens, {"<|endoftext|>": 259})
    with safetensors.safe_open(tmp_path / "out" / "model.safetensors", framework="np") as file:
        assert file.metadata() == {"format": "pt"}
        assert ("lm_head.weight" in file.keys()) is not tie_head  # noqa: SIM118


@pytest.mark.slow
def test_a_trained_run_goes_out(call, tmp_path):
    train(tiny(tmp_path))
    assert call("export", tmp_path / "run", tmp_path / "out")[0] == 0
    model, tokenizer = checkpoint.load_model(tmp_path / "run")
    again = pretrained.load(tmp_path / "out")
    idx = tl.tensor([tokenizer.encode("bottles")])
    np.testing.assert_array_equal(again(idx)[0].numpy(), model(idx)[0].numpy())
    found = pretrained.load_tokenizer(tmp_path / "out", tokenizer.vocab_size)
    assert isinstance(found, CharTokenizer)
    assert found.characters == tokenizer.characters


def test_adapters_are_merged(tmp_path):
    run, model = run_of(tmp_path / "run", SMALL, folders.TOKENIZER)
    description = checkpoint.read_config(run / "config.json")
    checkpoint.write_json(run / "config.json", description | {"task": "instruct", "lora": LORA})
    lora.apply(model, rank=2, alpha=4)
    for p in lora.trainable(model):
        p.data[...] = tl.randn(*p.shape).data
    io.save(run / "model.safetensors", model.state_dict())
    pretrained.export_run(run, tmp_path / "out")
    idx = tl.tensor([[5, 17, 80, 2]])
    again = pretrained.load(tmp_path / "out")
    np.testing.assert_allclose(again(idx)[0].numpy(), model.eval()(idx)[0].numpy(), rtol=1e-4, atol=1e-5)


SMALL = GPTConfig(vocab_size=260, context_length=6, n_layer=1, n_head=1, n_embd=4)


def test_what_gpt2s_format_cannot_hold(call, tmp_path):
    words = WordTokenizer([f"w{i}" for i in range(260)])
    run, _ = run_of(tmp_path / "words", SMALL, words)
    adapted, _ = run_of(tmp_path / "adapted", SMALL, folders.TOKENIZER)
    state = io.load(adapted / "model.safetensors")
    io.save(adapted / "model.safetensors", state | {"head.lora_A": tl.ones(2)})
    spam, _ = run_of(tmp_path / "spam", SMALL, folders.TOKENIZER)
    description = checkpoint.read_config(spam / "config.json")
    checkpoint.write_json(spam / "config.json", description | {"task": "classify"})
    odd, _ = run_of(
        tmp_path / "odd", SMALL, BPETokenizer([bytes([i]) for i in range(256)] + [b"bc", b"xb", b"cy", b"xbcy"], [])
    )
    for source, says in (
        (run, "a WordTokenizer cannot be exported: it drops the spaces between words"),
        (adapted, f"GPT-2's format cannot hold the model of {adapted}: unexpected head.lora_A"),
        (spam, f"cannot hold the model of {spam}: its task is 'classify', so it writes no text"),
        (odd, "the token b'xbcy' is never reached by merging pairs"),  # bc comes first, and xbc is none
        (tmp_path / "nowhere", f"there is no run {tmp_path}/nowhere"),
    ):
        status, _, errors = call("export", source, tmp_path / "out")
        assert status == 1, source
        assert says in errors
        assert [line[:5] for line in errors.splitlines() if not line.startswith("gpt: warning: ")] == ["gpt: "]
        assert not (tmp_path / "out").exists()


def test_a_folder_that_is_there_is_not_touched(call, tmp_path):
    run, _ = run_of(tmp_path / "run", SMALL, folders.TOKENIZER)
    out = tmp_path / "out"
    out.mkdir()
    assert call("export", run, out)[0] == 0  # an empty one will do
    before = contents(out)
    for target in (out, out / "config.json"):
        status, _, errors = call("export", run, target)
        assert status == 1
        assert errors.endswith(f"gpt: {target} exists already: name a new folder, or an empty one\n")
    assert contents(out) == before


@pytest.mark.parametrize("function", ["rename", "fsync"])
def test_an_export_that_fails_leaves_nothing(tmp_path, monkeypatch, function):
    run, _ = run_of(tmp_path / "run", SMALL, folders.TOKENIZER)

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"os.{function}", fail)
    for out in ("out", "new/deep/out"):
        with pytest.raises(KeyboardInterrupt):
            pretrained.export_run(run, tmp_path / out)
        assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_every_file_is_on_the_disk_when_an_export_ends(tmp_path, monkeypatch):
    run, _ = run_of(tmp_path / "run", SMALL, folders.TOKENIZER)
    synced, fsync = set(), os.fsync

    def record(file):
        synced.add(os.fstat(file).st_ino)
        fsync(file)

    monkeypatch.setattr("os.fsync", record)
    pretrained.export_run(run, tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir() if p.stat().st_ino not in synced] == []
    assert {path.stat().st_ino for path in (tmp_path, tmp_path / "out")} <= synced


def killed_export(run: Path, out: Path, monkeypatch) -> None:
    """Killed when everything is written, just before it gets its name."""

    def kill(*_):
        raise SystemExit(9)

    with monkeypatch.context() as patch:
        patch.setattr("os.rename", kill)
        clear, place = runs._clear, out.with_name(f".{out.name}.gpt-export")
        patch.setattr(runs, "_clear", lambda where: None if (where / "new").exists() else clear(where))
        patch.setattr("gpt.system.remove_open", lambda file, path: None)
        with pytest.raises(SystemExit):
            pretrained.export_run(run, out)
    assert (place / "new" / "model.safetensors").exists()


@pytest.mark.finding("A9")
def test_what_a_killed_export_left_is_removed_by_the_next_one_and_nothing_else(tmp_path, monkeypatch):
    run, _ = run_of(tmp_path / "run", SMALL, folders.TOKENIZER)
    for name in (".out.1234abcd.tmp", ".out.tmp", ".notes.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.tex").write_text("mine")
    killed_export(run, tmp_path / "out", monkeypatch)
    pretrained.export_run(run, tmp_path / "out")
    names = [".notes.tmp", ".out.1234abcd.tmp", ".out.tmp", "out", "run"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    killed_export(run, tmp_path / "other", monkeypatch)
    (tmp_path / ".other.gpt-export" / "new" / "thesis.tex").write_text("mine")
    with pytest.raises(OSError, match=r"other cannot be written: .*new/thesis\.tex is not an export's: move it"):
        pretrained.export_run(run, tmp_path / "other")
    assert (tmp_path / ".other.gpt-export" / "new" / "thesis.tex").read_text() == "mine"


def test_two_exports_to_one_folder_do_not_meet(tmp_path):
    run, _ = run_of(tmp_path / "run", SMALL, folders.TOKENIZER)
    with (
        runs._workplace(tmp_path / "out", {"config.json"}),
        pytest.raises(RuntimeError, match=r"process \d+ is exporting in .*\.out\.gpt-export: wait for it"),
    ):
        pretrained.export_run(run, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_nothing_is_left_beside(tmp_path):
    run, _ = run_of(tmp_path / "run", SMALL, folders.TOKENIZER)
    pretrained.export_run(run, tmp_path / "deep" / "out")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]
    (tmp_path / "new").touch()
    for path in (tmp_path / "deep" / "out").iterdir():
        assert path.stat().st_mode == (tmp_path / "new").stat().st_mode, path  # as the umask says


def test_the_folder_one_stands_in(call, tmp_path, monkeypatch):
    run, _ = run_of(tmp_path / "run", SMALL, folders.TOKENIZER)
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    assert call("export", run, ".")[0] == 0
    assert (tmp_path / "out" / "config.json").exists()
