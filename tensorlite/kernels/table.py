"""THE TABLE of kernels: which formula has a kernel on a CPU, which on a GPU, and what each of them needs.

A row names a formula; its specification is `formulas.<name>`, which computes all arguments that no kernel supports. A
kernel is given by its module, which has two functions: `<name>`, the forward function, and `<name>_vjp`, its derivative
rule. The row also names the function of that module that says which arguments are supported, and the residuals: arrays
that the forward function returns for the rule in addition to the result. With `recompute`, a large result is not saved
for the rules of other kernels but computed again.

`attach()` puts the kernels into functional.py. The modules for a GPU are imported when the first array arrives that is
not a NumPy array: a program that computes on a CPU never loads them.

To add a kernel: write these three functions in a module of its device, and its row here; in functional.py the function
needs the decorator `with_kernels`. The property tests find it.
"""

from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

from .. import formulas
from ..accelerate.dispatch import KernelOp
from ..autograd import Variable
from ..backend import Array, add, xp
from ..functional import IMPLEMENTATIONS
from ..primitive import PRIMITIVES
from ..random import Generator, stream


class Kernel(NamedTuple):
    """The kernel of a formula for one kind of device."""

    module: str
    supports: str  # the name of a function in that module
    residuals: tuple[str, ...] = ()
    recompute: bool = False
    differentiable: bool = True  # False: there is no rule


# fmt: off
ROWS: dict[str, tuple[Kernel | None, Kernel | None]] = {  # formula: (CPU, GPU)
    "linear":               (Kernel("cpu.layers", "supports_linear"),
                             Kernel("cuda.layers", "supports_linear", ("rows", "matrix"))),
    "projections":          (Kernel("cpu.layers", "supports_projections", ("matrix",)),
                             Kernel("cuda.layers", "supports_projections", ("rows", "matrix"))),
    "embedding":            (Kernel("cpu.layers", "supports"),
                             Kernel("cuda.embedding", "supports_embedding")),
    "layer_norm":           (Kernel("cpu.layers", "supports", ("mean", "rstd"), recompute=True),
                             Kernel("cuda.layers", "supports_layer_norm", ("mean", "rstd"))),
    "gelu":                 (Kernel("cpu.layers", "supports_gelu", recompute=True),
                             Kernel("cuda.layers", "supports_gelu")),
    "apply_dropout_mask":   (Kernel("cpu.layers", "supports"),
                             Kernel("cuda.philox", "supports_apply_dropout_mask")),
    "attention":            (Kernel("cpu.attention", "supports_attention", ("weights",)),
                             Kernel("cuda.attention", "supports_attention", ("weights", "used", "stats"))),
    "heads_attention":      (Kernel("cpu.attention", "supports_heads", ("weights",)),
                             Kernel("cuda.attention", "supports_heads", ("weights", "used", "stats"))),
    "cross_entropy":        (Kernel("cpu.losses", "supports_cross_entropy", ("p", "scale", "rows", "classes")),
                             Kernel("cuda.losses", "supports_cross_entropy", ("classes", "tops", "totals", "count"))),
    "linear_cross_entropy": (Kernel("cpu.losses", "supports_linear_cross_entropy",
                                    ("exps", "shares", "valid", "scale")),
                             Kernel("cuda.losses", "supports_linear_cross_entropy",
                                    ("dlogits", "features", "head"))),
    "argmax":               (None,
                             Kernel("cuda.decode", "supports_argmax", differentiable=False)),
}
# fmt: on


def kernel_op(name: str, kernel: Kernel) -> KernelOp:
    """Import the kernel's module, and make an op of it."""
    module = vars(import_module(f"{__package__}.{kernel.module}"))
    op = KernelOp(
        module[name], getattr(formulas, name), kernel.residuals, module[kernel.supports], recompute=kernel.recompute
    )
    op.name = name
    return op.vjp(module[f"{name}_vjp"] if kernel.differentiable else None)


def attach() -> None:
    """Let functional.py use the kernels: those for a CPU now, each one for a GPU on its first call."""
    for name, (cpu, gpu) in ROWS.items():
        if name not in IMPLEMENTATIONS:
            raise KeyError(f"{name}: functional.py has no function of that name with the decorator with_kernels")
        if cpu is not None:
            IMPLEMENTATIONS[name].cpu = PRIMITIVES[name] = kernel_op(name, cpu)
        if gpu is not None:
            IMPLEMENTATIONS[name].gpu = partial(_first_call, name)
    IMPLEMENTATIONS["keep_mask"].gpu = _keep_mask


def attach_gpu(name: str) -> KernelOp:
    """Load the GPU's kernel of the row `name`; functional.py uses it from now on. So does `x + y` with backend.add."""
    kernel = ROWS[name][1]
    assert kernel is not None
    IMPLEMENTATIONS[name].gpu = op = kernel_op(name, kernel)
    PRIMITIVES["add"].forward = lambda x, y: add(x, y)
    return op


def _first_call(name: str, *args: Any, **options: Any) -> Any:
    return attach_gpu(name)(*args, **options)


def _keep_mask(x: Any, shape: tuple[int, ...], p: float, generator: Generator | None) -> Array:
    """formulas.keep_mask on a GPU: drawn there, from the generator's counter-based stream."""
    raw = x.data if isinstance(x, Variable) else x
    if not import_module(f"{__package__}.cuda.launch").on_gpu(raw):
        return formulas.keep_mask(x, shape, p, generator)
    return import_module(f"{__package__}.cuda.philox").keep_mask(stream(generator).gpu_state(xp(raw)), p, shape)
