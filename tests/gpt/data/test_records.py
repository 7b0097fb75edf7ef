"""Data files as people have them: read, or refused in one sentence that names the file and the place."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from odd_files import ENTRY, HAM, INSTRUCTIONS, LABELLED, MANY, PLAIN, table

from gpt.data import corpus, records
from gpt.tasks import classify, instruct
from gpt.tasks.classify.data import Entry

pytestmark = pytest.mark.finding("C11")


def read(function, path, content):
    """What `function` makes of a file with that content, or its error; and its notes."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    notes: list[str] = []
    try:
        return function(path, note=notes.append), notes
    except ValueError as error:
        return str(error), notes


def check(function, folder, name, content, expected):
    found, notes = read(function, folder / name, content)
    if isinstance(expected, str):
        assert isinstance(found, str), found
        assert re.search(expected, found), found
        assert str(folder / name) in found
        assert "\n" not in found
        assert len(found) < 400
        assert not notes
    else:
        assert found == expected


@pytest.mark.parametrize(("name", "content", "expected"), LABELLED, ids=[name for name, *_ in LABELLED])
def test_labelled_texts(tmp_path, name, content, expected):
    check(classify.data.read, tmp_path, name, content, expected)


@pytest.mark.parametrize(("name", "content", "expected"), INSTRUCTIONS, ids=[name for name, *_ in INSTRUCTIONS])
def test_instructions(tmp_path, name, content, expected):
    check(instruct.read_entries, tmp_path, name, content, expected)


@pytest.mark.parametrize(
    ("name", "notes"),
    [
        ("plain.tsv", []),
        ("unknown names.csv", ["{f}, line 1 is read as the names of the columns, 'klass' and 'nachricht'"]),
        ("empty text of many.tsv", ["{f}, line 21: the text is empty; left out"]),
        ("one wide of many.csv", ["{f}, line 21 has 3 columns, and the first line has 2: a text with one of"]),
        ("a damaged line of many.jsonl", ["{f} is not JSON at line 13, column 1: Expecting ',' delimiter, in what b"]),
        ("cut off.jsonl", ["{f} is not JSON at line 21, column 18: Unterminated string"]),
    ],
)  # fmt: skip
def test_what_is_left_out_is_named_by_file_and_line(tmp_path, name, notes):
    content = next(content for other, content, _ in LABELLED if other == name)
    _, found = read(classify.data.read, tmp_path / name, content)
    assert len(found) == len(notes)
    for sentence, begin in zip(found, notes, strict=True):
        assert sentence.startswith("warning: " + begin.format(f=tmp_path / name))


def test_without_a_place_for_notes_nothing_is_left_out(tmp_path):
    path = tmp_path / "f.tsv"
    path.write_text("".join(f"{a}\t{b}\n" for a, b in MANY) + "ham\t\n")
    with pytest.raises(ValueError, match=r"f\.tsv, line 21: the text is empty$"):
        classify.data.read(path)


def test_of_many_that_are_left_out_some_are_shown_and_all_are_counted(tmp_path):
    rows = [f"{a}\t{b}\n" for a, b in MANY * 5] + ["ham\t\n"] * 8
    found, notes = read(classify.data.read, tmp_path / "f", "".join(rows))
    assert found == MANY * 5
    assert len(notes) == 6
    assert notes[-1] == f"warning: {tmp_path / 'f'}: 3 more of 108 entries cannot be used; left out"


@pytest.mark.parametrize(("label", "text"), [("2", "3"), ("klass", "msg"), ("2", "msg"), ("klass", "3")])
@pytest.mark.parametrize("head", ["", "id,klass,msg\n"])
def test_columns_of_a_wide_table_are_named_or_numbered(tmp_path, label, text, head):
    path = tmp_path / "f"
    path.write_text(head + "".join(f"{i},{a},{b}\n" for i, (a, b) in enumerate(HAM)))
    if not head and not (label + text).isdecimal():
        with pytest.raises(ValueError, match=r"f has no column '(klass|msg)' for the .*: its columns are 1, 2, 3"):
            classify.data.read(path, label, text)
    else:
        assert classify.data.read(path, label, text) == [*HAM]


def test_the_corpus_of_the_book_says_which_of_its_lines_are_one_text(data_dir):
    notes: list[str] = []
    assert len(classify.data.read(data_dir / "SMSSpamCollection", note=notes.append)) == 5572
    assert re.fullmatch(r"warning: .*: lines 5082 to 5084 are read as one text, because a quotation mark .*", *notes)


@pytest.mark.parametrize(("name", "content", "expected"), LABELLED, ids=[name for name, *_ in LABELLED])
def test_entries_longer_than_a_piece_are_read_as_others(tmp_path, monkeypatch, name, content, expected):
    monkeypatch.setattr(records, "PIECE", 3)
    check(classify.data.read, tmp_path, name, content, expected)


def test_an_error_on_each_line_costs_what_a_line_costs(tmp_path, monkeypatch):
    """An error of json counts the lines of the text that it is given."""
    given = []

    class Counting(json.JSONDecodeError):
        def __init__(self, message, document, at):
            given.append(len(document))
            super().__init__(message, document, at)

    monkeypatch.setattr(json.decoder, "JSONDecodeError", Counting)
    monkeypatch.setattr(records, "PIECE", 100)
    good = "".join(f'{{"label": "{label}", "text": "{text}"}}\n' for label, text in MANY)
    found, notes = read(classify.data.read, tmp_path / "f", (good + '{"label": bad}\n') * 500)
    assert found == MANY * 500
    assert notes[-1].endswith("495 more of 10,500 entries cannot be used; left out")
    assert len(given) == 500
    assert max(given) <= 100


def test_a_folder_and_a_file_that_is_not_there(tmp_path):
    for function in (classify.data.read, instruct.read_entries):
        with pytest.raises(IsADirectoryError, match="is a directory: name the file in it"):
            function(tmp_path)
        with pytest.raises(FileNotFoundError, match="nowhere cannot be read: No such file"):
            function(tmp_path / "nowhere")


# Every character that can be in a file, those most often that some reader takes for something else.
CHARACTERS = st.one_of(st.sampled_from('\u2028\u2029\x85\x0b\x0c\x1c\r\n\t",;|{}[]\\ é'), st.characters(codec="utf-8"))
TEXT = st.text(CHARACTERS, min_size=1).filter(lambda text: text.strip())
ENTRIES = st.lists(st.builds(lambda label, text: Entry(label.strip(), text), TEXT, TEXT), min_size=1, max_size=4)


@given(entries=ENTRIES)
def test_what_is_written_is_read_again(tmp_path_factory, entries):
    path = tmp_path_factory.getbasetemp() / "train.jsonl"
    classify.data.write(path, entries)
    assert classify.data.read(path, "label", "text") == entries


@given(entries=ENTRIES)
def test_a_quoted_table_is_read_as_it_was_written(tmp_path_factory, entries):
    """By Python's csv module; only the ends of lines in a text become "\\n", and a NUL is refused."""
    import csv

    path = tmp_path_factory.getbasetemp() / "quoted.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([("label", "text"), *entries])
    if "\0" in path.read_text(encoding="utf-8"):
        with pytest.raises(ValueError, match=r"quoted\.csv, line \d+ has a NUL character"):
            classify.data.read(path, "label", "text")
        return
    ends = [Entry(*(field.replace("\r\n", "\n").replace("\r", "\n") for field in entry)) for entry in entries]
    assert classify.data.read(path, "label", "text") == [Entry(entry.label.strip(), entry.text) for entry in ends]


@given(content=st.one_of(st.binary(max_size=60), st.text(CHARACTERS, max_size=60).map(str.encode)), data=st.data())
def test_whatever_a_file_holds_there_are_entries_or_one_sentence(tmp_path_factory, content, data):
    begin = data.draw(st.sampled_from([b"", b"label,text\n", b"[", b'{"label": "a", "text": "b"}\n', b"ham\tgo\n"]))
    for function in (classify.data.read, instruct.read_entries):
        found, _ = read(function, tmp_path_factory.getbasetemp() / "any", begin + content)
        assert isinstance(found, list) or (found and "\n" not in found)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\n", "is a pointer of Git LFS"),
        (b"\x1f\x8b\x08\0", r"is compressed \(gzip\)"),
        ("text".encode("utf-16"), "is UTF-16: convert it to UTF-8"),
        ("text".encode("utf-16-be"), "looks like UTF-16"),
    ],
)
def test_a_text_to_train_on_that_is_none_is_named_too(tmp_path, content, says):
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(ValueError, match=f"the text file '.*f' {says}"):
        corpus.read_text(tmp_path / "f")


def test_a_web_page_may_be_trained_on(tmp_path):
    (tmp_path / "f").write_text("<html>text</html>")
    assert corpus.read_text(tmp_path / "f") == "<html>text</html>"


def test_entries_of_a_table_and_of_json_are_the_same(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([ENTRY, PLAIN]))
    (tmp_path / "a.csv").write_text("instruction;input;output\nSpell it.;Ocassion;Occasion\nSay yes.;;yes\n")
    assert instruct.read_entries(tmp_path / "a.json") == instruct.read_entries(tmp_path / "a.csv")
    (tmp_path / "b.tsv").write_text(table(head="label\ttext\n"))
    assert classify.data.read(tmp_path / "b.tsv") == [*HAM]


@pytest.mark.parametrize(("text", "line"), [("\0", 1), ("\n\0", 2), ("a\nb\n\nc\0", 4)])
def test_the_line_of_a_nul_character_is_named(tmp_path, text, line):
    (tmp_path / "f").write_text(text)
    with pytest.raises(ValueError, match=f"f, line {line} has a NUL character: the file is not text"):
        records.read(tmp_path / "f", ("label", "text"))
