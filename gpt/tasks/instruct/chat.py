"""A conversation: each question is asked after the earlier turns that fit the context.

The prompt has the format of training: entries in a row, each followed by the end of text. The context length is never
exceeded: the oldest turns are dropped first, and an answer ends when the context is full.
"""

from collections.abc import Generator, Iterator, Sequence
from typing import Any

from ...generation import stream
from ...model import GPT
from ...stopping import StopText, check_stops
from ...tokenizer import StreamDecoder, Tokenizer
from .data import Entry, Style


class Conversation:
    """Questions and answers in the format `style`. The model sees up to `history` earlier turns; None: all that fit.

    An answer ends before `stop_token`, or before one of the strings `stops`. `max_new_tokens` limits it; `sampling` is
    temperature, top_k, top_p and seed of `generation.stream`. ValueError for an empty stop string.
    """

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        style: Style,
        stop_token: int,
        *,
        history: int | None = None,
        max_new_tokens: int = 256,
        stops: Sequence[str] = (),
        **sampling: Any,
    ):
        self.model, self.tokenizer, self.style, self.stop_token = model, tokenizer, style, stop_token
        self.history, self.max_new_tokens, self.sampling = history, max_new_tokens, sampling
        self.stops = check_stops(stops)
        self.reset()

    def reset(self) -> None:
        """Forget all turns."""
        self.turns: list[list[int]] = []  # the ids of each question and its answer, with the stop token
        self.asked = 0  # questions so far, including those of dropped turns
        self.dropped = 0  # turns that did not fit with the last question
        self.answer: list[int] = []  # the ids of the last answer so far, without the stop token
        self.cut = False  # whether the last answer ended because the context is full

    def replay(self, entry: Entry, answer: Sequence[int]) -> None:
        """Add an earlier turn, as if `entry` had been asked here and answered with these ids."""
        self.turns.append([*self._encode(entry), *answer, self.stop_token])
        self.asked += 1

    def prompt(self, entry: Entry) -> tuple[list[int], int]:
        """The ids that the model continues to answer `entry`, and how many tokens the answer may have.

        They are the newest turns that fit, and the question; earlier turns are dropped for good. ValueError where the
        question alone does not fit the context, or the tokenizer cannot encode it.
        """
        question = self._encode(entry)
        context = self.model.config.context_length
        if len(question) >= context:
            raise ValueError(
                f"the question takes {len(question)} tokens and the context has {context}: ask with fewer words"
            )
        past = self.recent(context - len(question) - min(self.max_new_tokens, context // 4))
        return [*past, *question], min(self.max_new_tokens, context - len(past) - len(question))

    def _encode(self, entry: Entry) -> list[int]:
        return self.tokenizer.encode_ordinary(self.style.prompt(entry))

    def ask(self, entry: Entry) -> Generator[str, None, None]:
        """The answer to an entry's instruction, piece by piece. An unfinished answer is kept as it is.

        ValueError as for `prompt`.
        """
        prompt, room = self.prompt(entry)
        sampling = dict(self.sampling)
        if sampling.get("seed") is not None:
            sampling["seed"] += self.asked  # the same question again gets another sample
        self.asked += 1
        ended: set[int] = set()
        steps = stream(self.model, [prompt], room, stop_token=self.stop_token, ended=ended, **sampling)
        return self._answer(self._encode(entry), steps, room, ended)

    def _answer(
        self, question: list[int], steps: Iterator[list[int | None]], room: int, ended: set[int]
    ) -> Generator[str, None, None]:
        """The text of `steps`; when it ends, question and answer become a turn. A stop string adds 0 to `ended`."""
        decoder, stop, answer = StreamDecoder(self.tokenizer), StopText(self.stops), list[int]()
        self.answer = answer
        shown = ""
        try:
            for (token,) in steps:
                if token is not None:
                    answer.append(token)
                    shown += (piece := stop.feed(decoder.feed(token)))
                    if stop.ended:
                        ended.add(0)
                    yield piece
            yield stop.feed(decoder.flush()) + stop.rest()
        finally:
            self.cut = not stop.ended and len(answer) == room < self.max_new_tokens
            if stop.ended:  # the turn is what was shown, without the stop string
                answer[:] = self.tokenizer.encode_ordinary(shown)
            self.turns.append([*question, *answer, self.stop_token])

    def recent(self, room: int) -> list[int]:
        """The ids of the newest turns that fit into `room` tokens, oldest first; earlier turns are dropped for good."""
        kept = 0
        wanted = self.turns[-self.history :] if self.history else ([] if self.history == 0 else self.turns)
        for turn in reversed(wanted):
            if len(turn) > room:
                break
            room -= len(turn)
            kept += 1
        self.dropped = len(wanted) - kept
        self.turns = self.turns[len(self.turns) - kept :]
        return [id for turn in self.turns for id in turn]
