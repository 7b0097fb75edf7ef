"""Labels of a text by a classifier, and which words decided."""

import json
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ... import look
from ..requests import json_response, read_fields, state_of

EXAMPLES = 3  # of each label
LINES = 500  # of the test set that are read for examples


async def classify(request: Request) -> Response:
    """POST /api/classify {run, step, session, text, label, left_out} -> a DecidingWords as JSON.

    `label` is the label to explain (null: the most probable one), `left_out` how many of the strongest words are left
    out, one at a time.
    """
    fields, state = await read_fields(request), state_of(request)
    text, left_out = fields.text("text"), fields.integer("left_out", 0, 0, 20)
    label = fields.label()

    def compute() -> dict[str, Any]:
        return look.deciding_words(state.model(fields), text, label, left_out).to_dict()

    return json_response(await state.worker.run(compute))


async def examples(request: Request) -> Response:
    """POST /api/classify/examples {run} -> {"examples": [{label, text}]} from the run's test set."""
    fields, state = await read_fields(request), state_of(request)
    path = state.run(fields.get("run")) / "test.jsonl"
    found: dict[str, list[dict[str, str]]] = {}
    if path.is_file():
        with open(path, encoding="utf-8") as file:
            for line, _ in zip(file, range(LINES), strict=False):
                entry = json.loads(line)
                if not isinstance(entry, dict) or not all(isinstance(entry.get(k), str) for k in ("label", "text")):
                    raise ValueError(f"{path} is not a list of labelled texts")
                same = found.setdefault(entry["label"], [])
                if len(same) < EXAMPLES:
                    same.append({"label": entry["label"], "text": entry["text"]})
    return json_response({"examples": [entry for entries in found.values() for entry in entries]})


ROUTES = [
    Route("/api/classify", classify, methods=["POST"]),
    Route("/api/classify/examples", examples, methods=["POST"]),
]
