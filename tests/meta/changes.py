"""What a change of the working tree, or of some commits, touched: for `mutate --changed`."""

import ast
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .mutants import Mutant, digest, places

SOURCES = ("tensorlite/*.py", "tensorlite/*.cu", "tensorlite/*.cuh", "gpt/*.py")


def git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True).stdout


@dataclass
class Change:
    """The changed lines of each Python file, and the hashes of its functions and values as they were before."""

    lines: dict[str, set[int]]
    before: dict[str, set[str]]

    def touches(self, file: str, mutant: Mutant) -> bool:
        """Whether the mutant is on a changed line of a function of which not only docstring or comments changed."""
        return mutant.line in self.lines.get(file, ()) and mutant.hash not in self.before[file]


def since(root: Path, base: str) -> Change:
    """What changed in the working tree since `base`; files that git does not know yet are new.

    What changed on `base` itself since the branch began does not count.
    """
    try:
        start = git(root, "merge-base", base, "HEAD").strip()
    except subprocess.CalledProcessError:
        raise SystemExit(f"mutate: {base!r} is no commit here; give --changed a commit or a branch") from None
    lines: dict[str, set[int]] = {}
    for file, hunks in by_file(git(root, "diff", "--unified=0", "--no-color", "--no-ext-diff", start, "--", *SOURCES)):
        lines[file] = {line for first, n in hunks for line in range(first, first + n)}
    for file in git(root, "ls-files", "--others", "--exclude-standard", "--", *SOURCES).splitlines():
        lines[file] = set(range(1, 1 + len((root / file).read_text(encoding="utf-8").splitlines())))
    return Change(lines, {file: hashes(root, start, file) for file in lines})


def by_file(diff: str) -> list[tuple[str, list[tuple[int, int]]]]:
    """(file, (first line, number of lines) of each hunk as it is now) of a diff."""
    found: list[tuple[str, list[tuple[int, int]]]] = []
    for line in diff.splitlines():
        if line.startswith("+++ "):
            found.append((line[4:].removeprefix("b/"), []))
        elif hunk := re.match(r"@@ -\S+ \+(\d+)(?:,(\d+))? @@", line):
            found[-1][1].append((int(hunk[1]), int(hunk[2] or 1)))  # 0 lines: some were deleted here
    return [(file, hunks) for file, hunks in found if file != "/dev/null"]


def hashes(root: Path, commit: str, file: str) -> set[str]:
    """Of the functions and values of the file as it was; nothing for a new file, or for one of CUDA kernels."""
    if not file.endswith(".py"):
        return set()
    try:
        tree = ast.parse(git(root, "show", f"{commit}:{file}"))
    except subprocess.CalledProcessError:
        return set()
    return {digest(place) for everything in (True, False) for _, place in places(tree, everything)}
