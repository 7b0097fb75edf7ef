"""The command `gpt`: train, generate, params, doctor.

One idea: a command is a dataclass, and its fields are its flags. Wrong usage ends with exit status 2, what goes wrong
later with 1, each in one sentence; `--debug` shows the traceback. Stopped by SIGINT it is 130, by SIGTERM 143.
"""

import io
import os
import sys
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional, UseAppendAction, subcommand

from tensorlite import backend

from . import __version__, checkpoint, doctor, session
from . import train as training
from .config import PRESETS, TrainConfig, check_choice
from .generate import stream
from .model import parameter_table
from .tokenizer import END_OF_TEXT, StreamDecoder, Tokenizer


@dataclass(frozen=True)
class Generate:
    """Let a trained model write."""

    run: Positional[Path]  # directory of the run
    prompt: UseAppendAction[tuple[str, ...]] = ()  # what to continue; may be given several times; default: a new line
    max_new_tokens: int = 200  # tokens to add
    temperature: float = 0.8  # 0: always the most probable token; 1: as the model says; above: bolder
    top_k: int | None = None  # draw only from the k most probable tokens
    top_p: float | None = None  # draw only from the most probable tokens that have this much probability together
    seed: int = 1337  # the same seed, the same text
    stop: str | None = None  # end before this token; default: <|endoftext|>, where the tokenizer has it
    cache: bool = True  # keep keys and values: the same text, faster


@dataclass(frozen=True)
class Params:
    """Show how many parameters a preset has, and where."""

    preset: Positional[str] = "nano"  # one of the presets of gpt.config
    vocab_size: int | None = None  # in place of the preset's
    context_length: int | None = None  # in place of the preset's

    def __post_init__(self) -> None:
        check_choice("preset", self.preset, tuple(PRESETS))


@dataclass(frozen=True)
class Doctor:
    """Show what this machine brings, and what each missing part would."""


def main(args: list[str] | None = None) -> None:
    """Run one command and leave with its exit status."""
    args = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in args
    args = [arg for arg in args if arg != "--debug"]
    for output in (sys.stdout, sys.stderr):
        if isinstance(output, io.TextIOWrapper):
            output.reconfigure(errors="replace")  # a terminal that knows no UTF-8 shows ? and no traceback
    try:
        sys.exit(run(args))
    except BrokenPipeError:  # whoever read our output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if debug:
            traceback.print_exc()
        print(f"gpt: {sentence(error)}", file=sys.stderr)
        sys.exit(1)


def run(args: list[str]) -> int:
    """Parse and do; the exit status."""
    if args[:1] == ["--version"]:
        print(f"gpt {__version__}")
        return 0
    backend.keep_freed_memory()
    match parse(args):
        case TrainConfig() as config:
            return train(config)
        case Generate() as command:
            return generate(command)
        case Params() as command:
            return params(command)
        case Doctor():
            return doctor.report(Console())


def parse(args: list[str]) -> TrainConfig | Generate | Params | Doctor:
    """The command that the arguments name; tyro shows help and wrong usage, and exits with 0 and 2."""
    start = TrainConfig()
    if args[:1] == ["train"] and (resumed := resumed_run(args)):
        start = session.settings(resumed)  # so that flags change what the run was started with, not the defaults
    commands = (
        Annotated[TrainConfig, subcommand("train", default=start)]
        | Annotated[Generate, subcommand("generate")]
        | Annotated[Params, subcommand("params")]
        | Annotated[Doctor, subcommand("doctor")]
    )
    about = (
        "Train a GPT on text and let it write. `--version` says which this is; `--debug` shows where an error arose."
    )
    flags = (tyro.conf.OmitSubcommandPrefixes, tyro.conf.FlagCreatePairsOff)
    return tyro.cli(commands, prog="gpt", description=about, args=args, config=flags)


def resumed_run(args: list[str]) -> Path | None:
    """What follows --resume."""
    for i, arg in enumerate(args):
        if arg == "--resume" and i + 1 < len(args):
            return Path(args[i + 1])
        if arg.startswith("--resume="):
            return Path(arg.removeprefix("--resume="))
    return None


def sentence(error: Exception) -> str:
    """One sentence for an error: without the errno of an OSError, with the kind of one that was not foreseen."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, MemoryError):
        return f"out of memory: {error or 'an array does not fit'}: a smaller batch_size or context_length needs less"
    if isinstance(error, (ValueError, RuntimeError, OSError, ArithmeticError, ImportError, IndexError)):
        return str(error)
    return f"{type(error).__name__}: {error}; this was not foreseen: --debug shows where it arose"


# ----- the commands -----------------------------------------------------------------------------------------------


def train(config: TrainConfig) -> int:
    console = Console()
    for warning in backend.blas_environment():
        console.print(f"warning: {warning}", markup=False, highlight=False, soft_wrap=True)
    result = training.train(config, console)
    return 0 if result.stopped_by is None else 128 + result.stopped_by


def generate(command: Generate) -> int:
    if backend.default_threads() == 1:  # otherwise BLAS keeps its own: they are better at matrix times vector
        backend.set_threads(1)
    model, tokenizer = checkpoint.load_model(command.run)
    prompts = [tokenizer.encode(prompt) for prompt in command.prompt] or [training.new_line(tokenizer)]
    for given, ids in zip(command.prompt, prompts, strict=False):
        if not ids:
            raise ValueError(f"the prompt {given!r} has no token in it: give some text")
    steps = stream(
        model, prompts, command.max_new_tokens, temperature=command.temperature, top_k=command.top_k,
        top_p=command.top_p, seed=command.seed, stop_token=stop_token(command.stop, tokenizer), use_cache=command.cache,
    )  # fmt: skip
    readers = [StreamDecoder(tokenizer) for _ in prompts]
    texts = [[reader.feed(id) for id in ids] for reader, ids in zip(readers, prompts, strict=True)]
    alone = len(prompts) == 1  # then it is shown as it is written
    show("".join(texts[0]) if alone else "")
    for step in steps:
        for text, reader, token in zip(texts, readers, step, strict=True):
            if token is not None:
                text.append(reader.feed(token))
                show(text[-1] if alone else "")
    for text, reader in zip(texts, readers, strict=True):
        text.append(reader.flush())
        show(text[-1] + "\n" if alone else "".join(text) + "\n-----\n")
    return 0


def show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def stop_token(text: str | None, tokenizer: Tokenizer) -> int | None:
    """The one token that `text` is; without it, the end of a text, where the tokenizer has that."""
    if text is None:
        return tokenizer.special_tokens.get(END_OF_TEXT)
    ids = tokenizer.encode(text, set(tokenizer.special_tokens))
    if len(ids) != 1:
        raise ValueError(f"stop must be a single token, and {text!r} is {len(ids)} of this tokenizer's")
    return ids[0]


def params(command: Params) -> int:
    sizes: dict[str, Any] = {"vocab_size": command.vocab_size, "context_length": command.context_length}
    config = replace(PRESETS[command.preset], **{name: size for name, size in sizes.items() if size is not None})
    about = f"{config.n_layer} layers, {config.n_head} heads, {config.n_embd} wide, context {config.context_length:,}"
    title = f"{command.preset}: {about}, {config.vocab_size:,} tokens"
    table = Table(title=title, title_justify="left", caption="FLOPs: of one trained token, forward and backward")
    for name in ("", "parameters", "share", "MB in float32", "MFLOPs"):
        table.add_column(name, justify="right" if name else "left")
    *parts, total = parameter_table(config)
    for part in (*parts, None, total):
        if part is None:
            table.add_section()
            continue
        millions = (part.bytes / 1e6, part.flops / 1e6)
        table.add_row(part.name, f"{part.parameters:,}", f"{part.share:.1%}", *(f"{n:,.2f}" for n in millions))
    Console().print(table)
    return 0
