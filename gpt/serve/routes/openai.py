"""An OpenAI-compatible server: /v1/models, /v1/completions, /v1/chat/completions. Errors have OpenAI's form.

A model is named by its run; `run@step` is the run's checkpoint of that step.
"""

import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, cast

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from ... import look
from ...look import LoadedModel
from ...training import checkpoint
from ..openai import chat, completions
from ..openai.completions import Prepared
from ..openai.decoding import Piece, joined, write
from ..openai.errors import OpenAIError, from_exception
from ..openai.options import Options
from ..requests import finite, read_fields, state_of
from ..state import State

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"]


async def v1(request: Request) -> Response:
    """All addresses below /v1/: whatever goes wrong has the form that OpenAI's clients understand."""
    try:
        path = request.path_params["path"].strip("/")
        kind, _, name = path.partition("/")
        if kind == "models":
            allow(request, "GET")
            return model(state_of(request), name) if name else models(state_of(request))
        if path not in ("completions", "chat/completions"):
            raise OpenAIError(f"there is no address /v1/{path:.80} here", 404, code="unknown_url")
        allow(request, "POST")
        return await answer(request, chat if path == "chat/completions" else completions)
    except Exception as error:
        return from_exception(error).response()


def allow(request: Request, method: str) -> None:
    """OpenAIError for another method."""
    if request.method != method and not (method == "GET" and request.method == "HEAD"):
        message = f"{request.method} is not possible at {request.url.path:.80}: use {method}"
        raise OpenAIError(message, 405, code="method_not_allowed")


# ----- models -----------------------------------------------------------------------------------------------------


def models(state: State) -> Response:
    """GET /v1/models: the runs that write text, each by its name, which means its newest checkpoint."""
    found = [entry for name in state.runs() if (entry := describe(state, name, name)) is not None]
    return JSONResponse({"object": "list", "data": found})


def model(state: State, id: str) -> Response:
    """GET /v1/models/{id}."""
    name, _ = resolve(state, id)
    if (entry := describe(state, name, id)) is None:
        raise unknown(state, id)
    return JSONResponse(entry)


def describe(state: State, name: str, id: str) -> dict[str, Any] | None:
    """A run as a model; None where it does not write text or cannot be read."""
    path = state.run(name) / "config.json"
    try:
        if checkpoint.read_config(path).get("task", "pretrain") == "classify":
            return None
        return {"id": id, "object": "model", "created": int(path.stat().st_mtime), "owned_by": "gpt"}
    except (OSError, ValueError):
        return None


def resolve(state: State, id: Any) -> tuple[str, int | None]:
    """The run and the step that a model's id names. OpenAIError with status 404 where there is none."""
    if not isinstance(id, str):
        raise OpenAIError("model is missing: give the name of a run, see /v1/models", 404, param="model",
                          code="model_not_found")  # fmt: skip
    runs = state.runs()
    if id in runs:
        return id, None
    name, _, step = id.rpartition("@")
    if name in runs and step.isascii() and step.isdigit() and int(step) in look.kept_steps(runs[name]):
        return name, int(step)
    raise unknown(state, id)


def unknown(state: State, id: str) -> OpenAIError:
    names = ", ".join(state.runs())
    message = f"there is no model {id!r:.80} here: the runs are {names:.400}; RUN@STEP is a kept checkpoint"
    return OpenAIError(message, 404, param="model", code="model_not_found")


# ----- answers ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reply:
    """What all parts of an answer share."""

    api: ModuleType  # completions or chat
    name: str  # of the model, as in the request
    options: Options
    loaded: LoadedModel
    prepared: Prepared
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    def body(self, choices: list[Any], stream: bool = False, **more: Any) -> dict[str, Any]:
        """An answer, or one event of a stream, with these choices."""
        is_chat = self.api is chat
        kind = ("chat.completion.chunk" if stream else "chat.completion") if is_chat else "text_completion"
        weights = self.loaded.run.name + ("" if self.loaded.step is None else f"@{self.loaded.step}")
        return {
            "id": ("chatcmpl-" if is_chat else "cmpl-") + self.id, "object": kind, "created": self.created,
            "model": self.name, "system_fingerprint": weights, "choices": choices, **more,
        }  # fmt: skip

    def usage(self, written: int) -> dict[str, int]:
        """The tokens of the prompts, each counted once, and those that were written, without the end of text."""
        size = self.prepared.size
        return {"prompt_tokens": size, "completion_tokens": written, "total_tokens": size + written}


async def answer(request: Request, api: ModuleType) -> Response:
    """POST /v1/completions and /v1/chat/completions. security.py cancels this where the client leaves."""
    given = await read_fields(request)
    state = state_of(request)
    name, step = resolve(state, given.get("model"))
    fields, options = api.read(given)

    def compute() -> Iterator[Any]:
        loaded = state.writer({"run": name, "step": step})
        prepared: Prepared = api.prepare(loaded, fields, options)
        yield Reply(api, given["model"], options, loaded, prepared)  # no field is invalid: the answer begins
        yield from write(loaded, prepared.prompts, prepared.room, options, prepared.echo)

    pieces = cast(AsyncGenerator[Any, None], state.worker.stream(compute))
    reply = await anext(pieces)
    if options.stream:
        return StreamingResponse(events(reply, pieces), headers=NO_CACHE, media_type="text/event-stream")
    return await whole(reply, pieces)


NO_CACHE = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


async def whole(reply: Reply, pieces: AsyncGenerator[Piece, None]) -> Response:
    """The answer as one JSON object."""
    found = [Piece(i, "", [], None) for i in range(len(reply.prepared.prompts))]
    async with aclosing(pieces):
        async for piece in pieces:
            found[piece.choice] = joined(found[piece.choice], piece)
    choices = [reply.api.choice(reply.loaded, piece, reply.options) for piece in found]
    return JSONResponse(finite(reply.body(choices, usage=reply.usage(sum(piece.written for piece in found)))))


async def events(reply: Reply, pieces: AsyncGenerator[Piece, None]) -> AsyncIterator[bytes]:
    """The answer as server-sent events, each with what is new; the last one is [DONE]."""
    form: Callable[..., Any] = chat.delta if reply.api is chat else completions.choice
    more: dict[str, Any] = {"usage": None} if reply.options.include_usage else {}
    written = 0
    async with aclosing(pieces):
        try:
            if reply.api is chat:
                for i in range(len(reply.prepared.prompts)):
                    yield event(reply.body([chat.beginning(i)], True, **more))
            async for piece in pieces:
                written += piece.written
                if piece.text or piece.tokens or piece.finish:
                    yield event(reply.body([form(reply.loaded, piece, reply.options)], True, **more))
            if reply.options.include_usage:
                yield event(reply.body([], True, usage=reply.usage(written)))
            yield b"data: [DONE]\n\n"
        except Exception as error:
            yield event(from_exception(error).to_dict())


def event(value: Any) -> bytes:
    return f"data: {json.dumps(finite(value), ensure_ascii=False)}\n\n".encode()


ROUTES = [Route("/v1/{path:path}", v1, methods=METHODS)]
