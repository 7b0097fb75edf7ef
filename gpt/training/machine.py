"""Settings and information of the machine: the plain versions, which set nothing and report little.

`gpt.fast.attach_step()` replaces them by the functions of gpt/fast/machine.py.
"""

import platform
from dataclasses import replace
from importlib.metadata import version

from tensorlite import backend

from .settings import Settings


def prepare(config: Settings) -> tuple[Settings, list[str]]:
    """The settings with the actual device, and lines that describe how steps are computed."""
    device = backend.use_device(config.device)
    return replace(config, device=device), [f"device     {device}"]


def made_with(device: str) -> dict[str, str]:
    """The conditions that the last bits of the numbers depend on."""
    versions = {name: version(name) for name in ("tensorlite", "numpy")}
    here = {"machine": platform.machine(), "libc": " ".join(platform.libc_ver()).strip()}
    return {"python": platform.python_version(), **versions, **here, "device": device}


def memory(device: str) -> tuple[int, int] | None:
    """Free and total bytes of the device's memory; None where unknown."""
    return None


def table_rows(device: str) -> dict[str, str]:
    """Rows for the table at the end of training."""
    return {}
