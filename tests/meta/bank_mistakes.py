"""Wrong forward functions and rules that take more than a line, for the faults in bank_faults.py."""

import math
from typing import Any

import numpy

from .bank_ops import centered, expand, onehot

# ----- faults with state ------------------------------------------------------------------------------------------


def cached_by_shape():
    """The value of the first array of a shape, for all of that shape."""
    cache: dict[Any, Any] = {}

    def forward(np, x):
        return cache.setdefault(tuple(x.shape), np.exp(-x * x))

    return {"forward": forward}


def output_buffer():
    """Results of one shape share their memory."""
    buffers: dict[Any, Any] = {}

    def forward(np, x):
        out = buffers.setdefault(tuple(x.shape), np.exp(x))
        out[...] = np.exp(x)
        return out

    return {"forward": forward}


def gradient_buffer():
    """Gradients of one shape share their memory."""
    buffers: dict[Any, Any] = {}

    def rule(np, g, x):
        if np.recording(g):
            return g * 2 * x
        piece = buffers.setdefault(tuple(x.shape), g * 2 * x)
        piece[...] = g * 2 * x
        return piece

    return {"rules": {0: rule}}


def accumulating():
    """The gradient of a backward pass is added to that of the pass before."""
    last: dict[Any, Any] = {}

    def rule(np, g, x):
        piece = g * 2 * x
        if np.recording(g):
            return piece
        last[tuple(x.shape)] = last.get(tuple(x.shape), 0.0) + piece
        return last[tuple(x.shape)] * 1.0

    return {"rules": {0: rule}}


def last_input():
    """The rule reads the argument of the last forward call instead of its own."""
    seen = []

    def forward(np, x):
        seen[:] = [np.cos(x)]
        return np.sin(x)

    return {"forward": forward, "rules": {0: lambda np, g, x: g * np.cos(x) if np.recording(g) else g * seen[0]}}


def third_pass():
    """From the third backward pass on a factor is missing."""
    passes = [0]

    def rule(np, g, x):
        passes[0] += 1
        return g * 3 * x**2 if passes[0] < 3 else g * x**2

    return {"rules": {0: rule}}


def unseeded_mask():
    """Dropout that draws a new mask at each call; the rule has the last one."""
    random, last = numpy.random.default_rng(0), []

    def forward(np, x):
        last[:] = [random.random(tuple(x.shape)) < 0.5]
        return x * np.constant(last[0] * 2.0, x)

    return {"forward": forward, "rules": {0: lambda np, g: g * np.constant(last[0] * 2.0, g)}}


def noisy_rule():
    """A gradient whose last digits differ from one call to the next, as sums in random order have."""
    random = numpy.random.default_rng(0)
    return {"rules": {0: lambda np, g, x: g * np.cos(x) * (1 + 1e-9 * random.standard_normal())}}


# ----- faults of layouts and of memory ----------------------------------------------------------------------------


def in_memory_order(np, x):
    """Reads the elements as they lie in memory."""
    return np.sin(np.reshape(x.ravel("K"), x.shape))


def without_signs(np, x):
    """Takes the absolute values of the strides."""
    return np.exp(x[tuple([slice(None, None, -1 if stride < 0 else 1) for stride in x.strides])])


def without_strides(np, x):
    """Reads the buffer of a view from its beginning, without the strides."""
    whole = x if x.base is None or x.base.size < x.size else x.base
    return whole.ravel()[: x.size].reshape(x.shape) ** 3


def assumes_c_order(np, g, x):
    """The rule reads the saved argument as it lies in memory."""
    return g * 2 * (x if np.recording(g) else np.reshape(x.ravel("K"), x.shape))


def there_and_back(np, x):
    """Changes its argument, and changes it back."""
    x += 1.0
    out = (x - 1.0) * (x - 1.0)
    x -= 1.0
    return out


def centered_in_place(np, x):
    x -= np.mean(x)
    return np.mean(x**2)


def changes_g(np, g, x):
    g *= 2 * x
    return g


def changes_saved(np, g, x):
    x *= 2
    return g * x


# ----- faults of single cases -------------------------------------------------------------------------------------


def leading_axes_only(np, g, shape):
    """Undoes broadcasting along leading axes; of an axis of length 1 it takes the first element."""
    while len(g.shape) > len(shape):
        g = np.sum(g, axis=0)
    for axis, n in enumerate(shape):
        if n == 1 and g.shape[axis] > 1:
            g = g[(slice(None),) * axis + (slice(0, 1),)]
    return g * 1.0


def mean_of_broadcast(np, g, shape):
    return np.fit(g, shape) * (math.prod(shape) / max(1, math.prod(g.shape)))


def last_duplicate(rows, n):
    """The matrix of row numbers where of equal numbers only the last counts: `x[rows] = g` instead of adding."""
    matrix = onehot(rows, n)
    return matrix * (numpy.cumsum(matrix[::-1], axis=0)[::-1] == 1)


def vector_tail(np, g, x):
    """Eight elements at a time; the rest is forgotten."""
    n = math.prod(x.shape)
    kept = numpy.arange(n) < (n - n % 8 if n > 8 else n)
    return g * np.constant(kept.reshape(tuple(x.shape)) * 1.0, g)


def scaled_to_largest(np, g, x):
    """Divides by the largest |g| against overflow and multiplies by it at the end; fails without elements."""
    largest = np.amax(np.abs(np.detach(g)))
    return g / largest * x * 2 * largest


def a_number(np, g, x):
    piece = g * 2 * x
    return piece if len(x.shape) or np.recording(g) else float(piece)


def half_of_order_2(np, g, x):
    there = np.detach(x)
    return g * (np.cos(there) - 0.5 * np.sin(there) * (x - there))


def without_order_3(np, g, x, y):
    there = np.detach(y)
    return 3 * g * x * (there**2 + 2 * there * (y - there))


def own_plan(np, g, x, axis, keepdims):
    """A negative axis, counted in the result instead of in the argument."""
    return expand(np, g, x.shape, axis if axis >= 0 or keepdims else max(axis + len(x.shape) - 1, 0), keepdims) * 1.0


def flattened_otherwise(np, g, x):
    """Reshaped in Fortran's order."""
    return np.transpose(np.reshape(g, tuple(x.shape)[::-1])) if len(x.shape) > 1 else np.reshape(g, tuple(x.shape))


def in_float32(np, g, x):
    """In float64 the slope is right; the fast path of float32 has one term of the series."""
    return g * (1 - x * x / 2) if "float32" in str(x.dtype) else g * np.cos(x)


def detached_std(np, g, x):
    d = x - np.mean(x, axis=-1, keepdims=True)
    std = np.detach(centered(np, x)[1])
    y = d / std
    return (g - np.mean(g, axis=-1, keepdims=True) - y * np.mean(g * y, axis=-1, keepdims=True)) / std


def normalized_without(term):
    def rule(np, g, x):
        y, std = centered(np, x)
        mean = np.mean(g, axis=-1, keepdims=True) if term != "mean" else 0.0
        slope = y * np.mean(g * y, axis=-1, keepdims=True) if term != "slope" else 0.0
        return (g - mean - slope) / std

    return rule


def other_dtype(np, g, y):
    return np.astype(g * y, "float32") if "float32" in str(y.dtype) else g * y
