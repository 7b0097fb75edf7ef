"""Import a folder of GPT-2's weights as a run, and export a run as such a folder.

The result is complete or does not exist. Weights are read, converted and written one Tensor at a time, so that no more
than one of them, and what it is made from, is in memory.
"""

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import tensorlite as tl
from tensorlite import Tensor, io
from tensorlite.files import LEFTOVER, replacing

from .. import jsonfile
from .. import tokenizer as tokenizers
from ..config import GPTConfig
from ..system import sync
from ..tokenizer import END_OF_TEXT, Tokenizer
from ..training import checkpoint, lockfile, open_run, run_directory, weights
from .chat_template import chat_template
from .layout import Place, misfits, our_shapes, places, their_shapes, to_theirs
from .reading import find
from .vocabulary import read_tokenizer, tokenizer_files

Reader = Callable[[str], Tensor]  # a Tensor by its name
NAMES = (
    *run_directory.FILES,
    run_directory.LOCK,
    run_directory.CHECKPOINTS,
)  # the files that an import writes into its run's directory
EXPORT = "export.json"  # marks a folder in which an export is written


class Imported(NamedTuple):
    """The result of `import_folder`."""

    format: str  # whose files they were
    config: GPTConfig
    tokenizer: Tokenizer


# ----- import -----------------------------------------------------------------------------------------------------


def import_folder(folder: str | Path, run: str | Path, overwrite: bool = False) -> Imported:
    """Convert a folder of GPT-2's weights to a run, which can be used like a trained one.

    The folder is checked before the run's directory is touched, except that weights that are not finite are found while
    they are written (FloatingPointError). Errors of the folder as in `reading.find` and `vocabulary.read_tokenizer`, of
    the directory as in `open_run.create`; OSError where it cannot be written. An error leaves the directory unchanged.
    """
    open_run.check_separate(Path(run), Path(folder))
    source, run = find(Path(folder)), Path(run)
    config = source.config
    tokenizer = read_tokenizer(source.folder, config.vocab_size)

    def read(name: str) -> Tensor:
        tensor = source.read(name)
        if not tl.isfinite(tensor).all().item():
            raise FloatingPointError(f"{name} in {folder} has values that are not finite: nothing was imported")
        return tensor

    kinds = {name: (tl.float32, shape) for name, shape in our_shapes(config).items()}
    description = {
        "format": "gpt.run",
        "version": checkpoint.VERSION,
        "model": config.to_dict(),
        "imported": {"from": str(folder), "format": source.format},
    }
    with open_run.create(run, overwrite, NAMES, [Path(folder)]) as place:
        with checkpoint.writing(place.folder, 0, 4 * sum(map(math.prod, our_shapes(config).values()))) as target:
            checkpoint.write_json(target / "config.json", description)
            tokenizer.save(target / "tokenizer.json")
            io.save_each(target / "model.safetensors", kinds, read)
            io.save(target / "training.safetensors", {}, {"training": json.dumps({"step": 0})})  # nothing was trained
        place.commit()
    return Imported(source.format, config, tokenizer)


# ----- export -----------------------------------------------------------------------------------------------------


def export_run(run: str | Path, folder: str | Path, step: int | str | None = None) -> GPTConfig:
    """Write a run's model, with its tokenizer, in the format of transformers' `from_pretrained(folder)`.

    It is the newest, or that of a `step`, as for `checkpoint.folder_at`. The tokenizer of a run that was fine-tuned on
    instructions has its prompt format as a chat template. The folder is complete or does not exist. LoRA adapters are
    merged. ValueError for a model or tokenizer that GPT-2's format cannot hold; FileExistsError where `folder` has
    files; OSError where it cannot be written; RuntimeError where another process is exporting to it; errors of the run
    as in `checkpoint.load_model`.
    """
    run, folder = Path(run), open_run.real_path(Path(folder))
    open_run.check_separate(folder, run)
    files = checkpoint.folder_at(run, step)
    description = checkpoint.read_config(files / "config.json")
    if (task := description.get("task", "pretrain")) not in ("pretrain", "instruct"):
        raise ValueError(f"GPT-2's format cannot hold the model of {run}: its task is {task!r}, so it writes no text")
    entries = io.entries(files / "model.safetensors")
    config = weights.config_of(description, entries, files / "model.safetensors")
    tokenizer = tokenizers.load(files / "tokenizer.json")
    if tokenizer.vocab_size != config.vocab_size:
        raise ValueError(f"{run}: the tokenizer has {tokenizer.vocab_size} tokens, the model {config.vocab_size}")
    read = _reader(run, files, entries, config, merged=bool(description.get("lora")))
    style = description.get("style") if task == "instruct" else None
    template = None if style is None else chat_template(style)
    texts = tokenizer_files(tokenizer, config.context_length, template)
    texts["config.json"] = json.dumps(hugging_face_config(config, tokenizer), indent=2) + "\n"
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists already: name a new folder, or an empty one")
    _write_folder(folder, texts, config, read)
    return config


def _reader(run: Path, files: Path, entries: dict[str, io.Entry], config: GPTConfig, merged: bool) -> Reader:
    """A function that reads our Parameters by name; with `merged`, from the model with its adapters merged."""
    if merged:
        return checkpoint.load_model(run, folder=files)[0].state_dict().__getitem__
    if problems := misfits(entries, our_shapes(config)):
        raise ValueError(f"GPT-2's format cannot hold the model of {run}: {'; '.join(problems)}")
    return lambda name: entries[name].read_float32()


def hugging_face_config(config: GPTConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """config.json of transformers' GPT2LMHeadModel."""
    end = tokenizer.special_tokens.get(END_OF_TEXT)
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": config.vocab_size,
        "n_positions": config.context_length,
        "n_embd": config.n_embd,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_inner": None,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "embd_pdrop": config.embedding_dropout,
        "attn_pdrop": config.attention_dropout,
        "resid_pdrop": config.residual_dropout,
        "scale_attn_weights": True,
        "tie_word_embeddings": config.tie_head,
        "bos_token_id": end,
        "eos_token_id": end,
    }


def _write_folder(folder: Path, texts: dict[str, str], config: GPTConfig, read: Reader) -> None:
    """Write all files next to `folder`, then rename: the folder appears complete."""
    kinds = {_prefixed(name): (tl.float32, shape) for name, shape in their_shapes(config).items()}
    folder = folder.resolve()  # "." has no name, which the temporary folder needs
    made: list[Path] = []
    done = False
    try:
        open_run.make_folder(folder.parent, made)
        with _workplace(folder, {*texts, "model.safetensors"}) as new:
            new.mkdir()
            for name, text in texts.items():
                (new / name).write_text(text, encoding="utf-8", newline="\n")
                sync(new / name)
            io.save_each(new / "model.safetensors", kinds, _their_tensors(config, read), {"format": "pt"})
            sync(new)
            try:
                os.rename(new, folder)
            except FileExistsError:  # Windows does not replace an empty one
                folder.rmdir()
                os.rename(new, folder)
            done = True
            sync(folder.parent)
    except BaseException as error:
        for path in reversed(made):
            with contextlib.suppress(OSError):  # not empty
                path.rmdir()
        if isinstance(error, OSError):
            reason = error.strerror or error
            raise OSError(
                f"{folder} is written, but it may not be on the disk yet, or temporary files are left: {reason}"
                if done
                else f"{folder} cannot be written: {reason}; nothing is left of it"
            ) from error
        raise


@contextlib.contextmanager
def _workplace(folder: Path, names: set[str]) -> Iterator[Path]:
    """A temporary folder for the files `names`, to be renamed to `folder`; deleted at the end if it still exists.

    It is .FOLDER.gpt-export/new; export.json next to `new` lists its files, so that a later export can delete the files
    of a killed one. Files that are not listed are never deleted.
    """
    place = folder.with_name(f".{folder.name}.gpt-export")
    if place.is_symlink():
        raise FileExistsError(f"{place} is a symbolic link: move it away")
    place.mkdir(exist_ok=True)
    try:
        with lockfile.lock(place, "exporting in") as held:
            held.remove = True
            _clear(place)
            with replacing(place / EXPORT) as file:
                file.write(json.dumps({"format": "gpt.export", "version": 1, "files": sorted(names)}).encode())
            try:
                yield place / "new"
            finally:
                _clear(place)
    finally:
        with contextlib.suppress(OSError):  # another process is exporting there
            place.rmdir()


def _clear(place: Path) -> None:
    """Delete what an export has written; FileExistsError for any other file."""
    new, marker = place / "new", place / EXPORT
    names = jsonfile.read_object(marker).get("files") if marker.exists() else []
    names = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    if new.is_dir() and not new.is_symlink():
        for name in (*filter(run_directory.NAME.fullmatch, names), *_leftovers(new)):
            (new / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty
            new.rmdir()
    if new.is_dir() and (other := os.listdir(new)):
        raise FileExistsError(f"{new / other[0]} is not an export's: move it away")
    marker.unlink(missing_ok=True)
    for name in _leftovers(place):
        (place / name).unlink(missing_ok=True)
    if other := sorted({*os.listdir(place)} - {run_directory.LOCK}):
        raise FileExistsError(f"{place / other[0]} is not an export's: move it away")


def _leftovers(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if LEFTOVER.fullmatch(name)]


def _their_tensors(config: GPTConfig, read: Reader) -> Reader:
    """A function that makes each of their Tensors, by name, from our Parameters."""
    parts: dict[str, list[tuple[str, Place]]] = {}
    for name, place in places(config).items():
        parts.setdefault(_prefixed(place.name), []).append((name, place))
    shapes = {_prefixed(name): shape for name, shape in their_shapes(config).items()}

    def make(theirs: str) -> Tensor:
        if theirs not in parts:  # c_attn's bias, where we have none: zeros are the same function
            return tl.zeros(shapes[theirs])
        ours = parts[theirs]
        return to_theirs([read(name) for name, _ in ours], ours[0][1])

    return make


def _prefixed(name: str) -> str:
    """The name in a GPT2LMHeadModel, where everything except the head is in `transformer`."""
    return name if name == "lm_head.weight" else f"transformer.{name}"
