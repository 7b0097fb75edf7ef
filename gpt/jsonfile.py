"""JSON from untrusted files. ValueError for text that is not JSON, or that nests too deeply for Python."""

import json
from pathlib import Path
from typing import Any

from tensorlite.files import check_regular, naming


def parse(text: str | bytes) -> Any:
    """The value of a JSON text; JSONDecodeError (a ValueError with a position) for invalid JSON."""
    try:
        return json.loads(text)
    except RecursionError:
        raise json.JSONDecodeError("it nests too deeply", "", 0) from None


def read(path: Path) -> Any:
    """The value of a UTF-8 file of JSON; an error names the file: ValueError, or OSError where it cannot be read."""
    check_regular(path)
    try:
        with naming(path):
            text = path.read_text(encoding="utf-8")
        return parse(text)
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None


def read_object(path: Path) -> dict[str, Any]:
    """The same for a file that holds a JSON object."""
    value = read(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value
