"""The training loop: one for all tasks, read from top to bottom.

One idea: looking changes nothing. Evaluations and samples use no random numbers of training's; so how often one looks
never decides what is trained, and what is trained depends on the Session alone. What a batch is, its loss and how one
looks at it is the Task's affair (task.py shows one).
"""

import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

import tensorlite as tl
from tensorlite import Tensor, backend, nn, optim
from tensorlite.devices import gpu, machine
from tensorlite.files import naming
from tensorlite.kernels import precision

from ..config import Settings, command_of
from ..model import GPT
from ..system import peak_memory
from ..tasks.pretrain import Pretraining
from . import run_directory, run_path
from .progress import Progress, open_screen, result_table, say
from .session import Session, begin, continued, directory, files, finite, move, recorded_threads, resume, save
from .step import Step
from .task import Task

PATIENCE = 3  # steps in a row that may be skipped because loss or gradient are not finite
LOOK_EVERY = 10  # steps on a GPU: what they came to is read together, since reading waits for the last of them


class Result(NamedTuple):
    """How training ended: where its files are, and which signal stopped it before its last step, if one did."""

    run: Path
    stopped_by: int | None


def train(config: Settings, console: Console | None = None, task: type[Task] = Pretraining) -> Result:
    """Train `task` as `config` says. The first SIGINT, SIGTERM or SIGHUP finishes the step and saves; a second leaves.

    ValueError or OSError, in one sentence, for settings, data and directories that do not do; FloatingPointError where
    loss or gradient stay nan or infinite; RuntimeError where another process trains there. Whatever ends a new run
    before its first checkpoint, its directory is as it was before.
    """
    console, again = console or open_screen(), config.resume_if_exists
    if config.resume:
        config = replace(config, resume=run_path.resolved(config.resume))
    config = continued(config, task)
    run, names = directory(config, task), files(task)
    threads = config.threads or recorded_threads(config) or machine.default_threads()
    device, about_threads = backend.use_device(config.device), machine.set_threads(threads)
    config = replace(config, threads=threads, device=device)
    with (
        stopping(at_once=True),
        started(run, config, task) if config.resume is None else run_path.resume(run, names) as place,
    ):
        run = place.run  # another one than it was where the name has been taken meanwhile

        def tell(line: str) -> None:
            say(console, place.folder / "log.txt", line)

        if config.resume is None:
            s: Session | None = begin(task, config, place.folder, tell)
            tell(f"run        {run}")
        else:
            s = resume(task, config, run, tell, unless_finished=again)
        if s is None:
            say(console, None, f"{run} has done all of its steps: there is nothing left to do")
            return Result(run, None)
        tell(f"threads    {about_threads}")
        tell(f"device     {about_device(device)}")
        compute_as(config, s.model, tell)
        with run_path.still_there(run):
            stopped_by = learn(s, task, place, console)
        if stopped_by is None:
            run_directory.finish(run, names, s.step)
    return Result(run, stopped_by)


@contextmanager
def started(run: Path, config: Settings, task: type[Task]) -> Iterator[run_path.Place]:
    """The place of a new run. Where the name was chosen and another process has just taken it, the next free one."""
    chosen = config.out is None and not config.overwrite and not config.resume_if_exists
    with ExitStack() as stack:
        while True:
            try:
                place = stack.enter_context(run_path.start(run, config.overwrite, files(task), config.reads()))
                break
            except (FileExistsError, RuntimeError):
                if not chosen or (free := directory(config, task)) == run:
                    raise
                run = free
        yield place


def learn(s: Session, task: type[Task], place: run_path.Place, console: Console) -> int | None:
    """All steps that are left, or until a signal, whose number is returned."""
    show = Progress(s.step, s.task.steps, s.task.per_step, s.task.unit, console, place.folder / "log.txt")
    with show, stopping() as signals:
        if s.saved < 0:  # a new run
            append_metrics(s, {"step": 0, **watch(s, show, lr=0.0)})
            save(s)
            move(s, task, place)
            show.log = s.run / "log.txt"
        config = s.config
        step = Step(s.task, s.model, s.optimizer, config)
        pending = PendingSteps(s, show, every=1 if config.device == "cpu" else LOOK_EVERY)
        while s.step < s.task.steps and not signals:
            pending.make(step)
            evaluate = s.step % config.eval_every == 0 or s.step == s.task.steps
            sample = config.sample_every and s.step % config.sample_every == 0 and s.step < s.task.steps
            checkpoint_due = s.step % config.checkpoint_every == 0
            if evaluate or sample or checkpoint_due or pending.full:
                pending.look(evaluate)
            if sample:
                append_sample(s, show.say)
            if checkpoint_due:
                save(s)
        pending.look()
        if step.graph.why_not:
            show.say(f"cuda graph off: {step.graph.why_not}")
        if s.saved != s.step:
            save(s)
    draw(s.run, show.say)  # before the last figures, which may take long
    if signals:
        again = f"{command_of(s.config.task)} --resume {s.run}"
        show.say(f"stopped after step {s.step}, saved step {s.saved}: go on with {again}")
        return signals[0]
    finish(s, show)
    return None


def draw(run: Path, tell: Callable[[str], None]) -> None:
    """loss.png; a picture that cannot be drawn or written is no reason to lose anything else."""
    from . import plots  # here and not above: matplotlib takes longer to load than all the rest

    try:
        plots.draw_run(run)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        tell(f"warning: {run / 'loss.png'} is not drawn, metrics.jsonl is damaged: {error}")
    except (OSError, MemoryError) as error:
        tell(f"warning: {run / 'loss.png'} is not drawn: {getattr(error, 'strerror', None) or error}")


def compute_as(config: Settings, model: nn.Module, tell: Callable[[str], None]) -> None:
    """The settings that say how a step is computed, and not what is learnt."""
    about = precision.set_matmul_dtype(config.dtype, config.device)
    if config.dtype != "float32":
        tell(f"dtype      {about}")
    for part in model.modules():
        if isinstance(part, GPT):
            part.activation_checkpointing = config.checkpoint_blocks


def about_device(device: str) -> str:
    """Where it computes, and why not on the GPU of a machine that seems to have one."""
    if device == "cpu":
        return "cpu" if not backend.driver_found() or not (why_not := backend.no_gpu()) else f"cpu: {why_not}"
    found = gpu.memory(device)
    room = f", {found[0] / 2**30:,.1f} of {found[1] / 2**30:,.1f} GiB free" if found else ""
    return f"{device}, {gpu.about_device(device)['device']}{room}"


# ----- a step -----------------------------------------------------------------------------------------------------


def update(s: Session, step: Step) -> tuple[float, Tensor]:
    """One step with the next batches: its learning rate, and its loss and norm, at which nobody has looked."""
    s.optimizer.lr = lr = learning_rate(s.config, s.step, s.task.steps)
    result = step([s.task.draw() for _ in range(s.config.grad_accumulation)])
    s.step += 1
    return lr, result


class PendingSteps:
    """Steps that were made, and not yet looked at: a look waits for a GPU, so there one is for several steps."""

    def __init__(self, s: Session, show: Progress, every: int):
        self.s, self.show, self.every = s, show, every
        self.steps: list[tuple[int, float, Tensor]] = []  # step, learning rate, loss and norm
        self.began = 0.0  # when the first of them did: what happens between looks and steps is not training

    @property
    def full(self) -> bool:
        return len(self.steps) >= self.every

    def make(self, step: Step) -> None:
        """One more."""
        if not self.steps:
            self.began = time.monotonic()
        lr, result = update(self.s, step)
        self.steps.append((self.s.step, lr, result))

    def look(self, evaluate: bool = False) -> None:
        """Their lines for metrics.jsonl, that of the last one with the figures of an evaluation.

        FloatingPointError where training is at its end with weights that are of no use.
        """
        found = [(step, lr, result.tolist()) for step, lr, result in self.steps]
        seconds = (time.monotonic() - self.began) / max(1, len(found))
        lines = [self.line(step, lr, loss, norm, seconds) for step, lr, (loss, norm) in found]
        self.steps = []
        ended = self.s.step == self.s.task.steps
        wrong = wrong_weights(self.s) if ended else None
        if evaluate and not wrong:
            figures = watch(self.s, self.show, lines[-1]["lr"])
            lines[-1] |= figures
            if ended and not math.isfinite(figures["validation_loss"]):
                wrong = f"the validation loss is {figures['validation_loss']}"
        for line in lines:
            append_metrics(self.s, line)
        if wrong:
            at = f" at lr {lines[-1]['lr']:.1e}" if lines else ""
            raise FloatingPointError(f"step {self.s.step}, the last one{at}: {wrong}: stopped. {kept(self.s)}")

    def line(self, step: int, lr: float, loss: float, norm: float, seconds: float) -> dict[str, Any]:
        """What came of a step; where it was skipped, that is said, and PATIENCE may end."""
        s = self.s
        if math.isfinite(loss) and math.isfinite(norm):
            s.skipped = 0
            self.show.step(step, loss, seconds)
            return {"step": step, "loss": loss, "norm": norm, "lr": lr}
        s.skipped += 1
        what = f"step {step}: loss {loss}, gradient norm {norm} at lr {lr:.1e}; first not finite: {first_bad(s.model)}"
        if s.skipped > PATIENCE:
            raise FloatingPointError(f"{what}; that was {s.skipped} steps in a row: stopped. {kept(s)}")
        self.show.say(f"{what}; step skipped")
        return {"step": step, "loss": None, "norm": None, "lr": lr}


def kept(s: Session) -> str:
    """What is said where training stops because numbers are not finite."""
    return f"A lower lr may help; the checkpoint of step {s.saved} is kept in {s.run}"


def wrong_weights(s: Session) -> str | None:
    """Why the weights of the last step are of no use; None where they are."""
    if s.skipped:
        return "it was skipped, because its loss or gradient is not finite"
    return None if finite(s.model) else "the weights are not finite"


def learning_rate(config: Settings, step: int, steps: int) -> float:
    """Of the step that follows `step` of `steps`: a linear rise, then a cosine to min_lr at the last step."""
    warmup = min(100, steps // 10) if config.warmup is None else config.warmup
    min_lr = config.peak_lr * config.lowest if config.min_lr is None else config.min_lr
    return optim.warmup_cosine(step, lr=config.peak_lr, min_lr=min_lr, warmup=warmup, total=steps)


def first_bad(model: nn.Module) -> str:
    """The first parameter that is not finite itself, or whose gradient is not."""
    for name, p in model.named_parameters():
        for what, tensor in (("the weight", p), ("the gradient of", p.grad)):
            if tensor is not None and not tl.isfinite(tensor).all().item():
                return f"{what} {name}"
    return "the loss"


@contextmanager
def stopping(at_once: bool = False) -> Iterator[list[int]]:
    """A list that the first signal to stop goes into. A second one raises SystemExit. Then all is as before.

    They are SIGINT, SIGTERM, SIGHUP, and SIGUSR1 and SIGXCPU, by which schedulers announce that the time is over. With
    `at_once` already the first one raises, and SIGINT is left alone. A SIGHUP that is ignored, as nohup does it, stays
    so, and so do the last two. Only Python's main thread may handle signals; in another one they are left alone.
    """
    received: list[int] = []

    def handle(number, frame):
        if at_once or received:
            raise SystemExit(128 + number)
        received.append(number)

    mine = [] if at_once else [signal.SIGINT]
    mine += [signal.SIGTERM]
    others = [getattr(signal, name) for name in ("SIGHUP", "SIGUSR1", "SIGXCPU") if hasattr(signal, name)]
    mine += [number for number in others if signal.getsignal(number) != signal.SIG_IGN]  # Windows has none of them
    if threading.current_thread() is not threading.main_thread():
        mine = []
    before = {number: signal.signal(number, handle) for number in mine}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ----- looking at it ----------------------------------------------------------------------------------------------


def watch(s: Session, show: Progress, lr: float) -> dict[str, float]:
    """The figures of an evaluation, shown; the validation loss is remembered if it is the best."""
    figures = s.task.evaluate(s.model)
    s.best = min(s.best, (figures["validation_loss"], s.step))
    show.evaluated(s.step, figures, lr)
    return figures


def append_sample(s: Session, show) -> None:
    """What the model can do as it stands; to samples.txt and to the screen."""
    try:
        text = s.task.sample(s.model, s.step)
    except FloatingPointError as error:  # the next steps are skipped, and after PATIENCE of them training stops
        text = f"(no sample: {error})"
    path = s.run / "samples.txt"
    with naming(path), open(path, "a", encoding="utf-8", newline="\n") as file:
        file.write(f"----- step {s.step}\n{text}\n\n")
    show(f"----- a sample at step {s.step}\n{text}\n-----")


def append_metrics(s: Session, line: dict[str, Any]) -> None:
    path = s.run / "metrics.jsonl"
    with naming(path), open(path, "a", encoding="utf-8", newline="\n") as file:
        file.write(json.dumps(line) + "\n")


def finish(s: Session, show: Progress) -> None:
    """The task's last figures, a last sample, and the table."""
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
        "peak memory": f"{peak_memory() / 2**20:,.0f} MiB",
        **memory_of_gpu(next(s.model.parameters()).device),
    }
    show.console.print(result_table(f"{s.run}", rows))


def memory_of_gpu(device: str) -> dict[str, str]:
    """A row for the table: how much of a GPU's memory is taken, by all programs together; none for the CPU."""
    known = None if device == "cpu" else gpu.memory(device)
    return {} if known is None else {"GPU memory taken": f"{(known[1] - known[0]) / 2**20:,.0f} MiB"}
