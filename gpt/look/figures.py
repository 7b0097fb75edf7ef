"""Figures of a run as text: the names and numbers of metrics.jsonl, the same in every command and view."""

import math
from decimal import ROUND_HALF_UP, Decimal

FIGURES = {  # names of figures in metrics.jsonl that do not explain themselves
    "whole_validation_loss": "validation loss, whole text",
    "final_validation_loss": "validation loss, last evaluation",
    "test_repeated": "test entries also in training or validation",
    "exact_match": "answered exactly as expected",
}
COUNTS = {"test_repeated"}  # those that may be 0 or 1


def figure_name(name: str) -> str:
    """The name of a figure of metrics.jsonl, for people."""
    return FIGURES.get(name, name.replace("_", " "))


def figure_text(name: str, value: float) -> str:
    """A figure by its name in metrics.jsonl, as the page has it (`figure` in ui.js): shares are percentages, counts are
    whole numbers, all else has four decimals.
    """
    if name.endswith("accuracy") or name == "exact_match":
        return share_text(value)
    if not math.isfinite(value):
        return "not finite"
    counts = name in COUNTS or (value > 1 and value == int(value) and not name.endswith("loss"))
    return f"{value:,.0f}" if counts else f"{value:.4f}"


def share_text(share: float) -> str:
    """A share as the page of `gpt look` has it (`percent` in ui.js): what is not 0 % or 100 % does not look so."""
    if 0 < share < 0.0005:
        return f"{Decimal(f'{100 * share:.2g}'):f} %"
    if 0.9995 <= share < 1:
        return ">99.9 %"
    return f"{Decimal(100 * share).quantize(Decimal('.1'), ROUND_HALF_UP)} %" if math.isfinite(share) else "not finite"
