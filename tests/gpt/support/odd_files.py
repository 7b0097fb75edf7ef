"""Data files as people have them: (name, content, expected), where expected is the entries, or a pattern of the error.

LABELLED are for `classify.data.read`, INSTRUCTIONS for `instruct.read_entries`. Content is bytes; text is its UTF-8.
"""

import gzip
import json
import lzma
from typing import Any

HAM = ("ham", "see you"), ("spam", "Win now"), ("ham", "at six")  # labels recur, so that a first line can be told
JSON_HAM = [{"label": label, "text": text} for label, text in HAM]
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n"


def table(delimiter: str = "\t", end: str = "\n", head: str = "") -> str:
    """HAM as a table."""
    return head + end.join(f"{label}{delimiter}{text}" for label, text in HAM) + end


def lines(rows: Any = None) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in (rows or JSON_HAM))


def texts(*texts: str) -> list[tuple[str, str]]:
    """Entries whose labels are ham, spam, ham, ..."""
    return [(("ham", "spam")[i % 2], text) for i, text in enumerate(texts)]


MANY = [("ham" if i % 2 else "spam", f"text {i}") for i in range(20)]
ODD_SPACE = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg"  # what str.splitlines takes for ends of lines

LABELLED: list[tuple[str, str | bytes, list[tuple[str, str]] | str]] = [
    # encodings and ends of lines
    ("plain.tsv", table(), [*HAM]),
    ("mark.tsv", "\ufeff" + table(), [*HAM]),
    ("mark.json", "\ufeff" + json.dumps(JSON_HAM), [*HAM]),
    ("no end of line.tsv", table().rstrip("\n"), [*HAM]),
    ("crlf.tsv", table(end="\r\n"), [*HAM]),
    ("cr.tsv", table(end="\r"), [*HAM]),
    ("cr.csv", table(",", end="\r"), [*HAM]),
    ("cr.jsonl", lines().replace("\n", "\r"), [*HAM]),
    ("crlf.jsonl", lines().replace("\n", "\r\n"), [*HAM]),
    ("mixed ends.tsv", "ham\tsee you\r\nspam\tWin now\rham\tat six\n", [*HAM]),
    ("utf-16.tsv", table().encode("utf-16"), r"utf-16\.tsv is UTF-16: convert it to UTF-8"),
    ("utf-16 without mark.tsv", table().encode("utf-16-le"), r"looks like UTF-16: convert it to UTF-8"),
    ("utf-32.tsv", table().encode("utf-32"), r"is UTF-32: convert it to UTF-8"),
    ("latin-1.tsv", "ham\tgo\nspam\tcaf\xe9\n".encode("latin-1"), r"latin-1\.tsv, line 2 is not UTF-8: byte 0xe9"),
    ("latin-1, cr.csv", "ham,go\r\rspam,caf\xe9\r".encode("latin-1"), r"line 3 is not UTF-8: byte 0xe9 at offset 16"),
    ("mark and latin-1.tsv", b"\xef\xbb\xbfham\t\xe9", r"line 1 is not UTF-8: byte 0xe9 at offset 7; it may be"),
    ("nul.tsv", "ham\tgo\nspam\ta\0b\n", r"nul\.tsv, line 2 has a NUL character"),
    # characters in texts
    ("odd space.tsv", f"ham\t{ODD_SPACE}\nspam\tx\nham\ty\n", texts(ODD_SPACE, "x", "y")),
    ("odd space.csv", f'label,text\nham,"{ODD_SPACE}"\nspam,x\n', texts(ODD_SPACE, "x")),
    ("odd space.jsonl", lines([{"label": "ham", "text": ODD_SPACE.replace("\x0b", "").replace("\x0c", "")
      .replace("\x1c", "")}]), texts(ODD_SPACE.replace("\x0b", "").replace("\x0c", "").replace("\x1c", ""))),
    ("special token.jsonl", lines([{"label": "ham", "text": "a <|endoftext|> b"}]), texts("a <|endoftext|> b")),
    ("lone surrogate.json", '[{"label": "ham", "text": "\\ud800"}]', r"line 1: the text has a lone surrogate, U\+D800"),
    ("pair of surrogates.json", '[{"label": "ham", "text": "\\ud83d\\ude42"}]', texts("🙂")),
    ("nul in json.json", '[{"label": "ham", "text": "a\\u0000"}]', texts("a\0")),
    # quotation marks
    ("doubled.csv", 'ham,"say ""so"""\nspam,"a, b"\nham,x\n', texts('say "so"', "a, b", "x")),
    ("inside.tsv", 'ham\tsay "so" now\nspam\ta "b\nham\tx\n', texts('say "so" now', 'a "b', "x")),
    ("at the beginning.tsv", 'ham\t"so" he said\nspam\tx\nham\ty\n', texts("so he said", "x", "y")),
    ("several lines.csv", 'ham,"one\ntwo"\nspam,x\nham,y\n', texts("one\ntwo", "x", "y")),
    ("several lines, crlf.csv", 'ham,"one\r\ntwo"\r\nspam,x\r\nham,y\r\n', texts("one\ntwo", "x", "y")),
    ("unclosed.tsv", 'ham\tgo\nham\t"see\nspam\tWin\nham\tat six\n', r"unclosed\.tsv, line 2: a quotation mark opens"),
    ("unclosed at the end.tsv", 'ham\tgo\nspam\t"Win', r"line 2: a quotation mark opens a text there"),
    ("unclosed, blank lines.csv", 'ham,go\nham,"see\n\n\n', r"line 2: a quotation mark opens .* end of line 4"),
    ("closed by the next.tsv", 'ham\t"go\nspam\tWin\nham\t"see\nspam\tx\n', r"line 1: a quotation mark .* line 3"),
    ("closed late, among many.tsv", "".join(f"{a}\t{b}\n" for a, b in MANY) + 'ham\t"a\nspam\tb\nham\tc" d\n',
     [*MANY, ("ham", "a\nspam\tb\nham\tc d")]),
    ("after several lines.csv", 'ham,"a\nb"\nspam,"x\nham,y\n', r"line 3: a quotation mark opens a text there"),
    ("unclosed.json", '[{"label": "ham", "text": "go}]', r"is not JSON at line 1, column 27: Unterminated string"),
    # separators and names
    ("commas.csv", table(","), [*HAM]),
    ("semicolons.csv", table(";"), [*HAM]),
    ("bars.txt", table("|"), [*HAM]),
    ("tab and commas.tsv", "ham\tgo, now\nspam\ta, b\nham\tc, d\n", texts("go, now", "a, b", "c, d")),
    ("tab in a text.csv", 'ham,"a\tb"\nspam,x\nham,y\n', texts("a\tb", "x", "y")),
    ("commas or semicolons.csv", "ham;a, b\nspam;c, d\nham;e, f\n", r"has commas or semicolons between its columns"),
    ("semicolons by name.csv", "label;text\nham;a, b\nspam;c, d\n", texts("a, b", "c, d")),
    ("names.csv", table(",", head="label,text\n"), [*HAM]),
    ("names in capitals.csv", table(",", head=" Label , TEXT \n"), [*HAM]),
    ("unknown names.csv", table(",", head="klass,nachricht\n"), [*HAM]),
    ("unknown names, few.csv", "klass,nachricht\nham,go\nspam,Win\n", r"has 3 labels in 3 entries: name the .*or"),
    ("a label is a known name.tsv", "review\tgood\ntitle\tx\nreview\ty\n",
     [("review", "good"), ("title", "x"), ("review", "y")]),
    ("three columns.csv", "1,ham,go\n2,spam,x\n", r"which column is the label\? Say --label-column and one of 1, 2, 3"),
    ("extra columns.csv", "id,text,label,note\n1,go,ham,\n2,x,spam,n\n", texts("go", "x")),
    ("index without a name.csv", ",label,text\n0,ham,go\n1,spam,x\n", texts("go", "x")),
    ("trailing separators.csv", "ham,go,\nspam,x,\nham,y,\n", texts("go", "x", "y")),
    ("trailing separators, some.csv", "ham,go\nspam,x,,\nham,y\n", texts("go", "x", "y")),
    ("names, trailing separators.csv", "v1,v2,,,\nham,go,,,\nham,x,,,\nspam,y,,,\n",
     [("ham", "go"), ("ham", "x"), ("spam", "y")]),
    ("one name twice.csv", "label,text,text\nham,go,x\n", r"has two columns named 'text'"),
    ("only names.csv", "label,text\n", r"has a line of names and no entries"),
    ("blank lines.csv", "\n\nham,go\n\n  \nspam,x\n,\nham,y\n\n", texts("go", "x", "y")),
    ("one column.txt", "just some words\n", r"is neither JSON nor a table with several columns"),
    ("text cut in two.csv", "ham,go\nspam,x, now\nham,y\n", r"line 2 has 3 columns, and the first line has 2: a text"),
    ("brackets.tsv", "[ham]\tgo\n[spam]\tx\n[ham]\ty\n", [("[ham]", "go"), ("[spam]", "x"), ("[ham]", "y")]),
    # fields
    ("empty text.tsv", "ham\tgo\nspam\t\n", r"empty text\.tsv, line 2: the text is empty"),
    ("empty label.tsv", "ham\tgo\n \tx\nham\ty\n", r"line 2: the label is empty"),
    ("empty text of many.tsv", "".join(f"{a}\t{b}\n" for a, b in MANY) + "ham\t\n", MANY),
    ("too many empty.tsv", "".join(f"{a}\t{b}\n" for a, b in MANY) + "ham\t\n" * 3,
     r"line 21: the text is empty; nor can 2 others of 23 entries be used"),
    ("one wide of many.csv", "".join(f"{a},{b}\n" for a, b in MANY) + "ham,a, b\n", MANY),
    ("numbers.csv", "text,label\n12,0\n7.5,1\n", [("0", "12"), ("1", "7.5")]),
    ("booleans and numbers.json", '[{"label": true, "text": "a"}, {"label": 0, "text": "b"}]',
     [("True", "a"), ("0", "b")]),
    ("number as text.json", '[{"label": "a", "text": 7.5}]', r"line 1: the text is not a string but 7\.5"),
    ("null.json", '[{"label": "a",\n "text": "b"},\n\n {"label": null, "text": "b"}]',
     r"null\.json, line 4: the label is not a string but null"),
    ("nan.json", '[{"label": NaN, "text": "b"}]', r"line 1: the label is not a string but NaN"),
    ("huge number.jsonl", '{"label": "a", "text": "b", "n": ' + "9" * 5000 + "}", r"line 1, column 1: .* many digits"),
    ("large number.jsonl", '{"label": 123456789012345678901234567890, "text": "b"}',
     [("123456789012345678901234567890", "b")]),
    # JSON
    ("list.json", json.dumps(JSON_HAM), [*HAM]),
    ("printed list.json", json.dumps(JSON_HAM, indent=4), [*HAM]),
    ("lines.jsonl", lines(), [*HAM]),
    ("lines with blank ones.jsonl", "\n" + lines().replace("\n", "\n\n"), [*HAM]),
    ("lines with commas.jsonl", ",\n".join(map(json.dumps, JSON_HAM)), [*HAM]),
    ("printed objects.jsonl", "\n".join(json.dumps(row, indent=2) for row in JSON_HAM), [*HAM]),
    ("one object.json", '{"label": "ham",\n "text": "see you"}', [HAM[0]]),
    ("wrapped.json", json.dumps({"version": 1, "data": JSON_HAM}), [*HAM]),
    ("wrapped, faulty.json", json.dumps({"data": [*JSON_HAM, {"label": "ham"}]}), r"entry 4 of 'data': .* has no text"),
    ("two lists.json", json.dumps({"train": JSON_HAM, "test": JSON_HAM}), r"has several lists of entries, train, test"),
    ("columns.json", '{"label": ["ham"], "text": ["go"]}', r'line 1: the label is not a string but \["ham"\]'),
    ("nested.json", '[{"label": {"name": "ham"}, "text": "go"}]', r'the label is not a string but \{"name": "ham"\}'),
    ("lists.json", '[["ham", "go"]]', r'line 1: an entry is an object with named fields, not \["ham", "go"\]'),
    ("repeated key.jsonl", '{"label": "ham", "label": "spam", "text": "go"}', r"line 1: a field of the object occurs"),
    ("a field is missing.jsonl", '{"label": "a", "text": "b"}\n{"label": "a"}', r"line 2: the entry has no text: no"),
    ("a damaged line.jsonl", lines() + '{"label": ham}\n', r"is not JSON at line 4, column 11: Expecting value"),
    ("a damaged line of many.jsonl",
     lines([{"label": a, "text": b} for a, b in MANY[:10]]) + '{"label": \n'
     + lines([{"label": a, "text": b} for a, b in MANY[10:]]), MANY),
    ("cut off.jsonl", lines([{"label": a, "text": b} for a, b in MANY]) + '{"label": "ham", "te', MANY),
    ("cut off.json", json.dumps(JSON_HAM, indent=1)[:-40],
     r"at line 11, column 2: Expecting property name .*, in what begins on line 10"),
    ("no end.json", '[{"label": "a", "text": "b"}', r"is not JSON at line 1, column 29: the list has no end"),
    ("comma at the end.json", '[{"label": "a", "text": "b"},\n]', r"line 2, column 1: there is a comma after the last"),
    ("more behind.json", '[{"label": "a", "text": "b"}]\n[]', r"line 2, column 1: there is text after the end"),
    ("single quotes.jsonl", "{'label': 'ham'}", r"line 1, column 2: Expecting property name"),
    ("deep.json", "[" * 100_000, r"is not JSON at line 1, column 2: it nests too deeply"),
    ("deep.jsonl", '{"a":' * 100_000, r"is not JSON at line 1, column 1: it nests too deeply"),
    ("empty list.json", "[]", r"has no entries"),
    # no data at all
    ("empty.csv", "", r"is empty: there is nothing to learn from it"),
    ("only separators.csv", ",,\n , \n", r"is neither JSON nor a table with several columns"),
    ("blank.csv", "\ufeff \n\t\r\n", r"is empty: there is nothing to learn from it"),
    ("pointer.csv", POINTER, r"pointer\.csv is a pointer of Git LFS and not the file itself: `git lfs pull`"),
    ("packed.csv", gzip.compress(table().encode()), r"is compressed \(gzip\): unpack it first"),
    ("packed.tsv", lzma.compress(table().encode()), r"is compressed \(xz\): unpack it first"),
    ("book.csv", b"PK\x03\x04\x14\0\6\0", r"is a zip archive, or a document of an office program"),
    ("old book.csv", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", r"is a document of an office program: save it"),
    ("columns.parquet", b"PAR1\x15\x04\x15", r"is a Parquet file: convert it to JSON lines or CSV"),
    ("page.csv", "\n<!DOCTYPE html>\n<html><body>ham,go</body></html>", r"is a web page \(HTML\): download the data"),
    ("noise.csv", bytes(range(256)) * 4, r"noise\.csv, line 3 is not UTF-8: byte 0x80 at offset 128"),
]  # fmt: skip

ENTRY = {"instruction": "Spell it.", "input": "Ocassion", "output": "Occasion"}
PLAIN = {"instruction": "Say yes.", "input": "", "output": "yes"}
INSTRUCTIONS: list[tuple[str, str | bytes, list[dict[str, str]] | str]] = [
    ("list.json", json.dumps([ENTRY, PLAIN]), [ENTRY, PLAIN]),
    ("wrapped.json", json.dumps({"data": [ENTRY, PLAIN]}, indent=1), [ENTRY, PLAIN]),
    ("printed.jsonl", "\n".join(json.dumps(entry, indent=2) for entry in (ENTRY, PLAIN)), [ENTRY, PLAIN]),
    ("null.json", json.dumps([{**PLAIN, "input": None}]), [PLAIN]),
    ("no input.jsonl", '{"instruction": "Say yes.", "output": "yes", "id": 3}', [PLAIN]),
    ("cr.jsonl", (json.dumps(ENTRY) + "\n" + json.dumps(PLAIN)).replace("\n", "\r"), [ENTRY, PLAIN]),
    ("odd space.jsonl", json.dumps({**PLAIN, "output": "a\u2028b\x85c"}, ensure_ascii=False),
     [{**PLAIN, "output": "a\u2028b\x85c"}]),
    ("names.csv", "instruction,input,output\nSpell it.,Ocassion,Occasion\nSay yes.,,yes\n", [ENTRY, PLAIN]),
    ("names.tsv", "output\tinstruction\nyes\tSay yes.\n", [PLAIN]),
    ("no names.csv", "Say yes.,yes\n", r"is neither JSON nor a table whose first line names the columns"),
    ("null output.json", json.dumps([PLAIN, {**PLAIN, "output": None}], indent=0),
     r"null output\.json, line 7: output must be a string, not null"),
    ("number.json", json.dumps([{**PLAIN, "output": 7}]), r"line 1: output must be a string, not 7"),
    ("list as output.json", json.dumps([{**PLAIN, "output": ["a"]}]), r'line 1: output must be a string, not \["a"\]'),
    ("one of many.json", json.dumps([PLAIN] * 10 + [{**PLAIN, "output": ""}]), [PLAIN] * 10),
    ("pointer.json", POINTER, r"is a pointer of Git LFS"),
    ("page.json", "<html>404</html>", r"is a web page \(HTML\)"),
    ("packed.json", gzip.compress(b"[]"), r"is compressed \(gzip\)"),
]  # fmt: skip
