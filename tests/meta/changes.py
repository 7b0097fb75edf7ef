"""What a change of the working tree, or of some commits, touched: for `mutate --changed`."""

import ast
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from .mutants import Mutant, digest, places


def git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True).stdout


def changed_places(root: Path, base: str) -> Callable[[str, Mutant], bool]:
    """Whether a mutant of a file is on a line that changed since `base`, in a function that changed.

    What changed on `base` itself since the branch began does not count; files that git does not know yet are new.
    A function of which only the docstring, annotations or comments changed has not changed.
    """
    try:
        start = git(root, "merge-base", base, "HEAD").strip()
    except subprocess.CalledProcessError:
        raise SystemExit(
            f"mutate: {base!r} is no commit of this repository; give --changed a commit or a branch"
        ) from None
    lines: dict[str, set[int]] = {}
    for file, hunks in by_file(git(root, "diff", "--unified=0", "--no-color", "--no-ext-diff", start, "--", "*.py")):
        lines[file] = {line for first, n in hunks for line in range(first, first + max(n, 1))}
    for file in git(root, "ls-files", "--others", "--exclude-standard", "--", "*.py").splitlines():
        lines[file] = set(range(1, 1 + len((root / file).read_text(encoding="utf-8").splitlines())))
    before = {file: hashes(root, start, file) for file in lines if file.startswith(("tensorlite/", "gpt/"))}

    def changed(file: str, mutant: Mutant) -> bool:
        return file in before and mutant.line in lines[file] and mutant.hash not in before[file]

    return changed


def by_file(diff: str) -> list[tuple[str, list[tuple[int, int]]]]:
    """(file, (first line, number of lines) of each hunk as it is now) of a diff."""
    found: list[tuple[str, list[tuple[int, int]]]] = []
    for line in diff.splitlines():
        if line.startswith("+++ "):
            found.append((line[4:].removeprefix("b/"), []))
        elif hunk := re.match(r"@@ -\S+ \+(\d+)(?:,(\d+))? @@", line):
            found[-1][1].append((int(hunk[1]), int(hunk[2] or 1)))
    return [(file, hunks) for file, hunks in found if file != "/dev/null"]


def hashes(root: Path, commit: str, file: str) -> set[str]:
    """Of the functions and values of the file as it was; nothing for a new file."""
    try:
        tree = ast.parse(git(root, "show", f"{commit}:{file}"))
    except subprocess.CalledProcessError:
        return set()
    return {digest(place) for everything in (True, False) for _, place in places(tree, everything)}
