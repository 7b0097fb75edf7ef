"""The web application: routes, errors and the page's files."""

import mimetypes
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from ..fast.weights_dtype import Dtype
from .requests import json_response
from .routes import ROUTES
from .state import NotFound, State
from .worker import Busy

STATIC = Path(__file__).parent / "static"
Handler = Callable[[Request, Exception], Awaitable[Response]]
# Python asks the system for media types, and Windows may say text/plain: browsers run no such module.
MEDIA_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


def create_app(folders: Sequence[Path], device: str | None = None, dtype: Dtype = "float32") -> Starlette:
    """The application that serves the runs in `folders`: each is a run, or a folder of runs.

    `dtype` is that of the weights with which the OpenAI-compatible server writes.
    """

    for ending, kind in MEDIA_TYPES.items():
        mimetypes.add_type(kind, ending)

    async def page(request: Request) -> Response:
        return FileResponse(STATIC / "index.html")

    app = Starlette(
        routes=[Route("/", page), *ROUTES, Mount("/static", StaticFiles(directory=STATIC))],
        exception_handlers={
            NotFound: answer(404),
            Busy: busy,
            FileNotFoundError: answer(404),
            ValueError: answer(400),
            ArithmeticError: answer(400),
            HTTPException: http_error,
            Exception: unexpected,
        },
    )
    app.router.redirect_slashes = False  # there is one address for everything
    app.state.look = State(tuple(folders), device, dtype)
    return app


def answer(status: int) -> Handler:
    """A handler that answers an error with its sentence."""

    async def handle(request: Request, error: Exception) -> Response:
        return json_response({"error": str(error)}, status)

    return handle


async def busy(request: Request, error: Exception) -> Response:
    """The queue is full: the client may try again after some seconds."""
    answer = json_response({"error": str(error)}, 503)
    answer.headers["Retry-After"] = "2"
    return answer


async def http_error(request: Request, error: Exception) -> Response:
    """Errors of Starlette itself, such as an unknown address."""
    assert isinstance(error, HTTPException)
    return json_response({"error": error.detail}, error.status_code)


async def unexpected(request: Request, error: Exception) -> Response:
    """Any other error: its type and text, without a traceback."""
    return json_response({"error": f"unexpected error: {type(error).__name__}: {error}"}, 500)
