"""`gpt params`: the number of parameters of a model."""

from dataclasses import dataclass, replace
from typing import Annotated, Any

from rich.table import Table
from tyro.conf import Positional, arg

from ..config import PRESETS, GPTConfig, check_choice
from ..console import Output
from ..model import parameter_table

SIZES = ("vocab_size", "context_length", "n_layer", "n_head", "n_embd")


@dataclass(frozen=True)
class Params:
    """Show the number of parameters of a preset, and of each of its parts."""

    # nano, micro, book-124m, gpt2, gpt2-medium, gpt2-large or gpt2-xl
    preset: Annotated[Positional[str], arg(metavar="PRESET")] = "nano"
    vocab_size: int | None = None  # these five replace fields of the preset, as in gpt train
    context_length: int | None = None  # tokens the model sees at once
    n_layer: int | None = None  # number of transformer blocks
    n_head: int | None = None  # attention heads per block; must divide the width
    n_embd: int | None = None  # width: the numbers that stand for each token

    def __post_init__(self) -> None:
        check_choice("preset", self.preset, tuple(PRESETS))
        self.config()  # checks the fields

    def config(self) -> GPTConfig:
        """The preset with the given fields."""
        sizes: dict[str, Any] = {name: getattr(self, name) for name in SIZES if getattr(self, name) is not None}
        return replace(PRESETS[self.preset], **sizes)

    def __call__(self) -> int:
        config = self.config()
        about = (
            f"{config.n_layer} layers, {config.n_head} heads, {config.n_embd} wide, context {config.context_length:,}"
        )
        title = f"{self.preset}: {about}, {config.vocab_size:,} tokens"
        table = Table(
            title=title, title_justify="left", caption="FLOPs: for one token in training, forward and backward"
        )
        for name in ("", "parameters", "share", "MB in float32", "MFLOPs"):
            table.add_column(name, justify="right" if name else "left")
        *parts, total = parameter_table(config)
        for part in (*parts, None, total):
            if part is None:
                table.add_section()
                continue
            millions = (part.bytes / 1e6, part.flops / 1e6)
            table.add_row(part.name, f"{part.parameters:,}", f"{part.share:.1%}", *(f"{n:,.2f}" for n in millions))
        Output().print(table)
        return 0
