"""The formulas of examples/benchmarks/scaling.py, against simulations, the real buckets, and a real graph's memory."""

import importlib
import os
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
from processes import Alike

import tensorlite as tl
from examples.benchmarks import scaling
from examples.benchmarks.scaling import BEGIN, END, LINKS, Link
from gpt.config import PRESETS, GPTConfig
from gpt.model import GPT, parameter_table
from tensorlite import inspect, optim
from tensorlite.accelerate.reduce import Reducer

FREE = Link("free", float("inf"), 0.0)
SHAPE = GPTConfig(vocab_size=5000, context_length=64, n_layer=2, n_head=4, n_embd=256, qkv_bias=True)


def simulated_ring(values, link):
    """Sum the rows of values (N, N * n) over a ring of N processes: the sums in all, seconds, elements sent by each."""
    N = len(values)
    chunks = values.reshape(N, N, -1).copy()
    seconds, sent = 0.0, np.zeros(N, int)
    for turn in range(2 * (N - 1)):
        which = [(rank - turn) % N for rank in range(N)]
        messages = [chunks[rank, which[rank]].copy() for rank in range(N)]
        for rank, message in enumerate(messages):
            target = (rank + 1) % N
            kept = chunks[target, which[rank]] if turn < N - 1 else 0  # sums grow, then they are handed on
            chunks[target, which[rank]] = message + kept
            sent[rank] += message.size
        seconds += max(link.latency + 8 * message.size / link.bandwidth for message in messages)
    return chunks.reshape(N, -1), seconds, sent


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
@pytest.mark.parametrize("link", [Link("slow", 1e3, 0.5), Link("fast", 1e9, 1e-6)])
def test_the_ring_is_that_of_a_simulation(processes, link):
    values = np.random.default_rng(0).normal(size=(processes, processes * 5))
    sums, seconds, sent = simulated_ring(values, link)
    np.testing.assert_allclose(sums, np.broadcast_to(values.sum(0), sums.shape), rtol=1e-12)
    assert scaling.ring(values[0].nbytes, processes, link) == pytest.approx(seconds, rel=1e-12)
    assert sent.tolist() == [2 * (processes - 1) * 5] * processes


def test_one_process_and_a_free_link_cost_nothing():
    for config in (SHAPE, *map(PRESETS.get, scaling.MODELS.values())):
        assert scaling.exposed(config, 1.0, 1, LINKS[0]) == 0
        assert scaling.exposed(config, 1.0, 1024, FREE) == 0


@pytest.mark.parametrize("share", [1e-3, 0.1, 0.5, 1, 3, 100])
def test_the_exposed_time_is_that_of_a_timeline(share):
    """Buckets become ready one after another in the backward pass, and the link sends one at a time."""
    config, backward = PRESETS["gpt2"], 2.0
    *early, last = scaling.buckets(config)
    link = Link("", 2 * sum(early) / 2 / (share * backward), 0.0)  # the early buckets take `share` of the pass
    *_, head, total = parameter_table(config)
    ready = head.flops / total.flops + (1 - head.flops / total.flops) * np.cumsum(early) / sum(early)
    end = 0.0
    for moment, nbytes in zip([*ready, 1.0], [*early, last], strict=True):
        end = max(end, moment * backward) + nbytes / link.bandwidth
    found = scaling.exposed(config, backward, 2, link)
    assert found <= end - backward + 1e-9 <= found + max(early) / link.bandwidth + 2e-9
    if share > 1:
        assert found == pytest.approx(end - backward, rel=1e-9)
    nothing_overlaps = scaling.exposed(config, backward, 2, link._replace(overlaps=False))
    assert nothing_overlaps == pytest.approx((sum(early) + last) / link.bandwidth)


@pytest.mark.parametrize("config", [SHAPE, replace(SHAPE, vocab_size=65, n_embd=64)])
def test_the_buckets_are_those_of_training(config):
    """Of the same number and bytes, except that a bucket's end is padded to a multiple of the processes."""
    model = GPT(config)
    reducer = Reducer(Alike(2), optim.AdamW(optim.decay_groups(model.parameters(), 0.1), lr=0.1))
    ids = tl.tensor(np.arange(4).reshape(1, 4))
    reducer.backward(model.loss(ids, ids))
    assert [4 * bucket.size for bucket in reducer.buckets] == scaling.buckets(config)
    assert sum(scaling.buckets(config)) == 4 * model.num_parameters()


@pytest.mark.parametrize(("layers", "width", "context"), [(1, 64, 256), (3, 64, 128), (2, 128, 64)])
def test_activations_are_what_a_graph_keeps(layers, width, context):
    config = replace(SHAPE, vocab_size=99, n_layer=layers, n_embd=width, context_length=context)
    tokens = np.random.default_rng(0).integers(0, 99, (2, context + 1))
    kept = inspect.graph(GPT(config).loss(tl.tensor(tokens[:, :-1]), tl.tensor(tokens[:, 1:]))).bytes
    assert scaling.activations(config, 2) == pytest.approx(kept, rel=0.02)


def test_memory_is_16_bytes_a_parameter_of_which_8_are_split():
    parameters = parameter_table(SHAPE)[-1].parameters
    alone, four, many = (scaling.memory(SHAPE, 2, N) - scaling.activations(SHAPE, 2) for N in (1, 4, 10**9))
    assert alone == 16 * parameters
    assert four == 10 * parameters
    assert many == pytest.approx(8 * parameters)


def run(monkeypatch, *flags):
    monkeypatch.setattr(sys, "argv", ["scaling", *flags])
    scaling.main()


def test_a_free_link_is_used_fully(monkeypatch, capsys):
    """Two processes of the FLOP/s that 500 tokens of a second take: 1,000 tokens/s, whatever the passes."""
    monkeypatch.setattr(scaling, "LINKS", (FREE,))
    run(monkeypatch, "--flops", str(500 * parameter_table(PRESETS["gpt2"])[-1].flops), "--passes", "3")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| 124M")]
    assert lines[0].startswith("| 124M | 2 | 1,000 (100%) |")
    assert lines[-1].startswith("| 124M | 1,024 | 512,000 (100%) |")


def test_only_the_backward_part_of_the_last_pass_overlaps(monkeypatch, capsys):
    """8 sequences of 1,024 tokens take 3 s in a pass: 2 of them are its backward part, in a step of 4 passes 12 s."""
    link, config = Link("", 1e8, 0.0), PRESETS["gpt2"]
    monkeypatch.setattr(scaling, "LINKS", (link,))
    run(monkeypatch, "--flops", str(8 * 1024 / 3 * parameter_table(config)[-1].flops), "--passes", "4")
    expected = 2 * 4 * 8 * 1024 / (12 + scaling.exposed(config, 2.0, 2, link))
    assert f"| 124M | 2 | {expected:,.0f} (" in capsys.readouterr().out


def test_the_page_keeps_all_but_its_tables(monkeypatch, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    run(monkeypatch, "--flops", "1e15", "--write", str(page))
    text = page.read_text(encoding="utf-8")
    assert text == f"before\n{BEGIN}\n\n{capsys.readouterr().out}{END}\nafter\n"
    assert "1,000,000 GFLOP/s" in text
    run(monkeypatch, "--flops", "1e15", "--write", str(page))
    assert page.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("text", [None, "no tables", f"{BEGIN} {END} {BEGIN} {END}", f"{END} {BEGIN}"])
def test_another_page_is_left_alone(text, monkeypatch, tmp_path):
    page = tmp_path / "page.md"
    if text is not None:
        page.write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit, match="cannot replace the tables"):
        run(monkeypatch, "--flops", "1e15", "--write", str(page))
    assert (page.read_text(encoding="utf-8") if page.exists() else None) == text


@pytest.mark.parametrize("flags", [["--flops", "0"], ["--passes", "0"], ["--sequences", "-1"]])
def test_numbers_that_are_not_above_0_are_refused(flags, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, *flags)
    assert "must be above 0" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["scaling", "--check"], ["processes"]])
def test_without_mpi_a_sentence_says_what_to_install(monkeypatch, capsys, tmp_path, arguments):
    module = importlib.import_module(f"examples.benchmarks.{arguments[0]}")
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(os, "geteuid", lambda: 0, raising=False)
    found = {"tc": "/sbin/tc", "ip": "/sbin/ip"}
    monkeypatch.setattr(shutil, "which", lambda name, path=None: found.get(name))

    def said() -> str:
        with pytest.raises(SystemExit):
            module.main()
        return capsys.readouterr().err.splitlines()[-1]

    assert "mpiexec is not on the PATH: pip install 'tensorlite[mpi]' or" in said()
    found["mpiexec"] = "/bin/mpiexec"
    (tmp_path / "mpi4py.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert "mpi4py is not installed or finds no MPI library: pip install 'tensorlite[mpi]' or" in said()
