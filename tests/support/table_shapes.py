"""Rows of the table: shapes, indexing, products, copies."""

import math

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rows import Row, arrays, booleans, broadcastable, fit, integers, local, move, shapes, some_axis

import tensorlite as tl
from tensorlite import ops
from tensorlite.testing import matmul_shapes

# ----- what is drawn: a shape, and metadata that fits it ----------------------------------------------------------


@st.composite
def reshapes(draw):
    shape = draw(shapes())
    into = list(draw(st.permutations(shape)))
    if len(into) > 1 and draw(st.booleans()):
        into[:2] = [into[0] * into[1]]
    if draw(st.booleans()):
        into.insert(draw(st.integers(0, len(into))), 1)
    if into and math.prod(shape) and draw(st.booleans()):
        into[draw(st.integers(0, len(into) - 1))] = -1
    return (shape,), {"shape": tuple(into)}


@st.composite
def transposes(draw):
    shape = draw(shapes())
    order = draw(st.permutations(range(len(shape))))
    order = tuple([a - len(shape) * draw(st.booleans()) for a in order])
    return (shape,), {"axes": draw(st.sampled_from([None, order]))}


@st.composite
def with_axes(draw, *names, min_dims=1, extra=0, none=False, **meta):
    """An array and axes of it (negative too), by name."""
    shape = draw(shapes(min_dims))
    whole = none and (not shape or draw(st.booleans()))
    found = {name: None if whole else some_axis(draw, len(shape) + extra) for name in names}
    return (shape,), found | {name: draw(strategy) for name, strategy in meta.items()}


@st.composite
def squeezes(draw):
    shape = draw(shapes())
    ones = [a - len(shape) * draw(st.booleans()) for a, n in enumerate(shape) if n == 1]
    some = draw(st.lists(st.sampled_from(ones), unique=True)) if ones else []
    return (shape,), {"axis": draw(st.sampled_from([None, tuple(some), *ones]))}


@st.composite
def broadcasts(draw):
    shape, other = draw(broadcastable(2))
    return (shape,), {"shape": np.broadcast_shapes(shape, other)}


@st.composite
def joins(draw, stack=False):
    shape = draw(shapes(0 if stack else 1))
    axis = some_axis(draw, len(shape) + stack)
    parts = [list(shape) for _ in range(draw(st.integers(1, 3)))]
    if not stack:
        for part in parts:
            part[axis] = draw(st.integers(0, 2))
    return tuple(map(tuple, parts)), {"axis": axis}


@st.composite
def cuts(draw):
    shape = draw(shapes(1))
    axis = some_axis(draw, len(shape))
    size = shape[axis]
    equal = [n for n in (1, 2, 3) if size % n == 0]
    places = sorted(draw(st.lists(st.integers(0, size), max_size=3)))
    cut = draw(st.sampled_from([*equal, places]))
    pieces = cut if isinstance(cut, int) else len(cut) + 1
    return (shape,), {"cut": cut, "axis": axis, "piece": draw(st.integers(0, pieces - 1))}


@st.composite
def tiles(draw):
    reps = draw(st.one_of(st.integers(0, 2), st.lists(st.integers(0, 2), max_size=4).map(tuple)))
    return (draw(shapes()),), {"reps": reps}


@st.composite
def flips(draw):
    shape = draw(shapes())
    several = draw(st.lists(st.integers(0, len(shape) - 1), unique=True)) if shape else []
    one = [some_axis(draw, len(shape))] if shape else []
    return (shape,), {"axis": draw(st.sampled_from([None, tuple(several), *one]))}


@st.composite
def pads(draw):
    shape = draw(shapes(1))
    width = st.integers(0, 2)
    pair = st.tuples(width, width)
    widths = draw(st.one_of(width, pair, st.tuples(*[pair] * len(shape)).map(list)))
    return (shape,), {"widths": widths, "value": draw(st.sampled_from([0.0, 1.5]))}


@st.composite
def indices(draw, masks=True):
    """A shape and an index into it: basic, integer arrays and lists (repeating), boolean masks, and mixtures."""
    shape = draw(shapes())
    kinds = ["basic", "basic"]
    if shape:
        kinds += ["mask"] * masks
    if shape and all(shape):
        kinds += ["places", "rows", "list"]
        kinds += ["rows and columns", "split"] * (len(shape) > 1) + ["apart"] * (len(shape) > 2)
    kind = draw(st.sampled_from(kinds))

    def places(axis, size=None):
        size = draw(st.integers(0, 3)) if size is None else size
        return draw(integers((size,), -shape[axis], shape[axis]))

    if kind == "basic":
        index = draw(hnp.basic_indices(shape, allow_newaxis=True))
    elif kind == "mask":
        index = draw(booleans(shape[: draw(st.integers(1, len(shape)))]))
    elif kind == "places":
        index = draw(hnp.integer_array_indices(shape, result_shape=shapes(0, 2, 1)))
    elif kind == "list":
        index = draw(st.sampled_from([places(0, 2).tolist(), [], [True] * shape[0], [False] * shape[0]]))
    elif kind == "rows":
        index = places(0)
    elif kind == "rows and columns":
        rows = places(0)
        index = (rows, places(1, rows.size))
    elif kind == "split":
        index = (Ellipsis, None, draw(st.sampled_from([slice(None), slice(None, None, -1)])), places(-1))
    else:  # an integer and an array around a slice: NumPy moves their axis to the front
        index = (draw(st.integers(0, shape[0] - 1)), slice(None), places(2))
    return (shape,), {"index": index}


@st.composite
def scatters(draw):
    (shape,), meta = draw(indices())
    return (np.empty(shape)[meta["index"]].shape,), meta | {"shape": shape}


@st.composite
def takes(draw):
    shape = draw(shapes(1))
    axis = some_axis(draw, len(shape))
    wanted = list(shape)
    wanted[axis] = draw(st.integers(0, 3)) if shape[axis] else 0
    return (shape,), {"indices": draw(integers(wanted, -shape[axis], max(1, shape[axis]))), "axis": axis}


@st.composite
def fills(draw):
    shape, other = draw(broadcastable(2))
    return (shape,), {"mask": draw(booleans(other)), "value": draw(st.sampled_from([0.0, 1.5, -math.inf]))}


@st.composite
def diagonals(draw):
    shape = draw(shapes(2))
    a, b = draw(st.permutations(range(len(shape))))[:2]
    return (shape,), {"offset": draw(st.integers(-3, 3)), "axis1": a, "axis2": b - len(shape) * draw(st.booleans())}


EQUATIONS = [
    "ij,jk->ik", "bij,bjk->bik", "bhtd,bhsd->bhts", "i,j->ij", "i,i", "ij,ij->", "ij->ji", "ij->", "ij->j", "i->i", "ii", "ii->i",
    "iij,jk->ik", "iji->j", "iii->i", "ij,jk", "ab,cd->ac", "abc->b", "ij,kl->", "ij,jk,kl->il", "ij,j,ij->i", "a,ab,abc->c",
    "...ij,...jk->...ik", "...i->...", "i...,i->...", "...,...", "...ii->...i",
]  # fmt: skip


@st.composite
def equations(draw):
    equation = draw(st.one_of(st.sampled_from(EQUATIONS), st.sampled_from([e for e in EQUATIONS if "..." in e])))
    terms = equation.partition("->")[0].split(",")
    sizes = {c: draw(st.sampled_from([2, 3, 1, 2, 3, 1, 2, 3, 1, 0])) for c in sorted(set(equation) - set(".,->"))}
    hidden = draw(broadcastable(len(terms), 2, 1, 2)) if "..." in equation else [()] * len(terms)
    result = []
    for term, rest in zip(terms, hidden, strict=True):
        before, dots, after = term.partition("...")
        thin = [
            c for c in sorted(set(term) - {"."}) if term.count(c) == 1 and draw(st.integers(0, 5)) == 5
        ]  # it broadcasts
        before, after = ([1 if c in thin else sizes[c] for c in part] for part in (before, after))
        result.append((*before, *(rest if dots else ()), *after))
    return tuple(result), {"equation": equation}


# ----- gradients by hand ------------------------------------------------------------------------------------------


def scatter_value(x, index, shape):
    out = np.zeros(shape, x.dtype)
    np.add.at(out, index, x)
    return out


def triangle(mask_of):
    """tril or triu: what stays is where the same triangle of ones has a one."""
    return lambda g, x, k: (g * mask_of(np.ones(x.shape), k),)


def matmul_gradient(g, x, y):
    """For matrices g y^T and x^T g; a vector is a matrix of one row (left) or one column (right)."""
    if x.ndim == 1:
        gx, gy = matmul_gradient(np.expand_dims(g, -1 if y.ndim == 1 else -2), x[None], y)
        return gx[0], gy
    if y.ndim == 1:
        gx, gy = matmul_gradient(np.expand_dims(g, -1), x, y[:, None])
        return gx, gy[:, 0]
    gx = np.einsum("...nm,...km->...nk", g, y)
    gy = np.einsum("...nk,...nm->...km", x, g)
    return fit(gx, x.shape), fit(gy, y.shape)


def einsum_gradient(g, *xs, equation):
    """It is linear in each argument, so by each element it is <g, einsum with 1 there and 0 elsewhere>."""
    result = []
    for i, x in enumerate(xs):
        out = np.zeros(x.shape)
        for index in np.ndindex(x.shape):
            unit = np.zeros(x.shape)
            unit[index] = 1
            out[index] = (g * np.einsum(equation, *xs[:i], unit, *xs[i + 1 :])).sum()
        result.append(out)
    return tuple(result)


# ----- values put into a copy: distinct positions, so that every value has one place --------------------------------


@st.composite
def puts(draw):
    (shape,), meta = draw(indices())
    places = np.arange(math.prod(shape)).reshape(shape)[meta["index"]]
    if np.unique(places).size < places.size:  # positions that repeat: test_indexing.py
        meta = {"index": (slice(0, 1),) if shape else ()}
        places = np.zeros(shape)[meta["index"]]
    return (shape, places.shape), meta


def put_value(x, values, index):
    out = x.copy()
    out[index] = values
    return out


def put_gradient(g, x, values, index):
    return put_value(g, np.zeros(values.shape), index), g[index]


@st.composite
def alongs(draw):
    shape = draw(shapes(1, 3, min_side=1))
    axis = draw(st.integers(0, len(shape) - 1))
    n = draw(st.integers(0, shape[axis]))
    order = np.random.default_rng(draw(st.integers(0, 99))).permuted(
        np.broadcast_to(np.expand_dims(np.arange(shape[axis]), tuple(range(1, len(shape) - axis))), shape), axis=axis
    )
    return (shape, (*shape[:axis], n, *shape[axis + 1 :])), {"indices": order.take(range(n), axis), "axis": axis}


def along_value(x, values, indices, axis):
    out = x.copy()
    np.put_along_axis(out, indices, values, axis)
    return out


def along_gradient(g, x, values, indices, axis):
    return along_value(g, np.zeros(values.shape), indices, axis), np.take_along_axis(g, indices, axis)


VECTORS = st.tuples(st.tuples(shapes(1, 1), shapes(1, 1)), st.just({}))
K = st.integers(-2, 2)
SHIFT = st.integers(-5, 5)
# fmt: off
MOVES = [
    move("reshape",         tl.reshape,         lambda x, shape: x.reshape(shape),                               reshapes()),
    move("transpose",       tl.transpose,       np.transpose,                                                    transposes()),
    move("swapaxes",        tl.swapaxes,        lambda x, a, b: np.swapaxes(x, a, b),                            with_axes("a", "b"), covers=("transpose",)),
    move("expand_dims",     tl.expand_dims,     np.expand_dims,                                                  with_axes("axis", min_dims=0, extra=1), covers=("reshape",)),
    move("squeeze",         tl.squeeze,         np.squeeze,                                                      squeezes(), covers=("reshape",)),
    move("broadcast_to",    tl.broadcast_to,    np.broadcast_to,                                                 broadcasts(), covers=("broadcast",)),
    move("concatenate",     lambda *xs, axis: tl.concatenate(xs, axis), lambda *xs, axis: np.concatenate(xs, axis), joins(), covers=("concat",)),
    move("stack",           lambda *xs, axis: tl.stack(xs, axis), lambda *xs, axis: np.stack(xs, axis),          joins(stack=True), covers=("concat",)),
    move("split",           lambda x, cut, axis, piece: tl.split(x, cut, axis)[piece], lambda x, cut, axis, piece: np.split(x, cut, axis)[piece], cuts(), covers=("getitem",)),
    move("repeat",          tl.repeat,          np.repeat,                                                       with_axes("axis", none=True, min_dims=0, repeats=st.integers(0, 3)), covers=("broadcast",)),
    move("tile",            tl.tile,            np.tile,                                                         tiles(), covers=("broadcast",)),
    move("flip",            tl.flip,            np.flip,                                                         flips(), covers=("getitem",)),
    move("roll",            tl.roll,            np.roll,                                                         with_axes("axis", none=True, min_dims=0, shift=SHIFT), covers=("concat",)),
    move("pad",             tl.pad,             lambda x, widths, value: np.pad(x, widths, constant_values=value), pads()),
    move("getitem",         tl.getitem,         lambda x, index: x[index],                                       indices()),
    move("take_along_axis", tl.take_along_axis, np.take_along_axis,                                              takes(), covers=("getitem",)),
    move("masked_fill",     tl.masked_fill,     lambda x, mask, value: np.where(mask, value, x),                 fills(), covers=("where",)),
    move("diagonal",        tl.diagonal,        np.diagonal,                                                     diagonals(), covers=("getitem",)),
    move("clone",           tl.clone,           np.copy,                                                         arrays(1)),
    Row("index_put",        lambda x, values, index: tl.index_put(x, index, values), put_value,      put_gradient,                                    puts(), exact=True, covers=("where", "getitem")),
    Row("scatter",          lambda x, values, indices, axis: tl.scatter(x, indices, values, axis), along_value,    along_gradient,                                  alongs(), exact=True, covers=("where", "getitem")),
    Row("scatter_add",      tl.scatter_add,     scatter_value,  lambda g, x, index, shape: (g[index],),          scatters(), exact=True, covers=("scatter",), step=1.0),
    Row("tril",             tl.tril,            np.tril,        triangle(np.tril),                               with_axes(min_dims=2, k=K), exact=True, step=1.0),
    Row("triu",             tl.triu,            np.triu,        triangle(np.triu),                               with_axes(min_dims=2, k=K), exact=True, step=1.0),
    Row("matmul",           tl.matmul,          np.matmul,      matmul_gradient,                                 st.tuples(matmul_shapes(), st.just({})), step=1.0),
    Row("outer",            tl.outer,           np.outer,       lambda g, x, y: ((g * y).sum(1), (g * x[:, None]).sum(0)), VECTORS, exact=True, covers=("mul",), step=1.0),
    Row("einsum",           lambda *xs, equation: tl.einsum(equation, *xs), lambda *xs, equation: np.einsum(equation, *xs), einsum_gradient, equations(), step=1.0),
    Row("astype",           lambda x: tl.astype(x, np.float32), lambda x: x.astype(np.float32), lambda g, x: (g.astype(np.float64),), arrays(1), {"avoid": ()}, differences=False, dtype=np.float32),
    Row("astype, integers", lambda x: tl.astype(x, np.int64), lambda x: x.astype(np.int64), None,               arrays(1)),
    Row("detach",           tl.detach,          np.copy,        None,                                            arrays(1), covers=()),
    Row("to",               lambda x: ops._to(x, device="cpu", source="cpu"), np.copy,     local(lambda x: 1),  arrays(1), exact=True, step=1.0, device=False),
]
# fmt: on
