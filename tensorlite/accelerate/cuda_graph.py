"""CUDA graphs: the kernels that a function launches on a GPU are recorded once and launched together from then on.

For small models launching each kernel from Python takes longer than the kernel itself; a graph is launched as a whole.
It repeats the recorded launches with the same addresses. Therefore everything that it reads and writes is in a memory
pool of its own, and what changes from call to call has a fixed place on the device: inputs are copied to theirs before
each replay; a learning rate or the counter of a random generator is a number in the device's memory. Python does not
run in a replay: whatever a function does other than computing on Tensors happens in its first three calls only.

Inputs of other shapes, or another `key`, start a new recording. On a CPU the function is simply called. The same is
done if it cannot be recorded, and then `why_not` gives the reason.
"""

import contextvars
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from ..backend import library_of
from ..grad_mode import setting
from ..tensor import Tensor

capturing = contextvars.ContextVar(
    "capturing", default=False
)  # True while a graph is recorded: nothing is computed then


class CudaGraph:
    """`function(*inputs)`, which returns one Tensor, as a CUDA graph from its third call with the same shapes on.

    `before` is called before each replay, to copy to the device what changes (an optimizer's `upload`). A call returns
    a copy, which later replays do not overwrite.
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
        """One more replay, on the inputs of the last one, which the function may have changed in place."""
        self.before()
        self._graph.launch()
        return Tensor(self._result.data.copy())

    def _warm_up(self, cupy: Any, inputs: Sequence[Tensor]) -> Tensor:
        """A plain call on a stream of its own, with memory from the pool, which then has what a recording needs."""
        cupy.get_default_memory_pool().free_all_blocks()  # the memory of earlier calls, or it would be held twice
        self._pool, self._stream = cupy.cuda.MemoryPool(), cupy.cuda.Stream()
        with cupy.cuda.using_allocator(self._pool.malloc), self._stream:
            result = self.function(*inputs)
        return Tensor(result.data.copy())

    def _record(self, cupy: Any, inputs: Sequence[Tensor]) -> None:
        """Record what the function launches. A function that waits for the device, for example, cannot be recorded."""
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
        cupy.get_default_memory_pool().free_all_blocks()  # and what the first call freed: its gradients
