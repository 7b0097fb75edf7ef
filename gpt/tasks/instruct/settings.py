"""The settings of `gpt finetune instruct`."""

from dataclasses import dataclass
from typing import Literal

from ...config import check_choice, check_integer, check_number
from ...training.settings import FineTuneConfig
from .data import STYLES


@dataclass(frozen=True, kw_only=True)
class InstructConfig(FineTuneConfig):
    """Learn to follow instructions. (Every field is a flag of `gpt finetune instruct`, and its comment is its help.)"""

    task = "instruct"
    task_class = "gpt.tasks.instruct.task:Instructions"
    fixed = (
        *FineTuneConfig.fixed, "style", "mask_instruction", "turns", "max_length", "untie_head", "lora", "rank",
        "alpha", "targets",
    )  # fmt: skip

    epochs: int = 2  # passes over the training entries
    style: Literal["alpaca", "phi3"] = "alpaca"  # prompt format; phi3 is shorter
    mask_instruction: bool = False  # compute the loss on the responses alone, without the prompts
    turns: int = 1  # longest conversation: up to this many entries in a row, so that chat can refer to earlier turns
    # cut longer texts at this many tokens; default: texts longer than the context are an error
    max_length: int | None = None
    untie_head: bool = False  # train a separate output head, initialized from the token embedding, as the book does
    lora: bool = False  # train LoRA matrices of the Linears; everything else is frozen
    rank: int = 16  # rank of the LoRA matrices
    alpha: float = 16.0  # LoRA's correction is multiplied by alpha / rank
    targets: tuple[str, ...] = ("*",)  # the Linears that LoRA adapts: attention, feed_forward, W_query, head; *: all
    dropout: float | None = None  # dropout probability in training; default: that of the base run
    eval_batches: int = 20  # batches per evaluation, spread evenly over the validation entries
    sample_every: int = 100  # steps between samples in samples.txt; 0: only at the end
    responses: int | None = None  # test entries that are answered at the end; default: all
    max_new_tokens: int = 256  # longest answer, in tokens

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("style", self.style, tuple(STYLES))
        for name in ("mask_instruction", "untie_head", "lora"):
            check_choice(name, getattr(self, name), (True, False))
        for name in ("turns", "eval_batches", "max_new_tokens", "rank"):
            check_integer(name, getattr(self, name), low=1)
        check_number("alpha", self.alpha, low=0)
        for name, low in (("max_length", 2), ("responses", 0)):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), low=low)
        if self.dropout is not None:
            check_number("dropout", self.dropout, low=0, below=1)

    @property
    def adapts(self) -> bool:
        """True where LoRA matrices are trained and all other weights are frozen."""
        return self.lora
