"""Acceleration, attached from outside: no core module imports this package.

`attach_decode` and `attach_step` put accelerated versions into the hooks of the core modules. gpt's public names and
its command line call them; a program that imports gpt.generation by itself calls `gpt.fast.attach()` for the same
speed.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..generation import Decoder
    from ..model import GPT


def attach() -> None:
    """Attach all of this package; a second call has no effect."""
    attach_decode()
    attach_step()
    attach_classify()


def attach_decode() -> None:
    """Let `gpt.generation.stream` compute a step of one token in one compiled call, or by a CUDA graph on a GPU."""
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


def attach_classify() -> None:
    """Labels of texts on a CPU: each thread computes its own, and no more of the blocks than the labels need."""
    from ..tasks.classify import inference
    from . import classify

    inference.logits = classify.logits
    inference.in_batches = classify.in_batches


def make_decoder(model: "GPT", batch_size: int, positions: int, use_cache: bool = True) -> "Decoder":
    """With a cache the compiled step on a CPU, CUDA graphs on a GPU; the plain decoder otherwise."""
    if use_cache and model.device != "cpu":
        from .decode import gpu_decoder

        return gpu_decoder(model, batch_size, positions)
    if use_cache:
        from . import cpu_decode

        if cpu_decode.supports(model, batch_size):
            return cpu_decode.CPUDecoder(model, batch_size, positions)
    from ..generation import Decoder

    return Decoder(model, batch_size, positions, use_cache)
