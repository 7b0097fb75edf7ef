"""`gpt generate`: generate text from a trained model."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import Positional, UseAppendAction, arg

from tensorlite import backend
from tensorlite.devices import machine

from ..config import LARGEST, check_device, check_integer
from ..console import piped_text, show
from ..fast.weights_dtype import Dtype, set_weights_dtype
from ..generation import check_sampling, stream
from ..stopping import StopText, check_stops
from ..tasks.pretrain import start_of_run
from ..tokenizer import END_OF_TEXT, StreamDecoder, Tokenizer
from ..training import checkpoint


@dataclass(frozen=True)
class Generate:
    """Generate text from a trained model.

    `echo "To be" | gpt generate RUN` continues the text that is piped in, without the line end after it.
    """

    usual: ClassVar = "--prompt"

    run: Annotated[Positional[Path], arg(metavar="RUN")]  # directory of the run
    # the text to continue; may be given several times; -: all of standard input, without its last line end; default:
    # what is piped in, else the start of a text of the run, such as a new line
    prompt: UseAppendAction[tuple[str, ...]] = ()
    samples: Annotated[int, arg(aliases=["-n"])] = 1  # texts for each prompt; text i is drawn with seed + i
    special_tokens: bool = False  # read <|endoftext|> and the like in a prompt as special tokens, not as text
    max_new_tokens: int = 200  # tokens to generate
    temperature: float = 0.8  # 0: greedy; 1: the model's distribution; higher: more random
    top_k: int | None = None  # sample only from the k most probable tokens
    top_p: float | None = None  # sample only from the most probable tokens whose probabilities add up to this
    seed: int = 1337  # the same seed gives the same text
    # end a text before this string; may be given several times; <|endoftext|> ends a text in any case
    stop: UseAppendAction[tuple[str, ...]] = ()
    step: str | None = None  # the model after this step, or best: with the lowest validation loss; default: the newest
    cache: bool = True  # whether to use a key-value cache; without it the text is the same, and generation slower
    device: str = "auto"  # cpu, cuda or cuda:1 (the second GPU); auto: a GPU if one is usable
    # of the weights: bfloat16 halves the bytes to read for each token, int8, on a CPU, quarters them
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        check_device(self.device)
        check_integer("samples", self.samples, low=1)
        check_integer("max_new_tokens", self.max_new_tokens, low=0)
        check_sampling(LARGEST, self.temperature, self.top_k, self.top_p)  # that of the run is checked when it is read
        check_stops(self.stop)
        if self.prompt.count("-") > 1:
            raise ValueError("prompt - reads standard input, which can be read once: give it once")

    def __call__(self) -> int:
        machine.set_threads(machine.default_threads())
        device = backend.use_device(self.device)
        folder = checkpoint.folder_at(self.run, self.step)
        given = self.prompts()
        model, tokenizer = checkpoint.load_model(self.run, device, folder)
        set_weights_dtype(model, self.dtype)
        if given:
            prompts = [self.encode(tokenizer, prompt) for prompt in given]
        else:
            prompts = [start_of_run(checkpoint.read_config(folder / "config.json"), tokenizer)]
        for prompt, ids in zip(given, prompts, strict=False):
            if not ids:
                raise ValueError(f"the prompt {prompt!r} has no tokens: give some text")
        prompts = [ids for ids in prompts for _ in range(self.samples)]
        ended: set[int] = set()
        steps = stream(
            model, prompts, self.max_new_tokens, temperature=self.temperature, top_k=self.top_k, top_p=self.top_p,
            seed=self.seed, stop_token=tokenizer.special_tokens.get(END_OF_TEXT), ended=ended, use_cache=self.cache,
        )  # fmt: skip
        if not given:
            say_start(prompts[0], tokenizer)
        alone = len(prompts) == 1  # then it is printed as it is generated
        texts = [Text(tokenizer, self.stop, live=alone) for _ in prompts]
        for text, ids in zip(texts, prompts, strict=True):
            text.begin([] if not given and is_end(ids, tokenizer) else ids)
        for step in steps:
            for i, token in enumerate(step):
                if token is not None and texts[i].add(token):
                    ended.add(i)
        for text in texts:
            whole = text.end()
            show("\n" if alone else f"{whole}\n-----\n")
        return 0

    def prompts(self) -> list[str]:
        """The prompts as text: those of --prompt, or what is piped in."""
        if not self.prompt:
            piped = piped_text()
            return [piped] if piped else []
        return [piped_text(wait=True) or "" if prompt == "-" else prompt for prompt in self.prompt]

    def encode(self, tokenizer: Tokenizer, prompt: str) -> list[int]:
        """The token ids of a prompt."""
        return tokenizer.encode(prompt, "all") if self.special_tokens else tokenizer.encode_ordinary(prompt)


class Text:
    """A text while it is generated; with `live` it is printed as far as no stop string can begin in it."""

    def __init__(self, tokenizer: Tokenizer, stops: tuple[str, ...], live: bool):
        self.decoder, self.stop, self.live = StreamDecoder(tokenizer), StopText(stops), live
        self.pieces: list[str] = []

    def begin(self, prompt: list[int]) -> None:
        """The prompt comes first; stop strings do not apply to it."""
        self._show("".join(self.decoder.feed(id) for id in prompt))

    def add(self, token: int) -> bool:
        """The next token. True where a stop string has ended the text."""
        self._show(self.stop.feed(self.decoder.feed(token)))
        return self.stop.ended

    def end(self) -> str:
        """The whole text, once all its tokens are there."""
        self._show(self.stop.feed(self.decoder.flush()) + self.stop.rest())
        return "".join(self.pieces)

    def _show(self, piece: str) -> None:
        self.pieces.append(piece)
        show(piece if self.live else "")


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
