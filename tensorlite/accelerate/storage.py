"""Parameters of a group in one array, and beside it what the optimizer keeps."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType

from ..backend import Array, scratch, to_host, xp
from ..kernels.cuda import optim as update
from ..nn import misfit
from ..tensor import Tensor

BLOCK = 1 << 17  # elements: five float32 arrays fit a core's cache, and a ufunc call costs nothing beside them
LARGE = 1 << 26  # elsewhere than on a CPU, where a call costs more and caches less


class Flat:
    """The parameters of a group that share device and dtype, in one array, beside it what the optimizer keeps."""

    def __init__(self, group: dict, params: list[Tensor], keeps: Iterable[str], kernels: bool = False):
        like, library = params[0].data, xp(params[0].data)
        self.group, self.params, self.device, self.dtype = group, params, params[0].device, like.dtype
        self.offsets = list(itertools.accumulate((p.size for p in params), initial=0))
        narrow = like.dtype.itemsize < 4  # float16 and bfloat16: squares and eps are too small for float16
        self.computed = library.dtype("float32") if narrow else like.dtype  # what updates are computed in
        self.kept = {name: library.zeros(self.offsets[-1], self.computed) for name in keeps}
        self.gather()
        self.counted = [0] * len(params)  # steps of each, as torch counts: one without a gradient is not stepped
        self.cohorts = [Cohort(list(range(len(params))), library, 0)] if kernels and update.supports(like) else None

    def gather(self) -> None:
        """Move the parameters into one array: the `.data` of each becomes a view of its part."""
        for p in self.params:
            if (p.device, p.dtype) != (self.device, self.dtype):
                raise _replaced(p)
        self.data = xp(self.params[0].data).empty(self.offsets[-1], self.dtype)
        self.views = [self.part(self.data, i) for i in range(len(self.params))]
        for p, view in zip(self.params, self.views, strict=True):
            view[...] = p.data
            p.data = view

    def __getstate__(self) -> dict:
        """For copy.deepcopy and pickle, which do not keep views: the copy gathers its parameters at its first step.

        Not sooner: they may be copied after this, with a module that arranges their memory.
        """
        return {name: value for name, value in vars(self).items() if name not in ("data", "views")}

    @property
    def gathered(self) -> bool:
        """False in a deep copy before its first step."""
        return "views" in vars(self)

    @property
    def steps(self) -> list[int]:
        """How often each parameter was updated; where a GPU counts, this waits for it."""
        if self.cohorts is None:
            return self.counted
        counts = {i: cohort.steps for cohort in self.cohorts for i in cohort.members}
        return [counts[i] for i in range(len(self.params))]

    @steps.setter
    def steps(self, steps: list[int]) -> None:
        self.counted = list(steps)
        if self.cohorts is not None and steps != self.steps:
            alike = {count: [i for i, n in enumerate(steps) if n == count] for count in sorted(set(steps))}
            self.cohorts = [Cohort(members, xp(self.data), count) for count, members in alike.items()]

    def stepping(self) -> list["Cohort"]:
        """The cohorts of parameters that have a gradient; where only some of one have, they are one of their own."""
        assert self.cohorts is not None
        found: list[Cohort] = []
        for cohort in list(self.cohorts):
            having = [i for i in cohort.members if self.params[i].grad is not None]
            if having and len(having) < len(cohort.members):
                rest = [i for i in cohort.members if i not in having]
                self.cohorts[self.cohorts.index(cohort)] = cohort.part(rest)
                cohort = cohort.part(having)
                self.cohorts.append(cohort)
            found += [cohort] if having else []
        return found

    def part(self, flat: Array, i: int) -> Array:
        """Parameter i's part of a flat array, in its shape."""
        return flat[self.offsets[i] : self.offsets[i + 1]].reshape(self.params[i].shape)

    def check(self) -> None:
        for i, (p, view) in enumerate(zip(self.params, self.views, strict=True)):
            if p.data is not view:
                raise _replaced(p)
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
        multiply, i, size = xp(self.data).multiply, first, BLOCK if self.device == "cpu" else LARGE
        for start in range(part.start, part.stop, size):
            stop = min(start + size, part.stop)
            g = scratch(0, (stop - start,), self.computed, xp(self.data))
            at = start
            while at < stop:  # the pieces of parameters that lie in this block
                while self.offsets[i + 1] <= at:
                    i += 1
                begin, until = self.offsets[i], min(self.offsets[i + 1], stop)
                grad = self.params[i].grad
                assert grad is not None  # runs() leaves out those that have none
                gradient = grad.data.reshape(-1)
                if gradient.dtype != self.computed:
                    gradient = gradient.astype(self.computed)
                multiply(gradient[at - begin : until - begin], scale, out=g[at - start : until - start])
                at = until
            yield slice(start, stop), g


def _replaced(p: Tensor) -> RuntimeError:
    return RuntimeError(
        f"step: the data of a parameter of shape {p.shape} was replaced after this optimizer was made (by "
        "Module.to, or by another optimizer): make the optimizer last"
    )


class Cohort:
    """Parameters on a GPU that were updated equally often. How often, and their settings, are numbers there.

    So a step needs nothing from the host, and can be recorded in a CUDA graph: a replay reads what `send` left.
    """

    def __init__(self, members: list[int], library: ModuleType, steps: int):
        self.members = members
        self.control = library.zeros(len(update.CONTROL), "float64")
        self.control[0] = steps
        self.sent: list[float | None] = [None] * (len(update.CONTROL) - 1)

    @property
    def steps(self) -> int:
        return int(to_host(self.control)[0])

    def part(self, members: list[int]) -> "Cohort":
        """Some of its parameters, as a cohort of their own."""
        new = Cohort(members, xp(self.control), 0)
        new.control[...], new.sent = self.control, list(self.sent)
        return new

    def send(self, settings: Sequence[float]) -> None:
        """The settings of steps to come: update.CONTROL but for the first. What is there already is not sent again."""
        for i, value in enumerate(settings):
            if self.sent[i] != value:
                self.control[i + 1] = self.sent[i] = value
