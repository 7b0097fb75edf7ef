"""Open the model of a run, at any of the checkpoints that the run keeps."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..model import GPT
from ..tasks.classify import inference
from ..tokenizer import Tokenizer
from ..training import checkpoint, run_directory


@dataclass(frozen=True)
class LoadedModel:
    """A run's model at one checkpoint, and what it needs to read texts."""

    run: Path
    step: int | None  # of the checkpoint; None for a run without checkpoints
    task: str  # "pretrain", "instruct" or "classify"
    model: GPT  # of a classifier: the GPT without its head
    tokenizer: Tokenizer
    description: Mapping[str, Any]  # config.json
    classifier: inference.TrainedClassifier | None = None

    def encode(self, text: str, special_tokens: bool = True) -> list[int]:
        """The token ids of a text; with `special_tokens`, <|endoftext|> and the like are read as special tokens.

        ValueError where there is no token, or more than the model's context.
        """
        ids = self.tokenizer.encode(text, "all") if special_tokens else self.tokenizer.encode_ordinary(text)
        if not ids:
            raise ValueError("the text has no tokens: give some text")
        if len(ids) > self.model.config.context_length:
            raise ValueError(
                f"the text has {len(ids)} tokens and the model's context has {self.model.config.context_length}: "
                "give a shorter text"
            )
        return ids

    def text_of(self, id: int) -> str:
        """The text of one token; bytes that are not UTF-8 by themselves are shown as \\xNN."""
        return self.tokenizer.decode_bytes([id]).decode("utf-8", "backslashreplace")


def load(run: str | Path, step: int | str | None = None, device: str | None = None) -> LoadedModel:
    """The model of a run at the checkpoint of `step`, on the CPU or on `device`. None: the newest; "best": the one with
    the lowest validation loss.

    FileNotFoundError where there is no run or the step is not kept; ValueError where its files are damaged.
    """
    run = Path(run)
    folder = checkpoint.folder_at(run, step)
    description = checkpoint.read_config(folder / "config.json")
    task = description.get("task", "pretrain")
    found = run_directory.step_of(folder) if folder.name.startswith("step_") else None
    if task == "classify":
        classifier = inference.load(run, device, folder)
        return LoadedModel(run, found, task, classifier.model.body, classifier.tokenizer, description, classifier)
    model, tokenizer = checkpoint.load_model(run, device, folder)
    return LoadedModel(run, found, task, model, tokenizer, description)


def kept_steps(run: str | Path) -> list[int]:
    """The steps whose checkpoints the run keeps, in ascending order."""
    return sorted(map(run_directory.step_of, run_directory.steps(Path(run))))
