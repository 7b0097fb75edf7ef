"""Classification: the book's counts, what learns and what does not, going on, labelling, and what is refused."""

import io
import json
import random
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from runs import ONE_THREAD, contents, gpt, start, train

import tensorlite as tl
from gpt.config import PRESETS, GPTConfig
from gpt.tasks.classify import data as labelled
from gpt.tasks.classify import task as classify
from gpt.tasks.classify.settings import ClassifyConfig
from gpt.tasks.classify.task import Classification, Classifier
from gpt.tasks.pretrain import TrainConfig
from gpt.tokenizer import gpt2
from gpt.training import checkpoint, plots, session, step
from gpt.training import loop as training
from tensorlite.devices import machine
from tensorlite.random import sample_rows

LABELS = ("drink", "fruit")
WORDS = {"drink": ("milk", "tea", "juice", "water"), "fruit": ("pear", "plum", "fig", "lime")}


def entries(count: int = 60) -> list[labelled.Entry]:
    """Sentences that name a fruit or, twice as often, a drink: easy to tell apart."""
    chance = random.Random(5)
    kinds = ["fruit" if i % 3 == 0 else "drink" for i in range(count)]
    return [
        labelled.Entry(kind, f"{chance.choice(('I want', 'we took', 'give me'))} a {chance.choice(WORDS[kind])} {i}")
        for i, kind in enumerate(kinds)
    ]


def tune(folder, base, **changes) -> ClassifyConfig:
    """A tiny fine-tuning into folder/run."""
    values = {
        "base": base, "data": folder / "data.tsv", "out": folder / "run", "batch_size": 4, "epochs": 3, "lr": 0.02,
        "layers": "all", "position": "last-real", "eval_every": 4, "checkpoint_every": 3, "sample_every": 5,
        "threads": 1, "dropout": 0.1,
    }  # fmt: skip
    return ClassifyConfig(**{**values, **changes})


def write_tsv(path, rows=None) -> None:
    path.write_text("".join(f"{e.label}\t{e.text}\n" for e in rows or entries()), encoding="utf-8")


def learn(config: ClassifyConfig) -> str:
    return train(config, Classification)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A pretrained run."""
    folder = tmp_path_factory.mktemp("base")
    (folder / "text.txt").write_text("\n".join(e.text for e in entries()) * 3, encoding="utf-8")
    train(
        TrainConfig(
            text=(folder / "text.txt",),
            out=folder / "base",
            vocab_size=270,
            n_layer=3,
            n_head=2,
            n_embd=16,
            context_length=24,
            steps=5,
            batch_size=2,
            threads=1,
        )
    )
    return folder / "base"


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, base):
    """A classifier: its folder, and what training it printed."""
    folder = tmp_path_factory.mktemp("tuned")
    write_tsv(folder / "data.tsv")
    return folder, learn(tune(folder, base))


def test_a_run_that_ends_with_weights_of_no_use_is_an_error_and_reports_nothing(base, tmp_path, call):
    write_tsv(tmp_path / "c.tsv")
    code, output, errors = call(
        "finetune", "classify", base, "--data", tmp_path / "c.tsv", "--lr", "1e30", "--steps", 3, "--out",
        tmp_path / "run", "--layers", "all",
    )  # fmt: skip
    assert code == 1
    assert re.search(
        r"^gpt: step 3, the last one at lr .*A lower lr may help; the checkpoint of step 0 is kept", errors
    )
    assert "test accuracy" not in output
    assert not (tmp_path / "run" / "report.json").exists()


@pytest.mark.finding("A6")
def test_the_same_command_line_again_is_done_once(base, tmp_path, call):
    write_tsv(tmp_path / "data.tsv")
    again = ["finetune", "classify", base, "--data", tmp_path / "data.tsv", "--out", tmp_path / "run"]
    again += ["--epochs", "1", "--batch-size", "16", "--resume-if-exists"]
    assert call(*again)[0] == 0
    before = contents(tmp_path / "run")
    assert call(*again) == (0, f"{tmp_path / 'run'} has done all of its steps: there is nothing left to do\n", "")
    assert contents(tmp_path / "run") == before


# ----- the book's numbers -----------------------------------------------------------------------------------------


def test_the_sms_corpus_as_the_book_cuts_it(data_dir):
    found = labelled.read(data_dir / "SMSSpamCollection")
    assert len(found) == 5572
    assert sum(e.label == "spam" for e in found) == 747
    chosen = labelled.balanced(found, 123)
    assert [sum(e.label == label for e in chosen) for label in ("ham", "spam")] == [747, 747]
    # pandas: ham.sample(747, random_state=123) before spam, then sample(frac=1, random_state=123)
    ham = [e for e in found if e.label == "ham"]
    book = [ham[i] for i in np.random.RandomState(123).choice(4825, 747, replace=False)]
    book += [e for e in found if e.label == "spam"]
    book = [book[i] for i in np.random.RandomState(123).choice(1494, 1494, replace=False)]
    parts = labelled.split(chosen, 123)
    assert [len(part) for part in parts.values()] == [1045, 149, 300]
    assert [*parts["train"], *parts["validation"], *parts["test"]] == book
    tokenizer = gpt2(folder=data_dir)
    assert max(len(tokenizer.encode(e.text)) for e in parts["train"]) == 120


def test_batches_of_the_book(data_dir, tmp_path, base):
    config = tune(tmp_path, base, data=data_dir / "SMSSpamCollection", batch_size=8, epochs=5, position="last", steps=1)
    learn(ClassifyConfig(**{**vars(config), "max_length": 24}))
    description = checkpoint.read_config(tmp_path / "run" / "config.json")
    task = Classification(tune(tmp_path, base, batch_size=8, epochs=5), tmp_path / "run", gpt2(data_dir), description)
    assert len(task.epochs) == 130
    assert task.steps == 650
    assert [-(-len(task.rows[part]) // 8) for part in ("validation", "test")] == [19, 38]
    assert task.padding.matters
    assert task.draw()[0].shape == (8, 24)


def test_what_learns_of_gpt2_in_the_book():
    # The embeddings never learn here, and 85 million random numbers are enough.
    model = classify.build(ClassifyConfig(), replace(PRESETS["gpt2"], vocab_size=2, context_length=2, init="torch"), 2)
    for layers, learning in (("last-block", 7_090_946), ("head", 1538), ("lora", 2_666_528)):
        classify.choose_layers(model, ClassifyConfig(layers=layers))
        assert sum(p.size for p in model.parameters() if p.requires_grad) == learning, layers


@pytest.mark.parametrize(("n", "k", "seed"), [(4825, 747, 123), (10, 10, 0), (7, 0, 1), (0, 0, 1), (50, 49, 2**32 - 1)])
def test_rows_are_sampled_as_pandas_does(n, k, seed):
    assert sample_rows(n, k, seed).tolist() == np.random.RandomState(seed).choice(n, k, replace=False).tolist()


def test_more_rows_than_there_are_cannot_be_sampled():
    with pytest.raises(ValueError, match="sample_rows: k must be from 0 to 3, got 4"):
        sample_rows(3, 4, 0)


# ----- files ------------------------------------------------------------------------------------------------------

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
    assert labelled.read(tmp_path / "f") == [("ham", 'Go, "now"'), ("spam", 'Win "big"'), ("ham", "see you")]


def test_columns_may_be_named(tmp_path):
    (tmp_path / "f").write_text("a,b,label\nx,one,1\ny,two,2\n")
    assert labelled.read(tmp_path / "f", "a", "b") == [("x", "one"), ("y", "two")]
    assert labelled.read(tmp_path / "f", text_column="a") == [("1", "x"), ("2", "y")]
    (tmp_path / "f").write_text('{"a": true, "b": "one"}\n{"a": 3, "b": "two"}')
    assert labelled.read(tmp_path / "f", "a", "b") == [("True", "one"), ("3", "two")]


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
        labelled.read(tmp_path / "f")
    assert "\n" not in str(error.value)


def test_named_columns_that_are_not_there(tmp_path):
    (tmp_path / "f").write_text("label,text\nham,go\n")
    with pytest.raises(ValueError, match="f has no column 'klass' for the label: its columns are label, text"):
        labelled.read(tmp_path / "f", label_column="klass")
    with pytest.raises(ValueError, match="label and text are both 'text'"):
        labelled.read(tmp_path / "f", "text", "text")


def test_balancing_takes_as_many_of_each_of_any_number_of_labels():
    rows = [labelled.Entry(label, str(i)) for i in range(90) for label in "abc"[: 3 if i % 10 == 0 else 1 + i % 2]]
    chosen = labelled.balanced(rows, 3)
    counts = {label: sum(e.label == label for e in rows) for label in "abc"}
    assert [sum(e.label == label for e in chosen) for label in "abc"] == [min(counts.values())] * 3
    assert len(set(chosen)) == len(chosen)
    assert labelled.balanced(rows, 3) == chosen != labelled.balanced(rows, 4)


# ----- the model --------------------------------------------------------------------------------------------------

SHAPE = GPTConfig(vocab_size=20, context_length=6, n_layer=2, n_head=2, n_embd=8)
IDX = [[3, 4, 5, 0, 0, 0], [7, 8, 9, 10, 11, 0]]
LENGTHS = [3, 5]


def test_where_the_label_is_read():
    tl.manual_seed(0)
    features = tl.randn(2, 6, 8)
    f = features.numpy()
    expected = {
        "first": f[:, 0], "last": f[:, 5], "last-real": np.stack([f[0, 2], f[1, 4]]),
        "mean": np.stack([f[0, :3].mean(0), f[1, :5].mean(0)]),
    }  # fmt: skip
    for position, wanted in expected.items():
        model = Classifier(SHAPE, 3, position)
        assert np.allclose(model.read(features, LENGTHS).numpy(), wanted, atol=1e-6), position
        assert model(tl.tensor(IDX), LENGTHS).shape == (2, 3)


@pytest.mark.parametrize(
    ("position", "causal", "sees_padding"),
    [("last", True, True), ("last-real", True, False), ("first", True, False), ("mean", True, False),
     ("last-real", False, True), ("mean", False, True)],
)  # fmt: skip
def test_who_sees_padding(position, causal, sees_padding):
    """What Padding.matters says is what happens: then the batch is padded to one length, else to its longest."""
    tl.manual_seed(1)
    model = Classifier(GPTConfig(**{**SHAPE.to_dict(), "causal": causal}), 2, position).eval()
    padded = model(tl.tensor([[3, 4, 5, 0, 0, 0]]), [3]).tolist()
    alone = model(tl.tensor([[3, 4, 5]]), [3]).tolist()
    assert np.allclose(padded, alone, atol=1e-5) != sees_padding
    settings = {"position": position, "causal": causal}
    assert classify.padding_of({"training": settings, "padding": 0, "length": 6}).matters == sees_padding


def test_without_a_causal_mask_the_first_position_sees_the_last():
    for causal in (True, False):
        tl.manual_seed(1)
        model = Classifier(GPTConfig(**{**SHAPE.to_dict(), "causal": causal}), 2, "first").eval()
        one, other = (model(tl.tensor([[3, 4, last]]), [3]).tolist() for last in (5, 6))
        assert (one == other) == causal


@pytest.mark.parametrize("layers", ["head", "last-block", "last-2", "all", "lora"])
def test_frozen_weights_do_not_change_and_get_no_gradient(tmp_path, base, layers):
    write_tsv(tmp_path / "data.tsv")
    before = tl.io.load(base / "model.safetensors")
    learn(tune(tmp_path, base, layers=layers, epochs=1))
    s = session.resume(Classification, session.settings(tmp_path / "run", ClassifyConfig), tmp_path / "run", print)
    batch = s.task.draw()
    step.accumulate(s.task, s.model, [batch], [s.task.targets(batch)])
    frozen, learning = set(), set()
    for name, p in s.model.named_parameters():
        (learning if p.requires_grad else frozen).add(name)
        assert (p.grad is not None) == p.requires_grad, name
    expected = {
        "head": ("head.",), "last-block": ("head.", "body.blocks.2.", "body.final_norm."),
        "last-2": ("head.", "body.blocks.2.", "body.blocks.1.", "body.final_norm."), "all": ("head.", "body."),
    }  # fmt: skip
    if layers == "lora":
        assert learning == {name for name in frozen | learning if "lora_" in name}
    else:
        assert learning == {name for name in frozen | learning if name.startswith(expected[layers])}
    after = dict(s.model.named_parameters())
    plain = {name.replace(".linear.", ".").removeprefix("body."): name for name in frozen if name.startswith("body.")}
    assert len(plain) == len([name for name in frozen if name.startswith("body.")])
    assert all(after[name].tolist() == before[short].tolist() for short, name in plain.items())
    assert sum(t.size for t in s.optimizer.state_dict()["tensors"].values()) == 2 * sum(
        after[name].size for name in learning
    )


def recorded(model: Classifier) -> tuple[int, int]:
    """How many ops a loss remembers, and how many bytes of arrays they keep that are no weights."""
    idx, labels = tl.randint(0, 20, (4, 6)), tl.tensor([0, 1, 0, 1])
    loss = Classification.loss(model, (idx, [6] * 4, labels))
    own, kept, seen, stack = {id(p.data) for p in model.parameters()}, {}, set(), [loss.node]
    while stack:
        node = stack.pop()
        if id(node) in seen or not hasattr(node, "saved"):  # a leaf is no op
            continue
        seen.add(id(node))
        stack += [parent for parent in node.parents if parent is not None]
        kept |= {id(x): x.nbytes for x in node.saved if isinstance(x, np.ndarray) and id(x) not in own}
    return len(seen), sum(kept.values())


@pytest.mark.parametrize("layers", ["head", "last-block", "last-2", "all"])
def test_nothing_is_kept_for_what_lies_below_all_that_learns(layers):
    """Four blocks more below do not add an op or a byte, unless they learn."""
    sizes = []
    for blocks in (3, 7):
        tl.manual_seed(0)
        model = Classifier(replace(SHAPE, n_layer=blocks), 2, "last")
        classify.choose_layers(model, ClassifyConfig(layers=layers))
        sizes.append(recorded(model))
    assert (sizes[0] == sizes[1]) == (layers != "all")
    if layers == "head":
        assert sizes[0][1] < 4 * 6 * 8 * 4  # less than the features of all positions: those of one, and indices


# ----- a run ------------------------------------------------------------------------------------------------------


def test_it_learns_and_says_how_well(tuned):
    folder, screen = tuned
    run = folder / "run"
    first, *steps, last = plots.read_metrics(run / "metrics.jsonl")
    assert first["validation_loss"] == pytest.approx(np.log(2), abs=0.4)
    assert last["test_accuracy"] >= 0.75
    assert [line["step"] for line in steps if "validation_accuracy" in line] == [4, 8, 12, 16, 20, 21]
    report = json.loads((run / "report.json").read_text())
    assert report["accuracy"] == last["test_accuracy"]
    assert sum(map(sum, report["confusion"])) == len((run / "test.jsonl").read_text().splitlines()) == 8
    assert {"loss.png", "report.png", "samples.txt"} <= {path.name for path in run.iterdir()}
    assert (run / "report.png").read_bytes().startswith(b"\x89PNG")
    for row in ("texts per second", "test accuracy", "precision, recall of fruit"):
        assert row in screen
    assert re.search(r"accuracy \d+\.\d%  \(training \d+\.\d%\)", screen)
    assert (run / "samples.txt").read_text().count("(is ") == 5 * 4  # after steps 5, 10, 15 and at the end


def test_figures_by_hand():
    found = classify.figures(["a", "b", "c"], [[3, 1, 0], [2, 4, 0], [0, 0, 0]])
    assert found["accuracy"] == 0.7
    assert found["by_label"]["a"] == {"precision": 0.6, "recall": 0.75, "f1": pytest.approx(2 / 3), "entries": 4}
    assert found["by_label"]["b"] == {"precision": 0.8, "recall": pytest.approx(2 / 3), "f1": 8 / 11, "entries": 6}
    assert found["by_label"]["c"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "entries": 0}


def test_the_confusion_matrix_counts_what_the_classifier_says(tuned):
    run = tuned[0] / "run"
    trained = classify.load(run)
    counted = [[0, 0], [0, 0]]
    for line in (run / "test.jsonl").read_text().splitlines():
        entry = json.loads(line)
        (p,) = classify.classify(trained, [entry["text"]])
        assert sum(p.values()) == pytest.approx(1, abs=1e-6)
        counted[LABELS.index(entry["label"])][LABELS.index(max(p, key=p.get))] += 1
    assert counted == json.loads((run / "report.json").read_text())["confusion"]


def test_the_run_needs_nothing_else_and_the_base_is_only_read(tmp_path, base):
    mine = tmp_path / "mine"
    shutil.copytree(base, mine)
    before = contents(mine)
    write_tsv(tmp_path / "data.tsv")
    learn(tune(tmp_path, mine))
    assert contents(mine) == before
    shutil.rmtree(mine)
    (tmp_path / "data.tsv").unlink()
    screen = learn(ClassifyConfig(**{**vars(session.settings(tmp_path / "run", ClassifyConfig)), "epochs": 4}))
    assert "changed    epochs from 3 to 4, from step 21 on" in screen
    assert checkpoint.newest(tmp_path / "run")[0].step == 28
    assert classify.classify(classify.load(tmp_path / "run"), ["give me a plum"])


class Crash(BaseException):
    """The process ends here."""


@pytest.mark.parametrize(("layers", "at"), [("all", 5), ("all", 17), ("lora", 8), ("head", 11)])
def test_a_crash_in_the_middle_of_an_epoch_changes_nothing(tuned, base, tmp_path, monkeypatch, layers, at):
    def settings(name):
        return tune(tuned[0], base, layers=layers, out=tmp_path / name)

    real, calls = training.update, []

    def crash(*args):
        calls.append(1)
        if len(calls) == at:
            raise Crash
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(training, "update", crash)
        with pytest.raises(Crash):
            learn(settings("broken"))
    learn(session.settings(tmp_path / "broken", ClassifyConfig))
    learn(settings("whole"))
    mine, whole = contents(tmp_path / "broken"), contents(tmp_path / "whole")
    drawn = {"loss.png", "report.png"}  # they bear the run's name
    assert {k: v for k, v in mine.items() if k not in drawn} == {k: v for k, v in whole.items() if k not in drawn}


def test_accumulation_equals_one_large_batch(tuned, base, tmp_path):
    losses = []
    for name, split in (("whole", {"batch_size": 8}), ("split", {"batch_size": 2, "grad_accumulation": 4})):
        learn(tune(tuned[0], base, out=tmp_path / name, dropout=0.0, steps=3, **split))
        losses.append([line["loss"] for line in plots.read_metrics(tmp_path / name / "metrics.jsonl")[1:-1]])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_more_than_two_labels(tmp_path, base):
    rows = [*entries(), *(labelled.Entry("tool", f"take the hammer or saw {i}") for i in range(20))]
    write_tsv(tmp_path / "data.tsv", rows)
    learn(tune(tmp_path, base, balance=False))
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["labels"] == ["drink", "fruit", "tool"]
    assert sum(map(sum, report["confusion"])) == 16


def test_stopped_by_a_signal_it_saves_and_says_how_to_go_on(tuned, base, tmp_path):
    import signal

    args = ["finetune", "classify", base, "--data", tuned[0] / "data.tsv", "--out", tmp_path / "run", "--batch-size", 4]
    with start(*args, "--epochs", 999, "--eval-every", 1, "--threads", 1) as process:
        for line in process.stdout:
            if line.startswith("step     3/"):
                process.send_signal(signal.SIGTERM)
                break
        output, errors = process.communicate()
    assert process.returncode == 143, errors
    assert f"go on with gpt finetune classify --resume {tmp_path / 'run'}" in output
    step = checkpoint.newest(tmp_path / "run")[0].step
    status, output, errors = gpt("finetune", "classify", "--resume", tmp_path / "run", "--steps", step + 2)
    assert status == 0, errors
    assert f"resumed    {tmp_path / 'run'} after step {step}" in output


# ----- texts in several parts -------------------------------------------------------------------------------------


@pytest.mark.finding("C12")
def test_repeated_texts_of_the_corpus_of_the_book(data_dir):
    found = labelled.read(data_dir / "SMSSpamCollection")
    parts = labelled.split(labelled.balanced(found, 123), 123)
    assert {name: sum(again) for name, again in labelled.repeated(parts).items()} == {
        "train": 0, "validation": 13, "test": 41
    }  # fmt: skip
    train, before = ({e.text for name in names for e in parts[name]} for names in (["train"], ["train", "validation"]))
    assert sum(e.text in before for e in parts["test"]) == 41
    assert sum(e.text in train for e in parts["test"]) == 37
    unique, differing = labelled.unique(found)
    assert len({e.text for e in unique}) == len(unique) == len({e.text for e in found})
    assert differing == 0
    parts = labelled.split(labelled.balanced(unique, 123), 123)
    assert not any(again for part in labelled.repeated(parts).values() for again in part)


@pytest.mark.finding("C12")
def test_the_first_of_equal_texts_stays():
    rows = [labelled.Entry(*pair) for pair in (("a", "x"), ("b", "y"), ("b", "x"), ("a", "x"), ("a", "z"))]
    assert labelled.unique(rows) == ([rows[0], rows[1], rows[4]], 1)


@pytest.mark.finding("C12")
@pytest.mark.parametrize("unique", [False, True])
def test_accuracy_is_told_with_and_without_repeated_texts(tmp_path, base, unique):
    rows = entries(60)
    write_tsv(tmp_path / "data.tsv", rows + rows[:20])
    config = tune(tmp_path, base, steps=2, unique_texts=unique, balance=False)
    said = " ".join(learn(config).split())
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    parts = {part: labelled.read(tmp_path / "run" / f"{part}.jsonl", "label", "text") for part in classify.PARTS}
    known = {e.text for part in ("train", "validation") for e in parts[part]}
    again = [e.text in known for e in parts["test"]]
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert report["repeated"] == last["test_repeated"] == sum(again)
    if unique:
        assert sum(map(len, parts.values())) == 60
        assert "80 entries, 20 of them with a text that came before (0 of these with another label) left out" in said
        assert not any(again)
        assert "also in training" not in said
        assert "accuracy_without_repeated" not in report
        return
    assert sum(again) > 2
    trained = classify.load(tmp_path / "run")
    new = [e for e, known_before in zip(parts["test"], again, strict=True) if not known_before]
    right = [
        max(p, key=p.get) == e.label
        for p, e in zip(classify.classify(trained, [e.text for e in new]), new, strict=True)
    ]
    assert report["accuracy_without_repeated"] == pytest.approx(sum(right) / len(right))
    assert f"warning: {sum(again)} of 16 test texts are also in training or validation, and " in said
    assert "--unique-texts uses each text once" in said
    assert re.search(rf"test texts also in training or validation .? *{sum(again)} of 16", said)
    assert f"test accuracy without these │ {report['accuracy_without_repeated']:.2%}" in said
    assert plots.report_title(tmp_path / "run", report).endswith(f"({sum(again)} of 16 also in training or validation)")


def test_a_run_from_before_a_setting_can_be_resumed(tmp_path, base):
    """Its config.json does not have the setting: it is as it was."""
    write_tsv(tmp_path / "data.tsv")
    learn(tune(tmp_path, base, steps=1))
    config = session.settings(tmp_path / "run", ClassifyConfig)
    description = checkpoint.read_config(tmp_path / "run" / "config.json")
    assert "unique_texts" in description["training"]
    del description["training"]["unique_texts"]
    assert session.allowed_changes(tmp_path / "run", description, config, description["made_with"]) == []
    with pytest.raises(ValueError, match="was begun with unique_texts False and cannot go on with True"):
        session.resume(Classification, replace(config, unique_texts=True), tmp_path / "run", print)


# ----- labelling --------------------------------------------------------------------------------------------------


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


@pytest.mark.finding("E1")
def test_batches_are_labelled_together_on_the_threads_there_are(call, tuned, monkeypatch):
    sizes, threads = [], []
    monkeypatch.setattr(
        classify, "probabilities", lambda model, padding, rows: sizes.append(len(rows)) or [[0, 1]] * len(rows)
    )
    monkeypatch.setattr(machine, "default_threads", lambda: 3)
    monkeypatch.setattr(machine, "set_threads", threads.append)
    monkeypatch.setattr("sys.stdin", io.StringIO("give me a plum\n\n" * 20))
    assert call("classify", tuned[0] / "run")[0] == 0
    assert sum(sizes) == 20
    assert len(sizes) == 3
    assert threads == [3]


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


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (
            ["--layers", "lora", "--rank", "17"],
            "--rank must be at most 16, the smaller side of the largest Linear, got 17",
        ),
        (["--alpha", "3"], "--alpha has no effect without --layers lora: add --layers lora, or omit --alpha"),
    ],
)
def test_settings_of_lora_that_have_no_use_are_refused(base, call, tmp_path, flags, says):
    write_tsv(tmp_path / "c.tsv")
    args = ["finetune", "classify", base, "--data", tmp_path / "c.tsv", "--out", tmp_path / "run", *flags]
    code, _, errors = call(*args)
    assert code == 1
    assert says in errors
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_byte_that_is_not_utf8_comes_back_as_it_was(tuned, flags):
    command = [sys.executable, "-m", "gpt", "classify", str(tuned[0] / "run"), *flags]
    done = subprocess.run(command, input=b"caf\xe9 \xc3\xa9\n", env=ONE_THREAD, capture_output=True, check=False)
    if flags:
        assert json.loads(done.stdout.decode("utf-8"))["text"] == "caf\udce9 \u00e9"
    else:
        assert done.stdout == b"\t\tcaf\xe9 \xc3\xa9\n"
    assert done.returncode == 1


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
    assert classify.classify(trained, [long]) == classify.classify(trained, [long + " and more"])


# ----- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["finetune", "classify"], "what is learnt, and from where? gpt finetune classify RUN --data FILE"),
        (["finetune", "classify", "{base}"], "what is learnt, and from where? gpt finetune classify RUN --data FILE"),
        (["finetune", "classify", "{base}", "--data", "nowhere"], "nowhere cannot be read: No such file or directory"),
        (["finetune", "classify", "{base}", "--data", "{tmp}"], "{tmp} is a directory: name the file in it"),
        (["finetune", "classify", "nowhere", "--data", "{data}"], "there is no run nowhere"),
        (
            ["finetune", "classify", "{run}", "--data", "{data}"],
            "{run} is a run of the task 'classify', and one of 'pretrain' or 'instruct' is needed here: gpt finetune "
            "classify --resume goes on with it",
        ),
        (
            ["finetune", "classify", "--resume", "{base}"],
            "{base} is a run of the task 'pretrain', and one of 'classify' is needed here: gpt train --resume goes on",
        ),
        (["train", "--resume", "{run}"], "{run} is a run of the task 'classify', and one of 'pretrain' is needed here"),
        (["generate", "{run}"], "{run} is a run of the task 'classify', and one of 'pretrain' or 'instruct' is needed"),
        (
            ["classify", "{base}", "x"],
            "{base} was not taught to label texts: gpt finetune classify {base} --data FILE does that",
        ),
        (["classify", "nowhere", "x"], "there is no run nowhere"),
        (["classify", "{run}", ""], "the text '' has no token in it: give some text"),
        (["classify", "{run}", "x", "--file", "{data}"], "give texts or --file, not both"),
        (["finetune", "classify", "{base}", "--data", "{one}"], "{one} has one label alone, 'ham': there is nothing"),
        (
            ["finetune", "classify", "{base}", "--data", "{long}"],
            "14 training texts of 14 are too long: the longest has 44 tokens, and {base} has a context_length of ",
        ),
        (
            ["finetune", "classify", "{base}", "--data", "{data}", "--max-length", 25],
            "max_length is 25 tokens, and {base} has a context_length of 24: --max-length 24 cuts what is longer",
        ),
        (
            ["finetune", "classify", "{base}", "--data", "{data}", "--batch-size", 29],
            "28 training entries make no batch of 29: give more data or a smaller batch_size",
        ),
        (["finetune", "classify", "{base}", "--data", "{few}"], "4 entries are too few to split: none is left for"),
        (["finetune", "classify", "{base}", "--data", "{many}"], "{many} has 9 labels in 9 entries: name the right"),
        (["finetune", "classify", "--resume", "{run}", "--layers", "head"], "was begun with layers 'all' and cannot"),
        (["finetune", "classify", "--resume", "{run}", "--batch-size", "2"], "was begun with batch_size 4 and cannot"),
        (["finetune", "classify", "--resume", "{run}", "--epochs", "1"], "has done 21 steps already: steps cannot"),
        (["finetune", "classify", "{chars}", "--data", "{data}"], "tokenizer has no <|endoftext|> to pad texts with"),
    ],
)  # fmt: skip
def test_one_sentence_and_status_1(call, tmp_path, base, tuned, args, says):
    files = {
        "one": "ham\ta\nham\tb\n", "few": "ham\ta\nspam\tb\n" * 2, "data": (tuned[0] / "data.tsv").read_text(),
        "many": "".join(f"{i}\ttext {i}\n" for i in range(9)),
        "long": "".join(f"{'ham' if i % 2 else 'spam'}\t{i:02}{'x' * 42}\n" for i in range(20)),
    }  # fmt: skip
    places = {"base": base, "run": tuned[0] / "run", "tmp": tmp_path, "chars": tmp_path / "chars"}
    for name, content in files.items():
        places[name] = tmp_path / f"{name}.tsv"
        places[name].write_text(content)
    if "{chars}" in args:
        text = tmp_path / "data.tsv"
        train(TrainConfig(text=(text,), tokenizer="char", n_layer=1, n_head=1, n_embd=4, steps=1, out=places["chars"]))
    out = ["--out", tmp_path / "out"] if args[0] == "finetune" and "--resume" not in args else []
    status, _, errors = call(*(str(arg).format(**places) for arg in args), *out)
    assert status == 1
    assert errors.startswith("gpt: ")
    assert errors.count("\n") == 1
    assert says.format(**places) in errors
    assert not (tmp_path / "out" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--layers", "some"], "invalid choice 'some'"),
        (["--position", "middle"], "invalid choice 'middle'"),
        (["--epochs", "0"], "epochs must be an integer of at least 1, got 0"),
        (["--rank", "0"], "rank must be an integer of at least 1, got 0"),
        (["--max-length", "0"], "max_length must be an integer of at least 1"),
        (["--dropout", "1"], "dropout must be a finite number of at least 0 and below 1"),
        (["--steps", "-1"], "steps must be an integer of at least 0"),
    ],
)
def test_wrong_usage_is_2(call, args, says):
    status, output, errors = call("finetune", "classify", "base", "--data", "x", *args)
    assert status == 2
    assert says in " ".join((output + errors).replace("│", " ").split())


def test_without_a_name_the_run_is_named_after_the_base(tmp_path, base, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_tsv(tmp_path / "data.tsv")
    learn(tune(tmp_path, base, out=None, steps=1))
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["base-classify"]


def test_settings_go_to_json_and_back(base):
    config = ClassifyConfig(base=base, data=base / "x.csv", layers="lora", steps=7)
    again = ClassifyConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
