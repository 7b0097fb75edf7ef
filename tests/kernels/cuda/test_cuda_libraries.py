"""What NVIDIA's own packages make of our calls of cublasLt and cuDNN, on a machine without a GPU (support/nvidia.py).

The functions without `test_` run in the process with the stand-ins.
"""

import ctypes
import functools
import inspect
import itertools
import json
import math
import struct

import ml_dtypes
import numpy as np
import nvidia
import pytest
from nvidia import LIBRARY

from tensorlite import Tensor, formulas
from tensorlite.kernels import precision
from tensorlite.kernels.cuda import attention, blas, sdpa

BF16 = np.dtype(ml_dtypes.bfloat16)
F32 = np.dtype(np.float32)
TYPES = [(F32, F32), (BF16, BF16), (BF16, F32), (F32, BF16)]  # of operands and result


def needs(package):
    return pytest.mark.skipif(bool(nvidia.missing(package)), reason=nvidia.missing(package) or "it is there")


# ----- cublasLt ---------------------------------------------------------------------------------------------------


def with_cublas():
    """`blas` with nvmath's bindings and the stand-in below them."""
    blas.xp = lambda x: LIBRARY
    assert blas.missing() == ""


def strided(rng, shape, dtype, order=None, gaps=None, offset=0):
    """A view of `shape` with random numbers, all of its memory, and where in it the view's elements are.

    The view's axes may come in another order in memory, with gaps between them, which are nan.
    """
    order = list(range(len(shape))) if order is None else list(order)
    lengths = [shape[i] + (gaps[i] if gaps else 0) for i in order]
    memory = nvidia.empty(offset + math.prod(lengths), dtype)

    def view(x):
        whole = x[offset:].reshape(lengths)
        return whole[tuple(slice(0, shape[i]) for i in order)].transpose(np.argsort(order))

    numbers = view(memory)
    numbers[...] = rng.standard_normal(shape)
    return numbers, memory, view(np.arange(memory.size))


def check(rng, lead, sizes, types, orders, gaps, offsets, with_bias, with_alpha, accumulate, spread=False):
    """One product against NumPy's in float64; nothing else in memory may change. `spread`: a bias with gaps."""
    (M, K, N), (operand, result) = sizes, types
    a = strided(rng, (*lead, M, K), operand, orders[0], gaps[0], offsets[0])[0]
    b = strided(rng, (*lead, K, N), operand, orders[1], gaps[1], offsets[1])[0]
    out, memory, places = strided(rng, (*lead, M, N), result, None, gaps[2], offsets[2])
    bias = strided(rng, (N, 2), result, [0, 1] if spread else [1, 0], offset=offsets[3])[0][:, 0]
    bias = bias if with_bias else None
    alpha = nvidia.on_gpu(np.array([-1.5], F32)) if with_alpha else None
    inputs = [x for x in (a, b, bias, alpha) if x is not None]
    before = [np.array(x) for x in inputs]
    product = np.array(a, float) @ np.array(b, float) * (-1.5 if with_alpha else 1)
    expected = product + (np.array(bias, float) if with_bias else 0) + (np.array(out, float) if accumulate else 0)
    if not accumulate:
        out[...] = np.nan  # beta = 0: it is not read
    assert blas.matmul(a, b, out=out, bias=bias, alpha=alpha, accumulate=accumulate) is out
    unit = 2.0**-8 if result == BF16 else 2.0**-22
    error = np.abs(np.array(out, float) - expected)
    assert (error <= unit * (np.abs(expected) + np.abs(product) + 1e-3)).all(), error
    around = np.delete(np.array(memory), places.reshape(-1)).view(np.uint8)
    assert (around == 0xFF).all()  # as nvidia.empty has left it
    for x, y in zip(inputs, before, strict=True):
        np.testing.assert_array_equal(np.array(x), y)


def random_products(seed, count):
    """Products of random layouts, each twice: the second time with the first one's plan, if the addresses allow it."""
    with_cublas()
    rng = np.random.default_rng(seed)
    for _ in range(count):
        lead = tuple(rng.integers(1, 4, rng.integers(0, 3)).tolist())
        sizes, n = rng.integers(1, 9, 3).tolist(), len(lead) + 2
        orders = [[*range(n - 2), *(rng.permutation(2) + n - 2)] if rng.random() < 0.7 else rng.permutation(n)
                  for _ in range(2)]  # fmt: skip
        gaps = [(rng.integers(0, 3, n) * (rng.random() < 0.6)).tolist() for _ in range(3)]
        gaps[2] = [0] * (n - 1) + gaps[2][-1:]  # between rows of the result only
        types, flags = TYPES[rng.integers(4)], rng.random(3) < 0.5
        for _ in range(2):
            offsets = (rng.integers(0, 9, 4) * (rng.random(4) < 0.5)).tolist()
            try:
                check(rng, lead, sizes, types, orders, gaps, offsets, *map(bool, flags), spread=rng.random() < 0.3)
            except Exception as error:
                error.add_note(
                    f"{lead=} {sizes=} {types=} {orders=} {gaps=} {offsets=} bias, alpha, accumulate: {flags}\n"
                    f"the stand-in's last refusal: {nvidia.last_error()}"
                )
                raise
    return nvidia.LOADED["libcublasLt.so.13"].stand_in_stream(), blas.version(), attention._version()


@needs("nvmath")
@pytest.mark.parametrize("seed", range(3))
def test_cublas_gives_the_product_of_whatever_layouts(seed):
    stream, version, text = nvidia.inside(random_products, seed, 150)
    assert stream == nvidia.STREAM
    assert (version, text) == (130100, "13.1.0")


def products_of_a_training_step():
    """Those of linear and attention: x W^T + b, g W, g^T x, q k^T, weights v and their derivatives, in all types."""
    with_cublas()
    rng = np.random.default_rng(0)
    plain, turned, no = [0, 1], [1, 0], [[0, 0]] * 3
    for types, orders in itertools.product(TYPES, ([plain, turned], [plain, plain], [turned, plain])):
        for flags in itertools.product((False, True), repeat=3):
            check(rng, (), (16, 24, 40), types, orders, no, [0] * 4, *flags)
    for heads in ([0, 1, 2, 3], [0, 2, 1, 3]):  # (B, H, T, D), or (B, T, H, D) seen as that: copied
        check(rng, (2, 3), (8, 16, 8), (BF16, F32), [heads, heads], [[0] * 4] * 3, [0] * 4, False, False, False)
    check(rng, (), (16, 8, 16), (F32, F32), [plain, turned], [[0, 16], [0, 16], [0, 0]], [0] * 4, True, False, False)


@needs("nvmath")
def test_cublas_gives_the_products_of_a_training_step():
    nvidia.inside(products_of_a_training_step)


def plans(most):
    """(plans, cublasLt's live objects) after each of some products."""
    with_cublas()
    blas._devices.clear()
    before, kept = nvidia.LOADED["libcublasLt.so.13"].stand_in_objects(), blas.MAX_PLANS
    rng, seen = np.random.default_rng(0), []
    blas.MAX_PLANS = most
    try:
        for M, offset in ((1, 0), (2, 0), (2, 0), (2, 1), (3, 0), (4, 0), (1, 0)):
            check(rng, (), (M, 5, 6), (F32, F32), [[0, 1], [0, 1]], [[0, 0]] * 3, [0, 0, 0, offset], True, False, False)
            alive = nvidia.LOADED["libcublasLt.so.13"].stand_in_objects() - before
            seen.append((len(blas._devices[0].plans), alive))
    finally:
        blas.MAX_PLANS = kept
    return seen


@needs("nvmath")
def test_plans_are_kept_and_what_is_dropped_is_destroyed():
    """A plan holds four objects: the description of the product, and three matrices."""
    assert nvidia.inside(plans, 100) == [(n, 4 * n) for n in (1, 2, 2, 3, 4, 5, 5)]
    assert nvidia.inside(plans, 2) == [(n, 4 * n) for n in (1, 2, 2, 1, 2, 1, 2)]


def tf32_products():
    """|product - exact|, and |product - that of operands with 10 bits of fraction|, under "tf32" and "float32"."""
    with_cublas()
    rng, found = np.random.default_rng(0), {}
    a, b = (strided(rng, (32, 32), F32)[0] for _ in range(2))
    exact = np.array(a, float) @ np.array(b, float)
    cut = [np.ldexp(np.round(m * 2**11), e - 11) for m, e in (np.frexp(np.array(x, float)) for x in (a, b))]
    try:
        for dtype in ("tf32", "float32"):
            precision.set_matmul_dtype(dtype, "cuda")
            product = np.array(blas.matmul(a, b), float)
            found[dtype] = float(abs(product - exact).max()), float(abs(product - cut[0] @ cut[1]).max())
    finally:
        precision.set_matmul_dtype("float32", "cuda")
    return found


@needs("nvmath")
def test_operands_are_rounded_under_tf32_alone():
    found = nvidia.inside(tf32_products)
    assert found["tf32"][1] < 1e-5 < 1e-4 < found["tf32"][0]
    assert found["float32"][0] < 1e-5 < 1e-4 < found["float32"][1]


REFUSALS = {  # what cublasLt answers, and what the sentence says of it
    ("HEURISTIC", -1): "no algorithm: other sizes or another dtype may work",
    ("HEURISTIC", 7): "INVALID_VALUE (7): other sizes or another dtype may work",
    ("HEURISTIC", 15): "NOT_SUPPORTED (15): other sizes or another dtype may work",
    ("PRODUCT", 15): "NOT_SUPPORTED (15): other sizes or another dtype may work",
    ("PRODUCT", 13): "EXECUTION_FAILED (13): an earlier error of the GPU may be the cause",
    ("CREATE", 3): "ALLOC_FAILED (3): the GPU's memory may be full",
    ("CREATE", 1): "NOT_INITIALIZED (1): the GPU's memory may be full",
}


def refused_products():
    """The errors of products that cublasLt refuses, by what it answered, and its objects that are left of them."""
    with_cublas()
    library, rng, found = nvidia.LOADED["libcublasLt.so.13"], np.random.default_rng(0), {}
    a, b = strided(rng, (2, 16, 24), BF16)[0], strided(rng, (2, 24, 8), BF16)[0]
    bias = strided(rng, (8,), F32)[0]
    blas.matmul(a, b, out_dtype=F32, bias=bias)
    device = blas._devices[0]  # with its workspace, which is not made again: the stand-in's memory is limited
    for function, status in REFUSALS:
        device.plans.clear()
        if function == "CREATE":
            blas._devices.clear()
        before = library.stand_in_objects()
        library.stand_in_want(["CREATE", "HEURISTIC", "PRODUCT"].index(function), status)
        try:
            blas.matmul(a, b, out_dtype=F32, bias=bias)
        except Exception as error:
            left = library.stand_in_objects() - before - 4 * len(device.plans)
            found[function, status] = type(error).__name__, str(error), left
        finally:
            library.stand_in_want(["CREATE", "HEURISTIC", "PRODUCT"].index(function), 0)
            blas._devices[0] = device
        product = np.array(blas.matmul(a, b, out_dtype=F32, bias=bias), float)  # the next one is computed
        expected = np.array(a, float) @ np.array(b, float) + np.array(bias, float)
        np.testing.assert_allclose(product, expected, rtol=1e-5, atol=1e-5)
    return found


@needs("nvmath")
def test_a_product_that_cublas_refuses_is_one_sentence_and_leaves_nothing():
    found = nvidia.inside(refused_products)
    assert found.keys() == REFUSALS.keys()
    for case, (kind, text, left) in found.items():
        assert kind == "RuntimeError"
        product = "cublasLt refused the product (2, 16, 24) @ (2, 24, 8) of bfloat16, in float32, with a bias: "
        assert text.startswith(product + REFUSALS[case])
        assert "\n" not in text
        assert left == 0, case


# ----- cuDNN ------------------------------------------------------------------------------------------------------


@functools.cache
def with_cudnn():
    """`sdpa` with NVIDIA's front end, which checks and describes each graph; what it describes is computed by NumPy."""
    import cudnn

    real = {name: inspect.signature(getattr(cudnn.pygraph, name)) for name in ("build", "execute")}

    def build(self, *args, **kwargs):
        real["build"].bind(self, *args, **kwargs)
        self.validate()

    def execute(self, *args, **kwargs):
        given = real["execute"].bind(self, *args, **kwargs).arguments
        assert isinstance(given["handle"], cudnn.Handle)
        assert given["workspace"] % 16 == 0
        compute(json.loads(str(self._lowered_graph)), next(x for x in given.values() if isinstance(x, dict)))

    cudnn.pygraph.build, cudnn.pygraph.execute, cudnn.pygraph.get_workspace_size = build, execute, lambda self: 64
    sdpa.xp = lambda x: LIBRARY
    assert sdpa.missing() == ""


def compute(graph, pointers):
    """The graph in float64, as https://docs.nvidia.com/cudnn/latest/operations/Attention defines its attributes.

    `pointers`: the address of each tensor, by its number.
    """
    tensors = {x["uid"]: x for x in graph["tensors"]}

    def at(uid):
        x = tensors[uid]
        dtype = {"BFLOAT16": BF16, "FLOAT": F32}[x["data_type"]]
        assert not x["is_virtual"]
        memory = (ctypes.c_char * span(x, dtype)).from_address(pointers[uid])
        return np.ndarray(x["dim"], dtype, memory, 0, [s * dtype.itemsize for s in x["stride"]])

    def span(x, dtype):
        return dtype.itemsize * (1 + sum((n - 1) * s for n, s in zip(x["dim"], x["stride"], strict=True)))

    (node,), context = graph["nodes"], graph["context"]
    assert context["compute_data_type"] == context["intermediate_data_type"] == "FLOAT"
    assert (node["alibi_mask"], node["left_bound"], node["dropout_probability"]) == (False, None, None)
    given = {name: at(uid).astype(float) for name, uid in node["inputs"].items() if not name.startswith("SEQ_LEN")}
    scale = struct.unpack(">f", bytes.fromhex(node["attn_scale_value"]))[0]
    scores = given["Q"] @ given["K"].swapaxes(-1, -2) * scale
    T, S = scores.shape[-2:]
    if node["right_bound"] is not None:  # distance from the diagonal, which starts in the top left or ends bottom right
        shift = {"TOP_LEFT": 0, "BOTTOM_RIGHT": S - T}[node["diagonal_alignment"]]
        seen = np.arange(S) <= np.arange(T)[:, None] + shift + node["right_bound"]
        scores = np.where(seen, scores, -np.inf)
    top = scores.max(-1, keepdims=True)
    stats = top + np.log(np.exp(scores - top).sum(-1, keepdims=True))
    weights = np.exp(scores - stats)
    if node["tag"] == "SDPA":
        results = {"O": weights @ given["V"], "Stats": stats}
    else:
        assert node["tag"] == "SDPA_BWD", node
        assert node["is_deterministic_algorithm"] is True
        np.testing.assert_allclose(given["Stats"], stats, rtol=1e-6, atol=1e-6)
        g = given["dO"]
        ds = weights * (g @ given["V"].swapaxes(-1, -2) - (g * given["O"]).sum(-1, keepdims=True)) * scale
        results = {
            "dQ": ds @ given["K"], "dK": ds.swapaxes(-1, -2) @ given["Q"], "dV": weights.swapaxes(-1, -2) @ g
        }  # fmt: skip
    assert results.keys() == node["outputs"].keys()
    for name, uid in node["outputs"].items():
        at(uid)[...] = results[name]


def heads(rng, B, H, T, D, kind):
    """(B, H, T, D) bfloat16 on the GPU: positions within heads, heads within positions, or a part of packed heads."""
    x = rng.standard_normal((B, H, T, D))
    if kind == "packed":
        whole = nvidia.empty((B, T, 3, H, D), BF16)
        view = whole[:, :, int(rng.integers(3))].swapaxes(1, 2)  # (B, T, H, D) -> (B, H, T, D)
    else:
        view = nvidia.empty((B, T, H, D), BF16).swapaxes(1, 2) if kind == "split" else nvidia.empty((B, H, T, D), BF16)
    view[...] = x
    return view


def formula(q, k, v, g, **options):
    """Out and the three gradients by formulas.attention in float64."""
    q, k, v = (Tensor(np.array(x, float), requires_grad=True) for x in (q, k, v))
    out = formulas.attention(q, k, v, **options)
    out.backward(Tensor(np.array(g, float)))
    return out.data, *[x.grad.data for x in (q, k, v)]


def random_attention(seed, count):
    """Attention of random shapes; of each shape, with several layouts, scales, and masks or none."""
    with_cudnn()
    rng = np.random.default_rng(seed)
    for _ in range(count):
        B, H = rng.integers(1, 4, 2).tolist()
        T, S = ([1, 2, 7, 16, 33][i] for i in rng.integers(0, 5, 2))
        S = T if rng.random() < 0.5 else S
        D, E = ([8, 16, 24, 64, 128][i] for i in rng.integers(0, 5, 2))
        E = D if rng.random() < 0.6 else E
        for kinds in (["plain"] * 7, ["split"] * 7, rng.choice(["split", "packed", "plain"], 7)):
            for is_causal, scale in ((False, 0.3), (T <= S, 0.3), (T <= S, 0.8)):
                try:
                    one_attention(rng, B, H, T, S, D, E, kinds, is_causal=is_causal, scale=scale / D**0.5)
                except Exception as error:
                    error.add_note(f"{B=} {H=} {T=} {S=} {D=} {E=} {kinds=} {is_causal=} {scale=}")
                    raise
    return nvidia.LOADED["libcudnn.so.9"].stand_in_stream()


def one_attention(rng, B, H, T, S, D, E, kinds, **options):
    """What `why_not` lets through NVIDIA's front end accepts, and what it describes is the formula."""
    shapes = (T, D), (T, E), (S, D), (S, E)
    q, g, k, v = (heads(rng, B, H, *shape, kind) for shape, kind in zip(shapes, kinds[:4], strict=True))
    assert sdpa.why_not(q, k, v, **options) == ""
    out, stats = sdpa.forward(q, k, v, **options)
    into = [heads(rng, *x.shape, kind) for x, kind in zip((q, k, v), kinds[4:], strict=True)]
    declined = sdpa.why_not_backward(g, q, k, v, out, into, **options)
    if T == S == 1:  # the one case that the front end excludes: it is computed from the scores then
        assert declined.endswith("s_q = s_kv = 1 is not supported.")
        return
    assert declined == ""
    sdpa.backward(g, q, k, v, out, stats, into, **options)
    results = {"out": out, **dict(zip(("dq", "dk", "dv"), into, strict=True))}
    # cuDNN's backward reads out, whose rounding by 2**-9 remains where dP - sum(g out) almost cancels
    products = np.abs(np.array(g, float) * np.array(out, float)).sum(-1)
    rest = options["scale"] * products.max() * max(np.abs(np.array(x, float)).max() for x in (q, k))
    for (name, x), wanted in zip(results.items(), formula(q, k, v, g, **options), strict=True):
        allowed = 2.0**-7 * np.abs(wanted).max() + 2.0**-8 * rest * (name in ("dq", "dk")) + 1e-6
        assert np.abs(np.array(x, float) - wanted).max() <= allowed, name


@needs("cudnn")
@pytest.mark.parametrize("seed", range(2))
def test_the_front_end_of_cudnn_describes_attention(seed):
    assert nvidia.inside(random_attention, seed, 12) == nvidia.STREAM


def reason_of_the_front_end():
    """`why_not` for a graph that NVIDIA's front end refuses, and the graphs that were declined since."""
    with_cudnn()
    rng = np.random.default_rng(0)
    q, k = heads(rng, 1, 2, 8, 16, "plain"), heads(rng, 1, 2, 4, 16, "plain")
    refused = sdpa._graph(LIBRARY, "forward", (q, k, k), True, 1.0)  # more queries than keys
    return refused, sdpa.why_not(q, k, k, is_causal=True, scale=1.0), sdpa.declined()


@needs("cudnn")
def test_what_the_front_end_refuses_is_a_sentence():
    refused, why_not, declined = nvidia.inside(reason_of_the_front_end)
    assert refused.startswith("cuDNN declined the forward of (1, 2, 8, 16) over (1, 2, 4, 16): ")
    assert refused in declined
    assert why_not == "some queries see no key"  # and is not asked
