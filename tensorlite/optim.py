"""Optimizers: SGD, Adam and AdamW; the norm of a gradient; learning rates as functions of the step.

One idea: an optimizer moves its parameters into one flat array per group, lays what it remembers beside it, and an
update is a pass over all three in blocks that stay in the CPU's cache. Each parameter's `.data` becomes a view of its
part. Gradients are never written to: clipping is a factor, `step(grad_scale=...)`, applied as a block is read.

What it refuses: a parameter given twice, one that does not require a gradient, and stepping after a parameter's
`.data` was replaced (`Module.to`, a second optimizer): its values would silently no longer be the ones updated.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from numbers import Real
from typing import Any

from .backend import Array, device_of, in_parts, scratch, to_device, to_host, xp
from .nn import misfit
from .tensor import Tensor, tensor

BLOCK = (
    1 << 17
)  # elements: five float32 arrays of this size fit a core's cache, and a ufunc call costs nothing beside it


# ----- flat memory ------------------------------------------------------------------------------------------------


class _Flat:
    """The parameters of a group that share device and dtype, in one array, beside it what the optimizer keeps."""

    def __init__(self, group: dict, params: list[Tensor], keeps: Iterable[str]):
        like = params[0].data
        self.group, self.params, self.device = group, params, params[0].device
        self.offsets = list(itertools.accumulate((p.size for p in params), initial=0))
        size, library = self.offsets[-1], xp(like)
        self.data = library.empty(size, like.dtype)
        self.kept = {name: library.zeros(size, like.dtype) for name in keeps}
        self.steps = [0] * len(params)  # of each, as torch counts: one without a gradient is not stepped
        self.views = [self.part(self.data, i) for i in range(len(params))]
        for p, view in zip(params, self.views, strict=True):
            view[...] = p.data
            p.data = view

    def part(self, flat: Array, i: int) -> Array:
        """Parameter i's part of a flat array, in its shape."""
        return flat[self.offsets[i] : self.offsets[i + 1]].reshape(self.params[i].shape)

    def check(self) -> None:
        for i, (p, view) in enumerate(zip(self.params, self.views, strict=True)):
            if p.data is not view:
                raise RuntimeError(
                    f"step: the data of a parameter of shape {p.shape} was replaced after this optimizer was made (by "
                    "Module.to, or by another optimizer): make the optimizer last"
                )
            if p.grad is not None and (wrong := misfit(p.grad.data, p)):
                raise ValueError(f"step: the gradient of parameter {i} of its group: {wrong}")

    def runs(self) -> list[tuple[int, int]]:
        """(first, last + 1) of neighbours with gradients and equal steps: one run of all, unless some are missing."""
        state = [None if p.grad is None else steps for p, steps in zip(self.params, self.steps, strict=True)]
        groups = [(key, list(members)) for key, members in itertools.groupby(range(len(state)), state.__getitem__)]
        return [(members[0], members[-1] + 1) for key, members in groups if key is not None]

    def blocks(self, first: int, part: slice, scale: float) -> Iterator[tuple[slice, Array]]:
        """Blocks of the flat arrays that cover `part` of them, from parameter `first` on, each with its gradient times
        `scale`, in memory that the next block takes again."""
        multiply, i = xp(self.data).multiply, first
        for start in range(part.start, part.stop, BLOCK):
            stop = min(start + BLOCK, part.stop)
            g = scratch(0, (stop - start,), self.data.dtype, xp(self.data))
            at = start
            while at < stop:  # the pieces of parameters that lie in this block
                while self.offsets[i + 1] <= at:
                    i += 1
                begin, until = self.offsets[i], min(self.offsets[i + 1], stop)
                grad = self.params[i].grad
                assert grad is not None  # runs() leaves out those that have none
                gradient = grad.data.reshape(-1)
                multiply(gradient[at - begin : until - begin], scale, out=g[at - start : until - start])
                at = until
            yield slice(start, stop), g


# ----- optimizers -------------------------------------------------------------------------------------------------


class Optimizer:
    """What SGD and Adam share: groups, steps and state. A subclass says what it keeps and how it updates a block.

    `params`: leaf Tensors that require a gradient, or groups of them, each a dict with "params" and its own values for
    any of the options. `groups` is the list of those dicts; what is written to them (or to `.lr`, for all of them)
    holds from the next step on.
    """

    keeps: tuple[str, ...] = ()  # names of the arrays kept beside the parameters

    def __init__(self, params: Iterable, options: dict[str, Any]):
        self.groups = _groups(type(self).__name__, params, options)
        self.params = [p for group in self.groups for p in group["params"]]
        _check_params(type(self).__name__, self.params)
        for group in self.groups:
            self.check_options(group)
        alike: dict[tuple, list[Tensor]] = {}
        for number, group in enumerate(self.groups):
            for p in group["params"]:
                alike.setdefault((number, p.device, p.dtype), []).append(p)
        self._flats = [_Flat(self.groups[key[0]], members, self.keeps) for key, members in alike.items()]
        places = {id(p): (flat, i) for flat in self._flats for i, p in enumerate(flat.params)}
        self._places = [places[id(p)] for p in self.params]  # where each lies

    def check_options(self, group: dict) -> None:
        """A ValueError for options that make no sense."""
        for name in ("lr", "weight_decay"):
            _check_number(name, group[name])

    def update(self, group: dict, step: int, p: Array, g: Array, work: Array, **kept: Array) -> None:
        """Update the block `p` (and `kept`) in place. `g`, its gradient, and `work` are scratch; step counts from 1."""
        raise TypeError(f"{type(self).__name__} has no update rule: a subclass writes update()")

    @property
    def lr(self) -> float:
        """The learning rate: that of the first group where they differ. Setting it sets that of all groups."""
        return self.groups[0]["lr"]

    @lr.setter
    def lr(self, lr: float) -> None:
        _check_number("lr", lr)
        for group in self.groups:
            group["lr"] = lr

    def step(self, grad_scale: float | Tensor = 1.0) -> None:
        """Update every parameter that has a gradient, as if the gradient were `grad_scale` times what it is.

        A parameter without one is left alone: neither its values nor its step count change. So are all of them where
        `grad_scale` is a Tensor () that is not finite; on a GPU, AdamW and Adam find that out without waiting for it.
        """
        for flat in self._flats:  # all of them before the first is changed
            flat.check()
        if isinstance(grad_scale, Tensor):
            grad_scale = grad_scale.item()
            if not math.isfinite(grad_scale):
                return
        _check_number("grad_scale", grad_scale)
        for flat in self._flats:
            for first, last in flat.runs():
                step, begin, size = flat.steps[first] + 1, flat.offsets[first], flat.offsets[last] - flat.offsets[first]
                update = partial(self._update, flat, first, begin, step, float(grad_scale))
                update(slice(0, size)) if flat.device != "cpu" else in_parts(update, size, size)
                flat.steps[first:last] = [step] * (last - first)
                for p in flat.params[first:last]:
                    p.changed()

    def _update(self, flat: _Flat, first: int, begin: int, step: int, scale: float, part: slice) -> None:
        """Update `part` of what begins with parameter `first`, at `begin`, block by block."""
        for block, g in flat.blocks(first, slice(begin + part.start, begin + part.stop), scale):
            kept = {name: array[block] for name, array in flat.kept.items()}
            work = scratch(1, g.shape, g.dtype, xp(g))
            self.update(flat.group, step, flat.data[block], g, work, **kept)

    def upload(self) -> None:
        """What a replayed CUDA graph of a step needs from the host: learning rates, and that the parameters change."""
        for p in self.params:
            p.changed()

    def zero_grad(self) -> None:
        """Forget all gradients (`.grad` is None again)."""
        for p in self.params:
            p.grad = None

    def state_dict(self) -> dict[str, Any]:
        """What the optimizer remembers; the options are not part of it.

        {"steps": how often each parameter was updated, a list of ints; "tensors": {"<position>.<name>": Tensor}}, where
        position counts the parameters as they were given. The Tensors share memory with the optimizer.
        """
        tensors = {
            f"{position}.{name}": Tensor(flat.part(array, i))
            for position, (flat, i) in enumerate(self._places)
            for name, array in flat.kept.items()
        }
        return {"steps": [flat.steps[i] for flat, i in self._places], "tensors": tensors}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict()` gave. One ValueError lists all that does not fit; nothing is changed then."""
        if state.keys() != {"steps", "tensors"}:
            raise ValueError(f"an optimizer's state has 'steps' and 'tensors', not {', '.join(map(repr, state))}")
        steps, given = state["steps"], state["tensors"]
        own = self.state_dict()["tensors"]
        problems = []
        if len(steps) != len(self.params) or any(type(step) is not int or step < 0 for step in steps):
            problems.append(f"steps: {len(self.params)} non-negative integers are needed, not {steps!r:.80}")
        problems += [f"missing: {name}" for name in own if name not in given]
        problems += [f"unexpected: {name}" for name in given if name not in own]
        problems += [f"{n}: {wrong}" for n in own if n in given and (wrong := misfit(given[n].data, own[n]))]
        if problems:
            raise ValueError(f"this state does not fit {type(self).__name__}:\n  " + "\n  ".join(problems))
        for name, place in own.items():
            place.data[...] = to_device(given[name].data, place.device)
        for (flat, i), count in zip(self._places, steps, strict=True):
            flat.steps[i] = count


class SGD(Optimizer):
    """Gradient descent: d = g + weight_decay p;  velocity = momentum velocity + d;  p = p - lr velocity.

    With `nesterov`, p = p - lr (d + momentum velocity). Sutskever et al., "On the importance of initialization and
    momentum in deep learning", 2013, in torch's form (the first velocity is d).
    """

    keeps = ("velocity",)

    def __init__(
        self, params, lr: float, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0
    ):  # fmt: skip
        super().__init__(params, {"lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay})

    def check_options(self, group):
        super().check_options(group)
        _check_number("momentum", group["momentum"], below=1)
        if group["nesterov"] and not group["momentum"]:
            raise ValueError("nesterov needs a momentum above 0")

    def update(self, group, step, p, g, work, *, velocity):
        lr, momentum, decay = group["lr"], group["momentum"], group["weight_decay"]
        multiply = xp(p).multiply
        if decay:
            g += multiply(p, decay, out=work)
        if momentum:
            velocity *= momentum
            velocity += g
            if group["nesterov"]:
                g += multiply(velocity, momentum, out=work)
            else:
                g = velocity
        p -= multiply(g, lr, out=work)


class Adam(Optimizer):
    """Kingma and Ba, "Adam: a method for stochastic optimization", 2015. At step t, from 1:

        m = beta1 m + (1 - beta1) g,   v = beta2 v + (1 - beta2) g**2
        p = p - lr m' / (sqrt(v') + eps),   m' = m / (1 - beta1**t),   v' = v / (1 - beta2**t)

    computed in the order that the end of their section 2 gives: both corrections go into two scalars. `weight_decay` is
    added to the gradient, g + weight_decay p.
    """

    keeps = ("m", "v")
    decoupled = False  # whether the decay acts on p directly

    def __init__(
        self, params, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):  # fmt: skip
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def check_options(self, group):
        super().check_options(group)
        _check_number("eps", group["eps"])
        if len(group["betas"]) != 2:
            raise ValueError(f"betas must be two numbers, not {group['betas']!r}")
        for beta in group["betas"]:
            _check_number("each of betas", beta, below=1)

    def update(self, group, step, p, g, work, *, m, v):
        lr, (beta1, beta2), decay = group["lr"], group["betas"], group["weight_decay"]
        library, root = xp(p), math.sqrt(1 - beta2**step)
        if decay and self.decoupled:
            p *= 1 - lr * decay
        elif decay:
            g += library.multiply(p, decay, out=work)
        m *= beta1
        m += library.multiply(g, 1 - beta1, out=work)
        v *= beta2
        g *= g
        g *= 1 - beta2
        v += g
        library.sqrt(v, out=work)
        work += group["eps"] * root
        library.divide(m, work, out=work)
        work *= lr * root / (1 - beta1**step)
        p -= work


class AdamW(Adam):
    """Adam whose decay does not pass through the averages: p = (1 - lr weight_decay) p before Adam's update.

    Loshchilov and Hutter, "Decoupled weight decay regularization", 2019.
    """

    decoupled = True

    def __init__(
        self, params, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0.01,
    ):  # fmt: skip
        super().__init__(params, lr, betas, eps, weight_decay)


def decay_groups(params: Iterable[Tensor], weight_decay: float) -> list[dict[str, Any]]:
    """Groups for an optimizer: `weight_decay` for matrices (and above), none for vectors: biases and norm weights."""
    params = list(params)
    groups = [
        {"params": [p for p in params if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


# ----- checks -----------------------------------------------------------------------------------------------------


def _groups(optimizer: str, params: Iterable, options: dict[str, Any]) -> list[dict]:
    entries = [{"params": params}] if isinstance(params, Tensor) else list(params)
    if not any(isinstance(entry, Mapping) for entry in entries):
        entries = [{"params": entries}]
    groups = []
    for entry in entries:
        if not isinstance(entry, Mapping) or "params" not in entry:
            raise TypeError(f"{optimizer}: every group must be a dict with 'params', not {entry!r:.80}")
        if unknown := entry.keys() - options.keys() - {"params"}:
            raise ValueError(
                f"{optimizer}: a group has no option {min(unknown)!r}; the options are {', '.join(options)}"
            )
        if isinstance(entry["params"], Tensor):
            raise TypeError(f"{optimizer}: params must be a list of Tensors, not one Tensor")
        groups.append({**options, **entry, "params": list(entry["params"])})
        if not groups[-1]["params"]:
            raise ValueError(f"{optimizer}: no parameters to optimize (an iterator that was already used up?)")
    return groups


def _check_params(optimizer: str, params: list[Tensor]) -> None:
    seen = set()
    for i, p in enumerate(params):
        if not isinstance(p, Tensor):
            raise TypeError(f"{optimizer}: parameter {i} must be a Tensor, not {type(p).__name__}")
        if not p.requires_grad or not p.is_leaf:
            what = "does not require a gradient" if not p.requires_grad else "was computed by an op"
            raise ValueError(
                f"{optimizer}: parameter {i} of shape {p.shape} {what}: give leaves that require one, "
                "[p for p in model.parameters() if p.requires_grad]"
            )
        if id(p) in seen:
            raise ValueError(
                f"{optimizer}: parameter {i} of shape {p.shape} is given twice and would be updated twice: "
                "give each once (Module.parameters() does, tied ones too)"
            )
        seen.add(id(p))


def _check_number(name: str, value: float, below: float = math.inf) -> None:
    """`value` is a number in [0, below)."""
    if not isinstance(value, Real) or not 0 <= value < below:
        limit = "finite" if below == math.inf else f"below {below}"
        raise ValueError(f"{name} must be a number of at least 0 and {limit}, not {value!r}")


# ----- clipping ---------------------------------------------------------------------------------------------------


def grad_norm(params: Iterable[Tensor]) -> float:
    """sqrt(sum of g**2) over the gradients of all `params` together; those without one count as 0.

    Inner products of blocks, added up in float64. Where squares leave the range of float32, all is done in float64: the
    result is infinite or nan only if a gradient is. One number per dtype and device comes to the host.
    """
    grads = _gradients(params)
    total = sum(float(to_host(part)) for part in _sums_of_squares(grads))
    if not 1e-20 < total < math.inf:
        total = sum(float(to_host(part)) for part in _sums_of_squares(grads, widen=True))
    return math.sqrt(total)


def global_norm(params: Iterable[Tensor]) -> Tensor:
    """`grad_norm` as a float64 Tensor () where the gradients are: on a GPU nobody waits for it."""
    params = list(params)
    grads = _gradients(params)
    if not grads or device_of(grads[0]) == "cpu":
        return tensor(grad_norm(params), "float64", "cpu")
    total = sum(_sums_of_squares(grads, widen=True))
    return Tensor(xp(total).sqrt(total))


def _gradients(params: Iterable[Tensor]) -> list[Array]:
    return [p.grad.data.reshape(-1) for p in params if p.grad is not None and p.size]


def _sums_of_squares(grads: list[Array], widen: bool = False) -> list[Array]:
    """One sum, a 0-d float64 array, for each library and dtype among the gradients."""
    sums: dict[tuple, list[Array]] = {}
    for g in grads:
        for start in range(0, g.size, BLOCK):
            block = g[start : start + BLOCK]
            block = block.astype("float64") if widen else block
            sums.setdefault((xp(g), g.dtype), []).append(block @ block)
    return [library.stack(parts).sum(dtype="float64") for (library, _), parts in sums.items()]


def clip_scale(norm: Any, max_norm: float) -> Any:
    """The factor that brings a gradient of length `norm` to at most `max_norm`: min(1, max_norm / (norm + 1e-6)).

    Give it to `step(grad_scale=...)`. For a number: ValueError where it is not finite (scaling cannot repair that
    gradient: skip the step). For a Tensor (from `global_norm`) a Tensor, nan where the norm is not finite: `step` skips
    itself then. ValueError for a max_norm that is not positive.
    """
    if not max_norm > 0:
        raise ValueError(f"clip_scale: max_norm must be positive, not {max_norm}")
    if isinstance(norm, Tensor):
        n, library = norm.data, xp(norm.data)
        return Tensor(library.where(library.isfinite(n), library.minimum(1.0, max_norm / (n + 1e-6)), math.nan))
    if not 0 <= norm < math.inf:
        raise ValueError(f"clip_scale: the norm of the gradient is {norm}: skip this step")
    return min(1.0, max_norm / (norm + 1e-6))


# ----- schedules: the learning rate of a step, counted from 0 ------------------------------------------------------


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
    if not 0 <= warmup <= total:
        raise ValueError(f"a schedule needs 0 <= warmup <= total, not warmup {warmup} and total {total}")
    if step < 0:
        raise ValueError(f"a schedule's step counts from 0, it cannot be {step}")
    if step < warmup:
        return -1.0
    return 1.0 if step >= total else (step - warmup) / (total - warmup)
