"""Look inside a trained model: what attention reads, what each layer predicts, how a step of learning changes it.

    from gpt import look

    model = look.load("runs/shakespeare", step=300)
    look.attention(model, "To be, or not to be")

Each function returns an object that holds plain numbers, shows itself in a notebook, and gives JSON by `to_dict()`.
Nothing here changes a run.
"""

from .attention_weights import Attention, Head, attention
from .backward_pass import BackwardPass, BackwardStep, backward, backward_example
from .comparison import Comparison, compare
from .deciding import DecidingWords, deciding_words
from .embeddings import NearestTokens, PositionMap, TokenMap, nearest_tokens, positions, token_map
from .forward_trace import Trace, trace
from .gradient import Gradients, gradients
from .learning import LearningSession, LearnStep, learn
from .lens import FollowedTokens, LabelLens, LogitLens, follow_tokens, label_lens, logit_lens
from .loaded import LoadedModel, kept_steps, load
from .next_token import Candidate, NextToken, next_token
from .residual import Attribution, Effect, ResidualStream, Sizes, residual_stream
from .run_list import Run, Runs, run, runs
from .run_summary import Summary, summary
from .vocabulary import find_tokens

__all__ = [
    "Attention",
    "Attribution",
    "BackwardPass",
    "BackwardStep",
    "Candidate",
    "Comparison",
    "DecidingWords",
    "Effect",
    "FollowedTokens",
    "Gradients",
    "Head",
    "LabelLens",
    "LearnStep",
    "LearningSession",
    "LoadedModel",
    "LogitLens",
    "NearestTokens",
    "NextToken",
    "PositionMap",
    "ResidualStream",
    "Run",
    "Runs",
    "Sizes",
    "Summary",
    "TokenMap",
    "Trace",
    "attention",
    "backward",
    "backward_example",
    "compare",
    "deciding_words",
    "find_tokens",
    "follow_tokens",
    "gradients",
    "kept_steps",
    "label_lens",
    "learn",
    "load",
    "logit_lens",
    "nearest_tokens",
    "next_token",
    "positions",
    "residual_stream",
    "run",
    "runs",
    "summary",
    "token_map",
    "trace",
]
