"""Arguments: --config files, both names of a switch, help at 80 columns, completion by the real shells."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields

import pytest
from runs import ONE_THREAD

from gpt.cli import COMMANDS, GROUPS
from gpt.cli.flags import Usage, flags_of
from gpt.cli.generate import Generate
from gpt.cli.params import Params
from gpt.cli.parsing import parse
from gpt.cli.train import GROUPS as TRAINING_GROUPS
from gpt.cli.train import FinetuneInstruct, Train, value_of

slow = pytest.mark.slow


def parsed(*args):
    return parse([str(arg) for arg in args])


# ----- --config -----------------------------------------------------------------------------------------------------


def test_flags_come_from_a_file_and_those_given_win(tmp_path):
    values = {"steps": 7, "n-layer": 2, "n_head": 1, "lr": 1e-3, "tokenizer": "char", "keep_best": True,
              "cuda_graph": False, "text": ["a.txt", "b c.txt"], "out": "o", "dropout": None, "from": None}  # fmt: skip
    (tmp_path / "c.json").write_text(json.dumps(values))
    (tmp_path / "c.toml").write_text("\n".join(f"{k} = {json.dumps(v)}" for k, v in values.items() if v is not None))
    for file in (tmp_path / "c.json", tmp_path / "c.toml"):
        found = parsed("train", "--steps", 9, "--config", file, "--text", "x.txt")
        assert found == Train(steps=9, n_layer=2, n_head=1, lr=1e-3, tokenizer="char", keep_best=True,
                              cuda_graph=False, text=("x.txt",), out="o")  # fmt: skip
        assert parsed("train", f"--config={file}").text == Train(text=("a.txt", "b c.txt")).text
        assert parsed("train", "--config", file, "--cuda-graph", "--no-keep-best", "--lr=0.5").cuda_graph
        assert not parsed("train", "--config", file, "--no-keep-best").keep_best


def test_the_last_of_several_files_wins(tmp_path):
    for name, values in (("a", {"steps": 3, "seed": 1}), ("b", {"steps": 4})):
        (tmp_path / f"{name}.json").write_text(json.dumps(values))
    found = parsed("train", "--config", tmp_path / "a.json", "--config", tmp_path / "b.json")
    assert (found.steps, found.seed) == (4, 1)


def test_values_that_look_like_flags(tmp_path):
    (tmp_path / "c.json").write_text(json.dumps({"prompt": ["-x", "--stop"], "temperature": 1, "stop": "\n"}))
    found = parsed("generate", "run", "--config", tmp_path / "c.json")
    assert (found.prompt, found.temperature, found.stop) == (("-x", "--stop"), 1.0, ("\n",))
    assert parsed("generate", "run", "--prompt", "-x", "--seed", "3").prompt == ("-x",)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"stepz": 3}', "gpt train has no flag 'stepz': did you mean steps?"),
        ('{"watch": 3}', "watch must be true or false, got 3"),
        ('{"steps": true}', "steps must be one value, got True"),
        ('{"steps": [1]}', "steps must be one value, got [1]"),
        ('{"text": {"a": 1}}', "text must be a list, got {'a': 1}"),
        ("[1]", 'must be an object of flags, such as {"steps": 300}'),
        ("steps: 3", "is not JSON (a name that ends in .toml is read as TOML): Expecting value"),
        ('{"steps": "many"}', "--steps: an integer is needed, got 'many'"),
        ('{"steps": 0}', "--steps must be an integer of at least 1, got 0"),
    ],
)
def test_a_wrong_file_is_one_sentence(call, tmp_path, text, says):
    (tmp_path / "c.json").write_text(text)
    status, output, errors = call("train", "--config", tmp_path / "c.json")
    assert (status, output, errors.count("\n")) == (2, "", 1)
    assert says in errors
    assert errors.endswith("(gpt train --help)\n")


def test_a_file_that_is_not_there(call, tmp_path):
    assert call("train", "--config", tmp_path / "none.json")[::2] == (
        1, f"gpt: {tmp_path / 'none.json'}: No such file or directory\n",
    )  # fmt: skip
    assert call("train", "--config")[::2] == (2, "gpt: --config needs a value (gpt train --help)\n")


@slow
def test_every_field_of_every_command_can_stand_in_a_file(tmp_path):
    """The names of all flags are known; a value of the wrong kind is refused for its kind, not for its name."""
    for name, command in COMMANDS.items():
        for flag in flags_of(command):
            if not flag.positional:
                (tmp_path / "c.json").write_text(json.dumps({flag.field: {"no": "value"}}))
                with pytest.raises(Usage, match="must be"):
                    parsed(*name.split(), "--config", tmp_path / "c.json")


# ----- flags --------------------------------------------------------------------------------------------------------


def test_both_names_of_a_switch_are_taken():
    for args, expected in (([], True), (["--cache"], True), (["--no-cache"], False)):
        assert parsed("generate", "x", *args).cache == expected
    for args, expected in (([], False), (["--special-tokens"], True), (["--no-special-tokens"], False)):
        assert parsed("generate", "x", *args).special_tokens == expected


def test_underscores_and_short_flags():
    assert parsed("generate", "x", "--max_new_tokens", "3", "-n", "2") == parsed(
        "generate", "x", "--max-new-tokens=3", "--samples=2"
    )


def test_a_flag_of_several_values_that_is_given_again_adds_to_them(tmp_path):
    assert parsed("train", "--text", "a", "b", "--text=c", "--steps", "3", "--text", "d").text == (
        parsed("train", "--text", "a", "b", "c", "d").text
    )  # fmt: skip
    assert parsed("train", "--from", "r", "--text", "a", "--add-token", "<x>", "--add-token", "<y>").add_token == (
        "<x>", "<y>",
    )  # fmt: skip
    with pytest.raises(Usage, match=r"--text is given several times, once with '-c': give all values after one --text"):
        parsed("train", "--text", "a", "--text=-c")
    (tmp_path / "c.json").write_text(json.dumps({"text": ["z"]}))  # a file's list is replaced, as any value is
    assert [path.name for path in parsed("train", "--text", "a", "--config", tmp_path / "c.json").text] == ["a"]


def test_what_comes_after_two_dashes_is_no_flag(tmp_path):
    assert parsed("classify", "run", "--json", "--", "-50 % off", "--json", "--").texts == ("-50 % off", "--json", "--")
    assert parsed("tokenize", "--", "-r", "--help").text == "--help"
    assert str(parsed("generate", "--seed", "3", "--", "--debug").run) == "--debug"
    assert str(parsed("show", "--", "-x").run) == "-x"
    assert parsed("classify", "run", "--").texts == ()
    (tmp_path / "c.json").write_text(json.dumps({"suffix": [".py", ".md"], "out": "o", "tokenizer": "gpt2"}))
    found = parsed("data", "prepare", "a", "--config", tmp_path / "c.json", "--", "-b")
    assert (found.paths, found.suffix) == (("a", "-b"), (".py", ".md"))
    with pytest.raises(Usage, match="--file needs a value"):
        parsed("classify", "run", "--file", "--")


def test_a_text_like_a_flag_is_answered_with_what_comes_before_it(call):
    status, _, errors = call("classify", "run", "-50 % off")
    assert status == 2
    assert errors == (
        "gpt: gpt classify has no flag -50 % off; write -- before a text or path that begins with - "
        "(gpt classify --help)\n"
    )


def test_debug_after_two_dashes_is_a_text(call, tmp_path):
    status, _, errors = call("show", "--", "--debug")
    assert (status, errors) == (1, "gpt: there is no run --debug\n")


@pytest.mark.parametrize(("name", "text"), [("c.json", '{\r\n"seed": 7\r\n}\r\n'), ("c.toml", "seed = 7\r\n")])
def test_a_file_may_begin_with_a_byte_order_mark(tmp_path, name, text):
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert parsed("generate", "x", "--config", tmp_path / name).seed == 7


def test_help_lists_no_choice_that_no_word_stands_for(call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for command, choices in (("judge", "{alpaca,phi3}"), ("import", "{gpt2,gpt2-medium,gpt2-large,gpt2-xl}")):
        lines = call(command, "--help")[1].splitlines()
        assert any(choices in line for line in lines)
        assert not any("None" in line for line in lines)
        assert {len(line) for line in lines if line.startswith("│")} == {80}


def test_a_setting_whose_value_is_the_word_none_is_a_text():
    assert parsed("train", "--prompt", "None").prompt == "None"


def test_the_fields_of_a_command_are_its_flags():
    for command in (Generate, Params, Train, FinetuneInstruct):
        assert [flag.field for flag in flags_of(command)] == [field.name for field in fields(command)]


# ----- help ---------------------------------------------------------------------------------------------------------


def test_bare_gpt_lists_the_commands_in_groups(call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    status, output, errors = call()
    assert (status, errors) == (0, "")
    assert {name for group in GROUPS.values() for name in group} == set(COMMANDS)
    for title, group in GROUPS.items():
        part = output[output.index(f"\n{title}:\n") :]
        for name, about in group.items():
            assert re.search(rf"^  {name} +{re.escape(about)}$", part, re.MULTILINE)
    assert max(map(len, output.splitlines())) <= 80
    assert call("--help") == call("help") == call("-h") == (0, output, "")


def test_the_two_commands_of_finetune_are_listed(call):
    status, output, errors = call("finetune")
    assert (status, errors, output.count("\n  finetune ")) == (0, "", 2)
    assert call("finetune", "--help")[1] == output
    assert "generate" not in output


@slow
@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_80_columns_and_names_every_flag(call, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    status, output, errors = call(*command.split(), "--help")
    assert (status, errors) == (0, "")
    assert output.startswith(f"usage: gpt {command}")
    assert max(map(len, output.splitlines())) <= 80
    assert not re.search(r"\(default:[\s│]*(None)?\)|\{None\}|\x1b", output)
    for flag in flags_of(COMMANDS[command]):
        names = (flag.name, flag.negated) if flag.kind == "switch" else (flag.name,)
        assert any(re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", output) for name in names), flag
    assert call("help", *command.split())[1] == output


def test_every_flag_of_training_is_in_one_group_of_its_help(call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    listed = [name for group in TRAINING_GROUPS.values() for name in group]
    assert len(listed) == len(set(listed))
    for name in ("train", "finetune classify", "finetune instruct"):
        own = {flag.field for flag in flags_of(COMMANDS[name]) if not flag.positional}
        assert own <= set(listed)
        output = call(*name.split(), "--help")[1]
        frames = re.split(r"╭─ (.+?) ─+╮\n", output)[1:]
        assert len(set(frames[::2])) == len(frames[::2])
        for title, rows in zip(frames[::2], frames[1::2], strict=True):
            found = set(re.findall(r"^│ (?:-n INT, )?--(?:no-)?([\w-]+)", rows, re.MULTILINE))
            fields_there = {flag.field for flag in flags_of(COMMANDS[name])
                            if flag.name.removeprefix("--") in found and not flag.positional}  # fmt: skip
            if title not in ("options", "positional arguments"):
                assert fields_there == own & set(TRAINING_GROUPS[title])
                own -= fields_there
        assert not own


def in_a_terminal(*args: str, **environment: str) -> bytes:
    """What `gpt ARGS` writes to a pseudo-terminal."""
    pty = pytest.importorskip("pty")
    control, terminal = pty.openpty()
    process = subprocess.Popen([sys.executable, "-m", "gpt", *args], stdout=terminal, stderr=terminal,
                               stdin=terminal, env={**ONE_THREAD, "TERM": "xterm-256color", **environment})  # fmt: skip
    os.close(terminal)
    said = b""
    with contextlib.suppress(OSError):  # how Linux ends the reading
        while block := os.read(control, 1 << 16):
            said += block
    process.wait()
    os.close(control)
    return said


def test_help_and_errors_have_no_colours_in_a_terminal_without_them():
    for args in (["--help"], ["train", "--help"], ["train", "--stepz"]):
        said = in_a_terminal(*args, NO_COLOR="1")
        assert len(said) > 40
        assert b"\x1b" not in said


def test_a_wrong_value_is_the_same_sentence_in_a_terminal():
    """tyro colours its message there, which is taken apart."""
    said = in_a_terminal("train", "--steps", "abc").decode()
    assert said == "gpt: --steps: an integer is needed, got 'abc' (gpt train --help)\r\n"


# ----- completion ---------------------------------------------------------------------------------------------------


def complete_bash(script, words, folder):
    """What bash offers for the last of the words."""
    program = f"""
{script}
COMP_WORDS=({" ".join(f"'{word}'" for word in words)})
COMP_CWORD={len(words) - 1}
_gpt
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "--norc"], input=program, capture_output=True, text=True, cwd=folder)
    assert done.stderr == ""
    return done.stdout.split()


def complete_zsh(script, words, folder):
    """What zsh's function adds for the last of the words: all it knows there, which zsh itself then filters."""
    program = f"""
compdef() {{ : }}
compadd() {{ shift; print -l -- "$@" }}
_files() {{ print FILES }}
{script}
words=({" ".join(f"'{word}'" for word in words)})
CURRENT={len(words)}
_gpt
"""
    done = subprocess.run(["zsh", "-f"], input=program, capture_output=True, text=True, cwd=folder)
    assert done.stderr == ""
    return [word for word in done.stdout.split() if word.startswith(words[-1])]


def complete_fish(script, words, folder):
    """What fish offers for the last of the words."""
    (folder / "gpt.fish").write_text(script)
    line = " ".join(words)
    program = f"source {folder / 'gpt.fish'}; complete -C '{line}'"
    environment = {**ONE_THREAD, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    done = subprocess.run(["fish", "-N", "-c", program], capture_output=True, text=True, cwd=folder, env=environment)
    assert done.stderr == ""
    return [offer.split("\t")[0] for offer in done.stdout.splitlines()]


COMPLETE = {"bash": complete_bash, "zsh": complete_zsh, "fish": complete_fish}


@slow
@pytest.mark.parametrize("shell", COMPLETE)
def test_a_shell_completes_commands_flags_and_choices(call, tmp_path, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    status, script, errors = call("completion", shell)
    assert (status, errors) == (0, "")

    def complete(*words):
        return set(COMPLETE[shell](script, ["gpt", *words], tmp_path))

    assert complete("ge") == {"generate"}
    assert {name.split()[0] for name in COMMANDS} <= complete("")
    assert complete("finetune", "") >= {"classify", "instruct"}
    assert complete("finetune", "cl") == {"classify"}
    assert complete("train", "--max-m") == {"--max-minutes"}
    assert complete("train", "--fr") == {"--from"}
    assert complete("finetune", "classify", "--posi") == {"--position"}
    assert complete("finetune", "instruct", "--sty") == {"--style"}
    assert complete("finetune", "instruct", "--posi") == set()
    assert complete("train", "--tokenizer", "") >= {"bpe", "char", "word", "gpt2"}
    assert complete("finetune", "instruct", "--style", "al") == {"alpaca"}
    assert complete("completion", "z") == {"zsh"}
    assert complete("generate", "run", "--no-c") >= {"--no-cache"}
    assert complete("generate", "--conf") == {"--config"}


@slow
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_scripts_are_loaded_without_a_message(call, tmp_path, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "script").write_text(call("completion", shell)[1])
    first = {"bash": "", "zsh": "autoload -U compinit; compinit -u -d $PWD/dump; ", "fish": ""}[shell]
    done = subprocess.run([shell, "-c", f"{first}source {tmp_path / 'script'}"], capture_output=True, text=True,
                          cwd=tmp_path, env={**ONE_THREAD, "HOME": str(tmp_path)})  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_only_commands_with_a_choice_of_first_words_complete_them(call):
    """What follows `gpt train` is no choice of its flags."""
    branches = re.findall(r'^    "(.*)"\) flags="[^"]*"; here="(.*)";;$', call("completion", "bash")[1], re.MULTILINE)
    assert len(branches) == len(dict(branches)) >= 15
    assert {name for name, here in branches if here} == {"completion"}
    assert dict(branches)["completion"] == "bash zsh fish"


def test_only_a_switch_has_a_negation(call):
    status, _, errors = call("train", "--no-steps", "3")
    assert status == 2
    assert "gpt train has no flag --no-steps" in errors


@pytest.mark.parametrize(
    ("args", "value"),
    [
        ([], None),
        (["--resume"], None),
        (["--resume", "r"], "r"),
        (["a", "--resume=r", "b"], "r"),
        (["--resumed", "r"], None),
    ],
)
def test_the_run_to_resume_is_known_before_the_other_flags(args, value):
    assert value_of(args, "--resume") == value


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["generate", "run", "--device", "tpu"], "--device must be "),
        (
            ["data", "prepare", "x", "--tokenizer", "gpt2", "--out", "y", "--processes", "0"],
            "--processes must be an integer of at least 1, got 0",
        ),
    ],
)
def test_a_wrong_value_is_wrong_usage_before_anything_is_read(call, args, says):
    status, _, errors = call(*args)
    assert status == 2
    assert says in errors


def test_megabytes_have_a_million_bytes(call, monkeypatch):
    """GPT-2 XL with one token more, 1,557,612,800 parameters, in float32."""
    monkeypatch.setenv("COLUMNS", "150")
    total = call("params", "gpt2-xl", "--vocab-size", 50258)[1].splitlines()
    assert any("1,557,612,800" in line and "6,230.45" in line for line in total)
