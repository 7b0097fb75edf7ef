"""The attention weights of a text: all heads as thumbnails, one head exactly."""

from base64 import b64encode
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ... import look
from ...look import Attention, LoadedModel
from ..requests import Fields, json_response, read_fields, state_of
from ..state import State


async def attention(request: Request) -> Response:
    """POST /api/attention {run, step, session, text, layer, head} -> all heads, and the chosen one exactly.

    {"tokens": [{id, text}], "causal", "layers", "heads", "side", "thumbnails", "shares", "uniform", "chosen"}:
    `thumbnails` is base64 of a byte for each pixel of layers * heads * side * side, 255 times the square root of a
    weight; `chosen` is as from /api/attention/head. A layer or head that the model does not have becomes its last one;
    without `layer` or `head`, the head is chosen whose share exceeds uniform attention most.
    """
    fields, state = await read_fields(request), state_of(request)

    def compute() -> dict[str, Any]:
        found = computed(state, fields)
        layers, heads = found.weights.shape[:2]
        side, pixels = found.thumbnails()
        place = clearest(found)
        if fields.get("layer") is not None and fields.get("head") is not None:
            place = fields.integer("layer", 0, 0), fields.integer("head", 0, 0)
        return {
            "tokens": [{"id": id, "text": text} for id, text in zip(found.ids, found.texts, strict=True)],
            "causal": found.causal,
            "layers": layers,
            "heads": heads,
            "side": side,
            "thumbnails": b64encode(pixels).decode("ascii"),
            "shares": [asdict(shares) for shares in found.shares],
            "uniform": asdict(found.uniform),
            "chosen": exact(found, min(place[0], layers - 1), min(place[1], heads - 1)),
        }

    return json_response(await state.worker.run(compute))


async def one_head(request: Request) -> Response:
    """POST /api/attention/head {run, step, session, text, layer, head} -> {layer, head, weights}.

    `weights` is base64 of T * T float32, row by row.
    """
    fields, state = await read_fields(request), state_of(request)

    def compute() -> dict[str, Any]:
        found = computed(state, fields)
        layers, heads = found.weights.shape[:2]
        return exact(found, fields.integer("layer", 0, 0, layers - 1), fields.integer("head", 0, 0, heads - 1))

    return json_response(await state.worker.run(compute))


def computed(state: State, fields: Fields) -> Attention:
    """The Attention that a request means. The last one is kept, because choosing heads asks for it many times."""
    model, text = state.model(fields), fields.text("text")
    changes = sum(p.version for p in model.model.parameters())  # a learning session changes its weights in place
    if state.attention is not None:
        before, found = state.attention
        if same(before, (model, text, changes)):
            return found
    state.attention = None  # free its memory before the next one is computed
    found = look.attention(model, text)
    state.attention = ((model, text, changes), found)
    return found


def clearest(found: Attention) -> tuple[int, int]:
    """(layer, head) of the head with the largest excess of its most notable share over uniform attention."""
    described = [one for one in found.shares if one.kind] or found.shares[:1]
    excess = {one: getattr(one, one.kind) - getattr(found.uniform, one.kind) if one.kind else 0.0 for one in described}
    best = max(excess, key=lambda one: excess[one])
    return best.layer, best.head


def same(a: tuple[LoadedModel, str, int], b: tuple[LoadedModel, str, int]) -> bool:
    return a[0].model is b[0].model and a[1:] == b[1:]


def exact(found: Attention, layer: int, head: int) -> dict[str, Any]:
    fields = found.head(layer, head).to_dict()
    return {name: fields[name] for name in ("layer", "head", "weights")}


ROUTES = [
    Route("/api/attention", attention, methods=["POST"]),
    Route("/api/attention/head", one_head, methods=["POST"]),
]
