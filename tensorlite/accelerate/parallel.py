"""The gradient of a sum whose terms are computed by several threads, such as the losses of the parts of a batch.

Splitting each large op over threads (devices/machine.py) costs a hand-over for every op. Where ops are small, it is
faster to give each thread a part of the batch and the whole forward and backward pass for it. Each thread then has its
own gradients, which are added in the order of the terms: the same number of terms gives the same bits.
"""

from collections.abc import Callable, Sequence

from ..autograd import Gradients, starting_gradient, walk
from ..devices.machine import in_threads
from ..tensor import Tensor


def backward(terms: Sequence[Callable[[], Tensor]]) -> list[Tensor]:
    """Add the gradient of the sum of `terms` to the `.grad` of its leaves; return the terms' values, detached.

    Each is a function without arguments that returns a Tensor with one element; each is called on its own thread and
    may share leaves with others, which it must not change.
    """

    def compute(i: int) -> tuple[Tensor, Gradients]:
        loss = terms[i]()
        return loss.detach(), walk(loss, starting_gradient(loss, None).data)

    found = in_threads(compute, len(terms)) if terms else []
    for _, gradients in found:
        gradients.add_to_leaves()
    return [loss for loss, _ in found]
