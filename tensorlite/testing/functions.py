"""Ops made of functions whose derivatives come from elsewhere, so that they can be checked: by hand in NumPy, by
PyTorch, or by JAX.
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from ..primitive import primitive

Function = Callable[..., Any]


def numpy_function(value: Function, gradient: Function) -> Any:
    """An op of arrays: `value(*arrays)`, and its gradient by hand, `gradient(g, *arrays)`, which returns the gradient
    by each array in a tuple, or by the only one. Both are functions of NumPy arrays; only order 1 can be checked.
    """

    def rule(g: Any, index: int, xs: Any) -> Any:
        found = gradient(g, *xs)
        return found[index] if isinstance(found, tuple) else found

    return _named(primitive(lambda *xs: value(*xs)).vjp(rule), value)


def torch_function(function: Function) -> Any:
    """An op of a function of torch.Tensors, with PyTorch's derivatives of any order. RuntimeError if torch is not
    imported.
    """
    torch = _imported("torch")

    def vjp(index: int) -> Function:
        def pulled(g: Any, *xs: Any) -> Any:
            xs = tuple([x if x.requires_grad else x.detach().requires_grad_() for x in xs])
            (found,) = torch.autograd.grad(function(*xs), [xs[index]], g, create_graph=True, materialize_grads=True)
            return found

        return pulled

    def value(*xs: Any) -> Any:
        return function(*map(torch.tensor, xs)).detach().numpy()

    def rule(g: Any, index: int, xs: Any) -> Any:
        return torch_function(vjp(index))(g, *xs)

    return _named(primitive(value).vjp(rule), function)


def jax_function(function: Function) -> Any:
    """An op of a function of JAX arrays, with JAX' derivatives of any order. RuntimeError if JAX is not imported, or
    computes without float64 (`jax.config.update("jax_enable_x64", True)`).
    """
    jax = _imported("jax")
    if not jax.config.jax_enable_x64:
        raise RuntimeError('jax_function: JAX computes in float32: call jax.config.update("jax_enable_x64", True)')

    def value(*xs: Any) -> Any:
        return np.asarray(function(*map(jax.numpy.asarray, xs)))

    def rule(g: Any, index: int, xs: Any) -> Any:
        return jax_function(lambda g, *xs: jax.vjp(function, *xs)[1](g)[index])(g, *xs)

    return _named(primitive(value).vjp(rule), function)


def _named(op: Any, function: Function) -> Any:
    op.name = op.__name__ = getattr(function, "__name__", "function")
    op.__wrapped__ = function  # whose arguments have names
    return op


def _imported(name: str) -> Any:
    """The module, which a function of its arrays has imported; this package never does."""
    if name not in sys.modules:
        raise RuntimeError(f"{name}_function: {name} is not imported: `import {name}` first")
    return sys.modules[name]
