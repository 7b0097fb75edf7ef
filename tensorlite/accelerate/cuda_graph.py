"""A function's work on a GPU recorded as one CUDA graph, and replayed: for small models the launches are the cost.

One idea: a graph repeats addresses. It reads its inputs where they were and writes its result where it was, so all that
it touches lives in a memory pool of its own, and what changes from call to call lives on the device: inputs are copied
to their places before each replay; a learning rate or a random counter is a number there. Python does not run in a
replay: what a function does beside computing on Tensors happens in its first three calls alone.

What it refuses: to guess. Inputs of other shapes, or another `key`, start anew. On the CPU the function just runs; so
it does where it cannot be recorded, and `why_not` says why.
"""

import contextvars
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from ..autograd import setting
from ..backend import library_of
from ..tensor import Tensor

capturing = contextvars.ContextVar("capturing", default=False)  # whether a recording is going on: nothing runs in it


class CudaGraph:
    """`function(*inputs)`, which gives one Tensor, as a CUDA graph from its third call with the same shapes on.

    `before` runs ahead of each replay, for what the host has to hand over (an optimizer's `upload`). What a call
    returns is a copy that no later replay overwrites.
    """

    def __init__(self, function: Callable[..., Tensor], before: Callable[[], None] = lambda: None):
        self.function, self.before, self.why_not = function, before, ""
        self._start(None)

    def _start(self, key: Hashable) -> None:
        self._key, self._calls = key, 0
        self._graph: Any = None
        self._pool: Any = None
        self._stream: Any = None

    @property
    def recorded(self) -> bool:
        """Whether the next call with these shapes is a replay."""
        return self._graph is not None

    def __call__(self, *inputs: Tensor, key: Hashable = None) -> Tensor:
        if self.why_not or not inputs or inputs[0].device.partition(":")[0] != "cuda":
            return self.function(*inputs)
        found = key, tuple([(x.shape, x.dtype, x.device) for x in inputs])
        if found != self._key:
            self._start(found)
        cupy = library_of(inputs[0].device)
        self._calls += 1
        if self._calls == 1:  # kernels are compiled; it may be the only call with these shapes
            return self.function(*inputs)
        if self._calls == 2:
            return self._warm_up(cupy, inputs)
        if self._graph is None:
            self._record(cupy, inputs)
            if self.why_not:
                return self.function(*inputs)
        for place, x in zip(self._inputs, inputs, strict=True):
            place.data[...] = x.data
        return self.again()

    def again(self) -> Tensor:
        """One more replay, on the inputs of the last one or what the function has made of them in place."""
        self.before()
        self._graph.launch()
        return Tensor(self._result.data.copy())

    def _warm_up(self, cupy: Any, inputs: Sequence[Tensor]) -> Tensor:
        """A plain call on a stream of its own, with its memory from the pool, which so has what the recording needs."""
        cupy.get_default_memory_pool().free_all_blocks()  # what plain calls had, or it would be held twice
        self._pool, self._stream = cupy.cuda.MemoryPool(), cupy.cuda.Stream()
        with cupy.cuda.using_allocator(self._pool.malloc), self._stream:
            result = self.function(*inputs)
        return Tensor(result.data.copy())

    def _record(self, cupy: Any, inputs: Sequence[Tensor]) -> None:
        """What the function launches becomes the graph; one that waits for the device, say, cannot be recorded."""
        self._inputs = [Tensor(x.data.copy()) for x in inputs]
        graph = None
        with cupy.cuda.using_allocator(self._pool.malloc), self._stream:
            try:
                self._stream.begin_capture()
                try:
                    with setting(capturing, True):
                        self._result = self.function(*self._inputs)
                finally:
                    graph = self._stream.end_capture()
            except Exception as error:
                self.why_not = f"it could not be recorded as a CUDA graph: {type(error).__name__}: {error}"
        self._graph = None if self.why_not else graph
        cupy.get_default_memory_pool().free_all_blocks()  # and what the warm-up set free: gradients of the call before
