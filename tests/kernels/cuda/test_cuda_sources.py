"""The CUDA sources on a machine without a GPU: all that is launched compiles for each kind of GPU, without a spill; and
the emulation that the other tests of kernels stand on finds what it claims to find.
"""

import functools
import io
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import emulator
import numpy as np
import pytest
from emulator import emulated  # noqa: F401

from tensorlite.kernels.cuda import launch

FILES = sorted(path.name for path in launch.FOLDER.glob("*.cu"))
GPUS = (80, 90, 100, 120)  # A100, H100 and H200, B200, RTX 50


# ----- the sources compile ----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")  # CuPy's, where it finds no driver
@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("file", FILES)
def test_what_is_launched_compiles_without_spilling_registers(file, gpu):
    """By NVRTC, with the options that CuPy adds; what does not fit in registers costs as much as memory does."""
    compiler = pytest.importorskip("cupy.cuda.compiler", reason="CuPy is not installed")
    pathfinder = pytest.importorskip("cuda.pathfinder", reason="CuPy's finder of headers is not installed")
    headers = pathfinder.find_nvidia_header_directory("cudart")
    if headers is None:
        pytest.skip("CUDA's headers are not installed: pip install nvidia-cuda-runtime")
    options = (*launch.OPTIONS, f"-I{headers}", "--device-as-default-execution-space", "-ftz=true", f"-arch=sm_{gpu}")
    kernels = emulator.instantiations(file)
    try:
        program = compiler._NVRTCProgram(f'#include "{file}"\n', "k.cu", name_expressions=kernels, method="cubin")
    except Exception as error:
        pytest.skip(f"NVRTC is not installed: {error}")
    log = io.StringIO()
    cubin, names = program.compile((*options, "--ptxas-options=-v"), log)
    assert cubin[:4] == b"\x7fELF"
    named = {mangled: kernel for kernel, mangled in names.items()}
    spills = re.findall(
        r"entry function '(\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads", log.getvalue(), re.S
    )
    assert {named.get(name) for name, *_ in spills} >= set(kernels), "ptxas did not say how it went"
    assert not {named.get(name): (stores, loads) for name, stores, loads in spills if (stores, loads) != ("0", "0")}


# ----- the emulation ----------------------------------------------------------------------------------------------

KERNELS = """
#include "%s/common.cuh"

// Each thread hands its value to its neighbour through shared memory.
template <bool barrier> __global__ void turn(const float* x, float* out) {
    __shared__ float all[64];
    all[threadIdx.x] = x[threadIdx.x];
    if (barrier) __syncthreads();
    out[threadIdx.x] = all[(threadIdx.x + 1) %% 64];
}
template <typename T> __global__ void sums(const T* x, float* out, long long n) {
    float sum = 0.0f, top = -infinity();
    for (long long i = threadIdx.x; i < n; i += blockDim.x) {
        sum += to_float(x[blockIdx.x * n + i]);
        top = fmaxf(top, to_float(x[blockIdx.x * n + i]));
    }
    sum = block_sum(sum);
    top = block_max(top);
    if (threadIdx.x == 0) out[blockIdx.x * 2] = sum;
    if (threadIdx.x == 0) out[blockIdx.x * 2 + 1] = top;
}
template <typename T> __global__ void copy(const T* x, T* out) {
    float v[WIDTH<T>];
    load<WIDTH<T>>(x, v);
    store<WIDTH<T>>(out, v);
}
__global__ void shuffles(int* out) {
    int lane = threadIdx.x;
    out[lane] = __shfl_down_sync(ALL, lane, 1) + 100 * __shfl_xor_sync(ALL, lane, 3);
    out[lane] += 10000 * __shfl_sync(ALL, lane, 7);
    out[32 + lane] = __ballot_sync(ALL, lane %% 2);
    out[64 + lane] = __shfl_up_sync(ALL, lane, 2, 8);
}
struct Table { float* out; long long n; };
__global__ void fill(Table table) { if (threadIdx.x < table.n) table.out[threadIdx.x] = 7.0f; }
__global__ void overrun(float* out) { out[threadIdx.x] = 1.0f; }
__global__ void read_on(const float* x, float* out) { out[threadIdx.x] = x[threadIdx.x]; }
__global__ void half_a_warp(float* out) { if (threadIdx.x < 16) out[0] = warp_sum(1.0f); }
__global__ void two_ways(float* out) { if (threadIdx.x < 3) __syncthreads(); else out[0] = warp_sum(1.0f); }
__global__ void beyond(float* out) { float x[4]; for (int i = 0; i < out[0]; i++) x[i] = 1.0f; out[1] = x[2]; }
__global__ void optional(const float* x, float* out) { if (threadIdx.x == 0) out[0] = x ? x[0] : -1.0f; }
"""


@pytest.fixture
def cu(tmp_path, emulated):  # noqa: F811
    path = tmp_path / "kernels.cu"
    path.write_text(KERNELS % launch.FOLDER)
    return lambda kernel, blocks, threads, *args: launch.launch(str(path), kernel, blocks, threads, *args)


@pytest.mark.slow
def test_the_emulation_computes(cu):
    rng, out = np.random.default_rng(0), np.empty((3, 2), np.float32)
    for kind, name in ((np.float32, "float"), (bfloat16(), "bf16")):
        x = rng.integers(-8, 8, (3, 1000)).astype(kind)
        for threads in (32, 96, 1024):
            cu(f"sums<{name}>", 3, threads, x, out, 1000)
            np.testing.assert_array_equal(out, np.stack([x.sum(1, np.float32), x.max(1)], 1))
    lanes, out = np.arange(32), np.empty(96, np.int32)
    cu("shuffles", 1, 32, out)
    np.testing.assert_array_equal(out[:32], np.minimum(lanes + 1, 31) + 100 * (lanes ^ 3) + 70_000)
    np.testing.assert_array_equal(out[32:64].view(np.uint32), 0xAAAAAAAA)
    np.testing.assert_array_equal(out[64:], np.where(lanes % 8 < 2, lanes, lanes - 2))
    cu("optional", 1, 32, None, single := np.empty(1, np.float32))
    assert single == -1


def bfloat16():
    return pytest.importorskip("ml_dtypes").bfloat16


def test_the_emulation_passes_structures_by_value(cu):
    table = np.zeros((), np.dtype([("out", np.uint64), ("n", np.int64)], align=True))
    out = np.zeros(5, np.float32)
    table["out"], table["n"] = out.ctypes.data, 3
    cu("fill", 1, 32, table)
    np.testing.assert_array_equal(out, [7, 7, 7, 0, 0])
    with pytest.raises(TypeError, match=r"shape \(\) or \(1,\)"):
        cu("fill", 1, 32, table[()])


@pytest.mark.slow
def test_the_emulation_finds_a_barrier_that_is_missing(cu):
    x, out = np.arange(64, dtype=np.float32), np.empty(64, np.float32)
    cu("turn<true>", 1, 64, x, out)
    np.testing.assert_array_equal(out, np.roll(x, -1))
    cu("turn<false>", 1, 64, x, out)
    assert (out != np.roll(x, -1)).any()


@pytest.mark.parametrize(
    ("kernel", "threads", "args", "what"),
    [
        ("overrun", 64, ["float32"], "wrote outside of an array float32"),
        ("overrun", 32, ["int32"], r"argument 0 is int32\* .* the kernel wants float32\*"),
        ("overrun", 32, ["float32", 1], "2 arguments; the kernel wants 1"),
        ("sums<float>", 32, ["float32", "float32", np.int32(1)], "argument 2 is int32 .* the kernel wants int64"),
        ("sums<float>", 32, ["float32", "float32", 1.0], "argument 2 is float32 .* the kernel wants int64"),
        ("overrun", 2000, ["float32"], "1 to 1024 threads"),
        ("half_a_warp", 32, ["float32"], "waits for a lane that is not there or has returned"),
        ("half_a_warp", 16, ["float32"], "waits for a lane that is not there"),
        ("two_ways", 32, ["float32"], "not all of a warp's lanes reach one operation"),
        ("copy<float>", 1, ["off", "float32"], "a vector access to an address that is not aligned"),
        ("no_such_kernel", 1, [], "does not compile for the CPU"),
    ],
)
@pytest.mark.slow
def test_the_emulation_reports(cu, kernel, threads, args, what):
    arrays = {"float32": np.zeros(40, np.float32), "int32": np.zeros(40, np.int32), "off": np.zeros(40, np.float32)[1:]}
    with pytest.raises(RuntimeError, match=what):
        cu(kernel, 1, threads, *[arrays[x] if isinstance(x, str) else x for x in args])


@pytest.mark.slow
@pytest.mark.parametrize("n", [4, 5])
def test_an_index_beyond_an_array_of_a_kernel_ends_the_process(cu, tmp_path, n):
    run = f"emulator.run({str(tmp_path / 'kernels.cu')!r}, 'beyond', (1,), 1, [np.full(2, {n}, np.float32)])"
    command = [sys.executable, "-c", f"import numpy as np, emulator; {run}"]
    ended = subprocess.run(command, cwd=Path(emulator.__file__).parent)
    assert ended.returncode in ((0,) if n == 4 else (-signal.SIGILL, -signal.SIGTRAP))


def test_the_emulation_shows_what_was_read_beyond_an_end(cu):
    out = np.empty(64, np.float32)
    cu("read_on", 1, 64, np.zeros(40, np.float32), out)
    assert np.isnan(out[40:]).all()


def test_only_listed_kernels_run(emulated):  # noqa: F811
    with pytest.raises(RuntimeError, match=r"not among layers.INSTANTIATIONS"):
        launch.launch("layers.cu", "gelu<double, 1>", 1, 32)


def test_a_kernel_is_compiled_once_for_each_device(monkeypatch):
    """By a stand-in for CuPy: which source with which options, and what is launched with which arguments."""
    compiled, launched, device = [], [], [0]

    class RawModule:
        def __init__(self, *, code, options, name_expressions):
            compiled.append((code.splitlines()[0], options, name_expressions))

        def get_function(self, name):
            return lambda *given: launched.append((name, *given))

    runtime = SimpleNamespace(getDevice=lambda: device[0])
    cupy = SimpleNamespace(RawModule=RawModule, cuda=SimpleNamespace(runtime=runtime))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(launch, "_compiled", functools.cache(launch._compiled.__wrapped__))
    for device[0] in (0, 0, 1):
        launch.launch("layers.cu", "sum_groups", (2, 3), 64, None, 5)
    assert compiled == [('#include "layers.cu"', launch.OPTIONS, ("sum_groups",))] * 2
    assert launched == [("sum_groups", (2, 3), (64,), (0, 5))] * 3


def test_every_source_has_its_module():
    assert all(Path(launch.FOLDER, file).with_suffix(".py").exists() for file in FILES)
