"""CudaGraph: when it records, replays and starts anew, and that a recording that fails is no step lost."""

from contextlib import nullcontext

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import optim
from tensorlite.accelerate import cuda_graph as graph
from tensorlite.accelerate.cuda_graph import CudaGraph


class Machine:
    """A stand-in for CuPy's streams: what is captured is a list of calls, and a launch makes them again."""

    def __init__(self):
        self.cuda, self.captured, self.fails = self, None, ""

    def get_default_memory_pool(self):
        return type("Pool", (), {"free_all_blocks": lambda self: None})()

    MemoryPool = type("Pool", (), {"malloc": None})
    using_allocator = staticmethod(lambda malloc: nullcontext())

    def Stream(self):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def begin_capture(self):
        self.captured = []

    def end_capture(self):
        calls, self.captured = self.captured, None
        if self.fails:
            raise RuntimeError(self.fails)
        launch = lambda: [call() for call in calls]  # noqa: E731
        return type("Recorded", (), {"launch": staticmethod(launch)})


@pytest.fixture
def machine(monkeypatch):
    found = Machine()
    monkeypatch.setattr(graph, "library_of", lambda device: found)
    monkeypatch.setattr(tl.Tensor, "device", property(lambda self: "cuda:0"))
    return found


def doubling(machine, seen):
    """y = 2 x + what the host hands over, as a device does it: at once, or later if it is being captured."""
    handed = np.zeros(1, np.float32)

    def function(x):
        seen.append(graph.capturing.get())
        out = tl.Tensor(np.zeros_like(x.data))

        def work():
            out.data[...] = 2 * x.data + handed[0]

        machine.captured.append(work) if machine.captured is not None else work()
        return out

    return function, handed


def test_two_plain_calls_then_a_recording_then_replays_alone(machine):
    seen: list[bool] = []
    function, handed = doubling(machine, seen)
    double = CudaGraph(function, before=lambda: handed.__setitem__(0, handed[0] + 10))
    results = [double(tl.tensor([float(i), 1.0])) for i in range(6)]
    assert [r.tolist() for r in results] == [[0, 2], [2, 2], [14, 12], [26, 22], [38, 32], [50, 42]]  # all kept
    assert seen == [False, False, True]
    assert double.recorded


def test_other_shapes_and_other_keys_start_anew(machine):
    seen: list[bool] = []
    double = CudaGraph(doubling(machine, seen)[0])
    for _ in range(4):
        double(tl.ones(2))
    assert double(tl.ones(3)).tolist() == [2, 2, 2]
    assert not double.recorded
    for key in (1, 1, 1, 2):
        assert double(tl.ones(3), key=key).tolist() == [2, 2, 2]
    assert seen == [False, False, True, False, False, False, True, False]


def test_again_goes_on_with_what_the_function_left_in_its_inputs(machine):
    def doubling_itself(x):
        out = tl.Tensor(np.zeros_like(x.data))

        def work():
            x.data[...] = out.data[...] = 2 * x.data

        machine.captured.append(work) if machine.captured is not None else work()
        return out

    double = CudaGraph(doubling_itself)
    for _ in range(3):
        results = [double(tl.ones(1))]
    results += [double.again() for _ in range(3)]
    assert [r.item() for r in results] == [2, 4, 8, 16]


def test_what_cannot_be_recorded_runs_plainly_and_says_why(machine):
    seen: list[bool] = []
    machine.fails = "operation would wait"
    double = CudaGraph(doubling(machine, seen)[0])
    assert [double(tl.tensor([i])).tolist() for i in (1.0, 2.0, 3.0, 4.0)] == [[2], [4], [6], [8]]
    assert "could not be recorded as a CUDA graph: RuntimeError: operation would wait" in double.why_not
    assert seen == [False, False, True, False, False]  # the recording, which computes nothing, then the call itself


def test_on_the_cpu_a_function_just_runs():
    double = CudaGraph(lambda x: x * 2)
    assert [double(tl.tensor([i])).tolist() for i in (1, 2, 3, 4)] == [[2], [4], [6], [8]]
    assert not double.recorded
    assert not double.why_not


@pytest.mark.gpu
def test_a_recorded_function_holds_its_memory_once():
    import cupy

    pool = cupy.get_default_memory_pool()
    pool.free_all_blocks()
    x = tl.ones((1 << 22,), device="cuda")  # 16 MiB
    before = pool.free_bytes()
    total = CudaGraph(lambda x: tl.stack([x + i for i in range(8)]).sum(axis=0))
    for _ in range(3):
        total(x)
    assert total.recorded, total.why_not
    assert pool.free_bytes() - before <= 2 * x.data.nbytes  # the results above, not what the first call worked in


@pytest.mark.gpu
def test_a_training_step_as_a_graph_gives_the_bits_of_plain_steps():
    from gpt.config import GPTConfig
    from gpt.model import GPT

    config = GPTConfig(vocab_size=31, context_length=16, n_layer=2, n_head=2, n_embd=32).with_dropout(0.1)
    tokens = np.random.default_rng(0).integers(0, 31, (9, 4, 17))

    def train(recorded):
        tl.manual_seed(3)
        model = GPT(config).to("cuda")
        optimizer = optim.AdamW(list(model.parameters()), lr=0.01)

        def step(x, y):
            optimizer.zero_grad()
            loss = model.loss(x, y)
            loss.backward()
            norm = optim.global_norm(model.parameters())
            optimizer.step(grad_scale=optim.clip_scale(norm, 1.0))
            return loss

        step_ = CudaGraph(step, optimizer.upload) if recorded else step
        losses = []
        for i, batch in enumerate(tokens):
            optimizer.lr = 0.01 / (1 + i)
            x, y = tl.tensor(batch[:, :-1], device="cuda"), tl.tensor(batch[:, 1:], device="cuda")
            losses.append(step_(x, y))
        assert not recorded or step_.recorded, step_.why_not
        state = optimizer.state_dict()
        return [loss.item() for loss in losses], [p.numpy() for p in model.parameters()], state["steps"]

    for plain, replayed in zip(train(False), train(True), strict=True):
        for a, b in zip(plain, replayed, strict=True):
            np.testing.assert_array_equal(a, b)
