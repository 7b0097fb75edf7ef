"""tensorlite: reverse-mode automatic differentiation on NumPy (CPU) and CuPy (NVIDIA GPU), small enough to read."""

from . import backend, data, derived, formulas, functional, io, nn, ops, optim, primitive, random
from .accelerate import accumulate as _accumulate
from .accelerate import storage
from .accelerate.activation_checkpoint import activation_checkpoint
from .accelerate.cuda_graph import CudaGraph
from .accelerate.dispatch import unfused
from .autograd import grad
from .backend import bool_, default_device, float16, float32, float64, int32, int64, uint8
from .creation import *
from .derived import *
from .errors import suggestions
from .grad_mode import no_grad
from .kernels import table as _table
from .ops import *
from .random import Generator, default_generator, manual_seed
from .tensor import *

__version__ = "0.1.0"
storage.attach()
_accumulate.attach()  # gradients are added in place
_table.attach()  # kernels compute what they support of functional.py
_LIKE = ["zeros_like", "ones_like", "full_like", "empty_like"]
suggestions.explain(globals(), [*ops.__all__, *derived.__all__, "grad", *_LIKE])


def __getattr__(name: str):
    if name == "bfloat16":  # needs the ml_dtypes package
        return backend.bfloat16()
    elsewhere = {
        each: f"tl.{where}.{each}" for where in ("optim", "nn", "functional") for each in _public(globals()[where])
    }
    raise suggestions.missing("tensorlite", name, elsewhere | suggestions.NAMES | suggestions.FUNCTIONS, globals())


def _public(module) -> list[str]:
    classes = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
    return getattr(module, "__all__", classes)
