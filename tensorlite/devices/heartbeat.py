"""Signs of life between processes: a thread in each of them notices where another one has stopped.

Process 0 exchanges empty messages with every other one. They are sent by a thread, so they go on while a process
computes or waits; a process that was stopped (SIGSTOP), or whose host is gone, sends none. A process that has ended is
reported by the launcher, mpiexec or srun, sooner than by this.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

from ..distributed import World


class Heartbeat:
    """Calls `lost(rank, seconds)` once, in a thread, when nothing has come from a process for `timeout` seconds."""

    def __init__(self, world: World, timeout: float, lost: Callable[[int, float], None]):
        self.world, self.timeout, self.lost = world, timeout, lost
        self.pause = max(0.05, min(5.0, timeout / 10))
        self.comm = world.comm.Dup()
        self.others = range(1, world.size) if world.rank == 0 else range(1)
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self.thread.start()

    def _beat(self) -> None:
        """Send, receive, and compare the times, until `end`."""
        last = dict.fromkeys(self.others, time.monotonic())
        sent: list[Any] = []
        woke = time.monotonic()
        while not self.ended.wait(self.pause):
            now = time.monotonic()
            if now - woke > self.timeout / 2:  # this process was stopped itself, and the others may have been
                last = dict.fromkeys(self.others, now)
            woke = now
            sent = [request for request in sent if not request.Test()]
            sent += [
                self.comm.Isend([None, 0, self.world.mpi.BYTE], other) for other in self.others if len(sent) < 1000
            ]
            last |= dict.fromkeys(self._received(), now)
            for other, seen in last.items():
                if now - seen > self.timeout:
                    self.lost(other, now - seen)
                    return

    def _received(self) -> list[int]:
        """The processes whose messages have come since the last call."""
        found, status = [], self.world.mpi.Status()
        while self.comm.Iprobe(status=status):
            self.comm.Recv([None, 0, self.world.mpi.BYTE], status.source)
            found.append(status.source)
        return found

    def end(self) -> None:
        """Stop the thread, and take the messages that are still under way. All processes call it."""
        self.ended.set()
        self.thread.join()
        self.world.wait(self.comm.Ibarrier())
        self._received()
        self.comm.Free()


def supported(world: World) -> bool:
    """Whether this MPI lets two threads of a process call it."""
    return bool(world.mpi.Query_thread() == world.mpi.THREAD_MULTIPLE)
