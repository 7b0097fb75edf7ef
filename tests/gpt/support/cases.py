"""A command of `writers` that has been run undisturbed, and so what is right when it is disturbed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from faults import Call, watching
from writers import WRITERS, Ended, Writer, call, copy, prepare, snapshot, weights

import tensorlite as tl
from gpt.training import loop as training
from tensorlite.files import LEFTOVER

FACTOR = float(os.environ.get("GPT_FAULTS", "1").replace("all", "inf"))  # how many times as many disturbances


@contextmanager
def case_of(name: str) -> Iterator["Case"]:
    """The command of that name, in a directory of its own, which is in memory where that can be."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Case(WRITERS[name], Path(folder))


class Case:
    """One command in folder/work: run once, with its calls to the file system and all that it reported as saved."""

    def __init__(self, writer: Writer, folder: Path):
        self.writer, self.work, self.start = writer, folder / "work", folder / "start"
        self.out, self.is_run, self.parsed = self.work / writer.out, writer.out == "run", {}
        prepare(writer, self.work)
        copy(self.work, self.start)
        self.before = snapshot(self.work)
        self.calls: list[Call] = []  # those that change something
        something = self.out.exists() and not (self.is_run and not writer.before)
        self.old = self.answer() if something else None  # what was there
        self.reports: list[tuple[int, bytes]] = []  # after how many calls something was saved, and what it was
        self.new: set[bytes] = set()  # all that may be answered of the new one
        with pytest.MonkeyPatch.context() as patch, watching(self.work, self.see):
            patch.setattr(training, "save", self.reporting(training.save))
            patch.setattr(training, "commit", self.reporting(training.commit))
            ended = call(writer.line(self.work), self.parsed)
        assert ended.status == 0, ended
        self.report(self.answer())
        self.final = snapshot(self.work)
        assert self.old not in self.new

    def see(self, call: Call) -> None:
        if call.writes:
            self.calls.append(call)

    def reporting(self, function):
        """The same function of a session; when it has ended, something is saved, unless it is not yet in its place."""

        def call(s, *args):
            function(s, *args)
            drawn = tl.default_generator.state_dict()  # a model that is made to be looked at draws weights
            if s.run == self.out:
                self.report(self.answer())
            tl.default_generator.load_state_dict(drawn)

        return call

    def report(self, answer: bytes) -> None:
        self.new.add(answer)
        if not self.reports or self.reports[-1][1] != answer:
            self.reports.append((len(self.calls), answer))

    def answer(self) -> bytes:
        """What a user gets of what the command has made."""
        if self.is_run:
            return weights(self.out)
        return (self.out / "model.safetensors" if self.out.is_dir() else self.out).read_bytes()

    def begin(self) -> None:
        """As before the command."""
        copy(self.start, self.work)

    def line(self) -> list[str]:
        return self.writer.line(self.work)

    def begun(self) -> bool:
        """True where something of the new one is there."""
        try:
            return self.answer() in self.new
        except Exception:
            return False

    def next_line(self) -> list[str]:
        """What a user gives next: --resume where there is something of the new run, else the same again."""
        argv, begun = list(self.writer.argv), self.begun()
        if self.is_run and begun:
            if argv[0] == "import":
                argv = [*(part for part in argv if part != "--overwrite"), "--overwrite"]
            else:
                argv = [*argv[: argv.index("train") + 1 if "train" in argv else 2], "--resume", "@run"]
        elif begun and argv[0] == "export":
            shutil.rmtree(self.out)
        return self.writer.line(self.work, tuple(argv))

    # ----- what is wrong -----

    def badly_left(self, ended: Ended, lasting: bool) -> Iterator[str]:
        """What a user would complain about after a disturbance; `lasting`: nothing could be tidied up."""
        now = snapshot(self.work)
        other = {name: data for name, data in self.before.items() if Path(name).parts[0] != self.writer.out}
        mine, before, final = ({n: d for n, d in e.items() if n not in other} for e in (now, self.before, self.final))
        litter = sorted(name for name in mine if Path(name).parts[0] != self.writer.out)
        if {name: now.get(name) for name in other} != other:
            yield "an input was changed"
        users = {f"{self.writer.out}/{name}": data for name, data in self.writer.users.items()}
        gone = [name for name, data in users.items() if now.get(name) != data]
        if any(final[name] == users[name] for name in gone):
            yield f"a file of the user's is gone: {gone}"
        if litter and not lasting:
            yield f"left beside: {litter[:3]}"
        if ended.status == 0 and mine != final and "warning" not in ended.output + ended.errors and not lasting:
            yield f"exit 0, and not as it should be: {different(mine, final)}"
        try:
            found = self.answer()
        except FileNotFoundError as error:
            if self.old is not None:
                yield f"the old one is lost: {error}"
            elif gone:
                yield f"a file of the user's is gone, and nothing is in its place: {gone}"
            elif mine != before and not lasting:
                yield f"a failed start left {different(mine, before)}"
        except Exception as error:
            yield f"what is there cannot be loaded: {type(error).__name__} {error}"
        else:
            if found not in self.new | {self.old}:
                yield "neither the old nor the new one"
            elif found == self.old and mine != before and not lasting and not self.writer.stop_at:
                yield f"the old one is not as it was: {different(mine, before)}"
            elif found != self.old and not self.is_run and mine != final and not lasting:
                yield f"the new one is not whole: {different(mine, final)}"
        if "is saved as" in ended.errors and ended.status == 1 and not self.begun():
            yield "it is said to be saved, and is not there"
        if "nothing is left" in ended.errors and self.out.exists() and mine != before:
            yield "it is there, and it is said that it is not"

    def badly_gone_on(self, said: str = "") -> Iterator[str]:
        """What is wrong with what the next command makes of it; `said`: what the disturbed one did."""
        line = self.next_line()
        again = call(line, self.parsed)
        if again.status:
            yield f"and then {' '.join(line[:3])}: {again.errors.strip()}"
            return
        now = snapshot(self.work)
        if "damaged" in said + again.output + again.errors:  # and set aside, to be looked at
            now = {name: data for name, data in now.items() if ".damaged" not in name}
        if self.writer.name == "save":  # no later one can tell whether a temporary file beside it is in use
            now = {name: data for name, data in now.items() if not LEFTOVER.fullmatch(name)}
        if now != self.final:
            yield f"the end is not as without it: {different(now, self.final)}"


def different(a: dict, b: dict) -> list[str]:
    """Names: + for those that only `a` has, - for those that only `b` has, ! where the content differs."""
    return sorted(
        [f"+{name}" for name in a.keys() - b.keys()]
        + [f"-{name}" for name in b.keys() - a.keys()]
        + [f"!{name}" for name in a.keys() & b.keys() if a[name] != b[name]]
    )[:6]
