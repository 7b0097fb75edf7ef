"""The backward pass, node by node: of a block of the model, or of an example with single numbers."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ... import look
from ..requests import json_response, read_fields, state_of


async def backward(request: Request) -> Response:
    """POST /api/backward {run, step, session, text, label, block, fused} -> gpt.look.BackwardPass as JSON.

    {"example": true} -> that of the example, which needs no model.
    """
    fields, state = await read_fields(request), state_of(request)

    def compute() -> dict[str, Any]:
        if fields.flag("example", False):
            return look.backward_example().to_dict()
        text, block, fused = fields.text("text"), fields.integer("block", 0, 0), fields.flag("fused", True)
        return look.backward(state.model(fields), text, block, fused, fields.label()).to_dict()

    return json_response(await state.worker.run(compute))


ROUTES = [Route("/api/backward", backward, methods=["POST"])]
