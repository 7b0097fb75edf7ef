"""The end of a run counts skipped tests by reason: pytest, run on another folder with this repository's conftest.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
TESTS = Path(__file__).parents[1]
SKIPPED = """
import pytest

@pytest.mark.skip(reason="the most frequent")
@pytest.mark.parametrize("n", range(3))
def test_marked(n): pass

def test_with_a_second_line():
    pytest.skip("needs a file\\nand says where")

def test_without_a_package():
    pytest.importorskip("a_package.that_is_not_there")

def test_without_the_other_half():
    pytest.importorskip("a_package")

def test_that_runs(): pass
"""


def end_of_a_run(folder: Path, source: str) -> list[str]:
    """The lines below the heading `skipped, by reason` of a run of a test file, up to the next heading."""
    (folder / "conftest.py").write_text((TESTS / "conftest.py").read_text("utf-8"), "utf-8")
    (folder / "pytest.ini").write_text(f"[pytest]\npythonpath = {TESTS / 'support'}\n", "utf-8")
    (folder / "test_these.py").write_text(source, "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(TESTS.parent)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    _, _, below = done.stdout.partition("skipped, by reason")
    return [line for line in below.splitlines()[1:-1] if line]


def test_skips_are_counted_by_reason_the_most_frequent_first(tmp_path):
    found = end_of_a_run(tmp_path, SKIPPED)
    assert found == ["     3  the most frequent", "     2  a_package is not installed", "     1  needs a file"]


def test_without_a_skipped_test_there_is_no_such_section(tmp_path):
    assert end_of_a_run(tmp_path, "def test_that_runs(): pass\n") == []
