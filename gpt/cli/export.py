"""`gpt export`: write a run as a folder that transformers loads."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from .. import pretrained
from ..console import Output


@dataclass(frozen=True)
class Export:
    """Write a run in the format of Hugging Face transformers: AutoModelForCausalLM.from_pretrained(FOLDER) loads it."""

    run: Annotated[Positional[Path], arg(metavar="RUN")]  # directory of the run
    folder: Annotated[Positional[Path], arg(metavar="FOLDER")]  # the new folder
    step: str | None = None  # the model after this step, or best: with the lowest validation loss; default: the newest

    def __call__(self) -> int:
        console = Output()
        with console.status(f"exporting {self.run}"):
            pretrained.export_run(self.run, self.folder, self.step)
        names = ", ".join(sorted(path.name for path in self.folder.iterdir()))
        console.print(f"{self.folder}: {names}", markup=False, highlight=False, soft_wrap=True)
        return 0
