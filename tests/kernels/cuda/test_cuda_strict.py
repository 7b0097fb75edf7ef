"""The whole of training as a GPU computes it, without one: CUDA kernels emulated, on arrays that refuse any look.

Products are NumPy's here, and attention goes through its scores, as where cublasLt and cuDNN are missing.
"""

import emulator
import nccl
import numpy as np
import pytest
from emulator import emulated  # noqa: F401
from processes import Alike

import tensorlite as tl
from gpt import fast
from gpt.config import GPTConfig
from gpt.fast import decode as fast_decode
from gpt.generation import generate, stream
from gpt.model import GPT
from tensorlite import backend, distributed, optim
from tensorlite import functional as F
from tensorlite.accelerate.reduce import Reducer
from tensorlite.kernels import precision, table
from tensorlite.kernels.cuda import blas, launch, layers, sdpa
from tensorlite.testing.strict import StrictArray, strict

CONFIG = GPTConfig(vocab_size=37, context_length=17, n_layer=2, n_head=2, n_embd=16, qkv_bias=True)


@pytest.fixture(autouse=True)
def gpu(emulated, monkeypatch):  # noqa: F811
    """Arrays of the strict device count as a GPU's; those of NumPy are the CPU's again."""
    fast.attach()
    monkeypatch.setattr(tl.default_generator, "_gpu", None)  # its stream on a GPU; restored afterwards
    monkeypatch.setitem(backend.DEVICES, "strict", lambda: strict)
    monkeypatch.setitem(backend.ADDERS, "strict", layers.add_if_supported)
    for module in emulator.kernel_modules():
        monkeypatch.setattr(module, "on_gpu", lambda x: type(x) is StrictArray)
    monkeypatch.setattr(
        launch, "_run",
        lambda file, kernel, grid, threads, args: emulator.run(
            file, kernel, grid, threads, [x.values if isinstance(x, StrictArray) else x for x in args]
        ),
    )  # fmt: skip
    for library in (blas, sdpa):
        monkeypatch.setattr(library, "missing", lambda: "this is a test")
    yield
    precision.set_matmul_dtype("float32")


def train(device, dtype="float32", dropout=0.0, steps=3):
    """Losses, norms, parameters and the optimizer's state after some steps; on the strict device nobody waits."""
    tokens = np.random.default_rng(0).integers(0, 37, (2, 18))
    tl.manual_seed(3)
    model = GPT(CONFIG.with_dropout(dropout)).to(device)
    # a large eps: next to gradients that are rounding errors alone, Adam's step would be any
    optimizer = optim.AdamW(optim.decay_groups(model.parameters(), 0.1), lr=0.01, eps=1e-3)
    idx, targets = tl.tensor(tokens[:, :-1]).to(device), tl.tensor(tokens[:, 1:]).to(device)
    precision.set_matmul_dtype(dtype, device)
    before, found = strict.waits, []
    for step in range(steps):
        optimizer.zero_grad()
        optimizer.lr = 0.01 / (step + 1)
        loss = model.loss(idx, targets)
        loss.backward()
        norm = optim.global_norm(model.parameters())
        optimizer.step(grad_scale=optim.clip_scale(norm, 0.5))
        found += [loss, norm]
    assert strict.waits == before
    state = optimizer.state_dict()
    return [*found, *model.parameters(), *state["tensors"].values()], state["steps"]


@pytest.mark.slow
def test_steps_are_the_cpus_and_nobody_waits():
    (far, counts), (near, near_counts) = train("strict"), train("cpu")
    assert counts == near_counts
    for x, y in zip(far, near, strict=True):
        assert (x.device, y.device) == ("strict", "cpu")
        np.testing.assert_allclose(x.numpy(), y.numpy(), rtol=2e-4, atol=2e-6)


def test_in_bfloat16_the_weights_stay_float32_and_learn_the_same():
    (far, _), (near, _) = train("strict", "bfloat16"), train("cpu")
    for x, y in zip(far[:6], near[:6], strict=True):
        assert x.item() == pytest.approx(y.item(), rel=3e-2)
    assert {x.dtype for x in far[6:]} == {np.dtype(np.float32)}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dropout_draws_there_and_anew_at_each_step(dtype):
    first, again = (train("strict", dtype, 0.3)[0] for _ in range(2))
    for x, y in zip(first, again, strict=True):
        np.testing.assert_array_equal(x.numpy(), y.numpy())
    tl.manual_seed(1)
    x = tl.ones((40, 50), device="strict")
    one, two = (F.dropout(x, 0.25).numpy() for _ in range(2))
    assert set(one.ravel()) == {0, np.float32(1 / 0.75)}
    assert (one != two).any()
    state = tl.default_generator.state_dict()
    three = F.dropout(x, 0.25).numpy()
    tl.default_generator.load_state_dict(state)
    np.testing.assert_array_equal(F.dropout(x, 0.25).numpy(), three)


@pytest.mark.slow
def test_gradients_of_several_processes_are_summed_there_and_nobody_waits(monkeypatch):
    """By NCCL's stand-in, for two processes that compute the same; the CPU's by sums of its own."""
    calls = nccl.installed(monkeypatch)
    world = distributed.World.__new__(distributed.World)
    world.rank, world.size, world.payload, world._gpus = 0, 2, 0.0, None
    world.share, world.collect = lambda value: value, lambda value: [value, value]

    def train(device, world):
        tl.manual_seed(3)
        model = GPT(CONFIG).to(device)
        optimizer = optim.AdamW(optim.decay_groups(model.parameters(), 0.1), lr=0.01, eps=1e-3)
        reducer, found = Reducer(world, optimizer, 1000), []
        tokens = np.random.default_rng(0).integers(0, 37, (2, 18))
        idx, targets = tl.tensor(tokens[:, :-1]).to(device), tl.tensor(tokens[:, 1:]).to(device)
        for step in range(2):
            before = strict.waits if step else 0  # the first step reads how often parameters were updated
            optimizer.zero_grad()
            for last in (False, True):
                loss = model.loss(idx, targets) * 0.25
                reducer.backward(loss) if last else loss.backward()
            norm = optimizer.global_norm()
            optimizer.step(grad_scale=optim.clip_scale(norm, 0.5))
            found += [loss, norm]
        assert strict.waits == before
        return [*found, *model.parameters()], len(reducer.buckets)

    (there, buckets), (here, _) = train("strict", world), train("cpu", Alike(2))
    for x, y in zip(there, here, strict=True):
        np.testing.assert_allclose(x.numpy(), y.numpy(), rtol=2e-4, atol=2e-6)
    names = [name for name, *_ in calls]
    assert names == ["init"] + ["allReduce"] * 2 * buckets
    assert {call[-1] for call in calls[1:]} == {nccl.STREAM}
    assert buckets > 3


def test_a_step_that_is_not_finite_changes_nothing():
    x = tl.nn.Parameter(tl.ones(3).to("strict").data)
    optimizer = optim.AdamW([x], lr=0.1)
    x.grad = tl.tensor([1.0, np.inf, 1.0], device="strict")
    optimizer.step(grad_scale=optim.clip_scale(optim.global_norm([x]), 1.0))
    assert x.tolist() == [1, 1, 1]
    assert optimizer.state_dict()["steps"] == [0]
    x.grad = tl.ones(3, device="strict")
    optimizer.step(grad_scale=optim.clip_scale(optim.global_norm([x]), 1.0))
    assert optimizer.state_dict()["steps"] == [1]
    assert x.tolist() != [1, 1, 1]


def test_parameters_without_a_gradient_keep_their_count():
    def steps(device):
        params = [tl.nn.Parameter(tl.ones(n).to(device).data) for n in (2, 3, 4)]
        optimizer = optim.Adam(params, lr=0.1, weight_decay=0.1)
        for present in ((1, 1, 1), (1, 0, 1), (0, 1, 1), (1, 1, 0)):
            for p, given in zip(params, present, strict=True):
                p.grad = tl.ones(p.shape, device=device) * (p + 1).detach() if given else None
            optimizer.step(grad_scale=0.5)
        state = optimizer.state_dict()
        fresh = optim.Adam([tl.nn.Parameter(p.data) for p in params], lr=0.1, weight_decay=0.1)
        fresh.load_state_dict(state)
        assert fresh.state_dict()["steps"] == state["steps"]
        return state["steps"], [p.numpy() for p in params]

    (counts, params), (near_counts, near) = steps("strict"), steps("cpu")
    assert counts == near_counts == [3, 3, 3]
    for x, y in zip(params, near, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6)


@pytest.mark.slow
def test_every_fused_op_of_a_gpt_is_served():
    """None of them falls back to its specification, which would be right and slow."""
    served = []
    names = {"linear", "projections", "embedding", "layer_norm", "gelu", "apply_dropout_mask", "heads_attention",
             "linear_cross_entropy"}  # fmt: skip
    for name in names:
        op = table.attach_gpu(name)
        forward = op.forward

        def serving(*args, forward=forward, name=name, **meta):
            served.append((name, *{x.dtype.name for x in args if hasattr(x, "dtype")} & {"bfloat16"}))
            return forward(*args, **meta)

        op.forward = serving
        try:
            train("strict", "bfloat16", 0.1, steps=1)
        finally:
            op.forward = forward
    assert {name for name, *_ in served} == names
    assert set(served) == {(name,) if name == "embedding" else (name, "bfloat16") for name in names}  # nothing widens


def test_the_kernel_that_adds_computes_sums_of_activations_and_of_gradients(monkeypatch):
    """All of them but one: the library's own sum of bfloat16 takes three times as long."""
    added = []
    real = backend.ADDERS["strict"]
    monkeypatch.setitem(backend.ADDERS, "strict", lambda *args: added.append(real(*args)) or added[-1])
    train("strict", "bfloat16", steps=1)
    # forward, in each of 2 blocks two branches are added to the stream; backward, two norms to it, and the tied head to
    # its embedding. Not supported is the sum of token and position embeddings, which broadcasts.
    assert len(added) == 2 * 2 + (2 * 2 + 1) + 1
    assert [x is None for x in added] == [True] + [False] * 9


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_tokens_are_the_cpus_one_wait_each(kind):
    """Texts of different lengths, through the kernel that finds their places on the device."""
    texts = {}
    for device in ("strict", "cpu"):
        tl.manual_seed(3)
        model = GPT(CONFIG).to(device)
        if device == "strict" and kind == "bfloat16":
            model.to(tl.bfloat16)
        before = strict.waits
        texts[device] = generate(model, [[1, 2, 3], [4]], 9)
        assert strict.waits - before == (9 if device == "strict" else 0)
    assert texts["strict"] == texts["cpu"]


class Replayed:
    """CudaGraph as a GPU has it, without one: from the third call on, the function runs on the same arrays again."""

    def __init__(self, function):
        self.function, self.calls, self.replays = function, 0, 0

    @property
    def recorded(self):
        return self.calls > 2

    def __call__(self, tokens):
        self.calls += 1
        if not self.recorded:
            return self.function(tokens)
        self.tokens = tl.Tensor(tokens.data.copy())
        return self.again()

    def again(self):
        self.replays += 1
        return tl.Tensor(self.function(self.tokens).data.copy())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prompts", "new", "stop", "replays"),
    [
        ([[1, 2, 3], [4]], 9, None, 6),  # one token from the prompts, two from plain steps
        ([[1, 2, 3], [4]], 30, None, 12),  # the context ends
        ([[5, 6]], 1, None, 0),
        ([[5, 6]], 4, None, 1),
        ([[1, 2, 3], [4], [9, 9]], 14, "the first text's sixth", None),
    ],
)  # fmt: skip
def test_a_greedy_step_begins_before_the_host_has_seen_the_last_one(monkeypatch, prompts, new, stop, replays):
    monkeypatch.setattr(fast_decode, "CudaGraph", Replayed)
    monkeypatch.setattr(fast_decode, "_spare", spare := {})
    tl.manual_seed(3)
    near = GPT(CONFIG)
    far = GPT(CONFIG).to("strict")
    far.load_state_dict(near.state_dict())
    stop = generate(near, prompts, new)[0][5] if stop else None
    for _ in range(3):  # anew, and with what the last time left
        expected = generate(near, prompts, new, stop_token=stop)
        before = spare[far].best_graph.replays if far in spare else 0
        assert generate(far, prompts, new, stop_token=stop) == expected
        if replays is not None and not before:
            assert (spare[far].best_graph.replays if far in spare else 0) == replays


@pytest.mark.slow
def test_what_was_begun_in_vain_is_forgotten(monkeypatch):
    """After a text that ended, and one whose reader went away, while the next step was under way."""
    monkeypatch.setattr(fast_decode, "CudaGraph", Replayed)
    monkeypatch.setattr(fast_decode, "_spare", {})
    tl.manual_seed(3)
    near = GPT(CONFIG)
    far = GPT(CONFIG).to("strict")
    far.load_state_dict(near.state_dict())
    texts = [(first, generate(near, [[first]], 12)[0]) for first in range(37)]
    first, stop = next((first, text[i]) for first, text in texts for i in range(4, 12) if text[i] not in text[:i])
    generate(far, [[first]], 12, stop_token=stop)
    assert generate(far, [[7]], 9) == generate(near, [[7]], 9)
    reader = stream(far, [[1, 2, 3]], 12)
    for _ in range(6):
        next(reader)
    del reader
    assert generate(far, [[8, 1, 2]], 9) == generate(near, [[8, 1, 2]], 9)
