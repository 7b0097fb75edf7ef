"""Tests of derivative rules, for the ops of this library and for your own.

    from tensorlite.testing import Row, check_gradients, check_module, check_op

    check_gradients(lambda x, y: x * tl.tanh(y), np.ones(3), np.zeros((2, 1)), order=2)   # at these inputs
    check_module(nn.Linear(3, 4), np.ones((2, 3)))                                         # parameters and inputs
    check_op(Row("mish", mish, value=lambda x: x * np.tanh(np.log1p(np.exp(x)))))          # at inputs of all kinds

- `check_gradients` compares the derivatives of one function at given inputs with differences of values, and
  `check_module` those by the parameters of a Module. `check_kinks` is for inputs at which a derivative does not exist.
- `check_op` draws inputs with Hypothesis and checks every property that an op has: `Row` says what the op is, and
  `property_tests` makes pytest tests of a list of rows.
- `numpy_function`, `torch_function` and `jax_function` make ops of functions that have other derivatives: these can be
  checked by all of the above.

A failure is an AssertionError with a `report`. `Undecided` is raised where differences of values cannot tell whether a
derivative is correct. The strategies, `Row`, `check_op` and `property_tests` need Hypothesis
(`pip install 'tensorlite[testing]'`); they are imported on first use.
"""

import importlib
from typing import Any

from .functions import jax_function, numpy_function, torch_function
from .gradients import check_gradients, check_kinks, check_module
from .report import CheckFailed, Comparison, Report, Undecided

WITH_HYPOTHESIS = {
    "strategies": ("shapes", "broadcastable", "matmul_shapes", "smooth", "kinky", "layouts", "tensors"),
    "rows": ("Row", "arrays", "booleans", "integers", "reductions"),
    "suite": ("PROPERTIES", "check_op", "property_tests"),
}
__all__ = [
    "CheckFailed", "Comparison", "Report", "Undecided", "check_gradients", "check_kinks", "check_module",
    "jax_function", "numpy_function", "torch_function", *[name for names in WITH_HYPOTHESIS.values() for name in names],
]  # fmt: skip


def __getattr__(name: str) -> Any:
    for module, names in WITH_HYPOTHESIS.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
