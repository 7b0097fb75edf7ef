"""The runs that the server has, their curves as they grow, and their comparison."""

import asyncio
import re
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from ... import look
from ...look.comparison import compared
from ...look.metrics import SMOOTH, Log, named_curves
from ...look.run_list import described
from ..live import events
from ..requests import Fields, json_response, state_of

POINTS, MOST_POINTS, LONGEST_SMOOTH = 600, 5000, 10_000
MOST_RUNS, MOST_CURVES, MOST_SAMPLES, LONGEST_SAMPLE = 12, 20, 200, 5000
STEP_CURVES = ("loss", "norm", "lr")


async def runs(request: Request) -> Response:
    """GET /api/runs -> [{name, task, steps, config, keep, finished}]; an unreadable one has an "error" instead."""
    state = state_of(request)

    def describe(log: Log) -> dict[str, Any]:
        run = described(log)
        return {
            "task": run.task,
            "imported": "imported" in run.description,
            "steps": run.steps,
            "keep": run.keep,
            "config": run.description["model"],
            "finished": run.finished,
        }

    return json_response(await asyncio.to_thread(state.read, describe))


async def summary(request: Request) -> Response:
    """GET /api/runs/summary -> [{name, task, last, total, parameters, lowest, changed, finished}] of all runs."""
    state = state_of(request)

    def figures(log: Log) -> dict[str, Any]:
        return described(log).to_dict()

    return json_response(await asyncio.to_thread(state.read, figures))


async def curves(request: Request) -> Response:
    """GET /api/runs/NAME/curves?points=&smooth= -> the run's curves, samples, and the position for its events."""
    state, name = state_of(request), request.path_params["name"]
    points, smooth = points_and_smooth(request)
    run = state.run(name)
    found = await asyncio.to_thread(state.logs.use, run, lambda log: curves_of(log, points, smooth))
    return json_response({"name": name, **found})


def curves_of(log: Log, points: int, smooth: int) -> dict[str, Any]:
    """A run's curves and samples as JSON."""
    run, metrics = described(log), log.metrics
    others = [name for name in metrics.series if name not in STEP_CURVES][:MOST_CURVES]
    return {
        **run.to_dict(),
        "steps": run.steps,
        "keep": run.keep,
        "curves": named_curves(metrics, [*STEP_CURVES, *others], points, smooth),
        "skipped": len(metrics.skipped),
        "unreadable": metrics.unreadable,
        "samples": [{"step": step, "text": text[:LONGEST_SAMPLE]} for step, text in log.samples[-MOST_SAMPLES:]],
        "position": log.place,
    }


async def stream(request: Request) -> Response:
    """GET /api/runs/NAME/events?position= -> server-sent events of what the run writes (live.py)."""
    run = state_of(request).run(request.path_params["name"])
    position = request.headers.get("last-event-id") or request.query_params.get("position", "")
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(events(run, position), media_type="text/event-stream", headers=headers)


async def compare(request: Request) -> Response:
    """GET /api/compare?run=A&run=B&points=&smooth= -> settings, results and curves of these runs, side by side."""
    state, names = state_of(request), list(dict.fromkeys(request.query_params.getlist("run")))
    if not 1 <= len(names) <= MOST_RUNS:
        raise ValueError(f"choose from 1 to {MOST_RUNS} runs, got {len(names)}")
    points, smooth = points_and_smooth(request)
    paths = [state.run(name) for name in names]

    def compute() -> dict[str, Any]:
        read: list[look.Run] = []
        drawn = []
        for path in paths:
            read.append(state.logs.use(path, described))
            shown = state.logs.use(path, lambda log: named_curves(log.metrics, CURVES, points, smooth))
            drawn.append({"curves": shown, "tokens_per_step": read[-1].tokens_per_step})
        return {**compared(read, names).to_dict(), "runs": drawn}

    return json_response(await asyncio.to_thread(compute))


CURVES = ("loss", "validation_loss", "validation_accuracy")


def points_and_smooth(request: Request) -> tuple[int, int]:
    """The number of points of a curve, and the window of its running mean, from the address."""
    given = request.query_params
    fields = Fields({name: int(value) if re.fullmatch("[0-9]{1,9}", value) else value for name, value in given.items()})
    return fields.integer("points", POINTS, 2, MOST_POINTS), fields.integer("smooth", SMOOTH, 1, LONGEST_SMOOTH)


ROUTES = [
    Route("/api/runs", runs),
    Route("/api/runs/summary", summary),
    Route("/api/runs/{name}/curves", curves),
    Route("/api/runs/{name}/events", stream),
    Route("/api/compare", compare),
]
