"""Learning sessions: steps of training on a text, on a copy of the model that a request names.

A session is in `State.sessions`, the one used last at the end, so that every other view can show the learned model.
Sessions are used in the worker's thread only.
"""

import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ... import look
from ...config import check_choice
from ...look.example import example, network, predict
from ...look.learning import MOMENTS, OPTIMIZERS, LearningSession, LearnStep, default_lr, training_settings
from ...model import parameter_table
from ..requests import Fields, json_lines, json_response, read_fields, state_of
from ..state import State

MOST_SESSIONS = 8
MOST_STEPS = 100  # of one request
MOST_LAYERS = 48  # of a fresh model
MOST_PARAMETERS = 200_000_000  # of a fresh model with more blocks than the run's
SESSION_BYTES = 6 << 30  # weights and optimizers of all sessions; the one used last is always kept
HISTORY_BYTES = 2 << 30  # what all sessions together keep for undo


async def before(request: Request) -> Response:
    """POST /api/learn/before {run, step, session, text, label} -> tokens, losses (nats) and the defaults of a step.

    Of a classifier also its labels, the probability of each, and the label to predict (null: the most probable one).
    """
    fields, state = await read_fields(request), state_of(request)

    def compute() -> dict[str, Any]:
        loaded = state.model(fields)
        given = example(loaded, fields.text("text"), fields.label())
        found = predict(network(loaded), given)
        return {
            "tokens": given.tokens,
            "losses": found.losses,
            "labels": given.labels,
            "label": given.label,
            "probabilities": found.probabilities,
            "lr": default_lr(loaded),
            "dropout": loaded.model.config.embedding_dropout,
            "session": described(state, fields["session"]) if fields.get("session") else None,
            **training_settings(loaded),
        }

    return json_response(await state.worker.run(compute))


async def step(request: Request) -> Response:
    """POST /api/learn/step {run, step, session, text, label, optimizer, lr, moments, count} -> lines of JSON.

    {"progress": {"step", "of", "phase"}} before each phase, and {"result", "session"} after each step. Without a
    session, one is made. A client that leaves stops the steps: one that has not updated the weights changes nothing.
    """
    fields, state = await read_fields(request), state_of(request)
    text, count = fields.text("text"), fields.integer("count", 1, 1, MOST_STEPS)
    rule: dict[str, Any] = {
        "optimizer": fields.text("optimizer", "adamw"),
        "moments": fields.text("moments", "fresh"),
        "lr": None if fields.get("lr") is None else fields.number("lr", None, 0),
        "label": fields.label(),
    }
    check_choice("optimizer", rule["optimizer"], OPTIMIZERS)
    check_choice("moments", rule["moments"], MOMENTS)
    await state.worker.run(
        lambda: example(state.model(fields), text, rule["label"])
    )  # an error has its status while none is sent
    return json_lines(state.worker.stream(steps, state, fields, text, count, rule))


def steps(state: State, fields: Fields, text: str, count: int, rule: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """`count` steps, as the lines of `step`."""
    name = fields.get("session")
    for number in range(1, count + 1):
        if name is None:
            yield {"progress": {"step": number, "of": count, "phase": "copy"}}
            name = begin(state, fields)
        for item in find(state, name).step(text, **rule):
            if isinstance(item, LearnStep):
                trim(state)
                yield {"result": item.to_dict(), "session": described(state, name)}
            else:
                yield {"progress": {"step": number, "of": count, "phase": item}}


async def session(request: Request) -> Response:
    """POST /api/learn/session {session} -> the session's steps and its newest result."""
    return await change(request, lambda found: None)


async def undo(request: Request) -> Response:
    """POST /api/learn/undo {session} -> the session after its newest step was undone."""
    return await change(request, LearningSession.undo)


async def reset(request: Request) -> Response:
    """POST /api/learn/reset {session} -> {"dropped": whether there was such a session}."""
    fields, state = await read_fields(request), state_of(request)
    name = fields.text("session")
    dropped = await state.worker.run(lambda: state.sessions.pop(name, None) is not None)
    return json_response({"dropped": dropped})


async def gradients(request: Request) -> Response:
    """POST /api/learn/gradients {run, step, session, text, label, shortcuts, norms, fresh, layers} -> Gradients."""
    fields, state = await read_fields(request), state_of(request)
    text = fields.text("text")
    options = {name: fields.flag(name, default) for name, default in (("shortcuts", True), ("norms", True))}
    fresh, label = fields.flag("fresh", False), fields.label()
    layers = None if fields.get("layers") is None else fields.integer("layers", None, 1, MOST_LAYERS)

    def compute() -> dict[str, Any]:
        loaded = state.model(fields)
        if layers is not None and layers > (own := loaded.model.config).n_layer:
            size = parameter_table(replace(own, n_layer=layers))[-1].parameters
            if size > MOST_PARAMETERS:
                raise ValueError(
                    f"a model of {layers} blocks has {size:,} parameters; at most {MOST_PARAMETERS:,} here"
                )
        return look.gradients(loaded, text, **options, fresh=fresh, layers=layers, label=label).to_dict()

    return json_response(await state.worker.run(compute))


# ----- in the worker's thread -------------------------------------------------------------------------------------


async def change(request: Request, act: Callable[[LearningSession], None]) -> Response:
    """The description of a session after `act`, with its newest result."""
    fields, state = await read_fields(request), state_of(request)
    name = fields.text("session")

    def compute() -> dict[str, Any]:
        found = find(state, name)
        act(found)
        return {"session": described(state, name), "result": found.last.to_dict() if found.last else None}

    return json_response(await state.worker.run(compute))


def begin(state: State, fields: Fields) -> str:
    """A new session from the model that the request names; its name."""
    name = secrets.token_urlsafe(9)
    state.sessions[name] = LearningSession(state.model(fields))
    trim(state)
    return name


def find(state: State, name: str) -> LearningSession:
    """The session of that name, which becomes the one used last. NotFound where the server does not have it."""
    state.model({"session": name})
    found: LearningSession = state.sessions[name]
    return found


def trim(state: State) -> None:
    """Keep the limits: drop sessions that were used longest ago, then the oldest snapshots."""
    sessions: dict[str, LearningSession] = state.sessions
    while len(sessions) > 1 and (
        len(sessions) > MOST_SESSIONS or sum(s.bytes for s in sessions.values()) > SESSION_BYTES
    ):
        del sessions[next(iter(sessions))]
    while sum(s.history_bytes for s in sessions.values()) > HISTORY_BYTES:
        next(s for s in sessions.values() if s.history).history.pop(0)


def described(state: State, name: str) -> dict[str, Any]:
    """What the page shows of a session."""
    found: LearningSession = state.sessions[name]
    return {
        "id": name,
        "step": found.loaded.step,
        "losses": found.losses,
        "undo": len(found.history),
        "bytes": found.bytes,
        "history_bytes": found.history_bytes,
        "history_limit": HISTORY_BYTES,
        "sessions_limit": MOST_SESSIONS,
    }


ROUTES = [
    Route(f"/api/learn/{route.__name__}", route, methods=["POST"])
    for route in (before, step, session, undo, reset, gradients)
]
