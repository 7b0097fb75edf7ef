"""`gpt judge`: how good the answers to instructions are."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from json import dumps
from pathlib import Path
from typing import Any, Literal, TypeVar

from rich.console import Console
from rich.progress import track
from rich.table import Table
from tyro.conf import Positional

from tensorlite import backend, machine
from tensorlite.files import replacing

from .. import checkpoint
from ..config import check_device, check_integer, check_number
from ..instruct import answers, read_entries
from ..judge import Api, check_address, judge, summary
from ..model import GPT
from ..progress import result_table
from ..tokenizer import END_OF_TEXT, Tokenizer

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Judge a model's answers to instructions, by counting, by its own likelihood, or by a larger model (Ollama)."""

    run: Positional[Path | None] = None  # directory of the run: for the likelihood, and to answer what has no answer
    data: Path  # JSON or JSON lines: entries with instruction, input, output and, where answered, model_response
    api: str | None = None  # let a model score from 0 to 100: http://localhost:11434 for Ollama on this machine
    model: str = "llama3"  # which one of those that the API has
    timeout: float = 60.0  # seconds that it may take for one answer
    style: Literal["alpaca", "phi3"] | None = None  # of the prompt; default: as the run was taught, or alpaca
    max_new_tokens: int = 256  # longest answer, where one is missing
    limit: int | None = None  # judge only so many entries, the first
    out: Path | None = None  # write the entries here, with all that was found (JSON)
    json: bool = False  # print the summary as JSON
    device: str = "auto"  # cpu, cuda or cuda:1, the second GPU; auto: the GPU if one answers

    def __post_init__(self) -> None:
        check_device(self.device)
        check_integer("max_new_tokens", self.max_new_tokens, low=1)
        check_number("timeout", self.timeout, low=0.001)
        if self.limit is not None:
            check_integer("limit", self.limit, low=1)
        if self.api is not None:
            check_address(self.api)

    def __call__(self) -> int:
        machine.set_threads(machine.default_threads())
        entries = read_entries(self.data, also=("model_response",))[: self.limit]
        missing = [entry for entry in entries if "model_response" not in entry]
        if missing and self.run is None:
            raise ValueError(
                f"{len(missing):,} of {len(entries):,} entries of {self.data} have no model_response: name the run "
                "that shall answer them"
            )
        model, tokenizer = None, None
        if self.run is not None:
            model, tokenizer = checkpoint.load_model(self.run, backend.use_device(self.device))
        style = self.style or taught(self.run)
        if missing and model is not None and tokenizer is not None:
            self.answer(missing, model, tokenizer, style)
            self.save(entries)  # a judge that fails later does not cost them
        api = None if self.api is None else Api(self.api, self.model, self.timeout)
        rows = list(shown("judging", judge(entries, model, tokenizer, style, api), len(entries)))
        self.save(rows)
        found = summary(rows)
        if self.json:
            print(dumps(found))
        else:
            Console().print(self.table(found, rows))
        return 1 if found.get("scored") == 0 else 0

    def save(self, rows: Sequence[Mapping[str, Any]]) -> None:
        if self.out is not None:
            with replacing(self.out) as file:
                file.write((dumps(rows, indent=4, ensure_ascii=False) + "\n").encode())

    def answer(self, entries: list[dict[str, str]], model: GPT, tokenizer: Tokenizer, style: str) -> None:
        """Put the run's own answers where there are none."""
        if END_OF_TEXT not in tokenizer.special_tokens:
            raise ValueError(
                f"{self.run} has no end of text and so cannot answer: gpt finetune instruct {self.run} --data FILE "
                "teaches it"
            )
        new = answers(model, tokenizer, entries, style, self.max_new_tokens)
        for entry, text in zip(entries, shown("answering", new, len(entries)), strict=True):
            entry["model_response"] = text

    def table(self, found: dict[str, Any], rows: list[dict[str, Any]]) -> Table:
        """The numbers, and of how many entries each is."""
        n = found["entries"]
        lines = {
            "exact match": f"{found['exact_match']:.1%}, {found['exact_matches']:,} of {n:,}",
            "F1 of words": f"{found['f1']:.3f}, mean of {n:,}",
        }
        if (mean := found.get("log_likelihood")) is not None:
            share, of = f"{math.exp(mean):.1%}", f"mean of {found['judged_by_likelihood']:,}"
            lines["likelihood of the expected"] = f"{share} a token ({mean:.3f} nats), {of}"
        if n != found.get("judged_by_likelihood", n):
            lines["too long for the context"] = f"{n - found['judged_by_likelihood']:,}"
        if "scored" in found:
            mean = f"{found['score']:.2f} of 100, mean of {found['scored']:,}" if found["scored"] else "none"
            lines[f"score by {self.model}"] = mean
            for name in ("empty_responses", "no_number", "no_answer", "not_asked"):
                if found[name]:
                    lines[COUNTS[name]] = f"{found[name]:,}{first(name, rows)}"
        return result_table(f"{self.data.name}, {n:,} entries", lines)


COUNTS = {
    "empty_responses": "  empty responses, scored 0",
    "no_number": "  without a score: no number",
    "no_answer": "  without a score: no answer",
    "not_asked": "  without a score: not asked",
}


def first(name: str, rows: list[dict[str, Any]]) -> str:
    """The first reply of its kind, where it says something."""
    says = {"no_number": "not a number from 0 to 100: ", "no_answer": "no answer: "}.get(name)
    replies = (row["judge"].removeprefix(says) for row in rows if says and row["judge"].startswith(says))
    return next((f", such as {reply.strip()!r:.60}" for reply in replies), "")


def taught(run: Path | None) -> str:
    """The style of prompt that a run was taught in."""
    if run is None:
        return "alpaca"
    return checkpoint.read_config(checkpoint.files_of(run) / "config.json").get("style", "alpaca")


def shown(what: str, items: Iterable[Item], total: int) -> Iterable[Item]:
    """The items, with a bar on a terminal."""
    console = Console(stderr=True)
    return track(items, what, total=total, console=console, transient=True, disable=not console.is_terminal)
