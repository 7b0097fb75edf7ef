"""A run is a directory that a person can look into, and that survives being killed at any moment.

    RUN/config.json  tokenizer.json  model.safetensors  training.safetensors    the newest checkpoint's own files
    RUN/metrics.jsonl  samples.txt  log.txt                                     grow line by line
    RUN/train.tokens  validation.tokens                                         the text, as token ids
    RUN/train.jsonl  validation.jsonl  test.jsonl                               or the entries, where a run has those
    RUN/loss.png                                                                drawn when training ends
    RUN/report.json  report.png  responses.json  adapter.safetensors            what fine-tuning came to
    RUN/checkpoints/step_00000300/                                              whole checkpoints, manifest.json in each

One idea: **a checkpoint is there or it is not.** It is written to `step_N.tmp`, every file flushed to the disk, the
manifest with their sizes and SHA-256 last; one rename makes it real; the files above are hard links to it; and only
then an older one is deleted. Reading starts from the newest whose every byte agrees with its manifest. The same
training writes the same bytes: times are in log.txt alone. What it refuses: pickles, and to repair.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import tensorlite as tl
from tensorlite import io, nn
from tensorlite.optim import Optimizer

from . import jsonfile, lora, system, weights
from . import tokenizer as tokenizers
from .config import command_of
from .model import GPT
from .system import sync

VERSION = 1
FILES = ("config.json", "tokenizer.json", "model.safetensors", "training.safetensors")
LOGS = ("metrics.jsonl", "samples.txt")  # a checkpoint knows how long they were, and what they said
OTHERS = ("log.txt", "train.tokens", "validation.tokens", "loss.png", "lock", "checkpoints")
ENTRIES = (  # of fine-tuning
    "train.jsonl", "validation.jsonl", "test.jsonl", "report.json", "report.png", "responses.json",
    "adapter.safetensors",
)  # fmt: skip


class Checkpoint(NamedTuple):
    """A checkpoint that was verified, byte by byte."""

    folder: Path
    step: int
    logs: Mapping[str, int]  # the length in bytes that each log had


# ----- the directory ----------------------------------------------------------------------------------------------


def is_run(path: Path) -> bool:
    """True for a directory where a checkpoint was completed."""
    return any(_folders(path))


def create(run: Path, overwrite: bool = False) -> None:
    """Make the directory of a new run, or take one that is empty or was left before its first checkpoint.

    NotADirectoryError where `run` is a file; FileExistsError where it has files that no run writes, or, unless
    `overwrite`, a checkpoint.
    """
    if run.exists() and not run.is_dir():
        raise NotADirectoryError(f"{run} is a file: name a directory for the run")
    run.mkdir(parents=True, exist_ok=True)
    if is_run(run) and not overwrite:
        raise FileExistsError(f"{run} has a run already: continue it with --resume {run}, or give --overwrite")
    names = {path.name for path in run.iterdir() if path.suffix != ".tmp"}
    foreign = sorted(names - {*FILES, *LOGS, *OTHERS, *ENTRIES})
    if foreign:
        raise FileExistsError(f"{run} has files that are no run's, such as {foreign[0]}: name another directory")


def clear(run: Path) -> None:
    """Delete a run's files from its directory, and no others."""
    shutil.rmtree(run / "checkpoints", ignore_errors=not (run / "checkpoints").exists())
    for name in (*FILES, *LOGS, *OTHERS, *ENTRIES):
        if name not in ("lock", "checkpoints"):
            (run / name).unlink(missing_ok=True)
    for left in run.glob(".*.tmp"):  # tensorlite.files names so what it has not finished
        left.unlink()


@contextmanager
def lock(run: Path) -> Iterator[None]:
    """Keep every other process from training in `run`; a RuntimeError says which one does. A kill unlocks."""
    with open(run / "lock", "a+") as file:
        if not system.lock(file):
            file.seek(0)
            raise RuntimeError(
                f"process {file.read().strip() or '?'} is training in {run}: wait for it, or name another directory"
            )
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


# ----- writing ----------------------------------------------------------------------------------------------------


def save(
    run: Path, step: int, *, config: dict, tokenizer, model: nn.Module, optimizer: Optimizer, state: dict, keep: int = 2
) -> None:
    """Write the checkpoint of `step`, show its files in `run`, then delete all but the newest `keep`.

    `config` and `state` are JSON; `state` is what training needs beside weights and optimizer. FloatingPointError where
    a weight is not finite; OSError, in one sentence, where it cannot be written. Either leaves the older ones alone.
    """
    weights, (steps, moments) = model.state_dict(), optimizer.state_dict().values()
    for name, tensor in weights.items():
        if not tl.isfinite(tensor).all().item():
            raise FloatingPointError(f"step {step}: {name} has values that are not finite; no checkpoint is written")
    with writing(
        run, step, sum(tensor.data.nbytes for tensor in (*weights.values(), *moments.values())), keep
    ) as folder:
        write_json(folder / "config.json", config)
        tokenizer.save(folder / "tokenizer.json")
        io.save(folder / "model.safetensors", weights)
        training = json.dumps({"step": step, "optimizer_steps": steps, **state})
        io.save(folder / "training.safetensors", moments, {"training": training})


@contextmanager
def writing(run: Path, step: int, size: int, keep: int = 2) -> Iterator[Path]:
    """A folder to write FILES into, of about `size` bytes together: the checkpoint of `step` when the block has ended.

    Whatever is raised in the block or after, there is no such checkpoint, and the older ones are as they were; an
    OSError says so.
    """
    folder = run / "checkpoints" / f"step_{step:08d}"
    temporary = folder.with_suffix(".tmp")
    try:
        _make_room(run, size)
        temporary.mkdir(parents=True)
        yield temporary
        for path in (*(temporary / name for name in FILES), *(run / name for name in LOGS if (run / name).exists())):
            sync(path)
        files, logs = (
            {name: fingerprint(at / name) for name in names} for at, names in ((temporary, FILES), (run, LOGS))
        )
        write_json(temporary / "manifest.json", _manifest(step, files, logs))
        sync(temporary / "manifest.json")
        sync(temporary)
        os.rename(temporary, folder)
        sync(folder.parent)
        publish(run, folder, keep)
    except Exception as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if not isinstance(error, OSError):
            raise
        kept = next((path.name for path in _folders(run)), "none")
        reason = error.strerror or error
        raise OSError(f"step {step} cannot be saved in {run}: {reason}; newest checkpoint there: {kept}") from error


def _make_room(run: Path, size: int) -> None:
    """Refuse to begin what would not fit."""
    _tidy(run)
    free = shutil.disk_usage(run).free
    if free < size * 1.01 + 2**20:
        raise OSError(errno.ENOSPC, f"it takes {size / 1e6:,.0f} MB and {free / 1e6:,.0f} MB are free")


def _tidy(run: Path, keep: int | None = None) -> None:
    """Delete what a kill left unfinished, and all checkpoints but the newest `keep`."""
    old = list(_folders(run))[keep:] if keep else []
    for folder in (*old, *(run / "checkpoints").glob("*.tmp")):
        shutil.rmtree(folder)


def _manifest(step: int, files: dict, logs: dict) -> dict[str, Any]:
    return {"format": "gpt.checkpoint", "version": VERSION, "step": step, "files": files, "logs": logs}


def fingerprint(path: Path, size: int | None = None) -> dict[str, Any]:
    """Length and SHA-256 of a file or of its first `size` bytes; a log that was not begun is empty."""
    hasher, length = hashlib.sha256(), 0
    if path.exists():
        with open(path, "rb") as file:
            while block := file.read(2**20 if size is None else min(2**20, size - length)):
                hasher.update(block)
                length += len(block)
    return {"bytes": length, "sha256": hasher.hexdigest()}


def publish(run: Path, folder: Path, keep: int) -> None:
    """Show a checkpoint's files in the run's directory, as hard links or else copies; delete all but `keep`."""
    for name in FILES:
        new = run / "checkpoints" / f"{name}.new"
        new.unlink(missing_ok=True)
        try:
            os.link(folder / name, new)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.EINVAL):
                raise
            shutil.copyfile(folder / name, new)  # a file system without hard links
        os.replace(new, run / name)
        new.unlink(missing_ok=True)  # replacing a link by a link to the same file leaves both
    sync(run)
    _tidy(run, keep)


def write_json(path: Path, value: Any) -> None:
    path.write_text(_canonical(value), encoding="utf-8", newline="\n")


def _canonical(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


# ----- reading ----------------------------------------------------------------------------------------------------


def _folders(run: Path) -> Iterator[Path]:
    """The completed checkpoints, newest first."""
    folders = (run / "checkpoints").glob("step_*")
    return iter(sorted((path for path in folders if path.suffix == ""), reverse=True))


def newest(run: Path, logs: bool = False) -> tuple[Checkpoint, list[str]]:
    """The newest checkpoint that is whole, and one sentence for each newer one that is not.

    With `logs`, what the logs said by then is part of it. FileNotFoundError where `run` has no checkpoint; ValueError
    where none is whole.
    """
    problems: list[str] = []
    for folder in _folders(run):
        try:
            return _verified(run, folder, logs), problems
        except (ValueError, OSError) as error:
            problems.append(f"{folder} is damaged: {error}")
    if problems:
        raise ValueError(f"{run} has no checkpoint that is whole; " + "; ".join(problems))
    if not run.is_dir():
        raise FileNotFoundError(f"there is no run {run}")
    raise FileNotFoundError(f"{run} has no checkpoint: it is no run, or one that ended before its first")


def _verified(run: Path, folder: Path, logs: bool) -> Checkpoint:
    text = (folder / "manifest.json").read_text(encoding="utf-8")
    try:
        manifest = jsonfile.parse(text)
        version, written = manifest["version"], {name: manifest["logs"][name] for name in LOGS}
        lengths = {name: int(entry["bytes"]) for name, entry in written.items()}
    except (ValueError, LookupError, TypeError, OverflowError):
        raise ValueError("manifest.json is not what was written") from None
    if version != VERSION:
        raise ValueError(f"its version is {version!r}, and this gpt reads version {VERSION}")
    files = {name: fingerprint(folder / name) for name in FILES}
    found = {name: fingerprint(run / name, lengths[name]) for name in LOGS} if logs else written
    for name, digest in (files | found).items():
        if str(digest.get("sha256")) not in text:
            raise ValueError(f"{name} is not what was written")
    if text != _canonical(_manifest(int(folder.name.removeprefix("step_")), files, found)):
        raise ValueError("manifest.json is not what was written")
    return Checkpoint(folder, manifest["step"], lengths)


def restore(run: Path, checkpoint: Checkpoint, model: nn.Module, optimizer: Optimizer, keep: int = 2) -> dict[str, Any]:
    """Put a run back to where its newest whole checkpoint was made; what `save` got as `state` comes back.

    Weights and optimizer are loaded, the logs cut to their length of then, the files in `run` shown anew.
    """
    model.load_state_dict(io.entries(checkpoint.folder / "model.safetensors"))
    path = checkpoint.folder / "training.safetensors"
    state = json.loads(io.metadata(path)["training"])
    optimizer.load_state_dict({"steps": state["optimizer_steps"], "tensors": io.load(path)})
    for folder in _folders(run):
        if folder > checkpoint.folder:  # damaged: out of the way, but still there to be looked at
            aside = folder.with_suffix(".damaged")
            shutil.rmtree(aside, ignore_errors=True)
            os.rename(folder, aside)
    for name, size in checkpoint.logs.items():
        if (run / name).exists():
            os.truncate(run / name, size)
    publish(run, checkpoint.folder, keep)
    return state


def read_config(path: Path) -> dict[str, Any]:
    """The config.json of a run; ValueError where it is not one, or a newer gpt's."""
    config = jsonfile.read(path)
    if not isinstance(config, dict) or config.get("format") != "gpt.run" or not isinstance(config.get("model"), dict):
        raise ValueError(f"{path} does not describe a run of gpt")
    if config.get("version") != VERSION:
        raise ValueError(f"{path} has version {config.get('version')!r:.80}, and this gpt reads version {VERSION}")
    return config


def check_task(run: Path, description: Mapping[str, Any], *tasks: str) -> None:
    """A ValueError where a run's config.json says that it learnt none of these tasks."""
    found = description.get("task", "pretrain")
    if found not in tasks:
        raise ValueError(
            f"{run} is a run of the task {found!r:.80}, and one of {' or '.join(map(repr, tasks))} is needed here: "
            f"{command_of(found)} --resume goes on with it"
        )


def files_of(run: Path) -> Path:
    """Where a trained run's files are: its newest checkpoint that is whole, or, where it has none, the run itself."""
    return newest(run)[0].folder if is_run(run) or not (run / "model.safetensors").exists() else run


def load_model(run: Path, device: str | None = None) -> tuple[GPT, tokenizers.Tokenizer]:
    """The trained model of a run, ready to generate, on the CPU or on `device`, and its tokenizer.

    From the newest checkpoint that is whole, or, where a directory has just config.json, tokenizer.json and
    model.safetensors, from those. LoRA adapters are merged. ValueError for a run whose task is not to write.
    """
    run = Path(run)
    folder = files_of(run)
    description = read_config(folder / "config.json")
    check_task(run, description, "pretrain", "instruct")
    entries = io.entries(folder / "model.safetensors")
    config = weights.config_of(description, entries, folder / "model.safetensors")
    tokenizer = tokenizers.load(folder / "tokenizer.json")
    if tokenizer.vocab_size != config.vocab_size:
        raise ValueError(f"{run}: the tokenizer has {tokenizer.vocab_size} tokens, the model {config.vocab_size}")
    model = GPT.blank(config)
    if adapters := description.get("lora"):
        lora.apply(model, **adapters)
    model.load_state_dict(entries)
    if adapters:
        lora.merge(model)
        for p in model.parameters():
            p.requires_grad = True  # it is a plain model now, and may learn
    return (model if device is None else model.to(device)).eval(), tokenizer
