"""Any call that reaches the disk may fail: nothing is lost, and the next command ends as if nothing had been.

GPT_FAULTS=all lets every call fail (some 20 minutes); otherwise a few of each command do, or GPT_FAULTS times as many.
"""

import random
from collections import Counter
from math import isinf

import pytest
from cases import FACTOR, Case, case_of
from faults import ERRNOS, MODES, Failing, watching
from writers import WRITERS, Ended, call

SAMPLES = {"once": 9, "full": 3, "read-only": 3, "interrupted": 3, "killed": 6}  # of each command
STATUSES = {"interrupted": (130,), "killed": (-9,)}  # else 1, or 0 where it could be done without


@pytest.fixture(scope="module", params=WRITERS)
def case(request):
    with case_of(request.param) as case:
        yield case


def disturbed(case: Case, failing: Failing) -> Ended:
    case.begin()
    with watching(case.work, failing):
        return call(case.line(), case.parsed)


def badly_said(case: Case, mode: str, ended: Ended):
    lines = [line for line in ended.errors.splitlines() if not line.startswith("gpt: warning: ")]
    if ended.status not in STATUSES.get(mode, (0, 1)):
        yield f"exit status {ended.status}"
    if len(lines) != (ended.status == 1) or (lines and not lines[0].startswith("gpt: ")):
        yield f"said in {len(lines)} lines: {lines[:3]}"
    elif any(bad in ended.errors for bad in ("foreseen", "unexpected", "[Errno", "Error:")):
        yield "a sentence that is not for users"
    elif lines and str(case.work) not in lines[0]:
        yield "a sentence that names no file"


def problems(case: Case, mode: str, at: int, choice: int) -> list[str]:
    """What a user would complain about."""
    failing = Failing(mode, at, choice)
    ended = disturbed(case, failing)
    if not failing.reached:
        return [f"{mode} {at}: the call was not reached"]
    failed = failing.calls[at - 1]
    if ended.status == 0 and "/base/checkpoints/step_00000000 is read instead" in ended.errors:
        return [*badly_said(case, mode, ended)]  # another run, but not in silence
    lasting = mode in ("killed", "read-only") or failed.name in ("unlink", "rmdir")
    found = [
        *badly_said(case, mode, ended),
        *case.badly_left(ended, lasting),
        *case.badly_gone_on(ended.output + ended.errors),
    ]
    where = f"{failed.name} {failed.path} {failed.to}; {ended.status} {ended.errors}".strip()
    return [f"{problem} [{mode} {at}/{choice}: {where}]".replace(str(case.work), "") for problem in found]


def chosen(writer: str, mode: str, names: list[str]) -> list[tuple[int, int]]:
    """Which calls fail, and with which of their errnos: all where the caller may look at it."""
    numbers, chance = range(1, len(names) + 1), random.Random(f"{writer} {mode}")
    if isinf(FACTOR):
        several = ("link", "lock", "map", "list", "room") if mode == "once" else ()
        return [
            (n, c) for n in numbers
            for c in (range(len(ERRNOS[names[n - 1]])) if names[n - 1] in several else (chance.randrange(6),))
        ]  # fmt: skip
    counts = Counter(names)  # rare calls are as interesting as frequent ones
    picked = sorted(numbers, key=lambda n: chance.random() ** counts[names[n - 1]])[-int(FACTOR * SAMPLES[mode]) :]
    return [(n, chance.randrange(6)) for n in sorted(picked)]


@pytest.mark.finding("A1")
@pytest.mark.finding("A2")
@pytest.mark.finding("A4")
@pytest.mark.finding("E12")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.slow
def test_nothing_is_lost_whichever_call_fails(case, mode):
    counting = Failing(mode)
    assert disturbed(case, counting).status == 0
    names = [call.name for call in counting.calls]
    found = [p for at, choice in chosen(case.writer.name, mode, names) for p in problems(case, mode, at, choice)]
    assert not found, "\n".join([f"{len(found)} problems", *found])
