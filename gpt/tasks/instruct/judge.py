"""Scores for the responses of a model to instructions.

Three scores need no server: exact match with the expected output, F1 of the words, and the likelihood that the model
itself gives to the expected output. The fourth is given by a larger model through the chat API of Ollama, as in chapter
7 of Raschka, "Build a Large Language Model (From Scratch)", with its prompt and its options. An answer of that model
that is not just a number is not a score; entries without a score are counted, with the reason.

An entry is {instruction, input, output, model_response}.
"""

import http.client
import itertools
import json
import re
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import tensorlite as tl
from tensorlite import functional as F

from ... import http_deadline, jsonfile
from ...console import printable
from ...model import GPT
from ...tokenizer import END_OF_TEXT, Tokenizer
from ..length_batches import length_batches
from .batches import encode
from .data import Entry, format_alpaca

TOGETHER = 64  # entries whose likelihoods are computed before their rows are returned
BATCH_TOKENS = 2048  # of a batch of them, with padding
ATTEMPTS = 3  # at one question
WAIT = 1.0  # seconds before the second attempt, twice as many before the third
LONGEST = 1 << 20  # bytes of an answer: a score has a few, other text about 150 bytes per token
PATIENCE = 3  # questions in a row without an answer, after which no further one is asked
NO_SCORE = "not an integer from 0 to 100"
OPTIONS = {"seed": 123, "temperature": 0, "num_ctx": 2048}  # the book's: the same question gets the same score


# ----- exact match and F1 -----------------------------------------------------------------------------------------


def exact_match(expected: str, response: str) -> bool:
    """Whether both are the same, apart from white space around them."""
    return expected.strip() == response.strip()


def f1(expected: str, response: str) -> float:
    """Harmonic mean of precision and recall of the response's words, from 0 to 1; 1 where neither text has any.

    As in SQuAD (Rajpurkar et al., 2016, section 6.1): case, punctuation and articles are ignored; a word counts as
    often as it occurs in both.
    """
    ours, theirs = words(response), words(expected)
    if not ours or not theirs:
        return float(ours == theirs)
    shared = (Counter(ours) & Counter(theirs)).total()
    return 2 * shared / (len(ours) + len(theirs))


def words(text: str) -> list[str]:
    """The words in lower case, without ASCII punctuation and the articles a, an, the."""
    bare = re.sub(r"[!-/:-@\[-`{-~]", "", text.lower())
    return [word for word in bare.split() if word not in ("a", "an", "the")]


# ----- likelihood -------------------------------------------------------------------------------------------------


def log_likelihood(model: GPT, tokenizer: Tokenizer, entry: Entry, style: str = "alpaca") -> float | None:
    """Mean log-probability of the tokens of the expected output and of the end of text, given the prompt.

    Its exp is the geometric mean of their probabilities. None where the entry is longer than the model's context.
    """
    return log_likelihoods(model, tokenizer, [entry], style)[0]


def log_likelihoods(
    model: GPT, tokenizer: Tokenizer, entries: Sequence[Entry], style: str = "alpaca"
) -> list[float | None]:
    """`log_likelihood` of each entry, computed in batches of similar length."""
    end = [id for name, id in tokenizer.special_tokens.items() if name == END_OF_TEXT]
    texts = [encode(entry, tokenizer, style) for entry in entries]
    lengths = [len(text.ids) + len(end) - 1 for text in texts]  # of what the model reads: all but the last token
    found: list[float | None] = [None] * len(texts)
    fitting = [i for i, length in enumerate(lengths) if length <= model.config.context_length]
    device = model.device
    with tl.no_grad():
        for batch in length_batches([lengths[i] for i in fitting], BATCH_TOKENS):
            numbers = [fitting[i] for i in batch]
            width = lengths[numbers[0]]
            rows = [[*texts[i].ids, *end][:-1] for i in numbers]
            hidden = model.hidden_states(tl.tensor([row + [0] * (width - len(row)) for row in rows], device=device))
            for row, i in enumerate(numbers):
                prompt, targets = texts[i].prompt_length, [*texts[i].ids, *end][texts[i].prompt_length :]
                logits = model.logits(hidden[row, prompt - 1 : lengths[i]])  # (B, T, C) -> (N, C) -> (N, V)
                found[i] = -F.cross_entropy(logits, tl.tensor(targets, device=device)).item()
    return found


# ----- scores by another model ------------------------------------------------------------------------------------


class NoAnswer(Exception):
    """An attempt at a question failed; another one may succeed."""


class CutAnswer(Exception):
    """The server ended an answer at its limit of tokens; the argument is its text."""


@dataclass
class Api:
    """A model with Ollama's chat API, and the timeout for its answers."""

    url: str  # http://localhost:11434
    model: str = "llama3"
    timeout: float = 60.0  # seconds for one question, with all attempts at it
    unanswered: int = 0  # questions in a row without an answer

    def __post_init__(self) -> None:
        check_address(self.url)
        self.url = self.url.rstrip("/").removesuffix("/api/chat") + "/api/chat"

    def score(self, entry: Entry) -> tuple[int | None, str]:
        """(score from 0 to 100, answer), or (None, why there is no score). An empty response scores 0."""
        if not entry["model_response"].strip():
            return 0, "empty response"
        if self.unanswered == PATIENCE:
            return None, "not asked"
        try:
            answer = self.ask(question(entry))
        except NoAnswer as error:
            self.unanswered += 1
            return None, f"no answer: {error}"
        except CutAnswer as error:
            self.unanswered = 0
            return None, f"{NO_SCORE}, since the answer was cut at the server's limit of tokens: {error}"
        self.unanswered = 0
        number = int(answer) if re.fullmatch(r"\s*[0-9]{1,3}\s*", answer) else None
        return (number, answer) if number is not None and number <= 100 else (None, f"{NO_SCORE}: {answer}")

    def ask(self, prompt: str) -> str:
        """The model's answer, in up to ATTEMPTS attempts; NoAnswer, or a ValueError where the question is refused."""
        end = time.monotonic() + self.timeout
        for attempt in range(ATTEMPTS):
            try:
                return self.exchange(prompt, end - time.monotonic())
            except NoAnswer:
                pause = WAIT * 2**attempt
                if attempt == ATTEMPTS - 1 or time.monotonic() + pause >= end:
                    raise
                time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    def exchange(self, prompt: str, seconds: float) -> str:
        """One attempt, within that many seconds; NoAnswer or ValueError as in `ask`."""
        body = {"model": self.model, "messages": [{"role": "user", "content": prompt}], "options": OPTIONS}
        request = urllib.request.Request(
            self.url, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
        )
        try:
            return http_deadline.ask(request, seconds, LONGEST, read_answer)
        except urllib.error.HTTPError as error:
            raise self.refusal(error) from error
        except (TimeoutError, urllib.error.URLError) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                raise NoAnswer(f"none within {self.timeout:g} s") from error
            raise NoAnswer(printable(str(getattr(reason, "strerror", None) or reason), 300)) from error
        except (OSError, http.client.HTTPException) as error:
            raise NoAnswer("the connection broke") from error
        except ValueError as error:
            raise NoAnswer(str(error)) from error

    def refusal(self, error: urllib.error.HTTPError) -> Exception:
        """The exception for an HTTP error: NoAnswer where another attempt may help, else a ValueError."""
        if 300 <= error.code < 400:
            to = printable(str(error.headers.get("Location")), 200)
            return ValueError(f"{self.url} redirects to {to}: if you trust that address, give it to --api")
        if error.code >= 500 or error.code == 429:
            detail = _detail(error)
            return NoAnswer(printable(f"{error.code} {error.reason}{f': {detail}' if detail else ''}", 300))
        return ValueError(f"{self.url} refuses ({error.code}): {printable(_detail(error) or str(error.reason), 300)}")


def read_answer(lines: Iterable[bytes]) -> str:
    """The text of a chat answer: a JSON object, or several, one on each line.

    NoAnswer for anything else, CutAnswer where the server says that it ended the answer at its limit of tokens.
    """
    parts = []
    for line in filter(bytes.strip, lines):
        try:
            part = jsonfile.parse(line)
            if isinstance(part, dict) and isinstance(part.get("error"), str):
                raise NoAnswer(printable(f"the server says: {part['error']}", 300))
            parts.append(part["message"]["content"])
            if not isinstance(parts[-1], str):
                raise TypeError("content is a string")
            if part.get("done", True):
                # Surrogate pairs are joined, lone surrogates replaced: files cannot hold them.
                whole = "".join(parts).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
                if part.get("done_reason") == "length":
                    raise CutAnswer(whole)
                return whole
        except (ValueError, LookupError, TypeError) as error:
            raise NoAnswer("it is not a chat answer in JSON") from error
    raise NoAnswer("it is incomplete")


def check_address(url: str) -> None:
    """ValueError for an address that is not one of an HTTP server."""
    try:
        parts = urlsplit(url)
        wrong = parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0
        wrong = wrong or not url.isprintable() or " " in url
    except ValueError:  # a port that is not a number
        wrong = True
    if wrong:
        raise ValueError(f"api must be an address such as http://localhost:11434, got {url!r}")


def question(entry: Entry) -> str:
    """The prompt for the judging model: the book's, verbatim, since the scores depend on it."""
    return (
        f"Given the input `{format_alpaca(entry)}` and correct output `{entry['output']}`, score the model response "
        f"`{entry['model_response']}` on a scale from 0 to 100, where 100 is the best score. Respond with the integer "
        "number only."
    )


def _detail(error: urllib.error.HTTPError) -> str:
    """The text of an error's body, or its "error" where it is JSON, as Ollama's are."""
    text = error.body.decode("utf-8", "replace")
    try:
        return str(jsonfile.parse(text)["error"])
    except (ValueError, LookupError, TypeError):
        return " ".join(text.split())


# ----- all scores -------------------------------------------------------------------------------------------------


def judge(
    entries: Iterable[Entry], model: GPT | None = None, tokenizer: Tokenizer | None = None, style: str = "alpaca",
    api: Api | None = None,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Each entry with "exact_match" and "f1"; with a model "log_likelihood"; with an api "score" and "judge".

    A missing number is None; "judge" is the answer of the api's model, or the reason for a missing score.
    """
    waiting = iter(entries)
    while some := list(itertools.islice(waiting, TOGETHER)):
        rows = [{**e, "exact_match": exact_match(e["output"], e["model_response"]),
                 "f1": f1(e["output"], e["model_response"])} for e in some]  # fmt: skip
        if model is not None and tokenizer is not None:
            for row, value in zip(rows, log_likelihoods(model, tokenizer, some, style), strict=True):
                row["log_likelihood"] = value
        for entry, row in zip(some, rows, strict=True):
            if api is not None:
                row["score"], row["judge"] = api.score(entry)
            yield row


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over the entries that have a number, and how many these are; ready for JSON. An empty mean is None."""
    found: dict[str, Any] = {
        "entries": len(rows),
        "exact_matches": sum(row["exact_match"] for row in rows),
        "exact_match": _mean([row["exact_match"] for row in rows]),
        "f1": _mean([row["f1"] for row in rows]),
    }
    for name, count in (("log_likelihood", "judged_by_likelihood"), ("score", "scored")):
        if any(name in row for row in rows):
            numbers = [row[name] for row in rows if row[name] is not None]
            found |= {name: _mean(numbers), count: len(numbers)}
    if "scored" in found:
        for name, says in (
            ("empty_responses", "empty response"), ("no_number", NO_SCORE), ("no_answer", "no answer"),
            ("not_asked", "not asked"),
        ):  # fmt: skip
            found[name] = sum(row["judge"].startswith(says) and row["score"] in (None, 0) for row in rows)
    return found


def _mean(numbers: Sequence[float]) -> float | None:
    return sum(numbers) / len(numbers) if numbers else None
