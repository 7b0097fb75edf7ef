"""The embeddings: a search for tokens, the nearest tokens, and maps of positions and tokens."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ... import look
from ..requests import json_response, read_fields, state_of

LONGEST_QUERY = 200  # characters
MOST_NEAREST = 200


async def find(request: Request) -> Response:
    """POST /api/embeddings/find {run, step, session, query} -> {"tokens": [{id, text}]}, the most likely first."""
    fields, state = await read_fields(request), state_of(request)
    query = fields.text("query", longest=LONGEST_QUERY)

    def compute() -> dict[str, Any]:
        return {"tokens": [{"id": id, "text": text} for id, text in look.find_tokens(state.model(fields), query)]}

    return json_response(await state.worker.run(compute))


async def nearest(request: Request) -> Response:
    """POST /api/embeddings/nearest {run, step, session, token, k} -> look.NearestTokens; `token` is an id."""
    fields, state = await read_fields(request), state_of(request)
    token, k = fields.integer("token", None, 0), fields.integer("k", 10, 1, MOST_NEAREST)
    return json_response(await state.worker.run(lambda: look.nearest_tokens(state.model(fields), token, k).to_dict()))


async def positions(request: Request) -> Response:
    """POST /api/embeddings/positions {run, step, session} -> look.PositionMap."""
    fields, state = await read_fields(request), state_of(request)
    return json_response(await state.worker.run(lambda: look.positions(state.model(fields)).to_dict()))


async def token_map(request: Request) -> Response:
    """POST /api/embeddings/map {run, step, session, text} -> look.TokenMap."""
    fields, state = await read_fields(request), state_of(request)
    text = fields.text("text")
    return json_response(await state.worker.run(lambda: look.token_map(state.model(fields), text).to_dict()))


ROUTES = [
    Route("/api/embeddings/find", find, methods=["POST"]),
    Route("/api/embeddings/nearest", nearest, methods=["POST"]),
    Route("/api/embeddings/positions", positions, methods=["POST"]),
    Route("/api/embeddings/map", token_map, methods=["POST"]),
]
