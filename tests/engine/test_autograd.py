"""The engine's promises and its traps: graphs, memory, ownership of gradients, freeing, versions, recording."""

import gc
import itertools
import sys
import threading
import weakref

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import autograd, ops
from tensorlite import functional as F
from tensorlite.accelerate.dispatch import KernelOp
from tensorlite.primitive import PRIMITIVES, Primitive, elementwise, identity, primitive, publish


def leaf(values, dtype=np.float64):
    return tl.tensor(np.array(values, dtype), requires_grad=True)


def gradient_of(x, y, gradient=None):
    y.backward(gradient)
    return x.grad.tolist()


# ----- graphs -----------------------------------------------------------------------------------------------------


def test_diamonds_add_up():
    x = leaf(2.0)
    y = x * 3
    assert gradient_of(x, y * 2 + y * 5) == 21  # not 6: both branches
    x = leaf(2.0)
    y = x * x
    z = y * x + y  # x^3 + x^2, each node reached by several paths of several lengths
    assert gradient_of(x, z * y + z) == 5 * 16 + 4 * 8 + 3 * 4 + 2 * 2  # x^5 + x^4 + x^3 + x^2


@pytest.mark.parametrize(
    ("f", "expected"),
    [
        (lambda x: (x * x).sum(), [[2, 4], [6, 8]]),
        (lambda x: (x + x).sum(), [[2, 2], [2, 2]]),
        (lambda x: (x - x).sum(), [[0, 0], [0, 0]]),
        (lambda x: (x / x).sum(), [[0, 0], [0, 0]]),
        (lambda x: (x @ x).sum(), [[7, 11], [9, 13]]),
        (lambda x: tl.concatenate([x, x]).sum(), [[2, 2], [2, 2]]),
        (lambda x: tl.maximum(x, x).sum(), [[1, 1], [1, 1]]),
        (lambda x: tl.where(np.array([True, False]), x, x).sum(), [[1, 1], [1, 1]]),
        (lambda x: tl.einsum("ij,ij->", x, x), [[2, 4], [6, 8]]),
        (lambda x: F.linear(x, x).sum(), [[8, 12], [8, 12]]),
    ],
)
def test_one_tensor_as_both_arguments(f, expected):
    x = leaf([[1, 2], [3, 4]])
    np.testing.assert_allclose(gradient_of(x, f(x)), expected)


def test_a_chain_of_100_000_ops_is_walked_and_freed_without_recursion():
    x = leaf(1.0)
    y = x
    for _ in range(100_000):
        y = y + 0.0
    y.backward(retain_graph=True)
    assert x.grad.item() == 1
    del y
    assert tl.grad(x * 2, x).item() == 2


def test_forty_doublings_are_walked_once():
    x = leaf(1.0)
    y = x
    for _ in range(40):
        y = y + y
    assert tl.grad(y, x, retain_graph=True).item() == 2**40  # paths: nobody could take them one by one
    assert gradient_of(x, y) == 2**40


def test_broadcasting_is_undone_on_either_and_both_sides():
    x, ones = leaf(3.0), np.ones(2)
    assert gradient_of(x, (x * ones).sum()) == 2
    x, y = leaf([[1, 2, 3]]), leaf([[1], [2]])
    (x + y).sum().backward()
    assert (x.grad.tolist(), y.grad.tolist()) == ([[2, 2, 2]], [[3], [3]])
    x, y = leaf([1, 2]), leaf(np.ones((3, 1, 2)))
    (x * y).sum().backward()
    assert (x.grad.tolist(), y.grad.shape) == ([3, 3], (3, 1, 2))


def test_arrays_on_either_side_make_tensors():
    x, a = leaf([1, 2]), np.array([3.0, 4.0])
    log = np.log(a) * a ** [1, 2]
    cases = [  # the Tensor, its values, the gradient of their sum
        (x * a, [3, 8], a), (a * x, [3, 8], a), (x + a, [4, 6], [1, 1]), (a - x, [2, 2], [-1, -1]),
        (a / x, [3, 2], [-3, -1]), (a**x, [3, 16], log), (a @ x, 11, a), (x @ a, 11, a),
        (np.float64(2) * x, [2, 4], [2, 2]), (2 * x, [2, 4], [2, 2]),
    ]  # fmt: skip
    for y, values, gradient in cases:
        assert isinstance(y, tl.Tensor)
        np.testing.assert_allclose(y.numpy(), values, rtol=1e-6)
        np.testing.assert_allclose(tl.grad(y.sum(), x).numpy(), gradient, rtol=1e-6)
    larger = a > tl.tensor([3.0, 1.0], requires_grad=True)
    assert isinstance(larger, tl.Tensor)
    assert larger.tolist() == [False, True]
    assert (a > x).tolist() == [True, True]


# ----- memory -----------------------------------------------------------------------------------------------------


def training_step(x, w, b):
    hidden = F.gelu(F.layer_norm(F.linear(x, w, b)))
    loss = F.cross_entropy(tl.concatenate([hidden, hidden * hidden], axis=1), np.array([0, 1, 2, 3]))
    loss.backward()
    return loss.item()


def test_a_step_leaves_no_cyclic_garbage():
    x, w, b = leaf(np.ones((4, 3))), leaf(np.arange(6.0).reshape(2, 3)), leaf([0, 1])
    training_step(x, w, b)
    gc.collect()
    gc.disable()
    try:
        for _ in range(100):
            training_step(x, w, b)
        y = (tl.tanh(x) * x).sum()
        slope = tl.grad(y, x, create_graph=True)
        tl.grad((slope * slope).sum(), x)
        del y, slope
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_an_intermediate_dies_with_its_last_user():
    x = leaf([1, 2])
    y = x * 3
    loss = (tl.tanh(y) * y).sum()
    tensor, array = weakref.ref(y), weakref.ref(y.data)
    del y
    assert tensor() is None  # the graph holds arrays, never Tensors
    assert array() is not None  # which the product needs
    loss.backward()
    assert array() is None  # freed by the walk, not by `del loss`


def test_what_no_rule_asks_for_is_not_kept():
    x = leaf(np.ones(1000))
    y = x + 1
    array = weakref.ref(y.data)
    z = y.sum()  # needs only the shape of y
    del y
    assert array() is None
    z.backward()
    y = x + 1
    array = weakref.ref(y.data)
    z = y * np.ones(1000)  # its rule for y needs the ones alone
    del y
    assert array() is None
    z.backward(np.ones(1000))


# ----- ownership: no array is added to that somebody else holds ---------------------------------------------------


def test_gradients_share_memory_with_nothing():
    x, y = leaf([1, 2]), leaf([3, 4])
    z = x + y
    g = np.array([1.0, 10.0])
    z.backward(g)
    assert x.grad is not y.grad
    arrays = [x.data, y.data, z.data, g, x.grad.data, y.grad.data]
    assert not any(np.may_share_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i])
    x.grad.data += 1
    assert (y.grad.tolist(), g.tolist()) == ([1, 10], [1, 10])
    x.backward(g)  # a leaf is its own graph
    assert (x.grad.tolist(), g.tolist()) == ([3, 21], [1, 10])


def test_one_incoming_gradient_that_goes_two_ways_is_not_added_to():
    x, y = leaf([1, 2]), leaf([3, 4])
    a, b = x * 1, y * 1
    total = a + b  # both get the same array
    ((total + a) + a).backward(np.ones(2))  # and a gets more, before and after
    assert (x.grad.tolist(), y.grad.tolist()) == ([3, 3], [1, 1])
    x, y = leaf([[1, 2], [3, 4]]), leaf([[1, 2], [3, 4]])
    a, b = x * 1, y * 1
    ((a + b.T) + a.T + a.reshape(2, 2)).backward(np.array([[1.0, 2], [3, 4]]))  # views of one array
    assert (x.grad.tolist(), y.grad.tolist()) == ([[3, 7], [8, 12]], [[1, 3], [2, 4]])


def test_an_incoming_gradient_that_a_rule_passes_on_is_not_added_to():
    x, y = leaf([1, 2]), leaf([3, 4])
    p = x * 1
    one = p + 1  # whose rule gives back the array that comes in
    both = one + y
    out = both + p * 2  # so p has a gradient when that of `one` comes
    g = np.array([5.0, 7.0])
    out.backward(g)
    assert (x.grad.tolist(), y.grad.tolist(), g.tolist()) == ([15, 21], [5, 7], [5, 7])


def test_a_residual_that_a_rule_returns_is_not_added_to():
    slope = np.array([2.0, 3.0])
    weighted = KernelOp(
        lambda x: ((x * slope).sum(), {"slope": slope}), spec=lambda x: (x * slope).sum(), residuals=("slope",)
    ).vjp(lambda g, needs, slope: (slope,))
    x = leaf([1, 1])
    y = x * 1
    for expected in ([5, 7], [10, 14]):
        (weighted(y) + weighted(y) + y.sum()).backward(retain_graph=True)
        assert x.grad.tolist() == expected
    assert slope.tolist() == [2, 3]


@pytest.mark.parametrize("alias", [lambda d: d, lambda d: d[:], lambda d: d.reshape(2, 1).reshape(2)])
@pytest.mark.parametrize("swapped", [False, True])
def test_one_array_as_the_gradient_of_two_arguments_is_not_added_to(alias, swapped):
    def rule(g, needs):
        d = g * 2
        return (alias(d), d) if swapped else (d, alias(d))

    twice = KernelOp(lambda x, y: 2 * (x + y), spec=lambda x, y: 2 * (x + y)).vjp(rule)
    x, y = leaf([1, 2]), leaf([3, 4])
    assert twice(x, y).node.op is twice  # it supports everything, where nothing is said
    a, b = x * 1, y * 1
    early = a * 5, b * 7  # older than `twice`: their gradients arrive after its own
    (twice(a, b) + early[0] + early[1]).sum().backward()
    assert (x.grad.tolist(), y.grad.tolist()) == ([7, 7], [9, 9])
    x, y = leaf([1, 2]), leaf([3, 4])
    early = x * 5, y * 7  # leaves hold what their rules made, and get more
    (twice(x, y) + early[0] + early[1]).sum().backward()
    assert (x.grad.tolist(), y.grad.tolist()) == ([7, 7], [9, 9])
    x, y = leaf([1, 2]), leaf([3, 4])
    a, b = x * 1, y * 1
    late = twice(a, b)  # pulled second: what it made is added to
    (late + (a * 5 + b * 7)).sum().backward()
    assert (x.grad.tolist(), y.grad.tolist()) == ([7, 7], [9, 9])


def test_gradients_that_were_handed_out_do_not_change():
    x = leaf([1, 2])
    y = x * x
    first = tl.grad(y, x, np.ones(2), retain_graph=True)
    y.sum().backward()
    held = x.grad.numpy().copy()
    tl.grad((x * 3).sum(), x)
    assert (first.tolist(), x.grad.tolist(), held.tolist()) == ([2, 4], [2, 4], [2, 4])


def test_backward_from_its_own_gradient():
    x = leaf([1, 2])
    (x * 3).backward(np.ones(2))
    (x.reshape(2, 1).reshape(2) * 1).backward(x.grad)  # the incoming gradient is what will be added to
    assert x.grad.tolist() == [6, 6]


# ----- freeing ----------------------------------------------------------------------------------------------------


def test_a_freed_graph_raises_and_names_the_op():
    x = leaf([1, 2])
    y = tl.tanh(x)
    z = y.sum()
    z.backward()
    for again in (lambda: z.backward(), lambda: tl.grad(z, x), lambda: y.backward(np.ones(2))):
        with pytest.raises(RuntimeError, match=r"backward through (sum|tanh) a second time.*retain_graph=True"):
            again()
    with pytest.raises(RuntimeError, match="backward through tanh a second time"):
        (y * 2).sum().backward()  # a new end on a freed trunk
    with pytest.raises(RuntimeError, match="backward through tanh a second time"):
        tl.grad((y * 2).sum(), [x, y])  # the trunk might lead to x
    assert tl.grad((y * 2).sum(), y).tolist() == [2, 2]  # nothing below y is needed
    assert x.grad.tolist() == pytest.approx(1 - np.tanh([1, 2]) ** 2)


def test_retain_graph_walks_again_from_fresh_intermediates():
    x = leaf([1, 2])
    y = x * x
    z = (y * y).sum()
    for times in (1, 2, 3):
        z.backward(retain_graph=True)
        assert x.grad.tolist() == [4 * times, 32 * times]
    a, b = (y * 2).sum(), (y * 3).sum()  # two losses on one trunk
    x.grad = None
    a.backward(retain_graph=True)
    b.backward()
    assert x.grad.tolist() == [10, 20]


def test_grad_frees_only_what_it_walked():
    x, y = leaf(2.0), leaf(3.0)
    a, b = x * x, y * y
    z = a * b
    assert tl.grad(z, x, retain_graph=False).item() == 36
    b.backward()  # not on the way to x
    assert y.grad.item() == 6
    with pytest.raises(RuntimeError, match="second time"):
        a.backward()


# ----- grad() -----------------------------------------------------------------------------------------------------


def test_grad_by_tensors_of_every_kind():
    x, unused = leaf([1, 2]), leaf([[5.0]])
    y = x * x  # an input that is an ancestor of another
    z = y * 3
    out = (z * x).sum()  # 3 x^3
    by_z, by_y, by_x, none, again = tl.grad(out, (z, y, x, unused, x))
    assert by_z.tolist() == [1, 2]
    assert by_y.tolist() == [3, 6]
    assert by_x.tolist() == [9, 36]
    assert again.tolist() == [9, 36]
    assert (none.tolist(), none.dtype) == ([[0.0]], np.float64)
    assert x.grad is None
    assert tl.grad(x, x, np.array([3.0, 4.0])).tolist() == [3, 4]  # by itself
    assert tl.grad((x * 2).sum(), [x])[0].tolist() == [2, 2]


@pytest.mark.parametrize("by", ["grad", "backward"])
def test_the_first_nodes_of_a_process_are_walked_too(monkeypatch, by):
    monkeypatch.setattr(autograd, "_creation_order", itertools.count())
    x = tl.tensor(3.0, requires_grad=True)
    y = x * x * x
    if by == "backward":
        y.backward()
    assert (x.grad if by == "backward" else tl.grad(y, x)).item() == 27


def test_the_gradient_of_a_scalar_is_an_array():
    """NumPy's operators give scalars of their own kind for arrays without axes."""
    x = tl.tensor(2.0, requires_grad=True)
    y = x * 3.0
    assert type(tl.grad(y, x, retain_graph=True).data) is np.ndarray
    y.backward()
    assert type(x.grad.data) is np.ndarray


def test_a_result_is_its_own_gradient_also_when_its_graph_is_freed():
    x = tl.tensor([1.0, 2.0], requires_grad=True)
    y = x * 2
    y.sum().backward()
    assert tl.grad(y, y, np.float32([3, 4])).tolist() == [3, 4]


def test_what_leads_to_no_target_is_not_looked_at():
    """Neither for what it needs, nor whether that was changed or freed."""
    w, v = leaf(3.0), leaf(5.0)
    y = w * w * w
    z = y * v
    w.changed()
    assert tl.grad(z, [y, v], retain_graph=True)[1].item() == 27  # behind a target
    assert tl.grad(z, v).item() == 27  # beside it
    u = w * 2
    u.backward()
    target = v * 1
    z = (u * w) * target
    w.changed()
    assert tl.grad(z, target).item() == 18  # older than any


def test_a_freed_graph_on_the_way_to_a_target_raises():
    x = leaf(3.0)
    y = x * x
    z = y * 2
    y.backward()
    with pytest.raises(RuntimeError, match="second time"):
        tl.grad(z, x)


def test_grad_of_a_gradient_to_any_order():
    x = leaf(0.5)
    y, orders = tl.tanh(x), []
    for _ in range(4):
        y = tl.grad(y, x, create_graph=True)
        orders.append(y.item())
    t = np.tanh(0.5)
    s = 1 - t * t
    assert orders == pytest.approx([s, -2 * t * s, s * (6 * t * t - 2), s * t * (16 - 24 * t * t)])


@pytest.mark.finding("E9")
def test_gradients_that_turned_constant_have_gradients_of_zero():
    x = leaf(3.0)
    y, orders = x * x, []
    for _ in range(5):
        y = tl.grad(y, x, create_graph=True)
        orders.append(y.item())
        assert y.requires_grad
    assert orders == [6, 2, 0, 0, 0]
    a, b = leaf([1, 2]), leaf([3, 4])
    by_a, by_b = tl.grad((a * 5).sum(), [a, b], create_graph=True)  # constant, and 0
    assert (by_a.tolist(), by_b.tolist()) == ([5, 5], [0, 0])
    product = (by_a * by_b).sum() + (by_a * a).sum()
    assert [p.tolist() for p in tl.grad(product, [a, b])] == [[5, 5], [0, 0]]


@pytest.mark.finding("E9")
def test_a_hessian_vector_product_of_a_linear_function_is_zero():
    x, v = leaf([1.0, 2.0]), np.array([3.0, 4.0])
    slope = tl.grad((x * 5).sum(), x, create_graph=True)
    assert tl.grad((slope * v).sum(), x).tolist() == [0, 0]
    assert tl.grad((slope * slope).sum(), x, create_graph=True).requires_grad
    (slope * v).sum().backward()  # adds nothing to x
    assert x.grad is None


@pytest.mark.finding("E9")
def test_a_constant_gradient_leaves_the_incoming_one_as_it_is():
    x, v = leaf([1.0, 2.0]), tl.tensor(np.array([3.0, 4.0]))
    by_x = tl.grad(x, x, v, create_graph=True)
    assert (by_x.requires_grad, v.requires_grad) == (True, False)
    assert not tl.grad(x * 2, x, v).requires_grad  # without create_graph
    nothing = tl.tensor([1.0])
    for mistake in (lambda: tl.grad(nothing, x), lambda: nothing.backward(), lambda: tl.grad(x.detach().sum(), x)):
        with pytest.raises(RuntimeError, match="not computed from one that requires a gradient"):
            mistake()


def test_higher_orders_through_fused_ops_whose_arguments_depend_on_each_other():
    x = leaf([[0.3, -0.2], [0.5, 0.9]])

    def f(x):
        w = tl.sin(x)
        return F.gelu(F.layer_norm(F.linear(x, w, w[0]), w[1], x[0], eps=0.1)).sum()

    def third(f):
        y = f(x)
        for _ in range(2):
            y = (tl.grad(y, x, create_graph=True) * np.array([[1.0, 2], [3, 4]])).sum()
        return tl.grad(y, x).numpy()

    fast = third(f)
    with tl.unfused():
        np.testing.assert_allclose(fast, third(f), rtol=1e-10)
    assert F.gelu(x).node.op.name == "gelu"
    with tl.unfused():
        assert F.gelu(x).node.op.name == "mul"


def test_second_order_through_many_fused_ops_takes_linear_time():
    def calls(n):
        x = leaf([1.0])
        y = x
        for _ in range(n):
            y = F.gelu(y) + 0.5
        seen = []
        sys.setprofile(lambda frame, event, arg: seen.append(event))
        try:
            tl.grad(y.sum(), x, create_graph=True)
        finally:
            sys.setprofile(None)
        return len(seen)

    assert calls(400) < 4.5 * calls(100)


def test_create_graph_with_a_gradient_that_is_itself_differentiable():
    x, v = leaf([1, 2]), leaf([3, 4])
    by_x = tl.grad(x * x, x, v, create_graph=True)  # 2 x v
    assert tl.grad(by_x.sum(), [x, v])[0].tolist() == [6, 8]
    by_x = tl.grad(x * x, x, v, create_graph=True)
    assert tl.grad(by_x.sum(), v).tolist() == [2, 4]


# ----- versions ---------------------------------------------------------------------------------------------------


def changed(x):
    x.data += 1
    x.changed()


def test_a_changed_value_that_is_needed_raises():
    message = "backward through (mul|exp|matmul|gelu): a value that it needs was changed"
    x = leaf([1, 2])
    y = (x * x).sum()
    changed(x)
    with pytest.raises(RuntimeError, match=message):
        y.backward()
    y = F.gelu(x).sum()
    changed(x)
    with pytest.raises(RuntimeError, match=message):
        y.backward()
    y = tl.exp(x)  # keeps its output
    changed(y)
    with pytest.raises(RuntimeError, match=message):
        y.backward(np.ones(2))
    w = leaf([[1, 2], [3, 4]])
    y = (x @ w.T[::-1]).sum()  # keeps a view of w
    changed(w)
    with pytest.raises(RuntimeError, match=message):
        y.backward()
    frozen = w.detach()
    y = (x * frozen[0]).sum()  # shares the memory of w
    changed(w)
    with pytest.raises(RuntimeError, match=message):
        y.backward()


def test_a_changed_value_is_noticed_whatever_the_op_was_applied_to_before():
    x, y = leaf([1, 2]), tl.tensor([3.0, 4.0])
    tl.einsum("i->", x)
    z = tl.einsum("i,i->", x, y)
    changed(y)
    with pytest.raises(RuntimeError, match="einsum: a value that it needs was changed"):
        z.backward()
    same = identity(x)  # the very same memory
    z = (same * same).sum()
    changed(x)
    with pytest.raises(RuntimeError, match="mul: a value that it needs was changed"):
        z.backward()
    z = F.linear(np.ones((1, 2)), leaf([[1, 2]]))  # an array has no version
    assert z.requires_grad
    assert tl.concatenate([x]).tolist() == x.tolist()


def test_each_change_of_a_gradient_counts():
    x, y = leaf([1, 2]), leaf([3, 4])
    (x * y).sum().backward()
    z = (x.grad * y).sum()
    (x * 2).sum().backward()  # adds to x.grad in place
    changed(x.grad)
    with pytest.raises(RuntimeError, match="mul: a value that it needs was changed"):
        z.backward()


def test_a_changed_value_that_is_not_needed_does_not_matter():
    x, w = leaf([1, 2]), leaf([3, 4])
    y, z = (x + w).sum(), (x.T.reshape(1, 2)[::-1] * w.detach().clone()).sum()
    changed(x)
    y.backward()
    z.backward()
    assert x.grad.tolist() == [4, 5]
    z = x * w.detach()  # needs w alone
    changed(x)
    z.sum().backward()
    y = F.linear(x, np.ones((3, 2)))  # a view, of memory that is not that of x
    z = (y * y).sum()
    changed(x)
    assert tl.grad(z, y).tolist() == (2 * y).tolist()
    z = x / w.detach()  # needs its output for the gradient by w
    total = z.sum()
    changed(z)
    total.backward()
    copied = x[[0, 1]]  # a copy, with a version of its own
    square = (copied * copied).sum()
    changed(x)
    square.backward()


def test_a_second_order_through_a_view_that_changed_raises():
    w, c, v = leaf([[1, 2], [3, 4]]), leaf(np.ones((2, 2))), leaf(np.ones((2, 2)))
    by_c = tl.grad(w.T * c, c, v, create_graph=True)  # v * w.T: keeps the view again
    changed(w)
    with pytest.raises(RuntimeError, match="mul: a value that it needs was changed"):
        tl.grad(by_c.sum(), v)


def test_accumulating_into_a_gradient_that_a_graph_uses_is_noticed():
    x = leaf([1, 2])
    (x * x).sum().backward()
    y = (x.grad * x).sum()
    (x * 3).sum().backward()
    with pytest.raises(RuntimeError, match="was changed"):
        y.backward()


# ----- recording --------------------------------------------------------------------------------------------------


def test_accumulating_and_changing_a_gradient_do_not_cancel_out():
    x = tl.tensor(3.0, requires_grad=True)
    x.backward()
    w = tl.tensor(2.0, requires_grad=True)
    y = x.grad * w
    x.backward()
    x.grad.changed()
    with pytest.raises(RuntimeError, match="changed"):
        y.backward()


def test_no_grad_nests_survives_exceptions_and_holds_per_thread():
    x = leaf([1, 2])
    seen = {}
    with tl.no_grad():
        with tl.no_grad():
            assert not (x * 2).requires_grad
        assert not (x * 2).requires_grad
        with pytest.raises(ZeroDivisionError), tl.no_grad():
            raise ZeroDivisionError
        assert not (x * 2).requires_grad
        thread = threading.Thread(target=lambda: seen.update(other=(x * 2).requires_grad))
        thread.start()
        thread.join()
    assert (x * 2).requires_grad
    assert seen == {"other": True}


def test_backward_works_under_no_grad_and_never_records():
    x = leaf([1, 2])
    y = (x * x).sum()
    with tl.no_grad():
        y.backward()
    assert x.grad.tolist() == [2, 4]
    assert not x.grad.requires_grad
    assert not tl.grad((x * x).sum(), x).requires_grad


def test_threads_walk_their_own_graphs():
    results = []

    def work(k):
        x = leaf(np.full(100, float(k)))
        for _ in range(50):
            results.append((k, tl.grad((tl.tanh(x) * x * x).sum() * 0 + (x * x).sum(), x).data[0]))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 200
    assert all(value == 2 * k for k, value in results)


def test_detach_shares_data_but_no_graph():
    x = leaf([1, 2])
    y = (x * x).detach()
    assert not y.requires_grad
    assert (x * y).sum().requires_grad
    assert np.may_share_memory(x.data, x.detach().data)
    assert gradient_of(x, (x * x.detach()).sum()) == [1, 2]


def test_a_clone_has_memory_of_its_own_and_a_needless_cast_has_not():
    x = leaf([1, 2])
    assert not np.may_share_memory(x.data, x.clone().data)
    assert x.astype(np.float64) is x
    assert x.to("cpu") is x


def test_integers_and_booleans_never_require_gradients():
    x = leaf([1.5, 2])
    for y in (x > 1, x.argmax(), x.astype(np.int64), tl.isnan(x)):
        assert not y.requires_grad
    assert gradient_of(x, (x * (x > 1.7)).sum()) == [0, 1]  # a comparison inside a graph


# ----- a wrong rule or a wrong use is an error --------------------------------------------------------------------


def test_a_rule_may_compute_with_a_tensor_of_its_own():
    """Its constant is a Tensor: so is what it returns, also where the incoming gradient is an array."""
    matrix = np.arange(6.0).reshape(2, 3)
    op = primitive(lambda x: matrix @ x).vjp(lambda g: tl.tensor(matrix.T) @ g)
    x = tl.tensor([1.0, 2.0, 3.0], requires_grad=True)
    (op(x) + op(x)).sum().backward()  # two results that are added in place
    np.testing.assert_array_equal(x.grad.numpy(), [6.0, 10.0, 14.0])
    first = tl.grad((op(x) ** 2).sum(), x, create_graph=True)
    np.testing.assert_array_equal(tl.grad(first.sum(), x).numpy(), 2 * matrix.T @ matrix @ np.ones(3))


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (elementwise(lambda x: x * 1).vjp(lambda g: g.sum()), r"rule 0 gave shape \(\) for an argument of \(2, 3\)"),
        (elementwise(lambda x: x * 1).vjp(lambda g: g[0]), r"rule 0 gave shape \(3,\) for an argument of \(2, 3\)"),
        (primitive(lambda x: x.sum()).vjp(lambda g: g), r"rule 0 gave shape \(\) for an argument of \(2, 3\)"),
        (elementwise(lambda x: x * 1).vjp(lambda g: g * np.sqrt(2)), "rule 0 gave float64 for float32"),
    ],
)
def test_a_rule_of_the_wrong_shape_or_dtype_is_an_error(op, message):
    x = leaf(np.ones((2, 3)), np.float32)
    with pytest.raises(AssertionError, match=message):
        op(x).sum().backward()
    assert x.grad is None


def test_a_rule_may_give_the_dtype_of_its_argument_or_leave_that_to_the_engine():
    for rule in (lambda g: g, lambda g: g.astype(np.float64)):
        narrow = primitive(lambda x: x.astype(np.float32)).vjp(rule)
        x = leaf([1, 2])
        narrow(x).sum().backward()
        assert (x.grad.tolist(), x.grad.dtype) == ([1, 1], np.float64)


def test_a_rule_asks_for_names_that_exist_and_each_argument_has_one():
    with pytest.raises(TypeError, match="asks for 'y'; it can have x, x_shape, out, axis"):
        primitive(lambda x, *, axis: x).vjp(lambda g, y: g)
    with pytest.raises(TypeError, match="1 rules for the 2 arguments"):
        primitive(lambda x, y: x).vjp(lambda g: g)
    with pytest.raises(TypeError, match="rename it"):
        primitive(lambda x, *, out: x)


def test_an_op_of_ones_own_of_any_number_of_arguments():
    total = primitive(lambda *xs, scale: sum(xs) * scale).vjp(lambda g, index, scale, xs_shape: g * (scale + index))
    x, y = leaf([1, 2]), leaf([3, 4])
    assert total(x.data, y.data, scale=2).tolist() == [8, 12]
    total(x, np.ones(2), y, scale=2).backward(np.ones(2))
    assert (x.grad.tolist(), y.grad.tolist()) == ([2, 2], [4, 4])
    assert tl.grad(total(np.ones(2), x, scale=2).sum(), x).tolist() == [3, 3]
    assert total(scale=2) == 0


def test_an_op_binds_as_a_method():
    class Vector(tl.Tensor):
        length = tl.norm
        squashed = tl.tanh

    assert Vector(tl.tensor([0.0, 0.0]).data).squashed().tolist() == [0, 0]
    assert Vector.squashed is tl.tanh


def test_the_second_order_of_an_op_of_any_number_of_arguments():
    x, y = leaf([1, 2]), leaf([3, 4])
    by_x, by_y = tl.grad(tl.einsum("i,i,i->", x, y, y), [x, y], create_graph=True)  # y^2, 2 x y
    assert tl.grad(by_x.sum(), y).tolist() == [6, 8]
    assert [p.tolist() for p in tl.grad(by_y.sum(), [x, y])] == [[6, 8], [2, 4]]


def test_publishing_names_an_op_once():
    own = primitive(lambda x: x)
    try:
        publish({"_own": own, "plus": ops.add, "number": 3, "class": type("named", (), {"name": Primitive.name})})
        assert (own.name, PRIMITIVES["_own"]) == ("own", own)
        assert ops.add.name == "add"
        assert not {"plus", "number", "class"} & PRIMITIVES.keys()
    finally:
        PRIMITIVES.pop("_own", None)


def test_backward_says_what_it_needs():
    x = leaf([1, 2])
    with pytest.raises(RuntimeError, match=r"a gradient is needed for shape \(2,\)"):
        (x * 2).backward()
    with pytest.raises(RuntimeError, match="not computed from one that requires a gradient"):
        tl.tensor([1.0]).backward()
    with pytest.raises(ValueError, match=r"shape \(2,\) and dtype float64, not \(3,\) and float64"):
        (x * 2).backward(np.ones(3))
    with pytest.raises(ValueError, match=r"not .* float32"):
        (x * 2).backward(np.ones(2, np.float32))
    with pytest.raises(RuntimeError, match="input 1 does not require a gradient"):
        tl.grad((x * 2).sum(), [x, tl.tensor([1.0])])


def test_errors_name_the_op_and_what_it_was_given():
    x = leaf(np.ones((2, 3)), np.float32)
    with pytest.raises(ValueError, match=r"add\(float32\[2, 3\], float64\[2\]\)"):
        x + np.ones(2)
    with pytest.raises(ValueError, match=r"matmul\(float32\[2, 3\], float32\[2, 3\]\)"):
        x @ x
    with pytest.raises(TypeError, match="sum: no argument 'dim' here; it takes x, axis=, keepdims="):
        ops.sum(x, dim=0)


def test_a_missing_argument_is_named():
    with pytest.raises(TypeError, match="mul: argument 'y' is missing; it takes x, y"):
        tl.mul(leaf(1.0))
    with pytest.raises(TypeError, match="linear: argument 'weight' is missing; it takes x, weight, bias"):
        F.linear(leaf([1.0]))


def test_a_clone_has_memory_of_its_own_and_the_gradient_passes_through():
    x = leaf([1.0, 2.0])
    y = x.clone()
    assert not np.shares_memory(x.data, y.data)
    assert tl.grad((y * y).sum(), x).tolist() == [2, 4]
