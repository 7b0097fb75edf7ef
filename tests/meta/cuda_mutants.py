"""Mutants of the CUDA kernels (.cu, .cuh): one token of a function changed. The tests that run the kernels on a CPU
(tests/support/emulator.py) judge them, so no GPU is needed.
"""

import re
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from .mutants import Mutant

TOKENS = {
    "+": "-", "-": "+", "*": "/", "/": "*", "%": "/", "<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=",
    "!=": "==", "&&": "||", "||": "&&", "+=": "=", "-=": "+=", "*=": "=", "fmaxf": "fminf", "fminf": "fmaxf",
    "max": "min", "min": "max", "__syncthreads();": ";", "__syncwarp();": ";", "0": "1", "1": "2", "0.0f": "1.0f",
    "1.0f": "2.0f", "true": "false", "false": "true",
}  # fmt: skip
TOKEN = re.compile(r"__sync\w+\(\);|[A-Za-z_]\w*|\d[\w.]*|[-+*/]=|[<>=!]=|<<|>>|&&|\|\||->|\+\+|--|[-+*/%<>]")
SPACED = {"+", "-", "*", "/", "%", "<", ">"}  # without spaces: a sign, a pointer, a template
NO_CODE = re.compile(
    r"//[^\n]*|/\*.*?\*/|^[ \t]*#[^\n]*|\b(?:static_assert|__launch_bounds__)\([^;{]*?\)|\"[^\"\n]*\"", re.S | re.M
)
FUNCTION = re.compile(r"(\w+)(?:<[^;{}()]*>)?\s*\([^;{]*\)(?:\s*const)?\s*\{")


def cuda_mutants(root: Path, file: str) -> Iterator[Mutant]:
    """The mutants of a file of kernels; comments, preprocessor lines and compile-time checks have none."""
    text = (root / file).read_text(encoding="utf-8")
    code = NO_CODE.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)
    seen: Counter[tuple[str, str]] = Counter()
    for name, start, body, end in functions(code):
        hashed = sha256(" ".join(code[start:end].split()).encode()).hexdigest()[:10]
        for token in TOKEN.finditer(code, body, end):
            old, (first, last) = token[0], token.span()
            if old not in TOKENS or (old in SPACED and not code[first - 1] == code[last] == " "):
                continue
            line = text[text.rfind("\n", 0, first) + 1 : text.index("\n", first)].strip()
            change = f"{line}: {old}  ->  {TOKENS[old]}"
            seen[name, change] += 1
            again = f" (place {seen[name, change]})" if seen[name, change] > 1 else ""
            number = text.count("\n", 0, first) + 1
            changed = text[:first] + TOKENS[old] + text[last:]
            yield Mutant(
                file, name, f"{file}: {name}", change + again, number, 0, hashed, lambda changed=changed: changed
            )


def functions(code: str) -> Iterator[tuple[str, int, int, int]]:
    """(name, start, start of the body, end) of the functions; each starts where the one before it ends."""
    start = 0
    while found := FUNCTION.search(code, start):
        end = closing(code, found.end())
        yield found[1], start, found.end(), end
        start = end


def closing(code: str, inside: int) -> int:
    """The end of the block of which `inside` is the first character."""
    depth = 1
    for brace in re.finditer(r"[{}]", code[inside:]):
        depth += 1 if brace[0] == "{" else -1
        if not depth:
            return inside + brace.end()
    raise ValueError("a block without its closing brace")
