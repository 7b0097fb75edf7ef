"""The commands of `gpt`, a file each.

One idea: a command is a dataclass. Its fields are its flags, the comment behind a field is the flag's help; calling it
does it and returns the exit status. Where flags start from something else than the fields' defaults, the classmethod
`default(args)` says so. A name may be two words.
"""

from .chat import Chat
from .classify import Classify
from .data import Data
from .doctor import Doctor
from .evaluate import Evaluate
from .export import Export
from .finetune import FinetuneClassify, FinetuneInstruct
from .generate import Generate
from .import_ import Import
from .judge import Judge
from .params import Params
from .train import Train

COMMANDS: dict[str, type] = {
    "train": Train,
    "generate": Generate,
    "finetune classify": FinetuneClassify,
    "finetune instruct": FinetuneInstruct,
    "classify": Classify,
    "chat": Chat,
    "judge": Judge,
    "evaluate": Evaluate,
    "params": Params,
    "data": Data,
    "import": Import,
    "export": Export,
    "doctor": Doctor,
}
