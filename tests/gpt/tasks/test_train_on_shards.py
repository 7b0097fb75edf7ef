"""`gpt train --text DIR` on a folder of `gpt data prepare`; `gpt evaluate` on one; `gpt train --text -`."""

import contextlib
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import sharded
from runs import TINY, contents, tiny, train
from sharded import TOKENIZER, job, run

from gpt.config import GPTConfig
from gpt.data.shards import order
from gpt.model import GPT
from gpt.tasks.prepared import evaluate_prepared
from gpt.tasks.pretrain import Pretraining, TrainConfig
from gpt.tokenizer import BPETokenizer
from gpt.training import loop, session
from gpt.training.checkpoint import load_model

SETTINGS = {key: value for key, value in TINY.items() if key != "tokenizer"}
TEXTS = [f"the cat {i} sat on the mat and the dog {i * 7} sat on the other mat" for i in range(60)]


def prepared(folder: Path, **changes) -> Path:
    folder.mkdir(exist_ok=True)
    run(job(folder / "shards", *sharded.json_lines(folder / "a.jsonl", TEXTS), **{"shard_tokens": 300, **changes}))
    return folder / "shards"


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr("gpt.data.shards.encoding.BATCH", 500)


@pytest.fixture
def shards(tmp_path) -> Path:
    return prepared(tmp_path)


def config(text: Path, out: Path, **changes) -> TrainConfig:
    return TrainConfig(**{"text": (text,), "out": out, **SETTINGS, **changes})


def test_a_run_learns_from_the_shards_where_they_are(shards, tmp_path):
    screen = train(config(shards, tmp_path / "run", steps=60, dropout=0.0))
    assert f"text       {shards}: 60 documents, prepared by gpt data prepare" in screen
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert not {name for name in names if name.endswith(".tokens")}
    description = json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))
    manifest = json.loads((shards / "data.json").read_text(encoding="utf-8"))
    for part in ("train", "validation"):
        tokens = sum(shard["tokens"] for shard in manifest["shards"] if shard["part"] == part)
        assert description["data"][part]["tokens"] == tokens
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["whole_validation_loss"] < lines[0]["validation_loss"] - 0.5
    model, tokenizer = load_model(tmp_path / "run")
    assert tokenizer.special_tokens == TOKENIZER.special_tokens
    assert model.config.vocab_size == 290


def test_batches_are_the_windows_of_the_order(shards, tmp_path):
    c = config(shards, tmp_path / "run")
    train(c)
    tokenizer = load_model(tmp_path / "run")[1]
    description = json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))
    task = Pretraining(c, tmp_path / "run", tokenizer, description)
    files = [np.fromfile(path, "<u2", offset=32) for path in sorted(shards.glob("train-*.tokens"))]
    epoch = order.Epoch([len(file) for file in files], 8, c.seed, 0)
    for batch in range(5):
        x, y = task.draw()
        for row in range(2):
            shard, start = epoch[2 * batch + row]
            assert x.numpy()[row].tolist() == files[shard][start : start + 8].tolist()
            assert y.numpy()[row].tolist() == files[shard][start + 1 : start + 9].tolist()


@pytest.mark.slow
def test_a_run_is_resumed_in_the_middle_of_an_epoch(shards, tmp_path, monkeypatch):
    monkeypatch.setattr(order, "BLOCK", 40)
    monkeypatch.setattr(order, "TOGETHER", 2)
    steps = 2 * len(order.Epoch([300], 8, 0, 0))
    train(config(shards, tmp_path / "whole" / "run", steps=steps))
    out = tmp_path / "run"
    real, count = loop.update, 0

    def stops(*args, **options):
        nonlocal count
        count += 1
        if count == 14:
            raise KeyboardInterrupt
        return real(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "update", stops)
        with pytest.raises(KeyboardInterrupt):
            train(config(shards, out, steps=steps))
    train(session.settings(out, TrainConfig))
    found, wanted = contents(out, only_top=True), contents(tmp_path / "whole" / "run", only_top=True)
    assert [name for name in wanted if found.get(name) != wanted[name]] == []


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (lambda folder: folder.rename(folder.with_name("moved")), "the prepared text of the run, is missing: put it"),
        (lambda folder: (folder / "data.json").write_text("{}"), "has another text than the one that the run was"),
        (lambda folder: (folder / "train-00000.tokens").write_bytes(b""), "train-00000.tokens is damaged"),
        (lambda folder: (folder / "validation-00000.tokens").unlink(), "validation-00000.tokens is missing"),
    ],
)
def test_a_text_that_was_changed_ends_a_run(shards, tmp_path, how, says):
    train(config(shards, tmp_path / "run", steps=4))
    how(shards)
    with pytest.raises(ValueError, match=says):
        train(session.settings(tmp_path / "run", TrainConfig))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tokenizer": "gpt2"}, "tokenizer is that of the prepared text"),
        ({"vocab_size": 300}, "vocab_size is that of the prepared text"),
        ({"validation": 0.2}, "validation is that of the prepared text"),
        (
            {"context_length": 500},
            "no shard has more than 500 tokens: give more text or a shorter context_length",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(shards, tmp_path, changes, says):
    with pytest.raises(ValueError, match=says):
        train(config(shards, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_a_folder_is_given_alone_and_has_shards(shards, tmp_path):
    both = TrainConfig(text=(shards, tmp_path / "a.jsonl"), out=tmp_path / "run", **SETTINGS)
    with pytest.raises(ValueError, match="shards is a folder: give one folder of gpt data prepare alone"):
        train(both)
    with pytest.raises(FileNotFoundError, match="is a folder without shards: name text files in it, or encode"):
        train(config(tmp_path, tmp_path / "elsewhere" / "run"))


# ----- from another run -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_training_goes_on_from_another_run_with_its_tokenizer(shards, tmp_path):
    train(config(shards, tmp_path / "base"))
    start = {"base": tmp_path / "base", "batch_size": 2, "steps": 4, "eval_every": 2, "sample_tokens": 3}
    train(TrainConfig(text=(shards,), out=tmp_path / "more", add_token=("<|user|>",), **start))
    assert load_model(tmp_path / "more")[1].special_tokens == {"<|endoftext|>": 289, "<|user|>": 290}
    other = prepared(tmp_path / "other", tokenizer=BPETokenizer(TOKENIZER.tokens[:280]))
    with pytest.raises(ValueError, match=r"encoded with another tokenizer \(281 tokens\) than that of the run \(290\)"):
        train(TrainConfig(text=(other,), out=tmp_path / "no", **start))
    same_size = prepared(tmp_path / "same", tokenizer=BPETokenizer.train("a dog and a bird. " * 99 + TEXTS[3] * 9, 290))
    with pytest.raises(ValueError, match="encoded with another tokenizer"):
        train(TrainConfig(text=(same_size,), out=tmp_path / "no", **start))


# ----- evaluation -------------------------------------------------------------------------------------------------


def test_evaluation_of_a_folder_is_that_of_its_validation_text(shards, tmp_path, call):
    """The same numbers as of one long text, whose tokens and ends of documents are written out."""
    train(config(shards, tmp_path / "run", steps=2))
    status, output, errors = call("evaluate", tmp_path / "run", "--text", shards, "--json")
    assert status == 0, errors
    found = json.loads(output)
    documents = [text for text in TEXTS if sharded.part_of(text, 0.5) == "validation"]
    (tmp_path / "all.txt").write_text("".join(f"{text}<|endoftext|>" for text in documents))
    whole = json.loads(call("evaluate", tmp_path / "run", "--text", tmp_path / "all.txt", "--json")[1])
    assert found["tokens"] == whole["tokens"] == len(sharded.stored(shards)["validation"])
    assert found["loss"] == pytest.approx(whole["loss"], rel=1e-6)
    assert found["bytes"] == whole["bytes"] - len("<|endoftext|>") * len(documents)  # an end is no text here
    train(tiny(tmp_path, out=tmp_path / "chars", steps=1))
    status, _, errors = call("evaluate", tmp_path / "chars", "--text", shards)
    assert (status, errors.count("\n")) == (1, 1)
    assert "was encoded with another tokenizer (290 tokens) than that of the run" in errors


def test_the_bar_of_an_evaluation_comes_to_its_end(shards):
    made = []

    def bar(what, total):
        made.append((what, total))
        return contextlib.nullcontext(made.append)

    model = GPT(GPTConfig(vocab_size=290, context_length=8, n_layer=1, n_head=1, n_embd=4))
    score = evaluate_prepared(model, TOKENIZER, shards, 8, 8, 10**6, bar)
    count = len(sharded.stored(shards)["validation"]) - 1
    assert (score.tokens, score.predicted) == (count + 1, count)
    assert made[0] == ("predicting", count)
    assert sum(made[1:]) == count


# ----- standard input ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_piped_text_is_a_text(tmp_path, monkeypatch):
    text = "\n".join(TEXTS)
    (tmp_path / "a.txt").write_text(text)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text.encode())))
    tokenizer = {"tokenizer": "char"}
    train(config(Path("-"), tmp_path / "piped", **tokenizer))
    train(config(tmp_path / "a.txt", tmp_path / "file", **tokenizer))
    piped, file = (contents(tmp_path / name, only_top=True) for name in ("piped", "file"))
    assert piped["train.tokens"] == file["train.tokens"]
    assert piped["metrics.jsonl"] == file["metrics.jsonl"]
    assert TrainConfig(text=(Path("-"),)).name() == "stdin"
