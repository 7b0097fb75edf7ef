"""`gpt generate`: several samples, prompts from a pipe, stop strings, a chosen step; the same texts as gpt.generate."""

import random
import shutil
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import ONE_THREAD, quickly_drawn, tiny, train

from gpt.generation import generate
from gpt.stopping import StopText
from gpt.training import checkpoint

NEW = 40  # tokens of each text here


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained run that keeps all of its checkpoints."""
    folder = tmp_path_factory.mktemp("generate")
    train(tiny(folder, keep=9))
    return folder / "run"


def expected(run, prompts, step=None, **options):
    """The texts by the library."""
    model, tokenizer = checkpoint.load_model(run, folder=checkpoint.folder_at(run, step))
    ids = [tokenizer.encode(prompt) for prompt in prompts]
    return [prompt + tokenizer.decode(new)
            for prompt, new in zip(prompts, generate(model, ids, NEW, **options), strict=True)]  # fmt: skip


def texts(output):
    """The texts between the lines of five dashes."""
    return output.removesuffix("\n-----\n").split("\n-----\n")


def test_samples_are_drawn_with_consecutive_seeds(call, run):
    status, output, _ = call("generate", run, "--prompt", "59 b", "-n", 3, "--seed", 5, "--max-new-tokens", NEW)
    found = texts(output)
    assert status == 0
    assert found == [expected(run, ["59 b"], temperature=0.8, seed=5 + i)[0] for i in range(3)]
    assert len(set(found)) == 3


def test_samples_of_several_prompts(call, run):
    _, output, _ = call("generate", run, "--prompt", "a", "--prompt", "the", "--samples", 2, "--max-new-tokens", NEW)
    assert texts(output) == expected(run, ["a", "a", "the", "the"], temperature=0.8, seed=1337)


# ----- a prompt from a pipe -----------------------------------------------------------------------------------------


def piped(run, data: bytes | None, *args):
    """`gpt generate RUN` with that as its input, or /dev/null."""
    command = [sys.executable, "-m", "gpt", "generate", str(run), "--max-new-tokens", str(NEW), *args]
    given = {"stdin": subprocess.DEVNULL} if data is None else {"input": data}
    done = subprocess.run(command, capture_output=True, env=ONE_THREAD, **given)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "prompt"),
    [
        (b"59 b\n", "59 b"),
        (b"59 b", "59 b"),
        (b"59 b\r\n", "59 b"),
        (b"a b\n\n", "a b\n"),  # only one line end is dropped
        (b"take\ntake\n", "take\ntake"),
        ("\N{ZERO WIDTH NO-BREAK SPACE}59 b".encode(), "59 b"),  # a byte order mark
    ],
)
def test_a_prompt_is_piped_in(run, data, prompt):
    (text,) = expected(run, [prompt], temperature=0.8, seed=1337)
    assert piped(run, data) == (0, f"{text}\n", "")
    assert piped(run, data, "--prompt", "-") == (0, f"{text}\n", "")


@pytest.mark.slow
def test_a_prompt_in_a_file(run, tmp_path):
    (tmp_path / "prompt").write_bytes(b"59 b\n")
    with open(tmp_path / "prompt", "rb") as file:
        command = [sys.executable, "-m", "gpt", "generate", str(run), "--max-new-tokens", str(NEW)]
        done = subprocess.run(command, capture_output=True, env=ONE_THREAD, stdin=file, check=True)
    assert done.stdout.decode() == expected(run, ["59 b"], temperature=0.8, seed=1337)[0] + "\n"


@pytest.mark.slow
def test_without_a_prompt_and_with_one_beside_a_pipe(run):
    status, output, errors = piped(run, None)
    assert (status, output[0], errors) == (0, "\n", "no prompt is given: the text begins after a new line\n")
    assert piped(run, b"") == (0, output, errors)  # nothing is piped in
    (text,) = expected(run, ["the"], temperature=0.8, seed=1337)
    assert piped(run, b"59 b", "--prompt", "the") == (0, f"{text}\n", "")
    status, output, errors = piped(run, b"\xff\xfea")
    assert (status, output, errors) == (1, "", "gpt: standard input is not UTF-8 (byte 0xff at position 0)\n")


def test_standard_input_is_read_once(call, run):
    status, _, errors = call("generate", run, "--prompt", "-", "--prompt", "-", typed="a")
    assert (status, errors.count("give it once")) == (2, 1)
    _, output, _ = call("generate", run, "--prompt", "-", "--prompt", "a", "--max-new-tokens", NEW, typed="59 b\n")
    assert texts(output) == expected(run, ["59 b", "a"], temperature=0.8, seed=1337)


# ----- stop strings -------------------------------------------------------------------------------------------------


def test_a_text_is_cut_before_the_first_stop_string(call, run):
    (whole,) = expected(run, ["59 bo"], temperature=0.8, seed=1337)
    new = whole.removeprefix("59 bo")
    for at, length in ((7, 3), (12, 5), (30, 1)):
        stop = new[at : at + length]
        first = new.index(stop)
        _, output, _ = call("generate", run, "--prompt", "59 bo", "--stop", stop, "--max-new-tokens", NEW)
        assert output == f"59 bo{new[:first]}\n"
        _, output, _ = call("generate", run, "--prompt", "59 bo", "--stop", "zzz", "--stop", stop,
                            "--max-new-tokens", NEW)  # fmt: skip
        assert output == f"59 bo{new[:first]}\n"


def test_stop_strings_end_each_text_for_itself(call, run):
    both = expected(run, ["59 b", "the"], temperature=0.8, seed=1337)
    stop = both[0].removeprefix("59 b")[6:8]
    cut = [
        prompt + text.removeprefix(prompt).split(stop)[0] for prompt, text in zip(["59 b", "the"], both, strict=True)
    ]
    _, output, _ = call("generate", run, "--prompt", "59 b", "--prompt", "the", "--stop", stop, "--max-new-tokens", NEW)
    assert texts(output) == cut


def test_streaming_never_prints_part_of_a_stop_string(call, run, monkeypatch):
    (whole,) = expected(run, ["59 bo"], temperature=0.8, seed=1337)
    new = whole.removeprefix("59 bo")
    shown = []
    monkeypatch.setattr("gpt.cli.generate.show", shown.append)
    call("generate", run, "--prompt", "59 bo", "--stop", new[10:15], "--max-new-tokens", NEW)
    cut = "59 bo" + new[: new.index(new[10:15])]
    assert all(cut.startswith("".join(shown[:n])) for n in range(len(shown)))
    assert "".join(shown) == f"{cut}\n"


def test_no_more_tokens_are_computed_after_a_stop_string(call, run, monkeypatch):
    from gpt import generation as module

    asked = []
    real = module.draw

    def counting(logits, *args):
        asked.append(len(logits))
        return real(logits, *args)

    monkeypatch.setattr(module, "draw", counting)
    (whole,) = expected(run, ["59 bo"], temperature=0.8, seed=1337)
    stop = whole[len("59 bo") + 9]
    asked.clear()
    call("generate", run, "--prompt", "59 bo", "--stop", stop, "--max-new-tokens", NEW)
    assert len(asked) == whole.index(stop, len("59 bo")) - len("59 bo") + 1


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.integers(0, 99))
def test_pieces_give_the_text_before_the_stop_string_that_is_complete_first(text, stops, seed):
    """The oracle reads character by character; the pieces are cut at random."""
    wanted = next(
        (text[: end - max(len(s) for s in stops if text[:end].endswith(s))]
         for end in range(len(text) + 1) if any(text[:end].endswith(s) for s in stops)), text
    )  # fmt: skip
    reader, rest, draw, shown = StopText(stops), text, random.Random(seed), ""
    while rest:
        size = draw.randint(1, 5)
        shown += reader.feed(rest[:size])
        rest = rest[size:]
        assert text.startswith(shown)
        assert wanted.startswith(shown)
    assert shown + reader.rest() == wanted


# ----- a step, a classifier -----------------------------------------------------------------------------------------


def test_a_step_is_chosen(call, run):
    for step in (0, 30):
        _, output, _ = call("generate", run, "--prompt", "59 b", "--step", step, "--max-new-tokens", NEW)
        assert output == expected(run, ["59 b"], step=step, temperature=0.8, seed=1337)[0] + "\n"
    assert len({expected(run, ["59 b"], step=step, temperature=0.8, seed=1337)[0] for step in (0, 30)}) == 2
    assert expected(run, ["59 b"], step="30") == expected(run, ["59 b"])


def test_a_classifier_is_for_gpt_classify(call, run, tmp_path):
    other = shutil.copytree(run, tmp_path / "other")
    for file in (other / "config.json", *other.glob("checkpoints/*/config.json")):
        file.write_text(file.read_text().replace('"task": "pretrain"', '"task": "classify"'))
    shutil.rmtree(other / "checkpoints")
    status, _, errors = call("generate", other, "--prompt", "a")
    assert status == 1
    assert f"gpt classify {other} uses it" in errors


assert quickly_drawn  # used by pytest
