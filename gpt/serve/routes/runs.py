"""The runs that the server has."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ... import look
from ...training import checkpoint, run_directory
from ..requests import json_response, state_of


async def runs(request: Request) -> Response:
    """GET /api/runs -> [{name, task, steps, config}] of all runs; an unreadable one has an "error" instead."""
    return json_response([describe(name, run) for name, run in state_of(request).runs().items()])


def describe(name: str, run: Any) -> dict[str, Any]:
    """A run as JSON: its task, the steps of its kept checkpoints, its model's config, whether it is finished."""
    try:
        description = checkpoint.read_config(run / "config.json")
        return {
            "name": name,
            "task": description.get("task", "pretrain"),
            "imported": "imported" in description,
            "steps": look.kept_steps(run),
            "config": description["model"],
            "finished": run_directory.finished(run) is not None,
        }
    except (OSError, ValueError) as error:
        return {"name": name, "error": str(error)}


ROUTES = [Route("/api/runs", runs)]
