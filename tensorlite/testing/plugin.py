"""The pytest plugin, which is loaded with every pytest that runs beside tensorlite: options for tests of ops.

    pytest --op softmax              only the tests of ops with "softmax" in their names
    pytest --op-profile ci           200 examples of each property; dev: 10, nightly: 5,000
    pytest --op-seed 7               other examples

It changes nothing else, and imports neither tensorlite nor Hypothesis where no option is given. A test of an op has a
`Row` as a parameter (`property_tests` makes such tests) or calls `check_op`. A failing one ends with the command that
runs it again. A name that no op has is a usage error, exit status 4; the rows of tests that call `check_op` are known
only when they have run, and under pytest-xdist only the workers know any, so it is reported at the end.
"""

import difflib
import shlex
import sys
from collections.abc import Iterator
from typing import Any

import pytest

PROFILES = ("dev", "ci", "nightly")
SEEN = pytest.StashKey[set[str]]()  # the names of the rows of all tests
DECIDED = pytest.StashKey[bool]()  # whether these are the names of all ops: no other row can come
WORKER = "tensorlite_op"  # what a worker of pytest-xdist tells the process that started it


def pytest_addoption(parser: Any) -> None:
    group = parser.getgroup("tensorlite", "tests of ops (tensorlite.testing)")
    group.addoption("--op", metavar="NAME", help="run only the tests of ops whose names contain NAME")
    group.addoption("--op-profile", choices=PROFILES, help="how many examples check_op draws")
    group.addoption("--op-seed", type=int, metavar="N", help="the seed of the examples of check_op")


def pytest_configure(config: Any) -> None:
    config.stash[SEEN], config.stash[DECIDED] = set(), False
    given = {name: config.getoption(f"op_{name}" if name != "op" else "op") for name in ("op", "profile", "seed")}
    if any(value is not None for value in given.values()):
        from .profiles import checked, chosen

        chosen.update(given)
        checked.clear()


@pytest.hookimpl(tryfirst=True)  # -k and -m choose among the tests of the op: they do not hide that there are some
def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    name = config.getoption("op")
    if name is None:
        return
    kept = [item for item in items if _is_of(item, name)]
    config.stash[SEEN].update(row.name for item in items for row in _rows(item))
    config.stash[DECIDED] = not kept
    if dropped := [item for item in items if item not in kept]:
        config.hook.pytest_deselected(items=dropped)
    items[:] = kept


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    seen, decided = getattr(node, "workeroutput", {}).get(WORKER, ((), False))
    node.config.stash[SEEN].update(seen)
    node.config.stash[DECIDED] |= decided


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: Any) -> None:
    config = session.config
    if config.getoption("op") is None:
        return
    from .profiles import checked

    seen, decided = config.stash[SEEN] | checked, config.stash[DECIDED] or bool(checked)
    config.stash[SEEN], config.stash[DECIDED] = seen, decided
    if hasattr(config, "workeroutput"):
        config.workeroutput[WORKER] = sorted(seen), decided
    elif _unknown(config) and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.USAGE_ERROR


def pytest_terminal_summary(terminalreporter: Any, config: Any) -> None:
    if unknown := _unknown(config):
        terminalreporter.write_line(f"ERROR: {unknown}", red=True)


def _unknown(config: Any) -> str:
    """The sentence for a name that no op has; "" where one has it, or where that is not known."""
    name = config.getoption("op")
    if name is None or not config.stash[DECIDED] or any(name in each for each in config.stash[SEEN]):
        return ""
    names = sorted(config.stash[SEEN])
    close = difflib.get_close_matches(name, dict.fromkeys(each.partition(",")[0] for each in names))
    advice = f": did you mean {' or '.join(close)}?" if close else f"; there are {', '.join(names)}" if names else ""
    return f"--op: no test of an op whose name contains {name!r}{advice}"


def _is_of(item: Any, name: str) -> bool:
    """Tests that call check_op stay: it skips those of other rows."""
    rows = _rows(item)
    return any(name in row.name for row in rows) if rows else _calls_check_op(item)


def _rows(item: Any) -> list[Any]:
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    return [x for x in parameters.values() if type(x).__module__ == "tensorlite.testing.rows"]


def _calls_check_op(item: Any) -> bool:
    code = getattr(getattr(item, "function", None), "__code__", None)
    return code is not None and "check_op" in code.co_names


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: Any, call: Any) -> Iterator[None]:
    outcome: Any = yield
    if "tensorlite.testing.suite" in sys.modules and call.when == "call":
        report = outcome.get_result()
        if report.failed and (_rows(item) or _calls_check_op(item)):
            report.sections.append(("reproduce", _command(item, call.excinfo.value)))


def _command(item: Any, error: BaseException) -> str:
    notes = "\n".join(getattr(error, "__notes__", ()))
    options = []
    if (profile := item.config.getoption("op_profile")) is not None:
        options.append(f"--op-profile={profile}")
    if ", seed=" in notes:
        options.append(f"--op-seed={notes.rpartition(', seed=')[2].rstrip(')')}")
    return shlex.join(["pytest", item.nodeid, *options])
