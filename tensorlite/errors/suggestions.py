"""Errors for the habits of PyTorch and NumPy users: each names what to write instead (the tables: torch_names.py).

- A name that is missing: `missing` for the package, `module_getattr` for its modules, `hint` for classes.
- An argument that a function does not have: `explain` and `explain_argument_errors` for functions, `unknown_argument`
  for ops. Methods of classes that PyTorch has too ignore its arguments where they change nothing
  (`accepts_torch_arguments`).
- Names, operators and assignments that Tensor does not have: `adapt`.
"""

import functools
import inspect
import sys
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from ..typing import ArrayLike
from .checks import unsupported_array_advice
from .torch_names import ADVICE, ANYTHING, ARGUMENTS, IN_PLACE, NAMES, RENAMED, TENSOR

F = TypeVar("F", bound=Callable[..., Any])

# ----- names --------------------------------------------------------------------------------------------------------


def missing(owner: str, name: str, table: dict[str, str], known: Iterable[str]) -> AttributeError:
    """The error for the missing `name` of `owner`: what `table` says to write, or similar names among `known`."""
    advice = f": write {table[name]}" if name in table else did_you_mean(name, known)
    return AttributeError(f"{owner} has no attribute {name!r}{advice}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ ": did you mean ...?" with the public names among `known` that resemble `name`; "" if there is none."""
    import difflib  # only when something is wrong already

    close = difflib.get_close_matches(name, [each for each in known if not each.startswith("_")])
    return f": did you mean {' or '.join(close)}?" if close else ""


def hint(owner: str, name: str) -> str:
    """The replacement of PyTorch's `name` in `owner`, as ": ..."; "" if it is not in the table."""
    advice = NAMES[owner].get(name)
    return f": {advice}" if advice else ""


def module_getattr(module: str) -> Callable[[str], Any]:
    """The `__getattr__` of tensorlite.`module`: an AttributeError that says what to write instead."""

    def __getattr__(name: str) -> Any:
        names = vars(sys.modules[f"tensorlite.{module}"])
        advice = hint(module, name) or did_you_mean(name, names.get("__all__", names))
        raise AttributeError(f"module 'tensorlite.{module}' has no attribute {name!r}{advice}")

    return __getattr__


class Elsewhere:
    """A name that Tensor does not have. (A `__getattr__` would slow down every attribute of every Tensor.)"""

    def __init__(self, name: str, hint: str):
        self.name, self.hint = name, hint

    def __get__(self, instance: Any, owner: type) -> Any:
        raise AttributeError(f"a Tensor has no attribute {self.name!r}: {self.hint}", name=self.name, obj=instance)


# ----- arguments ----------------------------------------------------------------------------------------------------


def unknown_argument(name: str, unknown: str, takes: Iterable[str]) -> str:
    """The error message for an argument that the function `name` does not have; `takes` are those that it has."""
    takes = list(takes)
    if unknown in ADVICE:
        return f"{name}: no argument {unknown!r} here: {ADVICE[unknown]}"
    word = RENAMED.get(unknown)
    hint = f": write {word}= for {unknown}=" if word in [each.partition("=")[0] for each in takes] else ""
    return f"{name}: no argument {unknown!r} here; it takes {', '.join(takes)}{hint}"


def explain_argument_errors(function: F) -> F:
    """`function`, with error messages about wrong arguments that say which arguments it takes."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except (TypeError, AttributeError) as error:
            wrong = _misuse(function, args, kwargs, error)
            if not wrong:
                raise
            raise TypeError(wrong) from error

    return call  # type: ignore[return-value]  # functools.wraps keeps the signature


def _misuse(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception) -> str:
    """The problem with the arguments of a failed call; "" if none is found."""
    signature, name = inspect.signature(function), function.__name__
    takes = [str(p.replace(annotation=p.empty)) for p in signature.parameters.values() if p.name != "self"]
    if unknown := [key for key in kwargs if key not in signature.parameters]:
        return unknown_argument(name, unknown[0], takes)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as mismatch:
        hint = f": {ADVICE['decimals']}" if name == "round" else ""
        return f"{name}: {mismatch}; it takes {', '.join(takes) or 'no arguments'}{hint}"
    checked = args if isinstance(error, AttributeError) else args[:1] if _takes_tensor_first(signature) else ()
    found = [_not_a_tensor(value) for value in checked]
    return next((f"{name}: {sentence}" for sentence in found if sentence), "")


def _takes_tensor_first(signature: inspect.Signature) -> bool:
    return next((p.annotation in ("ArrayLike", ArrayLike) for p in signature.parameters.values()), False)


def _not_a_tensor(value: Any) -> str:
    """For an argument in the place of a Tensor or a list of Tensors: what to write; "" for a Tensor or an array."""
    if isinstance(value, (list, tuple)) and any(isinstance(each, (list, tuple)) for each in value):
        return "give Tensors, not lists of lists: write tl.tensor(...) of numbers, tl.stack(...) of a list of Tensors"
    if hasattr(value, "shape"):
        return unsupported_array_advice(value)
    return f"give a Tensor or an array, not {type(value).__name__}: write tl.tensor(...)"


def explain(namespace: dict[str, Any], names: Iterable[str]) -> None:
    """Apply `explain_argument_errors` to each plain function among `names`. Ops check their arguments themselves."""
    for name in names:
        if inspect.isfunction(namespace[name]):
            namespace[name] = function = explain_argument_errors(namespace[name])
            function.__module__ = namespace["__name__"]  # where pickle finds it


def accepts_torch_arguments(owner: str) -> Callable[[F], F]:
    """A decorator of methods: PyTorch's arguments that `owner` does not have are ignored if they ask for nothing;
    otherwise a TypeError says what to write. While all arguments are known, it costs one more call.
    """

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return function(self, *args, **kwargs)
            except TypeError:
                unknown = kwargs.keys() - inspect.signature(function).parameters.keys()
                if not unknown & ARGUMENTS[owner].keys():
                    raise
                for name in sorted(unknown):
                    _ignore(owner, type(self).__name__, name, kwargs.pop(name))
            return function(self, *args, **kwargs)

        return call  # type: ignore[return-value]  # functools.wraps keeps the signature

    return decorate


def _ignore(owner: str, kind: str, argument: str, value: Any) -> None:
    """Nothing if the value asks for nothing; otherwise a TypeError."""
    ignored, advice = ARGUMENTS[owner].get(argument, ((), "it is unknown"))
    if ANYTHING in ignored or any(type(value) is type(x) and value == x for x in ignored):
        return
    raise TypeError(f"{kind} has no argument {argument!r}: {advice}") from None


# ----- changes in place ---------------------------------------------------------------------------------------------


class Count(int):
    """A number of elements; torch calls it as a method."""

    __slots__ = ()

    def __call__(self, *_: Any) -> None:
        raise TypeError("x.size is the number of elements, not a method: write x.shape for the lengths of the axes")


WRAPPED = ("clip", "round")  # methods without an axis that other libraries call with other arguments


def _in_place(self: Any, other: Any) -> Any:
    """`x += y` binds the name to x + y. For a leaf that requires a gradient, RuntimeError: x would lose its `.grad`."""
    if self.node is None and self.requires_grad:
        raise RuntimeError(
            "an operator like += makes a new Tensor, which is not the leaf that gets a gradient: write y = x + ... for "
            "a new one; to change the values write to x.data and call x.changed()"
        )
    return NotImplemented


def _set_item(self: Any, index: Any, value: Any) -> None:
    raise TypeError(
        "Tensors are not changed in place: write tl.where(mask, value, x) for a new one; to change the values write "
        "x.data[...] = value and call x.changed()"
    )


def adapt(tensor: Any) -> None:
    """Give the class Tensor these errors; methods that PyTorch calls with `dim` get `explain_argument_errors`."""
    tensor.backward = explain_argument_errors(tensor.backward)
    for name, method in list(vars(tensor).items()):
        if inspect.isfunction(method) and (name in WRAPPED or "axis" in inspect.signature(method).parameters):
            setattr(tensor, name, explain_argument_errors(method))
    hints = {f"{name}_": "Tensors are not changed in place, write x = ..." for name in IN_PLACE.split()}
    for name, hint in (hints | {name: f"write {ours}" for name, ours in TENSOR.items()}).items():
        setattr(tensor, name, Elsewhere(name, hint))
    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor"):
        setattr(tensor, f"__i{name}__", _in_place)
    tensor.__setitem__ = _set_item
    tensor.__dir__ = _names


def _names(self: Any) -> list[str]:
    return [name for name in object.__dir__(self) if not isinstance(vars(type(self)).get(name), Elsewhere)]
