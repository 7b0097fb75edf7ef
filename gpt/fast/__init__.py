"""What makes training and generation fast. The core modules work without it; `attach` puts it in their places."""


def attach_step() -> None:
    """Training sets threads and dtype, and on a GPU replays recorded steps and reads several results together."""
    from ..training import loop, session
    from . import machine

    loop.prepare, loop.make_steps, session.made_with = machine.prepare, machine.make_steps, machine.made_with


def attach_decode() -> None:
    """Generation on a GPU."""


def attach() -> None:
    """Both; calling it again changes nothing."""
    attach_step()
    attach_decode()
