"""docs/book.md: every name on our side of the table exists, in the chapters' cells and in the library."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BOOK = ROOT / "examples" / "book"
ROWS = [
    [cell.strip() for cell in line[1:-1].split("|")]
    for line in (ROOT / "docs" / "book.md").read_text(encoding="utf-8").splitlines()
    if re.match(r"\| [2-7ADE] \|", line)
]
PATH = re.compile(r"`([A-Za-z_]\w*(?:\.\w+)+)`")


def defined(module: str) -> set[str]:
    """The functions, classes and variables of a chapter, at its top level."""
    names = set()
    for node in ast.parse((BOOK / f"{module}.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def find(path: str) -> object:
    """What a dotted path names: a module, or an attribute of one."""
    parts = path.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for name in parts[count:]:
            found = getattr(found, name)
        return found
    raise ModuleNotFoundError(path)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]}-{row[1]}")
def test_each_name_on_our_side_exists(row):
    chapter, _, cells, library = row
    for path in PATH.findall(cells):
        module, name = path.split(".")
        assert module == "page" or module in (f"ch0{chapter}", f"appendix_{chapter.lower()}"), row
        assert name in defined(module), f"{module}.py has no {name}"
    for path in PATH.findall(library):
        find(path)
    assert PATH.findall(cells) or PATH.findall(library), f"{row} names nothing"


def test_what_is_written_out_under_the_book_s_name_is_in_the_table():
    """Every class of a chapter is a row, and so is every function that has the book's name."""
    named = {path for row in ROWS for path in PATH.findall(row[2])}
    assert len(ROWS) > 60
    for file in sorted(BOOK.glob("*.py")):
        if file.stem == "page":
            continue
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                assert f"{file.stem}.{node.name}" in named
