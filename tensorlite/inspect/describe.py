"""A description of what the engine recorded: which ops, on which inputs, and the arrays they keep until backward.

An AutogradGraph holds no array of the graph that it describes. So it can be kept, compared with others, and printed
after backward has freed the original. It is written as text, as DOT, or as SVG.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..autograd import Node, Variable
from ..backend import Array, is_array
from ..primitive import Primitive
from .drawing import Box, Drawing, draw, place
from .rules import forward_formula

MOST_DRAWN = 1000  # nodes


@dataclass(frozen=True)
class Kept:
    """An array that a node keeps until backward, because a derivative rule needs it."""

    name: str  # its name in the derivative rules: an argument, `out`, or a residual of a kernel
    shape: tuple[int, ...]
    bytes: int  # 0 where a leaf or an older node holds the same memory


@dataclass(frozen=True)
class GraphNode:
    """One leaf, one application of an op, or one named constant."""

    number: int  # from 1, in the order of computation
    kind: str  # "leaf", "op", "result" or "constant"
    name: str  # the name given to it by the `names` of `graph`, or ""
    op: str  # "" for leaves and constants
    shape: tuple[int, ...]
    dtype: str
    inputs: tuple[tuple[str, int | None], ...] = ()  # (argument, number of a node); None where it is not a node
    values: dict[str, str] = field(default_factory=dict)  # arguments that are numbers, axes and the like, as text
    kept: tuple[Kept, ...] = ()
    freed: bool = False  # by a backward pass: what it kept and its inputs are gone
    formula: str = ""  # of the op, in the names of its arguments: "x + y"; "" for leaves and constants

    @property
    def bytes(self) -> int:
        """The memory that the node keeps until backward and nothing else holds."""
        return sum(kept.bytes for kept in self.kept)

    @property
    def reference(self) -> str:
        """The label that other nodes use: its name, or #number."""
        return self.name or f"#{self.number}"

    @property
    def keeps(self) -> str:
        """The arrays that the node keeps, as text: 'keeps x, out: 1.2 kB', or ''."""
        if not self.kept:
            return ""
        names = ", ".join(dict.fromkeys(kept.name for kept in self.kept))
        return f"keeps {names}: {size(self.bytes) if self.bytes else 'held anyway'}"

    def lines(self) -> list[str]:
        """The lines of the node's box in a drawing: a title, its shape and dtype, what it keeps."""
        call = " ".join([self.op, *[f"{key}={value}" for key, value in self.values.items()]])
        title = " = ".join(filter(None, (self.name, call))) or self.kind
        notes = ["freed"] if self.freed else [self.keeps] if self.kept else []
        return [title, f"{self.shape} {self.dtype}", *notes]


@dataclass(frozen=True)
class AutogradGraph:
    """The graph of a result. `print` lists its nodes, `svg()` and `dot()` draw them; a notebook shows the SVG."""

    nodes: tuple[GraphNode, ...]  # in the order of computation: inputs before their users, the result last
    absent: tuple[str, ...] = ()  # names of Tensors that the result does not depend on, or that no rule keeps

    @property
    def bytes(self) -> int:
        """The memory that the graph keeps until backward; each array counts once, those of the leaves do not."""
        return sum(node.bytes for node in self.nodes)

    @property
    def summary(self) -> str:
        """One line: how many ops on how many leaves, and the memory they keep."""
        ops = sum(bool(node.op) for node in self.nodes)
        leaves = sum(node.kind == "leaf" for node in self.nodes)
        nouns = f"{ops} op{'s' * (ops != 1)} on {leaves} {'leaves' if leaves != 1 else 'leaf'}"
        return f"{nouns}, keeping {size(self.bytes)} until backward"

    def __str__(self) -> str:
        rows = [(f"#{n.number}", self._formula(n), str(n.shape), n.dtype, n.keeps) for n in self.nodes]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [self.summary]
        lines += ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        if any("·" in formula for _, formula, *_ in rows):
            lines.append("· stands for a value that needs no gradient")
        if self.absent:
            lines.append(f"not recorded here: {', '.join(self.absent)}")
        return "\n".join(lines)

    def _formula(self, node: GraphNode) -> str:
        """The node as a line of code: 'h = tanh(#3)', where #3 is the node with that number."""
        if not node.op:
            return " ".join(filter(None, (node.name, node.kind)))
        arguments = [self.nodes[n - 1].reference if n else node.values.get(a, "·") for a, n in node.inputs]
        positional = {argument for argument, _ in node.inputs}
        arguments += [f"{key}={value}" for key, value in node.values.items() if key not in positional]
        call = f"{node.op}, freed by backward" if node.freed else f"{node.op}({', '.join(arguments)})"
        return f"{node.name} = {call}" if node.name else call

    def dot(self) -> str:
        """The graph in the language of Graphviz, whose program `dot -Tsvg` draws it."""
        fills = {"leaf": "#dcf1e1", "op": "#e6eefa", "result": "#fce5c8", "constant": "#f2f2f2"}
        lines = ["digraph {", '  node [shape=box style="rounded,filled" fontname=monospace]']
        for node in self.nodes:
            label = "\\n".join(line.replace("\\", "\\\\").replace('"', '\\"') for line in node.lines())
            lines.append(f'  n{node.number} [label="{label}" fillcolor="{fills[node.kind]}"]')
        for node in self.nodes:
            edges = [(argument, number) for argument, number in node.inputs if number]
            for argument, number in edges:
                label = f' [label="{argument}"]' if len(edges) > 1 else ""
                lines.append(f"  n{number} -> n{node.number}{label}")
        return "\n".join([*lines, "}"])

    def svg(self) -> str:
        """A drawing, top to bottom: leaves green, constants grey, ops blue, the result orange.

        Raises ValueError for more than 1,000 nodes.
        """
        if len(self.nodes) > MOST_DRAWN:
            raise ValueError(
                f"svg: {len(self.nodes)} nodes are too many to draw (at most {MOST_DRAWN}): print the graph instead"
            )
        return draw(self._boxes(), self.summary)

    def _repr_svg_(self) -> str | None:
        """For notebooks, which print the listing where this is None."""
        return self.svg() if len(self.nodes) <= MOST_DRAWN else None

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """IPython's hook for text."""
        printer.text(str(self))

    def drawing(self) -> Drawing:
        """The drawing as numbers, for another program to draw: boxes with coordinates, arrows as SVG paths."""
        return place(self._boxes())

    def _boxes(self) -> list[Box]:
        edges = {n.number: [(a, number) for a, number in n.inputs if number] for n in self.nodes}
        return [Box(n.number, n.kind, n.lines(), edges[n.number]) for n in self.nodes]


def graph(output: Variable, names: Mapping[str, Variable] | None = None) -> AutogradGraph:
    """Describe how `output` was computed from the leaves that require a gradient.

    `names` names Tensors: leaves, intermediate results or constants, as in `graph(loss, names={"w": w, "x": x})` or
    `graph(loss, dict(model.named_parameters()))`. A constant appears only where it is named and a derivative rule keeps
    it, because the engine records no others. An op with a kernel is one node: compute the result under
    `tensorlite.unfused()` to see its steps. RuntimeError if `output` was not recorded.
    """
    return Reading(output, names or {}).graph


class Reading:
    """Describes the engine's nodes below `output`: as `graph`, with `numbers`, the number of each node by its id."""

    def __init__(self, output: Variable, names: Mapping[str, Variable]):
        if not output.requires_grad:
            raise RuntimeError(
                "graph: this Tensor was not computed from one that requires a gradient, so nothing was "
                "recorded: create the inputs with requires_grad=True, outside no_grad()"
            )
        self.root = output.node or output
        self.names = {id(x.node or x): name for name, x in names.items() if x.requires_grad}
        self.constants = {id(x.data): name for name, x in names.items() if not x.requires_grad}
        self.numbers: dict[int, int] = {}  # id of a node, of a leaf, or of a constant's array -> its number
        nodes = _in_order(self.root)
        self.held = {id(_owner(x.data)) for x in nodes if not isinstance(x, Node)}
        described = tuple(entry for node in nodes for entry in self._describe(node))
        found = {entry.name for entry in described}
        self.graph = AutogradGraph(described, tuple(name for name in names if name not in found))

    def _describe(self, node: Node | Variable) -> Iterator[GraphNode]:
        """The entry of a node or leaf, after the entries of named constants that no node before it uses."""
        name = self.names.get(id(node), "")
        if not isinstance(node, Node):
            yield GraphNode(self._number(node), "leaf", name, "", node.data.shape, str(node.data.dtype))
            return
        saved = _saved(node)
        for x in _arrays(list(saved.values())):
            if id(x) in self.constants and id(x) not in self.numbers:
                constant = self.constants[id(x)]
                yield GraphNode(self._number(x), "constant", constant, "", x.shape, str(x.dtype))
        values, inputs = self._inputs(node, saved)
        kept = [Kept(key, x.shape, self._new_bytes(x)) for key, value in saved.items() for x in _arrays(value)]
        kind = "result" if node is self.root else "op"
        head = (self._number(node), kind, name, node.op.name, node.shape, str(node.dtype))
        formula = forward_formula(node.op, [argument for argument, _ in inputs])
        yield GraphNode(*head, inputs, values, tuple(kept), node.saved is None, formula)

    def _inputs(
        self, node: Node, saved: Mapping[str, Any]
    ) -> tuple[dict[str, str], tuple[tuple[str, int | None], ...]]:
        """The arguments of an op that are numbers, axes and the like, as text, and (argument, number) of the others."""
        op, inputs = node.op, []
        values = {key: _text(saved[key]) for key, default in op.keywords.items() if key in saved}
        values = {key: text for key, text in values.items() if text != _text(op.keywords[key])}
        for i, parent in enumerate(node.parents):
            argument = argument_name(op, i)
            value = saved.get(argument)
            if parent is None and value is None and not op.variadic and op.defaults[i] is None:
                continue  # an optional argument that was left out
            if parent is None and isinstance(value, (int, float)):
                values[argument] = _text(value)
            inputs.append((argument, self.numbers.get(id(value if parent is None else parent))))
        return {key: text for key, text in values.items() if text}, tuple(inputs)

    def _number(self, thing: object) -> int:
        """The number of a node, a leaf or a constant's array; the next one if it has none yet."""
        return self.numbers.setdefault(id(thing), len(self.numbers) + 1)

    def _new_bytes(self, array: Array) -> int:
        """The bytes that `array` keeps alive, 0 if they were counted before."""
        owner = _owner(array)
        if id(owner) in self.held:
            return 0
        self.held.add(id(owner))
        return int(owner.nbytes)


def _in_order(root: Node | Variable) -> list[Any]:
    """The nodes below `root` in the order of computation, each leaf just before its first user."""
    found: dict[int, Any] = {id(root): root}
    stack: list[Any] = [root]
    while stack:  # not by recursion: a graph may be deeper than Python's stack
        for parent in getattr(stack.pop(), "parents", ()):  # a leaf has none
            if parent is not None and id(parent) not in found:
                found[id(parent)] = parent
                stack.append(parent)
    ordered: dict[int, Any] = {}
    for node in sorted((n for n in found.values() if isinstance(n, Node)), key=lambda n: n.order):
        for part in (*node.parents, node):
            if part is not None:
                ordered.setdefault(id(part), part)
    return list(ordered.values()) or [root]


def argument_name(op: Primitive, i: int) -> str:
    """The name of argument number i of an op; of `*xs` it is 'xs[i]'."""
    return f"{op.arguments[0]}[{i}]" if op.variadic else op.arguments[i]


def _saved(node: Node) -> dict[str, object]:
    """The saved values of a node under the rules' names, arguments first; the members of `*xs` as `xs[0]`, `xs[1]`."""
    if node.saved is None:
        return {}
    position, arguments = node.op.position, node.op.arguments
    names = [*[a for a in arguments if a in position], *[n for n in position if n not in arguments]]
    saved = {name: node.saved[position[name]] for name in names if not name.endswith("_shape")}
    saved = {name: value for name, value in saved.items() if not isinstance(value, Node)}  # computed again, not kept
    if node.op.variadic and arguments[0] in saved:
        members = saved.pop(arguments[0])
        saved = {argument_name(node.op, i): x for i, x in enumerate(members or ())} | saved
    return saved


def _arrays(value: object) -> list[Array]:
    """The arrays in a saved value: itself, or those in a tuple or list."""
    if isinstance(value, (tuple, list)):
        return [array for part in value for array in _arrays(part)]
    return [value] if is_array(value) else []


def _owner(array: Array) -> Array:
    """The array that owns the memory of `array`: a view, however small, keeps all of it alive."""
    while is_array(getattr(array, "base", None)):
        array = array.base
    return array


def _text(value: object) -> str:
    """A number, slice, tuple or string as Python code; "" for an array, or if it is longer than 24 characters."""
    if isinstance(value, slice):
        parts = ["" if part is None else str(part) for part in (value.start, value.stop, value.step)]
        text = ":".join(parts if value.step is not None else parts[:2])
    elif isinstance(value, tuple):
        parts = [_text(part) for part in value]
        text = f"({', '.join(parts)})" if all(parts) else ""
    elif isinstance(value, float):
        text = f"{value:g}"
    else:
        text = "" if is_array(value) else "..." if value is ... else repr(value)
    return text if len(text) <= 24 else ""


def size(n: float) -> str:
    """A number of bytes as text: 96 B, 1.23 kB, 45.6 MB."""
    if n < 1000:
        return f"{n} B"
    for unit in ("kB", "MB"):
        n /= 1000
        if n < 999.5:
            return f"{n:.3g} {unit}"
    return f"{n / 1000:.3g} GB"
