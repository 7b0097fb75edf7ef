"""The command line: one file for each command, and main.py, which parses the arguments.

A command is a dataclass: its fields are its flags, and the comment of a field is the flag's help. Calling an instance
runs the command and returns the exit status. A classmethod `default(args)` gives the flags' defaults where they are
not those of the fields; `usual` is the flag that a word too many was probably meant for, or a hint; `groups` are the
groups of flags in its help. The name of a command may be two words.
"""

from collections.abc import Iterator, Mapping
from importlib import import_module

_PLACES = {  # of each command: its module and its class
    "train": ("train", "Train"),
    "finetune classify": ("train", "FinetuneClassify"),
    "finetune instruct": ("train", "FinetuneInstruct"),
    "generate": ("generate", "Generate"),
    "chat": ("chat", "Chat"),
    "classify": ("classify", "Classify"),
    "look": ("look", "Look"),
    "runs": ("runs", "Runs"),
    "show": ("show", "Show"),
    "compare": ("compare", "Compare"),
    "tokenize": ("tokenize", "Tokenize"),
    "params": ("params", "Params"),
    "evaluate": ("evaluate", "Evaluate"),
    "judge": ("judge", "Judge"),
    "data list": ("data", "DataList"),
    "data fetch": ("data", "DataFetch"),
    "data prepare": ("prepare", "DataPrepare"),
    "import": ("import_", "Import"),
    "export": ("export", "Export"),
    "doctor": ("doctor", "Doctor"),
    "completion": ("completion", "Completion"),
}


class _Commands(Mapping[str, type]):
    """The commands by name. The module of a command is imported when it is looked up: all take half a second."""

    def __getitem__(self, name: str) -> type:
        module, command = _PLACES[name]
        found: type = getattr(import_module(f".{module}", __name__), command)
        return found

    def __contains__(self, name: object) -> bool:
        return name in _PLACES

    def __iter__(self) -> Iterator[str]:
        return iter(_PLACES)

    def __len__(self) -> int:
        return len(_PLACES)


COMMANDS = _Commands()

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
