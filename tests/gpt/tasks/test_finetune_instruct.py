"""`gpt finetune instruct` and `gpt chat`: from a pretrained run to a model that answers, and all that can go wrong."""

import io
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from runs import ONE_THREAD, contents, tiny, train

import tensorlite as tl
from gpt import lora
from gpt.cli import chat as chat_command
from gpt.cli import main as cli
from gpt.generate import generate
from gpt.model import GPT
from gpt.tasks import instruct
from gpt.tasks.instruct import STYLES, Conversation, InstructConfig, Instructions
from gpt.training import checkpoint, run_directory, session
from gpt.training import loop as training
from tensorlite.devices import machine

YES = {"instruction": "Say yes.", "input": "", "output": "yes"}
NO = {"instruction": "Say", "input": "no", "output": "no"}
ENTRIES = [YES, NO] * 15
SETTINGS = {
    "style": "phi3", "steps": 60, "lr": 0.02, "eval_every": 20, "sample_every": 30, "checkpoint_every": 20,
    "max_new_tokens": 6,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """base/, a pretrained run that knows the characters; data.json; taught/, tuned on it; adapted/, with LoRA."""
    folder = tmp_path_factory.mktemp("instruct")
    text = "\n".join(STYLES["phi3"].prompt(e) + e["output"] for e in ENTRIES)
    (folder / "text.txt").write_text(text, encoding="utf-8")
    shape = {"n_embd": 32, "context_length": 80, "dropout": 0.0, "steps": 2, "checkpoint_every": 2}
    train(tiny(folder, text=(folder / "text.txt",), out=folder / "base", **shape))
    (folder / "data.json").write_text(json.dumps(ENTRIES), encoding="utf-8")
    (folder / "long.json").write_text(json.dumps([*ENTRIES, {**YES, "input": "yes" * 20}]), encoding="utf-8")
    tune(folder, "taught")
    tune(folder, "adapted", lora=True, rank=4, alpha=8.0, targets=("attention", "head"))
    return folder


def config(folder: Path, name: str = "run", **changes) -> InstructConfig:
    given = {"base": folder / "base", "data": folder / "data.json", "out": folder / name, **SETTINGS, **changes}
    return InstructConfig(**given)


def tune(folder: Path, name: str, **changes) -> str:
    screen = io.StringIO()
    training.train(config(folder, name, **changes), Console(file=screen, width=120), Instructions)
    return screen.getvalue()


@pytest.fixture
def call(capsys, monkeypatch):
    """`gpt ...` in this process: exit status, output, errors."""
    monkeypatch.setattr(machine, "keep_freed_memory", lambda: "not asked for in a test")

    def call(*args, typed: str | None = None):
        if typed is not None:
            monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        with pytest.raises(SystemExit) as left:
            cli.main([str(arg) for arg in args])
        return left.value.code or 0, *capsys.readouterr()

    return call


# ----- teaching ---------------------------------------------------------------------------------------------------


def test_it_learns_to_answer_and_leaves_everything_in_the_run(folder):
    run = folder / "taught"
    rows = json.loads((run / "responses.json").read_text(encoding="utf-8"))
    assert rows == [{**e, "model_response": e["output"]} for e in ENTRIES[25:28]]  # int(.85 * 30), and 3 more
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["validation_loss"] for line in lines if "validation_loss" in line]
    assert len(losses) == 4
    assert losses[-1] < losses[0] / 10
    assert lines[-1]["exact_match"] == 1.0
    assert lines[-1]["test_repeated"] == 3  # all are asked in training, too
    assert lines[-1]["test_loss"] < 0.2
    samples = (run / "samples.txt").read_text(encoding="utf-8")
    assert re.search(r"Say yes\.\nexpected: yes\nanswered: yes\n", samples)
    assert "Say\nno\nexpected: no\nanswered: no\n" in samples
    assert [len((run / f"{part}.jsonl").read_text().splitlines()) for part in ("train", "test", "validation")] == [
        25,
        3,
        2,
    ]
    assert (run / "loss.png").stat().st_size > 10_000
    assert not (run / "adapter.safetensors").exists()


def test_a_run_that_ends_with_weights_of_no_use_is_an_error_and_answers_nothing(folder):
    with pytest.raises(
        FloatingPointError, match=r"step 3, the last one at lr .*A lower lr may help; the checkpoint of"
    ):
        tune(folder, "wild", lr=1e30, steps=3, warmup=0)
    assert run_directory.finished(folder / "wild") is None
    assert not (folder / "wild" / "responses.json").exists()


@pytest.mark.finding("A6")
def test_the_same_command_line_again_is_done_once(folder, call):
    again = ["finetune", "instruct", folder / "base", "--data", folder / "data.json", "--out", folder / "again-again"]
    again += ["--steps", 2, "--style", "phi3", "--responses", 0, "--resume-if-exists"]
    assert call(*again)[0] == 0
    before = contents(folder / "again-again")
    assert call(*again) == (0, f"{folder / 'again-again'} has done all of its steps: there is nothing left to do\n", "")
    assert contents(folder / "again-again") == before


def test_resumed_it_ends_in_the_same_bytes(folder):
    tune(folder, "half", steps=20, turns=2, batch_size=4)
    screen = io.StringIO()
    again = config(folder, steps=30, turns=2, batch_size=4, out=None, resume=folder / "half")
    training.train(again, Console(file=screen), Instructions)
    tune(folder, "whole", steps=30, turns=2, batch_size=4)
    assert "resumed" in screen.getvalue()
    half, whole = (contents(folder / name, only_top=True) for name in ("half", "whole"))
    for name in ("model.safetensors", "training.safetensors", "responses.json"):
        assert half[name] == whole[name], name


def test_the_run_it_starts_from_is_only_read(folder, tmp_path):
    before = contents(folder / "base")
    tune(folder, "other", steps=1)
    assert contents(folder / "base") == before


def test_lora_trains_the_adapters_alone_and_the_adapter_is_enough(folder):
    run = folder / "adapted"
    plain, tok = instruct.with_end_of_text(*checkpoint.load_model(folder / "base"))
    whole = tl.io.load(checkpoint.files_of(run) / "model.safetensors")
    frozen = {name.replace("linear.", "") for name in whole if "lora_" not in name}
    assert frozen == set(plain.state_dict())
    old = checkpoint.load_model(folder / "base")[0].state_dict()
    for name, weight in whole.items():
        if "lora_" not in name:
            was = old[name.replace("linear.", "")].numpy()
            np.testing.assert_array_equal(weight.numpy()[: len(was)], was, err_msg=name)  # but for the new token's row
    plain.load_state_dict({name.replace("linear.", ""): w for name, w in whole.items() if "lora_" not in name})
    assert len(lora.load(plain, run / "adapter.safetensors")) == 5
    merged, _ = checkpoint.load_model(run)
    ids = tl.tensor([tok.encode("Say yes.")])
    assert not lora.adapters(merged)
    assert all(p.requires_grad for p in merged.parameters())
    np.testing.assert_allclose(merged(ids)[0].numpy(), plain(ids)[0].numpy(), rtol=1e-5, atol=1e-5)


def weights(run: Path) -> dict[str, np.ndarray]:
    return {name: p.numpy() for name, p in tl.io.load(run / "model.safetensors").items()}


@pytest.fixture(scope="module")
def tied(folder):
    """A pretrained run whose head is its token embedding, as GPT-2's is."""
    model, tokenizer = checkpoint.load_model(folder / "base")
    tl.manual_seed(0)
    tied = GPT(replace(model.config, tie_head=True))
    (folder / "tied").mkdir()
    description = json.loads((folder / "base" / "config.json").read_text()) | {"model": tied.config.to_dict()}
    (folder / "tied" / "config.json").write_text(json.dumps(description))
    tokenizer.save(folder / "tied" / "tokenizer.json")
    tl.io.save(folder / "tied" / "model.safetensors", tied.state_dict())
    return folder / "tied"


@pytest.mark.finding("B12")
def test_an_untied_head_begins_as_a_copy_and_learns_by_itself(folder, tied):
    """At first nothing has changed but that there are two matrices; their gradients add up to that of the tied one."""
    before, _ = checkpoint.load_model(tied)
    own = instruct.with_own_head(before)
    idx = tl.tensor([[1, 2, 3, 4]])
    np.testing.assert_array_equal(own(idx)[0].numpy(), before(idx)[0].numpy())
    for model in (before, own):
        model.loss(idx, idx).backward()
    parts = own.token_embedding.weight.grad.numpy(), own.head.weight.grad.numpy()
    assert all(np.abs(part).max() > 1e-3 for part in parts)
    np.testing.assert_allclose(sum(parts), before.token_embedding.weight.grad.numpy(), rtol=1e-4, atol=1e-6)
    assert instruct.with_own_head(own) is own


@pytest.mark.finding("B12")
def test_fine_tuning_with_an_untied_head(folder, tied):
    """Both matrices learn, each in its own way; the run is resumed, and asked, with the head that it has."""
    for name, untie_head in (("own-head", True), ("one-matrix", False)):
        tune(folder, name, base=tied, untie_head=untie_head, steps=2)
    assert "head.weight" not in weights(folder / "one-matrix")
    two, start = weights(folder / "own-head"), weights(tied)["token_embedding.weight"]
    embedding, head = two["token_embedding.weight"][: len(start)], two["head.weight"][: len(start)]
    assert (embedding != start).any()
    assert (head != start).any()
    assert (embedding != head).any()
    with pytest.raises(ValueError, match="was begun with untie_head True and cannot go on with False"):
        tune(folder, "own-head", out=None, resume=folder / "own-head", base=tied, steps=4)
    tune(folder, "own-head", out=None, resume=folder / "own-head", base=tied, untie_head=True, steps=4)
    assert checkpoint.load_model(folder / "own-head")[0].head is not None


def test_a_taught_run_can_be_taught_again(folder):
    tune(folder, "again", base=folder / "adapted", steps=2)
    assert not (folder / "again" / "adapter.safetensors").exists()
    assert (
        checkpoint.load_model(folder / "again")[1].vocab_size == checkpoint.load_model(folder / "taught")[1].vocab_size
    )


def test_dropout_turns_and_cut_texts_change_what_is_seen(folder):
    tune(folder, "cut", steps=1, dropout=0.5, max_length=12, mask_instruction=False, responses=0)
    description = checkpoint.read_config(folder / "cut" / "config.json")
    assert description["model"]["attention_dropout"] == 0.5
    _, tok = checkpoint.load_model(folder / "cut")
    task = Instructions(config(folder, max_length=12, turns=3), folder / "cut", tok, description)
    assert task.draw()[0].shape == (8, 12)
    whole = Instructions(config(folder, turns=3, mask_instruction=True), folder / "cut", tok, description)
    lengths = {len(text.ids) for text in whole.texts["train"]}
    assert lengths == {36, 34 + 33, 34 + 36, 37 + 36}  # alone, and behind another; a third does not fit
    assert max(lengths) <= 80
    x, y = whole.draw()
    for row, targets in zip(x.tolist(), y.tolist(), strict=True):
        assert tok.decode([t for t in targets if t != -100]) in ("yes<|endoftext|>", "no<|endoftext|>")
        assert len(row) == len(targets)


# ----- chat -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["taught", "adapted"])
def test_once(call, folder, name):
    assert call("chat", folder / name, "--once", "Say yes.") == (0, "yes\n", "")
    assert call("chat", folder / name, "--once", "Say", "--input", "no") == (0, "no\n", "")
    assert call("chat", folder / name, "--once", "Say yes.", "--max-new-tokens", 2) == (0, "ye\n", "")


def test_in_a_pipe_an_answer_is_a_line(call, folder):
    typed = "/help\nSay yes.\n\n/input no\nSay\n/nonsense\n/reset\nSay yes.\n/quit\nSay yes.\n"
    status, output, errors = call("chat", folder / "taught", typed=typed)
    assert (status, output) == (0, "yes\nno\nyes\n")
    told = "/input TEXT adds a text to the next question, /reset forgets the conversation, /quit or Ctrl-D leaves"
    assert errors == f"({told})\n(there is no /nonsense: {told})\n"
    assert call("chat", folder / "taught", typed="Say yes.") == (0, "yes\n", "")


def test_a_line_that_is_not_utf8_is_noted_and_the_next_one_answered(folder):
    command = [sys.executable, "-m", "gpt", "chat", str(folder / "taught")]
    lines = b"Say yes.\na\xffb\nSay yes.\n"
    done = subprocess.run(command, input=lines, env=ONE_THREAD, capture_output=True, check=False)
    assert done.returncode == 1
    assert done.stdout == b"yes\nyes\n"
    assert done.stderr == b"(the text is not UTF-8 (byte 0xff at position 1): convert it to UTF-8)\n"


def test_a_prompt_that_is_not_utf8_is_one_sentence_without_code(folder):
    for command in (["generate", "base", "--prompt"], ["chat", "taught", "--once"]):
        name, run, flag = command
        args = [sys.executable, "-m", "gpt", name, str(folder / run), flag, b"a\xffb"]
        done = subprocess.run(args, env=ONE_THREAD, capture_output=True, check=False)
        assert done.returncode == 1
        assert done.stderr == b"gpt: the text is not UTF-8 (byte 0xff at position 1): convert it to UTF-8\n"


def test_sampling_is_seeded_and_asking_again_draws_again(call, folder):
    hot = ["chat", folder / "taught", "--temperature", 30, "--max-new-tokens", 30]
    twice = [call(*hot, typed="Say yes.\nSay yes.\n")[1] for _ in (1, 2)]
    assert twice[0] == twice[1]
    assert call(*hot, "--seed", 5, typed="Say yes.\nSay yes.\n")[1] != twice[0]
    assert call(*hot, "--top-k", 1, "--once", "Say yes.")[1] == "yes\n"


@pytest.fixture
def talk(folder):
    """A Conversation with the taught model, whose prompts are kept."""
    model, tok = checkpoint.load_model(folder / "taught")

    def make(**options):
        return Conversation(
            model, tok, STYLES["phi3"], tok.special_tokens["<|endoftext|>"], max_new_tokens=6, **options
        )

    return make


def ask(talk, entry) -> tuple[str, str]:
    """The prompt that the model sees, as text, and the answer."""
    seen = []
    original = talk.model.hidden_states
    talk.model.hidden_states = lambda idx, cache=None: (seen.append(idx.tolist()[0]), original(idx, cache))[1]
    try:
        answer = "".join(talk.ask(entry))
    finally:
        talk.model.hidden_states = original
    return talk.tokenizer.decode(seen[0]), answer


def test_history_stands_before_the_question_as_far_as_the_context_goes(talk):
    """The question is 33 tokens and its turn 37; of the context's 80 an answer may need 6: so one turn fits."""
    question = "<|user|>\nSay yes.\n<|assistant|>:\n"
    turn = f"{question}yes<|endoftext|>"
    conversation = talk()
    assert ask(conversation, YES) == (question, "yes")
    assert ask(conversation, YES)[0] == turn + question
    assert conversation.dropped == 0
    second = conversation.tokenizer.decode(conversation.turns[-1])
    assert second.startswith(question)
    assert ask(conversation, YES)[0] == second + question
    assert conversation.dropped == 1
    conversation.reset()
    assert ask(conversation, YES)[0] == question
    alone = talk(history=0)
    assert [ask(alone, YES)[0] for _ in (1, 2)] == [question, question]
    assert alone.dropped == 0


def test_only_the_newest_turns_of_the_history_are_shown(talk):
    conversation = talk(history=2)
    for ids in ([1] * 4, [2] * 5, [3] * 6):
        conversation.turns.append(ids)
    assert conversation.recent(100) == [2] * 5 + [3] * 6
    assert conversation.dropped == 0
    assert conversation.recent(10) == [3] * 6
    assert conversation.dropped == 1
    assert conversation.recent(5) == []


def test_an_answer_ends_where_the_context_does(talk, capsys):
    conversation = talk()
    (endless,) = generate(
        conversation.model, [conversation.tokenizer.encode("<|user|>\nSay yes.\n<|assistant|>:\n")], 47
    )
    conversation.stop_token = next(id for id in range(conversation.tokenizer.vocab_size) if id not in endless)
    conversation.max_new_tokens = 100
    chat_command.answer(conversation, "Say yes.")
    output, errors = capsys.readouterr()
    assert output == conversation.tokenizer.decode(endless) + "\n"
    assert errors == "(the answer ends here because the context is full)\n"
    chat_command.answer(conversation, "Say yes.")
    assert capsys.readouterr().err.startswith("(the context is full: the oldest turn is forgotten)\n")
    with pytest.raises(ValueError, match="the question takes 80 tokens and the context has 80: ask with fewer words"):
        conversation.ask({"instruction": "s" * 55, "input": ""})


def test_ctrl_c_stops_an_answer_and_what_was_said_counts(talk, monkeypatch, capsys):
    conversation, lines = talk(history=0), iter(["Say yes.", "Say yes."])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines, "/quit"))
    monkeypatch.setattr(chat_command, "show", interrupted_at("e"))
    chat_command.converse(conversation, "> ")
    assert conversation.tokenizer.decode(conversation.turns[-1]).endswith(":\nye<|endoftext|>")
    lines = iter(["Say yes."])
    with pytest.raises(KeyboardInterrupt):
        chat_command.converse(talk(), "")


def interrupted_at(piece):
    def show(text):
        if text == piece:
            raise KeyboardInterrupt

    return show


def test_in_a_terminal(folder):
    """A pseudo-terminal: a prompt, an answer, Ctrl-C at the prompt, Ctrl-D leaves with 0."""
    child, terminal = pytest.importorskip("pty").fork()
    if child == 0:
        os.environ.update(ONE_THREAD, TERM="dumb", COLUMNS="200")
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are born without
        os.execv(sys.executable, [sys.executable, "-m", "gpt", "chat", str(folder / "taught")])
    screen = read_until(terminal, "> ")
    assert "parameters, a context of 80 tokens" in screen
    assert "It sees each question by itself, as in training (--history N for N earlier turns)." in screen
    os.write(terminal, b"Say yes.\n")
    assert "yes\r\n\r\n> " in read_until(terminal, "\n> ")
    assert "(Ctrl-D or /quit leaves)" in read_until(terminal, "leaves)\r\n\r\n> ", press=b"\x03")
    os.write(terminal, b"\x04")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(terminal)


def read_until(terminal: int, text: str, press: bytes = b"") -> str:
    """What is shown until `text` is. `press`: as a person does, and again if nothing happens: readline can miss it."""
    screen, shown, patience = "", False, time.monotonic() + 300  # far more than it takes: only a hang ends here
    while text not in screen:
        assert time.monotonic() < patience, screen
        if press and not shown:  # at first, and whenever nothing came for a second: input() can miss a signal
            os.write(terminal, press)
        if shown := bool(select.select([terminal], [], [], 1)[0]):
            screen += os.read(terminal, 4096).decode()
    return screen


# ----- what goes wrong --------------------------------------------------------------------------------------------


TEACH, ON = ["finetune", "instruct", "{f}/base"], ["--style", "phi3", "--data", "{f}/data.json"]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["chat", "{f}/base"], "{f}/base was not taught to answer: gpt finetune instruct {f}/base --data FILE does"),
        (["chat", "nowhere"], "there is no run nowhere"),
        (["chat", "{f}/taught", "--once", "é"], "character 'é' (U+00E9) at position 9 is not in the vocabulary"),
        (["chat", "{f}/taught", "--history", "-1"], "history must be an integer of at least 0, got -1"),
        (["chat", "{f}/taught", "--temperature", "-1"], "temperature must be a finite number of at least 0"),
        (["chat", "{f}/taught", "--stop", "no"], "stop must be a single token, and 'no' is 2 of this tokenizer's"),
        (["finetune", "instruct"], "the run to start from is missing: gpt finetune instruct RUN --data FILE"),
        (TEACH, "the file of entries is missing: gpt finetune instruct RUN --data FILE"),
        ([*TEACH, "--data", "nowhere"], "nowhere cannot be read: No such file or directory"),
        ([*TEACH, "--data", "{f}/text.txt"], "text.txt is neither JSON nor a table whose first line names the columns"),
        (
            [*TEACH, *ON[:-1], "{f}/long.json"],
            "{f}/long.json: 1 of 31 entries are longer than the context of 80 tokens, the first of them entry 31",
        ),
        ([*TEACH, "--data", "{f}/data.json"], "entry 1: character 'B' (U+0042) at position 0 is not in the vocabulary"),
        ([*TEACH, *ON, "--batch-size", "26"], "25 training entries make no batch of 26"),
        (
            [*TEACH, *ON, "--max-length", "9", "--mask-instruction"],
            "max_length 9 cuts away every answer: give a larger",
        ),
        ([*TEACH, *ON, "--lora", "--targets", "x"], "no Linear of this model is called 'x'"),
        ([*TEACH, *ON, "--lora", "--rank", "99999"], "--rank must be at most 32, the smaller side of the largest Line"),
        ([*TEACH, *ON, "--lora", "--rank", "33"], "--rank must be at most 32, the smaller side of the largest Linear"),
        ([*TEACH, *ON, "--rank", "4"], "--rank has no effect without --lora: add --lora, or omit --rank"),
        ([*TEACH, *ON, "--targets", "head"], "--targets has no effect without --lora: add --lora, or omit --targets"),
        (["finetune", "instruct", "--resume", "{f}/base"], "is a run of the task 'pretrain'"),
        (["finetune", "instruct", "--resume", "{f}/taught", "--style", "alpaca"], "begun with style 'phi3' and cannot"),
        (["train", "--resume", "{f}/taught"], "is a run of the task 'instruct'"),
    ],
)
def test_each_fault_is_one_sentence(call, folder, tmp_path, args, says):
    out = [] if "--resume" in args or args[0] == "chat" else ["--out", tmp_path / "out"]
    status, _, errors = call(*(arg.format(f=folder) for arg in args), *out, typed="")
    assert status == 1
    assert re.match(r"gpt: .*\n\Z", errors), errors
    assert says.format(f=folder) in errors


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"turns": 0}, "turns must be an integer of at least 1, got 0"),
        ({"style": "chatml"}, "style must be one of 'alpaca', 'phi3'"),
        ({"dropout": 1.0}, "dropout must be a finite number of at least 0 and below 1"),
        ({"rank": 0}, "rank must be an integer of at least 1"),
        ({"max_length": 1}, "max_length must be an integer of at least 2, got 1"),
    ],
)
def test_settings_outside_their_range(folder, changes, says):
    with pytest.raises(ValueError, match=says):
        config(folder, **changes)


def test_sigint_stops_after_a_step_and_it_can_go_on(folder, call):
    def stop(*_):
        signal.raise_signal(signal.SIGINT)
        return {"validation_loss": 1.0}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Instructions, "evaluate", stop)
        result = training.train(config(folder, "stopped"), Console(file=io.StringIO()), Instructions)
    assert result.stopped_by == signal.SIGINT
    status, output, _ = call("finetune", "instruct", "--resume", folder / "stopped", "--steps", 1)
    assert status == 0
    assert "answered exactly as expected" in output


def test_what_is_learnt_from_is_dropped_as_the_run_says(folder, tmp_path):
    """Also where the model is taken as it is, since its tokenizer knows the end of a text."""
    shape = {"n_embd": 8, "context_length": 40, "steps": 1, "tokenizer": "word"}
    train(tiny(folder, text=(folder / "text.txt",) * 5, out=tmp_path / "base", **shape, dropout=0.5))
    s = session.begin(Instructions, config(folder, base=tmp_path / "base", out=tmp_path), tmp_path, lambda line: None)
    batch = s.task.draw()
    assert s.model.training
    assert s.task.loss(s.model, batch).item() != s.task.loss(s.model, batch).item()
