"""`gpt classify`: a line of output for each text, in batches, with what is not UTF-8 or too long."""

import contextlib
import io
import json
import re
import subprocess
import sys

import pytest
from labelled import LABELS, entries
from runs import ONE_THREAD

import tensorlite as tl
from gpt.config import GPTConfig
from gpt.tasks import classify
from gpt.tasks.classify import Classifier
from gpt.tasks.classify.batches import Padding
from gpt.tokenizer import END_OF_TEXT, CharTokenizer
from tensorlite.devices import machine
from tensorlite.kernels import precision


@pytest.mark.slow
def test_gpt_classify(call, tuned):
    run = tuned[0] / "run"
    status, output, errors = call("classify", run, "give me a plum", "I want a juice")
    assert (status, errors) == (0, "")
    rows = [line.split("\t") for line in output.splitlines()]
    assert [row[2] for row in rows] == ["give me a plum", "I want a juice"]
    assert all(row[0] in LABELS and 0.5 <= float(row[1]) <= 1 for row in rows)
    answer = json.loads(call("classify", run, "give me a plum", "--json")[1])
    assert answer["label"] == rows[0][0]
    assert answer["probabilities"][answer["label"]] == pytest.approx(float(rows[0][1]), abs=1e-4)
    assert set(answer["probabilities"]) == set(LABELS)


@pytest.mark.finding("E1")
@pytest.mark.parametrize("way", ["file", "standard input"])
@pytest.mark.parametrize("end", ["\n", ""])
def test_a_line_of_input_is_a_line_of_output(call, tuned, tmp_path, monkeypatch, way, end):
    """Blank ones too, more of them than make a batch."""
    run, kinds = tuned[0] / "run", [e.text for e in entries(20)]
    lines = ["", *kinds, " \t", "", *kinds, "a\u2028b", "a\x0bb"]
    (tmp_path / "texts").write_text("\n".join(lines) + end, encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.StringIO((tmp_path / "texts").read_text(encoding="utf-8")))
    status, output, errors = call("classify", run, *(["--file", tmp_path / "texts"] if way == "file" else []))
    assert (status, errors) == (0, "")
    rows = [line.split("\t") for line in output.split("\n")[:-1]]
    assert [row[2] for row in rows] == [" ".join(line.split()) for line in lines]
    alone = [line.split("\t") for line in call("classify", run, *kinds)[1].split("\n")[:-1]]
    assert [row[0] for row in rows[1:21]] == [row[0] for row in alone]
    assert [float(row[1]) for row in rows[23:43]] == pytest.approx([float(row[1]) for row in alone], abs=2e-4)
    assert [rows[i] for i in (0, 21, 22)] == [["", "", ""]] * 3


@pytest.mark.parametrize("way", ["file", "standard input"])
def test_a_bar_is_shown_where_the_number_of_lines_is_known(call, tuned, tmp_path, monkeypatch, way):
    shown = []

    def bar(what, total):
        shown.append((what, total))
        return contextlib.nullcontext(lambda n: shown.append(n))

    monkeypatch.setattr("gpt.cli.classify.bar", bar)
    (tmp_path / "texts").write_text("a plum\ntea\n" * 3, encoding="utf-8")
    source = {"typed": "a plum\ntea\n"} if way == "standard input" else {}
    assert call("classify", tuned[0] / "run", *([] if source else ["--file", tmp_path / "texts"]), **source)[0] == 0
    assert shown == ([] if source else [("labelling", 6), 6])


@pytest.mark.finding("E1")
def test_batches_are_labelled_together_on_the_threads_there_are(call, tuned, monkeypatch):
    sizes, threads = [], []
    found = lambda model, padding, rows: sizes.append(len(rows)) or [[0, 1]] * len(rows)  # noqa: E731
    monkeypatch.setattr(classify.inference, "probabilities", found)
    monkeypatch.setattr(machine, "default_threads", lambda: 3)
    monkeypatch.setattr(machine, "set_threads", threads.append)
    texts = [f"give me {n} plums" for n in "abcdefghijklmnopqrst"]  # of the same length
    monkeypatch.setattr("sys.stdin", io.StringIO("\n\n".join(texts)))
    assert call("classify", tuned[0] / "run")[0] == 0
    assert sum(sizes) == 20
    assert len(sizes) == 2  # as many tokens as 16 of the longest texts have
    assert threads == [3]


def test_a_line_that_occurs_again_is_computed_once_and_answered_each_time(call, tuned, monkeypatch):
    """Also where it comes long after the first one, has no label, or is too long."""
    bad, long = "caf\udce9", "a tea " * 60  # not UTF-8; cut
    lines = ["a plum", "a tea", bad, "a plum", long, "a tea", bad, "", long, "a plum", "a juice"]
    sizes, real = [], classify.inference.probabilities
    count = lambda model, padding, rows: sizes.append(len(rows)) or real(model, padding, rows)  # noqa: E731
    monkeypatch.setattr("gpt.cli.classify.TOGETHER", 3)
    monkeypatch.setattr(classify.inference, "probabilities", count)
    status, output, errors = call("classify", tuned[0] / "run", "--json", typed="\n".join(lines))
    assert sum(sizes) == 4
    answers = [json.loads(line) for line in output.splitlines()]
    assert [answer["text"] for answer in answers] == lines
    assert [answer["cut"] for answer in answers] == [line == long for line in lines]
    trained = classify.load(tuned[0] / "run")
    for line, answer in zip(lines, answers, strict=True):
        alone = classify.predict(trained, [line])[0] if line not in ("", bad) else None
        assert answer["probabilities"] == (None if alone is None else pytest.approx(alone, abs=1e-5))
    assert status == 1
    assert re.findall(r"line (\d+):", errors) == ["3", "7"]
    assert "2 texts were longer" in errors
    sizes.clear()
    monkeypatch.setattr("gpt.cli.classify.MOST_KNOWN", 2)  # so that a stream without an end does not fill the memory
    again = call("classify", tuned[0] / "run", "--json", typed="\n".join(lines))[1]
    assert [json.loads(line)["label"] for line in again.splitlines()] == [answer["label"] for answer in answers]
    assert sum(sizes) > 4


def test_products_in_bfloat16_are_said_and_give_nearly_the_same(call, tuned):
    texts = ["give me a plum", "I want a juice"]
    probabilities = []
    for dtype in ("float32", "bfloat16"):
        try:
            status, output, errors = call("classify", tuned[0] / "run", *texts, "--json", "--dtype", dtype)
            assert precision.matmul_dtype() == ("float32" if "off" in errors else dtype)
        finally:
            precision.set_matmul_dtype("float32")
        assert status == 0
        assert errors.startswith("" if dtype == "float32" else "dtype: ")
        probabilities.append([list(json.loads(line)["probabilities"].values()) for line in output.splitlines()])
    assert probabilities[0] == [pytest.approx(p, abs=0.02) for p in probabilities[1]]


@pytest.mark.parametrize("position", ["last", "last-real", "first", "mean"])
def test_texts_of_any_length_are_labelled_in_their_order_as_each_alone(position, monkeypatch):
    tl.manual_seed(1)
    model = Classifier(GPTConfig(vocab_size=40, context_length=24, n_layer=2, n_head=2, n_embd=16), 2, position)
    tokenizer = CharTokenizer(CharTokenizer.train("abcdefgh ").characters, (END_OF_TEXT,))
    padding = Padding(tokenizer.special_tokens[END_OF_TEXT], 24, matters=position == "last")
    trained = classify.TrainedClassifier(model.eval(), tokenizer, ["x", "y"], padding)
    texts = [("abcdefgh " * 4)[i % 5 : i % 5 + n] for i, n in enumerate([3, 20, 1, 7, 30, 7, 2, 14, 1, 24])]
    widths = []
    real = Padding.batch
    monkeypatch.setattr(Padding, "batch", lambda self, rows: widths.append(len(rows)) or real(self, rows))
    cut: set[int] = set()
    together = classify.predict(trained, texts, 2, cut)
    assert (cut, sum(widths)) == ({4}, 10)
    assert len(widths) == 5 if position == "last" else len(widths) < 5  # more of the short ones in a batch
    alone = [classify.predict(trained, [text])[0] for text in texts]
    assert [p["x"] for p in together] == pytest.approx([p["x"] for p in alone], abs=1e-6)
    assert len({round(p["x"], 6) for p in alone}) > (5 if position != "first" else 2)  # the order can be seen


@pytest.mark.slow
@pytest.mark.finding("E1")
def test_answers_come_as_lines_do_and_a_bad_line_stops_nothing(tuned):
    """In a process, through a pipe that stays open: nobody waits for a full batch."""
    command = [sys.executable, "-m", "gpt", "classify", str(tuned[0] / "run")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=ONE_THREAD, **pipes) as process:
        for line in (b"\xef\xbb\xbfgive me a plum\n", b"caf\xe9\r\n", b"\n", b"I want", b" a juice\r\n"):
            process.stdin.write(line)
            process.stdin.flush()
            if line.endswith(b"\n"):
                answer = process.stdout.readline()
                assert answer.count(b"\t") == 2
            if b"plum" in line:
                assert answer.endswith(b"\tgive me a plum\n")
        assert answer.endswith(b"\tI want a juice\n")
        rest, errors = process.communicate(b"a tea")
    assert rest.endswith(b"\ta tea\n")
    assert process.returncode == 1
    assert re.fullmatch(rb"standard input, line 2: the text is not UTF-8 \(byte 0xe9 at position 3\).*\n", errors)


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_byte_that_is_not_utf8_comes_back_as_it_was(tuned, flags):
    command = [sys.executable, "-m", "gpt", "classify", str(tuned[0] / "run"), *flags]
    done = subprocess.run(command, input=b"caf\xe9 \xc3\xa9\n", env=ONE_THREAD, capture_output=True, check=False)
    if flags:
        assert json.loads(done.stdout.decode("utf-8"))["text"] == "caf\udce9 \u00e9"
    else:
        assert done.stdout == b"\t\tcaf\xe9 \xc3\xa9\n"
    assert done.returncode == 1


def test_a_line_of_a_file_that_is_not_utf8_is_reported_as_one_of_standard_input(call, tuned, tmp_path, monkeypatch):
    """The other lines are labelled; a byte at the end, in the middle and across two blocks."""
    monkeypatch.setattr("gpt.data.corpus.BLOCK", 16)
    path = tmp_path / "texts"
    path.write_bytes(b"\xef\xbb\xbfa plum\ncaf\xe9\r\n\nI want \xc3\xa9 \xe2\x82\na tea\n\xc3")
    answers, problems = {}, {}
    for way in ("file", "standard input"):
        with open(path, encoding="utf-8") as opened:
            monkeypatch.setattr("sys.stdin", opened)
            args = ["--file", path] if way == "file" else []
            status, output, errors = call("classify", tuned[0] / "run", "--json", *args)
        assert status == 1
        answers[way] = [json.loads(line) for line in output.splitlines()]
        problems[way] = errors.replace(str(path), "standard input")
    assert answers["file"] == answers["standard input"]
    assert [answer["text"] for answer in answers["file"]] == [
        "a plum", "caf\udce9", "", "I want \u00e9 \udce2\udc82", "a tea", "\udcc3",
    ]  # fmt: skip
    assert [answer["label"] in LABELS for answer in answers["file"]] == [True, False, False, False, True, False]
    assert problems["file"] == problems["standard input"]
    assert re.findall(r"line (\d+): the text is not UTF-8 \(byte (0x..) at position (\d+)\)", problems["file"]) == [
        ("2", "0xe9", "3"), ("4", "0xe2", "9"), ("6", "0xc3", "0"),
    ]  # fmt: skip


def test_a_file_that_is_no_text_is_refused_before_its_lines_are_labelled(call, tuned, tmp_path):
    (tmp_path / "texts").write_bytes("give me a plum\n".encode("utf-16"))
    status, output, errors = call("classify", tuned[0] / "run", "--file", tmp_path / "texts")
    assert (status, output) == (1, "")
    assert errors == f"gpt: the text file {str(tmp_path / 'texts')!r} is UTF-16: convert it to UTF-8\n"


@pytest.mark.parametrize("source", ["arguments", "file", "input"])
def test_texts_that_were_cut_are_counted(call, tuned, tmp_path, monkeypatch, source):
    texts = ["give me a plum", "give me a plum " * 50, "a tea " * 60]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(texts)))
    (tmp_path / "texts").write_text("\n".join(texts), encoding="utf-8")
    args = {"arguments": texts, "file": ["--file", tmp_path / "texts"], "input": []}[source]
    length = classify.load(tuned[0] / "run").padding.length
    code, output, errors = call("classify", tuned[0] / "run", *args, "--json")
    assert (code, errors) == (0, f"2 texts were longer than {length} tokens and were cut\n")
    assert [json.loads(line)["cut"] for line in output.splitlines()] == [False, True, True]
    monkeypatch.setattr("sys.stdin", io.StringIO(texts[0]))
    assert call("classify", tuned[0] / "run")[2] == ""


def test_a_text_is_cut_where_training_cut(tuned):
    trained = classify.load(tuned[0] / "run")
    long = "give me a plum " * 50
    assert classify.predict(trained, [long]) == classify.predict(trained, [long + " and more"])
