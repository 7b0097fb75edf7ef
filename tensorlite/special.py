"""The error function erf, which NumPy does not have, to the precision of float64.

Source: W. J. Cody, "Rational Chebyshev approximation for the error function", Math. Comp. 23 (1969), 631-637.
"""

import math

from .backend import Array, float64, is_floating, xp

# Three rational functions, each as (numerator, denominator) with the highest power first. They approximate
#   _SMALL    erf(x) / x                                       as a function of x**2     |x| <= 0.46875
#   _MIDDLE   exp(x**2) erfc(x)                                as a function of x        |x| <= 4
#   _LARGE    (1 / sqrt(pi) - x exp(x**2) erfc(x)) x**2        as a function of x**-2    |x| > 4
_SMALL = (
    [
        1.85777706184603153e-1,
        3.16112374387056560e0,
        1.13864154151050156e2,
        3.77485237685302021e2,
        3.20937758913846947e3,
    ],
    [1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3],
)
_MIDDLE = (
    [2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594e0, 6.61191906371416295e1,
     2.98635138197400131e2, 8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3, 1.23033935479799725e3],
    [1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2, 1.62138957456669019e3,
     3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3, 1.23033935480374942e3],
)  # fmt: skip
_LARGE = (
    [1.63153871373020978e-2, 3.05326634961232344e-1, 3.60344899949804439e-1, 1.25781726111229246e-1,
     1.60837851487422766e-2, 6.58749161529837803e-4],
    [1.0, 2.56852019228982242e0, 1.87295284992346725e0, 5.27905102951428412e-1, 6.05183413124413191e-2,
     2.33520497626869185e-3],
)  # fmt: skip


def erf(x: Array) -> Array:
    """2/sqrt(pi) times the integral of exp(-t**2) from 0 to x, elementwise, in the dtype of `x` (integers: float64)."""
    lib = xp(x)
    size = lib.minimum(lib.abs(x.astype(float64)), 6.0)  # erf(6) is 1 in float64
    decay, at_least_4 = lib.exp(-size * size), lib.maximum(size, 4.0)
    inverse = 1 / (at_least_4 * at_least_4)
    small = size * _ratio(_SMALL, lib.minimum(size * size, 0.25))
    middle = 1 - decay * _ratio(_MIDDLE, size)
    large = 1 - decay / at_least_4 * (1 / math.sqrt(math.pi) - inverse * _ratio(_LARGE, inverse))
    result = lib.where(size <= 0.46875, small, lib.where(size <= 4, middle, large))
    return lib.copysign(result, x).astype(x.dtype if is_floating(x.dtype) else float64)


def _ratio(coefficients: tuple[list[float], list[float]], x: Array) -> Array:
    numerator, denominator = coefficients
    return _polynomial(numerator, x) / _polynomial(denominator, x)


def _polynomial(coefficients: list[float], x: Array) -> Array:
    result = coefficients[0]
    for c in coefficients[1:]:
        result = result * x + c  # Horner
    return result
