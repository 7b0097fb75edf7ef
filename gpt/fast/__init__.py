"""What makes training and generation fast. The core modules work without it; `attach` puts it in their places."""


def attach_step() -> None:
    """Training sets threads and dtype, and on a GPU replays recorded steps and reads several results together."""
    from ..training import loop
    from ..training import machine as plain
    from . import machine

    loop.make_steps = machine.make_steps
    for name in ("prepare", "made_with", "memory", "table_rows"):
        setattr(plain, name, getattr(machine, name))


def attach_decode() -> None:
    """Generation on a GPU."""


def attach() -> None:
    """Both; calling it again changes nothing."""
    attach_step()
    attach_decode()
