"""The same command computes the same bytes, however busy the machine is; what else decides about bits is recorded."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from runs import ONE_THREAD, flags, gpt, tiny, train

from gpt.cli import COMMANDS
from gpt.fast import machine as fast_machine
from gpt.tasks.pretrain import TrainConfig
from gpt.training import session
from tensorlite import io
from tensorlite.devices import machine
from tensorlite.kernels.cpu import choose_impl as steps
from tensorlite.kernels.cpu import onednn

SPLIT = {"n_embd": 64, "context_length": 32, "batch_size": 32, "steps": 2, "eval_every": 2}  # ops worth two threads


@pytest.fixture(autouse=True)
def one_thread_afterwards():
    yield
    machine.set_threads(1)


def weights(run) -> bytes:
    return (run / "model.safetensors").read_bytes()


def losses(run) -> np.ndarray:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return np.array([line["loss"] for line in lines if "loss" in line])


# ----- the load -----------------------------------------------------------------------------------------------------


@pytest.mark.finding("B13")
@pytest.mark.slow
def test_an_idle_and_a_busy_machine_compute_the_same_bytes(tmp_path):
    """In processes of their own: one is told that nothing runs, the other runs beside programs that keep the cores."""
    environment = {name: value for name, value in ONE_THREAD.items() if name not in machine.THREAD_VARIABLES}
    for name, load in (("idle", 0.0), ("busy", 1000.0)):
        args = [*flags(tmp_path, **SPLIT), "--out", str(tmp_path / name)]
        code = f"import os; os.getloadavg = lambda: 3 * ({load},); from gpt.cli.main import main; main({args!r})"
        beside = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (name == "busy"))]
        try:
            subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)
        finally:
            for process in beside:
                process.kill()
                process.wait()
    assert weights(tmp_path / "idle") == weights(tmp_path / "busy")
    assert losses(tmp_path / "idle").tolist() == losses(tmp_path / "busy").tolist()


@pytest.mark.finding("B13")
@pytest.mark.parametrize("command", ["generate", "chat", "classify", "evaluate", "judge"])
def test_every_command_that_computes_sets_the_default_number_of_threads(command, tmp_path, monkeypatch):
    def refused():
        raise AssertionError("the load average was asked for")

    chosen: list[int] = []
    monkeypatch.setattr(os, "getloadavg", refused, raising=False)
    monkeypatch.setattr(machine, "set_threads", chosen.append)
    more = {"judge": {"data": tmp_path / "none"}, "evaluate": {"text": (tmp_path / "none",)}}.get(command, {})
    with pytest.raises((OSError, ValueError), match="none"):
        COMMANDS[command](run=tmp_path / "none", **more)()  # there is no such run: threads are set before it is read
    assert chosen == [machine.default_threads()]


# ----- the number of threads ----------------------------------------------------------------------------------------


@pytest.mark.finding("B13")
@pytest.mark.slow
def test_one_and_two_threads_differ_by_rounding_alone(tmp_path, monkeypatch):
    """Large ops are split: sums in another order. test_divided_step.py has the same for divided batches."""
    monkeypatch.setattr(machine, "WORTH_SPLITTING", -1)
    for name, threads in (("one", 1), ("two", 2), ("again", 2)):
        train(tiny(tmp_path, out=tmp_path / name, threads=threads, n_embd=16, steps=60, lr=2e-3, eval_every=60))
    assert weights(tmp_path / "two") == weights(tmp_path / "again")
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-5)
    one, two = (io.load(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name, w in one.items():
        np.testing.assert_allclose(two[name].numpy(), w.numpy(), rtol=0, atol=1e-4 * np.abs(w.numpy()).max())


@pytest.mark.finding("B13")
@pytest.mark.slow
def test_a_resumed_run_keeps_its_number_of_threads(tmp_path):
    """Whatever this machine's default is; another number is taken where it is asked for, with a warning."""
    run, taken = tmp_path / "run", machine.default_threads() + 1
    assert f"threads    {taken} threads" in train(tiny(tmp_path, threads=taken, steps=4))
    assert described(run)["made_with"]["threads"] == str(taken)
    said = train(replace(session.settings(run, TrainConfig), steps=6))
    assert f"threads    {taken} threads" in said
    assert "warning" not in said
    said = train(replace(session.settings(run, TrainConfig), steps=8, threads=None))
    assert f"threads    {taken} threads" in said
    assert "warning" not in said
    said = " ".join(train(replace(session.settings(run, TrainConfig), steps=9, threads=1)).split())
    assert f"changed threads from {taken} to 1, from step 8 on" in said
    assert f"warning: threads was {taken} and is 1: the last bits may differ from an unbroken run's" in said
    assert described(run)["training"]["threads"] == 1


def described(run) -> dict:
    return json.loads((run / "config.json").read_text())


# ----- what a run was made with -------------------------------------------------------------------------------------


@pytest.mark.finding("B13")
def test_what_decides_about_bits_is_recorded(tmp_path):
    train(tiny(tmp_path, steps=2))
    made_with = described(tmp_path / "run")["made_with"]
    for name in ("python", "tensorlite", "numpy", "blas name", "blas version", "machine", "instructions", "libc",
                 "threads", "numba", "oneDNN", "ml_dtypes", "device"):  # fmt: skip
        assert isinstance(made_with[name], str), name
    assert made_with["threads"] == str(machine.threads())
    assert made_with["numba"] == "off" if steps.missing() else re.match(r"[\d.]+, llvmlite [\d.]+", made_with["numba"])


@pytest.mark.finding("B13")
@pytest.mark.parametrize("module", [steps, onednn])
@pytest.mark.slow
def test_with_and_without_an_extra_is_another_run(tmp_path, monkeypatch, module):
    """Both ways: what was there and is not, and what was not there and is."""
    name = {steps: "numba", onednn: "oneDNN"}[module]
    monkeypatch.setattr(fast_machine, "version", lambda package: "1.2")
    monkeypatch.setattr(module, "missing", lambda: "not here")
    train(tiny(tmp_path, steps=2))
    monkeypatch.setattr(module, "missing", lambda: "")
    said = train(replace(session.settings(tmp_path / "run", TrainConfig), steps=3))
    assert re.search(rf"warning: {name} was off and is 1\.2.*: the last bits may differ", said)
    monkeypatch.setattr(module, "missing", lambda: "not here")
    said = train(replace(session.settings(tmp_path / "run", TrainConfig), steps=4))
    assert re.search(rf"warning: {name} was 1\.2.* and is off: the last bits may differ", said)


@pytest.mark.slow
@pytest.mark.finding("B13")
@pytest.mark.skipif(bool(steps.missing()), reason=steps.missing())
def test_switching_numba_off_for_a_resume_is_said(tmp_path, monkeypatch):
    train(tiny(tmp_path, steps=2))
    monkeypatch.setitem(ONE_THREAD, "TENSORLITE_NUMBA", "0")
    status, output, errors = gpt("train", "--resume", tmp_path / "run", "--steps", 3)
    assert (status, errors) == (0, "")
    assert re.search(r"warning: numba was [\d.]+, llvmlite [\d.]+ and is off", output)


def test_settings_of_a_new_run_have_no_number_of_threads():
    assert fast_machine.recorded_threads(TrainConfig()) is None
