"""/v1/completions: the prompts of a request, and its answer."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from ...look import LoadedModel
from ...tasks.pretrain import start_of_run
from ...tokenizer.base import check_ids
from ..requests import LONGEST_TEXT, Fields
from .decoding import Piece, Token, prompt_tokens
from .errors import OpenAIError, about
from .options import MOST_ALTERNATIVES, MOST_CHOICES, Options, known_fields, read_options

FIELDS = {"prompt", "echo", "best_of"}
MAX_TOKENS = 16  # where the request does not give it, as in OpenAI's


class Prepared(NamedTuple):
    """What the model has to do for a request."""

    prompts: list[list[int]]  # one for each choice
    room: int  # the most tokens of each answer
    echo: list[list[Token]]
    size: int  # tokens of the prompts, each counted once


def read(given: Fields) -> tuple[Fields, Options]:
    """The fields of a request, and how to write. OpenAIError for the first that is invalid."""
    fields = known_fields(given, FIELDS)
    with about("logprobs"):
        alternatives = fields.integer("logprobs", None, 0, MOST_ALTERNATIVES) if "logprobs" in fields else None
    with about("echo"):
        fields.flag("echo", False)
    options = read_options(fields, max_tokens="max_tokens", alternatives=alternatives)
    if fields.get("best_of", options.n) != options.n:
        raise OpenAIError("best_of is not supported: omit it, or give the same number as n", param="best_of")
    return fields, options


def prepare(loaded: LoadedModel, fields: Fields, options: Options) -> Prepared:
    """The prompts as token ids. OpenAIError where one is invalid or longer than the context."""
    if loaded.task == "classify":
        raise OpenAIError("this model labels texts and does not write", param="model", code="model_not_generative")
    if "prompt" not in fields:
        raise OpenAIError('prompt is missing: give a text, or "" to begin a new text', param="prompt")
    with about("prompt"):
        given = [encode(loaded, prompt) for prompt in prompts_of(fields["prompt"])]
    if len(given) * options.n > MOST_CHOICES:
        raise OpenAIError(
            f"{len(given)} prompts with n = {options.n} are {len(given) * options.n} choices, and a request has at "
            f"most {MOST_CHOICES}",
            param="n",
        )
    context = loaded.model.config.context_length
    if (longest := max(map(len, given))) > context:
        raise OpenAIError(
            f"this model's context has {context} tokens, and the prompt has {longest}: give a shorter prompt",
            param="prompt",
            code="context_length_exceeded",
        )
    shown = [prompt_tokens(loaded, ids, options.alternatives) for ids in given] if fields.get("echo") else []
    start = start_of_run(loaded.description, loaded.tokenizer)
    return Prepared(
        [ids or start for ids in given for _ in range(options.n)],
        MAX_TOKENS if options.max_tokens is None else options.max_tokens,
        [[Token(t.id, 0, t.logprob, t.top) for t in prompt] for prompt in shown for _ in range(options.n)],
        sum(len(ids or start) for ids in given),
    )


def prompts_of(value: Any) -> Sequence[str | list[int]]:
    """The prompts of a request: a string, token ids, or a list of one of these."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if all(type(item) is int for item in value):
            return [value]
        if all(isinstance(item, str) for item in value) or all(isinstance(item, list) for item in value):
            return value
    raise ValueError(f"prompt must be a string, token ids, or a list of one of these, got {value!r:.80}")


def encode(loaded: LoadedModel, prompt: str | list[int]) -> list[int]:
    """The token ids of a prompt. In a string, special tokens are ordinary text, as for `gpt generate`.

    An empty string has no tokens: the text then begins as that of `gpt generate` without a prompt.
    """
    if isinstance(prompt, str):
        if len(prompt) > LONGEST_TEXT:
            raise ValueError(f"prompt must have at most {LONGEST_TEXT:,} characters, got {len(prompt):,}")
        return loaded.tokenizer.encode_ordinary(prompt)
    if not prompt:
        raise ValueError("prompt has an empty list of token ids: give at least one")
    return check_ids(prompt, loaded.model.config.vocab_size, "prompt: ")


def choice(loaded: LoadedModel, piece: Piece, options: Options) -> dict[str, Any]:
    """A choice, or what is new of it in a stream, as JSON."""
    found = None if options.alternatives is None else logprobs(loaded, piece.tokens)
    return {"index": piece.choice, "text": piece.text, "logprobs": found, "finish_reason": piece.finish}


def logprobs(loaded: LoadedModel, tokens: Sequence[Token]) -> dict[str, Any]:
    """Tokens in the form of completions: parallel lists; the token itself is always among the alternatives."""
    text = loaded.text_of
    tops = [None if t.logprob is None else {text(id): p for id, p in t.top} | {text(t.id): t.logprob} for t in tokens]
    return {
        "tokens": [text(t.id) for t in tokens],
        "token_logprobs": [t.logprob for t in tokens],
        "top_logprobs": tops,
        "text_offset": [t.offset for t in tokens],
    }
