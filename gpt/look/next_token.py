"""The distribution of the next token: after a text, at every position of a text, and while a text is generated.

A vocabulary has up to 50,257 tokens, and a page should reshape their distribution without asking the server again. So
a `NextToken` keeps the largest logits exactly and the others as a histogram: how many logits are in each of `BINS`
equally wide bins, and their mean. With temperature T, the softmax needs the sum of exp(l / T) over all logits l; in a
bin of n logits with mean m, n exp(m / T) stands for that part of the sum. It is too small by a factor of at most
exp(width^2 / (8 T^2)), by Hoeffding's lemma. So the relative error of each probability is at most
exp(width^2 / (8 T^2)) - 1, times the share of the histogram's tokens in the distribution. A vocabulary of at most
`EXACT` tokens has no histogram.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from html import escape
from itertools import pairwise
from typing import Any

import tensorlite as tl
from tensorlite import Tensor

from ..config import check_integer
from ..generation import Decoder, next_logits, stream
from ..kv_cache import KVCache
from ..model import GPT, inference_mode
from ..tasks.pretrain import start_of_run
from ..tokenizer import END_OF_TEXT
from .display import FAINT, FONT, sequential, visible_text
from .loaded import LoadedModel

EXACT = 100  # logits that are kept exactly
BINS = 128  # of the histogram of the others
CHUNK = 32  # positions that are computed together


@dataclass(frozen=True)
class Candidate:
    """One token that could come next. `probability` is the model's own: at temperature 1, without top_k and top_p."""

    id: int
    text: str  # what it adds to the text before it; bytes that are not UTF-8 by themselves are shown as \\xNN
    logit: float
    probability: float
    rank: int  # 1: the most probable token; tokens with the same logit have the same rank
    surprise: float  # -log2(probability), in bits: 0 for a certain token, 1 for a probability of 1/2


@dataclass(frozen=True)
class NextToken:
    """What a model predicts at one position, and the token that follows in the text, where there is one."""

    top: list[Candidate]  # the most probable tokens, the best first
    logits: list[float]  # of the EXACT most probable tokens, in descending order
    tail: list[tuple[int, float]]  # of the others: (number of logits, their mean) of each bin, in descending order
    width: float  # of a bin, in logits
    vocab_size: int
    token: Candidate | None = None  # the token that follows

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values."""
        return asdict(self)

    def _repr_html_(self) -> str:
        """A bar for each of the most probable tokens, with its probability at temperature 1."""
        longest = max(candidate.probability for candidate in self.top) or 1.0
        rows = "".join(_bar(candidate, longest, self.token) for candidate in self.top)
        shown = sum(candidate.probability for candidate in self.top)
        rest = f"the other {self.vocab_size - len(self.top):,} tokens together: {1 - shown:.1%}"
        style = escape(f"font-family:{FONT};font-size:13px;background:#ffffff;color:#15181e;padding:4px")
        return f'<div style="{style}"><table>{rows}</table><div style="color:{FAINT}">{rest}</div></div>'


def _bar(candidate: Candidate, longest: float, token: Candidate | None) -> str:
    """A row of the table: the token, a bar, its probability; the token that follows in the text is marked."""
    length = 240 * candidate.probability / longest
    bar = f'<div style="width:{length:.1f}px;height:12px;background:{sequential(0.7)}"></div>'
    mark = "◀ in the text" if token is not None and token.id == candidate.id else ""
    cells = [
        f'<td style="text-align:right;white-space:pre">{escape(visible_text(candidate.text))}</td>',
        f'<td style="text-align:left;min-width:240px">{bar}</td>',
        f'<td style="text-align:right">{candidate.probability:.1%}</td><td>{mark}</td>',
    ]
    return f'<tr style="background:#ffffff">{"".join(cells)}</tr>'


# ----- distributions ----------------------------------------------------------------------------------------------


def next_token(model: LoadedModel, text: str, k: int = 10) -> NextToken:
    """What the model predicts after `text`; `top` has the k most probable tokens.

    Of a text longer than the model's context, the end is read. ValueError for a classifier, or k below 1.
    """
    ids = prompt_ids(model, text)
    return summary(model, next_logits(model.model, [ids])[0], ids[-1], k=k)


def expected(model: LoadedModel, ids: Sequence[int], k: int = 10) -> Iterator[NextToken | None]:
    """For each token of a text, the distribution that the model predicted from the tokens before it.

    None for the first token. Of a text longer than the model's context, the end is read: None before and at its first
    token. The positions are computed in chunks of CHUNK, so that a caller can stop early.
    """
    check_writes(model)
    gpt = model.model
    skipped = max(0, len(ids) - gpt.config.context_length)
    yield from [None] * min(skipped + 1, len(ids))
    read = list(ids[skipped:])
    cache = gpt.new_cache(1, len(read))
    for start in range(0, len(read) - 1, CHUNK):
        chunk = read[start : min(start + CHUNK, len(read) - 1)]
        logits = _scores(gpt, chunk, cache)  # (T, V)
        for i in range(len(chunk)):
            yield summary(model, logits[i], chunk[i], read[start + i + 1], k)


def _scores(gpt: GPT, chunk: list[int], cache: list[KVCache]) -> Tensor:
    """The scores (T, V) of the next token at each position of a chunk that continues what the cache holds."""
    with inference_mode(gpt):
        idx = tl.tensor([chunk], device=gpt.device)  # (1, T)
        return gpt.logits(gpt.hidden_states(idx, cache))[0]  # (1, T, C) -> (T, V)


class Watched(Decoder):
    """A Decoder that computes the scores by another one and keeps the newest."""

    def __init__(self, decoder: Decoder):
        self.decoder = decoder
        self.scores: Tensor | None = None  # (B, V)

    def logits(self, texts: Sequence[list[int]]) -> Tensor:
        self.scores = self.decoder.logits(texts)
        return self.scores

    def finish(self) -> None:
        self.decoder.finish()


def written(
    model: LoadedModel, ids: Sequence[int], max_new_tokens: int, *, k: int = 10, **options: Any
) -> Iterator[NextToken]:
    """Generate text, and give for each new token the distribution from which it was chosen.

    The tokens are those of `gpt.generation.stream` for one prompt and the same `options`: temperature, top_k, top_p and
    seed. Where the tokenizer has <|endoftext|>, the text ends with it: it is the last item. ValueError at the call, not
    at the first token, for invalid options; FloatingPointError at a token where the logits are not finite.
    """
    check_writes(model)
    stop = model.tokenizer.special_tokens.get(END_OF_TEXT)
    watched: list[Watched] = []

    def wrap(decoder: Decoder) -> Decoder:
        watched.append(Watched(decoder))
        return watched[0]

    steps = stream(model.model, [ids], max_new_tokens, stop_token=stop, wrap=wrap, **options)

    def found(before: int, token: int | None) -> NextToken:
        scores = watched[0].scores
        assert scores is not None
        return summary(model, scores[0], before, token, k)

    def items() -> Iterator[NextToken]:
        before, left = ids[-1], max_new_tokens
        for (token,) in steps:
            assert token is not None  # the only text has not ended
            yield found(before, token)
            before, left = token, left - 1
        if left > 0:
            yield found(before, stop)  # `stream` omits it

    return items()


def summary(model: LoadedModel, logits: Tensor, before: int, token: int | None = None, k: int = 10) -> NextToken:
    """A NextToken of the scores (V,) after the token `before`; `token` is the one that follows."""
    check_integer("k", k, low=1)
    k = int(k)
    logits = logits.to("cpu").astype(tl.float32)
    values: list[float] = logits.tolist()
    ascending: list[float] = logits.sort().tolist()
    if not math.isfinite(ascending[0]) or not math.isfinite(ascending[-1]):
        raise FloatingPointError(
            "the model's scores are not finite: its weights are too large, as after training with too high an lr"
        )
    total = tl.logsumexp(logits.astype(tl.float64)).item()

    def candidate(id: int) -> Candidate:
        text = text_after(model, before, id)
        rank = len(ascending) - bisect_right(ascending, values[id]) + 1
        log_p = values[id] - total
        return Candidate(id, text, values[id], math.exp(log_p), rank, abs(log_p) / math.log(2))

    k = min(k, len(values))
    least = ascending[-k]
    best = sorted((i for i, value in enumerate(values) if value >= least), key=lambda i: (-values[i], i))[:k]
    tail, width = histogram(ascending[:-EXACT])
    chosen = None if token is None else candidate(token)
    return NextToken([candidate(id) for id in best], ascending[: -EXACT - 1 : -1], tail, width, len(values), chosen)


def text_after(model: LoadedModel, before: int | None, id: int) -> str:
    """What the token `id` adds to a text that ends with the token `before`, such as a space and a word.

    Bytes that are not UTF-8 by themselves are shown as \\xNN.
    """
    prefix = [] if before is None else [before]
    known = model.tokenizer.decode_bytes(prefix)
    return model.tokenizer.decode_bytes([*prefix, id])[len(known) :].decode("utf-8", "backslashreplace")


def histogram(ascending: Sequence[float]) -> tuple[list[tuple[int, float]], float]:
    """(number, mean) of the values in each of BINS equally wide bins, the largest values first, and the width of a bin.

    Empty bins are omitted. The values are in ascending order; without values the histogram is empty.
    """
    if not ascending:
        return [], 0.0
    low, high = ascending[0], ascending[-1]
    width = (high - low) / BINS
    edges = [0, *(bisect_left(ascending, low + i * width) for i in range(1, BINS)), len(ascending)]
    bins = [ascending[start:end] for start, end in pairwise(edges) if start < end]
    return [(len(values), math.fsum(values) / len(values)) for values in reversed(bins)], width


# ----- prompts ----------------------------------------------------------------------------------------------------


def prompt_ids(model: LoadedModel, text: str) -> list[int]:
    """The token ids of a prompt, which may be longer than the context; of an empty one, the start of a text of the run.

    ValueError for a classifier.
    """
    check_writes(model)
    return model.tokenizer.encode(text, "all") or start_of_run(model.description, model.tokenizer)


def check_writes(model: LoadedModel) -> None:
    """ValueError for a classifier, which has no head for the next token."""
    if model.classifier is not None:
        raise ValueError("this run is a classifier: it predicts a class of a text, not the next token")
