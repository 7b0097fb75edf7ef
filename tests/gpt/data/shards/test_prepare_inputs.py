"""`gpt data prepare`: which files are read, what is left out of them, and with which reason."""

import csv
import gzip
import json
import os
import sys

import pytest
import sharded
from runs import tiny, train
from sharded import expected, job, run, stored

from gpt.data.shards import documents, encoding, inputs
from gpt.data.shards import folder as folders

TEXTS = {"a.txt": "first", "b/c.md": "second", "b/d/e.py": "third", "b/f.txt": "fourth", "z": "fifth"}


def make(folder, files) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def skipped(out) -> dict[str, int]:
    return {reason: found["count"] for reason, found in folders.read(out)["skipped"].items()}


def test_a_folder_is_read_in_the_order_of_names(tmp_path):
    make(tmp_path / "in", TEXTS)
    run(job(tmp_path / "out", tmp_path / "in"))
    assert stored(tmp_path / "out") == expected(list(TEXTS.values()), 0.5)
    assert skipped(tmp_path / "out") == {}


def test_paths_are_read_in_the_order_in_which_they_are_given(tmp_path):
    make(tmp_path, TEXTS)
    run(job(tmp_path / "out", tmp_path / "z", tmp_path / "b", tmp_path / "a.txt"))
    assert stored(tmp_path / "out") == expected(["fifth", "second", "third", "fourth", "first"], 0.5)


def test_suffixes_choose_among_the_files_of_folders(tmp_path):
    make(tmp_path / "in", {**TEXTS, "B.TXT": "sixth", "g.txt.gz": gzip.compress(b"seventh"), "h.md": "eighth"})
    run(job(tmp_path / "out", tmp_path / "in", tmp_path / "in" / "z", suffixes=(".txt", ".py")))
    assert stored(tmp_path / "out") == expected(["sixth", "first", "third", "fourth", "seventh", "fifth"], 0.5)
    assert skipped(tmp_path / "out") == {"another suffix": 3}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are Unix's")
def test_what_is_not_text_is_left_out_and_counted(tmp_path):
    good = {f"{i}.txt": f"text {i}" for i in range(9)}
    make(tmp_path / "in", good | {
        "nul.bin": b"a\0b", "latin.txt": b"caf\xe9", "late.txt": b"x" * 3_000_000 + b"\xff",
        "png": b"\x89PNG\r\n\0",
        "pdf": b"%PDF-1.7", "utf16": "text".encode("utf-16"), "none": b"", "blank": b" \n", ".hidden": b"h",
        ".git/config": b"[core]", "cut.gz": gzip.compress(os.urandom(9000).hex().encode())[:-50],
        "other.csv": "a,b\n1,2\n", "other.jsonl": '{"a": 1}\n', "not.parquet": b"PAR1 no",
    })  # fmt: skip
    os.symlink(tmp_path / "in" / "0.txt", tmp_path / "in" / "link")
    os.symlink(tmp_path / "in", tmp_path / "in" / "round")
    os.mkfifo(tmp_path / "in" / "pipe")
    pytest.importorskip("pyarrow")
    run(job(tmp_path / "out", tmp_path / "in"))
    assert stored(tmp_path / "out") == expected(list(good.values()), 0.5)
    assert skipped(tmp_path / "out") == {
        "binary (it has NUL characters)": 2, "not UTF-8": 2, "not text": 2, "empty": 1, "an empty document": 1,
        "hidden": 2, "damaged": 2, "no column 'text'": 1, "no field 'text'": 1, "a symbolic link": 2,
        "no regular file": 1,
    }  # fmt: skip


def test_a_bar_gets_the_size_of_each_file_also_where_the_rest_of_it_is_not_read(tmp_path):
    cut = gzip.compress(os.urandom(9000).hex().encode())[:-50]
    make(tmp_path, {"a.txt": "good", "b.bin": b"x\0" + b"x" * 3_000_000, "c.gz": cut, ".hidden": "x", "d.csv": "a,b\n"})
    found = list(inputs.sources([str(tmp_path)], (), tmp_path / "out"))
    seen: list[int] = []
    list(encoding.batches(found, documents.Reading(), 0.5, encoding.Place(), seen.append))
    assert sum(seen) == sum(source.size for source in found) > 3_000_000


def test_the_output_folder_is_not_read(tmp_path):
    make(tmp_path, TEXTS)
    for overwrite in (False, True):
        run(job(tmp_path / "out", tmp_path), overwrite=overwrite)
        assert stored(tmp_path / "out") == expected(list(TEXTS.values()), 0.5)


def test_what_gpt_wrote_below_a_folder_is_no_text(tmp_path):
    """A project's folder has its runs and its prepared texts: their samples, logs and lists are not learned from."""
    make(tmp_path / "in", TEXTS)
    make(tmp_path / "other", {f"{i}": f"document {i}" for i in range(9)})
    run(job(tmp_path / "in" / "b" / "tokens", tmp_path / "other"))
    trained = tmp_path / "in" / "runs" / "x"
    train(tiny(tmp_path / "other", out=trained, steps=1))
    samples = (trained / "samples.txt").read_text()
    assert samples
    # files of these names that others wrote, damaged ones too, make no folder gpt's
    make(tmp_path / "in", {"c/run.json": '{"format": "mine"}', "d/data.json": "{", "e/data.json": "[1]"})
    run(job(tmp_path / "out", tmp_path / "in"))
    texts = ["first", "second", "third", "fourth", '{"format": "mine"}', "{", "[1]", "fifth"]
    assert stored(tmp_path / "out") == expected(texts, 0.5)
    assert skipped(tmp_path / "out") == {"a run or a prepared text of gpt": 2}
    run(job(tmp_path / "named", trained / "samples.txt", tmp_path / "in"))  # a path that is given is read
    assert stored(tmp_path / "named") == expected([samples, *texts], 0.5)


def test_lines_that_cannot_be_used_are_left_out_and_counted(tmp_path):
    lines = ['{"text": "one"}', "", '{"text": "cut', '{"text": 1}', '{"text": null}', '{"other": "x"}', "[1]",
            '{"text": ""}',
             '{"text": "\\ud800"}', '{"text": "two \\u00e9"}', '{"text": "three"}', "[" * 100_000]  # fmt: skip
    data = "\ufeff" + "\r\n".join(lines) + "\n"
    (tmp_path / "a.jsonl").write_bytes(data.encode() + b'{"text": "\xff"}\n{"text": "four"}')
    run(job(tmp_path / "out", tmp_path / "a.jsonl"))
    assert stored(tmp_path / "out") == expected(["one", "two é", "three", "four"], 0.5)
    assert skipped(tmp_path / "out") == {
        "a line that is not JSON": 2, "a line whose 'text' is no text": 1, "an empty document": 2,
        "a line without 'text'": 1, "a line that is no JSON object": 1, "a text that is not UTF-8": 1,
        "a line that is not UTF-8": 1,
    }  # fmt: skip


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_a_column_of_a_table(tmp_path, mark):
    with open(tmp_path / "a.csv", "w", newline="", encoding="utf-8-sig") as file:
        rows = [["id", "body"], [1, f"one{mark} and"], [2, 'two\nlines "quoted"'], [3], [4, ""], [5, "eight"]]
        csv.writer(file, delimiter=mark).writerows(rows)
    run(job(tmp_path / "out", tmp_path / "a.csv", column="body"))
    assert stored(tmp_path / "out") == expected([f"one{mark} and", 'two\nlines "quoted"', "eight"], 0.5)
    assert skipped(tmp_path / "out") == {"a row with another number of columns": 1, "an empty document": 1}


def test_parquet_leaves_out_what_is_no_text(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pa.table({"text": pa.array(["one", None, "two", "three", ""]), "n": pa.array([1, 2, 3, 4, 5])})
    parquet.write_table(table, tmp_path / "a.parquet", compression="zstd")
    run(job(tmp_path / "out", tmp_path / "a.parquet"))
    assert stored(tmp_path / "out") == expected(["one", "two", "three"], 0.5)
    assert skipped(tmp_path / "out") == {"an empty document": 2}
    with pytest.raises(ValueError, match=r"there is no text in .*; left out 5: a row whose 'n' is no text"):
        run(job(tmp_path / "other", tmp_path / "a.parquet", column="n"))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.bin", b"a\0b", "a.bin is binary: it has NUL characters"),
        ("a.txt", b"caf\xe9", "a.txt is not UTF-8: byte 0xe9 at offset 3"),
        ("a.pdf", b"%PDF-1.7", "a.pdf is a PDF: extract its text first"),
        (
            "a.jsonl",
            b'{"body": "x", "n": 1}',
            "a.jsonl has no field 'text' in its first line, but 'body', 'n': --field",
        ),
        ("a.csv", b"body,n\nx,1\n", "a.csv has no column 'text' in its first line, but 'body', 'n': --column"),
        ("a.parquet", b"PAR1", "a.parquet is no Parquet file, or is damaged"),
        ("a.gz", gzip.compress(b"abc" * 500, mtime=0)[:-9], "a.gz is damaged: Compressed file ended before"),
        ("missing", None, "missing does not exist: name files or folders, or - for standard input"),
        ("empty/folder", None, "there is no file to read in"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_named_file_without_text_is_an_error_before_anything_is_written(tmp_path, name, content, says):
    if name == "a.parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / name.split("/")[0]
    if content is not None:
        path.write_bytes(content)
    elif "/" in name:
        path.mkdir()
    with pytest.raises((ValueError, OSError), match=says):
        run(job(tmp_path / "out", path))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("package", "name"), [("pyarrow", "a.parquet"), ("zstandard", "a.zst")])
def test_a_missing_package_is_named_with_the_extra_that_has_it(tmp_path, monkeypatch, package, name):
    (tmp_path / name).write_bytes(b"\x28\xb5\x2f\xfd whatever")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"needs the package {package}, .*: pip install 'tensorlite\[data\]'"):
        run(job(tmp_path / "out", tmp_path / name))


def test_a_zstd_file_that_is_cut_off_is_damaged(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    whole = zstandard.compress(os.urandom(200_000).hex().encode())
    (tmp_path / "a.zst").write_bytes(whole[:-30])
    with pytest.raises(ValueError, match=r"a\.zst is damaged: the last frame is cut off"):
        run(job(tmp_path / "out", tmp_path / "a.zst"))
    (tmp_path / "b.jsonl.zst").write_bytes(
        b"".join(zstandard.compress(json.dumps({"text": f"frame {i}"}).encode() + b"\n") for i in range(9))
    )
    run(job(tmp_path / "out", tmp_path / "b.jsonl.zst"))
    assert stored(tmp_path / "out") == expected([f"frame {i}" for i in range(9)], 0.5)


def test_standard_input_cannot_be_parquet(tmp_path):
    with pytest.raises(ValueError, match="Parquet cannot be read from standard input"):
        run(job(tmp_path / "out", "-", format="parquet"))
    assert sharded.job(tmp_path, "-").reading.format == "auto"
