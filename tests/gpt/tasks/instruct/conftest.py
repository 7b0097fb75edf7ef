"""Fixtures of the tests of instruction fine-tuning, chat and judges."""

import json

import pytest
from loopback import serving
from runs import tiny, train
from taught import ENTRIES, YES, tune

from gpt.cli import main as cli
from gpt.tasks.instruct import STYLES, judge
from tensorlite.devices import machine


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """base/, a pretrained run that knows the characters; data.json; taught/, tuned on it; adapted/, with LoRA."""
    folder = tmp_path_factory.mktemp("instruct")
    text = "\n".join(STYLES["phi3"].prompt(e) + e["output"] for e in ENTRIES)
    (folder / "text.txt").write_text(text, encoding="utf-8")
    shape = {"n_embd": 32, "context_length": 80, "position_std": 1.0, "dropout": 0.0, "steps": 2, "checkpoint_every": 2}
    train(tiny(folder, text=(folder / "text.txt",), out=folder / "base", **shape))
    (folder / "data.json").write_text(json.dumps(ENTRIES), encoding="utf-8")
    (folder / "long.json").write_text(json.dumps([*ENTRIES, {**YES, "input": "yes" * 20}]), encoding="utf-8")
    tune(folder, "taught")
    tune(folder, "adapted", lora=True, rank=4, alpha=8.0, targets=("attention", "head"))
    return folder


@pytest.fixture(scope="session")
def answering_run(tmp_path_factory):
    """A run that may answer: its tokenizer has an end of text. What it answers is nonsense."""
    folder = tmp_path_factory.mktemp("judge")
    train(tiny(folder, steps=2, tokenizer="bpe", vocab_size=270, context_length=64))
    return folder / "run"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(judge, "WAIT", 0.001)
    with serving() as server:
        yield server


@pytest.fixture
def judge_command(capsys, monkeypatch):
    """`gpt judge ...` in this process: exit status, output, errors."""
    monkeypatch.setattr(machine, "keep_freed_memory", lambda: "not asked for in a test")
    monkeypatch.setenv("COLUMNS", "150")

    def run_judge(*args):
        with pytest.raises(SystemExit) as left:
            cli.main(["judge", *map(str, args)])
        return left.value.code or 0, *capsys.readouterr()

    return run_judge
