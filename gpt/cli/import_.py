"""`gpt import`: convert GPT-2's weights to a run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from .. import pretrained
from ..console import Output, counted, in_shell
from ..data.download import fetch_model
from ..model import parameter_table
from ..training import open_run


@dataclass(frozen=True)
class Import:
    """Convert GPT-2's weights to a run: a folder in the format of Hugging Face or OpenAI, or a model to download."""

    # One field for both, since with --model there is only RUN.
    paths: Annotated[
        Positional[tuple[Path, ...]],
        arg(
            metavar="[SOURCE] RUN",
            help="the folder with the weights, and the new run's directory",
            help_behavior_hint="",
        ),
    ] = ()
    # download this model; then give RUN alone
    model: Literal["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"] | None = None
    overwrite: bool = False  # replace an existing run or files, once everything is imported

    def __post_init__(self) -> None:
        wanted = ("SOURCE and RUN", 2) if self.model is None else ("RUN alone, since --model says what to import", 1)
        if len(self.paths) != wanted[1]:
            raise ValueError(f"give {wanted[0]}, got {counted(len(self.paths), 'path')}")

    def __call__(self) -> int:
        console = Output()
        run = self.paths[-1]
        if self.model is not None:
            open_run.check_new(run, self.overwrite, pretrained.NAMES)  # before a long download
        source = self.paths[0] if self.model is None else fetch_model(self.model, console)
        with console.status(f"importing {source}"):
            found = pretrained.import_folder(source, run, self.overwrite)
        c = found.config
        shape = f"{c.n_layer} layers, {c.n_head} heads, {c.n_embd} wide, context {c.context_length:,}"
        for line in (
            f"source     {source}, in {found.format} format",
            f"model      {shape}: {parameter_table(c)[-1].parameters:,} parameters",
            f"tokenizer  {found.tokenizer.vocab_size:,} tokens",
            f"run        {run}: gpt generate {in_shell(run)} --prompt ...",
        ):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        return 0
