"""One training run by several processes, which mpiexec or srun has started with the same command line.

Process 0 runs the training loop (training/loop.py) as if it were alone: it opens the run, evaluates, samples, saves and
logs. The others follow it: they wait for a command, and make the same steps. Every process draws all batches of a step,
computes its share of them, and has the gradient of all of them when it updates its weights. So the number of processes
decides how a step is computed, not what is learnt.
"""

import os
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

import tensorlite as tl
from tensorlite import Tensor, distributed
from tensorlite.accelerate.reduce import Reducer
from tensorlite.devices import machine
from tensorlite.devices.heartbeat import Heartbeat, supported
from tensorlite.distributed import World

from .. import tokenizer as tokenizers
from ..console import bytes_text, counted, in_shell
from ..fingerprint import fingerprint
from ..training import loop
from ..training import machine as plain
from ..training.loop import Result, StepResult, Steps, update
from ..training.session import Session, make_optimizer, set_activation_checkpointing, written_by
from ..training.settings import Settings, check_settings, command_of
from ..training.signals import stop, stop_signals
from ..training.step import train_step
from ..training.task import Task
from . import agreement, attach_step
from .share import checked, share_of

BEGIN, STEP, GATHER, WEIGHTS, END = range(5)  # the commands of process 0

_team: "Team | None" = None  # of the run that this process trains now


def active() -> "Team | None":
    """The processes that train the present run together; None in a process that trains alone."""
    return _team


def train(
    config: Settings,
    console: Console | None = None,
    task: type[Task] | None = None,
    begun: Callable[[Path], object] = lambda run: None,
) -> Result:
    """`training.loop.train`, by all processes that were started together; `begun` is called in process 0.

    Process 0 raises the errors; where it does, the others raise SystemExit. ValueError also for settings that this
    number of processes cannot share, and for processes whose version, settings or files differ.
    """
    global _team
    check_settings(config)
    if distributed.joined() is None and distributed.launched()[1] == 1:
        if agreement.resumed(config, 1) != config:
            config = replace(config, threads=machine.default_threads())
        return loop.train(config, console, task, begun)
    attach_step()  # sets the hooks by which the loop's steps become those of all processes
    world = distributed.join()
    with Team(world, config) as _team:
        try:
            if world.rank:
                return follow(_team, task)
            return lead(_team, console, task, begun)
        finally:
            _team = None


# ----- the processes ----------------------------------------------------------------------------------------------


class Team:
    """The processes of a run: their agreement at the start, their settings, and process 0's commands."""

    def __init__(self, world: World, config: Settings):
        self.world, self.run = world, str(config.out or config.resume or "")
        self.busy = False  # in a step, where the others wait for this process
        self.steps, self.sent = 0, 0.0  # made together, and the bytes that this process sent for them
        self.config = config
        self.about = found = world.collect(agreement.about(world, config))
        self.problems = agreement.differences(found)
        try:
            self.share = share_of(world.rank, world.size, config)
            self.config = replace(
                config,
                device=agreement.own_device(world, config.device),
                threads=agreement.own_threads(found, world.rank, config),
            )
            if config.shard_optimizer and self.config.device != "cpu":
                raise ValueError("shard_optimizer is for processes on CPUs: omit it, or give --device cpu")
        except (ValueError, RuntimeError, OSError) as error:
            self.problems.append(str(error))
        self.mixed = bool(agreement.notes(found))
        self.problems = list(dict.fromkeys(text for each in world.collect(self.problems) for text in each))

    def __enter__(self) -> "Team":
        self.heartbeat = (
            Heartbeat(self.world, self.config.process_timeout, self.lost) if supported(self.world) else None
        )
        return self

    def __exit__(self, *_: object) -> None:
        if self.heartbeat:
            self.heartbeat.end()

    def lines(self) -> list[str]:
        """For the log: how many processes there are and what each computes."""
        w, c, share = self.world, self.config, self.share
        what = f"{len(share.passes)} of {c.grad_accumulation} passes"
        what += f", {c.batch_size // share.parts} of their {c.batch_size} sequences" if share.parts > 1 else ""
        found = [f"processes  {w.size} on {counted(w.hosts, 'host')}, each computes {what} of a step"]
        found += [f"warning: {note}" for note in agreement.notes(self.about)]
        if not self.heartbeat:
            found.append("warning: this MPI serves one thread: a process that hangs is not noticed")
        return found

    def table_rows(self) -> dict[str, str]:
        """For the table at the end of training."""
        sent = bytes_text(round(self.sent / max(1, self.steps)))
        return {"processes": f"{self.world.size}", "sent by each per step": sent}

    def command(self, number: int) -> None:
        """Process 0: tell the others what is done next."""
        if (received := self.world.noticed()) is not None:
            stop(received)
        self.world.share_number(number)

    def lost(self, rank: int, seconds: float) -> None:
        """End all processes because one has stopped. Called in the thread of the heartbeat."""
        who = f"{self.name(rank)} (process id {self.about[rank]['pid']})"
        self.die(f"{who} has not answered for {seconds:.0f} seconds: all processes are ended{self.advice()}")

    def name(self, rank: int) -> str:
        """A process and its host, for messages."""
        return f"process {rank} on {self.about[rank]['host']}"

    def advice(self) -> str:
        """How to go on."""
        return f"; go on with {command_of(self.config.task)} --resume {in_shell(self.run)}" if self.run else ""

    def die(self, sentence: str) -> None:
        """End all processes at once: the checkpoints are complete whenever that happens."""
        print(f"gpt: {sentence}", file=sys.stderr, flush=True)
        self.world.abort()
        os._exit(1)


# ----- a step -----------------------------------------------------------------------------------------------------


class SharedStep:
    """A step of the session by all processes: called with all batches, in all of them. See `loop.Step`."""

    def __init__(self, s: Session, team: Team, say: Callable[[str], None]):
        self.s, self.world, self.share = s, team.world, team.share
        self.reducer = Reducer(team.world, s.optimizer)
        if s.config.shard_optimizer:
            from tensorlite.accelerate.shard import shard

            shard(self.reducer, partial(team.command, GATHER))
        step = partial(train_step, s.task, s.model, s.optimizer, clip=s.config.clip, gradients=self.accumulate)
        self.step: loop.Step = step
        if s.config.device != "cpu" and s.config.cuda_graph:
            from .recorded_step import RecordedStep

            self.step = RecordedStep(step, s.model, s.optimizer, say)

    def __call__(self, batches: Sequence[Any], counts: Sequence[int]) -> Tensor:
        own = [self.share.rows(batches[i]) for i in self.share.passes]
        mine = (
            [self.s.task.targets(batch) for batch in own]
            if self.share.parts > 1
            else [counts[i] for i in self.share.passes]
        )
        return self.step(own, (*mine, sum(counts)))

    def accumulate(self, task: Task, model: Any, batches: Sequence[Any], counts: Sequence[int]) -> Tensor:
        """`step.accumulate` for this process' share; the gradients and the loss are those of all of them."""
        *own, total = counts
        passes, zero = self.s.config.grad_accumulation, tl.zeros(1, tl.float64, next(model.parameters()).device)
        losses = [zero] * passes
        for i, batch, count in zip(self.share.passes, batches, own, strict=True):
            tl.default_generator.jump(i)
            loss = task.loss(model, batch) * (count / total) if count else None
            if i == self.share.passes[-1] and total:
                self.reducer.backward(loss)
            elif loss is not None:
                loss.backward()
            if loss is not None:
                losses[i] = loss.detach().reshape(1).astype(tl.float64)
        found = tl.concatenate(losses)
        self.world.all_reduce(found.data)
        mean = zero.reshape(())
        for i in range(passes):  # in the order of one process
            mean = mean + found[i]
        return mean


class LedSteps:
    """Process 0's steps: each begins with a command to the others. See `loop.Steps`."""

    def __init__(self, s: Session, team: Team, say: Callable[[str], None]):
        begin(s, team)
        self.s, self.team, self.inner = s, team, steps(s, team, say)

    def next(self, read: bool) -> list[StepResult]:
        team, before = self.team, self.team.world.sent()
        team.command(STEP)
        team.busy = True
        results = self.inner.next(read)
        team.busy = False
        team.steps, team.sent = team.steps + 1, team.sent + team.world.sent() - before
        if read and team.mixed:
            team.command(WEIGHTS)
            share_weights(self.s, team.world)
        return results

    def rest(self) -> list[StepResult]:
        return self.inner.rest()


def steps(s: Session, team: Team, say: Callable[[str], None]) -> Steps:
    """On the CPU each step's results are read at once, on a GPU several together."""
    if s.config.device == "cpu":
        return loop.PlainSteps(s, say, SharedStep(s, team, say))
    from .pending import PendingSteps

    return PendingSteps(s, say, SharedStep(s, team, say))


# ----- process 0 and the others -----------------------------------------------------------------------------------


def lead(team: Team, console: Console | None, task: type[Task] | None, begun: Callable[[Path], object]) -> Result:
    """Process 0: the training loop. However it ends, the others learn of it."""
    status: Any = 1
    try:
        if team.problems:
            raise ValueError("; ".join(team.problems))
        kind = task or pkgutil.resolve_name(team.config.task_class)
        result = loop.train(team.config, console, checked(kind, team.share, team.world.size), begun)
        status = result
        return result
    except BaseException as error:
        if team.busy:  # the others wait for a result that will not come
            team.die(f"process 0: {type(error).__name__}: {error}{team.advice()}")
        raise
    finally:
        team.world.share_number(END)
        team.world.share(status)


def begin(s: Session, team: Team) -> None:
    """Process 0: give the others its session. ValueError where one of them does not see the files of the run."""
    team.run = str(s.run)
    team.command(BEGIN)
    team.world.share(
        {
            "run": Path(os.path.abspath(s.run)), "config": s.config, "description": s.description, "step": s.step,
            "task": s.task.state_dict(), "optimizer": s.optimizer.state_dict()["steps"],
        }
    )  # fmt: skip
    if problems := [text for text in team.world.collect("") if text]:
        raise ValueError("; ".join(problems))
    share_state(s, team.world)


def share_weights(s: Session, world: World) -> None:
    """The weights of process 0, in all. (Where machines differ, each rounds its updates in its own way.)"""
    for tensor in s.model.state_dict().values():
        world.broadcast(tensor.data)


def share_state(s: Session, world: World) -> None:
    """Weights and, after the first step, the optimizer's averages: those of process 0, in all."""
    share_weights(s, world)
    if s.step:
        for tensor in s.optimizer.state_dict()["tensors"].values():
            world.broadcast(tensor.data)


def follow(team: Team, task: type[Task] | None) -> Result:
    """Every other process: do what process 0 commands, until it ends. SystemExit where process 0 has failed."""
    s: Session | None = None
    told = False
    step: loop.Step
    with stop_signals() as signals, dying(team):
        while (command := team.world.share_number()) != END:
            if command == BEGIN:
                if (s := build(team, task)) is not None:
                    step = SharedStep(s, team, lambda line: None)
            elif command == STEP and s is not None:
                update(s, step)
            elif command == WEIGHTS and s is not None:
                share_weights(s, team.world)
            elif command == GATHER and s is not None:
                s.optimizer._storage.gather()  # type: ignore[attr-defined]
            if signals and not told:
                told = True
                team.world.notify(signals[0])
        result = team.world.share()
    if not isinstance(result, Result):
        raise SystemExit(1)
    return result


@contextmanager
def dying(team: Team) -> Iterator[None]:
    """An error in the block ends all processes, with one sentence."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, SystemExit):  # of a second signal
            error = KeyboardInterrupt("ended by a signal")
        team.die(f"{team.name(team.world.rank)}: {type(error).__name__}: {error}{team.advice()}")
        raise


def build(team: Team, task: type[Task] | None) -> Session | None:
    """The session of process 0 in another process; None where a file is missing, which process 0 reports."""
    found = team.world.share()
    run, description = found["run"], found["description"]
    team.run = str(run)
    config = replace(found["config"], device=team.config.device, threads=team.config.threads)
    kind = task or pkgutil.resolve_name(config.task_class)
    problem, tokenizer, trained = "", None, None
    try:
        check_files(run, written_by(kind, description), description)
        tokenizer = tokenizers.load(run / "tokenizer.json")
        trained = kind(config, run, tokenizer, description)  # opens its data
    except (OSError, ValueError) as error:
        problem = f"{team.name(team.world.rank)}: {error}: the run and its data must be on a disk that all hosts share"
    if any(team.world.collect(problem)) or tokenizer is None or trained is None:
        return None
    config, _ = plain.prepare(config)
    model = kind.rebuild(config, description).to(config.device)
    set_activation_checkpointing(model, config.activation_checkpointing)
    s = Session(run, config, description, tokenizer, model, make_optimizer(model, config), trained, found["step"])
    s.task.load_state_dict(found["task"])
    s.optimizer.load_state_dict({**s.optimizer.state_dict(), "steps": found["optimizer"]})
    share_state(s, team.world)
    return s


def check_files(run: Path, names: Sequence[str], description: Mapping[str, Any]) -> None:
    """FileNotFoundError or ValueError where this process does not see the run's data files of process 0."""
    for path in (run / name for name in names):
        written = {key: description["data"][path.stem][key] for key in ("bytes", "sha256")}
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing")
        if fingerprint(path) != written:
            raise ValueError(f"{path} is not that of process 0")
