"""Who does a kernel's steps: loops.py, which numba compiles, or numpy_impl.py, which is NumPy alone. Both say the same.

numba is an extra (`pip install 'tensorlite[fast]'`): one loop does to a row what takes NumPy a pass over memory for
each operation, and NumPy's tanh and exp are slow where the CPU has no AVX-512. It is loaded when the first array comes
that is large enough to gain by it; TENSORLITE_NUMBA=0 keeps it out.
"""

import functools
import importlib
import os
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

import numpy as np

from . import numpy_impl

LEAST = 1 << 14  # elements: for fewer it is not worth loading numba


def steps(x: np.ndarray, *others: np.ndarray | None) -> ModuleType:
    """loops for large contiguous float32 arrays, where it is to be had, otherwise passes."""
    return compiled(x, *others) or numpy_impl


def compiled(x: np.ndarray, *others: np.ndarray | None) -> ModuleType | None:
    """loops for large contiguous float32 arrays, where it is to be had."""
    if type(x) is not np.ndarray or x.size < LEAST or x.dtype.char != "f":
        return None
    if missing() or not x.flags.c_contiguous:
        return None
    for a in others:
        if a is not None and not a.flags.c_contiguous:
            return None
    return _loops()


@functools.cache
def missing() -> str:
    """Why there are no compiled loops here, and what to do about it; '' where there are. It may load numba."""
    if os.environ.get("TENSORLITE_NUMBA") == "0":
        return "TENSORLITE_NUMBA is 0: unset it"
    try:
        version("numba")
        _loops()
    except PackageNotFoundError:
        return "numba is not installed: pip install 'tensorlite[fast]'"
    except (ImportError, RuntimeError, OSError) as error:  # this NumPy is too new, no place for its cache, no LLVM
        return f"numba cannot be used: {error}"
    return ""


@functools.cache
def _loops() -> ModuleType:
    return importlib.import_module(".numba_impl", __package__)
