"""docs/promises.md: each promise names tests that exist."""

import ast
import re
from pathlib import Path

from findings import ITEMS

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"`([\w/]+\.py)::(test_\w+)`")


def functions(path: Path) -> set[str]:
    """The names of the tests: functions, and what is assigned, such as `test_property = property_tests(ROWS)`."""
    nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
    assigned = {
        name.id for node in nodes if isinstance(node, ast.Assign) for name in node.targets if isinstance(name, ast.Name)
    }
    return assigned | {node.name for node in nodes if isinstance(node, ast.FunctionDef)}


def test_every_promise_names_tests_that_exist():
    rows = [line for line in (ROOT / "docs/promises.md").read_text("utf-8").splitlines() if line.startswith("| ")]
    promises = [row for row in rows if row != "| promise | test |"]
    assert len(promises) > 30
    for row in promises:
        named = NAMED.findall(row)
        assert named, f"no test is named: {row}"
        for file, name in named:
            assert name in functions(ROOT / "tests" / file), f"{file} has no {name}"


def test_every_fault_that_was_found_has_a_test():
    marked = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        marked |= set(re.findall(r'mark\.finding\("(\w+)"\)', path.read_text("utf-8")))
    assert marked == set(ITEMS)
