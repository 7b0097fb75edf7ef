"""The gradient of a text's loss: with respect to the residual stream at each layer and position, and to the weights.

    loss = mean over t of -log p(token t + 1 | tokens 0 .. t), or, for a classifier, -log p(label | text)

The gradient is computed as training does: one forward pass, one backward pass.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import tensorlite as tl
from tensorlite import Tensor

from ..config import GPTConfig
from ..model import GPT
from ..tasks.classify.model import Classifier
from .display import heat_map, log_shares, visible_text
from .example import Example, Network, body, example, losses, network, outcome, trainable
from .forward_trace import trace
from .loaded import LoadedModel

BLOCK = 1 << 15  # elements whose squares are added up in their own dtype
PARTS = ("norm1", "W_query", "W_key", "W_value", "out_proj", "norm2", "expand", "contract")  # of a block


@dataclass(frozen=True)
class Group:
    """The gradient of one layer's parameters, weight and bias together."""

    layer: int | None  # the number of the block, from 0; None: not in a block
    part: str
    parameters: int  # number of elements
    norm: float  # sqrt(sum of g**2)
    rms: float  # sqrt(mean of g**2)

    @property
    def name(self) -> str:
        return self.part if self.layer is None else f"block {self.layer} {self.part}"


@dataclass(frozen=True)
class Gradients:
    """The gradient of the mean loss of a text of T tokens. All norms are Euclidean.

    Position t reads token t and predicts token t + 1, so there are T - 1 positions. A classifier has T positions, those
    of the padding included, and predicts one label.
    """

    tokens: list[str]  # T
    loss: float  # nats, mean over `losses`
    losses: list[float]  # nats, at each position; of a classifier one number
    layers: list[str]  # the rows of `stream`: the embedding, then the residual stream after each block
    stream: list[list[float]]  # (n_layer + 1, positions): norm of the gradient w.r.t. the residual stream
    by_layer: list[float]  # norm over all positions, for each row of `stream`
    groups: list[Group]
    shortcuts: bool
    norms: bool
    label: str | None = None  # that a classifier is to predict
    length: int | None = None  # of a classifier: tokens before the padding

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def _repr_html_(self) -> str:
        """Two maps: by layer and position, and by parameter group."""
        shares, legend, form = log_shares(self.stream)
        title = f"norm of d loss / d residual stream, {legend}"
        tokens = [visible_text(token) for token in self.tokens[: len(self.stream[0])]]
        stream = heat_map(shares, self.layers, tokens, title=title, largest=1.0, form=form)
        return f"<div>{stream}<br>{group_map(self.groups)}</div>"


def group_map(groups: Sequence[Group]) -> str:
    """The norm of the gradient of each parameter group as the text of an SVG: a row for each block."""
    rows, labels = [], []
    for layer in sorted({group.layer for group in groups if group.layer is not None}):
        rows.append([group.norm for group in groups if group.layer == layer])
        labels.append(f"block {layer}")
    shares, legend, form = log_shares(rows)
    others = ", ".join(f"{group.part} {group.norm:.3g}" for group in groups if group.layer is None)
    title = f"norm of d loss / d weights, {legend}; {others}"
    return heat_map(shares, labels, PARTS, title=title, largest=1.0, form=form, cell=24)


# ----- the computation --------------------------------------------------------------------------------------------


def gradients(
    model: LoadedModel, text: str, shortcuts: bool = True, norms: bool = True, *, fresh: bool = False,
    layers: int | None = None, seed: int = 1337, label: str | None = None,
) -> Gradients:  # fmt: skip
    """The gradient of the loss of `text`, without a step: nothing is changed.

    Without `shortcuts` or `norms` the model is computed without its shortcut connections or its LayerNorms. With
    `fresh` its weights are new random ones (of `seed`), which is the fair comparison, because trained weights have
    adapted to both; it may have another number of blocks then, `layers`. `label` is what a classifier is to predict,
    by default its most probable label. Weights that fine-tuning has frozen have a gradient here too.

    ValueError for a text of fewer than two tokens or more than the context, an unknown label, and for `layers` without
    `fresh`.
    """
    given = example(model, text, label)
    net = network(model)
    if layers is not None and not fresh:
        raise ValueError("layers changes the number of blocks of a fresh model: give fresh=True too")
    if fresh:
        config = replace(body(net).config, n_layer=layers or body(net).config.n_layer)
        position = net.position if isinstance(net, Classifier) else ""
        device = body(net).device
        net = fresh_model(config, seed, len(given.labels), position).to(device)
    with trainable(net.parameters()):
        run = Forward(net, given, shortcuts, norms)
        run.backward()
    return run.gradients()


def fresh_model(config: GPTConfig, seed: int, labels: int = 0, position: str = "") -> Network:
    """A GPT, or with `labels` a classifier that reads at `position`, with the initial weights of `seed`.

    The default generator is not changed.
    """
    before = tl.default_generator.state_dict()
    try:
        tl.manual_seed(seed)
        return (Classifier(config, labels, position) if labels else GPT(config)).eval()
    finally:
        tl.default_generator.load_state_dict(before)


class Forward:
    """One forward pass over a text, then one backward pass. Both compute what a training step computes."""

    def __init__(self, net: Network, given: Example, shortcuts: bool = True, norms: bool = True):
        self.net, self.given, self.shortcuts, self.norms = net, given, shortcuts, norms
        self.parameters = list(net.parameters())
        found = trace(body(net), given.ids, shortcuts=shortcuts, norms=norms, head=False)
        assert found.final is not None
        self.stream = found.stream
        self.loss = losses(net, found.final, given, "mean")
        self.outcome = outcome(net, found.final, given)

    def backward(self) -> None:
        """Compute `stream_gradients` and `parameter_gradients`; no `.grad` is changed. The graph is freed."""
        found = tl.grad(self.loss, [*self.stream, *self.parameters])
        self.stream_gradients = found[: len(self.stream)]
        self.parameter_gradients = found[len(self.stream) :]

    def gradients(self) -> Gradients:
        """The norms of the gradients that `backward` has computed."""
        stream = [g.astype(tl.float64).norm(axis=-1)[0].tolist() for g in self.stream_gradients]
        norms = {id(p): norm(g) for p, g in zip(self.parameters, self.parameter_gradients, strict=True)}
        groups = []
        for layer, part, params in parts(self.net):
            size = sum(p.size for p in params)
            total = math.hypot(*[norms[id(p)] for p in params])
            groups.append(Group(layer, part, size, total, total / math.sqrt(size)))
        given = self.given
        return Gradients(
            tokens=given.tokens,
            loss=self.loss.item(),
            losses=self.outcome.losses,
            layers=["embedding", *(f"after block {i}" for i in range(len(stream) - 1))],
            stream=stream,
            by_layer=[math.hypot(*row) for row in stream],
            groups=groups,
            shortcuts=self.shortcuts,
            norms=self.norms,
            label=given.label,
            length=given.length if given.label is not None else None,
        )


def parts(net: Network) -> list[tuple[int | None, str, list[Tensor]]]:
    """(number of the block or None, name, parameters) of each layer that has parameters, in the order of the forward
    pass. A tied head is the token embedding's matrix and is not listed again.
    """
    model = body(net)
    tied = " (also the head)" if net.head is None else ""
    found: list[tuple[int | None, str, Any]] = [(None, f"token embedding{tied}", model.token_embedding)]
    found.append((None, "position embedding", model.position_embedding))
    for i, block in enumerate(model.blocks):
        a, f = block.attention, block.feed_forward
        modules = block.norm1, a.W_query, a.W_key, a.W_value, a.out_proj, block.norm2, f.expand, f.contract
        found += [(i, part, module) for part, module in zip(PARTS, modules, strict=True)]
    found.append((None, "final norm", model.final_norm))
    if net.head is not None:
        found.append((None, "head", net.head))
    return [(layer, part, list(module.parameters())) for layer, part, module in found]


def norm(x: Tensor, origin: Tensor | None = None) -> float:
    """sqrt(sum of x**2), or of (x - origin)**2: products of blocks, added up in float64, without a large temporary.

    Where that sum leaves the range of float32, x is divided by its largest element first; infinite or nan only if an
    element is.
    """
    flat = x.detach().reshape(-1)
    base = None if origin is None else origin.detach().reshape(-1)
    total = 0.0
    for start in range(0, flat.size, BLOCK):
        block = flat[start : start + BLOCK]
        if base is not None:
            block = block - base[start : start + BLOCK]
        total += float(block @ block)
    if 1e-20 < total < math.inf:
        return math.sqrt(total)
    flat = flat if base is None else flat - base
    largest = float(flat.abs().max())
    return largest * float((flat / largest).norm()) if 0 < largest < math.inf else largest
