"""Phrases that docstrings, comments, messages and documents do not use: riddles, inversions, words of two meanings.

Plain technical English says who does what to what. BANNED has the phrases that were found in this repository, each with
what to write instead. KNOWN (known_words.txt, one line a file: its number of hits) may only shrink: after a file has
been reworded, `python -m tests.meta.test_words` writes the new, smaller list; it refuses to write a larger one. With
`--show` it prints every hit.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
KNOWN = Path(__file__).with_name("known_words.txt")

BANNED = {
    r"nobody": "say what is or is not done, and by what",
    r"whoever": "name it: the caller, the process",
    r"unasked": "without being asked, implicitly, automatically",
    r"rightly": "correct, correctly; accuracy",
    r"(was|were|is|not) foreseen": "an unexpected error",
    r"of which (none|nothing|nobody|no \w+)": "none of them",
    r"(at|of|to|for) which (nobody|none|no)": "turn the clause around",
    r"(leave|leaves|left|leaving) (it |them )?away": "omit",
    r"(that|which) (do|does) not do": "is invalid, is not supported",
    r"looking changes nothing|chang\w+ by looking|at each look|a look waits": "reading a value, evaluation",
    r"(is|are) of no use": "cannot be used",
    r"(?<!there )\b(is|are|was|were) no (error|reason|second|obstacle|step|checkpoint|longer one)\b": "is not a ...",
    r"what(ever)? (becomes|became) of": "what happens to",
    r"what (came|comes) of|what they came to": "the result of",
    r"but by the clock|by the clock": "only the time differs",
    r"anew": "again",
    r"goes nowhere": "is discarded",
    r"says? nothing of": "does not mention",
    r"one (wants|looks)\b": "you, the user, or the passive",
    r"all that there (is|was|were|are)": "everything, the whole",
    r"nothing is (wrong|believed|decided)": "say what is checked",
    r"(is|are) dear\b": "expensive, slow",
    r"no way back": "cannot be undone",
    r"where (none|nobody|no one) (is|was|looks)": "where there is no ...",
    r"would not have seen": "does not detect",
    r"what is right": "the correct value, the expected result",
    r"(is|are|was) told\b": "is reported; the message says",
    r"another's|nobody else": "of another process, of another object",
    r"makes? no sense": "is invalid",
    r"(what|which) (is|are) no (?!longer|more)\w+": "that is not a ...",
    r"(one )?(stands?|lies?|lying) (behind|beside)": "follows, is next to, is in the same folder as",
    r"one behind (the )?(an)?other": "consecutively",
    r"but for (the|rounding|its|those|their)": "except for, up to",
    r"goes on (with|from)|go on from": "continues",
    r"(is|are|was|were) asked for": "is requested",
    r"see to the": "check",
    r"(was|were) begun with": "was started with",
    r"(cannot|can not) be told": "is unknown, is ambiguous",
    r"as (they|it) comes?": "one by one, unchanged",
    r"by heart": "memorize",
    r"without a word": "silently",
    r"refuses? with a sentence": "raises an error that says ...",
    r"(say|says) nothing (about|\.|;)": "is not meaningful, does not mention",
    r"as it stands": "unchanged, as it is",
    r"in (its|their|our|his) turn\b": "also, again",
    r"made of nothing else": "only of",
    r"what (it|they) (is|are) worth": "the effect of, the value of",
    r"in (what|which) (nobody|nothing)": "turn the clause around",
    r"taught (to|these)|was not taught": "fine-tuned, trained",
}
PATTERN = re.compile("|".join(rf"\b(?:{phrase})" for phrase in BANNED), re.IGNORECASE)


def sources() -> Iterator[Path]:
    for folder in ("tensorlite", "gpt", "examples"):
        yield from sorted((ROOT / folder).rglob("*.py"))
        yield from sorted((ROOT / folder).rglob("*.md"))
    yield from sorted(ROOT.glob("*.md"))
    yield from (path for path in sorted((ROOT / "docs").glob("*.md")) if path.name != "mutants.md")  # names of tests


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of what is prose: of Python the comments and string literals, of Markdown all."""
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        yield 1, source
        return
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def hits(path: Path) -> list[tuple[int, str]]:
    return sorted(
        (line + text.count("\n", 0, found.start()), " ".join(found.group().split()))
        for line, text in texts(path)
        for found in PATTERN.finditer(text)
    )


def counted() -> dict[str, int]:
    return {path.relative_to(ROOT).as_posix(): count for path in sources() if (count := len(hits(path)))}


def known() -> dict[str, int]:
    lines = KNOWN.read_text(encoding="utf-8").splitlines() if KNOWN.exists() else []
    return {name: int(count) for name, _, count in (line.rpartition(": ") for line in lines)}


def test_no_file_has_more_banned_phrases_than_are_known():
    now, then = counted(), known()
    more = [
        f"{name}:{line}: {phrase!r}"
        for name in now
        if now[name] > then.get(name, 0)
        for line, phrase in hits(ROOT / name)
    ]
    assert not more, "\n".join(more)


def test_the_known_list_has_no_file_that_has_become_better():
    now = counted()
    better = [f"{name}: {count} -> {now.get(name, 0)}" for name, count in known().items() if now.get(name, 0) < count]
    assert not better, "\n".join([*better, "write the smaller list: python -m tests.meta.test_words"])


def test_phrases_are_found_where_people_read_them(tmp_path):
    path = tmp_path / "a.py"
    path.write_text('"""A docstring\nnobody reads."""\nnobody = 1  # whoever\nx = f"told rightly {nobody} unasked"\n')
    assert hits(path) == [(2, "nobody"), (3, "whoever"), (4, "rightly"), (4, "unasked")]
    path = tmp_path / "a.md"
    path.write_text("There is no error here.\n\nThat is no error, and\nlooking changes nothing.\n")
    assert hits(path) == [(3, "That is no error"), (4, "looking changes nothing")]


def main(arguments: list[str]) -> int:
    now, then = counted(), known()
    if "--show" in arguments:
        print(*[f"{name}:{line}: {phrase}" for name in now for line, phrase in hits(ROOT / name)], sep="\n")
    if KNOWN.exists() and (more := [name for name in now if now[name] > then.get(name, 0)]):
        print("more banned phrases than before, the list stays as it is:", *more)
        return 1
    KNOWN.write_text("".join(f"{name}: {count}\n" for name, count in now.items()), encoding="utf-8")
    print(f"{sum(now.values())} banned phrases in {len(now)} files")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
