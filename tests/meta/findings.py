"""The faults that users found, each with the tests that keep it away: `python -m tests.meta.findings [ITEM ...]`.

A test carries `@pytest.mark.finding("B1")`. This script runs the tests of each item and prints a line per item; it ends
with 1 where a test failed or an item has no test.
"""

import collections
import sys

import pytest

ITEMS = {  # what is right, by the number under which the fault was reported
    "A1": "Writing into a directory deletes only what gpt wrote there",
    "A2": "--overwrite keeps the old run until the first checkpoint of the new one is complete",
    "A3": "Every command that reads an older checkpoint because the newest is damaged says so",
    "A4": "Runs can be saved on file systems without hard links",
    "A5": "A lost or damaged log does not keep good weights from being resumed",
    "A6": "SIGHUP saves as SIGTERM does, a closed pipe does not stop training, a restarted command line goes on",
    "A7": "A run from a stranger writes nothing outside itself and is checked before it is built",
    "A8": "Answers and scores are saved as they come, and no sender can hold the judge for ever",
    "A9": "Downloads and exports are limited in size and time and leave nothing behind",
    "A10": "A text without spaces is encoded in linear time and bounded memory",
    "A11": "Only what is read is verified, once",
    "B1": "Indices that hold tuples, lists, arrays and booleans mean what NumPy means by them",
    "B2": "Copies of models and optimizers learn as the originals do",
    "B3": "NumPy functions never drop a gradient silently",
    "B4": "float16 and bfloat16 are accumulated in float32 on every device",
    "B5": "Integer arguments are widened as the conventions say",
    "B6": "take_along_axis is NumPy's",
    "B7": "An attention mask of integers is refused",
    "B8": "& | ^ ~ on integers are bitwise, and clip keeps integers",
    "B9": "Losses refuse shapes that differ",
    "B10": "cross_entropy gives the same value for infinite logits on every path",
    "B11": "LoRA learns with its default learning rate",
    "B12": "Chapter 7 trains a head of its own, as the book does",
    "B13": "Threads do not depend on the load of the machine, and all that changes bits is recorded",
    "C1": "Tensors of one element are numbers to Python",
    "C2": "Habits from torch and NumPy work or are answered with our word",
    "C3": "An error message never fails to be made",
    "C4": "What the forward pass accepts, the backward pass handles",
    "C5": "Invalid dtypes, fill values and axes are refused",
    "C6": "A computed Tensor refuses to be pickled with a sentence",
    "C7": "NumPy integers and token files are token ids",
    "C8": "Promotion follows the written conventions",
    "C9": "gpt generate works without a prompt for every tokenizer",
    "C10": "Special tokens in user text are plain text unless a flag allows them",
    "C11": "Data files as people have them are read completely, or the line is named",
    "C12": "Texts that are in two parts of a split are counted and can be excluded",
    "C13": "Odd names, long errors and foreign files give one readable sentence",
    "C14": "The book's examples say which edition a number comes from",
    "E1": "gpt classify and a loop written by hand use the machine as gpt train does",
    "E3": "The last evaluation is bounded, shows a bar, and may be interrupted",
    "E6": "Nothing wraps or is cut at 80 columns",
    "E8": "Reductions take an axis by position, booleans have a mean, no_grad decorates",
    "E9": "Gradients of any order, constant ones included",
    "E11": "print(model) shows what differs from the defaults",
    "E12": "A failed start leaves nothing",
    "E13": "Control characters of generated text are made visible on a terminal",
    "E14": "Paths may be strings, and gpt has names to import",
    "E15": "Sentences count correctly, and pasted lines are one question",
}


class ByItem:
    """A pytest plugin: outcomes of tests by the items that they carry."""

    def __init__(self, wanted: list[str]) -> None:
        self.wanted = wanted  # items whose tests are run; none: all
        self.items: dict[str, list[str]] = {}  # test -> items
        self.outcomes: dict[str, str] = {}  # test -> its worst outcome

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for test in items:
            self.items[test.nodeid] = [mark.args[0] for mark in test.iter_markers("finding")]
        if self.wanted:
            items[:] = [test for test in items if {*self.wanted} & {*self.items[test.nodeid]}]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        counts = report.when == "call" or report.outcome != "passed"
        if counts and self.outcomes.get(report.nodeid) != "failed":
            self.outcomes[report.nodeid] = report.outcome


def main(wanted: list[str]) -> int:
    found = ByItem(wanted)
    pytest.main(["-n", "0", "-m", "finding", "-q", "--no-header", "-p", "no:cacheprovider", "tests"], plugins=[found])
    by_item: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for test, outcome in found.outcomes.items():
        for item in found.items[test]:
            by_item[item][outcome] += 1
    good = True
    for item in wanted or ITEMS:
        counts = by_item[item]
        state = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())) or "NO TEST"
        good &= counts["passed"] > 0 and counts["failed"] == 0
        print(f"{item:4} {ITEMS[item]:100} {state}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
