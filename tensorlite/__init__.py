"""tensorlite: reverse-mode automatic differentiation on NumPy (CPU) and CuPy (NVIDIA GPU), small enough to read.

    import tensorlite as tl
    from tensorlite import functional as F, nn, optim

Tensors and their functions are in this namespace: `tl.tensor`, `tl.zeros`, `tl.matmul`, `tl.mean`, `tl.grad`, ... The
functions of neural networks are in `tl.functional` (fast) and `tl.formulas` (the same as formulas to read), layers in
`tl.nn`, optimizers in `tl.optim`. `tl.testing.check_gradients` proves an op of your own.
"""

from importlib import import_module
from typing import Any

from . import accelerate, backend, creation, data, derived, devices, formulas, functional, io, nn, ops, optim, primitive
from . import random as random
from .accelerate import accumulate, storage
from .accelerate.activation_checkpoint import activation_checkpoint
from .accelerate.cuda_graph import CudaGraph
from .accelerate.dispatch import unfused
from .autograd import grad
from .backend import bool_, default_device, float16, float32, float64, int32, int64, uint8, use_device
from .creation import *
from .derivatives import hessian, jacobian, jvp, vjp
from .derived import *
from .devices.machine import set_threads
from .errors import suggestions, torch_names
from .grad_mode import no_grad
from .kernels import table
from .kernels.precision import set_matmul_dtype
from .ops import *
from .random import Generator, default_generator, manual_seed
from .tensor import Tensor

__version__ = "0.2.0"  # of both packages: pyproject.toml reads it here
__all__ = [
    *ops.__all__, *derived.__all__, *creation.__all__,
    "Tensor", "grad", "jacobian", "hessian", "vjp", "jvp", "no_grad", "unfused", "activation_checkpoint", "CudaGraph",
    "bool_", "float16", "float32", "float64", "int32", "int64", "uint8",
    "default_device", "use_device", "set_threads", "set_matmul_dtype",
    "Generator", "default_generator", "manual_seed",
    "data", "formulas", "functional", "io", "nn", "optim", "random",
]  # fmt: skip
storage.attach()  # optimizers keep their parameters in flat arrays
accumulate.attach()  # gradients are added in place
table.attach()  # kernels compute what they support of functional.py
suggestions.explain(globals(), [*ops.__all__, *derived.__all__, *creation.__all__, "grad"])


def __getattr__(name: str) -> Any:
    if name == "bfloat16":  # needs the ml_dtypes package
        return backend.bfloat16()
    if name in ("inspect", "testing"):  # loaded at first use
        return import_module(f".{name}", __name__)
    elsewhere = {each: f"tl.{where}.{each}" for where in ("optim", "nn", "functional") for each in _public(where)}
    raise suggestions.missing("tensorlite", name, elsewhere | torch_names.TENSOR | torch_names.PACKAGE, globals())


def _html(x: Tensor | nn.Module) -> str:
    """What a notebook shows, from a module that is loaded at first use."""
    text: str = import_module(".inspect.display", __name__).html(x)
    return text


for _kind in (Tensor, nn.Module):
    setattr(_kind, "_repr_html_", _html)  # noqa: B010 - mypy knows no such attribute to assign


def __dir__() -> list[str]:
    return sorted({*__all__, "__version__", "bfloat16", "inspect", "testing"})


def _public(module: str) -> list[str]:
    names: list[str] = globals()[module].__all__
    return names
