"""What other processes are given and give back, forked and spawned; and what an optimizer changes of its process."""

import multiprocessing
import os
import queue
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest

import tensorlite as tl
from gpt.config import GPTConfig
from gpt.model import GPT
from tensorlite import functional as F
from tensorlite import nn, optim
from tensorlite.data import DataLoader, TokenFile, write_tokens
from tensorlite.devices import machine
from tensorlite.devices.heartbeat import Heartbeat

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
METHODS = multiprocessing.get_all_start_methods()  # not fork on Windows
each_method = pytest.mark.parametrize("method", [name for name in ("fork", "spawn") if name in METHODS])


# ----- training elsewhere -----------------------------------------------------------------------------------------


def steps(model, optimizer, epoch, generator, n: int) -> list[bytes]:
    """n steps with noise on the weights; all that came out of it, as bytes."""
    found = []
    for _ in range(n):
        x, y = next(epoch)
        optimizer.zero_grad()
        loss = model.loss(x, y) + (model.final_norm.weight * tl.randn(8, generator=generator)).sum()
        loss.backward()
        optimizer.step()
        found.append(loss.numpy().tobytes())
    state = optimizer.state_dict()["tensors"].values()
    return [*found, *[t.numpy().tobytes() for t in (*model.parameters(), *state)]]


def train_elsewhere(given, results) -> None:
    found = steps(*given.get(timeout=60), 2)
    results.put(found)


@pytest.mark.slow
@pytest.mark.finding("C6")
@each_method
def test_a_process_trains_on_with_what_it_is_sent_to_the_same_bytes(tmp_path, monkeypatch, method):
    for name in ("__spec__", "__file__"):  # a spawned process does not run pytest again
        monkeypatch.setattr(sys.modules["__main__"], name, None, raising=False)
    context = multiprocessing.get_context(method)
    write_tokens(tmp_path / "x.tokens", range(60), 60)
    tl.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=60, context_length=4, n_layer=1, n_head=2, n_embd=8))
    optimizer = optim.AdamW(model.parameters(), lr=0.1)
    loader = DataLoader(TokenFile(tmp_path / "x.tokens").windows(4, 1), 3, shuffle=True, generator=tl.Generator(1))
    parts = (model, optimizer, iter(loader), tl.Generator(5))
    steps(*parts, 2)
    given, results = context.Queue(), context.Queue()
    process = context.Process(target=train_elsewhere, args=(given, results))
    process.start()
    given.put(parts)
    found = results.get(timeout=60)
    process.join()
    assert process.exitcode == 0
    assert found == steps(*parts, 2)


# ----- what is refused --------------------------------------------------------------------------------------------


def computed(n: int):
    return tl.ones(n, requires_grad=True) * 2


@pytest.mark.finding("C6")
@pytest.mark.skipif("fork" not in METHODS, reason="this system does not fork")
def test_a_computed_tensor_is_refused_where_a_process_would_send_it(capfd):
    context = multiprocessing.get_context("fork")
    sentence = r"a Tensor computed by mul cannot be deep-copied or pickled.*use \.detach\(\) first"
    with context.Pool(1) as pool, pytest.raises(multiprocessing.pool.MaybeEncodingError, match=sentence):
        pool.map(computed, [3])
    here, _ = context.Pipe()
    with pytest.raises(TypeError, match=sentence):
        here.send(computed(3))
    items = context.Queue()
    items.put(computed(3))  # pickled by a thread of the queue: all that it can do is to print
    items.put("after it")
    assert items.get(timeout=60) == "after it"
    with pytest.raises(queue.Empty):
        items.get_nowait()
    assert "use .detach() first" in capfd.readouterr().err


# ----- threads ----------------------------------------------------------------------------------------------------


def layer(rows: int) -> list[bytes]:
    """The value and gradients of a layer that is large enough to be split."""
    rng = np.random.default_rng(0)
    x, weight = (tl.tensor(rng.standard_normal(shape), requires_grad=True) for shape in ((rows, 256), (384, 256)))
    out = F.gelu(F.linear(x, weight))
    out.square().mean().backward()
    return [t.numpy().tobytes() for t in (out, x.grad, weight.grad)]


def send_layer(results) -> None:
    results.send(layer(300))


@pytest.mark.skipif("fork" not in METHODS, reason="this system does not fork")
def test_a_forked_process_computes_the_same_bytes_while_the_workers_of_its_parent_are_busy(monkeypatch):
    monkeypatch.setattr(machine, "WORTH_SPLITTING", 20_000)
    machine.set_threads(2)
    context, stop = multiprocessing.get_context("fork"), threading.Event()

    def keep_busy():
        while not stop.is_set():
            layer(100)

    busy = threading.Thread(target=keep_busy)
    try:
        expected = layer(300)
        busy.start()
        for _ in range(3):
            here, there = context.Pipe()
            process = context.Process(target=send_layer, args=(there,))
            process.start()
            assert here.poll(60)
            assert here.recv() == expected
            process.join()
    finally:
        stop.set()
        busy.join()
        machine.set_threads(1)


# ----- signs of life ----------------------------------------------------------------------------------------------


class Silent:
    """MPI with 1,200 processes, of which the others take no message and send none."""

    rank, size, mpi = 0, 1200, SimpleNamespace(BYTE=None, Status=lambda: None)

    def __init__(self):
        self.comm, self.sent = self, 0

    def Dup(self):
        return self

    def Isend(self, message, other):
        self.sent += 1
        return SimpleNamespace(Test=lambda: False)

    def Iprobe(self, status):
        return False


def test_who_sends_nothing_is_lost_and_messages_that_nobody_takes_do_not_pile_up():
    world, lost = Silent(), queue.Queue()
    beats = Heartbeat(world, 0.5, lambda *found: lost.put(found))
    other, seconds = lost.get(timeout=60)
    beats.thread.join()
    assert other in range(1, 1200)
    assert seconds > 0.5
    assert lost.empty()
    assert world.sent < 1000 + 1200


# ----- what an optimizer changes of its process -------------------------------------------------------------------

ABOUT = """
import sys
import numpy as np
import tensorlite as tl
from tensorlite import optim
from tensorlite.devices import machine

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

def about():
    x = np.ones(1 << 25)
    del x
    kept = resident() > 1 << 28
    print(machine.blas()["threads"], machine._threads, "kept" if kept else "freed")

p = tl.ones(3, requires_grad=True)
about()
exec(sys.argv[1])
optim.SGD([p], lr=1.0)
about()
exec(sys.argv[2])
optim.SGD([tl.ones(3, requires_grad=True)], lr=1.0)
about()
"""
glibc = pytest.mark.skipif(
    machine._openblas() is None or not sys.platform.startswith("linux"), reason="not OpenBLAS on glibc"
)


@glibc
@pytest.mark.finding("E1")
@pytest.mark.parametrize(
    ("environment", "before", "between", "expected"),
    [
        ({}, "", "", ["B 1 freed", "1 2 kept", "1 2 kept"]),
        ({"TENSORLITE_PREPARE": "0"}, "", "", ["B 1 freed", "B 1 freed", "B 1 freed"]),
        ({}, "machine.set_threads(3)", "", ["B 1 freed", "1 3 kept", "1 3 kept"]),
        ({}, "", "machine.set_threads(1)", ["B 1 freed", "1 2 kept", "1 1 kept"]),
    ],
    ids=["unasked", "switched off", "threads set before", "threads set later"],
)
@pytest.mark.slow
def test_the_first_optimizer_sets_threads_and_memory_and_the_users_word_holds(environment, before, between, expected):
    kept = {name: value for name, value in os.environ.items() if name != "TENSORLITE_PREPARE"}
    env = {**kept, "OPENBLAS_NUM_THREADS": "2", **environment}
    done = subprocess.run([sys.executable, "-c", ABOUT, before, between], env=env, capture_output=True, text=True)
    assert done.stderr == ""
    blas = done.stdout[0]  # as many threads as BLAS began with: no more than there are cores
    assert int(blas) == min(2, len(os.sched_getaffinity(0)))
    assert done.stdout.splitlines() == [line.replace("B", blas) for line in expected]


@pytest.mark.finding("E1")
def test_only_an_optimizer_on_the_cpu_asks_and_asks_once(monkeypatch):
    monkeypatch.delenv("TENSORLITE_PREPARE", raising=False)
    asked = []
    monkeypatch.setattr(machine, "_asked", set())
    monkeypatch.setattr(machine, "default_threads", lambda: 1)
    monkeypatch.setattr(machine, "set_threads", lambda n: asked.append(n) or machine._asked.add("threads"))
    monkeypatch.setattr(machine, "keep_freed_memory", lambda: asked.append("memory") or machine._asked.add("memory"))
    model = nn.Linear(2, 2)
    model(tl.ones((1, 2))).sum().backward()
    assert asked == []
    for _ in range(2):
        optim.Adam(model.parameters())
        assert asked == [1, "memory"]
