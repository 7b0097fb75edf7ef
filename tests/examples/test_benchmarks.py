"""The benchmark's harness: names, rows that are added to a file, duels that fail. (The duels: tests/peers.)"""

import json
from dataclasses import replace

import pytest

from examples.benchmarks import __main__ as program
from examples.benchmarks import duel, gpu, report, setup, worker
from examples.benchmarks.setup import Job
from gpt.config import GPTConfig
from gpt.model import GPT, parameter_table

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
    with pytest.raises(SystemExit, match=r"is not a file of examples\.benchmarks"):
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
    assert setup.contestants("train", "tensorlite-numpy") == ["tensorlite-numpy"]
    job = Job("train", "torch-bf16-compile", "char", 2, "")
    assert replace(job, who="tensorlite-numpy").ours().who == "tensorlite"
    assert job.ours().who == "tensorlite-bf16"
    assert replace(job, who="torch-fp32").ours().who == "tensorlite"
    assert replace(job, task="decode", who="transformers-bf16").ours().who == "tensorlite"


def test_products_are_those_of_a_step():
    """6 FLOPs a token for each parameter that it is multiplied with: the model's table without attention's scores."""
    config, batch = setup.CONFIGS["gpt2"]
    matrices = 12 * 12 * config.n_embd**2 + config.vocab_size * config.n_embd
    assert setup.product_flops(config, batch) == 6 * matrices * batch * config.context_length


def test_the_limit_is_the_time_of_the_products_by_the_faster_library():
    """Ours: 4 ms of products in a step of 10; theirs: 3 ms in 12. So 3 ms are the limit of both."""
    row = {"config": "tiny", "who": "torch-fp32", "our_ms": 10.0, "their_ms": 12.0, "times_as_fast": 1.2}
    row |= {"our_GEMM_GFs": 75.0, "their_GEMM_GFs": 100.0, "our_GEMM_share": 0.4, "their_GEMM_share": 0.25}
    cells = report.train_line(row | {"our_peak_MiB": 1, "their_peak_MiB": 1})
    assert cells[report.TRAIN.index("of the limit")] == "30%, peer 25%"


def test_what_tensorlite_does_alone_is_a_row_of_seconds(monkeypatch, tmp_path):
    monkeypatch.setattr(duel, "prepare", lambda folder, config: None)
    monkeypatch.setattr(duel, "service", lambda job, turns: {"our_s": 1.5 if job.config == "tokenize" else 2.0})
    program.main(["--tasks", "service", "--json", str(tmp_path / "found.json")])
    assert "| tokenize | alone | 1.50 |" in (tmp_path / "found.md").read_text()
    assert len(report.read(tmp_path / "found.json")) == len(setup.SERVICES)


@pytest.mark.parametrize(("who", "loops"), [("tensorlite", None), ("tensorlite-numpy", "0")])
def test_what_is_numpys_alone_is_kept_from_numba(monkeypatch, who, loops):
    monkeypatch.delenv("TENSORLITE_NUMBA", raising=False)
    began = []
    monkeypatch.setattr(duel.subprocess, "Popen", lambda command, env, **_: began.append(env))
    duel.Player(Job("train", who, "tiny", 1, "")).errors.close()
    assert began[0].get("TENSORLITE_NUMBA") == loops


@pytest.mark.slow
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
    assert [lines[i : i + 3] for i in range(0, 12, 3)] == [[n] * 3 for n in (9, 10, 9, 6)]


# ----- on a GPU -------------------------------------------------------------------------------------------------------


@pytest.fixture
def bouts(monkeypatch):
    """What bouts are asked for: the contestants' names; each peer's row says how fast it was."""
    asked = []

    def bout(peers, turns, seconds, profile):
        asked.append([peers[0].task, peers[0].config, peers[0].batch, *(job.who for job in peers)])
        if peers[0].config == "micro":
            raise duel.Failed("tensorlite-bf16 ended")
        facts = {"difference": 0.01, "peak_MiB": 9000.0} | gpu.rates(peers[0], 0.05) | {"ms_all": [50.0, 50.0]}
        times = {"products": 20.0, "attention": 5.0, "else": 10.0, "kernels": [["nvjet", 20.0, 96.0]]}
        profile = profile and peers[0].task == "train"
        ours, theirs = facts | {"profile": times}, facts | {"ms_all": [100.0, 100.0], "profile": times}
        return [gpu.both(ours if profile else facts, theirs if profile else facts) for _ in peers]

    monkeypatch.setattr(gpu, "bout", bout)
    monkeypatch.setattr(gpu, "smi", lambda: {"gpu": "NVIDIA H200", "driver": "580.159"})
    return asked


def test_the_most_telling_bouts_come_first_and_are_not_run_again(bouts, tmp_path, capsys):
    path = tmp_path / "gpu.json"
    program.main(["--device", "cuda", "--json", str(path)])
    compiled = ("torch-bf16-compile", "torch-bf16-compile-graph", "torch-bf16")
    decoders = ("transformers-bf16", "torch-bf16-graph")
    every = [
        ["train", "gpt2", 16, compiled[0], compiled[2]], ["train", "nano", 64, *compiled],
        ["train", "micro", 32, *compiled], ["decode", "gpt2", 1, *decoders], ["decode", "gpt2", 32, *decoders],
    ]  # fmt: skip
    assert bouts == every
    rows = json.loads(path.read_text())["rows"]
    assert [row["who"] for row in rows if "failed" in row] == list(compiled)
    bouts.clear()
    program.main(["--device", "cuda", "--json", str(path), "--tasks", "train", "--peers", "torch,torch-fp32"])
    single = [["train", config, batch, "torch-fp32"] for config, batch in (("gpt2", 16), ("nano", 64), ("micro", 32))]
    assert bouts == [*single[:2], every[2], single[2]]  # what failed, and what is new
    bouts.clear()
    capsys.readouterr()
    program.main(["--device", "cuda", "--within", "-1"])
    assert not bouts
    assert "the remaining duels are not started" in capsys.readouterr().out


def test_the_gpus_tables(bouts, tmp_path, capsys):
    """Tokens and FLOPs a second of a step of 50 ms, the card's share; the profile beside the card's limits."""
    path = tmp_path / "gpu.json"
    program.main(["--device", "cuda", "--json", str(path), "--configs", "gpt2", "--profile"])
    text = path.with_suffix(".md").read_text()
    assert text.count("### ") == 3
    tokens = 16 * 1024 / 0.05
    config = setup.GPU_CONFIGS["gpt2"][0]
    assert parameter_table(config)[-1].flops == pytest.approx(6 * 124e6 + 12 * 12 * 768 * 1024, rel=0.01)
    mfu = parameter_table(config)[-1].flops * tokens / 989e12
    assert f"| {tokens:,.0f} | {tokens:,.0f} | 2.00 x as fast | 50.00, peer 50.00 | {mfu:.1%}, peer" in text
    assert "| gpt2 | tensorlite | 50.00 | 20.00 | 5.00 | 10.00 | 15.00 |" in text
    assert "| gpt2 | torch-bf16 | 50.00 | 20.00 | 5.00 | 10.00 | 15.00 |" in text
    assert "| gpt2 | the card's limit |" in text
    assert "NVIDIA H200, driver 580.159, python" in text
    assert "989 TFLOP/s" in text
    assert "   20.000     96  nvjet" in capsys.readouterr().out
    lines = [line.count("|") for line in text.splitlines() if line.startswith("|")]
    assert lines == [9] * 4 + [9] * 6 + [8] * 6


def test_the_limits_follow_from_the_shapes_of_a_gpt():
    """Counted by hand for a small one on a card that does 1 FLOP and moves 1 byte in a millisecond."""
    config = GPTConfig(vocab_size=10, context_length=4, n_layer=2, n_head=2, n_embd=6)
    N, C = 3 * 4, 6  # positions of a batch of 3, features
    limits = gpu.floor(config, 3, gpu.Card(1e9, 1e3, 1e3))
    layer = C * 3 * C + C * C + C * 4 * C + 4 * C * C  # multiplications a position: q, k, v; out; feed-forward
    forward = 2 * N * (2 * layer + C * 10)  # a multiplication and an addition each; the head
    assert limits["products"] == pytest.approx(3 * forward)  # and backward two more products for each
    scores = 3 * 2 * 4 * 4 * (C // 2)  # texts, heads, positions, positions, features of a head
    assert limits["attention"] == pytest.approx(2 * 7 * scores * 2 / 2)  # 2 layers, 7 products, half of the scores
    parameters = GPT(config).num_parameters()
    bytes_of = {"norms": 16 * C * 5 * N, "GELU, biases": 58 * C * 2 * N, "cross-entropy": 6 * 10 * N}
    assert limits["else"] == pytest.approx(sum(bytes_of.values()) + 34 * parameters)


def test_kernels_are_sorted_into_kinds():
    events = [
        {"cat": "kernel", "name": "nvjet_hsh_128x256_64x4_1x2_h_bz_TNT", "dur": 3000.0},
        {
            "cat": "kernel",
            "name": "void cutlass::device_kernel<flash::FlashAttnFwdSm90<cutlass::bfloat16_t>>",
            "dur": 500,
        },
        {"cat": "kernel", "name": "cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16_knob", "dur": 1000},
        {"cat": "kernel", "name": "void cudnn::fusion::matmul_dq<true, 64>(void const*, void*)", "dur": 500},
        {"cat": "gpu_memcpy", "name": "Memcpy DtoH", "dur": 10},
        {"cat": "cpu_op", "name": "aten::mm", "dur": 9000},
        {"name": "a mark without a duration", "ph": "M"},
    ]
    found = gpu.summary(events * 2, 2)
    assert {name: found[name] for name in ("products", "attention", "else")} == {
        "products": 3.0, "attention": 2.0, "else": pytest.approx(0.01),
    }  # fmt: skip
    assert found["kernels"][0] == ["nvjet_hsh_128x256_64x4_1x2_h_bz_TNT", 3.0, 1.0]
    with pytest.raises(RuntimeError, match="no kernel"):
        gpu.summary(events[5:], 1)


def test_names_on_a_gpu():
    assert setup.gpu_contestants("train", "gpt2", "torch-bf16,torch") == ["torch-bf16", "torch-bf16-compile"]
    assert setup.gpu_contestants("decode", "gpt2", "torch-fp32,transformers-fp32") == [
        "torch-fp32",
        "transformers-fp32",
    ]
    assert setup.gpu_contestants("train", "gpt2", "transformers-bf16") == []
    ours = {
        who: Job("decode", who, "gpt2", 1, "", device="cuda").ours()
        for who in ("torch-fp32", "torch-tf32", "transformers-bf16")
    }
    assert [job.who for job in ours.values()] == ["tensorlite", "tensorlite-tf32", "tensorlite-bf16"]
    assert [job.dtype for job in ours.values()] == ["float32", "tf32", "bfloat16"]
    assert [worker.side(job) for job in ours.values()] == ["ours_gpu"] * 3
    assert worker.side(Job("train", "torch-bf16", "gpt2", 1, "", device="cuda")) == "theirs_gpu"


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--peers", "torch-malloc"], "no peer 'torch-malloc' on a GPU"),
        (["--peers", "transformers"], "no peer 'transformers' on a GPU"),
        (["--tasks", "overhead"], "no task 'overhead' on a GPU"),
        (["--configs", "tiny"], "no configuration 'tiny' on a GPU"),
        (["--time-to", "1.88"], "without --device cuda"),
    ],
)
def test_what_it_does_not_know_on_a_gpu_is_one_sentence(flags, sentence):
    with pytest.raises(SystemExit, match=sentence):
        program.main(["--device", "cuda", *flags])


def test_a_profile_is_a_gpus():
    with pytest.raises(SystemExit, match="with --device cuda"):
        program.main(["--profile"])
