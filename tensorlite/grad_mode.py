"""Whether ops are recorded for differentiation: the variable `recording`, and `no_grad`, which switches it off.

It is a context variable, so every thread and every asyncio task has its own value.
"""

import functools
import inspect
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

T = TypeVar("T")
recording = ContextVar("recording", default=True)  # False inside no_grad()
_outer: ContextVar[tuple[bool, ...]] = ContextVar("outer", default=())  # its values before each open `with no_grad()`


@contextmanager
def setting(variable: ContextVar[T], value: T) -> Iterator[None]:
    """`with setting(variable, value):` the context variable has this value inside, and its old one afterwards."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


class NoGrad:
    """`with no_grad():` ops are computed but not recorded, in this thread and asyncio task. It can be nested.

    As a decorator, `@no_grad()` or `@no_grad`, it takes functions, generator functions and async functions.
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
            def generator_call(*args: Any, **kwargs: Any) -> Any:  # inspect reports it as a generator function, too
                return (yield from _without_grad(function(*args, **kwargs)))

            return generator_call
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def async_call(*args: Any, **kwargs: Any) -> Any:
                with self:
                    return await function(*args, **kwargs)

            return async_call

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return call

    def __repr__(self) -> str:
        return "tensorlite.no_grad"


no_grad = NoGrad()


def _without_grad(generator: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """The items of `generator`. Its body runs inside no_grad(); the code that consumes the items does not."""
    resume: Callable[..., Any] = generator.send
    value: Any = None  # what `resume` passes into the generator
    while True:
        try:
            with no_grad:
                item = resume(value)
        except StopIteration as stop:
            return stop.value
        try:
            resume, value = generator.send, (yield item)
        except GeneratorExit:
            with no_grad:
                generator.close()
            raise
        except BaseException as error:
            resume, value = generator.throw, error
