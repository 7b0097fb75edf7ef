"""The backward pass through one block of a model, node by node, and through an example of one number at a time."""

import re
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from html import escape
from typing import Any, cast

import tensorlite as tl
from tensorlite import Tensor
from tensorlite.inspect import AutogradGraph, GraphNode, Piece, Step, graph, steps
from tensorlite.inspect.rules import explain

from ..model import GPT
from .array_picture import Picture, picture
from .block_names import named
from .display import FONT, TEXT
from .example import Example, Network, body, example, losses, network, trainable
from .loaded import LoadedModel

STYLE = f"background:#ffffff;color:{TEXT};font-family:{FONT.replace(chr(39), '')};font-size:12px"
CELL = "padding:3px 10px;text-align:left;vertical-align:top"


@dataclass(frozen=True)
class Sent:
    """What one derivative rule computes: the gradient with respect to one argument, and the node that receives it."""

    argument: str
    to: int  # number of the node
    formula: str  # the rule, in terms of g and of what it asked for: "g * (1 - out * out)"
    note: str  # what the functions do that the formula calls, or ""
    asked: tuple[str, ...]
    worked: str  # the formula with numbers in place of names, where all of them are single numbers; otherwise ""
    gradient: Picture


@dataclass(frozen=True)
class BackwardStep:
    """One node of the backward pass. Its gradient is complete: everything that uses the node was visited before."""

    node: GraphNode
    gradient: Picture  # of the loss with respect to the node's result
    sends: tuple[Sent, ...]  # none for a leaf, whose gradient is final

    def __str__(self) -> str:
        lines = [f"#{self.node.number} {self.node.lines()[0]}: |g| = {self.gradient.norm:.4g}"]
        return "\n    ".join([*lines, *[f"to #{s.to} by {s.argument}: {s.formula}" for s in self.sends]])

    def row(self) -> str:
        """A row of a table, in HTML: the node, its gradient as a picture and its norm, the rules that it applies."""
        texts = [f"<code>{escape(f'to #{s.to} by {s.argument}: {s.formula}')}</code>" for s in self.sends]
        cells = (
            f"#{self.node.number} {escape(self.node.lines()[0])}<br>{self.node.shape}",
            self.gradient._repr_html_(),
            f"{self.gradient.norm:.3g}",
            "<br>".join(texts) or "nothing: its gradient is final",
        )
        return "<tr>" + "".join(f'<td style="{CELL}">{cell}</td>' for cell in cells) + "</tr>"

    def _repr_html_(self) -> str:
        """The step with its incoming gradient and those that it sends, for a notebook."""
        parts = [f"<p>#{self.node.number} {escape(self.node.lines()[0])}</p>", _figure("g", self.gradient)]
        parts += [_figure(f"to #{s.to} by {s.argument}: {s.formula}", s.gradient) for s in self.sends]
        return f'<div style="{STYLE}">{"".join(parts)}</div>'


@dataclass(frozen=True)
class BackwardPass:
    """The graph of a computation and the steps of its backward pass, the newest node first."""

    title: str
    loss: float  # in nats
    code: str  # of the example; "" for a block
    values: Mapping[str, float]  # of the example's variables by name; {} for a block
    graph: AutogradGraph
    steps: tuple[BackwardStep, ...]
    labels: list[str] = field(default_factory=list)  # of a classifier
    label: str | None = None  # the one that it is to predict

    def __iter__(self) -> Iterator[BackwardStep]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    def to_dict(self) -> dict[str, Any]:
        """As JSON: nodes and arrows with coordinates, steps, and their pictures, each different one once."""
        drawing = self.graph.drawing()
        pictures: dict[str, tuple[int, dict[str, Any]]] = {}

        def index(found: Picture) -> int:
            as_json = found.to_dict()
            key = f"{found.shape} {as_json['cells']}"
            return pictures.setdefault(key, (len(pictures), as_json))[0]

        steps = [
            {
                "number": step.node.number, "gradient": index(step.gradient),
                "sends": [{**vars(sent), "gradient": index(sent.gradient)} for sent in step.sends],
            }
            for step in self.steps
        ]  # fmt: skip
        boxes = [
            {
                **node_as_dict(placed.box.number, self.graph), "lines": placed.box.lines,
                "value": self.values.get(self.graph.nodes[placed.box.number - 1].name),
                "x": placed.x, "y": placed.y, "width": placed.box.width, "height": placed.box.height,
            }
            for placed in drawing.boxes
        ]  # fmt: skip
        return {
            "title": self.title, "loss": self.loss, "code": self.code, "summary": self.graph.summary,
            "width": drawing.width, "height": drawing.height, "nodes": boxes,
            "arrows": [vars(arrow) for arrow in drawing.arrows], "steps": steps,
            "pictures": [as_json for _, as_json in pictures.values()], "labels": self.labels, "label": self.label,
        }  # fmt: skip

    def _repr_html_(self) -> str:
        """The graph as SVG and a table of the steps, for a notebook."""
        rows = "".join(step.row() for step in self.steps)
        head = "".join(f'<th style="{CELL}">{text}</th>' for text in ("node", "g", "|g|", "sends, by its rules"))
        return (
            f'<div style="{STYLE}"><p>{escape(self.title)}. Loss {self.loss:.4g}. g is the gradient of the loss with '
            f'respect to the node.</p><div style="overflow:auto;max-height:40em">{self.graph.svg()}</div>'
            f'<table style="border-collapse:collapse"><tr>{head}</tr>{rows}</table></div>'
        )


def node_as_dict(number: int, graph: AutogradGraph) -> dict[str, Any]:
    """The node with that number as JSON, its inputs with the text that stands for each."""
    node = graph.nodes[number - 1]
    inputs = [
        {
            "argument": argument, "number": source,
            "text": graph.nodes[source - 1].reference if source else node.values.get(argument, ""),
        }
        for argument, source in node.inputs
    ]  # fmt: skip
    positional = {argument for argument, _ in node.inputs}
    return {
        "number": number, "kind": node.kind, "name": node.name, "op": node.op, "shape": list(node.shape),
        "dtype": node.dtype, "formula": node.formula, "note": explain(node.formula), "inputs": inputs,
        "kept": [vars(kept) for kept in node.kept],
        "options": {name: text for name, text in node.values.items() if name not in positional},
    }  # fmt: skip


# ----- the block of a model ---------------------------------------------------------------------------------------


def backward(
    loaded: LoadedModel, text: str, block: int = 0, fused: bool = True, label: str | None = None
) -> BackwardPass:
    """The backward pass of the loss of a text through one block, from the residual stream after it to that before it.

    The loss is the mean cross-entropy of the next token, in nats, over the T - 1 positions that have one; that of a
    classifier is the cross-entropy of `label`, by default its most probable label. The engine computes the gradient
    that enters the block from above, so every gradient is the one that a training step with this text would compute.
    With `fused` the graph is the one that runs; otherwise each op is an elementary one.

    Weights that fine-tuning has frozen have a gradient here too. ValueError for a text without two tokens or longer
    than the context, an unknown label, and a block that the model does not have.
    """
    net, model = network(loaded), loaded.model
    if not 0 <= block < len(model.blocks):
        raise ValueError(f"block must be from 0 to {len(model.blocks) - 1}, got {block}")
    given = example(loaded, text, label)
    training = net.training
    net.eval()
    try:
        with trainable(net.parameters()):
            with tl.no_grad():
                stream = stream_into(model, given.ids, block)
            stream.requires_grad = True
            with nullcontext() if fused else tl.unfused():
                out = model.blocks[block](stream)
            loss, g = gradient_from_above(net, out, given, block)
            names = {f"stream into block {block}": stream, **dict(model.blocks[block].named_parameters())}
            described = named(graph(out, names), model.blocks[block], block, fused)
            found = tuple(_step(described, step) for step in steps(out, g, names))
    finally:
        net.train(training)
    title = f"Block {block}, {'fused, as it runs' if fused else 'every elementary op'}, {len(given.ids)} positions"
    if given.label is not None:
        title += f", to predict {given.label}"
    return BackwardPass(title, loss, "", {}, described, found, given.labels, given.label)


def stream_into(model: GPT, ids: list[int], block: int) -> Tensor:
    """The residual stream before a block: (1, T, C)."""
    idx = tl.tensor([ids], device=model.device)  # (1, T)
    x: Tensor = model.token_embedding(idx) + model.position_embedding(model.positions(idx))
    for earlier in list(model.blocks)[:block]:
        x = earlier(x)
    return x


def gradient_from_above(net: Network, out: Tensor, given: Example, block: int) -> tuple[float, Tensor]:
    """The loss, and its gradient with respect to `out`, the residual stream after a block: (1, T, C)."""
    model, x = body(net), out.detach()
    above = x
    above.requires_grad = True
    for later in list(model.blocks)[block + 1 :]:
        x = later(x)
    loss = losses(net, model.final_norm(x), given, "mean")
    return loss.item(), tl.grad(loss, above)


# ----- an example of one number at a time -------------------------------------------------------------------------

EXAMPLE = """\
product = w * input
total = product + b
output = tl.tanh(total)
error = output - target
loss = tl.square(error)"""


def backward_example() -> BackwardPass:
    """The backward pass of a network of one neuron, loss = (tanh(w input + b) - target)**2, with single numbers."""
    w, b = tl.tensor(0.5, requires_grad=True), tl.tensor(-0.4, requires_grad=True)
    input, target = tl.tensor(2.0), tl.tensor(1.0)
    product = w * input
    total = product + b
    output = tl.tanh(total)
    error = output - target
    loss = tl.square(error)
    names = {
        "w": w, "input": input, "product": product, "b": b, "total": total, "output": output, "target": target,
        "error": error, "loss": loss,
    }  # fmt: skip
    described = graph(loss, names)
    found = tuple(_step(described, step) for step in steps(loss, names=names))
    values = {name: x.item() for name, x in names.items()}
    given = ", ".join(f"{name} = {values[name]:.4g}" for name in ("w", "b", "input", "target"))
    return BackwardPass(f"One neuron, {given}", loss.item(), EXAMPLE, values, described, found)


# ----- steps ------------------------------------------------------------------------------------------------------


def _figure(label: str, found: Picture) -> str:
    """A picture with its label, norm and range, in HTML."""
    numbers = f"|g| {found.norm:.3g}, from {found.low:.3g} to {found.high:.3g}"
    style = "display:inline-block;margin:0 16px 8px 0;max-width:30em;vertical-align:top"
    return f'<div style="{style}"><code>{escape(label)}</code><br>{numbers}<br>{found._repr_html_()}</div>'


def _step(described: AutogradGraph, step: Step) -> BackwardStep:
    """A Step of tensorlite.inspect with its gradients as pictures."""
    gradient = cast(Tensor, step.gradient)
    sends = tuple(
        Sent(p.argument, p.number, p.formula, p.note, p.asked, worked(p, gradient), picture(cast(Tensor, p.gradient)))
        for p in step.pieces
    )
    return BackwardStep(described.nodes[step.number - 1], picture(gradient), sends)


def worked(piece: Piece, g: Tensor) -> str:
    """The formula of a rule with numbers in place of names: "1 * 2 * (-0.463)"; "" unless all are single numbers."""
    arrays = {name: x for name, x in {**piece.values, "g": g.data}.items() if hasattr(x, "shape")}
    if any(x.shape != () for x in arrays.values()):
        return ""
    numbers = {name: f"{float(x):.4g}" for name, x in arrays.items()}
    numbers = {name: f"({text})" if text.startswith("-") else text for name, text in numbers.items()}
    return re.sub(r"[a-z_]\w*", lambda name: numbers.get(name[0], name[0]), piece.formula)
