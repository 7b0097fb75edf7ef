"""Checkpoints: the files that resume a run. Each is complete or absent, whatever interrupts its writing.

    RUN/checkpoints/step_00000300/                                              checkpoints, with a manifest.json in
    each RUN/config.json  tokenizer.json  model.safetensors  training.safetensors    the newest checkpoint's own files
    RUN/metrics.jsonl  samples.txt  log.txt                                     appended to, line by line
    RUN/train.tokens  validation.tokens                                         the text, as token ids
    RUN/train.jsonl  validation.jsonl  test.jsonl                               or the entries, where a run has those
    RUN/loss.png                                                                drawn when training ends
    RUN/report.json  report.png  responses.json  adapter.safetensors            the results of fine-tuning
    RUN/run.json  lock                                                          which files are gpt's: run_directory.py

A checkpoint is written to `step_N.tmp`, every file flushed to the disk, the manifest with sizes and SHA-256 last; one
rename makes it valid; then its files are copied to RUN, and only then an older one is deleted. Reading starts from the
newest one whose files match its manifest; a warning names each newer one that does not.

In RUN, config.json and tokenizer.json are copies, so that editing them there changes no checkpoint. The
two files of tensors are hard links where the file system has them, and copies elsewhere: gpt never writes them in
place; a program that does so damages the newest checkpoint too, which the checksums detect.

The same training writes the same bytes: only log.txt has times. No pickles are used, and nothing is repaired.
"""

import errno
import json
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import tensorlite as tl
from tensorlite import io, nn
from tensorlite.files import naming, temporary_beside
from tensorlite.optim import Optimizer

from .. import jsonfile, lora
from .. import tokenizer as tokenizers
from ..config import listed
from ..console import bytes_text, in_shell, visible
from ..fingerprint import fingerprint
from ..model import GPT
from ..system import sync
from . import run_directory, weights
from .run_directory import FILES, LOGS, RunWarning, is_run
from .settings import command_of

VERSION = 1
MODEL = FILES[:3]  # the files of a trained model


class Checkpoint(NamedTuple):
    """A checkpoint whose files were verified, byte by byte."""

    folder: Path
    step: int
    logs: Mapping[str, dict[str, Any]]  # length and SHA-256 of each log at that step


# ----- writing ----------------------------------------------------------------------------------------------------


def save(
    run: Path, step: int, *, config: dict[str, Any], tokenizer: tokenizers.Tokenizer, model: nn.Module,
    optimizer: Optimizer, state: dict[str, Any], keep: int = 2, best: int | None = None,
) -> None:  # fmt: skip
    """Write the checkpoint of `step`, copy its files to `run`, then delete all except the newest `keep` and `best`.

    `best` is a step whose checkpoint stays however old it is.

    `config` and `state` are JSON; `state` holds all else that training needs. FloatingPointError where
    a weight is not finite; OSError, in one sentence, where it cannot be written. Older ones stay unchanged.
    """
    weights, (steps, moments) = model.state_dict(), optimizer.state_dict().values()
    for name, tensor in weights.items():
        if not tl.isfinite(tensor).all().item():
            raise FloatingPointError(f"step {step}: {name} has values that are not finite; no checkpoint is written")
    size = sum(tensor.data.nbytes for tensor in (*weights.values(), *moments.values()))
    with writing(run, step, size, keep, best) as folder:
        write_json(folder / "config.json", config)
        tokenizer.save(folder / "tokenizer.json")
        io.save(folder / "model.safetensors", weights)
        training = json.dumps({"step": step, "optimizer_steps": steps, **state})
        io.save(folder / "training.safetensors", moments, {"training": training})


@contextmanager
def writing(run: Path, step: int, size: int, keep: int = 2, best: int | None = None) -> Iterator[Path]:
    """A folder to write FILES into, about `size` bytes in all; when the block ends it is the checkpoint of `step`.

    If anything fails before that, there is no such checkpoint, and the older ones are unchanged; an OSError says so.
    A RunWarning follows where its files cannot be copied to `run` afterwards, or older ones cannot be deleted.
    """
    folder = run / run_directory.CHECKPOINTS / f"step_{step:08d}"
    temporary, made = folder.with_suffix(".tmp"), False
    try:
        _make_room(run, size)
        temporary.mkdir(parents=True)
        made = True
        yield temporary
        logs_here = [run / name for name in LOGS if (run / name).exists()]
        for path in (*(temporary / name for name in FILES), *logs_here, run):  # in `run`: the logs' names
            sync(path)
        files, logs = (
            {name: fingerprint(at / name) for name in names} for at, names in ((temporary, FILES), (run, LOGS))
        )
        write_json(temporary / "manifest.json", _manifest(step, files, logs))
        sync(temporary / "manifest.json")
        sync(temporary)
        os.rename(temporary, folder)
    except Exception as error:
        if made:
            with suppress(OSError):  # the rest is deleted before the next checkpoint is written
                run_directory.delete_checkpoint(temporary)
        if not isinstance(error, OSError):
            raise
        raise _not_saved(run, step, error) from error
    try:
        sync(folder.parent)
    except OSError as error:
        if run.name == run_directory.STAGING:  # the run that it was to replace stays
            raise _not_saved(run, step, error) from error
        reason = error.strerror or error
        raise OSError(f"step {step} is saved as {folder}, but it may not be on the disk yet: {reason}") from error
    try:
        publish(run, folder, keep, best)
    except OSError as error:
        if run.name == run_directory.STAGING:
            raise _not_saved(run, step, error) from error
        warnings.warn(
            f"step {step} is saved as {folder}, but its files could not be copied to {run}, or older checkpoints not "
            f"deleted: {error.strerror or error}",
            RunWarning,
            stacklevel=2,
        )


def _not_saved(run: Path, step: int, error: OSError) -> OSError:
    run = run.parent if run.name == run_directory.STAGING else run  # the directory that the user named
    kept = next((path.name for path in run_directory.steps(run)), "none")
    return OSError(f"step {step} cannot be saved in {run}: {error.strerror or error}; newest checkpoint there: {kept}")


def _make_room(run: Path, size: int) -> None:
    """An OSError where the disk has too little space: the tensors alone are `size` bytes."""
    _tidy(run)
    free = shutil.disk_usage(run).free
    if free < size:
        raise OSError(errno.ENOSPC, f"it takes more than {bytes_text(size)} and {bytes_text(free)} are free")


def _tidy(run: Path, keep: int | None = None, best: int | None = None) -> None:
    """Delete unfinished checkpoints of killed processes, and all checkpoints except the newest `keep` and `best`."""
    old = run_directory.steps(run)[keep:] if keep else []
    old = [folder for folder in old if run_directory.step_of(folder) != best]
    for folder in (*old, *run_directory.unfinished(run)):
        run_directory.delete_checkpoint(folder)


def _manifest(step: int, files: Mapping[str, Any], logs: Mapping[str, Any]) -> dict[str, Any]:
    return {"format": "gpt.checkpoint", "version": VERSION, "step": step, "files": files, "logs": logs}


def publish(run: Path, folder: Path, keep: int, best: int | None = None) -> None:
    """Copy a checkpoint's files to the run's directory; delete all checkpoints except the newest `keep` and `best`."""
    for name in FILES:
        _show(folder / name, run / name)
    sync(run)
    _tidy(run, keep, best)


def _show(source: Path, target: Path) -> None:
    """`target` becomes a copy of `source`; of tensors a hard link, where the file system supports it."""
    new = temporary_beside(target)
    try:
        if source.suffix != ".safetensors" or not _link(source, new):
            shutil.copyfile(source, new)
            sync(new)
        os.replace(new, target)
    finally:
        new.unlink(missing_ok=True)  # also where a link replaces one to the same file, which leaves both


def _link(source: Path, new: Path) -> bool:
    """False where no hard link could be made: file systems without them raise various errors."""
    try:
        os.link(source, new)
    except (OSError, AttributeError, NotImplementedError):
        new.unlink(missing_ok=True)
        return False
    return True


def write_json(path: Path, value: Any) -> None:
    path.write_text(_canonical(value), encoding="utf-8", newline="\n")


def _canonical(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


# ----- reading ----------------------------------------------------------------------------------------------------


def newest(run: Path, files: Iterable[str] = FILES) -> tuple[Checkpoint, list[str]]:
    """The newest checkpoint whose `files` are intact, and one sentence for each newer one: damaged or missing.

    FileNotFoundError where `run` has no checkpoint; ValueError where all are damaged.
    """
    problems: list[str] = []
    files, folders = tuple(files), run_directory.steps(run)
    if folders and (shown := _shown(run)) > run_directory.step_of(folders[0]):
        problems.append(f"{run / run_directory.CHECKPOINTS / f'step_{shown:08d}'} is missing")
    for folder in folders:
        try:
            return _verified(folder, files), problems
        except OSError as error:
            problems.append(f"{folder} is damaged: {Path(error.filename or folder).name}: {error.strerror or error}")
        except ValueError as error:
            problems.append(f"{folder} is damaged: {error}")
    if problems:
        raise ValueError(f"{run} has no intact checkpoint; " + "; ".join(problems))
    raise run_directory.no_run(run)


def _shown(run: Path) -> int:
    """The step of the files in the run's directory, whose checkpoint was complete; -1 where that is unknown."""
    step = _state_shown(run).get("step")
    return step if type(step) is int and -1 <= step < 10**12 else -1


def _state_shown(run: Path) -> dict[str, Any]:
    """What `save` got as `state` for the files in the run's directory; {} where that is unknown."""
    path = run / "training.safetensors"
    if run_directory.replaced(run) and run_directory.exists(run / run_directory.STAGING / path.name):
        path = run / run_directory.STAGING / path.name
    try:
        state = jsonfile.parse(io.metadata(path)["training"]) if run_directory.regular(path) else {}
    except (OSError, ValueError, LookupError, TypeError):
        return {}  # weights are never read from it, so its damage does not matter
    return state if isinstance(state, dict) else {}


def _verified(folder: Path, files: tuple[str, ...]) -> Checkpoint:
    text = (folder / "manifest.json").read_text(encoding="utf-8")
    spoilt = ValueError("manifest.json is not what was written")
    try:
        manifest = jsonfile.parse(text)
        version, written, logs = (
            manifest["version"],
            _entries(manifest["files"], FILES),
            _entries(manifest["logs"], LOGS),
        )
    except (ValueError, LookupError, TypeError):
        raise spoilt from None
    if version != VERSION:
        raise ValueError(f"its version is {version!r:.80}, and this gpt reads version {VERSION}")
    if text != _canonical(_manifest(run_directory.step_of(folder), written, logs)):
        raise spoilt
    for name in files:
        if fingerprint(folder / name) != written[name]:
            raise ValueError(f"{name} is not what was written")
    return Checkpoint(folder, run_directory.step_of(folder), logs)


def _entries(found: Mapping[str, Any], names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """{name: {"bytes", "sha256"}} of a manifest."""
    entries = {name: {"bytes": found[name]["bytes"], "sha256": found[name]["sha256"]} for name in names}
    for entry in entries.values():
        if type(entry["bytes"]) is not int or not isinstance(entry["sha256"], str):
            raise ValueError
    return entries


def restore(
    run: Path, checkpoint: Checkpoint, model: nn.Module, optimizer: Optimizer, keep: int = 2, keep_best: bool = False
) -> dict[str, Any]:
    """Restore a run to its newest complete checkpoint; return the `state` that `save` got.

    Weights and optimizer are loaded, newer checkpoints, which are damaged, are set aside, and the files in `run` are
    replaced. Of the older ones the newest `keep` stay, and with `keep_best` the one that the state names as the best.
    """
    model.load_state_dict(io.entries(checkpoint.folder / "model.safetensors"))
    path = checkpoint.folder / "training.safetensors"
    state: dict[str, Any] = json.loads(io.metadata(path)["training"])
    optimizer.load_state_dict({"steps": state["optimizer_steps"], "tensors": io.load(path)})
    for folder in run_directory.steps(run):
        if run_directory.step_of(folder) > checkpoint.step and run_directory.is_checkpoint_folder(
            folder
        ):  # kept for inspection
            aside = folder.with_suffix(".damaged")
            run_directory.delete_checkpoint(aside)
            os.rename(folder, aside)
    publish(run, checkpoint.folder, keep, state["best"][1] if keep_best else None)
    return state


def cut_logs(run: Path, checkpoint: Checkpoint, say: Callable[[str], None]) -> list[str]:
    """Cut the logs to their length when the checkpoint was made; a sentence for each that has changed since.

    The rest is moved to log.txt, and `say` reports it, since a user may have written it. A log that has changed is
    kept, with a line end after its last line, so that new lines begin on a line of their own.
    """
    problems = []
    for name, written in checkpoint.logs.items():
        path, size = run / name, written["bytes"]
        if fingerprint(path, size) == written:
            if path.exists() and (more := path.stat().st_size - size) > 0:
                _into_log(run, path, size)
                os.truncate(path, size)
                say(f"moved      {more:,} bytes of {name} that were written after step {checkpoint.step} to log.txt")
            continue
        what = "has changed since" if path.exists() else "is missing, and was there at"
        problems.append(f"{path} {what} step {checkpoint.step}: training continues, and the rest of it is kept")
        with open(path, "ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
    return problems


def _into_log(run: Path, path: Path, start: int) -> None:
    """Append a log's lines from byte `start` on to log.txt, and wait until they are on the disk."""
    log = run / "log.txt"
    with open(path, "rb") as file, naming(log), open(log, "a", encoding="utf-8", newline="\n") as kept:
        file.seek(start)
        for line in file:
            kept.write(f"{path.name}: {visible(line.decode(errors='backslashreplace').rstrip())}\n")
    sync(log)


def read_config(path: Path) -> dict[str, Any]:
    """The config.json of a run; ValueError where it is not one, or a newer gpt's."""
    config = jsonfile.read(path)
    if not isinstance(config, dict) or config.get("format") != "gpt.run" or not isinstance(config.get("model"), dict):
        raise ValueError(f"{path} is not the config of a gpt run")
    if config.get("version") != VERSION:
        raise ValueError(f"{path} has version {config.get('version')!r:.80}, and this gpt reads version {VERSION}")
    return config


def check_task(run: Path, description: Mapping[str, Any], *tasks: str) -> None:
    """A ValueError where a run's config.json says that it was trained on none of these tasks."""
    found = description.get("task", "pretrain")
    if found not in tasks:
        use = {"pretrain": "generate", "instruct": "chat", "classify": "classify"}.get(str(found))
        hint = f"gpt {use} {in_shell(run)} uses it, and " if use else ""
        raise ValueError(
            f"{run} is a run of the task {found!r:.80}, and one of {' or '.join(map(repr, tasks))} is needed here: "
            f"{hint}{command_of(found)} --resume continues it"
        )


def files_of(run: Path) -> Path:
    """The folder of a trained run's model: its newest complete checkpoint, or, where it has none, the run itself.

    A RunWarning names each newer checkpoint that is damaged and what is read instead. There is a RunWarning too where
    nothing can be verified, because three files alone have no checksum.
    """
    if not is_run(run) and (run / "model.safetensors").exists():
        warnings.warn(
            f"{run} has no checkpoints: {', '.join(MODEL)} are read without a checksum",
            RunWarning,
            stacklevel=1,  # the same location for all callers, so that it is shown once
        )
        return run
    found, problems = newest(run, MODEL)
    if problems:
        warnings.warn(f"{'; '.join(problems)}; {found.folder} is read instead", RunWarning, stacklevel=1)
    return found.folder


def folder_of(run: Path, step: int) -> Path:
    """The folder of the checkpoint of `step`, whose model's files are verified.

    FileNotFoundError where the run does not keep it (the sentence lists those that it keeps), ValueError where it is
    damaged.
    """
    kept = {run_directory.step_of(folder): folder for folder in run_directory.steps(run)}
    if step not in kept:
        steps = listed(sorted(kept)) or "none"
        raise FileNotFoundError(f"{run} does not keep a checkpoint of step {step}: it keeps {steps}")
    try:
        return _verified(kept[step], MODEL).folder
    except ValueError as error:
        raise ValueError(f"{kept[step]} is damaged: {error}") from None


def folder_at(run: Path, step: int | str | None = None) -> Path:
    """The folder of a run's model at a step: a number, "best" (the lowest validation loss), or None, the newest.

    As `files_of` and `folder_of`. ValueError for any other step; FileNotFoundError where the best is unknown or not
    kept.
    """
    if step is None:
        return files_of(run)
    if step != "best":
        text = str(step)
        if not (text.isascii() and text.isdecimal() and len(text) < 12):
            raise ValueError(f"step must be a number or best, got {text!r:.80}")
        return folder_of(run, int(text))
    if not is_run(run):
        raise run_directory.no_run(run)
    found = best_of(run)
    if found is None:
        raise FileNotFoundError(f"{run} has no validation loss, so none of its checkpoints is the best: omit --step")
    kept = {run_directory.step_of(folder) for folder in run_directory.steps(run)}
    if found[1] not in kept:
        raise FileNotFoundError(
            f"the lowest validation loss of {run} was {found[0]:.4f} at step {found[1]}, whose checkpoint it does not "
            f"keep (it keeps {listed(sorted(kept))}): train with --keep-best"
        )
    return folder_of(run, found[1])


def best_of(run: Path) -> tuple[float, int] | None:
    """The lowest validation loss of a run up to its newest checkpoint, and its step; None where it has none."""
    found = _state_shown(run).get("best")
    if not (isinstance(found, list) and len(found) == 2 and type(found[1]) is int):
        return None
    loss, step = found
    return (float(loss), step) if isinstance(loss, float | int) and loss < math.inf else None


def load_model(run: Path, device: str | None = None, folder: Path | None = None) -> tuple[GPT, tokenizers.Tokenizer]:
    """The trained model of a run, ready to generate, on the CPU or on `device`, and its tokenizer.

    The files are in `folder`, or where `files_of` finds them. LoRA adapters are merged.
    ValueError for a run whose model does not write text.
    """
    run = Path(run)
    folder = folder or files_of(run)
    description = read_config(folder / "config.json")
    check_task(run, description, "pretrain", "instruct")
    entries = io.entries(folder / "model.safetensors")
    config = weights.config_of(description, entries, folder / "model.safetensors")
    tokenizer = tokenizers.load(folder / "tokenizer.json")
    if tokenizer.vocab_size != config.vocab_size:
        raise ValueError(f"{run}: the tokenizer has {tokenizer.vocab_size} tokens, the model {config.vocab_size}")
    model = GPT.without_init(config)
    if adapters := description.get("lora"):
        lora.apply(model, **adapters)
    model.load_state_dict(entries)
    if adapters:
        lora.merge(model)
        for p in model.parameters():
            p.requires_grad = True  # the adapters are part of its weights now, which may be trained
    return (model if device is None else model.to(device)).eval(), tokenizer
