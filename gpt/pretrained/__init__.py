"""GPT-2's weights: read from files of Hugging Face and OpenAI, and written as files of Hugging Face.

    model = pretrained.load("gpt2-folder")                      # a GPT; model.config says its shape
    tokenizer = pretrained.load_tokenizer("gpt2-folder", model.config.vocab_size)
    pretrained.import_folder("gpt2-folder", "runs/gpt2")        # the same as a run, for `gpt generate` and the rest
    pretrained.export_run("runs/gpt2", "folder")                # what transformers' from_pretrained loads

Two formats are read, distinguished by the files in the folder: Hugging Face's (config.json, model.safetensors, or
shards and their index) and OpenAI's own release of 2019 (hparams.json and a TensorFlow checkpoint; TensorFlow is not
needed). Hugging Face's is also written.

The whole folder is checked first; then the weights are read one Tensor at a time. Pickles
are refused, and so is every model that GPT cannot compute exactly; the error lists all differences, not just the first.
"""

from .reading import load, load_tokenizer
from .runs import NAMES, export_run, import_folder

__all__ = ["NAMES", "export_run", "import_folder", "load", "load_tokenizer"]
