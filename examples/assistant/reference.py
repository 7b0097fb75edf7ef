"""Python's language reference as a text to pretrain on: about 350,000 characters of plain English and code."""

import re

_ASCII = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "--", "…": "..."})
_RULE_OR_TABLE = re.compile(r"\s*([*=~^-])\1{2,}\s*|\s*[|+].*[|+]\s*")  # below a title; a row of a drawn table
_SENTENCE_GAP = re.compile(r"(?<=\S[.!?:]) {2,}(?=\S)")


def language_reference() -> str:
    """CPython's language reference, from this Python's `pydoc_data.topics`: about 350,000 characters.

    Topics in alphabetical order, separated by two empty lines. Cleaned for readers and for training: ASCII quotes
    and dashes, one space after a sentence, no rules under titles, no drawn tables, and each paragraph only
    once, because topics repeat each other and the validation text must not be in the training text. One version of
    Python always gives the same text; versions differ a little.
    """
    from pydoc_data.topics import topics

    seen: set[str] = set()
    cleaned = [_clean(topics[name], seen) for name in sorted(topics)]
    return "\n\n\n".join(topic for topic in cleaned if topic) + "\n"


def _clean(topic: str, seen: set[str]) -> str:
    """One topic without the paragraphs that are in `seen`, to which its own are added."""
    lines = [
        _SENTENCE_GAP.sub(" ", line.rstrip())
        for line in topic.translate(_ASCII).split("\n")
        if not _RULE_OR_TABLE.fullmatch(line) and not line.startswith("Related help topics:")
    ]
    paragraphs = []
    for paragraph in re.split(r"\n{2,}", "\n".join(lines).strip("\n")):
        if paragraph not in seen:
            seen.add(paragraph)
            paragraphs.append(paragraph)
    return "\n\n".join(paragraphs)
