"""Classification: the first fine-tuning task. A text in, a label out.

One idea: a GPT's feature vector at one position says what it has understood, and a small Linear reads the label from
it. What else of the GPT learns is chosen; the rest is frozen, and costs neither gradient nor optimizer. Semantics:
Raschka, "Build a Large Language Model (From Scratch)", chapter 6.

What it refuses: to write into the run that it starts from. The new run has the data, the tokenizer and all weights.
"""

import json
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import tensorlite as tl
from tensorlite import Tensor, io, nn
from tensorlite import functional as F

from ... import lora
from ... import tokenizer as tokenizers
from ...config import GPTConfig
from ...console import bar, counted, visible
from ...fingerprint import fingerprint
from ...model import GPT, as_float32
from ...tokenizer import END_OF_TEXT, Tokenizer
from ...training import checkpoint, weights
from ...training.task import Epochs, NewRun, Say, batch_generator, eval_mode, to_device
from . import data as labelled
from .settings import ClassifyConfig

PARTS = ("train", "validation", "test")


# ----- the model --------------------------------------------------------------------------------------------------


class Classifier(nn.Module):
    """A GPT without its own head, and a Linear that reads a label at one position of its features.

    `position`: "last" of the padded text (the book's), "last-real" the text's own last token, "first", or "mean" over
    the text's own tokens. With a causal mask the first position has seen nothing but itself.
    """

    def __init__(self, config: GPTConfig, labels: int, position: str):
        self.config, self.position = replace(config, tie_head=True), position
        self.body = GPT(self.config)  # a tied head has no weights of its own, and this one is never asked
        self.head = nn.Linear(config.n_embd, labels)

    def forward(self, idx: Tensor, lengths: Sequence[int]) -> Tensor:
        """Token ids (B, T), padded on the right, and the length of each text -> logits (B, labels)."""
        return as_float32(self.head(self.read(as_float32(self.body.hidden_states(idx)), lengths)))

    def read(self, features: Tensor, lengths: Sequence[int]) -> Tensor:
        """(B, T, C) -> (B, C)"""
        T = features.shape[1]
        if self.position == "mean":
            shares = [[1 / n if t < n else 0.0 for t in range(T)] for n in lengths]
            weights = tl.tensor(shares, features.dtype, features.device).expand_dims(1)  # (B, 1, T)
            return (weights @ features).squeeze(1)  # (B, 1, T) @ (B, T, C)
        place = {"first": [0] * len(lengths), "last": [T - 1] * len(lengths), "last-real": [n - 1 for n in lengths]}
        return features[list(range(len(lengths))), place[self.position]]


def choose_layers(model: Classifier, config: ClassifyConfig) -> None:
    """Freeze what does not learn. With LoRA that is all that there was: small matrices beside it learn instead."""
    if config.layers == "lora":
        lora.apply(model, config.rank, config.alpha)
        return
    blocks = {"head": 0, "last-block": 1, "last-2": 2, "all": 0}[config.layers]
    for p in model.parameters():
        p.requires_grad = config.layers == "all"
    learning = [*list(model.body.blocks)[len(model.body.blocks) - blocks :], model.head]
    for module in (*learning, *([model.body.final_norm] if blocks else [])):
        for p in module.parameters():
            p.requires_grad = True


def build(config: ClassifyConfig, shape: GPTConfig, labels: int) -> Classifier:
    """A classifier with random weights, nothing frozen yet."""
    shape = replace(shape, causal=config.causal)
    shape = shape if config.dropout is None else shape.with_dropout(config.dropout)
    return Classifier(shape, labels, config.position)


# ----- texts as rows ----------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """A text for the model."""

    ids: list[int]  # cut to the longest that is read, not padded
    label: int


class Padding(NamedTuple):
    """How rows become a batch: padded with `id` to `length`, or, where nothing looks at padding, to the longest."""

    id: int
    length: int
    matters: bool

    def batch(self, rows: Sequence[Row]) -> tuple[Tensor, list[int], Tensor]:
        """Token ids (B, T), the texts' lengths, labels (B)."""
        lengths = [len(row.ids) for row in rows]
        T = self.length if self.matters else max(lengths)
        idx = tl.tensor([row.ids + [self.id] * (T - len(row.ids)) for row in rows])
        return idx, lengths, tl.tensor([row.label for row in rows])


def padding_token(tokenizer: Tokenizer) -> int:
    """The end of text; a ValueError for a tokenizer that has none."""
    id = tokenizer.special_tokens.get(END_OF_TEXT)
    if id is None:
        raise ValueError(
            f"the run's tokenizer has no {END_OF_TEXT} to pad texts with: start from a run with a bpe, word or gpt2 "
            "tokenizer"
        )
    return id


def encode(tokenizer: Tokenizer, text: str, length: int) -> list[int]:
    """At most `length` ids, and at least one; special tokens in the text are text."""
    return read_whole(tokenizer, text)[:length]


def read_whole(tokenizer: Tokenizer, text: str) -> list[int]:
    """All of its ids."""
    ids = tokenizer.encode_ordinary(text)
    if not ids:
        raise ValueError(f"the text {text!r} has no token in it: give some text")
    return ids


# ----- the task ---------------------------------------------------------------------------------------------------


class Classification:
    """The task of `gpt finetune classify`. A batch is what Padding makes of rows."""

    files: ClassVar = tuple(f"{part}.jsonl" for part in PARTS)
    results: ClassVar[tuple[str, ...]] = ("report.json", "report.png")
    unit = "texts"

    @classmethod
    def begin(cls, config: ClassifyConfig, run: Path, say: Say) -> NewRun:
        """Entries balanced and split into the run; the base run's weights under a new head."""
        if config.base is None or config.data is None:
            raise ValueError("what is learnt, and from where? gpt finetune classify RUN --data FILE")
        base, tokenizer = checkpoint.load_model(config.base)
        data, description = prepare(config, run, tokenizer, base.config, say)
        model = build(config, base.config, len(description["labels"]))
        weights = {name: p for name, p in base.state_dict().items() if name != "head.weight"}
        model.body.load_state_dict(weights)
        tl.manual_seed(config.seed)  # again: so the head does not depend on how large the body is
        model.head = nn.Linear(base.config.n_embd, len(description["labels"]))
        if config.adapts:
            lora.check_rank(model, config.rank)
        else:
            lora.check_unused(config, "rank", "alpha")
        choose_layers(model, config)
        learning = sum(p.size for p in model.parameters() if p.requires_grad)
        say(f"model      {config.base}: {model.num_parameters():,} parameters, {learning:,} of them learn")
        return NewRun(tokenizer, model, {"data": data, **description})

    @classmethod
    def rebuild(cls, config: ClassifyConfig, description: Mapping[str, Any]) -> Classifier:
        model = build(config, GPTConfig.from_dict(description["model"]), len(description["labels"]))
        choose_layers(model, config)
        return model

    def __init__(self, config: ClassifyConfig, run: Path, tokenizer: Tokenizer, description: Mapping[str, Any]):
        self.config, self.run, self.labels = config, run, description["labels"]
        self.padding = padding_of(description)
        self.entries = {part: labelled.read(run / f"{part}.jsonl", "label", "text") for part in PARTS}
        self.repeated = labelled.repeated(self.entries)
        numbers = {label: number for number, label in enumerate(self.labels)}
        self.rows = {
            part: [Row(encode(tokenizer, e.text, self.padding.length), numbers[e.label]) for e in entries]
            for part, entries in self.entries.items()
        }
        self.epochs = Epochs(self.rows["train"], config.batch_size, self.padding.batch, batch_generator(config))
        self.steps = config.total_steps(len(self.epochs))
        self.per_step = config.batch_size * config.grad_accumulation

    def draw(self) -> tuple[Tensor, list[int], Tensor]:
        return next(self.epochs)

    @staticmethod
    def targets(batch: tuple[Tensor, list[int], Tensor]) -> int:
        return len(batch[1])

    @staticmethod
    def loss(model: Classifier, batch: tuple[Tensor, list[int], Tensor]) -> Tensor:
        """Mean cross-entropy in nats."""
        ids, lengths, labels = batch
        idx, targets = to_device(model, ids, labels)
        return F.cross_entropy(model(idx, lengths), targets)

    def evaluate(self, model: Classifier) -> dict[str, float]:
        """Over the validation part, and over as many training entries: so one sees what was memorised."""
        loss, confusion = self.judge(model, self.rows["validation"])
        _, seen = self.judge(model, self.rows["train"][: len(self.rows["validation"])])
        return {
            "validation_loss": loss,
            "validation_accuracy": accuracy(confusion),
            "training_accuracy": accuracy(seen),
        }

    def judge(
        self, model: Classifier, rows: Sequence[Row], advance: Callable[[int], None] = lambda rows: None
    ) -> tuple[float, list[list[int]]]:
        """Mean loss, and how many of each label (rows) were taken for each label (columns)."""
        confusion = [[0] * len(self.labels) for _ in self.labels]
        total = 0.0
        with eval_mode(model):
            for i in range(0, len(rows), self.config.batch_size):
                ids, lengths, labels = self.padding.batch(rows[i : i + self.config.batch_size])
                idx, targets = to_device(model, ids, labels)
                logits = model(idx, lengths)  # (B, labels)
                total += F.cross_entropy(logits, targets, reduction="sum").item()
                for label, found in zip(labels.tolist(), logits.argmax(axis=-1).tolist(), strict=True):
                    confusion[label][found] += 1
                advance(len(lengths))
        return total / len(rows), confusion

    def sample(self, model: Classifier, step: int) -> str:
        """The first five validation texts: what the model says, how sure it is, and what is right."""
        lines = []
        for row, entry in list(zip(self.rows["validation"], self.entries["validation"], strict=True))[:5]:
            (p,) = probabilities(model, self.padding, [row])
            best = max(range(len(p)), key=p.__getitem__)
            lines.append(f"{self.labels[best]} {p[best]:.3f} (is {entry.label})  {' '.join(entry.text.split()):.80}")
        return visible("\n".join(lines))

    def finish(self, model: Classifier) -> tuple[dict[str, Any], dict[str, str]]:
        """The test part; report.json and report.png."""
        with bar("testing", len(self.rows["test"])) as advance:
            loss, confusion = self.judge(model, self.rows["test"], advance)
        report = {"labels": self.labels, "test_loss": loss, **figures(self.labels, confusion)}
        shown = {"test loss": f"{loss:.4f}", "test accuracy": f"{report['accuracy']:.2%}"}
        report["repeated"] = again = sum(self.repeated["test"])  # texts that training or validation has too
        if again:
            new = [row for row, known in zip(self.rows["test"], self.repeated["test"], strict=True) if not known]
            report["accuracy_without_repeated"] = accuracy(self.judge(model, new)[1]) if new else None
            shown["test texts also in training or validation"] = f"{again:,} of {len(self.rows['test']):,}"
            if new:
                shown["test accuracy without these"] = f"{report['accuracy_without_repeated']:.2%}"
        checkpoint.write_json(self.run / "report.json", report)
        from ...training import plots  # here and not above: matplotlib takes longer to load than all the rest

        try:
            plots.draw_report(self.run)
        except (OSError, MemoryError) as error:
            reason = getattr(error, "strerror", None) or error
            warnings.warn(f"{self.run / 'report.png'} is not drawn: {reason}", checkpoint.RunWarning, stacklevel=1)
        for label in self.labels[:10]:
            each = report["by_label"][label]
            shown[f"precision, recall of {label:.20}"] = f"{each['precision']:.1%}, {each['recall']:.1%}"
        return {"test_loss": loss, "test_accuracy": report["accuracy"], "test_repeated": again}, shown

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": self.epochs.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.epochs.load_state_dict(state["epochs"])


def prepare(
    config: ClassifyConfig, run: Path, tokenizer: Tokenizer, shape: GPTConfig, say: Say
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write the parts of the data into the run; "data" and the rest of what config.json says about them."""
    assert config.data is not None
    began, pad = time.monotonic(), padding_token(tokenizer)
    entries = labelled.read(config.data, config.label_column, config.text_column, note=say)
    read = f"{len(entries):,} entries"
    if config.unique_texts:
        unique, differing = labelled.unique(entries)
        read += f", {len(entries) - len(unique):,} of them with a text that came before ({differing:,} of these with "
        read += "another label) left out"
        entries = unique
    labels = labelled.labels_of(config.data, entries)
    chosen = labelled.balanced(entries, config.split_seed) if config.balance else entries
    parts = labelled.split(chosen, config.split_seed)
    if missing := sorted(set(labels) - {e.label for e in parts["train"]}):
        raise ValueError(f"{config.data}: none of the training entries has the label {missing[0]!r}: give more data")
    data = {}
    for part, members in parts.items():
        path = run / f"{part}.jsonl"
        labelled.write(path, members)
        counts = {label: sum(e.label == label for e in members) for label in labels}
        data[part] = {"entries": len(members), "labels": counts, **fingerprint(path)}
    lengths = token_counts(config, tokenizer, parts)
    longest, context = max(lengths), shape.context_length
    length = config.max_length or longest
    if length > context:
        longer = counted(sum(n > context for n in lengths), "training text")
        what = "max_length is" if config.max_length else f"{longer} of {len(lengths):,} are too long: the longest has"
        raise ValueError(
            f"{what} {counted(length, 'token')}, and {config.base} has a context_length of {context}: --max-length "
            f"{context} cuts what is longer"
        )
    say(f"data       {config.data}: {read}, {len(chosen):,} of them used; labels {', '.join(labels)}")
    counts_text = " + ".join(f"{len(members):,} {part}" for part, members in parts.items())
    say(f"texts      {counts_text}; read to {length} of {longest} tokens; {time.monotonic() - began:.1f} s")
    again = labelled.repeated(parts)
    if any(again["validation"]) or any(again["test"]):
        say(
            f"warning: {sum(again['test']):,} of {len(parts['test']):,} test texts are also in training or validation, "
            f"and {sum(again['validation']):,} of {len(parts['validation']):,} validation texts in training: the "
            "accuracies count them; --unique-texts uses each text once"
        )
    return data, {"labels": labels, "length": length, "padding": pad}


def token_counts(config: ClassifyConfig, tokenizer: Tokenizer, parts: Mapping[str, list[labelled.Entry]]) -> list[int]:
    """How many tokens each training text has; a ValueError names a text, of any part, that has none."""
    counts: dict[str, list[int]] = {}
    for part, entries in parts.items():
        for entry in entries:
            try:
                n = len(tokenizer.encode_ordinary(entry.text))
            except ValueError as error:
                raise ValueError(f"{config.data}: the text {entry.text!r:.60}: {error}") from None
            if not n:
                raise ValueError(f"{config.data}: the text {entry.text!r:.60} has no token of the run's tokenizer")
            counts.setdefault(part, []).append(n)
    return counts["train"]


def padding_of(description: Mapping[str, Any]) -> Padding:
    """Padding matters where the label is read from it, or where positions see what comes after them."""
    settings = description["training"]
    matters = settings["position"] == "last" or not settings["causal"]
    return Padding(description["padding"], description["length"], matters)


# ----- figures ----------------------------------------------------------------------------------------------------


def accuracy(confusion: Sequence[Sequence[int]]) -> float:
    """The share that was told rightly."""
    return sum(row[i] for i, row in enumerate(confusion)) / sum(map(sum, confusion))


def figures(labels: Sequence[str], confusion: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Accuracy; for each label precision tp / (tp + fp), recall tp / (tp + fn), F1, 0 where undefined; confusion."""
    by_label = {}
    for i, label in enumerate(labels):
        right, said, present = confusion[i][i], sum(row[i] for row in confusion), sum(confusion[i])
        by_label[label] = {
            "precision": right / said if said else 0.0,
            "recall": right / present if present else 0.0,
            "f1": 2 * right / (said + present) if said + present else 0.0,
            "entries": present,
        }
    return {"accuracy": accuracy(confusion), "by_label": by_label, "confusion": [list(row) for row in confusion]}


# ----- using it ---------------------------------------------------------------------------------------------------


class Trained(NamedTuple):
    """What `gpt classify` needs of a run."""

    model: Classifier
    tokenizer: Tokenizer
    labels: list[str]
    padding: Padding


def load(run: Path, device: str | None = None) -> Trained:
    """A run's classifier, from its newest checkpoint that is whole; on the CPU or on `device`."""
    run = Path(run)
    folder = checkpoint.files_of(run)
    description = checkpoint.read_config(folder / "config.json")
    if description.get("task", "pretrain") == "pretrain":
        raise ValueError(f"{run} was not taught to label texts: gpt finetune classify {run} --data FILE does that")
    checkpoint.check_task(run, description, "classify")
    entries = io.entries(folder / "model.safetensors")
    shape = weights.config_of(description, entries, folder / "model.safetensors")
    training: Any = description.get("training")
    settings = ClassifyConfig.from_dict(training)
    check_description(folder / "config.json", description, shape, entries)
    model = Classification.rebuild(settings, description)
    model.load_state_dict(entries)
    tokenizer = tokenizers.load(folder / "tokenizer.json")
    return Trained(
        (model if device is None else model.to(device)).eval(),
        tokenizer,
        description["labels"],
        padding_of(description),
    )


def check_description(
    path: Path, description: Mapping[str, Any], shape: GPTConfig, entries: Mapping[str, io.Entry]
) -> None:
    """A ValueError where a run's config.json lacks what labelling needs, or describes a head of another size."""
    labels, length, padding = (description.get(name) for name in ("labels", "length", "padding"))
    head = entries.get("head.weight") or entries.get("head.linear.weight")
    right = {
        "labels": isinstance(labels, list) and all(isinstance(label, str) for label in labels)
        and head is not None and head.shape[:1] == (len(labels),),
        "length": type(length) is int and 1 <= length <= shape.context_length,
        "padding": type(padding) is int and 0 <= padding < shape.vocab_size,
    }  # fmt: skip
    if wrong := [name for name, fits in right.items() if not fits]:
        name = wrong[0]
        raise ValueError(f"{path} does not describe a classifier: its {name} is {description.get(name)!r:.80}")


def row(trained: Trained, text: str, number: int, cut: set[int] | None) -> Row:
    """A text as it is read; its number goes into `cut` if it is longer than that."""
    ids, length = read_whole(trained.tokenizer, text), trained.padding.length
    if cut is not None and len(ids) > length:
        cut.add(number)
    return Row(ids[:length], 0)


def classify(
    trained: Trained, texts: Iterable[str], batch_size: int = 16, cut: set[int] | None = None
) -> list[dict[str, float]]:
    """For each text the probability of each label.

    A text longer than training's longest is cut, as there; the places of these are added to `cut`.
    """
    rows = [row(trained, text, i, cut) for i, text in enumerate(texts)]
    found = []
    for i in range(0, len(rows), batch_size):
        found += probabilities(trained.model, trained.padding, rows[i : i + batch_size])
    return [dict(zip(trained.labels, p, strict=True)) for p in found]


def classify_lines(
    trained: Trained, lines: Sequence[str], batch_size: int = 16, cut: set[int] | None = None
) -> list[dict[str, float] | ValueError | None]:
    """As `classify`, with a result for every line: None for a blank one, a ValueError for one that has no tokens."""
    found: list[Any] = [None] * len(lines)
    rows = {}
    for i, line in enumerate(lines):
        if line.strip():
            try:
                rows[i] = row(trained, line, i, cut)
            except ValueError as error:
                found[i] = error
    places = list(rows)
    for start in range(0, len(places), batch_size):
        batch = places[start : start + batch_size]
        for i, p in zip(batch, probabilities(trained.model, trained.padding, [rows[i] for i in batch]), strict=True):
            found[i] = dict(zip(trained.labels, p, strict=True))
    return found


def probabilities(model: Classifier, padding: Padding, rows: Sequence[Row]) -> list[list[float]]:
    """(B, labels)"""
    ids, lengths, _ = padding.batch(rows)
    (idx,) = to_device(model, ids)
    with eval_mode(model):
        return F.softmax(model(idx, lengths)).tolist()


def answer(text: str, p: Mapping[str, float] | None, as_json: bool, cut: bool = False) -> str:
    """One text's answer: label, probability and text between tabs, or JSON with all probabilities and whether only the
    beginning of the text was read; without `p`, none."""
    best = None if p is None else max(p, key=p.__getitem__)
    if as_json:
        found = json.dumps({"text": text, "label": best, "probabilities": p, "cut": cut}, ensure_ascii=False)
        return found.encode("utf-8", "backslashreplace").decode()  # what is not UTF-8 as JSON's escape of it
    if p is None or best is None:
        return f"\t\t{' '.join(text.split())}"
    return f"{best}\t{p[best]:.4f}\t{' '.join(text.split())}"
