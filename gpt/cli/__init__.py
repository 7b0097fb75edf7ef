"""The command line: one file for each command, and main.py, which parses the arguments.

A command is a dataclass: its fields are its flags, and the comment of a field is the flag's help. Calling an instance
runs the command and returns the exit status. A classmethod `default(args)` gives the flags' defaults where they are
not those of the fields. The name of a command may be two words.
"""

from .chat import Chat
from .classify import Classify
from .compare import Compare
from .data import Data
from .doctor import Doctor
from .evaluate import Evaluate
from .export import Export
from .generate import Generate
from .import_ import Import
from .judge import Judge
from .look import Look
from .params import Params
from .train import FinetuneClassify, FinetuneInstruct, Train

COMMANDS: dict[str, type] = {
    "train": Train,
    "generate": Generate,
    "look": Look,
    "compare": Compare,
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
