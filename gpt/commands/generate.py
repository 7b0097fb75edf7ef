"""`gpt generate`: a trained model writes."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional, UseAppendAction

import tensorlite as tl
from tensorlite import backend, machine

from .. import checkpoint
from ..config import check_device
from ..generate import stream
from ..pretraining import new_line
from ..tokenizer import END_OF_TEXT, StreamDecoder, Tokenizer


@dataclass(frozen=True)
class Generate:
    """Let a trained model write."""

    run: Positional[Path]  # directory of the run
    prompt: UseAppendAction[tuple[str, ...]] = ()  # what to continue; may be given several times; default: a new line
    max_new_tokens: int = 200  # tokens to add
    temperature: float = 0.8  # 0: always the most probable token; 1: as the model says; above: bolder
    top_k: int | None = None  # draw only from the k most probable tokens
    top_p: float | None = None  # draw only from the most probable tokens that have this much probability together
    seed: int = 1337  # the same seed, the same text
    stop: str | None = None  # end before this token; default: <|endoftext|>, where the tokenizer has it
    cache: bool = True  # keep keys and values: the same text, faster
    device: str = "auto"  # cpu, cuda or cuda:1, the second GPU; auto: the GPU if one answers
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the weights, on a GPU: half the bytes to read for a token

    def __post_init__(self) -> None:
        check_device(self.device)

    def __call__(self) -> int:
        machine.set_threads(machine.default_threads())
        device = backend.use_device(self.device)
        if self.dtype == "bfloat16" and device == "cpu":
            raise ValueError("--dtype bfloat16 is for a GPU, and this would run on the CPU: leave it away")
        model, tokenizer = checkpoint.load_model(self.run, device)
        if self.dtype == "bfloat16":
            model.to(tl.bfloat16)
        prompts = [tokenizer.encode(prompt) for prompt in self.prompt] or [new_line(tokenizer)]
        for given, ids in zip(self.prompt, prompts, strict=False):
            if not ids:
                raise ValueError(f"the prompt {given!r} has no token in it: give some text")
        steps = stream(
            model, prompts, self.max_new_tokens, temperature=self.temperature, top_k=self.top_k,
            top_p=self.top_p, seed=self.seed, stop_token=stop_token(self.stop, tokenizer), use_cache=self.cache,
        )  # fmt: skip
        readers = [StreamDecoder(tokenizer) for _ in prompts]
        texts = [[reader.feed(id) for id in ids] for reader, ids in zip(readers, prompts, strict=True)]
        alone = len(prompts) == 1  # then it is shown as it is written
        show("".join(texts[0]) if alone else "")
        for step in steps:
            for text, reader, token in zip(texts, readers, step, strict=True):
                if token is not None:
                    text.append(reader.feed(token))
                    show(text[-1] if alone else "")
        for text, reader in zip(texts, readers, strict=True):
            text.append(reader.flush())
            show(text[-1] + "\n" if alone else "".join(text) + "\n-----\n")
        return 0


def show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def stop_token(text: str | None, tokenizer: Tokenizer) -> int | None:
    """The one token that `text` is; without it, the end of a text, where the tokenizer has that."""
    if text is None:
        return tokenizer.special_tokens.get(END_OF_TEXT)
    ids = tokenizer.encode(text, set(tokenizer.special_tokens))
    if len(ids) != 1:
        raise ValueError(f"stop must be a single token, and {text!r} is {len(ids)} of this tokenizer's")
    return ids[0]
