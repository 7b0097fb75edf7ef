"""Matrix products on the GPU (kernels/cuda/blas.py): what cublasLt is told, and where a GPU is, what it answers."""

import ctypes
import enum
import math
import sys
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorlite.kernels import precision
from tensorlite.kernels.cuda import blas
from tensorlite.kernels.cuda.blas import Layout, layout, matmul

BF16 = np.dtype(ml_dtypes.bfloat16)
F32 = np.dtype(np.float32)


@pytest.fixture(scope="module")
def cupy():
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    if not cupy.is_available():
        pytest.skip("no NVIDIA GPU")
    return cupy


@pytest.fixture
def numbers():
    return np.random.default_rng(0)


def near(actual, expected, dtype, K, product=0.0):
    """Within the rounding of the result, of sums of K products of numbers about 1, and of the product before a bias:
    some odd shapes in bfloat16 are rounded there too.
    """
    unit = 2.0**-8 if dtype == BF16 else 2.0**-23
    allowed = unit * (2 * np.abs(expected) + np.abs(product) + 1e-2) + K * 2.0**-22
    assert actual.shape == expected.shape
    assert (np.abs(actual.astype(np.float64) - expected) <= allowed).all()


# ----- what cublasLt is told --------------------------------------------------------------------------------------


def read(memory: np.ndarray, at: int, x: Layout, batch: int) -> np.ndarray:
    """The matrix that column-major cublasLt sees."""
    start = at + batch * x.step
    return np.array([[memory[start + i + j * x.leading] for j in range(x.columns)] for i in range(x.rows)]).reshape(
        x.rows, x.columns
    )


def gemm(a, b, out, memories, starts) -> None:
    """As cublasLt: D = op(A) op(B), all column-major, where A is our b and B our a."""
    for i in range(out.batches):
        first, second = read(memories[1], starts[1], b, i), read(memories[0], starts[0], a, i)
        product = (first.T if b.is_transposed else first) @ (second.T if a.is_transposed else second)
        assert product.shape == (out.rows, out.columns)
        for r in range(out.rows):
            for c in range(out.columns):
                memories[2][starts[2] + i * out.step + r + c * out.leading] = product[r, c]


@st.composite
def strided(draw, shape, order=None):
    """(a view of `shape`, the memory it looks at): axes in any order, gaps between them."""
    order = draw(st.permutations(range(len(shape)))) if order is None else order
    gaps = [draw(st.integers(0, 2)) for _ in shape]
    whole = np.zeros([shape[i] + gaps[i] for i in order], np.int64)
    view = whole[tuple(slice(0, shape[i]) for i in order)].transpose(np.argsort(order))
    return view, whole.reshape(-1)


@st.composite
def products(draw):
    lead = tuple(draw(st.lists(st.integers(1, 3), max_size=2)))
    M, K, N = (draw(st.integers(1, 4)) for _ in range(3))
    order = range(len(lead) + 2)
    shapes = (*lead, M, K), (*lead, K, N)
    return [draw(strided(s)) for s in shapes] + [draw(strided((*lead, M, N), draw(st.sampled_from([order, None]))))]


@given(products(), st.randoms(use_true_random=False))
def test_the_column_major_product_of_the_layouts_is_the_row_major_product(product, random):
    (a, in_a), (b, in_b), (out, in_out) = product
    layouts = [layout(x.shape, x.strides, 8) for x in (a, b, out)]
    if None in layouts or not blas._is_result(layouts[2]):
        return
    for memory in (in_a, in_b):
        memory[:] = [random.randrange(-9, 9) for _ in memory]
    gemm(*layouts, [in_a, in_b, in_out], [0, 0, 0])
    np.testing.assert_array_equal(out, a @ b)


@given(st.data())
def test_a_layout_addresses_the_elements_of_the_array(data):
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=2, max_size=4)))
    view, memory = data.draw(strided(shape))
    memory[:] = np.arange(memory.size)
    found = layout(view.shape, view.strides, 8)
    if found is None:
        lead, (down, along) = view.shape[:-2], view.strides[-2:]
        apart = len([n for n in lead if n > 1]) > 1
        assert apart or (min(down, along) > 8) or 1 in shape[-2:]
        return
    assert found.leading >= max(1, found.rows)
    assert found.batches == math.prod(shape[:-2])
    for i, matrix in enumerate(view.reshape(-1, *shape[-2:])):
        seen = read(memory, 0, found, i)
        np.testing.assert_array_equal(seen if found.is_transposed else seen.T, matrix)


def test_layouts_of_what_training_multiplies():
    x, w = np.zeros((6, 4), F32), np.zeros((5, 4), F32)
    assert layout(x.shape, x.strides, 4) == Layout(False, 4, 6, 4, 1, 0)
    assert layout(w.T.shape, w.T.strides, 4) == Layout(True, 4, 5, 4, 1, 0)
    part = x[:, 1:3]  # a third of a packed projection
    assert layout(part.shape, part.strides, 4) == Layout(False, 2, 6, 4, 1, 0)
    assert layout(part[:2].shape, part.strides, 4) == Layout(False, 2, 2, 4, 1, 0)
    heads = np.zeros((2, 3, 7, 4), F32)
    assert layout(heads.shape, heads.strides, 4) == Layout(False, 4, 7, 4, 6, 28)
    split = np.zeros((2, 7, 3, 4), F32).swapaxes(1, 2)  # texts and heads are no one axis
    assert layout(split.shape, split.strides, 4) is None
    one = split[:1]
    assert layout(one.shape, one.strides, 4) == Layout(False, 4, 7, 12, 3, 4)
    same = np.broadcast_to(x, (2, 3, 6, 4))
    assert layout(same.shape, same.strides, 4) == Layout(False, 4, 6, 4, 6, 0)


def test_what_cannot_be_told_is_to_be_copied():
    x = np.zeros((6, 4), F32)
    for view in (x[:, ::2], x[::-1], np.broadcast_to(x[:1], (6, 4)), np.broadcast_to(x[:, :1], (6, 4))):
        assert layout(view.shape, view.strides, 4) is None


@given(st.integers(1, 1 << 50))
def test_alignment(pointer):
    found = blas._aligned(pointer)
    assert pointer % found == 0
    assert found == 256 or pointer % (2 * found)


# ----- what cublasLt is called with: a stand-in of its own, on the host's memory ---------------------------------


class OnHost(np.ndarray):
    """NumPy's array with the address where CuPy's has it."""

    @property
    def data(self):
        return SimpleNamespace(ptr=self.ctypes.data)


def on_host(x):
    return np.asarray(x).view(OnHost)


LIBRARY = SimpleNamespace(
    asarray=on_host,
    ascontiguousarray=lambda x: on_host(np.ascontiguousarray(x)),
    empty=lambda shape, dtype: on_host(np.empty(shape, dtype)),
    cuda=SimpleNamespace(
        runtime=SimpleNamespace(getDevice=lambda: 0), get_current_stream=lambda: SimpleNamespace(ptr=0)
    ),
)


class CublasLt:
    """The functions of nvmath.bindings.cublasLt that are called, with the names, numbers and sizes of cublasLt.h."""

    MatmulDescAttribute = enum.IntEnum(
        "D", {"POINTER_MODE": 2, "TRANSA": 3, "TRANSB": 4, "EPILOGUE": 7, "BIAS_POINTER": 8}
    )
    MatrixLayoutAttribute = enum.IntEnum("M", {"BATCH_COUNT": 5, "STRIDED_BATCH_OFFSET": 6})
    MatmulPreferenceAttribute = enum.IntEnum(
        "P", {"MAX_WORKSPACE_BYTES": 1, **{f"MIN_ALIGNMENT_{x}_BYTES": 5 + i for i, x in enumerate("ABCD")}}
    )
    PointerMode = enum.IntEnum("PointerMode", {"HOST": 0, "DEVICE": 1})
    Epilogue = enum.IntEnum("Epilogue", {"DEFAULT": 1, "BIAS": 4})
    eight = frozenset({"BIAS_POINTER", "STRIDED_BATCH_OFFSET", "MAX_WORKSPACE_BYTES"})

    def __init__(self):
        self.objects, self.planned = {}, 0

    def make(self, **values):
        self.objects[len(self.objects) + 1] = values
        return len(self.objects)

    def create(self):
        return self.make()

    def matmul_desc_create(self, compute, scale):
        assert (compute, scale) in ((68, 0), (77, 0))
        return self.make()

    def matmul_preference_create(self):
        return self.make()

    def matrix_layout_create(self, type_, rows, columns, leading):
        assert leading >= rows > 0
        return self.make(dtype={0: F32, 14: BF16}[type_], rows=rows, columns=columns, leading=leading)

    def dtype_of(self, attribute):
        return np.int64 if attribute.name in self.eight else np.int32

    get_matmul_desc_attribute_dtype = get_matrix_layout_attribute_dtype = dtype_of
    get_matmul_preference_attribute_dtype = dtype_of

    def set_attribute(self, target, attribute, pointer, size):
        assert size == (8 if attribute.name in self.eight else 4)
        self.objects[target][attribute.name] = int.from_bytes(ctypes.string_at(pointer, size), "little")

    matmul_desc_set_attribute = matrix_layout_set_attribute = matmul_preference_set_attribute = set_attribute

    def destroy(self, target):
        self.objects[target] = None

    matmul_preference_destroy = matmul_desc_destroy = matrix_layout_destroy = destroy

    def MatmulHeuristicResult(self, count):
        return SimpleNamespace(ptr=4321)

    def matmul_algo_get_heuristic(self, handle, desc, a, b, c, d, preference, wanted, results, count):
        assert wanted == 1
        ctypes.c_int32.from_address(count).value = 1
        self.planned += 1

    def element(self, pointer, dtype):
        return np.frombuffer(ctypes.string_at(pointer, dtype.itemsize), dtype)[0].astype(float)

    def matmul(self, handle, desc, alpha, a, at, b, bt, beta, c, ct, d, dt, algorithm, workspace, size, stream):
        desc, at, bt, dt = (self.objects[x] for x in (desc, at, bt, dt))
        assert (algorithm, c, size) == (4321, d, 32 << 20)
        one, two = self.element(alpha, F32), self.element(beta, F32)
        for i in range(dt.get("BATCH_COUNT", 1)):

            def matrix(x, pointer, i=i):
                pointer += x["dtype"].itemsize * i * x.get("STRIDED_BATCH_OFFSET", 0)
                span = x["leading"] * (x["columns"] - 1) + x["rows"]
                memory = (ctypes.c_char * (span * x["dtype"].itemsize)).from_address(pointer)
                steps = x["dtype"].itemsize, x["leading"] * x["dtype"].itemsize
                return np.ndarray((x["rows"], x["columns"]), x["dtype"], memory, 0, steps)

            first, second, result = matrix(at, a).astype(float), matrix(bt, b).astype(float), matrix(dt, d)
            y = one * ((first.T if desc["TRANSA"] else first) @ (second.T if desc["TRANSB"] else second))
            if desc["EPILOGUE"] == 4:
                n = dt["rows"] * dt["dtype"].itemsize
                y += np.frombuffer(ctypes.string_at(desc["BIAS_POINTER"], n), dt["dtype"]).astype(float)[:, None]
            result[...] = (y + two * result.astype(float) if two else y).astype(F32)


@pytest.fixture
def stand_in(monkeypatch):
    lt = CublasLt()
    monkeypatch.setattr(blas, "_devices", {})
    monkeypatch.setitem(sys.modules, "nvmath.bindings.cublasLt", lt)
    return lt


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("with_alpha", [False, True])
@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("lead", [(), (2,), (2, 3)], ids=str)
def test_cublas_is_called_with_the_right_pointers(stand_in, numbers, dtype, with_bias, with_alpha, accumulate, lead):
    a, b = (on_host(numbers.standard_normal((*lead, *s)).astype(dtype)) for s in ((4, 3), (5, 3)))
    b = b.swapaxes(-1, -2)  # (..., 5, 3) -> (..., 3, 5)
    bias = on_host(numbers.standard_normal(5).astype(F32)) if with_bias else None
    alpha = on_host(np.array([3], F32)) if with_alpha else None
    out = on_host(numbers.standard_normal((*lead, 4, 8)).astype(F32))[..., :5]
    expected = np.array(a, float) @ np.array(b, float) * (3 if with_alpha else 1)
    expected += (np.array(bias) if with_bias else 0) + (np.array(out, float) if accumulate else 0)
    blas._by_cublas(LIBRARY, a, b, out, bias, alpha, accumulate)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


def test_a_plan_is_made_once_for_each_kind_of_product(stand_in, numbers, monkeypatch):
    monkeypatch.setattr(blas, "_aligned", lambda pointer: 4)
    a, b = (on_host(numbers.standard_normal((4, 4)).astype(F32)) for _ in range(2))
    bias = on_host(numbers.standard_normal((2, 4)).astype(F32))
    results = [blas._by_cublas(LIBRARY, a, b, on_host(np.empty((4, 4), F32)), bias[i], None, False) for i in (0, 1, 0)]
    assert stand_in.planned == 1
    np.testing.assert_allclose(results[0] - results[1], np.tile(bias[0] - bias[1], (4, 1)), atol=1e-5)
    np.testing.assert_array_equal(results[0], results[2])
    monkeypatch.setattr(blas, "_aligned", lambda pointer: 8)  # a faster algorithm may do
    blas._by_cublas(LIBRARY, a, b, on_host(np.empty((4, 4), F32)), bias[0], None, False)
    assert stand_in.planned == 2


def test_what_has_no_unit_stride_is_copied(stand_in, numbers):
    a, b = (on_host(numbers.standard_normal((2, 3, 8, 8)).astype(F32)) for _ in range(2))
    a, b = a.swapaxes(0, 1), b.swapaxes(0, 1)[..., ::2]
    out = on_host(np.empty((3, 2, 8, 4), F32))
    np.testing.assert_allclose(blas._by_cublas(LIBRARY, a, b, out, None, None, False), a @ b, atol=1e-5)


@pytest.mark.parametrize("accumulate", [False, True])
def test_float32_operands_and_a_bfloat16_result(stand_in, numbers, monkeypatch, accumulate):
    monkeypatch.setattr(blas, "missing", lambda: "")
    monkeypatch.setattr(blas, "xp", lambda x: LIBRARY)
    a, b = (on_host(numbers.standard_normal((4, 4)).astype(F32)) for _ in range(2))
    bias, out = on_host(np.arange(4).astype(BF16)), on_host(np.ones((4, 4), BF16))
    expected = np.array(a, float) @ np.array(b, float) + np.arange(4) + accumulate
    assert matmul(a, b, bias=bias, out=out, accumulate=accumulate) is out
    near(out, expected, BF16, 4)
    assert stand_in.planned == 1


def test_no_algorithm_is_an_error(stand_in, monkeypatch):
    monkeypatch.setattr(stand_in, "matmul_algo_get_heuristic", lambda *arguments: None)
    x = on_host(np.ones((2, 2), F32))
    with pytest.raises(RuntimeError, match="no algorithm"):
        blas._by_cublas(LIBRARY, x, x, x.copy(), None, None, False)


def test_too_many_plans_are_made_anew(stand_in, monkeypatch):
    monkeypatch.setattr(blas, "MAX_PLANS", 2)
    for n in (1, 2, 3, 1, 2):
        x = on_host(np.ones((n, n), F32))
        assert (blas._by_cublas(LIBRARY, x, x, on_host(np.empty((n, n), F32)), None, None, False) == n).all()
        assert len(blas._devices[0].plans) <= 2


# ----- the function itself, on NumPy's arrays ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
@pytest.mark.parametrize("out_dtype", [None, F32, BF16], ids=str)
@pytest.mark.parametrize("lead", [(), (3,), (2, 3)], ids=str)
def test_on_numpy(numbers, dtype, out_dtype, lead):
    a, b = (numbers.standard_normal((*lead, *s)).astype(dtype) for s in ((5, 7), (7, 4)))
    expected, result = a.astype(float) @ b.astype(float), out_dtype or dtype
    product = matmul(a, b, out_dtype=out_dtype)
    assert product.dtype == result
    near(product, expected, result, 7)
    bias, alpha = numbers.standard_normal(4).astype(result), np.array([1.5], F32)
    near(matmul(a, b, out_dtype=out_dtype, bias=bias, alpha=alpha), 1.5 * expected + bias.astype(float), result, 16)
    whole = np.ones((*lead, 5, 6), result)
    out = whole[..., :4]
    assert matmul(a, b, out=out, accumulate=True) is out
    near(out, expected + 1, result, 16)
    assert (whole[..., 4:] == 1).all()


def test_empty_products():
    x = np.ones((3, 0), F32)
    assert (matmul(x, np.ones((0, 2), F32)) == 0).all()
    bias, out = np.array([1, 2], F32), np.ones((3, 2), F32)
    np.testing.assert_array_equal(matmul(x, np.ones((0, 2), F32), bias=bias, out=out, accumulate=True)[0], [2, 3])
    nothing = np.lib.stride_tricks.as_strided(np.zeros(8, F32), (0, 1), (0, 4))  # as CuPy's views of nothing are
    assert matmul(np.ones((0, 3), F32), np.ones((3, 1), F32), out=nothing) is nothing
    assert matmul(np.ones((0, 3), F32), np.ones((3, 2), F32)).shape == (0, 2)
    assert matmul(np.ones((4, 0, 3), F32), np.ones((4, 3, 2), F32)).shape == (4, 0, 2)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "sentence"),
    [
        (((2, 3), (4, 2)), {}, ValueError, "equal leading axes"),
        (((2, 2, 3), (3, 2)), {}, ValueError, "equal leading axes"),
        (((3,), (3, 2)), {}, ValueError, "equal leading axes"),
        (((2, 3), (3, 2)), {"bias": np.zeros(3, F32)}, ValueError, "bias must have shape"),
        (((2, 3), (3, 2)), {"bias": np.zeros(2, BF16)}, TypeError, "dtype of the result"),
        (((2, 3), (3, 2)), {"alpha": np.zeros(2, F32)}, ValueError, "one float32"),
        (((2, 3), (3, 2)), {"out_dtype": np.float64}, TypeError, "float32 or bfloat16"),
        (((2, 3), (3, 2)), {"out": np.zeros((3, 2), F32)}, ValueError, "row-major"),
        (((2, 3), (3, 2)), {"out": np.zeros((2, 2), F32).T}, ValueError, "row-major"),
        (((2, 3), (3, 2)), {"accumulate": True}, ValueError, "none was given"),
    ],
)
def test_refused(arguments, options, error, sentence):
    with pytest.raises(error, match=sentence):
        matmul(*(np.zeros(shape, F32) for shape in arguments), **options)


def test_refused_dtypes():
    for dtypes in ((np.float64, np.float64), (F32, BF16)):
        with pytest.raises(TypeError, match="both"):
            matmul(*(np.zeros((2, 2), dtype) for dtype in dtypes))


@pytest.mark.slow
def test_missing_says_what_to_do():
    assert not blas.missing() or "pip install" in blas.missing()


# ----- cublasLt itself --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gpu(cupy):
    if blas.missing():
        pytest.skip(blas.missing())
    return cupy


def pair(numbers, gpu, lead, M, K, N, transposed, dtype):
    """Operands on the GPU, transposed in memory where asked, with what their product should be."""
    a, b = (numbers.standard_normal((*lead, *s)).astype(dtype) for s in ((M, K), (K, N)))
    expected = a.astype(float) @ b.astype(float)
    given = [
        gpu.asarray(np.ascontiguousarray(x.swapaxes(-1, -2))).swapaxes(-1, -2) if t else gpu.asarray(x)
        for x, t in zip((a, b), transposed, strict=True)
    ]
    return given, expected


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
@pytest.mark.parametrize("out_dtype", [F32, BF16], ids=str)
@pytest.mark.parametrize("transposed", [(s, t) for s in (False, True) for t in (False, True)], ids=str)
@pytest.mark.parametrize(
    "sizes", [((), 64, 96, 128), ((), 33, 17, 5), ((), 1, 64, 7), ((6,), 40, 24, 56), ((2, 3), 9, 5, 1)], ids=str
)
def test_cublas(gpu, numbers, dtype, out_dtype, transposed, sizes):
    lead, M, K, N = sizes
    (a, b), expected = pair(numbers, gpu, lead, M, K, N, transposed, dtype)
    product = matmul(a, b, out_dtype=out_dtype)
    assert product.dtype == out_dtype
    near(product.get(), expected, out_dtype, K)
    bias, alpha = numbers.standard_normal(N).astype(out_dtype), np.array([-0.5], F32)
    with_bias = matmul(a, b, out_dtype=out_dtype, bias=gpu.asarray(bias), alpha=gpu.asarray(alpha))
    near(with_bias.get(), -0.5 * expected + bias.astype(float), out_dtype, K + 8, product=0.5 * expected)
    whole = gpu.ones((*lead, M, N + 8), out_dtype)
    out = whole[..., :N]
    matmul(a, b, out=out)
    near(out.get(), expected, out_dtype, K)
    matmul(a, b, out=out, accumulate=True)
    rounded = expected.astype(F32).astype(out_dtype).astype(float)
    np.testing.assert_allclose(out.get().astype(float), expected + rounded, rtol=2e-2 if out_dtype == BF16 else 1e-5,
                               atol=K * 1e-6 + (5e-2 if out_dtype == BF16 else 0))  # fmt: skip
    assert (whole[..., N:].get() == 1).all()


@pytest.mark.gpu
def test_cublas_copies_what_has_no_unit_stride(gpu, numbers):
    a, b = (numbers.standard_normal(s).astype(F32) for s in ((2, 5, 3, 8), (2, 3, 8, 4)))
    given = gpu.asarray(a).swapaxes(1, 2), gpu.asarray(b)
    near(matmul(*given).get(), a.swapaxes(1, 2).astype(float) @ b.astype(float), F32, 8)
    near(matmul(gpu.asarray(a[0, 0])[:, ::2], gpu.asarray(b[0, 0])[:4]).get(), a[0, 0][:, ::2] @ b[0, 0][:4], F32, 8)


@pytest.mark.gpu
def test_tf32_rounds_operands_and_float32_does_not(gpu, numbers):
    (a, b), expected = pair(numbers, gpu, (), 256, 256, 256, (False, True), F32)
    exact = abs(matmul(a, b).get() - expected).max()
    try:
        precision.set_matmul_dtype("tf32", "cuda")
        rounded = abs(matmul(a, b).get() - expected).max()
    finally:
        precision.set_matmul_dtype("float32", "cuda")
    assert exact < 1e-4 < rounded < 1e-1


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_cublas_gives_the_same_bits_again_and_in_a_cuda_graph(gpu, numbers, dtype):
    (a, b), _ = pair(numbers, gpu, (), 128, 768, 256, (False, True), dtype)
    bias, alpha, out = gpu.ones(256, dtype), gpu.asarray(np.array([2], F32)), gpu.empty((128, 256), dtype)

    def step():
        matmul(a, b, bias=bias, alpha=alpha, out=out)
        return matmul(out, b.T)  # (128, 256) @ (256, 768): its memory comes from CuPy's pool

    gpu.cuda.Device().synchronize()  # the stream below does not wait for the default one
    stream = gpu.cuda.Stream(non_blocking=True)
    with stream:
        first = step().get()
        np.testing.assert_array_equal(step().get().view(np.uint8), first.view(np.uint8))
        stream.begin_capture()
        result = step()
        graph = stream.end_capture()
        result.fill(0)
        a *= 1  # the graph reads what is there when it runs
        graph.launch(stream)
        np.testing.assert_array_equal(result.get().view(np.uint8), first.view(np.uint8))
        a += a
        graph.launch(stream)
        assert (result.get() != first).any()


@pytest.mark.gpu
def test_without_cublas_cupy_multiplies(cupy, numbers, monkeypatch):
    monkeypatch.setattr(blas, "missing", lambda: "switched off by this test")
    for lead, dtype in (((), F32), ((), BF16), ((2, 3), BF16)):
        (a, b), expected = pair(numbers, cupy, lead, 9, 8, 7, (False, True), dtype)
        bias = cupy.ones(7, dtype)
        near(matmul(a, b, bias=bias).get(), expected + 1, dtype, 16, product=expected)
