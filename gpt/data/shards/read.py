"""The shards of a folder as one dataset, mapped into memory."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from tensorlite.data import TokenFile, Windows

from ... import tokenizer as tokenizers
from ...console import bar, in_shell
from ...fingerprint import fingerprint
from ...tokenizer import Tokenizer
from . import folder as folders
from .encoding import PARTS
from .folder import Manifest


class TokenShards(Sequence[int]):
    """The token files of one part of a prepared text, in order. `len` is the number of their tokens."""

    def __init__(self, paths: Sequence[Path]):
        self.shards = [TokenFile(path, check=False) for path in paths]  # their SHA-256 was compared
        self.ends = list(accumulate(map(len, self.shards)))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __getitem__(self, index: Any) -> Any:
        """The token at a position, as an integer, or tokens[start:stop] as a list."""
        if isinstance(index, slice):
            return self._slice(*index.indices(len(self)))
        position = range(len(self))[index]
        shard = bisect_right(self.ends, position)
        return int(self.shards[shard][position - self._start(shard)])

    def _slice(self, start: int, stop: int, step: int) -> list[int]:
        if step != 1:
            raise ValueError("tokens[start:stop] has no step")
        found: list[int] = []
        for number, tokens in enumerate(self.shards):
            first = self._start(number)
            found += tokens[max(0, start - first) : max(0, stop - first)].tolist()
        return found

    def _start(self, shard: int) -> int:
        return self.ends[shard] - len(self.shards[shard])

    def windows(self, length: int, stride: int) -> "ShardWindows":
        """All of it as windows (x, y) of `length` tokens. No window is in two shards."""
        return ShardWindows(self.shards, length, stride)


class ShardWindows:
    """A dataset of the windows of each shard, one shard after another; see tensorlite.data.Windows.

    A shard of at most `length` tokens has none. ValueError where no shard has one.
    """

    def __init__(self, shards: Sequence[TokenFile], length: int, stride: int):
        self.windows = [Windows(tokens, length, stride) for tokens in shards if len(tokens) > length]
        if not self.windows:
            raise ValueError(f"no shard has more than {length} tokens: give more text or a shorter context_length")
        self.ends = list(accumulate(map(len, self.windows)))

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, index: int) -> Any:
        number = bisect_right(self.ends, range(len(self))[index])
        return self.windows[number][index - self.ends[number] + len(self.windows[number])]


# ----- a folder ---------------------------------------------------------------------------------------------------


def open_folder(folder: Path) -> tuple[Manifest, Tokenizer]:
    """The manifest and the tokenizer of a folder whose shards are complete and undamaged.

    FileNotFoundError where `gpt data prepare` wrote none there, ValueError where it is not complete or damaged.
    """
    if not folders.is_prepared(folder):
        raise FileNotFoundError(
            f"{folder} is a folder without shards: name text files in it, or encode all of them with gpt data prepare "
            f"{in_shell(folder)} --tokenizer gpt2 --out DIR, and give that DIR"
        )
    manifest = folders.read(folder)
    if not manifest["complete"]:
        raise ValueError(f"{folder} is not complete: give its gpt data prepare command again, which goes on")
    with bar("checking the shards", sum(shard["bytes"] for shard in manifest["shards"]), "bytes") as advance:
        folders.verify(folder, manifest, advance)
    return manifest, tokenizers.load(folder / folders.TOKENIZER)


def open_shards(folder: Path, manifest: Manifest) -> dict[str, TokenShards]:
    """The tokens of each part."""
    return {
        part: TokenShards([folder / shard["name"] for shard in manifest["shards"] if shard["part"] == part])
        for part in PARTS
    }


def check_manifest(folder: Path, sha256: str) -> None:
    """A ValueError where the manifest is not the one with that SHA-256."""
    path = folder / folders.MANIFEST
    if not path.is_file():
        raise ValueError(f"{folder}, the prepared text of the run, is missing: put it, or a link to it, back there")
    if fingerprint(path)["sha256"] != sha256:
        raise ValueError(f"{folder} has another text than the one that the run was started with: start another run")


def same_tokenizer(one: Tokenizer, other: Tokenizer) -> bool:
    """Whether each text gives the same ids: all tokens and special tokens are equal."""
    if type(one) is not type(other) or one.special_tokens != other.special_tokens:
        return False
    ids = range(one.vocab_size)
    return one.vocab_size == other.vocab_size and all(one.decode_bytes([i]) == other.decode_bytes([i]) for i in ids)
