"""Attention on the GPU (kernels/cuda/attention.py, sdpa.py): what cuDNN is told, and that all ways give the same."""

import ctypes
import sys
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from emulator import emulated  # noqa: F401
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tensorlite import formulas as spec
from tensorlite.kernels.cuda import attention as kernels
from tensorlite.kernels.cuda import blas, sdpa

BF16 = np.dtype(ml_dtypes.bfloat16)
F32 = np.dtype(np.float32)
FEW = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def numbers():
    return np.random.default_rng(0)


def heads(numbers, B, H, T, D, dtype=BF16, split=True):
    """(B, H, T, D), heads between positions in memory where `split`."""
    x = numbers.standard_normal((B, T, H, D) if split else (B, H, T, D)).astype(dtype)
    return x.swapaxes(1, 2) if split else x


# ----- how arrays lie in memory -----------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 3), min_size=4, max_size=4), st.booleans(), st.integers(1, 3))
def test_results_lie_beside_what_they_belong_to(sizes, split, D):
    B, H, T, _ = sizes
    x = heads(np.random.default_rng(0), *sizes, split=split)
    made = sdpa.empty_in_layout_of(x, D)
    assert made.shape == (B, H, T, D)
    told = sdpa._result_like(sdpa.geometry(x.shape, x.strides, x.itemsize), D)
    assert told.shape == made.shape
    for n, step, stride in zip(made.shape, told.strides, made.strides, strict=True):
        assert n == 1 or step * made.itemsize == stride
    if split:
        assert np.shares_memory(made.swapaxes(1, 2).reshape(B, T, H * D), made)


def test_axes_of_one_element_get_a_stride_that_is_in_order():
    x = np.lib.stride_tricks.as_strided(np.zeros(64, BF16), (1, 2, 1, 8), (6, 16, 2, 2))
    assert sdpa.geometry(x.shape, x.strides, 2) == ((1, 2, 1, 8), (16, 8, 16, 1))


def test_what_cudnn_can_read(numbers):
    x = np.zeros((2, 5, 3, 3, 16), BF16)  # (B, T, which, H, D)
    part = x[:, :, 1].swapaxes(1, 2)  # (B, T, H, D) -> (B, H, T, D)
    aligned = part.ctypes.data % 16 == 0
    assert sdpa.is_readable(part) == aligned
    assert not sdpa.is_readable(part[..., ::2])
    assert not sdpa.is_readable(part.swapaxes(2, 3))
    assert not sdpa.is_readable(x[:, :, 1, :, 1:9].swapaxes(1, 2))
    assert not sdpa.is_readable(np.broadcast_to(part[:, :1], part.shape))
    assert not sdpa.is_readable(np.zeros((2, 3, 5, 12), BF16))  # rows at multiples of 24 bytes


# ----- what cuDNN is told: a stand-in of its own, on the host's memory --------------------------------------------


class OnHost(np.ndarray):
    """NumPy's array with the address where CuPy's has it."""

    @property
    def data(self):
        return SimpleNamespace(ptr=self.ctypes.data)


def on_host(x):
    """A view of memory at a multiple of 16 bytes, with the axes in the order of x's strides."""
    order = np.argsort([-s for s in x.strides], kind="stable")
    whole = empty([x.shape[i] for i in order], x.dtype)
    view = whole.transpose(np.argsort(order))
    view[...] = x
    return view


def empty(shape, dtype):
    n = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.empty(n + 16, np.uint8)
    start = -memory.ctypes.data % 16
    return memory[start : start + n].view(dtype).reshape(shape).view(OnHost)


LIBRARY = SimpleNamespace(
    __name__="host",
    empty=empty,
    ascontiguousarray=lambda x: on_host(np.ascontiguousarray(x)),
    cuda=SimpleNamespace(
        runtime=SimpleNamespace(getDevice=lambda: 0), get_current_stream=lambda: SimpleNamespace(ptr=7)
    ),
)


class Described:
    """A tensor of a graph: what the setters of cudnn's are told."""

    def __init__(self, dim=None, stride=None, data_type=None, uid=None, name=""):
        self.dim, self.stride, self.data_type, self.uid = dim, stride, data_type, uid

    def __getattr__(self, name):
        attribute = name.removeprefix("set_")
        return lambda value: (setattr(self, attribute, value), self)[1]

    def at(self, pointers):
        dtype, span = self.data_type, sum((n - 1) * s for n, s in zip(self.dim, self.stride, strict=True)) + 1
        memory = (ctypes.c_char * (span * dtype.itemsize)).from_address(pointers[self.uid])
        return np.ndarray(self.dim, dtype, memory, 0, [s * dtype.itemsize for s in self.stride])


class Declined(Exception):
    pass


class Pygraph:
    """A cudnn.pygraph that computes in float64."""

    def __init__(self, io_data_type, intermediate_data_type, compute_data_type, handle):
        assert (io_data_type, intermediate_data_type, compute_data_type, handle) == (BF16, F32, F32, "handle")

    tensor = staticmethod(Described)

    def sdpa(self, generate_stats, **given):
        assert generate_stats
        self.given, self.results = given, [Described(), Described()]
        return self.results

    def sdpa_backward(self, use_deterministic_algorithm, **given):
        assert use_deterministic_algorithm
        self.given, self.results = given, [Described() for _ in range(3)]
        return self.results

    def build(self, modes):
        assert modes == ["A", "FALLBACK"]
        if self.given["q"].dim[-1] == 24:
            raise Declined("no engine\nfor this")

    def get_workspace_size(self):
        return 5

    def execute(self, pointers, workspace, handle):
        assert workspace % 16 == 0
        assert handle == "handle"
        tensors = {k: x.at(pointers).astype(float) for k, x in self.given.items() if isinstance(x, Described)}
        q, k, v, scale = *(tensors[x] for x in "qkv"), self.given["attn_scale"]
        scores = q @ k.swapaxes(-1, -2) * scale
        T, S = scores.shape[-2:]
        if "diagonal_band_right_bound" in self.given:
            bottom = self.given["diagonal_alignment"] == "bottom right"
            seen = np.arange(S)[None, :] <= np.arange(T)[:, None] + (S - T if bottom else 0)
            scores = np.where(seen, scores, -np.inf)
        stats = np.log(np.exp(scores).sum(-1, keepdims=True))
        weights = np.exp(scores - stats)
        if "dO" not in tensors:
            results = weights @ v, stats
        else:
            np.testing.assert_allclose(tensors["stats"], stats, rtol=1e-6, atol=1e-6)
            g = tensors["dO"]
            dp = g @ v.swapaxes(-1, -2)
            ds = weights * (dp - (g * tensors["o"]).sum(-1, keepdims=True)) * scale
            results = ds @ k, ds.swapaxes(-1, -2) @ q, weights.swapaxes(-1, -2) @ g
        for tensor, value in zip(self.results, results, strict=True):
            assert tensor.output
            tensor.at(pointers)[...] = value


@pytest.fixture
def stand_in(monkeypatch):
    streams = []
    cudnn = SimpleNamespace(
        backend_version=lambda: 91000,
        data_type=SimpleNamespace(BFLOAT16=BF16, FLOAT=F32),
        heur_mode=SimpleNamespace(A="A", FALLBACK="FALLBACK"),
        diagonal_alignment=SimpleNamespace(TOP_LEFT="top left", BOTTOM_RIGHT="bottom right"),
        cudnnGraphNotSupportedError=Declined,
        create_handle=lambda: "handle",
        set_stream=lambda handle, stream: streams.append(stream),
        pygraph=Pygraph,
    )
    monkeypatch.setitem(sys.modules, "cudnn", cudnn)
    for name in ("_graphs", "_handles"):
        monkeypatch.setattr(sdpa, name, {})
    monkeypatch.setattr(sdpa, "missing", lambda: "")
    monkeypatch.setattr(sdpa, "xp", lambda x: LIBRARY)
    monkeypatch.setattr(kernels, "on_gpu", lambda x: True)
    return streams


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("lengths", [(4, 4), (3, 7), (1, 5)], ids=str)
def test_cudnn_is_told_what_lies_where(stand_in, numbers, is_causal, split, lengths):
    (T, S), options = lengths, {"is_causal": is_causal, "scale": 0.3}
    q, g, k, v = (on_host(heads(numbers, 2, 3, n, D, split=split)) for n, D in ((T, 8), (T, 16), (S, 8), (S, 16)))
    assert not sdpa.why_not(q, k, v, **options)
    out, stats = sdpa.forward(q, k, v, **options)
    assert stats.dtype == F32
    assert (out.strides[1] < out.strides[2]) == split
    expected, (dq, dk, dv) = in_float64(q, k, v, g, **options)
    np.testing.assert_allclose(out.astype(float), expected, rtol=1e-2, atol=1e-3)
    given = sdpa.empty_like(q, k, v)
    assert not sdpa.why_not_backward(g, q, k, v, out, given, **options)
    sdpa.backward(g, q, k, v, out, stats, given, **options)
    for x, gradient, wanted in zip((q, k, v), given, (dq, dk, dv), strict=True):
        assert gradient.shape == x.shape
        assert T == 1 or (gradient.strides[1] < gradient.strides[2]) == split
        np.testing.assert_allclose(gradient.astype(float), wanted, rtol=2e-2, atol=2e-2)
    assert len(sdpa._graphs) == 2
    assert stand_in == [7, 7]


def test_a_gradient_that_cannot_be_read_is_copied(stand_in, numbers):
    q, k, v = (on_host(heads(numbers, 1, 2, 4, 8)) for _ in range(3))
    out, stats = sdpa.forward(q, k, v, is_causal=True, scale=1.0)
    g = on_host(heads(numbers, 1, 2, 4, 8))
    turned = on_host(g.swapaxes(2, 3)[..., ::-1])[..., ::-1].swapaxes(2, 3)
    assert not sdpa.is_readable(turned)
    wanted, given = sdpa.empty_like(q, k, v), sdpa.empty_like(q, k, v)
    sdpa.backward(g, q, k, v, out, stats, wanted, is_causal=True, scale=1.0)
    sdpa.backward(turned, q, k, v, out, stats, given, is_causal=True, scale=1.0)
    for x, y in zip(given, wanted, strict=True):
        np.testing.assert_array_equal(x, y)


def test_what_cudnn_does_not_serve_is_said(stand_in, numbers):
    def why_not(T=4, S=4, D=8, dtype=BF16, is_causal=True):
        q, k = (on_host(heads(numbers, 1, 2, n, D, dtype)) for n in (T, S))
        return sdpa.why_not(q, k, k, is_causal=is_causal, scale=1.0)

    assert not why_not()
    assert "bfloat16" in why_not(dtype=F32)
    assert "multiple of 8" in why_not(D=12)
    assert "multiple of 8" in why_not(D=136)
    assert "are not (B, H, T, D)" in sdpa.why_not(*[np.ones((2, 4, 8), BF16)] * 3, is_causal=True, scale=1.0)
    assert "see no key" in why_not(T=5)
    assert not why_not(T=5, is_causal=False)
    assert "declined the forward of (1, 2, 4, 24) over (1, 2, 4, 24): no engine" in why_not(D=24)
    assert sdpa.declined() == [why_not(D=24)]
    q = on_host(heads(numbers, 1, 2, 4, 24))
    with pytest.raises(RuntimeError, match="ask why_not"):
        sdpa.forward(q, q, q, is_causal=True, scale=1.0)


def in_float64(q, k, v, g=None, keep=None, mask=None, **options):
    """The specification: out, and the gradients by q, k, v."""
    from tensorlite import Tensor

    q, k, v = (Tensor(np.array(x, float), requires_grad=True) for x in (q, k, v))
    out = spec.attention(q, k, v, keep, mask, **options)
    if g is None:
        return out.data, None
    out.backward(Tensor(np.array(g, float)))
    return out.data, [x.grad.data for x in (q, k, v)]


@pytest.mark.parametrize("lengths", [(1024, 1024), (100, 200), (1, 77)], ids=str)
def test_cudnn_itself_accepts_the_graphs(lengths):
    """Their description, on a machine that has the library, with a GPU or without."""
    if sdpa.missing():
        pytest.skip(sdpa.missing())
    T, S = lengths
    q, k = (sdpa.geometry((4, 12, n, 64), (n * 1536, 128, 1536, 2), 2) for n in (T, S))
    sdpa.describe_forward([q, k, k], True, 0.125, sm_version=90).validate()
    sdpa.describe_backward([q, k, k, q, q, q, k, k], True, 0.125, sm_version=90).validate()


# ----- both ways --------------------------------------------------------------------------------------------------


def by_kernels(q, k, v, g, keep=None, mask=None, needs=(True, True, True), **meta):
    """What kernels.attention and its rule give for what they serve."""
    assert kernels.supports_attention(q, k, v, keep, mask, **meta)
    out, kept = kernels.attention(q, k, v, keep, mask, **meta)
    is_causal, p, scale = (meta.get(x, y) for x, y in (("is_causal", False), ("dropout_p", 0.0), ("scale", None)))
    asked = q, k, v, keep, getattr(mask, "shape", ()), is_causal, p, scale, out
    pieces = kernels.attention_vjp(g, [*needs, False, False], *asked, kept["weights"], kept["used"], kept["stats"])
    assert pieces[3:] == (None, None)
    return out, pieces[:3], kept


def close(actual, expected, dtype):
    """Within the rounding of operands and result."""
    eps = 2.0**-7 if dtype == BF16 else 2.0**-20
    actual = actual.get() if hasattr(actual, "get") else actual
    size = abs(expected).max(initial=1e-30)
    np.testing.assert_allclose(actual.astype(float), expected, rtol=4 * eps, atol=2 * eps * size)


@FEW
@given(
    lead=st.sampled_from([(), (2,), (2, 3)]),
    lengths=st.sampled_from([(5, 5), (3, 8), (1, 6), (7, 4), (20, 20), (0, 3)]),
    split=st.booleans(),
    dtype=st.sampled_from([F32, BF16]),
    is_causal=st.booleans(),
    with_mask=st.sampled_from([None, "all", "row", "one"]),
    dropout_p=st.sampled_from([0.0, 0.25, 1.0]),
    scale=st.sampled_from([None, 0.5]),
    needs=st.lists(st.booleans(), min_size=3, max_size=3),
    seed=st.integers(0, 2**32 - 1),
)
@pytest.mark.usefixtures("emulated")
def test_products_and_softmax(lead, lengths, split, dtype, is_causal, with_mask, dropout_p, scale, needs, seed):
    rng, (T, S), D, E = np.random.default_rng(seed), lengths, 4, 6

    def some(n, d):
        if split and len(lead) == 2:
            return heads(rng, *lead, n, d, dtype)
        return rng.standard_normal((*lead, n, d)).astype(dtype)

    q, k, v, g = some(T, D), some(S, D), some(S, E), some(T, E)
    keep = rng.random((*lead, T, S)) >= dropout_p if dropout_p else None
    shapes = {"all": (*lead, T, S), "row": (T, S), "one": (1,) * len(lead) + (1, S)}
    mask = None if with_mask is None else rng.random(shapes[with_mask]) < 0.7
    meta = {"is_causal": is_causal, "dropout_p": dropout_p, "scale": scale}
    out, pieces, _ = by_kernels(q, k, v, g, keep, mask, needs, **meta)
    expected, gradients = in_float64(q, k, v, g, keep, mask, **meta)
    assert out.dtype == dtype
    close(out, expected, dtype)
    for x, piece, wanted, need in zip((q, k, v), pieces, gradients, needs, strict=True):
        assert (piece is not None) == need
        if need:
            assert piece.dtype == x.dtype
            close(piece, wanted, dtype)


@pytest.mark.usefixtures("emulated")
def test_no_key_at_all():
    q, k = np.ones((2, 3, 4, 8), F32), np.ones((2, 3, 0, 8), F32)
    out, (dq, dk, dv), _ = by_kernels(q, k, k, q)
    assert (out == 0).all()
    assert (dq == 0).all()
    assert dk.shape == dv.shape == k.shape


@pytest.mark.usefixtures("emulated")
def test_what_is_served(numbers):
    q, k = (heads(numbers, 2, 3, n, 8) for n in (4, 6))
    keep, mask = np.ones((2, 3, 4, 6), bool), np.ones((2, 1, 1, 6), bool)
    assert kernels.supports_attention(q, k, k, keep, mask, is_causal=True, dropout_p=0.1)
    assert not kernels.supports_attention(q, k, k, keep[:1], None)
    assert not kernels.supports_attention(q, k, k, None, mask.astype(F32))
    assert not kernels.supports_attention(q, k, k, None, np.ones((5, 2, 3, 4, 6), bool))
    assert not kernels.supports_attention(q, k, k, None, np.ones((4, 5), bool))
    assert not kernels.supports_attention(q, k[:1], k[:1])
    assert not kernels.supports_attention(q, k, k.astype(F32))
    assert not kernels.supports_attention(q, k[..., :4], k)
    assert not kernels.supports_attention(*(x.astype(np.float64) for x in (q, k, k)))
    assert not kernels.supports_attention(q[0, 0, 0], k, k)


def test_nothing_is_served_beside_a_gpu(numbers):
    q = heads(numbers, 2, 3, 4, 8)
    assert not kernels.supports_attention(q, q, q)


@pytest.mark.usefixtures("emulated")
def test_cudnn_takes_over_where_it_serves(stand_in, numbers):
    q, k, v, g = (on_host(heads(numbers, 1, 2, 16, 8)) for _ in range(4))
    out, pieces, kept = by_kernels(q, k, v, g, needs=(True, False, True), is_causal=True)
    assert kept["weights"] is None
    assert kept["stats"].shape == (1, 2, 16, 1)
    expected, gradients = in_float64(q, k, v, g, is_causal=True)
    close(out, expected, BF16)
    assert pieces[1] is None
    close(pieces[0], gradients[0], BF16)
    close(pieces[2], gradients[2], BF16)
    for few in (1, kernels.MIN_QUERIES - 1):
        _, kept = kernels.attention(q[:, :, :few], k, v, is_causal=True)
        assert kept["stats"] is None
    _, kept = kernels.attention(q, k, v, None, np.ones((16, 16), bool))
    assert kept["stats"] is None
    _, kept = kernels.attention(q, k, v, np.ones((1, 2, 16, 16), bool), dropout_p=0.5)
    assert kept["stats"] is None


@pytest.mark.usefixtures("emulated")
def test_a_backward_that_cudnn_declines_is_computed_from_the_scores(stand_in, numbers, monkeypatch):
    q, k, v, g = (on_host(heads(numbers, 1, 2, 16, 8)) for _ in range(4))
    monkeypatch.setattr(Pygraph, "sdpa_backward", lambda self, **given: (_ for _ in ()).throw(Declined("no backward")))
    _, pieces, kept = by_kernels(q, k, v, g, is_causal=True)
    assert kept["stats"] is not None
    for piece, wanted in zip(pieces, in_float64(q, k, v, g, is_causal=True)[1], strict=True):
        close(piece, wanted, BF16)
    assert "no backward" in kernels.about()["attention"]


# ----- heads side by side -----------------------------------------------------------------------------------------


def heads_by_kernels(qkv, g, n_head, keep=None, **meta):
    """What kernels.heads_attention and its rule give for what they serve."""
    assert kernels.supports_heads(qkv, keep, n_head=n_head, **meta)
    out, kept = kernels.heads_attention(qkv, keep, n_head=n_head, **meta)
    is_causal, p = meta.get("is_causal", False), meta.get("dropout_p", 0.0)
    stats = kept["weights"], kept["used"], kept["stats"]
    dqkv, nothing = kernels.heads_attention_vjp(g, (True, False), qkv, keep, n_head, is_causal, p, out, *stats)
    assert nothing is None
    return out, dqkv, kept


def heads_in_float64(qkv, g, n_head, keep=None, **meta):
    """Each head by itself, and its gradients where its columns are."""
    n = qkv.shape[2] // (3 * n_head)
    out, dqkv = np.zeros(g.shape), np.zeros(qkv.shape)
    for h in range(n_head):
        columns = [slice((i * n_head + h) * n, (i * n_head + h + 1) * n) for i in range(3)]
        q, k, v = (qkv[:, :, each] for each in columns)
        mine = None if keep is None else keep[:, h]
        out[:, :, columns[0]], pieces = in_float64(q, k, v, g[:, :, columns[0]], mine, **meta)
        for each, piece in zip(columns, pieces, strict=True):
            dqkv[:, :, each] = piece
    return out, dqkv


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
@pytest.mark.parametrize("dropout_p", [0.0, 0.25])
@pytest.mark.parametrize(("B", "T", "H", "D"), [(2, 20, 3, 4), (1, 3, 1, 8), (2, 1, 2, 2), (0, 4, 2, 3)])
@pytest.mark.usefixtures("emulated")
def test_heads_side_by_side(numbers, dtype, dropout_p, B, T, H, D):
    qkv, g = (numbers.standard_normal((B, T, n * H * D)).astype(dtype) for n in (3, 1))
    keep = numbers.random((B, H, T, T)) >= dropout_p if dropout_p else None
    meta = {"is_causal": True, "dropout_p": dropout_p}
    out, dqkv, _ = heads_by_kernels(qkv, g, H, keep, **meta)
    assert out.dtype == dqkv.dtype == dtype
    for got, wanted in zip((out, dqkv), heads_in_float64(qkv, g, H, keep, **meta), strict=True):
        close(got, wanted, dtype)


@pytest.mark.parametrize("declines", [False, True])
@pytest.mark.usefixtures("emulated")
def test_cudnn_reads_and_writes_heads_where_they_lie(stand_in, numbers, monkeypatch, declines):
    if declines:
        decline = lambda self, **given: (_ for _ in ()).throw(Declined("no backward"))  # noqa: E731
        monkeypatch.setattr(Pygraph, "sdpa_backward", decline)
    monkeypatch.setattr(kernels, "xp", lambda x: LIBRARY)
    qkv, g = (on_host(numbers.standard_normal((2, 16, n)).astype(BF16)) for n in (48, 16))
    out, dqkv, kept = heads_by_kernels(qkv, g, 2, is_causal=True)
    assert kept["weights"] is None
    assert out.flags.c_contiguous
    for got, wanted in zip((out, dqkv), heads_in_float64(qkv, g, 2, is_causal=True), strict=True):
        close(got, wanted, BF16)
    assert len(stand_in) == (1 if declines else 2)


def test_about_names_both_libraries():
    about = kernels.about()
    assert about["products"].startswith("cublasLt" if not blas.missing() else "CuPy's")
    assert about["attention"].startswith("cuDNN" if not sdpa.missing() else "products and softmax")


# ----- on a GPU ---------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
@pytest.mark.parametrize(
    ("T", "S", "D", "is_causal", "split"),
    [
        (128, 128, 64, True, True),
        (100, 100, 32, True, False),
        (64, 64, 64, False, True),
        (40, 200, 64, True, False),
        (16, 77, 32, True, True),
        (1, 77, 64, True, True),
    ],
)
def test_attention_on_a_gpu(numbers, dtype, T, S, D, is_causal, split):
    import cupy

    on_host = [heads(numbers, 2, 3, n, D, dtype, split) for n in (T, S, S, T)]
    q, k, v, g = (  # the same strides there
        cupy.asarray(x.swapaxes(1, 2)).swapaxes(1, 2) if split else cupy.asarray(x) for x in on_host
    )
    out, pieces, kept = by_kernels(q, k, v, g, is_causal=is_causal)
    if dtype == BF16 and T >= kernels.MIN_QUERIES and not sdpa.missing():
        assert kept["stats"] is not None, sdpa.declined()
        assert not sdpa.declined()
        assert (out.strides[1] < out.strides[2]) == split
    expected, gradients = in_float64(*on_host, is_causal=is_causal)
    close(out, expected, dtype)
    for piece, wanted in zip(pieces, gradients, strict=True):
        close(piece, wanted, dtype)
    _, again, _ = by_kernels(q, k, v, g, is_causal=is_causal)
    for one, two in zip(pieces, again, strict=True):
        np.testing.assert_array_equal(one.get(), two.get())


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
@pytest.mark.parametrize("dropout_p", [0.0, 0.2])
def test_heads_side_by_side_on_a_gpu(numbers, dtype, dropout_p):
    import cupy

    qkv, g = (numbers.standard_normal((2, 64, n)).astype(dtype) for n in (3 * 96, 96))
    keep = numbers.random((2, 3, 64, 64)) >= dropout_p if dropout_p else None
    meta = {"is_causal": True, "dropout_p": dropout_p}
    there = [None if x is None else cupy.asarray(x) for x in (qkv, g, keep)]
    out, dqkv, kept = heads_by_kernels(*there[:2], 3, there[2], **meta)
    if dtype == BF16 and not dropout_p and not sdpa.missing():
        assert kept["stats"] is not None, sdpa.declined()
        assert not sdpa.declined()
    for got, wanted in zip((out, dqkv), heads_in_float64(qkv, g, 3, keep, **meta), strict=True):
        close(got, wanted, dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_dropout_and_masks_on_a_gpu(numbers, dtype):
    import cupy

    q, k, v, g = (heads(numbers, 2, 3, 32, 16, dtype) for _ in range(4))
    keep, mask = numbers.random((2, 3, 32, 32)) < 0.8, numbers.random((2, 1, 1, 32)) < 0.8
    meta = {"is_causal": True, "dropout_p": 0.2}
    out, pieces, _ = by_kernels(*map(cupy.asarray, (q, k, v, g, keep, mask)), **meta)
    expected, gradients = in_float64(q, k, v, g, keep, mask, **meta)
    close(out, expected, dtype)
    for piece, wanted in zip(pieces, gradients, strict=True):
        close(piece, wanted, dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_attention_in_a_cuda_graph(numbers, dtype):
    import cupy

    q, k, v, g = (cupy.asarray(heads(numbers, 2, 3, 64, 64, dtype)) for _ in range(4))
    cupy.cuda.Device().synchronize()  # the stream below does not wait for the default one
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        wanted = [x.get() for x in by_kernels(q, k, v, g, is_causal=True)[1]]
        stream.begin_capture()
        pieces = by_kernels(q, k, v, g, is_causal=True)[1]
        graph = stream.end_capture()
        for x in pieces:
            x.fill(0)
        graph.launch(stream)
        for x, y in zip(pieces, wanted, strict=True):
            np.testing.assert_array_equal(x.get(), y)
