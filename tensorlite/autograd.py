"""The graph of a computation, and the walk that carries gradients back through it.

One idea: the graph is Nodes that point to Nodes, **never to the Variables they produced**. So there are no reference
cycles, what no derivative rule asked to keep dies at once, and a walk frees each node as it leaves it. A leaf is its
own node. Gradients on their way live in a dict of the walk; only leaves get a `.grad`.

There are no in-place ops: a version check guards the two things that do change data, an optimizer step and loading
a state. What an op is, and what its rules may ask for, stands in primitive.py; which ops there are, in ops.py.
"""

import contextvars
import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from heapq import heappop, heappush
from typing import Any

from .backend import Array, Scalar, add, device_of, is_array, xp
from .errors.checks import checked_requires_grad, unusable_array

recording = contextvars.ContextVar("recording", default=True)
_creation_order = itertools.count()


@contextmanager
def setting(variable: contextvars.ContextVar, value: bool) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


# ----- values and nodes -------------------------------------------------------------------------------------------


class Variable:
    """A value that remembers how it was computed. tensor.py gives it its operators and its name, Tensor."""

    __slots__ = ("__weakref__", "_grad", "_requires_grad", "_version", "data", "node")
    result: type["Variable"]  # the class of what ops return; tensor.py sets it

    def __init__(
        self, data: Array, requires_grad: bool = False, node: "Node | None" = None, version: list | None = None
    ):
        if version is None:
            if not is_array(data):
                if not isinstance(data, Scalar):  # which NumPy's reductions return
                    raise TypeError(f"Tensor(...) holds an array, not {type(data).__name__}: write tl.tensor(...)")
                data = xp(data).asarray(data)
            if refused := unusable_array(data):
                raise TypeError(f"Tensor: {refused}")
            version, requires_grad = [0], checked_requires_grad(requires_grad, data)
        self.data = data
        self._requires_grad = requires_grad
        self.node = node  # None: a leaf, which is its own node in the graph
        self._grad: Any = None
        self._version = version  # one cell for all that may share this memory

    @property
    def requires_grad(self) -> bool:
        """Whether ops on it are recorded. Assign a bool; True needs a floating dtype (TypeError otherwise)."""
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self._requires_grad = checked_requires_grad(value, self.data)

    @property
    def grad(self) -> Any:
        """The gradient that `backward` added up, for a leaf: a Variable, or None."""
        return self._grad

    @grad.setter
    def grad(self, value: Any) -> None:
        if value is not None and not isinstance(value, Variable):
            raise TypeError(f"grad: assign a Tensor or None, not {type(value).__name__}")
        if value is not None and (_kind(value.data) != _kind(self.data)):
            shape, dtype, device = _kind(self.data)
            raise ValueError(
                f"grad: assign a Tensor of the same shape {shape}, dtype {dtype} and device {device}, "
                f"not {', '.join(map(str, _kind(value.data)))}"
            )
        self._grad = value

    def backward(self, gradient: "Variable | Array | None" = None, retain_graph: bool = False) -> None:
        """Add the gradient of `self` to the `.grad` of every leaf that it was computed from.

        `gradient` is the gradient of the final result by `self`: its shape and dtype; it may be left out only when
        `self` has one element (then 1). The graph is freed on the way unless `retain_graph`. Nothing is recorded:
        for derivatives of derivatives use `grad(..., create_graph=True)`.
        """
        g = _incoming(self, gradient)
        for leaf, piece, owned in _walk(self, g.data, None, retain_graph, record=False):
            if leaf._grad is None:
                leaf._grad = _own(piece, owned)
            else:
                if leaf._grad.data.shape != piece.shape:
                    raise ValueError(
                        f"backward: the gradient has shape {piece.shape}, but .grad has {leaf._grad.data.shape}: .data "
                        "was replaced by an array of another shape; set x.grad = None first"
                    )
                leaf._grad.data = add(leaf._grad.data, piece, out=leaf._grad.data)
                leaf._grad._version[0] += 1


def _kind(x: Array) -> tuple:
    return x.shape, x.dtype, device_of(x)


class Node:
    """One recorded application of an op: where its inputs came from, and what its rules asked to keep."""

    __slots__ = ("dtype", "op", "order", "parents", "saved", "shape", "versions", "wanted")

    def __init__(self, op, parents: Sequence, wanted: Sequence[int], saved: list, versions: list, out: Array):
        self.op = op
        self.order = next(_creation_order)  # parents always come before children
        self.shape = out.shape
        self.dtype = out.dtype
        self.parents = parents  # an argument's Node, the argument itself where it is a leaf, None where nothing flows
        self.wanted = wanted  # the positions of those that are not None
        self.saved: Any = saved  # a value per slot of the op, or a cheap op's Node; None where no rule asks for it
        self.versions = versions  # (position or "out", cell, what it said) for each Variable among them

    def variables(self) -> list:
        """What was saved, with arguments and output as Variables again: the input of a rule that is recorded."""

        cells = {position: cell for position, cell, _ in self.versions}

        def variable(value, parent, position):
            if parent is None:
                return value
            return Variable.result(value, True, parent, cells[position]) if isinstance(parent, Node) else parent

        values = list(self.saved)
        for slot, position in self.op.argument_slots:
            if values[slot] is None:
                continue
            if position is None:
                values[slot] = tuple(map(variable, values[slot], self.parents, itertools.count()))
            else:
                values[slot] = variable(values[slot], self.parents[position], position)
        slot = self.op.position.get("out")
        if slot is not None and values[slot] is not None:
            values[slot] = Variable.result(values[slot], True, self, cells["out"])
        return values


# ----- the walk ---------------------------------------------------------------------------------------------------


def grad(output: Variable, inputs, gradient=None, create_graph: bool = False, retain_graph: bool | None = None):
    """The gradient of `output` by `inputs`, returned; no `.grad` is touched.

    `inputs` is a Tensor (leaf or not) or a sequence of them; the result has the same form, each gradient with the
    shape and dtype of its input, zeros where `output` does not depend on it. `gradient` as in `backward`;
    `retain_graph` defaults to `create_graph`.

    With `create_graph` the gradient is itself differentiable, to any order. One that turned out constant requires a
    gradient too, so that its own are zeros, and not an error as for an output that nothing was recorded for.
    """
    single = isinstance(inputs, Variable)
    if not single and not isinstance(inputs, Iterable):
        raise TypeError(f"grad: inputs must be a Tensor or a sequence of Tensors, not {type(inputs).__name__}")
    inputs = [inputs] if single else list(inputs)
    for i, x in enumerate(inputs):
        if not isinstance(x, Variable):
            raise TypeError(f"grad: input {i} must be a Tensor, not {type(x).__name__}")
        if not x.requires_grad:
            raise RuntimeError(f"grad: input {i} does not require a gradient: create it with requires_grad=True")
    if not isinstance(output, Variable):
        many = ": for several, give their sum" if isinstance(output, (list, tuple)) else ""
        raise TypeError(f"grad: the output must be one Tensor, not {type(output).__name__}{many}")
    g = _incoming(output, gradient)
    keep = create_graph if retain_graph is None else retain_graph
    with setting(recording, create_graph):
        walked = _walk(output, g if create_graph else g.data, {x.node or x for x in inputs}, keep, create_graph)
    found = {node: piece if create_graph else _own(piece, owned) for node, piece, owned in walked}
    reached = [found.get(x.node or x) for x in inputs]
    results = [
        Variable.result(xp(x.data).zeros_like(x.data)) if r is None else r for x, r in zip(inputs, reached, strict=True)
    ]
    if create_graph:
        results = [r if r.requires_grad else Variable.result(r.data, True, None, r._version) for r in results]
    return results[0] if single else results


def _own(piece: Array, owned: bool) -> Variable:
    """A gradient to hand out: an array that nobody else holds."""
    return Variable.result(piece if owned and is_array(piece) else xp(piece).array(piece))


def _walk(output: Variable, g, targets: set | None, keep: bool, record: bool) -> list[tuple]:
    """Pull `g` back through the graph, newest node first; return (target, gradient, owned) of every target reached.

    Without `targets` they are all leaves; with them, only paths that lead to one are walked. A gradient that arrives
    first is borrowed, unless a leaf gets what its rule just made; a sum is owned, and later ones add in place. The
    second is added to what its rule made, where that is nobody else's.
    """
    root = output.node or output
    oldest = min([node.order if isinstance(node, Node) else -1 for node in targets or ()], default=-1)
    useful = None if targets is None else _leading_to(targets, root, oldest)
    grads, owned = {root: g}, set()
    heap = [(-root.order, root)] if isinstance(root, Node) and root.order > oldest else []
    while heap:
        node = heappop(heap)[1]
        g = grads.pop(node) if targets is None or node not in targets else grads[node]
        wanted = node.wanted
        if useful is not None and node.saved is not None:  # a freed node raises in pull
            wanted = [i for i in wanted if node.parents[i] in useful]
            if not wanted:
                continue
        pieces = node.op.pull(node, g, wanted, record)
        for parent, piece in pieces:
            if parent not in grads:
                grads[parent] = piece
                if isinstance(parent, Node):
                    if parent.order > oldest:
                        heappush(heap, (-parent.order, parent))
                elif not record and _fresh(piece, g, node.saved, pieces):
                    owned.add(parent)
            elif parent in owned:
                grads[parent] = add(grads[parent], piece, out=grads[parent])
            elif not record and _fresh(piece, g, node.saved, pieces):
                grads[parent] = add(piece, grads[parent], out=piece)
                owned.add(parent)
            else:
                grads[parent] = grads[parent] + piece if record else add(grads[parent], piece)
                if not record:
                    owned.add(parent)
        if not keep:
            node.saved, node.parents = None, ()
    return [(node, piece, node in owned) for node, piece in grads.items() if targets is None or node in targets]


def _fresh(piece: Array, g: Array, saved: Sequence, pieces: Sequence) -> bool:
    """Whether a rule made this array just now and nobody else looks at it: then the walk may add to it in place."""
    if piece is g or piece.base is not None:
        return False
    for value in saved:
        if value is piece:
            return False
    return len([None for _, other in pieces if other is piece or other.base is piece]) == 1


def _leading_to(targets: set, root, oldest: int) -> set:
    """The nodes under `root` from which a target is reached, the targets included."""
    nodes, stack = set(), [root]
    while stack:
        node = stack.pop()
        if isinstance(node, Node) and node.order > oldest and node not in nodes:
            nodes.add(node)
            stack.extend(node.parents)
    useful = set(targets)
    for node in sorted(nodes, key=lambda node: node.order):
        if node.saved is None or not useful.isdisjoint(node.parents):  # freed: it may have led there
            useful.add(node)
    return useful


def _incoming(output: Variable, gradient) -> Variable:
    """The gradient that a walk starts from, checked at the door."""
    data = output.data
    if not output.requires_grad:
        raise RuntimeError(
            "backward: this Tensor was not computed from one that requires a gradient: "
            "create the inputs with requires_grad=True, and compute it outside no_grad()"
        )
    if gradient is None:
        if data.size != 1:
            raise RuntimeError(f"backward: a gradient is needed for shape {data.shape}: only one element defaults to 1")
        return Variable.result(xp(data).ones_like(data))
    gradient = gradient if isinstance(gradient, Variable) else Variable.result(xp(data).asarray(gradient))
    if gradient.data.shape != data.shape or gradient.data.dtype != data.dtype:
        raise ValueError(
            f"backward: the gradient must have the output's shape {data.shape} and dtype {data.dtype}, "
            f"not {gradient.data.shape} and {gradient.data.dtype}"
        )
    return gradient
