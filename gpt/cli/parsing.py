"""From the arguments of the process to a command: its name, its help, its flags, one sentence for each mistake."""

import contextlib
import difflib
import inspect
import io
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from . import COMMANDS, GROUPS
from .flags import ENDED, Usage, checked, flags_of, with_config, without_defaults

HELP = ("-h", "--help")
RULE = re.compile("[-─]{5}")  # a line of tyro's frames
ABOUT = "Train a GPT on text, use it, and look inside it."
BELOW = """\
gpt COMMAND --help lists the flags of a command; --config FILE reads them from a
JSON or TOML file. --version prints the version, --debug the traceback of an
error. NO_COLOR=1 switches colours off. gpt completion --help is about Tab."""


def parse(args: Sequence[str]) -> Any:
    """The command that the arguments name, ready to be called. Usage for a mistake; help exits with 0."""
    words = list(args)
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    if not words or words[0] in HELP:
        show_help(overview(GROUPS))
    name = " ".join(words[:2])
    name, rest = (name, words[2:]) if name in COMMANDS else (words[0], words[1:])
    below = {part: line for group in GROUPS.values() for part, line in group.items() if part.startswith(f"{name} ")}
    if below and (not rest or rest[0] in HELP):
        show_help(overview({name: below}))
    if name not in COMMANDS:
        raise Usage(no_command(words))
    command = COMMANDS[name]
    if any(word in HELP for word in rest[: rest.index(ENDED) if ENDED in rest else None]):
        show_help(help_of(name, command, rest))
    rest = with_config(name, command, rest)
    given = checked(name, command, rest)
    default = command.default(rest) if hasattr(command, "default") else None
    values = {field.name: getattr(default or command, field.name, None) for field in fields(command)}
    return built(name, command, without_defaults(given, values), default)


def built(name: str, command: type, args: Sequence[str], default: Any = None) -> Any:
    """The command with the values of its flags, by tyro. Usage where a value cannot be used."""
    said = Captured()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):  # colours, if stdout is a terminal
            return _tyro(name, command, args, default)
    except SystemExit as stopped:
        if isinstance(stopped.__context__, ValueError):  # of the dataclass
            raise Usage(with_flags(str(stopped.__context__), command), f"gpt {name}") from None
        raise Usage(plain(said.getvalue()), f"gpt {name}") from None


def _tyro(name: str, command: type, args: Sequence[str], default: Any) -> Any:
    about = inspect.cleandoc(command.__doc__ or "")
    start = {} if default is None else {"default": default}
    flags = (tyro.conf.FlagCreatePairsOff,)
    return tyro.cli(
        command, prog=f"gpt {name}", description=about, args=list(args), config=flags, registry=RULES, **start
    )


# ----- help -------------------------------------------------------------------------------------------------------


def show_help(text: str) -> None:
    """Print a help text and end with status 0."""
    print(text)
    sys.exit(0)


def overview(groups: dict[str, dict[str, str]]) -> str:
    """The commands in groups, each with a line."""
    width = max(len(name) for group in groups.values() for name in group) + 2
    lines = [f"usage: gpt {'COMMAND' if len(groups) > 1 else f'{next(iter(groups))} COMMAND'} ...", "", ABOUT]
    for title, group in groups.items():
        lines += ["", f"{title}:", *(f"  {name:{width}}{about}" for name, about in group.items())]
    return "\n".join([*lines, "", BELOW])


def help_of(name: str, command: type, args: Sequence[str]) -> str:
    """The help of a command, from tyro, without the defaults that say nothing: no value, and those of switches."""
    try:
        default = command.default(list(args)) if hasattr(command, "default") else None
    except (OSError, ValueError):  # of a run to resume that cannot be read
        default = None
    said = Captured()
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(said):
        _tyro(name, command, ["--help"], default)
    text = re.sub(r"\(default:([ │|\n]*)(None|''|True|False)?\)", _blank, said.getvalue())
    # "None" is listed among choices, but no word stands for it
    text = re.sub(r"\{None,([^}\n]*)\}( *)(?=[│|])", r"{\1}     \2", text).replace("{None,", "{")
    rows = [row.rstrip() for row in text.splitlines()]
    start = next((i for i, row in enumerate(rows) if RULE.search(row)), len(rows))
    above = [textwrap.fill(row, shutil.get_terminal_size().columns, subsequent_indent="  " * row.startswith("usage"))
             for row in rows[:start]]  # fmt: skip
    below = [row for row in rows[start:] if row.strip(" │|")]
    below = grouped(below, command)
    return re.sub(r"\n{3,}", "\n\n", "\n".join([*above, *below])).strip("\n")


def grouped(rows: Sequence[str], command: type) -> list[str]:
    """The rows of a help with the frame of options cut into the command's `groups`, a frame for each."""
    groups: dict[str, tuple[str, ...]] = getattr(command, "groups", {})
    start = next((i for i, row in enumerate(rows) if row.startswith("╭─ options ─")), None)
    if not groups or start is None:
        return list(rows)
    end = next(i for i in range(start, len(rows)) if rows[i].startswith("╰"))
    entries: list[list[str]] = []
    for row in rows[start + 1 : end]:
        if row.startswith("│ -"):
            entries.append([])
        entries[-1].append(row)
    names = {flag.field: {flag.name, flag.negated} for flag in flags_of(command)}
    found: dict[str, list[str]] = {"options": [], **{title: [] for title in groups}}
    for entry in entries:
        words = set(re.split(r"[\s,]+", entry[0]))
        title = next(
            (title for title, group in groups.items() if any(words & names.get(field, set()) for field in group)), None
        )
        found[title or "options"] += entry
    frames = [
        [f"╭─ {title} {'─' * (len(rows[start]) - len(title) - 5)}╮", *lines, rows[end]]
        for title, lines in found.items()
        if lines
    ]
    return [*rows[:start], *(row for frame in frames for row in frame), *rows[end + 1 :]]


class Captured(io.StringIO):
    """What tyro prints, with the frames that standard output can show."""

    encoding = "utf-8"


def _blank(found: re.Match[str]) -> str:
    """Spaces in place of a hint, so that the frame around it stays straight."""
    return re.sub(r"[^ │|\n]", " ", found[0])


# ----- mistakes ---------------------------------------------------------------------------------------------------


def no_command(args: Sequence[str]) -> str:
    """One sentence for arguments that do not name a command."""
    below = [name for name in COMMANDS if name.startswith(f"{args[0]} ")]
    near = (
        below
        or difflib.get_close_matches(" ".join(args[:2]), COMMANDS, 1)
        or difflib.get_close_matches(args[0], COMMANDS, 1)
    )
    hint = f": did you mean {' or '.join(f'gpt {name}' for name in near)}?" if near else ""
    if args[0].startswith("-"):
        return f"gpt has no flag {args[0]}: a command comes first"
    return f"there is no command {' '.join(args[:2] if below else args[:1])!r:.80}{hint}"


def with_flags(sentence: str, command: type) -> str:
    """A sentence of the core with the names of settings as flags: batch_size as --batch-size, base as --from."""
    names = {flag.field: flag.name for flag in flags_of(command)}
    start, space, rest = sentence.partition(" ")
    if start in names:
        sentence = f"{names[start]}{space}{rest}"
    known = "|".join(sorted(names, key=len, reverse=True))
    pattern = rf"(?<= was started )(with|without) ({known})(?= )"
    sentence = re.sub(pattern, lambda found: f"{found[1]} {names[found[2]]}", sentence)
    several = [name for name in names if "_" in name]
    if not several:
        return sentence
    pattern = rf"(?<![\w./-])({'|'.join(sorted(several, key=len, reverse=True))})(?![\w./])"
    return re.sub(pattern, lambda found: names[found[1]], sentence)


def plain(box: str) -> str:
    """tyro's message in its frame as a sentence: without frame, title, and what is below the first rule."""
    sections: list[list[str]] = [[]]
    for row in box.strip().splitlines():
        if RULE.search(row):
            sections.append([])
        elif text := row.strip("│| "):
            sections[-1].append(text)
    said = [" ".join(rows) for rows in sections if rows]
    return re.sub(r"^Error parsing (\S+?)(/--\S+)?: ", r"\1: ", said[0] if said else box.strip())


# ----- values -----------------------------------------------------------------------------------------------------

RULES = ConstructorRegistry()


def _path(word: str) -> Path:
    """ "" is an error: with an unset variable, Path("") would be the current directory."""
    if not word:
        raise ValueError("it is empty: name a file or a directory (. is the current one)")
    return Path(os.path.expanduser(word))  # a shell does not expand a quoted ~


def _integer(word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise ValueError(f"an integer is needed, got {word!r:.80}") from None


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise ValueError(f"a number is needed, got {word!r:.80}") from None


READ: dict[Any, tuple[str, Callable[[str], Any]]] = {
    Path: ("PATH", _path), int: ("INT", _integer), float: ("FLOAT", _number), str: ("TEXT", str),
}  # fmt: skip


@RULES.primitive_rule
def _value(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """How one word is read. A value that may be None is None where its flag is left out; no word stands for it."""
    kinds = get_args(info.type) if info.type_origin in (UnionType, Union) else (info.type,)
    kinds = tuple(kind for kind in kinds if kind is not type(None))
    if len(kinds) != 1 or kinds[0] not in READ:
        return None
    metavar, read = READ[kinds[0]]
    return PrimitiveConstructorSpec(
        1, metavar, lambda words: read(words[0]),
        lambda value: value is None or isinstance(value, kinds[0]) or (kinds[0] is float and isinstance(value, int)),
        lambda value: [str(value)],
    )  # fmt: skip
