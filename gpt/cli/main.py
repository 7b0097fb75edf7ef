"""The command `gpt`: parses the arguments, runs a command, and reports an error in one sentence.

The exit status is 2 for wrong usage and 1 for a later error, each with one sentence on standard error; `--debug` shows
the traceback. It is 130 after SIGINT, 143 after SIGTERM and 129 after SIGHUP.
"""

import codecs
import contextlib
import io
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

from tensorlite import distributed
from tensorlite.devices import gpu, machine
from tensorlite.files import naming

from .. import __version__, fast
from ..console import LOST, printable
from ..training.run_directory import RunWarning
from .flags import ENDED, Usage
from .parsing import parse, with_flags

LONGEST = 1500  # characters of an error message: names in a file may have any length


def main(args: list[str] | None = None) -> None:
    """Run one command, with the arguments of the process by default, and exit with its status (SystemExit)."""
    args = list(sys.argv[1:] if args is None else args)
    flags = args[: args.index(ENDED)] if ENDED in args else args
    debug = "--debug" in flags
    args = [arg for arg in flags if arg != "--debug"] + args[len(flags) :]
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by the caller (>&-)
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    for output in (sys.stdout, sys.stderr):
        if isinstance(output, io.TextIOWrapper):
            output.reconfigure(errors="gpt")  # a terminal without UTF-8 shows ? instead of a traceback
    try:
        with warnings.catch_warnings(), flushing_output():
            warnings.showwarning = show_warning
            warnings.simplefilter("default", RunWarning)
            sys.exit(run(args))
    except BrokenPipeError:  # the reader of our output has ended
        discard_output()
        sys.exit(141)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        sys.exit(report(error, debug))


def report(error: Exception, debug: bool) -> int:
    """Print the sentence of an error; the exit status. Of several processes that fail before they know of each other,
    the first one of each host prints it.
    """
    first = distributed.joined() is not None or distributed.launched()[2] == 0
    if usage := isinstance(error, Usage):
        text = f"{printable(str(error), LONGEST)} ({error.help} --help)"
    else:
        text = printable(sentence(error), LONGEST)
    if debug and not usage:
        traceback.print_exception(error)
    with contextlib.suppress(OSError):  # standard error is closed
        if first:
            print(f"gpt: {text}", file=sys.stderr)
    return 2 if usage else 1


@contextlib.contextmanager
def flushing_output() -> Iterator[None]:
    """Flush standard output after the block. An OSError of it, such as a full disk, names standard output."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in LOST:  # errors of other files name them already
            error.filename = "standard output"
        raise
    finally:
        try:
            with naming("standard output"):
                sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError:
            discard_output()
            raise


def discard_output() -> None:
    """Discard what is still in the buffer of standard output, so that Python's exit does not raise a second error."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def encode_anyway(error: UnicodeError) -> tuple[bytes, int]:
    """A codecs error handler for output: bytes that were not UTF-8 in the input unchanged, other characters as "?"."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = error.object[error.start : error.end]
    return bytes(ord(c) - 0xDC00 if "\udc80" <= c <= "\udcff" else ord("?") for c in found), error.end


codecs.register_error("gpt", encode_anyway)


def show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    """Print a warning as one line, without its place in the source."""
    with contextlib.suppress(OSError):  # standard error is closed
        print(f"gpt: warning: {' '.join(str(message).split())}", file=sys.stderr, flush=True)


def run(args: list[str]) -> int:
    """Parse the arguments and run the command; its exit status."""
    if args[:1] == ["--version"]:
        print(f"gpt {__version__}")
        return 0
    machine.keep_freed_memory()
    fast.attach_decode()
    with warnings.catch_warnings():  # NumPy's warnings of overflow and the like; errors name what is not finite
        warnings.simplefilter("ignore", RuntimeWarning)
        command = parse(args)
        try:
            status: int = command()
        except ValueError as error:
            if type(error) is not ValueError or ".json" in str(error):  # a file has the names of settings, not flags
                raise
            raise ValueError(with_flags(str(error), type(command))) from error
    return status


def has_current_directory() -> bool:
    """Whether the directory that relative paths start from still has a name."""
    try:
        return bool(os.getcwd())
    except FileNotFoundError:
        return False


def sentence(error: Exception) -> str:
    """One sentence for an error: without the errno of an OSError, with the type of an unexpected one."""
    if isinstance(error, FileNotFoundError) and error.filename is None and not has_current_directory():
        return "the current directory was deleted: change to another one"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if reason := gpu.out_of_memory(error):
        return (
            f"{reason}: a smaller --batch-size or --context-length, or --activation-checkpointing in training, needs "
            "less"
        )
    if isinstance(error, MemoryError):
        reason = str(error) or "an array does not fit"
        return f"out of memory: {reason}: a smaller --batch-size or --context-length needs less"
    if isinstance(error, (ValueError, RuntimeError, OSError, ArithmeticError, ImportError, IndexError)):
        return str(error)
    return f"{type(error).__name__}: {error}; unexpected error: --debug prints the traceback"
