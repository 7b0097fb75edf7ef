"""What attaches itself from outside: sums of gradients in place, and kernels. Without them the core gives the same."""

import subprocess
import sys

import numpy as np
import pytest

import tensorlite as tl
from gpt.config import GPTConfig
from gpt.model import GPT
from tensorlite import autograd, formulas
from tensorlite import functional as F
from tensorlite.accelerate import accumulate, dispatch
from tensorlite.kernels import table

CONFIG = GPTConfig(vocab_size=31, context_length=12, n_layer=2, n_head=2, n_embd=8).with_dropout(0.2)
KERNELS = [(name, column) for name, row in table.ROWS.items() for column, kernel in enumerate(row) if kernel]


@pytest.fixture
def plain_sums(monkeypatch):
    """Every sum of gradients is a new array, as in autograd.py."""
    monkeypatch.setattr(autograd, "accumulator", autograd.Gradients)


@pytest.fixture
def no_kernels(monkeypatch):
    """Every function is computed by its body in functional.py, the formula."""
    for name, implementation in F.IMPLEMENTATIONS.items():
        for device in ("cpu", "gpu"):
            monkeypatch.setattr(implementation, device, getattr(F, name).__wrapped__)


def train(dtype="float32", steps=2):
    """Losses and gradients of a GPT whose weights are used twice (tied head) and whose residual stream branches."""
    tl.manual_seed(4)
    model = GPT(CONFIG).to(tl.float64 if dtype == "float64" else tl.float32)
    idx = tl.randint(0, 31, (4, 12), generator=tl.Generator(5))
    losses = []
    for _ in range(steps):  # the second gradient is added to the first
        loss = model.loss(idx, idx)
        loss.backward()
        losses.append(loss.item())
    return losses, {name: p.grad.numpy() for name, p in model.named_parameters()}


def test_sums_in_place_are_attached():
    assert autograd.accumulator is accumulate.InPlaceGradients


def test_plain_accumulation_gives_the_same_bits(request):
    losses, gradients = train()
    request.getfixturevalue("plain_sums")
    plain_losses, plain = train()
    assert plain_losses == losses
    for name, g in gradients.items():
        assert g.tobytes() == plain[name].tobytes(), name


def test_plain_accumulation_never_hands_out_an_array_of_the_graph(plain_sums):
    x = tl.tensor([1.0, 2.0], requires_grad=True)
    g = np.ones(2, np.float32)
    x.backward(g)
    (x * 1).backward(g)
    (x + x).backward(g)  # a sum over an array that the caller holds
    assert (x.grad.tolist(), g.tolist()) == ([4, 4], [1, 1])
    y = tl.tensor([3.0, 4.0], requires_grad=True)
    (x + y).backward(g)  # one array for both arguments
    assert not np.shares_memory(x.grad.data, y.grad.data)


def test_sums_in_place_write_over_what_they_own_alone(monkeypatch):
    """Of three pieces that arrive at a leaf, two are added without a new array."""
    made = []
    real = accumulate.add
    monkeypatch.setattr(accumulate, "add", lambda x, y, out=None: made.append(out is not None) or real(x, y, out=out))
    x = tl.tensor([1.0, 2.0], requires_grad=True)
    (x * 2 + x * 3 + x * 4).backward(np.ones(2, np.float32))
    assert made == [True, True]
    made.clear()
    (x + x).backward(np.ones(2, np.float32))  # twice the incoming gradient, which belongs to the caller
    assert made == [False]


def test_a_gpt_without_kernels_is_the_same_model(request):
    losses, gradients = train("float64")
    request.getfixturevalue("no_kernels")
    request.getfixturevalue("plain_sums")
    plain_losses, plain = train("float64")
    np.testing.assert_allclose(plain_losses, losses, rtol=1e-12)
    for name, g in gradients.items():
        np.testing.assert_allclose(plain[name], g, rtol=1e-9, atol=1e-12)


def test_without_kernels_the_graph_shows_each_step(no_kernels):
    x = tl.tensor([[1.0, 2.0]], requires_grad=True)
    assert F.gelu(x).node.op.name == "mul"
    with tl.unfused():
        assert F.gelu(x).node.op.name == "mul"


# ----- the table of kernels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "column"), KERNELS, ids=lambda v: str(v))
def test_a_row_finds_its_functions_and_takes_the_arguments_of_its_formula(name, column):
    op = table.kernel_op(name, table.ROWS[name][column])
    assert (op.name, op.spec) == (name, getattr(formulas, name))
    assert isinstance(op, dispatch.KernelOp)
    spec = dispatch.KernelOp(op.spec, op.spec)
    assert (op.arguments, op.defaults, op.keywords) == (spec.arguments, spec.defaults, spec.keywords)
    assert name in F.IMPLEMENTATIONS


def test_a_row_without_its_function_says_so(monkeypatch):
    monkeypatch.setitem(table.ROWS, "relu", (None, None))
    with pytest.raises(KeyError, match=r"relu: functional\.py has no function of that name with the decorator with_k"):
        table.attach()


def test_the_device_of_the_first_argument_decides(monkeypatch):
    from tensorlite.testing.strict import strict

    calls = []
    for device in ("cpu", "gpu"):
        monkeypatch.setattr(F.IMPLEMENTATIONS["gelu"], device, lambda *xs, device=device, **_: calls.append(device))
    host, other = np.ones((2, 3)), strict.asarray(np.ones((2, 3)))
    for x in (host, tl.Tensor(host), other, tl.Tensor(other)):
        F.gelu(x)
        F.gelu(x=x)
    assert calls == ["cpu"] * 4 + ["gpu"] * 4


def test_an_array_on_another_device_that_no_kernel_supports_is_computed_by_the_formula():
    from tensorlite.testing.strict import strict

    x = tl.Tensor(strict.asarray(np.linspace(-1, 1, 6).reshape(2, 3)), requires_grad=True)
    y = F.gelu(x)
    assert y.node.op.name == "mul"
    np.testing.assert_allclose(y.data.values, F.gelu(x.data.values), rtol=1e-12)


def test_a_cpu_program_imports_no_module_of_a_gpu_for_its_layers():
    """Neither at import nor in a step of forward and backward."""
    code = """
import sys
import tensorlite as tl
from tensorlite import functional as F
before = {name for name in sys.modules if name.startswith("tensorlite.kernels.cuda")}
x, w = tl.ones((2, 3), requires_grad=True), tl.ones((3, 3), requires_grad=True)
h = F.dropout(F.layer_norm(F.gelu(F.linear(x, w))), 0.5)
F.cross_entropy(h, tl.tensor([0, 1])).backward()
print(*{name for name in sys.modules if name.startswith("tensorlite.kernels.cuda")} - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
