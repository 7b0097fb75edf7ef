"""The fingerprint of a file: its length and its SHA-256."""

import hashlib
from pathlib import Path
from typing import Any

from tensorlite.files import naming


def fingerprint(path: Path, size: int | None = None) -> dict[str, Any]:
    """Length and SHA-256 of a file or of its first `size` bytes; a missing file counts as empty."""
    hasher, length = hashlib.sha256(), 0
    if path.exists():
        with naming(path), open(path, "rb") as file:
            while block := file.read(2**20 if size is None else min(2**20, size - length)):
                hasher.update(block)
                length += len(block)
    return {"bytes": length, "sha256": hasher.hexdigest()}
