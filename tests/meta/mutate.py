"""Mutation score: change the engine, every derivative rule and CPU kernel in small ways; a test must fail each time.

    python -m tests.meta.mutate [--only TEXT] [--jobs N] [--budget SECONDS] [--results FILE] [--table FILE]

mutants.py says what is changed. Each mutant is judged in a process of its own, forked when the tests are collected; the
first failing test kills it. The tests run in the profile `mutants` (the examples of `ci`). A test that never calls the
changed function is not run; which test calls what is recorded in a first run of the suite with fewer examples. A mutant
that survives is a hole in the tests, unless it computes the same function: those are listed in equivalent.py with the
proof, which --proofs tries to refute.

Every verdict is appended to --results (build/mutants.jsonl, which is not in the repository: CI keeps it as an artifact)
at once. A later run takes from there what has not changed since; docstrings, comments and formatting do not count.
docs/mutants.md has the totals.
"""

import argparse
import functools
import gc
import hashlib
import importlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FunctionType

import pytest
from hypothesis import settings

from .equivalent import EQUIVALENT
from .mutants import Mutant, mutants, watched

ROOT = Path(__file__).parents[2]
TENSORLITE = ROOT / "tensorlite"
CORE = ("ops", "derived", "formulas", "functional", "primitive", "autograd")
ATTACHED = ("accelerate/dispatch", "accelerate/accumulate", "kernels/shared", "kernels/table")
OTHERS = ("__init__", "onednn")  # of kernels/cpu: what is no mathematics of ours
FILES = (
    *(f"{name}.py" for name in (*CORE, *ATTACHED) if (TENSORLITE / f"{name}.py").exists()),
    *sorted(f"kernels/cpu/{p.name}" for p in (TENSORLITE / "kernels/cpu").glob("*.py") if p.stem not in OTHERS),
)
TABLES = tuple(name for name in ("ops.py", "functional.py", "kernels/table.py") if name in FILES)  # made of ops
SUITE = (
    "ops/test_ops", "kernels/cpu/test_cpu_kernels", "kernels/cpu/test_numba_impl", "ops/test_stability",
    "ops/test_defaults", "engine/test_bugs", "engine/test_algebra", "engine/test_strict_device", "engine/test_autograd",
    "engine/test_recompute", "engine/test_testing", "kernels/cpu/test_threads",
)  # fmt: skip
QUIETLY = [
    "-W",
    "ignore::pytest.PytestAssertRewriteWarning",
    "-p",
    "no:terminal",
    "-p",
    "no:cacheprovider",
    "-p",
    "no:xdist",
    "-o",
    "addopts=",
    "-o",
    "required_plugins=",
    "--capture=no",
]
TABLE = """# Mutants of the engine, its rules and kernels

Written by `python -m tests.meta.mutate --table docs/mutants.md`. `build/mutants.jsonl` (an artifact of CI) names the
test that killed each mutant; `tests/meta/equivalent.py` has the proof for each mutant that computes the same function.
The last column has the three tests that killed most.
"""
SETTINGS = "_hypothesis_internal_use_settings"
UNDECIDED = "alive when its time was up"
SECONDS = 20  # of the processor's time: a test that takes longer is stuck


# ----- a changed library ------------------------------------------------------------------------------------------


def load(file: str, source: str, **names) -> None:
    """The module as if it had been imported from `source`: whoever holds its functions and ops has the new ones."""
    name = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    module = importlib.import_module(f"tensorlite.{name}")
    registry = importlib.import_module("tensorlite.primitive").PRIMITIVES
    ops, old = dict(registry), dict(vars(module))
    vars(module).update(names)
    exec(compile(source, module.__file__, "exec"), vars(module))
    for name, was in old.items():
        if (now := vars(module)[name]) is not was and take(was, now):
            setattr(module, name, was)
    registry.update(ops)


def take(was, now) -> bool:
    """Let the object `was` do what `now` does; False for a number, which is replaced."""
    if isinstance(was, FunctionType):
        was.__code__, was.__defaults__, was.__kwdefaults__ = now.__code__, now.__defaults__, now.__kwdefaults__
        if hasattr(was, "__wrapped__"):  # a decorator's closure holds it
            take(was.__wrapped__, now.__wrapped__)
    elif isinstance(was, functools._lru_cache_wrapper):
        was.cache_clear()
        take(was.__wrapped__, now.__wrapped__)
    elif isinstance(was, type):
        for name, method in vars(now).items():
            if isinstance(method, FunctionType):
                take(vars(was)[name], method)
    elif type(was).__module__ == "tensorlite.primitive":
        vars(was).update(vars(now))
    return not isinstance(was, int | float)


def change(root: Path, file: str, source: str, **names) -> None:
    load(file, source, **names)
    if file == "primitive.py":  # the ops are made anew, by the changed classes
        for user in TABLES:
            load(user, (root / user).read_text(encoding="utf-8"))


# ----- running tests on it ----------------------------------------------------------------------------------------


class Judge:
    """A pytest plugin: what was collected runs once a mutant, in forked processes, until a test fails."""

    def __init__(
        self, root: Path, wanted: list[Mutant], killed: Counter[tuple], options: argparse.Namespace, said: Callable
    ):
        self.root, self.wanted, self.options, self.said = root, wanted, options, said
        self.killed = killed  # (file, op, test): how many mutants
        self.failed = ""

    def pytest_collectreport(self, report):
        if report.failed:
            pytest.exit(f"tests do not import: {report.longrepr}", 2)

    def pytest_runtest_logreport(self, report):
        if report.failed and not self.failed:
            self.failed = report.nodeid.removeprefix("tests/")

    def pytest_runtestloop(self, session) -> bool:
        session.config.option.tbstyle = "native"  # the cheapest: it is not shown
        self.items = {item.nodeid: item for item in session.items}
        calls = self.options.calls
        now = {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in Path("tests").rglob("*.py")}
        seconds, callers, then = json.loads(calls.read_text()) if calls and calls.exists() else ({}, {}, {})
        same = {nodeid for nodeid in seconds if now.get(name := nodeid.partition("::")[0]) == then.get(name)}
        seconds = {nodeid: seconds[nodeid] for nodeid in same}
        if new := [nodeid for nodeid in self.items if nodeid not in same]:
            ((_, record, _),) = self.forked([None], lambda _: self.record(new), 1)
            if isinstance(record, str):
                print(f"the suite fails on the library as it is ({record}): a mutant proves nothing then", flush=True)
                pytest.exit("nothing to judge by", 2)
            seconds |= record[0]
            callers = {
                unit: [*same.intersection(callers.get(unit, [])), *record[1].get(unit, [])]
                for unit in callers | record[1]
            }
        if calls:
            calls.write_text(json.dumps([seconds, callers, now]))
        record = seconds, callers
        gc.freeze()  # or each copy's garbage collector would copy all memory
        for mutant, killer, took in self.forked(self.wanted, lambda m: self.verdict(m, *record), self.options.jobs):
            if killer == UNDECIDED:
                print(f"{mutant.key}\n    {UNDECIDED} ({took:.1f} s)", flush=True)
            else:
                self.killed[mutant.file, mutant.op, killer] += 1
                self.said(mutant, killer, took)
        return True

    def run(self, nodeids: list[str], budget: float = 0) -> None:
        began = time.process_time()
        for nodeid, following in zip(nodeids, [*nodeids[1:], None], strict=True):
            item = self.items[nodeid]
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            item.ihook.pytest_runtest_protocol(item=item, nextitem=self.items.get(following))
            if self.failed:
                return
            if following and budget and time.process_time() - began > budget:
                self.failed = UNDECIDED
                return

    def record(self, nodeids: list[str]):
        """(seconds of each test, the tests that call each function), or the name of a test that fails."""
        called: set[str] = set()
        for file in FILES:
            load(file, watched(self.root, file), __called__=called)
        called.clear()
        for file in TABLES:
            load(file, watched(self.root, file), __called__=called)
        everywhere = set(called)
        modules = [module for name, module in sys.modules.items() if name.startswith("tensorlite")]
        caches = [v for m in modules for v in vars(m).values() if isinstance(v, functools._lru_cache_wrapper)]
        seconds, callers = {}, defaultdict(list)
        for nodeid in nodeids:
            test = self.items[nodeid].obj
            if usual := getattr(test, SETTINGS, None):
                setattr(test, SETTINGS, settings(usual, max_examples=min(25, usual.max_examples)))
            called.clear()
            for cache in caches:
                cache.cache_clear()
            for op in importlib.import_module("tensorlite.primitive").PRIMITIVES.values():
                op._needs.clear()
            began = time.process_time()
            self.run([nodeid])
            if self.failed:
                return self.failed
            seconds[nodeid] = time.process_time() - began
            for unit in called - everywhere:
                callers[unit].append(nodeid)
        for unit in everywhere:
            callers[unit] = nodeids
        return seconds, callers

    def verdict(self, mutant: Mutant, seconds: dict[str, float], callers: dict[str, list[str]]) -> str:
        try:
            change(self.root, mutant.file, mutant.source())
        except Exception as error:
            return f"import: {type(error).__name__}"
        own = f"[{mutant.op.partition('.')[0].strip('_').removeprefix('supports_').removesuffix('_vjp')}"

        def order(nodeid: str) -> tuple:
            """First what takes little time, the op's own rows, and what killed other mutants of it."""
            kills = self.killed[mutant.file, mutant.op, nodeid.removeprefix("tests/")]
            return seconds[nodeid] / (1 + 20 * (kills + (own in nodeid))), nodeid

        self.run(sorted(self.items.keys() & callers.get(mutant.unit, self.items), key=order), self.options.budget)
        return self.failed

    def forked(self, tasks: Iterable, work: Callable, jobs: int) -> Iterator[tuple]:
        """(task, answer, seconds) of `work(task)` in copies of this process, `jobs` at a time."""
        running: dict[int, tuple] = {}
        with tempfile.TemporaryDirectory() as folder:
            for task in [*tasks, *[StopIteration] * jobs]:
                if task is not StopIteration:
                    child = os.fork() or self.answer(work, task, Path(folder))
                    running[child] = task, time.perf_counter()
                if running and (len(running) == jobs or task is StopIteration):
                    child, status = os.wait()
                    task, began = running.pop(child)
                    said = Path(folder) / str(child)
                    ended = "never ends" if os.WTERMSIG(status) == signal.SIGPROF else "the process dies"
                    answer = json.loads(said.read_text()) if said.exists() else ended
                    yield task, answer, time.perf_counter() - began

    def answer(self, work: Callable, task, folder: Path):
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
            said = json.dumps(work(task))
            (folder / f"{os.getpid()}").write_text(said)
        except BaseException:
            traceback.print_exc()
        os._exit(0)


# ----- the score --------------------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.meta.mutate", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="only mutants whose file, op or change contains this text")
    parser.add_argument("--tests", default="", help="only tests that match (pytest's -k); survivors are then not final")
    parser.add_argument("--proofs", action="store_true", help="only mutants listed as equivalent: a kill refutes one")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count(), help="mutants judged in parallel; 0: only the table"
    )
    parser.add_argument("--budget", type=float, default=0, help="processor seconds for a mutant's tests; 0: no limit")
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "mutants.jsonl", help="file of verdicts")
    parser.add_argument("--calls", type=Path, help="file that keeps the calls of each test for later runs")
    parser.add_argument("--table", type=Path, help="write the score of each op to this Markdown file")
    options = parser.parse_args()
    for name in ("results", "calls", "table"):
        setattr(options, name, (path := getattr(options, name)) and path.absolute())
    options.results.parent.mkdir(exist_ok=True)
    os.environ["HYPOTHESIS_PROFILE"] = "mutants"
    os.environ["NUMBA_DISABLE_JIT"] = "1"  # a loop is a function of Python's then, which can be exchanged
    with tempfile.TemporaryDirectory() as folder:  # what others change meanwhile changes nothing here
        for name in ("tensorlite", "gpt", "tests"):
            shutil.copytree(ROOT / name, Path(folder) / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        os.chdir(folder)
        sys.path[0] = folder
        root = Path(folder) / "tensorlite"
        everything = [m for file in FILES for m in mutants(root, file) if options.only in m.key]
        verdicts = {(old["key"], old["hash"]): old for old in lines(options.results)}
        settled = {k for k, old in verdicts.items() if old["killer"]}
        wanted = [m for m in everything if (m.key, m.hash) not in settled and options.proofs == (m.key in EQUIVALENT)]
        print(f"{len(everything)} mutants, {len(wanted)} to judge", flush=True)

        def said(mutant: Mutant, killer: str, seconds: float) -> None:
            verdicts[mutant.key, mutant.hash] = {"key": mutant.key, "hash": mutant.hash, "killer": killer}
            with options.results.open("a") as file:
                file.write(json.dumps(verdicts[mutant.key, mutant.hash]) + "\n")
            print(f"{mutant.key}\n    {state(mutant, verdicts[mutant.key, mutant.hash])} ({seconds:.1f} s)", flush=True)

        if wanted and options.jobs:
            files = [f"tests/{name}.py" for name in SUITE]
            killed = Counter(
                (m.file, m.op, verdicts[m.key, m.hash]["killer"]) for m in everything if (m.key, m.hash) in settled
            )
            pytest.main([*QUIETLY, "-k", options.tests, *files], [Judge(root, wanted, killed, options, said)])
    found = [(m, state(m, verdicts.get((m.key, m.hash)))) for m in everything]
    if not options.only:  # one line a mutant, in the order of the code
        kept = [verdicts[m.key, m.hash] for m in everything if (m.key, m.hash) in verdicts]
        options.results.write_text("".join(json.dumps(verdict) + "\n" for verdict in kept))
    print(*[f"{is_} {mutant.key}  (line {mutant.line})" for mutant, is_ in found if is_ == "SURVIVED"], sep="\n")
    if not options.only:
        print(
            *[f"in equivalent.py, and no mutant: {key}" for key in EQUIVALENT.keys() - {m.key for m in everything}],
            sep="\n",
        )
    print(table := score(found))
    if options.table:
        options.table.write_text(f"{TABLE}\n{table}")
    return int(any(is_ in ("SURVIVED", "not judged") for _, is_ in found))


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def state(mutant: Mutant, verdict: dict | None) -> str:
    if verdict and verdict["killer"]:
        return f"killed by {verdict['killer']}"
    if mutant.key in EQUIVALENT:
        return f"equivalent: {EQUIVALENT[mutant.key]}"
    return "SURVIVED" if verdict else "not judged"


def score(found: list[tuple[Mutant, str]]) -> str:
    """The table: the number of killed and other mutants of each op, and the tests that killed most of them."""
    rows = [
        "| file | op | mutants | killed | equivalent | survived | not judged | killed by |",
        "|---|---" + "|--:" * 5 + "|---|",
    ]
    groups: dict[tuple, list] = {}
    for mutant, is_ in found:
        for group in (("**all**", ""), (mutant.file, ""), (mutant.file, mutant.op)):
            groups.setdefault(group, []).append(is_)
    for (file, op), states in groups.items():
        counts = [sum(is_.startswith(word) for is_ in states) for word in ("killed", "equivalent", "SURVIVED", "not")]
        killers = Counter(
            is_.removeprefix("killed by ").rpartition("::")[2].partition("[")[0] for is_ in states if "killed" in is_
        )
        by = ", ".join(f"{test} {n}" for test, n in killers.most_common(3)) if op else ""
        rows.append(f"| {file} | {op} | {len(states)} | {' | '.join(map(str, counts))} | {by} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.exit(main())
