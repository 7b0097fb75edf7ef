"""`gpt evaluate`: the loss of a trained model on a text."""

from dataclasses import dataclass
from json import dumps
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import Positional, arg

from tensorlite import backend
from tensorlite.devices import machine

from ..config import check_device, check_integer
from ..console import Output, bar, result_table
from ..data import corpus
from ..fast.weights_dtype import Dtype, set_weights_dtype
from ..tasks.evaluate import Score, evaluate
from ..tasks.prepared import evaluate_prepared
from ..training import checkpoint


@dataclass(frozen=True)
class Evaluate:
    """Measure how well a trained model predicts a text: loss, perplexity and bits per byte."""

    usual: ClassVar = "--text"

    run: Annotated[Positional[Path], arg(metavar="RUN")]  # directory of the run
    # UTF-8 files, read one after another, or a folder of gpt data prepare: its validation text
    text: tuple[Path, ...]
    # tokens from one window to the next; with fewer than the context, each token has more context before it, and
    # evaluation is slower; default: the context
    stride: int | None = None
    context: int | None = None  # tokens in a window; default: the model's context length
    batch_size: int = 4  # windows per batch
    step: str | None = None  # the model after this step, or best: with the lowest validation loss; default: the newest
    json: bool = False  # print the numbers as JSON
    # of the weights: with bfloat16 or int8, which is for a CPU, the loss is that of `gpt generate --dtype`
    dtype: Dtype = "float32"
    device: str = "auto"  # cpu, cuda or cuda:1 (the second GPU); auto: a GPU if one is usable

    def __post_init__(self) -> None:
        check_device(self.device)
        for name in ("stride", "context", "batch_size"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), low=1)

    def __call__(self) -> int:
        machine.set_threads(machine.default_threads())
        folder = self.text[0] if self.text[0].is_dir() and len(self.text) == 1 else None
        text = "" if folder else corpus.read_text(self.text)
        device = backend.use_device(self.device)
        model, tokenizer = checkpoint.load_model(self.run, device, checkpoint.folder_at(self.run, self.step))
        set_weights_dtype(model, self.dtype)
        context = self.context or model.config.context_length
        stride = self.stride or context
        if folder:
            score = evaluate_prepared(model, tokenizer, folder, context, stride, self.batch_size, bar)
        else:
            score = evaluate(model, tokenizer, text, context, stride, self.batch_size, bar)
        if self.json:
            about = {"run": str(self.run), "text": [str(path) for path in self.text]}
            print(dumps({**about, **numbers(score), "context": context, "stride": stride}))
        else:
            title = f"{self.run.name} on {', '.join(path.name for path in self.text)}"
            Output().print(result_table(title, rows(score, context, stride)))
        return 0


def numbers(score: Score) -> dict[str, float]:
    """For JSON."""
    names = ("tokens", "predicted", "bytes", "loss", "perplexity", "bits_per_token", "bits_per_byte")
    return {name: getattr(score, name) for name in names}


def rows(score: Score, context: int, stride: int) -> dict[str, str]:
    """For the table."""
    return {
        "loss (nats per token)": f"{score.loss:.4f}",
        "perplexity": f"{score.perplexity:,.2f}",
        "bits per token": f"{score.bits_per_token:.4f}",
        "bits per byte": f"{score.bits_per_byte:.4f}",
        "tokens predicted": f"{score.predicted:,} of {score.tokens:,}",
        "their bytes of text": f"{score.bytes:,}",
        "window, stride": f"{context:,}, {stride:,} tokens",
    }
