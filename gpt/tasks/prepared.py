"""A folder of `gpt data prepare` as the text of a run: it stays where it is, and config.json notes what it holds."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..console import counted
from ..data.shards import folder as folders
from ..data.shards.encoding import PARTS
from ..data.shards.folder import totals
from ..data.shards.read import TokenShards, check_manifest, open_folder, open_shards, same_tokenizer
from ..fingerprint import fingerprint
from ..model import GPT
from ..tokenizer import Tokenizer
from .evaluate import Bar, Score, no_bar, total_loss


def open_prepared(
    folder: Path, bases: Sequence[Tokenizer], say: Callable[[str], None]
) -> tuple[Tokenizer, dict[str, Any]]:
    """The tokenizer of a new run, and its text for config.json.

    `bases` are the tokenizers of the run that it starts from, the last with added special tokens: the text must have
    been encoded with one of them. ValueError where it was not, and for a folder that cannot be used.
    """
    manifest, tokenizer = open_folder(folder)
    if bases:
        check_tokenizer(folder, tokenizer, *bases)
        tokenizer = bases[-1]
    data: dict[str, Any] = {part: totals(manifest, part) for part in PARTS}
    data["train"]["start"] = [manifest["end_of_text"]]
    path = folder / folders.MANIFEST
    counts = " + ".join(f"{data[part]['tokens']:,} {part}" for part in PARTS)
    documents = sum(data[part]["documents"] for part in PARTS)
    say(f"text       {folder}: {counted(documents, 'document')}, prepared by gpt data prepare")
    say(f"tokens     {manifest['tokenizer']['name']} of {tokenizer.vocab_size:,}: {counts}")
    return tokenizer, {
        "data": data,
        "texts": [{"path": str(path), **fingerprint(path)}],
        "prepared": {"folder": str(folder.absolute()), "sha256": fingerprint(path)["sha256"]},
    }


def evaluate_prepared(
    model: GPT, tokenizer: Tokenizer, folder: Path, context: int, stride: int, batch_size: int = 4, bar: Bar = no_bar
) -> Score:
    """The Score of the validation text of a folder: `gpt.tasks.evaluate.evaluate` explains the arguments.

    ValueError where the text was encoded with another tokenizer, and for a folder that cannot be used.
    """
    manifest, own = open_folder(folder)
    check_tokenizer(folder, own, tokenizer)
    ids = open_shards(folder, manifest)["validation"]
    with bar("predicting", len(ids) - 1) as advance:
        nats = total_loss(model, ids, context, stride, batch_size, advance)
    size = totals(manifest, "validation")["text_bytes"] - len(own.decode_bytes(ids[:1]))
    return Score(len(ids), len(ids) - 1, size, nats)


def check_tokenizer(folder: Path, tokenizer: Tokenizer, *runs: Tokenizer) -> None:
    """A ValueError where a text was encoded with another tokenizer than that of a run, which may have several."""
    if not any(same_tokenizer(tokenizer, run) for run in runs):
        raise ValueError(
            f"{folder} was encoded with another tokenizer ({tokenizer.vocab_size:,} tokens) than that of the run "
            f"({runs[0].vocab_size:,}): encode the text with it, gpt data prepare PATH --tokenizer RUN --out DIR"
        )


def reopened(prepared: Mapping[str, Any]) -> dict[str, TokenShards]:
    """The shards that a run was started with; ValueError where they are missing, changed or damaged."""
    folder = Path(prepared["folder"])
    check_manifest(folder, prepared["sha256"])
    return open_shards(folder, open_folder(folder)[0])
