"""Indices: NumPy's whole grammar, drawn; values by NumPy on the same index, gradients by counting."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import tensorlite as tl
from tensorlite import backend
from tensorlite.testing import shapes
from tensorlite.testing.strict import strict

# ----- an index of NumPy's grammar --------------------------------------------------------------------------------

SHAPES = shapes(0, 3)
SLICES = st.sampled_from(
    [slice(*bounds) for bounds in [(None,), (1, None), (-1,), (None, None, -1), (2, None, -2), (5, 1), (0, 9)]]
    + [slice(np.int64(1), None), slice(tl.tensor(0), None)]
)
KINDS = st.sampled_from(["slice", "int", "places", "places", "places", "mask", "masks", "new axis", "bool", "rest"])
LENGTHS = st.sampled_from([2, 2, 3, 1, 0])  # of the axis along which the arrays of an index run
FORMS = st.sampled_from(["list", "tuple", "array", "int32", "Tensor", "negative step"])
LAYOUTS = st.sampled_from(["row", "row", "column", "both", "one", "0-d"])
NUMBERS = st.lists(st.integers(0, 2**10), min_size=9, max_size=9)  # more than any array of places needs
TAIL = st.sampled_from(["nothing", "nothing", "Ellipsis", "range"])


def in_form(draw, values: np.ndarray):
    """The same places or truths as a list, a tuple, an array or a Tensor."""
    form = draw(FORMS)
    if form in ("list", "tuple"):
        rows = values.tolist()
        return rows if form == "list" or not isinstance(rows, list) else tuple(map(_frozen, rows))
    if form == "int32" and values.dtype != bool:
        return values.astype(np.int32)
    if form == "negative step" and values.ndim:
        return values[::-1].copy()[::-1]
    return tl.tensor(values) if form == "Tensor" else values


def _frozen(rows):
    return tuple(map(_frozen, rows)) if isinstance(rows, list) else rows


def places(draw, size: int, length: int) -> np.ndarray:
    """Positions along an axis of `size`, often negative, often repeated."""
    layout = draw(LAYOUTS)
    shape = {"row": (length,), "column": (2, 1), "both": (2, length), "one": (1,), "0-d": ()}[layout]
    numbers = np.array(draw(NUMBERS)[: math.prod(shape)], np.int64).reshape(shape)
    return numbers % (2 * size) - size if size else numbers[..., :0] if shape else numbers


def truths(draw, shape: tuple[int, ...], length: int) -> np.ndarray:
    """Booleans of which `length` are true, if so many fit."""
    mask = np.zeros(math.prod(shape), bool)
    order = np.argsort(draw(NUMBERS) * (1 + mask.size // 9))[: mask.size]
    mask[order[order < mask.size][:length]] = True
    return mask.reshape(shape)


@st.composite
def numpy_indices(draw):
    """(shape, index); now and then one that does not fit."""
    shape = draw(SHAPES)
    parts, axis, length, rest = [], 0, draw(LENGTHS), False
    while axis < len(shape) and len(parts) < 5:
        kind, left = draw(KINDS), len(shape) - axis
        if kind == "slice":
            parts.append(draw(SLICES))
        elif kind == "int" and shape[axis]:
            number = draw(NUMBERS)[0]
            parts.append((int, np.int64, np.uint8)[number % 3](number % shape[axis]))
        elif kind == "places":
            parts.append(in_form(draw, places(draw, shape[axis], length)))
        elif kind == "mask" or (kind == "masks" and left < 2):
            parts.append(in_form(draw, truths(draw, shape[axis : axis + 1], length)))
        elif kind == "masks":
            parts.append(in_form(draw, truths(draw, shape[axis : axis + 2], length)))
            axis += 1
        elif kind == "rest" and not rest:
            parts.append(Ellipsis)
            axis, rest = axis + draw(st.integers(0, left)) - 1, True
        else:
            parts.append({"new axis": None, "bool": bool(length), "rest": None, "int": None}[kind])
            continue
        axis += 1
    parts += {"Ellipsis": [] if rest else [Ellipsis], "range": [range(0)]}.get(draw(TAIL), [])
    return shape, tuple(parts) if len(parts) != 1 or draw(st.booleans()) else parts[0]


INDICES = numpy_indices()


def for_numpy(index):
    """The same index without Tensors."""
    if isinstance(index, tuple):
        return tuple([part.numpy() if isinstance(part, tl.Tensor) else part for part in index])
    return index.numpy() if isinstance(index, tl.Tensor) else index


def counted(shape, index, g):
    """The gradient of x[index]: each element gets what arrived at its places."""
    out = np.zeros(shape)
    np.add.at(out, index, g)
    return out


def sixteenths(shape, seed=0):
    return np.random.default_rng(seed).integers(-48, 49, shape) / 16  # sums of them are exact


@pytest.mark.finding("B1")
@given(drawn=INDICES)
def test_an_index_means_what_it_means_to_numpy_and_its_gradient_is_counted(drawn):
    shape, index = drawn
    array, plain = sixteenths(shape), for_numpy(index)
    x = tl.tensor(array, requires_grad=True)
    try:
        expected = array[plain]
    except IndexError:
        with pytest.raises(IndexError):
            x[index]
        with pytest.raises(IndexError):
            tl.scatter_add(tl.ones(1), index, shape)
        return
    got = x[index]
    assert got.shape == np.shape(expected)
    assert got.tolist() == expected.tolist()
    assert np.array_equal(tl.getitem(array, index), expected)  # arrays in, an array out
    g = sixteenths(got.shape, 1)
    np.testing.assert_array_equal(tl.grad(got, x, g).data, counted(shape, plain, g))
    source = tl.tensor(g, requires_grad=True)
    added = tl.scatter_add(source, index, shape)
    np.testing.assert_array_equal(added.data, counted(shape, plain, g))
    h = sixteenths(shape, 2)
    np.testing.assert_array_equal(tl.grad(added, source, h).data, h[plain])


@pytest.mark.finding("B1")
def test_the_strategy_draws_every_kind_of_index_and_mostly_valid_ones():
    seen, valid, total = set(), 0, 0

    @settings(max_examples=300, derandomize=True, database=None)
    @given(drawn=INDICES)
    def look(drawn):
        nonlocal valid, total
        shape, index = drawn
        parts = index if isinstance(index, tuple) else (index,)
        seen.update(type(part).__name__ for part in parts)
        try:
            np.empty(shape)[for_numpy(index)]
            valid += 1
        except IndexError:
            pass
        total += 1

    look()
    kinds = {"slice", "int", "int64", "uint8", "list", "tuple", "ndarray", "Tensor", "bool", "NoneType", "ellipsis"}
    assert kinds <= seen
    assert valid > total / 2


# ----- cases ------------------------------------------------------------------------------------------------------

GRID = np.arange(6.0).reshape(2, 3)


@pytest.mark.finding("B1")
@pytest.mark.parametrize(
    "index",
    [
        ((0, 0), (1, 1)), (slice(None), (0, 0, 2)), ([0, 0], [1, 1]), [[0, 1], [1, 1]], ((0, 0, 1),),
        ([[0, 0], [1, 0]], 2), (Ellipsis, (2, 2)), (None, (1, 1), None), (True, [0, 0]), (np.int64(1), (0, 0)),
        range(1, -1, -1), (range(2), (2, 2)),
        (tl.tensor([0, 0]), tl.tensor([1, 1])), (np.array([True, False]), [1, 1]), tl.tensor([0, 0, 0]), np.array(1),
        ([0, 0], slice(None)), [True, False], ([True, False],), (tl.tensor(1), [0, 0]), [], (slice(None), []),
    ],
)  # fmt: skip
def test_places_that_repeat_are_counted_however_they_are_written(index):
    x = tl.tensor(GRID, requires_grad=True)
    plain = for_numpy(index)
    y = x[index]
    assert y.tolist() == GRID[plain].tolist()
    np.testing.assert_array_equal(tl.grad(y.sum(), x).data, counted(GRID.shape, plain, 1.0))
    np.testing.assert_array_equal(tl.scatter_add(y.detach(), index, (2, 3)).data, counted((2, 3), plain, GRID[plain]))


BAD = [
    (2, r"index 2 is out of range for axis 0 of size 2: choose from -2 to 1"),
    ((0, -4), r"index -4 is out of range for axis 1 of size 3: choose from -3 to 2"),
    ((..., [0, 3]), r"index 3 is out of range for axis 1 of size 3"),
    (np.array([[0], [-3]]), r"index -3 is out of range for axis 0 of size 2"),
    ((None, slice(None), tl.tensor([7])), r"index 7 is out of range for axis 1"),
    (10**30, r"index 1000000000000000000000000000000 is out of range"),
    ((0, 1, 2), r"too many indices: 3 axes are indexed, and shape \(2, 3\) has 2"),
    (([True, False], 0, 0), "too many indices: 3 axes"),
    ((..., ...), "only one Ellipsis"),
    ([True], r"a boolean index of shape \(1,\) must have the shape \(2,\)"),
    ((slice(None), np.array([True, False])), r"a boolean index of shape \(2,\) must have the shape \(3,\)"),
    (1.0, r"an index is made of integers, .*, not 1.0 \(float\)"),
    (np.float32(1), r"an index is made of integers, .*, not np.float32\(1.0\) \(float32\)"),
    ("a", r"an index is made of integers, .*, not 'a' \(str\)"),
    ([0.0], r"an index is made of integers, .*, not \[0.0\]"),
    ([0, None], r"an index is made of integers, .*, not \[0, None\]"),
    ([[0], [0, 1]], "its rows have different lengths"),
    (np.array([0.0]), "not an array of float64"),
    (tl.tensor([0.0]), "not an array of float32"),
    ({0}, r"not \{0\} \(set\)"),
    (([0, 1], [0, 1, 2]), "getitem.*could not be broadcast"),
]


@pytest.mark.finding("B1")
@pytest.mark.parametrize(("index", "message"), BAD)
def test_what_is_no_index_is_refused_with_axis_size_and_what_is_allowed(index, message):
    with pytest.raises(IndexError, match=message) as caught:
        tl.tensor(GRID, requires_grad=True)[index]
    assert "\n" not in str(caught.value)
    with pytest.raises(IndexError, match=message.replace("getitem", "scatter_add")):
        tl.scatter_add(tl.tensor(1.0), index, (2, 3))


@pytest.fixture
def device(monkeypatch):
    monkeypatch.setitem(backend.DEVICES, "strict", lambda: strict)


@pytest.mark.finding("B1")
@pytest.mark.parametrize("index", [2, (0, -4), [0, 2], (0, (3,)), (slice(None), range(4)), (0, 1, 2), [True]], ids=repr)
def test_on_a_gpu_what_the_host_knows_of_an_index_is_checked_without_a_wait(device, index):
    x = tl.tensor(GRID, device="strict")
    before = strict.waits
    with pytest.raises(IndexError):
        x[index]
    assert x[(0, 0), (1, 1)].device == "strict"
    assert strict.waits == before
    assert x[:, np.int64(-1) :: np.int64(-2)].tolist() == GRID[:, ::-2].tolist()


@pytest.mark.parametrize("index", [np.array([[1], [0]]), tl.tensor([[1], [0]])], ids=["array", "Tensor"])
def test_places_on_another_device_are_refused_and_a_list_is_on_none(device, index):
    x = tl.tensor(np.zeros((2, 3)), device="strict")
    for f in (lambda index: x[index], lambda index: tl.take_along_axis(x, index, 1),
              lambda index: tl.index_put(x, index, 1.0), lambda index: tl.scatter(x, index, 1.0)):  # fmt: skip
        with pytest.raises(IndexError, match="they are on two devices"):
            f(index)
        assert f(index.tolist()).device == "strict"


@pytest.mark.finding("B1")
@given(drawn=INDICES)
def test_on_a_gpu_an_index_means_the_same(drawn):
    shape, index = drawn
    array, plain = sixteenths(shape), for_numpy(index)
    try:
        expected = array[plain]
    except IndexError:
        assume(False)

    def there(part):
        return tl.tensor(part, device="strict") if isinstance(part, np.ndarray | tl.Tensor) else part

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backend.DEVICES, "strict", lambda: strict)
        moved = tuple(map(there, index)) if isinstance(index, tuple) else there(index)
        x = tl.tensor(array, device="strict", requires_grad=True)
        y = x[moved]
        assert y.tolist() == expected.tolist()
        g = sixteenths(y.shape, 1)
        by_x = tl.grad(y, x, tl.tensor(g, device="strict"))
    np.testing.assert_array_equal(by_x.numpy(), counted(shape, plain, g))


# ----- scatter_add ------------------------------------------------------------------------------------------------


@pytest.mark.finding("C4")
@pytest.mark.parametrize(
    "index", [[0, 0, 1], slice(None, None, 2), ([0, 1], [1, 1]), [True, False, True, True], 1], ids=repr
)
@pytest.mark.parametrize("source", [2.0, [2.0], [[1.0, 2.0, 3.0]], [[[3.0]]]], ids=repr)
def test_a_source_that_broadcasts_is_added_as_in_numpy_and_gets_its_gradient(index, source):
    shape = (4, 3)
    target = np.zeros(shape)[index].shape
    x = tl.tensor(np.array(source), requires_grad=True)
    try:
        expected = counted(shape, index, x.data)
    except ValueError:
        with pytest.raises(ValueError, match="scatter"):
            tl.scatter_add(x, index, shape)
        return
    y = tl.scatter_add(x, index, shape)
    np.testing.assert_array_equal(y.data, expected)
    g = sixteenths(shape, 3)
    by_x = tl.grad(y, x, g).data
    assert by_x.shape == x.shape
    for place in np.ndindex(x.shape):  # it is linear in each element
        unit = np.zeros(x.shape)
        unit[place] = 1
        assert (
            by_x[place]
            == (g * counted(shape, index, np.broadcast_to(unit, np.broadcast_shapes(unit.shape, target)))).sum()
        )


@pytest.mark.finding("C4")
def test_a_source_that_does_not_fit_and_a_shape_that_is_none_are_refused():
    with pytest.raises(ValueError, match=r"scatter\(float32\[3\]\)"):
        tl.scatter_add(tl.ones(3), [0, 1], (4,))
    with pytest.raises(ValueError, match=r"scatter\(float32\[3\]\)"):
        tl.scatter_add(tl.ones(3), slice(0, 2), (4,))
    with pytest.raises(ValueError, match="non-negative integers"):
        tl.scatter_add(tl.ones(1), 0, (-1,))
    with pytest.raises(TypeError, match=r"must be an integer, not 2\.5"):
        tl.scatter_add(tl.ones(1), 0, (2.5,))


# ----- index_put and scatter --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "int64", "bool"])
def test_numbers_and_lists_are_put_in_the_dtype_of_the_array_as_numpy_assigns_them(dtype):
    x = np.array([[1, 0, 1], [0, 1, 0]], dtype)
    for index in ((1, 2), (slice(None), [2, 0]), [True, False]):
        for values in (1, 0.0, True, [1] * np.shape(x[index])[-1] if np.shape(x[index]) else 1):
            expected = x.copy()
            expected[index] = values
            got = tl.index_put(tl.tensor(x), index, values)
            assert got.dtype == dtype
            np.testing.assert_array_equal(got.numpy(), expected)
    for values in (1, [[1], [0]]):
        expected = x.copy()
        np.put_along_axis(expected, np.array([[2], [0]]), values, 1)
        got = tl.scatter(tl.tensor(x), [[2], [0]], values)
        assert got.dtype == dtype
        np.testing.assert_array_equal(got.numpy(), expected)
    x = np.zeros((2, 1, 3), dtype)
    x[0, 0, 2] = x[1, 0, 1] = 1
    np.testing.assert_array_equal(tl.scatter(tl.zeros((2, 1, 3), dtype=dtype), [[[2]], [[1]]], 1).numpy(), x)


# ----- take_along_axis --------------------------------------------------------------------------------------------


@st.composite
def taken(draw):
    shape = list(draw(shapes(1, 3)))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    wanted = [draw(st.sampled_from([n, n, 1])) for n in shape]
    source = [draw(st.sampled_from([n, n, n, 1])) for n in shape]
    wanted[axis], source[axis] = draw(LENGTHS) if shape[axis] else 0, shape[axis]
    numbers = np.resize(np.array(draw(NUMBERS), np.int64), wanted)
    size = shape[axis]
    return tuple(source), numbers % (2 * size) - size if size else numbers, axis


@pytest.mark.finding("B6")
@given(drawn=taken())
def test_take_along_axis_is_numpys_and_its_gradient_is_counted(drawn):
    shape, indices, axis = drawn
    array = sixteenths(shape)
    expected = np.take_along_axis(array, indices, axis)
    for form in (indices, tl.tensor(indices), indices.astype(np.int32), indices.tolist() if indices.size else indices):
        x = tl.tensor(array, requires_grad=True)
        got = tl.take_along_axis(x, form, axis)
        assert got.shape == expected.shape
        assert got.tolist() == expected.tolist()
        g = sixteenths(expected.shape, 1)
        numbers = np.take_along_axis(np.arange(array.size).reshape(shape), indices, axis)
        assert tl.grad(got, x, g).data.ravel().tolist() == np.bincount(numbers.ravel(), g.ravel(), array.size).tolist()


@pytest.mark.finding("B6")
def test_take_along_axis_of_rows_and_of_the_flattened_array():
    x = tl.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert tl.take_along_axis(x, [[1]], 1).tolist() == [[2.0], [4.0]]
    assert tl.take_along_axis(x, [3, 0, -1], None).tolist() == [4.0, 1.0, 4.0]


@pytest.mark.finding("B6")
@pytest.mark.parametrize(
    ("indices", "axis", "error", "message"),
    [
        ([[0]] * 3, 1, ValueError, r"indices of shape \(3, 1\) do not fit \(5, 4\): all axes but axis 1 must agree"),
        ([[0, 1]], 0, ValueError, r"indices of shape \(1, 2\) do not fit \(5, 4\)"),
        ([0, 1], 1, ValueError, r"indices of shape \(2,\) do not fit \(5, 4\)"),
        ([[0, 1]], None, ValueError, r"indices of shape \(1, 2\) do not fit \(20,\)"),
        ([[0.0]], 1, TypeError, "indices must be integers, not float64"),
        ([[True]], 1, TypeError, "indices must be integers, not bool"),
        ([[4]], 1, IndexError, "index 4 is out of range for axis 1 of size 4"),
        ([[0]], 2, IndexError, "axis 2 is out of range for 2 dimensions"),
    ],
)
def test_take_along_axis_refuses_what_does_not_fit(indices, axis, error, message):
    with pytest.raises(error, match=message):
        tl.take_along_axis(tl.ones((5, 4), requires_grad=True), indices, axis)
