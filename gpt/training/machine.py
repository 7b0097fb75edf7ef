"""What training asks of the machine that it runs on, answered plainly: nothing is set, and little is known.

`gpt.fast.attach_step()` puts the functions of gpt/fast/machine.py in the places of these.
"""

import platform
from dataclasses import replace
from importlib.metadata import version

from tensorlite import backend

from .settings import Settings


def prepare(config: Settings) -> tuple[Settings, list[str]]:
    """The settings with the device that is used, and lines that describe how steps are computed."""
    device = backend.use_device(config.device)
    return replace(config, device=device), [f"device     {device}"]


def made_with(device: str) -> dict[str, str]:
    """What the last bits of the numbers depend on."""
    versions = {name: version(name) for name in ("tensorlite", "numpy")}
    here = {"machine": platform.machine(), "libc": " ".join(platform.libc_ver()).strip()}
    return {"python": platform.python_version(), **versions, **here, "device": device}


def memory(device: str) -> tuple[int, int] | None:
    """Bytes of the device's memory that are free, and all; None where that is not known."""
    return None


def table_rows(device: str) -> dict[str, str]:
    """Rows for the table at the end of training."""
    return {}
