"""Learning rates: that of a step, counted from 0."""

import math
from numbers import Real


def constant(step: int, *, lr: float) -> float:
    """`lr`, always."""
    return lr


def warmup_cosine(
    step: int, *, lr: float, min_lr: float, warmup: int, total: int, initial: float | None = None
) -> float:  # fmt: skip
    """Linear rise to `lr` in `warmup` steps, half a cosine down to `min_lr` at step `total`, `min_lr` from there on.

    The rise is initial + step (lr - initial) / warmup; `initial` defaults to lr / (warmup + 1), the first of warmup + 1
    equal stairs. Loshchilov and Hutter, "SGDR", 2017.
    """
    progress = _progress(step, warmup, total)
    if progress < 0:
        return _rise(step, lr, warmup, initial)
    return min_lr + (lr - min_lr) * (1 + math.cos(math.pi * progress)) / 2


def warmup_linear(
    step: int, *, lr: float, min_lr: float, warmup: int, total: int, initial: float | None = None
) -> float:  # fmt: skip
    """As `warmup_cosine`, but down to `min_lr` in a straight line."""
    progress = _progress(step, warmup, total)
    if progress < 0:
        return _rise(step, lr, warmup, initial)
    return lr + (min_lr - lr) * progress


def _rise(step: int, lr: float, warmup: int, initial: float | None) -> float:
    initial = lr / (warmup + 1) if initial is None else initial
    return initial + step * (lr - initial) / warmup


def _progress(step: int, warmup: int, total: int) -> float:
    """How much of the descent is done, 0 to 1; negative during the warm-up."""
    for name, value in (("step", step), ("warmup", warmup), ("total", total)):
        if not isinstance(value, Real):
            raise TypeError(f"a schedule's {name} must be a number, not {value!r:.80}")
    if not 0 <= warmup <= total:
        raise ValueError(f"a schedule needs 0 <= warmup <= total, not warmup {warmup} and total {total}")
    if step < 0:
        raise ValueError(f"a schedule's step counts from 0, it cannot be {step}")
    if step < warmup:
        return -1.0
    return 1.0 if step >= total else (step - warmup) / (total - warmup)
