"""The built-in text, reading text files, splitting, and encoding text that is long."""

import hashlib
import os
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt.data import corpus, prepare
from gpt.fingerprint import fingerprint
from gpt.tokenizer import BPETokenizer, CharTokenizer, gpt2
from gpt.tokenizer.base import chunks

# ----- the built-in text ------------------------------------------------------------------------------------


def test_the_built_in_text_is_tiny_shakespeare_to_the_byte():
    text = corpus.builtin()
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert digest == "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"  # nanoGPT's input.txt
    assert text.startswith("First Citizen:\nBefore we proceed any further, hear me speak.\n")
    assert (len(text), len(set(text)), text.count("\n")) == (1_115_394, 65, 40_000)


def test_the_built_in_text_is_small_compressed_and_has_its_source_beside_it():
    path = Path(corpus.__file__).with_name(corpus.BUILTIN)
    assert path.stat().st_size < 450_000
    about = path.with_name("tinyshakespeare.md").read_text(encoding="utf-8")
    digest = hashlib.sha256(corpus.builtin().encode()).hexdigest()
    for part in (path.name, "karpathy/char-rnn", "public domain", digest):
        assert part in about


def test_a_python_without_bzip2_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "bz2", None)
    with pytest.raises(ImportError, match=r"without bzip2 .*: give a text file with --text"):
        corpus.builtin()


# ----- files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"plain\n", "plain\n"),
        (b"no end", "no end"),
        (b"\xef\xbb\xbfmarked", "marked"),
        (b"a\r\nb\rc\n\r\n", "a\nb\nc\n\n"),
        ("é漢🙂\0\x1c\u2028".encode(), "é漢🙂\0\x1c\u2028"),
        (b"in \xef\xbb\xbf the middle", "in \ufeff the middle"),
    ],
)
def test_a_file_is_read_as_it_is_but_for_mark_and_line_ends(tmp_path, data, text):
    path = tmp_path / "text"
    path.write_bytes(data)
    assert corpus.read_text(path) == corpus.read_text(str(path)) == corpus.read_text([path]) == text


def test_several_files_follow_each_other_on_lines_of_their_own(tmp_path):
    for name, data in (("a", b"one"), ("b", b"two\n"), ("c", b"three")):
        (tmp_path / name).write_bytes(data)
    assert corpus.read_text(tmp_path / name for name in "abc") == "one\ntwo\nthree"


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b" \r\n\t", "is empty"),
        (b"abc\xe9def", r"is not UTF-8: byte 0xe9 at offset 3 \(it may be Latin-1, or not a text\); convert it"),
        (b"\xef\xbb\xbfab\xff", "byte 0xff at offset 5"),
        (b"cut \xf0\x9f\x99", "byte 0xf0 at offset 4"),
        ("text".encode("utf-16"), "is UTF-16: convert it to UTF-8"),
        (b"\xed\xa0\x80", "byte 0xed at offset 0"),  # a lone surrogate, as some programs write it
    ],
)
def test_a_file_without_usable_text_is_refused(tmp_path, data, told):
    path = tmp_path / "text"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=told) as caught:
        corpus.read_text([path])
    assert repr(str(path)) in str(caught.value)


def test_a_file_that_cannot_be_read_is_an_os_error_with_its_name(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"the text file '.*none' cannot be read: No such file"):
        corpus.read_text(tmp_path / "none")
    with pytest.raises(IsADirectoryError, match="is a directory: name the text files in it"):
        corpus.read_text(tmp_path)
    with pytest.raises(ValueError, match="no text files are given"):
        corpus.read_text([])

    def refuse(self, mode):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(PermissionError, match=r"the text file '.*secret' cannot be read: Permission denied"):
        corpus.read_text(tmp_path / "secret")


# ----- to the model -----------------------------------------------------------------------------------------


def test_split_is_the_books(data_dir):
    tok = gpt2(data_dir)
    training, validation = corpus.split(corpus.read_text(data_dir / "the-verdict.txt"))
    assert (len(tok.encode(training)), len(tok.encode(validation))) == (4612, 534)


@given(text=st.text(min_size=2), fraction=st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_split_loses_nothing(text, fraction):
    cut = int(fraction * len(text))
    if cut == 0:
        with pytest.raises(ValueError, match=f"a text of {len(text)} characters is too short"):
            corpus.split(text, fraction)
    else:
        assert corpus.split(text, fraction) == (text[:cut], text[cut:])


@pytest.mark.parametrize("fraction", [0, 1, 1.5, -0.1, float("nan")])
def test_a_fraction_that_leaves_nothing_is_refused(fraction):
    with pytest.raises(ValueError, match=f"fraction must be between 0 and 1, such as 0.9, got {fraction}"):
        corpus.split("a long text", fraction)


@pytest.mark.parametrize("text", ["", "a"])
def test_a_text_that_is_too_short_to_split_is_refused(text):
    with pytest.raises(ValueError, match=r"too short to split at 0\.9"):
        corpus.split(text)


@pytest.mark.parametrize(
    ("text", "start", "counts"), [("one\ntwo\n", [0], "7 train + 1 validation"), ("tattat", [1], "5 train + 1 valid")]
)
def test_a_prepared_text_says_what_it_has_and_how_a_text_begins(tmp_path, text, start, counts):
    """After a new line, or in a text of one line with its first token; characters are numbered in their order."""
    (tmp_path / "text").write_text(text)
    said = []
    found = prepare.prepare([tmp_path / "text"], "char", 0, 0.1, tmp_path, said.append)
    assert found.data["train"]["start"] == start
    assert said[0] == f"text       {tmp_path / 'text'}: {len(text)} characters"
    assert said[1].startswith(f"tokens     char of {found.tokenizer.vocab_size}: {counts}")
    assert len(said) == 2


@pytest.mark.slow
def test_encoding_in_parts_gives_the_ids_of_the_whole():
    text = corpus.builtin()[:350_000]
    for tok in (BPETokenizer.train(text, 400), CharTokenizer.train(text)):
        long = text * 8 + "<|endoftext|>" * isinstance(tok, BPETokenizer)
        assert len(long) > 2 << 20
        assert list(corpus.encode(tok, long, {"<|endoftext|>"})) == tok.encode(long, {"<|endoftext|>"})
    with pytest.raises(ValueError, match="special token"):
        list(corpus.encode(BPETokenizer.train(text, 257), "<|endoftext|>"))


@pytest.mark.slow
def test_a_hundred_megabytes_are_read_and_split_in_seconds(tmp_path, data_dir):
    path = tmp_path / "long.txt"
    path.write_bytes((data_dir / "tinyshakespeare.txt").read_bytes().replace(b"\n", b"\r\n") * 90)
    start = time.process_time()
    text = corpus.read_text(path)
    parts = corpus.split(text)
    assert time.process_time() - start < 10  # measured: 0.4 s
    assert len(text) == sum(map(len, parts)) == 90 * 1_115_394


@given(text=st.text(st.sampled_from("ab \n\r漢"), min_size=1), size=st.integers(1, 5))
def test_blocks_are_the_text_however_small_they_are(tmp_path_factory, text, size):
    path = tmp_path_factory.mktemp("blocks") / "text"
    path.write_bytes(("x" + text).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "BLOCK", size)  # bytes: cuts characters and line ends in two
        read = corpus.Text([path, path])
        assert "".join(read) == "".join(read) == corpus.read_text([path, path])
        whole = ("x" + text).replace("\r\n", "\n").replace("\r", "\n")
        whole = (whole if whole.endswith("\n") else whole + "\n") + whole
        assert "".join(read) == whole
        assert read.characters == len(whole)
        assert max(map(len, read)) <= size + 1  # a held back "\r", and the character behind it
        for fraction in (0.4, 0.9):
            assert "".join(corpus.first_part(read, fraction)) == corpus.split(whole, fraction)[0]
        parts = list(chunks(read, 3))
    assert parts == list(chunks(whole, 3))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes in directories")
def test_what_can_be_read_once_is_read_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_text("a text"))
    writer.start()
    read = corpus.Text([tmp_path / "pipe"])
    writer.join()
    assert [*read] == [*read] == ["a text"]
    assert read.files == []  # nothing that could be compared when training is resumed
    assert "".join(corpus.Text()) == corpus.builtin()


def test_what_waits_for_the_cut_is_a_block_more_than_the_rest_of_the_text():
    """A text is cut where its length says, in one reading: most of it is given before its end is known."""
    given = []

    def blocks():
        for n in range(100):
            waiting = 10 * n - sum(map(len, given))
            assert waiting <= 0.1 * 10 * n + 20, (n, waiting)
            yield "0123456789"

    for block in corpus.first_part(blocks(), 0.9):
        given.append(block)
    assert "".join(given) == "0123456789" * 90


def test_a_text_knows_its_files_after_it_has_been_read_once(tmp_path, monkeypatch):
    for name, data in (("a", b"\xef\xbb\xbfone\r\n"), ("b", "zwölf".encode())):
        (tmp_path / name).write_bytes(data)
    expected = [{"path": str(tmp_path / name), **fingerprint(tmp_path / name)} for name in "ab"]
    assert corpus.Text([tmp_path / "a", tmp_path / "b"]).files == expected
    monkeypatch.setattr(corpus, "HELD", 0)
    text = corpus.Text([tmp_path / "a", tmp_path / "b"])
    assert text.files == []
    for _ in range(2):
        assert "".join(text) == "one\nzwölf"
        assert text.files == expected


@pytest.mark.parametrize(
    ("length", "says"), [(1, "a text of 1 character is too short"), (0, "a text of 0 characters is")]
)
def test_a_text_too_short_to_split_is_counted_in_plain_words(length, says):
    with pytest.raises(ValueError, match=says):
        corpus.split("a" * length)
