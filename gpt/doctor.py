"""What this machine brings to training, and what each missing part would: `gpt doctor`.

One idea: every line is looked up now, on this machine, and a line that is not as good as it could be says what to do.
It changes nothing and downloads nothing.
"""

import os
import platform
import shutil
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tensorlite import backend

from . import cache
from .progress import bytes_text

PACKAGES = ("tensorlite", "numpy", "tiktoken", "safetensors", "matplotlib", "rich", "tyro", "pooch")
GPT2_FILES = {  # tiktoken names a downloaded file by the SHA-1 of its address
    "vocab.bpe": "6d1cbeee0f20b3d9449abfede4726ed8212e3aee",
    "encoder.json": "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6",
}


def report(console: Console) -> int:
    """Print the findings; the exit status, 0."""
    table = Table(title="gpt doctor", title_justify="left", show_header=False)
    for name, finding, advice in (*software(), *processor(), *graphics(), *storage()):
        table.add_row(name, escape(finding), escape(advice))
    console.print(table)
    return 0


def software() -> list[tuple[str, str, str]]:
    found = [("Python", f"{platform.python_version()} ({sys.executable})", "")]
    return found + [(name, installed(name) or "missing", "") for name in PACKAGES]


def processor() -> list[tuple[str, str, str]]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    blas = backend.blas()
    kernels = f", kernels for {blas['kernels']}, {blas['threads']} threads" if "kernels" in blas else ""
    allocator = backend.keep_freed_memory()
    return [
        ("CPU", f"{cpu_name()}, {usable} cores usable", ""),
        ("BLAS", f"{blas['name']} {blas['version']}{kernels}", "\n".join(backend.blas_environment())),
        ("allocator", allocator, "" if "keeps" in allocator else "training takes fresh memory in every step: slower"),
    ]


def graphics() -> list[tuple[str, str, str]]:
    cupy = installed("cupy-cuda13x") or installed("cupy-cuda12x") or installed("cupy")
    if cupy is None:
        advice = "puts Tensors on an NVIDIA GPU (gpt trains on the CPU so far): pip install 'tensorlite[cuda]'"
        return [("CuPy", "missing", advice)]
    try:
        backend.library_of("cuda")
    except RuntimeError as error:
        return [("CuPy", cupy, str(error))]
    return [("CuPy", f"{cupy}, with a GPU", "")]


def storage() -> list[tuple[str, str, str]]:
    theirs = Path(
        os.environ.get("TIKTOKEN_CACHE_DIR")
        or os.environ.get("DATA_GYM_CACHE_DIR")
        or Path(tempfile.gettempdir()) / "data-gym-cache"
    )
    folders = [
        folder
        for folder in (theirs, cache.folder() / "gpt2-tokenizer")
        if all((folder / key).exists() or (folder / name).exists() for name, key in GPT2_FILES.items())
    ]
    advice = "" if folders else "gpt data fetch gpt2-tokenizer downloads it; other tokenizers need no file"
    here = shutil.disk_usage(Path.cwd())
    return [
        ("GPT-2's tokenizer", f"in {folders[0]}" if folders else f"not in {theirs}", advice),
        ("disk here", f"{bytes_text(here.free)} free of {bytes_text(here.total)}", ""),
    ]


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
