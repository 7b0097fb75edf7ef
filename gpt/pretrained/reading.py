"""Read a folder with GPT-2's weights in Hugging Face's or OpenAI's format.

Both formats become a `Source`: a GPTConfig and, under Hugging Face's names, the place of each Tensor in a file. The
folder is checked when the Source is made, the weights are read one by one.
"""

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from tensorlite import Tensor, io
from tensorlite.io import Entry

from ..config import GPTConfig, listed
from ..jsonfile import read_object
from ..model import GPT
from ..tokenizer import Tokenizer
from . import bundle
from .layout import misfits, places, their_shapes, to_ours
from .vocabulary import read_tokenizer

BUFFERS = re.compile(r"h\.\d+\.attn\.(masked_)?bias")  # constants that older files hold: the causal mask
OPENAI_NAME = re.compile(r"model/(?:h(\d+)/)?((?:[a-z]+/)?[a-z0-9_]+?)(?:/([wbg]))?")
EXPECTED: dict[str, tuple[Any, str]] = {  # in config.json: the required value, and what another value would change
    "model_type": ("gpt2", "the model would be another one"),
    "activation_function": ("gelu_new", "the feed-forward network would compute something else"),
    "layer_norm_epsilon": (1e-5, "LayerNorm would compute something else"),
    "scale_attn_weights": (True, "attention would not be divided by the square root of the heads' width"),
    "scale_attn_by_inverse_layer_idx": (False, "attention would be scaled differently in each block"),
    "add_cross_attention": (False, "there would be a second attention in each block"),
    "pruned_heads": ({}, "blocks would have different numbers of heads"),
    "quantization_config": (None, "the weights would be stored as codes"),
}


class Source(NamedTuple):
    """A folder of weights that was checked."""

    folder: Path
    format: str  # as shown to the user
    config: GPTConfig
    entries: dict[str, Entry]  # by Hugging Face's names, without the prefix

    def read(self, name: str) -> Tensor:
        """Our Parameter of that name in float32; a view of their Tensor where that is transposed or holds three."""
        place = places(self.config)[name]
        return to_ours(self.entries[place.name].read_float32(), place)


def load(folder: str | Path) -> GPT:
    """The model in a folder of GPT-2's weights, in evaluation mode; `.config` has its sizes.

    Needs memory for the model and one Tensor more. Errors as in `find`.
    """
    source = find(Path(folder))
    model = GPT.without_init(source.config)
    for name, parameter in model.named_parameters():
        parameter.data[...] = source.read(name).data
        parameter.changed()
    return model.eval()


def load_tokenizer(folder: str | Path, vocab_size: int = 50257) -> Tokenizer:
    """The tokenizer in the same folder, or GPT-2's own without such files (see vocabulary.read_tokenizer)."""
    return read_tokenizer(Path(folder), vocab_size)


def find(folder: Path) -> Source:
    """Check the folder, except the values of its weights.

    FileNotFoundError or NotADirectoryError where there is no such folder or a file is missing; ValueError, which lists
    everything that is wrong, where a file is damaged or the model is one that GPT cannot compute.
    """
    if folder.is_file():
        refuse_pickle(folder, folder.parent)
        raise NotADirectoryError(f"{folder} is a file: name the folder with config.json and model.safetensors")
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    if (folder / "config.json").exists():
        kind, config = "Hugging Face's", _config(folder / "config.json")
        entries = _without_prefix(folder, _shards(folder))
    elif (folder / "hparams.json").exists():
        kind, config = "OpenAI's", _hparams(folder / "hparams.json")
        entries = dict(_renamed(entry) for entry in bundle.entries(folder / "model.ckpt").values())
    else:
        for path in sorted(folder.iterdir()):
            refuse_pickle(path, folder)
        raise FileNotFoundError(f"{folder} has neither config.json (Hugging Face) nor hparams.json (OpenAI)")
    source = Source(folder, kind, config, entries)
    if config.n_layer > len(entries):  # before names are made: n_layer may be in the billions
        few = f"n_layer is {config.n_layer}, and there are {len(entries)} Tensors in all"
        raise ValueError(f"the weights in {folder} are not those of its config: {few}")
    _drop_tied_head(source)
    if problems := misfits(entries, their_shapes(config)):
        raise ValueError(f"the weights in {folder} are not those of its config: {'; '.join(problems)}")
    return source


def refuse_pickle(path: Path, folder: Path) -> None:
    """ValueError, with a command that converts it, if the file is a pickle by its name and its first bytes."""
    if path.suffix not in (".bin", ".pt", ".pth", ".ckpt", ".pkl") or not path.is_file():
        return
    with open(path, "rb") as file:
        if io.pickle_advice(file.read(8)):
            raise ValueError(
                f"{path} is a pickle, which can run any code when it is loaded; if you trust it, convert it where "
                'transformers is installed: python -c "from transformers import GPT2LMHeadModel as M; '
                f"M.from_pretrained('{folder}').save_pretrained('{folder}-safetensors')\""
            )


# ----- configs ----------------------------------------------------------------------------------------------------


def _config(path: Path) -> GPTConfig:
    """Hugging Face's config.json as ours."""
    values = read_object(path)
    problems = [
        f"{name} is {values[name]!r:.80} and must be {expected!r}: otherwise {otherwise}"
        for name, (expected, otherwise) in EXPECTED.items()
        if name in values and values[name] != expected and (values[name] or expected)
    ]
    n_embd, n_inner = values.get("n_embd"), values.get("n_inner")
    if n_inner is not None and isinstance(n_embd, int) and n_inner != 4 * n_embd:
        problems.append(
            f"n_inner is {n_inner!r:.80} and must be 4 * n_embd: the feed-forward network is four times as wide"
        )
    fields = {
        "vocab_size": "vocab_size",
        "context_length": "n_positions",
        "n_layer": "n_layer",
        "n_head": "n_head",
        "n_embd": "n_embd",
    }
    rest = {
        "embedding_dropout": values.get("embd_pdrop", 0.1),
        "attention_dropout": values.get("attn_pdrop", 0.1),
        "residual_dropout": values.get("resid_pdrop", 0.1),
        "tie_head": values.get("tie_word_embeddings", True),
    }
    return _ours(path, values, fields, rest, problems)


def _hparams(path: Path) -> GPTConfig:
    """OpenAI's hparams.json as ours. Dropout is what GPT-2 was trained with."""
    fields = {
        "vocab_size": "n_vocab",
        "context_length": "n_ctx",
        "n_layer": "n_layer",
        "n_head": "n_head",
        "n_embd": "n_embd",
    }
    rest = {f"{name}_dropout": 0.1 for name in ("embedding", "attention", "residual")}
    values = read_object(path)
    unknown = [f"{name:.80} is not known" for name in values if name not in fields.values()]
    return _ours(path, values, fields, rest, unknown)


def _ours(
    path: Path, values: dict[str, Any], fields: dict[str, str], rest: dict[str, Any], problems: list[str]
) -> GPTConfig:
    """The config with `fields`, our name -> theirs, from `values`; a ValueError lists these and all other problems."""
    problems = problems + [f"{name} is missing" for name in fields.values() if name not in values]
    if not any(name not in values for name in fields.values()):
        try:
            config = GPTConfig(**{ours: values[name] for ours, name in fields.items()}, **rest, qkv_bias=True)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError(f"{path} describes a model that gpt cannot compute: {listed(problems, 12, 300, '; ')}")
    return config


# ----- weights ----------------------------------------------------------------------------------------------------


def _shards(folder: Path) -> dict[str, Entry]:
    """The Tensors of model.safetensors, or of the files that model.safetensors.index.json names."""
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.exists():
        return io.entries(whole)
    if not index.exists():
        for path in sorted(folder.iterdir()):
            refuse_pickle(path, folder)
        raise FileNotFoundError(f"{folder} has no model.safetensors, and no model.safetensors.index.json of its parts")
    where = read_object(index).get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(file, str) for file in where.values()):
        raise ValueError(f"{index} has no weight_map from names to files")
    files = sorted(set(where.values()))
    if strange := [file for file in files if not _is_beside(folder, file)]:
        raise ValueError(f"{index} names files that are not in its folder: {listed(strange)}")
    if missing := [file for file in files if not (folder / file).is_file()]:
        raise FileNotFoundError(f"{folder} lacks {listed(missing)}, which {index.name} names")
    found = {file: io.entries(folder / file) for file in files}
    astray = [f"{name} is not in {file}" for name, file in where.items() if name not in found[file]]
    astray += [f"{file} has {name} too" for file in files for name in found[file] if where.get(name) != file]
    if astray:
        raise ValueError(f"{index} does not agree with its files: {listed(astray, 6, 300, '; ')}")
    return {name: found[file][name] for name, file in where.items()}


def _is_beside(folder: Path, name: str) -> bool:
    """Whether the file of that name is in the folder, or in the blobs of Hugging Face's cache that its links lead to.

    A name in an index may be a path outside the folder, and so may a link inside it.
    """
    if Path(name).name != name or len(name) > 255 or "\0" in name:
        return False
    place, at = folder.resolve(), Path(os.path.realpath(folder / name)).parent
    return at == place or (place.parent.name == "snapshots" and at == place.parent.parent / "blobs")


def _without_prefix(folder: Path, entries: dict[str, Entry]) -> dict[str, Entry]:
    """The same entries under names without `transformer.`, and without buffers, which are not weights."""
    found: dict[str, Entry] = {}
    for name, entry in entries.items():
        short = name.removeprefix("transformer.")
        if short in found:
            raise ValueError(f"the weights in {folder} have {short} twice, with and without the prefix transformer.")
        if not BUFFERS.fullmatch(short):
            found[short] = entry
    return found


def _renamed(entry: Entry) -> tuple[str, Entry]:
    """OpenAI's model/h0/attn/c_attn/w, of shape (1, in, out), is h.0.attn.c_attn.weight, of shape (in, out)."""
    match = OPENAI_NAME.fullmatch(entry.name)
    if match is None:
        return entry.name, entry
    block, layer, kind = match.groups()
    name = f"{layer.replace('/', '.')}.{'bias' if kind == 'b' else 'weight'}"
    name = name if block is None else f"h.{block}.{name}"
    matrix = kind == "w" and len(entry.shape) == 3 and entry.shape[0] == 1
    return name, replace(entry, shape=entry.shape[1:] if matrix else entry.shape)


def _drop_tied_head(source: Source) -> None:
    """Drop a stored head that repeats the token embedding; ValueError where it is another matrix."""
    head, embedding = (source.entries.get(name) for name in ("lm_head.weight", "wte.weight"))
    if head is None or embedding is None or not source.config.tie_head:
        return
    if (head.shape, head.dtype) != (embedding.shape, embedding.dtype) or misfits({"": head}, {"": head.shape}):
        return  # it is listed as unexpected
    if not (head.read_float32() == embedding.read_float32()).all().item():
        raise ValueError(
            f"the weights in {source.folder} have an lm_head.weight that differs from wte.weight, and its config says "
            'that they are one: write "tie_word_embeddings": false into config.json if they are not'
        )
    del source.entries["lm_head.weight"]
