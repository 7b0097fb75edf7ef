"""The reports of a run: lines of metrics.jsonl, samples, loss.png, and the table at the end."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tensorlite.files import naming

from ..console import in_shell, result_table, say
from ..system import peak_memory
from . import machine
from .progress import Progress
from .session import Session


def append_metrics(s: Session, line: dict[str, Any]) -> None:
    """Add a line to metrics.jsonl."""
    path = s.run / "metrics.jsonl"
    with naming(path), open(path, "a", encoding="utf-8", newline="\n") as file:
        file.write(json.dumps(line) + "\n")


def append_sample(s: Session, show: Callable[[str], None]) -> None:
    """Write a sample of the model's output to samples.txt and the screen."""
    try:
        text = s.task.sample(s.model, s.step)
    except FloatingPointError as error:  # the next steps will be skipped, then training stops
        text = f"(no sample: {error})"
    path = s.run / "samples.txt"
    with naming(path), open(path, "a", encoding="utf-8", newline="\n") as file:
        file.write(f"----- step {s.step}\n{text}\n\n")
    show(f"----- a sample at step {s.step}\n{text}\n-----")


def draw(run: Path, tell: Callable[[str], None]) -> None:
    """Draw loss.png. A failure is a warning: all other results are kept."""
    from . import plots  # here, since importing matplotlib takes longer than all else

    try:
        plots.draw_run(run)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        tell(f"warning: {run / 'loss.png'} is not drawn, metrics.jsonl is damaged: {error}")
    except (OSError, MemoryError) as error:
        tell(f"warning: {run / 'loss.png'} is not drawn: {getattr(error, 'strerror', None) or error}")


def finish(s: Session, show: Progress) -> None:
    """The task's final evaluation, a last sample, the table, and the command that shows the run's page."""
    figures, found = s.task.finish(s.model)
    append_metrics(s, {"step": s.step, **figures})
    append_sample(s, show.say)
    trained = sum(p.size for p in s.model.parameters() if p.requires_grad)
    rows = {
        "parameters": f"{s.model.num_parameters():,}",
        **({"trained of them": f"{trained:,}"} if trained < s.model.num_parameters() else {}),
        f"{show.unit} trained on": f"{s.step * show.per_step:,}",
        f"{show.unit} per second": f"{show.per_second():,.0f}" if show.done else "trained before",
        **found,
        "lowest validation loss on the way": f"{s.best[0]:.4f} at step {s.best[1]:,}",
        **({"its checkpoint": "kept: --step best"} if s.config.keep_best else {}),
        "peak memory": f"{peak_memory() / 2**20:,.0f} MiB",
        **machine.table_rows(next(s.model.parameters()).device),
    }
    show.console.print(result_table(f"{s.run}", rows))
    say(show.console, None, f"look inside: gpt look {in_shell(s.run)}")
