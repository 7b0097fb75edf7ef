"""Products in bfloat16: rounding as ml_dtypes rounds, products as float64 computes them from the rounded operands."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import functional as F
from tensorlite.devices import machine
from tensorlite.kernels import precision
from tensorlite.kernels.cpu import onednn

here = pytest.mark.skipif(bool(onednn.missing()), reason=onednn.missing())
SHAPES = [(1, 1, 1), (1, 7, 33), (33, 1, 2), (5, 3, 1), (16, 64, 65), (129, 67, 31), (257, 130, 96)]


@pytest.fixture
def bfloat16():
    precision.set_matmul_dtype("bfloat16")
    yield
    precision.set_matmul_dtype("float32")


def rounded(a, b):
    """The operands of a product, in memory of this thread."""
    return onednn.to_bf16_scratch(0, a), onednn.to_bf16_scratch(1, b)


def normal(*shape) -> np.ndarray:
    return np.random.default_rng(abs(hash(shape))).standard_normal(shape).astype(np.float32)


def exact(x: np.ndarray) -> np.ndarray:
    """float32 -> float64, rounded to bfloat16 in between by ml_dtypes."""
    return x.astype(pytest.importorskip("ml_dtypes").bfloat16).astype(np.float64)


def views(x: np.ndarray):
    """The same matrix, lying in memory in different ways."""
    every_second = np.zeros((2 * x.shape[0], 2 * x.shape[1]), np.float32)[::2, ::2]
    wide = np.zeros((x.shape[0], x.shape[1] + 3), np.float32)[:, 1:-2]
    for place in (every_second, wide):
        place[...] = x
    return [x, np.asfortranarray(x), every_second, wide, x[::-1][::-1]]


@here
def test_rounding():
    """To nearest, ties to even, as ml_dtypes; nan, infinities, overflow and signed zeros; and subnormals become 0."""
    edges = np.array([np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 0.0, -0.0, 1e-37, -1e-37], np.float32)
    ties = np.arange(0x3F7F0000, 0x3F830000, 0x2000, np.uint32).view(np.float32)  # around 1, in quarters of a step
    for x in (edges[None], ties[None], -ties[None], normal(37, 41) * 1e3, normal(64, 64) * 1e-30):
        expected = x.astype(pytest.importorskip("ml_dtypes").bfloat16).view(np.uint16)
        for view in views(x):
            np.testing.assert_array_equal(onednn.to_bf16(view), expected)
    assert onednn.to_bf16(np.array([[1e-40, -1e-40]], np.float32)).tolist() == [[0, 0x8000]]


@here
def test_a_result_is_written_where_it_is_asked_for():
    memory = np.zeros(12, np.uint16)
    for x in (normal(3, 4), normal(4, 3).T):
        result = onednn.to_bf16(x, memory)
        assert np.shares_memory(result, memory)
        np.testing.assert_array_equal(result, onednn.to_bf16(x))


@here
@pytest.mark.parametrize("shape", SHAPES)
def test_products(shape):
    """Every way in which the operands can lie; the error is that of float32 sums alone."""
    M, K, N = shape
    x, y = normal(M, K), normal(K, N)
    expected = exact(x) @ exact(y)
    limit = 2e-7 * K * (np.abs(exact(x)) @ np.abs(exact(y))) / max(1, K) ** 0.5
    for a in views(x):
        for b in views(y):
            for out in (np.full((M, N), np.nan, np.float32), np.full((M, N + 3), np.nan, np.float32)[:, 1:-2]):
                got = onednn.matmul(*rounded(a, b), out=out)
                assert got is out
                assert (np.abs(got - expected) <= limit + 1e-30).all()


@here
def test_nothing_to_add_up_and_nothing_to_fill():
    a, b = rounded(normal(3, 0), normal(0, 4))
    assert (onednn.matmul(a, b, np.full((3, 4), np.nan, np.float32)) == 0).all()
    a, b = rounded(normal(0, 3), normal(3, 4))
    assert onednn.matmul(a, b, np.empty((0, 4), np.float32)).shape == (0, 4)


@here
def test_nan_goes_where_it_belongs():
    x = normal(20, 30)
    x[7, 3] = np.nan
    got = onednn.matmul(*rounded(x, normal(30, 10)), np.empty((20, 10), np.float32))
    assert np.isnan(got[7]).all()
    assert np.isfinite(np.delete(got, 7, axis=0)).all()


@here
def test_what_cannot_be_multiplied_is_refused():
    bits = onednn.to_bf16(normal(4, 6))
    for a, b, out in (
        (bits, bits, np.empty((4, 6), np.float32)),
        (bits, bits.T, np.empty((4, 4))),
        (normal(4, 6), bits.T, np.empty((4, 4), np.float32)),
        (bits, bits.T, np.empty((4, 4), np.float32).T),
        (bits, bits.T, np.empty((4, 4), np.float32)[::-1]),
        (bits, bits.T, np.empty((5, 4), np.float32)),
        (bits, bits.T, np.empty((4, 4), np.int32)),
        (bits, bits.T, np.empty((4, 8), np.float32)[:, ::2]),
        (bits, bits.T, np.lib.stride_tricks.as_strided(np.empty(16, np.float32), (4, 4), (4, 4))),  # rows overlap
    ):
        with pytest.raises(ValueError, match=r"onednn\.matmul"):
            onednn.matmul(a, b, out)


@here
def test_threads_that_begin_at_the_same_time():
    """The first products of a process may be those of several threads, as of `gpt train` with a divided batch."""
    program = """
import sys, threading, time
import numpy as np
from tensorlite.kernels.cpu import onednn

def slowly(*arguments):
    time.sleep(0.1)  # all threads have begun before the library is ready
    return create(*arguments)

library = onednn._dnnl()
create, library.dnnl_engine_create = library.dnnl_engine_create, slowly
x, all_at_once, failed = np.ones((64, 64), np.float32), threading.Barrier(8), []

def first():
    all_at_once.wait()
    try:
        for _ in range(3):
            onednn.to_bf16(x, split=False)
            time.sleep(0.05)
    except Exception as error:
        failed.append(error)

threads = [threading.Thread(target=first) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
sys.exit(str(failed[0]) if failed else 0)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@here
def test_threads_share_nothing(monkeypatch):
    """Products at once on several threads, rounding split over the pool: the same bits as one after another."""
    monkeypatch.setattr(machine, "WORTH_SPLITTING", 0)
    pairs = [(normal(60 + i, 70), normal(70, 40 + i).T.copy().T) for i in range(12)]

    def multiply(pair):
        return onednn.matmul(*rounded(*pair), np.empty((len(pair[0]), pair[1].shape[1]), np.float32))

    alone = [multiply(pair) for pair in pairs]
    wide = normal(50, 90)[:, 7:71]
    try:
        machine.set_threads(3)
        np.testing.assert_array_equal(onednn.to_bf16(wide), onednn.to_bf16(wide, split=False))
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(multiply, pairs * 5))
    finally:
        machine.set_threads(1)
    for i, result in enumerate(together):
        np.testing.assert_array_equal(result, alone[i % len(pairs)])


@here
def test_the_switch(bfloat16):
    """Large float32 products alone; off again they are left alone."""
    assert onednn.is_worthwhile(normal(256, 256), normal(256, 256))
    assert not onednn.is_worthwhile(normal(8, 8), normal(8, 8))
    assert not onednn.is_worthwhile(normal(1, 4096), normal(4096, 4096))  # rounding the matrix would cost more
    assert not onednn.is_worthwhile(normal(256, 256).astype(np.float64), normal(256, 256).astype(np.float64))
    assert precision.set_matmul_dtype("float32") == "all in float32"
    assert not onednn.is_worthwhile(normal(256, 256), normal(256, 256))


@here
def test_the_head_and_its_loss(bfloat16):
    """Loss and gradients are within bfloat16's rounding of float64's: here is the largest share of a GPT's products."""
    x, weight = normal(96, 128), normal(2000, 128) / 8
    targets = np.random.default_rng(0).integers(0, 2000, 96)
    found = {}
    for dtype in (np.float32, np.float64):
        tensors = [tl.tensor(a.astype(dtype), requires_grad=True) for a in (x, weight)]
        loss = F.linear_cross_entropy(*tensors, tl.tensor(targets))
        loss.backward()
        found[dtype] = [t.numpy() for t in (loss, *(t.grad for t in tensors))]
    for got, right in zip(found[np.float32], found[np.float64], strict=True):
        error = np.linalg.norm(got - right) / np.linalg.norm(right)
        assert 1e-6 < error < 0.01


@here
def test_the_arithmetic_of_a_kernel_that_has_threads_of_its_own(bfloat16, monkeypatch):
    """Pieces are rounded on the thread that asks, whatever their size; small products and float64 are left to NumPy."""
    x, y = normal(256, 256), normal(256, 300)
    matmul, operand = onednn.choose_matmul(x, y)
    monkeypatch.setattr(onednn, "in_parts", None)
    got = matmul(operand(x), operand(y), out=np.empty((256, 300), np.float32))
    np.testing.assert_allclose(got, exact(x) @ exact(y), rtol=1e-4, atol=1e-3)
    matmul, operand = onednn.choose_matmul(x.astype(np.float64), y.astype(np.float64))
    assert matmul is np.matmul
    assert operand(x) is x


def test_an_unknown_dtype_is_refused():
    with pytest.raises(ValueError, match="'float32', 'tf32', 'bfloat16', got 'float16'"):
        precision.set_matmul_dtype("float16")


def test_tf32_is_a_gpus():
    said = precision.set_matmul_dtype("tf32")
    assert said == "tf32 is off, all is computed in float32: tf32 is a mode of NVIDIA GPUs"
    assert precision.matmul_dtype() == "float32"


def test_a_gpus_bfloat16_needs_no_cpu_that_has_it(monkeypatch):
    monkeypatch.setattr(onednn, "missing", lambda: "this CPU does not multiply bfloat16")
    try:
        assert "products in bfloat16" in precision.set_matmul_dtype("bfloat16", "cuda:0")
        assert not onednn.is_worthwhile(normal(256, 256), normal(256, 256))
    finally:
        precision.set_matmul_dtype("float32")


@pytest.mark.parametrize("lacking", ["cpu", "wheel", "file"])
def test_where_it_cannot_be_had_it_is_off_and_says_why(monkeypatch, tmp_path, lacking):
    info = tmp_path / "cpuinfo"
    info.write_text("flags : fpu avx512f" + (" avx512_bf16" if lacking != "cpu" else "") + "\n")
    monkeypatch.setattr(onednn, "CPU_INFO", info)
    monkeypatch.setattr(onednn, "_dnnl", onednn._dnnl.__wrapped__)
    monkeypatch.setattr(onednn, "WHEEL", "no-such-wheel" if lacking == "wheel" else "numpy")
    said = precision.set_matmul_dtype("bfloat16")
    assert said.startswith("bfloat16 is off, all is computed in float32: ")
    assert {"cpu": "avx512_bf16", "wheel": "pip install 'tensorlite[bf16]'", "file": "libdnnl.so.3"}[lacking] in said
    assert precision.matmul_dtype() == "float32"


@here
def test_the_environment_is_left_as_it_was():
    """The library runs on one thread, whatever OMP_NUM_THREADS says, and that variable stays as it was."""
    code = """if True:
        import os, threading
        from tensorlite.kernels import precision
        from tensorlite.kernels.cpu import onednn
        import numpy as np
        x = np.ones((512, 512), np.float32)
        onednn.matmul(onednn.to_bf16(x), onednn.to_bf16(x), x.copy())
        print(os.environ.get("OMP_NUM_THREADS"), len(os.listdir("/proc/self/task")))
    """
    for value in ("3", None):
        environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"} | {"OPENBLAS_NUM_THREADS": "1"}
        environment |= {} if value is None else {"OMP_NUM_THREADS": value}
        found = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        assert found.stdout.split() == [str(value), "1"]


@here
@pytest.mark.parametrize("rows", [48, 257])
def test_a_layer(bfloat16, rows):
    """Value and gradients of a linear layer are those float64's with rounded operands; a float64 layer is untouched."""
    x, weight, bias, g = normal(rows, 320), normal(640, 320), normal(640), normal(rows, 640)
    expected = (
        exact(x) @ exact(weight).T + bias,
        exact(g) @ exact(weight),
        exact(g).T @ exact(x),
        g.sum(axis=0, dtype=np.float64),
    )
    tensors = [tl.tensor(array, requires_grad=True) for array in (x, weight, bias)]
    out = F.linear(*tensors)
    out.backward(g)
    for got, right in zip((out, *(t.grad for t in tensors)), expected, strict=True):
        np.testing.assert_allclose(got.numpy(), right, rtol=1e-5, atol=2e-4)
    assert np.abs(out.numpy() - (x @ weight.T + bias)).max() > 1e-3  # it was rounded
    double = F.linear(*(t.detach().astype(tl.float64) for t in tensors)).numpy()
    np.testing.assert_allclose(double, x.astype(float) @ weight.T.astype(float) + bias, rtol=1e-12, atol=1e-12)
