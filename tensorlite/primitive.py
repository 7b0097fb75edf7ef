"""What an op is: a forward function on arrays and its derivative rules.

One idea: a rule is one line of mathematics, and **it asks by parameter name for what it needs**:

    mul = elementwise(lambda x, y: x * y).vjp(lambda g, y: g * y, lambda g, x: g * x)

Only what some needed rule asks for is kept: an argument, `out`, a keyword argument, or `<argument>_shape`. A rule is
the vector-Jacobian product of its argument: the gradient `g` of the loss by `out` comes in, the gradient by the
argument comes out. Ops are polymorphic: raw arrays pass through, Variables are recorded. So the same rule text
computes a gradient (on arrays) and records how it was computed (on Variables): it is differentiable in turn.
"""

import contextvars
import functools
import inspect
from collections.abc import Callable, Sequence
from operator import itemgetter
from types import MethodType
from typing import Any, TypeVar

from .autograd import Node, Variable, grad, recording, setting
from .backend import Scalar, float16, float32, float64, is_floating, ndarray, xp
from .errors.checks import check_leaves, checked_dtype, shortened, unusable_array
from .errors.explain import UNSUPPORTED, explained, given, unusable
from .errors.suggestions import unknown_argument
from .errors.torch_names import ADVICE
from .promotion import in_float32, is_narrow, without_widening

F = TypeVar("F", bound=Callable)
_fusing = contextvars.ContextVar("fusing", default=True)
PRIMITIVES: dict[str, "Primitive"] = {}  # every named op: what the tests walk
_usable: set[type] = {ndarray}  # types of arguments, other than Tensors, that were looked at once
POSITIONAL = ("axis", "keepdims", "k")  # metadata that may be given by position, as NumPy has it


def unfused():
    """`with unfused():` every fused op runs as its specification, so that the graph shows each of its steps."""
    return setting(_fusing, False)


class Primitive:
    """An op: a forward function on arrays, and one derivative rule per positional argument.

    Positional arguments are values, keyword-only arguments are metadata. A forward function `f(*xs)` has one rule
    for all of its arguments; the rule may ask for `index` (which argument it is for), `xs` and `xs_shape`.
    """

    broadcasts = False  # elementwise ops broadcast their arguments; the engine sums that away again
    computes = True  # its arguments are promoted first (promotion.py); otherwise it moves elements or converts them
    recompute = False  # a fused op's large result may be made again rather than kept
    spec: Any = None  # what a fused op must equal, and what runs where it does not serve
    name = "an unnamed op"
    __name__: str  # given by publish, as are these of a function
    __qualname__: str
    __signature__: inspect.Signature

    def __init__(self, forward: Callable, keeps: Sequence[str] = ()):
        parameters = inspect.signature(forward).parameters.values()
        values = [p for p in parameters if p.kind is not p.KEYWORD_ONLY]
        self.forward = forward
        self.arguments = [p.name for p in values]
        self.defaults = [p.default for p in values]
        self.variadic = any(p.kind is p.VAR_POSITIONAL for p in values)
        self.arity = 0 if self.variadic else len(values)
        self.keywords = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
        if "out" in self.keywords or (self.variadic and "index" in self.keywords):
            raise TypeError("a keyword named out (or index, beside *xs) would hide what rules call so: rename it")
        self.keeps = tuple(keeps)  # residuals: what a fused forward returns beside its result
        self.differentiable: Any = WithoutRules(self)  # until vjp attaches some: a bit for each argument with a rule

    def vjp(self, *rules: Callable | None) -> "Primitive":
        """Attach one rule per positional argument; None says that the op is not differentiable in that argument."""
        if len(rules) != len(self.arguments):
            raise TypeError(f"{len(rules)} rules for the {len(self.arguments)} arguments {self.arguments}")
        self.rules: Sequence[Any] = rules
        self._plan([rule and list(inspect.signature(rule).parameters)[1:] for rule in rules])
        self.pulls: list[Any] = [rule and _asking(rule, at) for rule, at in zip(rules, self.asks, strict=True)]
        return self

    def _plan(self, asked: Sequence[list[str] | None]) -> None:
        """Work out once, from the names that each rule asks for, what an application has to keep and for whom."""
        users: dict[str, int] = {}  # name -> bit mask of the arguments whose rules ask for it
        for i, names in enumerate(asked):
            for name in names or ():
                users[name] = users.get(name, 0) | (-1 if self.variadic else 1 << i)
        if self.variadic:
            users.pop("index", None)  # known without keeping anything
        position = self.position = {name: k for k, name in enumerate(users)}
        self.slots = [(self._reader(name), mask) for name, mask in users.items()]
        self.asks = [[position.get(name, -1) for name in names or ()] for names in asked]  # index: stands at the end
        self.differentiable = -1 if self.variadic else sum(1 << i for i, names in enumerate(asked) if names is not None)
        self.kept = [users.get(name, 0) for name in self.arguments]
        self.keeps_out = users.get("out", 0)
        self.argument_slots = [
            (position[name], None if self.variadic else i) for i, name in enumerate(self.arguments) if name in position
        ]
        self._needs: dict[int, tuple] = {}

    def _needed(self, mask: int, count: int) -> tuple:
        """For gradients to the arguments of `mask`: their positions, readers of what to keep, arguments among that."""
        wanted = tuple([i for i in range(count) if mask >> i & 1])
        readers = [read if users & mask else None for read, users in self.slots]
        kept = self.kept * count if self.variadic else self.kept
        needed = wanted, readers, tuple([i for i, users in enumerate(kept) if users & mask])
        if not self.variadic:  # of these there are few masks
            self._needs[mask] = needed
        return needed

    def _reader(self, name: str) -> Callable:
        """How to find what a rule calls `name` among raw arguments, output, metadata and residuals."""
        base = name.removesuffix("_shape")
        if base in self.arguments:
            i = self.arguments.index(base)
            if self.variadic:
                return (lambda raw, out, meta, kept: tuple(raw)) if base == name else _shapes
            return (
                (lambda raw, out, meta, kept: raw[i])
                if base == name
                else (lambda raw, out, meta, kept: getattr(raw[i], "shape", ()))
            )
        if name == "out":
            return lambda raw, out, meta, kept: out
        if name in self.keywords:
            default = self.keywords[name]
            return lambda raw, out, meta, kept: meta.get(name, default)
        if name in self.keeps:
            return lambda raw, out, meta, kept: kept[name]
        known = [*self.arguments, *[f"{a}_shape" for a in self.arguments], "out", *self.keywords, *self.keeps]
        raise TypeError(f"a derivative rule asks for {name!r}; it can have {', '.join(known)}")

    def __call__(self, *args, **meta):
        if (len(args) != self.arity and not self.variadic) or (meta and not self.keywords.keys() >= meta.keys()):
            args, meta = self._bind(args, meta)
        mask, bit, variables, narrow, raw = 0, 1, 0, False, []
        try:
            for a in args:
                if isinstance(a, Variable):
                    variables += 1
                    if a._requires_grad:
                        mask |= bit
                    a = a.data
                    if a.itemsize == 2:
                        narrow = True
                elif (kind := type(a)) is ndarray:
                    if a.itemsize == 2:
                        narrow = True
                elif kind is not float and kind is not int:
                    if kind not in _usable:
                        check_usable(self.name, a)
                    if getattr(a, "itemsize", 4) == 2:
                        narrow = True
                raw.append(a)
                bit += bit
        except AttributeError as error:  # .data was replaced by what is no array
            raise explained(self, error, [a.data if isinstance(a, Variable) else a for a in args], meta) from error
        if narrow and self.computes and (found := in_float32(args, astype, self)):
            converted, dtype = found
            return _rounded(self(*converted, **meta), dtype)
        try:
            if self.spec is not None and not (_fusing.get() and self.supports(*raw, **meta)):
                return self.spec(*args, **meta)
        except (AttributeError, TypeError) as error:  # a list has no shape
            if wrong := unusable(self, error, raw):
                raise wrong from error
            raise
        try:
            out = self.forward(*raw, **meta) if meta else self.forward(*raw)
            kept = meta
            if type(out) is tuple:
                out, kept = out
            dtype = out.dtype if variables else getattr(out, "dtype", float32)
        except (ValueError, TypeError, IndexError, AttributeError) as error:
            raise explained(self, error, raw, meta) from error
        if (dtype is float64 or dtype is float16) and self.computes and (kinder := without_widening(args, out, astype)):
            return astype(self(*kinder, **meta), float32)
        if not variables:
            return out
        if variables != len(raw) and dtype.kind in UNSUPPORTED:
            raise TypeError(f"{given(self.name, raw)}: the result would be of dtype {dtype}, which Tensors do not hold")
        if isinstance(out, Scalar):  # NumPy's reductions return scalars
            out = xp(out).asarray(out)
        version = [0] if out.base is None and out is not raw[0] else _version_of(out, args[0])
        mask &= self.differentiable
        if not mask or not recording.get() or (dtype is not float32 and not is_floating(dtype)):
            if mask and dtype is not float32:
                check_leaves(self.name, args)
            return Variable.result(out, False, None, version)
        return Variable.result(out, True, self._record(args, raw, out, version, meta, kept, mask), version)

    def _record(self, args: Sequence, raw: Sequence, out, version: list, meta: dict, kept: dict, mask: int) -> Node:
        """The node of an application in which the arguments of `mask` need a gradient."""
        wanted, readers, kept_arguments = self._needs.get(mask) or self._needed(mask, len(args))
        parents: list[Any] = [None] * len(args)
        for i in wanted:
            parents[i] = args[i].node or args[i]
        saved, versions = [], []  # filled by loops: before Python 3.12 a comprehension costs a call
        for read in readers:
            saved.append(read(raw, out, meta, kept) if read else None)
        for i in kept_arguments:
            a = args[i]
            if isinstance(a, Variable):
                versions.append((i, a._version, a._version[0]))
        if self.keeps_out & mask:
            versions.append(("out", version, version[0]))
        return Node(self, parents, wanted, saved, versions, out)

    def pull(self, node: Node, g, wanted: Sequence[int], record: bool) -> list:
        """(parent, the gradient by it) for each wanted argument."""
        self._check(node)
        saved = node.variables() if record else node.saved
        pieces = []
        for i in wanted:
            piece = self.pulls[0](g, [*saved, i]) if self.variadic else self.pulls[i](g, saved)
            parent = node.parents[i]
            pieces.append((parent, self._fit(piece, g, parent, i)))
        return pieces

    def _check(self, node: Node) -> None:
        if node.saved is None:
            raise RuntimeError(
                f"backward through {self.name} a second time: the graph was freed by the first; "
                "pass retain_graph=True there, or compute the result again"
            )
        for _, cell, version in node.versions:
            if cell[0] != version:
                raise RuntimeError(
                    f"backward through {self.name}: a value that it needs was changed after it was used (by an "
                    "optimizer step or by loading a state); call backward first, or compute the result again"
                )

    def _fit(self, piece, g, parent, i: int):
        """Undo broadcasting and dtype promotion at the engine's edge; whatever else does not fit is a wrong rule."""
        target = parent if isinstance(parent, Node) else parent.data
        if not hasattr(piece, "shape"):
            raise TypeError(
                f"{self.name}: rule {i} must return an array or a Tensor of shape {target.shape}, not "
                f"{shortened(piece)} ({type(piece).__name__})"
            )
        if piece.shape != target.shape:
            if not self.broadcasts or piece.shape != g.shape:
                raise AssertionError(
                    f"{self.name}: rule {i} gave shape {piece.shape} for an argument of {target.shape}"
                )
            piece = unbroadcast(piece, target.shape)
        if piece.dtype != target.dtype:
            if not is_floating(target.dtype):
                check_leaves(self.name, [parent])
            if piece.dtype != g.dtype:
                raise AssertionError(
                    f"{self.name}: rule {i} gave {piece.dtype} for {target.dtype} (incoming: {g.dtype})"
                )
            piece = piece.astype(target.dtype)
        return piece

    def _bind(self, args: tuple, meta: dict) -> tuple[tuple, dict]:
        """Values given by keyword move to their positions, and an axis given by position becomes a keyword; an unknown
        keyword is an error that lists the known ones.
        """
        values, rest = list(args), dict(meta)
        if not self.variadic and len(args) > self.arity:
            extra = values[self.arity :]
            names = [name for name in self.keywords if name in POSITIONAL and name not in meta]
            if len(extra) > len(names):
                hint = f": {ADVICE['decimals']}" if self.name == "round" else ""
                raise TypeError(f"{self.name}: {len(args)} arguments by position; it takes {self._signature()}{hint}")
            rest |= zip(names, extra, strict=False)
            del values[self.arity :]
        for name, default in list(zip(self.arguments, self.defaults, strict=True))[len(values) :]:
            if name not in rest and default is inspect.Parameter.empty:
                raise TypeError(f"{self.name}: argument {name!r} is missing; it takes {self._signature()}")
            values.append(rest.pop(name, default))
        if unknown := rest.keys() - self.keywords.keys():
            raise TypeError(unknown_argument(self.name, min(unknown), self._signature().split(", ")))
        return tuple(values), rest

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """Bind as a function in a class does; by this, `help` and `inspect` take an op for a function, too."""
        return self if instance is None else MethodType(self, instance)

    def _signature(self) -> str:
        return ", ".join([*self.arguments, *[f"{k}=" for k in self.keywords]])

    def __repr__(self) -> str:
        return f"<{type(self).__name__.lower()} op {self.name}({self._signature()})>"


class WithoutRules:
    """Stands where an op without rules has those bits. (A `__getattr__` would slow down all attributes of all ops.)"""

    def __init__(self, op: Primitive):
        self.op = op

    def __rand__(self, mask: int):
        raise TypeError(
            f"{self.op.name} has no derivative rules: attach one per argument with .vjp(...), None where it has no "
            "derivative"
        )


class Elementwise(Primitive):
    """A primitive whose arguments broadcast against each other."""

    broadcasts = True


class Move(Primitive):
    """A primitive that computes nothing: the elements of its result are those of its arguments, in their dtype."""

    computes = False


RECOMPUTE_SIZE = 1 << 19  # elements: up to so many stay in a cache, and are sooner kept than made again


class Fused(Primitive):
    """A fast forward and one raw rule for all arguments, beside the specification that both must equal.

    The rule gets `needs` (a bool per argument) after `g` and returns a gradient, or None, per argument. It runs on
    arrays only: where the gradient is to be differentiable in turn, the engine differentiates the specification.
    `supports(*raw, **meta)` says for what there is a fast forward at all; the specification runs for everything else.
    What is `cheap` takes far less time than the product that follows it: no other fused op keeps its large results. In
    their place stands its node, and the first who asks makes the result again.
    """

    computes = False  # kernels know their dtypes: what they do not serve, the specification promotes

    def __init__(
        self,
        forward: Callable,
        spec: Callable,
        keeps: Sequence[str] = (),
        supports: Callable = lambda *raw, **meta: True,
        recompute: bool = False,
    ):
        super().__init__(forward, keeps)
        self.spec, self.supports, self.recompute = spec, supports, recompute
        self.rule: Any = None

    def vjp(self, *rules: Callable | None) -> "Fused":
        (self.rule,) = rules
        names = list(inspect.signature(self.rule).parameters)[2:]
        kept = [*names, *self.arguments, *self.keywords]  # the specification may need all of them
        self._plan([[*kept, "out"] if self.recompute else kept] * len(self.arguments))
        self.asked = [self.position[name] for name in names]
        self.asks_out = "out" in names
        return self

    def _record(self, args: Sequence, raw: Sequence, out, version: list, meta: dict, kept: dict, mask: int) -> Node:
        node = super()._record(args, raw, out, version, meta, kept, mask)
        for name, a in zip(self.arguments, args, strict=True):
            if isinstance(a, Variable) and a.node is not None and a.node.op.recompute and a.data.size > RECOMPUTE_SIZE:
                node.saved[self.position[name]] = a.node
        if self.recompute and (out.size > RECOMPUTE_SIZE or not self.asks_out):
            node.saved[self.position["out"]] = None
        return node

    def _complete(self, node: Node, out: bool) -> list:
        """What the node saved, with the results of cheap ops made again; its own only if `out`."""
        self._check(node)
        saved = node.saved
        for k, value in enumerate(saved):
            if isinstance(value, Node):
                saved[k] = value.op._complete(value, True)[value.op.position["out"]]
        if out and saved[self.position["out"]] is None:
            meta = {name: saved[self.position[name]] for name in self.keywords}
            made = self.forward(*[saved[self.position[name]] for name in self.arguments], **meta)
            saved[self.position["out"]] = made[0] if type(made) is tuple else made
        return saved

    def pull(self, node: Node, g, wanted: Sequence[int], record: bool) -> list:
        saved = self._complete(node, self.asks_out)
        if record:
            pieces = self._through_specification(node, g, wanted)
        else:
            needs = [i in wanted for i in range(len(node.parents))]
            given = self.rule(g, needs, *[saved[k] for k in self.asked])
            pieces = [given[i] for i in wanted]
        return [(node.parents[i], self._fit(p, g, node.parents[i], i)) for p, i in zip(pieces, wanted, strict=True)]

    def _through_specification(self, node: Node, g, wanted: Sequence[int]) -> list:
        values = node.variables()
        args = [values[k] for k, _ in self.argument_slots]
        for i in wanted:  # partial derivatives: as an argument may be computed from another, each gets its own node
            args[i] = identity(args[i])
        meta = {name: values[self.position[name]] for name in self.keywords}
        out = astype(self.spec(*args, **meta), g.data.dtype)  # the loss of a GPU's kernel may be wider
        return grad(out, [args[i] for i in wanted], g, create_graph=True)


def unbroadcast(g, shape: tuple[int, ...]):
    """Sum `g` over the axes along which an argument of `shape` was broadcast: the transpose of broadcasting."""
    if g.shape == shape:
        return g
    extra = g.ndim - len(shape)
    stretched = tuple(i + extra for i, n in enumerate(shape) if n == 1 and g.shape[i + extra] != 1)
    if is_narrow(g.dtype):
        return astype(unbroadcast(astype(g, float32), shape), g.dtype)
    return g.sum(axis=(*range(extra), *stretched), keepdims=True).reshape(shape)


def _shapes(raw, out, meta, kept) -> tuple:
    return tuple([x.shape for x in raw])


def _asking(rule: Callable, places: Sequence[int]) -> Callable:
    """`rule` as a function of g and all that was saved, where at `places` stands what it asks for."""
    if not places:
        return lambda g, saved: rule(g)
    if len(places) == 1:
        (place,) = places
        return lambda g, saved: rule(g, saved[place])
    asked = itemgetter(*places)
    return lambda g, saved: rule(g, *asked(saved))


def _version_of(out, x) -> list:
    """The version of a result: that of the argument `x` whose memory it looks at, or a new one."""
    if isinstance(x, Variable):
        memory = x.data
        if out is memory or (out.base is not None and (out.base is memory or out.base is memory.base)):
            return x._version
    return [0]


def publish(namespace: dict[str, Any], document: Callable[["Primitive"], None] | None = None) -> None:
    """Name the ops of a module and enter them in PRIMITIVES: the last line of a module that defines ops.

    `document` gives each op its docstring and its signature (op_docs.py does, for the ops of the table).
    """
    for name, op in namespace.items():
        if isinstance(op, Primitive) and op.name == Primitive.name:
            op.name = name.strip("_")
            op.__name__ = op.__qualname__ = name
            op.__module__ = namespace.get("__name__", __name__)
            PRIMITIVES[name] = op
            if document is not None:
                document(op)


primitive, elementwise, move, fused = Primitive, Elementwise, Move, Fused
identity = move(lambda x: x).vjp(lambda g: g)
_astype = move(lambda x, *, dtype: x.astype(dtype)).vjp(lambda g: g)  # the engine casts back
publish({"identity": identity, "_astype": _astype})


def check_usable(name: str, x) -> None:
    """TypeError for arrays that ops do not take. Types of which nothing is wrong are noted, and not looked at again."""
    if refused := unusable_array(x):
        raise TypeError(f"{name}: {refused}")
    _usable.add(type(x))


def astype(x, dtype):
    """`x` converted to `dtype`; the gradient comes back in the dtype of `x`."""
    dtype = checked_dtype(dtype)
    return x if _dtype(x) == dtype else _astype(x, dtype=dtype)


def wide(function: F, integers: bool = False) -> F:
    """For a function made of several ops: narrow floats are converted once for all of them, and the result is rounded.

    With `integers`, a first argument of integers or booleans becomes float32.
    """

    @functools.wraps(function)
    def promoted(*args, **options):
        if args and not isinstance(args[0], Variable) and type(args[0]) not in _usable:
            check_usable(function.__name__, args[0])
        dtype = _dtype(args[0]) if args else None
        if dtype is float32 or dtype is float64 or dtype is None:
            return function(*args, **options)
        if integers and not is_floating(dtype):
            args = astype(args[0], float32), *args[1:]
        found = in_float32([*args, *options.values()], astype)
        if found is None:
            return function(*args, **options)
        converted, narrow = found
        options = dict(zip(options, converted[len(args) :], strict=True))
        return _rounded(function(*converted[: len(args)], **options), narrow)

    return promoted  # type: ignore[return-value]


def floating(function: F) -> F:
    """`wide`, for functions whose result is floating: integers and booleans become float32 first."""
    return wide(function, integers=True)


def _rounded(x, dtype):
    """`x` in `dtype` (None: as it is), unless it holds integers or booleans."""
    return x if dtype is None or not is_floating(_dtype(x)) else astype(x, dtype)


def _dtype(x):
    return getattr(x.data if isinstance(x, Variable) else x, "dtype", None)
