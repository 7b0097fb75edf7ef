"""`gpt tokenize`: the tokens of a text."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import Positional, arg

from .. import tokenizer as tokenizers
from ..console import counted, piped_text, printable
from ..tokenizer import Tokenizer
from ..training import checkpoint, run_directory


@dataclass(frozen=True)
class Tokenize:
    """Show the tokens of a text: their ids, and the text of each.

    `gpt tokenize RUN < FILE` shows those of what is piped in, without the line end at its end.
    """

    usual: ClassVar = "a text with spaces needs quotation marks"

    # gpt2, or the directory of a run (./gpt2 for a run of that name)
    tokenizer: Annotated[Positional[str], arg(metavar="RUN|gpt2")]
    text: Annotated[Positional[str | None], arg(metavar="TEXT")] = None  # default: what is piped in
    special_tokens: bool = False  # read <|endoftext|> and the like as special tokens, not as text
    json: bool = False  # print one line of JSON: the ids, the texts of the tokens, and counts

    def __call__(self) -> int:
        text = piped_text() if self.text is None else self.text
        if text is None:
            raise ValueError('there is no text: gpt tokenize RUN "some text", or pipe it in')
        tokenizer = tokenizer_of(self.tokenizer)
        ids = tokenizer.encode(text, "all") if self.special_tokens else tokenizer.encode_ordinary(text)
        pieces = [tokenizer.decode_bytes([id]).decode("utf-8", "backslashreplace") for id in ids]
        size = len(text.encode())
        if self.json:
            print(json.dumps({"ids": ids, "tokens": pieces, "characters": len(text), "bytes": size}))
            return 0
        width = len(f"{tokenizer.vocab_size:,}")
        print(f"{'token':>7}  {'id':>{width}}  text")
        for i, (id, piece) in enumerate(zip(ids, pieces, strict=True)):
            print(f"{i:>7,}  {id:>{width}}  {shown(piece)}")
        each = f", {size / len(ids):.2f} bytes a token" if ids else ""
        print(f"{counted(len(ids), 'token')} of {tokenizer.vocab_size:,}: {counted(len(text), 'character')}, "
              f"{counted(size, 'byte')}{each}")  # fmt: skip
        return 0


def shown(piece: str) -> str:
    """A token's text in quotation marks, on one line: \\n for a line end, \\xNN for a byte that is no character."""
    return f"'{printable(piece, 200)}'".replace("\n", "\\n")


def tokenizer_of(name: str) -> Tokenizer:
    """GPT-2's tokenizer, or that of a run. FileNotFoundError where there is none, ValueError where it is damaged."""
    if name == "gpt2":
        return tokenizers.gpt2()
    run = Path(name).expanduser()
    if run.is_file():
        return tokenizers.load(run)
    if not run_directory.is_run(run) and (run / "tokenizer.json").is_file():
        return tokenizers.load(run / "tokenizer.json")
    return tokenizers.load(checkpoint.newest(run, ["tokenizer.json"])[0].folder / "tokenizer.json")
