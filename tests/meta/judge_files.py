"""Mutants of the files outside the rules: each is written into a copy of the repository, and the tests that run its
line (coverage_map.py) judge it there, in the order of the time that they take, until one fails.

A process that has imported the packages of others, and nothing of this repository, is forked for each mutant: the fork
imports tensorlite, gpt and the chosen test files with the mutant in place. Programs that tests start see it, too.
"""

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .coverage_map import CoverageMap, functions, seconds_used
from .mutants import Mutant

NOT_JUDGES = ("peers", "gpu", "browser", "examples", "meta")  # folders of tests/: too slow, or about the repository
QUIETLY = [
    *("-W", "ignore::pytest.PytestAssertRewriteWarning", "-p", "_hypothesis_pytestplugin", "-p", "no:terminal"),
    *("-p", "no:cacheprovider", "-o", "addopts=--strict-markers", "-o", "required_plugins=", "--capture=fd"),
]
THIRD_PARTY = (
    "numpy", "hypothesis.strategies", "hypothesis.extra.numpy", "regex", "safetensors.numpy", "tiktoken",
    "rich.console", "rich.progress", "rich.table", "rich.live", "tyro", "pooch", "requests", "matplotlib.pyplot",
    "starlette.testclient", "anyio._backends._asyncio", "uvicorn", "typeguard", "ml_dtypes", "http.server",
    "xml.etree.ElementTree",
)  # fmt: skip
WALL = 400  # seconds until a mutant that waits for something counts as one that never ends
EMULATED = "tests/kernels/cuda/"  # the tests of CUDA sources
DIED = "the process dies"
BROKEN = 70  # exit status of a fork in which pytest could not be started


# ----- a copy of the repository -----------------------------------------------------------------------------------


def copy_tree(root: Path, tree: Path) -> None:
    """`tree` becomes a copy of what git tracks, or would track, in `root`: the same files and times."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout.split("\0")
    wanted = {name for name in names if name and (root / name).is_file()}
    for old in [path for path in tree.rglob("*") if path.is_file() and "__pycache__" not in path.parts]:
        if str(old.relative_to(tree)) not in wanted:
            old.unlink()
    for name in wanted:
        new, old = tree / name, root / name
        if not new.exists() or new.stat().st_mtime_ns != old.stat().st_mtime_ns:
            new.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(old, new)
    subprocess.run([sys.executable, "-m", "compileall", "-q", "tensorlite", "gpt"], cwd=tree, check=True)


def environment(tree: Path) -> dict[str, str]:
    """What makes a test's process, and those that it starts, use the copy."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    data = {"TENSORLITE_DATA": str(beside)} if beside.is_dir() and "TENSORLITE_DATA" not in os.environ else {}
    return data | {
        "PYTHONPATH": str(tree),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # importing plugins that no test uses takes longer than most tests
        "PYTHONDONTWRITEBYTECODE": "",  # what does not change is compiled once
        "HYPOTHESIS_PROFILE": "quick-mutants",
        "OPENBLAS_NUM_THREADS": "1",
        "MPLBACKEND": "agg",
    }


def test_files(tree: Path) -> list[str]:
    found = sorted(str(path.relative_to(tree)) for path in (tree / "tests").rglob("test_*.py"))
    return [name for name in found if name.split("/")[1] not in NOT_JUDGES]


def related(tree: Path, tests: list[str], files: set[str]) -> list[str]:
    """The test files in the folders of these modules or with their names, and those that mention module and package."""
    modules = [Path(file).with_suffix("") for file in files]
    names = [(module.parent.as_posix().replace("/", "."), re.compile(rf"\b{module.name}\b")) for module in modules]
    near = [test for test in tests if any(likeness(file, test) for file in files)]
    texts = {test: (tree / test).read_text(encoding="utf-8") for test in tests if test not in near}
    return near + [t for t, text in texts.items() if any(p in text and name.search(text) for p, name in names)]


def record(tree: Path, known: CoverageMap, tests: list[str], omitted: list[str], slow: bool) -> None:
    """The lines that these test files run, where they have changed since they were last run."""
    folders: dict[Path, list[str]] = defaultdict(list)
    for test in known.stale(tree, tests):
        folders[Path(test).parent].append(test)
    options = [*QUIETLY, "-m", "not gpu" if slow else "not slow and not gpu"]
    for i, (folder, stale) in enumerate(folders.items()):
        print(f"which lines {folder} runs ({i + 1} of {len(folders)} folders, {len(stale)} files)", flush=True)
        for failed in known.add(tree, stale, omitted, options):
            print(f"    no judge: {failed} fails or is skipped", flush=True)


# ----- one mutant -------------------------------------------------------------------------------------------------


class Chosen:
    """A pytest plugin: of what was collected, the chosen tests in their order, until one fails or time is up."""

    def __init__(self, order: list[str], seconds: dict[str, float], budget: float, said: Path):
        self.order = {nodeid: i for i, nodeid in enumerate(order)}
        self.seconds, self.until = seconds, seconds_used() + budget
        self.failed, self.said = "", said

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, exitstatus):
        """Answer, and end before Python and pytest tidy up."""
        fine = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.INTERRUPTED, pytest.ExitCode.NO_TESTS_COLLECTED)
        self.said.write_text(json.dumps(self.failed or ("" if fine else f"pytest ends with {exitstatus!r}")))
        os._exit(0)

    def pytest_collectreport(self, report):
        if report.failed and not self.failed:
            self.failed = f"import: {report.nodeid.removeprefix('tests/')}"

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        items[:] = sorted((i for i in items if i.nodeid in self.order), key=lambda item: self.order[item.nodeid])

    def pytest_keyboard_interrupt(self, excinfo):
        if excinfo.type is KeyboardInterrupt and not self.failed:  # it left a test; pytest's own is a subclass
            self.failed = "KeyboardInterrupt"

    def pytest_runtest_logstart(self, nodeid):
        signal.setitimer(signal.ITIMER_PROF, 30 + 5 * self.seconds.get(nodeid, 0))  # ends a process that is stuck

    def pytest_runtest_logreport(self, report):
        if report.failed and not self.failed:
            self.failed = report.nodeid.removeprefix("tests/")

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logfinish(self):
        signal.setitimer(signal.ITIMER_PROF, 0)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        result = yield
        if self.failed or seconds_used() > self.until:
            item.session.shouldstop = "decided"
        return result


class FileJudge:
    """Judges mutants one after the other in a copy of the repository."""

    def __init__(self, tree: Path, known: CoverageMap, killed: Counter[tuple], budget: float):
        self.tree, self.known, self.killed, self.budget = tree, known, killed, budget
        self.seconds = known.seconds
        os.environ.update(environment(tree))
        self.trusted: set[str] = set()
        for name in THIRD_PARTY:
            try:
                __import__(name)
            except ImportError:
                print(f"{name} is not installed: its tests are no judges")

    def verdicts(self, mutants: list[Mutant], until: float) -> Iterator[tuple[Mutant, str, float]]:
        """(mutant, the test that killed it or "", seconds); stops at the time `until` (0: never)."""
        for mutant in mutants:
            if until and time.time() > until:
                return
            began = seconds_used()
            yield mutant, self.verdict(mutant), seconds_used() - began

    def verdict(self, mutant: Mutant) -> str:
        """What killed it; "" for a mutant that is alive when its tests, or their time, are at an end."""
        order, source = self.order(mutant), mutant.source()
        left, files = self.budget, 2  # most mutants die at once: the first fork imports little
        while order and left > 0:
            batch, order = self.batch(order, files)
            began, files = seconds_used(), 8
            killer = self.run(mutant.file, source, batch, left)
            if killer == DIED:  # or was it ended from outside, for want of memory say
                killer = self.run(mutant.file, source, batch, left)
            nodeid = f"tests/{killer}"
            if nodeid in self.seconds and not self.certain(mutant, source, nodeid, first=nodeid == batch[0]):
                order = [other for other in batch if other != nodeid] + order
            elif killer:
                return killer
            left -= seconds_used() - began
        return ""

    def certain(self, mutant: Mutant, source: str, nodeid: str, first: bool) -> bool:
        """Whether a test passes on the code as it is, and fails because of the mutant, not of the tests before it."""
        if nodeid not in self.trusted:
            if self.run("", "", [nodeid], 0):
                print(f"    no judge: {nodeid} fails", flush=True)
                del self.seconds[nodeid]
                return False
            self.trusted.add(nodeid)
        return first or bool(self.run(mutant.file, source, [nodeid], self.budget))

    def order(self, mutant: Mutant) -> list[str]:
        """The tests that run the mutant's line, by file: first what is quick, has the module's name or killed.

        Those that only import what the line computed come last.
        """
        calling = self.known.calling(mutant.file)

        def weight(nodeid: str) -> tuple[bool, float]:
            kills = self.killed[mutant.file, mutant.op, nodeid.removeprefix("tests/")]
            credit = 20 * kills + 5 * likeness(mutant.file, nodeid)
            return not (credit or nodeid in calling), (0.05 + self.seconds[nodeid]) / (1 + credit)

        groups: dict[str, list[str]] = defaultdict(list)
        if mutant.file.endswith((".cu", ".cuh")):
            found = {nodeid for nodeid in self.seconds if nodeid.startswith(EMULATED)}
        else:
            found = self.known.tests(mutant.file, mutant.op, mutant.hash, mutant.statement)
            places = {name for name, *_ in functions(self.tree / mutant.file)}
            if mutant.op not in places:  # a value, which any test may read
                found |= {nodeid for nodeid in self.seconds if likeness(mutant.file, nodeid)}
            found = found or set(self.seconds)
        for nodeid in sorted(found & self.seconds.keys(), key=lambda nodeid: (weight(nodeid), nodeid)):
            groups[nodeid.partition("::")[0]].append(nodeid)
        return [nodeid for group in groups.values() for nodeid in group]

    @staticmethod
    def batch(order: list[str], files: int) -> tuple[list[str], list[str]]:
        """The tests of the next few files, and the rest: a fork imports only the files that it needs."""
        chosen = list(dict.fromkeys(nodeid.partition("::")[0] for nodeid in order))[:files]
        split = [nodeid.partition("::")[0] in chosen for nodeid in order].count(True)
        return order[:split], order[split:]

    def run(self, file: str, source: str, order: list[str], budget: float) -> str:
        """The first of these tests that fails with `source` in the file's place."""
        if not file:
            return self.forked(order, 1e6)
        path = self.tree / file
        kept, times = path.read_bytes(), path.stat()
        try:
            path.write_text(source, encoding="utf-8")
            forget_compiled(path)
            return self.forked(order, budget)
        finally:
            path.write_bytes(kept)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
            forget_compiled(path)

    def forked(self, order: list[str], budget: float, again: bool = True) -> str:
        said = self.tree.parent / f"{self.tree.name}.said"
        said.unlink(missing_ok=True)
        child = os.fork()
        if not child:
            self.answer(said, order, budget)
        until = time.time() + WALL + 10 * min(budget, sum(self.seconds[nodeid] for nodeid in order))
        status = None
        while status is None:
            ended, code = os.waitpid(child, os.WNOHANG)
            if ended:
                status = code
            elif time.time() > until:
                os.killpg(child, signal.SIGKILL)
                status = os.waitpid(child, 0)[1]
                said.write_text(json.dumps("never ends"))
            else:
                time.sleep(0.02)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # what a test left running
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == BROKEN:
            if again:  # such as a warning while pytest tidies up, which the next time does not come
                return self.forked(order, budget, again=False)
            raise RuntimeError(f"the tests cannot be run: {said.with_suffix('.log').read_text()}")
        ended = "never ends" if os.WTERMSIG(status) == signal.SIGPROF else DIED
        return json.loads(said.read_text()) if said.exists() else ended

    def answer(self, said: Path, order: list[str], budget: float) -> None:
        """In the fork: run the tests, write the answer, end."""
        try:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))
            signal.signal(signal.SIGINT, signal.default_int_handler)
            output = os.open(said.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.chdir(self.tree)
            sys.dont_write_bytecode = False
            sys.path.insert(0, str(self.tree))
            for name in [name for name in sys.modules if name.partition(".")[0] in ("tests", "tensorlite", "gpt")]:
                del sys.modules[name]
            files = dict.fromkeys(nodeid.partition("::")[0] for nodeid in order)
            status = pytest.main([*QUIETLY, "-m", "", *files], [Chosen(order, self.seconds, budget, said)])
            said.write_text(json.dumps(f"pytest ends with {status!r}"))  # before it could collect
        except BaseException:
            traceback.print_exc()
            os._exit(BROKEN)
        os._exit(0)


def in_processes(count: int, work: Callable[[int], None]) -> None:
    """`work(n)` for each n below `count` in a process of its own, all at once; an error where one of them fails."""
    children = []
    for n in range(count):
        if not (child := os.fork()):
            try:
                work(n)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        children.append(child)
    ended = [os.waitpid(child, 0)[1] for child in children]
    if any(ended):
        raise RuntimeError("mutants could not be judged")


def forget_compiled(path: Path) -> None:
    """Python compares times in seconds, and a mutant may have the size of another one."""
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
        compiled.unlink()


def likeness(file: str, nodeid: str) -> int:
    """Whether a test's file is in the folder of this module, and has its name."""
    module, test = Path(file), Path(nodeid.partition("::")[0])
    folder = "/".join(module.parent.parts[module.parts[0] == "tensorlite" :])
    return (str(test.parent) == f"tests/{folder}") + 2 * (module.stem.strip("_") in test.stem)
