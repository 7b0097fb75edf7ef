"""Mutants outside the rules that change nothing that can be seen, each with the reason (see mutate.py)."""

PROOFS: dict[str, list[str]] = {}
EQUIVALENT = {key: proof for proof, keys in PROOFS.items() for key in keys}
