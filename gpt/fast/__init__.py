"""Acceleration, attached from outside: no core module imports this package.

`attach_decode` and `attach_step` put accelerated versions into the hooks of the core modules. These versions look
at the device of the model and use the plain code for a model on the CPU. gpt's public names and its command line
call them; a program that imports gpt.generation by itself calls `gpt.fast.attach()` for the same speed on a GPU.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..generation import Decoder
    from ..model import GPT


def attach() -> None:
    """Attach all of this package; a second call has no effect."""
    attach_decode()
    attach_step()


def attach_decode() -> None:
    """Let `gpt.generation.stream` use CUDA graphs for models on a GPU."""
    from .. import generation

    generation.make_decoder = make_decoder


def attach_step() -> None:
    """Training sets threads and dtype, and on a GPU replays recorded steps and reads several results together."""
    from ..training import loop
    from ..training import machine as plain
    from . import machine

    loop.make_steps = machine.make_steps
    for name in ("prepare", "made_with", "memory", "table_rows"):
        setattr(plain, name, getattr(machine, name))


def make_decoder(model: "GPT", batch_size: int, positions: int, use_cache: bool = True) -> "Decoder":
    """The plain Decoder for a model on the CPU or without a cache, the one with CUDA graphs otherwise."""
    if not use_cache or model.device == "cpu":
        from ..generation import Decoder

        return Decoder(model, batch_size, positions, use_cache)
    from .decode import gpu_decoder

    return gpu_decoder(model, batch_size, positions)
