"""A conversation: what was said so far, as far as it fits, and the next question.

One idea: the model sees what it saw in training, entries one behind another, each closed by the end of text. The
context is never overrun: the oldest turns are forgotten first, and an answer ends where the context does.
"""

from collections.abc import Iterator
from typing import Any

from ...generate import stream
from ...model import GPT
from ...tokenizer import StreamDecoder, Tokenizer
from .data import Entry, Style


class Conversation:
    """Questions and answers in `style`. At most `history` earlier turns are shown to the model; None: all that fit.

    `max_new_tokens` bounds an answer; `sampling` is temperature, top_k, top_p and seed of `generate.stream`.
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
        **sampling: Any,
    ):
        self.model, self.tokenizer, self.style, self.stop_token = model, tokenizer, style, stop_token
        self.history, self.max_new_tokens, self.sampling = history, max_new_tokens, sampling
        self.reset()

    def reset(self) -> None:
        """Forget what was said."""
        self.turns: list[list[int]] = []  # each the ids of a question and its answer, with the stop token
        self.asked = 0  # questions so far, also forgotten ones
        self.forgotten = 0  # turns that the last question had no room for
        self.cut = False  # whether the last answer ended because the context did

    def ask(self, entry: Entry) -> Iterator[str]:
        """The answer to an entry's instruction, piece by piece; what was said by then counts, also if nobody goes on.

        ValueError where the question alone does not fit the context, or has text that the tokenizer does not know.
        """
        question = self.tokenizer.encode_ordinary(self.style.prompt(entry))
        context = self.model.config.context_length
        if len(question) >= context:
            raise ValueError(
                f"the question takes {len(question)} tokens and the context has {context}: ask with fewer words"
            )
        past = self.remembered(context - len(question) - min(self.max_new_tokens, context // 4))
        prompt = [*past, *question]
        room = min(self.max_new_tokens, context - len(prompt))
        sampling = dict(self.sampling)
        if sampling.get("seed") is not None:
            sampling["seed"] += self.asked  # to ask again is to draw again
        self.asked += 1
        steps = stream(self.model, [prompt], room, stop_token=self.stop_token, **sampling)
        return self._said(question, steps, room)

    def _said(self, question: list[int], steps: Iterator[list[int | None]], room: int) -> Iterator[str]:
        reader, answer = StreamDecoder(self.tokenizer), []
        try:
            for (token,) in steps:
                if token is not None:
                    answer.append(token)
                    yield reader.feed(token)
            yield reader.flush()
        finally:
            self.cut = len(answer) == room < self.max_new_tokens
            self.turns.append([*question, *answer, self.stop_token])

    def remembered(self, room: int) -> list[int]:
        """The newest turns that fit into `room` tokens, oldest first; all before them are forgotten for good."""
        kept = 0
        wanted = self.turns[-self.history :] if self.history else ([] if self.history == 0 else self.turns)
        for turn in reversed(wanted):
            if len(turn) > room:
                break
            room -= len(turn)
            kept += 1
        self.forgotten = len(wanted) - kept
        self.turns = self.turns[len(self.turns) - kept :]
        return [id for turn in self.turns for id in turn]
