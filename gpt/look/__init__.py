"""Look inside a trained model: what attention reads, what each layer predicts, how a step of learning changes it.

    from gpt import look

    model = look.load("runs/shakespeare", step=300)
    look.attention(model, "To be, or not to be")

Each function returns an object that holds plain numbers, shows itself in a notebook, and gives JSON by `to_dict()`.
Nothing here changes a run.
"""

from .embeddings import NearestTokens, PositionMap, TokenMap, nearest_tokens, positions, token_map
from .lens import (
    FollowedTokens,
    LabelLens,
    LensLayer,
    LogitLens,
    follow_tokens,
    label_lens,
    layer_names,
    lens_layers,
    logit_lens,
)
from .loaded import LoadedModel, kept_steps, load
from .residual import Attribution, Effect, ResidualStream, Sizes, residual_stream
from .trace import Trace, trace
from .vocabulary import find_tokens, token_id

__all__ = [
    "Attribution", "Effect", "FollowedTokens", "LabelLens", "LensLayer", "LoadedModel", "LogitLens", "NearestTokens",
    "PositionMap", "ResidualStream", "Sizes", "TokenMap", "Trace", "find_tokens", "follow_tokens", "kept_steps",
    "label_lens", "layer_names", "lens_layers", "load", "logit_lens", "nearest_tokens", "positions", "residual_stream",
    "token_id", "token_map", "trace",
]  # fmt: skip
