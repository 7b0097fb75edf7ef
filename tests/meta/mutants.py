"""Mutants of tensorlite and gpt: each is a source file with one expression or statement changed in a small way.

The changes are mistakes that people make in derivative rules: a sign, a factor, an operator, swapped operands or rules,
a dropped term, factor, call, keyword or `g`, a transposition, another axis, `keepdims` the other way around, a missing
eps, a mask off by one, a condition that always (or never) holds, an index that is ignored. Files outside the rules have
some more (`general`): any keyword dropped, a pair swapped, a slice without a bound, an error that is not handled, a
wrapper such as `sorted` or `.encode()` left out.
"""

import ast
import copy
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult, ast.MatMult: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv,
}  # fmt: skip
COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq
}  # fmt: skip
NAMES = {
    "sin": "cos", "cos": "sin", "exp": "expm1", "log": "log1p", "tril": "triu", "triu": "tril", "maximum": "minimum",
    "minimum": "maximum", "max": "min", "min": "max", "argmax": "argmin", "argmin": "argmax", "multiply": "divide",
    "add": "subtract", "subtract": "add", "divide": "multiply", "isfinite": "isnan",
}  # fmt: skip
TRANSPOSING = {"swapaxes", "reshape", "copy", "astype"}
SWAPPED = {"matmul", "subtract", "divide", "take_along_axis"}
TRIANGLES = {"tril", "triu", "arange"}
UNCHANGED = ("decorator_list", "returns", "annotation", "ctx")
WRAPPERS = {"sorted", "reversed", "abs", "round", "int", "float", "set", "bool", "list", "tuple", "resolve", "bytes"}
RECEIVERS = {"strip", "rstrip", "lstrip", "lower", "encode", "decode", "copy", "splitlines", "resolve", "absolute"}
IDENTITIES = {ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is}
WITHOUT_EFFECT = {"encoding", "strict", "daemon", "name", "help", "metavar", "stacklevel", "doc"}  # of keywords
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Mutant:
    file: str
    op: str  # the op or function that it is in
    unit: str  # which function of it: tests that never call that one need not run
    change: str
    line: int
    statement: int  # its number in the function; 0: the whole place
    hash: str  # of the source of the whole op, without docstrings, annotations and comments
    source: Callable[[], str] = field(compare=False, repr=False)  # of the whole file, changed

    @property
    def key(self) -> str:
        return f"{self.file}: {self.op}: {self.change}"


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
        case ast.UnaryOp(op=ast.USub() | ast.Not() | ast.Invert(), operand=operand):
            yield operand
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int() | float() as value):
            yield ast.Constant(value + 1)
            if value not in (0, 1):
                yield ast.Constant(value / 2 if isinstance(value, float) else value - 1)
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in COMPARISONS:
            yield ast.Compare(left, [COMPARISONS[type(op)]()], [right])
            yield ast.Compare(left, [ast.Eq()], [left])
            yield ast.Compare(left, [ast.NotEq()], [left])
        case ast.BoolOp(op=op, values=values):
            yield ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
            for i in range(len(values)):
                rest = values[:i] + values[i + 1 :]
                yield ast.BoolOp(op, rest) if len(rest) > 1 else rest[0]
        case ast.IfExp(test=_, body=body, orelse=orelse):
            yield body
            yield orelse
        case ast.Name(id="g", ctx=ast.Load()):  # the incoming gradient is taken for ones
            yield ast.parse("(0 * g + 1)", mode="eval").body
        case ast.Name(id="axis", ctx=ast.Load()):
            yield ast.Constant(0)
        case ast.Name(id="keepdims", ctx=ast.Load()):
            yield ast.UnaryOp(ast.Not(), node)
        case ast.Attribute(value=value, attr="T"):
            yield value
        case ast.Call():
            yield from changed_calls(node)
        case ast.Lambda(args=args, body=body) if args.args and args.args[0].arg == "g":  # a rule: its sign, a factor
            yield ast.Lambda(args, ast.UnaryOp(ast.USub(), body))
            yield ast.Lambda(args, ast.BinOp(ast.Constant(2), ast.Mult(), body))
        case ast.AugAssign(target=target, op=op, value=value):
            yield ast.Pass()
            if type(op) in OPERATORS:
                yield ast.AugAssign(target, OPERATORS[type(op)](), value)
        case ast.Expr(value=ast.Call()) | ast.Assign(targets=[ast.Subscript()]):
            yield ast.Pass()
        case ast.If(test=_, body=body, orelse=orelse):
            yield ast.If(ast.Constant(True), body, orelse)
            yield ast.If(ast.Constant(False), body, orelse)


def changed_calls(call: ast.Call) -> Iterator[ast.AST]:
    func, args, keywords = call.func, call.args, call.keywords
    name = func.id if isinstance(func, ast.Name) else func.attr if isinstance(func, ast.Attribute) else ""
    if isinstance(func, ast.Attribute) and name in TRANSPOSING:
        yield func.value
    if name == "where" and len(args) == 3:
        yield ast.Call(func, [args[0], args[2], args[1]], keywords)
        yield args[1]
    if (name in SWAPPED and len(args) > 1) or (name == "vjp" and len(args) == 2):
        yield ast.Call(func, [args[1], args[0], *args[2:]], keywords)
    if name in TRIANGLES and args:
        yield ast.Call(func, [*args[:-1], ast.BinOp(args[-1], ast.Add(), ast.Constant(1))], keywords)
    if name in NAMES:
        other = NAMES[name]
        new = ast.Name(other, ast.Load()) if isinstance(func, ast.Name) else ast.Attribute(func.value, other)
        yield ast.Call(new, args, keywords)
    for i, keyword in enumerate(keywords):
        if keyword.arg in ("axis", "keepdims", "k", "ddof", "dtype", "initial", "mask", "is_causal", "scale"):
            yield ast.Call(func, args, keywords[:i] + keywords[i + 1 :])


def general(node: ast.AST) -> Iterator[ast.AST]:
    """More that could stand in a place, outside of mathematics."""
    match node:
        case ast.Call(func=func, args=args, keywords=keywords):
            for i, keyword in enumerate(keywords):
                if keyword.arg and keyword.arg not in WITHOUT_EFFECT:
                    yield ast.Call(func, args, keywords[:i] + keywords[i + 1 :])
            if isinstance(func, ast.Name) and func.id in WRAPPERS and len(args) == 1:
                yield args[0]
            if isinstance(func, ast.Attribute) and func.attr in RECEIVERS and not args:
                yield func.value
        case ast.Tuple(elts=[first, second], ctx=ast.Load()):
            yield ast.Tuple([second, first], ast.Load())
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in IDENTITIES:
            yield ast.Compare(left, [IDENTITIES[type(op)]()], [right])
        case ast.Slice(lower=lower, upper=upper, step=step):
            if lower:
                yield ast.Slice(None, upper, step)
            if upper:
                yield ast.Slice(lower, None, step)
        case ast.comprehension(target=target, iter=each, ifs=[_, *_], is_async=is_async):
            yield ast.comprehension(target, each, [], is_async)
        case ast.ExceptHandler(type=kind, name=name, body=body) if not isinstance(body[-1], ast.Raise):
            yield ast.ExceptHandler(kind, name, [ast.Raise()])
        case ast.Assign(targets=[ast.Attribute()]) | ast.Continue() | ast.Break() | ast.Expr(value=ast.Await()):
            yield ast.Pass()


# ----- where ------------------------------------------------------------------------------------------------------


def places(tree: ast.Module, everything: bool = False) -> Iterator[tuple[str, ast.AST]]:
    """(name, what to change in) of a file: the table's statements, functions, methods, numbers with a name.

    `everything`: also any other value with a name, in the module or a class: settings and their defaults.
    """
    for statement in tree.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call(func=ast.Attribute(attr="vjp"))):
                yield name, statement  # the rules, and the forward lambda below them
            case ast.Assign(value=ast.Tuple() | ast.BinOp() | ast.Constant(value=int() | float())):
                yield ast.unparse(statement.targets[0]), statement
            case ast.FunctionDef(name=name):
                yield name, statement
            case ast.ClassDef(name=name, body=body) if not everything:
                for method in body:
                    if isinstance(method, ast.FunctionDef):
                        yield f"{name}.{method.name}", method
            case _ if everything:
                yield from other_places(statement, "")


def other_places(statement: ast.stmt, prefix: str) -> Iterator[tuple[str, ast.AST]]:
    match statement:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            yield prefix + name, statement
        case ast.ClassDef(name=name, body=body):
            for inner in body:
                yield from other_places(inner, f"{prefix}{name}.")
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr()):
            if not name.startswith("__"):
                yield prefix + name, statement


def statements(place: ast.AST) -> list[ast.AST]:
    """The place and the statements in it, in the order of the text: a statement's number is its index."""
    found = [node for node in ast.walk(place) if isinstance(node, ast.stmt | ast.ExceptHandler)]
    return sorted(found, key=lambda node: (node is not place, node.lineno, node.col_offset))


def statement_at(known: list[ast.AST], line: int) -> int:
    """The number of the innermost statement on this line."""
    return max(i for i, node in enumerate(known) if i == 0 or node.lineno <= line <= node.end_lineno)


def units(name: str, place: ast.AST) -> Iterator[tuple[str, ast.FunctionDef | ast.Lambda]]:
    """The outermost functions of a place: what is called or not called."""
    if isinstance(place, Function):
        yield name, place
        return
    for i, node in enumerate(n for n in ast.walk(place) if isinstance(n, ast.Lambda)):
        yield f"{name}#{i}", node


def variants(source: str, everything: bool = False) -> Iterator[tuple]:
    """(op, unit, hash of the op, number of the statement, line, expression, its replacement, a function that makes the
    source of the whole file)."""
    tree = ast.parse(source)
    for node in ast.walk(tree):  # of time: they decide how work is split, which changes no number (test_cpu_kernels.py)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "in_parts":
            node.args[-1].estimate = True
        elif isinstance(node, ast.keyword) and node.arg == "cost":
            node.value.estimate = True
    for op, place in list(places(tree, everything)):
        hashed = digest(place)
        owner = {id(n): unit for unit, function in units(op, place) for n in ast.walk(function)}
        number = {id(n): i for i, statement in enumerate(statements(place)) for n in within(statement)}
        for parent in list(expressions(place)):
            for name, value in ast.iter_fields(parent):
                for index, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
                    if name in UNCHANGED or decides_nothing(node):
                        continue
                    for new in [*changes(node), *(general(node) if everything else ())]:
                        if ast.unparse(node) != ast.unparse(new):
                            made = partial(changed, tree, (parent, name, index), node, new)
                            at = number.get(id(node), number.get(id(parent), 0))
                            yield op, owner.get(id(node), op), hashed, at, line_of(node, parent), node, new, made


def within(statement: ast.AST) -> Iterator[ast.AST]:
    """The statement and its expressions, without the statements in its body."""
    yield statement
    for child in ast.iter_child_nodes(statement):
        if not isinstance(child, ast.stmt | ast.ExceptHandler):
            yield from within(child)


def line_of(node: ast.AST, parent: ast.AST) -> int:
    return next(n.lineno for n in (*ast.walk(node), *ast.walk(parent)) if hasattr(n, "lineno"))


def digest(place: ast.AST) -> str:
    return hashlib.sha256(ast.unparse(bare(place)).encode()).hexdigest()[:10]


def bare(place: ast.AST) -> ast.AST:
    """The place without docstrings and annotations."""
    place = copy.deepcopy(place)
    for node in ast.walk(place):
        if isinstance(node, Function):
            node.returns = None
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:] or [ast.Pass()]
        elif isinstance(node, ast.arg):
            node.annotation = None
    return place


def expressions(node: ast.AST) -> Iterator[ast.AST]:
    """Like ast.walk, without what is no mathematics: annotations, decorators, what only raises; and 0 whatever `g`."""
    if not decides_nothing(node):
        yield node
        for name, value in ast.iter_fields(node):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and name not in UNCHANGED:
                    yield from expressions(child)


def decides_nothing(node: ast.AST) -> bool:
    if getattr(node, "estimate", False):
        return True
    match node:
        case ast.JoinedStr() | ast.Raise() | ast.If(body=[ast.Raise()], orelse=[]):
            return True
        case ast.Call(func=ast.Name(id="zeros_like")) | ast.Lambda(body=ast.Call(func=ast.Name(id="zeros_like"))):
            return True
    return False


def changed(tree: ast.Module, at: tuple, node: ast.AST, new: ast.AST) -> str:
    put(*at, new)
    source = ast.unparse(ast.fix_missing_locations(tree))
    put(*at, node)
    return source


def put(parent: ast.AST, name: str, index: int | None, node: ast.AST) -> None:
    if index is None:
        setattr(parent, name, node)
    else:
        getattr(parent, name)[index] = node


def mutants(root: Path, file: str, everything: bool = False) -> Iterator[Mutant]:
    """The mutants of a file; `everything`: outside the rules, with the changes of `general`."""
    seen: Counter[tuple[str, str]] = Counter()
    text = (root / file).read_text(encoding="utf-8")
    for op, unit, hashed, statement, line, node, new, source in variants(text, everything):
        change = f"{shown(node)}  ->  {shown(new)}"
        seen[op, change] += 1
        again = f" (place {seen[op, change]})" if seen[op, change] > 1 else ""
        yield Mutant(file, op, f"{file}: {unit}", change + again, line, statement, hashed, source)


def shown(node: ast.AST) -> str:
    """One line that names the change; of an `if` only its condition."""
    if isinstance(node, ast.If):
        return f"if {ast.unparse(node.test)}"
    return " ".join(ast.unparse(node).split())


def watched(root: Path, file: str) -> str:
    """The source of a file in which each function says that it was called."""
    tree = ast.parse((root / file).read_text(encoding="utf-8"))
    for op, place in list(places(tree)):
        for unit, function in list(units(op, place)):
            call = ast.parse(f"__called__.add({f'{file}: {unit}'!r})").body[0]
            if isinstance(function, ast.FunctionDef):
                function.body.insert(bool(ast.get_docstring(function)), call)
            else:
                pair = ast.Tuple([call.value, function.body], ast.Load())
                function.body = ast.Subscript(pair, ast.Constant(1), ast.Load())
    return ast.unparse(ast.fix_missing_locations(tree))
