"""Labels for new texts: load a run of `gpt finetune classify` and predict."""

import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tensorlite import Tensor, io
from tensorlite import functional as F

from ... import tokenizer as tokenizers
from ...config import GPTConfig
from ...console import in_shell
from ...model import inference_mode
from ...tokenizer import Tokenizer
from ...training import checkpoint, weights
from ...training.task import to_device
from .batches import Padding, Row, encode, padding_of
from .model import Classifier, rebuild
from .settings import ClassifyConfig


class TrainedClassifier(NamedTuple):
    """A run's classifier and what it needs to read texts."""

    model: Classifier
    tokenizer: Tokenizer
    labels: list[str]
    padding: Padding


def load(run: Path, device: str | None = None, folder: Path | None = None) -> TrainedClassifier:
    """A run's classifier, from `folder` or its newest undamaged checkpoint; on the CPU, or on `device`.

    ValueError where the run is not one of `gpt finetune classify` or its files do not describe a classifier, OSError
    where they cannot be read.
    """
    run = Path(run)
    folder = folder or checkpoint.files_of(run)
    description = checkpoint.read_config(folder / "config.json")
    if description.get("task", "pretrain") == "pretrain":
        raise ValueError(
            f"{run} was not fine-tuned to label texts: run gpt finetune classify {in_shell(run)} --data FILE first"
        )
    checkpoint.check_task(run, description, "classify")
    entries = io.entries(folder / "model.safetensors")
    shape = weights.config_of(description, entries, folder / "model.safetensors")
    training: Any = description.get("training")
    settings = ClassifyConfig.from_dict(training)
    check_description(folder / "config.json", description, shape, entries)
    model = rebuild(settings, description)
    model.load_state_dict(entries)
    tokenizer = tokenizers.load(folder / "tokenizer.json")
    model = (model if device is None else model.to(device)).eval()
    return TrainedClassifier(model, tokenizer, description["labels"], padding_of(description))


def check_description(
    path: Path, description: Mapping[str, Any], shape: GPTConfig, entries: Mapping[str, io.Entry]
) -> None:
    """A ValueError where a run's config.json lacks what a classifier needs, or describes a head of another size."""
    labels, length, padding = (description.get(name) for name in ("labels", "length", "padding"))
    head = entries.get("head.weight") or entries.get("head.linear.weight")
    valid = {
        "labels": isinstance(labels, list) and all(isinstance(label, str) for label in labels)
        and head is not None and head.shape[:1] == (len(labels),),
        "length": type(length) is int and 1 <= length <= shape.context_length,
        "padding": type(padding) is int and 0 <= padding < shape.vocab_size,
    }  # fmt: skip
    if invalid := [name for name, fits in valid.items() if not fits]:
        name = invalid[0]
        raise ValueError(f"{path} does not describe a classifier: its {name} is {description.get(name)!r:.80}")


# ----- prediction -------------------------------------------------------------------------------------------------

logits: Callable[[Classifier, Tensor, list[int]], Tensor] = Classifier.__call__  # gpt.fast sets another


def predict(
    trained: TrainedClassifier, texts: Iterable[str], batch_size: int = 16, cut: set[int] | None = None
) -> list[dict[str, float]]:
    """The probability of each label, for each text, in the order of the texts.

    Texts of similar length are computed together, in batches of at most as many tokens as `batch_size` of the longest
    texts have. A text longer than the maximum length of training is cut, as in training; its index is added to `cut`.
    ValueError for a text without a token.
    """
    return _predict_rows(trained, [_row(trained, text, i, cut) for i, text in enumerate(texts)], batch_size)


def predict_lines(
    trained: TrainedClassifier, lines: Sequence[str], batch_size: int = 16, cut: set[int] | None = None
) -> list[dict[str, float] | ValueError | None]:
    """As `predict`, with a result for every line: None for a blank one, a ValueError for one without a token."""
    found: list[Any] = [None] * len(lines)
    rows = {}
    for i, line in enumerate(lines):
        if line.strip():
            try:
                rows[i] = _row(trained, line, i, cut)
            except ValueError as error:
                found[i] = error
    for i, p in zip(rows, _predict_rows(trained, list(rows.values()), batch_size), strict=True):
        found[i] = p
    return found


def _row(trained: TrainedClassifier, text: str, index: int, cut: set[int] | None) -> Row:
    """A text as a Row, without its label; `index` goes into `cut` where the text is too long."""
    ids, length = encode(trained.tokenizer, text), trained.padding.length
    if cut is not None and len(ids) > length:
        cut.add(index)
    return Row(ids[:length], 0)


def _predict_rows(trained: TrainedClassifier, rows: Sequence[Row], batch_size: int) -> list[dict[str, float]]:
    found: list[dict[str, float]] = [{} for _ in rows]
    batches = list(trained.padding.batches(rows, batch_size))
    computed = in_batches(trained.model, trained.padding, [[rows[i] for i in batch] for batch in batches])
    for i, p in zip(itertools.chain(*batches), computed, strict=True):
        found[i] = dict(zip(trained.labels, p, strict=True))
    return found


def probabilities_in_batches(
    model: Classifier, padding: Padding, batches: Sequence[Sequence[Row]]
) -> list[list[float]]:
    """The probability of each label, for the rows of all batches in their order."""
    return [p for batch in batches for p in probabilities(model, padding, batch)]


in_batches = probabilities_in_batches  # gpt.fast sets another


def probabilities(model: Classifier, padding: Padding, rows: Sequence[Row]) -> list[list[float]]:
    """The probability of each label, (B, labels), for B rows as one batch."""
    ids, lengths, _ = padding.batch(rows)
    (idx,) = to_device(model, ids)
    with inference_mode(model):
        found: list[list[float]] = F.softmax(logits(model, idx, lengths)).tolist()
    return found


def format_prediction(text: str, p: Mapping[str, float] | None, as_json: bool, cut: bool = False) -> str:
    """One line for a text and its prediction `p` (None: no prediction).

    Label, probability and text between tabs, or JSON with all probabilities and whether the text was `cut`.
    """
    best = None if p is None else max(p, key=p.__getitem__)
    if as_json:
        found = json.dumps({"text": text, "label": best, "probabilities": p, "cut": cut}, ensure_ascii=False)
        return found.encode("utf-8", "backslashreplace").decode()  # bytes that are not UTF-8 become JSON escapes
    if p is None or best is None:
        return f"\t\t{' '.join(text.split())}"
    return f"{best}\t{p[best]:.4f}\t{' '.join(text.split())}"
