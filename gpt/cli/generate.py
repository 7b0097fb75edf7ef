"""`gpt generate`: generate text from a trained model."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional, UseAppendAction

import tensorlite as tl
from tensorlite import backend
from tensorlite.devices import machine

from ..config import check_device
from ..console import show
from ..generate import stream
from ..tasks.pretrain import start_of_run
from ..tokenizer import END_OF_TEXT, StreamDecoder, Tokenizer
from ..training import checkpoint


@dataclass(frozen=True)
class Generate:
    """Generate text from a trained model."""

    run: Positional[Path]  # directory of the run
    # the text to continue; may be given several times; default: the start of a text of the run, such as a new line
    prompt: UseAppendAction[tuple[str, ...]] = ()
    special_tokens: bool = False  # read <|endoftext|> and the like in a prompt as special tokens, not as text
    max_new_tokens: int = 200  # tokens to generate
    temperature: float = 0.8  # 0: greedy; 1: the model's distribution; higher: more random
    top_k: int | None = None  # sample only from the k most probable tokens
    top_p: float | None = None  # sample only from the most probable tokens whose probabilities add up to this
    seed: int = 1337  # the same seed gives the same text
    stop: str | None = None  # end before this token; default: <|endoftext|>, if the tokenizer has it
    cache: bool = True  # use a key-value cache; without it the text is the same, and generation slower
    device: str = "auto"  # cpu, cuda or cuda:1 (the second GPU); auto: a GPU if one is usable
    # of the weights; bfloat16, on a GPU, halves the bytes to read for each token
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        check_device(self.device)

    def __call__(self) -> int:
        machine.set_threads(machine.default_threads())
        device = backend.use_device(self.device)
        if self.dtype == "bfloat16" and device == "cpu":
            raise ValueError("--dtype bfloat16 is for a GPU, and this would run on the CPU: omit it")
        model, tokenizer = checkpoint.load_model(self.run, device)
        if self.dtype == "bfloat16":
            model.to(tl.bfloat16)
        prompts = [self.encode(tokenizer, prompt) for prompt in self.prompt] or [self.start(tokenizer)]
        for given, ids in zip(self.prompt, prompts, strict=False):
            if not ids:
                raise ValueError(f"the prompt {given!r} has no tokens: give some text")
        steps = stream(
            model, prompts, self.max_new_tokens, temperature=self.temperature, top_k=self.top_k,
            top_p=self.top_p, seed=self.seed, stop_token=stop_token(self.stop, tokenizer), use_cache=self.cache,
        )  # fmt: skip
        if not self.prompt:
            say_start(prompts[0], tokenizer)
        readers = [StreamDecoder(tokenizer) for _ in prompts]
        begin = [[] if not self.prompt and is_end(ids, tokenizer) else ids for ids in prompts]  # the part to print
        texts = [[reader.feed(id) for id in ids] for reader, ids in zip(readers, begin, strict=True)]
        alone = len(prompts) == 1  # then it is printed as it is generated
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

    def encode(self, tokenizer: Tokenizer, prompt: str) -> list[int]:
        """The token ids of a prompt."""
        return tokenizer.encode(prompt, "all") if self.special_tokens else tokenizer.encode_ordinary(prompt)

    def start(self, tokenizer: Tokenizer) -> list[int]:
        """The token ids to start from without a prompt."""
        return start_of_run(checkpoint.read_config(checkpoint.files_of(self.run) / "config.json"), tokenizer)


def say_start(ids: list[int], tokenizer: Tokenizer) -> None:
    """Report on standard error what a text without a prompt starts from."""
    if is_end(ids, tokenizer):
        about = f"after {END_OF_TEXT}"
    else:
        first = tokenizer.decode(ids)
        about = "after a new line" if first == "\n" else f"with {first!r}"
    print(f"no prompt is given: the text begins {about}", file=sys.stderr)


def is_end(ids: list[int], tokenizer: Tokenizer) -> bool:
    """Whether the ids are just the end of a text."""
    return ids == [tokenizer.special_tokens.get(END_OF_TEXT)]


def stop_token(text: str | None, tokenizer: Tokenizer) -> int | None:
    """The id of the single token `text`; without it the end of text, or None where the tokenizer has none."""
    if text is None:
        return tokenizer.special_tokens.get(END_OF_TEXT)
    ids = tokenizer.encode(text, set(tokenizer.special_tokens))
    if len(ids) != 1:
        raise ValueError(f"stop must be a single token, and {text!r} is {len(ids)} of this tokenizer's")
    return ids[0]
