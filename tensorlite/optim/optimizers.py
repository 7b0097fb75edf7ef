"""SGD, Adam and AdamW: first their update formulas, then the classes that apply them to parameters.

A formula is a function of arrays. It takes a parameter p, its gradient g, the number t of the update (1, 2, ...) and
the optimizer's state of that parameter, and returns the new p and the new state; nothing is changed in place.
`PlainStorage.step` applies it in a loop over the parameters. `tensorlite.accelerate.storage` computes the same in
place, for all parameters of a group at once, and sets `Optimizer.storage`; nothing in this file depends on it.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from .. import ops
from ..backend import Array, to_device, xp
from ..errors.suggestions import accepts_torch_arguments, hint
from ..nn.module import check_set_to_none, mismatch
from ..tensor import Tensor
from .checks import check_number, check_params, make_groups
from .clipping import global_norm_of

# ----- the update formulas ----------------------------------------------------------------------------------------


def sgd(
    p: Array, g: Array, t: int, velocity: Array,
    *, lr: float, momentum: float, nesterov: bool, weight_decay: float,
) -> tuple[Array, ...]:  # fmt: skip
    """Gradient descent, with momentum where `momentum` is above 0. Returns p and velocity, which starts at 0.

    Sutskever et al., "On the importance of initialization and momentum in deep learning", 2013, in PyTorch's form.
    """
    g = g + weight_decay * p
    if momentum:
        velocity = momentum * velocity + g
        g = g + momentum * velocity if nesterov else velocity
    return p - lr * g, velocity


def adam(
    p: Array, g: Array, t: int, m: Array, v: Array,
    *, lr: float, betas: tuple[float, float], eps: float, weight_decay: float,
) -> tuple[Array, ...]:  # fmt: skip
    """Kingma and Ba, "Adam: a method for stochastic optimization", 2015, algorithm 1. Returns p, m and v.

    m and v are moving averages of g and of g**2. They start at 0; dividing by 1 - beta**t corrects that bias.
    `weight_decay` is added to the gradient, as the gradient of weight_decay / 2 * p**2.
    """
    beta1, beta2 = betas
    g = g + weight_decay * p
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    m_hat = m / (1 - beta1**t)
    v_hat = v / (1 - beta2**t)
    return p - lr * m_hat / (ops.sqrt(v_hat) + eps), m, v


def adamw(
    p: Array, g: Array, t: int, m: Array, v: Array,
    *, lr: float, betas: tuple[float, float], eps: float, weight_decay: float,
) -> tuple[Array, ...]:  # fmt: skip
    """Adam with decoupled weight decay: p shrinks directly, and the decay does not pass through the averages m and v.

    Loshchilov and Hutter, "Decoupled weight decay regularization", 2019.
    """
    p = p - lr * weight_decay * p
    return adam(p, g, t, m, v, lr=lr, betas=betas, eps=eps, weight_decay=0.0)


# ----- the step ---------------------------------------------------------------------------------------------------


class PlainStorage:
    """An optimizer's state in one array per parameter and name, and the plain loop that updates the parameters.

    `steps[i]`: how often parameter i was updated. `arrays[i]`: its state by name, in the parameter's shape, float32 for
    float16 and bfloat16 parameters and else in the parameter's dtype. Both start at 0.
    """

    is_copy = False  # True after copy.deepcopy or pickle, until the first step

    def __init__(self, optimizer: "Optimizer"):
        self.steps = [0] * len(optimizer.params)
        self.arrays = [
            {name: xp(p.data).zeros(p.shape, compute_dtype(p.data)) for name in optimizer.state_names}
            for p in optimizer.params
        ]

    def step(self, optimizer: "Optimizer", grad_scale: float | Tensor) -> None:
        """`Optimizer.step`, after its checks of the gradients."""
        scale = float(grad_scale.item() if isinstance(grad_scale, Tensor) else grad_scale)
        if not math.isfinite(scale):
            return
        for i, p in enumerate(optimizer.params):
            if p.grad is None:
                continue
            self.steps[i] += 1
            state, dtype = self.arrays[i].values(), compute_dtype(p.data)
            data, g = p.data.astype(dtype, copy=False), scale * p.grad.data.astype(dtype, copy=False)
            new = optimizer.update(data, g, self.steps[i], *state, **optimizer.options(i))
            if not isinstance(new, tuple) or len(new) != 1 + len(state):
                names = " and ".join(("p", *optimizer.state_names))
                kind = f"{len(new)}" if isinstance(new, tuple) else type(new).__name__
                raise TypeError(f"{type(optimizer).__name__}.update must return a tuple of {names}, not {kind}")
            for array, value in zip((p.data, *state), new, strict=True):
                array[...] = value
            p.changed()

    def global_norm(self, optimizer: "Optimizer") -> Tensor:
        """sqrt(sum of g**2) over the gradients of all parameters: a float64 Tensor ()."""
        return global_norm_of(optimizer.params)

    def upload(self, optimizer: "Optimizer") -> None:
        """Copy the options to the device for a CUDA graph of `step`: nothing here, as this loop cannot be recorded."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        """For copy.deepcopy and pickle."""
        vars(self).update(state, is_copy=True)


def compute_dtype(x: Array) -> Any:
    """The dtype in which a parameter is updated: float32 instead of float16 and bfloat16, whose range is too small."""
    return xp(x).dtype("float32") if x.dtype.itemsize < 4 else x.dtype


class Optimizer:
    """The base class of optimizers: groups of parameters, steps and state.

    A subclass names its state arrays in `state_names`, sets `update` to its formula (a staticmethod, see `adam`) and
    passes its options to `__init__`, whose names are the formula's keyword arguments.

    `params`: leaf Tensors that require a gradient, or groups of them, each a dict with "params" and its own values for
    any of the options. `groups` is the list of those dicts; what is written to them (or to `.lr`, for all of them)
    holds from the next step on. TypeError or ValueError for parameters or options that cannot be used.

    float16 and bfloat16 parameters are updated in float32, and their state is float32. The new values are rounded to
    the parameter's dtype, which loses updates that are too small: keep Parameters in float32 where you can.
    """

    state_names: tuple[str, ...] = ()  # of the arrays that are kept for each parameter
    update: Callable[..., tuple[Array, ...]]  # (p, g, t, *state, **options) -> p, *state
    storage: ClassVar[Callable[["Optimizer"], PlainStorage]] = PlainStorage  # accelerate.storage.attach replaces it

    def __init__(self, params: Iterable[Any], options: dict[str, Any]):
        self.groups = make_groups(type(self).__name__, params, options)
        self.params: list[Tensor] = [p for group in self.groups for p in group["params"]]
        self._groups = [group for group in self.groups for _ in group["params"]]  # that of each parameter
        check_params(type(self).__name__, self.params)
        for group in self.groups:
            self.check_options(group)
        self._storage = type(self).storage(self)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}{self._instead(name)}")

    def __setattr__(self, name: str, value: Any) -> None:
        if not hasattr(type(self), name) and (instead := self._instead(name)):  # it would change nothing
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r} to set{instead}")
        super().__setattr__(name, value)

    def _instead(self, name: str) -> str:
        """What to write instead of the attribute `name`, as ": ..."; "" for any other name."""
        if name != "params" and name in vars(self).get("groups", [{}])[0]:
            return f": write group[{name!r}] for each group in .groups"
        return hint("Optimizer", name)

    def check_options(self, group: dict[str, Any]) -> None:
        """A TypeError or ValueError for invalid options of a group."""
        for name in ("lr", "weight_decay"):
            if name in group:
                check_number(name, group[name])

    def group_of(self, i: int) -> dict[str, Any]:
        """The group of parameter `i`."""
        return self._groups[i]

    def options(self, i: int) -> dict[str, Any]:
        """The options of parameter `i`: those of its group."""
        return {name: value for name, value in self._groups[i].items() if name != "params"}

    @property
    def lr(self) -> float:
        """The learning rate: that of the first group where they differ. Setting it sets that of all groups."""
        lr: float = self.groups[0]["lr"]
        return lr

    @lr.setter
    def lr(self, lr: float) -> None:
        check_number("lr", lr)
        for group in self.groups:
            group["lr"] = lr

    def step(self, grad_scale: float | Tensor = 1.0) -> None:
        """Update every parameter that has a gradient, as if the gradient were `grad_scale` times what it is.

        A parameter without a gradient is left alone: neither its values nor its step count change. The same holds for
        all parameters where `grad_scale` is a Tensor () that is not finite; on a GPU, Adam and AdamW find that out
        without waiting for the value. A number that is not finite, and a gradient of another shape or dtype than its
        parameter, is a ValueError; a parameter whose `.data` was replaced is a RuntimeError. Nothing is changed then.
        """
        if not isinstance(grad_scale, Tensor):
            check_number("grad_scale", grad_scale)
        for i, p in enumerate(self.params):
            if (g := p.grad) is not None and (wrong := mismatch(g.data, p.data)):
                raise ValueError(f"step: the gradient of parameter {i}: {wrong}")
        if self._storage.is_copy and all(p.grad is None for p in self.params):
            warnings.warn(
                f"{type(self).__name__}: this optimizer is a copy and none of its parameters has a gradient: they "
                "belong to no model unless both are copied together, copy.deepcopy((model, optimizer))",
                stacklevel=2,
            )
        self._storage.step(self, grad_scale)
        self._storage.is_copy = False

    def global_norm(self) -> Tensor:
        """`optim.global_norm(self.params)`, without checking them again: sqrt(sum of g**2) over all gradients."""
        return self._storage.global_norm(self)

    def upload(self) -> None:
        """Copy the options to the GPU and mark the parameters as changed: called before a CUDA graph of `step` runs."""
        self._storage.upload(self)
        for p in self.params:
            p.changed()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients (`.grad` is None again). A ValueError for `set_to_none=False`."""
        check_set_to_none(set_to_none)
        for p in self.params:
            p.grad = None

    def state_dict(self) -> dict[str, Any]:
        """The state as a dict, without the options.

        {"steps": how often each parameter was updated, a list of ints; "tensors": {"<position>.<name>": Tensor}}, where
        position is the parameter's index in `params`. The Tensors share memory with the optimizer.
        """
        tensors = {
            f"{i}.{name}": Tensor(array)
            for i, arrays in enumerate(self._storage.arrays)
            for name, array in arrays.items()
        }
        return {"steps": list(self._storage.steps), "tensors": tensors}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what `state_dict()` returned. One ValueError lists all that does not fit; nothing is changed then."""
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
        problems += [f"{n}: {wrong}" for n in own if n in given and (wrong := _tensor_mismatch(given[n], own[n]))]
        if problems:
            raise ValueError(f"this state does not fit {type(self).__name__}:\n  " + "\n  ".join(problems))
        for name, target in own.items():
            target.data[...] = to_device(given[name].data, target.device)
        self._storage.steps = list(steps)


def _tensor_mismatch(value: Any, target: Tensor) -> str:
    if isinstance(value, Tensor):
        return mismatch(value.data, target)
    return f"a Tensor is needed, tl.tensor(x), not {type(value).__name__}"


# ----- the optimizers ---------------------------------------------------------------------------------------------


class SGD(Optimizer):
    """Gradient descent: g = g + weight_decay p;  velocity = momentum velocity + g;  p = p - lr velocity.

    With `nesterov`, p = p - lr (g + momentum velocity). The formula is `optimizers.sgd`.
    """

    state_names = ("velocity",)
    update = staticmethod(sgd)

    @accepts_torch_arguments("Optimizer")
    def __init__(
        self, params: Iterable[Any], lr: float, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0
    ):
        super().__init__(params, {"lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay})

    def check_options(self, group: dict[str, Any]) -> None:
        """0 <= momentum < 1, and `nesterov` only with a momentum."""
        super().check_options(group)
        check_number("momentum", group["momentum"], below=1)
        if not isinstance(group["nesterov"], bool):
            raise TypeError(f"nesterov must be True or False, not {group['nesterov']!r:.80}")
        if group["nesterov"] and not group["momentum"]:
            raise ValueError("nesterov needs a momentum above 0")


class Adam(Optimizer):
    """Adam: m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g**2;  p = p - lr m_hat / (sqrt(v_hat) + eps).

    m_hat = m / (1 - beta1**t) and v_hat = v / (1 - beta2**t) at update t, from 1. `weight_decay` is added to the
    gradient: g + weight_decay p. The formula is `optimizers.adam`.
    """

    state_names = ("m", "v")
    update = staticmethod(adam)

    @accepts_torch_arguments("Optimizer")
    def __init__(
        self, params: Iterable[Any], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):  # fmt: skip
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def check_options(self, group: dict[str, Any]) -> None:
        """eps >= 0, and two betas in [0, 1)."""
        super().check_options(group)
        check_number("eps", group["eps"])
        if not isinstance(group["betas"], tuple | list) or len(group["betas"]) != 2:
            raise ValueError(f"betas must be two numbers, (0.9, 0.999), not {group['betas']!r:.80}")
        for beta in group["betas"]:
            check_number("each of betas", beta, below=1)


class AdamW(Adam):
    """Adam with decoupled weight decay: p = (1 - lr weight_decay) p before Adam's update (`optimizers.adamw`)."""

    update = staticmethod(adamw)

    @accepts_torch_arguments("Optimizer")
    def __init__(
        self, params: Iterable[Any], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
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
