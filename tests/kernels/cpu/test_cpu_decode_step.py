"""A compiled step of one token, against the same formulas in float64; its threads, and what it refuses."""

import itertools
import math
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorlite
from tensorlite.devices import machine
from tensorlite.kernels.cpu import decode
from tensorlite.kernels.cpu.choose_impl import missing
from tensorlite.kernels.cpu.quantized import QuantizedMatrix

pytestmark = pytest.mark.skipif(bool(missing()), reason=f"the step is compiled: {missing()}")

EPS = 1e-5
KINDS = "float32", "bfloat16", "int8"


@pytest.fixture(autouse=True)
def every_size(monkeypatch):
    """The rules of when it pays are tested by themselves."""
    monkeypatch.setattr(decode, "MIN_WEIGHTS", 0)
    monkeypatch.setattr(machine, "WORTH_SPLITTING", 0)
    monkeypatch.setattr(decode, "CHUNK", 1)  # 4 rows at a time
    yield
    machine.set_threads(1)


class Model:
    """Random weights of a transformer: what TokenStep reads, and the same in float64."""

    def __init__(self, kind="float32", L=2, H=2, D=6, F=20, V=27, seed=0, bias=True):
        self.rng, self.kind, self.H, self.bias, C = np.random.default_rng(seed), kind, H, bias, H * D
        self.exact = []
        parts = lambda: decode.Layer(  # noqa: E731
            self.norm(C), *[self.matrix(C, C) for _ in range(4)], self.norm(C), self.matrix(F, C), self.matrix(C, F)
        )
        self.layers = [parts() for _ in range(L)]
        self.final, self.head = self.norm(C), self.matrix(V, C)
        self.step = decode.TokenStep(self.layers, self.final, self.head, H, EPS)

    def normal(self, *shape):
        return self.rng.standard_normal(shape, dtype=np.float32)

    def norm(self, C):
        return decode.Norm(1 + self.normal(C) / 3, self.normal(C))

    def matrix(self, n, k):
        weight, bias = self.normal(n, k) / math.sqrt(k), self.normal(n) if self.bias else None
        return decode.matrix(weight if self.kind == "float32" else QuantizedMatrix(weight, self.kind), bias)

    def cache(self, B, room):
        C = len(self.head.values[0])
        return [self.normal(B, self.H, room, C // self.H) for _ in self.layers]


def as_float64(m):
    """The matrix (N, K) that a Matrix stands for."""
    values = m.values
    if values.dtype == np.uint16:
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float64) * (1 if m.scales is None else m.scales[:, None].astype(np.float64))


def expected(model, x, keys, values, positions):
    """The scores, layer by layer and text by text, as the formulas say; keys and values are written to."""

    def linear(m, x):
        return as_float64(m) @ x + (0 if m.bias is None else m.bias)

    def norm(n, x):
        return (x - x.mean()) / np.sqrt(x.var() + EPS) * n.weight + n.bias

    scores = []
    for b, position in enumerate(positions):
        y = x[b].astype(np.float64)
        for layer, k, v in zip(model.layers, keys, values, strict=True):
            h = norm(layer.norm1, y)
            q, new_k, new_v = (linear(m, h).reshape(model.H, -1) for m in (layer.query, layer.key, layer.value))
            k[b, :, position], v[b, :, position] = new_k, new_v
            heads = []
            for head in range(model.H):
                dots = k[b, head, : position + 1].astype(np.float64) @ q[head] / math.sqrt(len(q[head]))
                w = np.exp(dots - dots.max())
                heads.append(w / w.sum() @ v[b, head, : position + 1])
            y = y + linear(layer.out, np.concatenate(heads))
            u = linear(layer.expand, norm(layer.norm2, y))
            y = y + linear(layer.contract, u * (1 + np.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3))) / 2)
        scores.append(linear(model.head, norm(model.final, y)))
    return np.array(scores)


@pytest.mark.parametrize("kind", KINDS)
@given(
    B=st.integers(1, 9), H=st.integers(1, 4), D=st.sampled_from([1, 3, 8, 17]), F=st.integers(1, 40),
    V=st.integers(1, 40), L=st.integers(1, 3), bias=st.booleans(), threads=st.integers(1, 3), seed=st.integers(0, 99),
    data=st.data(),
)  # fmt: skip
def test_scores_keys_and_values_are_those_of_the_formulas(kind, B, H, D, F, V, L, bias, threads, seed, data):
    machine.set_threads(threads)
    model = Model(kind, L, H, D, F, V, seed, bias)
    positions = data.draw(st.lists(st.integers(0, 6), min_size=B, max_size=B))
    x, keys, values = model.normal(B, H * D), model.cache(B, 7), model.cache(B, 7)
    their_keys, their_values = ([a.copy() for a in cache] for cache in (keys, values))
    before = x.copy()
    found = model.step(x, keys, values, positions)
    right = expected(model, x, their_keys, their_values, positions)
    np.testing.assert_allclose(found, right, rtol=1e-3, atol=1e-4 * np.abs(right).max())
    np.testing.assert_array_equal(x, before)
    for ours, theirs in zip([*keys, *values], [*their_keys, *their_values], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("B", [1, 3, 8])
def test_the_bits_are_the_same_on_any_number_of_threads_and_every_time(kind, B, monkeypatch):
    """Each thread takes other rows every time."""
    model = Model(kind, L=3, H=4, D=16, F=250, V=401)
    x, keys, values = model.normal(B, 64), model.cache(B, 9), model.cache(B, 9)
    first = model.step(x, keys, values, [5] * B)
    for threads, chunk in itertools.product((2, 3, 4), (1, 64 * 60)):
        machine.set_threads(threads)
        monkeypatch.setattr(decode, "CHUNK", chunk)
        for _ in range(40):
            np.testing.assert_array_equal(model.step(x, keys, values, [5] * B), first)


def test_texts_of_a_batch_do_not_affect_each_other():
    model = Model("float32", H=3, D=8)
    x, keys, values = model.normal(6, 24), model.cache(6, 9), model.cache(6, 9)
    positions = [0, 8, 3, 3, 1, 5]
    together = model.step(x, [k.copy() for k in keys], [v.copy() for v in values], positions)
    for b in range(6):
        part = slice(b, b + 1)
        one = model.step(x[part], [k[part].copy() for k in keys], [v[part].copy() for v in values], positions[part])
        np.testing.assert_allclose(one[0], together[b], rtol=1e-4, atol=1e-5)


def test_another_cache_is_used_and_positions_must_fit_it():
    model = Model()
    x = model.normal(1, 12)
    one, other = ([model.cache(1, room), model.cache(1, room)] for room in (4, 5))
    for keys, values in (one, other, one):
        right = expected(model, x, [k.copy() for k in keys], [v.copy() for v in values], [3])
        np.testing.assert_allclose(model.step(x, keys, values, [3]), right, rtol=1e-3, atol=1e-4)
    for wrong in ([-1], [4], [1, 2], []):
        with pytest.raises(IndexError, match=re.escape(f"positions must be 1 numbers from 0 to 3, got {wrong}")):
            model.step(x, *one, wrong)
    good, other = one[0], model.cache(1, 5)
    for cache in ([x.astype(np.float64) for x in good], [x[..., ::-1] for x in good], [good[0], other[0]], [good[0]]):
        with pytest.raises(ValueError, match=r"keys and values must be contiguous float32 \(1, 2, 4, 6\)|shorter"):
            model.step(x, good, cache, [3])
    with pytest.raises(ValueError, match="keys and values must be contiguous float32"):
        model.step(model.normal(1, 18), *one, [3])
    narrow = [model.normal(1, 2, 4, 5) for _ in model.layers]
    with pytest.raises(ValueError, match="x must have 12 channels, got 10"):
        model.step(model.normal(1, 10), narrow, narrow, [3])


def test_the_score_of_a_weight_that_is_nan_is_nan():
    model = Model()
    model.layers[0].out.values[0, 0] = np.nan
    assert np.isnan(model.step(model.normal(2, 12), model.cache(2, 4), model.cache(2, 4), [1, 2])).all()


# ----- threads that are not at hand ---------------------------------------------------------------------------------


def test_where_another_thread_uses_the_pool_one_thread_computes():
    model = Model(H=4, D=16)
    x, keys, values = model.normal(2, 64), model.cache(2, 9), model.cache(2, 9)
    right = model.step(x, keys, values, [5, 5])
    machine.set_threads(3)
    go, entered = threading.Event(), threading.Barrier(4)

    def hold(number):
        entered.wait(30)
        go.wait(30)

    user = threading.Thread(target=machine.in_threads, args=(hold, 3))
    user.start()
    entered.wait(30)  # the pool's threads are in use now
    np.testing.assert_array_equal(model.step(x, keys, values, [5, 5]), right)
    go.set()
    user.join()


@pytest.mark.parametrize("absent", [0, 1, 2])
def test_a_thread_that_does_not_come_is_not_waited_for(monkeypatch, absent):
    model = Model(H=4, D=16)
    x, keys, values = model.normal(2, 64), model.cache(2, 9), model.cache(2, 9)
    right = model.step(x, keys, values, [5, 5])
    machine.set_threads(3)
    real = machine.in_threads
    monkeypatch.setattr(
        machine, "in_threads", lambda function, count: real(lambda n: None if n == absent else function(n), count)
    )
    np.testing.assert_array_equal(model.step(x, keys, values, [5, 5]), right)


@pytest.mark.parametrize(("B", "readings"), [(1, 1), (4, 1), (5, 1.25), (8, 2)])
def test_threads_share_a_step_that_takes_long_enough(monkeypatch, B, readings):
    """That of up to four texts takes as long as reading the weights once."""
    model, counts = Model(kind="int8", L=1, H=2, D=4, F=12, V=30), []
    machine.set_threads(3)
    monkeypatch.setattr(machine, "in_threads", lambda part, count: counts.append(count) or part(0))
    weights = 4 * 8 * 8 + 2 * 8 * 12 + 8 * 30
    for more in (0, 1):
        monkeypatch.setattr(machine, "WORTH_SPLITTING", weights * readings / decode.BYTES_PER_NANOSECOND + more)
        model.step(model.normal(B, 8), model.cache(B, 2), model.cache(B, 2), [1] * B)
    assert counts == [3, 1]


# ----- compiled code that is kept on disk ---------------------------------------------------------------------------

STEP = """
import sys
sys.path[:0] = [{package!r}, {tests!r}]
from test_cpu_decode_step import Model, decode
decode.MIN_WEIGHTS = 0
model = Model(seed=3)
print(float(model.step(model.normal(1, 12), model.cache(1, 4), model.cache(1, 4), [2])[0, 0]))
"""


@pytest.mark.slow
def test_a_change_of_what_the_step_calls_is_not_missed(tmp_path):
    """numba keeps compiled code, and looks for changes in the file of the compiled function alone."""
    copy = tmp_path / "package" / "tensorlite"
    shutil.copytree(Path(tensorlite.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    code = STEP.format(package=str(copy.parent), tests=str(Path(__file__).parent))

    def score():
        command = [sys.executable, "-c", code]
        return float(subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path).stdout)

    first = score()
    assert score() == first
    file = copy / "kernels" / "cpu" / "numba_impl.py"
    text = file.read_text(encoding="utf-8")
    assert text.count("else scaled + bias[i]") == 1
    file.write_text(text.replace("else scaled + bias[i]", "else scaled + F(2) * bias[i]"), encoding="utf-8")
    assert abs(score() - first) > 0.01


# ----- when it is used ----------------------------------------------------------------------------------------------


def test_it_supports_contiguous_matrices_of_one_dtype_that_are_large_enough(monkeypatch):
    model = Model(F=40)
    all_of = lambda layers=model.layers, head=model.head: decode.supports(layers, model.final, head)  # noqa: E731
    assert all_of()
    first, *rest = model.layers
    weight = first.expand.values
    for other in (weight.astype(np.float64), np.asfortranarray(weight), weight.astype(np.float16)):
        assert not all_of([first._replace(expand=decode.Matrix(other)), *rest])
    assert not all_of(head=decode.Matrix(np.zeros(model.head.values.shape, np.int8), np.ones(27, np.float32)))
    assert not all_of([first._replace(norm1=decode.Norm(np.ones(24, np.float32)[::2], first.norm1.bias)), *rest])
    sizes = sum(m.values.size for layer in model.layers for m in layer if isinstance(m, decode.Matrix))
    monkeypatch.setattr(decode, "MIN_WEIGHTS", sizes + model.head.values.size)
    assert all_of()
    monkeypatch.setattr(decode, "MIN_WEIGHTS", sizes + model.head.values.size + 1)
    assert not all_of()
    monkeypatch.setattr(decode, "MIN_WEIGHTS", 0)
    monkeypatch.setattr(decode, "missing", lambda: "numba is not installed")
    assert not all_of()
