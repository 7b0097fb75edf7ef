"""Generation on a GPU: the step of one token is recorded as a CUDA graph, and greedy steps run ahead of the host.

A step of one token launches the same kernels each time, and for small models the launches are the cost. So everything
that changes from token to token is a number on the device (the token ids and their positions), and the third step is
recorded and replayed for all that follow. Greedy decoding also finds the best token on the device and begins the next
step with it before the host has read it: neither waits for the other.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import tensorlite as tl
from tensorlite import Tensor
from tensorlite import functional as F
from tensorlite.accelerate.cuda_graph import CudaGraph
from tensorlite.devices.memory import start_copy_to_host
from tensorlite.formulas import join_heads, split_heads
from tensorlite.kernels.cuda import decode

from ..generation import Decoder
from ..kv_cache import KVCache
from ..model import GPT, inference_mode


class DeviceCache(KVCache):
    """A KVCache that can also take the positions of the next tokens from the device."""

    device_positions: Tensor | None = None  # (B,): if set, the positions of the next tokens, instead of lengths

    @property
    def has_kernel(self) -> bool:
        """Whether `device_positions` may be set: on a GPU, once there are keys."""
        return self.keys is not None and decode.supports(self.keys.data[:, :, :1], self.keys.data)

    def attention(self, qkv: Tensor, is_causal: bool = True) -> Tensor:
        if self.device_positions is None:
            return super().attention(qkv, is_causal)
        assert self.keys is not None
        assert self.values is not None
        q, k, v = split_heads(qkv.data, self.shape[1])  # (B, H, 1, D) each
        memory = self.keys.data, self.values.data, self.device_positions.data
        context = decode.attend(q, k, v, *memory, scale=1 / math.sqrt(self.shape[3]))  # (B, H, 1, D)
        return Tensor(join_heads(context))  # (B, 1, C)

    def next_positions(self, T: int, device: str) -> Tensor:
        if self.device_positions is None:
            return super().next_positions(T, device)
        return self.device_positions.reshape(-1, 1)  # (B, 1)


class GPUDecoder(Decoder):
    """A Decoder whose steps of one token are replays of a CUDA graph: one for scores, one for the best tokens."""

    def __init__(self, model: GPT, batch_size: int, positions: int):
        self.model = model
        self.cache = self.device_cache = [DeviceCache(*layer.shape) for layer in model.new_cache(batch_size, positions)]
        self.weights = [p.data for p in model.parameters()]  # the arrays that a recorded step reads
        self.score_graph = CudaGraph(partial(next_to_each, model, self.device_cache))
        self.best_graph = CudaGraph(partial(best_of_each, model, self.device_cache))
        self.begun: Callable[[], Any] | None = None  # gives the best tokens of the step that has begun

    def logits(self, texts: Sequence[list[int]]) -> Tensor:
        if not self.reads_one(texts):
            return super().logits(texts)
        with inference_mode(self.model):
            return self.score_graph(newest(self.model, texts))

    def best(self, texts: Sequence[list[int]], more: bool) -> list[int]:
        """The most probable token after each text; the next step begins too, if `more` and the context has room.

        A step that has begun and is not needed, because a text ended, is dropped with the decoder.
        """
        if not self.reads_one(texts):
            return super().best(texts, more)
        room = self.model.config.context_length - max(map(len, texts))
        with inference_mode(self.model):
            begun = self.begun or start_copy_to_host(self.best_graph(newest(self.model, texts)).data)
            goes_on = self.best_graph.recorded and more and room > 0
            self.begun = start_copy_to_host(self.best_graph.again().data) if goes_on else None
        best: list[int] = begun().tolist()
        return best

    def reads_one(self, texts: Sequence[list[int]]) -> bool:
        """Whether a step reads one token of each text: the cache has read the rest, and a kernel supports it."""
        first, context = self.device_cache[0], self.model.config.context_length
        return max(map(len, texts)) <= context and max(first.lengths) > 0 and first.has_kernel

    def finish(self) -> None:
        """Keep the recorded steps for the next texts of this model: recording takes as long as many steps."""
        if self.score_graph.recorded or self.best_graph.recorded:
            _spare[self.model] = self

    def fits(self, batch_size: int, positions: int) -> bool:
        """Whether the recorded steps fit this number and length of texts, and the model has the same weight arrays."""
        B, _, room, _ = self.device_cache[0].shape
        same = all(old is p.data for old, p in zip(self.weights, self.model.parameters(), strict=True))
        return same and batch_size == B and positions <= room

    def forget(self) -> None:
        """Reset: no text is read and no step has begun."""
        self.begun = None
        for layer in self.device_cache:
            layer.lengths = [0] * len(layer.lengths)


_spare: WeakKeyDictionary[GPT, GPUDecoder] = WeakKeyDictionary()  # for each model, the decoder of its last texts


def gpu_decoder(model: GPT, batch_size: int, positions: int) -> GPUDecoder:
    """A GPUDecoder that has read nothing; reuses the recorded steps of this model's last texts where they fit."""
    spare = _spare.pop(model, None)
    if spare is None or not spare.fits(batch_size, positions):
        return GPUDecoder(model, batch_size, positions)
    spare.forget()
    return spare


# ----- what is recorded -------------------------------------------------------------------------------------------


def newest(model: GPT, texts: Sequence[list[int]]) -> Tensor:
    """The last token of each text, and its position: (2, B)."""
    device = model.device
    return tl.tensor([[text[-1] for text in texts], [len(text) - 1 for text in texts]], device=device)


def next_to_each(model: GPT, cache: list[DeviceCache], tokens: Tensor) -> Tensor:
    """The scores (B, V) after one token of each text: tokens (2, B) are their ids and their positions."""
    for layer in cache:
        layer.device_positions = tokens[1]
    try:
        return model.logits(model.hidden_states(tokens[0].reshape(-1, 1), cache)[:, -1])  # (B, 1, C) -> (B, V)
    finally:
        for layer in cache:
            layer.device_positions = None


def best_of_each(model: GPT, cache: list[DeviceCache], tokens: Tensor) -> Tensor:
    """The best token (B) after one of each text; tokens (2, B), as in `next_to_each`, become these, in place."""
    best = F.argmax(next_to_each(model, cache, tokens))
    tokens.data[0] = best.data
    tokens.data[1] += 1
    return best
