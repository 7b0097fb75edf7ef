"""The chat of the page: prompts, tokens and answers are those of `gpt chat` for the same turns."""

import json

import pytest
from runs import quickly_drawn
from served import app_of, small_runs

from gpt import look
from gpt.tasks.instruct import STYLES, Conversation

pytest.importorskip("httpx2", reason="Starlette's test client needs it: pip install -e '.[test]'")
from starlette.testclient import TestClient

assert quickly_drawn  # a fixture


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return small_runs(tmp_path_factory)


@pytest.fixture(scope="module")
def client(runs):
    with TestClient(app_of(runs)) as client:
        yield client


def ask(client, messages, run="turns", **fields):
    """The first line of the answer, its text and its tokens, and how it ended."""
    answer = client.post("/api/chat", json={"run": run, "messages": messages, **fields})
    assert answer.status_code == 200, answer.text
    first, *lines, last = [json.loads(line) for line in answer.text.splitlines()]
    return first, "".join(line["piece"] for line in lines), [id for line in lines for id in line["ids"]], last


@pytest.mark.parametrize("history", [None, 1, 5])
def test_turns_are_those_of_gpt_chat(client, runs, history):
    """Five questions to one Conversation, as in the terminal, and to the server, which gets all earlier turns."""
    loaded = look.load(runs / "turns")
    options = {"temperature": 1.2, "seed": 7, "max_new_tokens": 6}
    talk = Conversation(
        loaded.model, loaded.tokenizer, STYLES["phi3"], loaded.tokenizer.special_tokens["<|endoftext|>"],
        history=2 if history is None else history, top_p=0.9, **options,
    )  # fmt: skip
    messages, dropped = [], 0
    for instruction, about in (("s", ""), ("Say", "no"), ("y", ""), ("Say yes.", ""), ("s", "")):
        messages.append({"role": "user", "content": instruction, "input": about})
        prompt, _ = talk.prompt({"instruction": instruction, "input": about})
        wanted = "".join(talk.ask({"instruction": instruction, "input": about}))
        first, text, ids, last = ask(client, messages, history=history, top_p=0.9, **options)
        assert (text, ids) == (wanted, talk.answer)
        assert (first["prompt"], first["prompt_tokens"]) == (loaded.tokenizer.decode(prompt), len(prompt))
        assert first["seen"] + first["dropped"] + first["hidden"] == len(messages) // 2
        assert first["seen"] == first["prompt"].count("<|user|>") - 1
        assert first["hidden"] == max(len(messages) // 2 - (2 if history is None else history), 0)
        assert last == {"end": "limit" if len(ids) == 6 else "stop"}
        dropped += first["dropped"]
        messages.append({"role": "assistant", "content": text, "ids": ids})
    assert bool(dropped) == (history != 1)  # one turn always fits


def test_an_answer_without_ids_is_encoded(client, runs):
    question, answer = {"role": "user", "content": "s"}, {"role": "assistant", "content": "yes"}
    ids = look.load(runs / "turns").tokenizer.encode_ordinary("yes")
    known = ask(client, [question, {**answer, "ids": ids}, question])
    assert ask(client, [question, answer, question]) == known
    assert known[0]["prompt"].startswith("<|user|>\ns\n<|assistant|>:\nyes<|endoftext|><|user|>")


def test_an_answer_ends_by_itself_or_at_a_limit(client):
    yes = [{"role": "user", "content": "Say yes."}]
    assert ask(client, yes, "taught")[1:] == ("yes", ask(client, yes, "taught")[2], {"end": "stop"})
    assert ask(client, yes, "taught", max_new_tokens=2)[3] == {"end": "limit"}
    long = [{"role": "user", "content": "s" * 50}]  # 75 of 80 tokens
    first, _, ids, last = ask(client, long, "turns", max_new_tokens=300, temperature=5, seed=1)
    assert (first["prompt_tokens"], len(ids), last) == (75, 5, {"end": "context"})


def test_an_answer_is_greedy_unless_a_temperature_is_given(client):
    question = [{"role": "user", "content": "s"}]
    assert ask(client, question) == ask(client, question, temperature=0)
    assert ask(client, question, temperature=2)[2] != ask(client, question)[2]


def test_about_the_training(client):
    for run, turns in (("taught", 1), ("turns", 3)):
        about = client.post("/api/chat/about", json={"run": run}).json()
        assert (about["turns"], about["context"]) == (turns, 80)
        assert about["prompt"] == "<|user|>\nINSTRUCTION\nINPUT\n<|assistant|>:\n"


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"messages": []}, "messages must be a list of questions and answers that begins and ends with a question"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages[0] must be an object with the role user"),
        ({"messages": [{"role": "user", "content": " "}]}, "the question is empty: type one"),
        ({"messages": [{"role": "user", "content": "s" * 80}]}, "the question takes 105 tokens and the context has 80"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "content must be Unicode text"),
        ({"messages": [{"role": "user", "content": "s", "input": 3}]}, "input must be a string, got 3"),
        ({"temperature": -1}, "temperature must be a finite number of at least 0"),
        ({"top_p": 0}, "top_p must be above 0 and at most 1"),
        ({"history": -1}, "history must be an integer of at least 0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be an integer of at least 1"),
        ({"run": "bytes"}, "bytes was not fine-tuned to chat: gpt finetune instruct makes a model that answers"),
        (
            {"messages": [{"role": "user", "content": "s"}, {"role": "assistant", "content": "", "ids": [999]},
                          {"role": "user", "content": "s"}]},
            "ids: id 999 is not in the vocabulary",
        ),
    ],
)  # fmt: skip
def test_an_invalid_request_is_one_sentence(client, fields, sentence):
    sent = {"run": "taught", "messages": [{"role": "user", "content": "Say yes."}], **fields}
    answer = client.post("/api/chat", content=json.dumps(sent), headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(sentence)
