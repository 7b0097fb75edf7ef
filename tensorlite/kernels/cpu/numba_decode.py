"""A step of one token through all blocks of a transformer, as one compiled function that several threads run together.

For one token a model computes little: the time is that of reading the weights, and each return to Python, or waking
another thread, would add to it dozens of times in a step. So the threads stay in this function. A step is a sequence of
phases, and a phase a number of rows of which each thread takes some more whenever it is free; the next phase begins
when all rows are done. So a thread that the system lets wait, because other programs need the cores, is not waited for
unless it has taken rows. Only decode.py imports this module; it has the shapes.
"""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from ...backend import Array
from . import numba_impl
from .numba_impl import ANY_ORDER, F, exp, few_rows, gelu, largest, layer_norm

# Columns of the table of addresses: of a norm its weight and bias, of a matrix its values, the scales of its rows and
# its bias.
NORM1, QUERY, KEY, VALUE, OUT, NORM2, EXPAND, CONTRACT, KEYS, VALUES = 0, 2, 5, 8, 11, 14, 16, 19, 22, 23
LAST_NORM, HEAD = 0, 2
PHASES = 7  # of a layer: three products, attention, three products
PLAIN, GELU, ADD = 0, 1, 2  # what is done with a product
SPINS = 1000  # reads of a counter until another program may use the core

STAMP = f"_{zlib.crc32(Path(numba_impl.__file__).read_bytes()):08x}"


def compiled(function: Any) -> Any:
    """numba's njit. Code that it has kept on disk is used while this file and numba_impl.py are the same: numba looks
    at the file of a function, and not at those of the functions that it calls.
    """
    function.__qualname__ += STAMP  # a part of the name of the file on disk
    return njit(nogil=True, cache=True, error_model="numpy", fastmath=ANY_ORDER)(function)


# ----- what numba has no function for ---------------------------------------------------------------------------------


@intrinsic
def pointer(context: Any, address: Any) -> Any:
    """The integer `address` as a pointer, for `carray`."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), code


@intrinsic
def let_others_run(context: Any, address: Any) -> Any:
    """Call the C function int f(void) at this address: sched_yield, or Windows' SwitchToThread."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        function = ir.FunctionType(ir.IntType(32), ())
        builder.call(builder.inttoptr(args[0], ir.PointerType(function)), ())
        return context.get_dummy_value()

    return types.void(types.int64), code


@intrinsic
def add_atomic(context: Any, counters: Any, i: Any, value: Any) -> Any:
    """counters[i] += value, int64, as one operation that other threads cannot divide; returns the value before it.

    What a thread wrote before it added can be read by a thread that has read the sum.
    """

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.atomic_rmw("add", builder.gep(data, [args[1]]), args[2], "seq_cst")

    return types.int64(counters, types.int64, types.int64), code


@intrinsic
def read_atomic(context: Any, counters: Any, i: Any) -> Any:
    """counters[i], int64, as it is in memory now."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.load_atomic(builder.gep(data, [args[1]]), "seq_cst", 8)

    return types.int64(counters, types.int64), code


@intrinsic
def not_inlined(context: Any) -> Any:
    """In a function: LLVM compiles it once, and not again in each place that calls it."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), code


# ----- threads --------------------------------------------------------------------------------------------------------


@compiled
def take(counters: Array, phase: int, rows: int) -> int:
    """Take the next rows of a phase; returns the first of them, which is behind the last row if all are taken."""
    return add_atomic(counters[phase], 0, rows)


@compiled
def done(counters: Array, phase: int, rows: int) -> None:
    """Say that these rows, which this thread had taken, are computed."""
    add_atomic(counters[phase], 1, rows)


@compiled
def wait(counters: Array, phase: int, rows: int, yield_address: int) -> None:
    """Wait until all rows of a phase are computed."""
    while True:
        for _ in range(SPINS):
            if read_atomic(counters[phase], 1) >= rows:
                return
        let_others_run(yield_address)


# ----- parts of a step ------------------------------------------------------------------------------------------------


@compiled
def product(
    counters: Array, phase: int, chunk: int, like: Array, addresses: Array, x: Array, out: Array, then: int,
    total: Array,
) -> None:  # fmt: skip
    """This thread's rows of out = x W^T + b: x (B, K), out (B, N), addresses of W (N, K), its scales (N) and b (N).

    `then` says what follows: nothing, gelu in place, or its sum with `total` (B, N), in place.
    """
    not_inlined()
    (B, K), N = x.shape, out.shape[1]
    weight = carray(pointer(addresses[0]), (N, K), like.dtype)
    scales, bias = carray(pointer(addresses[1]), N, np.float32), carray(pointer(addresses[2]), N, np.float32)
    rows = max(4, chunk // K // 4 * 4)  # multiples of 4, as few_rows asks
    while True:
        begin = take(counters, phase, rows)
        if begin >= N:
            return
        end = min(begin + rows, N)
        few_rows(x, weight[begin:end], scales[begin:end], bias[begin:end], out.T[begin:end])
        for b in range(B):
            if then == GELU:
                gelu(out[b, begin:end], out[b, begin:end])
            elif then == ADD:
                for j in range(begin, end):
                    total[b, j] += out[b, j]
        done(counters, phase, end - begin)


@compiled
def normalize(addresses: Array, x: Array, eps: float, out: Array, mean: Array, rstd: Array) -> None:
    """`layer_norm` of x (B, C), with the weight (C) and the bias (C) at these addresses."""
    not_inlined()
    C = x.shape[1]
    weight, bias = carray(pointer(addresses[0]), C, np.float32), carray(pointer(addresses[1]), C, np.float32)
    layer_norm(x, weight, bias, eps, out, mean, rstd)


@compiled
def attend(
    addresses: Array, room: int, position: int, b: int, h: int, qkv: Array, w: Array, context: Array
) -> None:  # fmt: skip
    """A head h of a text b: context[b, h] = softmax(q K^T / sqrt(D)) V over the positions up to this one.

    qkv (3, B, C) has the newest queries, keys and values, C = H D; w (S) is scratch; context (B, H, D). The key and the
    value are written into the cache at `addresses`, (B, H, room, D) each.
    """
    not_inlined()
    B, H, D = context.shape
    keys = carray(pointer(addresses[KEYS]), (B, H, room, D), np.float32)[b, h]
    values = carray(pointer(addresses[VALUES]), (B, H, room, D), np.float32)[b, h]
    columns, seen = slice(h * D, h * D + D), position + 1
    keys[position], values[position] = qkv[1, b, columns], qkv[2, b, columns]
    attend_to(qkv[0, b, columns], keys[:seen], values[:seen], w[:seen], context[b, h])


@compiled
def attend_to(query: Array, keys: Array, values: Array, w: Array, out: Array) -> None:
    """out = softmax(query keys^T / sqrt(D)) values: query (D), keys and values (S, D), out (D); w (S) is scratch.

    Four positions at a time, so that `out` is read and written a quarter as often.
    """
    not_inlined()
    (S, D), total = keys.shape, F(0)
    scale, fours = F(1) / np.sqrt(F(D)), S // 4 * 4
    for s in range(S):
        score = F(0)
        for d in range(D):
            score += query[d] * keys[s, d]
        w[s] = score * scale
    top = largest(w)
    for s in range(S):
        w[s] = exp(w[s] - top)
        total += w[s]
    out[:] = F(0)
    for s in range(0, fours, 4):
        a, b, c, d = w[s], w[s + 1], w[s + 2], w[s + 3]
        for j in range(D):
            first, second = a * values[s, j] + b * values[s + 1, j], c * values[s + 2, j] + d * values[s + 3, j]
            out[j] += first + second
    for s in range(fours, S):
        for j in range(D):
            out[j] += w[s] * values[s, j]
    for j in range(D):
        out[j] /= total


@compiled
def step(
    thread: int, counters: Array, chunk: int, yield_address: int, like: Array, table: Array, eps: float,
    positions: Array, room: int, x: Array, normed: Array, statistics: Array, qkv: Array, w: Array, context: Array,
    hidden: Array, scores: Array,
) -> None:  # fmt: skip
    """What one of the threads computes. All call it with the same arrays; any of them could compute all of it.
    `chunk`: the weights whose rows a thread takes at a time.

    A thread that comes late to a phase may normalize an x that others have changed already: then no rows are left.
    """
    (B, C), H, layers = x.shape, context.shape[1], len(table) - 1
    contexts, added, phase = context.reshape((B, C)), qkv[0], 0  # (B, H, D) -> (B, C)
    mine, mean, rstd = normed[thread], statistics[thread, 0], statistics[thread, 1]
    for layer in range(layers):
        addresses = table[layer]
        normalize(addresses[NORM1:], x, eps, mine, mean, rstd)
        for i in range(3):  # query, key, value
            product(counters, phase + i, chunk, like, addresses[QUERY + 3 * i :], mine, qkv[i], PLAIN, x)
        for i in range(3):
            wait(counters, phase + i, C, yield_address)
        while True:
            i = take(counters, phase + 3, 1)
            if i >= B * H:
                break
            attend(addresses, room, positions[i // H], i // H, i % H, qkv, w[thread], context)
            done(counters, phase + 3, 1)
        wait(counters, phase + 3, B * H, yield_address)
        product(counters, phase + 4, chunk, like, addresses[OUT:], contexts, added, ADD, x)
        wait(counters, phase + 4, C, yield_address)
        normalize(addresses[NORM2:], x, eps, mine, mean, rstd)
        product(counters, phase + 5, chunk, like, addresses[EXPAND:], mine, hidden, GELU, x)
        wait(counters, phase + 5, hidden.shape[1], yield_address)
        product(counters, phase + 6, chunk, like, addresses[CONTRACT:], hidden, added, ADD, x)
        wait(counters, phase + 6, C, yield_address)
        phase += PHASES
    normalize(table[layers][LAST_NORM:], x, eps, mine, mean, rstd)
    product(counters, phase, chunk, like, table[layers][HEAD:], mine, scores, PLAIN, x)
