"""A stand-in for `cupy` and its NCCL, which records the calls and computes them on the host's memory by address.

It plays a world of `size` processes that all have the same arrays; `installed(monkeypatch, size)` is the list of calls.
"""

import ctypes
import types

import numpy as np

DTYPES = {2: "int32", 4: "int64", 6: "float16", 7: "float32", 8: "float64"}  # NCCL's numbers, of nccl.h
STREAM = 77


def at(address: int, count: int, dtype: int) -> np.ndarray:
    size = count * np.dtype(DTYPES[dtype]).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(address), DTYPES[dtype])


class FakeCommunicator:
    calls: list[tuple]

    def __init__(self, size: int, identity: tuple, rank: int):
        self.size, self.rank = size, rank
        self.calls.append(("init", size, identity, rank))

    def allReduce(self, source, target, count, dtype, op, stream):
        self.calls.append(("allReduce", source == target, count, DTYPES[dtype], op, stream))
        at(target, count, dtype)[...] = self.size * at(source, count, dtype)

    def broadcast(self, source, target, count, dtype, root, stream):
        self.calls.append(("broadcast", source == target, count, DTYPES[dtype], root, stream))

    def reduceScatter(self, source, target, count, dtype, op, stream):
        self.calls.append(("reduceScatter", source == target, count, DTYPES[dtype], op, stream))
        own = at(source, count * self.size, dtype).reshape(self.size, count)[self.rank]
        at(target, count, dtype)[...] = self.size * own

    def allGather(self, source, target, count, dtype, stream):
        self.calls.append(("allGather", source - target, count, DTYPES[dtype], stream))
        at(target, count * self.size, dtype).reshape(self.size, count)[...] = at(source, count, dtype).copy()


def installed(monkeypatch, available: bool = True) -> list[tuple]:
    """Put the stand-in into sys.modules; the list that its calls are added to."""
    calls: list[tuple] = []
    monkeypatch.setattr(FakeCommunicator, "calls", calls, raising=False)
    numbers = {f"NCCL_{DTYPES[n].upper()}": n for n in DTYPES}
    nccl = types.ModuleType("cupy.cuda.nccl")
    nccl.__dict__.update(
        available=available, NCCL_SUM=0, get_unique_id=lambda: (1, 2, 3), NcclCommunicator=FakeCommunicator, **numbers
    )
    cuda = types.ModuleType("cupy.cuda")
    cuda.nccl, cuda.get_current_stream = nccl, lambda: types.SimpleNamespace(ptr=STREAM)
    cupy = types.ModuleType("cupy")
    cupy.cuda, cupy.is_available = cuda, lambda: True
    for module in (cupy, cuda, nccl):
        monkeypatch.setitem(__import__("sys").modules, module.__name__, module)
    return calls
