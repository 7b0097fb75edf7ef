"""A process that is killed or stopped ends all of them, and the run goes on afterwards as if nothing had been.

GPT_KILLS=20 kills so many times (minutes); otherwise twice.
"""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import several
from runs import flags, gpt

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="the processes are found in /proc"),
]
KILLS = int(os.environ.get("GPT_KILLS", "2"))
RUN = {"steps": 120, "grad_accumulation": 2, "eval_every": 200, "sample_every": 0, "checkpoint_every": 3, "keep": 3}
PATIENCE = 240  # seconds: far more than anything here takes on a busy machine


def launch(*args) -> subprocess.Popen:
    command = [several.mpiexec(), "-n", "2", sys.executable, "-m", "gpt", *map(str, args)]
    return subprocess.Popen(
        command, env=several.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def namespaces() -> bool:
    """Whether network namespaces can be made here, by ip and as root."""
    name = f"test{os.getpid()}"
    try:
        made = subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode == 0
    except OSError:
        return False
    if made:
        subprocess.run(["ip", "netns", "del", name], check=True)
    return made


def processes(run: Path) -> dict[int, int]:
    """The process id of each rank that trains in that directory."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")
            names = dict(pair.split(b"=", 1) for pair in (folder / "environ").read_bytes().split(b"\0") if b"=" in pair)
        except OSError:
            continue
        if os.fsencode(run) in command and b"PMI_RANK" in names and b"-n" not in command:
            found[int(names[b"PMI_RANK"])] = int(folder.name)
    return found


def wait_for(run: Path, step: int, started: subprocess.Popen) -> None:
    """Until there is a checkpoint of that step or a later one, or the process has ended."""
    began = time.monotonic()
    while started.poll() is None and not any(
        path.name[5:].isdecimal() and int(path.name[5:]) >= step for path in (run / "checkpoints").glob("step_*")
    ):
        assert time.monotonic() - began < PATIENCE
        time.sleep(0.02)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    code, _, errors = gpt(*flags(folder, **RUN), "--out", folder / "run", "--threads", 1)
    assert code == 0, errors
    return folder / "run"


def test_a_run_whose_processes_are_killed_ends_with_the_same_bytes(unbroken, tmp_path):
    chance, run = random.Random(7), tmp_path / "run"
    for _ in range(KILLS):
        with launch(*flags(tmp_path, **RUN), "--out", run, "--threads", 1, "--resume-if-exists") as started:
            wait_for(run, chance.randrange(3, 100), started)
            time.sleep(chance.random() / 10)
            if victim := processes(run).get(chance.randrange(2)):
                os.kill(victim, signal.SIGKILL)
            started.communicate(timeout=PATIENCE)  # the other one does not wait for it
        assert not processes(run)
    with launch(*flags(tmp_path, **RUN), "--out", run, "--threads", 1, "--resume-if-exists") as started:
        output, errors = started.communicate(timeout=PATIENCE)
    assert started.returncode == 0, output + errors
    for name in ("model.safetensors", "training.safetensors", "metrics.jsonl", "train.tokens"):
        assert (run / name).read_bytes() == (unbroken / name).read_bytes(), name


def test_abort_ends_all_processes_with_status_1(tmp_path):
    """Also the one that waits for another and would go on."""
    (tmp_path / "aborting.py").write_text(
        "from tensorlite import distributed\n"
        "world = distributed.join()\n"
        "print('begins', flush=True)\n"
        "if world.rank == 1:\n"
        "    world.abort()\n"
        "world.collect(0)\n"
        "print('goes on', flush=True)\n"
    )
    command = [several.mpiexec(), "-n", "2", sys.executable, str(tmp_path / "aborting.py")]
    ran = subprocess.run(command, env=several.environment(), capture_output=True, text=True, timeout=PATIENCE)
    assert (ran.returncode, "goes on" in ran.stdout) == (1, False), ran.stderr
    assert "begins" in ran.stdout


def test_a_stopped_process_is_named_and_ends_the_run(tmp_path):
    run, long = tmp_path / "run", {**RUN, "steps": 1_000_000, "checkpoint_every": 50}
    with launch(*flags(tmp_path, **long), "--out", run, "--process-timeout", 10) as started:
        wait_for(run, 50, started)
        victim = processes(run)[1]
        os.kill(victim, signal.SIGSTOP)
        _, errors = started.communicate(timeout=PATIENCE)
    assert started.returncode != 0
    sentence = (
        rf"gpt: process 1 on \S+ \(process id {victim}\) has not answered for \d\d seconds: all processes are ended; "
    )
    assert re.search(sentence + rf"go on with gpt train --resume {re.escape(str(run))}\n", errors)
    assert not processes(run)
    code, output, errors = gpt("train", "--resume", run, "--steps", 1_000_000, "--max-minutes", 0)
    assert (code, errors) == (0, "")
    assert "resumed" in output


@pytest.mark.skipif(not namespaces(), reason="needs network namespaces: root, and ip of iproute2")
def test_a_cut_link_between_hosts_ends_the_run(tmp_path):
    """The hosts are network namespaces; MPI_Abort alone would wait for the lost host for ever."""
    run, long = tmp_path / "run", {**RUN, "steps": 1_000_000, "checkpoint_every": 50}
    hosts = [str(Path(__file__).parents[3] / "examples/benchmarks/hosts.sh"), "2", "full", sys.executable, "-m", "gpt"]
    command = [*hosts, *flags(tmp_path, **long), "--out", str(run), "--process-timeout", "10"]
    path = os.pathsep.join((str(Path(several.mpiexec()).parent), os.environ["PATH"]))
    with subprocess.Popen(
        command,
        env={**several.environment(), "PATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as started:
        wait_for(run, 50, started)
        subprocess.run(["ip", "-n", f"h{started.pid}-1", "link", "set", "net0", "down"], check=True)
        _, errors = started.communicate(timeout=PATIENCE)
    assert started.returncode != 0
    assert re.search(r"gpt: process [01] on \S+ \(process id \d+\) has not answered for \d\d seconds: all", errors)
    assert not processes(run)
    code, output, errors = gpt("train", "--resume", run, "--steps", 1_000_000, "--max-minutes", 0)
    assert (code, errors) == (0, "")
    assert "resumed" in output


def test_a_signal_to_any_process_finishes_the_step_and_saves(tmp_path):
    run, long = tmp_path / "run", {**RUN, "steps": 1_000_000, "checkpoint_every": 50}
    with launch(*flags(tmp_path, **long), "--out", run) as started:
        wait_for(run, 50, started)
        os.kill(processes(run)[1], signal.SIGTERM)
        output, errors = started.communicate(timeout=PATIENCE)
    assert started.returncode == 128 + signal.SIGTERM
    assert re.search(r"stopped after step (\d+), saved step \1: go on with gpt train --resume", output), errors
