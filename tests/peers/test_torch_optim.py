"""Optimizers, clipping and schedules beside torch's own, in float32 over many steps."""

import math

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import nn, optim
from tensorlite.accelerate import storage

torch = pytest.importorskip("torch", reason="torch is the peer: pip install -e '.[test,peers]'")

SHAPES = [(8, 33), (64,), (), (40, 51), (0, 3)]
KINDS = [
    (optim.SGD, torch.optim.SGD, {"lr": 0.01, "weight_decay": 0.1}),
    (optim.SGD, torch.optim.SGD, {"lr": 0.01, "momentum": 0.9}),
    (optim.SGD, torch.optim.SGD, {"lr": 0.01, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    (optim.Adam, torch.optim.Adam, {"lr": 1e-3, "weight_decay": 0.1}),
    (optim.AdamW, torch.optim.AdamW, {}),
    (optim.AdamW, torch.optim.AdamW, {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-6, "weight_decay": 0.1}),
]


def pair(shapes, seed=0):
    """The same parameters, ours and torch's."""
    rng = np.random.default_rng(seed)
    values = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    return [nn.Parameter(x) for x in values], [torch.nn.Parameter(torch.tensor(x)) for x in values]


def give_gradients(ours, theirs, rng, missing=None):
    """Random gradients of very different sizes, the same on both sides."""
    for i, (p, q) in enumerate(zip(ours, theirs, strict=True)):
        g = (rng.standard_normal(p.shape) * 10 ** rng.uniform(-8, 2)).astype(np.float32)
        p.grad, q.grad = (None, None) if i == missing else (tl.tensor(g), torch.tensor(g))


@pytest.mark.parametrize(("kind", "peer", "options"), KINDS, ids=[f"{k[0].__name__}{i}" for i, k in enumerate(KINDS)])
def test_updates_stay_within_rounding_of_torchs(kind, peer, options, monkeypatch):
    monkeypatch.setattr(storage, "BLOCK", 1000)  # several, across the borders of parameters
    ours, theirs = pair(SHAPES)
    optimizer, reference = kind(ours, **options), peer(theirs, **options)
    rng = np.random.default_rng(1)
    for t in range(300):
        give_gradients(ours, theirs, rng, missing=t % 7)  # each is left out now and then
        optimizer.step()
        reference.step()
    # A step moves a parameter by about lr (SGD: lr g, up to 1); each rounds at the size of the parameter, at random.
    for p, q in zip(ours, theirs, strict=True):
        expected = q.detach().numpy()
        scale = max(1.0, np.abs(expected).max(initial=0))
        np.testing.assert_allclose(p.numpy(), expected, rtol=0, atol=3e-6 * scale)
    counts = [int(reference.state[q]["step"]) for q in theirs] if "step" in reference.state[theirs[0]] else None
    assert counts is None or optimizer.state_dict()["steps"] == counts


def test_clipping_is_torchs():
    ours, theirs = pair(SHAPES, seed=3)
    optimizer, reference = optim.SGD(ours, lr=1.0), torch.optim.SGD(theirs, lr=1.0)
    for _ in range(5):
        give_gradients(ours, theirs, np.random.default_rng(4))
        norm = optim.grad_norm(ours)
        assert norm == pytest.approx(torch.nn.utils.clip_grad_norm_(theirs, 0.5).item(), rel=1e-5)
        optimizer.step(grad_scale=optim.clip_scale(norm, 0.5))
        reference.step()
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(p.numpy(), q.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_cosine_is_torchs_after_the_warm_up():
    reference = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(reference, T_max=50, eta_min=0.01)
    for step in range(50):
        rate = optim.warmup_cosine(step + 7, lr=0.1, min_lr=0.01, warmup=7, total=57)
        assert math.isclose(rate, schedule.get_last_lr()[0], rel_tol=1e-9)
        reference.step()
        schedule.step()
