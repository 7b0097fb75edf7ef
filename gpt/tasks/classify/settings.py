"""The settings of `gpt finetune classify`."""

from dataclasses import dataclass
from typing import Literal

from ...config import check_choice, check_integer, check_number
from ...training.settings import FineTuneConfig


@dataclass(frozen=True, kw_only=True)
class ClassifyConfig(FineTuneConfig):
    """Learn to label texts. (Every field is a flag of `gpt finetune classify`, and its comment is the flag's help.)"""

    task = "classify"
    task_class = "gpt.tasks.classify.task:Classification"
    fixed = (
        *FineTuneConfig.fixed, "label_column", "text_column", "balance", "unique_texts", "split_seed", "max_length",
        "layers", "position", "causal", "rank", "alpha",
    )  # fmt: skip

    label_column: str | None = None  # name of the column with the labels; default: detected
    text_column: str | None = None  # name of the column with the texts; default: detected
    balance: bool = True  # use as many entries of each label as the rarest one has; otherwise all entries are used
    unique_texts: bool = False  # use each text once, so that no test text is in training; default: as in the book
    split_seed: int = 123  # decides which entries are left out, and which are for training, validation and test
    max_length: int | None = None  # tokens read of each text; default: the length of the longest training text
    layers: Literal["head", "last-block", "last-2", "all", "lora"] = "last-block"  # what is trained; the rest is frozen
    position: Literal["last", "last-real", "first", "mean"] = (
        "last"  # position that the label is read from; last may be padding
    )
    causal: bool = True  # use causal attention, as in pretraining; otherwise each position sees all others
    rank: int = 16  # rank of the LoRA matrices, with --layers lora
    alpha: float = 16.0  # LoRA's correction is multiplied by alpha / rank
    dropout: float | None = None  # dropout probability in training; default: that of the base run

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("layers", self.layers, ("head", "last-block", "last-2", "all", "lora"))
        check_choice("position", self.position, ("last", "last-real", "first", "mean"))
        for name in ("balance", "unique_texts", "causal"):
            check_choice(name, getattr(self, name), (True, False))
        check_integer("split_seed", self.split_seed, low=0)
        check_integer("rank", self.rank, low=1)
        check_number("alpha", self.alpha, low=0)
        if self.max_length is not None:
            check_integer("max_length", self.max_length, low=1)
        if self.dropout is not None:
            check_number("dropout", self.dropout, low=0, below=1)

    @property
    def adapts(self) -> bool:
        """True where LoRA matrices are trained and all other weights are frozen."""
        return self.layers == "lora"
