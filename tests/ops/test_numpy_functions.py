"""NumPy's functions called with Tensors: each records, refuses, or gives an answer without a gradient.

The walk calls every public function of numpy, numpy.linalg and numpy.fft with a Tensor that requires a gradient in each
plausible position. docs/numpy.md lists what it found.
"""

import contextlib
import io
import re
import warnings
from pathlib import Path

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import interop
from tensorlite.testing import check_gradients

DOCUMENT = Path(__file__).parents[2] / "docs" / "numpy.md"
SILENT = {  # they print, read, write or change NumPy's own settings; `save` and its like are tested below
    "save", "savez", "savez_compressed", "savetxt", "load", "loadtxt", "genfromtxt", "fromfile", "memmap", "DataSource",
    "fromregex", "info", "show_config", "show_runtime", "seterr", "seterrcall", "setbufsize", "set_printoptions",
    "printoptions", "errstate", "test", "typename", "get_include", "geterr", "geterrcall", "getbufsize",
}  # fmt: skip
NUMBERS = {"float64", "double", "fromiter", "cdouble", "complex128", "csingle", "complex64"}  # they ask for a number
UNINITIALISED = {"empty", "empty_like", "ndarray"}


def functions():
    for module, prefix in ((np, ""), (np.linalg, "linalg."), (np.fft, "fft.")):
        for name in sorted(module.__all__):
            function = getattr(module, name)
            if (
                callable(function)
                and name not in SILENT
                and not (isinstance(function, type) and issubclass(function, Exception))
            ):
                yield prefix + name, function


FUNCTIONS = dict(functions())


def calls(x, a):
    """Positional arguments with `x` in each plausible place, beside the array `a` of its shape and small numbers."""
    yield from [(x,), (x, x), (a, x), (x, a), (x, 0), (0, x), (x, 1), (1, x), (x, 2), ([x, x],), ([a, x],), ((x, a),)]
    yield from [(x, a, a), (a, x, a), (a, a, x), (a > 0, x, a), (a > 0, a, x), (x, 0, 2), (x, 0, a), (x, -1), (x, None)]
    yield from [
        ([x, a], 0),
        (x, x.shape),
        (x.shape, x),
        (x, (0,)),
        (x, [a > 1], [a, a]),
        ([a > 1], [x]),
        ([a > 1], [a], x),
    ]
    yield from [
        (np.negative, 0, x),
        (np.negative, x),
        (x, [0]),
        ([0], x),
        (0, 1, x),
        (0, x, 2),
        (a, [0], x),
        (x, "i"),
        (x, 0, -1),
    ]


def numbers_in(result, depth=0):
    """The floating values that came out, other than in recorded Tensors."""
    if isinstance(result, tl.Tensor):
        return [] if result.requires_grad or result.dtype.kind != "f" else np.ravel(result.data).tolist()
    if isinstance(result, np.ndarray | np.generic) and result.dtype.kind in "fcO":
        result = np.ravel(result).tolist()
    if isinstance(result, dict):
        result = list(result.values())
    if isinstance(result, list | tuple) and depth < 4:
        return [number for each in result for number in numbers_in(each, depth + 1)]
    return [result] if isinstance(result, float | complex) else []


def outcome(function, *args, **kwargs):
    """What a call gives, or None where it is refused."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            return function(*args, **kwargs)
        except Exception:  # whatever NumPy makes of it: it is refused
            return None


ARRAYS = [np.array(1.5), np.array([1.5, 0.5]), np.array([[2.0, 0.5], [0.5, 1.0]])]


def without_tensors(value):
    if isinstance(value, list | tuple):
        return type(value)(map(without_tensors, value))
    return value.data.copy() if isinstance(value, tl.Tensor) else value


def fate(name):
    """What became of the calls of a function, 'recorded', 'no gradient' or 'refused'; a loss fails at once.

    A Tensor that NumPy takes for a flag, a dtype or a number of its own is looked at, but does not decide.
    """
    function, found = FUNCTIONS[name], set()
    for array in ARRAYS:
        x, moved = (tl.tensor(values, requires_grad=True) for values in (array, array + 0.125))
        for args, others in zip(calls(x, array.copy()), calls(moved, array.copy()), strict=True):
            result = outcome(function, *args)
            if result is None:
                continue
            place = f"np.{name}({', '.join(type(a).__name__ for a in args)})"
            parts = args[0] if isinstance(args[0], list | tuple) else args[:1]
            decides = name == "where" or any(part is x for part in parts)
            if isinstance(result, list) and result and name == "split":
                result, function = result[0], lambda *args, split=FUNCTIONS[name]: split(*args)[0]
            if isinstance(result, tl.Tensor) and result.requires_grad:
                found.add("recorded" if decides else "")
                expected = outcome(function, *without_tensors(args))
                if expected is None:  # of arguments, tensorlite's function takes more
                    continue
                np.testing.assert_allclose(result.data, expected, err_msg=place)
                assert result.shape == np.shape(expected), place
            else:
                found.add("no gradient" if decides else "")
                numbers = numbers_in(result)
                if (
                    numbers and name not in UNINITIALISED | NUMBERS
                ):  # then they do not depend on the values of the Tensor
                    assert str(numbers) == str(numbers_in(outcome(function, *others))), f"{place} lost the gradient"
    if name in NUMBERS:
        return "a number"
    return next((what for what in ("recorded", "no gradient") if what in found), "refused")


@pytest.fixture(scope="module")
def fates():
    return {name: fate(name) for name in FUNCTIONS}


@pytest.mark.finding("B3")
def test_no_function_of_numpy_loses_a_gradient_without_a_word(fates):
    recorded = {name for name, what in fates.items() if what == "recorded"}
    assert {
        "exp",
        "add",
        "sum",
        "mean",
        "clip",
        "where",
        "concatenate",
        "stack",
        "outer",
        "linalg.norm",
        "maximum",
    } <= recorded
    assert {"dot", "median", "interp", "linalg.inv", "fft.fft", "cbrt", "cov"} <= fates.keys() - recorded


@pytest.mark.finding("B3")
def test_the_table_in_the_documentation_is_what_happens(fates):
    rows = re.findall(
        r"^\| (recorded|no gradient|a number) \|.*?\| (.+) \|$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE
    )
    listed = {name: what for what, cell in rows for name in re.findall(r"`np\.([\w.]+)`", cell)}
    documented = {name: what for name, what in listed.items() if name in FUNCTIONS}  # versions of NumPy differ
    assert documented.items() <= fates.items()
    assert {n for n in fates if fates[n] == "recorded"} == {n for n in documented if documented[n] == "recorded"}


@pytest.mark.finding("B3")
def test_a_ufunc_records_as_an_operator_does_and_its_other_methods_refuse():
    a = np.array([1.0, 2.0])
    check_gradients(lambda x: np.exp(x) * a + np.multiply(a, x) + a * x + a @ x, a)
    x = tl.tensor(a, requires_grad=True)
    with pytest.raises(TypeError, match=r"np\.linalg\.inv would lose the gradient"):
        np.linalg.inv(x)
    for refused in (
        lambda: np.add.reduce(x), lambda: np.add.outer(x, a), lambda: np.add.accumulate(x), lambda: np.add(a, x, out=a),
        lambda: np.add.at(a, [0], x), lambda: np.exp(a, out=x), lambda: np.exp(x, where=a > 1),
        lambda: np.exp(x, dtype="d"), lambda: a.__iadd__(x), lambda: np.cbrt(x), lambda: np.hypot(x, a),
    ):  # fmt: skip
        with pytest.raises(TypeError, match=r"np\.\w+ would lose the gradient .* write .*x\.detach\(\)\.numpy\(\)"):
            refused()
    assert a.tolist() == [1, 2]


@pytest.mark.finding("B3")
def test_a_gradient_goes_through_numpys_functions():
    x = tl.tensor([-1.0, 2.0, 7.0], requires_grad=True)
    (x * 2 + np.clip(x, 0, 5)).sum().backward()
    assert x.grad.tolist() == [2, 3, 2]
    a = np.array([0.5, 1.5, -1.0])
    check_gradients(lambda x: np.where(a > 0, x, 0) + np.stack([x, x]).sum(axis=0), a)
    check_gradients(lambda x: np.concatenate([x, a, x * x]), a)
    check_gradients(lambda x: np.outer(a, x) @ a + np.einsum("i,i->", a, x) + np.linalg.norm(x), a)
    check_gradients(lambda x: np.mean(x) * np.std(x, axis=0) + np.sum(x, 0) + np.max(x) + np.prod(x), a)
    check_gradients(lambda x: np.reshape(x, (3, 1), order="C") * np.sum(x, dtype=None), a)


@pytest.mark.finding("B3")
def test_writing_into_an_array_and_reading_as_one_are_refused():
    x, b = tl.tensor([1.0, 2.0], requires_grad=True), np.zeros(4)
    for wrong in (
        lambda: b.__setitem__(slice(2), x), lambda: b.__setitem__(slice(1), x[0]), lambda: np.asarray(x),
        lambda: np.array([x, x]), lambda: np.float32([x[0]]), lambda: b[:2].dot(x), lambda: np.vectorize(abs)(x),
        lambda: np.testing.assert_allclose(x, [1, 2]), lambda: np.frompyfunc(abs, 1, 1)(x), lambda: np.random.normal(x),
        lambda: np.save(io.BytesIO(), x), lambda: np.savez(io.BytesIO(), x=x), lambda: np.savetxt(io.StringIO(), x),
        lambda: np.copyto(b[:2], x), lambda: np.put(b, [0], x[0]), lambda: np.array(x, dtype=object),
    ):  # fmt: skip
        with pytest.raises(TypeError, match=r"gradient.* x\.detach\(\)\.numpy\(\)"):
            wrong()
    assert not b.any()
    assert np.asarray(x.detach()).tolist() == [1, 2]
    b[:2] = x.detach()
    assert b.tolist() == [1, 2, 0, 0]


@pytest.mark.finding("B3")
def test_without_a_gradient_numpy_computes_what_tensorlite_has_not():
    x = tl.tensor([[1.0, 2.0], [3.0, 5.0]])
    assert np.median(x) == 2.5
    assert type(np.median(x)) is np.float32
    np.testing.assert_allclose(np.linalg.inv(x), np.linalg.inv(x.data))
    assert np.sum(x, dtype=np.float64).dtype == np.float64
    assert np.sum(x, initial=3.0) == 14
    assert isinstance(np.sum(x), tl.Tensor)
    assert np.round(x, 1).tolist() == [[1, 2], [3, 5]]
    assert np.sort(x, axis=None).tolist() == [1, 2, 3, 5]
    assert np.allclose(x, x.data)
    assert np.hypot(x, 0).tolist() == x.tolist()
    with pytest.raises(ValueError, match="read-only"):
        np.exp(np.ones((2, 2), np.float32), out=x)
    b = np.ones((2, 2), np.float32)
    b += x
    assert b.tolist() == [[2, 3], [4, 6]]


@pytest.mark.finding("B3")
def test_what_cupy_asks_a_tensor_for():
    x = tl.ones(2)
    assert x.__array_ufunc__ is None  # array * Tensor is left to Tensor
    assert type(x).__array_ufunc__ is interop.array_ufunc


@pytest.mark.finding("B3")
def test_a_tensor_on_a_gpu_stays_there(monkeypatch):
    from tensorlite import backend
    from tensorlite.testing.strict import strict

    monkeypatch.setitem(backend.DEVICES, "strict", lambda: strict)
    x = tl.tensor([1.0, 2.0], device="strict", requires_grad=True)
    before = strict.waits
    assert np.exp(x).device == np.sum(x).device == "strict"
    assert np.sum(x).requires_grad
    for wrong in (
        lambda: np.median(x),
        lambda: np.median(x.detach()),
        lambda: np.asarray(x.detach()),
        lambda: np.cbrt(x),
    ):
        with pytest.raises(TypeError, match=r"implicitly|would lose the gradient"):
            wrong()
    assert strict.waits == before
