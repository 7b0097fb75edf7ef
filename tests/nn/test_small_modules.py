"""Losses and layers without parameters compute the function of their name, with their options."""

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import functional as F
from tensorlite import nn

X = tl.tensor([[0.5, -1.0, 2.0], [0.0, 3.0, -0.25]])
LOG_P = F.log_softmax(X)
P = F.softmax(tl.flip(X, 1))
IDS = [2, 0]
WEIGHT = tl.tensor([1.0, 1.0, 3.0])
x, p, log_p, log_x = X.numpy(), P.numpy(), np.log(P.numpy()), LOG_P.numpy()
binary = -(p * np.log(1 / (1 + np.exp(-x))) + (1 - p) * np.log(1 / (1 + np.exp(x))))
divergence = p * (log_p - log_x)


@pytest.mark.parametrize(
    ("module", "arguments", "expected"),
    [
        (nn.CrossEntropyLoss(), (X, IDS), -np.mean(log_x[[0, 1], IDS])),
        (nn.CrossEntropyLoss(ignore_index=0), (X, IDS), -log_x[0, 2]),
        (nn.CrossEntropyLoss(reduction="sum", label_smoothing=0.3), (X, IDS),
         -0.7 * np.sum(log_x[[0, 1], IDS]) - 0.1 * np.sum(log_x)),
        (nn.CrossEntropyLoss(WEIGHT), (X, IDS), -(3 * log_x[0, 2] + log_x[1, 0]) / 4),
        (nn.NLLLoss(), (LOG_P, IDS), -np.mean(log_x[[0, 1], IDS])),
        (nn.NLLLoss(reduction="none"), (LOG_P, IDS), -log_x[[0, 1], IDS]),
        (nn.NLLLoss(WEIGHT, 0), (LOG_P, IDS), -log_x[0, 2]),
        (nn.MSELoss(), (X, P), np.mean((x - p) ** 2)),
        (nn.MSELoss("sum"), (X, P), np.sum((x - p) ** 2)),
        (nn.BCEWithLogitsLoss(), (X, P), np.mean(binary)),
        (nn.BCEWithLogitsLoss("sum", WEIGHT), (X, P),
         np.sum(binary) - 2 * np.sum((p * np.log(1 / (1 + np.exp(-x))))[:, 2])),
        (nn.KLDivLoss(), (LOG_P, P), np.mean(divergence)),
        (nn.KLDivLoss("batchmean"), (LOG_P, P), np.sum(divergence) / 2),
        (nn.KLDivLoss("sum", log_target=True), (LOG_P, tl.log(P)), np.sum(divergence)),
        (nn.LeakyReLU(0.25), (X,), np.where(x > 0, x, x / 4)),
        (nn.ELU(2.0), (X,), np.where(x > 0, x, 2 * np.expm1(x))),
        (nn.Softplus(), (X,), np.log1p(np.exp(x))),
        (nn.LogSigmoid(), (X,), -np.log1p(np.exp(-x))),
        (nn.Softmax(0), (X,), np.exp(x) / np.exp(x).sum(0)),
        (nn.LogSoftmax(), (X,), LOG_P),
        (nn.Identity(), (X,), X),
        (nn.Flatten(), (tl.zeros((2, 3, 4)),), np.zeros((2, 12))),
        (nn.Flatten(0, 1), (tl.zeros((2, 3, 4)),), np.zeros((6, 4))),
        (nn.Flatten(-2), (tl.zeros((2, 0, 4)),), np.zeros((2, 0))),
        (nn.LayerNorm(3, elementwise_affine=False), (X,), F.layer_norm(X)),
        (nn.RMSNorm(3, elementwise_affine=False), (X,), F.rms_norm(X)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)  # fmt: skip
def test_value(module, arguments, expected):
    np.testing.assert_allclose(module(*arguments).numpy(), expected, rtol=2e-6)
    assert list(module.parameters()) == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: nn.CrossEntropyLoss(reduction="average"),
            "CrossEntropyLoss: reduction must be 'mean', 'sum' or 'none'",
        ),
        (
            lambda: nn.NLLLoss()(LOG_P, [0]),
            r"nll_loss: class indices for log_p \(2, 3\) must have shape \(2,\), not \(1,\)",
        ),
        (lambda: nn.NLLLoss()(LOG_P, [0, 3]), "nll_loss: index 3 is out of range: there are 3 classes, 0 to 2"),
        (lambda: nn.Flatten(2, 1)(tl.zeros((2, 3, 4))), "Flatten: start_axis 2 is after end_axis 1"),
        (lambda: F.one_hot([0, 3], 3), "one_hot: index 3 is out of range"),
        (lambda: F.one_hot(tl.tensor([0.5]), 3), "one_hot: indices must be integers"),
        (lambda: tl.norm(X, ord=3), "norm: ord must be 1, 2 or math.inf, not 3"),
        (lambda: F.normalize(X, ord=0), "norm: ord must be 1, 2 or math.inf, not 0"),
        (lambda: tl.index_put(X, (5,), 1.0), "index_put: index 5 is out of range for axis 0"),
        (lambda: tl.index_put(X, 0, tl.zeros(2)), r"broadcast"),
        (lambda: tl.scatter(X, [[0.0]], 1.0), "scatter: indices must be integers, not float64"),
        (lambda: tl.scatter(X, [0], 1.0), r"scatter: indices of shape \(1,\) do not fit x of shape \(2, 3\)"),
        (lambda: F.kl_div(X, X, "average"), "kl_div: reduction must be 'mean', 'sum' or 'none'"),
    ],
)
def test_one_sentence_for_what_does_not_fit(make, message):
    with pytest.raises((ValueError, IndexError, TypeError), match=message):
        make()


def test_a_position_named_twice_has_the_last_value_and_its_gradient():
    x, values = tl.zeros(3), tl.tensor([1.0, 2.0, 3.0], requires_grad=True)
    out = tl.index_put(x, [1, 1, 0], values)
    out.backward(tl.tensor([10.0, 20.0, 30.0]))
    assert out.tolist() == [3, 2, 0]
    assert values.grad.tolist() == [0, 20, 10]
    np.testing.assert_array_equal(
        tl.scatter(tl.zeros((2, 2)), [[1], [0]], tl.tensor([[5.0], [6.0]])).numpy(), [[0, 5], [6, 0]]
    )


def test_extreme_logits_have_finite_losses_and_gradients():
    x = tl.tensor([1000.0, -1000.0], requires_grad=True)
    loss = F.binary_cross_entropy_with_logits(x, tl.tensor([0.0, 1.0]), "sum")
    loss.backward()
    assert (loss.item(), x.grad.tolist()) == (2000, [1, -1])
    y = tl.tensor([1000.0, -1000.0, 0.0], requires_grad=True)
    (F.elu(y) + F.softplus(y) + F.logsigmoid(y)).sum().backward()
    np.testing.assert_allclose(y.grad.numpy(), [2.0, 1.0, 2.0])


def test_a_class_of_probability_0_costs_nothing_in_the_divergence():
    """Whatever the other distribution says of it; its gradients, of second order too, are 0."""
    log_q = tl.tensor([-np.inf, -np.inf, 0.0, np.nan, np.log(0.25)], requires_grad=True)
    p = tl.tensor([0.0, 0.0, 0.0, 0.0, 0.5], requires_grad=True)
    loss = F.kl_div(log_q, p, "sum")
    assert loss.item() == pytest.approx(0.5 * np.log(2), rel=1e-6)
    by_q, by_p = tl.grad(loss, [log_q, p], create_graph=True)
    np.testing.assert_allclose(by_q.numpy(), [0, 0, 0, 0, -0.5])
    np.testing.assert_allclose(by_p.numpy(), [0, 0, 0, 0, np.log(2) + 1], rtol=1e-6)
    np.testing.assert_allclose(tl.grad((by_q + by_p).sum(), p).numpy(), [0, 0, 0, 0, 1])  # -1 + 1 / p


def test_one_hot_gives_an_array_for_an_array_and_a_tensor_for_anything_else():
    for idx, kind in [(np.array([1, 0]), np.ndarray), (tl.tensor([1, 0]), tl.Tensor), ([1, 0], tl.Tensor)]:
        found = F.one_hot(idx)
        assert type(found) is kind
        assert found.tolist() == [[0, 1], [1, 0]]
