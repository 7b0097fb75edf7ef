"""The flags of a command, read from its dataclass: for checks, `--config` and completion.

tyro converts the values and prints the help of a command. The checks here come first, so that each mistake is one
sentence that names the flag as it was typed.
"""

import difflib
import json
import os
import re
import shlex
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from tyro.conf import Positional, UseAppendAction

from .. import jsonfile
from ..config import listed

CONFIG = "--config"
ENDED = "--"  # what comes after it is no flag
_POSITIONAL, _APPEND = get_args(Positional[int])[1], get_args(UseAppendAction[int])[1]


class Usage(Exception):
    """Wrong arguments, in one sentence. `help` is the command whose help says more."""

    def __init__(self, sentence: str, help: str = "gpt"):
        super().__init__(sentence)
        self.help = help


@dataclass(frozen=True)
class Flag:
    """A flag of a command, or a positional argument of it."""

    field: str  # its name in the dataclass
    name: str  # as it is typed: "--batch-size"; of a positional argument "RUN"
    short: str | None  # "-n"
    kind: Literal["switch", "value", "many", "append"]  # many: all values up to the next flag
    positional: bool
    required: bool
    choices: tuple[str, ...]
    path: bool  # whether a value is a file or directory

    @property
    def negated(self) -> str:
        """The other name of a switch."""
        return f"--no-{self.name.removeprefix('--')}"


def flags_of(command: type) -> list[Flag]:
    """The flags and positional arguments of a command, in the order of its fields."""
    hints = get_type_hints(command, include_extras=True)
    return [_flag(field, hints[field.name]) for field in fields(command) if field.init]


def _flag(field: Field[Any], hint: Any) -> Flag:
    kind, marks = (get_args(hint)[0], get_args(hint)[1:]) if get_origin(hint) is Annotated else (hint, ())
    kinds = get_args(kind) if get_origin(kind) in (UnionType, Union) else (kind,)
    kinds = tuple(one for one in kinds if one is not type(None))
    several = get_origin(kinds[0]) is tuple
    one = get_args(kinds[0])[0] if several else kinds[0]
    given = [mark for mark in marks if hasattr(mark, "metavar")]  # tyro.conf.arg(...)
    own = next((mark.name for mark in given if mark.name), None)
    metavar = next((mark.metavar for mark in given if mark.metavar), None)
    positional = _POSITIONAL in marks
    name = f"--{(own or field.name).replace('_', '-')}"
    return Flag(
        field.name,
        (metavar or field.name.upper()) if positional else name,
        next((alias for mark in given for alias in mark.aliases or ()), None),
        "switch" if one is bool else "append" if _APPEND in marks else "many" if several else "value",
        positional,
        field.default is MISSING and field.default_factory is MISSING and not (several and positional),
        tuple(map(str, get_args(one))) if get_origin(one) is Literal else (),
        one is Path,
    )


# ----- checks -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Given:
    """One argument as it was given: a flag with its values, or a positional argument, whose flag is None."""

    flag: Flag | None
    words: list[str]  # as they stand in the command line, underscores in the flag's name replaced
    values: list[str]


def split(name: str, command: type, args: Sequence[str]) -> Iterator[Given]:
    """The arguments of a command one by one. Usage for an unknown flag and for one without its value."""
    known: dict[str, Flag] = {}
    for flag in flags_of(command):
        if not flag.positional:
            known |= {flag.name: flag, **({flag.short: flag} if flag.short else {})}
            known |= {flag.negated: flag} if flag.kind == "switch" else {}
    at = 0
    while at < len(args):
        word = args[at]
        at += 1
        if word == ENDED:
            yield from (Given(None, [rest], [rest]) for rest in args[at:])
            return
        if not word.startswith("-") or word == "-" or is_number(word):
            yield Given(None, [word], [word])
            continue
        typed, equals, value = word.partition("=")
        found = known.get(typed if typed in known else typed.replace("_", "-"))
        if found is None:
            raise Usage(unknown_flag(name, typed, command, list(known)), f"gpt {name}")
        own = typed if typed in known else typed.replace("_", "-")
        if equals or found.kind == "switch":
            yield Given(found, [f"{own}={value}" if equals else own], [value] if equals else [])
            continue
        end = at + 1
        if found.kind == "many":
            while end < len(args) and not args[end].startswith("--") and args[end] not in known:
                end += 1
        values = list(args[at:end])
        if not values or values[0] == ENDED or (values[0] in known and values[0].startswith("--")):
            raise Usage(f"{own} needs a value", f"gpt {name}")
        joined = found.kind in ("value", "append") and values[0].startswith("-")  # not a flag for tyro
        yield Given(found, [f"{own}={values[0]}"] if joined else [own, *values], values)
        at = end


def is_number(word: str) -> bool:
    """Whether a word that begins with "-" is a number, not a flag."""
    try:
        float(word)
    except ValueError:
        return False
    return True


def unknown_flag(name: str, typed: str, command: type, known: Sequence[str]) -> str:
    near = [flag.name for flag in flags_of(command) if not flag.positional and f"--{flag.field}" == typed]
    near = near or difflib.get_close_matches(typed, known, 1, cutoff=0.7)
    field = next((flag for flag in flags_of(command) if f"--{flag.field.replace('_', '-')}" == typed), None)
    hint = f": did you mean {near[0]}?" if near else ""
    if field is not None and field.positional:
        hint = f": {field.name} is given without a flag, gpt {name} {field.name} ..."
    if not hint and not re.match(r"--\S+$", typed) and any(flag.positional for flag in flags_of(command)):
        hint = f"; write {ENDED} before a text or path that begins with -"
    return f"gpt {name} has no flag {typed}{hint}"


def checked(name: str, command: type, args: Sequence[str]) -> list[Given]:
    """The arguments, where all that can be said before values are converted is right; else Usage."""
    given = joined(name, split(name, command, args))
    for one in given:
        if one.flag and one.flag.choices and (wrong := [v for v in one.values if v not in one.flag.choices]):
            raise Usage(no_choice(one.flag.name, wrong[0], one.flag.choices), f"gpt {name}")
    positions = [flag for flag in flags_of(command) if flag.positional]
    words = [one.words[0] for one in given if one.flag is None]
    room = None if any(flag.kind == "many" for flag in positions) else len(positions)
    if room is not None and len(words) > room:
        raise Usage(extra_word(name, command, words[room]), f"gpt {name}")
    for flag, word in zip(positions, words, strict=False):
        if flag.choices and word not in flag.choices:
            raise Usage(no_choice(flag.name, word, flag.choices), f"gpt {name}")
    missing = [flag for flag in positions[len(words) :] if flag.required]
    missing += [flag for flag in flags_of(command) if flag.required and not flag.positional
                and all(one.flag != flag for one in given)]  # fmt: skip
    if missing:
        several = any(one.flag and one.flag.kind == "many" and len(one.values) > 1 for one in given)
        first, verb = missing[0], "is" if len(missing) == 1 else "are"
        hint = f"; {first.name} comes before a flag with several values" if several and first.positional else ""
        raise Usage(f"{listed([flag.name for flag in missing], between=' and ')} {verb} missing{hint}", f"gpt {name}")
    return given


def joined(name: str, given: Iterable[Given]) -> list[Given]:
    """The arguments with all values of a flag that takes several in one place, where it was given more than once."""
    found: list[Given] = []
    for one in given:
        at = next((i for i, other in enumerate(found) if one.flag and other.flag == one.flag), None)
        if at is None or one.flag is None or one.flag.kind != "many":
            found.append(one)
            continue
        values = [*found[at].values, *one.values]
        if odd := [value for value in values if value.startswith("-") and value != "-"]:
            flag = one.flag.name
            sentence = f"{flag} is given several times, once with {odd[0]!r:.80}: give all values after one {flag}"
            raise Usage(sentence, f"gpt {name}")
        found[at] = Given(one.flag, [one.flag.name, *values], values)
    return found


def no_choice(name: str, word: str, choices: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, choices, 1)
    hint = f": did you mean {near[0]}?" if near else ""
    return f"{name} must be one of {', '.join(choices)}, got {word!r:.80}{hint}"


def extra_word(name: str, command: type, word: str) -> str:
    """The sentence for a word too many: most are the value of a flag that was left out."""
    usual = getattr(command, "usual", "")
    hint = f": did you mean {usual} {shlex.quote(word)}?" if usual.startswith("--") else f": {usual}" if usual else ""
    return f"gpt {name} does not take {word!r:.80}{hint}"


# ----- files of flags ---------------------------------------------------------------------------------------------


def with_config(name: str, command: type, args: list[str]) -> list[str]:
    """The arguments with the flags of the files that `--config` names; those given beside it replace a file's."""
    files, rest = _take(args, name)
    if not files:
        return rest
    given = {one.flag.field for one in split(name, command, rest) if one.flag}
    found: dict[str, list[str]] = {}
    for file in files:
        found |= _flags_in(file, name, command)
    words = [word for field, own in found.items() if field not in given for word in own]
    end = rest.index(ENDED) if ENDED in rest else len(rest)
    return [*rest[:end], *words, *rest[end:]]


def _take(args: Sequence[str], name: str) -> tuple[list[Path], list[str]]:
    """The files of `--config`, and the other arguments."""
    files, rest, words = [], [], iter(args)
    for word in words:
        if word == ENDED:
            rest += [word, *words]
        elif word == CONFIG:
            value = next(words, None)
            if value is None:
                raise Usage(f"{CONFIG} needs a value", f"gpt {name}")
            files.append(value)
        elif word.startswith(f"{CONFIG}="):
            files.append(word.removeprefix(f"{CONFIG}="))
        else:
            rest.append(word)
    return [Path(os.path.expanduser(file)) for file in files], rest


def read_config(file: Path) -> dict[str, Any]:
    """The names and values of a JSON or TOML file. ValueError where it is neither, OSError where it cannot be read."""
    text = file.read_text(encoding="utf-8-sig")  # editors on Windows begin a file with a byte order mark
    try:
        values = tomllib.loads(text) if file.suffix.lower() == ".toml" else jsonfile.parse(text)
    except ValueError as error:
        kind = "TOML" if file.suffix.lower() == ".toml" else "JSON (a name that ends in .toml is read as TOML)"
        raise ValueError(f"{file} is not {kind}: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f'{file} must be an object of flags, such as {{"steps": 300}}')
    return values


def _flags_in(file: Path, name: str, command: type) -> dict[str, list[str]]:
    """The flags in a file, as words for the command line, by field. Usage for a name or value that is none."""
    try:
        values = read_config(file)
    except ValueError as error:
        raise Usage(str(error), f"gpt {name}") from None
    flags = [flag for flag in flags_of(command) if not flag.positional]
    known = {key: flag for flag in flags for key in (flag.name.removeprefix("--"), flag.field.replace("_", "-"))}
    found = {}
    for key, value in values.items():
        flag = known.get(key.replace("_", "-"))
        if flag is None:
            near = difflib.get_close_matches(key.replace("_", "-"), known, 1)
            hint = f": did you mean {near[0]}?" if near else ""
            raise Usage(f"{file}: gpt {name} has no flag {key!r:.80}{hint}", f"gpt {name}")
        if value is not None:
            found[flag.field] = _words(file, flag, value, f"gpt {name}")
    return found


def _words(file: Path, flag: Flag, value: Any, help: str) -> list[str]:
    """A flag's value from a file as words of the command line."""
    wanted = {"switch": "true or false", "many": "a list", "append": "a list", "value": "one value"}[flag.kind]
    several = value if isinstance(value, list) else [value]
    plain = all(isinstance(item, str | int | float) for item in several)
    if flag.kind == "switch":
        if isinstance(value, bool):
            return [flag.name if value else flag.negated]
    elif plain and not any(isinstance(item, bool) for item in several):
        texts = [item if isinstance(item, str) else json.dumps(item) for item in several]
        if flag.kind == "value" and not isinstance(value, list):
            return [f"{flag.name}={texts[0]}"]
        if flag.kind == "append":
            return [f"{flag.name}={text}" for text in texts]
        if flag.kind == "many":
            return [flag.name, *texts] if texts else []
    raise Usage(f"{file}: {flag.name.removeprefix('--')} must be {wanted}, got {value!r:.80}", help)


def without_defaults(given: Sequence[Given], defaults: Mapping[str, Any]) -> list[str]:
    """The words for tyro, which knows a switch only by the name that changes its default."""
    words: list[str] = []
    dashed = any(one.flag is None and one.words[0].startswith("-") for one in given)
    for one in given:
        if dashed and one.flag is None:
            continue
        if one.flag and one.flag.kind == "switch" and len(one.words) == 1 and not one.values:
            if (one.words[0] == one.flag.name) != bool(defaults.get(one.flag.field)):
                words += one.words
            continue
        words += one.words
    return [*words, ENDED, *(one.words[0] for one in given if one.flag is None)] if dashed else words
