"""Labelled texts: the book's counts, the formats of files, balancing, repeated texts."""

import numpy as np
import pytest

from gpt.tasks.classify import data
from gpt.tasks.classify.task import warn_of_repeated
from gpt.tokenizer import gpt2
from tensorlite.random import sample_rows


def test_the_sms_corpus_as_the_book_cuts_it(data_dir):
    found = data.read(data_dir / "SMSSpamCollection")
    assert len(found) == 5572
    assert sum(e.label == "spam" for e in found) == 747
    chosen = data.balanced(found, 123)
    assert [sum(e.label == label for e in chosen) for label in ("ham", "spam")] == [747, 747]
    # pandas: ham.sample(747, random_state=123) before spam, then sample(frac=1, random_state=123)
    ham = [e for e in found if e.label == "ham"]
    book = [ham[i] for i in np.random.RandomState(123).choice(4825, 747, replace=False)]
    book += [e for e in found if e.label == "spam"]
    book = [book[i] for i in np.random.RandomState(123).choice(1494, 1494, replace=False)]
    parts = data.split(chosen, 123)
    assert [len(part) for part in parts.values()] == [1045, 149, 300]
    assert [*parts["train"], *parts["validation"], *parts["test"]] == book
    tokenizer = gpt2(folder=data_dir)
    assert max(len(tokenizer.encode(e.text)) for e in parts["train"]) == 120


@pytest.mark.parametrize(("n", "k", "seed"), [(4825, 747, 123), (10, 10, 0), (7, 0, 1), (0, 0, 1), (50, 49, 2**32 - 1)])
def test_rows_are_sampled_as_pandas_does(n, k, seed):
    assert sample_rows(n, k, seed).tolist() == np.random.RandomState(seed).choice(n, k, replace=False).tolist()


def test_more_rows_than_there_are_cannot_be_sampled():
    with pytest.raises(ValueError, match="sample_rows: k must be from 0 to 3, got 4"):
        sample_rows(3, 4, 0)


FORMS = {
    "tabs": 'ham\tGo, "now"\nspam\t"Win ""big"""\nham\tsee you\n',
    "tabs-other-order": 'Go, "now"\tham\n"Win ""big"""\tspam\nsee you\tham\n',
    "csv-with-names": 'id,Message,Category\n1,"Go, ""now""",ham\n2,"Win ""big""",spam\n3,see you,ham\n',
    "csv": 'ham,"Go, ""now"""\nspam,"Win ""big"""\nham,see you\n',
    "lines": '{"text": "Go, \\"now\\"", "label": "ham"}\n\n{"text": "Win \\"big\\"", "label": "spam"}\n'
    '{"label": "ham", "text": "see you"}\n',
    "list": '[{"text": "Go, \\"now\\"", "label": "ham", "x": 1}, {"text": "Win \\"big\\"", "label": "spam"},\n'
    ' {"label": "ham", "text": "see you"}]',
    "windows": '\ufeffham\tGo, "now"\r\nspam\t"Win ""big"""\r\nham\tsee you\r\n',
}


@pytest.mark.parametrize("form", FORMS)
def test_the_form_of_a_file_is_found(tmp_path, form):
    (tmp_path / "f").write_bytes(FORMS[form].encode())
    assert data.read(tmp_path / "f") == [("ham", 'Go, "now"'), ("spam", 'Win "big"'), ("ham", "see you")]


def test_columns_may_be_named(tmp_path):
    (tmp_path / "f").write_text("a,b,label\nx,one,1\ny,two,2\n")
    assert data.read(tmp_path / "f", "a", "b") == [("x", "one"), ("y", "two")]
    assert data.read(tmp_path / "f", text_column="a") == [("1", "x"), ("2", "y")]
    (tmp_path / "f").write_text('{"a": true, "b": "one"}\n{"a": 3, "b": "two"}')
    assert data.read(tmp_path / "f", "a", "b") == [("True", "one"), ("3", "two")]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "f is empty: there is nothing to learn"),
        (b" \n\n", "f is empty: there is nothing to learn"),
        (b"ham\tcaf\xe9\n", "f, line 1 is not UTF-8: byte 0xe9 at offset 7; it may be Latin-1"),
        (b"just some words\n", "f is neither JSON nor a table with several columns"),
        (b"ham\tgo\nspam\twin\tbig\n", "f, line 2 has 3 columns, and the first line has 2"),
        (b"ham\tgo\nspam\t\n", "f, line 2: the text is empty"),
        (b"ham\tgo\n \tsee\nham\tno\n", "f, line 2: the label is empty"),
        (b"label,text\n", "f has a line of names and no entries"),
        (b"a,b,c\n1,2,3\n", "f: which column is the label. Say --label-column and one of 1, 2, 3"),
        (b"label,x,y\nham,2,3\n", "f: which column is the text. Say --text-column and one of label, x, y"),
        (b'{"label": "ham", "text": "a"}\n{"label": ham}', "f is not JSON at line 2, column 11: Expecting value"),
        (b'[{"label": "ham",\n "text" "a"}]', "f is not JSON at line 2, column 9: Expecting ':' delimiter"),
        (b'[1, 2]', "f, line 1: an entry is an object with named fields, not 1"),
        (b'{"label": "a", "text": "b"}\n[]', r"f, line 2: an entry is an object with named fields, not \[\]"),
        (b"[]", "f has no entries"),
        (b'{"label": "a", "text": 7.5}', "f, line 1: the text is not a string but 7.5"),
        (b'{"label": null, "text": "b"}', "f, line 1: the label is not a string but null"),
        (b'{"label": "a", "text": "b"}\n{"label": "a"}', "f, line 2: the entry has no text: no field 'text'"),
    ],
)  # fmt: skip
def test_one_sentence_for_a_file_that_will_not_do(tmp_path, content, says):
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(ValueError, match=says) as error:
        data.read(tmp_path / "f")
    assert "\n" not in str(error.value)


def test_named_columns_that_are_not_there(tmp_path):
    (tmp_path / "f").write_text("label,text\nham,go\n")
    with pytest.raises(ValueError, match="f has no column 'klass' for the label: its columns are label, text"):
        data.read(tmp_path / "f", label_column="klass")
    with pytest.raises(ValueError, match="label and text are both 'text'"):
        data.read(tmp_path / "f", "text", "text")


@pytest.mark.parametrize(("count", "more"), [(12, ""), (13, ", and 1 more"), (15, ", and 3 more")])
def test_of_many_columns_the_first_twelve_are_listed(tmp_path, count, more):
    names = ["text", *"bcdefghijklmnop"][:count]
    (tmp_path / "f").write_text(f"{','.join(names)}\n{','.join(['x'] * count)}\n")
    with pytest.raises(ValueError, match="has no column 'klass'") as error:
        data.read(tmp_path / "f", label_column="klass")
    assert str(error.value).endswith(f"its columns are {', '.join(names[:12])}{more}")


def test_balancing_takes_as_many_of_each_of_any_number_of_labels():
    rows = [data.Entry(label, str(i)) for i in range(90) for label in "abc"[: 3 if i % 10 == 0 else 1 + i % 2]]
    chosen = data.balanced(rows, 3)
    counts = {label: sum(e.label == label for e in rows) for label in "abc"}
    assert [sum(e.label == label for e in chosen) for label in "abc"] == [min(counts.values())] * 3
    assert len(set(chosen)) == len(chosen)
    assert data.balanced(rows, 3) == chosen != data.balanced(rows, 4)


@pytest.mark.parametrize(
    ("texts", "told"),
    [("ab cd ef", ""), ("aa bb cc", ""), ("ab bc d", "0 of 1 test texts"), ("ab cc ad", "1 of 2 test texts")],
)
def test_repeated_texts_are_told_and_only_those(texts, told):
    said: list[str] = []
    parts = dict(zip(("train", "validation", "test"), texts.split(), strict=True))
    warn_of_repeated({name: [data.Entry("x", text) for text in part] for name, part in parts.items()}, said.append)
    assert len(said) == bool(told)
    assert told in "".join(said)


def test_a_text_is_repeated_where_an_earlier_part_has_it():
    """Whatever the label; the same text twice in one part does not count."""
    parts = {"train": "xxy", "validation": "xzz", "test": "zyw"}
    entries = {
        name: [data.Entry(label, text) for label, text in zip("abc", texts, strict=True)]
        for name, texts in parts.items()
    }
    assert data.repeated(entries) == {
        "train": [False, False, False], "validation": [True, False, False], "test": [True, True, False]
    }  # fmt: skip


@pytest.mark.finding("C12")
def test_repeated_texts_of_the_corpus_of_the_book(data_dir):
    found = data.read(data_dir / "SMSSpamCollection")
    parts = data.split(data.balanced(found, 123), 123)
    assert {name: sum(again) for name, again in data.repeated(parts).items()} == {
        "train": 0, "validation": 13, "test": 41
    }  # fmt: skip
    train, before = ({e.text for name in names for e in parts[name]} for names in (["train"], ["train", "validation"]))
    assert sum(e.text in before for e in parts["test"]) == 41
    assert sum(e.text in train for e in parts["test"]) == 37
    unique, differing = data.unique(found)
    assert len({e.text for e in unique}) == len(unique) == len({e.text for e in found})
    assert differing == 0
    parts = data.split(data.balanced(unique, 123), 123)
    assert not any(again for part in data.repeated(parts).values() for again in part)


@pytest.mark.finding("C12")
def test_the_first_of_equal_texts_stays():
    rows = [data.Entry(*pair) for pair in (("a", "x"), ("b", "y"), ("b", "x"), ("a", "x"), ("a", "z"))]
    assert data.unique(rows) == ([rows[0], rows[1], rows[4]], 1)
