"""The command line: what is shown, and for each wrong input its one sentence and its exit status."""

import os
import re
import signal
import subprocess
import sys

import pytest
from runs import ONE_THREAD, contents, flags, gpt, tiny, train

from gpt import __version__ as version
from gpt.cli.generate import Generate
from gpt.cli.params import Params
from gpt.training import checkpoint, loop


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained run."""
    folder = tmp_path_factory.mktemp("cli")
    train(tiny(folder))
    return folder / "run"


# ----- the commands -----------------------------------------------------------------------------------------------


def test_version_and_help(call):
    assert call("--version") == (0, f"gpt {version}\n", "")
    status, output, _ = call("--help")
    assert status == 0
    for command in ("train", "generate", "params", "doctor"):
        assert command in output
    status, output, _ = call("train", "--help")
    assert status == 0
    assert "--grad-accumulation INT" in output
    assert "a larger batch in the memory of one pass" in " ".join(output.replace("│", "").split())


@pytest.mark.slow
def test_train_then_resume(call, tmp_path, run):
    status, output, errors = call(*flags(tmp_path), "--out", tmp_path / "run")
    assert (status, errors) == (0, "")
    assert "bits per byte" in output
    status, output, _ = call("train", "--resume", tmp_path / "run", "--steps", 32, f"--lr={1e-3}")
    assert status == 0
    assert "changed    lr from 0.02 to 0.001, from step 30 on" in output
    assert checkpoint.newest(tmp_path / "run")[0].step == 32
    assert contents(tmp_path / "run").keys() >= {"loss.png", "config.json"}


def test_params_has_the_books_numbers(call):
    status, output, _ = call("params", "book-124m")
    assert status == 0
    assert re.search(r"total +│ 163,009,536 │ 100\.0% +│ +652\.04 │ +8\d\d\.\d\d", output)
    assert "attention          │  28,320,768" in output
    status, output, _ = call("params", "nano", "--vocab-size", 65, "--context-length", 64)
    assert "816,640" in output
    # embeddings, head, two blocks (matrices; biases of all but queries, keys and values; norms) and the last norm
    total = (65 + 64 + 65) * 32 + 2 * (12 * 32**2 + (1 + 4 + 1) * 32 + 4 * 32) + 2 * 32
    shape = ("--vocab-size", 65, "--context-length", 64, "--n-layer", 2, "--n-head", 2, "--n-embd", 32)
    assert re.search(r"total +│ +(\S+)", call("params", "nano", *shape)[1])[1] == f"{total:,}"


def test_doctor_looks_at_this_machine(call, monkeypatch, tmp_path):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    status, output, _ = call("doctor")
    assert status == 0
    for name in ("Python", "numpy", "tiktoken", "CPU", "BLAS", "compiled loops", "GPU", "GPT-2's tokenizer", "disk"):
        assert name in output
    assert "OPENBLAS_CORETYPE=Haswell forces" in output
    assert f"not in {tmp_path}" in output
    assert "gpt data fetch gpt2-tokenizer downloads it" in output


# ----- generate ---------------------------------------------------------------------------------------------------


def test_generate_continues_the_prompt(call, run):
    status, output, _ = call("generate", run, "--prompt", "59 bottles", "--max-new-tokens", 20)
    assert status == 0
    assert output.startswith("59 bottles")
    assert len(output) == len("59 bottles") + 20 + 1
    assert call("generate", run, "--prompt", "59 bottles", "--max-new-tokens", 20)[1] == output
    assert call("generate", run, "--prompt", "59 bottles", "--max-new-tokens", 20, "--seed", 5)[1] != output
    nothing_kept = call("generate", run, "--prompt", "59 bottles", "--max-new-tokens", 20, "--no-cache")
    assert nothing_kept[1] == output


def test_generate_several_prompts_at_once(call, run):
    greedy = ["--temperature", 0, "--max-new-tokens", 5]
    _, output, _ = call("generate", run, "--prompt", "bottles", "--prompt", "on", *greedy)
    alone = [call("generate", run, "--prompt", prompt, *greedy)[1] for prompt in ("bottles", "on")]
    assert output == "".join(text + "-----\n" for text in alone)


def test_generate_stops_and_needs_no_prompt(call, run):
    assert call("generate", run, "--max-new-tokens", 3)[1].startswith("\n")
    greedy = ["--prompt", "bottles", "--temperature", 0, "--max-new-tokens", 9]
    _, whole, _ = call("generate", run, *greedy)
    stop = whole[len("bottles") + 4]
    _, output, _ = call("generate", run, *greedy, "--stop", stop)
    assert output == whole[: whole.index(stop, len("bottles"))] + "\n"


# ----- exit status and sentences ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["trane"], "there is no command 'trane': did you mean gpt train? (gpt --help)"),
        (["--stepz"], "gpt has no flag --stepz: a command comes first (gpt --help)"),
        (["train", "--stepz", "3"], "gpt train has no flag --stepz: did you mean --steps? (gpt train --help)"),
        (["train", "--zzz"], "gpt train has no flag --zzz (gpt train --help)"),
        (["train", "--base", "x"], "gpt train has no flag --base: did you mean --from? (gpt train --help)"),
        (["train", "--steps", "many"], "--steps: an integer is needed, got 'many' (gpt train --help)"),
        (["train", "--lr", "x"], "--lr: a number is needed, got 'x' (gpt train --help)"),
        (["train", "--steps", "0"], "--steps must be an integer of at least 1, got 0 (gpt train --help)"),
        (["train", "--steps"], "--steps needs a value (gpt train --help)"),
        (["train", "--steps", "--lr", "1"], "--steps needs a value (gpt train --help)"),
        (["train", "--lr", "nan"], "--lr must be a finite number of at least 0, got nan (gpt train --help)"),
        (
            ["train", "--tokenizer", "byte"],
            "--tokenizer must be one of bpe, char, word, gpt2, got 'byte' (gpt train --help)",
        ),
        (
            ["train", "--n-head", "5"],
            "--n-head must divide --n-embd, so that the heads are equally wide: got --n-head 5"
            " and --n-embd 128 (gpt train --help)",
        ),
        (
            ["train", "--add-token", "x"],
            "--add-token extends the vocabulary of a run: name it with --from (gpt train --help)",
        ),
        (
            ["train", "notes.txt"],
            "gpt train does not take 'notes.txt': did you mean --text notes.txt? (gpt train --help)",
        ),
        (
            ["generate", "r", "To be"],
            "gpt generate does not take 'To be': did you mean --prompt 'To be'? (gpt generate --help)",
        ),
        (["generate"], "RUN is missing (gpt generate --help)"),
        (
            ["generate", "--run", "x"],
            "gpt generate has no flag --run: RUN is given without a flag, gpt generate RUN ... (gpt generate --help)",
        ),
        (["generate", "x", "--stop", ""], "a stop string is empty: give at least one character (gpt generate --help)"),
        (["generate", "x", "-n", "0"], "--samples must be an integer of at least 1, got 0 (gpt generate --help)"),
        *(
            (["generate", "x", *args], f"{says} (gpt generate --help)")
            for args, says in (
                (["--temperature", "-1"], "--temperature must be a finite number of at least 0, got -1.0"),
                (["--top-k", "0"], "--top-k must be an integer of at least 1, got 0"),
                (["--top-p", "1.5"], "--top-p must be above 0 and at most 1, got 1.5"),
                (["--max-new-tokens", "-1"], "--max-new-tokens must be an integer of at least 0, got -1"),
            )
        ),
        (["chat", "x", "--top-p", "0"], "--top-p must be above 0 and at most 1, got 0.0 (gpt chat --help)"),
        (["chat", "x", "--history", "-1"], "--history must be an integer of at least 0, got -1 (gpt chat --help)"),
        (
            ["params", "nano", "--n-head", "7"],
            "--n-head must divide --n-embd, so that the heads are equally wide: got --n-head 7 and --n-embd 128"
            " (gpt params --help)",
        ),
        (
            ["train", "--resume-if-exists", "--overwrite"],
            "--resume-if-exists keeps a run and --overwrite replaces it: omit one of them (gpt train --help)",
        ),
        (["evaluate", "x"], "--text is missing (gpt evaluate --help)"),
        (
            ["evaluate", "--text", "a", "x"],
            "RUN is missing; RUN comes before a flag with several values (gpt evaluate --help)",
        ),
        (
            ["data", "get"],
            "there is no command 'data get': did you mean gpt data list or gpt data fetch or gpt data prepare?"
            " (gpt --help)",
        ),
        (["data", "prepare", "x", "--tokenizer", "gpt2"], "--out is missing (gpt data prepare --help)"),
        (["data", "prepare"], "--tokenizer and --out are missing (gpt data prepare --help)"),
        (["evaluate"], "RUN and --text are missing (gpt evaluate --help)"),
        (
            ["data", "prepare", "--suffix", ".py", ".md"],
            "--tokenizer and --out are missing (gpt data prepare --help)",
        ),
        (
            ["data", "prepare", "--tokenizer", "gpt2", "--out", "x"],
            "PATH is missing: name files or folders, or - for standard input (gpt data prepare --help)",
        ),
        (
            ["data", "prepare", "x", "--tokenizer", "gpt2", "--out", "y", "--vocab-size", "9"],
            "--vocab-size is that of the tokenizer, except for --tokenizer bpe: omit it (gpt data prepare --help)",
        ),
        (
            ["finetune", "clasify"],
            "there is no command 'finetune clasify': did you mean gpt finetune classify or gpt"
            " finetune instruct? (gpt --help)",
        ),
        (
            ["finetune", "classify", "x", "--form"],
            "gpt finetune classify has no flag --form (gpt finetune classify --help)",
        ),
        (
            ["params", "mega"],
            "PRESET must be one of 'nano', 'micro', 'book-124m', 'gpt2', 'gpt2-medium', 'gpt2-large',"
            " 'gpt2-xl', got 'mega' (gpt params --help)",
        ),
    ],
)
def test_wrong_usage_is_2_and_one_sentence_with_the_flag_as_it_is_typed(call, args, says):
    status, output, errors = call(*args)
    assert (status, output) == (2, "")
    assert errors == f"gpt: {says}\n"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["generate", "nowhere"], "there is no run nowhere"),
        (["generate", "{tmp}"], "{tmp} has no checkpoint: it is not a run, or it ended before its first checkpoint"),
        (["generate", "{run}", "--prompt", "é"], "character 'é' (U+00E9) at position 0 is not in the vocabulary"),
        (["generate", "{run}", "--prompt", ""], "the prompt '' has no tokens: give some text"),
        (["generate", "{run}", "--top-k", "100"], "--top-k must be at most the vocabulary's"),
        (["generate", "{run}", "--seed", "-1"], "--seed must be from 0 to"),
        (["generate", "{run}", "--step", "7"], "does not keep a checkpoint of step 7: it keeps 28, 30"),
        (["generate", "{run}", "--step", "last"], "--step must be a number or best, got 'last'"),
        (["train", "--resume", "nowhere"], "there is no run nowhere"),
        (["train", "--resume", "{run}", "--n-embd", "16"], "was started with --n-embd 8 and cannot continue with 16"),
        (["train", "--resume", "{run}", "--seed", "3"], "was started with --seed 1337 and cannot continue with 3"),
        (["train", "--resume", "{run}", "--from", "{run}"], "{run} was started without --from and cannot continue"),
        (["train", "--resume", "{run}", "--steps", "3"], "--steps cannot be 3: {run} has done 30 steps already"),
        (
            ["data", "prepare", "{tmp}", "--tokenizer", "char", "--out", "{tmp}/x"],
            "there is no run char: --tokenizer is gpt2, bpe, a run, or a folder of shards",
        ),
        (
            ["train", "--text", __file__, "--tokenizer", "char", "--prompt", "\u65e5", "--out", "{tmp}/x"],
            "--prompt '\u65e5': character '\u65e5' (U+65E5) at position 0 is not in the vocabulary of",
        ),
        (
            ["train", "--text", __file__, "--tokenizer", "char", "--context-length", "4000", "--out", "{tmp}/x"],
            "a smaller --context-length, or another share with --validation",
        ),
        (["train", "--text", "nowhere", "--out", "{tmp}/x"], "the text file 'nowhere' cannot be read: No such file"),
        (["train", "--out", "{run}"], "has a run already: continue it with --resume"),
        (["train", "--out", "/dev/null"], "/dev/null is a file: name a directory for the run"),
    ],
)
def test_what_goes_wrong_later_is_1_and_one_sentence(call, run, tmp_path, args, says):
    status, _, errors = call(*(arg.format(run=run, tmp=tmp_path) for arg in args))
    assert status == 1
    assert re.match(r"gpt: .*\n\Z", errors), errors
    assert says.format(run=run, tmp=tmp_path) in errors


def test_debug_shows_where(call):
    status, _, errors = call("generate", "nowhere", "--debug")
    assert status == 1
    assert errors.startswith("Traceback")
    assert errors.endswith("\ngpt: there is no run nowhere\n")


def test_what_was_not_foreseen_is_said_so(call, monkeypatch):
    monkeypatch.setattr(Params, "__call__", lambda command: {}["x"])
    status, _, errors = call("params")
    assert (status, errors) == (1, "gpt: KeyError: 'x'; unexpected error: --debug prints the traceback\n")


@pytest.mark.parametrize(("error", "expected"), [(KeyboardInterrupt(), 130), (MemoryError("3 GiB"), 1)])
def test_interrupted_or_out_of_memory(call, monkeypatch, error, expected):
    def fail(_):
        raise error

    monkeypatch.setattr(Generate, "__call__", fail)
    status, _, errors = call("generate", "x")
    assert status == expected
    assert "Traceback" not in errors
    assert "out of memory: 3 GiB" in errors or expected == 130


@pytest.mark.skipif(os.name != "posix", reason="there, a process that is sent a signal just ends")
@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_training_that_is_stopped_saves_and_ends_with_the_status_of_the_signal(
    call, tmp_path, monkeypatch, number, expected
):
    real = loop.update

    def update(s, step):
        if s.step == 1:
            os.kill(os.getpid(), number)
        return real(s, step)

    monkeypatch.setattr(loop, "update", update)
    assert call(*flags(tmp_path, steps=4, sample_every=0), "--out", tmp_path / "run")[0] == expected
    assert checkpoint.newest(tmp_path / "run")[0].step == 2


# ----- in a process of its own ------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="elsewhere the current directory cannot be deleted")
def test_a_deleted_current_directory_is_named(call, tmp_path, monkeypatch):
    (tmp_path / "x").mkdir()
    monkeypatch.chdir(tmp_path / "x")
    (tmp_path / "x").rmdir()
    status, _, errors = call("train", "--steps", "1")
    assert (status, errors) == (1, "gpt: the current directory was deleted: change to another one\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    "args",
    [
        ("generate", "RUN", "--prompt", "59", "--max-new-tokens", "30"),
        ("show", "RUN"),
        ("runs", "RUN"),
        ("params",),
        ("data", "list"),
        ("doctor",),
        ("train", "--help"),
    ],
    ids=lambda args: args[0],
)
def test_a_reader_that_has_enough_is_no_error(run, args):
    """The pipe's reader is gone before anything is written: the status is that of SIGPIPE, with tables as with text."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "gpt", *(str(run) if arg == "RUN" else arg for arg in args)]
    process = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, env=ONE_THREAD)
    os.close(writing)
    assert (process.returncode, process.stderr) == (141, "")


@pytest.mark.slow
def test_a_terminal_without_utf8_shows_question_marks(run):
    command = [sys.executable, "-m", "gpt", "params"]
    process = subprocess.run(command, capture_output=True, env={**ONE_THREAD, "PYTHONIOENCODING": "ascii"})
    assert process.returncode == 0
    assert b"total" in process.stdout


@pytest.mark.slow
def test_python_m_gpt(run):
    assert gpt("--version") == (0, f"gpt {version}\n", "")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["trian", "--steps", "3"], "there is no command 'trian': did you mean gpt train?"),
        (["xyzzy"], "there is no command 'xyzzy' (gpt --help)"),
    ],
)
def test_an_unknown_command_is_one_sentence_with_the_nearest_ones(call, args, says):
    code, output, errors = call(*args)
    assert (code, output) == (2, "")
    assert errors.startswith(f"gpt: {says}")
    assert errors.count("\n") == 1
