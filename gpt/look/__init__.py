"""Look inside a trained model: what attention reads, what each layer predicts, how a step of learning changes it.

    from gpt import look

    model = look.load("runs/shakespeare", step=300)
    look.attention(model, "To be, or not to be")

Each function returns an object that holds plain numbers, shows itself in a notebook, and gives JSON by `to_dict()`.
Nothing here changes a run.
"""

from .deciding import DecidingWords, deciding_words
from .loaded import LoadedModel, kept_steps, load
from .trace import Trace, trace

__all__ = ["DecidingWords", "LoadedModel", "Trace", "deciding_words", "kept_steps", "load", "trace"]
