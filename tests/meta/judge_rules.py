"""Mutants of the engine, the derivative rules and the CPU kernels, each judged in a fork of a process that has
collected the tests: the changed file is executed in its module, and whoever holds its functions and ops has the new
ones.
"""

import argparse
import functools
import gc
import hashlib
import importlib
import itertools
import json
import os
import resource
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

from .mutants import Mutant, watched

ROOT = Path(__file__).parents[2]
TENSORLITE = ROOT / "tensorlite"
CORE = ("ops", "derived", "formulas", "functional", "primitive", "autograd")
ATTACHED = ("accelerate/dispatch", "accelerate/accumulate", "kernels/shared", "kernels/table")
OTHERS = ("__init__", "onednn", "quantized", "decode", "numba_decode")  # of kernels/cpu: not ours, or needs numba
FILES = (
    *(f"{name}.py" for name in (*CORE, *ATTACHED) if (TENSORLITE / f"{name}.py").exists()),
    *sorted(f"kernels/cpu/{p.name}" for p in (TENSORLITE / "kernels/cpu").glob("*.py") if p.stem not in OTHERS),
)
TABLES = tuple(name for name in ("ops.py", "functional.py", "kernels/table.py") if name in FILES)  # made of ops
SUITE = (  # not test_signatures and test_rules, which read source: that of the unchanged file
    "ops/test_ops", "kernels/cpu/test_cpu_kernels", "kernels/cpu/test_numba_impl", "ops/test_stability",
    "ops/test_defaults", "engine/test_bugs", "engine/test_algebra", "engine/test_strict_device", "engine/test_autograd",
    "engine/test_recompute", "engine/test_testing", "kernels/cpu/test_threads", "kernels/test_shared",
    "engine/test_acceleration", "engine/test_derivatives", "engine/test_reduce", "engine/test_shapes",
    "ops/test_coming_from_torch", "ops/test_indexing", "ops/test_integers", "ops/test_narrow_floats",
    "ops/test_numpy_functions", "ops/test_small_shapes", "ops/test_suggestions", "ops/test_torch_names",
    "ops/test_values", "nn/test_small_modules", "nn/test_token_ids",
)  # fmt: skip
QUIETLY = [
    *("-W", "ignore::pytest.PytestAssertRewriteWarning", "-p", "no:terminal", "-p", "no:cacheprovider"),
    *("-p", "no:xdist", "-o", "addopts=", "-o", "required_plugins=", "--capture=no"),
]
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
        now = vars(module)[name]
        attached = getattr(was, "__qualname__", "") != getattr(now, "__qualname__", "")  # by an acceleration module
        if now is not was and (attached or take(was, now)):
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
            for part in ("fget", "fset") if isinstance(method, property) else ():
                if getattr(method, part):
                    take(getattr(vars(was)[name], part), getattr(method, part))
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
            print(f"tests do not import: {report.longrepr}", flush=True)
            pytest.exit("nothing to judge by", 2)

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
        until = self.options.until
        wanted = itertools.takewhile(lambda _: not until or time.time() < until, self.wanted)
        for mutant, killer, took in self.forked(wanted, lambda m: self.verdict(m, *record), self.options.jobs):
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
        """(seconds of each test, the tests that call each function), or the names of the tests that fail."""
        called: set[str] = set()
        for file in FILES:
            load(file, watched(self.root, file), __called__=called)
        called.clear()
        for file in TABLES:
            load(file, watched(self.root, file), __called__=called)
        everywhere = set(called)
        modules = [module for name, module in sys.modules.items() if name.startswith("tensorlite")]
        caches = [v for m in modules for v in vars(m).values() if isinstance(v, functools._lru_cache_wrapper)]
        fewer = min(25, settings().max_examples)
        settings.register_profile("record", settings(), max_examples=fewer)
        settings.load_profile("record")  # for check_op, which asks when it runs
        seconds, callers, failed = {}, defaultdict(list), []
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
                failed.append(self.failed)
                self.failed = ""
            seconds[nodeid] = time.process_time() - began
            for unit in called - everywhere:
                callers[unit].append(nodeid)
        for unit in everywhere:
            callers[unit] = nodeids
        return ", ".join(failed) or (seconds, callers)

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

        chosen = {*callers.get(mutant.unit, self.items), *[nodeid for nodeid in self.items if own in nodeid]}
        self.run(sorted(self.items.keys() & chosen, key=order), self.options.budget)
        return self.failed

    def forked(self, tasks: Iterable, work: Callable, jobs: int) -> Iterator[tuple]:
        """(task, answer, seconds) of `work(task)` in copies of this process, `jobs` at a time."""
        running: dict[int, tuple] = {}
        with tempfile.TemporaryDirectory() as folder:
            for task in itertools.chain(tasks, [StopIteration] * jobs):
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
