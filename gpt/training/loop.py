"""The training loop, the same for all tasks: `train` opens the run, `run_steps` is the loop, `update` is one step.

A Session (session.py) holds all that a step depends on: the settings, the model, the optimizer, and the Task with its
position in the data. The Task (task.py shows a short one) says what a batch is, what its loss is, and how to evaluate
the model. Evaluations and samples draw no random numbers from training's generators, so the weights do not depend on
how often they are made.

Here the loss of each step is read before the next step begins. `gpt.fast.attach_step()` sets another `make_steps`,
which on a GPU starts the next steps first.
"""

import math
import pkgutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from rich.console import Console

import tensorlite as tl
from tensorlite import Tensor, optim

from ..console import counted, in_shell, open_screen, say
from . import machine, open_run, run_directory
from .finite import first_not_finite, is_finite
from .progress import Progress
from .report import append_metrics, append_sample, draw, finish
from .session import Session, begin, commit, continued, directory, files, out_of_patience, resume, save
from .settings import Settings, check_settings, command_of
from .signals import stop_signals
from .step import train_step
from .task import Task

PATIENCE = 3  # steps in a row that may be skipped because loss or gradient are not finite


class Result(NamedTuple):
    """The result of training: the folder of its files, and the signal that stopped it before its end, if any.

    `finished` is False after a signal and after `max_minutes`: --resume continues the run.
    """

    run: Path
    stopped_by: int | None
    finished: bool = True


def train(
    config: Settings,
    console: Console | None = None,
    task: type[Task] | None = None,
    begun: Callable[[Path], object] = lambda run: None,
) -> Result:
    """Train with the settings `config`; `task` defaults to the task that these settings belong to.

    `begun` is called once, with the run's directory, when that has a checkpoint and before the next step.

    The first SIGINT, SIGTERM or SIGHUP finishes the step and saves; a second one ends the process.

    ValueError or OSError, in one sentence, for settings, data and directories that cannot be used; FloatingPointError
    where loss or gradient stay nan or infinite; RuntimeError where another process trains in that directory. If a new
    run ends before its first checkpoint, for any reason, its directory is left as it was before.
    """
    check_settings(config)
    deadline = time.monotonic() + 60 * (math.inf if config.max_minutes is None else config.max_minutes)
    console, task = console or open_screen(), task or pkgutil.resolve_name(config.task_class)
    if config.resume:
        config = replace(config, resume=open_run.real_path(config.resume))
    if_exists, config = config.resume_if_exists, continued(config, task)
    config, machine_lines = machine.prepare(config)
    with stop_signals(at_once=True), opened(directory(config, task), config, task) as place:
        tell, run = partial(say, console, place.folder / "log.txt"), place.run  # its name may have been taken meanwhile
        if config.resume is None:
            s: Session | None = begin(task, config, place.folder, tell)
            tell(f"run        {run}")
        else:
            s = resume(task, config, run, tell, unless_finished=if_exists)
        if s is None:
            say(console, None, f"{run} has done all of its steps: there is nothing left to do")
            return Result(run, None)
        for line in machine_lines:
            tell(line)
        with open_run.report_missing_directory(run):
            stopped_by, ended = run_steps(s, task, place, console, begun, deadline)
        if ended:
            run_directory.finish(run, files(task), s.step)
    return Result(run, stopped_by, ended)


@contextmanager
def opened(run: Path, config: Settings, task: type[Task]) -> Iterator[open_run.Place]:
    """The directory that the run is written to. If another process has just taken an automatic name: the next one."""
    automatic = config.out is None and not config.overwrite and not config.resume_if_exists
    with ExitStack() as stack:
        if config.resume is not None:
            yield stack.enter_context(open_run.resume(run, files(task)))
            return
        while True:
            try:
                place = stack.enter_context(open_run.create(run, config.overwrite, files(task), config.reads()))
                break
            except (FileExistsError, RuntimeError):
                if not automatic or (free := directory(config, task)) == run:
                    raise
                run = free
        yield place


def run_steps(
    s: Session,
    task: type[Task],
    place: open_run.Place,
    console: Console,
    begun: Callable[[Path], object],
    deadline: float = math.inf,
) -> tuple[int | None, bool]:
    """Make the steps that are left. Return the signal that stopped them, if any, and whether the run is finished.

    `deadline` is a time of time.monotonic(): no step begins that would probably end after it.
    """
    show = Progress(s.step, s.task.steps, s.task.per_step, s.task.unit, console, place.folder / "log.txt")
    with show, stop_signals() as signals:
        if s.saved < 0:  # a new run
            append_metrics(s, {"step": 0, **evaluate(s, show, lr=0.0)})
            save(s)
            commit(s, task, place)
            show.log = s.run / "log.txt"
        begun(s.run)
        config, last = s.config, s.task.steps
        steps, clock = make_steps(s, show.say), Clock(deadline)
        while s.step < last and not signals and not out_of_patience(s) and clock.has_time():
            step = s.step + 1
            evaluation_due = step % config.eval_every == 0 or step == last
            sample_due = config.sample_every and step % config.sample_every == 0 and step < last
            checkpoint_due = step % config.checkpoint_every == 0
            results = steps.next(evaluation_due or sample_due or checkpoint_due)
            record(s, show, results, evaluation_due)
            if sample_due:
                append_sample(s, show.say)
            if checkpoint_due or (config.keep_best and s.best[1] == step):
                save(s)
        record(s, show, steps.rest())
        if s.saved != s.step:
            save(s)
    return conclude(s, show, signals)


def conclude(s: Session, show: Progress, signals: Sequence[int]) -> tuple[int | None, bool]:
    """Draw the curves, and report why the steps ended or evaluate the finished run. Returns as `run_steps`."""
    draw(s.run, show.say)  # before the final evaluation, which may take long
    last = s.task.steps
    ended = s.step == last or out_of_patience(s)
    if signals or not ended:
        why = "" if signals else f", as {s.config.max_minutes:g} minutes are over"
        again = f"{command_of(s.config.task)} --resume {in_shell(s.run)}"
        show.say(f"stopped after step {s.step}{why}, saved step {s.saved}: go on with {again}")
        return (signals[0] if signals else None), False
    if s.step < last:
        show.say(
            f"ended after step {s.step}: {counted(s.worse, 'evaluation')} without a validation loss below "
            f"{s.best[0]:.4f}, that of step {s.best[1]} (--resume with a larger --patience continues)"
        )
    finish(s, show)
    return None, True


class Clock:
    """Whether there is time for another step before a deadline: as much as the longest one so far has taken."""

    def __init__(self, deadline: float):
        self.deadline, self.longest, self.last = deadline, 0.0, time.monotonic()

    def has_time(self) -> bool:
        """Called before each step."""
        now = time.monotonic()
        self.longest, self.last = max(self.longest, now - self.last), now
        return now + self.longest < self.deadline


# ----- a step -----------------------------------------------------------------------------------------------------


Step = Callable[[Sequence[Any], Sequence[int]], Tensor]  # batches, their numbers of targets -> loss and norm


class StepResult(NamedTuple):
    """The result of one step, as in a line of metrics.jsonl, and the time that it took."""

    step: int
    lr: float
    loss: float
    norm: float  # of the gradient, before it was clipped
    seconds: float


class Steps(Protocol):
    """Makes the steps of a session, one after another."""

    def next(self, read: bool) -> list[StepResult]:
        """Make a step. Return the results known by now; with `read`, those of all steps that are not yet returned."""
        ...

    def rest(self) -> list[StepResult]:
        """The results that are not yet returned."""
        ...


class PlainSteps:
    """Steps whose results are read immediately."""

    def __init__(self, s: Session, say: Callable[[str], None], step: Step | None = None):
        self.s, self.step = s, step or plain_step(s)

    def next(self, read: bool) -> list[StepResult]:
        began = time.monotonic()
        lr, result = update(self.s, self.step)
        loss, norm = result.tolist()
        return [StepResult(self.s.step, lr, loss, norm, time.monotonic() - began)]

    def rest(self) -> list[StepResult]:
        return []


make_steps: Callable[[Session, Callable[[str], None]], Steps] = PlainSteps


def plain_step(s: Session) -> Step:
    """`train_step` of the session, as a function of the batches and their numbers of targets."""
    return partial(train_step, s.task, s.model, s.optimizer, clip=s.config.clip)


def update(s: Session, step: Step) -> tuple[float, Tensor]:
    """Make one step with the next batches. Return its learning rate, and a Tensor of its loss and gradient norm."""
    s.optimizer.lr = lr = learning_rate(s.config, s.step, s.task.steps)
    tl.manual_seed(s.config.seed << 32 | s.step)  # of the step's dropout: see `accumulate`
    batches = [s.task.draw() for _ in range(s.config.grad_accumulation)]
    result = step(batches, [s.task.targets(batch) for batch in batches])
    s.step += 1
    return lr, result


def learning_rate(config: Settings, step: int, steps: int) -> float:
    """The rate after `step` of `steps` steps: a linear rise, then a cosine that reaches min_lr at the last step."""
    warmup = min(100, steps // 10) if config.warmup is None else config.warmup
    min_lr = config.peak_lr * config.lowest if config.min_lr is None else config.min_lr
    return optim.warmup_cosine(step, lr=config.peak_lr, min_lr=min_lr, warmup=warmup, total=steps)


# ----- the results of steps ---------------------------------------------------------------------------------------


def record(s: Session, show: Progress, results: Sequence[StepResult], evaluation_due: bool = False) -> None:
    """Append a line to metrics.jsonl for each step; with `evaluation_due`, evaluate and add that to the last line.

    FloatingPointError where the last step of training leaves weights that cannot be used.
    """
    if not results:
        return
    lines = [metrics_of(s, show, result) for result in results]
    last = s.step == s.task.steps
    problem = why_unusable(s) if last else None
    if evaluation_due and not problem:
        lines[-1] |= (figures := evaluate(s, show, results[-1].lr))
        if last or out_of_patience(s):
            last, problem = True, why_unusable(s)
            if not math.isfinite(figures["validation_loss"]):
                problem = f"the validation loss is {figures['validation_loss']}"
    for line in lines:
        append_metrics(s, line)
    if problem:
        at = f"step {s.step}, the last one at lr {results[-1].lr:.1e}"
        raise FloatingPointError(f"{at}: {problem}: stopped. {advice(s)}")


def metrics_of(s: Session, show: Progress, result: StepResult) -> dict[str, Any]:
    """The step's line for metrics.jsonl. FloatingPointError where more than PATIENCE steps in a row were skipped."""
    step, lr, loss, norm, seconds = result
    if math.isfinite(loss) and math.isfinite(norm):
        s.skipped = 0
        show.step(step, loss, seconds)
        return {"step": step, "loss": loss, "norm": norm, "lr": lr}
    s.skipped += 1
    first = first_not_finite(s.model)
    what = f"step {step}: loss {loss}, gradient norm {norm} at lr {lr:.1e}; first not finite: {first}"
    if s.skipped > PATIENCE:
        raise FloatingPointError(f"{what}; that was {s.skipped} steps in a row: stopped. {advice(s)}")
    show.say(f"{what}; step skipped")
    return {"step": step, "loss": None, "norm": None, "lr": lr}


def evaluate(s: Session, show: Progress, lr: float) -> dict[str, float]:
    """Evaluate the model, show the result, and keep the validation loss if it is the lowest so far."""
    figures = s.task.evaluate(s.model)
    lower = figures["validation_loss"] < s.best[0]
    s.best, s.worse = ((figures["validation_loss"], s.step), 0) if lower else (s.best, s.worse + 1)
    show.evaluated(s.step, figures, lr)
    return figures


def why_unusable(s: Session) -> str | None:
    """Why the weights of the last step cannot be used; None if they can."""
    if s.skipped:
        return "it was skipped, because its loss or gradient is not finite"
    return None if is_finite(s.model) else "the weights are not finite"


def advice(s: Session) -> str:
    """The advice where training stops because numbers are not finite."""
    return f"A lower lr may help; the checkpoint of step {s.saved} is kept in {s.run}"
