"""Gradients summed over several processes, while the backward pass goes on.

    reducer = Reducer(world, optimizer)
    reducer.backward(loss)    # instead of loss.backward() in the last pass of a step

Gradients lie in buckets: flat arrays, each reduced as a whole. A leaf is finished when the walk has left all nodes that
point to it; a bucket is sent when all of its leaves are. All processes send the buckets in one order, that in which the
first backward pass of the run finished the leaves (Li et al., "PyTorch distributed: experiences on accelerating data
parallel training", 2020).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from .. import autograd
from ..autograd import Node, starting_gradient, walk
from ..backend import Array, xp
from ..distributed import World
from ..optim.optimizers import Optimizer
from ..tensor import Tensor
from .accumulate import InPlaceGradients

BUCKET = 1 << 20  # elements: 4 MiB in float32

# ----- finished leaves --------------------------------------------------------------------------------------------


def edges(root: Any) -> dict[Any, int]:
    """For each leaf of the graph of `root`: how many gradients will arrive at it."""
    counts: dict[Any, int] = {}
    seen, stack = {root}, [root]
    while stack:
        node = stack.pop()
        for i in node.wanted:
            parent = node.parents[i]
            if not isinstance(parent, Node):
                counts[parent] = counts.get(parent, 0) + 1
            elif parent not in seen:
                seen.add(parent)
                stack.append(parent)
    return counts


class AnnouncingGradients(InPlaceGradients):
    """Hands each leaf with its whole gradient to `finished(leaf, g)`, as soon as nothing more arrives at it."""

    __slots__ = ("finished", "left")

    def __init__(self, root: Any, g: Any, finished: Callable[[Any, Array], None]):
        super().__init__(root, g)
        self.left, self.finished = edges(root), finished

    def add(self, pieces: Sequence[tuple[Any, ...]], node: Node, g: Any) -> list[Any]:
        reached = super().add(pieces, node, g)
        for parent, _ in pieces:
            if parent in self.left:
                self.left[parent] -= 1
                if not self.left[parent]:
                    self.finished(parent, self.sums.pop(parent))
        return reached


@contextmanager
def announcing(root: Any, finished: Callable[[Any, Array], None]) -> Iterator[None]:
    """Let the walk from `root` announce its leaves. Walks inside it, of recomputed blocks, are left as they are."""
    before = autograd.accumulator

    def make(start: Any, g: Any) -> autograd.Gradients:
        return AnnouncingGradients(start, g, finished) if start is root else before(start, g)

    autograd.accumulator = make
    try:
        yield
    finally:
        autograd.accumulator = before


# ----- buckets ----------------------------------------------------------------------------------------------------


class Bucket:
    """The gradients of some parameters in one array, `flat`; `members` are their positions in the optimizer.

    `size` is a multiple of the number of processes: the end may be padding.
    """

    def __init__(self, members: list[int], params: list[Tensor], processes: int):
        self.members, self.places, size = members, {}, 0
        for i in members:
            self.places[i] = slice(size, size + params[i].size), params[i].shape
            size += params[i].size
        self.like, self.size = params[members[0]].data, -(-size // processes) * processes
        self._flat: Any = None
        self.left = set(members)  # whose gradient is not in `flat` yet

    @property
    def flat(self) -> Array:
        """The gradients, (size,). Made when it is first used, from memory that earlier buckets' gradients had."""
        if self._flat is None:
            self._flat = xp(self.like).zeros(self.size, self.like.dtype)
            del self.like
        return self._flat

    def view(self, flat: Array, i: int) -> Array:
        """Parameter i's part of an array like `flat`, in its shape."""
        part, shape = self.places[i]
        return flat[part].reshape(shape)

    def put(self, i: int, *gradients: Array) -> None:
        """Set parameter i's gradient to the sum of one or two arrays; without any to 0."""
        view = self.view(self.flat, i)
        if len(gradients) == 2:
            xp(view).add(*gradients, out=view)
        else:
            view[...] = gradients[0] if gradients else 0
        self.left.remove(i)


def arrange(order: Sequence[int], optimizer: Optimizer, processes: int, size: int = BUCKET) -> list[Bucket]:
    """Buckets of about `size` elements, of parameters that are finished one after another and updated alike."""
    alike: dict[tuple[Any, ...], list[list[int]]] = {}
    steps = optimizer._storage.steps
    for i in order:
        p = optimizer.params[i]
        runs = alike.setdefault((id(optimizer.group_of(i)), p.device, p.dtype, steps[i]), [[]])
        if sum(optimizer.params[j].size for j in runs[-1]) >= size:
            runs.append([])
        runs[-1].append(i)
    place = {i: number for number, i in enumerate(order)}
    runs = sorted((run for group in alike.values() for run in group), key=lambda run: place[run[-1]])
    return [Bucket(run, optimizer.params, processes) for run in runs]


class Reducer:
    """The last backward pass of a step: afterwards the gradients of all processes together are in `.grad`.

    `reduce(bucket)` begins the exchange of a bucket and returns its request: the sum, or this process' part of it
    (shard.py). Which parameters have a gradient is found in the first step, and holds for all.
    """

    def __init__(self, world: World, optimizer: Optimizer, bucket_size: int = BUCKET):
        self.world, self.optimizer, self.params = world, optimizer, optimizer.params
        self.number = {p: i for i, p in enumerate(self.params)}
        self.bucket_size = bucket_size
        self.buckets: list[Bucket] = []
        self.of: dict[int, Bucket] = {}
        self.requests: list[Any] = []
        self.reduce: Callable[[Bucket], Any] = lambda bucket: world.start_all_reduce(bucket.flat)
        self.arranged: Callable[[], None] = lambda: None  # called when the buckets are made

    def backward(self, loss: Tensor | None) -> None:
        """`loss.backward()`, then every process has the sum of the gradients of all of them.

        None for a process whose passes have no targets. RuntimeError where a parameter gets its first gradient later
        than in the first step.
        """
        if not self.buckets:
            self._first(loss)
        else:
            self._begin()
            if loss is not None:
                self._walk(loss, self._finished)
        for bucket in self.buckets:
            for i in list(bucket.left):
                bucket.put(i, *self._earlier(i))
                self.params[i].grad = None  # its memory is free for the next bucket
        self._send()
        for request in self.requests:
            self.world.wait(request)
        for bucket in self.buckets:
            for i in bucket.members:
                self.params[i].grad = Tensor(bucket.view(bucket.flat, i))

    def _begin(self) -> None:
        self.requests = []
        for bucket in self.buckets:
            bucket.left = set(bucket.members)

    @staticmethod
    def _walk(loss: Tensor, finished: Callable[[Any, Array], None]) -> None:
        with announcing(loss.node, finished):
            walk(loss, starting_gradient(loss, None).data)

    def _earlier(self, i: int) -> list[Array]:
        """The gradient of earlier passes of this step, if any."""
        grad = self.params[i].grad
        return [] if grad is None else [grad.data]

    def _finished(self, leaf: Any, g: Array) -> None:
        """Called by the walk: put the gradient into its bucket, and send what is complete."""
        if (i := self.number.get(leaf)) is None:
            return
        if i not in self.of:
            raise RuntimeError(
                f"parameter {i}, of shape {leaf.shape}, has its first gradient now, and not in the first step: several "
                "processes need the same parameters in every step"
            )
        self.of[i].put(i, *self._earlier(i), g)
        self._send()
        for request in self.requests:  # MPI moves data only while it is called
            if request is not None:
                request.Test()

    def _send(self) -> None:
        """Begin the exchange of the next buckets, as long as they are complete."""
        while len(self.requests) < len(self.buckets) and not self.buckets[len(self.requests)].left:
            self.requests.append(self.reduce(self.buckets[len(self.requests)]))

    def _first(self, loss: Tensor | None) -> None:
        """The first pass: a plain one that only records the order, in which the buckets are then arranged."""
        order: list[int] = []

        def finished(leaf: Any, g: Array) -> None:
            if (i := self.number.get(leaf)) is not None:
                order.append(i)
                leaf.grad = Tensor(xp(g).add(leaf.grad.data, g) if leaf.grad is not None else xp(g).array(g))

        if loss is not None:
            self._walk(loss, finished)
        mine = order + [i for i, p in enumerate(self.params) if p.grad is not None and i not in {*order}]
        orders = self.world.collect(mine)
        self.buckets = arrange(
            list(dict.fromkeys(i for each in orders for i in each)), self.optimizer, self.world.size, self.bucket_size
        )
        self.of = {i: bucket for bucket in self.buckets for i in bucket.members}
        self.arranged()
        self._begin()
