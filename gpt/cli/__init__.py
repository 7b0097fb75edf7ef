"""The command line: one file for each command, and main.py, which parses the arguments.

A command is a dataclass: its fields are its flags, and the comment of a field is the flag's help. Calling an instance
runs the command and returns the exit status. A classmethod `default(args)` gives the flags' defaults where they are
not those of the fields; `usual` is the flag that a word too many was probably meant for, or a hint; `groups` are the
groups of flags in its help. The name of a command may be two words.
"""

from .chat import Chat
from .classify import Classify
from .compare import Compare
from .completion import Completion
from .data import DataFetch, DataList
from .doctor import Doctor
from .evaluate import Evaluate
from .export import Export
from .generate import Generate
from .import_ import Import
from .judge import Judge
from .look import Look
from .params import Params
from .prepare import DataPrepare
from .runs import Runs
from .show import Show
from .tokenize import Tokenize
from .train import FinetuneClassify, FinetuneInstruct, Train

COMMANDS: dict[str, type] = {
    "train": Train,
    "finetune classify": FinetuneClassify,
    "finetune instruct": FinetuneInstruct,
    "generate": Generate,
    "chat": Chat,
    "classify": Classify,
    "look": Look,
    "runs": Runs,
    "show": Show,
    "compare": Compare,
    "tokenize": Tokenize,
    "params": Params,
    "evaluate": Evaluate,
    "judge": Judge,
    "data list": DataList,
    "data fetch": DataFetch,
    "data prepare": DataPrepare,
    "import": Import,
    "export": Export,
    "doctor": Doctor,
    "completion": Completion,
}

GROUPS = {  # for the help of `gpt`: a line for each command
    "train": {
        "train": "train a GPT on text; --from RUN: from the weights of a run",
        "finetune classify": "fine-tune a run to label texts",
        "finetune instruct": "fine-tune a run to follow instructions",
    },
    "use": {
        "generate": "continue a text",
        "chat": "talk with a run that was fine-tuned on instructions",
        "classify": "label texts with a run that was fine-tuned to",
    },
    "look": {
        "look": "a page in the browser: how a model writes and learns",
        "runs": "a table of the runs below a folder",
        "show": "one run: its model, data, settings, results and files",
        "compare": "the settings and results in which runs differ",
        "tokenize": "the tokens of a text",
        "params": "the number of parameters of a model, part by part",
    },
    "measure": {
        "evaluate": "loss and perplexity of a run on a text",
        "judge": "score answers to instructions",
    },
    "data and machine": {
        "data list": "the texts, data sets and weights that can be downloaded",
        "data fetch": "download them",
        "data prepare": "text of any size as tokens to train on",
        "import": "make a run of GPT-2's weights",
        "export": "write a run as a folder for Hugging Face transformers",
        "doctor": "what this machine offers, and what is missing",
        "completion": "completion with Tab for bash, zsh and fish",
    },
}
