"""Signals that stop training: the first one lets the step finish, a second one ends the process."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_collecting: list[int] = []  # the list of the last block that was entered without `at_once`


def stop(number: int) -> None:
    """As if the signal had come to this process: the block of `stop_signals` ends after the step."""
    if not _collecting:
        _collecting.append(number)


@contextmanager
def stop_signals(at_once: bool = False) -> Iterator[list[int]]:
    """A list to which the first signal to stop is added; a second one raises SystemExit. Restored when the block ends.

    They are SIGINT, SIGTERM, SIGHUP, and SIGUSR1 and SIGXCPU, which schedulers send when a job's time is over. With
    `at_once` the first one already raises SystemExit, and SIGINT is not handled. SIGHUP, SIGUSR1 and SIGXCPU stay
    ignored if they are (nohup ignores SIGHUP). Only Python's main thread may handle signals: in another thread nothing
    is changed.
    """
    global _collecting
    received: list[int] = []
    if not at_once:
        _collecting = received

    def handle(number: int, frame: FrameType | None) -> None:
        if at_once or received:
            raise SystemExit(128 + number)
        received.append(number)

    numbers = [] if at_once else [signal.SIGINT]
    numbers += [signal.SIGTERM]
    others = [getattr(signal, name) for name in ("SIGHUP", "SIGUSR1", "SIGXCPU") if hasattr(signal, name)]
    numbers += [number for number in others if signal.getsignal(number) != signal.SIG_IGN]  # Windows has none of them
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
