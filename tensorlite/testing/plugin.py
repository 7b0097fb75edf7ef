"""The pytest plugin, which is loaded with every pytest that runs beside tensorlite: options for tests of ops.

    pytest --op softmax              only the tests of ops with "softmax" in their names
    pytest --op-profile ci           200 examples of each property; dev: 10, nightly: 5,000
    pytest --op-seed 7               other examples

It changes nothing else, and imports neither tensorlite nor Hypothesis where no option is given. A test of an op has a
`Row` as a parameter (`property_tests` makes such tests) or calls `check_op`. A failing one ends with the command that
runs it again.
"""

import shlex
import sys
from collections.abc import Iterator
from typing import Any

import pytest

PROFILES = ("dev", "ci", "nightly")


def pytest_addoption(parser: Any) -> None:
    group = parser.getgroup("tensorlite", "tests of ops (tensorlite.testing)")
    group.addoption("--op", metavar="NAME", help="run only the tests of ops whose names contain NAME")
    group.addoption("--op-profile", choices=PROFILES, help="how many examples check_op draws")
    group.addoption("--op-seed", type=int, metavar="N", help="the seed of the examples of check_op")


def pytest_configure(config: Any) -> None:
    given = {name: config.getoption(f"op_{name}" if name != "op" else "op") for name in ("op", "profile", "seed")}
    if any(value is not None for value in given.values()):
        from .profiles import chosen

        chosen.update(given)


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    name = config.getoption("op")
    if name is None:
        return
    kept = [item for item in items if _is_of(item, name)]
    if not kept:
        known = sorted({row.name for item in items for row in _rows(item)})
        found = f"; there are {', '.join(known)}" if known else ""
        raise pytest.UsageError(f"--op: no test of an op whose name contains {name!r}{found}")
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


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
