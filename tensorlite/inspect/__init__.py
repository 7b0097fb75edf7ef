"""See what the engine does: the graph of a result as text, DOT and SVG, and the backward pass one step at a time.

Nothing here changes a result or a gradient:

    from tensorlite.inspect import graph, steps

    print(graph(loss, names={"w": w}))
    Path("loss.svg").write_text(graph(loss).svg(), encoding="utf-8")
    for step in steps(loss):
        print(step)

In a notebook a graph is shown as a picture, a Tensor with a heat map, and a Module as a tree (display.py).
"""

from .describe import AutogradGraph, GraphNode, Kept, graph
from .walk import Piece, Step, steps

__all__ = ["AutogradGraph", "GraphNode", "Kept", "Piece", "Step", "graph", "steps"]
