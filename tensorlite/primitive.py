"""Ops: a forward function on arrays and its derivative rules.

One idea: a rule is one line of mathematics, and **it asks by parameter name for what it needs**:

    mul = elementwise(lambda x, y: x * y).vjp(lambda g, y: g * y, lambda g, x: g * x)

A rule is the vector-Jacobian product (vjp) of one argument. It gets `g`, the gradient of the loss with respect to the
result `out`, and returns the gradient with respect to the argument. It can ask for an argument, for `out`, for a
keyword argument, or for `<argument>_shape`; only what some needed rule asks for is saved.

Ops accept arrays and Variables: given arrays alone they return an array, otherwise they return a Variable and record a
Node. So the same rule computes a gradient (on arrays), or records how the gradient was computed (on Variables), and a
recorded gradient can be differentiated again.
"""

import inspect
from collections.abc import Callable, Sequence
from operator import itemgetter
from types import MethodType
from typing import TYPE_CHECKING, Any, Self, cast

from .autograd import Node, Variable
from .backend import Array, Scalar, float16, float32, float64, is_floating, ndarray, xp
from .errors.checks import check_leaves, check_supported, checked_dtype, short_repr
from .errors.explain import UNSUPPORTED_KINDS, call_text, op_error
from .errors.suggestions import unknown_argument
from .errors.torch_names import ADVICE
from .grad_mode import recording
from .promotion import dtype_of, in_float32, is_narrow, rounded, without_widening
from .typing import ArrayLike, DType

if TYPE_CHECKING:
    from .tensor import Tensor

PRIMITIVES: dict[str, "Primitive"] = {}  # every named op; the tests check each of them
FAILURES = ValueError, TypeError, IndexError, AttributeError  # what array libraries raise for wrong arguments
POSITIONAL = ("axis", "keepdims", "k")  # keyword arguments that may be given by position, as in NumPy
NUMBERS = frozenset({float, int})


class Primitive:
    """An op: a forward function on arrays, and one derivative rule per positional argument.

    Positional arguments are values, which can be differentiated; keyword-only arguments are metadata (`meta`), such as
    an axis. A forward function `f(*xs)` is variadic. It has one rule for all of its arguments, which may ask for
    `index` (the argument whose gradient is wanted), `xs` and `xs_shape`.
    """

    broadcasts = False  # True for elementwise ops: `fit` sums a gradient over the axes that were broadcast
    computes = True  # False for ops that only move or convert elements: promotion.py does not apply to them
    name = "an unnamed op"
    __name__: str  # set by `publish`; with these, an op has the attributes of a function
    __qualname__: str
    __signature__: inspect.Signature

    def __init__(self, forward: Callable[..., Any]):
        parameters = inspect.signature(forward).parameters.values()
        values = [p for p in parameters if p.kind is not p.KEYWORD_ONLY]
        self.forward = forward
        self.arguments = [p.name for p in values]
        self.defaults = [p.default for p in values]
        self.variadic = any(p.kind is p.VAR_POSITIONAL for p in values)
        self.arity = 0 if self.variadic else len(values)
        self.keywords = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
        if "out" in self.keywords or (self.variadic and "index" in self.keywords):
            raise TypeError("a keyword cannot be called out (or, with *xs, index), which rules use: rename it")
        self.differentiable: Any = WithoutRules(self)  # until vjp attaches some: a bit for each argument with a rule

    # ----- rules and what they ask for ----------------------------------------------------------------------------

    def vjp(self, *rules: Callable[..., Any] | None) -> Self:
        """Attach one rule per positional argument; None says that the op is not differentiable in that argument."""
        if len(rules) != len(self.arguments):
            raise TypeError(f"{len(rules)} rules for the {len(self.arguments)} arguments {self.arguments}")
        self.rules: Sequence[Any] = rules
        asked = [rule and list(inspect.signature(rule).parameters)[1:] for rule in rules]
        self.plan(asked)
        slots = [[self.position.get(name, -1) for name in names or ()] for names in asked]  # -1: index, at the end
        self.vjps: list[Any] = [rule and _from_saved(rule, at) for rule, at in zip(rules, slots, strict=True)]
        return self

    def plan(self, asked: Sequence[list[str] | None]) -> None:
        """Decide once, from the names that each rule asks for, what to save when the op is applied.

        Every name has a position in `Node.saved`, its slot, and a bit mask of the arguments whose rules ask for it.
        """
        users: dict[str, int] = {}
        for i, names in enumerate(asked):
            for name in names or ():
                users[name] = users.get(name, 0) | (-1 if self.variadic else 1 << i)
        if self.variadic:
            users.pop("index", None)  # known without saving anything
        self.position = {name: slot for slot, name in enumerate(users)}
        self.slots = [(self._reader(name), mask) for name, mask in users.items()]
        self.differentiable = -1 if self.variadic else sum(1 << i for i, names in enumerate(asked) if names is not None)
        self.argument_users = [users.get(name, 0) for name in self.arguments]
        self.out_users = users.get("out", 0)
        self.argument_slots = [
            (self.position[name], None if self.variadic else i)
            for i, name in enumerate(self.arguments)
            if name in self.position
        ]
        self._needs: dict[int, tuple[Any, ...]] = {}

    def _needed(self, mask: int, count: int) -> tuple[Any, ...]:
        """For the arguments of `mask`, a bit for each that needs a gradient: their positions, a function per slot that
        reads the value to save (None: nothing to save), and the positions of the arguments that are saved.
        """
        wanted = tuple([i for i in range(count) if mask >> i & 1])
        readers = [read if users & mask else None for read, users in self.slots]
        arguments = self.argument_users * count if self.variadic else self.argument_users
        needed = wanted, readers, tuple([i for i, users in enumerate(arguments) if users & mask])
        if not self.variadic:  # few masks are possible then
            self._needs[mask] = needed
        return needed

    def _reader(self, name: str) -> Callable[..., Any]:
        """A function of (raw arguments, output, metadata) that returns the value which a rule calls `name`."""
        base = name.removesuffix("_shape")
        if base in self.arguments and self.variadic:
            if base == name:
                return lambda raw, out, meta: tuple(raw)
            return lambda raw, out, meta: tuple([x.shape for x in raw])
        if base in self.arguments:
            i = self.arguments.index(base)
            if base == name:
                return lambda raw, out, meta: raw[i]
            return lambda raw, out, meta: getattr(raw[i], "shape", ())
        if name == "out":
            return lambda raw, out, meta: out
        if name in self.keywords:
            default = self.keywords[name]
            return lambda raw, out, meta: meta.get(name, default)
        raise TypeError(f"a derivative rule asks for {name!r}; it can have {', '.join(self.known_names())}")

    def asked_names(self, i: int) -> tuple[str, ...]:
        """The names that the rule for argument `i` asks for, without `g`."""
        return tuple(inspect.signature(self.rules[0 if self.variadic else i]).parameters)[1:]

    def known_names(self) -> list[str]:
        """The names that a rule may ask for."""
        return [*self.arguments, *[f"{a}_shape" for a in self.arguments], "out", *self.keywords]

    # ----- forward ------------------------------------------------------------------------------------------------

    def __call__(self, *args: Any, **meta: Any) -> Any:
        """The result as an array, or as a Variable if an argument is one; recorded if one requires a gradient."""
        if (len(args) != self.arity and not self.variadic) or (meta and not self.keywords.keys() >= meta.keys()):
            args, meta = self.bind(args, meta)
        raw, mask, bit, variables, narrow = [], 0, 1, 0, False  # mask: a bit for each argument that needs a gradient
        try:
            for a in args:
                if isinstance(a, Variable):
                    variables += 1
                    if a._requires_grad:
                        mask |= bit
                    a = a.data
                    size = a.itemsize
                elif type(a) is ndarray:
                    size = a.itemsize
                else:
                    size = 0 if type(a) in NUMBERS else self._itemsize(a)
                if size == 2:  # float16, bfloat16 (or int16)
                    narrow = True
                raw.append(a)
                bit += bit
        except AttributeError as error:  # .data was replaced by something that is not an array
            raise op_error(self, error, [a.data if isinstance(a, Variable) else a for a in args], meta) from error
        if narrow and self.computes and (found := in_float32(args, self)):
            converted, dtype = found
            return rounded(self(*converted, **meta), dtype)
        try:
            out = self.forward(*raw, **meta) if meta else self.forward(*raw)
            dtype = out.dtype if variables else getattr(out, "dtype", float32)
        except FAILURES as error:
            raise op_error(self, error, raw, meta) from error
        if (dtype is float64 or dtype is float16) and self.computes and (narrowed := without_widening(args, out)):
            return astype(self(*narrowed, **meta), float32)
        if not variables:
            return out
        return self.wrap(args, raw, out, meta, mask)

    def wrap(self, args: Sequence[Any], raw: Sequence[Any], out: Array, meta: dict[str, Any], mask: int) -> Variable:
        """The result `out` as a Variable; with a Node if there is a rule for an argument of `mask`."""
        if isinstance(out, Scalar):  # NumPy's reductions return scalars
            out = xp(out).asarray(out)
        version = [0] if out.base is None and out is not raw[0] else _version_of(out, args[0])
        mask &= self.differentiable
        dtype = out.dtype
        if not mask or not recording.get() or (dtype is not float32 and not is_floating(dtype)):
            if dtype is not float32 and dtype.kind in UNSUPPORTED_KINDS:
                call = call_text(self.name, raw)
                raise TypeError(f"{call}: the result would be of dtype {dtype}, which Tensors do not hold")
            if mask and dtype is not float32:
                check_leaves(self.name, args)
            return Variable.result(out, False, None, version)
        wanted, readers, saved_arguments = self._needs.get(mask) or self._needed(mask, len(args))
        parents: list[Any] = [None] * len(args)
        for i in wanted:
            parents[i] = args[i].node or args[i]
        saved, versions = [], []  # filled by loops: before Python 3.12 a comprehension costs a call
        for read in readers:
            saved.append(read(raw, out, meta) if read else None)
        for i in saved_arguments:
            a = args[i]
            if isinstance(a, Variable):
                versions.append((i, a._version, a._version[0]))
        if self.out_users & mask:
            versions.append(("out", version, version[0]))
        return Variable.result(out, True, Node(self, parents, wanted, saved, versions, out), version)

    # ----- backward -----------------------------------------------------------------------------------------------

    def apply_vjp(self, node: Node, g: Any, wanted: Sequence[int], record: bool) -> list[tuple[Any, ...]]:
        """Call the rules of the arguments at the positions `wanted`: a pair (parent, gradient with respect to it) for
        each. With `record`, the gradients are Variables.
        """
        saved = self.saved_variables(node) if record else node.saved
        pieces = []
        for i in wanted:
            piece = self.vjps[0](g, [*saved, i]) if self.variadic else self.vjps[i](g, saved)
            parent = node.parents[i]
            pieces.append((parent, self.fit(piece, g, parent, i)))
        return pieces

    def saved_variables(self, node: Node) -> list[Any]:
        """The values that `node` saved, with arguments and output as Variables again, for rules that are recorded."""
        cells = {position: cell for position, cell, _ in node.versions}

        def variable(value: Any, parent: Any, position: int) -> Any:
            if parent is None:
                return value
            return Variable.result(value, True, parent, cells[position]) if isinstance(parent, Node) else parent

        values = list(node.saved)
        for slot, position in self.argument_slots:
            if values[slot] is None:
                continue
            if position is None:
                values[slot] = tuple(map(variable, values[slot], node.parents, range(len(node.parents))))
            else:
                values[slot] = variable(values[slot], node.parents[position], position)
        if "out" in self.position and values[self.position["out"]] is not None:
            slot = self.position["out"]
            values[slot] = Variable.result(values[slot], True, node, cells["out"])
        return values

    def fit(self, piece: Any, g: Any, parent: Any, i: int) -> Any:
        """A rule's result in the shape and dtype of its argument: broadcasting and promotion are undone here, for all
        rules. Any other difference is an error in the rule: AssertionError.
        """
        target = parent if isinstance(parent, Node) else parent.data
        if piece.__class__ is not g.__class__ and isinstance(piece, Variable) and not isinstance(g, Variable):
            piece = piece.data  # of a rule that computed with a Tensor of its own, as a constant
        try:
            fits = piece.shape == target.shape
        except AttributeError:
            raise TypeError(
                f"{self.name}: rule {i} must return an array or a Tensor of shape {target.shape}, not "
                f"{short_repr(piece)} ({type(piece).__name__})"
            ) from None
        if not fits:
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

    # ----- arguments and names ------------------------------------------------------------------------------------

    def bind(self, args: tuple[Any, ...], meta: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call with values by position and metadata by keyword, however they were given. TypeError
        for a missing or an unknown argument; it lists the known ones.
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

    def _itemsize(self, a: Any) -> int:
        """The bytes of an element of `a`; 0 for what has no dtype, as a list. TypeError for an unsupported array."""
        check_supported(self.name, a)
        return getattr(a, "itemsize", 0)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """As a class attribute, an op is a method; this also makes `help` and `inspect` treat it as a function."""
        return self if instance is None else MethodType(self, instance)

    def __reduce__(self) -> str:
        """By its name, as a function: pickle looks the op up in its module, and a copy of it is itself."""
        return vars(self).get("__qualname__", self.name)

    def _signature(self) -> str:
        return ", ".join([*self.arguments, *[f"{k}=" for k in self.keywords]])

    def __repr__(self) -> str:
        return f"<{type(self).__name__.lower()} op {self.name}({self._signature()})>"


class WithoutRules:
    """The value of `Primitive.differentiable` until rules are attached: using it as a bit mask raises a TypeError.
    (A `__getattr__` of the op would slow down all of its attributes.)
    """

    def __init__(self, op: Primitive):
        self.op = op

    def __rand__(self, mask: int) -> int:
        raise TypeError(
            f"{self.op.name} has no derivative rules: attach one per argument with .vjp(...), None where it has no "
            "derivative"
        )


class Elementwise(Primitive):
    """A primitive whose arguments broadcast against each other."""

    broadcasts = True


class Move(Primitive):
    """A primitive that computes nothing: it only moves or copies elements, and promotion.py does not apply to it."""

    computes = False


def unbroadcast(g: Any, shape: tuple[int, ...]) -> Any:
    """Sum `g` over the axes along which an argument of `shape` was broadcast: the transpose of broadcasting."""
    if g.shape == shape:
        return g
    extra = g.ndim - len(shape)
    stretched = tuple(i + extra for i, n in enumerate(shape) if n == 1 and g.shape[i + extra] != 1)
    if is_narrow(g.dtype):
        return astype(unbroadcast(astype(g, float32), shape), g.dtype)
    return g.sum(axis=(*range(extra), *stretched), keepdims=True).reshape(shape)


def _from_saved(rule: Callable[..., Any], slots: Sequence[int]) -> Callable[..., Any]:
    """`rule` as a function of `g` and the list of saved values; what it asks for is at the positions `slots`."""
    if not slots:
        return lambda g, saved: rule(g)
    if len(slots) == 1:
        (slot,) = slots
        return lambda g, saved: rule(g, saved[slot])
    values = itemgetter(*slots)
    return lambda g, saved: rule(g, *values(saved))


def _version_of(out: Array, x: Any) -> list[int]:
    """The version of a result: that of the argument `x` whose memory it shares, or a new one."""
    if isinstance(x, Variable):
        memory = x.data
        if out is memory or (out.base is not None and (out.base is memory or out.base is memory.base)):
            return x._version
    return [0]


def publish(namespace: dict[str, Any], document: Callable[["Primitive"], None] | None = None) -> None:
    """Give the ops of a module their names and add them to PRIMITIVES: the last line of a module that defines ops.

    `document` sets the docstring and the signature of an op (op_docs.document, for the ops of the table).
    """
    for name, op in namespace.items():
        if isinstance(op, Primitive) and op.name == Primitive.name:
            op.name = name.strip("_")
            op.__name__ = op.__qualname__ = name
            op.__module__ = namespace.get("__name__", __name__)
            PRIMITIVES[name] = op
            if document is not None:
                document(op)


primitive, elementwise, move = Primitive, Elementwise, Move
identity = move(lambda x: x).vjp(lambda g: g)
_astype = move(lambda x, *, dtype: x.astype(dtype)).vjp(lambda g: g)  # `fit` converts back
publish({"identity": identity, "_astype": _astype})


def astype(x: ArrayLike, dtype: DType) -> "Tensor":
    """`x`, a Tensor or an array, converted to `dtype`; itself if it has that already.

    The gradient comes back in the dtype of `x`. TypeError for a dtype that is not floating, integer or boolean.
    """
    dtype = checked_dtype(dtype)
    return cast("Tensor", x if dtype_of(x) == dtype else _astype(x, dtype=dtype))
