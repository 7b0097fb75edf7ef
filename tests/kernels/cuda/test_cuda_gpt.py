"""A GPT's loss and gradients on a GPU: those of the CPU, in each dtype of products, the same bits twice."""

import numpy as np
import pytest

import tensorlite as tl
from gpt.config import GPTConfig
from gpt.model import GPT
from tensorlite.kernels import precision

pytestmark = pytest.mark.gpu
SHAPES = {
    "odd": GPTConfig(vocab_size=61, context_length=19, n_layer=2, n_head=3, n_embd=33, qkv_bias=True, tie_head=False),
    "nano": GPTConfig(vocab_size=2048, context_length=128, n_layer=4, n_head=4, n_embd=128),
    "gpt2": GPTConfig(vocab_size=50257, context_length=256, n_layer=2, n_head=12, n_embd=768, qkv_bias=True),
}
# How far the whole gradient may be from the CPU's in float32, relative to its length: bfloat16 keeps 8 bits, tf32 11,
# of operands whose errors mostly average out.
TOLERANCE = {"float32": 2e-5, "tf32": 5e-3, "bfloat16": 4e-2}


def step(config, device, dtype):
    """Loss, and gradients by name, of two texts."""
    tl.manual_seed(5)
    model = GPT(config).to(device)
    tokens = np.random.default_rng(1).integers(0, config.vocab_size, (2, config.context_length + 1))
    targets = tokens[:, 1:].copy()
    targets[0, :5] = -100
    try:
        precision.set_matmul_dtype(dtype, device)
        loss = model.loss(tl.tensor(tokens[:, :-1], device=device), tl.tensor(targets, device=device))
        loss.backward()
    finally:
        precision.set_matmul_dtype("float32", device)
    for name, p in model.named_parameters():
        assert p.grad.dtype == np.float32, name
    return loss.item(), {name: p.grad.numpy() for name, p in model.named_parameters()}


@pytest.mark.parametrize("dtype", precision.DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_loss_and_gradients_are_those_of_the_cpu(shape, dtype):
    loss, gradients = step(SHAPES[shape], "cuda", dtype)
    expected_loss, expected = step(SHAPES[shape], "cpu", "float32")
    whole = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in expected.values()))
    assert loss == pytest.approx(expected_loss, rel=TOLERANCE[dtype])
    for name, g in expected.items():
        length = max(np.linalg.norm(g), whole / 1000)  # the gradient of the keys' bias is rounding errors alone
        assert np.linalg.norm(gradients[name] - g) <= TOLERANCE[dtype] * length, name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_same_bits_twice(dtype):
    (loss, gradients), (again, gradients_again) = (step(SHAPES["gpt2"], "cuda", dtype) for _ in range(2))
    assert loss == again
    for name, g in gradients.items():
        assert g.tobytes() == gradients_again[name].tobytes(), name
