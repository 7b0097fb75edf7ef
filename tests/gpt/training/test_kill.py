"""Commands in processes of their own, killed or stopped: nothing is lost, and the next one ends as if nothing had been.

GPT_KILLS=200 kills so many times (some minutes); otherwise 20 times.
"""

import os
import random
import re
import signal
from collections import Counter

import killing
import pytest
from cases import Case, case_of
from runs import contents, flags, gpt, start
from writers import Ended

from gpt.training import checkpoint, lockfile

KILLS = int(os.environ.get("GPT_KILLS", "20"))
KILLED = ("train", "resume", "overwrite", "classify-overwrite", "import", "import-overwrite", "export")


@pytest.fixture(scope="module")
def server():
    with killing.Server() as server:
        yield server


@pytest.mark.finding("A1")
@pytest.mark.finding("A2")
@pytest.mark.finding("A9")
@pytest.mark.parametrize("name", KILLED)
@pytest.mark.slow
def test_killed_at_random_moments(name, server):
    """Often again while the next command repairs what the kill has left."""
    with case_of(name) as case:
        kill(case, server)


def kill(case: Case, server: killing.Server) -> None:
    name, chance, found, counts = case.writer.name, random.Random(f"{case.writer.name} {KILLS}"), [], Counter()
    case.begin()
    status, seconds = server.run(case.line(), 600)
    assert status == 0
    wanted = -(-KILLS // len(KILLED))
    while counts["kills"] < wanted:
        case.begin()
        in_a_row, line = 0, case.line()
        while in_a_row == 0 or chance.random() < 0.4:
            status, _ = server.run(line, chance.uniform(0, 1.1 * seconds))
            if status != -9:
                break
            in_a_row, line = in_a_row + 1, case.next_line()
        counts["kills"] += in_a_row
        counts["over before"] += status != -9
        assert counts["over before"] < 20 + 3 * wanted, "the command is over before it can be killed"
        counts.update(f"left {name}" for name in left_behind(case))
        problems = [*case.badly_left(Ended(-9, "", ""), lasting=True), *case.badly_gone_on()]
        problems += [f"exit status {status} of {' '.join(line[:3])}"] * (status not in (0, -9))
        found += [f"{problem} [kill {counts['kills']}, {in_a_row} in a row]" for problem in problems]
    print(name, dict(counts))
    assert not found, "\n".join([f"{len(found)} problems", *found])


def left_behind(case: Case) -> set[str]:
    """What is there that neither was there before nor will be: its kinds."""
    known = {*case.before, *case.final}
    names = {str(path.relative_to(case.work)) for path in case.work.rglob("*")} - known
    return {re.sub(r"[0-9a-f]{8,16}", "N", name) for name in names if not name.endswith(("lock", "log.txt"))}


# ----- stopped ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("unbroken")
    status, _, errors = gpt(*flags(folder), "--out", folder / "run")
    assert status == 0, errors
    return folder / "run"


@pytest.mark.slow
@pytest.mark.finding("A6")
@pytest.mark.skipif(os.name != "posix", reason="there, a process that is sent a signal just ends")
@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_stopped_by_a_signal_it_saves_and_goes_on(unbroken, tmp_path, name, status):
    run = tmp_path / "run"
    with start(*flags(unbroken.parent), "--out", run) as process:
        for line in process.stdout:
            if line.startswith("step  5/"):
                process.send_signal(getattr(signal, name))
                break
        output, errors = process.communicate()
    assert process.returncode == status, errors
    step = int(re.search(r"stopped after step (\d+), saved step \1:", output)[1])
    assert checkpoint.newest(run)[0].step == step < 30
    assert "Traceback" not in errors
    status, _, errors = gpt("train", "--resume", run)
    assert status == 0, errors
    assert contents(run, only_top=True) == contents(unbroken, only_top=True)


@pytest.mark.slow
@pytest.mark.finding("A6")
def test_whoever_closes_the_pipe_does_not_stop_training(unbroken, tmp_path):
    """`gpt train | head -1`: all else is in log.txt, and the run is as any other."""
    whole = unbroken
    with start(*flags(whole.parent), "--out", tmp_path / "run") as process:
        first = process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
    assert first.startswith("text ")
    assert (process.returncode, errors) == (0, "")
    assert contents(tmp_path / "run") == contents(whole)
    lines = [[line[21:28] for line in (run / "log.txt").read_text().splitlines()] for run in (tmp_path / "run", whole)]
    assert lines[0] == lines[1]


@pytest.mark.slow
def test_another_process_is_locked_out(unbroken):
    with lockfile.lock(unbroken):
        status, _, errors = gpt("train", "--resume", unbroken)
    assert status == 1
    assert re.fullmatch(r"gpt: process \d+ is training in .*: wait for it, or name another directory\n", errors)
