"""The kernels where they split their work: whatever the blocks, tiles and threads, the numbers of the specification."""

import inspect
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tensorlite as tl
from tensorlite import formulas
from tensorlite import functional as F
from tensorlite.devices import machine
from tensorlite.kernels import cpu, table
from tensorlite.kernels.cpu import attention as attention_kernel
from tensorlite.kernels.cpu import blocks, choose_impl, onednn
from tensorlite.kernels.cuda import decode, launch, philox

few = settings(max_examples=max(5, settings().max_examples // 5))
SIDE = st.integers(1, 5)
MANY = st.sampled_from([0, 1, 2, 7, 15, 16, 17, 40])
LEAD = st.lists(st.integers(1, 3), max_size=2).map(tuple)


@st.composite
def linears(draw):
    lead, i, o = draw(LEAD), draw(SIDE), draw(SIDE)
    return "linear", [(*lead, draw(MANY), i), (o, i), *[(o,)] * draw(st.booleans())], {}


@st.composite
def norms(draw):
    C = draw(SIDE)
    return "layer_norm", [(*draw(LEAD), draw(MANY), C), *[(C,)] * draw(st.integers(0, 2))], {"eps": 0.1}


@st.composite
def gelus(draw):
    return "gelu", [(*draw(LEAD), draw(MANY), draw(SIDE))], {}


@st.composite
def losses(draw):
    N, C = draw(MANY), draw(SIDE)
    targets = np.random.default_rng(draw(st.integers(0, 99))).integers(-1, C, N)
    meta = {"ignore_index": -1, "reduction": draw(st.sampled_from(["mean", "sum"]))}
    return "cross_entropy", [(N, C)], meta | {"targets": targets}


@st.composite
def heads(draw):
    lead, N, V, D = draw(LEAD), draw(MANY), draw(st.integers(1, 9)), draw(SIDE)
    targets = np.random.default_rng(draw(st.integers(0, 99))).integers(-1 if draw(st.booleans()) else 0, V, (*lead, N))
    meta = {"ignore_index": -1, "reduction": draw(st.sampled_from(["mean", "sum"]))}
    return "linear_cross_entropy", [(*lead, N, D), (V, D)], meta | {"targets": targets}


@st.composite
def attentions(draw):
    """Heads that share keys, more keys than positions and the other way around, masks of each kind."""
    lead, few_keys = draw(LEAD), draw(st.booleans())
    T, S = draw(st.integers(0, 9)), draw(st.integers(1, 9))
    S, D = (S if few_keys else S + T), draw(SIDE)
    shared = (*lead[:-1], 1) if lead and draw(st.booleans()) else lead
    shapes = [(*lead, T, D), (*shared, S, D), (*shared, S, draw(SIDE))]
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    meta = {"is_causal": draw(st.booleans()), "dropout_p": draw(st.sampled_from([0.0, 0.5]))}
    meta["scale"] = draw(st.sampled_from([None, 0.5]))
    kind = draw(st.sampled_from(["none", "boolean", "added", "added by row"]))
    if kind == "boolean":
        meta["mask"] = rng.random((T, S)) < 0.7
    elif kind != "none":
        shapes.append((T, S) if kind == "added" else (*lead, T, 1))
    return "attention", shapes, meta


@st.composite
def projections(draw):
    lead, i, sides = draw(LEAD), draw(SIDE), [draw(SIDE) for _ in range(3)]
    biases = [(o,) for o in sides] * draw(st.booleans())
    return "projections", [(*lead, draw(MANY), i), *[(o, i) for o in sides], *biases], {}


@st.composite
def heads_of_attention(draw):
    B, T, H, D = draw(st.integers(0, 3)), draw(st.integers(0, 9)), draw(st.integers(1, 3)), draw(SIDE)
    meta = {"n_head": H, "is_causal": draw(st.booleans()), "dropout_p": draw(st.sampled_from([0.0, 0.5]))}
    return "multi_head_attention", [(B, T, 3 * H * D)], meta


def results(layers, name, xs, meta, seed, needs=(True,) * 7):
    """The value, and the gradient by each array that needs one, under a random incoming gradient."""
    tensors, meta = [tl.Tensor(x, requires_grad=need) for x, need in zip(xs, needs, strict=False)], dict(meta)
    if "targets" in meta:
        out = getattr(layers, name)(*tensors, meta.pop("targets"), **meta)
    elif name == "attention":
        q, k, v, *added = tensors
        mask = added[0] if added else meta.pop("mask", None)
        generator = tl.Generator(seed)
        out = layers.scaled_dot_product_attention(q, k, v, mask=mask, generator=generator, **meta)
    elif name == "multi_head_attention":
        out = layers.multi_head_attention(*tensors, generator=tl.Generator(seed), **meta)
    else:
        out = getattr(layers, name)(*tensors, **meta)
    g = np.random.default_rng(seed).standard_normal(out.shape).astype(out.dtype)
    if out.requires_grad:
        out.backward(g)
    return [out, *[x.grad for x in tensors]]


SPLITS = [
    (block, threads, "numpy_impl") for block, threads in ((1, 1), (1, 2), (40, 1), (40, 2), (40, 3), (1 << 17, 1))
]


@pytest.fixture(params=[*SPLITS, (1, 2, "numba_impl"), (40, 2, "numba_impl")], ids=str)
def split(request, monkeypatch):
    """So many elements a block, so many threads, by NumPy or numba; all work is worth splitting."""
    block, threads, by = request.param
    if by == "numba_impl" and choose_impl.missing():
        pytest.skip(choose_impl.missing())
    monkeypatch.setattr(choose_impl, "MIN_SIZE", 0 if by == "numba_impl" else math.inf)
    monkeypatch.setattr(blocks, "BLOCK", block)
    monkeypatch.setattr(cpu.losses, "MIN_CLASSES", max(1, block // 16))
    monkeypatch.setattr(attention_kernel, "TILE_SCORES", block)
    monkeypatch.setattr(attention_kernel, "TILE_QUERIES", max(1, block // 8))
    monkeypatch.setattr(attention_kernel, "FEW_SCORES", 0)
    monkeypatch.setattr(attention_kernel, "MANY_QUERIES", 3)
    monkeypatch.setattr(machine, "WORTH_SPLITTING", -1)
    machine.set_threads(threads)
    yield
    machine.set_threads(1)


LAYERS = [linears, projections, norms, gelus, losses, heads, attentions, heads_of_attention]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", LAYERS)
def test_blocks_tiles_and_threads_change_no_number(strategy, split):
    @few
    @given(layer=strategy(), seed=st.integers(0, 99), dtype=st.sampled_from([np.float64, np.float32]))
    def check(layer, seed, dtype):
        name, shapes, meta = layer
        rng = np.random.default_rng(seed)
        xs = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
        tolerance = 1e-9 if dtype is np.float64 else 1e-4
        fast = results(F, name, xs, meta, seed)
        for got, expected in zip(fast, results(formulas, name, xs, meta, seed), strict=True):
            assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
            np.testing.assert_allclose(got.data, expected.data, rtol=tolerance, atol=tolerance)
        needs = [bool(seed >> i & 1) for i in range(len(xs))]
        _, *some = results(F, name, xs, meta, seed, needs)
        for got, need, part in zip(fast[1:], needs, some, strict=True):
            assert need == (part is not None)
            assert part is None or np.allclose(part.data, got.data, rtol=tolerance, atol=tolerance)
        for got, again in zip(fast, results(F, name, xs, meta, seed), strict=True):
            np.testing.assert_array_equal(got.data, again.data)
        with tl.no_grad():
            np.testing.assert_array_equal(results(F, name, xs, meta, seed)[0].data, fast[0].data)

    check()


@pytest.mark.parametrize("threads", [1, 2])
def test_attention_keeps_its_weights_only_for_a_derivative(threads, monkeypatch):
    """The same bits without them, in the memory of a few tiles instead of B H T T numbers."""
    machine.set_threads(threads)
    qkv = tl.tensor(
        np.random.default_rng(0).standard_normal((6, 512, 3 * 8 * 4)).astype(np.float32), requires_grad=True
    )

    def run():
        tracemalloc.start()
        out = F.multi_head_attention(qkv, 8, is_causal=True)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return out.numpy(), peak

    try:
        for _ in range(2):
            with tl.no_grad():
                out, little = run()  # the second time, each thread has the memory of a tile
        expected, much = run()
    finally:
        machine.set_threads(1)
    np.testing.assert_array_equal(out, expected)
    weights = 6 * 8 * 512 * 512 * 4
    assert much > weights / 2 > 8 * little


def test_the_best_of_each_row_here_and_on_a_gpu(monkeypatch):
    x = np.random.default_rng(0).standard_normal((2, 3, 7))
    for here in (x, tl.tensor(x)):
        found = F.argmax(here)
        assert isinstance(found, tl.Tensor) == (here is not x)
        np.testing.assert_array_equal(np.asarray(found.tolist()), x.argmax(axis=-1))
    monkeypatch.setattr(decode, "supports_argmax", lambda x: True)
    monkeypatch.setattr(decode, "argmax", lambda x: np.array([*x.shape, type(x) is np.ndarray]))
    on_gpu = table.kernel_op("argmax", table.ROWS["argmax"][1])
    for here, kind in ((x, np.ndarray), (tl.tensor(x), tl.Tensor)):
        assert type(on_gpu(here)) is kind
        assert on_gpu(here).tolist() == [2, 3, 7, 1]


def test_a_mask_on_a_gpu_comes_from_the_generators_other_stream(monkeypatch):
    asked = []
    monkeypatch.setattr(tl.default_generator, "_gpu", None)  # restored afterwards: NumPy's arrays are no GPU's
    monkeypatch.setattr(launch, "on_gpu", lambda x: True)
    monkeypatch.setattr(philox, "keep_mask", lambda *args: asked.append(args) or np.ones(args[2], bool))
    for generator in (tl.Generator(3), None):
        for x in (tl.tensor(X), X):
            assert F.IMPLEMENTATIONS["keep_mask"].gpu(x, (2, 3), 0.5, generator).all()
        for state, *rest in asked:
            assert state is (generator or tl.default_generator).gpu_state(np)
            assert rest == [0.5, (2, 3)]
        assert len(asked) == 2
        asked.clear()


def test_gelu_at_0_is_no_reason_for_a_warning(recwarn):
    x = tl.tensor([0.0, -0.0, 1.0], requires_grad=True)
    F.gelu(x).sum().backward()
    np.testing.assert_allclose(x.grad.data[:2], 0.5)
    assert not recwarn.list


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("T", [0, 1, 3])
def test_attention_to_nothing_is_zero(T, is_causal):
    for lead in ((), (2,), (3, 2)):
        xs = [np.ones((*lead, n, 2)) for n in (T, 0, 0)]
        for layers in (F, formulas):
            out, *gradients = results(layers, "attention", xs, {"is_causal": is_causal}, 0)
            np.testing.assert_array_equal(out.data, xs[0] * 0)
            for x, gradient in zip(xs, gradients, strict=True):
                np.testing.assert_array_equal(gradient.data, x * 0)


@pytest.mark.parametrize(("lead", "place"), [((), 0), ((2,), 0), ((2,), 1), ((3, 2), 0), ((3, 2), 1), ((2, 3, 2), 1)])
def test_attention_leaves_axes_where_they_lie_in_memory(lead, place):
    """Heads are split off by moving an axis, and joined without a copy: of the result, and of each gradient."""
    rng, shape = np.random.default_rng(0), (*lead, 2)
    xs = [np.moveaxis(rng.standard_normal((*shape[:place], n, *shape[place:])), place, -2) for n in (4, 5, 5)]
    got = results(F, "attention", xs, {"is_causal": True}, 0)
    for fast, slow in zip(got, results(formulas, "attention", xs, {"is_causal": True}, 0), strict=True):
        np.testing.assert_allclose(fast.data, slow.data, rtol=1e-9, atol=1e-9)
        assert np.moveaxis(fast.data, -2, place).flags.c_contiguous or len(lead) == 3


@pytest.mark.parametrize(("lead", "more"), [((), (2,)), ((2,), (3, 2)), ((1, 1), (1, 1, 2)), ((2, 1), (3, 2, 1))])
@pytest.mark.parametrize("T", [1, 2])
def test_attention_broadcasts_each_argument(lead, more, T):
    rng = np.random.default_rng(0)
    for leads in ([lead, lead, more], [lead, more, lead], [more, lead, lead], [lead, more, more], [more, more, lead]):
        xs = [rng.standard_normal((*axes, n, 3)) for axes, n in zip(leads, (T, 4, 4), strict=True)]
        got = results(F, "attention", xs, {}, 0)
        for fast, slow in zip(got, results(formulas, "attention", xs, {}, 0), strict=True):
            np.testing.assert_allclose(fast.data, slow.data, rtol=1e-9, atol=1e-9)


def test_where_bfloat16_pays_every_operand_is_rounded_once(monkeypatch):
    """float16 plays bfloat16, and NumPy oneDNN: who asks about which products, and what they are then made of."""
    asked, products, rounded = set(), [], []

    def is_worthwhile(a, b):
        asked.add((*a.shape, b.shape[1]))
        return True

    def matmul(a, b, out):
        assert (a.dtype, b.dtype, out.dtype) == (np.float16, np.float16, np.float32)
        products.append(out.shape)
        out[...] = a.astype(np.float32) @ b.astype(np.float32)
        return out

    def to_bf16(x, out=None, split=True):
        assert x.dtype == np.float32
        rounded.append(x.shape)
        return x.astype(np.float16)

    for name, small in (("is_worthwhile", is_worthwhile), ("matmul", matmul), ("to_bf16", to_bf16)):
        monkeypatch.setattr(onednn, name, small)
    monkeypatch.setattr(cpu.losses, "MIN_CLASSES", 2)
    monkeypatch.setattr(blocks, "BLOCK", 1)
    rng = np.random.default_rng(0)
    for rows in (5, 20):
        shapes = [(rows, 3), (4, 3), (4,)]
        x, weight, bias = (rng.integers(-2, 3, shape).astype(np.float32) for shape in shapes)
        forward, by_x, by_weight = (rows, 3, 4), (rows, 4, 3), (4, rows, 3)
        for name, xs, meta, large, count in [
            ("linear", [x, weight, bias], {}, {forward, by_x, by_weight}, 3),
            ("linear", [x, weight], {}, {forward, by_x, by_weight}, 3),
            ("linear_cross_entropy", [x, weight], {"targets": np.arange(rows) % 4}, {forward}, 6),
        ]:
            for each in (asked, products, rounded):
                each.clear()
            got = results(F, name, xs, meta, 0)
            assert (asked, len(products)) == (large, count)
            if name == "linear":  # x and the weight for the forward pass, then also the incoming gradient
                assert sorted(rounded) == sorted([(rows, 3), (3, 4), (rows, 4), (4, 3), (rows, 3)])
            for fast, slow in zip(got, results(formulas, name, xs, meta, 0), strict=True):
                np.testing.assert_allclose(fast.data, slow.data, rtol=5e-3, atol=5e-3)


# ----- how work is cut ----------------------------------------------------------------------------------------------

FEW = st.integers(0, 7)
LIMIT = st.sampled_from([1, 2, 7, 40, 1 << 18])


def test_few_scores_are_one_group_of_tiles():
    assert len(attention_kernel._tiles(1, 4, 8, 8, True, 8)) == 1


@pytest.mark.parametrize(("count", "B", "H", "T", "groups"), [
    (1, 4, 12, 256, 4), (2, 1, 4, 512, 2), (2, 4, 12, 256, 4), (8, 4, 12, 256, 8), (8, 1, 12, 512, 12),
    (8, 5, 12, 256, 10), (16, 4, 12, 256, 16), (16, 1, 12, 512, 12), (2, 1, 4, 128, 1), (2, 12, 4, 64, 2),
])  # fmt: skip
def test_every_thread_gets_some_heads_where_there_is_enough_work(count, B, H, T, groups):
    """Also of a single sequence; where threads cannot share the work, tiles are as large as a cache allows."""
    machine.set_threads(count)
    try:
        assert len(attention_kernel._tiles(B, H, T, T, True, 64)) == groups
        inside = machine.in_threads(lambda thread: len(attention_kernel._tiles(B, H, T, T, True, 64)), 2)
    finally:
        machine.set_threads(1)
    assert inside == [len(attention_kernel._tiles(B, H, T, T, True, 64))] * 2  # each of them computes all of it


LEAST = 1, 2, 5  # groups


@pytest.mark.slow
@settings(max_examples=5 * settings().max_examples)  # each takes milliseconds
@given(
    B=st.sampled_from([0, 1, 2, 5, 12]), H=FEW, T=FEW, S=FEW, is_causal=st.booleans(), limit=LIMIT,
    positions=st.sampled_from([1, 2, 9]),
)  # fmt: skip
def test_tiles_hold_each_score_that_may_be_seen_once_and_fit_a_cache(B, H, T, S, is_causal, limit, positions):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention_kernel, "TILE_SCORES", limit)
        patch.setattr(attention_kernel, "TILE_QUERIES", positions)
        patch.setattr(attention_kernel, "FEW_SCORES", 0)
        found = []
        for least in LEAST:
            patch.setattr(attention_kernel, "splits", lambda n, nanoseconds, least=least: n >= least)
            patch.setattr(attention_kernel, "threads", lambda least=least: least)
            found.append(attention_kernel._tiles(B, H, T, S, is_causal, 8))
    places = [
        check_tiles(pieces, B, H, T, S, is_causal, limit, positions, least if least <= B * H else 1)
        for pieces, least in zip(found, LEAST, strict=True)
    ]
    for place in places[1:]:
        np.testing.assert_array_equal(place, places[0])  # whatever the threads are when the weights are read again


def check_tiles(pieces, B, H, T, S, is_causal, limit, positions, least):
    """Where each score lies in memory, -1 for those that are not computed."""
    times, place = np.zeros((B, H, T, S), int), np.full((B, H, T, S), -1)
    for piece in pieces:
        for tile in piece:
            there = times[tile.queries][..., tile.keys[2]]
            assert (there.shape, tile.keys[:2]) == (tile.shape, piece[0].queries[:2])
            assert tile.first == (tile is piece[0])
            assert tile.keys[2] == slice(0, tile.shape[3])
            assert tile.shape[3] == (max(0, S - T + tile.queries[2].stop) if is_causal else S)
            there += 1
            place[tile.queries][..., tile.keys[2]] = np.arange(tile.at.start, tile.at.stop).reshape(tile.shape)
    end = times.sum()
    assert attention_kernel._number_of_scores(pieces) == end
    np.testing.assert_array_equal(np.sort(place[place >= 0]), np.arange(end))  # no gap between them
    assert (times <= 1).all()
    assert (times[..., np.tri(T, S, S - T, dtype=bool) if is_causal else np.ones((T, S), bool)] == 1).all()
    if not end:
        return place
    b, h, t, _ = pieces[0][0].shape  # the largest: only what is left over is smaller
    assert all(tile.shape[2] == t for piece in pieces for tile in piece[:-1])
    assert t == 1 or (t <= positions if is_causal else t * S <= limit)
    assert t == T or (t == positions if is_causal else (t + 1) * S > limit)
    assert h == 1 or (h - 1) * t * S <= 1.5 * limit  # about the limit, in groups of the same number of heads
    assert h == H or least > B or h * t * S >= 0.75 * limit
    assert b == 1 or (b * H * t * S <= limit and b * least <= B)
    assert (b + 1) * H * t * S > limit or (b + 1) * least > B
    assert len(pieces) >= min(least, B * H)
    return place


SIZE = st.integers(0, 40)


@given(n=SIZE, width=SIZE, limit=LIMIT, least=st.sampled_from([1, 3, 64]))
def test_blocks_hold_each_row_once_and_fit_a_cache(n, width, limit, least):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK", limit)
        patch.setattr(cpu.losses, "MIN_CLASSES", least)
        rows = blocks.for_blocks(lambda part: part, np.empty((n, width)), cost=1.0)
        classes = cpu.losses._class_slices(width, n)
    for cut, room, at_least in ((rows, limit, 1), (classes, 2 * limit, least)):
        assert [i for part in cut for i in range(part.start, part.stop)] == list(range(n))
        fits, sizes = max(at_least, room // max(1, width)), [part.stop - part.start for part in cut]
        if cut is classes and 2 * least <= n <= fits:  # all would fit, but two threads want work
            fits = math.ceil(n / 2)
        assert all(size == fits for size in sizes[:-1])
        assert all(size <= fits for size in sizes)


# ----- who computes -----------------------------------------------------------------------------------------------


class Other(np.ndarray):
    """No longer just an array in main memory."""


X, W, ROW = np.ones((2, 3)), np.ones((4, 3)), np.ones(3)
X32, W32, HALF, NO_AXIS = X.astype(np.float32), W.astype(np.float32), X.astype(np.float16), np.array(1.0)
IDS, BYTES = np.array([1, 0]), np.array([1, 0], np.uint8)
P3, P4 = np.full((2, 3), 1 / 3), np.full((2, 4), 0.25)
QKV = np.linspace(-1, 1, 36).reshape(2, 3, 6)
GENERATOR = {"dropout_p": 0.5, "generator": tl.Generator(0)}
CALLS = {  # (whether the kernel supports it, the arguments that need a gradient, the others, options)
    "linear": [
        (True, [X, W], []), (True, [X, W, np.ones(4)], []), (True, [X32, W32], []), (True, [ROW, W], []),
        (False, [X32, W], []), (False, [X, W32], []), (False, [X, W, np.ones(4, np.float32)], []),
        (False, [HALF, HALF], []), (False, [X.view(Other), W], []), (False, [X, W.view(Other)], []),
    ],
    "projections": [
        (True, [X, W, ROW[None], W], []), (True, [X, W, W, W, *[np.ones(4)] * 3], []), (True, [X32, W32, W32, W32], []),
        (False, [X, W, W, W, np.ones(4)], []), (False, [X, W, W32, W], []), (False, [X32, W, W, W], []),
        (False, [X, W, W, W, *[np.ones(4)] * 2, np.ones(4, np.float32)], []), (False, [HALF] * 4, []),
    ],
    "heads_attention": [
        (True, [QKV], [], {"n_head": 1}), (True, [QKV.astype(np.float32)], [], {"n_head": 2, "is_causal": True}),
        (True, [QKV], [np.ones((2, 2, 3, 3), bool)], {"n_head": 2, "dropout_p": 0.5}),
        (False, [QKV.astype(np.float16)], [], {"n_head": 2}), (False, [QKV.view(Other)], [], {"n_head": 2}),
    ],
    "embedding": [(True, [W], [IDS]), (True, [W32], [BYTES]), (False, [HALF], [IDS])],
    "layer_norm": [
        (True, [X], []), (True, [X32, ROW.astype(np.float32)], []), (True, [X, ROW, ROW], []),
        (True, [X], [], {"eps": 1.0}), (True, [X], [], {"weight": ROW}), (False, [X32], [], {"weight": ROW}),
        (False, [X32, ROW], []), (False, [X, ROW, ROW.astype(np.float32)], []), (False, [HALF], []),
    ],
    "gelu": [
        (True, [X], []), (True, [X32], []), (True, [X], [], {"approximate": "tanh"}),
        (False, [X], [], {"approximate": "none"}),
        (False, [HALF], []), (False, [NO_AXIS], []),
    ],
    "apply_dropout_mask": [
        (True, [X], [X > 0], {"p": 0.5}), (True, [X32], [X > 0], {"p": 1.0}), (False, [HALF], [X > 0], {"p": 0.5}),
    ],
    "attention": [
        (True, [X, X, X], []), (True, [X32, X32, X32], []), (True, [X, X, X], [], {"is_causal": True}),
        (True, [X, X, X], [], {"mask": np.ones((2, 2), bool)}), (True, [X, X, X], [], {"mask": np.ones((2, 2))}),
        (True, [X, X, X], [], GENERATOR), (True, [X, X, X], [], {"mask": tl.tensor(np.eye(2) > 0), "is_causal": True}),
        (False, [X, X, X32], []), (False, [X, X, X], [], {"mask": np.ones((2, 2), np.float32)}),
        (False, [HALF, HALF, HALF], []),
    ],
    "cross_entropy": [
        (True, [X], [IDS]), (True, [X32], [BYTES]), (True, [X], [IDS], {"reduction": "sum", "ignore_index": 0}),
        (True, [X], [IDS], {"label_smoothing": 0.0, "weight": None}),
        (False, [X], [IDS], {"reduction": "none"}), (False, [X], [IDS], {"label_smoothing": 0.1}),
        (False, [X], [IDS], {"weight": ROW}), (False, [X], [P3]), (False, [HALF], [IDS]),
    ],
    "linear_cross_entropy": [
        (True, [X, W], [IDS]), (True, [X32, W32], [BYTES]),
        (True, [X, W], [IDS], {"reduction": "sum", "ignore_index": 0}),
        (False, [X, W], [IDS], {"reduction": "none"}), (False, [X, W], [P4]), (False, [X, W32], [IDS]),
        (False, [HALF, HALF], [IDS]),
    ],
}  # fmt: skip


def arguments(function):
    """Names and defaults."""
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize("name", CALLS)
def test_who_computes(name):
    """The kernel, wherever it can: in main memory, in one dtype of float32 and float64; otherwise the specification."""
    op, function = F.IMPLEMENTATIONS[name].cpu, "scaled_dot_product_attention" if name == "attention" else name
    kernel = next(vars(module)[name] for module in (cpu.layers, cpu.losses, attention_kernel) if name in vars(module))
    assert arguments(kernel) == arguments(getattr(formulas, name))
    for served, leaves, rest, *options in CALLS[name]:
        meta = options[0] if options else {}

        def call(layers, xs, rest=rest, meta=meta):
            return getattr(layers, function)(*xs, *rest, **meta)

        tensors = [tl.Tensor(x, requires_grad=True) for x in leaves]
        assert (call(F, tensors).node.op is op) == served, (leaves, rest, meta)
        with tl.unfused():
            assert call(F, tensors).node.op is not op
        if "generator" not in meta:
            expected = call(formulas, tensors).data
            np.testing.assert_allclose(call(F, tensors).data, expected, rtol=1e-5)
            if not any(isinstance(value, tl.Tensor) for value in meta.values()):
                for layers in (F, formulas):  # arrays in, an array out
                    np.testing.assert_allclose(np.asarray(call(layers, leaves)), expected, rtol=1e-5)
