"""`gpt completion`: scripts that complete the commands and flags of gpt with the Tab key."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from .flags import CONFIG, Flag, flags_of

EVERYWHERE = ("--help", CONFIG)


@dataclass(frozen=True)
class Completion:
    """Print a script that completes commands, flags and their choices with Tab.

    bash: add `eval "$(gpt completion bash)"` to ~/.bashrc.
    zsh: add `eval "$(gpt completion zsh)"` to ~/.zshrc, after compinit.
    fish: gpt completion fish > ~/.config/fish/completions/gpt.fish
    """

    shell: Annotated[Positional[Literal["bash", "zsh", "fish"]], arg(metavar="SHELL")]  # bash, zsh or fish

    def __call__(self) -> int:
        from . import COMMANDS, GROUPS  # COMMANDS has this command

        about = {name: text for group in GROUPS.values() for name, text in group.items()}
        print({"bash": bash, "zsh": zsh, "fish": fish}[self.shell](COMMANDS, about))
        return 0


def words_of(flag: Flag) -> list[str]:
    """The names of a flag."""
    names = [flag.name, *([flag.short] if flag.short else [])]
    return [*names, flag.negated] if flag.kind == "switch" else names


def first_words(names: Sequence[str]) -> list[str]:
    """The first words of the commands, each once: `finetune` has two commands."""
    return list(dict.fromkeys(name.split(" ")[0] for name in names))


def second_words(names: Sequence[str]) -> dict[str, list[str]]:
    """The second words of the commands of two words, by their first one."""
    found: dict[str, list[str]] = {}
    for name in names:
        first, _, second = name.partition(" ")
        if second:
            found.setdefault(first, []).append(second)
    return found


# ----- bash and zsh -----------------------------------------------------------------------------------------------


def cases(commands: Mapping[str, type]) -> str:
    """The branches of a `case` over the command's name, which set the words that can follow."""
    lines = []
    for name, command in commands.items():
        flags = flags_of(command)
        words = [*(word for flag in flags if not flag.positional for word in words_of(flag)), *EVERYWHERE]
        here = " ".join(next((flag.choices for flag in flags if flag.positional and flag.choices), ()))
        lines.append(f'    "{name}") flags="{" ".join(words)}"; here="{here}";;')
    return "\n".join(lines)


def choices(commands: Mapping[str, type]) -> str:
    """The branches of a `case` over "COMMAND FLAG", which set the values of the flag."""
    lines = []
    for name, command in commands.items():
        for flag in flags_of(command):
            if flag.choices and not flag.positional:
                patterns = "|".join(f'"{name} {word}"' for word in words_of(flag))
                lines.append(f'    {patterns}) here="{" ".join(flag.choices)}";;')
    return "\n".join(lines)


def two_words(commands: Mapping[str, type]) -> str:
    """The branches of a `case` over the first word, for commands of two words."""
    return "\n".join(f'    {first}) both="{" ".join(rest)}";;' for first, rest in second_words(list(commands)).items())


SHARED = """\
# completion of gpt, made by `gpt completion @SHELL@`
_gpt_words() {  # word before the current one, then all words before it: sets `flags` and `here`
  local last="$1" name="$3" both=""
  flags="" here=""
  if [ $# -lt 3 ]; then here="@FIRST@ help --help --version"; return; fi
  case "$3" in
@TWO@
  esac
  if [ -n "$both" ]; then
    if [ $# -lt 4 ]; then here="$both"; return; fi
    name="$3 $4"
  fi
  case "$name" in
@CASES@
  esac
  case "$name $last" in
@CHOICES@
  esac
}
"""


def shared(commands: Mapping[str, type], shell: str) -> str:
    """The function that bash and zsh use alike: which words can follow."""
    parts = {
        "SHELL": shell, "FIRST": " ".join(first_words(list(commands))), "TWO": two_words(commands),
        "CASES": cases(commands), "CHOICES": choices(commands),
    }  # fmt: skip
    text = SHARED
    for name, part in parts.items():
        text = text.replace(f"@{name}@", part)
    return text


def bash(commands: Mapping[str, type], about: Mapping[str, str]) -> str:
    """The script for bash. Files complete everywhere else."""
    return (
        shared(commands, "bash")
        + """\
_gpt() {
  local current="${COMP_WORDS[COMP_CWORD]}" flags here
  _gpt_words "${COMP_WORDS[COMP_CWORD-1]}" "${COMP_WORDS[@]:0:COMP_CWORD}"
  case "$current" in
    -*) [ $COMP_CWORD -gt 1 ] && here="$flags";;
  esac
  COMPREPLY=($(compgen -W "$here" -- "$current"))
}
complete -o default -o bashdefault -F _gpt gpt"""
    )


def zsh(commands: Mapping[str, type], about: Mapping[str, str]) -> str:
    """The script for zsh. Files complete where there is no other word."""
    return (
        shared(commands, "zsh")
        + """\
_gpt() {
  local current="${words[CURRENT]}" flags here
  _gpt_words "${words[CURRENT-1]}" "${(@)words[1,CURRENT-1]}"
  case "$current" in
    -*) (( CURRENT > 2 )) && here="$flags";;
  esac
  if [ -n "$here" ]; then compadd -- ${=here}; else _files; fi
}
compdef _gpt gpt"""
    )


# ----- fish -------------------------------------------------------------------------------------------------------


def fish(commands: Mapping[str, type], about: Mapping[str, str]) -> str:
    """The script for fish. Files complete where there is no other word."""
    names = list(commands)
    lines = ["# completion of gpt, made by `gpt completion fish`", "complete -c gpt -f"]
    start = "test (count (commandline -opc)) -eq 1"
    second = second_words(names)
    for word in first_words(names):
        text = about.get(word) or f"{' or '.join(second[word])}"
        lines.append(f"complete -c gpt -n '{start}' -a {word} -d {quoted(text)}")
    for first, rest in second.items():
        where = f"test (count (commandline -opc)) -eq 2; and __fish_seen_subcommand_from {first}"
        lines += [f"complete -c gpt -n '{where}' -a {word} -d {quoted(about[f'{first} {word}'])}" for word in rest]
    for name, command in commands.items():
        words = name.split(" ")
        tests = [f"test (commandline -opc)[{i + 2}] = {word}" for i, word in enumerate(words)]
        enough = f"test (count (commandline -opc)) -gt {len(words)}"
        lines += fish_flags("; and ".join([enough, *tests]), command)
    return "\n".join(lines)


def fish_flags(where: str, command: type) -> list[str]:
    """The lines for the flags of a command; `where` is fish's condition for it."""
    start, lines = f"complete -c gpt -n '{where}'", []
    for flag in flags_of(command):
        words = f"-xa {quoted(' '.join(flag.choices))}" if flag.choices else "-r -F"
        if flag.positional:
            words = f"-a {quoted(' '.join(flag.choices))}" if flag.choices else "-F"
            lines.append(f"{start} {words}")
            continue
        short = f" -s {flag.short.removeprefix('-')}" if flag.short else ""
        for name in words_of(flag):
            if name.startswith("--"):
                value = "" if flag.kind == "switch" else f" {words}"
                lines.append(f"{start} -l {name.removeprefix('--')}{short}{value}")
    return [*lines, f"{start} -l help", f"{start} -l config -r -F"]


def quoted(text: str) -> str:
    """A text in fish's single quotes."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
