"""`gpt chat`: single questions, input from a pipe and a terminal, earlier turns, Ctrl-C."""

import io
import os
import select
import signal
import subprocess
import sys
import time

import pytest
from runs import ONE_THREAD
from taught import YES

from gpt.cli import chat as chat_command
from gpt.generation import generate
from gpt.tasks.instruct import STYLES, Conversation
from gpt.tokenizer import END_OF_TEXT
from gpt.training import checkpoint


@pytest.mark.slow
@pytest.mark.parametrize("name", ["taught", "adapted"])
def test_once(call, folder, name):
    assert call("chat", folder / name, "--once", "Say yes.") == (0, "yes\n", "")
    assert call("chat", folder / name, "--once", "Say", "--input", "no") == (0, "no\n", "")
    assert call("chat", folder / name, "--once", "Say yes.", "--max-new-tokens", 2) == (0, "ye\n", "")


def test_in_a_pipe_an_answer_is_a_line(call, folder):
    typed = "/help\nSay yes.\n\n/input no\nSay\n/nonsense\n/reset\nSay yes.\n/quit\nSay yes.\n"
    status, output, errors = call("chat", folder / "taught", typed=typed)
    assert (status, output) == (0, "yes\nno\nyes\n")
    told = "/input TEXT adds a text to the next question, /reset clears the conversation, /quit or Ctrl-D exits"
    assert errors == f"({told})\n(there is no /nonsense: {told})\n"
    assert call("chat", folder / "taught", typed="Say yes.") == (0, "yes\n", "")


@pytest.mark.slow
def test_a_line_that_is_not_utf8_is_noted_and_the_next_one_answered(folder):
    command = [sys.executable, "-m", "gpt", "chat", str(folder / "taught")]
    lines = b"Say yes.\na\xffb\nSay yes.\n"
    done = subprocess.run(command, input=lines, env=ONE_THREAD, capture_output=True, check=False)
    assert done.returncode == 1
    assert done.stdout == b"yes\nyes\n"
    assert done.stderr == b"(the text is not UTF-8 (byte 0xff at position 1): convert it to UTF-8)\n"


@pytest.mark.slow
def test_a_prompt_that_is_not_utf8_is_one_sentence_without_code(folder):
    for command in (["generate", "base", "--prompt"], ["chat", "taught", "--once"]):
        name, run, flag = command
        args = [sys.executable, "-m", "gpt", name, str(folder / run), flag, b"a\xffb"]
        done = subprocess.run(args, env=ONE_THREAD, capture_output=True, check=False)
        assert done.returncode == 1
        assert done.stderr == b"gpt: the text is not UTF-8 (byte 0xff at position 1): convert it to UTF-8\n"


def test_the_same_question_again_is_answered_with_the_next_seed(folder):
    """Without the earlier turns before it, which would change the answer anyway."""

    def answers(seed: int, count: int) -> list[str]:
        end = tokenizer.special_tokens[END_OF_TEXT]
        sampling = {"temperature": 30.0, "seed": seed, "max_new_tokens": 20}
        chat = Conversation(model, tokenizer, STYLES["phi3"], end, history=0, **sampling)
        return ["".join(chat.ask(YES)) for _ in range(count)]

    model, tokenizer = checkpoint.load_model(folder / "taught")
    three = answers(5, 3)
    assert len(set(three)) == 3
    assert three == [answers(seed, 1)[0] for seed in (5, 6, 7)]


def test_sampling_is_seeded_and_asking_again_draws_again(call, folder):
    hot = ["chat", folder / "taught", "--temperature", 30, "--max-new-tokens", 30]
    twice = [call(*hot, typed="Say yes.\nSay yes.\n")[1] for _ in (1, 2)]
    assert twice[0] == twice[1]
    assert call(*hot, "--seed", 5, typed="Say yes.\nSay yes.\n")[1] != twice[0]
    assert call(*hot, "--top-k", 1, "--once", "Say yes.")[1] == "yes\n"


def test_a_stop_string_of_several_tokens_ends_an_answer_before_it(call, folder):
    assert call("chat", folder / "taught", "--once", "Say yes.", "--stop", "es") == (0, "y\n", "")
    assert call("chat", folder / "taught", "--once", "Say yes.", "--stop", "zz", "--stop", "s") == (0, "ye\n", "")
    assert call("chat", folder / "taught", "--once", "Say yes.", "--stop", "esx") == (0, "yes\n", "")  # only begins it
    status, _, errors = call("chat", folder / "taught", "--stop", "")
    assert (status, errors) == (2, "gpt: a stop string is empty: give at least one character (gpt chat --help)\n")


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


def test_turns_that_fill_the_room_exactly_are_kept(talk):
    conversation = talk()
    conversation.turns = [[1] * 4, [2] * 5, [3] * 6]
    assert conversation.recent(15) == [1] * 4 + [2] * 5 + [3] * 6
    assert conversation.recent(14) == [2] * 5 + [3] * 6
    assert conversation.dropped == 1


@pytest.mark.parametrize("history", [None, 0, 1, 2])
def test_replayed_turns_give_the_prompt_of_the_conversation(talk, history):
    """A new Conversation for each question, as a stateless server makes: same prompts, answers and dropped turns."""
    lasting = talk(history=history, temperature=1.5, seed=3)
    asked = []
    for entry in [{"instruction": "s", "input": ""}, YES, {"instruction": "y", "input": "no"}, YES, YES]:
        fresh = talk(history=history, temperature=1.5, seed=3)
        for earlier, ids in asked:
            fresh.replay(earlier, ids)
        assert ask(fresh, entry) == ask(lasting, entry)
        assert fresh.answer == lasting.answer
        asked.append((entry, lasting.answer))
    assert lasting.tokenizer.decode(lasting.turns[-1]).endswith("<|endoftext|>")


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


def test_a_turn_ended_by_a_stop_string_is_what_was_shown(talk):
    conversation = talk(stops=("es",))
    assert ask(conversation, YES)[1] == "y"
    assert conversation.tokenizer.decode(conversation.turns[-1]).endswith("\ny<|endoftext|>")
    assert conversation.tokenizer.decode(conversation.answer) == "y"
    assert not conversation.cut
    with pytest.raises(ValueError, match="a stop string is empty"):
        talk(stops=("",))


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


@pytest.mark.slow
def test_in_a_terminal(folder):
    """A pseudo-terminal: a prompt, an answer, Ctrl-C at the prompt, Ctrl-D leaves with 0."""
    child, terminal = pytest.importorskip("pty").fork()
    if child == 0:
        os.environ.update(ONE_THREAD, TERM="dumb", COLUMNS="200")
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are born without
        os.execv(sys.executable, [sys.executable, "-m", "gpt", "chat", str(folder / "taught")])
    screen = read_until(terminal, "> ")
    assert "parameters, a context of 80 tokens" in screen
    assert "It sees each question separately, as in training (--history N for N earlier turns)." in screen
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


def test_lines_that_are_not_utf8_are_counted(talk, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\xff\n\xfe\n/quit\n"), encoding="utf-8"))
    assert chat_command.converse(talk(), "") == 2
    assert capsys.readouterr().err.count("(the text is not UTF-8 (byte ") == 2


def test_a_line_without_an_answer_does_not_end_the_lines_after_it(folder, call):
    """Not UTF-8, or longer than the context: reported, counted in the exit status, and the next line is answered."""
    status, output, errors = call("chat", folder / "taught", typed=f"Say yes.\n{'s' * 80}\na\udcff\nSay yes.\n")
    assert (status, output) == (1, "yes\nyes\n")
    too_long, not_text = errors.splitlines()
    assert too_long.startswith("(the question takes ")
    assert not_text.startswith("(the text is not UTF-8 (byte 0xff ")


def test_a_note_has_one_style_and_no_markup(monkeypatch, capsys):
    """Names and numbers in it are not coloured by themselves."""
    for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm-256color"), ("COLUMNS", "20")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    chat_command.note("there is no '/x' [bold]: 12 turns are True")
    assert capsys.readouterr().err == "\x1b[2m(there is no '/x' [bold]: 12 turns are True)\x1b[0m\n"
