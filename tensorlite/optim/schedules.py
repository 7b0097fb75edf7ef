"""Learning-rate schedules: functions from a step, counted from 0, to the learning rate of that step."""

import math
from numbers import Real


def constant(step: int, *, lr: float) -> float:
    """`lr` at every step."""
    return lr


def warmup_cosine(
    step: int, *, lr: float, min_lr: float, warmup: int, total: int, initial: float | None = None
) -> float:  # fmt: skip
    """Linear warm-up to `lr` in `warmup` steps, half a cosine down to `min_lr` at step `total`, `min_lr` after that.

        initial + step (lr - initial) / warmup                      step < warmup
        min_lr + (lr - min_lr) (1 + cos(pi progress)) / 2           progress = (step - warmup) / (total - warmup)

    `initial` defaults to lr / (warmup + 1), so that the warm-up has equal increments from 0. TypeError for arguments
    that are not numbers, ValueError for a negative step and unless 0 <= warmup <= total.
    Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts", 2017.
    """
    progress = _progress(step, warmup, total)
    if progress < 0:
        return _warmup(step, lr, warmup, initial)
    return min_lr + (lr - min_lr) * (1 + math.cos(math.pi * progress)) / 2


def warmup_linear(
    step: int, *, lr: float, min_lr: float, warmup: int, total: int, initial: float | None = None
) -> float:  # fmt: skip
    """As `warmup_cosine`, but down to `min_lr` linearly: lr + (min_lr - lr) progress."""
    progress = _progress(step, warmup, total)
    if progress < 0:
        return _warmup(step, lr, warmup, initial)
    return lr + (min_lr - lr) * progress


def _warmup(step: int, lr: float, warmup: int, initial: float | None) -> float:
    initial = lr / (warmup + 1) if initial is None else initial
    return initial + step * (lr - initial) / warmup


def _progress(step: int, warmup: int, total: int) -> float:
    """The fraction of the decay that is done, 0 to 1; -1 during the warm-up."""
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
