"""Module and Parameter: what a layer is made of, how its parts are found, saved, loaded, moved and copied."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np

from .. import ops
from ..backend import DEVICES, Array, device_of, is_array, is_floating, to_device
from ..creation import tensor
from ..errors.suggestions import accepts_torch_arguments, hint
from ..tensor import Tensor


class Parameter(Tensor):
    """A Tensor that a module learns: a leaf that requires a gradient, holding a copy of `data` (as `tensor` takes it).

    With `requires_grad=False` it is frozen: part of the state, and no gradient is computed for it.

    Its values change through an optimizer or `load_state_dict`. After writing to `.data` directly, call `.changed()`.
    """

    __slots__ = ()

    def __init__(self, data: Any, requires_grad: bool = True):
        super().__init__(tensor(data, requires_grad=requires_grad).data, requires_grad)


def make_adjacent(parameters: Sequence[Parameter]) -> None:
    """Move Parameters into one array, each directly after the one before, so that an op that reads all of them needs
    no copy. They must have the same dtype, device and shape except for the first axis. Their values stay the same.
    """
    if not parameters:
        return
    memory, start = ops.concatenate([p.data for p in parameters]), 0
    for p in parameters:
        p.data = memory[start : start + len(p)]
        start += len(p)


# ----- Module -----------------------------------------------------------------------------------------------------


def _closing(init: Callable[..., None]) -> Callable[..., None]:
    """`init`; after it, new attributes are errors. Only the `__init__` of the object's own class does that, not one
    that a subclass calls.
    """

    @functools.wraps(init)
    def __init__(self: "Module", *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        if type(self).__init__ is __init__:
            vars(self)["_closed"] = True

    return __init__


class Module:
    """The base class of layers and models: subclass it, assign the parts in `__init__`, write `forward`.

    Where two modules share a Parameter (tied weights), it counts once, under the first of its names. A plain Tensor
    among the attributes is a constant: `to()` takes it along, `parameters()` and `state_dict()` do not; one that
    belongs to the state is a buffer (`register_buffer`).
    """

    training = True  # set by train() and eval()
    _buffers: tuple[str, ...] = ()  # the names of those that are part of the state
    forward: Callable[..., Any]  # what a subclass computes

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            is_layer_of_nn = cls.__module__.startswith(__package__ + ".")  # PyTorch has it with more arguments
            init = accepts_torch_arguments("Module")(cls.__init__) if is_layer_of_nn else cls.__init__
            cls.__init__ = _closing(init)  # type: ignore[method-assign]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """`forward` of the same arguments."""
        return self.forward(*args, **kwargs)

    # ----- attributes -----

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}{self._suggestion(name)}")

    def __setattr__(self, name: str, value: Any) -> None:
        attributes = vars(self)
        if "_closed" in attributes and name not in attributes and not hasattr(type(self), name):
            raise AttributeError(
                f"{type(self).__name__} has no attribute {name!r} to replace{self._suggestion(name)}; new ones are "
                "assigned in __init__"
            )
        if isinstance(attributes.get(name), Parameter) and not isinstance(value, Parameter | None):
            raise TypeError(
                f"{type(self).__name__}.{name} is a Parameter: replace it by a Parameter, not by "
                f"{type(value).__name__}; to change its values, write to .data and call .changed()"
            )
        if name in self._buffers and (isinstance(value, Parameter) or not isinstance(value, Tensor | None)):
            raise TypeError(f"{type(self).__name__}.{name} is a buffer: replace it by a Tensor, not {value!r:.80}")
        super().__setattr__(name, value)

    def _suggestion(self, name: str) -> str:
        import difflib  # only needed for this error

        if advice := hint("Module", name):
            return advice

        close = difflib.get_close_matches(name, [known for known in dir(self) if not known.startswith("_")])
        return f": did you mean {' or '.join(close)}?" if close else ""

    # ----- structure -----

    def children(self) -> Iterator[tuple[str, "Module"]]:
        """(name, module) of the modules among the attributes, in the order of their definition."""
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value
            elif isinstance(value, list | tuple | dict):
                parts = value.values() if isinstance(value, dict) else value
                if any(isinstance(part, Module | Parameter) for part in parts):
                    raise TypeError(
                        f"{type(self).__name__}.{name} is a {type(value).__name__} that holds modules or Parameters, "
                        "which would be overlooked there: use a ModuleList, or an attribute for each"
                    )

    def named_modules(self) -> Iterator[tuple[str, "Module"]]:
        """(name, module) of this module, named "", and of all below it, each once; a parent before its children."""
        seen: set[int] = set()
        stack: list[tuple[str, Module]] = [("", self)]
        while stack:
            path, module = stack.pop()
            if id(module) in seen:
                continue
            seen.add(id(module))
            yield path, module
            stack += [(f"{path}.{name}" if path else name, child) for name, child in module.children()][::-1]

    def modules(self) -> Iterator["Module"]:
        """This module and all below it, each once."""
        return (module for _, module in self.named_modules())

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """(name, Parameter) of all Parameters, each once: a module's own before those of its children."""
        seen = set()
        for path, module in self.named_modules():
            for name, value in vars(module).items():
                if isinstance(value, Parameter) and id(value) not in seen:
                    seen.add(id(value))
                    yield f"{path}.{name}" if path else name, value

    def parameters(self) -> Iterator[Parameter]:
        """All Parameters, each once."""
        return (p for _, p in self.named_parameters())

    def num_parameters(self) -> int:
        """The number of elements of all Parameters; tied ones count once."""
        return sum(p.size for p in self.parameters())

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Assign a Tensor that is not a Parameter and, unless `persistent` is False, part of `state_dict()`.

        Replace it by assigning another Tensor to the attribute. A Tensor that is assigned without `register_buffer` is
        a constant: a buffer that is not persistent. ValueError for a name that is taken or cannot be an attribute,
        TypeError for what is not a Tensor or is a Parameter.
        """
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"register_buffer: the name of an attribute is needed, not {name!r:.80}")
        if hasattr(self, name) and name not in self._buffers:
            raise ValueError(f"register_buffer: {type(self).__name__} has an attribute {name!r} already")
        if isinstance(tensor, Parameter) or not isinstance(tensor, Tensor | None):
            raise TypeError(f"register_buffer: {name} must be a Tensor, tl.tensor(...), not {type(tensor).__name__}")
        vars(self)[name] = tensor
        names = [other for other in self._buffers if other != name]
        vars(self)["_buffers"] = (*names, name) if persistent else tuple(names)

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """(name, Tensor) of all persistent buffers, each once."""
        seen = set()
        for path, module in self.named_modules():
            for name in module._buffers:
                value = getattr(module, name)
                if value is not None and id(value) not in seen:
                    seen.add(id(value))
                    yield f"{path}.{name}" if path else name, value

    def __repr__(self) -> str:
        parts = [f"{name}: {child!r}".replace("\n", "\n  ") for name, child in self.children()]
        inside = "".join(f"\n  {part}" for part in parts) + "\n" if parts else ""
        return f"{type(self).__name__}({', '.join(self._settings())}{inside})"

    def _settings(self) -> Iterator[str]:
        """name=value of the plain attributes that differ from the defaults of `__init__` or of the class."""
        arguments = inspect.signature(type(self).__init__).parameters
        for name, value in vars(self).items():
            default = arguments[name].default if name in arguments else getattr(type(self), name, None)
            if isinstance(default, bool) and isinstance(value, Tensor | None):
                value = value is not None  # bias=False is kept as None
            value = value.item() if isinstance(value, np.generic) else value
            same = type(value) is type(default) and value == default
            if isinstance(value, bool | int | float | str) and not same and name[0] != "_" and name != "training":
                yield f"{name}={value!r}"

    # ----- state -----

    def state_dict(self) -> dict[str, Tensor]:
        """The Parameters and persistent buffers by name, detached.

        They share memory with the module: clone those that must not change with it.
        """
        return {name: t.detach() for name, t in self._state()}

    def _state(self) -> Iterator[tuple[str, Tensor]]:
        yield from self.named_parameters()
        yield from self.named_buffers()

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> tuple[list[str], list[str]]:
        """Copy `state` into Parameters and buffers, in place: they stay the same objects, tied ones stay tied.

        Everything is checked before anything is copied. A wrong shape or dtype anywhere, and with `strict` a missing
        or an unexpected name, raises one ValueError that lists them. Returns the missing and the unexpected names (both
        empty when strict). Values on another device are moved. `state` may hold entries of files (io.entries) instead
        of Tensors: they are read one at a time.
        """
        if not isinstance(state, Mapping):
            raise TypeError(
                "load_state_dict: give a dict of names and Tensors, such as tl.io.load(path) gives, not "
                f"{type(state).__name__}"
            )
        own = dict(self._state())
        values = {name: x.data if isinstance(x, Tensor) else x for name, x in state.items()}
        missing = [name for name in own if name not in values]
        unexpected = [name for name in values if name not in own]
        problems = [f"missing: {', '.join(_shortened(missing))}"] if missing and strict else []
        problems += [f"unexpected: {', '.join(_shortened(unexpected))}"] if unexpected and strict else []
        for name, p in own.items():
            if name in values and (wrong := mismatch(values[name], p)):
                problems.append(f"{name}: {wrong}")
        if problems:
            raise ValueError(f"this state does not fit {type(self).__name__}:\n  " + "\n  ".join(_shortened(problems)))
        for name, p in own.items():
            if name in values:
                value = values[name]
                if hasattr(value, "read_into") and isinstance(p.data, np.ndarray) and p.data.flags.c_contiguous:
                    value.read_into(p.data)
                else:
                    p.data[...] = to_device(value.read().data if hasattr(value, "read") else value, p.device)
                p.changed()
        return missing, unexpected

    # ----- modes -----

    def train(self, mode: bool = True) -> Self:
        """Set this module and all below it to training, or to evaluation with mode=False. Returns self."""
        check_bool("train", "mode", mode)
        for module in self.modules():
            module.training = bool(mode)
        return self

    def eval(self) -> Self:
        """Set this module and all below it to evaluation, where dropout does nothing. Returns self."""
        return self.train(False)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients (`.grad` is None again). A ValueError for `set_to_none=False`."""
        check_set_to_none(set_to_none)
        for p in self.parameters():
            p.grad = None

    def to(self, target: Any) -> Self:
        """Move to a device ("cpu", "cuda", "cuda:1") or convert to a floating dtype: Parameters, their gradients, and
        the constants. Returns self. The Parameters stay the same objects with other `.data`, so make optimizers
        afterwards. ValueError for an unknown device or dtype, TypeError for a dtype that is not floating.
        """
        convert = _conversion(target)
        tensors = [t for module in self.modules() for t in vars(module).values() if isinstance(t, Tensor)]
        moved = False
        for t in {id(t): t for t in tensors}.values():  # each once; a dict keeps the order
            if (data := convert(t.data)) is not t.data:
                t.data, moved = data, True
                t.changed()
                t.grad = None if t.grad is None else Tensor(convert(t.grad.data))
        for module in self.modules() if moved else ():
            module.on_move()
        return self

    def on_move(self) -> None:
        """Called after `to` or a deep copy gave Parameters other memory: for modules that lay them out in one array."""

    # ----- copies -----

    def __copy__(self) -> Self:
        """A module with the same Parameters and children, and attributes of its own."""
        new = object.__new__(type(self))
        vars(new).update(vars(self))
        return new

    def __setstate__(self, state: dict[str, Any]) -> None:
        """For copy.deepcopy and pickle: the attributes, Parameters in memory of their own."""
        vars(self).update(state)
        self.on_move()


def _conversion(target: Any) -> Callable[[Array], Array]:
    """The function that `to(target)` applies to each array; it returns the array itself if nothing changes."""
    if isinstance(target, str) and target.partition(":")[0] in DEVICES:
        return lambda x: x if device_of(x) == target else to_device(x, target)
    try:
        dtype = np.dtype(target)
    except TypeError as error:
        raise ValueError(f"to: {target!r} is neither a dtype nor a device ({', '.join(DEVICES)})") from error
    if not is_floating(dtype):
        raise TypeError(f"to: Parameters are floating, they cannot be {dtype}")
    return lambda x: x.astype(dtype) if is_floating(x.dtype) and x.dtype != dtype else x


def check_set_to_none(value: bool) -> None:
    """A ValueError for False, which in PyTorch fills gradients with zeros."""
    if not value:
        raise ValueError("zero_grad: gradients become None: omit set_to_none, and take a gradient of None as zeros")


def check_bool(what: str, name: str, value: bool) -> None:
    """A TypeError unless `value`, the argument `name` of `what`, is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{what}: {name} must be True or False, not {value!r:.80}")


def _shortened(words: Sequence[str], most: int = 10) -> list[str]:
    """The first `most` words, and how many more there are: the state of another model has hundreds."""
    return [*words[:most], *([f"and {len(words) - most} more"] if len(words) > most else [])]


def mismatch(value: Any, target: Tensor | Array) -> str:
    """The reason why the array `value` cannot be copied into `target`: another shape or dtype; '' if it can."""
    if not is_array(value):
        return f"a Tensor is needed, not {type(value).__name__}"
    if value.shape != target.shape:
        return f"shape {target.shape} is needed, not {value.shape}"
    return "" if value.dtype == target.dtype else f"dtype {target.dtype} is needed, not {value.dtype}: use .astype"
