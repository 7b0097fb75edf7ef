"""The benchmark's harness: names, rows that are added to a file, duels that fail. (The duels: tests/peers.)"""

import json
from dataclasses import replace

import pytest

from gpt.bench import __main__ as program
from gpt.bench import duel, report, setup
from gpt.bench.setup import Job

ROW = {"times_as_fast": 2.0, "our_us": 1.0, "their_us": 2.0}


def bench(*flags: str) -> None:
    program.main(["--tasks", "overhead", "--peers", "torch", *flags])


@pytest.fixture
def calls(monkeypatch):
    """The small ops that are asked for; "x + y" fails."""
    asked = []

    def small_op(job, turns, seconds):
        asked.append(job.config)
        if job.config == "x + y":
            raise duel.Failed("no | compiler")
        return dict(ROW)

    monkeypatch.setattr(duel, "small_op", small_op)
    return asked


def test_a_failed_duel_is_a_row_and_the_others_go_on(calls, tmp_path, capsys):
    path = tmp_path / "found.json"
    bench("--json", str(path))
    assert calls == list(setup.SMALL_OPS)
    rows = {row["config"]: row for row in json.loads(path.read_text())["rows"]}
    assert rows["x + y"]["failed"] == "no | compiler"
    assert rows["x * y"]["times_as_fast"] == 2.0
    assert rows["x * y"]["machine"]["threads"] >= 1
    table = path.with_suffix(".md").read_text()
    assert "| x * y | torch-fp32 | 1.00 | 2.00 | 2.00 x as fast |" in table
    assert "| x + y | torch-fp32 | no / compiler |" in table
    assert table in capsys.readouterr().out


def test_what_is_there_is_not_run_again(calls, tmp_path):
    path = str(tmp_path / "found.json")
    bench("--json", path)
    calls.clear()
    bench("--json", path)
    assert calls == ["x + y"]  # the one that failed
    bench("--json", path, "--again")
    assert calls == ["x + y", *setup.SMALL_OPS]
    assert len(json.loads((tmp_path / "found.json").read_text())["rows"]) == len(setup.SMALL_OPS)


def test_a_file_of_something_else_is_left_alone(calls, tmp_path):
    path = tmp_path / "other.json"
    path.write_text("[1]")
    with pytest.raises(SystemExit, match=r"no file of gpt\.bench"):
        bench("--json", str(path))
    assert path.read_text() == "[1]"
    assert not calls


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--peers", "jax"], "no peer 'jax'"),
        (["--peers", "torch-fast"], "no peer 'torch-fast'"),
        (["--tasks", "cooking"], "no task 'cooking'"),
        (["--tasks", "train", "--configs", "huge"], "no configuration 'huge'"),
        (["--time-to", "1.88"], "needs --text"),
    ],
)
def test_what_it_does_not_know_is_one_sentence(flags, sentence):
    with pytest.raises(SystemExit, match=sentence):
        program.main(flags)


def test_names():
    """`torch` is every variant, transformers for decoding; bfloat16 meets bfloat16, and decoding is float32's."""
    assert len(setup.contestants("train", "torch")) == 8
    assert setup.contestants("decode", "torch") == ["transformers-fp32", "transformers-bf16"]
    assert setup.contestants("train", "torch-bf16,torch-bf16,transformers-bf16") == ["torch-bf16"]
    job = Job("train", "torch-bf16-compile", "char", 2, "")
    assert job.ours().who == "tensorlite-bf16"
    assert replace(job, who="torch-fp32").ours().who == "tensorlite"
    assert replace(job, task="decode", who="transformers-bf16").ours().who == "tensorlite"


def test_products_are_those_of_a_step():
    """6 FLOPs a token for each parameter that it is multiplied with: the model's table without attention's scores."""
    config, batch = setup.CONFIGS["gpt2"]
    matrices = 12 * 12 * config.n_embd**2 + config.vocab_size * config.n_embd
    assert setup.product_flops(config, batch) == 6 * matrices * batch * config.context_length


def test_a_contestant_that_cannot_begin_says_why(tmp_path):
    with (
        pytest.raises(duel.Failed, match="KeyError"),
        duel.playing(Job("none", "tensorlite", "tiny", 1, str(tmp_path))),
    ):
        pass
    with (
        pytest.raises(duel.Failed, match=r"start\.safetensors"),
        duel.playing(Job("train", "tensorlite", "tiny", 1, str(tmp_path))),
    ):
        pass


def test_every_kind_of_row_has_its_table():
    numbers = {name: 1.5 for side in ("our", "their") for name in (f"{side}_ms", f"{side}_us", f"{side}_peak_MiB")}
    numbers |= {
        f"{side}_{name}": 0.5 for side in ("our", "their") for name in ("GEMM_GFs", "GEMM_share", "seconds_in_all")
    }
    numbers |= {"our_seconds": 20.0, "their_seconds": None, "our_loss_at_last": 1.86, "their_loss_at_last": 1.9}
    numbers |= {"our_GBs": 40.0, "machine_GBs": 50.0, "target": 1.88, "times_as_fast": 2.0, "batch": 1}
    rows = [
        {"task": task, "config": "tiny", "who": "torch-fp32", "machine": report.machine(2)} | numbers
        for task in ("train", "decode", "recipe", "overhead")
    ]
    text = report.markdown(rows)
    assert text.count("###") == 4
    assert "40.0 of 50.0" in text
    assert "not reached" in text
    lines = [line.count("|") for line in text.splitlines() if line.startswith("|")]
    assert [lines[i : i + 3] for i in range(0, 12, 3)] == [[n] * 3 for n in (9, 9, 9, 6)]
