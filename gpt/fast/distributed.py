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
from dataclasses import asdict, replace
from functools import partial
from math import gcd
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

import tensorlite as tl
from tensorlite import Tensor, backend, distributed, nn
from tensorlite.accelerate.reduce import Reducer
from tensorlite.devices import gpu, machine
from tensorlite.devices.heartbeat import Heartbeat, supported
from tensorlite.distributed import World

from .. import tokenizer as tokenizers
from ..console import bytes_text, counted
from ..fingerprint import fingerprint
from ..training import checkpoint, loop
from ..training import machine as plain
from ..training.loop import Result, StepResult, Steps, update
from ..training.session import Session, make_optimizer, set_activation_checkpointing
from ..training.settings import Settings, command_of
from ..training.signals import stop, stop_signals
from ..training.step import train_step
from ..training.task import Task
from .recorded_step import RecordedStep

BEGIN, STEP, GATHER, END = range(4)  # the commands of process 0

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
    if distributed.joined() is None and distributed.launched()[1] == 1:
        return loop.train(config, console, task, begun)
    world = distributed.join()
    with Team(world, config) as _team:
        try:
            if world.rank:
                return follow(_team, task)
            return lead(_team, console, task, begun)
        finally:
            _team = None


# ----- which process computes what --------------------------------------------------------------------------------


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
        near = [n for n in fitting if n < size][-2:] + [n for n in fitting if n > size][:2]
        raise ValueError(
            f"{size} processes cannot share {counted(passes, 'pass').replace('passs', 'passes')} of "
            f"{counted(rows, 'sequence')} equally: start {' or '.join(map(str, near))} processes, or set "
            f"--grad-accumulation or --batch-size to a multiple of {size}"
        )
    each = passes // groups
    return Share(range(rank // parts * each, (rank // parts + 1) * each), rank % parts, parts)


def check_dropout(model: Any, share: Share, processes: int) -> None:
    """ValueError where the rows of one pass are divided although a dropout mask is drawn for all of them."""
    c = model.config
    p = max(c.embedding_dropout, c.attention_dropout, c.residual_dropout)
    if share.parts > 1 and p:
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


# ----- the processes ----------------------------------------------------------------------------------------------


class Team:
    """The processes of a run: their agreement at the start, their settings, and process 0's commands."""

    def __init__(self, world: World, config: Settings):
        self.world, self.run = world, str(config.out or config.resume or "")
        self.busy = False  # in a step, where the others wait for this process
        self.steps, self.sent = 0, 0.0  # made together, and the bytes that this process sent for them
        self.config = config
        self.about = found = world.collect(about(world, config))
        self.problems = differences(found)
        try:
            self.share = share_of(world.rank, world.size, config)
            self.config = replace(
                config, device=own_device(world, config.device), threads=own_threads(found, world, config)
            )
        except (ValueError, RuntimeError) as error:
            self.problems.append(str(error))
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
        found += [f"warning: {note}" for note in notes(self.about)]
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
        return f"; go on with {command_of(self.config.task)} --resume {self.run}" if self.run else ""

    def die(self, sentence: str) -> None:
        """End all processes at once: the checkpoints are complete whenever that happens."""
        print(f"gpt: {sentence}", file=sys.stderr, flush=True)
        self.world.abort()
        os._exit(1)


def about(world: World, config: Settings) -> dict[str, Any]:
    """What has to be equal in all processes, and where this one is."""
    made = plain.made_with("cpu")
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return {
        "host": world.mpi.Get_processor_name(),
        "pid": os.getpid(),
        "version": made["tensorlite"],
        "settings": {name: str(value) for name, value in asdict(config).items()} | {"task": config.task},
        "files": {str(path): fingerprint(path) for path in config.reads() if path.is_file()},
        "noted": {
            name: made.get(name, "") for name in ("python", "numpy", "machine", "instructions", "numba", "oneDNN")
        },
        "cores": cores,
    }


def differences(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each process whose version, settings or files are not those of process 0."""
    first, problems = found[0], []
    for rank, other in enumerate(found):
        who = f"process {rank} on {other['host']}"
        if other["version"] != first["version"]:
            problems.append(
                f"{who} has tensorlite {other['version']}, and process 0 has {first['version']}: install one version "
                "on all hosts"
            )
        changed = [name for name, value in other["settings"].items() if first["settings"].get(name) != value]
        if changed:
            given = ", ".join(f"{name} {other['settings'][name]}" for name in changed)
            own = ", ".join(f"{name} {first['settings'].get(name)}" for name in changed)
            problems.append(
                f"{who} was started with {given}, and process 0 with {own}: start all with the same command line"
            )
        for path, written in other["files"].items():
            if first["files"].get(path, written) != written:
                problems.append(f"{who} reads another {path} than process 0: copy one of them to all hosts")
    return problems


def notes(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each difference that may change last bits only."""
    return [
        f"process {rank} on {other['host']} has {name} {value}, process 0 has {found[0]['noted'][name]}: the last bits "
        "may differ"
        for rank, other in enumerate(found)
        for name, value in other["noted"].items()
        if value != found[0]["noted"][name]
    ]


def own_device(world: World, device: str) -> str:
    """This process' device: on a host with GPUs, each process has its own. ValueError where they are too few."""
    if backend.use_device(device) == "cpu":
        return "cpu"
    count = gpu.count()
    if device not in ("auto", "cuda") or world.local_size > count:
        raise ValueError(
            f"{world.local_size} processes on this host need a GPU each, and it has {count}: start at most {count} on "
            "a host and omit --device, or give --device cpu"
        )
    return f"cuda:{world.local_rank}"


def own_threads(found: Sequence[Mapping[str, Any]], world: World, config: Settings) -> int | None:
    """The threads of this process: those that the user gave, or its share of the cores that it may use."""
    if config.resume is not None and config.threads is not None:
        then = recorded(config.resume)
        if (config.threads, world.size) != (then["threads"], then["processes"]) and config.threads == then["threads"]:
            config = replace(config, threads=None)  # recorded by another number of processes
    if config.threads is not None or machine.given_threads():
        return config.threads
    sharing = sum(
        world.local_size > 1 and x["cores"] == found[world.rank]["cores"]
        for x in found
        if x["host"] == found[world.rank]["host"]
    )
    return max(1, machine.usable_cores() // max(1, sharing))


def recorded(run: Path) -> dict[str, int | None]:
    """The threads and processes that a run was trained with last."""
    newest, _ = checkpoint.newest(run, ["config.json"])
    description = checkpoint.read_config(newest.folder / "config.json")
    processes = int(description.get("made_with", {}).get("processes", "1"))
    return {"threads": description.get("training", {}).get("threads"), "processes": processes}


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
        recorded = s.config.device != "cpu" and s.config.cuda_graph
        self.step: loop.Step = RecordedStep(step, s.model, s.optimizer, say) if recorded else step

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
        tl.default_generator.jump(passes - 1)  # as one process leaves it
        mean = zero.reshape(())
        for i in range(passes):  # in the order of one process
            mean = mean + found[i]
        return mean


class LedSteps:
    """Process 0's steps: each begins with a command to the others. See `loop.Steps`."""

    def __init__(self, s: Session, team: Team, say: Callable[[str], None]):
        begin(s, team)
        self.team, self.inner = team, steps(s, team, say)

    def next(self, read: bool) -> list[StepResult]:
        team, before = self.team, self.team.world.sent()
        team.command(STEP)
        team.busy = True
        results = self.inner.next(read)
        team.busy = False
        team.steps, team.sent = team.steps + 1, team.sent + team.world.sent() - before
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
            "task": s.task.state_dict(), "optimizer": list(s.optimizer.state_dict()["steps"]),
        }
    )  # fmt: skip
    if problems := [text for text in team.world.collect("") if text]:
        raise ValueError("; ".join(problems))
    share_state(s, team.world)


def share_state(s: Session, world: World) -> None:
    """Weights and, after the first step, the optimizer's averages: those of process 0, in all."""
    for tensor in s.model.state_dict().values():
        world.broadcast(tensor.data)
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
    """The session of process 0 in another process; None after process 0 was told what is missing."""
    found = team.world.share()
    run, description = found["run"], found["description"]
    team.run = str(run)
    config = replace(found["config"], device=team.config.device, threads=team.config.threads)
    kind = task or pkgutil.resolve_name(config.task_class)
    who = team.name(team.world.rank)
    problem = ""
    for path in (run / name for name in kind.files):
        written = {key: description["data"][path.stem][key] for key in ("bytes", "sha256")}
        if not path.is_file():
            problem = f"{who} does not see {path}: the run's directory must be on a disk that all hosts share"
        elif fingerprint(path) != written:
            problem = (
                f"{who} sees another {path} than process 0: the run's directory must be on a disk that all hosts share"
            )
    if any(team.world.collect(problem)):
        return None
    config, _ = plain.prepare(config)
    model = kind.rebuild(config, description).to(config.device)
    set_activation_checkpointing(model, config.activation_checkpointing)
    tokenizer = tokenizers.load(run / "tokenizer.json")
    s = Session(
        run,
        config,
        description,
        tokenizer,
        model,
        make_optimizer(model, config),
        kind(config, run, tokenizer, description),
    )
    s.step = found["step"]
    s.task.load_state_dict(found["task"])
    s.optimizer.load_state_dict({**s.optimizer.state_dict(), "steps": found["optimizer"]})
    share_state(s, team.world)
    return s
