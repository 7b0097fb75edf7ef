"""/v1/chat/completions: the messages of a request as a conversation in the model's own format, and the answer."""

from collections.abc import Sequence
from typing import Any

from ...look import LoadedModel
from ..conversations import NotChat, conversation
from ..requests import LONGEST_TEXT, Fields
from .completions import Prepared
from .decoding import Piece, Token
from .errors import OpenAIError, about
from .options import MOST_ALTERNATIVES, Options, known_fields, read_options

FIELDS = {"messages", "max_completion_tokens", "top_logprobs"}
MAX_TOKENS = 256  # where the request does not give it, as for `gpt chat`
MOST_MESSAGES = 1000


def read(given: Fields) -> tuple[Fields, Options]:
    """The fields of a request, and how to write. OpenAIError for the first that is invalid."""
    fields = known_fields(given, FIELDS)
    with about("logprobs"):
        wanted = fields.flag("logprobs", False)
    with about("top_logprobs"):
        top = fields.integer("top_logprobs", 0, 0, MOST_ALTERNATIVES)
        if "top_logprobs" in fields and not wanted:
            raise ValueError("top_logprobs needs logprobs: true")
    name = "max_completion_tokens" if "max_completion_tokens" in fields else "max_tokens"
    return fields, read_options(fields, max_tokens=name, alternatives=top if wanted else None)


def prepare(loaded: LoadedModel, fields: Fields, options: Options) -> Prepared:
    """The prompt of `gpt chat` for the same turns. OpenAIError where a message is invalid or does not fit."""
    wanted = MAX_TOKENS if options.max_tokens is None else options.max_tokens
    try:
        talk = conversation(loaded, max_new_tokens=wanted)
    except NotChat as error:
        raise OpenAIError(f"{error}: use /v1/completions", param="model", code="model_not_chat") from None
    with about("messages"):
        turns = turns_of(fields.get("messages"))
        for question, answer in turns[:-1]:
            talk.replay({"instruction": question, "input": ""}, loaded.tokenizer.encode_ordinary(answer))
        last = {"instruction": turns[-1][0], "input": ""}
        size, context = len(loaded.tokenizer.encode_ordinary(talk.style.prompt(last))), talk.model.config.context_length
        if size >= context:
            raise OpenAIError(
                f"this model's context has {context} tokens, and the question takes {size}: ask with fewer words",
                param="messages",
                code="context_length_exceeded",
            )
        prompt, room = talk.prompt(last)
    return Prepared([prompt] * options.n, room, [], len(prompt))


def turns_of(messages: Any) -> list[tuple[str, str]]:
    """Messages as (question, answer) pairs; the last answer, which the model is to write, is "".

    Consecutive messages of the user are one question. System messages come before the newest question, because earlier
    turns may be dropped. ValueError for anything else than questions and answers that alternate.
    """
    if not isinstance(messages, list) or not 1 <= len(messages) <= MOST_MESSAGES:
        raise ValueError(f"messages must be a list of 1 to {MOST_MESSAGES:,} messages, got {messages!r:.80}")
    system: list[str] = []
    turns: list[tuple[list[str], str | None]] = []
    for i, message in enumerate(messages):
        role, text = read_message(message, f"messages[{i}]")
        if role in ("system", "developer"):
            system.append(text)
        elif role == "assistant":
            if not turns or turns[-1][1] is not None:
                raise ValueError(f"messages[{i}]: a message of the assistant must follow one of the user")
            turns[-1] = (turns[-1][0], text)
        elif turns and turns[-1][1] is None:
            turns[-1][0].append(text)
        else:
            turns.append(([text], None))
    if not turns or turns[-1][1] is not None:
        raise ValueError("the last of messages must be one of the user: the model answers it")
    turns[-1] = ([*system, *turns[-1][0]], "")
    return [("\n\n".join(parts), answer or "") for parts, answer in turns]


def read_message(message: Any, where: str) -> tuple[str, str]:
    """Role and text of a message, whose content is a string or a list of text parts."""
    roles = ("system", "developer", "user", "assistant")
    if not isinstance(message, dict) or message.get("role") not in roles:
        raise ValueError(f"{where} must be an object with a role, one of {', '.join(roles)}, got {message!r:.80}")
    content = message.get("content")
    parts: Any = [{"type": "text", "text": content}] if isinstance(content, str) else content
    valid = isinstance(parts, list) and parts and all(
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str) for part in parts
    )  # fmt: skip
    if not valid:
        raise ValueError(f"{where}: content must be a string, or parts of type text, got {content!r:.80}")
    text = "".join(part["text"] for part in parts)
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"{where}: content must have at most {LONGEST_TEXT:,} characters, got {len(text):,}")
    if message["role"] == "user" and not text.strip():
        raise ValueError(f"{where}: content is empty")
    return message["role"], text


def choice(loaded: LoadedModel, piece: Piece, options: Options) -> dict[str, Any]:
    """A choice as JSON."""
    found = None if options.alternatives is None else logprobs(loaded, piece.tokens)
    message = {"role": "assistant", "content": piece.text, "refusal": None}
    return {"index": piece.choice, "message": message, "logprobs": found, "finish_reason": piece.finish}


def beginning(number: int) -> dict[str, Any]:
    """The first event of a choice in a stream: whose message follows."""
    first = {"role": "assistant", "content": "", "refusal": None}
    return {"index": number, "delta": first, "logprobs": None, "finish_reason": None}


def delta(loaded: LoadedModel, piece: Piece, options: Options) -> dict[str, Any]:
    """What is new of a choice in a stream, as JSON."""
    found = None if options.alternatives is None else logprobs(loaded, piece.tokens)
    new = {"content": piece.text} if piece.text else {}
    return {"index": piece.choice, "delta": new, "logprobs": found, "finish_reason": piece.finish}


def logprobs(loaded: LoadedModel, tokens: Sequence[Token]) -> dict[str, Any]:
    """Tokens in the form of chat completions."""

    def entry(id: int, logprob: float | None) -> dict[str, Any]:
        spelled = list(loaded.tokenizer.decode_bytes([id]))
        return {"token": loaded.text_of(id), "logprob": logprob, "bytes": spelled}

    content = [entry(t.id, t.logprob) | {"top_logprobs": [entry(id, p) for id, p in t.top]} for t in tokens]
    return {"content": content, "refusal": None}
