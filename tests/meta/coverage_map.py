"""Which tests run which lines of tensorlite and gpt: the tests that can kill a mutant of a line.

`coverage_map(tree, wanted, kept)` runs the test files that have changed since `kept` was written, under coverage.py and
with each test as a context. Three things beyond one context a test:

- a fixture of wider scope than one test has a context of its own, which counts for every test that uses the fixture;
- Python processes that a test starts are measured too, for the test that started them;
- what ran is kept by function, as the numbers of its statements and with a hash of the function, so that a change
  elsewhere in the file leaves it valid. The tests of a function that has changed are all that ran any line of it.
"""

import ast
import builtins
import importlib
import importlib.machinery
import importlib.util
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pytest

from .mutants import Function, digest, places, statement_at, statements

FORMAT = "2"  # of the file that keeps the map: what was kept in another one is recorded again
SUPPORT = ("tests/support", "tests/gpt/support")
ALL = -1  # in the map: every test of the file
CONTEXT = "MUTATED_TEST"  # the environment variable that tells started processes whose lines they run
RCFILE = """[run]
source = {tree}/tensorlite
    {tree}/gpt
omit = {omitted}
parallel = true
data_file = {data}/lines
context = ${{{context}-}}
"""


def seconds_used() -> float:
    """Processor time of this process and of those that it started."""
    return sum(os.times()[:4])


class Recorder:
    """A pytest plugin: each test, fixture of wider scope, test file and import is a context of coverage.py."""

    def __init__(self, coverage):
        self.coverage = coverage
        self.imports: dict[str, set[str]] = defaultdict(set)  # the imports of each context
        self.loads: dict[str, str] = {}  # the context in which each file was loaded
        self.stack: list[str] = []
        self.seconds: dict[str, float] = {}
        self.failed: set[str] = set()
        self.fixtures: dict[str, list[str]] = {}

    def enter(self, context: str) -> None:
        self.stack.append(context)
        self.switch()

    def leave(self) -> None:
        self.stack.pop()
        self.switch()

    def switch(self) -> None:
        context = self.stack[-1] if self.stack else ""
        os.environ[CONTEXT] = context
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)  # of a test that makes the disk seem full
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit[1], limit[1]))
        self.coverage.switch_context(context)  # writes to a file
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item):
        definitions = item._fixtureinfo.name2fixturedefs.values()
        self.fixtures[item.nodeid] = [named(d) for group in definitions for d in group if d.scope != "function"]
        began = seconds_used()
        self.enter(item.nodeid)
        result = yield
        self.leave()
        self.seconds[item.nodeid] = round(seconds_used() - began, 3)
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef):
        if fixturedef.scope == "function":
            return (yield)
        self.enter(named(fixturedef))
        try:
            return (yield)
        finally:
            self.leave()

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self, collector):
        if not isinstance(collector, pytest.Module):
            return (yield)
        self.enter(collected(collector.nodeid))
        try:
            return (yield)
        finally:
            self.leave()

    def pytest_runtest_logreport(self, report):
        if report.failed or report.skipped:
            self.failed.add(report.nodeid)

    def imported(self, name: str) -> None:
        """The code that runs now imports this module, which may have been loaded before, and its packages."""
        parts = name.split(".")
        context = self.stack[-1] if self.stack else ""
        self.imports[context] |= {loading(".".join(parts[:n])) for n in range(1, len(parts) + 1)}

    @contextmanager
    def watching_imports(self, tree: Path) -> Iterator[None]:
        """While the block runs, each module of `tree` is loaded in a context of its own, and imports are noted."""
        import_, import_module = builtins.__import__, importlib.import_module
        load = importlib.machinery.SourceFileLoader.exec_module

        def statement(name, globals=None, locals=None, fromlist=(), level=0):
            found = import_(name, globals, locals, fromlist, level)
            if level:
                name = importlib.util.resolve_name("." * level + name, globals["__package__"])
            for each in (name, *(f"{name}.{part}" for part in fromlist or ())):
                self.imported(each)
            return found

        def function(name, package=None):
            found = import_module(name, package)
            self.imported(found.__name__)
            return found

        def loaded(loader, module):
            inside = Path(module.__spec__.origin).is_relative_to(tree)
            if not inside or threading.current_thread() is not threading.main_thread():
                return load(loader, module)
            self.enter(context := loading(module.__name__))
            self.loads[module.__spec__.origin] = context
            try:
                return load(loader, module)
            finally:
                self.leave()

        builtins.__import__, importlib.import_module = statement, function
        importlib.machinery.SourceFileLoader.exec_module = loaded
        try:
            yield
        finally:
            builtins.__import__, importlib.import_module = import_, import_module
            importlib.machinery.SourceFileLoader.exec_module = load

    def runs_for(self) -> dict[str, set[str]]:
        """The tests, and test files (for all of their tests), for which what ran in each context counts."""
        found: dict[str, set[str]] = defaultdict(set)
        files = {test.partition("::")[0] for test in self.fixtures}
        of_file = {file: self.reached({"", collected(file)}) for file in files}
        for file, contexts in of_file.items():
            for context in contexts:
                found[context].add(file)
        for test, fixtures in self.fixtures.items():
            if test in self.seconds and test not in self.failed:
                for context in self.reached({test, *fixtures}) - of_file[test.partition("::")[0]]:
                    found[context].add(test)
        return found

    def reached(self, contexts: set[str]) -> set[str]:
        """These contexts and the modules that they import, directly or not."""
        found, waiting = set(contexts), list(contexts)
        while waiting:
            new = self.imports[waiting.pop()] - found
            found |= new
            waiting += new
        return found


def collected(file: str) -> str:
    return f"file {file}"


def loading(module: str) -> str:
    return f"import {module}"


def named(fixture) -> str:
    return f"fixture {fixture.baseid}::{fixture.argname}"


def record(tree: Path, out: Path, arguments: list[str]) -> None:
    """Run pytest in this process and write (seconds of each test, lines of each file by test) to `out`."""
    import coverage

    signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background ignores it otherwise
    with tempfile.TemporaryDirectory() as data:
        rcfile = Path(data) / "rc"
        omitted = "\n    ".join(str(tree / name) for name in os.environ["MUTATE_OMIT"].split())
        rcfile.write_text(RCFILE.format(tree=tree, data=data, omitted=omitted, context=CONTEXT))
        measured = coverage.Coverage(config_file=str(rcfile), context="", auto_data=False)
        recorder = Recorder(measured)
        measured.start()
        os.environ["COVERAGE_PROCESS_START"] = str(rcfile)
        with recorder.watching_imports(tree):
            status = pytest.main(arguments, [recorder])
        measured.stop()
        measured.save()
        if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
            sys.exit(f"pytest ended with {status}")
        measured.combine([data])
        found = measured.get_data()
        lines: dict[str, dict[str, list[int]]] = {}
        for file in found.measured_files():
            by_context = lines[str(Path(file).relative_to(tree))] = defaultdict(list)
            ambiguous = one_line_functions(Path(file))
            for line, contexts in found.contexts_by_lineno(file).items():
                for context in contexts:
                    if line not in ambiguous or context != recorder.loads.get(file):
                        by_context[context].append(line)
    runs_for = recorder.runs_for()
    usable = {test: took for test, took in recorder.seconds.items() if test not in recorder.failed}
    spread = {file: shared(by_context, runs_for) for file, by_context in lines.items()}
    out.write_text(json.dumps([usable, spread, sorted(recorder.failed)]))


def one_line_functions(file: Path) -> set[int]:
    """The lines of functions that have only one, on which loading the file runs the statement `def`."""
    found = (node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, Function))
    return {node.lineno for node in found if node.lineno == node.body[0].lineno}


def shared(by_context: dict[str, list[int]], runs_for: dict[str, set[str]]) -> dict[str, list[int]]:
    """The lines that ran for each test or test file: those of a fixture or an import ran for all that use it."""
    lines: dict[str, set[int]] = defaultdict(set)
    for context, ran in by_context.items():
        for test in runs_for.get(context, ()):
            lines[test].update(ran)
    return {test: sorted(ran) for test, ran in lines.items()}


# ----- the map, kept between runs ---------------------------------------------------------------------------------


class CoverageMap:
    """Tests by line, and the seconds that each test takes."""

    def __init__(self, kept: Path):
        self.kept = kept
        self.files: dict[str, dict] = json.loads(kept.read_text()) if kept.is_file() else {}

    def only(self, tests: Iterable[str]) -> "CoverageMap":
        """Of these test files."""
        chosen = CoverageMap(Path())
        chosen.files = {test: self.files[test] for test in tests if test in self.files}
        return chosen

    def stale(self, tree: Path, tests: Iterable[str]) -> list[str]:
        return [test for test in tests if self.files.get(test, {}).get("hash") != content(tree, test)]

    def add(self, tree: Path, tests: list[str], omitted: Iterable[str], options: list[str]) -> list[str]:
        """Run these test files; the names of tests that fail or are skipped, which judge nothing."""
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out.json"
            environment = os.environ | {"MUTATE_OMIT": " ".join(omitted)}
            command = [sys.executable, "-m", "tests.meta.coverage_map", str(tree), str(out), *options, *tests]
            subprocess.run(command, cwd=tree, env=environment, check=True, stdout=subprocess.DEVNULL)
            seconds, lines, failed = json.loads(out.read_text())
        for test in tests:
            own = {nodeid: took for nodeid, took in seconds.items() if nodeid.partition("::")[0] == test}
            self.files[test] = {"hash": content(tree, test), "tests": list(own), "seconds": own, "ran": {}}
        index = {test: {nodeid: i for i, nodeid in enumerate(self.files[test]["tests"])} for test in tests}
        for test in tests:
            index[test][test] = ALL
        for file, by_test in lines.items():
            for nodeid in by_test:
                self.files[nodeid.partition("::")[0]]["ran"].setdefault(file, {})
            for name, number_of, hashed in functions(tree / file):
                for nodeid, ran in by_test.items():
                    test = nodeid.partition("::")[0]
                    _, by_number = self.files[test]["ran"].setdefault(file, {}).setdefault(name, (hashed, {}))
                    for number in {number_of[line] for line in ran if line in number_of}:
                        by_number.setdefault(str(number), []).append(index[test][nodeid])
        self.kept.parent.mkdir(exist_ok=True)
        self.kept.write_text(json.dumps(self.files))
        return failed

    @property
    def seconds(self) -> dict[str, float]:
        return {nodeid: took for entry in self.files.values() for nodeid, took in entry["seconds"].items()}

    def tests(self, file: str, place: str, hashed: str, statement: int) -> set[str]:
        """The tests for which this statement of a function ran, or any statement of it, where it changed since.

        A value outside functions may be read by any test: then all tests of the files that import or run `file`.
        """
        exact, of_place, of_file = set(), set(), set()
        for entry in self.files.values():
            of_file |= {*entry["tests"]} if file in entry["ran"] else set()
            for name, (then, by_number) in entry["ran"].get(file, {}).items():
                if name == place:
                    ran = named_by(entry["tests"], {i for several in by_number.values() for i in several})
                    of_place |= ran
                    same = then == hashed and statement
                    exact |= named_by(entry["tests"], by_number.get(str(statement), ())) if same else ran
        return exact if of_place else of_file

    def calling(self, file: str) -> set[str]:
        """The tests that themselves run a function of `file`, and not only while modules are imported."""
        found = set()
        for entry in self.files.values():
            for _, by_number in entry["ran"].get(file, {}).values():
                found |= {entry["tests"][i] for several in by_number.values() for i in several if i != ALL}
        return found


def named_by(tests: list[str], numbers: Iterable[int]) -> set[str]:
    return {*tests} if ALL in numbers else {tests[i] for i in numbers}


def content(tree: Path, test: str) -> str:
    """A hash of a test file and of the helpers in the folders `support` that it imports, or that these import."""
    waiting, read = [tree / test], dict[Path, str]()
    while waiting:
        file = waiting.pop()
        if file not in read and file.is_file():
            read[file] = file.read_text(encoding="utf-8")
            names = re.findall(r"^ *(?:from|import) (\w+)", read[file], re.MULTILINE)
            waiting += [tree / folder / f"{name}.py" for name in names for folder in SUPPORT]
    return sha256("".join([FORMAT, *(read[file] for file in sorted(read))]).encode()).hexdigest()[:12]


def functions(file: Path) -> list[tuple[str, dict[int, int], str]]:
    """(place, number of the statement on each line, hash) of a file's functions."""
    found = []
    for name, place in places(ast.parse(file.read_text(encoding="utf-8")), everything=True):
        if isinstance(place, Function):
            known = statements(place)
            lines = range(place.body[0].lineno, place.end_lineno + 1)
            found.append((name, {line: statement_at(known, line) for line in lines}, digest(place)))
    return found


if __name__ == "__main__":
    record(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
