"""A thread that waits for one part of a job at a time.

One idea: a hand-over is two locks. concurrent.futures does more for each (a queue, a condition, a callback) and takes
twice as long, and a small model hands over dozens of times in a step.
"""

from _thread import allocate_lock
from collections.abc import Callable
from threading import Thread
from typing import Any


class Task:
    """function(part), in another thread. `value` or `error` is there once `done` is unlocked."""

    value: Any = None
    error: BaseException | None = None

    def __init__(self, function: Callable[[slice], Any], part: slice):
        self.function, self.part, self.done = function, part, allocate_lock()
        self.done.acquire()

    def run(self, free: Callable[[], None]) -> None:
        try:
            self.value = self.function(self.part)
        except BaseException as error:
            self.error = error
        free()
        self.done.release()

    def wait(self) -> None:
        with self.done:
            pass

    def result(self) -> Any:
        """What function(part) returned, when it has; what it raised is raised here."""
        self.wait()
        if self.error is not None:
            raise self.error
        return self.value


class Worker:
    """A thread, and one task at a time for it."""

    def __init__(self) -> None:
        self._free, self._go = allocate_lock(), allocate_lock()
        self._go.acquire()
        self._task: Task | None = None
        Thread(target=self._serve, name="tensorlite", daemon=True).start()

    def begin(self, function: Callable[[slice], Any], part: slice) -> Task | None:
        """The task, begun; None if the thread has another one (two threads of a program may ask at once)."""
        if not self._free.acquire(blocking=False):
            return None
        task = self._task = Task(function, part)
        self._go.release()
        return task

    def _serve(self) -> None:
        while True:
            self._go.acquire()
            self._take().run(self._free.release)  # no name is left for it: it would keep arrays alive

    def _take(self) -> Task:
        task, self._task = self._task, None
        assert task is not None  # begin() left it
        return task
