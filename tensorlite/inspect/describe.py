"""What the engine recorded, described: which ops, on what, and what they keep until backward.

One idea: a AutogradGraph is a **description** and holds no array of what it describes. So it can be kept, compared and
printed after backward has freed the original. Text, DOT and SVG are three ways to write it down.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ..autograd import Node, Variable
from ..backend import Array, is_array
from .drawing import Box, draw

MOST_DRAWN = 1000


@dataclass(frozen=True)
class Kept:
    """An array that a node holds until backward."""

    name: str  # as the derivative rules call it: an argument, `out`, or a residual of a fused op
    shape: tuple[int, ...]
    bytes: int  # 0 where a leaf or an older node holds that memory anyway


@dataclass(frozen=True)
class GraphNode:
    """One leaf, one application of an op, or one named constant."""

    number: int  # counts from 1 in the order of computation
    kind: str  # "leaf", "op", "result" or "constant"
    name: str  # what the caller of `graph` named it, or ""
    op: str  # "" for leaves and constants
    shape: tuple[int, ...]
    dtype: str
    inputs: tuple[tuple[str, int | None], ...] = ()  # (argument, number); None for what is no node
    values: dict[str, str] = field(default_factory=dict)  # arguments that are plain values, as text
    kept: tuple[Kept, ...] = ()
    freed: bool = False  # a backward walk has left it: what it kept and where it came from are gone

    @property
    def bytes(self) -> int:
        return sum(kept.bytes for kept in self.kept)

    @property
    def reference(self) -> str:
        return self.name or f"#{self.number}"

    @property
    def keeps(self) -> str:
        """'keeps x, out: 1.2 kB', or nothing."""
        if not self.kept:
            return ""
        names = ", ".join(dict.fromkeys(kept.name for kept in self.kept))
        return f"keeps {names}: {size(self.bytes) if self.bytes else 'held anyway'}"

    def lines(self) -> list[str]:
        """What stands in the node's box: a title, what it is, what it keeps."""
        call = " ".join([self.op, *[f"{key}={value}" for key, value in self.values.items()]])
        title = " = ".join(filter(None, (self.name, call))) or self.kind
        notes = ["freed"] if self.freed else [self.keeps] if self.kept else []
        return [title, f"{self.shape} {self.dtype}", *notes]


@dataclass(frozen=True)
class AutogradGraph:
    """How a result was computed. `print` lists it; `svg()` and `dot()` draw it; a notebook shows the SVG."""

    nodes: tuple[GraphNode, ...]  # in the order of computation: inputs before their users, the result last
    absent: tuple[str, ...] = ()  # names of Tensors that the result does not depend on, or that no rule keeps

    @property
    def bytes(self) -> int:
        """The memory that the graph keeps until backward: each array counted once, the leaves' own not."""
        return sum(node.bytes for node in self.nodes)

    @property
    def summary(self) -> str:
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
        """'h = tanh(#3)', as one would write it; #3 is the node of that number."""
        if not node.op:
            return " ".join(filter(None, (node.name, node.kind)))
        arguments = [self.nodes[n - 1].reference if n else node.values.get(a, "·") for a, n in node.inputs]
        positional = {argument for argument, _ in node.inputs}
        arguments += [f"{key}={value}" for key, value in node.values.items() if key not in positional]
        call = f"{node.op}, freed by backward" if node.freed else f"{node.op}({', '.join(arguments)})"
        return f"{node.name} = {call}" if node.name else call

    def dot(self) -> str:
        """The graph in Graphviz' language: `dot -Tsvg` draws it."""
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

        Raises ValueError for more than 1,000 nodes, which is too large to read.
        """
        if len(self.nodes) > MOST_DRAWN:
            raise ValueError(
                f"svg: {len(self.nodes)} nodes are too many to draw (at most {MOST_DRAWN}): print the graph instead"
            )
        edges = {n.number: [(a, number) for a, number in n.inputs if number] for n in self.nodes}
        return draw([Box(n.number, n.kind, n.lines(), edges[n.number]) for n in self.nodes], self.summary)

    _repr_svg_ = svg


def graph(output: Variable, names: Mapping[str, Variable] | None = None) -> AutogradGraph:
    """Describe how `output` was computed from the leaves that require a gradient.

    `names` gives Tensors the names to show them by, be they leaves, intermediate results or constants:
    `graph(loss, names={"w": w, "x": x})`, `graph(loss, dict(model.named_parameters()))`. A constant appears where
    it is named and a rule keeps it; the engine records no other. A fused op is one node: compute the result under
    `tensorlite.unfused()` to see its steps. Raises RuntimeError where nothing was recorded.
    """
    return Reading(output, names or {}).graph


class Reading:
    """The walk over the engine's nodes that describes them: `graph`, and the `numbers` of nodes in it by id."""

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

    def _describe(self, node) -> Iterator[GraphNode]:
        """The entry of a node or leaf, after those of the named constants that it is the first to use."""
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
        yield GraphNode(*head, inputs, values, tuple(kept), node.saved is None)

    def _inputs(self, node: Node, saved: Mapping) -> tuple[dict[str, str], tuple]:
        """The plain values that an op was given, and (argument, number) of the others."""
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

    def _number(self, thing) -> int:
        return self.numbers.setdefault(id(thing), len(self.numbers) + 1)

    def _new_bytes(self, array: Array) -> int:
        owner = _owner(array)
        if id(owner) in self.held:
            return 0
        self.held.add(id(owner))
        return owner.nbytes


def _in_order(root) -> list:
    """The nodes under `root` in the order of computation, each leaf right before its first user."""
    found, stack = {id(root): root}, [root]
    while stack:  # no recursion: a graph may be deeper than Python's stack
        for parent in getattr(stack.pop(), "parents", ()):  # a leaf has none
            if parent is not None and id(parent) not in found:
                found[id(parent)] = parent
                stack.append(parent)
    ordered: dict = {}
    for node in sorted((n for n in found.values() if isinstance(n, Node)), key=lambda n: n.order):
        for part in (*node.parents, node):
            if part is not None:
                ordered.setdefault(id(part), part)
    return list(ordered.values()) or [root]


def argument_name(op, i: int) -> str:
    return f"{op.arguments[0]}[{i}]" if op.variadic else op.arguments[i]


def _saved(node: Node) -> dict[str, object]:
    """What a node keeps by the names that rules use, arguments first; of `*xs` each member: `xs[0]`, `xs[1]`."""
    if node.saved is None:
        return {}
    position, arguments = node.op.position, node.op.arguments
    names = [*[a for a in arguments if a in position], *[n for n in position if n not in arguments]]
    saved = {name: node.saved[position[name]] for name in names if not name.endswith("_shape")}
    saved = {name: value for name, value in saved.items() if not isinstance(value, Node)}  # made again, not kept
    if node.op.variadic and arguments[0] in saved:
        members = saved.pop(arguments[0])
        saved = {argument_name(node.op, i): x for i, x in enumerate(members or ())} | saved
    return saved


def _arrays(value) -> list[Array]:
    if isinstance(value, (tuple, list)):
        return [array for part in value for array in _arrays(part)]
    return [value] if is_array(value) else []


def _owner(array: Array) -> Array:
    """The array that owns the memory which `array` looks at: a small view keeps all of it alive."""
    while is_array(getattr(array, "base", None)):
        array = array.base
    return array


def _text(value) -> str:
    """A plain value as one would write it, if that is short."""
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
    """Bytes for people: 96 B, 1.23 kB, 45.6 MB."""
    if n < 1000:
        return f"{n} B"
    for unit in ("kB", "MB"):
        n /= 1000
        if n < 999.5:
            return f"{n:.3g} {unit}"
    return f"{n / 1000:.3g} GB"
