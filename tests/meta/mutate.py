"""Mutation score: change tensorlite and gpt in small ways; a test must fail each time.

    python -m tests.meta.mutate --changed [BASE]      # what the working tree (or what followed BASE) changed: minutes
    python -m tests.meta.mutate [--only TEXT ...]     # every mutant of the engine, the rules and the CPU kernels: hours
    python -m tests.meta.mutate --sample [--only TEXT ...]  # a seeded sample of the mutants of all other files

mutants.py and cuda_mutants.py say what is changed. Mutants of the engine, its rules and the CPU kernels are judged by
judge_rules.py, all others by judge_files.py: there, coverage_map.py knows which tests run the changed line. The first
failing test kills a mutant. One that survives is a hole in the tests, unless it computes the same function: those are
listed in equivalent.py and equivalent_files.py with the proof, which --proofs tries to refute.

Every verdict is appended to --results (build/mutants.jsonl, which is not in the repository: CI keeps it as an artifact)
at once. A later run takes from there what has not changed since; docstrings, comments and formatting do not count.
docs/mutants.md has the totals.
"""

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path

from gpt.training.lockfile import lock

from . import changes, judge_files, judge_rules
from .coverage_map import CoverageMap
from .cuda_mutants import cuda_mutants
from .equivalent import EQUIVALENT, READ
from .equivalent_files import EQUIVALENT as EQUIVALENT_FILES
from .equivalent_files import READ as READ_FILES
from .mutants import Mutant, mutants

ROOT = Path(__file__).parents[2]
KNOWN_EQUIVALENT = EQUIVALENT | EQUIVALENT_FILES
SOURCES_READ = READ | READ_FILES  # of each op the source for which its proofs were read
RULES = {f"tensorlite/{name}" for name in judge_rules.FILES}
KINDS = {".py", ".cu", ".cuh"}
SOURCES = [path for part in ("tensorlite", "gpt") for path in (ROOT / part).rglob("*") if path.suffix in KINDS]
FILES = sorted({str(path.relative_to(ROOT)) for path in SOURCES} - RULES)
SEED = "tensorlite"
SHARE = 1 / 32  # of the mutants outside the rules that are in the sample
HEAD = """# Mutants

Written by `python -m tests.meta.mutate --table docs/mutants.md`: a row is written anew once each of its mutants has a
verdict in `build/mutants.jsonl` (an artifact of CI, which names the test that killed each mutant), and stays as it is
until then. `tests/meta/equivalent.py` and `tests/meta/equivalent_files.py` have the reason for each mutant that changes
nothing.
"""
SECTIONS = {
    "files": ("## A sample of the other files", "python -m tests.meta.mutate --sample"),
    "sample": (
        "## A sample of the engine, rules and kernels on the present code",
        "python -m tests.meta.mutate --share {share}",
    ),
    "rules": ("## The engine, its rules and kernels", "python -m tests.meta.mutate"),
}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.meta.mutate", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--changed", nargs="?", const="HEAD", metavar="BASE", help="only what changed since this commit (HEAD)")
    add("--sample", action="store_true", help="a seeded sample of the mutants outside the rules")
    add("--share", type=float, help="of these mutants that are judged, picked by a seed (1/32 with --sample, else all)")
    add("--only", nargs="+", metavar="TEXT", help="only mutants whose file, op or change contains one of these texts")
    add("--tests", default="", help="only tests that match (pytest's -k); survivors are then not final")
    add("--slow", action="store_true", help="outside the rules: also with the tests marked slow")
    add("--proofs", action="store_true", help="only mutants listed as equivalent: a kill refutes one")
    add("--jobs", type=int, default=os.cpu_count(), help="mutants judged in parallel; 0: only the table")
    add(
        "--budget",
        type=float,
        default=0,
        help="processor seconds for a mutant's tests (0: no limit; 60 outside the rules)",
    )
    add("--minutes", type=float, default=0, help="stop after this time (0: no limit; 9 with --changed)")
    add("--results", type=Path, default=ROOT / "build" / "mutants.jsonl", help="file of verdicts")
    add("--calls", type=Path, default=ROOT / "build" / "mutate" / "calls.json", help="file that keeps who calls what")
    add("--table", type=Path, help="write the totals to this Markdown file")
    options = parser.parse_args(arguments)
    for name in ("results", "calls", "table"):
        setattr(options, name, (path := getattr(options, name)) and path.absolute())
    return options


# ----- which mutants ----------------------------------------------------------------------------------------------


def rank(mutant: Mutant) -> float:
    """From 0 to 1, decided by seed and key alone: those below the share are the sample."""
    return int(sha256(f"{SEED} {mutant.key}".encode()).hexdigest()[:12], 16) / 16**12


def sample(found: list[Mutant], share: float) -> list[Mutant]:
    return [mutant for mutant in found if rank(mutant) < share]


def spread(found: list[Mutant]) -> list[Mutant]:
    """In an order in which every changed line has its turn first: for a run that may end early."""
    turn: Counter[tuple] = Counter()
    placed = []
    for mutant in sorted(found, key=rank):
        turn[mutant.file, mutant.line] += 1
        placed.append((turn[mutant.file, mutant.line], rank(mutant), mutant))
    return [mutant for *_, mutant in sorted(placed, key=lambda entry: entry[:2])]


def proof(mutant: Mutant) -> str | None:
    """Why it is equivalent, where it is listed and its op is still the one for which that was found."""
    is_read = SOURCES_READ.get(f"{mutant.file}: {mutant.op}") == mutant.hash
    return KNOWN_EQUIVALENT.get(mutant.key) if is_read else None


class Verdicts:
    """What is known of each mutant, in a file to which every new verdict is added at once."""

    def __init__(self, file: Path):
        self.file = file
        file.parent.mkdir(exist_ok=True)
        self.load()

    def load(self) -> None:
        """A kill counts more than a survival: that run may have had fewer tests, or less time."""
        said = sorted(lines(self.file), key=lambda old: bool(old["killer"]))
        self.known = {(old["key"], old["hash"]): old for old in said}

    def killer(self, mutant: Mutant) -> str | None:
        """The test that killed it, "" for a survivor, None if it was never judged."""
        return (self.known.get((mutant.key, mutant.hash)) or {}).get("killer")

    def add(self, mutant: Mutant, killer: str, seconds: float) -> None:
        entry = self.known[mutant.key, mutant.hash] = {"key": mutant.key, "hash": mutant.hash, "killer": killer}
        with self.file.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        print(f"{mutant.key}\n    {self.state(mutant)} ({seconds:.1f} s)", flush=True)

    def state(self, mutant: Mutant) -> str:
        killer = self.killer(mutant)
        if killer:
            return f"killed by {killer}"
        if reason := proof(mutant):
            return f"equivalent: {reason}"
        return "not judged" if killer is None else "SURVIVED"

    def open(self, found: list[Mutant], proofs: bool) -> list[Mutant]:
        return [m for m in found if not self.killer(m) and proofs == bool(proof(m))]

    def killed(self, found: list[Mutant]) -> Counter[tuple]:
        return Counter((m.file, m.op, killer) for m in found if (killer := self.killer(m)))

    def keep_only(self, found: list[Mutant]) -> None:
        """One line a mutant, in the order of the code."""
        kept = [self.known[m.key, m.hash] for m in found if (m.key, m.hash) in self.known]
        self.file.write_text("".join(json.dumps(verdict) + "\n" for verdict in kept))


# ----- judging ----------------------------------------------------------------------------------------------------


def judge_of_rules(found: list[Mutant], verdicts: Verdicts, options: argparse.Namespace) -> None:
    import pytest

    if not (wanted := verdicts.open(found, options.proofs)) or not options.jobs:
        return
    os.environ["HYPOTHESIS_PROFILE"] = "mutants"
    os.environ["NUMBA_DISABLE_JIT"] = "1"  # a loop is a function of Python's then, which can be exchanged
    with tempfile.TemporaryDirectory() as folder:  # what others change meanwhile changes nothing here
        for name in ("tensorlite", "gpt", "tests", "docs"):
            shutil.copytree(ROOT / name, Path(folder) / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        os.chdir(folder)
        sys.path[0] = folder
        say = said_by(verdicts)
        judge = judge_rules.Judge(Path(folder) / "tensorlite", wanted, verdicts.killed(found), options, say)
        files = [f"tests/{name}.py" for name in judge_rules.SUITE]
        pytest.main([*judge_rules.QUIETLY, "-k", options.tests, *files], [judge])
        os.chdir(ROOT)


def judge_of_files(found: list[Mutant], verdicts: Verdicts, options: argparse.Namespace) -> None:
    if not (wanted := verdicts.open(found, options.proofs)) or not options.jobs:
        return
    work = ROOT / "build" / "mutate"
    tree = work / "tree"
    judge_files.copy_tree(ROOT, tree)
    os.environ.update(judge_files.environment(tree))
    known = CoverageMap(work / ("lines-slow.json" if options.slow else "lines.json"))
    tests = [name for name in judge_files.test_files(tree) if options.tests in name]
    tests = judge_files.related(tree, tests, {mutant.file for mutant in wanted})
    judge_files.record(tree, known, tests, sorted(RULES), options.slow)
    killed = verdicts.killed(found)
    trees = [work / f"judged{n}" for n in range(min(options.jobs, len(wanted)))]
    for each in trees:
        judge_files.copy_tree(ROOT, each)

    def work_on(n: int) -> None:
        judge = judge_files.FileJudge(trees[n], known.only(tests), killed, options.budget or 60)
        for mutant, killer, took in judge.verdicts(wanted[n :: len(trees)], options.until):
            verdicts.add(mutant, killer, took)

    judge_files.in_processes(len(trees), work_on)
    verdicts.load()


def said_by(verdicts: Verdicts) -> Callable[[Mutant, str, float], None]:
    def said(mutant: Mutant, killer: str, seconds: float) -> None:
        if killer == judge_rules.UNDECIDED:
            print(f"{mutant.key}\n    {killer} ({seconds:.1f} s)", flush=True)
        else:
            verdicts.add(mutant, killer, seconds)

    return said


def chosen(options: argparse.Namespace) -> tuple[list[Mutant], list[Mutant]]:
    """The mutants of the engine, its rules and kernels, and those of other files, that the options ask for."""
    if options.changed:
        change = changes.since(ROOT, options.changed)
        of_rules = of_rule_files(change.lines.keys())
        of_files = of_other_files(change.lines.keys())
        touched = [[m for m in several if change.touches(path_of(m), m)] for several in (of_rules, of_files)]
        of_rules, of_files = map(spread, touched)
    elif options.sample:
        of_rules, of_files = [], sample(of_other_files(FILES), options.share or SHARE)
    else:
        of_rules, of_files = sample(of_rule_files(RULES), options.share or 1), []
    texts = options.only or [""]
    return [[m for m in several if any(text in m.key for text in texts)] for several in (of_rules, of_files)]


def of_rule_files(paths: Iterable[str]) -> list[Mutant]:
    names = [name for name in judge_rules.FILES if f"tensorlite/{name}" in paths]
    return [m for name in names for m in mutants(ROOT / "tensorlite", name)]


def of_other_files(paths: Iterable[str]) -> list[Mutant]:
    found = [file for file in FILES if file in paths]
    kernels = [m for file in found if not file.endswith(".py") for m in cuda_mutants(ROOT, file)]
    return [m for file in found if file.endswith(".py") for m in mutants(ROOT, file, everything=True)] + kernels


def path_of(mutant: Mutant) -> str:
    return mutant.file if mutant.file in FILES else f"tensorlite/{mutant.file}"


def main() -> int:
    options = parse()
    folder = ROOT / "build" / "mutate"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with lock(folder, "judging mutants in"):  # another run changes the same files and verdicts
            return judge(options)
    except RuntimeError as error:
        sys.exit(str(error))


def judge(options: argparse.Namespace) -> int:
    verdicts = Verdicts(options.results)
    minutes = options.minutes or (9 if options.changed else 0)
    options.until = time.time() + 60 * minutes if minutes else 0
    of_rules, of_files = chosen(options)
    everything = [*of_rules, *of_files]
    wanted = verdicts.open(everything, options.proofs)
    print(f"{len(everything)} mutants, {len(wanted)} to judge", flush=True)
    judge_of_files(of_files, verdicts, options)
    judge_of_rules(of_rules, verdicts, options)
    found = [(m, verdicts.state(m)) for m in everything]
    print(*[f"{is_} {mutant.key}  (line {mutant.line})" for mutant, is_ in found if is_ == "SURVIVED"], sep="\n")
    if not options.only and not options.changed:
        found_now = [*of_rule_files(RULES), *of_other_files(FILES)]
        verdicts.keep_only(found_now)
        names = {m.key for m in found_now}
        print(*[f"listed as equivalent, and no mutant: {key}" for key in KNOWN_EQUIVALENT.keys() - names], sep="\n")
    print(score(found, by_op=not options.sample and not options.changed))
    if options.table:
        write_tables(options, verdicts)
    return int(any(is_ in ("SURVIVED", "not judged") for _, is_ in found))


def write_tables(options: argparse.Namespace, verdicts: Verdicts) -> None:
    """The totals of both parts, and of the sample of the rules where one is asked for."""
    rules, share = of_rule_files(RULES), None if options.sample else options.share
    parts = {"files": sample(of_other_files(FILES), (options.sample and options.share) or SHARE)}
    parts |= {"sample": sample(rules, share)} if share else {}
    parts["rules"] = rules
    text = options.table.read_text(encoding="utf-8") if options.table.exists() else HEAD
    for part, found in parts.items():
        title, command = SECTIONS[part]
        states = [(m, verdicts.state(m)) for m in found]
        text = with_table(text, title, command.format(share=share), states, "folder" if part == "files" else "file")
    options.table.write_text(text, encoding="utf-8")


def with_table(text: str, title: str, command: str, found: list[tuple[Mutant, str]], by: str) -> str:
    """The document with the rows of a section's table that are judged now; the others, and all sentences, are kept."""
    if f"{title}\n" not in text:
        text += f"\n{title}\n\nThe verdicts of `{command}`.\n\n| {by} |\n"
    above, _, section = text.partition(f"{title}\n")
    section, *below = re.split(r"(?=^## )", section, maxsplit=1, flags=re.M)
    before, table, after = re.split(r"((?:^\|.*\n?)+)", section, maxsplit=1, flags=re.M)
    kept = {}
    for line in table.splitlines()[3:]:
        name, *numbers = [cell.strip() for cell in line.strip("|").split("|")]
        kept[name.removesuffix(" *")] = [name, *numbers, *["0"] * (len(COUNTS) - len(numbers))]
    rows = []
    for name, states in grouped(found, by).items():
        new = [name, *map(str, counts(states))]
        rows.append(kept.get(name, new) if "not judged" in states else new)
    total = [sum(int(row[1 + i]) for row in rows) for i in range(len(COUNTS))]
    return f"{above}{title}\n{before}{markdown(by, [['**all**', *total], *rows])}{after}{''.join(below)}"


def grouped(found: list[tuple[Mutant, str]], by: str) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for mutant, is_ in found:
        groups.setdefault(mutant.file if by == "file" else f"{Path(mutant.file).parent}/", []).append(is_)
    return groups


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


COUNTS = {"mutants": "", "killed": "killed", "equivalent": "equivalent", "survived": "SURVIVED", "not judged": "not"}


def counts(states: list[str]) -> list[int]:
    return [sum(is_.startswith(word) for is_ in states) for word in COUNTS.values()]


def markdown(by: str, rows: list[list]) -> str:
    lines = [f"| {' | '.join(map(str, cells))} |\n" for cells in [[by, *COUNTS], *rows]]
    return "".join([lines[0], f"|---|{'--:|' * len(COUNTS)}\n", *lines[1:]])


def score(found: list[tuple[Mutant, str]], by_op: bool) -> str:
    """The table: the number of killed and other mutants of each file or op, and the tests that killed most of them."""
    names = ("file", "op") if by_op else ("folder",)
    heads = [*names, *COUNTS, *["killed by"] * by_op]
    marks = ["--:" if head in COUNTS else "---" for head in heads]
    rows = ["| " + " | ".join(heads) + " |", "|" + "|".join(marks) + "|"]
    groups: dict[tuple, list] = {}
    for mutant, is_ in found:
        folder = (f"{Path(mutant.file).parent}/", "")
        for group in (
            (("**all**", ""), (mutant.file, ""), (mutant.file, mutant.op)) if by_op else (("**all**", ""), folder)
        ):
            groups.setdefault(group, []).append(is_)
    for (file, op), states in groups.items():
        killers = Counter(
            is_.removeprefix("killed by ").rpartition("::")[2].partition("[")[0] for is_ in states if "killed" in is_
        )
        by = ", ".join(f"{test} {n}" for test, n in killers.most_common(3)) if op else ""
        cells = [file, *[op] * by_op, *counts(states), *[by] * by_op]
        rows.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.exit(main())
