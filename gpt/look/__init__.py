"""Look inside a trained model: what attention reads, what each layer predicts, how a step of learning changes it.

    from gpt import look

    model = look.load("runs/shakespeare", step=300)
    look.attention(model, "To be, or not to be")

Each function returns an object that holds plain numbers, shows itself in a notebook, and gives JSON by `to_dict()`.
Nothing here changes a run.
"""

from .attention import Attention, Head, attention
from .loaded import LoadedModel, kept_steps, load
from .next_token import Candidate, NextToken, check_writes, expected, next_token, prompt_ids, text_after, written
from .trace import Trace, trace

__all__ = [
    "Attention",
    "Candidate",
    "Head",
    "LoadedModel",
    "NextToken",
    "Trace",
    "attention",
    "check_writes",
    "expected",
    "kept_steps",
    "load",
    "next_token",
    "prompt_ids",
    "text_after",
    "trace",
    "written",
]
