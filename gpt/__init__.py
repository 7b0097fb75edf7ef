"""gpt: train, fine-tune and use GPT models, built on tensorlite alone.

The names in `__all__` are the public ones. Each is loaded when it is first used, so that `import gpt` takes no time.
Some modules are attributes as well, such as `gpt.look`.

The modules by themselves are the plain code. Using a public name, such as `gpt.generate`, also attaches the
acceleration that goes with it (gpt/fast), which computes the same in less time on a GPU.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .attention import MultiHeadAttention
    from .config import PRESETS, GPTConfig
    from .fast.distributed import train
    from .generation import generate, stream
    from .model import GPT
    from .tasks.classify import Classifier, ClassifyConfig
    from .tasks.evaluate import evaluate
    from .tasks.instruct import Conversation, InstructConfig
    from .tasks.pretrain import TrainConfig
    from .tokenizer import BPETokenizer, CharTokenizer, Tokenizer, WordTokenizer, gpt2
    from .training.checkpoint import load_model

    __version__: str

__all__ = [
    "GPT",
    "PRESETS",
    "BPETokenizer",
    "CharTokenizer",
    "Classifier",
    "ClassifyConfig",
    "Conversation",
    "GPTConfig",
    "InstructConfig",
    "MultiHeadAttention",
    "Tokenizer",
    "TrainConfig",
    "WordTokenizer",
    "evaluate",
    "generate",
    "gpt2",
    "load_model",
    "stream",
    "train",
]

_NAMES = {  # of each module
    "attention": ("MultiHeadAttention",),
    "config": ("PRESETS", "GPTConfig"),
    "generation": ("generate", "stream"),
    "model": ("GPT",),
    "tasks.classify": ("Classifier", "ClassifyConfig"),
    "tasks.evaluate": ("evaluate",),
    "tasks.instruct": ("Conversation", "InstructConfig"),
    "tasks.pretrain": ("TrainConfig",),
    "tokenizer": ("BPETokenizer", "CharTokenizer", "Tokenizer", "WordTokenizer", "gpt2"),
    "training.checkpoint": ("load_model",),
    "fast.distributed": ("train",),
}
_MODULES = ("attention", "config", "generation", "look", "lora", "model", "pretrained", "tokenizer")


def __getattr__(name: str) -> Any:
    """A public name or module, loaded now. AttributeError for any other name."""
    if name == "__version__":  # both packages are one distribution
        return import_module("tensorlite").__version__
    for module, names in _NAMES.items():
        if name in names:
            found = getattr(import_module(f".{module}", __name__), name)
            if module not in ("attention", "config", "tokenizer"):
                _attach_acceleration(for_training=module == "fast.distributed")
            return found
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}: it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})


def _attach_acceleration(for_training: bool) -> None:
    from . import fast

    if for_training:
        fast.attach()
    else:
        fast.attach_decode()
