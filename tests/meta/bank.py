"""The bank: right ops and planted faults, and how many of them checkers of derivatives see.

    python -m tests.meta.bank                                   check_op: faults caught, false alarms
    python -m tests.meta.bank --peers --table docs/checker.md   ... beside PyTorch, HIPS autograd and JAX, as a page
    python -m tests.meta.bank --only "softmax"                  the ops and faults with this text in their names

A fault is caught if the check of the wrong op raises and that of the right op at the same inputs passes. `check_op`
draws its own inputs from the strategy of the op (--examples for each property). The other checkers get --draws smooth
draws from the same strategy, as plain arrays. A check that raises Undecided has caught nothing. A library that is not
installed is left out (`pip install torch autograd jax`).

What a checker said is kept in --results (build/bank.json), and taken from there as long as the bank, the checker and
its inputs are the same.
"""

import argparse
import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import inspect
import itertools
import json
import math
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

import tensorlite
from tensorlite.testing import Row, Undecided, check_op, smooth

from .bank_faults import FAULTS, Fault
from .bank_libraries import LIBRARIES, ON_ARRAYS, gradients, tensorlite_op
from .bank_ops import BY_NAME, RIGHT, Op

CAUGHT, PASSED, UNDECIDED, IMPOSSIBLE = "caught", "passed", "undecided", "cannot be written"
MARKS = {CAUGHT: "✓", PASSED: "–", UNDECIDED: "?", IMPOSSIBLE: "n/a"}
Inputs = list[tuple[tuple[numpy.ndarray, ...], dict[str, Any]]]  # arrays and keyword arguments


settings.register_profile(  # the first failure is enough: no simpler example is looked for
    "bank", derandomize=True, database=None, deadline=None, phases=[Phase.generate], report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


@dataclass
class Column:
    """What one checker says: verdicts of faults, and of right ops the inputs and the ops with a false alarm."""

    title: str
    faults: dict[str, str] = field(default_factory=dict)
    inputs: int = 0
    alarms: dict[str, str] = field(default_factory=dict)
    undecided: list[str] = field(default_factory=list)  # right ops where it could not tell at any input
    seconds: float = 0.0  # of the processor, for the right ops

    def caught(self, faults: list[Fault]) -> str:
        count = Counter(self.faults[fault.name] for fault in faults)
        return f"{count[CAUGHT]} of {len(faults) - count[IMPOSSIBLE]}"


# ----- check_op ---------------------------------------------------------------------------------------------------


def row(op: Op, right: Op | None = None) -> Row:
    """The row of an op for check_op; with value and gradient of `right` as its formulas, if that is given."""
    if right is None:
        return Row(op.name, tensorlite_op(op), inputs=op.inputs, domain=op.domain, order=op.order)

    def value(*xs: Any, **meta: Any) -> Any:
        return right.forward(ON_ARRAYS, *xs, **meta)

    def gradient(g: Any, *xs: Any, **meta: Any) -> Any:
        return tuple(gradients(right, ON_ARRAYS, g, xs, value(*xs, **meta), meta))

    made = tensorlite_op(op)
    return Row(op.name, made, value, gradient, inputs=op.inputs, domain=op.domain, order=op.order)


@contextlib.contextmanager
def profile() -> Iterator[None]:
    """The profile "bank" is in force."""
    before = settings.get_current_profile_name()
    settings.load_profile("bank")
    try:
        yield
    finally:
        settings.load_profile(before)


def checked(op: Op, examples: int, seed: int = 0, right: Op | None = None) -> tuple[str, int, str]:
    """What check_op says of an op: the verdict, at how many inputs it has passed, the failure."""
    try:
        with profile():
            done = check_op(row(op, right), examples=examples, seed=seed)
    except Undecided as undecided:
        return UNDECIDED, 0, str(undecided)
    except Exception as failure:
        return CAUGHT, 0, "\n".join([f"{type(failure).__name__}: {failure}", *getattr(failure, "__notes__", ())])
    return PASSED, sum(done.values()), ""


def of_right_ops(ops: list[Op], examples: int, inputs: int, column: Column) -> None:
    """check_op on the right ops, with other seeds until it has passed at so many inputs."""
    start = time.process_time()
    for seed in itertools.count():
        before = column.inputs
        for op in ops:
            verdict, passed, text = checked(op, examples, seed)
            column.inputs += passed
            if verdict == CAUGHT:
                column.alarms.setdefault(op.name, text)
            elif verdict == UNDECIDED and op.name not in column.undecided:
                column.undecided.append(op.name)
        if column.inputs >= inputs or column.inputs == before:
            break
    column.seconds = time.process_time() - start


def of_check_op(ops: list[Op], faults: list[Fault], examples: int, inputs: int) -> list[Column]:
    """The columns of check_op, without formulas and with them."""
    plain, formulas = Column("`check_op`"), Column("`check_op` with formulas")
    of_right_ops(ops, examples, inputs, plain)
    for fault in faults:
        for column, right in ((plain, None), (formulas, BY_NAME[fault.of])):
            verdict, _, _ = checked(fault.op(), examples, right=right)
            column.faults[fault.name] = PASSED if fault.of in plain.alarms else verdict
    return [plain, formulas]


# ----- the checkers of single inputs ------------------------------------------------------------------------------


@functools.cache
def draws(name: str, n: int) -> Inputs:
    """`n` smooth draws for a right op, the same ones on every run: arrays with elements, at most 16 in all."""
    op, found = BY_NAME[name], []

    @settings(settings.get_profile("bank"), max_examples=10 * n)
    @given(data=st.data())
    def draw(data: st.DataObject) -> None:
        shapes, meta = data.draw(op.inputs)
        assume(all(map(math.prod, shapes)) and sum(map(math.prod, shapes)) <= 16)
        found.append((data.draw(smooth(*shapes, **op.domain)), meta))

    draw()
    return found[:: max(1, len(found) // n)][:n]  # Hypothesis begins with the smallest


def verdicts(op: Op, library: str, inputs: Inputs) -> Iterator[str]:
    """What a library's checker says of an op at each of the inputs."""
    made: dict[str, Callable[..., Any]] = {}  # one function for all inputs with the same keyword arguments
    for xs, meta in inputs:
        key = repr(meta)
        if key not in made:
            made[key] = LIBRARIES[library].make(op, meta)
        try:
            LIBRARIES[library].check(made[key], xs, op.order)
            yield PASSED
        except Undecided:
            yield UNDECIDED
        except Exception:
            yield CAUGHT


def of_library(library: str, ops: list[Op], faults: list[Fault], n: int) -> Column:
    """The column of a library's own checker, each time at `n` inputs, or at a share of them."""
    n = max(1, n // LIBRARIES[library].share)
    column = Column(LIBRARIES[library].title)
    start = time.process_time()
    right = {op.name: list(verdicts(op, library, draws(op.name, n))) for op in ops}
    column.seconds = time.process_time() - start
    column.inputs = sum(map(len, right.values()))
    column.alarms = {name: f"{found.count(CAUGHT)} of {n} inputs" for name, found in right.items() if CAUGHT in found}
    column.undecided = [name for name, found in right.items() if PASSED not in found and UNDECIDED in found]
    for fault in faults:
        if fault.lacking(library):
            column.faults[fault.name] = IMPOSSIBLE
            continue
        given = draws(fault.of, n)
        fine = [xs for xs, verdict in zip(given, right[fault.of], strict=True) if verdict == PASSED]
        found = PASSED
        for verdict in verdicts(fault.op(), library, fine):
            found = verdict if verdict != PASSED else found
            if found == CAUGHT:
                break
        column.faults[fault.name] = found
    return column


# ----- results that are kept --------------------------------------------------------------------------------------


def kept(file: Path, name: str, key: str, make: Callable[[], list[Column]]) -> list[Column]:
    """The columns of a checker from `file`, if it has them under the same key; else those that `make` finds."""
    found = json.loads(file.read_text("utf-8")) if file.exists() else {}
    if found.get(name, {}).get("key") != key:
        columns = make()
        found = json.loads(file.read_text("utf-8")) if file.exists() else {}  # another process may have added some
        found[name] = {"key": key, "columns": list(map(dataclasses.asdict, columns))}
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found, indent=1), "utf-8")
    return [Column(**column) for column in found[name]["columns"]]


def key_of(name: str, ops: list[Op], faults: list[Fault], options: argparse.Namespace) -> str:
    """What decides the verdicts of a checker: the bank, the options, its own code or version, and its inputs."""
    files = sorted(Path(__file__).parent.glob("bank_*.py"))
    names = [[op.name for op in ops], [fault.name for fault in faults]]
    parts = [str(names), f"{options.examples} {options.right} {options.draws}"]
    if name in LIBRARIES:
        inputs = [([x.tolist() for x in xs], repr(meta)) for op in ops for xs, meta in draws(op.name, options.draws)]
        parts += [str(inputs), importlib.metadata.version(LIBRARIES[name].package)]
    if name in ("check_op", "tensorlite"):
        files += sorted(Path(tensorlite.__file__).parent.rglob("*.py"))
    parts += [file.read_text("utf-8") for file in files]
    parts += map(inspect.getsource, (of_library, verdicts, draws) if name in LIBRARIES else (of_check_op, checked, row))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


# ----- the page ---------------------------------------------------------------------------------------------------

PAGE = """# Gradient checkers compared

Written by `python -m tests.meta.bank --peers --table docs/checker.md`. The bank consists of {right} correct ops
(`tests/meta/bank_ops.py`) and {faults} faults, each planted in one of them (`tests/meta/bank_faults.py`). They are
written once for all libraries: `elementwise` or `primitive` with `.vjp` in tensorlite, `torch.autograd.Function`, HIPS
autograd's `primitive` with `defvjp`, and `jax.custom_vjp`.

- A fault is **caught** (✓) if the check raises for the faulty op and passes for the correct one at the same inputs.
  Otherwise it is not caught (–), or the checker reports that it cannot decide (?).
- **n/a**: the fault cannot be written in that library. JAX arrays are immutable, only NumPy's arrays have negative
  strides, and PyTorch itself sums a gradient to the shape of its argument.
- `check_op` receives the op and the strategy of its arguments, and draws {examples} inputs for each property. *With
  formulas* it also receives the value and the gradient of the correct op.
- The other checkers are called as their documentation describes, with default tolerances and the same order (2; 3 for
  two ops; at most 2 in PyTorch), on {draws} inputs of each op, in float64: smooth draws of the same strategy, as plain
  arrays. JAX, which compiles each op for each shape, gets a third of them, so that it misses some faults which depend
  on the shape. `check_gradients` gets these inputs too.
- A **false alarm** is a failed check of a correct op.

{versions}

{kinds}

{alarms}

## Not caught

Faults that `check_op` without formulas does not catch: {missed}.

## Every fault

{every}
"""


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown; the first column is text, the others are centred."""
    lines = [head, ["---", *[":-:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "&#124;") for cell in line) + " |" for line in lines)


def page(columns: list[Column], faults: list[Fault], ops: list[Op], arguments: argparse.Namespace) -> str:
    titles = [column.title for column in columns]
    counts = []
    for kind in dict.fromkeys(fault.kind for fault in faults):
        of_kind = [fault for fault in faults if fault.kind == kind]
        counts.append([kind, *[column.caught(of_kind) for column in columns]])
    asked = [column for column in columns if column.inputs]
    single = [fault.name for fault in faults if columns[0].faults[fault.name] != CAUGHT]
    return PAGE.format(
        faults=len(faults),
        right=len(ops),
        examples=arguments.examples,
        draws=arguments.draws,
        versions=versions(columns),
        kinds=table(["kind of fault", *titles], [*counts, ["**all**", *[c.caught(faults) for c in columns]]]),
        alarms=table(
            ["correct ops", "inputs", "ops with a false alarm", "which"],
            [[c.title, f"{c.inputs:,}", f"{len(c.alarms)} of {len(ops)}", ", ".join(c.alarms) or "-"] for c in asked],
        ),
        missed="; ".join(single) or "none",
        every=table(
            ["fault", "kind", *titles], [[f.name, f.kind, *[MARKS[c.faults[f.name]] for c in columns]] for f in faults]
        ),
    )


def versions(columns: list[Column]) -> str:
    titles = {column.title for column in columns}
    packages = ["numpy", "hypothesis", *[lib.package for lib in LIBRARIES.values() if lib.title in titles]]
    return "Versions: " + ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages) + "."


# ----- the command ------------------------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.meta.bank", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--peers", action="store_true", help="also PyTorch, HIPS autograd and JAX, where installed")
    parser.add_argument("--only", default="", metavar="TEXT", help="ops and faults with this text in their names")
    parser.add_argument("--examples", type=int, default=20, help="of each property of check_op (%(default)s)")
    parser.add_argument("--right", type=int, default=10_000, help="inputs of right ops at least (%(default)s)")
    parser.add_argument("--draws", type=int, default=10, help="inputs for the other checkers (%(default)s)")
    parser.add_argument("--results", type=Path, default=Path("build/bank.json"), metavar="FILE")
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the page")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    faults = [fault for fault in FAULTS if options.only in fault.name]
    ops = [op for op in RIGHT if options.only in op.name or op.name in {fault.of for fault in faults}]
    if not ops:
        print(f"no op or fault has {options.only!r} in its name")
        return 2
    warnings.simplefilter("ignore")

    def found(name: str, make: Callable[[], list[Column]]) -> list[Column]:
        return kept(options.results, name, key_of(name, ops, faults, options), make)

    columns = found("check_op", lambda: of_check_op(ops, faults, options.examples, options.right))
    for name, library in LIBRARIES.items():
        if name == "tensorlite" or (options.peers and library.installed):
            columns += found(name, lambda name=name: [of_library(name, ops, faults, options.draws)])
        elif options.peers:
            print(f"{library.title}: {library.package} is not installed")
    for column in columns:
        report(column, faults)
    if options.table:
        options.table.write_text(page(columns, faults, ops, options), encoding="utf-8")
    return bool(columns[0].alarms)


def report(column: Column, faults: list[Fault]) -> None:
    print(f"\n{column.title}: {column.caught(faults)} faults caught")
    print(
        f"  not caught: {', '.join(f.name for f in faults if column.faults[f.name] in (PASSED, UNDECIDED)) or 'none'}"
    )
    if column.inputs:
        print(
            f"  right ops: {len(column.alarms)} false alarms, {column.inputs:,} inputs, {column.seconds:.0f} s of CPU"
        )
    if column.undecided:
        print(f"  undecided: {', '.join(column.undecided)}")
    for name, text in column.alarms.items():
        print(f"  FALSE ALARM {name}: {text}")


if __name__ == "__main__":
    raise SystemExit(main())
