"""Mutation score: change every derivative rule and kernel in small ways; the suite must notice each one.

    python -m tests.mutate [--only TEXT] [--jobs N] [--json FILE]

One idea: a test is worth what it catches. Each mutant is the library with one expression changed (a sign, a factor, an
operator, swapped operands, a dropped term or call, another axis, a flipped comparison), in a process of its own; the
first failing test kills it. The op's own rows run first, then all property tests. What survives is a hole in the
properties, unless it computes the same function: those are listed in EQUIVALENT with the proof.
"""

import argparse
import ast
import contextlib
import importlib
import io
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = ("ops.py", "kernels/cpu.py", "functional.py", "derived.py", "primitive.py")
SUITE = (
    "test_ops.py",
    "test_stability.py",
    "test_defaults.py",
    "test_bugs.py",
    "test_engine.py",
    "test_algebra.py",
    "test_strict.py",
)
QUIETLY = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
SECONDS = 240  # a mutant that takes longer is stuck, and noticed
RELATED = {  # whose rows look at a helper first; everything else comes after
    "matmul_by_x": "matmul", "matmul_by_y": "matmul", "as_matrices": "matmul", "einsum_by": "einsum", "share": "imum",
    "share_among": "max or min", "piece": "concatenate", "spread": "sum or mean", "inverse": "transpose",
    "has_arrays": "getitem", "scatter": "getitem", "raw_index": "getitem", "to": "strict", "rows": "linear",
    "sum_rows": "linear", "sum_columns": "layer_norm", "ones": "linear", "causal_bias": "attention",
    "dropped": "attention", "scale": "attention", "axis": "squeeze or sum", "root": "norm or std",
    "concat": "concatenate", "powern": "pow", "power": "pow", "unbroadcast": "add", "identity": "fused",
}  # fmt: skip
EQUIVALENT: dict[str, str] = {  # key -> why no input can tell the difference
    "ops.py: root: 1  ->  2": "the divisor where the result is 0, which `where` throws away",
    "ops.py: maximum: x < y  ->  x <= y": "_share takes x == y first",
    "ops.py: maximum: y < x  ->  y <= x": "_share takes x == y first",
    "ops.py: minimum: x < y  ->  x <= y": "_share takes x == y first",
    "ops.py: minimum: y < x  ->  y <= x": "_share takes x == y first",
    "ops.py: pad: True  ->  False": "zip(strict=): both always have one entry per axis",
    "ops.py: sigmoid: x >= 0  ->  x > 0": "at 0 both branches are 1 / 2",
    "ops.py: logsumexp: 0  ->  1": "the shift of a row without a finite maximum: it cancels, or the sum is 0 or inf",
}

OPERATORS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Pow: ast.Mult,
    ast.MatMult: ast.Mult,
}
COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq
}  # fmt: skip
NAMES = {
    "sin": "cos",
    "cos": "sin",
    "exp": "expm1",
    "log": "log1p",
    "tril": "triu",
    "triu": "tril",
    "maximum": "minimum",
}
TRANSPOSING = {"swapaxes", "reshape", "copy", "astype"}


@dataclass(frozen=True)
class Mutant:
    file: str
    line: int
    op: str  # the op or function that it is in
    change: str
    number: int  # among the file's variants

    @property
    def key(self) -> str:
        return f"{self.file}: {self.op}: {self.change}"


# ----- making mutants ---------------------------------------------------------------------------------------------


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """What could stand in an expression's (or statement's) place."""
    match node:
        case ast.BinOp(left=left, op=op, right=right):
            yield left
            yield right
            if type(op) in OPERATORS:
                yield ast.BinOp(left, OPERATORS[type(op)](), right)
            if isinstance(op, ast.Sub | ast.Div | ast.MatMult | ast.Pow):
                yield ast.BinOp(right, op, left)
        case ast.UnaryOp(op=ast.USub() | ast.Not(), operand=operand):
            yield operand
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int() | float() as value):
            yield ast.Constant(value + 1)
            if value not in (0, 1):
                yield ast.Constant(value / 2 if isinstance(value, float) else value - 1)
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in COMPARISONS:
            yield ast.Compare(left, [COMPARISONS[type(op)]()], [right])
        case ast.BoolOp(op=op, values=values):
            yield ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
        case ast.IfExp(test=_, body=body, orelse=orelse):
            yield body
            yield orelse
        case ast.Call(func=func, args=args, keywords=keywords):
            if isinstance(func, ast.Attribute) and func.attr in TRANSPOSING:
                yield func.value
            if isinstance(func, ast.Name) and func.id == "where" and len(args) == 3:
                yield ast.Call(func, [args[0], args[2], args[1]], keywords)
                yield args[1]
            if isinstance(func, ast.Name) and func.id in NAMES:
                yield ast.Call(ast.Name(NAMES[func.id], ast.Load()), args, keywords)
        case ast.Attribute(value=value, attr="T"):
            yield value
        case ast.AugAssign(target=target, op=op, value=value):
            yield ast.Pass()
            if type(op) in OPERATORS:
                yield ast.AugAssign(target, OPERATORS[type(op)](), value)


def targets(file: str, tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """(name of the op, what to change in) of a file: rules in the table, functions in the kernels."""
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Call):
            call = statement.value
            if isinstance(call.func, ast.Attribute) and call.func.attr == "vjp":
                yield statement.targets[0].id.strip("_"), call  # the rules, and the forward lambda below them
        elif isinstance(statement, ast.FunctionDef) and file != "primitive.py":
            yield statement.name.strip("_"), statement
        elif isinstance(statement, ast.FunctionDef) and statement.name == "unbroadcast":
            yield statement.name, statement


def variants(file: str) -> Iterator[tuple[str, ast.AST, ast.AST, Callable[[ast.AST], str]]]:
    """(op, expression, what stands in its place, a function from the one to the source of the whole changed file)."""
    tree = ast.parse((ROOT / "tensorlite" / file).read_text(encoding="utf-8"))
    for op, place in list(targets(file, tree)):
        for parent in ast.walk(place):
            for field, value in ast.iter_fields(parent):
                if field in ("decorator_list", "returns", "annotation", "exc", "msg") or isinstance(
                    parent, ast.JoinedStr
                ):
                    continue
                for index, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
                    for new in changes(node):
                        if ast.unparse(node) != ast.unparse(new):
                            yield op, node, new, partial(changed, tree, parent, field, index, node)


def changed(tree: ast.Module, parent: ast.AST, field: str, index: int | None, node: ast.AST, new: ast.AST) -> str:
    put(parent, field, index, new)
    source = ast.unparse(ast.fix_missing_locations(tree))
    put(parent, field, index, node)
    return source


def mutants(file: str) -> Iterator[Mutant]:
    seen: Counter[tuple[str, str]] = Counter()
    for number, (op, node, new, _) in enumerate(variants(file)):
        change = f"{ast.unparse(node)}  ->  {ast.unparse(new)}"
        seen[op, change] += 1
        again = f" (place {seen[op, change]})" if seen[op, change] > 1 else ""
        yield Mutant(file, node.lineno, op, change + again, number)


def source(mutant: Mutant) -> str:
    if mutant.number < 0:  # the control: nothing is changed
        return (ROOT / "tensorlite" / mutant.file).read_text(encoding="utf-8")
    _, _, new, make = next(itertools.islice(variants(mutant.file), mutant.number, None))
    return make(new)


def put(parent: ast.AST, field: str, index: int | None, node: ast.AST) -> None:
    if index is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[index] = node


# ----- running the suite on one ------------------------------------------------------------------------------------


class FirstFailure:
    """A pytest plugin that remembers which test killed the mutant."""

    killer = ""

    def pytest_runtest_logreport(self, report):
        if report.failed and not self.killer:
            self.killer = report.nodeid.rpartition("/")[2]


def judge(mutant: Mutant) -> tuple[Mutant, str, float]:
    """(mutant, the test that killed it or '', seconds): in a forked process, on a copy of the library."""
    began = time.perf_counter()
    reader, writer = multiprocessing.Pipe(duplex=False)
    child = os.fork()
    if not child:
        try:
            writer.send(verdict(mutant))
        except BaseException:
            traceback.print_exc()
        os._exit(0)
    writer.close()
    killer = "the suite hangs" if not reader.poll(SECONDS) else ""
    if not killer:
        try:
            killer = reader.recv()
        except EOFError:
            killer = "the process dies"
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return mutant, killer, time.perf_counter() - began


def verdict(mutant: Mutant) -> str:
    import pytest

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        shutil.copytree(ROOT / "tensorlite", Path(folder) / "tensorlite", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(
            ROOT / "tests", Path(folder) / "tests", ignore=shutil.ignore_patterns("__pycache__", "peers", "gpt")
        )
        shutil.copy(ROOT / "pyproject.toml", folder)
        (Path(folder) / "tensorlite" / mutant.file).write_text(source(mutant), encoding="utf-8")
        os.chdir(folder)
        sys.path[:0] = [folder]
        sys.dont_write_bytecode = True
        os.environ["PYTHONPATH"] = folder
        importlib.invalidate_caches()
        suite = [f"tests/{name}" for name in SUITE if (ROOT / "tests" / name).exists()]
        plugin = FirstFailure()
        name = mutant.op.removesuffix("_vjp").removeprefix("serves_")
        for selection in (["-k", RELATED.get(name, name)], []):
            code = pytest.main([*QUIETLY, *selection, *suite], [plugin])
            if plugin.killer:
                return plugin.killer
            if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
                return "it does not import"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutate", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="only mutants whose file, op or change contains this")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path, help="write the table here")
    options = parser.parse_args()
    os.environ.setdefault("HYPOTHESIS_PROFILE", "ci")
    everything = {m.key: m for file in FILES for m in mutants(file) if options.only in m.key}
    for heavy in ("numpy", "hypothesis", "pytest", "hypothesis.extra.numpy"):  # once, for all the forks
        importlib.import_module(heavy)
    _, broken, _ = judge(Mutant("ops.py", 0, "", "nothing", -1))
    if broken:
        parser.exit(2, f"the suite fails on the library as it is ({broken}): a mutant proves nothing then\n")
    rows, survivors = [], []
    with multiprocessing.pool.ThreadPool(options.jobs) as pool:
        for mutant, killer, seconds in pool.imap_unordered(judge, everything.values()):
            proof = EQUIVALENT.get(mutant.key, "")
            state = "killed by " + killer if killer else "EQUIVALENT: " + proof if proof else "SURVIVED"
            print(
                f"{mutant.file}:{mutant.line} {mutant.op}: {mutant.change}\n    {state} ({seconds:.1f} s)", flush=True
            )
            rows.append(asdict(mutant) | {"killer": killer, "proof": proof})
            survivors += [mutant] * (not killer and not proof)
    killed = sum(bool(row["killer"]) for row in rows)
    others = len(rows) - killed - len(survivors)
    print(f"\n{len(rows)} mutants: {killed} killed, {others} equivalent, {len(survivors)} survived")
    for mutant in survivors:
        print(f"SURVIVED {mutant.key}")
    if options.json:
        options.json.write_text(json.dumps(sorted(rows, key=lambda r: (r["file"], r["line"])), indent=1) + "\n")
    return bool(survivors)


if __name__ == "__main__":
    import multiprocessing.pool

    sys.exit(main())
