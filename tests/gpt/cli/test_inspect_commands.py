"""`gpt tokenize`, `gpt runs`, `gpt show` (gpt.look.run_summary): 80 columns, JSON, pipes, and what cannot be read."""

import json
import re
import shutil
import subprocess
import sys

import pytest
from runs import ONE_THREAD, quickly_drawn, tiny, train

from gpt import tokenizer as tokenizers
from gpt.cli.runs import short
from gpt.tokenizer import BPETokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of runs: `run` is finished and has a best checkpoint, `deep/part` was stopped after step 13."""
    folder = tmp_path_factory.mktemp("inspected")
    train(tiny(folder, keep_best=True))
    (folder / "deep").mkdir()
    train(tiny(folder, out=folder / "deep" / "part", max_minutes=0))
    return folder


# ----- tokenize -----------------------------------------------------------------------------------------------------


def rows(output):
    """Position, id and text of each row."""
    found = [re.fullmatch(r" *([\d,]+) +(\d+)  '(.*)'", line) for line in output.splitlines()]
    return [(int(row[1].replace(",", "")), int(row[2]), row[3]) for row in found if row]


def test_tokens_of_a_text(call, folder):
    tokenizer = tokenizers.load(folder / "run" / "tokenizer.json")
    status, output, errors = call("tokenize", folder / "run", "59 b\n;")
    ids = tokenizer.encode("59 b\n;")
    assert (status, errors) == (0, "")
    assert rows(output) == [(i, id, text) for i, (id, text) in enumerate(zip(ids, ["5", "9", " ", "b", "\\n", ";"],
                                                                              strict=True))]  # fmt: skip
    assert output.endswith(f"6 tokens of {tokenizer.vocab_size}: 6 characters, 6 bytes, 1.00 bytes a token\n")


def test_parts_of_characters_and_control_characters_are_escaped(call, tmp_path):
    BPETokenizer.train("aaaa", 258).save(tmp_path / "tokenizer.json")
    _, output, _ = call("tokenize", tmp_path / "tokenizer.json", "é\x1b aa")
    assert [row[2] for row in rows(output)] == ["\\xc3", "\\xa9", "\\x1b", " ", "aa"]
    status, output, _ = call("tokenize", tmp_path, "é aa", "--json")
    assert (status, json.loads(output)) == (0, {"ids": [195, 169, 32, 256], "tokens": ["\\xc3", "\\xa9", " ", "aa"],
                                                "characters": 4, "bytes": 5})  # fmt: skip


def test_special_tokens_are_text_unless_asked_for(call, tmp_path):
    BPETokenizer.train("a", 257, special_tokens=["<|endoftext|>"]).save(tmp_path / "tokenizer.json")
    assert len(rows(call("tokenize", tmp_path, "<|endoftext|>")[1])) == 13
    assert rows(call("tokenize", tmp_path, "<|endoftext|>", "--special-tokens")[1]) == [(0, 256, "<|endoftext|>")]


@pytest.mark.slow
def test_a_text_is_piped_in(folder):
    command = [sys.executable, "-m", "gpt", "tokenize", str(folder / "run")]
    done = subprocess.run(command, input=b"59\n\n", capture_output=True, env=ONE_THREAD, check=True)
    assert [row[2] for row in rows(done.stdout.decode())] == ["5", "9", "\\n"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env=ONE_THREAD)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b'there is no text: gpt tokenize RUN "some text", or pipe it in' in done.stderr


def test_wrong_tokenizers_and_texts(call, folder, tmp_path):
    for args, status, says in (
        ((tmp_path / "none", "a"), 1, "there is no run"),
        ((tmp_path, "a"), 1, "has no checkpoint"),
        ((folder / "run", "é"), 1, "is not in the vocabulary"),
        ((folder / "run", "a", "b"), 2, "does not take 'b': a text with spaces needs quotation marks"),
        ((), 2, "RUN|gpt2 is missing"),
    ):
        found, output, errors = call("tokenize", *args)
        assert (found, output, errors.count("\n")) == (status, "", 1)
        assert says in errors


# ----- runs ---------------------------------------------------------------------------------------------------------


def test_a_table_of_the_runs_below_a_folder(call, folder, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    status, output, errors = call("runs", folder)
    assert (status, errors) == (0, "")
    assert max(map(len, output.splitlines())) <= 80
    heads, _, part, run = (line.split() for line in output.splitlines())
    assert heads == ["run", "task", "steps", "size", "lowest", "loss", "changed"]
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    lowest, step = min((line["validation_loss"], line["step"]) for line in lines if "validation_loss" in line)
    assert run[:7] == ["run", "pretrain", "30", run[3], f"{lowest:.4f}", "@", f"{step}"]
    assert part[:5] == ["deep/part", "pretrain", "0", "of", "30"]  # not finished
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", run[7])
    found = [json.loads(line) for line in call("runs", folder, "--json")[1].splitlines()]
    assert [one["run"] for one in found] == [str(folder / "deep" / "part"), str(folder / "run")]
    assert found[1]["lowest"] == {"loss": lowest, "step": step}
    assert run[3] == short(found[1]["parameters"])


def test_a_narrow_terminal_has_a_line_for_each_cell(call, folder, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    status, output, _ = call("runs", folder)
    lines = output.splitlines()
    assert status == 0
    assert all(len(line) <= 40 for line in lines)
    at = lines.index("deep/part")
    heads = ["task", "steps", "size", "lowest loss", "changed"]
    assert [line.split(": ")[0].strip() for line in lines[at + 1 : at + 6]] == heads
    assert lines[at + 2] == "  steps: 0 of 30"


def test_the_folder_is_runs_by_default_and_may_be_a_run(call, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, output, errors = call("runs")
    assert (status, output) == (1, "")
    assert errors == "gpt: there is no run in runs: gpt train makes one in runs/\n"
    shutil.copytree(folder / "run", tmp_path / "runs" / "a")
    assert call("runs")[1].splitlines()[2].startswith("a ")
    assert call("runs", "runs/a")[1].splitlines()[2].startswith("a ")


def test_a_run_that_cannot_be_read_is_named_and_the_others_are_listed(call, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "all")
    for path in (tmp_path / "all").rglob("config.json"):
        if "deep" in str(path):
            path.write_text("{")
    status, output, errors = call("runs", tmp_path / "all")
    assert (status, len(output.splitlines())) == (0, 3)
    assert re.fullmatch(r"gpt: warning: \S*part\S*/config\.json is not JSON: [^\n]+\n", errors)
    assert call("runs", tmp_path / "all" / "deep")[0] == 1


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (2320, "2.32K"), (816_640, "817K"), (124_439_808, "124M"), (1_557_611_200, "1.56G")],
)
def test_short_numbers(number, text):
    assert short(number) == text


# ----- show ---------------------------------------------------------------------------------------------------------


def test_a_run_is_described(call, folder, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    status, output, errors = call("show", folder / "run")
    assert (status, errors) == (0, "")
    assert max(map(len, output.splitlines())) <= 80
    assert re.search(r"^    task  ", output, re.MULTILINE)  # below the title, indented
    said = re.sub(r" +", " ", output)
    for line in (
        " task pretrain", " state finished", " shape 1 layer, 2 heads, 8 wide", " context_length 8",
        " n_layer 1", " keep_best yes", " steps 30", " tokens trained on 480",
    ):  # fmt: skip
        assert re.search(rf"^{line} *$", said, re.MULTILINE), line
    assert re.search(r" tokenizer char, \d+ tokens", said)
    assert re.search(r" learnt from .*", said)
    assert re.search(r" checkpoints .*28.*30", said)
    assert said.count("(best)") == 1
    metrics = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in metrics if "loss" in line]
    lowest, step = min((line["validation_loss"], line["step"]) for line in metrics if "validation_loss" in line)
    assert f" training loss, last 30 steps {sum(losses) / len(losses):.4f}" in said
    assert f" lowest validation loss {lowest:.4f} at step {step}" in said
    newest = [line["validation_loss"] for line in metrics if "validation_loss" in line][-1]
    assert f" newest validation loss {newest:.4f}" in said
    assert "grad_accumulation" not in output  # a default
    assert "grad_accumulation" in call("show", folder / "run", "--all")[1]
    assert " state not finished" in re.sub(r" +", " ", call("show", folder / "deep" / "part")[1])


def test_the_description_as_json(call, folder):
    found = json.loads(call("show", folder / "run", "--json")[1])
    config = json.loads((folder / "run" / "config.json").read_text())
    assert {name: found[name] for name in ("model", "training", "data", "made_with")} == {
        name: config[name] for name in ("model", "training", "data", "made_with")
    }
    steps = sorted(int(path.name[5:]) for path in (folder / "run" / "checkpoints").iterdir())
    assert [one["step"] for one in found["checkpoints"]] == steps
    assert [one["step"] for one in found["checkpoints"] if one["best"]] == [found["lowest"]["step"]]
    inodes = {(p.lstat().st_ino): p.lstat().st_size for p in (folder / "run").rglob("*") if p.is_file()}
    assert found["bytes"] == sum(inodes.values())
    last = json.loads((folder / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert found["results"] == {name: value for name, value in last.items() if name != "step"}


def test_what_is_no_run_is_one_sentence(call, tmp_path):
    for path, says in ((tmp_path / "none", "there is no run"), (tmp_path, "has no checkpoint")):
        status, output, errors = call("show", path)
        assert (status, output, errors.count("\n")) == (1, "", 1)
        assert says in errors


assert quickly_drawn  # used by pytest
