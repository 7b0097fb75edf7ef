"""Generate text one token at a time: score every possible next token, choose one, append it, repeat.

A KVCache keeps the keys and values of every layer, so that a step computes only the newest token. Without a cache
each step computes the whole texts again: the same tokens, more slowly.

When a text outgrows the model's context, its oldest tokens are left out. Every remaining token then moves one position
to the left. GPT-2 learns an embedding for each absolute position, so the cached keys and values become invalid: from
there on each step reads the whole window, with and without a cache.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import tensorlite as tl
from tensorlite import Generator, Tensor
from tensorlite import functional as F

from .config import check_integer, check_number
from .kv_cache import KVCache
from .model import GPT, inference_mode
from .tokenizer.base import check_ids


def generate(model: GPT, prompts: Sequence[Sequence[int]], max_new_tokens: int, **options: Any) -> list[list[int]]:
    """Collect the tokens of `stream`: for each prompt the new token ids, without the prompt and the stop token."""
    if isinstance(prompts, str) or not isinstance(prompts, Iterable):
        raise TypeError(f"prompts: a list of lists of token ids is needed, not {prompts!r:.80}")
    prompts = list(prompts)
    texts: list[list[int]] = [[] for _ in prompts]
    for step in stream(model, prompts, max_new_tokens, **options):
        for text, token in zip(texts, step, strict=True):
            if token is not None:
                text.append(token)
    return texts


def stream(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop_token: int | None = None,
    ended: Collection[int] = (),
    use_cache: bool = True,
    wrap: "Callable[[Decoder], Decoder] | None" = None,
) -> Iterator[list[int | None]]:
    """Continue each prompt, and yield after each step its new token ids: one per prompt, None where a text has ended.

    `temperature` 0 takes the most probable token; above 0, tokens are drawn from `probabilities`, which `top_k` and
    `top_p` restrict. A text ends before its `stop_token`, or after `max_new_tokens`. Prompts may differ in length: each
    gets the text that it would get alone. Prompt i draws from its own generator, seeded `seed` + i; without a seed all
    draw from tensorlite's default generator. A prompt longer than the context is cut to its end. The caller may end a
    text between two steps, such as after a stop string (gpt/stopping.py), by adding its number to `ended`. Dropout is
    off and no gradient is recorded; the model's mode and the caller's are left as they were. Between two steps the
    model's weights may change, but not its modules. `wrap` may replace the Decoder that computes the scores by one that
    also keeps them (gpt/look/next_token.py).

    Raises ValueError at the call, not at the first step, for no prompt, an empty one, an id outside the vocabulary, or
    an option outside its range; FloatingPointError at a step that draws, where the model's scores are not finite.
    """
    texts = check_prompts(model.config.vocab_size, prompts, stop_token)
    check_integer("max_new_tokens", max_new_tokens, low=0)
    check_sampling(model.config.vocab_size, temperature, top_k, top_p)
    # NumPy's numbers would be computed with in their own precision
    max_new_tokens, temperature = int(max_new_tokens), float(temperature)
    top_k, top_p = None if top_k is None else int(top_k), None if top_p is None else float(top_p)
    generators = [tl.default_generator if seed is None else Generator(seed + i) for i in range(len(texts))]
    positions = min(max(map(len, texts)) + max_new_tokens, model.config.context_length)
    decoder = make_decoder(model, len(texts), positions, use_cache)
    if wrap is not None:
        decoder = wrap(decoder)

    def steps() -> Iterator[list[int | None]]:
        running = list(range(len(texts)))  # the texts that have not ended
        for left in range(max_new_tokens, 0, -1):
            if temperature == 0:
                best = decoder.best(texts, more=left > 1)
                chosen = [best[i] for i in running]
            else:
                logits = decoder.logits(texts)  # (B, V)
                logits = logits if len(running) == len(texts) else logits[running]
                chosen = draw(logits, temperature, top_k, top_p, [generators[i] for i in running])
            tokens: list[int | None] = [None] * len(texts)
            for i, token in zip(running, chosen, strict=True):
                if token != stop_token:
                    tokens[i] = token
                    texts[i].append(token)
            running = [i for i in running if tokens[i] is not None]
            if not running:
                break
            yield tokens
            running = [i for i in running if i not in ended]
            if not running:
                break
        decoder.finish()

    return steps()


# ----- the scores of the next token -------------------------------------------------------------------------------


class Decoder:
    """Computes the scores of the next token for `stream`, with or without a KVCache.

    `gpt.fast` has a subclass for models on a GPU and sets `make_decoder`, so that `stream` uses it.
    """

    def __init__(self, model: GPT, batch_size: int, positions: int, use_cache: bool = True):
        self.model = model
        self.cache: Sequence[KVCache] | None = model.new_cache(batch_size, positions) if use_cache else None

    def logits(self, texts: Sequence[list[int]]) -> Tensor:
        """The scores (B, V) of the next token of each of B texts."""
        return next_logits(self.model, texts, self.cache)

    def best(self, texts: Sequence[list[int]], more: bool) -> list[int]:
        """The most probable token after each text. `more`: whether `stream` may ask for another one after it."""
        best: list[int] = F.argmax(self.logits(texts)).tolist()
        return best

    def finish(self) -> None:
        """Called after the last step."""


make_decoder: Callable[[GPT, int, int, bool], Decoder] = Decoder  # gpt.fast.attach_decode sets another


def next_logits(model: GPT, texts: Sequence[list[int]], cache: Sequence[KVCache] | None = None) -> Tensor:
    """The scores (B, V) of the next token of each of B texts.

    Texts of different lengths are padded on the right, which causal attention ignores. If the cache has read all
    tokens of each text except the last, only the last is read; for a text that has ended, the last token is read again,
    which changes nothing.
    """
    context = model.config.context_length
    rows, starts = [text[-context:] for text in texts], [0] * len(texts)
    if max(map(len, texts)) > context:
        cache = None
    elif cache is not None and max(cache[0].lengths):
        rows, starts = [text[-1:] for text in texts], [len(text) - 1 for text in texts]
    for layer in cache or ():
        layer.lengths = starts
    width = max(map(len, rows))
    padded = [row + [0] * (width - len(row)) for row in rows]
    with inference_mode(model):
        hidden = model.hidden_states(tl.tensor(padded, device=model.device), cache)  # (B, T, C)
        if all(len(row) == width for row in rows):
            return model.logits(hidden[:, -1])  # (B, C) -> (B, V)
        last = [len(row) - 1 for row in rows]  # of each text, before the padding
        return model.logits(hidden[list(range(len(rows))), last])  # (B, C) -> (B, V)


# ----- drawing a token --------------------------------------------------------------------------------------------


def draw(
    logits: Tensor, temperature: float, top_k: int | None, top_p: float | None, generators: Sequence[Generator]
) -> list[int]:
    """One token id per row of `logits` (B, V), drawn from `probabilities` with the row's own generator."""
    p = probabilities(logits, temperature, top_k, top_p).to("cpu")  # all rows at once: each transfer waits for the GPU
    try:
        return [int(tl.multinomial(p[i], generator=generator).item()) for i, generator in enumerate(generators)]
    except ValueError:
        if tl.isfinite(p).all().item():
            raise
        raise FloatingPointError(
            "the model's scores are not finite: its weights are too large, as after training with too high an lr"
        ) from None


def probabilities(
    logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """softmax(logits / temperature) (..., V) in float32, with 0 for the tokens that may not be drawn.

    `top_k` keeps the k most probable tokens. `top_p` then keeps the fewest most probable ones whose probabilities add
    up to p (Holtzman et al., "The curious case of neural text degeneration", 2020). Tokens exactly as probable as the
    last one kept are kept too, so that the order of the ids never decides. The result need not sum to 1:
    tl.multinomial does not require it.
    """
    logits = logits.astype(tl.float32)
    if top_k is not None:
        least = tl.topk(logits, top_k)[0][..., -1:]  # (..., 1)
        logits = logits.masked_fill(logits < least, -math.inf)
    p = F.softmax(logits / max(temperature, 1e-30))  # smaller ones underflow in float32
    if top_p is not None and top_p < 1:
        ordered = p.sort().flip(-1)  # (..., V)
        before = ordered.cumsum(axis=-1) - ordered  # the probability of all more probable tokens
        least = tl.where(before < top_p, ordered, 1.0).min(axis=-1, keepdims=True)  # (..., 1)
        p = p.masked_fill(p < least, 0.0)
    return p


# ----- checks -----------------------------------------------------------------------------------------------


def check_sampling(vocab_size: int, temperature: float, top_k: int | None, top_p: float | None) -> None:
    """ValueError for the first option outside its range, with its name."""
    check_number("temperature", temperature, low=0)
    if top_k is not None:
        check_integer("top_k", top_k, low=1)
        if top_k > vocab_size:
            raise ValueError(f"top_k must be at most the vocabulary's {vocab_size} tokens, got {top_k}")
    if top_p is not None:
        check_number("top_p", top_p, low=0)
        if not 0 < top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {top_p}")


def check_prompts(vocab_size: int, prompts: Iterable[Iterable[int]], stop_token: int | None) -> list[list[int]]:
    """The prompts as lists of ints; ValueError where there is none, one is empty, or an id is not in the vocabulary."""
    texts = [check_ids(prompt, vocab_size, f"prompt {i}: ") for i, prompt in enumerate(prompts)]
    if not texts:
        raise ValueError("there is no prompt: give at least one list of token ids")
    if [] in texts:
        raise ValueError(
            f"prompt {texts.index([])} is empty: give at least one token, such as the end of a text before"
        )
    if stop_token is not None:
        check_ids([stop_token], vocab_size, "stop_token: ")
    return texts
