"""Sums and copies between GPUs of several processes, by NVIDIA's NCCL through CuPy, on the current stream.

Nothing here waits for a GPU, and each call can be recorded in a CUDA graph. The processes learn of each other through
`share`, a broadcast of a small object from process 0 (tensorlite/distributed.py).

NVIDIA, "NCCL documentation", collective communication functions: https://docs.nvidia.com/deeplearning/nccl/user-guide.
"""

from collections.abc import Callable
from typing import Any

from ..backend import Array, cupy_module, library_of

NCCL = "cupy.cuda.nccl"


def available() -> bool:
    """Whether CuPy finds NCCL. RuntimeError where there is no CuPy or no GPU."""
    library_of("cuda")
    return bool(cupy_module(NCCL).available)


class Communicator:
    """The GPUs of `size` processes, one of each: the current device.

    ImportError where CuPy finds no NCCL, RuntimeError where there is no CuPy or no GPU.
    """

    def __init__(self, rank: int, size: int, share: Callable[[Any], Any]):
        library, nccl = library_of("cuda"), cupy_module(NCCL)
        if not nccl.available:
            raise ImportError(
                "processes on GPUs exchange by NCCL, which CuPy does not find: pip install nvidia-nccl-cu13"
            )
        self.nccl, self.stream = nccl, library.cuda.get_current_stream
        self.rank, self.size = rank, size
        self.comm = nccl.NcclCommunicator(size, share(nccl.get_unique_id() if rank == 0 else None), rank)

    def broadcast(self, x: Array) -> None:
        """Overwrite x by that of process 0."""
        self.comm.broadcast(x.data.ptr, x.data.ptr, x.size, self._dtype(x), 0, self.stream().ptr)

    def all_reduce(self, x: Array) -> None:
        """Overwrite x by its sum over all processes."""
        self.comm.allReduce(x.data.ptr, x.data.ptr, x.size, self._dtype(x), self.nccl.NCCL_SUM, self.stream().ptr)

    def reduce_scatter(self, x: Array, part: Array) -> None:
        """`part` (n,) becomes this process' part of the sum of x (size * n,)."""
        self.comm.reduceScatter(
            x.data.ptr, part.data.ptr, part.size, self._dtype(x), self.nccl.NCCL_SUM, self.stream().ptr
        )

    def all_gather(self, x: Array) -> None:
        """x (size * n,) becomes the parts of all processes, each of which gives its own."""
        n = x.size // self.size
        own = x.data.ptr + self.rank * n * x.itemsize
        self.comm.allGather(own, x.data.ptr, n, self._dtype(x), self.stream().ptr)

    def _dtype(self, x: Array) -> int:
        """NCCL's number of x's dtype; of those that a sum does not depend on, bytes would do."""
        names = {"float32": "FLOAT32", "float64": "FLOAT64", "float16": "FLOAT16", "int64": "INT64", "int32": "INT32"}
        return getattr(self.nccl, f"NCCL_{names[x.dtype.name]}")
