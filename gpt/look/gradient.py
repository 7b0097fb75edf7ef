"""The gradient of a text's loss: with respect to the residual stream at each layer and position, and to the weights.

    loss = mean over t of -log p(token t + 1 | tokens 0 .. t)

The gradient is computed as training does: one forward pass, one backward pass.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import tensorlite as tl
from tensorlite import Tensor
from tensorlite import functional as F

from ..config import GPTConfig
from ..model import GPT
from .display import heat_map, log_shares, visible_text
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

    Position t reads token t and predicts token t + 1, so there are T - 1 positions.
    """

    tokens: list[str]  # T
    loss: float  # nats, mean over the positions
    losses: list[float]  # nats, at each position
    layers: list[str]  # the rows of `stream`: the embedding, then the residual stream after each block
    stream: list[list[float]]  # (n_layer + 1, T - 1): norm of the gradient w.r.t. the residual stream
    by_layer: list[float]  # norm over all positions, for each row of `stream`
    groups: list[Group]
    shortcuts: bool
    norms: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def _repr_html_(self) -> str:
        """Two maps: by layer and position, and by parameter group."""
        shares, legend, form = log_shares(self.stream)
        title = f"norm of d loss / d residual stream, {legend}"
        tokens = [visible_text(token) for token in self.tokens[:-1]]
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
    layers: int | None = None, seed: int = 1337,
) -> Gradients:  # fmt: skip
    """The gradient of the loss of `text`, without a step: nothing is changed.

    Without `shortcuts` or `norms` the model is computed without its shortcut connections or its LayerNorms. With
    `fresh` its weights are new random ones (of `seed`), which is the fair comparison, because trained weights have
    adapted to both; it may have another number of blocks then, `layers`. ValueError for a text of fewer than two tokens
    or more than the context, and for `layers` without `fresh`.
    """
    ids = learnable(model, text)
    net, config = model.model, model.model.config
    if layers is not None and not fresh:
        raise ValueError("layers changes the number of blocks of a fresh model: give fresh=True too")
    if fresh:
        net = fresh_model(replace(config, n_layer=layers or config.n_layer), seed).to(net.device)
    run = Forward(net, ids, shortcuts, norms)
    run.backward()
    return run.gradients([model.text_of(id) for id in ids])


def learnable(model: LoadedModel, text: str) -> list[int]:
    """The token ids of a text to learn from. ValueError for fewer than two tokens, and for a classifier."""
    if model.task == "classify":
        raise ValueError("a classifier does not predict the next token: choose a run that writes text")
    ids = model.encode(text)
    if len(ids) < 2:
        raise ValueError("the text has one token: give at least two, so that there is a next token to predict")
    return ids


def fresh_model(config: GPTConfig, seed: int) -> GPT:
    """A GPT with the initial weights of `seed`; the default generator is not changed."""
    before = tl.default_generator.state_dict()
    try:
        tl.manual_seed(seed)
        return GPT(config).eval()
    finally:
        tl.default_generator.load_state_dict(before)


class Forward:
    """One forward pass over a text of T tokens, then one backward pass. Both compute what a training step computes."""

    def __init__(self, model: GPT, ids: Sequence[int], shortcuts: bool = True, norms: bool = True):
        self.model, self.shortcuts, self.norms = model, shortcuts, norms
        self.parameters = list(model.parameters())
        found = trace(model, ids[:-1], shortcuts=shortcuts, norms=norms, head=False)
        assert found.final is not None
        self.stream = found.stream
        self.loss = losses_of(model, found.final, ids[1:], "mean")
        with tl.no_grad():
            self.losses: list[float] = losses_of(model, found.final, ids[1:], "none")[0].tolist()

    def backward(self) -> None:
        """Compute `stream_gradients` and `parameter_gradients`; no `.grad` is changed. The graph is freed."""
        found = tl.grad(self.loss, [*self.stream, *self.parameters])
        self.stream_gradients = found[: len(self.stream)]
        self.parameter_gradients = found[len(self.stream) :]

    def gradients(self, tokens: list[str]) -> Gradients:
        """The norms of the gradients that `backward` has computed."""
        stream = [g.astype(tl.float64).norm(axis=-1)[0].tolist() for g in self.stream_gradients]
        norms = {id(p): norm(g) for p, g in zip(self.parameters, self.parameter_gradients, strict=True)}
        groups = []
        for layer, part, params in parts(self.model):
            size = sum(p.size for p in params)
            total = math.hypot(*[norms[id(p)] for p in params])
            groups.append(Group(layer, part, size, total, total / math.sqrt(size)))
        layers = ["embedding", *(f"after block {i}" for i in range(len(stream) - 1))]
        by_layer = [math.hypot(*row) for row in stream]
        return Gradients(
            tokens, self.loss.item(), self.losses, layers, stream, by_layer, groups, self.shortcuts, self.norms
        )


def losses_of(model: GPT, final: Tensor, targets: Sequence[int], reduction: str) -> Tensor:
    """Cross-entropy in nats of the normalized residual stream (1, T, C) after the last block: (), or (1, T)."""
    head = (model.token_embedding if model.head is None else model.head).weight  # as GPT.loss
    return F.linear_cross_entropy(final, head, tl.tensor([list(targets)], device=final.device), reduction=reduction)


def token_losses(model: GPT, ids: Sequence[int], shortcuts: bool = True, norms: bool = True) -> list[float]:
    """-log p(token t + 1 | tokens 0 .. t) in nats for each token after the first; nothing is recorded."""
    with tl.no_grad():
        final = trace(model, ids[:-1], shortcuts=shortcuts, norms=norms, head=False).final
        assert final is not None
        found: list[float] = losses_of(model, final, ids[1:], "none")[0].tolist()
    return found


def parts(model: GPT) -> list[tuple[int | None, str, list[Tensor]]]:
    """(number of the block or None, name, parameters) of each layer that has parameters, in the order of the forward
    pass. A tied head is the token embedding's matrix and is not listed again.
    """
    tied = " (also the head)" if model.head is None else ""
    found: list[tuple[int | None, str, Any]] = [(None, f"token embedding{tied}", model.token_embedding)]
    found.append((None, "position embedding", model.position_embedding))
    for i, block in enumerate(model.blocks):
        a, f = block.attention, block.feed_forward
        modules = block.norm1, a.W_query, a.W_key, a.W_value, a.out_proj, block.norm2, f.expand, f.contract
        found += [(i, part, module) for part, module in zip(PARTS, modules, strict=True)]
    found.append((None, "final norm", model.final_norm))
    if model.head is not None:
        found.append((None, "head", model.head))
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
