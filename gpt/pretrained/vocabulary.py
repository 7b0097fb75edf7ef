"""Byte-level BPE in other formats: vocab.json and merges.txt, encoder.json and vocab.bpe, tokenizer.json.

A tokenizer is read or written only if both implementations encode every text alike. Their files have a
vocabulary and a list of the pairs that are merged, in order; ours has the tokens alone, each merged from two earlier
ones. The two are equal if the earlier merges split each token's bytes into the pair of the list, which is checked
for each pair: in any text, the bytes of a token are merged as they would be alone, unless merged with bytes outside.

In the files a byte is one character, see tokenizer.bpe.BYTE_OF.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorlite.files import check_regular

from .. import tokenizer as tokenizers
from ..jsonfile import parse
from ..tokenizer import END_OF_TEXT, BPETokenizer, CharTokenizer, Tokenizer
from ..tokenizer.bpe import BYTE_OF

CHARACTER_OF = {byte: character for character, byte in BYTE_OF.items()}

Json = dict[str, Any]
MOST_WORK = 20_000_000  # the sum of the squares of the tokens' lengths, 2,000,000 in GPT-2: a few seconds of checking
PAIRS_OF_FILES = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))


# ----- reading ----------------------------------------------------------------------------------------------------


def read_tokenizer(folder: Path, vocab_size: int) -> Tokenizer:
    """The tokenizer of a folder; GPT-2's own where it has none and `vocab_size` is GPT-2's.

    Where it has fewer tokens than `vocab_size`, as in models whose vocabulary was rounded up, the rest are special
    tokens <|unused...|>. ValueError for a tokenizer that would encode a text differently here, FileNotFoundError where
    there is none.
    """
    file = folder / "tokenizer.json"
    if file.exists():
        read = _from_tokenizer_json
    elif pair := next((pair for pair in PAIRS_OF_FILES if all((folder / name).exists() for name in pair)), None):
        file, read = folder / pair[0], _from_two_files
    elif vocab_size == 50257:
        return tokenizers.gpt2()
    else:
        raise FileNotFoundError(
            f"{folder} has no tokenizer: put its tokenizer.json there, or vocab.json and merges.txt; "
            f"without them the model must have GPT-2's 50257 tokens, and it has {vocab_size}"
        )
    for name in ("tokenizer.json", *sum(PAIRS_OF_FILES, ())):
        if (folder / name).exists():
            check_regular(folder / name)
    try:
        return read(folder, vocab_size)
    except ValueError as error:
        raise ValueError(f"{file} is not a tokenizer that can be used: {error!s:.400}") from None
    except (LookupError, TypeError, AttributeError):
        raise ValueError(f"{file} is not a tokenizer that can be used: it lacks the fields of such a file") from None


def _from_two_files(folder: Path, vocab_size: int) -> Tokenizer:
    vocabulary, merges = next(pair for pair in PAIRS_OF_FILES if all((folder / name).exists() for name in pair))
    lines = (folder / merges).read_text(encoding="utf-8").splitlines()
    pairs = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    return _bpe(parse((folder / vocabulary).read_text(encoding="utf-8")), pairs, {}, vocab_size)


def _from_tokenizer_json(folder: Path, vocab_size: int) -> Tokenizer:
    fields = parse((folder / "tokenizer.json").read_text(encoding="utf-8"))
    model = fields.get("model") if isinstance(fields, dict) else None
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict):
        raise ValueError("it has no model with a vocabulary from tokens to ids")
    if model.get("type") == "WordLevel":
        return _characters(fields, vocab_size)
    if model.get("type", "BPE") != "BPE":
        raise ValueError(f"its model is {model.get('type')!r}; only byte-level BPE as in GPT-2 can be read")
    before = fields.get("pre_tokenizer") or {}
    refused = {
        "it has a normalizer": fields.get("normalizer"),
        "its pre_tokenizer is not ByteLevel": before.get("type") != "ByteLevel",
        "it puts a space before the text": before.get("add_prefix_space"),
        "it does not cut text as GPT-2 does": not before.get("use_regex", True),
        "it adds tokens to the text": not _adds_nothing(fields.get("post_processor")),
    }
    options = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")
    refused |= {f"its {name} is {model.get(name)!r}": model.get(name) for name in options}
    added = fields.get("added_tokens") or []
    for token in added:
        refused[f"its special token {token['content']!r} takes the space beside it, or matches whole words only"] = any(
            token.get(name) for name in ("lstrip", "rstrip", "single_word")
        )
    if reasons := [reason for reason, there in refused.items() if there]:
        raise ValueError("; ".join(reasons))
    pairs = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in model.get("merges", ())]
    return _bpe(model["vocab"], pairs, {token["content"]: token["id"] for token in added}, vocab_size)


def _adds_nothing(step: dict[str, Any] | None) -> bool:
    """True for a post_processor that leaves the ids of one text as they are."""
    if step is None or step.get("type") == "ByteLevel":
        return True
    alone = [{"Sequence": {"id": "A", "type_id": 0}}]  # transformers writes this for an empty post_processor
    return step.get("type") == "TemplateProcessing" and step.get("single") == alone


def _bpe(
    vocabulary: Mapping[str, int], merges: Sequence[tuple[str, ...]], added: Mapping[str, int], vocab_size: int
) -> BPETokenizer:
    """Ours, from a vocabulary, its merges and its special tokens; a ValueError where it would not encode the same."""
    ids = dict(vocabulary)
    for token, id in added.items():
        if ids.setdefault(token, id) != id:
            raise ValueError(f"its special token {token!r} has two ids, {ids[token]} and {id}")
    spelt = sorted(ids, key=ids.__getitem__)
    if [ids[token] for token in spelt] != list(range(len(spelt))):
        raise ValueError(f"its ids are not 0 to {len(spelt) - 1}, each once")
    if len(spelt) > vocab_size:
        raise ValueError(f"it has {len(spelt)} tokens, and the model {vocab_size}")
    if vocab_size > 2 * len(spelt) + 1024:  # each of the rest becomes a token
        raise ValueError(f"it has {len(spelt)} tokens, and the model {vocab_size}: that is more than rounding up adds")
    count = 256 + len(merges)
    if count > len(spelt):
        raise ValueError(f"it has {len(merges)} merges, and {len(spelt)} tokens for 256 bytes and them")
    if early := [token for token in added if ids[token] < count]:
        raise ValueError(f"its special token {early[0]!r} has id {ids[early[0]]}: here they come after all others")
    try:
        tokens = [bytes(BYTE_OF[character] for character in token) for token in spelt[:count]]
    except KeyError as error:
        raise ValueError(f"one of its tokens has {error.args[0]!r}, which spells no byte") from None
    if sum(len(token) ** 2 for token in tokens) > MOST_WORK:
        raise ValueError(f"its tokens are too long: one has {max(map(len, tokens)):,} bytes")
    _check_merges(tokens, [tuple(map(_spelt, pair)) for pair in halves(tokens)], merges)
    specials = spelt[count:] + [f"<|unused{id}|>" for id in range(len(spelt), vocab_size)]
    return BPETokenizer(tokens, specials)


def _check_merges(tokens: list[bytes], ours: list[tuple[str, ...]], theirs: Sequence[tuple[str, ...]]) -> None:
    """ValueError where a pair of `theirs` differs from the pair in `ours` that the same token is merged from."""
    for id, (our_pair, their_pair) in enumerate(zip(ours, theirs, strict=True), 256):
        if our_pair != their_pair:
            raise ValueError(
                f"its merge {id - 255} is {' '.join(their_pair)!r}, and token {id}, {_spelt(tokens[id])!r}, is here "
                f"merged from {' '.join(our_pair)!r}: texts would be encoded differently"
            )


def halves(tokens: Sequence[bytes]) -> list[list[bytes]]:
    """For each token after the 256 bytes, what the merges before it make of its bytes: two, or more parts."""
    ranks = {token: id for id, token in enumerate(tokens)}
    found = []
    for id, token in enumerate(tokens[256:], 256):
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            rank, at = min((ranks.get(parts[i] + parts[i + 1], id), i) for i in range(len(parts) - 1))
            if rank >= id:
                break
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        found.append(parts)
    return found


def _spelt(token: bytes) -> str:
    return "".join(CHARACTER_OF[byte] for byte in token)


def _characters(fields: dict[str, Any], vocab_size: int) -> CharTokenizer:
    """The tokenizer that `_character_fields` wrote."""
    vocabulary = fields["model"]["vocab"]
    characters = "".join(sorted(vocabulary, key=vocabulary.__getitem__))
    specials = {token["content"]: token["id"] for token in fields.get("added_tokens") or []}
    tokenizer = CharTokenizer(characters, list(specials))
    after = None if _adds_nothing(fields.get("post_processor")) else "something"
    if {**fields, "post_processor": after} != _character_fields(characters, tokenizer.special_tokens):
        raise ValueError("its model is 'WordLevel', but not as `gpt export` writes a tokenizer of characters")
    if tokenizer.vocab_size != vocab_size:
        raise ValueError(f"it has {tokenizer.vocab_size} tokens, and the model {vocab_size}")
    return tokenizer


# ----- writing ----------------------------------------------------------------------------------------------------


def tokenizer_files(tokenizer: Tokenizer, context_length: int, chat_template: str | None = None) -> dict[str, str]:
    """The files, by name, from which transformers makes a tokenizer that encodes and decodes as this one.

    `chat_template` is that of a model that answers.

    One difference remains: transformers always encodes the text of a special token as that token, here it must be
    allowed. ValueError where no tokenizer of transformers does the same.
    """
    about: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": context_length}
    about["clean_up_tokenization_spaces"] = False
    if END_OF_TEXT in tokenizer.special_tokens:
        about |= {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT}
    if chat_template is not None:
        about["chat_template"] = chat_template
    if isinstance(tokenizer, CharTokenizer):
        fields = _character_fields(tokenizer.characters, tokenizer.special_tokens)
        return {"tokenizer.json": _json(fields), "tokenizer_config.json": _json(about)}
    if not isinstance(tokenizer, BPETokenizer):
        raise ValueError(
            f"a {type(tokenizer).__name__} cannot be exported: it drops the spaces between words, and what it decodes "
            "is more than its tokens joined, which no tokenizer of transformers' does; train with --tokenizer bpe"
        )
    pairs = halves(tokenizer.tokens)
    if odd := [token for token, pair in zip(tokenizer.tokens[256:], pairs, strict=True) if len(pair) != 2]:
        raise ValueError(f"the token {odd[0]!r} is never reached by merging pairs, so GPT-2's format cannot hold it")
    merges = [" ".join(map(_spelt, pair)) for pair in pairs]
    vocabulary = {_spelt(token): id for id, token in enumerate(tokenizer.tokens)} | tokenizer.special_tokens
    return {
        "vocab.json": _json(vocabulary, indent=None),
        "merges.txt": "\n".join(["#version: 0.2", *merges, ""]),
        "tokenizer.json": _json(_bpe_fields(vocabulary, merges, tokenizer.special_tokens)),
        "tokenizer_config.json": _json(about),
    }


def _json(value: Any, indent: int | None = 2) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=False) + "\n"


def _bpe_fields(vocabulary: Mapping[str, int], merges: list[str], specials: Mapping[str, int]) -> dict[str, Any]:
    """tokenizer.json of a byte-level BPE tokenizer."""
    levels = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "", "end_of_word_suffix": "",
        "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": dict(vocabulary), "merges": merges,
    }  # fmt: skip
    return _fields(specials, levels, {**levels, "trim_offsets": False}, levels, model)


def _character_fields(characters: str, specials: Mapping[str, int]) -> dict[str, Any]:
    """tokenizer.json of a tokenizer of characters: a word is one character, and an unknown one is an error."""
    split = {"type": "Split", "pattern": {"Regex": "[\\s\\S]"}, "behavior": "Isolated", "invert": False}
    # "<unk>" is not one character, so no vocabulary has it, and the library raises where it would need it.
    model = {"type": "WordLevel", "vocab": {c: id for id, c in enumerate(characters)}, "unk_token": "<unk>"}
    return _fields(specials, split, None, {"type": "Fuse"}, model)


def _fields(specials: Mapping[str, int], split: Json, after: Json | None, decoder: Json, model: Json) -> Json:
    off = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": id, "content": token, **off, "special": True} for token, id in specials.items()],
        "normalizer": None,
        "pre_tokenizer": split,
        "post_processor": after,
        "decoder": decoder,
        "model": model,
    }
