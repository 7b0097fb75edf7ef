"""Training in a process that is killed or stopped: resumed, it ends in the files of one that never was."""

import random
import re
import signal
import subprocess
import time

import pytest
from runs import contents, flags, gpt, start

from gpt import checkpoint, lockfile


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The run that nothing disturbed, and the seconds that it took."""
    folder = tmp_path_factory.mktemp("unbroken")
    began = time.monotonic()
    status, _, errors = gpt(*flags(folder), "--out", folder / "run")
    assert status == 0, errors
    return folder / "run", time.monotonic() - began


def survives(args, seconds: float) -> bool:
    """Run `gpt`, kill it after that time, and say whether it was over before."""
    with start(*args) as process:
        try:
            _, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            return False
    assert process.returncode == 0, errors
    return True


def test_killed_at_thirty_random_moments(unbroken, tmp_path):
    (whole, seconds), chance, kills, runs = unbroken, random.Random(20), 0, 0
    expected = contents(whole)
    while kills < 30:
        run, done, runs = tmp_path / str(runs) / "run", False, runs + 1
        assert runs < 60, "the runs are over before they can be killed"
        while not done:
            again = ["train", "--resume", run] if checkpoint.is_run(run) else [*flags(whole.parent), "--out", run]
            began = time.monotonic()
            done = survives(again, chance.uniform(0, 1.1 * seconds) if kills < 30 else 600)
            kills += not done
            if done:  # this machine is faster now than it was for the undisturbed run
                seconds = min(seconds, time.monotonic() - began)
        assert contents(run) == expected


@pytest.mark.finding("A6")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_stopped_by_a_signal_it_saves_and_goes_on(unbroken, tmp_path, number, status):
    whole, _ = unbroken
    run = tmp_path / "run"
    with start(*flags(whole.parent), "--out", run) as process:
        for line in process.stdout:
            if line.startswith("step  5/"):
                process.send_signal(number)
                break
        output, errors = process.communicate()
    assert process.returncode == status, errors
    step = int(re.search(r"stopped after step (\d+), saved step \1:", output)[1])
    assert checkpoint.newest(run)[0].step == step < 30
    assert "Traceback" not in errors
    status, _, errors = gpt("train", "--resume", run)
    assert status == 0, errors
    assert contents(run, only_top=True) == contents(whole, only_top=True)


@pytest.mark.finding("A6")
def test_whoever_closes_the_pipe_does_not_stop_training(unbroken, tmp_path):
    """`gpt train | head -1`: all else is in log.txt, and the run is as any other."""
    whole, _ = unbroken
    with start(*flags(whole.parent), "--out", tmp_path / "run") as process:
        first = process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
    assert first.startswith("text ")
    assert (process.returncode, errors) == (0, "")
    assert contents(tmp_path / "run") == contents(whole)
    lines = [[line[21:28] for line in (run / "log.txt").read_text().splitlines()] for run in (tmp_path / "run", whole)]
    assert lines[0] == lines[1]


def test_another_process_is_locked_out(unbroken):
    whole, _ = unbroken
    with lockfile.lock(whole):
        status, _, errors = gpt("train", "--resume", whole)
    assert status == 1
    assert re.fullmatch(r"gpt: process \d+ is training in .*: wait for it, or name another directory\n", errors)
