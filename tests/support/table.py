"""THE TABLE of the tests, whole: test_ops.py, test_strict_device.py and peers/ walk it. rows.py says what a row is."""

from table_functional import FUNCTIONAL
from table_math import ELEMENTWISE, REDUCTIONS
from table_shapes import MOVES

ROWS = [*ELEMENTWISE, *REDUCTIONS, *MOVES, *FUNCTIONAL]
DIFFERENTIABLE = [row for row in ROWS if row.gradient is not None]
