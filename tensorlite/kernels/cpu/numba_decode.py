"""A step of one token through all blocks of a transformer, as one compiled function that several threads run together.

For one token a model computes little: the time is that of reading the weights, and each return to Python, or waking
another thread, would add to it dozens of times in a step. So the threads stay in this function and wait for each other
in `barrier`. Only decode.py imports this module; it has the shapes.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from ...backend import Array
from .numba_impl import ANY_ORDER, F, exp, few_rows, gelu, layer_norm

# Columns of the table of addresses: of a norm its weight and bias, of a matrix its values, the scales of its rows and
# its bias.
NORM1, QUERY, KEY, VALUE, OUT, NORM2, EXPAND, CONTRACT, KEYS, VALUES = 0, 2, 5, 8, 11, 14, 16, 19, 22, 23
LAST_NORM, HEAD = 0, 2
SPINS = 1000  # a barrier's reads of the counter before it lets another program use the core
PATIENCE = 2  # seconds that a barrier waits at least

compiled = njit(nogil=True, cache=True, error_model="numpy", fastmath=ANY_ORDER)

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
def seconds(context: Any, address: Any) -> Any:
    """Call C's time at this address: int64 seconds."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        function = ir.FunctionType(ir.IntType(64), (cgutils.voidptr_t,))
        return builder.call(
            builder.inttoptr(args[0], ir.PointerType(function)), (ir.Constant(cgutils.voidptr_t, None),)
        )

    return types.int64(types.int64), code


@intrinsic
def add_atomic(context: Any, counter: Any, value: Any) -> Any:
    """counter[0] += value, int64, as one operation that other threads cannot divide; returns the sum."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.add(builder.atomic_rmw("add", data, args[1], "seq_cst"), args[1])

    return types.int64(counter, types.int64), code


@intrinsic
def read_atomic(context: Any, counter: Any) -> Any:
    """counter[0]; what another thread wrote before it added to the counter can be read afterwards."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.load_atomic(data, "seq_cst", 8)

    return types.int64(counter), code


@intrinsic
def not_inlined(context: Any) -> Any:
    """In a function: LLVM compiles it once, and not again in each place that calls it."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), code


# ----- threads --------------------------------------------------------------------------------------------------------


@compiled
def barrier(counter: Array, threads: int, system: Array) -> bool:
    """Wait until all threads have come here. False if one of them does not come for PATIENCE seconds.

    The counter only grows: the first `threads` arrivals wait until it is `threads`, the next ones for twice as many.
    """
    if threads == 1:
        return True
    target, end = (add_atomic(counter, 1) + threads - 1) // threads * threads, 0
    while end == 0 or seconds(system[1]) <= end:
        for _ in range(SPINS):
            if read_atomic(counter) >= target:
                return True
        let_others_run(system[0])
        if end == 0:
            end = seconds(system[1]) + PATIENCE
    return False


@compiled
def share(n: int, thread: int, threads: int) -> tuple[int, int]:
    """A thread's part of 0 .. n - 1, cut at multiples of 4 as `few_rows` asks."""
    fours = (n + 3) // 4
    return 4 * (fours * thread // threads), min(n, 4 * (fours * (thread + 1) // threads))


# ----- parts of a step ------------------------------------------------------------------------------------------------


@compiled
def multiply(like: Array, addresses: Array, x: Array, out: Array, begin: int, end: int) -> None:
    """out[:, begin:end] of x W^T + b: x (B, K), out (B, N), addresses of W (N, K), its scales (N) and b (N)."""
    not_inlined()
    N = out.shape[1]
    weight = carray(pointer(addresses[0]), (N, x.shape[1]), like.dtype)
    scales = carray(pointer(addresses[1]), N, np.float32)
    bias = carray(pointer(addresses[2]), N, np.float32)
    few_rows(x, weight[begin:end], scales[begin:end], bias[begin:end], out.T[begin:end])


@compiled
def normalize(addresses: Array, x: Array, eps: float, out: Array, mean: Array, rstd: Array) -> None:
    """`layer_norm` of x (B, C), with the weight (C) and the bias (C) at these addresses."""
    not_inlined()
    C = x.shape[1]
    weight = carray(pointer(addresses[0]), C, np.float32)
    bias = carray(pointer(addresses[1]), C, np.float32)
    layer_norm(x, weight, bias, eps, out, mean, rstd)


@compiled
def activate(hidden: Array, begin: int, end: int) -> None:
    """hidden[:, begin:end] = gelu of it."""
    not_inlined()
    for b in range(len(hidden)):
        gelu(hidden[b, begin:end], hidden[b, begin:end])


@compiled
def add(x: Array, y: Array, begin: int, end: int) -> None:
    """x[:, begin:end] += y[:, begin:end]."""
    not_inlined()
    for b in range(len(x)):
        for j in range(begin, end):
            x[b, j] += y[b, j]


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
    scale, top, total, start = F(1) / np.sqrt(F(D)), F(-np.inf), F(0), h * D
    for d in range(D):
        keys[position, d], values[position, d] = qkv[1, b, start + d], qkv[2, b, start + d]
        context[b, h, d] = F(0)
    for s in range(position + 1):
        score = F(0)
        for d in range(D):
            score += qkv[0, b, start + d] * keys[s, d]
        w[s] = score * scale
        top = max(top, w[s])
    for s in range(position + 1):
        w[s] = exp(w[s] - top)
        total += w[s]
    for s in range(position + 1):
        for d in range(D):
            context[b, h, d] += w[s] * values[s, d]
    for d in range(D):
        context[b, h, d] /= total


@compiled
def step(
    thread: int, threads: int, counter: Array, system: Array, like: Array, table: Array, eps: float,
    positions: Array, room: int, x: Array, normed: Array, statistics: Array, qkv: Array, w: Array, context: Array,
    hidden: Array, scores: Array,
) -> bool:  # fmt: skip
    """What one of the threads computes. All call it with the same arrays. False if one of them did not come."""
    B, C = x.shape
    H = context.shape[1]
    contexts, added = context.reshape((B, C)), qkv[0]  # (B, H, D) -> (B, C)
    mine, mean, rstd = normed[thread], statistics[thread, 0], statistics[thread, 1]
    first, end = share(C, thread, threads)
    for layer in range(len(table) - 1):
        addresses = table[layer]
        normalize(addresses[NORM1:], x, eps, mine, mean, rstd)
        begin, stop = share(3 * C, thread, threads)
        for i in range(3):  # of this thread's rows of all three matrices, those of one
            part = max(begin - i * C, 0), max(min(stop - i * C, C), 0)
            multiply(like, addresses[QUERY + 3 * i :], mine, qkv[i], part[0], part[1])
        if not barrier(counter, threads, system):
            return False
        for i in range(B * H * thread // threads, B * H * (thread + 1) // threads):
            attend(addresses, room, positions[i // H], i // H, i % H, qkv, w[thread], context)
        if not barrier(counter, threads, system):
            return False
        multiply(like, addresses[OUT:], contexts, added, first, end)
        add(x, added, first, end)
        if not barrier(counter, threads, system):
            return False
        normalize(addresses[NORM2:], x, eps, mine, mean, rstd)
        begin, stop = share(hidden.shape[1], thread, threads)
        multiply(like, addresses[EXPAND:], mine, hidden, begin, stop)
        activate(hidden, begin, stop)
        if not barrier(counter, threads, system):
            return False
        multiply(like, addresses[CONTRACT:], hidden, added, first, end)
        add(x, added, first, end)
        if not barrier(counter, threads, system):
            return False
    addresses = table[len(table) - 1]
    normalize(addresses[LAST_NORM:], x, eps, mine, mean, rstd)
    begin, stop = share(scores.shape[1], thread, threads)
    multiply(like, addresses[HEAD:], mine, scores, begin, stop)
    return True
