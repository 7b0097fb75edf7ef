"""What a text begins with: prompts, special tokens in them, no prompt at all; and how text is shown."""

import json
import os
import select
import subprocess
import sys

import numpy as np
import pytest
from runs import ONE_THREAD, tiny, train

import tensorlite as tl
from gpt import console, generation
from gpt.config import GPTConfig
from gpt.data import prepare
from gpt.model import GPT
from gpt.tasks import classify, evaluate, instruct, pretrain
from gpt.tasks.classify import ClassifyConfig
from gpt.tokenizer import END_OF_TEXT, BPETokenizer, CharTokenizer, WordTokenizer
from gpt.training import checkpoint
from tensorlite.data import TokenFile, write_tokens

SENTENCE = "one bottle stands on the wall, and another bottle stands on the floor. " * 40
GREEDY = ["--temperature", 0, "--max-new-tokens", 5]


def run_of(folder, text, **changes):
    """A run trained for a step on a text."""
    path = folder / "text.txt"
    path.write_text(text, encoding="utf-8")
    train(tiny(folder, text=(path,), steps=1, sample_every=0, **{"vocab_size": 300, **changes}))
    return folder / "run"


@pytest.fixture(scope="module")
def bpe(tmp_path_factory):
    """A run with an <|endoftext|> in its vocabulary, and none in its text."""
    return run_of(tmp_path_factory.mktemp("bpe"), SENTENCE + "\n" + SENTENCE, tokenizer="bpe")


# ----- without a prompt -------------------------------------------------------------------------------------------


@pytest.mark.finding("C9")
@pytest.mark.parametrize(
    ("tokenizer", "text", "begins", "shown"),
    [
        ("char", SENTENCE, "with 'o'", "o"),
        ("char", SENTENCE.replace(".", "\n"), "after a new line", "\n"),
        ("word", SENTENCE, "with 'one'", "one"),
        ("word", (SENTENCE + END_OF_TEXT + " ") * 2, "after <|endoftext|>", ""),
        ("bpe", SENTENCE + "\n" + SENTENCE, "after a new line", "\n"),
        ("bpe", (SENTENCE + END_OF_TEXT) * 2, "after <|endoftext|>", ""),
    ],
)
@pytest.mark.slow
def test_every_run_writes_without_a_prompt(call, tmp_path, tokenizer, text, begins, shown):
    run = run_of(tmp_path, text, tokenizer=tokenizer)
    status, output, errors = call("generate", run, *GREEDY)
    assert (status, errors) == (0, f"no prompt is given: the text begins {begins}\n")
    assert output.startswith(shown)
    assert END_OF_TEXT not in output
    model, tok = checkpoint.load_model(run)
    start = [tok.special_tokens[END_OF_TEXT]] if not shown else tok.encode(shown)
    (new,) = generation.generate(model, [start], 5, stop_token=tok.special_tokens.get(END_OF_TEXT))
    assert output == (tok.decode(start + new) if shown else tok.decode(new)) + "\n"


@pytest.mark.finding("C9")
@pytest.mark.parametrize(
    ("tok", "description", "start"),
    [
        (BPETokenizer.train("", 257), {"imported": {}}, [256]),
        (BPETokenizer.train("", 257), {"data": {"train": {"entries": 3}}}, [10]),
        (CharTokenizer("ab"), {}, [0]),
        (CharTokenizer("a\n"), {}, [1]),
        (WordTokenizer(["a"], unknown=True), {"data": {"train": {"bytes": 3}}}, [1]),
        (WordTokenizer(["a"]), {}, [0]),
    ],
)
def test_runs_that_do_not_say_it_have_a_start_too(tok, description, start):
    """Imported ones, fine-tuned ones, and those of earlier versions."""
    assert pretrain.start_of_run(description, tok) == start


@pytest.mark.slow
def test_the_end_of_a_text_is_found_wherever_it_is(tmp_path):
    tok = BPETokenizer.train("", 257)
    words = "a " * 2**19
    assert prepare.encode_part(tmp_path / "tokens", tok, [words])[1] == [10]
    for text in (f"<|endoftext|>{words}", f"{words}<|endoftext|>", f"{words[1:]}<|endoftext|>{words}"):
        assert prepare.encode_part(tmp_path / "tokens", tok, [text])[1] == [256]


# ----- special tokens in what users write ---------------------------------------------------------------------------


@pytest.mark.finding("C10")
def test_a_special_token_in_a_prompt_is_text_unless_it_is_allowed(call, bpe):
    model, tok = checkpoint.load_model(bpe)
    for flags, ids in (([], tok.encode_ordinary(END_OF_TEXT)), (["--special-tokens"], tok.encode(END_OF_TEXT, "all"))):
        status, output, errors = call("generate", bpe, "--prompt", END_OF_TEXT, *GREEDY, *flags)
        assert (status, errors) == (0, "")
        (new,) = generation.generate(model, [ids], 5, stop_token=tok.special_tokens[END_OF_TEXT])
        assert output == END_OF_TEXT + tok.decode(new) + "\n"
    assert len(tok.encode_ordinary(END_OF_TEXT)) > 1


@pytest.mark.finding("C10")
def test_a_special_token_in_the_prompt_of_samples_is_text(bpe, tmp_path):
    run = run_of(tmp_path, SENTENCE, tokenizer="bpe", prompt=f"a{END_OF_TEXT}", sample_tokens=1)
    assert f"a{END_OF_TEXT}" in (run / "samples.txt").read_text()


@pytest.mark.finding("C10")
def test_a_special_token_in_an_entry_or_a_question_is_text(bpe):
    _, tok = checkpoint.load_model(bpe)
    end = tok.special_tokens[END_OF_TEXT]
    entry = {"instruction": f"a {END_OF_TEXT}", "input": END_OF_TEXT, "output": END_OF_TEXT}
    encoded = instruct.encode(entry, tok)
    assert end not in encoded.ids
    assert tok.decode(encoded.ids) == instruct.STYLES["alpaca"].prompt(entry) + END_OF_TEXT
    small = GPT(GPTConfig(vocab_size=tok.vocab_size, context_length=400, n_layer=1, n_head=1, n_embd=4))
    assert len(list(instruct.generate_responses(small, tok, [entry], max_new_tokens=2))) == 1
    talk = instruct.Conversation(small, tok, instruct.STYLES["alpaca"], end, max_new_tokens=2)
    list(talk.ask(entry))
    assert talk.turns[0].count(end) == 1  # behind the answer


@pytest.mark.slow
@pytest.mark.finding("C10")
def test_a_classifier_learns_from_and_labels_texts_with_special_tokens(call, tmp_path, bpe):
    rows = [("ham", f"one {END_OF_TEXT} {i}") for i in range(10)] + [("spam", f"wall {i}") for i in range(10)]
    (tmp_path / "d.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in rows))
    config = ClassifyConfig(
        base=bpe, data=tmp_path / "d.tsv", out=tmp_path / "out", max_length=8, batch_size=4, steps=1, threads=1
    )
    train(config, classify.Classification)
    status, output, errors = call("classify", tmp_path / "out", END_OF_TEXT, "one")
    assert (status, errors) == (0, "1 text was longer than 8 tokens and was cut\n")
    assert output.split("\n")[0].endswith(f"\t{END_OF_TEXT}")


@pytest.mark.finding("C10")
def test_in_a_text_to_train_on_it_is_the_token(tmp_path):
    """As documents are separated."""
    run = run_of(tmp_path, (SENTENCE + END_OF_TEXT) * 4, tokenizer="bpe")
    _, tok = checkpoint.load_model(run)
    ids = [int(id) for part in ("train", "validation") for id in TokenFile(run / f"{part}.tokens")[:]]
    assert ids.count(tok.special_tokens[END_OF_TEXT]) == 4
    description = json.loads((run / "config.json").read_text())
    assert description["data"]["train"]["start"] == [tok.special_tokens[END_OF_TEXT]]


# ----- token ids from elsewhere -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    tl.manual_seed(0)
    return GPT(GPTConfig(vocab_size=300, context_length=8, n_layer=1, n_head=2, n_embd=8))


IDS = [3, 299, 0, 7, 256, 12]


@pytest.mark.finding("C7")
@pytest.mark.parametrize("kind", ["uint16", "int64", "uint8 scalars", "token file", "tensor", "range", "tuple"])
def test_token_ids_may_be_numpys(model, tmp_path, kind):
    write_tokens(tmp_path / "ids", IDS, 300)
    small = [id % 256 for id in IDS]
    given, expected = {
        "uint16": (np.array(IDS, np.uint16), IDS),
        "int64": (np.array(IDS), IDS),
        "uint8 scalars": ([np.uint8(id) for id in small], small),
        "token file": (TokenFile(tmp_path / "ids")[:], IDS),
        "tensor": (tl.tensor(IDS).numpy(), IDS),
        "range": (range(4), [0, 1, 2, 3]),
        "tuple": (tuple(IDS), IDS),
    }[kind]
    for seed in (None, 1):
        options = {"temperature": float(seed is not None), "seed": seed}
        assert generation.generate(model, [given], 4, **options) == generation.generate(model, [expected], 4, **options)
    tok = BPETokenizer.train("", 300, special_tokens=[f"<{i}>" for i in range(44)])
    assert tok.decode(given) == tok.decode(expected)
    assert evaluate.total_loss(model, given, 4, 2) == evaluate.total_loss(model, expected, 4, 2)
    inputs, targets = instruct.collate([given, given[:2]], pad=9)
    expected_inputs, expected_targets = instruct.collate([expected, expected[:2]], pad=9)
    assert (inputs.tolist(), targets.tolist()) == (expected_inputs.tolist(), expected_targets.tolist())
    assert all(type(id) is int for id in generation.generate(model, [given], 4)[0])


@pytest.mark.finding("C7")
def test_a_token_file_is_evaluated_whole_and_prompts_are_rows_of_an_array(model, tmp_path):
    write_tokens(tmp_path / "ids", IDS * 5, 300)
    file = TokenFile(tmp_path / "ids")
    assert evaluate.total_loss(model, file) == evaluate.total_loss(model, IDS * 5)
    rows = np.array(IDS, np.uint16).reshape(2, 3)
    assert generation.generate(model, rows, 3) == generation.generate(model, rows.tolist(), 3)
    stop = generation.generate(model, [IDS], 3)[0][1]
    assert generation.generate(model, [IDS], 3, stop_token=np.int64(stop)) == generation.generate(
        model, [IDS], 3, stop_token=stop
    )


@pytest.mark.finding("C7")
@pytest.mark.parametrize(
    ("prompts", "says"),
    [
        ([np.array([1, 300])], "prompt 0: id 300 is not in the vocabulary: ids are integers from 0 to 299"),
        ([np.array([1.0, 2.0])], "prompt 0: id 1.0 is not in the vocabulary"),
        ([[True]], "prompt 0: id True is not"),
        ([[-1]], "prompt 0: id -1 is not"),
        (np.zeros((0, 3), int), "there is no prompt"),
        ([np.zeros(0, int)], "prompt 0 is empty"),
    ],
)
def test_what_are_no_token_ids_is_named(model, prompts, says):
    with pytest.raises(ValueError, match=says):
        generation.stream(model, prompts, 1)


# ----- on a screen ------------------------------------------------------------------------------------------------

NASTY = "a\x1b[2Jb\x07\r\x00\x7f\x9bc\td\ne"


@pytest.mark.finding("E13")
def test_control_characters_are_made_visible():
    assert console.visible(NASTY) == "a\\x1b[2Jb\\x07\\x0d\\x00\\x7f\\x9bc\td\ne"
    assert console.visible("é漢🙂\xa0\u2028") == "é漢🙂\xa0\u2028"


@pytest.fixture(scope="module")
def nasty(tmp_path_factory):
    """A run that knows control characters alone, nearly."""
    folder = tmp_path_factory.mktemp("nasty")
    path = folder / "text.txt"
    path.write_bytes(b"\x1b]0;x\x07\x1b[31m\x00" * 200)
    train(tiny(folder, text=(path,), steps=2, sample_tokens=40))
    return folder / "run"


@pytest.mark.finding("E13")
def test_samples_and_logs_are_text(nasty):
    for name in ("samples.txt", "log.txt"):
        text = (nasty / name).read_bytes()
        assert not set(text) & {*range(9), *range(11, 32), 127}, name
    assert "\\x1b" in (nasty / "samples.txt").read_text()


@pytest.mark.slow
@pytest.mark.finding("E13")
def test_a_terminal_sees_no_control_characters_and_a_pipe_sees_all(nasty):
    pty = pytest.importorskip("pty")
    command = [sys.executable, "-m", "gpt", "generate", str(nasty), "--prompt", "\x1b[31m", "--max-new-tokens", "40"]
    piped = subprocess.run(command, capture_output=True, env=ONE_THREAD, check=True).stdout.decode()
    assert piped.startswith("\x1b[31m")
    parent, child = pty.openpty()
    with subprocess.Popen(command, stdout=child, stderr=subprocess.DEVNULL, env=ONE_THREAD) as shown:
        os.close(child)
        screen = b""
        while select.select([parent], [], [], 60)[0]:
            try:
                if not (block := os.read(parent, 4096)):
                    break
            except OSError:  # Linux: the other end is closed
                break
            screen += block
    os.close(parent)
    assert shown.returncode == 0
    assert b"\x1b" not in screen
    assert screen.decode().replace("\r\n", "\n") == console.visible(piped)
