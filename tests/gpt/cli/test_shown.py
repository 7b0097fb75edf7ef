"""What people see: names with odd characters, bars, sentences, help, and what `import gpt` offers."""

import dataclasses
import io
import json
import os
import re
import select
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from rich.console import Console
from runs import ONE_THREAD, flags, gpt, tiny, train

import gpt as package
from gpt import console
from gpt.cli import COMMANDS, chat
from gpt.tasks import pretrain
from gpt.tasks.classify import ClassifyConfig
from gpt.tasks.pretrain import TrainConfig
from gpt.training import loop as training
from gpt.training import plots
from gpt.training.settings import FineTuneConfig
from tensorlite import io as weights
from tensorlite import nn

ODD = "[b]x[/b] [/red] $x_{$ 漢字 \u202e"


# ----- names --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.finding("C13")
@pytest.mark.parametrize("name", ["[b]x[/b]", "[/red]", "$x_{$ ^", "漢字 𝒳 é", "a\\[b]"])
def test_a_run_may_have_any_name(tmp_path, name):
    screen = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        training.train(
            tiny(tmp_path, out=tmp_path / "runs" / name.strip("/"), steps=1), Console(file=screen, width=400)
        )
    assert f"{tmp_path / 'runs' / name.strip('/')}\n" in screen.getvalue()
    assert (tmp_path / "runs" / name.strip("/") / "loss.png").stat().st_size > 1000


@pytest.mark.finding("C13")
def test_labels_may_be_any_text(tmp_path):
    report = {"labels": ["$x_{$", "漢", "[b]"], "confusion": [[1, 0, 0]] * 3, "accuracy": 1 / 3, "repeated": 2}
    (tmp_path / "report.json").write_text(json.dumps(report))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert plots.draw_report(tmp_path).stat().st_size > 1000
    assert (
        plots.report_title(Path("a/$b$"), report)
        == "$b$: accuracy 33.3% on the test texts\n(2 of 3 also in training or validation)"
    )


@pytest.mark.finding("C13")
def test_a_table_shows_names_and_values_as_they_are():
    screen = io.StringIO()
    Console(file=screen, width=200).print(console.result_table(ODD, {ODD: f"{ODD}!"}))
    assert screen.getvalue().count(ODD) == 3
    narrow = io.StringIO()
    Console(file=narrow, width=40).print(console.result_table("title", {"n" * 60: "v" * 60}))
    assert (narrow.getvalue().count("n"), narrow.getvalue().count("v")) == (60, 60)  # folded, not cut


@pytest.mark.finding("C13")
def test_help_of_a_flag_that_turns_something_off_says_what_that_does(call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for command, flag, says in (
        (["finetune", "classify"], "--no-balance", "without, all entries are used"),
        (["finetune", "classify"], "--no-causal", "without, each position sees all others"),
        (["generate"], "--no-cache", "without it the text is the same, and generation slower"),
        (["train"], "--no-cuda-graph", "without, it launches each op, which is slower"),
        (["look"], "--no-browser", "without, its address is only printed"),
    ):
        shown = " ".join(call(*command, "--help")[1].replace("│", " ").split())
        about = shown[shown.index(flag) : shown.index(flag) + 200]
        assert "whether" in about
        assert says in about
        assert "default: True" not in about, "the default of --no-cache is not True"


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_each_flag_is_for(call, monkeypatch, command):
    """tyro finds the comment of a field behind it or above it, not inside brackets that hold its default."""
    monkeypatch.setenv("COLUMNS", "200")
    _, *entries = re.split(r"\n  (?=\S)", call(*command.split(), "--help")[1].replace("│", " "))
    assert len(entries) >= 1
    for entry in entries:
        about = re.split(r" {2,}|\n", entry, maxsplit=1)[1].split()
        assert len(about) > 2, f"{command}: {entry}"
        assert not about[0].startswith("("), f"{command}: {entry}"  # only "(default: ...)" or "(required)"


@pytest.mark.finding("C13")
def test_a_state_of_another_model_is_told_in_a_few_lines():
    def deep(layers):
        return nn.Sequential(*(nn.Linear(2, 2) for _ in range(layers)))

    for ours, theirs, says in ((60, 2, "missing: "), (2, 60, "unexpected: ")):
        with pytest.raises(ValueError, match=says) as caught:
            deep(ours).load_state_dict(deep(theirs).state_dict())
        assert "and 106 more" in str(caught.value)
        assert len(str(caught.value)) < 500
    with pytest.raises(ValueError, match="and 50 more") as caught:
        nn.Sequential(*(nn.Linear(3, 2, bias=False) for _ in range(60))).load_state_dict(
            nn.Sequential(*(nn.Linear(2, 2, bias=False) for _ in range(60))).state_dict()
        )
    assert str(caught.value).count("\n") == 11


@pytest.mark.finding("C13")
def test_a_pointer_of_git_lfs_is_named(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 548105171\n")
    for read in (weights.load, weights.entries, weights.metadata):
        with pytest.raises(
            ValueError, match=r"model\.safetensors is not .*: it is a pointer of Git LFS .* `git lfs pull`"
        ):
            read(path)


# ----- the last evaluation ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.finding("E3")
@pytest.mark.parametrize(("final_tokens", "windows"), [(0, None), (200_000, None), (64, 8), (1, 2)])
def test_the_last_evaluation_is_bounded_and_says_so(tmp_path, final_tokens, windows):
    said = train(tiny(tmp_path, steps=1, sample_tokens=0, final_tokens=final_tokens))
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    description = json.loads((tmp_path / "run" / "config.json").read_text())
    tokens = description["data"]["validation"]["tokens"]
    if windows is None:
        assert "validation loss, whole text" in said
        assert "whole_validation_loss" in last
    else:
        assert f"validation loss, {windows * 8} of {tokens:,} tokens" in said
        assert "whole_validation_loss" not in last
        assert last["bits_per_byte"] == pytest.approx(last["final_validation_loss"] / 0.6931471805599453)


@pytest.mark.finding("E3")
def test_the_last_evaluation_reads_no_more_than_it_says(tmp_path, monkeypatch):
    read = []
    evaluate = pretrain.evaluate

    def counting(model, tokens, batch_size, batches=None, advance=lambda windows: None):
        return evaluate(model, tokens, batch_size, batches, lambda n: (read.append(n), advance(n)))

    monkeypatch.setattr(pretrain, "evaluate", counting)
    train(tiny(tmp_path, steps=1, eval_every=100, final_tokens=80, sample_tokens=0))
    assert sum(read[-5:]) == 10  # windows of 8 tokens, after two evaluations of 2
    assert read[:-5] == [2, 2]


@pytest.mark.finding("E3")
def test_ctrl_c_in_the_last_evaluation_leaves_the_picture(tmp_path, monkeypatch):
    def interrupt(*_):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(pretrain.Pretraining, "finish", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(tiny(tmp_path, steps=1))
    assert (tmp_path / "run" / "loss.png").stat().st_size > 1000
    assert (tmp_path / "run" / "checkpoints" / "step_00000001").is_dir()


def test_what_is_flushed_is_there_at_once(tmp_path):
    with open(tmp_path / "output", "w") as file:
        screen = console.Screen(file)
        screen.write("a step")
        screen.flush()
        assert (tmp_path / "output").read_text() == "a step"


@pytest.mark.finding("E3")
def test_bars_are_on_standard_error_of_a_terminal_alone(capsys, monkeypatch):
    with console.bar("working", 3) as advance:
        assert list(console.passing("abc", advance)) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes the streams for a terminal then
    with console.bar("working", 3) as advance:
        advance(3)
    output, errors = capsys.readouterr()
    assert output == ""
    assert "working" in errors
    assert "100%" in errors


# ----- small sentences ----------------------------------------------------------------------------------------------


@pytest.mark.finding("E15")
def test_one_is_one():
    assert [console.counted(n, "token") for n in (0, 1, 2, 1234)] == [
        "0 tokens",
        "1 token",
        "2 tokens",
        "1,234 tokens",
    ]


@pytest.mark.slow
@pytest.mark.finding("E15")
def test_a_huge_learning_rate_is_a_sentence_and_no_warning_of_numpy(tmp_path):
    status, output, errors = gpt(*flags(tmp_path, lr=1e30, steps=40, clip=0), "--out", tmp_path / "run")
    assert status in (0, 1)
    assert "Warning" not in output + errors
    assert "tensorlite/" not in output + errors


@pytest.mark.finding("E15")
@pytest.mark.skipif(os.name != "posix", reason="needs a terminal of POSIX; elsewhere each line is a question")
@pytest.mark.parametrize("editing", [False, True])
def test_lines_that_are_pasted_are_one_question(editing):
    """In a terminal: those that wait when the first one is read; a line that comes later is a question of its own. With
    line editing the terminal marks what is pasted.
    """
    begin = "chat.enable_line_editing()" if editing else "pass"
    code = f"from gpt.cli import chat; {begin}\nfor _ in range(3): print('asked', [chat.typed('> ')], flush=True)"
    ours, theirs = os.openpty()
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env={**ONE_THREAD, "TERM": "xterm"}
    ) as asking:
        os.close(theirs)
        for question in ("one\ntwo\nthree", "four", "five\nsix"):
            read_until("> ", ours)
            os.write(ours, (f"\x1b[200~{question}\x1b[201~\n" if editing else f"{question}\n").encode())
            assert f"asked [{question!r}]" in read_until("]\r\n", ours)
        assert asking.wait(60) == 0
    os.close(ours)


def read_until(end: str, terminal: int) -> str:
    """What the terminal shows, up to `end`."""
    shown = b""
    while end.encode() not in shown:
        assert select.select([terminal], [], [], 60)[0], shown
        shown += os.read(terminal, 1)
    return shown.decode()


@pytest.mark.finding("E15")
def test_in_a_pipe_each_line_is_a_question(monkeypatch):
    asked = []

    class Talk:
        dropped = cut = 0

        def ask(self, entry):
            asked.append(entry["instruction"])
            yield ""

    monkeypatch.setattr("sys.stdin", io.StringIO("one\n\ntwo\n"))
    chat.converse(Talk(), "")
    assert asked == ["one", "two"]


# ----- in Python ----------------------------------------------------------------------------------------------------


@pytest.mark.finding("E14")
@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_may_be_text_and_one_text_is_one_path(tmp_path, kind):
    given = kind(tmp_path / "a.txt")
    assert TrainConfig(text=given).text == (tmp_path / "a.txt",)
    assert TrainConfig(text=[given, given]).text == (tmp_path / "a.txt",) * 2
    assert TrainConfig(text=given).name() == "a"
    config = ClassifyConfig(base=given, data=given, out=given)
    assert (config.base, config.data, config.out) == (tmp_path / "a.txt",) * 3
    assert ClassifyConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == dataclasses.replace(config, out=None)
    assert TrainConfig(resume=given).resume == tmp_path / "a.txt"
    assert FineTuneConfig.name(config) == "a.txt-classify"


@pytest.mark.finding("E14")
def test_what_programs_use_can_be_imported_from_gpt():
    assert set(package.__all__) <= set(dir(package))
    for name in package.__all__:
        assert getattr(package, name) is not None
    from gpt import GPT, GPTConfig, load_model

    assert (GPT.__module__, GPTConfig.__module__, load_model.__module__) == (
        "gpt.model",
        "gpt.config",
        "gpt.training.checkpoint",
    )
    with pytest.raises(AttributeError, match="module 'gpt' has no attribute 'GTP': it has GPT, "):
        package.GTP  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'GTP'"):
        from gpt import GTP  # noqa: F401


@pytest.mark.finding("E14")
def test_importing_gpt_loads_nothing_else():
    code = (
        "import sys; before = set(sys.modules); import gpt; dir(gpt); print(*sorted(set(sys.modules) - before));"
        "gpt.tokenizer.create; gpt.GPTConfig; print([name for name in sys.modules if name.startswith('gpt.fast')]);"
        "gpt.train; from gpt import fast, generate, GPT, generation;"
        "print(generate.__module__, generation.make_decoder.__module__)"
    )
    loaded, fast, last = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=ONE_THREAD
    ).stdout.splitlines()
    assert [name for name in loaded.split() if name.split(".")[0] in ("numpy", "tensorlite", "rich")] == []
    assert fast == "[]"  # neither a config nor a tokenizer needs it
    assert last == "gpt.generation gpt.fast"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("use", "decoder"),
    [
        ("gpt.generate", "gpt.fast"),
        ("from gpt import generate", "gpt.fast"),
        ("gpt.model; gpt.generate", "gpt.fast"),
        ("gpt.generation", "gpt.generation"),
        ("from gpt.generation import stream", "gpt.generation"),  # a module by itself is the plain code
    ],
)
def test_a_public_name_attaches_the_decoder_and_a_module_does_not(use, decoder):
    code = f"import sys, gpt; {use}; print(sys.modules['gpt.generation'].make_decoder.__module__)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=ONE_THREAD)
    assert found.stdout.strip() == decoder


@pytest.mark.finding("E13")
def test_a_log_takes_paths_that_are_no_text(tmp_path):
    console.say(Console(file=io.StringIO()), tmp_path / "log.txt", "run \udcff\x1b[2J")
    assert re.search(r"run \\udcff\\x1b\[2J\n", (tmp_path / "log.txt").read_text())
