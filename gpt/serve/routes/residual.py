"""The residual stream: what each part adds to it, and to a logit."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ... import look
from ..requests import json_response, read_fields, state_of


async def residual(request: Request) -> Response:
    """POST /api/residual {run, step, session, text, position, token} -> look.ResidualStream.

    `token` is an id; null means the most probable next token. A negative position counts from the end.
    """
    fields, state = await read_fields(request), state_of(request)
    text, position, token = fields.text("text"), fields.get("position", -1), fields.get("token")
    if isinstance(token, str):
        raise ValueError(f"token must be the id of a token, got {token!r:.80}")

    def compute() -> dict[str, Any]:
        return look.residual_stream(state.model(fields), text, position, token).to_dict()

    return json_response(await state.worker.run(compute))


ROUTES = [Route("/api/residual", residual, methods=["POST"])]
