"""Which implementation computes a block: numba_impl.py where numba is installed, otherwise numpy_impl.py.

Both have the same functions. numba is a dependency where it has wheels. A compiled loop does all to a row while it is
in the cache, where NumPy takes a pass over memory for each operation; and NumPy's tanh and exp are slow on CPUs without
AVX-512. numba is imported when the first array arrives that is large enough to gain from it. Compiled code is kept
beside this package or, where that cannot be written to, in the user's cache folder; without either, NumPy computes.
TENSORLITE_NUMBA=0 in the environment turns it off.
"""

import functools
import importlib
import os
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

import numpy as np

from . import numpy_impl

MIN_SIZE = 1 << 14  # elements: for smaller arrays importing numba does not pay


def choose_impl(x: np.ndarray, *others: np.ndarray | None) -> ModuleType:
    """The module to call for these arrays: numba_impl for large contiguous float32 ones, otherwise numpy_impl."""
    return numpy_impl if x.size < MIN_SIZE else numba_impl_for(x, *others) or numpy_impl


def numba_impl_for(x: np.ndarray, *others: np.ndarray | None) -> ModuleType | None:
    """numba_impl where it can be used: `x` is float32 with `MIN_SIZE` elements or more, all arrays are contiguous."""
    if type(x) is not np.ndarray or x.size < MIN_SIZE or x.dtype.char != "f":
        return None
    if missing() or not x.flags.c_contiguous:
        return None
    for a in others:
        if a is not None and not a.flags.c_contiguous:
            return None
    return _numba_impl()


def compiled_loops() -> ModuleType:
    """numba_impl. ImportError where numba is not installed: `missing` gives the reason."""
    return _numba_impl()


@functools.cache
def missing() -> str:
    """The reason why numba cannot be used, and the remedy; "" if it can. The first call may import numba."""
    if os.environ.get("TENSORLITE_NUMBA") == "0":
        return "TENSORLITE_NUMBA is 0: unset it"
    try:
        version("numba")
        _numba_impl()
    except PackageNotFoundError:
        return "numba is not installed: pip install numba"
    except (ImportError, RuntimeError, OSError) as error:  # this NumPy is too new, no place for its cache, no LLVM
        return f"numba cannot be used: {error}"
    return ""


@functools.cache
def _numba_impl() -> ModuleType:
    return importlib.import_module(".numba_impl", __package__)
