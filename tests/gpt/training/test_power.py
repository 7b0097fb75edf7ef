"""The power fails while a command writes, after any of its calls: what was reported as saved is there, byte for byte.

GPT_FAULTS=all lets it fail after every call, three times (some 10 minutes); otherwise after a few of each command, or
after GPT_FAULTS times as many.
"""

import random
import shutil
from math import isinf

import pytest
from cases import FACTOR, Case, case_of
from power import Disk
from writers import WRITERS, snapshot

SAMPLES, TIMES = 9 * FACTOR, 3 if isinf(FACTOR) else 1


@pytest.fixture(scope="module", params=WRITERS)
def case(request):
    with case_of(request.param) as case:
        yield case


def disk_after(case: Case, calls: int) -> Disk:
    disk = Disk(case.start, case.work)
    for each in case.calls[:calls]:
        disk.do(each)
    return disk


@pytest.mark.slow
def test_without_a_failure_the_model_of_a_disk_holds_what_the_disk_holds(case, tmp_path):
    disk = disk_after(case, len(case.calls))
    disk.sync()
    disk.write(tmp_path / "all")
    assert snapshot(tmp_path / "all") == case.final


def problems(case: Case, calls: int, seed: int) -> list[str]:
    """What a user would complain about when the machine is up again."""
    disk = disk_after(case, calls)
    disk.fail(random.Random(seed))
    shutil.rmtree(case.work)
    disk.write(case.work)
    last = case.calls[max(0, calls - 1)]
    where = f"[after call {calls}: {last.name} {last.path} {last.to}, seed {seed}]"
    return [
        f"{problem} {where}".replace(str(case.work), "")
        for problem in (*badly_left(case, calls), *case.badly_gone_on())
    ]


def badly_left(case: Case, calls: int):
    reports = [(0, case.old)] * (case.old is not None) + case.reports
    saved = [answer for at, answer in reports if at <= calls][-1:]
    being_saved = [answer for at, answer in reports if at > calls][:1]
    try:
        found = case.answer()
    except Exception as error:
        if saved:
            yield f"what was saved is not there: {type(error).__name__}: {error}"
    else:
        if found not in [*saved, *being_saved]:
            yield "other bytes than those that were saved"


@pytest.mark.finding("A2")
@pytest.mark.finding("A4")
@pytest.mark.slow
def test_what_was_reported_as_saved_survives_a_loss_of_power(case):
    numbers = range(len(case.calls) + 1)
    chosen = random.Random(case.writer.name).sample(numbers, int(min(SAMPLES, len(numbers))))
    found = [p for n in sorted(chosen) for i in range(TIMES) for p in problems(case, n, 1000 * n + i)]
    assert not found, "\n".join([f"{len(found)} problems", *found])
