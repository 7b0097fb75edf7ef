"""The tokens of a text."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...look import LoadedModel
from ..requests import json_response, read_fields, state_of


async def tokens(request: Request) -> Response:
    """POST /api/tokens {run, step, session, text} -> the tokens, and what the vocabulary has.

    {"tokens": [{id, text, bytes, special}], "bytes": their number in UTF-8, "vocab_size",
    "special_tokens": [{id, text}], "kind": "char", "word" or "bpe", "context_length"}; a token's bytes are hexadecimal.
    """
    fields, state = await read_fields(request), state_of(request)

    def compute() -> dict[str, Any]:
        loaded, text = state.model(fields), fields.text("text")
        special = loaded.tokenizer.special_tokens
        return {
            "tokens": [entry(loaded, id, set(special.values())) for id in loaded.encode(text)],
            "bytes": len(text.encode("utf-8")),
            "vocab_size": loaded.tokenizer.vocab_size,
            "special_tokens": [{"id": id, "text": name} for name, id in special.items()],
            "kind": getattr(loaded.tokenizer, "kind", ""),
            "context_length": loaded.model.config.context_length,
        }

    return json_response(await state.worker.run(compute))


def entry(loaded: LoadedModel, id: int, special: set[int]) -> dict[str, Any]:
    """One token as JSON."""
    data = loaded.tokenizer.decode_bytes([id])
    return {"id": id, "text": loaded.text_of(id), "bytes": data.hex(" "), "special": id in special}


ROUTES = [Route("/api/tokens", tokens, methods=["POST"])]
