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

    __slots__ = ("done", "error", "function", "part", "value")

    def __init__(self, function: Callable[[slice], Any], part: slice):
        self.function, self.part, self.done = function, part, allocate_lock()
        self.value: Any = None
        self.error: BaseException | None = None
        self.done.acquire()

    def run(self, free: Callable[[], None]) -> None:
        try:
            self.value = self.function(self.part)
        except BaseException as error:
            self.error = error
        free()
        self.done.release()

    def wait(self) -> None:
        """Until it is done: to be called once."""
        self.done.acquire()

    def result(self) -> Any:
        """What function(part) returned, once it was waited for; what it raised is raised here."""
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

    def begin(self, function: Callable[[slice], Any], part: slice) -> Task:
        """The task, begun; done at once, here, if the thread has another (two threads of a program may ask at once)."""
        task = Task(function, part)
        if self._free.acquire(blocking=False):
            self._task = task
            self._go.release()
        else:
            task.run(lambda: None)
        return task

    def _serve(self) -> None:
        while True:
            self._go.acquire()
            self._take().run(self._free.release)  # no name is left for it: it would keep arrays alive

    def _take(self) -> Task:
        task, self._task = self._task, None
        assert task is not None  # begin() left it
        return task
