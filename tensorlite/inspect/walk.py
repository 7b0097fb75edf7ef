"""The backward walk, one step at a time.

One idea: `steps` pulls gradients through the same rules in the same order as `backward` does, but hands out each
one on the way, frees nothing and touches no `.grad`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from heapq import heappop, heappush

from ..autograd import Node, Variable, starting_gradient
from .describe import Reading, argument_name


@dataclass(frozen=True)
class Piece:
    """What one derivative rule gave: the gradient by one argument of an op."""

    argument: str
    to: str  # the name or #number of the node that it flows to
    asked: tuple[str, ...]  # what the rule asked for beside the incoming gradient
    gradient: Variable

    def __str__(self) -> str:
        rule = f"rule({', '.join(('g', *self.asked))})"
        return f"by {self.argument}: {rule} sends {_show(self.gradient)} to {self.to}"


@dataclass(frozen=True)
class Step:
    """The walk at one node, where all of its gradient has arrived. A leaf has no pieces: it keeps it."""

    number: int
    name: str
    op: str  # "" for a leaf
    gradient: Variable
    pieces: tuple[Piece, ...]

    def __str__(self) -> str:
        what = " = ".join(filter(None, (self.name, self.op))) if self.op else f"{self.name} leaf".strip()
        return "\n    ".join([f"#{self.number} {what}: g = {_show(self.gradient)}", *map(str, self.pieces)])


def steps(output: Variable, gradient=None, names: Mapping[str, Variable] | None = None) -> Iterator[Step]:
    """Go backward from `output` node by node, the newest first, and yield each Step as it is taken.

    Numbers and `names` are those of `graph(output, names)`; `gradient` as in `backward`. The gradients are copies.
    The graph is kept and no `.grad` is touched: a `backward()` afterwards does what it would have done without.
    Raises RuntimeError, as `backward` does, where the graph was freed or a value that it needs was changed.
    """
    reading = Reading(output, names or {})
    numbers, entries = reading.numbers, reading.graph.nodes
    grads = {id(reading.root): starting_gradient(output, gradient).data}
    heap = [(-numbers[id(reading.root)], reading.root)]
    while heap:
        node = heappop(heap)[1]
        g, pieces = grads.pop(id(node)), []
        for parent, argument, asked, piece in _pulled(node, g):
            if id(parent) in grads:
                grads[id(parent)] = grads[id(parent)] + piece
            else:
                grads[id(parent)] = piece
                heappush(heap, (-numbers[id(parent)], parent))
            pieces.append(Piece(argument, entries[numbers[id(parent)] - 1].reference, asked, _copy(piece)))
        entry = entries[numbers[id(node)] - 1]
        yield Step(entry.number, entry.name, entry.op, _copy(g), tuple(pieces))


def _pulled(node, g) -> Iterator[tuple]:
    """(parent, argument, what its rule asked for, the gradient by it) for each argument that needs one."""
    if isinstance(node, Node):  # a leaf passes nothing on
        node.check()
        pieces = node.op.apply_vjp(node, g, node.wanted, False)
        for i, (parent, piece) in zip(node.wanted, pieces, strict=True):
            yield parent, argument_name(node.op, i), node.op.asked_names(i), piece


def _copy(array) -> Variable:
    return Variable.result(array.copy())


def _show(gradient: Variable) -> str:
    """Small gradients whole, large ones by shape and norm."""
    if gradient.data.size <= 6:
        return _numbers(gradient.data.tolist())
    return f"{gradient.data.shape} of norm {float((gradient.data * gradient.data).sum()) ** 0.5:.4g}"


def _numbers(value) -> str:
    return f"[{', '.join(map(_numbers, value))}]" if isinstance(value, list) else f"{value:.6g}"
