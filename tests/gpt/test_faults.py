"""Every call that reaches the disk fails once, or from then on: what was there stays, and the next command ends as if nothing had been.

GPT_FAULTS=all tries every call with every errno (some 20 minutes); otherwise a few of each kind.
"""

import os
import random
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
from faults import ERRNOS, MODES, Failing, watching
from writers import USERS, WRITERS, Writer, call, copy, prepare, snapshot, weights

import tensorlite as tl
from gpt import train as training

ALL = os.environ.get("GPT_FAULTS") == "all"
SAMPLES = {"once": 14, "full": 4, "read-only": 5, "interrupted": 5, "killed": 8}  # of each command


class Case:
    """A command that has been run without a fault, and what is right therefore."""

    def __init__(self, writer: Writer, folder: Path):
        self.writer, self.work, self.start = writer, folder / "work", folder / "start"
        self.out, self.parsed = self.work / writer.out, {}
        self.is_run = writer.out == "run"
        prepare(writer, self.work)
        copy(self.work, self.start)
        self.before = snapshot(self.work)
        self.old = weights(self.out) if self.is_run and self.out.exists() else None
        self.new: set[bytes] = set()  # weights of the checkpoints of the new run
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training, "save", self.saved(training.save))
            ended = call(writer.line(self.work), self.parsed)
        assert ended.status == 0, ended
        self.final = snapshot(self.work)
        if self.is_run:
            self.new.add(weights(self.out))
        assert self.old not in self.new or writer.stop_at  # the end of what is resumed is not among the old run's

    def saved(self, save):
        def call(s):
            save(s)
            drawn = tl.default_generator.state_dict()  # a model that is made to be looked at draws weights
            self.new.add(weights(s.run))
            tl.default_generator.load_state_dict(drawn)

        return call

    def run(self, failing: Failing):
        copy(self.start, self.work)
        with watching(self.work, failing):
            return call(self.writer.line(self.work), self.parsed)

    def count(self, mode: str) -> list[str]:
        """The names of the calls that may fail in that mode."""
        failing = Failing(mode)
        assert self.run(failing).status == 0
        return [call.name for call in failing.calls]

    # ----- a fault, and what is wrong afterwards -----

    def problems(self, mode: str, at: int, choice: int) -> list[str]:
        """What a user would complain about."""
        failing = Failing(mode, at, choice)
        ended = self.run(failing)
        if not failing.reached:
            return ["the call was not reached"]
        found = [*self.badly_said(mode, ended), *self.badly_left(mode, ended), *self.badly_gone_on(ended)]
        failed = failing.calls[at - 1]
        path = failed.path.replace(str(self.work), "")
        where = f"{failed.name} {path}" + (f" -> {failed.to.replace(str(self.work), '')}" if failed.to else "")
        return [f"{problem} [{mode} {at}/{choice}: {where}; {ended.status} {ended.errors.strip()}]" for problem in found]

    def badly_said(self, mode: str, ended):
        allowed = {"interrupted": (130,), "killed": (-9,)}.get(mode, (0, 1))
        if ended.status not in allowed:
            yield f"exit status {ended.status}"
        lines = ended.errors.splitlines()
        if len(lines) != (ended.status == 1) or (lines and not lines[0].startswith("gpt: ")):
            yield f"said in {len(lines)} lines: {lines[:3]}"
        elif lines and any(bad in lines[0] for bad in ("foreseen", "unexpected", "[Errno", "Error:")):
            yield "a sentence that is not for users"

    def badly_left(self, mode: str, ended):
        now, lasting = snapshot(self.work), mode in ("killed", "read-only")
        other = {name: data for name, data in self.before.items() if Path(name).parts[0] != self.writer.out}
        if {name: now.get(name) for name in other} != other:
            yield "an input was changed"
        if self.writer.users and any(now.get(f"run/{name}") != data for name, data in USERS.items()):
            yield "a file of the user's is gone"
        litter = sorted(name for name in now if name not in other and Path(name).parts[0] != self.writer.out)
        if litter and not lasting:
            yield f"left beside: {litter[:3]}"
        if ended.status == 0 and now != self.final and "warning" not in ended.output:
            yield f"exit 0, and not as it should be: {different(now, self.final)}"
        if self.is_run:
            yield from self.badly_left_run(now, lasting)
        else:
            mine = [{n: d for n, d in each.items() if n not in other} for each in (now, self.before, self.final)]
            if mine[0] not in mine[1:] and not (litter and lasting):
                yield f"neither the old nor the new: {sorted(mine[0])}"
            if mine[0] == mine[2] and "nothing is left" in ended.errors:
                yield "it is there, and it is said that it is not"

    def badly_left_run(self, now: dict, lasting: bool):
        try:
            found = weights(self.out)
        except FileNotFoundError as error:
            if self.old is not None:
                yield f"the old run is lost: {error}"
            elif self.out.exists() and not lasting:
                yield f"a failed start left {sorted(path.name for path in self.out.iterdir())}"
        except Exception as error:
            yield f"the run cannot be loaded: {type(error).__name__} {error}"
        else:
            if found not in self.new | {self.old}:
                yield "weights that are neither the old nor the new run's"
            elif found == self.old and found not in self.new and not lasting and not self.writer.stop_at:
                mine, before = ({n: d for n, d in each.items() if n.startswith("run/")} for each in (now, self.before))
                if mine != before:
                    yield f"the old run is not as it was: {different(mine, before)}"

    def badly_gone_on(self, ended):
        argv = list(self.writer.argv)
        if self.is_run and self.has_new():
            if argv[0] == "import":
                argv = [*(part for part in argv if part != "--overwrite"), "--overwrite"]
            else:
                argv = [*argv[: argv.index("train") + 1 if "train" in argv else 2], "--resume", "@run"]
        again = call(self.writer.line(self.work, tuple(argv)), self.parsed)
        if again.status:
            yield f"and then {argv[-1]}: {again.errors.strip()}"
            return
        now, said = snapshot(self.work), ended.output + again.output
        if "damaged" in said:
            now = {name: data for name, data in now.items() if ".damaged" not in name}
        if now != self.final and not (argv[0] == "save" and ended.status == -9):
            yield f"the end is not as without the fault: {different(now, self.final)}"

    def has_new(self) -> bool:
        try:
            return weights(self.out) in self.new
        except Exception:
            return False


def different(a: dict, b: dict) -> list[str]:
    return sorted(
        [f"+{name}" for name in a.keys() - b.keys()]
        + [f"-{name}" for name in b.keys() - a.keys()]
        + [f"!{name}" for name in a.keys() & b.keys() if a[name] != b[name]]
    )[:6]


@pytest.fixture(scope="module", params=WRITERS)
def case(request, tmp_path_factory):
    return Case(WRITERS[request.param], tmp_path_factory.mktemp("faults"))


def chosen(writer: str, mode: str, names: list[str]) -> list[tuple[int, int]]:
    """Which calls fail, and with which of their errnos."""
    numbers = range(1, len(names) + 1)
    if ALL:
        return [(n, c) for n in numbers for c in range(len(ERRNOS[names[n - 1]]) if mode == "once" else 1)]
    chance = random.Random(f"{writer} {mode}")
    kinds = Counter(names)  # rare calls are as interesting as frequent ones
    picked = sorted(numbers, key=lambda n: chance.random() ** kinds[names[n - 1]])[-SAMPLES[mode] :]
    return [(n, chance.randrange(6)) for n in sorted(picked)]


@pytest.mark.finding("A1")
@pytest.mark.finding("A2")
@pytest.mark.finding("A4")
@pytest.mark.finding("E12")
@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_lost_whichever_call_fails(case, mode):
    names = case.count(mode)
    problems = [
        problem for at, choice in chosen(case.writer.name, mode, names) for problem in case.problems(mode, at, choice)
    ]
    assert not problems, "\n".join([f"{len(problems)} problems", *problems])
