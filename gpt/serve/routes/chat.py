"""Chat with a model that was fine-tuned on instructions. The conversation is the page's: each request has all of it."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any, cast

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...generation import check_sampling
from ...look import LoadedModel
from ...tasks.instruct import Conversation, Entry
from ...tokenizer.base import check_ids
from ..conversations import conversation, trained_turns
from ..requests import Fields, json_lines, json_response, read_fields, state_of

MOST_TURNS = 1000
MOST_TOKENS = 4096  # of an answer


async def about(request: Request) -> Response:
    """POST /api/chat/about {run, step} -> {turns, style, context}: how the model was trained to chat."""
    fields, state = await read_fields(request), state_of(request)

    def compute() -> dict[str, Any]:
        loaded = state.model(fields)
        talk = conversation(loaded)
        prompt = talk.style.prompt({"instruction": "INSTRUCTION", "input": "INPUT"})
        context = loaded.model.config.context_length
        return {"turns": trained_turns(loaded.description), "prompt": prompt, "context": context}

    return json_response(await state.worker.run(compute))


async def chat(request: Request) -> Response:
    """POST /api/chat {run, step, session, messages, temperature, top_p, seed, history, max_new_tokens} -> JSON lines.

    A message is {role: "user", content, input} or {role: "assistant", content, ids}; `ids` are the tokens of an
    answer, which need not be those of its text. The first line describes the prompt, the others have pieces of the
    answer with their tokens, and the last one says how it ended.
    """
    fields, state = await read_fields(request), state_of(request)
    messages = read_messages(fields)

    def compute() -> Iterator[dict[str, Any]]:
        loaded = state.model(fields)
        talk = conversation(loaded, **read_settings(loaded, fields))
        for question, answer in messages[:-1]:
            talk.replay(question, answer_ids(loaded, answer))
        yield from answered(talk, messages[-1][0])

    lines = cast(AsyncGenerator[Any, None], state.worker.stream(compute))
    first = await anext(lines)  # an invalid field is an error with a status of its own

    async def all_lines() -> AsyncIterator[Any]:
        async with aclosing(lines):
            yield first
            async for line in lines:
                yield line

    return json_lines(all_lines())


def answered(talk: Conversation, question: Entry) -> Iterator[dict[str, Any]]:
    """The lines of an answer: `dropped` turns do not fit the context, and `hidden` ones are beyond the history."""
    earlier = len(talk.turns)
    prompt, _ = talk.prompt(question)
    yield {
        "prompt": talk.tokenizer.decode(prompt), "prompt_tokens": len(prompt), "seen": len(talk.turns),
        "dropped": talk.dropped, "hidden": earlier - talk.dropped - len(talk.turns),
    }  # fmt: skip
    sent = 0
    for piece in talk.ask(question):
        yield {"piece": piece, "ids": talk.answer[sent:]}
        sent = len(talk.answer)
    yield {"end": "context" if talk.cut else "limit" if len(talk.answer) == talk.max_new_tokens else "stop"}


def read_settings(loaded: LoadedModel, fields: Fields) -> dict[str, Any]:
    """The options of the conversation, checked."""
    temperature, top_p = fields.number("temperature", 0.0, 0.0), fields.number("top_p", 1.0, 0.0)
    check_sampling(loaded.model.config.vocab_size, temperature, None, top_p)
    history = fields.get("history")
    return {
        "temperature": temperature,
        "top_p": top_p,
        "seed": fields.integer("seed", 1337, 0, 2**53),
        "history": None if history is None else fields.integer("history", None, 0, MOST_TURNS),
        "max_new_tokens": fields.integer("max_new_tokens", 256, 1, MOST_TOKENS),
    }


def read_messages(fields: Fields) -> list[tuple[Entry, Fields]]:
    """Questions, each with the message that answers it; that of the last one is empty."""
    messages = fields.get("messages")
    if not isinstance(messages, list) or len(messages) % 2 == 0 or len(messages) > 2 * MOST_TURNS:
        raise ValueError("messages must be a list of questions and answers that begins and ends with a question")
    turns = []
    for i, message in enumerate(messages):
        role = "assistant" if i % 2 else "user"
        if not isinstance(message, dict) or message.get("role") != role:
            raise ValueError(f"messages[{i}] must be an object with the role {role}, got {message!r:.80}")
        given = Fields(message)
        given.text("content")
        if role == "user":
            if not given["content"].strip():
                raise ValueError("the question is empty: type one")
            turns.append(({"instruction": given["content"], "input": given.text("input", "")}, Fields()))
        else:
            turns[-1] = (turns[-1][0], given)
    return list(turns)


def answer_ids(loaded: LoadedModel, answer: Fields) -> list[int]:
    """The tokens of an earlier answer."""
    if "ids" in answer:
        return check_ids(answer["ids"], loaded.model.config.vocab_size, "ids: ")
    return loaded.tokenizer.encode_ordinary(answer["content"])


ROUTES = [Route("/api/chat", chat, methods=["POST"]), Route("/api/chat/about", about, methods=["POST"])]
