"""SGD, Adam and AdamW."""

import math
import warnings
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from ..accelerate.cuda_graph import capturing
from ..accelerate.storage import Cohort, Flat
from ..backend import Array, scratch, to_device, xp
from ..devices.machine import in_parts, prepare_training
from ..errors.torch_names import explaining, hint
from ..kernels.cpu.choose_impl import numba_impl_for
from ..kernels.cuda import optim as update
from ..nn import check_set_to_none, misfit
from ..tensor import Tensor
from .checks import check_number, check_params, groups_of


class Optimizer:
    """What SGD and Adam share: groups, steps and state. A subclass says what it keeps and how it updates a block.

    `params`: leaf Tensors that require a gradient, or groups of them, each a dict with "params" and its own values for
    any of the options. `groups` is the list of those dicts; what is written to them (or to `.lr`, for all of them)
    holds from the next step on.

    Updates of float16 and bfloat16 parameters are computed in float32, and what is kept beside them is float32. The new
    values are rounded to the parameter's dtype, which loses updates that are small beside them: keep Parameters in
    float32 where you can.
    """

    keeps: tuple[str, ...] = ()  # names of the arrays kept beside the parameters
    has_kernel = False  # whether `update_far` is written: a step of all parameters on a GPU at once

    def __init__(self, params: Iterable, options: dict[str, Any]):
        self.groups = groups_of(type(self).__name__, params, options)
        self.params = [p for group in self.groups for p in group["params"]]
        check_params(type(self).__name__, self.params)
        for group in self.groups:
            self.check_options(group)
        alike: dict[tuple, list[Tensor]] = {}
        for number, group in enumerate(self.groups):
            for p in group["params"]:
                alike.setdefault((number, p.device, p.dtype), []).append(p)
        self._flats = [
            Flat(self.groups[key[0]], members, self.keeps, self.has_kernel) for key, members in alike.items()
        ]
        if any(flat.device == "cpu" for flat in self._flats):
            prepare_training()
        places = {id(p): (flat, i) for flat in self._flats for i, p in enumerate(flat.params)}
        self._places = [places[id(p)] for p in self.params]  # where each lies

    def __getattr__(self, name: str):
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}{hint('Optimizer', name)}")

    def check_options(self, group: dict) -> None:
        """A ValueError for options that make no sense."""
        for name in ("lr", "weight_decay"):
            check_number(name, group[name])

    def update(self, group: dict, step: int, p: Array, g: Array, work: Array, **kept: Array) -> None:
        """Update the block `p` (and `kept`) in place. `g`, its gradient, and `work` are scratch; step counts from 1.

        All are float32 (float64 where the parameters are).
        """
        raise TypeError(f"{type(self).__name__} has no update rule: a subclass writes update()")

    @property
    def lr(self) -> float:
        """The learning rate: that of the first group where they differ. Setting it sets that of all groups."""
        return self.groups[0]["lr"]

    @lr.setter
    def lr(self, lr: float) -> None:
        check_number("lr", lr)
        for group in self.groups:
            group["lr"] = lr

    def step(self, grad_scale: float | Tensor = 1.0) -> None:
        """Update every parameter that has a gradient, as if the gradient were `grad_scale` times what it is.

        A parameter without one is left alone: neither its values nor its step count change. So are all of them where
        `grad_scale` is a Tensor () that is not finite; on a GPU, AdamW and Adam find that out without waiting for it.
        """
        if not isinstance(grad_scale, Tensor):
            check_number("grad_scale", grad_scale)
        if not all(flat.gathered for flat in self._flats):
            self._settle()
        for flat in self._flats:  # all of them before the first is changed
            flat.check()
        near = [flat for flat in self._flats if flat.cohorts is None]
        self._step_far([flat for flat in self._flats if flat.cohorts is not None], grad_scale)
        if not near:
            return
        scale = float(grad_scale.item() if isinstance(grad_scale, Tensor) else grad_scale)
        if not math.isfinite(scale):
            return
        for flat in near:
            for first, last in flat.runs():
                step, begin, size = (
                    flat.counted[first] + 1,
                    flat.offsets[first],
                    flat.offsets[last] - flat.offsets[first],
                )
                change = partial(self._update, flat, first, begin, step, scale)
                change(slice(0, size)) if flat.device != "cpu" else in_parts(change, size, size)
                flat.counted[first:last] = [step] * (last - first)
                for p in flat.params[first:last]:
                    p.changed()

    def _settle(self) -> None:
        """The first step of a deep copy: its parameters get their places in memory."""
        if all(p.grad is None for p in self.params):
            warnings.warn(
                f"{type(self).__name__}: this optimizer is a copy and none of its parameters has a gradient: they "
                "belong to no model unless both are copied together, copy.deepcopy((model, optimizer))",
                stacklevel=3,
            )
        for flat in self._flats:
            flat.gather()

    def _update(self, flat: Flat, first: int, begin: int, step: int, scale: float, part: slice) -> None:
        """Update `part` of what begins with parameter `first`, at `begin`, block by block."""
        for block, g in flat.blocks(first, slice(begin + part.start, begin + part.stop), scale):
            kept = {name: array[block] for name, array in flat.kept.items()}
            work = scratch(1, g.shape, g.dtype, xp(g))
            p = flat.data[block]
            wide = p if p.dtype == g.dtype else p.astype(g.dtype)
            self.update(flat.group, step, wide, g, work, **kept)
            if wide is not p:
                p[...] = wide

    def _step_far(self, flats: list[Flat], grad_scale: float | Tensor) -> None:
        """The step of parameters on a GPU; no value of gradients or scale is read on the host."""
        for flat in flats:
            if not capturing.get():
                self._send(flat)
            library = xp(flat.data)
            scale = grad_scale.data if isinstance(grad_scale, Tensor) else library.full((), grad_scale)
            for cohort in flat.stepping():
                self.update_far(flat, cohort, scale.astype("float32"))
                for i in cohort.members:
                    flat.params[i].changed()

    def _send(self, flat: Flat) -> None:
        for cohort in flat.cohorts or ():
            cohort.send(self.settings(flat.group))

    def settings(self, group: dict) -> tuple[float, ...]:
        """What a GPU is told of a group, as kernels/cuda/update.py has it."""
        raise TypeError(f"{type(self).__name__} has no kernel")

    def update_far(self, flat: Flat, cohort: Cohort, scale: Array) -> None:
        """One step of a cohort's parameters, by a kernel. `scale`: float32 (), on the GPU."""
        raise TypeError(f"{type(self).__name__} has no kernel")

    def upload(self) -> None:
        """What the host hands over before a CUDA graph of a step is replayed: the settings, and that values change."""
        for flat in self._flats:
            self._send(flat)
        for p in self.params:
            p.changed()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients (`.grad` is None again)."""
        check_set_to_none(set_to_none)
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
        steps = {id(flat): flat.steps for flat in self._flats}
        return {"steps": [steps[id(flat)][i] for flat, i in self._places], "tensors": tensors}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict()` gave. One ValueError lists all that does not fit; nothing is changed then."""
        if not isinstance(state, Mapping):
            raise TypeError(f"load_state_dict: give what state_dict() gave, a dict, not {type(state).__name__}")
        if state.keys() != {"steps", "tensors"}:
            raise ValueError(f"an optimizer's state has 'steps' and 'tensors', not {', '.join(map(repr, state))}")
        steps, given = state["steps"], state["tensors"]
        own = self.state_dict()["tensors"]
        problems = []
        if len(steps) != len(self.params) or any(type(step) is not int or step < 0 for step in steps):
            problems.append(f"steps: {len(self.params)} non-negative integers are needed, not {steps!r:.80}")
        problems += [f"missing: {name}" for name in own if name not in given]
        problems += [f"unexpected: {name}" for name in given if name not in own]
        problems += [f"{n}: {wrong}" for n in own if n in given and (wrong := _misfit(given[n], own[n]))]
        if problems:
            raise ValueError(f"this state does not fit {type(self).__name__}:\n  " + "\n  ".join(problems))
        for name, place in own.items():
            place.data[...] = to_device(given[name].data, place.device)
        for flat in self._flats:
            mine = [(i, count) for (its, i), count in zip(self._places, steps, strict=True) if its is flat]
            flat.steps = [count for _, count in sorted(mine)]


def _misfit(value: Any, place: Tensor) -> str:
    if isinstance(value, Tensor):
        return misfit(value.data, place)
    return f"a Tensor is needed, tl.tensor(x), not {type(value).__name__}"


class SGD(Optimizer):
    """Gradient descent: d = g + weight_decay p;  velocity = momentum velocity + d;  p = p - lr velocity.

    With `nesterov`, p = p - lr (d + momentum velocity). Sutskever et al., "On the importance of initialization and
    momentum in deep learning", 2013, in torch's form (the first velocity is d).
    """

    keeps = ("velocity",)

    @explaining("Optimizer")
    def __init__(
        self, params, lr: float, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0
    ):  # fmt: skip
        super().__init__(params, {"lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay})

    def check_options(self, group):
        super().check_options(group)
        check_number("momentum", group["momentum"], below=1)
        if not isinstance(group["nesterov"], bool):
            raise TypeError(f"nesterov must be True or False, not {group['nesterov']!r:.80}")
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
    has_kernel = True

    @explaining("Optimizer")
    def __init__(
        self, params, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):  # fmt: skip
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def check_options(self, group):
        super().check_options(group)
        check_number("eps", group["eps"])
        if not isinstance(group["betas"], tuple | list) or len(group["betas"]) != 2:
            raise ValueError(f"betas must be two numbers, (0.9, 0.999), not {group['betas']!r:.80}")
        for beta in group["betas"]:
            check_number("each of betas", beta, below=1)

    def update(self, group, step, p, g, work, *, m, v):
        lr, (beta1, beta2), decay = group["lr"], group["betas"], group["weight_decay"]
        library, root = xp(p), math.sqrt(1 - beta2**step)
        eps, rate = group["eps"] * root, lr * root / (1 - beta1**step)
        keep, decay = (1 - lr * decay, 0.0) if self.decoupled else (1.0, decay)
        if loops := numba_impl_for(p, g, m, v):
            loops.adam(p, g, m, v, beta1, beta2, keep, decay, eps, rate)
            return
        if decay:
            g += library.multiply(p, decay, out=work)
        if keep != 1:
            p *= keep
        m *= beta1
        m += library.multiply(g, 1 - beta1, out=work)
        v *= beta2
        g *= g
        g *= 1 - beta2
        v += g
        library.sqrt(v, out=work)
        work += eps
        library.divide(m, work, out=work)
        work *= rate
        p -= work

    def settings(self, group):
        return group["lr"], group["weight_decay"], *group["betas"], group["eps"]

    def update_far(self, flat, cohort, scale):
        m, v = ([flat.part(flat.kept[name], i).reshape(-1) for i in cohort.members] for name in self.keeps)
        ps, gs = ([flat.params[i].data for i in cohort.members], [flat.params[i].grad.data for i in cohort.members])
        update.adam(cohort.control, ps, m, v, gs, scale, decoupled=self.decoupled)


class AdamW(Adam):
    """Adam whose decay does not pass through the averages: p = (1 - lr weight_decay) p before Adam's update.

    Loshchilov and Hutter, "Decoupled weight decay regularization", 2019.
    """

    decoupled = True

    @explaining("Optimizer")
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
