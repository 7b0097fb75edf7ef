"""What a Tensor may hold and be assigned: nothing is truncated, wrapped or lost without an error."""

import copy
import re
from contextlib import nullcontext

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import functional as F
from tensorlite import nn
from tensorlite.primitive import elementwise, primitive

ONES = np.ones(3, np.float32)


def leaf() -> tl.Tensor:
    return tl.tensor(ONES, requires_grad=True)


# ----- results of ops -------------------------------------------------------------------------------------------------

FFT = primitive(lambda x: np.fft.fft(x)).vjp(lambda g: g)
JOINED = primitive(lambda *xs: np.array([str(x) for x in xs], object)).vjp(None)
NAMES = primitive(lambda x, y: np.array(["a", "b"])).vjp(None, None)


@pytest.mark.parametrize("requires_grad", [True, False])
@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize(
    ("op", "count", "others", "dtype"),
    [
        (FFT, 1, (), "complex64"),  # of Tensors alone
        (elementwise(lambda x, y: x + 1j * y).vjp(None, None), 2, (), "complex64"),
        (tl.mul, 1, (1j,), "complex64"),  # beside what is no Tensor
        (JOINED, 3, (), "object"),
        (NAMES, 2, (), "<U1"),
        (primitive(lambda x: x.sum() * np.complex64(1j)).vjp(None), 1, (), "complex64"),  # a scalar
    ],
)
def test_an_op_that_returns_what_no_tensor_holds_is_refused(op, count, others, dtype, requires_grad, recorded):
    tensors = [tl.tensor(ONES, requires_grad=requires_grad) for _ in range(count)]
    arguments = ", ".join(["float32[3]"] * count + [type(x).__name__ for x in others])
    parts = ", such as .real and .imag" if dtype.startswith("complex") else ""
    says = (
        f"{op.name}({arguments}): the result would be of dtype {dtype}, which Tensors do not hold: "
        f"return floats, integers or booleans{parts}"
    )
    with nullcontext() if recorded else tl.no_grad(), pytest.raises(TypeError, match=f"^{re.escape(says)}$"):
        op(*tensors, *others)


def test_an_op_on_arrays_alone_returns_what_its_forward_does():
    assert FFT(np.ones(4)).tolist() == [4, 0, 0, 0]
    assert FFT(np.ones(4)).dtype == np.complex128


# ----- requires_grad, data, grad ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [tl.int64, tl.int32, tl.uint8, tl.bool_], ids=str)
def test_integers_cannot_be_made_to_require_a_gradient(dtype):
    x = tl.ones(3, dtype)
    with pytest.raises(TypeError, match=f"only floating Tensors have gradients, not {dtype}"):
        x.requires_grad = True
    assert x.requires_grad is False
    with pytest.raises(TypeError, match="only floating Tensors have gradients"):
        tl.Tensor(x.data, requires_grad=True)
    x.requires_grad = False


@pytest.mark.parametrize("value", ["no", 1, 0, None, [True]], ids=repr)
def test_requires_grad_is_a_bool(value):
    x = tl.ones(3)
    with pytest.raises(TypeError, match="requires_grad must be True or False, not "):
        x.requires_grad = value
    for make in (lambda: tl.tensor([1.0], requires_grad=value), lambda: nn.Parameter([1.0], requires_grad=value)):
        with pytest.raises(TypeError, match="requires_grad must be True or False, not "):
            make()
    x.requires_grad = np.bool_(True)
    assert x.requires_grad is True


@pytest.mark.parametrize("use", [lambda w: w * 2, lambda w: w * 2.0, tl.exp, lambda w: (w * tl.ones(3)).sum()])
def test_integers_assigned_to_data_of_a_leaf_are_refused_at_the_latest_by_backward(use):
    w = leaf()
    w.data = np.arange(3)
    with pytest.raises(TypeError, match=r"requires a gradient holds int64, because \.data was replaced"):
        use(w).sum().backward()
    assert w.grad is None


def test_data_of_another_shape_does_not_add_to_the_old_gradient():
    w = leaf()
    (w * 2).sum().backward()
    w.data = np.ones(1, np.float32)
    with pytest.raises(ValueError, match=r"has shape \(1,\), but \.grad has \(3,\): \.data was replaced"):
        (w * 2).sum().backward()
    assert w.grad.tolist() == [2, 2, 2]
    w.grad = None
    (w * 2).sum().backward()
    assert w.grad.tolist() == [2]


@pytest.mark.parametrize(
    "wrong",
    [tl.ones(2), tl.ones(1), tl.ones((1, 3)), tl.ones(3, tl.float64), tl.ones(3, tl.int64)],
    ids=["two", "one", "two axes", "float64", "int64"],
)
def test_a_gradient_has_the_shape_and_dtype_of_its_tensor(wrong):
    w = leaf()
    with pytest.raises(ValueError, match=r"grad: assign a Tensor of the same shape \(3,\), dtype float32 and device"):
        w.grad = wrong
    assert w.grad is None
    w.grad = tl.ones(3)
    w.grad = None


# ----- arrays of other kinds ----------------------------------------------------------------------------------------

MASKED = np.ma.masked_array(ONES, [False, True, False])
TAKES_AN_ARRAY = {
    "tensor": lambda a: tl.tensor(a),
    "tensor of a dtype": lambda a: tl.tensor(a, dtype=tl.float64),
    "tensor of a list": lambda a: tl.tensor([a, a]),
    "Tensor": lambda a: tl.Tensor(a),
    "Parameter": lambda a: nn.Parameter(a),
    "x + a": lambda a: leaf() + a,
    "a + x": lambda a: a + leaf(),
    "x == a": lambda a: leaf() == a,
    "where": lambda a: tl.where(leaf() > 0, leaf(), a),
    "concatenate": lambda a: tl.concatenate([leaf(), a]),
    "stack": lambda a: tl.stack([a, a]),
    "exp": tl.exp,
    "sum": tl.sum,
    "mean": tl.mean,
    "softmax": F.softmax,
    "mse_loss": lambda a: F.mse_loss(leaf(), a),
    "linear": lambda a: nn.Linear(3, 2)(a),
}


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("name", TAKES_AN_ARRAY)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_masked_arrays_are_refused_with_what_to_write(name, dtype):
    with pytest.raises(TypeError, match=r"masked arrays are not supported, .*: write x\.filled\(value\)"):
        TAKES_AN_ARRAY[name](MASKED.astype(dtype))
    if name not in ("a + x", "mse_loss"):  # NumPy's matrix adds itself; a matrix has another shape
        with pytest.raises(TypeError, match=r"np\.matrix is not supported, .*: write np\.asarray\(x\)"):
            TAKES_AN_ARRAY[name](np.matrix(ONES.astype(dtype)))


def test_masked_arrays_are_no_index():
    with pytest.raises(IndexError, match="masked arrays are not supported"):
        leaf()[MASKED.astype(int)]


@pytest.mark.parametrize("name", TAKES_AN_ARRAY)
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_tensors_of_torch_are_answered_with_numpy(name):
    torch = pytest.importorskip("torch")
    for x in (torch.ones(3), torch.ones(3, dtype=torch.float64), torch.ones(3, dtype=torch.bfloat16)):
        with pytest.raises(TypeError, match=re.escape("torch Tensor is not a tensorlite Tensor")) as caught:
            TAKES_AN_ARRAY[name](x)
        assert "x.detach().cpu().numpy()" in str(caught.value)
    with pytest.raises(IndexError, match="torch Tensor is not"):
        leaf()[torch.tensor([1])]


def test_memory_maps_and_other_arrays_of_numpy_are_taken(tmp_path):
    mapped = np.memmap(tmp_path / "x", np.float32, "w+", shape=3)
    mapped[:] = 2
    assert (leaf() + mapped).tolist() == tl.tensor(mapped + 1).tolist() == [3, 3, 3]
    assert (leaf() + np.float64(1)).dtype == tl.float32


@pytest.mark.parametrize(
    "data",
    [
        np.array(["1"]),
        np.array(["2020"], "M8[D]"),
        np.array([1, 2], object),
        np.array([b"1"]),
        np.array([1j]),
        np.zeros(2, "V4"),
    ],
    ids=lambda a: str(a.dtype),
)
@pytest.mark.parametrize("dtype", [None, np.float32, np.int64, bool])
def test_arrays_that_hold_no_real_numbers_are_refused_whatever_the_dtype(data, dtype):
    with pytest.raises(TypeError, match=re.escape(f"dtype {data.dtype} is not supported")):
        tl.tensor(data, dtype=dtype)


# ----- numbers that do not fit --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "dtype", "value"),
    [
        ([256, 257, -1], "uint8", 256),
        ([1, -1], "uint8", -1),
        ([128], np.int8, 128),
        ([[0], [2**31]], tl.int32, 2**31),
        ([-(2**31) - 1], tl.int32, -(2**31) - 1),
        (256, "uint8", 256),
        ([2**63], tl.int64, 2**63),
        ([2**70], None, 2**70),
        ([2**70], "uint8", 2**70),
        ([1e30], tl.int64, 1e30),
        ([float(2**63)], tl.int64, float(2**63)),
        ([256.0], "uint8", 256.0),
        ([-1.0], "uint8", -1.0),
    ],
)
def test_a_number_that_does_not_fit_names_the_range_of_the_dtype(data, dtype, value):
    limits = np.iinfo(dtype or tl.int64)
    message = f"{value} does not fit in {limits.dtype}, which holds {limits.min} to {limits.max}"
    with pytest.raises(OverflowError, match=re.escape(message)):
        tl.tensor(data, dtype)
    if not isinstance(data, list) and dtype:
        with pytest.raises(OverflowError, match=re.escape(message)):
            tl.full(3, data, dtype)


@pytest.mark.parametrize("dtype", [tl.uint8, np.int8, np.int16, tl.int32, np.uint32, tl.int64], ids=str)
def test_the_limits_of_a_dtype_fit(dtype):
    limits = np.iinfo(dtype)
    x = tl.tensor([limits.min, limits.max, True], dtype)
    assert x.tolist() == [limits.min, limits.max, 1]
    assert x.dtype == dtype
    assert tl.tensor([], dtype).shape == (0,)


def test_floats_are_truncated_to_integers_except_nan_and_inf():
    assert tl.tensor([1.5, -1.5, -0.5, 255.9], dtype=tl.int64).tolist() == [1, -1, 0, 255]
    assert tl.tensor([-0.5, 255.9], dtype=tl.uint8).tolist() == [0, 255]
    assert tl.tensor([-float(2**63)], dtype=tl.int64).tolist() == [-(2**63)]
    for value in (np.nan, np.inf, -np.inf):
        for make in (lambda v: tl.tensor([1.0, v], dtype=tl.int64), lambda v: tl.full(2, v, tl.int64)):
            with pytest.raises(ValueError, match="nan and inf cannot be converted to int64"):
                make(value)


# ----- NumPy cannot write into a Tensor -----------------------------------------------------------------------------


def test_an_array_of_a_tensor_shares_memory_and_is_not_writable():
    x = tl.tensor(ONES)
    for view in (np.asarray(x), np.array(x, copy=False), np.lib.stride_tricks.as_strided(x), np.asarray(x, np.float32)):
        assert np.shares_memory(view, x.data)
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 5
    copies = np.array(x), np.asarray(x, np.float64)
    for array in copies:
        array[0] = 5
    assert x.tolist() == [1, 1, 1]


@pytest.mark.parametrize("ufunc", [np.add, np.multiply, np.subtract, np.maximum], ids=lambda u: u.__name__)
def test_ufunc_at_does_not_change_a_tensor(ufunc):
    x = tl.tensor(ONES)
    with pytest.raises(TypeError, match=rf"np\.{ufunc.__name__}\.at would change a Tensor in place"):
        ufunc.at(x, [0, 0], 2.0)
    assert x.tolist() == [1, 1, 1]
    array = np.zeros(3, np.float32)
    np.add.at(array, [0, 0], x[:2])
    assert array.tolist() == [2, 0, 0]


# ----- sentences ----------------------------------------------------------------------------------------------------

M = tl.ones((2, 3))
NUMBER_RULE = elementwise(lambda x: x * 1).vjp(lambda g: 3.0)
NO_RESULT = elementwise(lambda x: x * 1).vjp(lambda g: None)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: M @ M, ValueError, r"\(2, 3\) and \(2, 3\) .* the last axis of the first, 3, .* of the second, 2"),
        (lambda: tl.ones(3) @ tl.ones(4), ValueError, r"\(3,\) and \(4,\) .*, 3, must equal the axis of the second, 4"),
        (lambda: M @ np.ones((4, 2)), ValueError, r"shapes \(2, 3\) and \(4, 2\) do not fit"),
        (lambda: tl.ones((2, 2, 3)) @ tl.ones((3, 3, 4)), ValueError, r"before the last two, \(2,\) and \(3,\), must"),
        (lambda: M @ 2.0, ValueError, "no axis to sum over: write x \\* y"),
        (lambda: nn.Linear(4, 2)(M), ValueError, r"x of shape \(2, 3\) needs a weight of .*\(n_out, 3\), not \(2, 4\)"),
        (lambda: F.linear(M.astype(tl.float64), tl.ones((2, 4))), ValueError, r"\(2, 3\).*\b3, must equal .*\b4|n_out"),
        (
            lambda: M.sort(descending=True),
            TypeError,
            r"sort: .*: write x\.sort\(axis\)\.flip",
        ),
        (lambda: tl.argsort(M, descending=True), TypeError, r"argsort: no argument 'descending' .*\(-x\)\.argsort"),
        (
            lambda: F.mse_loss(tl.ones(3), [1.0, 1.0, 1.0]),
            TypeError,
            r"mse_loss: give Tensors, not a list",
        ),
        (lambda: M.clip(min=2), TypeError, "clip: no argument 'min' here; .*: write low= for min="),
        (lambda: M.round(1), TypeError, r"round: .*: write \(x \* 10\*\*decimals\)\.round\(\) / 10\*\*decimals"),
        (lambda: tl.round(M, 1), TypeError, r"round: .*: write \(x \* 10\*\*decimals\)\.round\(\)"),
        (lambda: tl.round(M, decimals=1), TypeError, r"round: no argument 'decimals' here: write \(x"),
        (
            lambda: leaf().sum().backward(create_graph=True),
            TypeError,
            r"backward: .*: write tl\.grad\(y, x",
        ),
        (lambda: tl.grad([leaf(), leaf()], leaf()), TypeError, "grad: the output must be one Tensor, not list: .* sum"),
        (lambda: tl.grad(3.0, leaf()), TypeError, "grad: the output must be one Tensor, not float"),
        (
            lambda: tl.grad(leaf().sum(), None),
            TypeError,
            "grad: inputs must be a Tensor or .*, not NoneType",
        ),
        (lambda: tl.grad(leaf().sum(), [None]), TypeError, "grad: input 0 must be a Tensor, not NoneType"),
        (lambda: tl.grad(leaf().sum(), leaf(), allow_unused=True), TypeError, "'allow_unused' here: omit it"),
        (lambda: F.softmax(tl.ones((2, 0))), ValueError, "no elements does not exist: an axis is empty"),
        (lambda: F.log_softmax(tl.ones((2, 0))), ValueError, "an axis is empty"),
        (lambda: M["a":], IndexError, r"the bounds of a slice are integers or None, not 'a' \(str\)"),
        (lambda: M[:, 1.5:], IndexError, r"the bounds of a slice are integers or None, not 1\.5 \(float\)"),
        (lambda: M[: tl.tensor(1.5)], IndexError, "the bounds of a slice are integers or None, not tensor"),
        (lambda: tl.zeros_like([1.0]), TypeError, r"zeros_like: give a Tensor or an array, not list: write tl\.tensor"),
        (lambda: tl.full_like(None, 1), TypeError, "full_like: give a Tensor or an array, not NoneType"),
        (lambda: tl.stack(None), TypeError, "stack: give a list or tuple of Tensors, not NoneType"),
        (lambda: tl.concatenate(3), TypeError, "concatenate: give a list or tuple of Tensors, not int"),
        (lambda: tl.zeros(2, device=3), TypeError, r"a device is a name, 'cpu', 'cuda' or .*, not 3 \(int\)"),
        (lambda: tl.tensor([1.0], device=0), TypeError, r"a device is a name, .*, not 0 \(int\)"),
        (
            lambda: NUMBER_RULE(leaf()).sum().backward(),
            TypeError,
            r"rule 0 must return .* not 3\.0 \(float",
        ),
        (lambda: NO_RESULT(leaf()).sum().backward(), TypeError, "rule 0 must return an array .*, not None"),
    ],
)
def test_a_mistake_is_answered_with_one_sentence(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert "gufunc" not in str(caught.value)


def test_the_advice_for_sorting_in_descending_order_is_right():
    x = tl.tensor([[3.0, 1.0, 2.0]])
    assert x.sort(-1).flip(-1).tolist() == x[0][(-x).argsort(-1)].tolist() == [[3, 2, 1]]


LONG = "z" * 3000


@pytest.mark.parametrize(
    "call",
    [
        lambda: tl.sum(M, axis=list(range(3000))),
        lambda: tl.squeeze(M, LONG),
        lambda: tl.transpose(M, [0] * 3000),
        lambda: tl.zeros(2, LONG),
        lambda: tl.tensor([1.0], LONG),
        lambda: M.astype(LONG),
        lambda: M.to(LONG),
        lambda: tl.zeros(2, device=LONG),
        lambda: tl.zeros([-1] * 3000),
        lambda: tl.einsum(LONG, M),
        lambda: tl.einsum("ij->" + LONG, M),
        lambda: tl.einsum("i,j" * 1000, M),
        lambda: F.gelu(M, approximate=LONG),
        lambda: F.mse_loss(M, M, reduction=LONG),
        lambda: M[LONG],
        lambda: M[LONG:],
        lambda: M[["a"] * 3000],
        lambda: setattr(leaf(), "requires_grad", LONG),
    ],
)
def test_long_arguments_are_cut_in_messages(call):
    with pytest.raises((TypeError, ValueError, IndexError)) as caught:
        call()
    assert len(str(caught.value)) < 350


# ----- names that PyTorch has with another meaning, and shared memory -----------------------------------------------


def test_names_and_defaults_that_are_not_pytorchs():
    x = tl.tensor([[3.0, -4.0], [0.0, 2.0]])
    assert np.array_equal(F.gelu(x).data, F.gelu(x, approximate="tanh").data)
    assert np.array_equal(nn.GELU()(x).data, F.gelu(x, approximate="tanh").data)
    assert not np.allclose(F.gelu(x).data, F.gelu(x, approximate="none").data, atol=1e-5)
    assert x.norm(1).tolist() == [5, 2]
    assert [part.shape for part in tl.arange(6).split(2)] == [(3,), (3,)]
    assert tl.arange(2).repeat(2).tolist() == [0, 0, 1, 1]
    assert tl.arange(2).tile(2).tolist() == [0, 1, 0, 1]


def test_detach_numpy_and_state_dict_share_memory_and_copies_do_not():
    model = nn.Linear(3, 2)
    w = model.weight
    shared = w.detach().data, w.numpy(), model.state_dict()["weight"].data
    copies = w.clone().data, w.numpy().copy(), copy.deepcopy(model.state_dict())["weight"].data, tl.tensor(w).data
    w.data[...] = 7
    w.changed()
    assert all((array == 7).all() for array in shared)
    assert all((array != 7).all() for array in copies)
