"""The tokens of a text."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..requests import json_response, read_fields, state_of


async def tokens(request: Request) -> Response:
    """POST /api/tokens {run, step, session, text} -> {"tokens": [{id, text}]}."""
    fields, state = await read_fields(request), state_of(request)

    def compute() -> list[dict[str, object]]:
        loaded = state.model(fields)
        return [{"id": id, "text": loaded.text_of(id)} for id in loaded.encode(fields.text("text"))]

    return json_response({"tokens": await state.worker.run(compute)})


ROUTES = [Route("/api/tokens", tokens, methods=["POST"])]
