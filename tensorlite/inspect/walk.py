"""The backward pass, one step at a time.

`steps` applies the same rules in the same order as `backward`, and yields what each of them gave. It frees nothing and
changes no `.grad`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any

from ..autograd import Node, Variable, starting_gradient
from ..backend import Array
from .describe import GraphNode, Reading, argument_name
from .rules import rule_formula, rule_note


@dataclass(frozen=True)
class Piece:
    """The result of one derivative rule: the gradient with respect to one argument of an op."""

    argument: str
    to: str  # the name or #number of the node that receives it
    asked: tuple[str, ...]  # the names that the rule asks for, besides the incoming gradient
    gradient: Variable
    number: int  # of the node that receives it
    formula: str  # the rule: "g * (1 - out * out)"; g is the incoming gradient, the other names are those asked for
    note: str  # what the functions do that the formula calls, from their docstrings; or ""
    values: dict[str, Any]  # what the rule asked for, by name: the graph's own arrays and numbers, not copies

    def __str__(self) -> str:
        rule = f"rule({', '.join(('g', *self.asked))})"
        return f"by {self.argument}: {rule} sends {_show(self.gradient)} to {self.to}"


@dataclass(frozen=True)
class Step:
    """One node of the backward pass, with its whole gradient. A leaf has no pieces, because it passes nothing on."""

    number: int
    name: str
    op: str  # "" for a leaf
    gradient: Variable
    pieces: tuple[Piece, ...]

    def __str__(self) -> str:
        what = " = ".join(filter(None, (self.name, self.op))) if self.op else f"{self.name} leaf".strip()
        return "\n    ".join([f"#{self.number} {what}: g = {_show(self.gradient)}", *map(str, self.pieces)])


def steps(output: Variable, gradient: Any = None, names: Mapping[str, Variable] | None = None) -> Iterator[Step]:
    """Go backward from `output`, the newest node first, and yield a Step for each node.

    Numbers and `names` are those of `graph(output, names)`; `gradient`, of output's shape, is as in `backward`. The
    gradients in the steps are copies. The graph is kept and no `.grad` changes, so `backward()` can be called
    afterwards. RuntimeError, as from `backward`, if the graph was freed or a value that it needs was changed.
    """
    reading = Reading(output, names or {})
    numbers, entries = reading.numbers, reading.graph.nodes
    grads = {id(reading.root): starting_gradient(output, gradient).data}
    heap = [(-numbers[id(reading.root)], reading.root)]
    while heap:
        node = heappop(heap)[1]
        g, pieces = grads.pop(id(node)), []
        entry = entries[numbers[id(node)] - 1]
        for parent, i, piece in _gradients(node, g):
            if id(parent) in grads:
                grads[id(parent)] = grads[id(parent)] + piece
            else:
                grads[id(parent)] = piece
                heappush(heap, (-numbers[id(parent)], parent))
            pieces.append(_piece(node, i, piece, entry, entries[numbers[id(parent)] - 1]))
        yield Step(entry.number, entry.name, entry.op, _copy(g), tuple(pieces))


def _gradients(node: Node | Variable, g: Array) -> Iterator[tuple[Any, int, Array]]:
    """(parent, number of the argument, its gradient) for each argument that needs one."""
    if isinstance(node, Node):  # otherwise it is a leaf, which passes nothing on
        node.check()
        pieces = node.op.apply_vjp(node, g, node.wanted, False)
        for i, (parent, piece) in zip(node.wanted, pieces, strict=True):
            yield parent, i, piece


def _piece(node: Any, i: int, gradient: Array, entry: GraphNode, to: GraphNode) -> Piece:
    """The Piece of argument `i` of a node, described by `entry`; its gradient goes to the node described by `to`."""
    op, asked = node.op, node.op.asked_names(i)
    values = {name: i if name == "index" and op.variadic else node.saved[op.position[name]] for name in asked}
    formula, note = rule_formula(op, i, [argument for argument, _ in entry.inputs]), rule_note(op, i)
    return Piece(argument_name(op, i), to.reference, asked, _copy(gradient), to.number, formula, note, values)


def _copy(array: Array) -> Variable:
    return Variable.result(array.copy())


def _show(gradient: Variable) -> str:
    """A gradient as text: its numbers if there are at most 6, otherwise its shape and norm."""
    if gradient.data.size <= 6:
        return _numbers(gradient.data.tolist())
    return f"{gradient.data.shape} of norm {float((gradient.data * gradient.data).sum()) ** 0.5:.4g}"


def _numbers(value: Any) -> str:
    return f"[{', '.join(map(_numbers, value))}]" if isinstance(value, list) else f"{value:.6g}"
