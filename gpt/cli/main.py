"""The command `gpt`: arguments to a command (gpt/commands), an error to one sentence.

One idea: wrong usage ends with exit status 2, what goes wrong later with 1, each in one sentence; `--debug` shows the
traceback. Stopped by SIGINT it is 130, by SIGTERM 143, by SIGHUP 129.
"""

import codecs
import contextlib
import difflib
import functools
import io
import operator
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import subcommand
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from tensorlite.devices import gpu, machine
from tensorlite.files import naming

from .. import __version__, fast
from ..console import LOST, printable
from ..training import checkpoint
from . import COMMANDS

LONGEST = 1500  # characters of an error: names in a file may have any length


def main(args: list[str] | None = None) -> None:
    """Run one command and leave with its exit status."""
    args = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in args
    args = [arg for arg in args if arg != "--debug"]
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by who started us (>&-): nobody reads it
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    for output in (sys.stdout, sys.stderr):
        if isinstance(output, io.TextIOWrapper):
            output.reconfigure(errors="gpt")  # a terminal that knows no UTF-8 shows ? and no traceback
    try:
        with warnings.catch_warnings(), written_out():
            warnings.showwarning = show_warning
            warnings.simplefilter("default", checkpoint.RunWarning)
            sys.exit(run(args))
    except BrokenPipeError:  # whoever read our output has enough
        abandon_output()
        sys.exit(141)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if debug:
            traceback.print_exc()
        with contextlib.suppress(OSError):  # nobody reads it any more
            print(f"gpt: {printable(sentence(error), LONGEST)}", file=sys.stderr)
        sys.exit(1)


@contextlib.contextmanager
def written_out() -> Iterator[None]:
    """What the block prints is written when it ends; an OSError names standard output, when its disk is full, say."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in LOST:  # a file of ours is named where it is written
            error.filename = "standard output"
        raise
    finally:
        try:
            with naming("standard output"):
                sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError:
            abandon_output()
            raise


def abandon_output() -> None:
    """What is still in the buffer of standard output goes nowhere: it is no second error when Python ends."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def unencodable(error: UnicodeError) -> tuple[bytes, int]:
    """For output: a byte that was not UTF-8 in the input as it was, any other character that cannot be written as ?."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = error.object[error.start : error.end]
    return bytes(ord(c) - 0xDC00 if "\udc80" <= c <= "\udcff" else ord("?") for c in found), error.end


codecs.register_error("gpt", unencodable)


def show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    """A warning as one line, without the place in our source that it comes from."""
    with contextlib.suppress(OSError):  # nobody reads it any more
        print(f"gpt: warning: {' '.join(str(message).split())}", file=sys.stderr, flush=True)


def run(args: list[str]) -> int:
    """Parse and do; the exit status."""
    if args[:1] == ["--version"]:
        print(f"gpt {__version__}")
        return 0
    machine.keep_freed_memory()
    fast.attach()
    with warnings.catch_warnings():  # NumPy's, of overflow and the like: what is not finite is said in a sentence
        warnings.simplefilter("ignore", RuntimeWarning)
        return parse(args)()


def parse(args: list[str]) -> Any:
    """The command that the arguments name; tyro shows help and wrong usage, and exits with 0 and 2."""
    if " ".join(args[:2]) in COMMANDS:
        args = [" ".join(args[:2]), *args[2:]]
    if args and not args[0].startswith("-") and args[0] not in COMMANDS:
        print(f"gpt: {printable(no_command(args), LONGEST)}", file=sys.stderr)
        sys.exit(2)
    choices = []
    for name, command in COMMANDS.items():
        start = {"default": command.default(args)} if args[:1] == [name] and hasattr(command, "default") else {}
        choices.append(Annotated[command, subcommand(name, **start)])
    about = (
        "Train a GPT on text and let it write. `--version` says which this is; `--debug` shows where an error arose."
    )
    flags = (tyro.conf.OmitSubcommandPrefixes, tyro.conf.FlagCreatePairsOff)
    chosen: Any = functools.reduce(operator.or_, choices)
    return tyro.cli(chosen, prog="gpt", description=about, args=args, config=flags, registry=PATHS)


PATHS = ConstructorRegistry()


@PATHS.primitive_rule
def _path(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Path] | None:
    """How a path is read: "" is Path's current directory, and would replace what is there where a variable is unset."""
    if info.type is not Path:
        return None

    def read(parts: list[str]) -> Path:
        if not parts[0]:
            raise ValueError("it is empty: name a file or a directory (. is the current one)")
        return Path(os.path.expanduser(parts[0]))  # a shell leaves a quoted ~ as it is

    return PrimitiveConstructorSpec(1, "PATH", read, lambda value: isinstance(value, Path), lambda path: [str(path)])


def no_command(args: list[str]) -> str:
    """One sentence for arguments that name no command."""
    below = [name for name in COMMANDS if name.startswith(f"{args[0]} ")]
    near = (
        below
        or difflib.get_close_matches(" ".join(args[:2]), COMMANDS, 1)
        or difflib.get_close_matches(args[0], COMMANDS, 1)
    )
    hint = f"did you mean {' or '.join(f'gpt {name}' for name in near)}?" if near else "the commands are "
    return f"there is no command {args[0]!r}: {hint}{'' if near else ', '.join(COMMANDS)} (gpt COMMAND --help)"


def sentence(error: Exception) -> str:
    """One sentence for an error: without the errno of an OSError, with the kind of one that was not foreseen."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if said := gpu.out_of_memory(error):
        return f"{said}: a smaller batch_size or context_length, or activation_checkpointing in training, needs less"
    if isinstance(error, MemoryError):
        return (
            f"out of memory: {str(error) or 'an array does not fit'}: a smaller batch_size or context_length needs less"
        )
    if isinstance(error, (ValueError, RuntimeError, OSError, ArithmeticError, ImportError, IndexError)):
        return str(error)
    return f"{type(error).__name__}: {error}; this was not foreseen: --debug shows where it arose"
