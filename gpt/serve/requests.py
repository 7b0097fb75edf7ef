"""Shared by the routes: the fields of a JSON request, checked one by one, and answers as JSON or as a stream."""

import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from ..config import check_integer, check_number
from .state import State

LONGEST_TEXT = 100_000  # characters of a text in a request


class Fields(dict[str, Any]):
    """The fields of a request. A ValueError says, in one sentence, which one is invalid and what is allowed."""

    def text(self, name: str, default: str | None = None, longest: int = LONGEST_TEXT) -> str:
        value = self.get(name, default)
        if not isinstance(value, str):
            raise ValueError(f"{name} must be a string, got {value!r:.80}")
        if len(value) > longest:
            raise ValueError(f"{name} must have at most {longest:,} characters, got {len(value):,}")
        if any("\ud800" <= character <= "\udfff" for character in value):  # JSON can say them, UTF-8 cannot
            raise ValueError(f"{name} must be Unicode text, but it has a lone surrogate")
        return value

    def label(self) -> str | None:
        """The label of a classifier that a request is about; null: the most probable one."""
        return None if self.get("label") is None else self.text("label")

    def integer(self, name: str, default: int | None, low: int, high: int | None = None) -> int:
        value: Any = self.get(name, default)
        check_integer(name, value, low)
        if high is not None and value > high:
            raise ValueError(f"{name} must be at most {high:,}, got {value:,}")
        return int(value)

    def number(self, name: str, default: float | None, low: float, below: float = float("inf")) -> float:
        value: Any = self.get(name, default)
        check_number(name, value, low, below)
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        value = self.get(name, default)
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be true or false, got {value!r:.80}")
        return value


async def read_fields(request: Request) -> Fields:
    """The JSON object in the body of a request. ValueError for anything else.

    The fields that name a model ("step", "session"; null stands for none) have their types.
    """
    try:
        value = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise ValueError("the body of the request must be a JSON object") from None
    if not isinstance(value, dict):
        raise ValueError(f"the body of the request must be a JSON object, got {value!r:.80}")
    fields = Fields(value)
    if fields.get("step") is not None:
        fields.integer("step", None, low=0)
    if fields.get("session") is not None:
        fields.text("session")
    return fields


def state_of(request: Request) -> State:
    """The server's state."""
    state: State = request.app.state.look
    return state


def json_response(value: Any, status: int = 200) -> Response:
    """`value` as JSON; nan and infinity become null."""
    return JSONResponse(finite(value), status)


def finite(value: Any) -> Any:
    """`value` with None in the place of numbers that JSON does not have."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def json_lines(items: AsyncIterator[Any]) -> Response:
    """Each item as a line of JSON, sent when it is there; an error in between is a last line {"error": sentence}."""

    async def lines() -> AsyncIterator[bytes]:
        try:
            async for item in items:
                yield (json.dumps(finite(item)) + "\n").encode()
        except (ValueError, LookupError, OSError, ArithmeticError, RuntimeError) as error:
            yield (json.dumps({"error": str(error)}) + "\n").encode()

    return StreamingResponse(lines(), media_type="application/x-ndjson")
