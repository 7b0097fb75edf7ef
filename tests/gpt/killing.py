"""A command in a process of its own, which may be killed at any moment.

One idea: a fork server has imported everything once; so a process begins in milliseconds, and the moment of its death
falls into what the command does, not into imports.
"""

import multiprocessing
import os
import time

import writers

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["writers"])


def run(line: list[str], seconds: float) -> tuple[int, float]:
    """The exit status of a command, -9 if it was killed after that time, and how long it took."""
    ready = CONTEXT.Event()
    process = CONTEXT.Process(target=command, args=(line, ready))
    process.start()
    ready.wait()
    began = time.monotonic()
    process.join(seconds)
    process.kill()
    process.join()
    return process.exitcode or 0, time.monotonic() - began


def command(line: list[str], ready) -> None:
    """What the process does: it understands the command line, says that it is ready, and goes on."""
    parsed = {} if "--resume" in line or line[0] == "save" else {tuple(line): writers.REAL_PARSE(line)}
    ready.set()
    os._exit(writers.call(line, parsed).status)
