"""The OpenAI-compatible server, by the real `openai` client: models, texts, log-probabilities, streams, errors."""

import asyncio
import contextlib
import json
import math
import socket
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import quickly_drawn
from served import app_of, serving, small_runs

from gpt import generation, look
from gpt.serve.openai.chat import turns_of
from gpt.serve.openai.decoding import Answer, Token, write
from gpt.serve.openai.errors import OpenAIError, from_exception
from gpt.serve.openai.options import Options, read_stops
from gpt.serve.worker import Busy
from gpt.stopping import find_stop
from gpt.tasks.instruct import STYLES, Conversation
from gpt.tasks.pretrain import start_of_run
from gpt.tokenizer import BPETokenizer

openai = pytest.importorskip("openai")
assert quickly_drawn  # a fixture

PROMPT = "9 bottles stand on"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return small_runs(tmp_path_factory)


@pytest.fixture(scope="module")
def app(runs):
    return app_of(runs)


@pytest.fixture(scope="module")
def address(app):
    with serving(app) as address:
        yield address


@pytest.fixture(scope="module")
def client(address):
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def loaded(runs):
    return look.load(runs / "bytes")


def expected_ids(loaded, prompts, room, **options) -> list[list[int]]:
    """The new tokens of gpt.generate."""
    end = loaded.tokenizer.special_tokens["<|endoftext|>"]
    texts = [loaded.tokenizer.encode_ordinary(p) if isinstance(p, str) else p for p in prompts]
    return generation.generate(loaded.model, texts, room, stop_token=end, **options)


def expected(loaded, prompts, room, **options) -> list[str]:
    """The texts of gpt.generate."""
    return [loaded.tokenizer.decode(ids) for ids in expected_ids(loaded, prompts, room, **options)]


# ----- models -----


def test_models_are_the_runs_that_write(client, runs):
    found = client.models.list().data
    assert sorted(model.id for model in found) == ["bytes", "taught", "turns"]
    assert {(m.object, m.owned_by) for m in found} == {("model", "gpt")}
    one = client.models.retrieve("bytes")
    assert (one.id, one.created) == ("bytes", int((runs / "bytes/config.json").stat().st_mtime))
    assert client.models.retrieve("bytes@3").id == "bytes@3"
    for unknown in ("other", "labels", "bytes@77", "bytes@", "bytes@x", "@3"):
        with pytest.raises(openai.NotFoundError) as caught:
            client.models.retrieve(unknown)
        assert caught.value.code == "model_not_found"


def test_a_step_names_a_kept_checkpoint(client, runs):
    asked = {"prompt": PROMPT, "max_tokens": 12, "temperature": 0}
    for name, step in (("bytes@3", 3), ("bytes", 4)):
        answer = client.completions.create(model=name, **asked)
        assert answer.choices[0].text == expected(look.load(runs / "bytes", step), [PROMPT], 12)[0]
        assert (answer.model, answer.system_fingerprint) == (name, f"bytes@{step}")


# ----- texts -----


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"temperature": 1.0, "seed": 5},
        {"temperature": 2.5, "seed": 0, "top_p": 0.7},
        {"temperature": 1.5, "seed": 9, "top_k": 7},
    ],
)
@pytest.mark.parametrize("logprobs", [None, 2])
def test_texts_are_those_of_generate(client, loaded, options, logprobs):
    """Also beyond the context of 48 tokens, where the oldest tokens are left out."""
    more = {"extra_body": {"top_k": options["top_k"]}} if "top_k" in options else {}
    plain = {name: value for name, value in options.items() if name != "top_k"}
    asked = {"model": "bytes", "prompt": [PROMPT, "take"], "max_tokens": 60, "logprobs": logprobs, **plain, **more}
    answer = client.completions.create(**asked)
    new = expected_ids(loaded, [PROMPT, "take"], 60, **options)
    texts = [loaded.tokenizer.decode(ids) for ids in new]
    assert [choice.text for choice in answer.choices] == texts
    assert [choice.logprobs is None for choice in answer.choices] == [logprobs is None] * 2
    assert len(texts[0]) > 20
    sizes = [len(loaded.tokenizer.encode_ordinary(p)) for p in (PROMPT, "take")]
    assert answer.usage.prompt_tokens == sum(sizes)
    assert answer.usage.completion_tokens == sum(map(len, new))
    assert answer.usage.total_tokens == sum(sizes) + sum(map(len, new))
    ended = ["length" if len(ids) == 60 else "stop" for ids in new]
    assert [choice.finish_reason for choice in answer.choices] == ended
    streamed = ["", ""]
    for chunk in client.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.text
    assert streamed == texts


def test_prompts_are_texts_or_token_ids(client, loaded):
    ids = loaded.tokenizer.encode_ordinary(PROMPT)
    for prompt in (PROMPT, [PROMPT], ids, [ids]):
        (choice,) = client.completions.create(model="bytes", prompt=prompt, max_tokens=8, temperature=0).choices
        assert choice.text == expected(loaded, [PROMPT], 8)[0]
    end = loaded.tokenizer.special_tokens["<|endoftext|>"]
    special = client.completions.create(model="bytes", prompt=[end, *ids], max_tokens=8, temperature=0)
    assert special.choices[0].text == expected(loaded, [[end, *ids]], 8)[0]
    as_text = client.completions.create(model="bytes", prompt="<|endoftext|>", max_tokens=8, temperature=0)
    assert as_text.usage.prompt_tokens == len(loaded.tokenizer.encode_ordinary("<|endoftext|>")) > 1
    begun = client.completions.create(model="bytes", prompt="", echo=True, max_tokens=8, temperature=0)
    assert begun.choices[0].text == expected(loaded, [start_of_run(loaded.description, loaded.tokenizer)], 8)[0]


def test_sixteen_tokens_unless_told(client):
    assert client.completions.create(model="bytes", prompt=PROMPT, temperature=0).usage.completion_tokens == 16


def test_n_choices_draw_with_consecutive_seeds(client, loaded):
    answer = client.completions.create(model="bytes", prompt=PROMPT, n=3, best_of=3, seed=40, max_tokens=20)
    alone = [expected(loaded, [PROMPT], 20, temperature=1.0, seed=40 + i)[0] for i in range(3)]
    assert [choice.text for choice in answer.choices] == alone
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert answer.usage.prompt_tokens == len(loaded.tokenizer.encode_ordinary(PROMPT))
    assert answer.usage.completion_tokens == 60


def test_a_seed_repeats_and_none_does_not(client):
    def text(**options):
        return client.completions.create(model="bytes", prompt=PROMPT, max_tokens=30, **options).choices[0].text

    assert text(seed=3) == text(seed=3)
    assert len({text() for _ in range(3)}) == 3


def test_a_text_ends_at_the_end_of_text(client, runs):
    model = look.load(runs / "taught")
    prompt = STYLES["phi3"].prompt({"instruction": "Say yes."})
    answer = client.completions.create(model="taught", prompt=prompt, max_tokens=20, temperature=0)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("yes", "stop")
    assert answer.usage.completion_tokens == len(model.tokenizer.encode_ordinary("yes"))


# ----- stop strings -----


def test_stop_strings_end_the_text_before_them(client, loaded):
    (text,) = expected(loaded, [PROMPT], 60, temperature=1.0, seed=5)
    stop = text[20:27]
    cut = text[: text.find(stop)]
    asked = {"model": "bytes", "prompt": PROMPT, "max_tokens": 60, "seed": 5}
    for given_stop in (stop, [stop], ["never written", stop]):
        (choice,) = client.completions.create(**asked, stop=given_stop).choices
        assert (choice.text, choice.finish_reason) == (cut, "stop")
        chunks = list(client.completions.create(**asked, stop=given_stop, stream=True))
        assert "".join(chunk.choices[0].text for chunk in chunks) == cut
        assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "stop"
    usage = client.completions.create(**asked, stop=stop).usage
    assert usage.completion_tokens < 60


def test_one_choice_stops_while_others_continue(client, loaded):
    texts = [expected(loaded, [PROMPT], 40, temperature=1.0, seed=7 + i)[0] for i in range(3)]
    stop = next(text[10:14] for text in texts if text[10:14] not in "".join(t for t in texts if t != text))
    answer = client.completions.create(model="bytes", prompt=PROMPT, n=3, seed=7, max_tokens=40, stop=stop)
    assert [choice.text for choice in answer.choices] == [text.split(stop)[0] for text in texts]
    assert sorted(choice.finish_reason for choice in answer.choices) == ["length", "length", "stop"]


TOKENIZER = BPETokenizer.train("abab cab é日日 aab abba" * 3, 266)


def by_hand(text: str, stops: list[str]) -> str:
    """Character by character: the text before the first stop string that is complete, the longest of those."""
    for end in range(len(text) + 1):
        if complete := [stop for stop in stops if text[:end].endswith(stop)]:
            return text[: end - max(map(len, complete))]
    return text


@given(st.text("abcé日 ", max_size=12), st.lists(st.text("abcé日 ", min_size=1, max_size=4), max_size=4))
def test_no_part_of_a_stop_string_is_sent(text, stops):
    """Over all ways in which tokens cut the text: bytes alone, and the tokens of a vocabulary."""
    for ids in ([TOKENIZER.encode_ordinary(c.to_bytes().decode("latin1"))[0] if c < 128 else c_id(c)
                 for c in text.encode()], TOKENIZER.encode_ordinary(text)):  # fmt: skip
        answer, sent, finish = Answer(0, TOKENIZER, stops), "", None
        for id in ids:
            piece = answer.feed(Token(id))
            sent, finish = sent + piece.text, piece.finish
            assert by_hand(text, stops).startswith(sent)
            if finish:
                break
        if finish is None:
            sent += answer.end("length").text
        assert sent == by_hand(text, stops)
        assert (finish == "stop") == (by_hand(text, stops) != text)


def c_id(byte: int) -> int:
    return next(id for id in range(256) if TOKENIZER.decode_bytes([id]) == bytes([byte]))


def test_of_two_stop_strings_the_one_that_is_complete_first_counts():
    assert find_stop("xabcd", ["abcd", "c"]) == 3
    assert find_stop("xabc", ["c", "bc"]) == 2
    assert find_stop("xab", ["abc"]) is None


def test_characters_are_sent_whole():
    answer = Answer(0, TOKENIZER)
    pieces = [answer.feed(Token(c_id(byte))).text for byte in "日é".encode()]
    assert pieces == ["", "", "日", "", "é"]
    answer = Answer(0, TOKENIZER)
    assert answer.feed(Token(c_id(0xE6))).text == ""
    assert answer.end("length").text == "\ufffd"


# ----- log-probabilities -----


def log_softmax(loaded, ids) -> np.ndarray:
    """(T, V), in float64, from one forward pass."""
    logits = np.asarray(loaded.model([ids])[0].tolist()[0], np.float64)
    return (
        logits
        - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
        - logits.max(-1, keepdims=True)
    )


def test_log_probabilities_are_those_of_the_model(client, loaded):
    """Whatever the temperature: of each token, and the three most probable ones."""
    prompt = loaded.tokenizer.encode_ordinary(PROMPT)
    new = generation.generate(loaded.model, [prompt], 20, temperature=1.7, seed=2)[0]
    (choice,) = client.completions.create(
        model="bytes", prompt=PROMPT, max_tokens=20, temperature=1.7, seed=2, logprobs=3
    ).choices
    found, logp = choice.logprobs, log_softmax(loaded, [*prompt, *new])
    assert found.tokens == [loaded.text_of(id) for id in new]
    rows = logp[len(prompt) - 1 : -1]
    np.testing.assert_allclose(found.token_logprobs, [row[id] for row, id in zip(rows, new, strict=True)], atol=2e-5)
    for row, id, top in zip(rows, new, found.top_logprobs, strict=True):
        names = {loaded.text_of(k): row[k] for k in [*np.argsort(-row)[:3], id]}
        assert top.keys() == names.keys()
        for name, value in names.items():
            assert top[name] == pytest.approx(value, abs=2e-5)
    for token, offset in zip(found.tokens, found.text_offset, strict=True):
        if "\\x" not in token:
            assert choice.text[offset:].startswith(token)


def test_echo_scores_the_prompt(client, loaded):
    """What evaluation tools ask for: max_tokens=0, echo, logprobs."""
    prompt = loaded.tokenizer.encode_ordinary(PROMPT * 2)
    answer = client.completions.create(model="bytes", prompt=PROMPT * 2, max_tokens=0, echo=True, logprobs=1)
    (choice,) = answer.choices
    assert (choice.text, choice.finish_reason) == (PROMPT * 2, "length")
    assert choice.logprobs.token_logprobs[0] is None
    assert choice.logprobs.top_logprobs[0] is None
    logp = log_softmax(loaded, prompt)
    np.testing.assert_allclose(
        choice.logprobs.token_logprobs[1:], [logp[i, id] for i, id in enumerate(prompt[1:])], atol=2e-5
    )
    assert answer.usage.completion_tokens == 0
    both = client.completions.create(model="bytes", prompt=PROMPT, max_tokens=9, echo=True, seed=1, logprobs=0, n=2)
    for i, choice in enumerate(both.choices):
        assert choice.text == PROMPT + expected(loaded, [PROMPT], 9, temperature=1.0, seed=1 + i)[0]
        assert len(choice.logprobs.tokens) == len(loaded.tokenizer.encode_ordinary(PROMPT)) + 9
        assert [len(top) for top in choice.logprobs.top_logprobs[1:]] == [1] * (len(choice.logprobs.tokens) - 1)


def test_log_probabilities_belong_to_the_text_that_is_sent(client, loaded):
    (text,) = expected(loaded, [PROMPT], 60, temperature=1.0, seed=5)
    asked = {"model": "bytes", "prompt": PROMPT, "max_tokens": 60, "seed": 5, "stop": text[20:27], "logprobs": 0}
    (choice,) = client.completions.create(**asked).choices
    assert max(choice.logprobs.text_offset) < len(choice.text) == text.find(text[20:27])
    tokens, sent = [], ""
    for chunk in client.completions.create(**asked, stream=True):
        sent += chunk.choices[0].text
        tokens += chunk.choices[0].logprobs.tokens
        assert all(offset < len(sent) for offset in chunk.choices[0].logprobs.text_offset)
    assert tokens == choice.logprobs.tokens


# ----- penalties and biases -----


def test_a_bias_forbids_and_forces_a_token(client, loaded):
    best, second = np.argsort(-log_softmax(loaded, loaded.tokenizer.encode_ordinary(PROMPT))[-1])[:2]
    asked = {"model": "bytes", "prompt": PROMPT, "max_tokens": 1, "temperature": 0, "logprobs": 0}
    for bias, wanted in (({}, best), ({str(best): -100}, second), ({"65": 100}, 65)):
        (choice,) = client.completions.create(**asked, logit_bias=bias).choices
        assert choice.logprobs.tokens == [loaded.text_of(int(wanted))]
    free = client.completions.create(**asked, logit_bias={}).choices[0].logprobs.token_logprobs
    biased = client.completions.create(**asked, logit_bias={str(best): 5}).choices[0].logprobs.token_logprobs
    assert free == biased


@pytest.mark.parametrize(("frequency", "presence"), [(2.0, 0.0), (0.0, 2.0), (1.0, -0.5), (0.0, 0.2), (0.0, 0.05)])
def test_penalties_follow_the_formula_of_openai(client, loaded, frequency, presence):
    """Greedy by hand: scores minus count x frequency, minus presence where the count is not 0; new tokens count."""
    ids = loaded.tokenizer.encode_ordinary(PROMPT)
    counts, new = np.zeros(loaded.model.config.vocab_size), []
    for _ in range(30):
        scores = log_softmax(loaded, [*ids, *new])[-1] - frequency * counts - presence * (counts > 0)
        new.append(int(scores.argmax()))
        counts[new[-1]] += 1
    (choice,) = client.completions.create(
        model="bytes", prompt=PROMPT, max_tokens=30, temperature=0, frequency_penalty=frequency,
        presence_penalty=presence,
    ).choices  # fmt: skip
    assert choice.text == loaded.tokenizer.decode(new) != expected(loaded, [PROMPT], 30)[0]


# ----- chat -----


def ask(client, *contents, model="taught", **options):
    roles = ["user", "assistant"]
    messages = [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]
    return client.chat.completions.create(model=model, messages=messages, **options)


def test_chat_answers(client, runs):
    answer = ask(client, "Say yes.", temperature=0)
    assert answer.choices[0].message.content == "yes"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    tokenizer = look.load(runs / "taught").tokenizer
    size = len(tokenizer.encode_ordinary(STYLES["phi3"].prompt({"instruction": "Say yes."})))
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (size, 3)
    assert ask(client, "Say yes.", temperature=0, max_tokens=2).choices[0].finish_reason == "length"
    assert ask(client, "Say yes.", temperature=0, max_completion_tokens=1).choices[0].message.content == "y"
    assert ask(client, "Say yes.", temperature=0, stop="e").choices[0].message.content == "y"
    parts = [{"type": "text", "text": "Say "}, {"type": "text", "text": "yes."}]
    assert ask(client, parts, temperature=0).choices[0].message.content == "yes"


def test_chat_streams(client):
    chunks = list(ask(client, "Say yes.", temperature=0, n=2, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    for i in range(2):
        mine = [c.choices[0] for c in chunks if c.choices and c.choices[0].index == i]
        assert "".join(choice.delta.content or "" for choice in mine) == "yes"
        assert [choice.finish_reason for choice in mine if choice.finish_reason] == ["stop"]
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert (chunks[-1].choices, chunks[-1].usage.completion_tokens) == ([], 6)


def prompt_by_hand(loaded, messages, room) -> list[int]:
    """The prompt of `gpt chat`, whose own Conversation answers turn by turn, with the answers of the messages."""
    end = loaded.tokenizer.special_tokens["<|endoftext|>"]
    talk = Conversation(loaded.model, loaded.tokenizer, STYLES["phi3"], end, history=2, max_new_tokens=room)
    for question, answer in messages[:-1]:
        ids = loaded.tokenizer.encode_ordinary(STYLES["phi3"].prompt({"instruction": question}))
        talk.turns.append([*ids, *loaded.tokenizer.encode_ordinary(answer), end])
    return talk.prompt({"instruction": messages[-1][0], "input": ""})[0]


@pytest.mark.parametrize("turns", [["s"], ["s", "y"], ["s", "y", "a"], ["s" * 20, "y"], ["s", "a", "y", "s"]])
def test_the_model_sees_the_turns_that_gpt_chat_shows_it(client, runs, turns):
    loaded = look.load(runs / "turns")
    contents = [part for turn in turns for part in (turn, "yes")][:-1]
    answer = ask(client, *contents, model="turns", seed=4, max_tokens=6)
    prompt = prompt_by_hand(loaded, [(turn, "yes") for turn in turns], 6)
    assert answer.usage.prompt_tokens == len(prompt)
    assert answer.choices[0].message.content == expected(loaded, [prompt], 6, temperature=1.0, seed=4)[0]


def test_system_messages_come_before_the_newest_question(client):
    for role in ("system", "developer"):
        messages = [{"role": role, "content": "Say"}, {"role": "user", "content": "yes."}]
        found = client.chat.completions.create(model="taught", messages=messages, temperature=0, seed=1)
        joined = ask(client, "Say\n\nyes.", temperature=0, seed=1)
        assert found.usage == joined.usage
        assert found.choices[0].message == joined.choices[0].message
    split = [{"role": "user", "content": "Say"}, {"role": "user", "content": "yes."}]
    answer = client.chat.completions.create(model="taught", messages=split, temperature=0)
    assert answer.usage == joined.usage


def test_log_probabilities_of_chat(client, runs):
    loaded = look.load(runs / "taught")
    answer = ask(client, "Say yes.", temperature=0, logprobs=True, top_logprobs=2)
    content = answer.choices[0].logprobs.content
    assert "".join(entry.token for entry in content) == "yes"
    prompt = loaded.tokenizer.encode_ordinary(STYLES["phi3"].prompt({"instruction": "Say yes."}))
    new = loaded.tokenizer.encode_ordinary("yes")
    rows = log_softmax(loaded, [*prompt, *new])[len(prompt) - 1 : -1]
    for entry, id, row in zip(content, new, rows, strict=True):
        assert entry.logprob == pytest.approx(row[id], abs=2e-5)
        assert bytes(entry.bytes) == loaded.tokenizer.decode_bytes([id])
        assert [top.logprob for top in entry.top_logprobs] == pytest.approx(sorted(row)[:-3:-1], abs=2e-5)
    streamed = [c.choices[0].logprobs for c in ask(client, "Say yes.", temperature=0, logprobs=True, stream=True)]
    assert "".join(e.token for logprobs in streamed if logprobs for e in logprobs.content) == "yes"


# ----- errors -----


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"n": 2, "best_of": 1}, "best_of"),
        ({"n": 17}, "n"),
        ({"n": 9, "prompt": ["a", "b"]}, "n"),
        ({"n": 0}, "n"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 5000}, "max_tokens"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stop": [1]}, "stop"),
        ({"seed": "x"}, "seed"),
        ({"seed": -1}, "seed"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"frequency_penalty": -2.5}, "frequency_penalty"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"9999": 1}}, "logit_bias"),
        ({"logit_bias": {"9": 101}}, "logit_bias"),
        ({"logit_bias": [1]}, "logit_bias"),
        ({"prompt": {}}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [260]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": "\ud800"}, "prompt"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"other": True}}, "stream_options"),
        ({"stream": 1}, "stream"),
        ({"echo": 1}, "echo"),
        ({"top_k": 261}, "top_k"),
        ({"top_k": 0}, "top_k"),
        ({"tools": [{}]}, "tools"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_an_invalid_field_is_named(address, fields, param):
    status, error, _ = post(address, "completions", {"model": "bytes", "prompt": "a", **fields})
    assert (status, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert param in error["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": "Say"}, {"role": "assistant", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": "Z"}]}, "messages"),  # not one of the model's characters
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": 2}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"prompt": "x"}, "prompt"),
    ],
)
def test_an_invalid_field_of_a_chat_is_named(address, fields, param):
    sent = {"model": "taught", "messages": [{"role": "user", "content": "Say yes."}], **fields}
    status, error, _ = post(address, "chat/completions", sent)
    assert (status, error["type"], error["param"]) == (400, "invalid_request_error", param)


def test_a_body_that_nests_deeply_is_an_invalid_request(address):
    """Below and above the depth to which Python follows."""
    for depth in (3, *range(900, 1000, 3), 100_000):
        body = '{"model": "bytes", "prompt": "a", "temperature": ' + "[" * depth + "]" * depth + "}"
        status, error, _ = post(address, "completions", body.encode())
        assert (status, error["type"]) == (400, "invalid_request_error"), depth


def test_fields_without_effect_are_accepted(client):
    """The answer is the same with them and without."""
    plain = {"model": "bytes", "prompt": "a", "max_tokens": 1, "seed": 3}
    texts = [
        client.completions.create(**plain, **fields).choices[0].text
        for fields in ({}, {"user": "me", "suffix": None, "logit_bias": {}})
    ]
    assert texts[0] == texts[1]
    fields = {
        "user": "me", "tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "metadata": {},
        "parallel_tool_calls": True, "service_tier": "auto", "stop": [],
    }  # fmt: skip
    answers = [ask(client, "Say yes.", temperature=0, **more).choices[0] for more in ({}, fields)]
    assert [(answer.message.content, answer.finish_reason) for answer in answers] == [("yes", "stop")] * 2


def post(address, path, body, method="POST"):
    """Status, the error or the answer, and the headers, without the client's help."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"{address}/v1/{path}", data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer), answer.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)["error"], error.headers


def test_errors_are_those_of_openai(client, address):
    with pytest.raises(openai.NotFoundError, match="there is no model 'other' here") as caught:
        client.completions.create(model="other", prompt="a")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert post(address, "completions", {"prompt": "a"})[0] == 404
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="bytes", prompt=[65] * 49)
    assert caught.value.code == "context_length_exceeded"
    client.completions.create(model="bytes", prompt=[65] * 48)
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, "s" * 80)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")
    with pytest.raises(openai.BadRequestError, match="not fine-tuned to chat") as caught:
        ask(client, "Say yes.", model="bytes")
    assert caught.value.code == "model_not_chat"
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="labels", prompt="a")
    assert caught.value.code == "model_not_generative"
    with pytest.raises(openai.BadRequestError, match="temperature"):
        list(client.completions.create(model="bytes", prompt="a", stream=True, temperature=-1))


def test_every_error_has_openais_form(address):
    for body in (b"{", b"[]", b"", b"\xff", b"[" * 100_000):
        status, error, _ = post(address, "completions", body)
        assert (status, error["type"]) == (400, "invalid_request_error")
    assert post(address, "embeddings", {})[:2] == (404, {
        "message": "there is no address /v1/embeddings here", "type": "invalid_request_error", "param": None,
        "code": "unknown_url",
    })  # fmt: skip
    for path, method in (
        ("completions", "GET"),
        ("models", "POST"),
        ("models/bytes", "DELETE"),
        ("completions", "PUT"),
    ):
        assert post(address, path, {}, method)[0] == 405


def test_a_full_queue_is_429(app, address, client):
    worker, begun, go = app.state.look.worker, threading.Event(), threading.Event()

    def hold():
        begun.set()
        go.wait(20)

    try:
        worker._submit(hold)
        assert begun.wait(20)
        with contextlib.suppress(Busy):
            while True:
                worker._submit(hold)
        with pytest.raises(openai.RateLimitError) as caught:
            client.completions.create(model="bytes", prompt="a")
        assert caught.value.response.headers["Retry-After"] == "1"
        assert caught.value.code == "rate_limit_exceeded"
    finally:
        go.set()
    patient = client.with_options(max_retries=5)
    answer = patient.completions.create(model="bytes", prompt="a", max_tokens=2, temperature=0)
    assert answer.usage.completion_tokens == 2


# ----- several clients -----


def test_eight_clients_at_once(address, loaded):
    async def main():
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
            asked = [client.completions.create(model="bytes", prompt=PROMPT, seed=i, max_tokens=20) for i in range(8)]
            return await asyncio.gather(*asked)

    texts = [answer.choices[0].text for answer in asyncio.run(main())]
    assert texts == [expected(loaded, [PROMPT], 20, temperature=1.0, seed=i)[0] for i in range(8)]


@pytest.fixture
def endless(loaded):
    """Fields of a request whose text does not end by itself."""
    bias = {str(loaded.tokenizer.special_tokens["<|endoftext|>"]): -100}
    return {"model": "bytes", "prompt": PROMPT, "max_tokens": 4096, "logit_bias": bias}


@pytest.fixture
def slow_steps(monkeypatch):
    """Each step takes 5 ms; the times of the steps."""
    steps = []

    class Slow(generation.Decoder):
        def logits(self, texts):
            steps.append(time.monotonic())
            time.sleep(0.005)
            return super().logits(texts)

    monkeypatch.setattr(generation, "make_decoder", Slow)
    return steps


def test_leaving_a_stream_frees_the_model(client, slow_steps, endless):
    """4,096 steps take more than 20 s; another client waits for a fraction of that."""
    stream = client.completions.create(**endless, stream=True)
    for _, _ in zip(range(3), stream, strict=False):
        pass
    stream.close()
    begun = time.monotonic()
    client.completions.create(model="bytes", prompt=PROMPT, max_tokens=1)
    assert time.monotonic() - begun < 5
    assert len(slow_steps) < 1000


def test_leaving_before_the_answer_frees_the_model(client, slow_steps, endless):
    with pytest.raises(openai.APITimeoutError):
        client.completions.create(**endless, timeout=0.3)
    begun = time.monotonic()
    client.completions.create(model="bytes", prompt=PROMPT, max_tokens=1)
    assert time.monotonic() - begun < 5
    assert len(slow_steps) < 1000


@pytest.mark.slow
def test_a_client_that_does_not_read_holds_no_other(address, client, endless):
    """Its stream has more events than the connection and the server's buffers for it hold."""
    host, port = address.removeprefix("http://").split(":")
    body = json.dumps({**endless, "n": 16, "max_tokens": 600, "logprobs": 20, "stream": True})
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
    with socket.socket() as unread:
        unread.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        unread.connect((host, int(port)))
        unread.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        assert unread.recv(15) == b"HTTP/1.1 200 OK"
        answer = client.completions.create(model="bytes", prompt=PROMPT, max_tokens=2, temperature=0, timeout=100)
    assert answer.usage.completion_tokens == 2


def test_an_error_in_a_stream_reaches_the_client(client, monkeypatch):
    """Greedy: a sampled text may end before the step that fails."""

    class Failing(generation.Decoder):
        def logits(self, texts):
            if len(texts[0]) > 30:
                raise FloatingPointError("the model's scores are not finite")
            return super().logits(texts)

    monkeypatch.setattr(generation, "make_decoder", Failing)
    with pytest.raises(openai.APIError, match="scores are not finite"):
        list(client.completions.create(model="bytes", prompt=PROMPT, max_tokens=60, temperature=0, stream=True))
    with pytest.raises(openai.BadRequestError, match="scores are not finite"):
        client.completions.create(model="bytes", prompt=PROMPT, max_tokens=60, temperature=0)


def test_events_end_with_done(address):
    body = json.dumps({"model": "bytes", "prompt": "a", "max_tokens": 3, "stream": True}).encode()
    request = urllib.request.Request(f"{address}/v1/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        events = answer.read().decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(json.loads(event.removeprefix("data: "))["object"] == "text_completion" for event in events[:-2])


def test_a_log_probability_of_minus_infinity_is_a_number(loaded):
    """JSON has no infinity: as OpenAI does, -9999 stands for it."""
    import tensorlite as tl
    from gpt.serve.openai.decoding import tokens

    (token,) = tokens(tl.tensor([[0.0, -math.inf]]), [1], 2)
    assert (token.logprob, token.top) == (-9999.0, [(0, 0.0), (1, -9999.0)])
    pieces = list(write(loaded, [[65]], 2, Options(seed=1)))
    assert sum(piece.written for piece in pieces) == 2


def test_a_conversation_has_at_most_1000_messages():
    alternating = [{"role": ("user", "assistant")[i % 2], "content": str(i)} for i in range(999)]
    system = {"role": "system", "content": "s"}
    assert len(turns_of([system, *alternating])) == 500
    with pytest.raises(ValueError, match=r"messages must be a list of 1 to 1,000 messages"):
        turns_of([system, system, *alternating])


@pytest.mark.parametrize(
    ("error", "status", "type", "code"),
    [
        (Busy("busy"), 429, "rate_limit_error", "rate_limit_exceeded"),
        (FileNotFoundError("no run"), 404, "invalid_request_error", "model_not_found"),
        (ValueError("wrong"), 400, "invalid_request_error", None),
        (FloatingPointError("nan"), 400, "invalid_request_error", None),
        (KeyError("x"), 500, "server_error", None),
    ],
)
def test_an_error_has_its_status_type_and_code(error, status, type, code):
    """Only a busy server is worth a second attempt at once."""
    answer = from_exception(error).response()
    found = json.loads(answer.body)["error"]
    assert (answer.status_code, found["type"], found["code"]) == (status, type, code)
    assert answer.headers.get("Retry-After") == ("1" if status == 429 else None)


def test_a_stop_string_has_at_most_1000_characters():
    assert read_stops(["x" * 1000]) == ("x" * 1000,)
    with pytest.raises(OpenAIError, match="none of them empty or longer than 1,000 characters"):
        read_stops(["x" * 1001])
