"""`gpt params`: the number of parameters of a model."""

from dataclasses import dataclass, replace
from typing import Annotated, Any

from rich.table import Table
from tyro.conf import Positional, arg

from ..config import PRESETS, check_choice
from ..console import Output
from ..model import parameter_table


@dataclass(frozen=True)
class Params:
    """Show the number of parameters of a preset, and of each of its parts."""

    preset: Annotated[Positional[str], arg(metavar="PRESET")] = (
        "nano"  # nano, micro, book-124m, gpt2, gpt2-medium, gpt2-large or gpt2-xl
    )
    vocab_size: int | None = None  # replaces that of the preset
    context_length: int | None = None  # replaces that of the preset

    def __post_init__(self) -> None:
        check_choice("preset", self.preset, tuple(PRESETS))

    def __call__(self) -> int:
        sizes: dict[str, Any] = {"vocab_size": self.vocab_size, "context_length": self.context_length}
        config = replace(PRESETS[self.preset], **{name: size for name, size in sizes.items() if size is not None})
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
