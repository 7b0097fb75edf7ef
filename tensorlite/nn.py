"""Modules: layers whose parameters have names.

One idea: a module is an ordinary object, and **its attributes are its structure**. The Parameters and Modules among
them, in the order in which they were assigned, are what `parameters()`, `state_dict()` and `to()` walk. There is no
registry and no metaclass, so `super().__init__()` is not needed. The layers start from torch's distributions, drawn in
torch's order: a seed gives torch's weights.

`copy.deepcopy` and pickle give a module that shares nothing with the original and keeps its ties, modes and gradients;
`copy.copy` one with attributes of its own and the same Parameters and children.

What it refuses: a new attribute once `__init__` is done (a mistyped name, nearly always; `__init__` is the list of what
a module has), Modules hidden in a list, a Tensor in a Parameter's place, and a state that does not fit in every name,
shape and dtype.
"""

import contextvars
import functools
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Any, Self

import numpy as np

from . import functional as F
from . import ops
from .autograd import setting
from .backend import DEVICES, device_of, float32, integers, is_array, is_floating, to_device
from .errors.torch_names import explaining, hint, missing
from .random import Generator, default_generator
from .tensor import Tensor, ones, tensor, zeros

__getattr__ = missing("nn")


class Parameter(Tensor):
    """A Tensor that a module learns: a leaf that requires a gradient, holding a copy of `data` (as `tensor` takes it).

    With `requires_grad=False` it is frozen: part of the state, and no gradient is computed for it.

    Its values change through an optimizer or `load_state_dict`. Who writes to `.data` directly calls `.changed()`.
    """

    __slots__ = ()

    def __init__(self, data, requires_grad: bool = True):
        super().__init__(tensor(data, requires_grad=requires_grad).data, requires_grad)


# ----- Module -----------------------------------------------------------------------------------------------------


def _sealing(init: Callable) -> Callable:
    """`init`, after which the object takes no new attributes (unless it is a subclass's __init__ that called it)."""

    @functools.wraps(init)
    def __init__(self, *args, **kwargs):
        init(self, *args, **kwargs)
        if type(self).__init__ is __init__:
            vars(self)["_sealed"] = True

    return __init__


class Module:
    """Something with parameters and a `forward`: subclass it, assign the parts in `__init__`, write `forward`.

    Where two modules share a Parameter (tied weights), it counts once, under the first of its names. A plain Tensor
    among the attributes is a constant: `to()` takes it along, `parameters()` and `state_dict()` do not; one that
    belongs to the state is a buffer (`register_buffer`).
    """

    training = True  # what train() and eval() set
    _buffers: tuple[str, ...] = ()  # the names of those that are part of the state
    forward: Callable[..., Any]  # what a subclass computes

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            own = explaining("Module")(cls.__init__) if cls.__module__ == __name__ else cls.__init__
            cls.__init__ = _sealing(own)  # type: ignore[method-assign]

    def __call__(self, *args, **kwargs):
        return self.forward(*args, **kwargs)

    # ----- attributes -----

    def __getattr__(self, name: str):
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}{self._close_to(name)}")

    def __setattr__(self, name: str, value) -> None:
        attributes = vars(self)
        if "_sealed" in attributes and name not in attributes and not hasattr(type(self), name):
            raise AttributeError(
                f"{type(self).__name__} has no attribute {name!r} to replace{self._close_to(name)}; new ones are "
                "assigned in __init__"
            )
        if isinstance(attributes.get(name), Parameter) and not isinstance(value, Parameter | None):
            raise TypeError(
                f"{type(self).__name__}.{name} is a Parameter: replace it by a Parameter, not by a "
                f"{type(value).__name__}; to change its values, write to .data and call .changed()"
            )
        if name in self._buffers and (isinstance(value, Parameter) or not isinstance(value, Tensor | None)):
            raise TypeError(f"{type(self).__name__}.{name} is a buffer: replace it by a Tensor, not {value!r:.80}")
        super().__setattr__(name, value)

    def _close_to(self, name: str) -> str:
        import difflib  # only when something is wrong already

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
        seen, stack = set(), [("", self)]
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
        """How many numbers the Parameters hold; tied ones count once."""
        return sum(p.size for p in self.parameters())

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Assign a Tensor that is no Parameter and, unless `persistent` is False, part of `state_dict()`.

        Replace it by assigning another Tensor to the attribute. A Tensor that is assigned without `register_buffer` is
        a constant: a buffer that is not persistent.
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

        They share memory with the module: clone what shall stay as it is.
        """
        return {name: t.detach() for name, t in self._state()}

    def _state(self) -> Iterator[tuple[str, Tensor]]:
        yield from self.named_parameters()
        yield from self.named_buffers()

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> tuple[list[str], list[str]]:
        """Copy `state` into Parameters and buffers, in place: they stay the same objects, tied ones stay tied.

        Everything is looked at before anything is copied. A wrong shape or dtype anywhere, and with `strict` a
        missing or an unexpected name, raises one ValueError that lists them. Returns the missing and the
        unexpected names (both empty when strict). From another device, values are moved. `state` may have entries of
        files (io.entries) for Tensors: they are read one at a time.
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
        problems = [f"missing: {', '.join(_some(missing))}"] if missing and strict else []
        problems += [f"unexpected: {', '.join(_some(unexpected))}"] if unexpected and strict else []
        for name, p in own.items():
            if name in values and (wrong := misfit(values[name], p)):
                problems.append(f"{name}: {wrong}")
        if problems:
            raise ValueError(f"this state does not fit {type(self).__name__}:\n  " + "\n  ".join(_some(problems)))
        for name, p in own.items():
            if name in values:
                value = values[name].read().data if hasattr(values[name], "read") else values[name]
                p.data[...] = to_device(value, p.device)
                p.changed()
        return missing, unexpected

    # ----- modes -----

    def train(self, mode: bool = True) -> Self:
        """Switch to training: dropout drops. Returns self."""
        _check_bool("train", "mode", mode)
        for module in self.modules():
            module.training = bool(mode)
        return self

    def eval(self) -> Self:
        """Switch to evaluation: dropout passes everything on. Returns self."""
        return self.train(False)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients (`.grad` is None again)."""
        check_set_to_none(set_to_none)
        for p in self.parameters():
            p.grad = None

    def to(self, target) -> Self:
        """Move to a device ("cpu", "cuda", "cuda:1") or convert to a floating dtype: Parameters, their gradients, and
        the constants. The Parameters stay the same objects with other `.data`, so make optimizers afterwards.
        """
        convert = _conversion(target)
        kept = [t for module in self.modules() for t in vars(module).values() if isinstance(t, Tensor)]
        moved = False
        for t in {id(t): t for t in kept}.values():  # each once; a dict keeps the order
            if (data := convert(t.data)) is not t.data:
                t.data, moved = data, True
                t.changed()
                t.grad = None if t.grad is None else Tensor(convert(t.grad.data))
        for module in self.modules() if moved else ():
            module.on_move()
        return self

    def on_move(self) -> None:
        """Called when `to` or a deep copy has given Parameters other memory: for a module that arranges it."""

    # ----- copies -----

    def __copy__(self) -> Self:
        """Another module with the same parts: the Parameters and children are shared, the attributes are its own."""
        new = object.__new__(type(self))
        vars(new).update(vars(self))
        return new

    def __setstate__(self, state: dict[str, Any]) -> None:
        """For copy.deepcopy and pickle: the attributes, Parameters in memory of their own."""
        vars(self).update(state)
        self.on_move()


def _conversion(target) -> Callable:
    """What `to(target)` does to one array: the array itself where there is nothing to do."""
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


def _some(words: Sequence[str], most: int = 10) -> list[str]:
    """The first ones, and how many more there are: the state of another model has hundreds."""
    return [*words[:most], *([f"and {len(words) - most} more"] if len(words) > most else [])]


def misfit(value, place: Tensor) -> str:
    """Why `value` cannot be copied into `place`, or ''."""
    if not is_array(value):
        return f"a Tensor is needed, not {type(value).__name__}"
    if value.shape != place.shape:
        return f"shape {place.shape} is needed, not {value.shape}"
    return "" if value.dtype == place.dtype else f"dtype {place.dtype} is needed, not {value.dtype}: use .astype"


def make_adjacent(parameters: Sequence[Parameter]) -> None:
    """Store Parameters one behind the other in one array, so that an op that reads them all needs no copy.

    They must have the same dtype, device and shape but for the first axis. Their values stay the same.
    """
    if not parameters:
        return
    joined, start = ops.concatenate([p.data for p in parameters]), 0
    for p in parameters:
        p.data = joined[start : start + len(p)]
        start += len(p)


def indices(values, device: str, name: str = "indices") -> Tensor:
    """Token ids or class indices as a Tensor: one as it is, a NumPy array or a nested list as int64 on `device`."""
    if isinstance(values, Tensor):
        return values
    return Tensor(to_device(integers(name, values), device))


# ----- layers -----------------------------------------------------------------------------------------------------


_undrawn = contextvars.ContextVar("undrawn", default=False)


def undrawn():
    """`with undrawn():` layers start with zeros and draw no numbers: for a model whose weights are loaded next."""
    return setting(_undrawn, True)


def _born(draw: Callable[[tuple[int, ...]], np.ndarray], shape: tuple[int, ...]) -> Parameter:
    """A Parameter of freshly drawn values, on the default device."""
    return Parameter(to_device(np.zeros(shape, float32) if _undrawn.get() else draw(shape), None))


def _stream(layer: str, generator: Generator | None) -> Generator:
    """The generator that a layer draws from."""
    if not isinstance(generator, Generator | None):
        raise TypeError(f"{layer}: generator must be a tl.Generator, not {generator!r:.80}")
    return default_generator if generator is None else generator


def _check_sizes(layer: Module, **sizes: int) -> None:
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
            raise ValueError(f"{type(layer).__name__}: {name} must be a positive integer, not {size!r}")


def _check_bool(what: str, name: str, value: bool) -> None:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{what}: {name} must be True or False, not {value!r:.80}")


def _check_eps(layer: Module, eps: float) -> None:
    if not isinstance(eps, Real) or isinstance(eps, bool) or not 0 <= eps < math.inf:
        raise ValueError(f"{type(layer).__name__}: eps must be a number of at least 0, not {eps!r:.80}")


class Linear(Module):
    """x W^T + b: (..., in_features) -> (..., out_features), W (out_features, in_features), b (out_features).

    Both start uniform in +-1/sqrt(in_features), W drawn first (torch's default).
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, generator: Generator | None = None):
        _check_sizes(self, in_features=in_features, out_features=out_features)
        _check_bool("Linear", "bias", bias)
        self.in_features, self.out_features = in_features, out_features
        bound = 1 / math.sqrt(in_features)
        draw = functools.partial(_stream("Linear", generator).uniform, -bound, bound)
        self.weight = _born(draw, (out_features, in_features))
        self.bias = _born(draw, (out_features,)) if bias else None

    def forward(self, x):
        return F.linear(x, self.weight, self.bias)


class Embedding(Module):
    """A row of `weight` (num_embeddings, embedding_dim) per integer: (...) -> (..., embedding_dim). Starts as N(0, 1).

    The integers are a Tensor, a NumPy array or a nested list. Those outside 0 .. num_embeddings - 1 raise IndexError.
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, generator: Generator | None = None):
        _check_sizes(self, num_embeddings=num_embeddings, embedding_dim=embedding_dim)
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.weight = _born(_stream("Embedding", generator).randn, (num_embeddings, embedding_dim))

    def forward(self, idx):
        return F.embedding(self.weight, indices(idx, self.weight.device))


class LayerNorm(Module):
    """(x - mean) / sqrt(var + eps) * weight + bias over the last axis, of length `dim`; var biased."""

    def __init__(self, dim: int, eps: float = 1e-5, *, bias: bool = True):
        _check_sizes(self, dim=dim)
        _check_eps(self, eps)
        self.dim, self.eps = dim, eps
        _check_bool("LayerNorm", "bias", bias)
        self.weight = Parameter(ones(dim))
        self.bias = Parameter(zeros(dim)) if bias else None

    def forward(self, x):
        return F.layer_norm(x, self.weight, self.bias, eps=self.eps)


class RMSNorm(Module):
    """x / sqrt(mean(x**2) + eps) * weight over the last axis, of length `dim`."""

    def __init__(self, dim: int, eps: float = 1e-5):
        _check_sizes(self, dim=dim)
        _check_eps(self, eps)
        self.dim, self.eps = dim, eps
        self.weight = Parameter(ones(dim))

    def forward(self, x):
        return F.rms_norm(x, self.weight, eps=self.eps)


class Dropout(Module):
    """In training, each element is 0 with probability `p` and otherwise scaled by 1 / (1 - p); else nothing happens."""

    def __init__(self, p: float = 0.5, generator: Generator | None = None):
        if not isinstance(p, Real) or not 0 <= p <= 1:
            raise ValueError(f"Dropout: p must be a probability between 0 and 1, not {p!r:.80}")
        _stream("Dropout", generator)
        self.p, self.generator = p, generator

    def forward(self, x):
        return F.dropout(x, self.p, self.training, self.generator)


class GELU(Module):
    """x Phi(x): approximate "tanh" (GPT-2's) or "none" (the error function)."""

    def __init__(self, approximate: str = "tanh"):
        if approximate not in ("tanh", "none"):
            raise ValueError(f"GELU: approximate must be 'tanh' or 'none', not {approximate!r}")
        self.approximate = approximate

    def forward(self, x):
        return F.gelu(x, approximate=self.approximate)


class ReLU(Module):
    """max(x, 0)."""

    def __init__(self):
        """Nothing is chosen."""

    def forward(self, x):
        return F.relu(x)


class SiLU(Module):
    """x sigmoid(x)."""

    def __init__(self):
        """Nothing is chosen."""

    def forward(self, x):
        return F.silu(x)


class Tanh(Module):
    """tanh(x)."""

    def forward(self, x):
        return ops.tanh(x)


class Sigmoid(Module):
    """1 / (1 + exp(-x))."""

    def forward(self, x):
        return ops.sigmoid(x)


# ----- containers -------------------------------------------------------------------------------------------------


class ModuleList(Module):
    """Modules in a row, under the names "0", "1", ...: indexed, replaced and iterated like a list."""

    def __init__(self, modules: Iterable[Module] = ()):
        for module in modules:
            self.append(module)

    def append(self, module: Module) -> Self:
        vars(self)[str(len(self))] = _module(module)
        return self

    def __len__(self) -> int:
        return sum(1 for _ in self.children())

    def __iter__(self) -> Iterator[Module]:
        return (module for _, module in self.children())

    def __getitem__(self, index):
        try:
            return list(self)[index]
        except IndexError:
            many = len(self)
            raise IndexError(f"{type(self).__name__}: index {index} is out of range: it has {many} modules") from None

    def __setitem__(self, index: int, module: Module) -> None:
        try:
            name = str(range(len(self))[index])
        except IndexError:
            many = len(self)
            raise IndexError(f"{type(self).__name__}: index {index} is out of range: it has {many} modules") from None
        vars(self)[name] = _module(module)


class Sequential(ModuleList):
    """Modules one after another: the output of each is the input of the next."""

    def __init__(self, *modules: Module):
        super().__init__(modules)

    def forward(self, x):
        for module in self:
            x = module(x)
        return x


def _module(module) -> Module:
    if isinstance(module, list | tuple | dict):
        raise TypeError(
            f"a Module is needed here, not a {type(module).__name__}: nn.Sequential(*layers), nn.ModuleList(layers)"
        )
    if not isinstance(module, Module):
        raise TypeError(f"a Module is needed here, not {type(module).__name__}")
    return module
