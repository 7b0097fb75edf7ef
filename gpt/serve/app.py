"""The web application: routes, errors and the page's files."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from .requests import json_response
from .routes import ROUTES
from .state import NotFound, State
from .worker import Busy

STATIC = Path(__file__).parent / "static"
Handler = Callable[[Request, Exception], Awaitable[Response]]


def create_app(folders: Sequence[Path], device: str | None = None) -> Starlette:
    """The application that serves the runs in `folders`: each is a run, or a folder of runs."""

    async def page(request: Request) -> Response:
        return FileResponse(STATIC / "index.html")

    app = Starlette(
        routes=[Route("/", page), *ROUTES, Mount("/static", StaticFiles(directory=STATIC))],
        exception_handlers={
            NotFound: answer(404),
            Busy: answer(503),
            FileNotFoundError: answer(404),
            ValueError: answer(400),
            ArithmeticError: answer(400),
            HTTPException: http_error,
            Exception: unexpected,
        },
    )
    app.state.look = State(tuple(folders), device)
    return app


def answer(status: int) -> Handler:
    """A handler that answers an error with its sentence."""

    async def handle(request: Request, error: Exception) -> Response:
        return json_response({"error": str(error)}, status)

    return handle


async def http_error(request: Request, error: Exception) -> Response:
    """Errors of Starlette itself, such as an unknown address."""
    assert isinstance(error, HTTPException)
    return json_response({"error": error.detail}, error.status_code)


async def unexpected(request: Request, error: Exception) -> Response:
    """Any other error: its type and text, without a traceback."""
    return json_response({"error": f"unexpected error: {type(error).__name__}: {error}"}, 500)
