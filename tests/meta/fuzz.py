"""A fuzzer of every reader of files: what is in a file that somebody else made decides neither memory nor traceback.

    python -m tests.meta.fuzz --minutes 30            every target, guided by coverage where atheris is installed
    python -m tests.meta.fuzz --cases 200 --random    the same cases on every machine, which the tests run
    python -m tests.meta.fuzz --target run --case HEX what one case raises, with its traceback

A target is a folder of good files and a function that reads them. A case is a string of bytes: it chooses which files
are changed, where, and to what. Reading must end within `SECONDS` of processor time and `MEMORY`, change nothing
outside the folder, and either work or raise one of `ALLOWED` with a message of at most `LONGEST` characters.
atheris (`pip install atheris`) is not a dependency: without it the bytes of the cases are drawn from a seed.
"""

import argparse
import importlib.util
import json
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .fuzz_targets import ALLOWED, TARGETS, check

SECONDS = 10.0  # of processor time for one case; a good folder takes a hundredth of a second
MEMORY = 1 << 29  # bytes of address space beyond what the process had before the first case
LENGTHS = (6, 12, 24, 48)  # of drawn cases, in bytes
VICTIM = "a file of somebody else"


# ----- changes ----------------------------------------------------------------------------------------------------

DEEP = "@deep@"  # stands for a list that nests 100,000 times, HUGE for an integer of 400 digits
HUGE = "@huge@"
ODD: tuple[Any, ...] = (
    0, 1, -1, 2, 255, 2**31, 2**32, 2**63, 2**64, 10**9, 10**18, -(2**63), HUGE, 0.5, -0.0, 1e308, float("nan"),
    float("inf"), True, False, None, "", "a", "x" * 5000, "\ud800", "\0", "\x1b[31m", "a\nb", "\u2028", "1" * 5000,
    "../../victim", "/etc/passwd", "..", [], {}, [[]], [0], [None], ["a"], {"a": 1}, {"": {}}, [10**9] * 9, DEEP,
)  # fmt: skip


class Choices:
    """Decisions, read from a string of bytes; when it has ended, all are 0."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def below(self, n: int) -> int:
        size = 1 if n <= 256 else 3
        value = int.from_bytes(self.data[self.at : self.at + size], "little")
        self.at += size
        return value % max(n, 1)

    def of(self, items: Any) -> Any:
        return items[self.below(len(items))]


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) inside a JSON value."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        for key in list(each) if isinstance(each, dict) else range(len(each)):
            yield each, key
            if isinstance(each[key], dict | list):
                waiting.append(each[key])


def change_value(choices: Choices, value: Any) -> Any:
    """A JSON value with one place in it changed, taken away, given another name or added."""
    found = list(places(value)) if isinstance(value, dict | list) else []
    if not found:
        return choices.of(ODD)
    # Few places near the top decide more than the many items of a long list.
    container, key = found[choices.below(min(len(found), 40) if choices.below(3) else len(found))]
    what = choices.below(8)
    if what == 0:
        del container[key]
    elif what == 1 and isinstance(container, dict):
        container[choices.of(ODD[21:])] = container.pop(key) if choices.below(2) else choices.of(ODD)
    elif what == 2 and isinstance(container, list):
        container += [container[key]] * (1 + choices.below(3))
    elif what == 3 and isinstance(container[key], int | float):
        container[key] = container[key] * choices.of((-1, 2, 3, 10**6)) + choices.of((-1, 0, 1))
    elif what == 4 and choices.below(4) == 0:
        return choices.of(ODD)
    elif what == 5:
        other, name = found[choices.below(len(found))]
        container[key] = other[name]
        if what and isinstance(container[key], dict | list):
            container[key] = json.loads(json.dumps(container[key]))  # no cycles
    else:
        container[key] = choices.of(ODD)
    return value


def dump(value: Any) -> bytes:
    text = json.dumps(value, default=str, ensure_ascii=True, skipkeys=True)
    return text.replace(f'"{DEEP}"', "[" * 100_000 + "]" * 100_000).replace(f'"{HUGE}"', "9" * 400).encode()


def change_bytes(choices: Choices, data: bytes) -> bytes:
    begin = choices.below(len(data) + 1)
    end = min(len(data), begin + choices.of((0, 1, 1, 2, 4, 8, 100)))
    odd = (
        b"", b"\0", b"\xff", b"\xff" * 8, b"\x80" * 20, b"\xff\xff\xff\xff\xff\xff\xff\x7f", b"\n", b"\r", b"\t", b'"',
        b",", b"[" * 100_000, b"9" * 5000, b"\xed\xa0\x80", "\u2028".encode(), bytes(1000), data[begin:end] * 3,
        bytes([choices.below(256)]), b" ", b"{", data[:200],
    )  # fmt: skip
    return data[:begin] + choices.of(odd) + data[end:]


def change_file(choices: Choices, name: str, data: bytes) -> bytes:
    how = choices.below(8)
    try:
        if name.endswith(".safetensors") and how < 6:
            size = struct.unpack("<Q", data[:8])[0]
            header = dump(change_value(choices, json.loads(data[8 : 8 + size])))
            return struct.pack("<Q", len(header)) + header + data[8 + size :]
        if name.endswith(".json") and how < 6:
            return dump(change_value(choices, json.loads(data)))
        if name.endswith(".jsonl") and how < 6:
            lines = [json.loads(line) for line in data.splitlines()]
            return b"\n".join(map(dump, change_value(choices, lines)))
    except (ValueError, TypeError, LookupError, struct.error, RecursionError, OverflowError):
        pass  # an earlier change has left nothing to parse
    return change_bytes(choices, data)


def remove(path: Path) -> None:
    path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def change(choices: Choices, folder: Path, names: list[str]) -> None:
    """One to three changes to the files in `folder`."""
    for _ in range(1 + max(0, choices.below(8) - 5)):
        name, how = choices.of(names), choices.below(32)
        path = folder / name
        if how == 0:
            remove(path)
            os.symlink(choices.of(("../victim", "../../../../victim", name, "/dev/null", "nowhere")), path)
        elif how == 1:
            remove(path)
            if choices.below(2):
                path.mkdir()
        elif path.is_file() and not path.is_symlink():
            path.write_bytes(change_file(choices, name, path.read_bytes()))


# ----- cases ------------------------------------------------------------------------------------------------------


class TooLong(BaseException):
    """A case has used its processor time."""


class Fuzz:
    """The good files of a target in memory, and what its cases have shown."""

    def __init__(self, name: str):
        self.name, self.target = name, TARGETS[name]
        self.root = Path(tempfile.mkdtemp(prefix="fuzz-"))
        self.folder = self.root / "folder"
        self.folder.mkdir()
        (self.root / "victim").write_text(VICTIM)
        self.target.make(self.folder)
        self.good = {str(p.relative_to(self.folder)): p.read_bytes() for p in self.folder.rglob("*") if p.is_file()}
        self.target.read(self.folder)  # the good files can be read
        self.cases, self.refused, self.finds, self.begun = 0, 0, {}, time.process_time()
        signal.signal(signal.SIGPROF, self.stop)
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, resource.RLIM_INFINITY))

    @staticmethod
    def stop(*_: object) -> None:
        raise TooLong

    def write(self, case: bytes) -> None:
        """The folder of a case."""
        shutil.rmtree(self.folder)
        for name, data in self.good.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        choices = Choices(case)
        change(choices, self.folder, sorted(self.good))
        if choices.below(8):
            self.target.seal(self.folder)

    def run(self, case: bytes) -> None:
        """Read what a case makes of the folder, and check all that must hold."""
        self.write(case)
        self.cases += 1
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            self.target.read(self.folder)
        except ALLOWED as error:
            check(error)
            self.refused += 1
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        assert sorted(p.name for p in self.root.iterdir()) == ["folder", "victim"], "a file outside the folder"
        assert (self.root / "victim").read_text() == VICTIM, "a file outside the folder was changed"

    def __call__(self, case: bytes) -> None:
        """Run a case and note what it finds: one of each kind of error and place."""
        try:
            self.run(bytes(case))
        except (Exception, TooLong) as error:
            cause = error.__context__ if isinstance(error, AssertionError) and error.__context__ else error
            ours = [f for f in traceback.extract_tb(cause.__traceback__) if "/tests/" not in f.filename]
            frames = [f for f in ours if "/gpt/" in f.filename or "/tensorlite/" in f.filename]
            where = f"{'/'.join(Path(frames[-1].filename).parts[-2:])}:{frames[-1].lineno}" if frames else "?"
            what = f"{type(cause).__name__} at {where}: {error!s:.200}"
            if (key := (type(cause).__name__, where)) not in self.finds:
                self.finds[key] = f"{what}\n    --target {self.name} --case {bytes(case[:400]).hex()}"
                print(self.finds[key], flush=True)

    def summary(self, how: str) -> None:
        print(
            f"{self.name:12} {self.cases:7,} cases {how}, {self.refused:7,} refused, {len(self.finds)} finds, "
            f"{(time.process_time() - self.begun) / 60:.1f} CPU minutes",
            flush=True,
        )
        shutil.rmtree(self.root)


def drawn(name: str, cases: int, seconds: float, seed: int) -> int:
    """Cases drawn from a seed; how many finds there are."""
    fuzz, draw, end = Fuzz(name), random.Random(f"{name} {seed}"), time.process_time() + seconds
    while fuzz.cases < cases and time.process_time() < end:
        fuzz(draw.randbytes(draw.choice(LENGTHS)))
    fuzz.summary("drawn from a seed")
    return len(fuzz.finds)


def guided(name: str, seconds: float) -> None:
    """Cases that atheris makes of those that reached new code."""
    import atheris

    sys.modules["numba"] = None  # type: ignore[assignment]  # it cannot compile what is instrumented
    with atheris.instrument_imports(include=["gpt", "tensorlite"]):
        fuzz = Fuzz(name)

    end = time.process_time() + seconds

    def one(data: bytes) -> None:
        fuzz(data)
        if time.process_time() > end:
            fuzz.summary("guided by coverage")
            os._exit(bool(fuzz.finds))

    corpus, draw = tempfile.mkdtemp(prefix="fuzz-corpus-"), random.Random(name)
    for i in range(200):
        (Path(corpus) / str(i)).write_bytes(draw.randbytes(draw.choice(LENGTHS)))
    flags = ["-max_len=200", "-len_control=0", "-rss_limit_mb=0", "-malloc_limit_mb=0", "-timeout=600", "-verbosity=0"]
    atheris.Setup([sys.argv[0], corpus, *flags], one)
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=0, help="CPU minutes, shared by all targets")
    parser.add_argument("--cases", type=int, default=1 << 60, help="cases of each target")
    parser.add_argument("--target", choices=TARGETS, help="this target alone")
    parser.add_argument("--case", type=bytes.fromhex, help="this case alone, with its traceback")
    parser.add_argument("--random", action="store_true", help="draw cases from the seed, also where atheris is")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1] / "gpt" / "support"))
    sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
    names = [args.target] if args.target else list(TARGETS)
    seconds = 60 * args.minutes / len(names) or 1e9
    if args.case is not None:
        Fuzz(names[0]).run(args.case)
    elif args.random or not importlib.util.find_spec("atheris"):
        return bool(sum([drawn(name, args.cases, seconds, args.seed) for name in names]))
    elif args.target:
        guided(args.target, seconds)
    else:  # a process for each: atheris ends it
        command = [sys.executable, "-m", "tests.meta.fuzz", "--minutes", str(seconds / 60), "--target"]
        return max([subprocess.run([*command, name]).returncode for name in names])
    return 0


if __name__ == "__main__":
    sys.exit(main())
