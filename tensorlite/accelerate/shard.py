"""An optimizer's state split over processes: each keeps a part, updates that part of the weights, and gets the rest.

    reducer = Reducer(world, optimizer)
    shard(reducer)

Instead of the sum of all gradients, each process gets its part of each bucket (reduce-scatter), and after the update
the weights of all parts are gathered. Both together send as many bytes as the sum alone. Stage 1 of Rajbhandari et al.,
"ZeRO: memory optimizations toward training trillion parameter models", 2020.
"""

import math
from collections.abc import Callable
from typing import Any

from ..backend import Array, xp
from ..devices.machine import in_parts
from ..devices.memory import scratch
from ..optim import clipping
from ..optim.optimizers import Optimizer, PlainStorage, compute_dtype
from ..tensor import Tensor
from .reduce import Bucket, Reducer
from .storage import BLOCK, UPDATES


def shard(reducer: Reducer, announce: Callable[[], None] = lambda: None) -> None:
    """Split the optimizer's state over the processes of the reducer once its first backward pass is done.

    Reading the whole state, as a checkpoint does, needs all processes: process 0 calls `announce` before it, and the
    others then call `gather` of the storage. ValueError for an optimizer without a formula in `storage.UPDATES`, and
    for parameters that are narrower than their updates or not on the CPU.
    """
    optimizer = reducer.optimizer
    if type(optimizer).update not in UPDATES:
        raise ValueError(f"the state of {type(optimizer).__name__} cannot be split: use SGD, Adam or AdamW")
    for p in optimizer.params:
        if p.device != "cpu" or compute_dtype(p.data) != p.dtype:
            raise ValueError(
                f"the optimizer's state is split on CPUs and for float32 or float64, not for {p.dtype} on {p.device}: "
                "omit shard_optimizer"
            )

    optimizer._storage = waiting = WaitingStorage(optimizer)

    def arranged() -> None:
        optimizer._storage = ShardedStorage(optimizer, waiting, reducer, announce)

    reducer.arranged = arranged


class WaitingStorage(PlainStorage):
    """The state until the parts are made. Before the first update it is zeros, and takes no memory.

    Each weight gets memory of its own, so that it is free as soon as the weight is part of a bucket.
    """

    def __init__(self, optimizer: Optimizer):
        before, self.names, self.params = optimizer._storage, optimizer.state_names, optimizer.params
        self.steps = list(before.steps)
        self.kept = {
            i: {name: array.copy() for name, array in state.items()}
            for i, state in enumerate(before.arrays)
            if self.steps[i]
        }
        for p in optimizer.params:
            p.data = p.data.copy()

    @property
    def arrays(self) -> list[dict[str, Array]]:  # type: ignore[override]
        """The state of each parameter by name."""
        return [
            self.kept.get(i) or {name: xp(p.data).zeros_like(p.data) for name in self.names}
            for i, p in enumerate(self.params)
        ]


class Part:
    """This process' part of a bucket: of the weights, of their gradient, and of the optimizer's state."""

    def __init__(
        self, bucket: Bucket, optimizer: Optimizer, kept: dict[int, dict[str, Array]], rank: int, processes: int
    ):
        like = optimizer.params[bucket.members[0]].data
        library, size, self.bucket = xp(like), bucket.size // processes, bucket
        begin, end = rank * size, (rank + 1) * size
        self.weights = library.zeros(bucket.size, like.dtype)  # of the whole bucket
        self.own, self.gradient = self.weights[begin:end], library.zeros(size, like.dtype)
        self.state = {name: library.zeros(size, like.dtype) for name in optimizer.state_names}
        for i in bucket.members:
            p, view, place = optimizer.params[i], bucket.view(self.weights, i), bucket.places[i][0]
            view[...] = p.data
            p.data = view
            start, stop = max(begin, place.start), min(end, place.stop)  # of the bucket: what is this process' of it
            for name, state in kept.pop(i, {}).items():
                if start < stop:
                    whole = state.reshape(-1)
                    self.state[name][start - begin : stop - begin] = whole[start - place.start : stop - place.start]

    def update(self, update: Callable[..., None], t: int, options: dict[str, Any], scale: float) -> None:
        """The optimizer's formula, in blocks, on all threads."""

        def change(part: slice) -> None:
            for start in range(part.start, part.stop, BLOCK):
                block = slice(start, min(start + BLOCK, part.stop))
                g, work = (scratch(n, (block.stop - start,), self.gradient.dtype) for n in (0, 1))
                xp(g).multiply(self.gradient[block], scale, out=g)
                update(self.own[block], g, work, t, options, *[array[block] for array in self.state.values()])

        in_parts(change, self.own.size, self.own.size)


class ShardedStorage(PlainStorage):
    """The state of an optimizer in parts, one for each bucket."""

    def __init__(self, optimizer: Optimizer, waiting: "WaitingStorage", reducer: Reducer, announce: Callable[[], None]):
        self.world, self.announce, self.formula = reducer.world, announce, type(optimizer).update
        self.names, self.shapes = optimizer.state_names, [p.shape for p in optimizer.params]
        self.steps = waiting.steps
        self.parts = [
            Part(bucket, optimizer, waiting.kept, self.world.rank, self.world.size) for bucket in reducer.buckets
        ]
        self.of = {id(part.bucket): part for part in self.parts}
        reducer.reduce = self.reduce

    def reduce(self, bucket: Bucket) -> Any:
        """Begin the exchange of a bucket's gradients."""
        return self.world.start_reduce_scatter(bucket.flat, self.of[id(bucket)].gradient)

    def global_norm(self, optimizer: Optimizer) -> Tensor:
        norm = clipping.compute_norm([part.gradient for part in self.parts])
        square = xp(norm).array(norm * norm).reshape(1)
        self.world.all_reduce(square)
        return Tensor(xp(norm).sqrt(square).reshape(()))

    def step(self, optimizer: Optimizer, grad_scale: float | Tensor) -> None:
        scale = float(grad_scale.item() if isinstance(grad_scale, Tensor) else grad_scale)
        if not math.isfinite(scale):
            return
        requests = []
        for part in self.parts:
            first = part.bucket.members[0]
            part.update(UPDATES[self.formula], self.steps[first] + 1, optimizer.options(first), scale)
            requests.append(self.world.start_all_gather(part.weights))
        for part, request in zip(self.parts, requests, strict=True):
            self.world.wait(request)
            for i in part.bucket.members:
                self.steps[i] += 1
                optimizer.params[i].changed()

    @property
    def arrays(self) -> list[dict[str, Array]]:  # type: ignore[override]
        """The whole state of each parameter by name, in process 0: all processes take part (see `shard`)."""
        self.announce()
        return self.gather()

    def gather(self) -> list[dict[str, Array]]:
        """Called by all processes; the result is that of `arrays`."""
        library = xp(self.parts[0].weights)
        found: list[dict[str, Array]] = [
            {name: library.zeros(shape, "float32") for name in self.names} for shape in self.shapes
        ]
        for part in self.parts:
            for name, own in part.state.items():
                whole = library.zeros(own.size * self.world.size, own.dtype)
                whole[self.world.rank * own.size : (self.world.rank + 1) * own.size] = own
                self.world.wait(self.world.start_all_gather(whole))
                for i in part.bucket.members:
                    found[i][name] = part.bucket.view(whole, i)
        return found
