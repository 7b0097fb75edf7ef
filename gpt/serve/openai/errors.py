"""Errors in OpenAI's form, {"error": {"message", "type", "param", "code"}}, with the status that its clients expect."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from starlette.responses import JSONResponse, Response

from ..state import NotFound
from ..worker import Busy


class OpenAIError(Exception):
    """An error for the client. `param` is the field that it is about, `code` a name that programs can test."""

    def __init__(
        self,
        message: str,
        status: int = 400,
        *,
        param: str | None = None,
        code: str | None = None,
        type: str = "invalid_request_error",
    ):
        super().__init__(message)
        self.status, self.param, self.code, self.type = status, param, code, type

    def to_dict(self) -> dict[str, Any]:
        """The body of the answer."""
        error = {"message": str(self), "type": self.type, "param": self.param, "code": self.code}
        return {"error": error}

    def response(self) -> Response:
        """The answer; where the server is busy it says after how many seconds to try again."""
        return JSONResponse(self.to_dict(), self.status, {"Retry-After": "1"} if self.status == 429 else None)


def from_exception(error: Exception) -> OpenAIError:
    """Any exception as an OpenAIError; one that is not expected has status 500."""
    if isinstance(error, OpenAIError):
        return error
    if isinstance(error, Busy):
        return OpenAIError(str(error), 429, code="rate_limit_exceeded", type="rate_limit_error")
    if isinstance(error, NotFound | FileNotFoundError):
        return OpenAIError(str(error), 404, param="model", code="model_not_found")
    if isinstance(error, ValueError | ArithmeticError | TimeoutError):
        return OpenAIError(str(error))
    return OpenAIError(f"unexpected error: {type(error).__name__}: {error}", 500, type="server_error")


@contextmanager
def about(param: str) -> Iterator[None]:
    """A ValueError inside is an OpenAIError about the field `param`, which its sentence names."""
    try:
        yield
    except ValueError as error:
        message = str(error)
        raise OpenAIError(message if param in message else f"{param}: {message}", param=param) from None
