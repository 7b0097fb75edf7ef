"""Adding gradients in place: less memory to write, the same bits.

`autograd.Gradients` makes a new array for every sum. Here a sum is written over one of the two arrays wherever nothing
else refers to that array. Such an array is called *owned*; any other is *borrowed*, because a rule may return the
incoming gradient itself, a value that it saved, or one array for two arguments. The first piece that arrives at a node
is borrowed, unless a leaf gets what its rule has just made. Every sum is owned, and what arrives later is added to it.

Addition is commutative in floating point, so which of the two arrays is written over does not change the result.
"""

from collections.abc import Sequence
from typing import Any

from .. import autograd
from ..autograd import Gradients, Node
from ..backend import Array, add, is_array


class InPlaceGradients(Gradients):
    """Gradients on their way, with sums in place where the walk owns the memory."""

    __slots__ = ("owned",)

    def __init__(self, root: Any, g: Any):
        self.sums = {root: g}
        self.owned: set[Any] = set()  # the nodes and leaves whose gradient the walk may write over

    def add(self, pieces: Sequence[tuple[Any, ...]], node: Node, g: Any) -> list[Any]:
        sums, owned, reached = self.sums, self.owned, []
        for parent, piece in pieces:
            if parent not in sums:
                sums[parent] = piece
                reached.append(parent)
                if not isinstance(parent, Node) and _is_new(piece, pieces, node, g):
                    owned.add(parent)
            elif parent in owned:
                sums[parent] = add(sums[parent], piece, out=sums[parent])
            else:
                sums[parent] = add(piece, sums[parent], out=piece if _is_new(piece, pieces, node, g) else None)
                owned.add(parent)
        return reached

    def take(self, node: Any) -> Array:
        g = self.sums[node]
        return g if node in self.owned and is_array(g) else super().take(node)


def _is_new(piece: Array, pieces: Sequence[tuple[Any, ...]], node: Node, g: Array) -> bool:
    """Whether a rule has just made this array, and nothing else refers to it."""
    if piece is g or piece.base is not None:
        return False
    for value in node.saved:
        if value is piece:
            return False
    users = 0
    for _, other in pieces:
        if other is piece or other.base is piece:
            users += 1
    return users == 1


def attach() -> None:
    """Let every walk from now on add in place, unless it is recorded itself."""
    autograd.accumulator = InPlaceGradients
