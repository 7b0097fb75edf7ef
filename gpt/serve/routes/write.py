"""Text that the model writes, and what it expected at each position of a text."""

from collections.abc import Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...generation import check_sampling
from ...look import LoadedModel, NextToken
from ...look.next_token import check_writes, prompt_ids, text_after, written
from ...look.next_token import expected as expected_tokens
from ...tokenizer import END_OF_TEXT, StreamDecoder
from ...tokenizer.base import check_ids
from ..requests import Fields, json_lines, read_fields, state_of

MOST_TOKENS = 2000  # of one request
LONGEST = 10_000  # tokens of a prompt; the page has an element for each
LARGEST_SEED = 2**53 - 1  # the largest integer that is exact in JavaScript


async def generate(request: Request) -> Response:
    """POST /api/generate {run, step, session, text or ids, tokens, temperature, top_k, top_p, seed} -> lines of JSON.

    The first line is {"prompt": [{id, text}], "text"}: the tokens of the prompt, and their text. Then each new token
    has a line, as `as_line` describes it, with "piece": the characters that it completes in the text. The last line is
    {"end": "length" or "stop", "piece": the end of the text where a character is unfinished}. At "stop", the token
    before was <|endoftext|>, which is not part of the text. The tokens are those of `gpt generate`.
    """
    fields, state = await read_fields(request), state_of(request)
    count = fields.integer("tokens", 100, 1, MOST_TOKENS)
    options: dict[str, Any] = {
        "temperature": fields.number("temperature", 0.8, 0),
        "top_k": fields.get("top_k"),
        "top_p": fields.get("top_p"),
        "seed": fields.integer("seed", 1337, 0, LARGEST_SEED),
    }

    def prepare() -> tuple[LoadedModel, list[int]]:
        loaded = state.model(fields)
        check_sampling(loaded.model.config.vocab_size, options["temperature"], options["top_k"], options["top_p"])
        return loaded, ids_of(loaded, fields)

    loaded, ids = await state.worker.run(prepare)
    return json_lines(state.worker.stream(lines, loaded, ids, count, options))


def lines(loaded: LoadedModel, ids: list[int], count: int, options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The lines of `generate`."""
    tokenizer = loaded.tokenizer
    stop = tokenizer.special_tokens.get(END_OF_TEXT)
    decoder = StreamDecoder(tokenizer)
    yield {"prompt": named(loaded, ids), "text": "".join(map(decoder.feed, ids))}
    end = "length"
    for found in written(loaded, ids, count, **options):
        assert found.token is not None
        end = "stop" if found.token.id == stop else "length"
        yield as_line(found) | {"piece": "" if end == "stop" else decoder.feed(found.token.id)}
    yield {"end": end, "piece": decoder.flush()}


def named(loaded: LoadedModel, ids: list[int]) -> list[dict[str, Any]]:
    """{id, text} of each token; the text is what the token adds to the text before it."""
    return [{"id": id, "text": text_after(loaded, before, id)} for before, id in zip([None, *ids], ids, strict=False)]


def as_line(found: NextToken) -> dict[str, Any]:
    """{id, text, logit, probability, rank, surprise} of the token that follows, and "expected": its distribution."""
    fields = found.to_dict()
    return {**fields.pop("token"), "expected": fields}


async def expected(request: Request) -> Response:
    """POST /api/expected {run, step, session, text or ids} -> a line of JSON for each token of the text.

    A line is as in `generate`; where no prediction was made (at the first token, and before the context of a longer
    text) it is {id, text, "expected": null}.
    """
    fields, state = await read_fields(request), state_of(request)

    def prepare() -> tuple[LoadedModel, list[int]]:
        loaded = state.model(fields)
        return loaded, ids_of(loaded, fields)

    loaded, ids = await state.worker.run(prepare)

    def items() -> Iterator[dict[str, Any]]:
        for token, found in zip(named(loaded, ids), expected_tokens(loaded, ids), strict=True):
            yield as_line(found) if found else token | {"expected": None}

    return json_lines(state.worker.stream(items))


def ids_of(loaded: LoadedModel, fields: Fields) -> list[int]:
    """The tokens that a request means by its "ids" or its "text". ValueError for invalid ones, or a classifier."""
    check_writes(loaded)
    if "ids" in fields:
        ids = fields["ids"]
        if not isinstance(ids, list) or not ids:
            raise ValueError(f"ids must be a list of token ids, got {ids!r:.80}")
        ids = check_ids(ids, loaded.model.config.vocab_size, "ids: ")
    else:
        ids = prompt_ids(loaded, fields.text("text", ""))
    if len(ids) > LONGEST:
        raise ValueError(
            f"the text has {len(ids):,} tokens, and the page shows at most {LONGEST:,}: give a shorter text"
        )
    return ids


ROUTES = [
    Route("/api/generate", generate, methods=["POST"]),
    Route("/api/expected", expected, methods=["POST"]),
]
