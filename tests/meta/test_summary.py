"""tests/support/skips.py: what the end of a run says about skipped tests."""

from types import SimpleNamespace

from skips import skips_by_reason


def test_skips_are_counted_by_reason_the_most_frequent_first():
    reports = [
        SimpleNamespace(longrepr=("a.py", 3, "Skipped: needs a GPU")),
        SimpleNamespace(longrepr=("b.py", 1, "Skipped: could not import 'cupy.cuda': No module named 'cupy'")),
        SimpleNamespace(longrepr=("b.py", 9, "Skipped: needs a GPU")),
        SimpleNamespace(longrepr=("c.py", 9, "Skipped: a reason\nand its second line")),
    ]
    assert skips_by_reason(reports) == [
        "     2  needs a GPU",
        "     1  cupy is not installed",
        "     1  a reason",
    ]
