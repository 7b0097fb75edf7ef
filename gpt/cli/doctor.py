"""`gpt doctor`: what this machine offers for training, and how to install what is missing.

All findings are determined on this machine when it runs; nothing is changed or downloaded.
"""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tensorlite import backend, distributed
from tensorlite.devices import gpu, machine, nccl
from tensorlite.kernels.cpu import choose_impl, onednn
from tensorlite.kernels.cuda import attention

from .. import download_dir
from ..console import Output, bytes_text

PACKAGES = ("tensorlite", "numpy", "tiktoken", "safetensors", "matplotlib", "rich", "tyro", "pooch")
GPT2_FILES = {  # tiktoken names a downloaded file by the SHA-1 of its address
    "vocab.bpe": "6d1cbeee0f20b3d9449abfede4726ed8212e3aee",
    "encoder.json": "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6",
}


Finding = tuple[str, str, str]  # the subject, the finding, and the advice or ""


@dataclass(frozen=True)
class Doctor:
    """Show what this machine offers for training, and how to install what is missing."""

    def __call__(self) -> int:
        report(Output())
        return 0


def report(console: Console) -> None:
    """Print the findings, each with its advice below it.

    On a terminal long lines are wrapped; in a pipe or a file no line is broken.
    """
    table = Table(title="gpt doctor", title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, finding, advice in (*software(), *processor(), *graphics(), *storage()):
        table.add_row(name, escape("\n".join(filter(None, (finding, advice)))))
    if not console.is_terminal:
        console.width = 10_000
    console.print(table)


def software() -> list[Finding]:
    """Python and the packages that gpt uses."""
    found = [("Python", f"{platform.python_version()} ({sys.executable})", "")]
    return found + [(name, installed(name) or "missing", "") for name in PACKAGES]


def processor() -> list[Finding]:
    """CPU, BLAS, threads, and packages that speed up computation on them."""
    usable, blas = machine.usable_cores(), machine.blas()
    kernels = f", kernels for {blas['kernels']}" if "kernels" in blas else ""
    allocator, why_not = machine.keep_freed_memory(), onednn.missing()
    return [
        ("CPU", f"{cpu_name()}, {usable} core{'s' if usable > 1 else ''} usable", about_quota()),
        (
            "BLAS",
            f"{blas['name']} {blas['version']}{kernels}",
            "\n".join([*slower_kernels(), *machine.blas_environment()]),
        ),
        ("threads", *about_threads()),
        ("processes", *about_processes()),
        (
            "compiled loops",
            "off" if choose_impl.missing() else f"on, by numba {installed('numba')}",
            choose_impl.missing(),
        ),
        ("bfloat16", "off" if why_not else "on request: gpt train --dtype bfloat16", why_not),
        (
            "allocator",
            allocator,
            "" if "keeps" in allocator else "every training step requests its memory again, which is slower",
        ),
    ]


def slower_kernels() -> list[str]:
    """A sentence if the environment makes BLAS use other kernels than it would choose for this CPU."""
    unwanted = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
    if not os.environ.get("OPENBLAS_CORETYPE") or "kernels" not in (blas := machine.blas()):
        return []
    environment = {name: value for name, value in os.environ.items() if name not in unwanted}
    code = "from tensorlite.devices import gpu, machine; print(machine.blas()['kernels'])"
    child = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    own = child.stdout.strip()
    if own == blas["kernels"]:
        return []
    return [f"BLAS would use kernels for {own}, but the environment sets {blas['kernels']}: products are slower"]


def about_quota() -> str:
    """A sentence where the CPU quota of a container is lower than its number of cores."""
    quota, cores = machine.cpu_quota(), os.cpu_count() or 1
    return f"of {cores}: this container's CPU quota is {quota:.4g} cores" if quota < cores else ""


def about_threads() -> tuple[str, str]:
    """The number of threads for large ops, and its source."""
    if machine.blas().get("kernels") is None:
        return "BLAS's own", "this BLAS is not the OpenBLAS of NumPy's wheels: its threads are its own"
    given = machine.given_threads()
    return f"{machine.default_threads()}" + (f", as {given} says" if given else ""), ""


def about_processes() -> tuple[str, str]:
    """Whether one run can be trained by several processes here, what started this one, and what that is good for."""
    rank, size, _ = distributed.launched()
    started = f"this is process {rank} of {size}; " if size > 1 else ""
    if installed("mpi4py") is None:
        return (
            f"{started}one: mpi4py is not installed",
            "pip install 'tensorlite[mpi]' trains one run by several processes",
        )
    code = "from mpi4py import MPI; print(MPI.Get_library_version().splitlines()[0].split(',')[0].split(chr(0))[0])"
    names = [name for names in distributed.LAUNCHERS for name in names]  # this child is not one of theirs
    environment = {name: value for name, value in os.environ.items() if name not in (*names, "PMI_FD", "PMI_PORT")}
    try:
        child = subprocess.run(
            [sys.executable or "python", "-c", code], env=environment, capture_output=True, text=True
        )
    except OSError as error:  # such as a Python inside another program
        return f"{started}not known: this Python cannot be started again ({error.strerror})", ""
    if child.returncode:
        return f"{started}one: mpi4py finds no MPI library", "pip install mpich, or load the cluster's MPI"
    launcher = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    how = (
        f"started by {launcher}"
        if launcher
        else "started by srun, or by the mpiexec of this MPI, which is not on the PATH"
    )
    advice = (
        "mpiexec -n N gpt train ...; on one machine, N processes of one thread may be faster than one of N threads: "
        "python -m examples.benchmarks.processes in the repository compares them"
    )
    return f"{started}several, by {' '.join(child.stdout.replace('Version:', '').split())}, {how}", advice


def graphics() -> list[Finding]:
    """The GPU that training uses and its libraries, or why none is used."""
    if not backend.driver_found():
        return [("GPU", "none", "this machine has no NVIDIA driver: everything is computed on the CPU")]
    if why_not := backend.no_gpu():
        return [("GPU", "none usable", why_not)]
    about, room, computed = gpu.about_device("cuda"), gpu.memory("cuda") or (0, 0), attention.about()
    return [
        ("GPU", f"{about['device']}, compute capability {about['compute capability']}", ""),
        ("GPU memory", f"{bytes_text(room[0])} free of {bytes_text(room[1])}", ""),
        ("CUDA", f"driver {about['CUDA driver']}, runtime {about['CUDA runtime']}; CuPy {about['CuPy']}", ""),
        ("GPU products", computed["products"], ""),
        ("GPU attention", computed["attention"], ""),
        ("GPUs together", *about_nccl()),
    ]


def about_nccl() -> tuple[str, str]:
    """Whether the processes of a run can each have a GPU."""
    if nccl.available():
        return "several processes exchange by NCCL, each with a GPU", ""
    return "one process: NCCL is missing", "pip install nvidia-nccl-cu13"


def storage() -> list[Finding]:
    """The folder of GPT-2's tokenizer files, and the free space on the disk."""
    tiktoken_dir = Path(
        os.environ.get("TIKTOKEN_CACHE_DIR")
        or os.environ.get("DATA_GYM_CACHE_DIR")
        or Path(tempfile.gettempdir()) / "data-gym-cache"
    )
    folders = [
        folder
        for folder in (tiktoken_dir, download_dir.folder() / "gpt2-tokenizer")
        if all((folder / key).exists() or (folder / name).exists() for name, key in GPT2_FILES.items())
    ]
    advice = "" if folders else "gpt data fetch gpt2-tokenizer downloads it; other tokenizers need no file"
    here = shutil.disk_usage(Path.cwd())
    return [
        ("GPT-2's tokenizer", f"in {folders[0]}" if folders else f"not in {tiktoken_dir}", advice),
        ("disk here", f"{bytes_text(here.free)} free of {bytes_text(here.total)}", ""),
    ]


def installed(name: str) -> str | None:
    """The version of an installed package, None for another."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def cpu_name() -> str:
    """The name of the processor's model, or of its architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
