"""Writes text for several prompts at once, token by token as generation.stream, with what clients of OpenAI expect.

That is: stop strings, log-probabilities, penalties and biases of tokens. Each choice gets the tokens that
`gpt.generation.generate` gives for the same prompt and options, up to its stop string.
"""

import math
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import tensorlite as tl
from tensorlite import Generator, Tensor
from tensorlite import functional as F

from ... import generation
from ...look import LoadedModel
from ...model import inference_mode
from ...stopping import StopText
from ...tokenizer import END_OF_TEXT, StreamDecoder, Tokenizer
from .errors import OpenAIError, about
from .options import Options

LOWEST = -9999.0  # a log-probability of minus infinity, which JSON does not have
POSITIONS = 64  # of a prompt whose scores are in memory at once


@dataclass
class Token:
    """A token of an answer."""

    id: int
    offset: int = 0  # where its text begins in the text of the choice, in characters
    logprob: float | None = None  # None: not requested, or the first token of a text
    top: Sequence[tuple[int, float]] = ()  # the most probable tokens here, and their log-probabilities


class Piece(NamedTuple):
    """What is new of a choice after a step. The text may be empty."""

    choice: int  # its number
    text: str
    tokens: list[Token]  # those whose text begins in the text sent so far
    finish: str | None  # "stop", "length", or None while the text continues
    written: int = 0  # tokens that the model wrote in this step


def joined(piece: Piece, next: Piece) -> Piece:
    """Two consecutive pieces of a choice as one."""
    text, tokens, written = piece.text + next.text, piece.tokens + next.tokens, piece.written + next.written
    return Piece(piece.choice, text, tokens, next.finish, written)


class Answer:
    """The text of one choice as it is written. It holds text back that may become part of a stop string."""

    def __init__(self, number: int, tokenizer: Tokenizer, stops: Sequence[str] = ()):
        self.number = number
        self._decoder, self._text = StreamDecoder(tokenizer), StopText(stops)
        self._tokens: list[Token] = []  # not sent yet
        self._sent = 0  # characters

    def echo(self, tokens: Sequence[Token]) -> Piece:
        """The tokens of the prompt, with which the text begins; stop strings do not apply to them."""
        shown = ""
        for token in tokens:
            token.offset = self._sent + len(shown)
            shown += self._decoder.feed(token.id)
        self._tokens += tokens
        return self._send(shown)

    def feed(self, token: Token) -> Piece:
        """The next token of the model."""
        token.offset = self._sent + len(self._text.held)
        self._tokens.append(token)
        return self._send(self._text.feed(self._decoder.feed(token.id)))

    def end(self, reason: str) -> Piece:
        """The rest of the text: nothing follows that could complete a stop string."""
        piece = self._send(self._text.feed(self._decoder.flush()))
        return joined(piece, self._send(self._text.rest(), reason))

    def _send(self, text: str, finish: str | None = None) -> Piece:
        """The piece with `text`, which ends the answer where a stop string was found."""
        self._sent += len(text)
        ready = [token for token in self._tokens if token.offset < self._sent]
        self._tokens = self._tokens[len(ready) :]
        return Piece(self.number, text, ready, "stop" if self._text.ended else finish)


def write(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    room: int,
    options: Options,
    echo: Sequence[Sequence[Token]] = (),
) -> Iterator[Piece]:
    """Up to `room` new tokens for each prompt: after each step a Piece for each choice that has not ended.

    Choice i continues prompts[i] and draws from its own generator, seeded options.seed + i, or at random. Its text
    begins with the tokens echo[i], where `echo` is given. OpenAIError for an option that does not fit the vocabulary.
    """
    end = loaded.tokenizer.special_tokens.get(END_OF_TEXT)
    texts = generation.check_prompts(loaded.model.config.vocab_size, prompts, end)
    scores = Scores(loaded, texts, room, options)
    answers = [Answer(i, loaded.tokenizer, options.stop) for i in range(len(texts))]
    for answer, shown in zip(answers, echo, strict=False):
        yield answer.echo(shown)
    if room == 0:
        yield from (answer.end("length") for answer in answers)
    running = list(range(len(texts)))
    for left in range(room, 0, -1):
        going = []
        for i, token in zip(running, scores.choose(running, left), strict=True):
            if token.id == end:
                yield answers[i].end("stop")
                continue
            scores.append(i, token.id)
            piece = answers[i].feed(token)
            if piece.finish is None and left == 1:
                piece = joined(piece, answers[i].end("length"))
            if piece.finish is None:
                going.append(i)
            yield piece._replace(written=1)
        running = going
        if not running:
            break
    scores.decoder.finish()


class Scores:
    """Chooses the next tokens of several texts, and looks up their log-probabilities."""

    def __init__(self, loaded: LoadedModel, texts: list[list[int]], room: int, options: Options):
        self.texts, self.options = texts, options
        config = loaded.model.config
        with about("top_k"):
            generation.check_sampling(config.vocab_size, options.temperature, options.top_k, options.top_p)
        seed = secrets.randbelow(1 << 32) if options.seed is None else options.seed
        self.generators = [Generator(seed + i) for i in range(len(texts))]
        positions = min(max(map(len, texts)) + room, config.context_length)
        self.decoder = generation.make_decoder(loaded.model, len(texts), positions, True)
        self.shift: Tensor | None = None  # (B, V): what penalties and biases add to the scores
        if options.logit_bias or options.frequency_penalty or options.presence_penalty:
            self.shift = tl.zeros((len(texts), config.vocab_size), device=loaded.model.device)
            for id, bias in options.logit_bias:
                if id >= config.vocab_size:
                    raise OpenAIError(f"logit_bias: id {id} is not in the vocabulary of {config.vocab_size} tokens",
                                      param="logit_bias")  # fmt: skip
                self.shift.data[:, id] = bias
        self.seen: list[set[int]] = [set() for _ in texts]

    def choose(self, running: Sequence[int], left: int) -> list[Token]:
        """The next token of each of the `running` texts."""
        options, rows = self.options, list(running)
        if options.temperature == 0 and options.alternatives is None and self.shift is None:
            best = self.decoder.best(self.texts, more=left > 1)
            return [Token(best[i]) for i in rows]
        logits = self.decoder.logits(self.texts)  # (B, V)
        logits = logits if len(rows) == len(self.texts) else logits[rows]
        shifted = logits if self.shift is None else logits + self.shift[rows]
        if options.temperature == 0:
            ids: list[int] = F.argmax(shifted).tolist()
        else:
            generators = [self.generators[i] for i in rows]
            ids = generation.draw(shifted, options.temperature, options.top_k, options.top_p, generators)
        return [Token(id) for id in ids] if options.alternatives is None else tokens(logits, ids, options.alternatives)

    def append(self, i: int, id: int) -> None:
        """Token `id` follows text i; each occurrence lowers its score by frequency_penalty, the first one also by
        presence_penalty (OpenAI's formula)."""
        self.texts[i].append(id)
        if self.shift is not None:
            first = id not in self.seen[i]
            self.seen[i].add(id)
            self.shift.data[i, id] -= self.options.frequency_penalty + first * self.options.presence_penalty


def tokens(logits: Tensor, ids: Sequence[int], alternatives: int) -> list[Token]:
    """Each id with its log-probability under its row of `logits` (B, V), and the most probable ids with theirs.

    They are those of the model: temperature, top_p, penalties and biases do not change them.
    """
    logprobs = F.log_softmax(logits.astype(tl.float32))
    chosen = tl.take_along_axis(logprobs, tl.tensor(ids, device=logits.device).expand_dims(-1), -1)  # (B, 1)
    best, where = tl.topk(logprobs, min(alternatives, logits.shape[-1]))
    return [
        Token(id, 0, finite(own), [(k, finite(p)) for k, p in zip(rank, values, strict=True)])
        for id, (own,), rank, values in zip(ids, chosen.tolist(), where.tolist(), best.tolist(), strict=True)
    ]


def finite(logprob: float) -> float:
    return max(logprob, LOWEST) if not math.isnan(logprob) else logprob


def prompt_tokens(loaded: LoadedModel, ids: Sequence[int], alternatives: int | None) -> list[Token]:
    """The tokens of a prompt, each after the first with its log-probability where `alternatives` are requested."""
    if alternatives is None or not ids:
        return [Token(id) for id in ids]
    found = [Token(ids[0])]
    with inference_mode(loaded.model):
        idx = tl.tensor([list(ids)], device=loaded.model.device)
        hidden = loaded.model.hidden_states(idx)[0]  # (T, C)
        for start in range(0, len(ids) - 1, POSITIONS):
            after = ids[start + 1 : start + 1 + POSITIONS]
            found += tokens(loaded.model.logits(hidden[start : start + len(after)]), after, alternatives)
    return found
