"""`gpt judge`: score a model's responses to instructions."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from json import dumps
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from rich.progress import track
from rich.table import Table
from tyro.conf import Positional, arg

from tensorlite import backend
from tensorlite.devices import machine

from ..config import check_choice, check_device, check_integer, check_number, listed
from ..console import Output, in_shell, printable, result_table
from ..data import records
from ..fingerprint import fingerprint
from ..jsonfile import parse
from ..model import GPT
from ..tasks.instruct import STYLES, generate_responses, read_entries
from ..tasks.instruct.data import FIELDS
from ..tasks.instruct.judge import NO_SCORE, Api, check_address, judge, summary
from ..tasks.results import Results
from ..tokenizer import END_OF_TEXT, Tokenizer
from ..training import checkpoint, run_directory

Item = TypeVar("Item")
LONGEST = 86_400  # seconds for one question
RESULTS = ("exact_match", "f1", "log_likelihood", "score", "judge")  # the fields that judging adds


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Score a model's answers to instructions: exact match, F1, its own likelihood, or by a larger model (Ollama)."""

    # directory of the run: for the likelihood, and to answer entries without an answer
    run: Annotated[Positional[Path | None], arg(metavar="RUN")] = None
    data: Path  # JSON or JSON lines: entries with instruction, input, output and, if answered, model_response
    api: str | None = None  # address of a model that scores from 0 to 100: http://localhost:11434 for a local Ollama
    model: str = "llama3"  # name of the model of the API
    timeout: float = 60.0  # seconds for one question, including retries
    style: Literal["alpaca", "phi3"] | None = None  # prompt format; default: that of the run, or alpaca
    max_new_tokens: int = 256  # longest answer, in tokens, where one is missing
    step: str | None = None  # the model after this step, or best: with the lowest validation loss; default: the newest
    limit: int | None = None  # judge only this many entries, the first ones
    response_key: str | None = None  # the field with the answers; default: model_response, or the only one like it
    out: Path | None = None  # write the entries with all results here (JSON); a stopped command continues from it
    overwrite: bool = False  # replace the file that is in `out`
    json: bool = False  # print the summary as JSON
    device: str = "auto"  # cpu, cuda or cuda:1 (the second GPU); auto: a GPU if one is usable

    def __post_init__(self) -> None:
        check_device(self.device)
        check_integer("max_new_tokens", self.max_new_tokens, low=1)
        check_number("timeout", self.timeout, low=0.001)
        if self.timeout > LONGEST:
            raise ValueError(f"timeout must be at most {LONGEST:,} seconds, a day, got {self.timeout:g}")
        if self.response_key in FIELDS:
            raise ValueError(
                f"response_key must name the field with a model's answers, and {self.response_key!r} is a part of the "
                "question"
            )
        if self.limit is not None:
            check_integer("limit", self.limit, low=1)
        if self.api is not None:
            check_address(self.api)

    def __call__(self) -> int:
        machine.set_threads(machine.default_threads())
        entries = self.entries()
        missing = sum("model_response" not in entry for entry in entries)
        if missing and self.run is None:
            raise ValueError(
                f"{missing:,} of {len(entries):,} entries of {self.data} have no model_response: name a run to "
                "answer them, or with --response-key the field that has the answers"
            )
        with Results(self.out, entries, self.about(), self.overwrite) as results:  # raises now if it cannot be written
            try:
                self.fill(results)
            except BaseException:
                self.stopped(results)
                raise
            found = summary(results.rows)
            if found.get("not_asked"):
                self.stopped(results)
            else:
                results.finish()
        self.show(found, results.rows)
        return 1 if found.get("scored") == 0 else 0

    def entries(self) -> list[dict[str, str]]:
        """The entries to judge, each with its answer, if it has one, as "model_response"."""
        if self.out is not None and self.out.exists() and self.out.samefile(self.data):
            raise ValueError(f"{self.out} is the file to judge: name another file for --out")
        for name in [] if self.out is None else [self.out, self.out.parent / f"{self.out.name}.partial"]:
            if (run := run_directory.owner(name)) is not None:
                raise FileExistsError(f"{name} is a file of the run {run}: name another file for --out")
        key = self.response_key or response_key(self.data, self.run is None)
        entries = read_entries(self.data, also=(key,))[: self.limit]
        if self.response_key and not any(key in entry for entry in entries):
            raise ValueError(
                f"no entry of {self.data} has the field {key!r}: its fields are {listed(fields(self.data))}"
            )
        found = [{name if name != key else "model_response": text for name, text in e.items()} for e in entries]
        return found if self.out is None else [{**o, **e} for o, e in zip(self.others(key), found, strict=True)]

    def others(self, key: str) -> list[dict[str, Any]]:
        """The other fields of each entry, which the file of results has too."""
        kept = [record.fields for record in records.read(self.data, FIELDS).records[: self.limit]]
        kept = [{name: value for name, value in entry.items() if name != key} for entry in kept]
        new = ["model_response", "exact_match", "f1", "log_likelihood", "score", "judge"]
        if clash := [name for name in new if any(name in entry for entry in kept)]:
            raise ValueError(
                f"entries of {self.data} have the field {clash[0]!r} already, and so have the results in --out: rename "
                "it in the data"
            )
        return kept

    def about(self) -> dict[str, Any]:
        """The settings that the results depend on: a stopped command continues only if all of them are the same."""
        weights = None if self.run is None else self.run / "model.safetensors"
        return {
            "data": fingerprint(self.data)["sha256"],
            "response_key": self.response_key,
            "run": None if weights is None else [str(self.run), weights.stat().st_mtime_ns if weights.exists() else 0],
            **({"step": self.step} if self.step is not None else {}),
            "style": self.style,
            "max_new_tokens": self.max_new_tokens,
            "api": self.api,
            "model": self.model if self.api else None,
        }

    def fill(self, results: Results) -> None:
        """Answer entries without an answer, and judge those not judged yet; each result is written at once."""
        rows, model, tokenizer = results.rows, None, None
        if self.run is not None:
            device = backend.use_device(self.device)
            model, tokenizer = checkpoint.load_model(self.run, device, checkpoint.folder_at(self.run, self.step))
        style = self.style or style_of(self.run)
        missing = [i for i, row in enumerate(rows) if "model_response" not in row]
        if missing and model is not None and tokenizer is not None:
            new = self.responses(model, tokenizer, [rows[i] for i in missing], style)
            for i, text in zip(missing, with_bar("answering", new, len(missing)), strict=True):
                results.add(i, {"model_response": text})
        open_ = [i for i, row in enumerate(rows) if not is_judged(row)]
        if results.continued:
            note(
                f"continuing {results.partial}: {len(rows) - len(open_):,} of {len(rows):,} entries are judged already"
            )
        api = None if self.api is None else Api(self.api, self.model, self.timeout)
        judged = judge([rows[i] for i in open_], model, tokenizer, style, api)
        for i, row in zip(open_, with_bar("judging", judged, len(open_)), strict=True):
            results.add(i, {name: value for name, value in row.items() if name in RESULTS})

    def responses(self, model: GPT, tokenizer: Tokenizer, entries: list[dict[str, Any]], style: str) -> Iterable[str]:
        """The run's own answers."""
        if END_OF_TEXT not in tokenizer.special_tokens:
            run = in_shell(self.run or "RUN")
            raise ValueError(
                f"{self.run} has no end of text and so cannot answer: run gpt finetune instruct {run} --data FILE first"
            )
        return generate_responses(model, tokenizer, entries, style, self.max_new_tokens)

    def stopped(self, results: Results) -> None:
        """Report how many entries are judged, and how to continue, where judging was stopped."""
        done = [row for row in results.rows if is_judged(row)]
        count = f"{len(done):,} of {len(results.rows):,} entries are judged"
        if self.out is not None and results.written:
            note(f"{count}: the same command continues from {results.partial}")
        elif done:
            self.show(summary(done), done)
            note(f"{count}: with --out FILE the same command continues from there")

    def show(self, found: dict[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
        """Print the summary, as a table or as JSON."""
        if self.json:
            print(dumps(found))
        else:
            Output().print(self.table(found, rows))

    def table(self, found: dict[str, Any], rows: Sequence[Mapping[str, Any]]) -> Table:
        """The scores, each with the number of its entries."""
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
        return result_table(f"{self.data.name}, {n:,} {'entry' if n == 1 else 'entries'}", lines)


COUNTS = {
    "empty_responses": "  empty responses, scored 0",
    "no_number": f"  without a score: {NO_SCORE}",
    "no_answer": "  without a score: no answer",
    "not_asked": "  without a score: not asked",
}


def is_judged(row: Mapping[str, Any]) -> bool:
    """Whether a row has its results; a question without an answer is asked again."""
    return "exact_match" in row and not str(row.get("judge", "")).startswith(("no answer", "not asked"))


def fields(path: Path) -> list[str]:
    """The names of the fields in a file of JSON or JSON lines; [] for another file."""
    text = path.read_text(encoding="utf-8-sig")
    try:
        values = parse(text) if text.lstrip()[:1] == "[" else [parse(line) for line in text.split("\n") if line.strip()]
    except ValueError:
        return []
    return list(dict.fromkeys(name for value in values if isinstance(value, dict) for name in value))


def response_key(path: Path, guess: bool) -> str:
    """The field with the answers: model_response, or the only one like it ("model 1 response"), which is reported.

    Without `guess`, where a run can answer instead, it is model_response.
    """
    found = [name for name in fields(path) if "response" in name.lower()] if guess else []
    if "model_response" in found or not found:
        return "model_response"
    if len(found) > 1:
        raise ValueError(f"{path} has several fields with answers: give --response-key and one of {listed(found)}")
    note(f"the answers are read from the field {found[0]!r}")
    return found[0]


def note(line: str) -> None:
    """Print a line on standard error."""
    Output(stderr=True).print(printable(line, 1000), markup=False, highlight=False, soft_wrap=True)


def first(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """The first reply of that kind, if it has a text."""
    start = {"no_number": NO_SCORE, "no_answer": "no answer"}.get(name)
    found = [str(row["judge"]) for row in rows]
    replies = (text.removeprefix(start).lstrip(":, ") for text in found if start and text.startswith(start))
    return next((f", such as {reply.strip()!r:.60}" for reply in replies), "")


def style_of(run: Path | None) -> str:
    """The prompt format of a run's training."""
    if run is None:
        return "alpaca"
    style: str = checkpoint.read_config(checkpoint.files_of(run) / "config.json").get("style", "alpaca")
    check_choice("style", style, tuple(STYLES))
    return style


def with_bar(what: str, items: Iterable[Item], total: int) -> Iterable[Item]:
    """The items, with a progress bar on a terminal."""
    console = Output(stderr=True)
    return track(items, what, total=total, console=console, transient=True, disable=not console.is_terminal)
