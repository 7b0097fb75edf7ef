"""Names for the nodes of a block's graph: what each step of its computation is called.

The engine numbers its nodes in the order of the computation, and that order is the one of model.py, attention.py and
tensorlite's formulas.py. So the names are a list in the same order. Where the ops of a graph are not those listed, as
in a block with LoRA adapters, its nodes have no names.
"""

from dataclasses import replace

from tensorlite.inspect import AutogradGraph

from ..model import Block

Names = list[tuple[str, str]]  # (op, name) in the order of the computation


def named(graph: AutogradGraph, block: Block, number: int, fused: bool) -> AutogradGraph:
    """`graph` of the block with that number, with names for its ops; unchanged where it computes something else."""
    names = block_names(block, number, fused)
    if [op for op, _ in names] != [node.op for node in graph.nodes if node.op]:
        return graph
    remaining = iter(names)
    nodes = tuple(replace(node, name=next(remaining)[1]) if node.op else node for node in graph.nodes)
    return replace(graph, nodes=nodes)


def block_names(block: Block, number: int, fused: bool) -> Names:
    """The ops of `Block.forward`, fused as they run or as formulas, and the names of their results."""
    biased = getattr(block.attention.W_query, "bias", None) is not None
    linear = _fused_linear if fused else _linear
    norm = _fused_norm if fused else _norm
    heads = [("heads_attention", "context vectors")] if fused else _heads(block.attention.causal)
    projections = [("projections", "queries, keys, values")] if fused else _projections(biased)
    gelu = [("gelu", "hidden layer")] if fused else _GELU
    attention = [*norm("norm1"), *projections, *heads, *linear("out_proj", "output of attention")]
    expand = linear("expand", "hidden layer before GELU")
    feed_forward = [*norm("norm2"), *expand, *gelu, *linear("contract", "output of feed-forward")]
    return [
        *attention,
        ("add", "stream after attention"),
        *feed_forward,
        ("add", f"stream after block {number}"),
    ]


def _fused_norm(part: str) -> Names:
    return [("layer_norm", f"output of {part}")]


def _norm(part: str) -> Names:
    steps = [
        ("sum", "sum of channels"), ("div", "mean"), ("sub", "centered"), ("mul", "squares"), ("sum", "sum of squares"),
        ("div", "variance"), ("add", "variance + eps"), ("rsqrt", "1 / std"), ("mul", "normalized"), ("mul", "scaled"),
    ]  # fmt: skip
    return [*[(op, f"{part}: {name}") for op, name in steps], ("add", f"output of {part}")]


def _fused_linear(layer: str, name: str) -> Names:
    return [("linear", name)]


def _linear(layer: str, name: str, bias: bool = True) -> Names:
    product = [("transpose", f"{layer} transposed"), ("matmul", f"{name}, no bias" if bias else name)]
    return [*product, ("add", name)] if bias else product


def _projections(bias: bool) -> Names:
    pairs = ("W_query", "queries"), ("W_key", "keys"), ("W_value", "values")
    return [step for layer, name in pairs for step in _linear(layer, name, bias)] + [
        ("concat", "queries, keys, values")
    ]


def _heads(causal: bool) -> Names:
    split = [("reshape", "split into heads")]
    for name in ("queries", "keys", "values"):
        split += [("getitem", f"{name}, cut out"), ("transpose", f"{name} of the heads")]
    mask = [("where", "masked scores")] if causal else []
    return [
        *split, ("transpose", "keys transposed"), ("matmul", "scores"), ("mul", "scores / sqrt(D)"), *mask,
        ("sub", "scores minus maximum"), ("exp", "exponentials"), ("sum", "sum of a row"),
        ("where", "sum of a row, not 0"), ("div", "attention weights"), ("matmul", "context vectors of the heads"),
        ("transpose", "positions first"), ("reshape", "context vectors"),
    ]  # fmt: skip


_GELU: Names = [
    ("mul", "x / 2"), ("mul", "0.044715 x"), ("mul", "0.044715 x²"), ("mul", "0.044715 x³"), ("add", "x + 0.044715 x³"),
    ("mul", "argument of tanh"), ("tanh", "tanh"), ("add", "1 + tanh"), ("mul", "hidden layer"),
]  # fmt: skip
