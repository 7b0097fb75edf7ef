"""Worker threads that compute one part of a job at a time.

Handing over a task takes two locks. concurrent.futures needs a queue, a condition and a callback for each task and
takes twice as long, and a small model hands over dozens of tasks in a training step.
"""

from _thread import allocate_lock
from collections.abc import Callable
from threading import Thread
from typing import Any


class Task:
    """function(part), computed by a worker. `value` or `error` is set before `done` is unlocked."""

    __slots__ = ("done", "error", "function", "part", "value")

    def __init__(self, function: Callable[[slice], Any], part: slice):
        self.function, self.part, self.done = function, part, allocate_lock()
        self.value: Any = None
        self.error: BaseException | None = None
        self.done.acquire()

    def run(self, free: Callable[[], None]) -> None:
        """Compute it, call `free`, then unlock `done`."""
        try:
            self.value = self.function(self.part)
        except BaseException as error:
            self.error = error
        free()
        self.done.release()

    def wait(self) -> None:
        """Wait until it is done. Call it once."""
        self.done.acquire()

    def result(self) -> Any:
        """The result of function(part), after `wait`; an exception of it is raised here."""
        if self.error is not None:
            raise self.error
        return self.value


class Worker:
    """A thread that computes one task at a time."""

    def __init__(self) -> None:
        self._free, self._go = allocate_lock(), allocate_lock()
        self._go.acquire()
        self._task: Task | None = None
        Thread(target=self._serve, name="tensorlite", daemon=True).start()

    def begin(self, function: Callable[[slice], Any], part: slice) -> Task:
        """Start function(part) on this thread and return its Task.

        If the worker is busy with a task of another thread of the program, compute it in the calling thread instead.
        """
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
            self._take().run(self._free.release)  # without a name, which would keep its arrays alive

    def _take(self) -> Task:
        task, self._task = self._task, None
        assert task is not None  # begin() has set it
        return task
