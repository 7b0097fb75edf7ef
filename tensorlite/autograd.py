"""The graph of a computation, and the backward pass through it (`walk`).

A Variable is an array with a place in the graph. The class Tensor is a Variable with operators and methods (tensor.py).
A Node is one application of an op. It points to the Nodes that its arguments came from, **never to the Variable that it
produced**. So there are no reference cycles, what no derivative rule needs is freed at once, and the backward pass
frees each node as it leaves it. A leaf, a Variable that was not computed by an op, has no Node: nodes point to the leaf
itself. Only leaves get a `.grad`; the gradients of nodes are held in a dict during the backward pass.

There are no in-place ops. Two things do change data, an optimizer step and loading a state. Both increase the version
of the data, and backward raises an error where a value that it needs has changed since it was saved. primitive.py says
what an op is and which values its derivative rules can ask for; ops.py has the ops.
"""

import itertools
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from typing import Any

from .backend import Array, Scalar, add, is_array, xp
from .errors.checks import checked_requires_grad, unsupported_array_advice
from .errors.gradients import check_assigned, check_output, check_sum, checked_inputs
from .grad_mode import recording, setting

_creation_order = itertools.count()

# ----- values and nodes -------------------------------------------------------------------------------------------


class Variable:
    """An array that remembers how it was computed: the base class of Tensor, which adds operators (tensor.py)."""

    __slots__ = ("__weakref__", "_grad", "_requires_grad", "_version", "data", "node")
    result: type["Variable"]  # the class of the results of ops, called as __init__ below: tensor.py sets it to Tensor

    def __init__(
        self, data: Array, requires_grad: bool = False, node: "Node | None" = None, version: list[int] | None = None
    ):
        if version is None:  # a leaf; the results of ops need no checks
            if not is_array(data):
                if not isinstance(data, Scalar):  # which NumPy's reductions return
                    raise TypeError(f"Tensor(...) holds an array, not {type(data).__name__}: write tl.tensor(...)")
                data = xp(data).asarray(data)
            if advice := unsupported_array_advice(data):
                raise TypeError(f"Tensor: {advice}")
            version, requires_grad = [0], checked_requires_grad(requires_grad, data)
        self.data = data
        self._requires_grad = requires_grad
        self.node = node  # None: a leaf, which is its own node in the graph
        self._grad: Any = None
        self._version = version  # a list of one number, shared by all Variables that share this memory

    @property
    def requires_grad(self) -> bool:
        """Whether ops on it are recorded. Assign a bool; True needs a floating dtype (TypeError otherwise)."""
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self._requires_grad = checked_requires_grad(value, self.data)

    @property
    def grad(self) -> Any:
        """The gradient that `backward` added up, for a leaf: a Tensor, or None."""
        return self._grad

    @grad.setter
    def grad(self, value: Any) -> None:
        if value is not None:
            if not isinstance(value, Variable):
                raise TypeError(f"grad: assign a Tensor or None, not {type(value).__name__}")
            check_assigned(value.data, self.data)
        self._grad = value

    def backward(self, gradient: "Variable | Array | None" = None, retain_graph: bool = False) -> None:
        """Add the gradient of `self` to the `.grad` of every leaf that it was computed from.

        `gradient` is the gradient of the final result with respect to `self`, in the shape and dtype of `self`; it may
        be omitted only if `self` has one element (then it is 1). The graph is freed on the way unless `retain_graph`.
        Nothing is recorded: for derivatives of derivatives use `grad(..., create_graph=True)`.

        RuntimeError if nothing was recorded, the graph is freed already, or a saved value was changed since; ValueError
        for a `gradient` of another shape or dtype.
        """
        walk(self, starting_gradient(self, gradient).data, retain_graph=retain_graph).add_to_leaves()


class Node:
    """One recorded application of an op: where its arguments came from, and what its rules asked to save."""

    __slots__ = ("dtype", "op", "order", "parents", "saved", "shape", "versions", "wanted")

    def __init__(
        self, op: Any, parents: Sequence[Any], wanted: Sequence[int], saved: list[Any], versions: list[Any], out: Array
    ):
        self.op = op  # a Primitive: its `apply_vjp` computes the gradients of the arguments
        self.order = next(_creation_order)  # smaller for arguments than for results
        self.shape = out.shape
        self.dtype = out.dtype
        self.parents = parents  # an argument's Node, the argument itself if it is a leaf, None if it needs no gradient
        self.wanted = wanted  # the positions of the parents that are not None
        # a value for each name that the op's rules ask for (Primitive.plan), None where it is not needed; all of it is
        # None once the node is freed
        self.saved: Any = saved
        self.versions = versions  # for each saved Variable: its position or "out", its version list, its version then

    def check(self) -> None:
        """RuntimeError if an earlier walk has freed this node, or if a value that it saved has changed since."""
        if self.saved is None:
            raise RuntimeError(
                f"backward through {self.op.name} a second time: the graph was freed by the first; "
                "pass retain_graph=True there, or compute the result again"
            )
        for _, cell, version in self.versions:
            if cell[0] != version:
                raise RuntimeError(
                    f"backward through {self.op.name}: a value that it needs was changed after it was used (by an "
                    "optimizer step or by loading a state); call backward first, or compute the result again"
                )


# ----- the backward pass ------------------------------------------------------------------------------------------


class Gradients:
    """For each node and leaf that the backward pass has reached: the sum of the gradients that have arrived so far."""

    __slots__ = ("sums",)

    def __init__(self, root: Any, g: Any):
        self.sums: dict[Any, Any] = {root: g}

    def add(self, pieces: Sequence[tuple[Any, ...]], node: Node, g: Any) -> list[Any]:
        """Add the results of the rules of `node`, as pairs (parent, its part of the gradient). Return the parents that
        are reached for the first time.

        `g` is the gradient of `node`. With both, a subclass can tell the arrays that a rule has made from those that it
        has only passed on.
        """
        reached = []
        for parent, piece in pieces:
            if parent in self.sums:
                self.sums[parent] = self.sums[parent] + piece
            else:
                self.sums[parent] = piece
                reached.append(parent)
        return reached

    def take(self, node: Any) -> Array:
        """The gradient of `node` as an array that nothing else refers to: a copy, since a rule may have returned its
        incoming gradient or a value that it saved.
        """
        return xp(self.sums[node]).array(self.sums[node])

    def add_to_leaves(self) -> None:
        """After the backward pass, when only leaves are left: add the gradient of each to its `.grad`."""
        for leaf, g in self.sums.items():
            if leaf._grad is None:
                leaf._grad = Variable.result(self.take(leaf), False, None, [0])
            else:
                total = leaf._grad.data
                check_sum(g, total)
                leaf._grad.data = add(total, g, out=total)
                leaf._grad._version[0] += 1


# Makes the Gradients of a walk; accelerate/accumulate.py replaces it by a subclass that adds in place.
accumulator: Callable[[Any, Any], Gradients] = Gradients


def walk(
    output: Variable, g: Any, targets: set[Any] | None = None, retain_graph: bool = False, create_graph: bool = False
) -> Gradients:
    """Carry the gradient `g` of `output` back through the graph, to its leaves or, if given, to the nodes `targets`.

    A node is visited when all of its gradient has arrived: the newest node reached so far is always visited next, and
    the results of an op are newer than its arguments, so no other node can still add to it. With `targets`, only the
    paths to them are followed.
    """
    root = output.node or output
    grads = (Gradients if create_graph else accumulator)(root, g)
    paths = set() if targets is None else _paths(root, targets)
    queue = [(-root.order, root)] if isinstance(root, Node) and (targets is None or root in paths) else []
    while queue:
        node = heappop(queue)[1]
        node.check()
        wanted = node.wanted
        if targets is None:
            g = grads.sums.pop(node)
        else:
            g = grads.sums[node] if node in targets else grads.sums.pop(node)
            wanted = [i for i in wanted if node.parents[i] in paths or node.parents[i] in targets]
        pieces = node.op.apply_vjp(node, g, wanted, create_graph)
        for parent in grads.add(pieces, node, g):
            if isinstance(parent, Node) and (targets is None or parent in paths):
                heappush(queue, (-parent.order, parent))
        if not retain_graph:
            node.saved, node.parents = None, ()
    return grads


def _paths(root: Any, targets: set[Any]) -> set[Node]:
    """The nodes from which a target can be reached. A freed node that is newer than a target may have been one of them:
    it is included, and `walk` raises an error there.
    """
    oldest = min([node.order if isinstance(node, Node) else -1 for node in targets], default=-1)
    nodes, stack = set(), [root]
    while stack:
        node = stack.pop()
        if isinstance(node, Node) and node.order > oldest and node not in nodes:
            nodes.add(node)
            stack.extend(node.parents)
    paths: set[Node] = set()
    for node in sorted(nodes, key=lambda node: node.order):
        if node.saved is None or any(parent in paths or parent in targets for parent in node.parents):
            paths.add(node)
    return paths


def grad(
    output: Variable, inputs: Any, gradient: Any = None, create_graph: bool = False, retain_graph: bool | None = None
) -> Any:
    """Return the gradient of `output` with respect to `inputs`; no `.grad` is changed.

    `inputs` is a Tensor (leaf or not) or a sequence of them; the result is a Tensor or a list of them, each with the
    shape and dtype of its input, zeros where `output` does not depend on it. `gradient` and errors as in `backward`;
    `retain_graph` defaults to `create_graph`.

    With `create_graph` the result can be differentiated again, to any order. That holds where it is constant, too: its
    gradient is zeros then, not the error that a Tensor without a history gives.
    """
    xs = checked_inputs(output, inputs, Variable)
    targets = {x.node or x for x in xs}
    g = starting_gradient(output, gradient)
    retain = create_graph if retain_graph is None else retain_graph
    with setting(recording, create_graph):
        grads = walk(output, g if create_graph else g.data, targets, retain, create_graph)
    found = {
        node: g if create_graph else Variable.result(grads.take(node))
        for node, g in grads.sums.items()
        if node in targets
    }
    results = [
        found[x.node or x] if (x.node or x) in found else Variable.result(xp(x.data).zeros_like(x.data)) for x in xs
    ]
    if create_graph:
        results = [r if r.requires_grad else Variable.result(r.data, True, None, r._version) for r in results]
    return results[0] if isinstance(inputs, Variable) else results


def starting_gradient(output: Variable, gradient: Any) -> Variable:
    """The gradient that the backward pass starts from: `gradient`, or 1 for an output of one element."""
    data = output.data
    if gradient is None:
        check_output(data, output.requires_grad, None)
        return Variable.result(xp(data).ones_like(data))
    g = gradient if isinstance(gradient, Variable) else Variable.result(xp(data).asarray(gradient))
    check_output(data, output.requires_grad, g.data)
    return g
