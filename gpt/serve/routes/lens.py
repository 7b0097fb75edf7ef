"""The logit lens: what each layer would predict."""

from collections.abc import Iterable, Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ... import look
from ...look.lens import check_predicts, layer_names, lens_layers
from ..requests import Fields, json_lines, json_response, read_fields, state_of

MOST_GUESSES = 50  # tokens shown for one layer and position
MOST_FOLLOWED = 16


async def lens(request: Request) -> Response:
    """POST /api/lens {run, step, session, text, k} -> lines of JSON.

    First {"ids", "names"}: the tokens and the layers' names; then a line for each layer when it has been computed: the
    fields of LensLayer and "texts", of the token ids in it.
    """
    fields, state = await read_fields(request), state_of(request)
    text, k = fields.text("text"), fields.integer("k", 5, 1, MOST_GUESSES)

    def begin() -> dict[str, Any]:
        model = state.model(fields)
        check_predicts(model)
        ids = model.encode(text)
        return {"ids": ids, "texts": texts_of(model, ids), "names": layer_names(model.model)}

    def compute(first: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield first
        model = state.model(fields)
        for layer in lens_layers(model, first["ids"], k):
            yield {**layer.to_dict(), "texts": texts_of(model, (id for best in layer.ids for id in best))}

    first = await state.worker.run(begin)  # before the answer begins, so that an error has its status
    return json_lines(state.worker.stream(compute, first))


def texts_of(model: look.LoadedModel, ids: Iterable[int]) -> dict[int, str]:
    """The text of each token."""
    return {id: model.text_of(id) for id in dict.fromkeys(ids)}


async def follow(request: Request) -> Response:
    """POST /api/lens/follow {run, step, session, text, position, tokens} -> look.FollowedTokens; `tokens` are ids."""
    fields, state = await read_fields(request), state_of(request)
    text, position, tokens = fields.text("text"), fields.get("position", -1), ids_of(fields)

    def compute() -> dict[str, Any]:
        return look.follow_tokens(state.model(fields), text, tokens, position).to_dict()

    return json_response(await state.worker.run(compute))


def ids_of(fields: Fields) -> list[int]:
    """The field "tokens"; token_id checks each."""
    tokens = fields.get("tokens")
    if not isinstance(tokens, list) or not 1 <= len(tokens) <= MOST_FOLLOWED or any(isinstance(t, str) for t in tokens):
        raise ValueError(f"tokens must be a list of 1 to {MOST_FOLLOWED} token ids, got {tokens!r:.80}")
    return tokens


async def labels(request: Request) -> Response:
    """POST /api/lens/labels {run, step, session, text} -> look.LabelLens of a classifier."""
    fields, state = await read_fields(request), state_of(request)
    text = fields.text("text")
    return json_response(await state.worker.run(lambda: look.label_lens(state.model(fields), text).to_dict()))


ROUTES = [
    Route("/api/lens", lens, methods=["POST"]),
    Route("/api/lens/follow", follow, methods=["POST"]),
    Route("/api/lens/labels", labels, methods=["POST"]),
]
