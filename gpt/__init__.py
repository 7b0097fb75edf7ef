"""gpt: build, train and talk to a GPT, on tensorlite alone.

The names in `__all__` are what programs use; each is loaded when it is first asked for, so that `import gpt` costs
nothing. The modules are attributes too: `gpt.generate.generate(model, prompts, 20)`, `gpt.training.loop.train(config)`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import PRESETS, GPTConfig
    from .generate import stream
    from .model import GPT
    from .tasks.classify.settings import ClassifyConfig
    from .tasks.classify.task import Classifier
    from .tasks.instruct import Conversation, InstructConfig
    from .tasks.pretrain import TrainConfig
    from .tokenizer import BPETokenizer, CharTokenizer, WordTokenizer, gpt2
    from .training.checkpoint import load_model
    from .training.loop import train

__version__ = "0.1.0"
__all__ = [
    "GPT",
    "PRESETS",
    "BPETokenizer",
    "CharTokenizer",
    "ClassifyConfig",
    "Classifier",
    "Conversation",
    "GPTConfig",
    "InstructConfig",
    "TrainConfig",
    "WordTokenizer",
    "gpt2",
    "load_model",
    "stream",
    "train",
]

_PLACES = {
    "GPT": "model",
    "PRESETS": "config",
    "BPETokenizer": "tokenizer",
    "CharTokenizer": "tokenizer",
    "ClassifyConfig": "tasks.classify.settings",
    "Classifier": "tasks.classify.task",
    "Conversation": "tasks.instruct",
    "GPTConfig": "config",
    "InstructConfig": "tasks.instruct",
    "TrainConfig": "tasks.pretrain",
    "WordTokenizer": "tokenizer",
    "gpt2": "tokenizer",
    "load_model": "training.checkpoint",
    "stream": "generate",
    "train": "training.loop",
}
_MODULES = ("attention", "config", "data", "generate", "lora", "model", "pretrained", "tasks", "tokenizer", "training")


def __getattr__(name: str) -> Any:
    if name == "train":
        from . import fast

        fast.attach_step()
    if name in _PLACES:
        return getattr(import_module(f".{_PLACES[name]}", __name__), name)
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}: it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
