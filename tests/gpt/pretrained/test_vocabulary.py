"""Tokenizers' files of others: what is read is the same tokenizer, and what would encode differently is refused.

That it does encode the same is tested against transformers, in tests/peers.
"""

import json

import folders
import pytest

from gpt.pretrained import load_tokenizer, vocabulary
from gpt.tokenizer import BPETokenizer, CharTokenizer, gpt2

PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def tokenizer_json() -> dict:
    """What the tokenizers library writes for folders.TOKENIZER."""
    return {
        "version": "1.0",
        "added_tokens": [{"id": 259, "content": "<|endoftext|>", **PLAIN}],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
        "post_processor": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False},
        "decoder": {"type": "ByteLevel"},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "", "fuse_unk": False,
            "end_of_word_suffix": "", "vocab": folders.vocabulary(), "merges": ["a b", "ab ab", "ab c"],
        },
    }  # fmt: skip


def write(folder, fields) -> None:
    (folder / "tokenizer.json").write_text(fields if isinstance(fields, str) else json.dumps(fields))


@pytest.mark.parametrize("merges", [["a b", "ab ab", "ab c"], [["a", "b"], ["ab", "ab"], ["ab", "c"]]])
def test_tokenizer_json(tmp_path, merges):
    fields = tokenizer_json()
    fields["model"]["merges"] = merges
    write(tmp_path, fields)
    found = load_tokenizer(tmp_path, 260)
    assert (found.tokens, found.special_tokens) == (folders.TOKENIZER.tokens, {"<|endoftext|>": 259})


@pytest.mark.parametrize(("vocabulary", "merges"), [("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")])
def test_two_files_and_a_vocabulary_that_was_rounded_up(tmp_path, vocabulary, merges):
    (tmp_path / vocabulary).write_text(json.dumps(folders.vocabulary()))
    (tmp_path / merges).write_text(folders.MERGES)
    assert load_tokenizer(tmp_path, 260).tokens == folders.TOKENIZER.tokens
    found = load_tokenizer(tmp_path, 262)
    assert found.special_tokens == {"<|endoftext|>": 259, "<|unused260|>": 260, "<|unused261|>": 261}


@pytest.mark.slow
def test_gpt2s_own(data_dir):
    assert load_tokenizer(data_dir).tokens == gpt2(data_dir).tokens
    assert load_tokenizer(data_dir).special_tokens == {"<|endoftext|>": 50256}


def test_without_files_50257_tokens_are_gpt2s(tmp_path, data_dir, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(data_dir))
    assert load_tokenizer(tmp_path, 50257).vocab_size == 50257
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer: put its tokenizer\.json there, .*it has 50258"):
        load_tokenizer(tmp_path, 50258)


def change(*path, to):
    """`fields` with the value at that path changed."""

    def apply(fields):
        place = fields
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = to
        return fields

    return apply


HELLO = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}]}
REFUSED = {
    "not JSON": (lambda fields: "{", "line 1 column 2"),
    "a list": (lambda fields: [], "it has no model with a vocabulary"),
    "no model": (change("model", to=None), "it has no model with a vocabulary"),
    "unigram": (change("model", "type", to="Unigram"), "its model is 'Unigram'; only byte-level BPE as in GPT-2"),
    "normalizer": (change("normalizer", to={"type": "NFC"}), "it has a normalizer"),
    "no bytes": (change("pre_tokenizer", to={"type": "Whitespace"}), "its pre_tokenizer is not ByteLevel"),
    "prefix space": (change("pre_tokenizer", "add_prefix_space", to=True), "it puts a space before the text"),
    "another pattern": (change("pre_tokenizer", "use_regex", to=False), "it does not cut text as GPT-2 does"),
    "adds tokens": (change("post_processor", to=HELLO), "it adds tokens to the text"),
    "dropout": (change("model", "dropout", to=0.1), "its dropout is 0.1"),
    "whole words": (change("model", "ignore_merges", to=True), "its ignore_merges is True"),
    "takes space": (change("added_tokens", 0, "lstrip", to=True), "'<|endoftext|>' takes the space beside it"),
    "two ids": (change("added_tokens", 0, "id", to=3), "its special token '<|endoftext|>' has two ids, 259 and 3"),
    "a hole": (change("model", "vocab", "<|endoftext|>", to=300), "has two ids, 300 and 259"),
    "an id twice": (change("model", "vocab", "abc", to=257), "its ids are not 0 to 259, each once"),
    "too many": (
        change("added_tokens", to=[{"id": 260, "content": "<x>", **PLAIN}]),
        "has 261 tokens, and the model 260",
    ),
    "pair": (change("model", "merges", 1, to="a bab"), "its merge 2 is 'a bab', and token 257, 'abab', is here merged"),
    "order": (change("model", "merges", to=["a b", "ab c", "ab ab"]), "its merge 2 is 'ab c', and token 257, 'abab'"),
    "merge of three": (change("model", "merges", 1, to="ab a b"), "its merge 2 is 'ab a b', and token 257"),
    "merges are a number": (change("model", "merges", to=3), "it lacks the fields of such a file"),
    "tokens without a name": (change("added_tokens", to=[{}]), "it lacks the fields of such a file"),
    "words": (change("model", to={"type": "WordLevel", "vocab": {"a": 0}}), "but not as `gpt export` writes"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_encode_differently_is_refused(tmp_path, case):
    apply, says = REFUSED[case]
    write(tmp_path, apply(tokenizer_json()))
    with pytest.raises(ValueError, match=r"tokenizer\.json is not a tokenizer that can be used: ") as error:
        load_tokenizer(tmp_path, 260)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_special_token_before_the_others_is_refused(tmp_path):
    """As tokenizers of the tokenizers library's trainer have it."""
    fields = tokenizer_json()
    names = ["<|endoftext|>", *(token for token in folders.vocabulary() if token != "<|endoftext|>")]
    fields["model"]["vocab"] = {token: id for id, token in enumerate(names)}
    fields["added_tokens"][0]["id"] = 0
    write(tmp_path, fields)
    with pytest.raises(
        ValueError, match=r"its special token '<\|endoftext\|>' has id 0: here they come after all others"
    ):
        load_tokenizer(tmp_path, 260)


def test_halves_of_tokens_are_what_training_merged():
    text = "the cat sat on the mat, the rat sat on the cat; aaaa aaaaaa aa " * 3
    tokenizer = BPETokenizer.train(text, 330)
    pairs = vocabulary.halves(tokenizer.tokens)
    assert all(len(pair) == 2 for pair in pairs)
    for token, (left, right) in zip(tokenizer.tokens[256:], pairs, strict=True):
        assert left + right == token
        assert {left, right} <= set(tokenizer.tokens[: tokenizer.tokens.index(token)])
    # xbcy cannot be reached: bc, which comes first, takes its middle away
    assert vocabulary.halves([*tokenizer.tokens[:256], b"bc", b"xb", b"cy", b"xbcy"])[-1] == [b"x", b"bc", b"y"]


@pytest.mark.parametrize("special", [[], ["<|endoftext|>"]])
def test_characters_out_and_in(tmp_path, special):
    ours = CharTokenizer("\n abcé🙂", special)
    for name, text in vocabulary.tokenizer_files(ours, 64).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    found = load_tokenizer(tmp_path, ours.vocab_size)
    assert (found.characters, found.special_tokens) == (ours.characters, ours.special_tokens)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["clean_up_tokenization_spaces"] is False  # it would take the space before a full stop away
    with pytest.raises(ValueError, match=f"it has {ours.vocab_size} tokens, and the model 9"):
        load_tokenizer(tmp_path, 9)
