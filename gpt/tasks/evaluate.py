"""Loss, perplexity and bits per byte of a model on a text, defined as in published results.

One idea: **each token except the first is predicted exactly once, from the tokens before it in its window.**
Windows of `context` tokens begin every `stride` tokens; each counts only the predictions that no earlier window has
made. With stride = context they do not overlap, and a token at the beginning of a window is predicted from few others;
with a smaller stride from more than context - stride: a lower loss, for context / stride times the work.

The page "Perplexity of fixed-length models" of Hugging Face's transformers counts in the same way. Of its max_length
tokens the last one is a target alone: max_length 1024 there is context 1023 here, and then the numbers are equal.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import tensorlite as tl
from tensorlite import functional as F

from ..config import check_integer
from ..model import GPT
from ..tokenizer import Tokenizer
from ..tokenizer.base import chunks

Bar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
LOGITS = 1 << 24  # numbers held at a time (64 MiB): limits the positions per product with the head


def no_bar(what: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    return nullcontext(lambda done: None)


@dataclass(frozen=True)
class Score:
    """The measured counts; the properties follow from them."""

    tokens: int  # of the text
    predicted: int  # all except the first
    bytes: int  # of UTF-8, of the predicted tokens
    nats: float  # -ln of the probability of all of them together

    @property
    def loss(self) -> float:
        """Mean cross-entropy of a token, in nats."""
        return self.nats / self.predicted

    @property
    def perplexity(self) -> float:
        """exp(loss): the number of equally probable tokens that would give the same loss."""
        return math.exp(min(self.loss, 700.0))

    @property
    def bits_per_token(self) -> float:
        return self.loss / math.log(2)

    @property
    def bits_per_byte(self) -> float:
        """Bits of an optimal code for the text per byte: comparable between tokenizers."""
        return self.nats / math.log(2) / self.bytes


def evaluate(
    model: GPT, tokenizer: Tokenizer, text: str, context: int | None = None, stride: int | None = None,
    batch_size: int = 4, bar: Bar = no_bar,
) -> Score:  # fmt: skip
    """The Score of a text. `context` (default: the model's) and `stride` (default: context) are explained above.

    Special tokens in the text are read as such, as in training. `bar(what, total)` is a context manager
    of a function that gets the progress: characters that were encoded, then predictions. ValueError for a text of fewer
    than two tokens, and for a context, stride or batch_size that is invalid.
    """
    ids: list[int] = []
    with bar("making tokens", len(text)) as advance:
        for part in chunks(text, whole=tokenizer.special_tokens):
            ids += tokenizer.encode(part, "all")
            advance(len(part))
    if len(ids) < 2:
        raise ValueError(f"the text has {len(ids)} of this tokenizer's tokens: at least 2 are needed")
    with bar("predicting", len(ids) - 1) as advance:
        nats = total_loss(model, ids, context, stride, batch_size, advance)
    size = len(text.encode()) - len(tokenizer.decode_bytes(ids[:1]))
    return Score(len(ids), len(ids) - 1, size, nats)


def total_loss(
    model: GPT, ids: Sequence[int], context: int | None = None, stride: int | None = None, batch_size: int = 4,
    advance: Callable[[int], None] = lambda predictions: None,
) -> float:  # fmt: skip
    """-ln of the probability of ids[1:], each given those before it in its window.

    `ids` is a list, an array or a TokenFile; `advance` gets the number of predictions of each batch; the other
    arguments are those of `evaluate`.
    """
    longest = model.config.context_length
    context = longest if context is None else context
    stride = context if stride is None else stride
    for name, value, high in (("context", context, longest), ("stride", stride, context)):
        check_integer(name, value, low=1)
        if value > high:
            what = "the model's" if name == "context" else "the window's"
            raise ValueError(f"{name} must be at most {what} {high} tokens, got {value}")
    check_integer("batch_size", batch_size, low=1)
    context, stride, batch_size = int(context), int(stride), int(batch_size)  # NumPy's may be too narrow for a sum
    total, training = 0.0, model.training
    device = model.device
    model.eval()
    with tl.no_grad():
        for batch in batches(windows(len(ids), context, stride), batch_size):
            texts = [[int(id) for id in ids[start : end + 1]] for start, end, _ in batch]  # of an array too
            x = tl.tensor([text[:-1] for text in texts], device=device)  # (B, T)
            seen = batch[0].seen
            features = model.hidden_states(x)[:, seen:].reshape(-1, model.config.n_embd)  # (B, N, C) -> (B N, C)
            targets = [id for text in texts for id in text[seen + 1 :]]  # B N
            rows = max(1, LOGITS // model.config.vocab_size)
            for i in range(0, len(targets), rows):
                y = tl.tensor(targets[i : i + rows], device=device)
                total += F.cross_entropy(model.logits(features[i : i + rows]), y).item() * len(y)
            advance(len(targets))
    model.train(training)
    return total


# ----- windows ----------------------------------------------------------------------------------------------------


class Window(NamedTuple):
    """ids[start:end] are the input; each predicts the next one. The first `seen` predictions were made before."""

    start: int
    end: int
    seen: int


def windows(n: int, context: int, stride: int) -> Iterator[Window]:
    """Windows over n ids whose new predictions are those of ids 1 .. n - 1, in order, each once."""
    done = 0  # the last id that was predicted; the first one is given
    for start in range(0, n - 1, stride):
        end = min(start + context, n - 1)
        yield Window(start, end, done - start)
        done = end
        if done == n - 1:
            return


def batches(all_windows: Iterator[Window], size: int) -> Iterator[list[Window]]:
    """Batches of at most `size` consecutive windows of one shape: only the first and the last window differ."""
    for _, alike in itertools.groupby(all_windows, lambda window: (window.end - window.start, window.seen)):
        while batch := list(itertools.islice(alike, size)):
            yield batch
