"""`gpt data prepare`: the tokens are those of tiktoken for each document, whatever holds them and however it is run."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import sharded
from hypothesis import given, settings
from hypothesis import strategies as st
from sharded import END, TOKENIZER, expected, job, part_of, run, stored

from gpt.data.shards import documents as reading
from gpt.data.shards import encoding
from gpt.data.shards import folder as folders
from gpt.tokenizer import CharTokenizer
from gpt.tokenizer import base as tokenizer_base

few = settings(max_examples=max(8, settings().max_examples // 5))  # files take their time
WORDS = [f"the cat {i} sat on {'the mat ' * (i % 7)}é漢" for i in range(40)]

documents = st.lists(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\ufeff"), max_size=40).filter(
        lambda text: text and not text.isspace()
    ),
    min_size=2,
    max_size=12,
)
containers = st.sampled_from(["files", "jsonl", "csv", "parquet", "jsonl.gz", "jsonl.zst", "csv.gz"])


def written(folder, documents, container):
    """The documents in files of one kind."""
    folder.mkdir()
    kind, _, pack = container.partition(".")
    if kind == "files":
        return sharded.text_files(folder, documents)
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    paths = {"jsonl": sharded.json_lines, "csv": sharded.csv_file, "parquet": sharded.parquet}[kind](
        folder / f"all.{kind}", documents
    )
    if pack == "gz":
        return sharded.packed(paths[0], gzip.compress)
    if pack == "zst":
        return sharded.packed(paths[0], pytest.importorskip("zstandard").compress)
    return paths


@few
@given(documents, containers, st.integers(1, 60), st.sampled_from([1, 30, 1 << 20]))
def test_tokens_are_those_of_all_documents_one_after_another(tmp_path_factory, documents, container, shard, batch):
    folder = tmp_path_factory.mktemp("prepare")
    paths = written(folder / "in", documents, container)
    wanted, out = expected(documents, 0.5), folder / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "BATCH", batch)
        if all(wanted.values()):
            run(job(out, *paths, shard_tokens=shard))
        else:
            with pytest.raises(ValueError, match="are in one part, and none is"):
                run(job(out, *paths, shard_tokens=shard))
    assert stored(out) == wanted


@few
@given(documents, st.sampled_from([2, 5, 1 << 20]), st.integers(1, 40))
def test_long_documents_are_read_in_pieces(tmp_path_factory, documents, block, size):
    """With blocks and pieces of a few characters, and one document for all of it or one for each line."""
    folder = tmp_path_factory.mktemp("prepare")
    documents = [f"{text.replace('|', '/')} and so on" for text in documents]
    path = folder / "all.txt"
    path.write_text("|".join(documents), encoding="utf-8", newline="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "BLOCK", block)
        patch.setattr(reading, "HELD", 2)
        patch.setattr(encoding, "BATCH", size)
        whole = list(reading.items(reading.Source(str(path)), reading.Reading(split_on="|"), lambda n: None))
        assert whole == [reading.Piece(document, True) for document in documents]
        (folder / "a.txt").write_text("\n ".join(documents), encoding="utf-8", newline="")
        patch.setattr(tokenizer_base, "SIZE", size)
        found = list(reading.items(reading.Source(str(folder / "a.txt")), reading.Reading(), lambda n: None))
    assert "".join(piece.text for piece in found) == "\n ".join(documents)
    assert [piece.last for piece in found] == [False] * (len(found) - 1) + [True]


def test_a_document_of_many_pieces_is_in_one_part(tmp_path, monkeypatch):
    """Its part is that of its first piece, and its tokens are those of the whole."""
    monkeypatch.setattr(encoding, "BATCH", 50)
    long = "the cat sat on the mat " * 30
    real = reading.chunks
    monkeypatch.setattr(reading, "chunks", lambda blocks, whole: real(blocks, 40, whole))
    text = [f"{i} {long}" for i in range(8)]
    run(job(tmp_path / "out", *sharded.text_files(tmp_path, text), shard_tokens=100))
    found = stored(tmp_path / "out")
    split = [tokens for part in found.values() for tokens in cut(part)]
    assert sorted(split) == sorted(sharded.ORACLE.encode_ordinary(one) for one in text)
    assert all(found.values())
    shards = folders.read(tmp_path / "out")["shards"]
    assert len(shards) > 8
    assert min(shard["documents"] for shard in shards) == 0  # one that has the middle of a document


def cut(tokens: list[int]) -> list[list[int]]:
    """The documents between the ends of texts."""
    found, start = [], 0
    for i, token in enumerate(tokens):
        if token == END:
            found.append(tokens[start:i])
            start = i + 1
    assert start == len(tokens)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_the_number_of_processes_changes_no_byte(tmp_path, monkeypatch, processes):
    monkeypatch.setattr(encoding, "BATCH", 100)
    paths = sharded.text_files(tmp_path, WORDS)
    run(job(tmp_path / "one", *paths, shard_tokens=150))
    run(job(tmp_path / "more", *paths, shard_tokens=150), processes)
    assert stored(tmp_path / "one") == expected(WORDS, 0.5)
    one, more = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("one", "more"))
    assert one == more
    assert len(one) > 8


def test_the_command_prepares_a_text(tmp_path, call):
    paths = sharded.text_files(tmp_path, WORDS)
    TOKENIZER.save(tmp_path / "tokenizer.json")
    flags = ["--tokenizer", tmp_path / "tokenizer.json", "--validation", 0.5, "--processes", 1]
    status, output, errors = call("data", "prepare", *paths, *flags, "--out", tmp_path / "out")
    assert (status, errors) == (0, "")
    assert output.endswith(f": gpt train --text {tmp_path / 'out'}\n")
    assert stored(tmp_path / "out") == expected(WORDS, 0.5)


def test_special_tokens_in_a_document_are_text(tmp_path):
    text = ["a <|endoftext|> b", *"cdefgh"]
    run(job(tmp_path / "out", *sharded.text_files(tmp_path, text)))
    found = stored(tmp_path / "out")
    assert sum(part.count(END) for part in found.values()) == 7
    assert found == expected(text, 0.5)


def test_equal_documents_are_in_one_part_and_the_share_is_as_asked():
    parts = [encoding.part_of(str(i).encode(), 0.2) for i in range(4000)]
    assert parts == [part_of(str(i), 0.2) for i in range(4000)]
    assert abs(parts.count("validation") / 4000 - 0.2) < 4 * (0.2 * 0.8 / 4000) ** 0.5


# ----- the manifest -----------------------------------------------------------------------------------------------


def test_the_manifest_says_what_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "BATCH", 200)
    paths = sharded.text_files(tmp_path, WORDS)
    lines = run(job(tmp_path / "out", *paths, shard_tokens=300))
    found = json.loads((tmp_path / "out" / "data.json").read_text(encoding="utf-8"))
    assert found["complete"] is True
    assert found["origin"]["paths"] == [str(path) for path in paths]
    assert (found["origin"]["files"], found["origin"]["bytes"]) == (40, sum(len(text.encode()) for text in WORDS))
    assert found["tokenizer"]["vocab_size"] == 290
    assert set(found["made_with"]) == {"gpt", "python", "tiktoken"}
    names = {shard["name"] for shard in found["shards"]}
    assert names == {path.name for path in (tmp_path / "out").glob("*.tokens")}
    tokens = stored(tmp_path / "out")
    for part in tokens:
        mine = [shard for shard in found["shards"] if shard["part"] == part]
        assert sum(shard["tokens"] for shard in mine) == len(tokens[part])
        assert sum(shard["documents"] for shard in mine) == tokens[part].count(END)
        assert sum(shard["text_bytes"] for shard in mine) == sum(
            len(text.encode()) for text in WORDS if part_of(text, 0.5) == part
        )
    sizes = [f"{shard['tokens']} {shard['part']}" for shard in found["shards"]]
    pairs = [f"{one} + {other} tokens" for one, other in zip(sizes[::2], sizes[1::2], strict=True)]
    said = [line.partition(";")[0] for line in lines if line.startswith("shards")]
    assert said == [f"shards {number}   {pair}" for number, pair in enumerate(pairs)][: len(said)]
    assert len(said) >= len(pairs) - 1 > 1  # the last one may be in the sums alone
    for shard in found["shards"]:
        data = (tmp_path / "out" / shard["name"]).read_bytes()
        assert (shard["bytes"], shard["sha256"]) == (len(data), sharded.hashlib.sha256(data).hexdigest())


def test_a_large_vocabulary_takes_four_bytes(tmp_path):
    tokenizer = CharTokenizer("".join(map(chr, range(0x10000, 0x10000 + 66_000))) + "ab", ["<|endoftext|>"])
    for name in "ab":
        (tmp_path / name).write_text(name)
    run(job(tmp_path / "out", tmp_path / "a", tmp_path / "b", tokenizer=tokenizer, validation=0.3))
    read = {path.name[:5]: sharded.np.fromfile(path, "<u4", offset=32) for path in (tmp_path / "out").glob("*.tokens")}
    assert {name: ids.tolist() for name, ids in read.items()} == {"train": [66_000, 66_002], "valid": [66_001, 66_002]}


# ----- standard input ---------------------------------------------------------------------------------------------


def typed(monkeypatch, data: bytes) -> None:
    import io

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))


def test_standard_input_is_a_text_or_lines_packed_or_not(tmp_path, monkeypatch):
    lines = "".join(json.dumps({"body": text}) + "\n" for text in WORDS).encode()
    for number, data in enumerate((lines, gzip.compress(lines))):
        typed(monkeypatch, data)
        run(job(tmp_path / f"{number}", "-", format="jsonl", field="body"))
        assert stored(tmp_path / f"{number}") == expected(WORDS, 0.5)
    typed(monkeypatch, "\n".join(WORDS).encode() + b"\n")
    run(job(tmp_path / "text", "-", split_on="\n"))
    assert stored(tmp_path / "text") == expected(WORDS, 0.5)


def test_a_fault_in_standard_input_is_an_error(tmp_path, monkeypatch):
    typed(monkeypatch, b"one\ntwo\n\xff\n")
    with pytest.raises(ValueError, match="standard input is not UTF-8: byte 0xff at offset 8"):
        run(job(tmp_path / "out", "-", split_on="\n"))
    typed(monkeypatch, gzip.compress(os.urandom(500).hex().encode())[:-20])
    with pytest.raises(ValueError, match="standard input is damaged: Compressed file ended"):
        run(job(tmp_path / "out", "-"))


# ----- the tokenizer ----------------------------------------------------------------------------------------------


def test_a_tokenizer_is_learned_from_the_training_documents(tmp_path):
    paths = sharded.text_files(tmp_path, WORDS)
    lines = run(job(tmp_path / "out", *paths, tokenizer=None, name="bpe", vocab_size=300))
    train = [text for text in WORDS if part_of(text, 0.5) == "train"]
    wanted = type(TOKENIZER).train(train, 300)
    found = json.loads((tmp_path / "out" / "tokenizer.json").read_text(encoding="utf-8"))
    assert [token.encode("latin-1") for token in found["tokens"]] == wanted.tokens
    assert lines[0].startswith(
        f"tokenizer  {wanted.vocab_size} tokens learned from {sum(map(len, map(str.encode, train)))} "
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tokenizer": CharTokenizer("abc")}, r"the tokenizer has no <\|endoftext\|>, which ends each document"),
        ({"tokenizer": None, "vocab_size": 300, "paths": ("-",)}, "cannot be learned from standard input"),
        ({"paths": ("-", "-")}, "- is given twice"),
        ({"paths": ()}, "there is nothing to read"),
        ({"validation": 1.0}, "validation must be between 0 and 1"),
    ],
)
def test_what_cannot_be_prepared_is_one_sentence(tmp_path, changes, says):
    with pytest.raises(ValueError, match=says):
        run(job(tmp_path / "out", **{"paths": (str(tmp_path),), **changes}))


def test_a_character_that_the_tokenizer_lacks_names_the_file(tmp_path):
    (tmp_path / "a.txt").write_text("abc")
    (tmp_path / "b.txt").write_text("abx")
    tokenizer = CharTokenizer("abc", ["<|endoftext|>"])
    with pytest.raises(ValueError, match=r"b\.txt: character 'x' \(U\+0078\) at position 2 is not in the vocabulary"):
        run(job(tmp_path / "out", tmp_path, tokenizer=tokenizer))
    assert not folders.read(tmp_path / "out")["complete"]


# ----- memory -------------------------------------------------------------------------------------------------------

MEASURED = """
import sys
from pathlib import Path
from sharded import job, run
from gpt.system import peak_memory
run(job(Path(sys.argv[2]), sys.argv[1]))
print(peak_memory())
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_text(tmp_path):
    """Of 6 MB more text, less than three quarters are in memory at once, in a process that reads and encodes."""
    peaks = []
    for megabytes in (2, 8):
        path = tmp_path / f"{megabytes}.jsonl"
        sharded.json_lines(path, [f"{i} " + sharded.SPOKEN * 7 for i in range(500 * megabytes)])
        command = [sys.executable, "-c", MEASURED, str(path), str(tmp_path / f"out {megabytes}")]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(Path(sharded.__file__).parent), *sys.path))}
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=env, check=True)
        peaks.append(int(done.stdout.split()[-1]))
    assert peaks[1] - peaks[0] < 4.5e6, f"{peaks} bytes"
