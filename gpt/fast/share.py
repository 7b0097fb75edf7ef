"""Which process computes which sequences of a step: whole passes as far as they go, then rows of passes."""

from collections.abc import Sequence
from math import gcd
from typing import Any, NamedTuple

from tensorlite import nn

from ..console import counted
from ..training.settings import Settings
from ..training.task import Task


class Share(NamedTuple):
    """The sequences of a step that a process computes: some rows of some of the passes."""

    passes: range
    part: int  # which of `parts` equal parts of each pass' rows
    parts: int

    def rows(self, batch: Sequence[Any]) -> Sequence[Any]:
        """Its rows of a batch, whose parts are Tensors and lists with one entry per sequence."""
        if self.parts == 1:
            return batch
        size = len(batch[0]) // self.parts
        return tuple(x[self.part * size : (self.part + 1) * size] for x in batch)


def share_of(rank: int, size: int, config: Settings) -> Share:
    """Whole passes as far as they go, then rows of passes. ValueError where neither divides by the processes."""
    passes, rows = config.grad_accumulation, config.batch_size
    groups = gcd(size, passes)
    parts = size // groups
    if rows % parts:
        fitting = [n for n in range(1, passes * rows + 1) if not rows % (n // gcd(n, passes))]
        *some, last = [str(n) for n in fitting if n < size][-2:] + [str(n) for n in fitting if n > size][:2]
        near = f"{', '.join(some)} or {last}" if some else last
        raise ValueError(
            f"{size} processes cannot share {counted(passes, 'pass').replace('passs', 'passes')} of "
            f"{counted(rows, 'sequence')} equally: start {near} processes, or set "
            f"--grad-accumulation or --batch-size to a multiple of {size}"
        )
    each = passes // groups
    return Share(range(rank // parts * each, (rank // parts + 1) * each), rank % parts, parts)


def largest_dropout(model: Any) -> float:
    """The largest probability of the model's dropouts."""
    c = model.config
    return float(max(c.embedding_dropout, c.attention_dropout, c.residual_dropout))


def check_dropout(model: Any, share: Share, processes: int) -> None:
    """ValueError where the rows of one pass are divided although a dropout mask is drawn for all of them."""
    if share.parts > 1 and (p := largest_dropout(model)):
        raise ValueError(
            f"with dropout {p:g}, each of {processes} processes computes whole passes: set --grad-accumulation to a "
            f"multiple of {processes} (and --batch-size to less), or --dropout 0"
        )


def checked(task: type[Task], share: Share, processes: int) -> type[Task]:
    """The task, which refuses models that cannot be trained so, before the run is begun."""

    class Checked(task):  # type: ignore[valid-type, misc]
        @classmethod
        def begin(cls, *args: Any) -> Any:
            new = super().begin(*args)
            check_dropout(new.model, share, processes)
            return new

        @classmethod
        def rebuild(cls, *args: Any) -> nn.Module:
            model: nn.Module = super().rebuild(*args)
            check_dropout(model, share, processes)
            return model

    return Checked
