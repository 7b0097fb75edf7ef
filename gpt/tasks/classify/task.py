"""The task of `gpt finetune classify`: labelled texts as batches, loss, evaluation, report.

A GPT is a feature extractor: a small Linear reads the label from its features at one position. `layers` chooses what
else is trained; the rest is frozen, and needs neither gradient nor optimizer state. The run that training starts from
is only read; the new run contains the data, the tokenizer and all weights.
"""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import tensorlite as tl
from tensorlite import Tensor, nn
from tensorlite import functional as F

from ... import lora
from ...config import GPTConfig
from ...console import bar, counted, visible
from ...fingerprint import fingerprint
from ...model import inference_mode
from ...tokenizer import Tokenizer
from ...training import checkpoint
from ...training.run_directory import RunWarning
from ...training.task import Epochs, NewRun, Say, batch_generator, to_device
from . import data, metrics
from .batches import Row, encode, padding_of, padding_token
from .inference import probabilities
from .model import Classifier, build, freeze, rebuild
from .settings import ClassifyConfig

PARTS = ("train", "validation", "test")
Batch = tuple[Tensor, list[int], Tensor]  # token ids (B, T), lengths of the texts, labels (B)


class Classification:
    """The task of `gpt finetune classify`. A batch is token ids (B, T), the lengths of the texts, and labels (B)."""

    files: ClassVar = tuple(f"{part}.jsonl" for part in PARTS)
    results: ClassVar[tuple[str, ...]] = ("report.json", "report.png")
    unit = "texts"

    @classmethod
    def begin(cls, config: ClassifyConfig, run: Path, say: Say) -> NewRun:
        """Balance and split the entries into the run, and put a new head on the base run's weights."""
        if config.base is None or config.data is None:
            missing = "the run to start from" if config.base is None else "the file of labelled texts"
            raise ValueError(f"{missing} is missing: gpt finetune classify RUN --data FILE")
        base, tokenizer = checkpoint.load_model(config.base)
        found = prepare(config, run, tokenizer, base.config, say)
        model = build(config, base.config, len(found["labels"]))
        model.body.load_state_dict({name: p for name, p in base.state_dict().items() if name != "head.weight"})
        tl.manual_seed(config.seed)  # again, so that the head's weights do not depend on the size of the body
        model.head = nn.Linear(base.config.n_embd, len(found["labels"]))
        if config.adapts:
            lora.check_rank(model, config.rank)
        else:
            lora.check_unused(config, "rank", "alpha")
        freeze(model, config)
        trained = sum(p.size for p in model.parameters() if p.requires_grad)
        say(f"model      {config.base}: {model.num_parameters():,} parameters, {trained:,} of them are trained")
        return NewRun(tokenizer, model, found)

    @classmethod
    def rebuild(cls, config: ClassifyConfig, description: Mapping[str, Any]) -> Classifier:
        """The model that config.json describes, with random weights."""
        return rebuild(config, description)

    def __init__(self, config: ClassifyConfig, run: Path, tokenizer: Tokenizer, description: Mapping[str, Any]):
        self.config, self.run, self.labels = config, run, description["labels"]
        self.padding = padding_of(description)
        self.entries = {part: data.read(run / f"{part}.jsonl", "label", "text") for part in PARTS}
        self.repeated = data.repeated(self.entries)
        numbers = {label: number for number, label in enumerate(self.labels)}
        self.rows = {
            part: [Row(encode(tokenizer, e.text, self.padding.length), numbers[e.label]) for e in entries]
            for part, entries in self.entries.items()
        }
        self.epochs = Epochs(self.rows["train"], config.batch_size, self.padding.batch, batch_generator(config))
        self.steps = config.total_steps(len(self.epochs))
        self.per_step = config.batch_size * config.grad_accumulation

    def draw(self) -> Batch:
        """The next batch of shuffled training texts."""
        batch: Batch = next(self.epochs)
        return batch

    @staticmethod
    def targets(batch: Batch) -> int:
        """One for each text."""
        return len(batch[1])

    @staticmethod
    def loss(model: Classifier, batch: Batch) -> Tensor:
        """Mean cross-entropy in nats."""
        ids, lengths, labels = batch
        idx, targets = to_device(model, ids, labels)
        return F.cross_entropy(model(idx, lengths), targets)

    # ----- evaluation -----

    def evaluate(self, model: Classifier) -> dict[str, float]:
        """Metrics of the validation part, and of as many training entries: the difference shows overfitting."""
        loss, validation = self.confusion(model, self.rows["validation"])
        _, training = self.confusion(model, self.rows["train"][: len(self.rows["validation"])])
        return {
            "validation_loss": loss,
            "validation_accuracy": metrics.accuracy(validation),
            "training_accuracy": metrics.accuracy(training),
        }

    def confusion(
        self, model: Classifier, rows: Sequence[Row], advance: Callable[[int], None] = lambda rows: None
    ) -> tuple[float, list[list[int]]]:
        """The mean loss, and the confusion matrix: a row for each true label, a column for each predicted one."""
        confusion = [[0] * len(self.labels) for _ in self.labels]
        total = 0.0
        with inference_mode(model):
            for batch in self.padding.batches(rows, self.config.batch_size):
                ids, lengths, labels = self.padding.batch([rows[i] for i in batch])
                idx, targets = to_device(model, ids, labels)
                logits = model(idx, lengths)  # (B, labels)
                total += F.cross_entropy(logits, targets, reduction="sum").item()
                for true, predicted in zip(labels.tolist(), logits.argmax(axis=-1).tolist(), strict=True):
                    confusion[true][predicted] += 1
                advance(len(lengths))
        return total / len(rows), confusion

    def sample(self, model: Classifier, step: int) -> str:
        """The first five validation texts: predicted label, its probability, true label, text."""
        lines = []
        for row, entry in list(zip(self.rows["validation"], self.entries["validation"], strict=True))[:5]:
            (p,) = probabilities(model, self.padding, [row])
            best = max(range(len(p)), key=p.__getitem__)
            lines.append(f"{self.labels[best]} {p[best]:.3f} (true: {entry.label})  {' '.join(entry.text.split()):.80}")
        return visible("\n".join(lines))

    def finish(self, model: Classifier) -> tuple[dict[str, Any], dict[str, str]]:
        """Metrics of the test part; writes report.json and report.png."""
        with bar("testing", len(self.rows["test"])) as advance:
            loss, confusion = self.confusion(model, self.rows["test"], advance)
        report = {"labels": self.labels, "test_loss": loss, **metrics.summary(self.labels, confusion)}
        shown = {"test loss": f"{loss:.4f}", "test accuracy": f"{report['accuracy']:.2%}"}
        report["repeated"] = repeated = sum(self.repeated["test"])  # texts that are also in training or validation
        if repeated:
            new = [row for row, known in zip(self.rows["test"], self.repeated["test"], strict=True) if not known]
            report["accuracy_without_repeated"] = metrics.accuracy(self.confusion(model, new)[1]) if new else None
            shown["test texts also in training or validation"] = f"{repeated:,} of {len(self.rows['test']):,}"
            if new:
                shown["test accuracy without these"] = f"{report['accuracy_without_repeated']:.2%}"
        for label in self.labels[:10]:
            scores = report["by_label"][label]
            shown[f"precision, recall of {label:.20}"] = f"{scores['precision']:.1%}, {scores['recall']:.1%}"
        checkpoint.write_json(self.run / "report.json", report)
        draw_report(self.run)
        return {"test_loss": loss, "test_accuracy": report["accuracy"], "test_repeated": repeated}, shown

    def state_dict(self) -> dict[str, Any]:
        """The position in the shuffled training texts."""
        return {"epochs": self.epochs.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.epochs.load_state_dict(state["epochs"])


def draw_report(run: Path) -> None:
    """Draw report.png; a warning where it cannot be drawn or written."""
    from ...training import plots  # imported here, since matplotlib takes longer to load than everything else

    try:
        plots.draw_report(run)
    except (OSError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or error
        warnings.warn(f"{run / 'report.png'} is not drawn: {reason}", RunWarning, stacklevel=1)


# ----- a new run's data -------------------------------------------------------------------------------------------


def prepare(config: ClassifyConfig, run: Path, tokenizer: Tokenizer, shape: GPTConfig, say: Say) -> dict[str, Any]:
    """Write the parts of the data into the run; return config.json's fields on data, labels, length and padding.

    ValueError for data that cannot be used, OSError where they cannot be read.
    """
    assert config.data is not None
    began, padding = time.monotonic(), padding_token(tokenizer)
    entries = data.read(config.data, config.label_column, config.text_column, note=say)
    read = f"{len(entries):,} entries"
    if config.unique_texts:
        unique, differing = data.unique(entries)
        read += (
            f", {len(entries) - len(unique):,} of them with a text that came before ({differing:,} of these with "
            "another label) left out"
        )
        entries = unique
    labels = data.labels_of(config.data, entries)
    chosen = data.balanced(entries, config.split_seed) if config.balance else entries
    parts = data.split(chosen, config.split_seed)
    if missing := sorted(set(labels) - {e.label for e in parts["train"]}):
        raise ValueError(f"{config.data}: none of the training entries has the label {missing[0]!r}: give more data")
    counts = token_counts(config, tokenizer, parts)
    length = text_length(config, counts, shape.context_length)
    say(f"data       {config.data}: {read}, {len(chosen):,} of them used; labels {', '.join(labels)}")
    sizes = " + ".join(f"{len(members):,} {part}" for part, members in parts.items())
    say(f"texts      {sizes}; read to {length} of {max(counts)} tokens; {time.monotonic() - began:.1f} s")
    warn_of_repeated(parts, say)
    written = {}
    for part, members in parts.items():
        path = run / f"{part}.jsonl"
        data.write(path, members)
        by_label = {label: sum(e.label == label for e in members) for label in labels}
        written[part] = {"entries": len(members), "labels": by_label, **fingerprint(path)}
    return {"data": written, "labels": labels, "length": length, "padding": padding}


def token_counts(config: ClassifyConfig, tokenizer: Tokenizer, parts: Mapping[str, list[data.Entry]]) -> list[int]:
    """The number of tokens of each training text; a ValueError names a text, of any part, that has none."""
    counts: dict[str, list[int]] = {}
    for part, entries in parts.items():
        for entry in entries:
            try:
                n = len(tokenizer.encode_ordinary(entry.text))
            except ValueError as error:
                raise ValueError(f"{config.data}: the text {entry.text!r:.60}: {error}") from None
            if not n:
                raise ValueError(f"{config.data}: the text {entry.text!r:.60} has no tokens in the run's tokenizer")
            counts.setdefault(part, []).append(n)
    return counts["train"]


def text_length(config: ClassifyConfig, counts: Sequence[int], context: int) -> int:
    """The number of tokens read of a text: `max_length`, or the length of the longest training text.

    ValueError where that is more than the context length.
    """
    length = config.max_length or max(counts)
    if length > context:
        longer = counted(sum(n > context for n in counts), "training text")
        what = "max_length is" if config.max_length else f"{longer} of {len(counts):,} are too long: the longest has"
        raise ValueError(
            f"{what} {counted(length, 'token')}, and {config.base} has a context_length of {context}: --max-length "
            f"{context} cuts what is longer"
        )
    return length


def warn_of_repeated(parts: Mapping[str, Sequence[data.Entry]], say: Say) -> None:
    """Report validation and test texts that are also in an earlier part."""
    repeated = {part: sum(found) for part, found in data.repeated(parts).items()}
    if repeated["validation"] or repeated["test"]:
        say(
            f"warning: {repeated['test']:,} of {len(parts['test']):,} test texts are also in training or validation, "
            f"and {repeated['validation']:,} of {len(parts['validation']):,} validation texts in training: the "
            "accuracies count them; --unique-texts uses each text once"
        )
