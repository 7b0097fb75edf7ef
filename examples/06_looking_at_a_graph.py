"""The graph that autograd records: as a list, as a picture, and walked backward one node at a time.

A result refers to the ops that computed it. You will see the graph of a small network's loss as text, with what each
node keeps in memory until backward; the walk, with every gradient that each rule returns, ending at the leaves with
the same values as `backward` puts into `.grad`; and a transformer block drawn twice: as it runs, with fused ops, and
under `unfused()`, where every fused op is replaced by its specification and each step of layer norm, attention and the
loss is a node of its own. The fused graph is smaller and keeps less memory.

    python examples/06_looking_at_a_graph.py [--out FOLDER]
"""

import tempfile
from pathlib import Path

import numpy as np
import tyro

import tensorlite as tl
from tensorlite import functional as F
from tensorlite import nn
from tensorlite.inspect import AutogradGraph, graph, steps

OUT = Path(tempfile.gettempdir(), "tensorlite-examples")


class Block(nn.Module):
    """A transformer block with one head, and a loss."""

    def __init__(self, C: int):
        self.norm1 = nn.LayerNorm(C)
        self.query, self.key, self.value = (nn.Linear(C, C, bias=False) for _ in range(3))
        self.norm2 = nn.LayerNorm(C)
        self.expand = nn.Linear(C, 4 * C)
        self.contract = nn.Linear(4 * C, C)

    def forward(self, x: tl.Tensor, targets: tl.Tensor) -> tl.Tensor:
        h = self.norm1(x)
        x = x + F.scaled_dot_product_attention(self.query(h), self.key(h), self.value(h), is_causal=True)
        x = x + self.contract(F.gelu(self.expand(self.norm2(x))))
        return F.cross_entropy(x, targets)


def small_network() -> tuple[tl.Tensor, dict[str, tl.Tensor]]:
    x = tl.tensor([[1.0, 2.0], [-1.0, 0.5], [0.0, -2.0]])
    w = tl.tensor([[0.5], [-0.25]], requires_grad=True)
    b = tl.tensor([0.1], requires_grad=True)
    h = tl.tanh(x @ w + b)
    return (h * h).sum(), {"x": x, "w": w, "b": b, "h": h}


def transformer_block(fuse: bool) -> AutogradGraph:
    tl.manual_seed(0)
    block, x, targets = Block(C=8), tl.randn(2, 6, 8), tl.randint(0, 8, (2, 6))
    if fuse:
        return graph(block(x, targets), dict(block.named_parameters()))
    with tl.unfused():
        return graph(block(x, targets), dict(block.named_parameters()))


def main(out: Path = OUT) -> None:
    loss, names = small_network()
    print(graph(loss, names), end="\n\n")

    found = {}
    for step in steps(loss, names=names):
        print(step)
        if not step.op:
            found[step.name] = step.gradient.numpy()
    loss.backward()
    same = all(np.array_equal(found[name], names[name].grad.numpy()) for name in ("w", "b"))
    print(f"\nThe walk ends with what backward() puts into .grad: {same}")
    assert same

    out.mkdir(parents=True, exist_ok=True)
    drawings = {
        "small": graph(*small_network()),
        "fused": transformer_block(fuse=True),
        "unfused": transformer_block(fuse=False),
    }
    for name, drawing in drawings.items():
        path = out / f"06_{name}.svg"
        path.write_text(drawing.svg(), encoding="utf-8")
        print(f"picture: {path}   ({drawing.summary})")
    assert drawings["fused"].bytes < drawings["unfused"].bytes


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
