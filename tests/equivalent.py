"""Mutants that compute the same function, each with the reason why no input can tell the difference (see mutate.py)."""

PROOFS: dict[str, list[str]] = {}
EQUIVALENT = {key: proof for proof, keys in PROOFS.items() for key in keys}
