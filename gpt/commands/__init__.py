"""The commands of `gpt`, a file each.

One idea: a command is a dataclass. Its fields are its flags, the comment behind a field is the flag's help; calling it
does it and returns the exit status. Where flags start from something else than the fields' defaults, the classmethod
`default(args)` says so.
"""

from .classify import Classify
from .data import Data
from .doctor import Doctor
from .evaluate import Evaluate
from .export import Export
from .finetune import Finetune
from .generate import Generate
from .import_ import Import
from .params import Params
from .train import Train

COMMANDS: dict[str, type] = {
    "train": Train,
    "generate": Generate,
    "finetune": Finetune,
    "classify": Classify,
    "evaluate": Evaluate,
    "params": Params,
    "data": Data,
    "import": Import,
    "export": Export,
    "doctor": Doctor,
}
