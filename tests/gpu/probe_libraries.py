"""Does cublasLt load, does cuDNN, how fast are they beside PyTorch? One line for each fact: run it on the GPU machine.

    python tests/gpu/probe_libraries.py

Each fact stands alone, so that one that fails hides no other. Times are medians between CUDA events, taken while a
long product ahead of them lets the host run ahead, as it does in training.
"""

import functools
import importlib
import importlib.metadata
import math
import platform
import statistics
import sys
import time
import traceback
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

CALLS, ROUNDS = 20, 5


def fact(name):
    """Runs the function at once, and prints what it gives, or how it failed."""

    def run(function):
        try:
            print(f"{name}: {function()}", flush=True)
        except BaseException as error:
            where = [f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)[-3:]]
            said = " | ".join(str(error).strip().splitlines()[-3:])
            print(f"{name}: FAILED {type(error).__name__}: {said[:600]} ({' < '.join(reversed(where))})", flush=True)
            if isinstance(error, KeyboardInterrupt):
                raise
        return function

    return run


@functools.cache
def cp():
    return importlib.import_module("cupy")


@functools.cache
def torch():
    return importlib.import_module("torch")


@functools.cache
def bf16():
    return importlib.import_module("ml_dtypes").bfloat16


def random(*shape, dtype=None):
    """A million numbers of NumPy's, again and again: cuRAND may be missing."""
    n = math.prod(shape)
    numbers = np.random.default_rng(n).standard_normal(min(n, 1 << 20), "float32")
    whole = cp().tile(cp().asarray(numbers), -(-n // len(numbers)))
    return whole[:n].reshape(shape).astype(dtype or bf16())


def by_cupy(function) -> float:
    """Milliseconds of a call."""
    a = random(8192, 8192)

    def event():
        made = cp().cuda.Event()
        made.record()
        return made

    return _median(function, lambda: cp().matmul(a, a), event, cp().cuda.get_elapsed_time)


def by_torch(function) -> float:
    a = torch().randn(8192, 8192, device="cuda", dtype=torch().bfloat16)

    def event():
        made = torch().cuda.Event(enable_timing=True)
        made.record()
        return made

    return _median(function, lambda: torch().matmul(a, a), event, lambda first, last: first.elapsed_time(last))


def _median(function, ahead, event, elapsed) -> float:
    for _ in range(3):
        function()
    times = []
    for _ in range(ROUNDS):
        for _ in range(6):
            ahead()
        first = event()
        for _ in range(CALLS):
            function()
        last = event()
        last.synchronize()
        times.append(elapsed(first, last) / CALLS)
    return statistics.median(times)


@fact("machine")
def _():
    properties = cp().cuda.runtime.getDeviceProperties(0)
    return (
        f"{properties['name'].decode()}, {properties['totalGlobalMem'] >> 30} GiB, {properties['multiProcessorCount']} "
        f"SMs, driver {cp().cuda.runtime.driverGetVersion()}, Python {platform.python_version()}"
    )


@fact("packages")
def _():
    wanted = ("cupy", "nvmath", "cudnn", "cublas", "torch", "numpy", "ml_dtypes", "ml-dtypes")
    found = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
    return ", ".join(f"{n} {v}" for n, v in sorted(found.items()) if n and any(w in n.lower() for w in wanted))


@fact("cublasLt")
def _():
    from tensorlite.kernels.cuda import blas

    start = time.perf_counter()
    reason = blas.missing()
    if reason:
        return f"MISSING: {reason}"
    version = importlib.import_module("nvmath.bindings.cublasLt").get_version()
    return f"version {version}, loaded in {time.perf_counter() - start:.2f} s"


@fact("cuDNN")
def _():
    from tensorlite.kernels.cuda import sdpa

    start = time.perf_counter()
    reason = sdpa.missing()
    if reason:
        return f"MISSING: {reason}"
    cudnn = importlib.import_module("cudnn")
    return f"version {cudnn.backend_version()}, frontend {cudnn.__version__}, in {time.perf_counter() - start:.2f} s"


# first without torch in the process: torch loads its libraries, and may so hide that ours are not found


def product(M, K, N, kind):
    """(a, b, options) of a product of training: y = x W^T, dx = dy W, dW += dy^T x, of x (M, K) and W (N, K)."""
    x, w, dy = random(M, K), random(N, K), random(M, N)
    if kind == "y = x W^T":
        return x, w.T, {}
    if kind == "y = x W^T + b":
        return x, w.T, {"bias": random(N)}
    if kind == "dx = dy W":
        return dy, w, {}
    return dy.T, x, {"out": cp().zeros((N, K), "float32"), "accumulate": True}


KINDS = ("y = x W^T", "y = x W^T + b", "dx = dy W", "dW += dy^T x")
SHAPES = ((16384, 768, 768), (16384, 768, 2304), (16384, 768, 3072), (16384, 3072, 768), (16384, 768, 50304))

for M, K, N in SHAPES:
    for kind in KINDS:

        @fact(f"cublasLt bfloat16, x ({M}, {K}), W ({N}, {K}), {kind}")
        def _(M=M, K=K, N=N, kind=kind):
            from tensorlite.kernels.cuda import blas

            a, b, options = product(M, K, N, kind)
            out = options.pop("out", None)
            out = cp().empty((a.shape[0], b.shape[1]), a.dtype) if out is None else out
            t = by_cupy(lambda: blas.matmul(a, b, out=out, **options))
            return f"{t:.4f} ms, {2e-9 * M * K * N / t:.0f} TFLOP/s"


@fact("cublasLt against float64, bfloat16 with bias, result bfloat16 and float32")
def _():
    from tensorlite.kernels.cuda import blas

    a, b = random(256, 512), random(384, 512).T
    expected = a.get().astype(float) @ b.get().astype(float)
    errors = []
    for dtype in (bf16(), "float32"):
        y = blas.matmul(a, b, out_dtype=dtype, bias=cp().ones(384, dtype))
        errors.append(abs(y.get().astype(float) - expected - 1).max() / abs(expected).max())
    return "largest error over largest value " + ", ".join(f"{e:.1e}" for e in errors)


for name in ("float32", "tf32"):

    @fact(f"cublasLt {name}, x (16384, 768), W (3072, 768), y = x W^T")
    def _(name=name):
        from tensorlite.kernels import precision
        from tensorlite.kernels.cuda import blas

        a, b = random(16384, 768, dtype="float32"), random(3072, 768, dtype="float32").T
        try:
            precision.set_matmul_dtype(name, "cuda")
            t = by_cupy(lambda: blas.matmul(a, b))
        finally:
            precision.set_matmul_dtype("float32", "cuda")
        return f"{t:.4f} ms, {2e-9 * 16384 * 768 * 3072 / t:.0f} TFLOP/s"


@fact("cublasLt, host time of a call")
def _():
    from tensorlite.kernels.cuda import blas

    a, b = random(64, 64), random(64, 64)
    out = cp().empty((64, 64), a.dtype)
    blas.matmul(a, b, out=out)
    start = time.perf_counter()
    for _ in range(1000):
        blas.matmul(a, b, out=out)
    return f"{(time.perf_counter() - start) * 1e3:.1f} us"


# ----- attention --------------------------------------------------------------------------------------------------

B, H, T, D = 16, 12, 1024, 64
FORWARD = 4e-9 * B * H * T * T * D / 2  # GFLOP of causal attention, so that over ms it is TFLOP/s


@functools.cache
def heads():
    """q, k, v (B, H, T, D), where the heads lie between the positions."""
    return [random(B, T, H, D).swapaxes(1, 2) for _ in range(3)]


def backward(g, out, stats, options):
    from tensorlite.kernels.cuda import sdpa

    into = sdpa.like(*heads())
    sdpa.backward(g, *heads(), out, stats, into, **options)
    return into


@fact("cuDNN forward graph")
def _():
    from tensorlite.kernels.cuda import sdpa

    start = time.perf_counter()
    reason = sdpa.why_not(*heads(), is_causal=True, scale=D**-0.5)
    return reason or f"built in {time.perf_counter() - start:.2f} s"


@fact(f"cuDNN forward ({B}, {H}, {T}, {D})")
def _():
    from tensorlite.kernels.cuda import sdpa

    t = by_cupy(lambda: sdpa.forward(*heads(), is_causal=True, scale=D**-0.5))
    return f"{t:.4f} ms, {FORWARD / t:.0f} TFLOP/s"


for deterministic in (True, False):

    @fact(f"cuDNN backward, {'deterministic' if deterministic else 'not deterministic'}")
    def _(deterministic=deterministic):
        from tensorlite.kernels.cuda import sdpa

        options = {"is_causal": True, "scale": D**-0.5}
        out, stats = sdpa.forward(*heads(), **options)
        g = random(B, T, H, D).swapaxes(1, 2)
        before, sdpa.DETERMINISTIC = sdpa.DETERMINISTIC, deterministic
        try:
            start = time.perf_counter()
            into = sdpa.like(*heads())
            reason = sdpa.why_not_backward(g, *heads(), out, into, **options)
            built = time.perf_counter() - start
            if reason:
                return reason
            t = by_cupy(lambda: sdpa.backward(g, *heads(), out, stats, into, **options))
            first, second = (backward(g, out, stats, options) for _ in range(2))
            same = all((x.view("uint16") == y.view("uint16")).all() for x, y in zip(first, second, strict=True))
            size = max(x.workspace for k, x in sdpa._graphs.items() if "backward" in k and not isinstance(x, str))
        finally:
            sdpa.DETERMINISTIC = before
        return (
            f"{t:.4f} ms, {2.5 * FORWARD / t:.0f} TFLOP/s, built in {built:.2f} s, same bits twice: {same}, "
            f"workspace at most {size >> 20} MiB"
        )


@fact("cuDNN and cublasLt in a CUDA graph")
def _():
    from tensorlite.kernels.cuda import blas, sdpa

    options = {"is_causal": True, "scale": D**-0.5}
    g, w = random(B, T, H, D).swapaxes(1, 2), random(H * D, H * D)

    def step():
        out, stats = sdpa.forward(*heads(), **options)
        joined = out.swapaxes(1, 2).reshape(B * T, H * D)  # (B, H, T, D) -> (B T, H D)
        return [blas.matmul(joined, w.T), *backward(g, out, stats, options)]

    heads()
    cp().cuda.Device().synchronize()  # the stream below does not wait for the default one
    stream = cp().cuda.Stream(non_blocking=True)
    with stream:
        expected = [x.get() for x in step()]
        stream.begin_capture()
        results = step()
        graph = stream.end_capture()
        for x in results:
            x.fill(0)
        graph.launch(stream)
        same = [
            bool((x.get().view("uint16") == y.view("uint16")).all()) for x, y in zip(results, expected, strict=True)
        ]
    return f"replayed, the same bits: {same}"


@fact("cuDNN against float64")
def _():
    from tensorlite.kernels.cuda import sdpa

    reports = []
    for t, s, d in ((128, 128, 64), (100, 100, 32), (40, 200, 64), (1, 77, 64)):
        q, k, v = random(2, t, 3, d).swapaxes(1, 2), random(2, 3, s, d), random(2, 3, s, d)
        reason = sdpa.why_not(q, k, v, is_causal=True, scale=d**-0.5)
        if reason:
            reports.append(reason)
            continue
        out, _ = sdpa.forward(q, k, v, is_causal=True, scale=d**-0.5)
        a, b, c = (x.get().astype(float) for x in (q, k, v))
        scores = a @ b.swapaxes(-1, -2) * d**-0.5
        scores = np.where(np.arange(s)[None, :] <= np.arange(s - t, s)[:, None], scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        expected = weights / weights.sum(-1, keepdims=True) @ c
        reports.append(f"T {t}, S {s}, D {d}: {abs(out.get().astype(float) - expected).max():.1e}")
    return "; ".join(reports)


@fact("libraries in the process")
def _():
    maps = Path("/proc/self/maps").read_text().split()
    return ", ".join(sorted({x for x in maps if "libcublasLt" in x or "libcudnn.so" in x or "libnvrtc.so" in x}))


# ----- PyTorch ----------------------------------------------------------------------------------------------------


@fact("torch")
def _():
    return f"{torch().__version__}, CUDA {torch().version.cuda}, cuDNN {torch().backends.cudnn.version()}"


for M, K, N in SHAPES:
    for kind in ("y = x W^T", "dx = dy W", "dW = dy^T x"):

        @fact(f"torch bfloat16, x ({M}, {K}), W ({N}, {K}), {kind}")
        def _(M=M, K=K, N=N, kind=kind):
            x, w, dy = (torch().randn(s, device="cuda", dtype=torch().bfloat16) for s in ((M, K), (N, K), (M, N)))
            a, b = {"y = x W^T": (x, w.T), "dx = dy W": (dy, w)}.get(kind, (dy.T, x))
            out = torch().empty(a.shape[0], b.shape[1], device="cuda", dtype=torch().bfloat16)
            t = by_torch(lambda: torch().matmul(a, b, out=out))
            return f"{t:.4f} ms, {2e-9 * M * K * N / t:.0f} TFLOP/s"


for name in ("default", "FLASH_ATTENTION", "CUDNN_ATTENTION"):

    @fact(f"torch scaled_dot_product_attention, {name}")
    def _(name=name):
        from contextlib import nullcontext

        from torch.nn.attention import SDPBackend, sdpa_kernel  # type: ignore[import-not-found]

        F = torch().nn.functional
        q, k, v, g = (
            torch().randn(B, T, H, D, device="cuda", dtype=torch().bfloat16).transpose(1, 2).requires_grad_(i < 3)
            for i in range(4)
        )
        with nullcontext() if name == "default" else sdpa_kernel(getattr(SDPBackend, name)):
            forward = by_torch(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True))
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            backward = by_torch(lambda: torch().autograd.grad(out, (q, k, v), g, retain_graph=True))
        return (
            f"forward {forward:.4f} ms, {FORWARD / forward:.0f} TFLOP/s; "
            f"backward {backward:.4f} ms, {2.5 * FORWARD / backward:.0f} TFLOP/s"
        )
