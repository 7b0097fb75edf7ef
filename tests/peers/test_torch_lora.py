"""LoRA against torch: the same draw of A, the same steps of training."""

import numpy as np
import pytest

import tensorlite as tl
from gpt import lora
from tensorlite import nn, optim

torch = pytest.importorskip("torch", reason="the peer of this test: pip install -e '.[peers]'")


@pytest.mark.parametrize("rank", [1, 3, 8, 16])
def test_a_is_torchs_draw_to_the_bit(rank):
    torch.manual_seed(5)
    A = torch.empty(20, rank)
    torch.nn.init.kaiming_uniform_(A, a=5**0.5)
    layer = lora.LoRALinear(nn.Linear(20, 2), rank, 1, tl.Generator(5))
    np.testing.assert_array_equal(layer.lora_A.numpy(), A.numpy())


def test_training_takes_torchs_steps():
    """Both learn the same regression with AdamW: after 20 steps A and B agree."""
    random = np.random.default_rng(0)
    x, y = random.normal(size=(16, 6)).astype(np.float32), random.normal(size=(16, 4)).astype(np.float32)
    layer = lora.LoRALinear(nn.Linear(6, 4), rank=2, alpha=6)
    W, b, A, B = (
        torch.tensor(np.array(p.numpy())) for p in (layer.linear.weight, layer.linear.bias, layer.lora_A, layer.lora_B)
    )
    A.requires_grad = B.requires_grad = True
    ours, theirs = optim.AdamW([layer.lora_A, layer.lora_B], lr=0.01), torch.optim.AdamW([A, B], lr=0.01)
    for _ in range(20):
        ours.zero_grad()
        ((layer(tl.tensor(x)) - y) ** 2).mean().backward()
        ours.step()
        theirs.zero_grad()
        output = torch.tensor(x) @ W.T + b + 3 * torch.tensor(x) @ A @ B
        ((output - torch.tensor(y)) ** 2).mean().backward()
        theirs.step()
    assert np.abs(layer.lora_B.numpy()).max() > 0.05
    np.testing.assert_allclose(layer.lora_A.numpy(), A.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(layer.lora_B.numpy(), B.detach().numpy(), atol=1e-5)
