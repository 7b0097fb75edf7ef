"""Arrays of CuPy in devices/memory.py: views of adjacent ones, copies in the background. CuPy is a stand-in here.

It has what https://docs.cupy.dev says of `ndarray`, `MemoryPointer` and `Event`, on the host's memory: a copy that does
not block waits in a stream until an event behind it is waited for.
"""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from tensorlite.devices import gpu, memory, nccl


class ndarray:
    """A view of a block of memory; `data` is (the block, the address of the first element)."""

    __module__ = "cupy"

    def __init__(self, shape, dtype=np.float32, memptr=None, values=None):
        if values is None:
            offset = memptr.ptr - memptr.mem.ctypes.data
            values = np.ndarray(shape, dtype, memptr.mem, offset)
        self.values, self.shape, self.dtype, self.nbytes = values, values.shape, values.dtype, values.nbytes
        self.flags, self.device = values.flags, Device()
        owner = values
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        self.data = SimpleNamespace(mem=owner, ptr=values.ctypes.data)

    def __len__(self):
        return len(self.values)

    def __getitem__(self, key):
        return ndarray(None, values=self.values[key])

    def reshape(self, *shape):
        return ndarray(None, values=self.values.reshape(*shape))

    def get(self, out=None, blocking=True):
        assert not blocking
        STREAM.append(lambda: np.copyto(out, self.values))


class Device:
    """The GPU of an array, of which an array made elsewhere would be on another one."""

    entered = 0

    def __enter__(self):
        Device.entered += 1

    def __exit__(self, *_):
        Device.entered -= 1


class Event:
    """Waiting for it does what the stream had when it was recorded, and no more."""

    def __init__(self, disable_timing=False):
        self.before = None

    def record(self):
        self.before = len(STREAM)

    def synchronize(self):
        for work in STREAM[: self.before]:
            work()
        del STREAM[: self.before]


STREAM: list = []


@pytest.fixture
def cupy(monkeypatch):
    def made(*args, **kwargs):
        assert Device.entered == 1, "the new array would be on the current GPU"
        return ndarray(*args, **kwargs)

    module, extra = ModuleType("cupy"), ModuleType("cupyx")
    module.ndarray, module.cuda = made, SimpleNamespace(Event=Event)
    module.concatenate = lambda xs: ndarray(None, values=np.concatenate([x.values for x in xs]))
    extra.empty_pinned = lambda shape, dtype: np.full(shape, 77, dtype)
    for each in (module, extra):
        monkeypatch.setitem(sys.modules, each.__name__, each)
    STREAM.clear()
    return module


@pytest.mark.usefixtures("cupy")
def test_arrays_that_are_adjacent_on_a_gpu_are_concatenated_as_a_view():
    flat = ndarray(None, values=np.arange(24, dtype=np.float32))
    a, b, c = (flat[i : i + 8].reshape(4, 2) for i in (0, 8, 16))
    for parts, first in (([a, b, c], 0), ([b, c], 8), ([c], 16)):
        one = memory.adjacent_view(parts)
        assert one.values.tolist() == np.arange(first, first + 8 * len(parts)).reshape(-1, 2).tolist()
        assert np.shares_memory(one.values, flat.values)
    other = ndarray(None, values=np.arange(8, dtype=np.float32).reshape(4, 2))
    for apart in (
        [a, c],
        [b, a],
        [a, a],
        [a, other],
        [a, b[::2]],
        [a, ndarray(None, values=b.values.T)],
        [a, flat[8:]],
    ):
        assert memory.adjacent_view(apart) is None
    ints = ndarray(None, values=b.values.view(np.int32))
    assert memory.adjacent_view([a, ints]) is None
    assert memory.concatenated(b, a).values.tolist() == [*b.values.tolist(), *a.values.tolist()]


@pytest.mark.usefixtures("cupy")
def test_neighbours_by_chance_are_no_view():
    """Two blocks of memory, one behind the other, belong to different owners and may be freed one by one."""
    whole = np.arange(16, dtype=np.float32)
    blocks = [np.frombuffer(memoryview(whole)[i : i + 8], np.float32) for i in (0, 8)]
    a, b = (ndarray(None, values=x) for x in blocks)
    assert a.data.ptr + a.nbytes == b.data.ptr
    assert memory.adjacent_view([a, b]) is None


@pytest.mark.usefixtures("cupy")
def test_a_copy_to_the_host_waits_for_itself_alone():
    x, done = ndarray(None, values=np.arange(6, dtype=np.int64).reshape(2, 3)), []
    wait = memory.start_copy_to_host(x)
    STREAM.append(lambda: done.append("work that came later"))
    assert len(STREAM) == 2  # nothing has been waited for
    assert wait().tolist() == [[0, 1, 2], [3, 4, 5]]
    assert not done


def test_gpus_are_counted_and_nccl_is_found(monkeypatch):
    module, cuda = ModuleType("cupy"), ModuleType("cupy.cuda")
    module.is_available, module.cuda = lambda: True, cuda
    cuda.runtime = SimpleNamespace(getDeviceCount=lambda: 3)
    for each in (module, cuda):
        monkeypatch.setitem(sys.modules, each.__name__, each)
    assert gpu.count() == 3
    for found in (True, False):
        cuda.nccl = ModuleType("cupy.cuda.nccl")
        cuda.nccl.available = found
        monkeypatch.setitem(sys.modules, "cupy.cuda.nccl", cuda.nccl)
        assert nccl.available() is found
