"""Exchange between GPUs: which of NCCL's functions are called, with which addresses, counts, dtypes and stream."""

import nccl
import numpy as np
import pytest

from tensorlite.devices.nccl import Communicator
from tensorlite.distributed import World
from tensorlite.testing.strict import StrictArray


def world(size=2, rank=0):
    """A World without MPI: its GPUs exchange by the stand-in."""
    found = World.__new__(World)
    found.rank, found.size, found.payload, found._gpus = rank, size, 0.0, None
    found.share = lambda value=None: (1, 2, 3)
    return found


def test_every_exchange_is_one_call_in_place_on_the_current_stream(monkeypatch):
    calls = nccl.installed(monkeypatch)
    w, x = world(2, rank=1), StrictArray(np.arange(6, dtype=np.float32))
    part = StrictArray(np.zeros(3, np.float32))
    assert w.start_all_reduce(x) is None
    np.testing.assert_array_equal(x.values, [0, 2, 4, 6, 8, 10])
    assert w.start_reduce_scatter(x, part) is None
    np.testing.assert_array_equal(part.values, [12, 16, 20])
    assert w.start_all_gather(x) is None
    np.testing.assert_array_equal(x.values, [6, 8, 10, 6, 8, 10])
    w.broadcast(x)
    w.all_reduce(StrictArray(np.ones(2, np.float64)))
    assert calls == [
        ("init", 2, (1, 2, 3), 1),  # once, although there were five exchanges
        ("allReduce", True, 6, "float32", 0, nccl.STREAM),
        ("reduceScatter", False, 3, "float32", 0, nccl.STREAM),
        ("allGather", 3 * 4, 3, "float32", nccl.STREAM),  # from its own place
        ("broadcast", True, 6, "float32", 0, nccl.STREAM),
        ("allReduce", True, 2, "float64", 0, nccl.STREAM),
    ]
    assert w.payload == 24 + 12 + 12 + 16


def test_without_nccl_one_sentence_says_what_to_install(monkeypatch):
    nccl.installed(monkeypatch, available=False)
    with pytest.raises(
        ImportError, match=r"^processes on GPUs exchange by NCCL, which CuPy does not find: pip install"
    ):
        Communicator(0, 2, lambda value: value)
