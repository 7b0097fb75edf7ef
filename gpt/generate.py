"""Text from a model, one token at a time: score every possible next token, choose one, append it, repeat.

One idea: what was read need not be read again. A KVCache keeps every layer's keys and values, so a step computes the
newest position alone, and costs one look at each weight. Without a cache each step reads the whole text again: the same
tokens, only slower.

When a text outgrows the model's context, its oldest tokens are left out of sight. Every remaining token then moves one
place to the left, and since GPT-2 learns an embedding for each absolute place, nothing remembered is valid any more:
from there on each step reads the whole window, with and without a cache.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple
from weakref import WeakKeyDictionary

import tensorlite as tl
from tensorlite import Generator, Tensor
from tensorlite import functional as F
from tensorlite.accelerate.cuda_graph import CudaGraph
from tensorlite.devices.memory import begin_to_host

from .attention import KVCache
from .config import check_integer, check_number
from .model import GPT
from .tokenizer.base import plain_ids


def generate(model: GPT, prompts: Sequence[Sequence[int]], max_new_tokens: int, **options) -> list[list[int]]:
    """What `stream` yields, collected: for each prompt the new token ids, without the prompt and the stop token."""
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
    use_cache: bool = True,
) -> Iterator[list[int | None]]:
    """Continue each prompt, and yield after each step its new token ids: one per prompt, None where a text has ended.

    `temperature` 0 takes the most probable token; above, tokens are drawn, with `top_k` and `top_p` as `probabilities`
    says. A text ends before its `stop_token`, or after `max_new_tokens`. Prompts may differ in length: each gets the
    text that it would get alone. Prompt i draws from its own stream, seeded `seed` + i; with no seed all draw from
    tensorlite's default generator. A prompt longer than the context is read from its end. Dropout is off, nothing is
    recorded; the model's mode and the caller's are left as they were.

    ValueError, at the call and not at the first step: no prompt, an empty one, an id outside the vocabulary, or an
    option outside its range. FloatingPointError, at a step that draws, where the model's scores are not finite.
    """
    texts = _texts(model.config.vocab_size, prompts, stop_token)
    check_integer("max_new_tokens", max_new_tokens, low=0)
    check_sampling(model.config.vocab_size, temperature, top_k, top_p)
    streams = [tl.default_generator if seed is None else Generator(seed + i) for i in range(len(texts))]
    memory = None
    if use_cache:
        memory = remembering(model, len(texts), min(max(map(len, texts)) + max_new_tokens, model.config.context_length))

    def steps() -> Iterator[list[int | None]]:
        cache, one_more = (memory.cache, memory.one_more) if memory else (None, None)
        running = list(range(len(texts)))
        for left in range(max_new_tokens, 0, -1):
            tokens: list[int | None] = [None] * len(texts)
            if memory and temperature == 0 and memory.ahead.supports(texts):
                best = memory.ahead(texts, left)
                chosen = [best[i] for i in running]
            else:
                logits = next_logits(model, texts, cache, one_more)
                going = logits if len(running) == len(texts) else logits[running]
                chosen = choose(going, temperature, top_k, top_p, [streams[i] for i in running])
            for i, token in zip(running, chosen, strict=True):
                if token != stop_token:
                    tokens[i] = token
                    texts[i].append(token)
            running = [i for i in running if tokens[i] is not None]
            if not running:
                break
            yield tokens
        if memory and (memory.one_more.recorded or memory.ahead.graph.recorded):
            _spare[model] = memory

    return steps()


# ----- memory -----------------------------------------------------------------------------------------------


class Ahead:
    """Greedy texts on a GPU: the best tokens are found there, and the next step begins with them before the host has
    seen them. So neither waits for the other. What was begun in vain, because a text ended, is forgotten.
    """

    def __init__(self, model: GPT, cache: list[KVCache]):
        self.model, self.cache = model, cache
        self.graph = CudaGraph(partial(best_of_each, model, cache))
        self.begun: Callable | None = None  # the step that is under way

    def supports(self, texts: list[list[int]]) -> bool:
        """Whether the cache has read all but the newest tokens, and a kernel finds their places on the device."""
        return max(map(len, texts)) <= self.model.config.context_length and reads_one(self.cache)

    def __call__(self, texts: list[list[int]], left: int) -> list[int]:
        """The best token after each text, of `left` that will be asked for at most."""
        room = self.model.config.context_length - max(map(len, texts))
        with _reading(self.model):
            begun = self.begun or begin_to_host(self.graph(newest(self.model, texts)).data)
            goes_on = self.graph.recorded and left > 1 and room > 0
            self.begun = begin_to_host(self.graph.again().data) if goes_on else None
        return begun().tolist()


class Memory(NamedTuple):
    """What a model has read, and the step of one more token, which a GPU records and replays."""

    cache: list[KVCache]
    one_more: CudaGraph  # scores
    ahead: Ahead  # or the best tokens
    weights: list  # the arrays that the step reads: others, and the record is of no use


_spare: WeakKeyDictionary[GPT, Memory] = WeakKeyDictionary()  # what the last text of a model on a GPU left


def remembering(model: GPT, batch_size: int, positions: int) -> Memory:
    """Nothing read yet, and room for it. A recorded step is used again, for recording takes as long as many steps."""
    weights = [p.data for p in model.parameters()]
    left = _spare.pop(model, None)
    if left is not None:
        B, _, room, _ = left.cache[0].shape
        same = all(old is new for old, new in zip(left.weights, weights, strict=True))
        if same and batch_size == B and positions <= room:
            for layer in left.cache:
                layer.lengths = [0] * batch_size
            left.ahead.begun = None
            return left
    cache = model.new_cache(batch_size, positions)
    return Memory(cache, CudaGraph(partial(next_to_each, model, cache)), Ahead(model, cache), weights)


# ----- the model's part -------------------------------------------------------------------------------------


def next_logits(
    model: GPT, texts: Sequence[list[int]], cache: list[KVCache] | None = None, one_more: CudaGraph | None = None
) -> Tensor:
    """The scores (B, V) of what may follow each of B texts.

    The rows are padded on the right, where no causal attention looks. A cache that has read all of each text but its
    last token is asked to read that one; a text that had ended is read again at its last token, which changes nothing.
    On a GPU that is `one_more`: the step of a token is the same launches each time, recorded as a CUDA graph.
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
    device = model.token_embedding.weight.device
    with _reading(model):
        if one_more is not None and cache is not None and reads_one(cache):
            return one_more(newest(model, texts))
        idx = tl.tensor([row + [0] * (width - len(row)) for row in rows], device=device)  # (B, T)
        features = model.features(idx, cache)  # (B, T, C)
        if all(len(row) == width for row in rows):  # no index has to reach the device
            return model.logits(features[:, -1])
        last = features[list(range(len(rows))), [len(row) - 1 for row in rows]]  # (B, C)
        return model.logits(last)


def reads_one(cache: list[KVCache]) -> bool:
    """Whether something was read, so that a step reads one token of each text, on a GPU with its places there."""
    return max(cache[0].lengths) > 0 and cache[0].has_kernel


def newest(model: GPT, texts: Sequence[list[int]]) -> Tensor:
    """The last token of each text, and the place where it stands: (2, B)."""
    device = model.token_embedding.weight.device
    return tl.tensor([[text[-1] for text in texts], [len(text) - 1 for text in texts]], device=device)


def next_to_each(model: GPT, cache: list[KVCache], tokens: Tensor) -> Tensor:
    """The scores (B, V) after one token of each text: tokens (2, B) are their ids, and the places where they stand."""
    for layer in cache:
        layer.places = tokens[1]
    try:
        return model.logits(model.features(tokens[0].reshape(-1, 1), cache)[:, -1])  # (B, 1, C) -> (B, C)
    finally:
        for layer in cache:
            layer.places = None


def best_of_each(model: GPT, cache: list[KVCache], tokens: Tensor) -> Tensor:
    """The best token (B) after one of each text, tokens (2, B) as in `next_to_each`: which those become, in place."""
    best = F.argmax(next_to_each(model, cache, tokens))
    tokens.data[0] = best.data
    tokens.data[1] += 1
    return best


@contextmanager
def _reading(model: GPT) -> Iterator[None]:
    """No dropout and no recording, for one step: held across a `yield`, they would reach into the caller's code."""
    training = model.training
    if training:
        model.eval()
    try:
        with tl.no_grad():
            yield
    finally:
        if training:
            model.train()


# ----- the choice -------------------------------------------------------------------------------------------


def choose(
    logits: Tensor, temperature: float, top_k: int | None, top_p: float | None, streams: Sequence[Generator]
) -> list[int]:
    """One token id per row of `logits` (B, V), drawn from the row's own stream, or the best one at temperature 0."""
    if temperature == 0:
        return F.argmax(logits).tolist()
    p = probabilities(logits, temperature, top_k, top_p).to("cpu")  # all rows at once: each is waited for
    try:
        return [int(tl.multinomial(p[i], generator=generator).item()) for i, generator in enumerate(streams)]
    except ValueError:
        if tl.isfinite(p).all().item():
            raise
        raise FloatingPointError(
            "the model's scores are not finite: its weights are too large, as after training with too high an lr"
        ) from None


def probabilities(
    logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """softmax(logits / temperature) (..., V), float32, cut down to the tokens that may be drawn; the others have 0.

    `top_k` keeps the k most probable tokens. `top_p` then keeps the fewest most probable ones whose probabilities add
    up to p (Holtzman et al., "The curious case of neural text degeneration", 2020). Tokens exactly as probable as the
    last one kept are kept too, so that an id's number never decides. What is kept need not sum to 1: a draw does not
    ask for it.
    """
    logits = logits.astype(tl.float32)
    if top_k is not None:
        least = logits.sort()[..., -top_k, None]  # (..., 1)
        logits = logits.masked_fill(logits < least, -math.inf)
    p = F.softmax(logits / max(temperature, 1e-30))  # float32 has no room below, and no different answer
    if top_p is not None and top_p < 1:
        ordered = p.sort().flip(-1)  # (..., V)
        before = ordered.cumsum(axis=-1) - ordered  # the probability of all that is ahead
        least = tl.where(before < top_p, ordered, 1.0).min(axis=-1, keepdims=True)  # (..., 1)
        p = p.masked_fill(p < least, 0.0)
    return p


# ----- checks -----------------------------------------------------------------------------------------------


def check_sampling(vocab_size: int, temperature: float, top_k: int | None, top_p: float | None) -> None:
    """ValueError that names the first option outside its range."""
    check_number("temperature", temperature, low=0)
    if top_k is not None:
        check_integer("top_k", top_k, low=1)
        if top_k > vocab_size:
            raise ValueError(f"top_k must be at most the vocabulary's {vocab_size} tokens, got {top_k}")
    if top_p is not None:
        check_number("top_p", top_p, low=0)
        if not 0 < top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {top_p}")


def _texts(vocab_size: int, prompts: Iterable[Iterable[int]], stop_token: int | None) -> list[list[int]]:
    """The prompts as lists of ints, checked."""
    texts = [plain_ids(prompt, vocab_size, f"prompt {i}: ") for i, prompt in enumerate(prompts)]
    if not texts:
        raise ValueError("there is no prompt: give at least one list of token ids")
    if [] in texts:
        raise ValueError(
            f"prompt {texts.index([])} is empty: give at least one token, such as the end of a text before"
        )
    if stop_token is not None:
        plain_ids([stop_token], vocab_size, "stop_token: ")
    return texts
