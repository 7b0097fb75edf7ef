"""no_grad: a context manager and a decorator, with and without brackets, that can be used any number of times."""

import functools
import inspect
from collections.abc import Callable, Generator
from contextvars import ContextVar
from typing import Any

from .autograd import recording

_outer: ContextVar[tuple[Any, ...]] = ContextVar("outer", default=())  # what held outside of each `with` that is open


class NoGrad:
    """`with no_grad():` ops are computed but not recorded. Nests, survives exceptions, holds per thread and task.

    It decorates functions, generator functions and async functions too: `@no_grad()` or `@no_grad`.
    """

    def __enter__(self) -> None:
        _outer.set((*_outer.get(), recording.get()))
        recording.set(False)

    def __exit__(self, *exception: Any) -> None:
        *rest, before = _outer.get()
        _outer.set(tuple(rest))
        recording.set(before)

    def __call__(self, function: Callable[..., Any] | None = None) -> Any:
        if function is None:
            return self
        if not callable(function):
            raise TypeError(f"no_grad takes no arguments, or the function that it decorates, not {function!r:.80}")
        if inspect.isasyncgenfunction(function):
            raise TypeError("no_grad cannot decorate an async generator: write `with no_grad():` in its body")
        if inspect.isgeneratorfunction(function):

            @functools.wraps(function)
            def generate(*args: Any, **kwargs: Any) -> Any:  # a generator function itself, as inspect sees it
                return (yield from _generate(function(*args, **kwargs)))

            return generate
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def awaited(*args: Any, **kwargs: Any) -> Any:
                with self:
                    return await function(*args, **kwargs)

            return awaited

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return call

    def __repr__(self) -> str:
        return "tensorlite.no_grad"


no_grad = NoGrad()


def _generate(generator: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """The items of a generator, whose body runs under no_grad and whose consumer does not."""
    proceed: Callable[..., Any] = generator.send
    given: Any = None
    while True:
        try:
            with no_grad:
                item = proceed(given)
        except StopIteration as stop:
            return stop.value
        try:
            proceed, given = generator.send, (yield item)
        except GeneratorExit:
            with no_grad:
                generator.close()
            raise
        except BaseException as error:
            proceed, given = generator.throw, error
