"""One op in four libraries: tensorlite, PyTorch, HIPS autograd and JAX, each with its own way to give an op its rules.

An op of the bank is written once, in functions whose first parameter `np` is a namespace with NumPy's names:

    Op("mul", forward=lambda np, x, y: x * y, rules=(lambda np, g, y: g * y, lambda np, g, x: g * x), ...)

A rule asks by name for what it needs, as in tensorlite: `g`, an argument, `out`, a keyword argument; a variadic op has
one rule, which also asks for `index` and `xs`. The namespaces have what the libraries call differently: `amax`,
`detach`, `constant` (an array of NumPy, with the dtype of another array), `astype` and `recording` (True where the
library records the rule, in order to differentiate it again).
"""

import functools
import importlib.util
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy

import tensorlite as tl
from tensorlite.primitive import elementwise, primitive


class Names:
    """A library's functions by NumPy's names: those of `more` first, then those of `module`."""

    def __init__(self, module: ModuleType, **more: Callable[..., Any]):
        self.__dict__ = more
        self.module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)

    def fit(self, g: Any, shape: Sequence[int]) -> Any:
        """`g`, summed over the axes along which an argument of `shape` was broadcast."""
        if tuple(g.shape) == tuple(shape):
            return g
        extra = len(g.shape) - len(shape)
        ones = [i + extra for i, n in enumerate(shape) if n == 1 and g.shape[i + extra] != 1]
        axes = (*range(extra), *ones)
        return self.reshape(self.sum(g, axis=axes, keepdims=True) if axes else g, tuple(shape))


@dataclass(frozen=True)
class Library:
    """How to make an op of the bank in a library, and how to check it there as its documentation says."""

    title: str
    package: str
    make: Callable[..., Callable[..., Any]]  # (op, metadata) -> a function of the library's arrays
    check: Callable[..., None]  # (function, NumPy arrays, order): raises where the check fails
    share: int = field(default=1, kw_only=True)  # it is asked at one of so many inputs
    pull: Callable[..., tuple[Any, list[Any]]]  # (function, NumPy arrays) -> the value, the gradients of its sum

    @property
    def installed(self) -> bool:
        return importlib.util.find_spec(self.package) is not None


def parameters(function: Callable[..., Any]) -> list[str]:
    """The names of what `function` takes after `np`."""
    return list(inspect.signature(function).parameters)[1:]


def call(rule: Callable[..., Any], np: Any, known: dict[str, Any]) -> Any:
    """A rule's result, with what it asks for by name."""
    return rule(np, *[known[name] for name in parameters(rule)])


def values(op: Any, xs: Sequence[Any], out: Any, meta: dict[str, Any]) -> dict[str, Any]:
    """What the rules of `op` may ask for, by name."""
    keywords = {
        p.name: p.default for p in inspect.signature(op.forward).parameters.values() if p.kind is p.KEYWORD_ONLY
    }
    arguments = {"xs": tuple(xs)} if op.variadic else dict(zip(parameters(op.forward), xs, strict=False))
    return {**keywords, **meta, **arguments, "out": out}


def gradients(op: Any, np: Any, g: Any, xs: Sequence[Any], out: Any, meta: dict[str, Any]) -> list[Any]:
    """The gradient by each argument, in the shape of the argument if the op is elementwise; None without a rule."""
    known = values(op, xs, out, meta) | {"g": g}
    pieces = []
    for i, x in enumerate(xs):
        rule = op.rules[0 if op.variadic else i]
        piece = rule and call(rule, np, known | {"index": i})
        pieces.append(np.fit(piece, x.shape) if rule and op.elementwise else piece)
    return pieces


# ----- NumPy, for the formulas ------------------------------------------------------------------------------------

ON_ARRAYS = Names(
    numpy,
    detach=lambda x: x,
    constant=lambda a, like: numpy.asarray(a, like.dtype if hasattr(like, "dtype") else None),
    astype=lambda x, dtype: x.astype(dtype),
    recording=lambda g: False,
)

# ----- tensorlite -------------------------------------------------------------------------------------------------

TENSORLITE = Names(
    tl,
    amax=tl.max,
    amin=tl.min,
    recording=lambda g: isinstance(g, tl.Tensor),
    constant=lambda a, like: numpy.asarray(a, like.dtype),
    zeros_like=lambda x: x * 0.0,
)


def tensorlite_op(op: Any) -> Callable[..., Any]:
    """The op of tensorlite, as one writes one's own."""
    kind = elementwise if op.elementwise else primitive
    made = kind(functools.partial(op.forward, ON_ARRAYS))
    made.vjp(*[rule and functools.partial(rule, TENSORLITE) for rule in op.rules])
    made.name = made.__name__ = op.name
    return made


def tensorlite_function(op: Any, meta: dict[str, Any]) -> Callable[..., Any]:
    made = tensorlite_op(op)

    def function(*xs: Any) -> Any:
        return made(*xs, **meta)

    function.__name__ = op.name
    return function


def check_tensorlite(function: Callable[..., Any], xs: Sequence[numpy.ndarray], order: int) -> None:
    tl.testing.check_gradients(function, *xs, order=order)


def pull_tensorlite(function: Callable[..., Any], xs: Sequence[numpy.ndarray]) -> tuple[Any, list[Any]]:
    inputs = [tl.Tensor(x, requires_grad=True) for x in xs]
    out = function(*inputs)
    return out.data, [piece.data for piece in tl.grad(out, inputs, tl.Tensor(numpy.ones(out.shape)))]


# ----- PyTorch ----------------------------------------------------------------------------------------------------


@functools.cache
def torch_names() -> Names:
    import torch

    return Names(
        torch,
        amax=lambda x, axis=None, keepdims=False: torch.amax(x, () if axis is None else axis, keepdims),
        amin=lambda x, axis=None, keepdims=False: torch.amin(x, () if axis is None else axis, keepdims),
        detach=lambda x: x.detach(),
        constant=lambda a, like: torch.as_tensor(numpy.array(a), dtype=like.dtype),
        astype=lambda x, dtype: x.to(getattr(torch, dtype)),
        flip=lambda x, axis: torch.flip(x, (axis,)),
        roll=lambda x, shift, axis: torch.roll(x, shift, axis),
        transpose=lambda x: x.permute(*range(x.ndim)[::-1]),
        where=lambda mask, x, y: torch.where(torch.as_tensor(mask), x, y),
        recording=lambda g: torch.is_grad_enabled(),
    )


def torch_function(op: Any, meta: dict[str, Any]) -> Callable[..., Any]:
    import torch

    np = torch_names()

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *xs: Any) -> Any:
            out = op.forward(np, *xs, **meta)
            ctx.save_for_backward(*xs, out)
            return out

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            *xs, out = ctx.saved_tensors
            return tuple(gradients(op, np, g, xs, out, meta))

    return Function.apply


def check_torch(function: Callable[..., Any], xs: Sequence[numpy.ndarray], order: int) -> None:
    import torch

    inputs = [torch.tensor(x.copy(), requires_grad=True) for x in xs]
    torch.autograd.gradcheck(function, inputs)
    if order > 1:
        torch.autograd.gradgradcheck(function, inputs)


def pull_torch(function: Callable[..., Any], xs: Sequence[numpy.ndarray]) -> tuple[Any, list[Any]]:
    import torch

    inputs = [torch.tensor(x, requires_grad=True) for x in xs]
    out = function(*inputs)
    return out.detach().numpy(), list(torch.autograd.grad(out, inputs, torch.ones_like(out)))


# ----- HIPS autograd ----------------------------------------------------------------------------------------------


@functools.cache
def autograd_names() -> Names:
    import autograd.numpy as anp
    from autograd.extend import Box
    from autograd.tracer import getval

    return Names(
        anp,
        amax=anp.max,
        amin=anp.min,
        detach=getval,
        flip=lambda x, axis: anp.swapaxes(anp.swapaxes(x, 0, axis)[::-1], 0, axis),
        constant=lambda a, like: numpy.asarray(a, like.dtype),
        astype=lambda x, dtype: x.astype(dtype),
        recording=lambda g: isinstance(g, Box),
        zeros_like=lambda x: x * 0.0,
    )


def autograd_function(op: Any, meta: dict[str, Any]) -> Callable[..., Any]:
    from autograd.extend import defvjp_argnum, primitive

    np = autograd_names()

    @primitive
    def function(*xs: Any) -> Any:
        return op.forward(ON_ARRAYS, *xs, **meta)

    def vjp(argument: int, out: Any, xs: Any, _: Any) -> Callable[..., Any]:
        known = values(op, xs, out, meta) | {"index": argument}
        rule = op.rules[0 if op.variadic else argument]

        def pulled(g: Any) -> Any:
            if rule is None:
                return g * 0.0
            piece = call(rule, np, known | {"g": g})
            return np.fit(piece, xs[argument].shape) if op.elementwise else piece

        return pulled

    defvjp_argnum(function, vjp)
    return function


def check_autograd(function: Callable[..., Any], xs: Sequence[numpy.ndarray], order: int) -> None:
    from autograd.test_util import check_grads

    numpy.random.seed(0)  # check_grads draws its directions from NumPy's global generator
    check_grads(function, tuple(range(len(xs))), modes=["rev"], order=order)(*xs)


def pull_autograd(function: Callable[..., Any], xs: Sequence[numpy.ndarray]) -> tuple[Any, list[Any]]:
    from autograd import make_vjp

    pulled = [make_vjp(function, i)(*xs) for i in range(len(xs))]
    return function(*xs), [vjp(numpy.ones(numpy.shape(out))) for vjp, out in pulled]


# ----- JAX --------------------------------------------------------------------------------------------------------


@functools.cache
def jax_names() -> Names:
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    return Names(
        jnp,
        detach=jax.lax.stop_gradient,
        constant=lambda a, like: jnp.asarray(a, like.dtype),
        astype=lambda x, dtype: x.astype(dtype),
        recording=lambda g: isinstance(g, jax.core.Tracer),
    )


def jax_function(op: Any, meta: dict[str, Any]) -> Callable[..., Any]:
    import jax

    np = jax_names()

    @jax.custom_vjp
    def function(*xs: Any) -> Any:
        return op.forward(np, *xs, **meta)

    def forward(*xs: Any) -> Any:
        out = function(*xs)
        return out, (xs, out)

    def backward(saved: Any, g: Any) -> Any:
        xs, out = saved
        pieces = gradients(op, np, g, xs, out, meta)
        return tuple([x * 0 if piece is None else piece for x, piece in zip(xs, pieces, strict=True)])

    function.defvjp(forward, backward)
    return function


def check_jax(function: Callable[..., Any], xs: Sequence[numpy.ndarray], order: int) -> None:
    import jax.numpy as jnp
    from jax.test_util import check_grads

    check_grads(function, [jnp.asarray(x) for x in xs], order=order, modes=["rev"])


def pull_jax(function: Callable[..., Any], xs: Sequence[numpy.ndarray]) -> tuple[Any, list[Any]]:
    import jax
    import jax.numpy as jnp

    out, vjp = jax.vjp(function, *map(jnp.asarray, xs))
    return out, list(vjp(jnp.ones_like(out)))


LIBRARIES = {
    "tensorlite": Library("`check_gradients`", "tensorlite", tensorlite_function, check_tensorlite, pull_tensorlite),
    "torch": Library("PyTorch's `gradcheck`, `gradgradcheck`", "torch", torch_function, check_torch, pull_torch),
    "autograd": Library("HIPS autograd's `check_grads`", "autograd", autograd_function, check_autograd, pull_autograd),
    "jax": Library(
        "JAX' `check_grads`", "jax", jax_function, check_jax, pull_jax, share=3
    ),  # it compiles each op for each shape,
}
