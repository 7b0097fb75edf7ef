"""What people write from habit: numbers, names, lists, changes in place. It works, or says what to write instead."""

import asyncio
import inspect
import math
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import gpt
import tensorlite as tl
from tensorlite import functional as F
from tensorlite.primitive import elementwise, primitive
from tensorlite.testing import check_gradients

ROOT = Path(__file__).parents[2]


def leaf(values=((1.0, 2.0), (3.0, 4.0))):
    return tl.tensor(np.array(values, np.float32), requires_grad=True)


# ----- numbers ----------------------------------------------------------------------------------------------------


@pytest.mark.finding("C1")
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_tensor_of_one_element_is_a_number_to_python(shape):
    loss = tl.full(shape, 2.71828, requires_grad=True)
    assert f"{loss:.3f}" == "2.718"
    assert f"{loss:>8.2f}|{loss:e}" == "    2.72|2.718280e+00"
    assert "%.3f" % loss == "2.718"  # noqa: UP031
    assert (float(loss), int(loss), round(loss, 2), round(loss)) == (loss.item(), 2, 2.72, 3)
    assert type(round(loss)) is int
    assert math.sqrt(loss) == math.sqrt(loss.item())
    assert math.floor(loss) == 2
    count = tl.full(shape, 3)
    assert f"{count:03d}|{int(count)}|{float(count)}" == "003|3|3.0"
    assert type(int(count)) is int
    assert f"{count}" == str(count)


@pytest.mark.finding("C1")
def test_numbers_of_every_dtype():
    for dtype in (tl.float16, tl.float32, tl.float64, tl.bfloat16):
        assert f"{tl.full((), 1.5, dtype):.2f}" == "1.50"
        assert type(tl.full((), 1.5, dtype).item()) is float
    assert float(tl.tensor(True)) == 1.0
    assert int(tl.tensor(255, tl.uint8)) == 255


@pytest.mark.finding("C1")
def test_a_0d_tensor_of_integers_is_an_index():
    i = tl.tensor(2)
    assert ["a", "b", "c"][i] == "c"
    assert list(range(i)) == [0, 1]
    assert hex(tl.tensor([7, 255], tl.uint8)[1]) == "0xff"
    assert tl.arange(5)[i : i + 2].tolist() == [2, 3]
    for wrong in (tl.tensor(2.0), tl.tensor([2]), tl.tensor(True)):
        with pytest.raises(TypeError, match=r"an index is a 0-d Tensor of integers, not \w+ of shape"):
            [1, 2, 3][wrong]


@pytest.mark.finding("C1")
@pytest.mark.parametrize("what", ["float", "int", "round", "format"])
def test_a_tensor_of_several_elements_is_no_number(what):
    call = {"float": float, "int": int, "round": round, "format": lambda x: f"{x:.2f}"}[what]
    for wrong in (leaf(), tl.zeros(0)):
        with pytest.raises(TypeError, match=rf"{what}: only a Tensor of one element is a number, not shape \("):
            call(wrong)
    with pytest.raises(TypeError, match=r"complex: Tensors hold no complex numbers"):
        complex(tl.tensor(1.0))


@pytest.mark.finding("C1")
def test_a_number_from_a_gpu_waits_once(monkeypatch):
    from tensorlite import backend
    from tensorlite.testing.strict import strict

    monkeypatch.setitem(backend.DEVICES, "strict", lambda: strict)
    x, before = tl.tensor(2.5, device="strict"), strict.waits
    assert f"{x:.1f}" == "2.5"
    assert float(x) == 2.5
    assert strict.waits == before + 2


# ----- names ------------------------------------------------------------------------------------------------------

ATTRIBUTES = {
    "view": "reshape", "permute": "transpose", "unsqueeze": "expand_dims", "cpu": 'to("cpu")', "cuda": 'to("cuda")',
    "numel": "x.size", "t": "x.T", "contiguous": "clone", "float": "astype(tl.float32)", "long": "astype(tl.int64)",
    "dim": "ndim", "flatten": "reshape(-1)", "clamp": "clip", "softmax": "tl.functional.softmax",
    "gather": "take_along_axis",
    "requires_grad_": "requires_grad = True", "add_": "not changed in place", "zero_": "not changed in place",
    "copy": "clone",
}  # fmt: skip


@pytest.mark.finding("C2")
@pytest.mark.parametrize("name", ATTRIBUTES)
def test_a_name_from_torch_or_numpy_is_answered_with_ours(name):
    with pytest.raises(AttributeError, match=rf"a Tensor has no attribute '{name}': .*{re.escape(ATTRIBUTES[name])}"):
        getattr(leaf(), name)
    assert not hasattr(leaf(), name)


NAMES = {
    "cat": "tl.concatenate", "from_numpy": "tl.tensor", "array": "tl.tensor", "as_tensor": "tl.tensor",
    "relu": "tl.functional.relu", "softmax": "tl.functional.softmax", "layer_norm": "tl.functional.layer_norm",
    "Linear": "tl.nn.Linear", "AdamW": "tl.optim.AdamW", "long": "tl.int64", "inference_mode": "tl.no_grad()",
    "save": "tl.io.save",
    "unsqueeze": "expand_dims", "logsumexpp": "did you mean logsumexp", "Parameter": "tl.nn.Parameter",
}  # fmt: skip


@pytest.mark.finding("C2")
@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_the_package_lacks_is_answered_with_ours(name):
    with pytest.raises(AttributeError, match=rf"tensorlite has no attribute '{name}': .*{re.escape(NAMES[name])}"):
        getattr(tl, name)


@pytest.mark.parametrize(
    ("module", "name", "close"),
    [
        ("nn", "Liner", "Linear"),
        ("optim", "Adamw", "AdamW"),
        ("functional", "sofmax", "softmax"),
        ("data", "DataLoder", "DataLoader"),
    ],
)
def test_a_misspelt_name_of_a_module_is_answered_with_names_like_it(module, name, close):
    with pytest.raises(
        AttributeError, match=rf"tensorlite.{module}' has no attribute '{name}': did you mean .*{close}"
    ):
        getattr(getattr(tl, module), name)
    with pytest.raises(AttributeError, match=r"has no attribute 'xyzzy'$"):
        _ = getattr(tl, module).xyzzy


def test_python_names_the_method_that_a_misspelt_one_resembles():
    """Python's own traceback: its suggestions come from dir(x), which has no names of other libraries."""
    code = "import tensorlite as tl; tl.zeros(3).reshap(1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.endswith("'Tensor' object has no attribute 'reshap'. Did you mean: 'reshape'?\n")


@pytest.mark.parametrize("name", ["relu", "silu", "softmax", "log_softmax", "rms_norm", "mse_loss"])
def test_a_function_without_a_kernel_names_itself_in_the_error_for_a_list(name):
    for wrong in ([1.0, 2.0], None, "text"):
        with pytest.raises(TypeError, match=rf"^{name}: give a Tensor or an array, not {type(wrong).__name__}: write"):
            getattr(F, name)(*[wrong] * (2 if name == "mse_loss" else 1))


def test_a_number_in_the_place_of_a_tensor_is_named_where_a_shape_is_needed():
    with pytest.raises(TypeError, match=r"^layer_norm\(float, .*\): give Tensors and arrays, not float: write"):
        F.layer_norm(1.0)
    assert F.gelu(1.0) == pytest.approx((1 + math.tanh(math.sqrt(2 / math.pi) * 1.044715)) / 2, abs=1e-5)


def test_arguments_of_torchs_functions_are_answered_with_ours():
    x = leaf()
    with pytest.raises(TypeError, match="relu: no argument 'inplace' here: omit it"):
        F.relu(x, inplace=True)
    with pytest.raises(TypeError, match="layer_norm: no argument 'normalized_shape' here: omit it"):
        F.layer_norm(x, normalized_shape=(2,))
    with pytest.raises(TypeError, match="write mask= for attn_mask="):
        F.scaled_dot_product_attention(x, x, x, attn_mask=None)


def test_completion_offers_the_functions_alone():
    assert dir(F) == sorted(F.__all__)


@pytest.mark.finding("C2")
def test_what_the_hints_name_exists():
    from tensorlite.errors import torch_names

    for hint in [*torch_names.TENSOR.values(), *torch_names.PACKAGE.values()]:
        for path in re.findall(r"\btl\.([\w.]+)", hint):
            value = tl
            for part in path.split("."):
                value = getattr(value, part)
        for method in re.findall(r"\bx\.(\w+)", hint):
            assert hasattr(tl.Tensor, method), hint
    for ours in torch_names.RENAMED.values():
        assert ours in {
            "axis",
            "keepdims",
            "x",
            "y",
            "ddof",
            "low",
            "high",
            "shape",
            "widths",
            "value",
            "xs",
            "shift",
            "k",
            "a",
            "b",
            "mask",
            "targets",
        }
    assert not [name for name in torch_names.TENSOR if hasattr(tl.Tensor, name)]
    assert not [name for name in torch_names.PACKAGE if hasattr(tl, name)]


@pytest.mark.finding("C2")
def test_attributes_that_python_looks_for_are_just_missing():
    x = leaf()
    assert getattr(x, "__array_interface__", None) is None
    assert getattr(x, "_repr_latex_", None) is None
    with pytest.raises(AttributeError, match="has no attribute '_ipython_display_'"):
        _ = x._ipython_display_
    assert "view" not in dir(x)
    assert {"reshape", "data", "grad"} <= set(dir(x))


@pytest.mark.finding("C2")
def test_the_version_is_that_of_the_distribution():
    assert tl.__version__ == gpt.__version__
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["hatch"]["version"]["path"] == "tensorlite/__init__.py"
    written = [f for f in ROOT.glob("*/__init__.py") if re.search(r'__version__ = "', f.read_text(encoding="utf-8"))]
    assert written == [ROOT / "tensorlite" / "__init__.py"]  # in one place


@pytest.mark.finding("C2")
def test_size_is_a_number_that_says_so_when_it_is_called():
    x = leaf()
    assert x.size == 4
    assert isinstance(x.size, int)
    with pytest.raises(TypeError, match=r"x\.size is the number of elements, .* write x\.shape"):
        x.size()
    with pytest.raises(TypeError, match=r"write x\.shape"):
        x.size(0)


# ----- arguments --------------------------------------------------------------------------------------------------

WITH_AXIS = [
    "sum", "mean", "var", "std", "prod", "max", "min", "argmax", "argmin", "all", "any", "logsumexp", "norm", "cumsum",
    "cumprod", "sort", "argsort", "squeeze", "flip", "expand_dims",
]  # fmt: skip


@pytest.mark.finding("C2")
@pytest.mark.parametrize("name", WITH_AXIS)
def test_dim_is_answered_with_axis_by_functions_and_methods(name):
    message = rf"{name}: no argument 'dim' here; it takes .*axis.*: write axis= for dim="
    with pytest.raises(TypeError, match=message):
        getattr(tl, name)(leaf(), dim=0)
    with pytest.raises(TypeError, match=message):
        getattr(leaf(), name)(dim=0)


@pytest.mark.finding("C2")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: x.sum(axis=0, keepdim=True), "no argument 'keepdim' .*: write keepdims= for keepdim="),
        (lambda x: tl.mean(x, axis=0, keepdim=True), "no argument 'keepdim' .*: write keepdims= for keepdim="),
        (lambda x: x.std(axis=0, correction=1), "write ddof= for correction="),
        (lambda x: tl.stack([x, x], dim=1), "stack: .* write axis= for dim="),
        (lambda x: tl.concatenate([x, x], dim=1), "concatenate: .* write axis= for dim="),
        (lambda x: F.softmax(x, dim=-1), "softmax: .* write axis= for dim="),
        (lambda x: F.log_softmax(x, dim=-1), "log_softmax: .* write axis= for dim="),
        (lambda x: tl.topk(x, 1, dim=0), "topk: .* write axis= for dim="),
        (lambda x: x.topk(1, dim=0), "topk: .* write axis= for dim="),
        (lambda x: x.split(1, dim=0), "split: .* write axis= for dim="),
        (lambda x: tl.roll(x, shifts=1), "write shift= for shifts="),
        (lambda x: tl.mean(x, 0, False, 3), "mean: too many positional arguments; it takes x, axis=None"),
        (lambda x: tl.mean(), "mean: missing a required argument: 'x'; it takes x"),
        (lambda x: tl.sum(x, colour=3), "^sum: no argument 'colour' here; it takes x, axis=, keepdims=$"),
        (
            lambda x: F.layer_norm(x, None, None, colour=3),
            "^layer_norm: no argument 'colour' here; it takes x, weight,",
        ),
        (lambda x: F.linear(x, x, None, colour=3), "^linear: no argument 'colour' here; it takes x, weight, bias$"),
        (lambda x: x.to(tl.float32), r"not a .*Float32.*; for a dtype write x\.astype\(dtype\)"),
        (lambda x: tl.to(x, x), "to: a device is"),
        (lambda x: tl.ones(6, 6), "6 is not a dtype: a shape of several lengths is one argument, a tuple"),
        (lambda x: tl.zeros(2, 3, 4), "3 is not a dtype: a shape"),
        (lambda x: F.gelu(x, "tanh"), "gelu: 2 arguments by position; it takes x, approximate="),
        (lambda x: F.cross_entropy(x, np.array([0, 1]), x), "cross_entropy: 3 arguments by position"),
        (lambda x: tl.pad(x, 1.5), r"pad: a width must be a non-negative integer, not 1\.5"),
        (lambda x: tl.pad(x, (1, -1)), "pad: a width must be a non-negative integer, not -1"),
        (lambda x: tl.pad(tl.tensor(1.0), -1), "pad: a width must be a non-negative integer, not -1"),
        (lambda x: tl.pad(x, [(1, 1)]), r"an int, a pair, or 2 pairs of non-negative ints, not \["),
        (lambda x: tl.pad(x, [(1, 1), 2]), r"an int, a pair, or 2 pairs of non-negative ints, not \["),
        (lambda x: tl.pad(x, [1, 2, 3]), r"an int, a pair, or 2 pairs of non-negative ints, not \["),
        (lambda x: x.roll(1.5, 0), r"roll: shift must be an integer or a tuple of integers, not 1\.5"),
        (lambda x: x.roll((1, 2), (0, 1, 0)), r"roll: shift \(1, 2\) and axis \(0, 1, 0\) must have the same length"),
        (lambda x: x.repeat(1.5), r"repeat: repeats must be a non-negative integer, not 1\.5"),
        (lambda x: x.tile((2, -1)), "tile: reps must be a non-negative integer, not -1"),
        (lambda x: x.topk(1.5), r"topk: k must be between 0 and 2 .*, not 1\.5"),
    ],
)
def test_wrong_arguments_are_answered_with_what_a_function_takes(call, message):
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        call(leaf())
    assert "\n" not in str(caught.value)


@pytest.mark.finding("E8")
def test_reductions_take_the_axis_by_position():
    x, a = leaf(), np.array([[1.0, 2.0], [3.0, 4.0]])
    for name in ("sum", "max", "min", "argmax", "argmin", "all", "any", "mean", "var", "prod"):
        assert getattr(tl, name)(x, 0).tolist() == getattr(np, name)(a, 0).tolist()
        assert getattr(tl, name)(a, -1).tolist() == getattr(np, name)(a, -1).tolist()
    assert tl.sum(x, 1, True).tolist() == [[3], [7]]
    assert tl.logsumexp(x, 0).shape == (2,)
    assert tl.tril(x, -1).tolist() == np.tril(a, -1).tolist()
    check_gradients(lambda x: tl.sum(x, 0) * tl.max(x, 1), a)
    with pytest.raises(TypeError, match="sum: 4 arguments by position; it takes x, axis=, keepdims="):
        tl.sum(x, 0, True, 1)
    with pytest.raises(TypeError, match="sum: 2 arguments by position"):
        tl.sum(x, 0, axis=1, keepdims=True)


@pytest.mark.finding("E8")
def test_the_mean_of_booleans_is_the_share_that_is_true():
    pred, y = tl.tensor([1, 2, 3, 4]), tl.tensor([1, 0, 3, 0])
    accuracy = (pred == y).mean()
    assert (accuracy.item(), accuracy.dtype) == (0.5, np.float32)
    assert (pred == y).reshape(2, 2).mean(axis=0).tolist() == [1, 0]


@pytest.mark.finding("E8")
def test_no_grad_decorates_with_and_without_brackets():
    x = leaf()

    @tl.no_grad
    def bare(y, *, scale):
        """What it does."""
        return y * scale

    @tl.no_grad()
    def called(y):
        return y * 2

    assert not bare(x, scale=2).requires_grad
    assert not called(x).requires_grad
    assert (bare.__name__, bare.__doc__) == ("bare", "What it does.")
    assert not bare(x, scale=3).requires_grad  # again
    assert (x * 2).requires_grad


@pytest.mark.finding("E8")
@pytest.mark.parametrize("decorate", [tl.no_grad, tl.no_grad()], ids=["bare", "called"])
def test_no_grad_decorates_generators_while_their_body_runs(decorate):
    x, closed = leaf(), []

    @decorate
    def items(n):
        try:
            for _ in range(n):
                try:
                    given = yield x * 2
                    assert given is None or not (given * x).requires_grad
                except KeyError:
                    yield x * 3
        finally:
            closed.append((x * 2).requires_grad)
        return x * 4

    assert inspect.isgeneratorfunction(items)
    recorded = []
    for item in items(2):
        recorded.append(item.requires_grad)
        assert (x * 2).requires_grad  # the consumer is not concerned
    assert recorded == [False, False]
    generator = items(3)
    next(generator)
    assert not generator.send(x).requires_grad
    assert generator.throw(KeyError()).tolist() == (x * 3).tolist()
    generator.close()
    generator = items(3)
    next(generator)
    with pytest.raises(ZeroDivisionError):
        generator.throw(ZeroDivisionError())

    def outer():
        return (yield from items(1))

    generator = outer()
    next(generator)
    with pytest.raises(StopIteration) as stop:
        next(generator)
    assert not stop.value.value.requires_grad
    assert closed == [False] * 4
    assert (x * 2).requires_grad


@pytest.mark.finding("E8")
def test_no_grad_decorates_async_functions():
    x = leaf()

    @tl.no_grad()
    async def computed():
        await asyncio.sleep(0)
        return x * 2

    async def recorded():
        await asyncio.sleep(0)
        return x * 2

    async def both():
        return await asyncio.gather(computed(), recorded(), computed())

    assert [y.requires_grad for y in asyncio.run(both())] == [False, True, False]

    async def items():
        yield x * 2

    with pytest.raises(TypeError, match="no_grad cannot decorate an async generator: write `with no_grad"):
        tl.no_grad(items)
    with pytest.raises(TypeError, match="no_grad takes no arguments, or the function that it decorates, not False"):
        tl.no_grad(False)


@pytest.mark.finding("E8")
def test_no_grad_is_entered_any_number_of_times_with_and_without_brackets():
    x, once = leaf(), tl.no_grad()
    for context in (tl.no_grad, once, once):
        with context:
            assert not (x * 2).requires_grad
            with once:
                assert not (x * 2).requires_grad
            assert not (x * 2).requires_grad
        assert (x * 2).requires_grad
        with pytest.raises(KeyError), context:
            raise KeyError
        assert (x * 2).requires_grad


@pytest.mark.finding("E8")
def test_an_op_without_rules_says_what_to_do():
    double = elementwise(lambda x: 2 * x)
    double.name = "double"
    assert double(np.ones(2)).tolist() == [2, 2]
    for x in (leaf(), leaf().detach()):
        with pytest.raises(TypeError, match=r"double has no derivative rules: attach one per argument with \.vjp\("):
            double(x)
    x = leaf()
    primitive(lambda x: 2 * x).vjp(lambda g: 2 * g)(x).sum().backward()
    assert (x.grad.numpy() == 2).all()


# ----- lists ------------------------------------------------------------------------------------------------------


@pytest.mark.finding("C2")
@pytest.mark.parametrize(
    "call",
    [
        lambda x: tl.exp([1.0]),
        lambda x: tl.sum([1.0, 2.0]),
        lambda x: tl.mean([1.0, 2.0]),
        lambda x: tl.reshape([1], (1,)),
        lambda x: F.softmax([1.0, 2.0]),
        lambda x: F.linear([[1.0, 2.0]], x),
        lambda x: F.gelu([1.0]),
        lambda x: F.layer_norm([[1.0, 2.0]]),
        lambda x: tl.concatenate([[x[0]]]),
        lambda x: tl.stack([[1.0, 2.0], [3.0, 4.0]]),
        lambda x: tl.stack([1.0, 2.0]),
        lambda x: tl.Tensor([1, 2]),
        lambda x: tl.flip([1, 2]),
        lambda x: tl.squeeze(((1,),)),
        lambda x: tl.split([1, 2], 2),
    ],
)
def test_a_list_where_a_tensor_belongs_is_answered_with_tensor(call):
    with pytest.raises(TypeError, match=r"(list|tuple|float).*write tl\.tensor\(\.\.\.\)"):
        call(leaf())


@pytest.mark.finding("C2")
def test_sequences_of_tensors_of_any_kind_are_joined():
    x = leaf()
    assert tl.concatenate(tuple(x)).tolist() == [1, 2, 3, 4]
    assert tl.concatenate(row * 2 for row in x).tolist() == [2, 4, 6, 8]
    assert tl.stack(x).tolist() == x.tolist()
    assert tl.stack([x[0], x.data[1]]).tolist() == x.tolist()
    with pytest.raises(ValueError, match="give at least one Tensor"):
        tl.stack([])


@pytest.mark.finding("C2")
def test_roll_takes_several_axes_as_numpy_does():
    a = np.arange(24.0).reshape(2, 3, 4)
    for shift, axis in (
        ((1, 1), (0, 1)),
        ((1, -2), (2, 2)),
        (1, (0, 2)),
        ((1, 2), 1),
        ((1, 2), None),
        ([3], [-1]),
        ((), ()),
    ):
        assert tl.roll(tl.tensor(a), shift, axis).tolist() == np.roll(a, shift, axis).tolist()
        check_gradients(lambda x, s=shift, ax=axis: tl.roll(x, s, ax), a[:1, :2])


@pytest.mark.finding("C2")
def test_lists_and_numpys_integers_where_numpy_takes_them():
    a = np.arange(6.0).reshape(2, 3)
    x, one = tl.tensor(a), np.int64(1)
    assert tl.tile(x, [2, 1]).tolist() == np.tile(a, [2, 1]).tolist()
    assert tl.pad(x, one).tolist() == np.pad(a, 1).tolist()
    assert tl.pad(x, [one, 0]).tolist() == np.pad(a, (1, 0)).tolist()
    assert tl.repeat(x, one + one, one).tolist() == np.repeat(a, 2, 1).tolist()
    assert tl.sum(x, one).tolist() == a.sum(1).tolist()
    assert x.transpose([1, 0]).shape == (3, 2)
    assert x.sort(axis=None).tolist() == a.ravel().tolist()
    check_gradients(lambda x: x.sort(axis=None), a[:, ::-1])


# ----- changes in place -------------------------------------------------------------------------------------------


@pytest.mark.finding("C2")
def test_an_operator_in_place_on_a_leaf_is_refused_and_binds_elsewhere():
    w = leaf()
    for change in ("+", "-", "*", "/", "**", "@"):
        with pytest.raises(RuntimeError, match=r"a new Tensor, which is not the leaf .* write to x\.data and call"):
            exec(f"w {change}= 2.0", {"w": w})
    with tl.no_grad(), pytest.raises(RuntimeError, match="not the leaf"):
        exec("w -= 0.1", {"w": w})  # torch's step by hand
    y = w * 2
    y += w
    y *= 2
    assert tl.grad(y.sum(), w).tolist() == [[6, 6], [6, 6]]
    total = tl.tensor(0.0)
    total += y.sum()
    total -= 1
    assert total.requires_grad
    count = tl.tensor(3)
    count -= 1
    assert count.item() == 2


@pytest.mark.finding("C2")
def test_assigning_to_elements_data_and_grad_says_what_to_write():
    w = leaf()
    with pytest.raises(TypeError, match=r"not changed in place: write tl\.where\(mask, value, x\)"):
        w[0] = 1.0
    for wrong in (5, [1.0], np.ones(2)):
        with pytest.raises(TypeError, match=f"grad: assign a Tensor or None, not {type(wrong).__name__}"):
            w.grad = wrong
    w.grad = tl.ones((2, 2))
    w.grad = None
    w.data = [1, 2]
    for use in (lambda: w * 2, lambda: w + 1, lambda: w - w, w.sum, w.exp, lambda: F.gelu(w), lambda: w @ w):
        with pytest.raises(TypeError, match="give Tensors, not a list"):
            use()


@pytest.mark.finding("C2")
def test_a_0d_tensor_has_no_rows():
    x = tl.tensor(1.5)
    with pytest.raises(TypeError, match="iteration over a 0-d Tensor"):
        list(x)
    with pytest.raises(TypeError, match="len of a 0-d Tensor"):
        len(x)


# ----- values that are no numbers ---------------------------------------------------------------------------------


@pytest.mark.finding("C3")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: x + "a", r"add\(float32\[2, 2\], str\): give Tensors, arrays and numbers, not str"),
        (lambda x: "a" + x, r"add\(str, float32\[2, 2\]\): give Tensors, arrays and numbers, not str"),
        (lambda x: x < "a", r"less\(float32\[2, 2\], str\): give .*, not str"),
        (lambda x: x + None, r"add\(float32\[2, 2\], NoneType\): give .*, not NoneType"),
        (lambda x: x @ None, r"matmul\(float32\[2, 2\], NoneType\): give .*, not NoneType"),
        (lambda x: x * object(), r"mul\(float32\[2, 2\], object\): give .*, not object"),
        (
            lambda x: np.array([1j, 2]) * x,
            r"mul\(complex128\[2\], .*: the result would be of dtype complex128",
        ),
        (lambda x: tl.concatenate([x, np.array([[1j, 2]])]), "concat.*the result would be of dtype complex128"),
        (
            lambda x: x + np.array(["a", "b"]),
            r"add\(.*\): give floats, integers or booleans, not <U1",
        ),
        (lambda x: x + np.array([None, 1]), r"add\(float32\[2, 2\], object\[2\]\): give floats, .*, not object"),
        (lambda x: tl.where(x > 1, x, None), "where.*the result would be of dtype object"),
        (
            lambda x: tl.sign(x > 1),
            r"sign\(bool\[2, 2\]\): not defined for these dtypes: cast first",
        ),
        (lambda x: -(x > 1), r"neg\(bool\[2, 2\]\): "),
        (lambda x: tl.exp("a"), r"exp\(str\): give Tensors, arrays and numbers, not str"),
        (lambda x: tl.exp(None), r"exp\(NoneType\): give"),
        (lambda x: tl.maximum(x, "a"), "maximum.*not str"),
        (lambda x: F.gelu("a"), "gelu.*not str"),
        (lambda x: F.linear(x, None), "linear.*not NoneType|matmul.*not NoneType"),
    ],
)
def test_what_is_no_number_is_refused_by_one_sentence_that_names_the_op(call, message):
    for x in (leaf(), leaf().detach()):
        with pytest.raises(TypeError, match=message) as caught:
            call(x)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda x: float(x.sum()), r"mine\(float32\[2, 2\]\): its forward function must return one array, not float"),
        (lambda x: [x], "mine.*must return one array, not list"),
        (lambda x: None, "mine.*must return one array, not NoneType"),
    ],
)
def test_a_forward_function_that_returns_no_array_is_named(forward, message):
    op = primitive(forward).vjp(lambda g: g)
    op.name = "mine"
    for x in (leaf(), leaf().detach()):
        with pytest.raises(TypeError, match=message):
            op(x)


def test_an_attribute_that_a_forward_function_does_not_find_is_named():
    op = primitive(lambda x: x.nothing).vjp(lambda g: g)
    with pytest.raises(Exception, match="no attribute 'nothing'"):
        op(leaf())


# ----- dtypes, shapes and axes ------------------------------------------------------------------------------------

MAKERS = {
    "zeros": lambda d: tl.zeros(2, d),
    "ones": lambda d: tl.ones(2, d),
    "empty": lambda d: tl.empty(2, d),
    "full": lambda d: tl.full(2, 1, d),
    "zeros_like": lambda d: tl.zeros_like(leaf(), d),
    "ones_like": lambda d: tl.ones_like(leaf(), d),
    "full_like": lambda d: tl.full_like(leaf(), 1, d),
    "empty_like": lambda d: tl.empty_like(leaf(), d),
    "arange": lambda d: tl.arange(3, dtype=d),
    "linspace": lambda d: tl.linspace(0, 1, 3, d),
    "eye": lambda d: tl.eye(2, dtype=d),
    "rand": lambda d: tl.rand(2, dtype=d),
    "randn": lambda d: tl.randn(2, dtype=d),
    "tensor": lambda d: tl.tensor([1], d),
    "copy": lambda d: tl.tensor(np.ones(1), d),
    "astype": lambda d: tl.astype(leaf(), d),
    "method": lambda d: leaf().astype(d),
    "array": lambda d: tl.astype(np.ones(1), d),
}


@pytest.mark.finding("C5")
@pytest.mark.parametrize("dtype", [object, str, complex, "complex64", "M8[s]", "S3", [("a", "f4")], "nonsense", 6])
@pytest.mark.parametrize("name", MAKERS)
def test_a_dtype_that_holds_no_real_numbers_is_refused_everywhere(name, dtype):
    with pytest.raises(TypeError, match=r"is not supported: give a floating, integer or boolean one|is not a dtype"):
        MAKERS[name](dtype)


@pytest.mark.finding("C5")
def test_dtypes_are_named_in_any_of_numpys_ways():
    for dtype in (tl.float64, np.float64, "float64", float, "d", np.dtype(">f8").newbyteorder("=")):
        assert all(make(dtype).dtype == np.float64 for make in MAKERS.values())
    for make in (tl.zeros, tl.ones, tl.empty):
        with pytest.raises(TypeError, match="None is not a dtype"):
            make(2, None)


@pytest.mark.finding("C5")
@pytest.mark.parametrize("value", [None, "a", 1j, [1, 2], object(), tl.ones(2)], ids=lambda x: type(x).__name__)
def test_full_takes_a_number(value):
    for dtype in (None, np.float32):
        with pytest.raises(TypeError, match=f"full: value must be a number, not {type(value).__name__}"):
            tl.full((2,), value, dtype)
    assert tl.full((2,), np.float32(2)).dtype == np.float32
    assert tl.full((2,), True).dtype == bool


@pytest.mark.finding("C5")
@pytest.mark.parametrize("shape", [(2, 2.0), "ab", None, (True,), -1, (2, -1)], ids=repr)
def test_a_shape_is_made_of_non_negative_integers(shape):
    for make in (tl.zeros, tl.ones, tl.empty, lambda s: tl.full(s, 1), tl.rand, tl.randn):
        with pytest.raises((TypeError, ValueError), match=r"must be an integer, not|non-negative integers"):
            make(shape)
    assert tl.zeros((np.int64(2), tl.tensor(3))).shape == (2, 3)


SEVERAL = [
    "sum",
    "max",
    "min",
    "logsumexp",
    "all",
    "any",
    "mean",
    "var",
    "std",
    "norm",
    "prod",
    "flip",
    "squeeze",
    "transpose",
]


@pytest.mark.finding("C5")
@pytest.mark.parametrize("name", SEVERAL)
@pytest.mark.parametrize(
    ("axis", "error", "message"),
    [
        ((0, 0), ValueError, r"axis \(0, 0\) names an axis twice"),
        ((1, -1), ValueError, r"axis \(1, -1\) names an axis twice"),
        ((0, 2), IndexError, "axis 2 is out of range for 2 dimensions: choose from -2 to 1"),
        ((0, 1.0), TypeError, r"axis must be an integer, not 1\.0 \(float\)"),
        ((0, "a"), TypeError, "axis must be an integer, not 'a'"),
    ],
)
def test_axes_are_checked_in_every_function_that_takes_several(name, axis, error, message):
    x = tl.ones((1, 1), requires_grad=True)
    for call in (lambda: getattr(tl, name)(x, axis), lambda: getattr(x, name)(axis)):
        with pytest.raises(error, match=message):
            call()


ONE = {
    "argmax": tl.argmax,
    "argmin": tl.argmin,
    "cumsum": tl.cumsum,
    "cumprod": tl.cumprod,
    "sort": tl.sort,
    "argsort": tl.argsort,
    "expand_dims": tl.expand_dims,
    "swapaxes": lambda x, a: tl.swapaxes(x, 0, a),
    "concatenate": lambda x, a: tl.concatenate([x, x], a),
    "stack": lambda x, a: tl.stack([x, x], a),
    "split": lambda x, a: tl.split(x, 1, a),
    "repeat": lambda x, a: tl.repeat(x, 2, a),
    "roll": lambda x, a: tl.roll(x, 1, a),
    "topk": lambda x, a: tl.topk(x, 1, a),
    "take_along_axis": lambda x, a: tl.take_along_axis(x, np.zeros((1, 1), int), a),
    "diagonal": lambda x, a: tl.diagonal(x, 0, 0, a),
    "softmax": F.softmax,
    "log_softmax": F.log_softmax,
}


@pytest.mark.finding("C5")
@pytest.mark.parametrize("name", ONE)
@pytest.mark.parametrize(
    ("axis", "error", "message"),
    [
        (5, IndexError, r"axis 5 is out of range for [23] dimensions: choose from -[23] to [12]"),
        (-7, IndexError, "axis -7 is out of range"),
        (1.0, TypeError, r"axis must be an integer, not 1\.0"),
        ("a", TypeError, "axis must be an integer, not 'a'"),
    ],
)
def test_an_axis_is_checked_in_every_function_that_takes_one(name, axis, error, message):
    with pytest.raises(error, match=message):
        ONE[name](leaf(), axis)


@pytest.mark.finding("C5")
def test_a_0d_tensor_has_no_axes_and_one_axis_is_no_tuple():
    with pytest.raises(IndexError, match="axis 0 is out of range for 0 dimensions: a 0-d Tensor has no axes"):
        tl.flip(tl.tensor(1.0), 0)
    with pytest.raises(TypeError, match=r"argmax\(float32\[2, 2\]\): axis must be one integer, not \(0, 1\)"):
        leaf().argmax((0, 1))
    with pytest.raises(TypeError, match=r"axis must be an integer, a tuple of integers or None, not \[0\]"):
        leaf().sum([0])
    with pytest.raises(ValueError, match=r"axes \(0,\) must name each of the 2 axes once"):
        leaf().transpose((0,))


@pytest.mark.parametrize("shape", ["", "ab", "23"])
def test_a_text_is_no_shape_and_named_whole(shape):
    with pytest.raises(TypeError, match=f"must be an integer, not {shape!r}"):
        tl.zeros(shape)


def test_a_product_that_does_not_fit_says_which_axes():
    with pytest.raises(ValueError, match=r"the axes before the last two, \(2,\) and \(3,\), must be equal or 1"):
        tl.matmul(tl.ones((2, 3, 4)), tl.ones((3, 4, 5)))
    with pytest.raises(ValueError, match="the last axis of the first, 4, must equal the last axis but one of the sec"):
        tl.matmul(tl.ones((3, 4)), tl.ones((3, 4)))
    for weight in ((3,), (1, 4, 3)):
        with pytest.raises(ValueError, match=r"linear: weight must have shape \(n_out, n_in\), not \(") as refused:
            F.linear(tl.ones((2, 3)), tl.ones(weight))
        assert str(weight) in str(refused.value)


def test_class_indices_and_probabilities_are_checked():
    logits = tl.ones((2, 3))
    for wrong in (3, -1):
        with pytest.raises(
            IndexError, match=f"cross_entropy: index {wrong} is out of range: there are 3 classes, 0 to 2"
        ):
            F.cross_entropy(logits, tl.tensor([0, wrong]))
    with pytest.raises(ValueError, match=r"class indices for logits \(2, 3\) must have shape \(2,\), not \(2, 3\)"):
        F.cross_entropy(logits, tl.ones((2, 3), tl.int64))
    with pytest.raises(ValueError, match=r"probabilities for logits \(2, 3\) must have shape \(2, 3\), not \(2,\)"):
        F.cross_entropy(logits, tl.ones(2))
    assert F.cross_entropy(logits, tl.tensor([0, 2])).item() == pytest.approx(math.log(3))


def test_an_optimizer_takes_torchs_default_of_what_it_lacks():
    w = tl.ones(2, requires_grad=True)
    tl.optim.Adam([w], lr=0.1, amsgrad=False)
    with pytest.raises(TypeError, match=r"amsgrad.*: it is not implemented"):
        tl.optim.Adam([w], lr=0.1, amsgrad=True)
