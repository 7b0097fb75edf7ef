"""Fast optimizer steps: all parameters of a group in one flat array, updated in place.

`FlatStorage` takes the place of `optim.optimizers.PlainStorage` for the formulas in `UPDATES`. The `.data` of each
parameter becomes a view of its part of the flat array, and the state lies in flat arrays of the same order. On the CPU
an update is one pass over all of them, in blocks that fit the cache and on all threads, by numba where it is
installed. On a GPU, Adam and AdamW are one kernel (`kernels.cuda.optim`) that reads options and step counts from the
device: no step waits for the GPU, and it can be recorded in a CUDA graph.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

from ..backend import Array, to_host, xp
from ..devices.machine import in_parts, prepare_training
from ..devices.memory import scratch
from ..kernels.cpu.choose_impl import numba_impl_for
from ..optim import clipping
from ..optim.optimizers import Optimizer, PlainStorage, adam, adamw, compute_dtype, sgd
from ..tensor import Tensor
from .cuda_graph import capturing

BLOCK = 1 << 17  # elements: five float32 arrays fit a core's cache, and a ufunc call costs little in comparison
LARGE = 1 << 26  # elsewhere than on a CPU, where a call costs more and caches less


def attach() -> None:
    """Make optimizers and clipping fast from now on: sets the hooks of `optim`. Calling it again changes nothing."""
    Optimizer.storage = staticmethod(storage_for)
    clipping.compute_norm, clipping.compute_clip_scale = compute_norm, compute_clip_scale


def storage_for(optimizer: Optimizer) -> PlainStorage:
    """Flat where the optimizer's formula has an in-place version; plain otherwise (a subclass with its own formula)."""
    if type(optimizer).update in UPDATES:
        return FlatStorage(optimizer)
    return PlainStorage(optimizer)


# ----- the formulas in place ----------------------------------------------------------------------------------------
# Each updates a block p and its state. g, the block's gradient, and work are overwritten. All are 1-D arrays of one
# dtype, float32 or float64; `options` are the formula's.


def sgd_in_place(p: Array, g: Array, work: Array, t: int, options: dict[str, Any], velocity: Array) -> None:
    """`optimizers.sgd`, with the same bits."""
    momentum, multiply = options["momentum"], xp(p).multiply
    if options["weight_decay"]:
        g += multiply(p, options["weight_decay"], out=work)
    if momentum:
        velocity *= momentum
        velocity += g
        if options["nesterov"]:
            g += multiply(velocity, momentum, out=work)
        else:
            g = velocity
    p -= multiply(g, options["lr"], out=work)


def adam_in_place(
    p: Array, g: Array, work: Array, t: int, options: dict[str, Any], m: Array, v: Array, *, decoupled: bool
) -> None:
    """`optimizers.adam` (`adamw` where `decoupled`), up to rounding.

    Both bias corrections go into two scalars, as the end of section 2 of Adam's paper has it:
    p = p - rate m / (sqrt(v) + eps'), rate = lr sqrt(1 - beta2**t) / (1 - beta1**t), eps' = eps sqrt(1 - beta2**t).
    """
    lr, (beta1, beta2), decay = options["lr"], options["betas"], options["weight_decay"]
    library, root = xp(p), math.sqrt(1 - beta2**t)
    eps, rate = options["eps"] * root, lr * root / (1 - beta1**t)
    keep, decay = (1 - lr * decay, 0.0) if decoupled else (1.0, decay)
    if numba_impl := numba_impl_for(p, g, m, v):
        numba_impl.adam(p, g, m, v, beta1, beta2, keep, decay, eps, rate)
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


UPDATES: dict[Callable[..., Any], Callable[..., None]] = {
    sgd: sgd_in_place,
    adam: partial(adam_in_place, decoupled=False),
    adamw: partial(adam_in_place, decoupled=True),
}

# ----- flat memory --------------------------------------------------------------------------------------------------


class FlatStorage(PlainStorage):
    """The state of an optimizer in flat arrays, one `FlatGroup` for each group, device and dtype."""

    def __init__(self, optimizer: Optimizer):
        self.formula = type(optimizer).update
        alike: dict[tuple[Any, ...], list[int]] = {}
        for i, p in enumerate(optimizer.params):
            alike.setdefault((id(optimizer.group_of(i)), p.device, p.dtype), []).append(i)
        self.flats, self.places = [], [(0, 0)] * len(optimizer.params)
        for number, members in enumerate(alike.values()):
            params = [optimizer.params[i] for i in members]
            decoupled = {adam: False, adamw: True}.get(self.formula)
            self.flats.append(FlatGroup(members[0], params, optimizer.state_names, decoupled))
            for position, i in enumerate(members):
                self.places[i] = number, position
        if any(flat.device == "cpu" for flat in self.flats):
            prepare_training()

    @property
    def arrays(self) -> list[dict[str, Array]]:  # type: ignore[override]
        """The state of each parameter by name: views of the flat arrays."""
        found = []
        for number, i in self.places:
            flat = self.flats[number]
            found.append({name: flat.view(array, i) for name, array in flat.state.items()})
        return found

    @property
    def steps(self) -> list[int]:
        """The number of updates of each parameter; if a GPU counts them, this waits for it."""
        steps = [flat.steps for flat in self.flats]
        return [steps[number][i] for number, i in self.places]

    @steps.setter
    def steps(self, steps: list[int]) -> None:
        for number, flat in enumerate(self.flats):
            flat.steps = [count for (at, _), count in zip(self.places, steps, strict=True) if at == number]

    def step(self, optimizer: Optimizer, grad_scale: float | Tensor) -> None:
        """`Optimizer.step`, once the gradients were checked."""
        for flat in self.flats:  # all of them before the first is changed
            if self.is_copy:
                flat.move_parameters()
            flat.check_data()
        self.is_copy = False
        for flat in self.flats:
            if flat.on_gpu is not None:
                flat.step_on_gpu(optimizer.options(flat.first), grad_scale)
        others = [flat for flat in self.flats if flat.on_gpu is None]
        if not others:
            return
        scale = float(grad_scale.item() if isinstance(grad_scale, Tensor) else grad_scale)
        for flat in others if math.isfinite(scale) else ():
            flat.step(UPDATES[self.formula], optimizer.options(flat.first), scale)

    def upload(self, optimizer: Optimizer) -> None:
        """Hand each GPU the options of its parameters."""
        for flat in self.flats:
            flat.send(optimizer.options(flat.first))


class FlatGroup:
    """The parameters of a group that share device and dtype in one array, `data`, and their state in others, `state`.

    `first` is the position of one of them in the optimizer, whose options they share. Updates are computed in
    `dtype`. `decoupled`: which kernel does the update on a GPU, AdamW's or Adam's; None: there is none.
    """

    def __init__(self, first: int, params: list[Tensor], state_names: Sequence[str], decoupled: bool | None):
        like, library = params[0].data, xp(params[0].data)
        self.first, self.params, self.device, self.decoupled = first, params, params[0].device, decoupled
        self.stored, self.dtype = like.dtype, compute_dtype(like)
        self.offsets = list(itertools.accumulate((p.size for p in params), initial=0))
        self.state = {name: library.zeros(self.offsets[-1], self.dtype) for name in state_names}
        self.host_steps = [0] * len(params)  # each counts its own: one without a gradient is not updated
        self.on_gpu: list[DeviceOptions] | None = None
        if decoupled is not None and (kernels := gpu_kernels(like)) and kernels.supports(like):
            self.on_gpu = [DeviceOptions(list(range(len(params))), library)]
        self.move_parameters()

    def move_parameters(self) -> None:
        """Move the parameters into one new array: the `.data` of each becomes a view of its part."""
        for p in self.params:
            if (p.device, p.dtype) != (self.device, self.stored):
                raise _data_was_replaced(p)
        self.data = xp(self.params[0].data).empty(self.offsets[-1], self.stored)
        self.views = [self.view(self.data, i) for i in range(len(self.params))]
        for p, view in zip(self.params, self.views, strict=True):
            view[...] = p.data
            p.data = view

    def __getstate__(self) -> dict[str, Any]:
        """For copy.deepcopy and pickle, which do not keep views: the copy moves its parameters at its first step.

        Not sooner: they may be copied after this, with a module that arranges their memory.
        """
        return {name: value for name, value in vars(self).items() if name not in ("data", "views")}

    def view(self, flat: Array, i: int) -> Array:
        """Parameter i's part of a flat array, in its shape."""
        return flat[self.offsets[i] : self.offsets[i + 1]].reshape(self.params[i].shape)

    def check_data(self) -> None:
        """A RuntimeError where the `.data` of a parameter is no longer a view of the flat array."""
        for p, view in zip(self.params, self.views, strict=True):
            if p.data is not view:
                raise _data_was_replaced(p)

    @property
    def steps(self) -> list[int]:
        """The number of updates of each parameter; if a GPU counts them, this waits for it."""
        if self.on_gpu is None:
            return self.host_steps
        counts = {i: part.steps for part in self.on_gpu for i in part.members}
        return [counts[i] for i in range(len(self.params))]

    @steps.setter
    def steps(self, steps: list[int]) -> None:
        self.host_steps = list(steps)
        if self.on_gpu is not None and steps != self.steps:
            alike = {count: [i for i, n in enumerate(steps) if n == count] for count in sorted(set(steps))}
            library = xp(self.params[0].data)
            self.on_gpu = [DeviceOptions(members, library, count) for count, members in alike.items()]

    # ----- by blocks ------------------------------------------------------------------------------------------------

    def step(self, update: Callable[..., None], options: dict[str, Any], scale: float) -> None:
        """Update the parameters that have a gradient, in blocks; on a CPU, on all threads."""
        for first, last in self._runs():
            t, begin = self.host_steps[first] + 1, self.offsets[first]
            size = self.offsets[last] - begin
            change = partial(self._update_blocks, update, options, scale, t, first)
            change(slice(0, size)) if self.device != "cpu" else in_parts(change, size, size)
            self.host_steps[first:last] = [t] * (last - first)
            for p in self.params[first:last]:
                p.changed()

    def _runs(self) -> list[tuple[int, int]]:
        """(first, last + 1) of neighbours with gradients and equal steps: one run of all, unless some are missing."""
        state = [None if p.grad is None else steps for p, steps in zip(self.params, self.host_steps, strict=True)]
        groups = [(key, list(members)) for key, members in itertools.groupby(range(len(state)), state.__getitem__)]
        return [(members[0], members[-1] + 1) for key, members in groups if key is not None]

    def _update_blocks(
        self, update: Callable[..., None], options: dict[str, Any], scale: float, t: int, first: int, part: slice
    ) -> None:
        """Update `part` of what begins with parameter `first`, block by block."""
        begin = self.offsets[first]
        for block, g in self._gradient_blocks(first, slice(begin + part.start, begin + part.stop), scale):
            p, work = self.data[block], scratch(1, g.shape, g.dtype, xp(g))
            computed = p if p.dtype == g.dtype else p.astype(g.dtype)
            update(computed, g, work, t, options, *[array[block] for array in self.state.values()])
            if computed is not p:
                p[...] = computed

    def _gradient_blocks(self, first: int, part: slice, scale: float) -> Iterator[tuple[slice, Array]]:
        """Blocks of the flat arrays that cover `part` of them, from parameter `first` on, each with its gradient times
        `scale`, in memory that the next block takes again."""
        library, i, size = xp(self.data), first, BLOCK if self.device == "cpu" else LARGE
        factor = library.asarray(scale, self.dtype)
        for start in range(part.start, part.stop, size):
            stop = min(start + size, part.stop)
            at, pieces = start, []
            while at < stop:  # the parts of parameters that lie in this block
                while self.offsets[i + 1] <= at:
                    i += 1
                begin, until = self.offsets[i], min(self.offsets[i + 1], stop)
                grad = self.params[i].grad
                assert grad is not None  # _runs() leaves out those that have none
                gradient = grad.data.reshape(-1)
                if gradient.dtype != self.dtype:
                    gradient = gradient.astype(self.dtype)
                pieces.append(gradient[at - begin : until - begin])
                at = until
            g = scratch(0, (stop - start,), self.dtype, library)
            joined = pieces[0] if len(pieces) == 1 else library.concatenate(pieces, out=g)
            yield slice(start, stop), library.multiply(joined, factor, out=g)

    # ----- by a kernel on a GPU -------------------------------------------------------------------------------------

    def step_on_gpu(self, options: dict[str, Any], grad_scale: float | Tensor) -> None:
        """The same by one kernel; no value of gradients or scale is read on the host."""
        if not capturing.get():
            self.send(options)
        kernels, library = gpu_kernels(self.data), xp(self.data)
        assert kernels is not None
        scale = grad_scale.data if isinstance(grad_scale, Tensor) else library.full((), grad_scale)
        for part in self._parts_with_gradients():
            m, v = ([self.view(array, i).reshape(-1) for i in part.members] for array in self.state.values())
            ps, gs = [], []
            for i in part.members:
                p = self.params[i]
                assert p.grad is not None
                ps.append(p.data)
                gs.append(p.grad.data)
            kernels.adam(part.control, ps, m, v, gs, scale.astype("float32"), decoupled=self.decoupled)
            for i in part.members:
                self.params[i].changed()

    def _parts_with_gradients(self) -> list["DeviceOptions"]:
        """The parts whose parameters have a gradient; where only some of one have, they become a part of their own."""
        assert self.on_gpu is not None
        found: list[DeviceOptions] = []
        for part in list(self.on_gpu):
            having = [i for i in part.members if self.params[i].grad is not None]
            if having and len(having) < len(part.members):
                rest = [i for i in part.members if i not in having]
                self.on_gpu[self.on_gpu.index(part)] = part.split(rest)
                part = part.split(having)
                self.on_gpu.append(part)
            found += [part] if having else []
        return found

    def send(self, options: dict[str, Any]) -> None:
        """Hand the options of the next steps to the GPU, if it computes them."""
        for part in self.on_gpu or ():
            part.send((options["lr"], options["weight_decay"], *options["betas"], options["eps"]))


class DeviceOptions:
    """Step count and options of parameters that were updated equally often, as numbers on their GPU.

    So a step needs nothing from the host, and can be recorded in a CUDA graph: a replay reads what `send` left.
    `control` is float64: the step count, lr, weight_decay, beta1, beta2, eps.
    """

    def __init__(self, members: list[int], library: ModuleType, steps: int = 0):
        self.members, self.control = members, library.zeros(6, "float64")
        self.control[0] = steps
        self.sent: list[float | None] = [None] * 5

    @property
    def steps(self) -> int:
        """The step count; this waits for the GPU."""
        return int(to_host(self.control)[0])

    def split(self, members: list[int]) -> "DeviceOptions":
        """The same for some of the members, to be counted on their own."""
        new = DeviceOptions(members, xp(self.control))
        new.control[...], new.sent = self.control, list(self.sent)
        return new

    def send(self, options: Sequence[float]) -> None:
        """Write the options of the next steps to the GPU; what is there already is not sent again."""
        for i, value in enumerate(options):
            if self.sent[i] != value:
                self.control[i + 1] = self.sent[i] = value


def _data_was_replaced(p: Tensor) -> RuntimeError:
    return RuntimeError(
        f"step: the data of a parameter of shape {p.shape} was replaced after this optimizer was made (by "
        "Module.to, or by another optimizer): make the optimizer last"
    )


# ----- the global norm and clipping on a GPU ------------------------------------------------------------------------


def gpu_kernels(x: Array) -> ModuleType | None:
    """`kernels.cuda.optim` for an array that is not on the CPU: a CPU path imports no CUDA file."""
    if type(x) is np.ndarray:
        return None
    from ..kernels.cuda import optim

    return optim


def compute_norm(grads: list[Array]) -> Array:
    """`clipping.norm_formula`, by one kernel where it supports the gradients."""
    if (kernels := gpu_kernels(grads[0])) and kernels.supports(*grads):
        norm: Array = kernels.grad_norm(grads)
        return norm
    return clipping.norm_formula(grads)


def compute_clip_scale(norm: Array, max_norm: float) -> Array:
    """`clipping.clip_scale_formula`, by one kernel on a GPU."""
    if (kernels := gpu_kernels(norm)) and kernels.on_gpu(norm):
        scale: Array = kernels.clip_scale(norm, None if max_norm == math.inf else max_norm)
        return scale
    return clipping.clip_scale_formula(norm, max_norm)
