"""The settings that a training run makes on its machine, and its records about it.

Each function extends the one of the same name in gpt/training/machine.py or gpt/training/loop.py.
"""

from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec

from tensorlite import backend
from tensorlite.devices import gpu, machine
from tensorlite.kernels import precision
from tensorlite.kernels.cpu import choose_impl, onednn

from ..training import checkpoint, loop
from ..training import machine as plain
from ..training.session import Session
from ..training.settings import Settings
from . import distributed, divided_step

plain_made_with = plain.made_with


def prepare(config: Settings) -> tuple[Settings, list[str]]:
    """Set the threads, the device and the dtype of products of this process."""
    threads = config.threads or recorded_threads(config) or machine.default_threads()
    device, about_threads = backend.use_device(config.device), machine.set_threads(threads)
    about_dtype = precision.set_matmul_dtype(config.dtype, device)
    lines = [f"threads    {about_threads}", f"device     {about_device(device)}"]
    if team := distributed.active():
        lines = team.lines() + lines
    if config.dtype != "float32":
        lines.append(f"dtype      {about_dtype}")
    return replace(config, threads=threads, device=device), lines


def recorded_threads(config: Settings) -> int | None:
    """The number of threads of the run to be resumed; None for a new run."""
    if config.resume is None:
        return None
    found, _ = checkpoint.newest(config.resume, ["config.json"])
    threads: int | None = checkpoint.read_config(found.folder / "config.json").get("training", {}).get("threads")
    return threads


def about_device(device: str) -> str:
    """The device and its memory; on the CPU of a machine that seems to have a GPU, why the GPU is not used."""
    if device == "cpu":
        return "cpu" if not backend.driver_found() or not (why_not := backend.no_gpu()) else f"cpu: {why_not}"
    found = gpu.memory(device)
    room = f", {found[0] / 2**30:,.1f} of {found[1] / 2**30:,.1f} GiB free" if found else ""
    return f"{device}, {gpu.about_device(device)['device']}{room}"


def made_with(device: str) -> dict[str, str]:
    """Also kernels, BLAS, threads and the CPU's instructions."""
    found = plain_made_with(device)
    return {
        **{name: found[name] for name in ("python", "tensorlite", "numpy")},
        **{f"blas {name}": value for name, value in machine.blas().items()},
        "machine": found["machine"],
        "instructions": machine.instructions(),
        "libc": found["libc"],
        "threads": str(machine.threads()),
        **({"processes": str(team.world.size)} if (team := distributed.active()) else {}),
        "numba": "off" if choose_impl.missing() else f"{version('numba')}, llvmlite {version('llvmlite')}",
        "oneDNN": "off" if onednn.missing() else version(onednn.WHEEL),
        "ml_dtypes": version("ml_dtypes") if find_spec("ml_dtypes") else "not installed",
        **gpu.about_device(device),
    }


def memory(device: str) -> tuple[int, int] | None:
    """The size of the device's memory, from the system or the GPU's driver."""
    return gpu.memory(device)


def table_rows(device: str) -> dict[str, str]:
    """The memory of a GPU that all programs together use."""
    known = None if device == "cpu" else gpu.memory(device)
    rows = {} if known is None else {"GPU memory taken": f"{(known[1] - known[0]) / 2**20:,.0f} MiB"}
    return rows | (team.table_rows() if (team := distributed.active()) else {})


def make_steps(s: Session, say: Callable[[str], None]) -> loop.Steps:
    """On a GPU steps are recorded, and the results of several are read together; on a CPU threads may divide them."""
    if team := distributed.active():
        return distributed.LedSteps(s, team, say)
    if s.config.device == "cpu":
        return loop.PlainSteps(s, say, divided_step.make_step(s, say))
    from .pending import PendingSteps

    return PendingSteps(s, say)
