"""The state that a training step depends on: created, saved in checkpoints, resumed.

Nothing outside a Session, and so outside its checkpoint, influences a step: a run that was killed
and resumed ends with the same bytes as an uninterrupted one. The Task defines what is trained.
"""

import itertools
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import tensorlite as tl
from tensorlite import backend, io, nn, optim

from .. import jsonfile, system
from .. import tokenizer as tokenizers
from ..fingerprint import fingerprint
from ..model import GPT
from . import checkpoint, machine, open_run, run_directory, weights
from .finite import is_finite
from .settings import Settings
from .task import Say, Task

Config = TypeVar("Config", bound=Settings)
KEPT_BYTES = 200_000_000  # of the checkpoints that a run keeps by default


@dataclass
class Session:
    """A run between two steps."""

    run: Path
    config: Settings
    description: dict[str, Any]  # config.json: the settings, the model, the data, and the machine and versions
    tokenizer: tokenizers.Tokenizer
    model: nn.Module
    optimizer: optim.AdamW
    task: Task  # what is trained, and its position in the data; dropout is drawn by seed and step
    step: int = 0  # steps done
    skipped: int = 0  # number of the last steps in a row that were skipped
    best: tuple[float, int] = (math.inf, 0)  # lowest validation loss, and its step
    worse: int = 0  # evaluations since then
    saved: int = -1  # the step of the newest checkpoint


def files(task: type[Task]) -> tuple[str, ...]:
    """The names of all files that a run of the task writes into its directory."""
    return (*run_directory.RUN, *task.files, *task.results)


def written_by(task: type[Task], description: Mapping[str, Any]) -> list[str]:
    """The data files of this run: those whose SHA-256 the description has. A prepared text is not copied into a run."""
    return [name for name in task.files if "sha256" in description["data"][Path(name).stem]]


def directory(config: Settings, task: type[Task]) -> Path:
    """The directory of the run; without `out`, runs/ and the settings' name, with a number if that is taken."""
    if given := config.resume or config.out:
        return open_run.real_path(given)
    first = open_run.real_path(Path("runs") / config.name())
    if config.overwrite or config.resume_if_exists:
        return first
    others = (first.with_name(f"{first.name}-{number}") for number in itertools.count(2))
    return next(run for run in itertools.chain([first], others) if open_run.is_free(run, files(task)))


def continued(config: Settings, task: type[Task]) -> Settings:
    """`config`, or the settings to resume an existing run if `config` has resume_if_exists."""
    if not config.resume_if_exists or not run_directory.is_run(run := directory(config, task)):
        return config
    threads = config.threads or settings(run, type(config)).threads
    return replace(config, resume=run, out=None, resume_if_exists=False, threads=threads)


def begin(task: type[Task], config: Settings, run: Path, say: Say) -> Session:
    """A new run: data into its directory, and the weights to start from."""
    tl.manual_seed(config.seed)  # for the weights
    device = backend.use_device(config.device)
    tokenizer, model, found = task.begin(config, run, say)
    if "texts" not in found:
        texts = [{"path": str(path), **fingerprint(path)} for path in config.reads() if path.is_file()]
        found = {**found, "texts": texts}
    for name in written_by(task, found):
        system.sync(run / name)
    if config.lr is None:
        config = replace(config, lr=config.default_lr(model.config.n_embd))
    config = replace(config, keep=config.keep or default_keep(model.num_parameters()))
    model.to(device).train()  # a task may have loaded it in evaluation mode
    set_activation_checkpointing(model, config.activation_checkpointing)
    description = {
        "format": "gpt.run",
        "version": checkpoint.VERSION,
        "task": config.task,
        "model": model.config.to_dict(),
        "training": config.to_dict(),
        **found,
        "made_with": machine.made_with(device),
    }
    trained = task(config, run, tokenizer, description)
    return Session(run, config, description, tokenizer, model, make_optimizer(model, config), trained)


def make_optimizer(model: nn.Module, config: Settings) -> optim.AdamW:
    """AdamW with weight decay on matrices and embeddings only, not on biases and norms."""
    groups = optim.decay_groups((p for p in model.parameters() if p.requires_grad), config.weight_decay)
    return optim.AdamW(groups, lr=config.peak_lr, betas=(config.beta1, config.beta2))


def default_keep(parameters: int) -> int:
    """How many checkpoints of a model are kept: as many as 200 MB hold, from 2 to 12.

    A parameter takes 12 bytes: float32, and AdamW's two averages.
    """
    return min(12, max(2, KEPT_BYTES // (12 * parameters)))


def set_activation_checkpointing(model: nn.Module, on: bool) -> None:
    """Switch activation checkpointing of the model's GPT on or off: blocks are computed again in the backward pass."""
    for module in model.modules():
        if isinstance(module, GPT):
            module.activation_checkpointing = on


# ----- saving and resuming -----------------------------------------------------------------------------------------


def save(s: Session) -> None:
    """Write a checkpoint, unless the last step was skipped or weights are not finite, so that good ones are kept."""
    if s.skipped or not is_finite(s.model):
        return
    state = {
        "best": s.best,
        "worse": s.worse,
        **s.task.state_dict(),
    }
    checkpoint.save(
        s.run, s.step, config=s.description, tokenizer=s.tokenizer, model=s.model, optimizer=s.optimizer, state=state,
        keep=s.config.keep or default_keep(s.model.num_parameters()), best=s.best[1] if s.config.keep_best else None,
    )  # fmt: skip
    s.saved = s.step


def out_of_patience(s: Session) -> bool:
    """Whether `patience` evaluations in a row had no lower validation loss."""
    return s.config.patience is not None and s.worse >= s.config.patience


def commit(s: Session, task: type[Task], place: open_run.Place) -> None:
    """Called when the first checkpoint of a new run is complete: the new run replaces an older one of that name."""
    if place.folder == place.run:
        place.commit()
        return
    state = s.task.state_dict()
    del s.task  # it has files open, which Windows cannot rename
    place.commit()
    s.run = place.run
    s.task = task(s.config, s.run, s.tokenizer, s.description)
    s.task.load_state_dict(state)


def resume(task: type[Task], config: Settings, run: Path, say: Say, unless_finished: bool = False) -> Session | None:
    """The run at its newest intact checkpoint, with the settings of `config`.

    On another device than before, batches are the same and numbers equal up to rounding, and dropout draws from another
    stream. With `unless_finished`, None for a run that has done all of its steps, or was ended by `patience`, and whose
    final evaluation exists; nothing is changed then.
    """
    found, problems = checkpoint.newest(run)
    description = checkpoint.read_config(found.folder / "config.json")
    checkpoint.check_task(run, description, config.task)
    if config.lr is None:
        config = replace(config, lr=description["training"]["lr"])
    if config.keep is None:
        config = replace(config, keep=description["training"]["keep"])
    device = backend.use_device(config.device)
    changes = allowed_changes(run, description, config, machine.made_with(device))
    problems += changed_texts(description)
    for path in (run / name for name in written_by(task, description)):
        written = {key: description["data"][path.stem][key] for key in ("bytes", "sha256")}
        if not run_directory.exists(path):
            raise ValueError(f"{path} is missing: the run cannot continue without it, start another run or put it back")
        if fingerprint(path) != written:
            raise ValueError(f"{path} is not the file that the run was started with: it is damaged, start another run")
    check_sizes(found.folder, description, config)
    model = task.rebuild(config, description).to(device)
    set_activation_checkpointing(model, config.activation_checkpointing)
    optimizer = make_optimizer(model, config)
    description |= {
        "model": model.config.to_dict(),
        "training": config.to_dict(),
        "made_with": machine.made_with(device),
    }
    tokenizer = tokenizers.load(found.folder / "tokenizer.json")
    trained = task(config, run, tokenizer, description)
    if unless_finished and is_finished(run, found, config, trained.steps):
        return None
    if trained.steps < found.step:
        raise ValueError(f"steps cannot be {trained.steps}: {run} has done {found.step} steps already")
    keep = config.keep or default_keep(model.num_parameters())
    state = checkpoint.restore(run, found, model, optimizer, keep, config.keep_best)
    problems += checkpoint.cut_logs(run, found, say)
    s = Session(run, config, description, tokenizer, model, optimizer, trained)
    s.step = s.saved = found.step
    s.best, s.worse = tuple(state["best"]), state.get("worse", 0)  # a run of gpt 0.1 has no "worse"
    s.task.load_state_dict(state)
    from_now = [f"{line}, from step {s.step} on" if line.startswith("changed") else line for line in changes]
    for line in (*(f"warning: {problem}" for problem in problems), f"resumed    {run} after step {s.step}", *from_now):
        say(line)
    return s


def is_finished(run: Path, newest: checkpoint.Checkpoint, config: Settings, steps: int) -> bool:
    """Whether nothing is left to do: the final evaluation exists, and the steps are done or `patience` ended them."""
    finished = run_directory.finished(run) or 0
    if config.patience is None or finished != newest.step:
        return min(newest.step, finished) >= steps
    state = jsonfile.parse(io.metadata(newest.folder / "training.safetensors")["training"])
    worse: int = state.get("worse", 0)
    return newest.step >= steps or worse >= config.patience


def settings(run: Path, kind: type[Config]) -> Config:
    """The settings that a run was started with, to resume it."""
    found, _ = checkpoint.newest(run, ["config.json"])  # `resume` says what is damaged
    description = checkpoint.read_config(found.folder / "config.json")
    checkpoint.check_task(run, description, kind.task)
    if "training" not in description:
        raise ValueError(f"{run} was imported, so it has no training to resume: start one from it with gpt finetune")
    return replace(kind.from_dict(description["training"]), resume=run)


def check_sizes(folder: Path, description: dict[str, Any], config: Settings) -> None:
    """ValueError, before a model is built, where the weights' file in `folder` cannot hold it."""
    path = folder / "model.safetensors"
    entries = io.entries(path)
    model = weights.config_of(description, entries, path)
    if (built := config.model_to_resume(model)) != model:
        weights.config_of({"model": built.to_dict()}, entries, path)


def allowed_changes(run: Path, description: dict[str, Any], config: Settings, now: dict[str, str]) -> list[str]:
    """One line for each changed setting; ValueError for settings that a started run cannot change."""
    lines = []
    begun = (
        type(config).from_dict(description["training"]).to_dict()
    )  # a setting that is newer than the run has its default
    for name, after in config.to_dict().items():
        before, flag = begun[name], "--from" if name == "base" and config.task == "pretrain" else name
        if name in ("text", "data", "base") and before and after and _places(before) == _places(after):
            continue  # the same files by other paths
        if before != after and name in config.fixed:
            begun_with = f"without {flag}" if before is None else f"with {flag} {before!r}"
            raise ValueError(f"{run} was started {begun_with} and cannot continue with {after!r}: start another run")
        if before != after:
            lines.append(f"changed    {flag} from {before} to {after}")
    then = {"device": "cpu", "processes": "1", **description["made_with"]}
    for name, after in {"processes": "1", **now}.items():
        if (before := then.get(name, after)) != after:
            lines.append(
                f"warning: {name} was {before} and is {after}: the last bits may differ from an unbroken run's"
            )
    return lines


def _places(paths: str | list[str]) -> list[str]:
    """The paths of a setting, resolved."""
    return [os.path.realpath(path) for path in ([paths] if isinstance(paths, str) else paths)]


def changed_texts(description: dict[str, Any]) -> list[str]:
    """A sentence for each text that has changed since the run was started; deleted texts are not needed."""
    changed = []
    try:
        texts = [(Path(text["path"]), {key: text[key] for key in ("bytes", "sha256")}) for text in description["texts"]]
    except KeyError:
        return []  # an older gpt's run
    except TypeError as error:
        raise ValueError(f"config.json does not list the texts in gpt's format: {error}") from None
    for path, written in texts:
        if path.is_file() and (path.stat().st_size != written["bytes"] or fingerprint(path) != written):
            changed.append(f"{path} has changed since the run was started; the run keeps its own copy")
    return changed
