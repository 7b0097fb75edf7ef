"""`gpt finetune classify`: training, resuming, reports, and what is refused."""

import json
import os
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from labelled import LABELS, entries, learn, tune, write_tsv
from matplotlib import colors
from runs import contents, gpt, start, train

from gpt.tasks import classify
from gpt.tasks.classify import Classification, ClassifyConfig, data, metrics
from gpt.tasks.pretrain import TrainConfig
from gpt.tokenizer import gpt2
from gpt.training import checkpoint, plots, session
from gpt.training import loop as training


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


@pytest.mark.slow
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
    assert (run / "samples.txt").read_text().count("(true: ") == 5 * 4  # after steps 5, 10, 15 and at the end


def test_figures_by_hand():
    found = metrics.summary(["a", "b", "c"], [[3, 1, 0], [2, 4, 0], [0, 0, 0]])
    assert found["accuracy"] == 0.7
    assert found["by_label"]["a"] == {"precision": 0.6, "recall": 0.75, "f1": pytest.approx(2 / 3), "entries": 4}
    assert found["by_label"]["b"] == {"precision": 0.8, "recall": pytest.approx(2 / 3), "f1": 8 / 11, "entries": 6}
    assert found["by_label"]["c"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "entries": 0}


def luminance(color) -> float:
    """Relative luminance of an sRGB color (WCAG 2.2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colors.to_rgb(color)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_numbers_of_the_confusion_matrix_can_be_read_on_their_cells(tmp_path):
    """A contrast of at least 4.3, whatever the share."""
    confusion = [[20 - n, n] for n in range(21)]
    report = {"labels": [*"abcdefghijklmnopqrstu"], "confusion": confusion, "accuracy": 0.5}
    (tmp_path / "report.json").write_text(json.dumps(report))
    (axes,) = plots.report_figure(tmp_path).axes
    (image,) = axes.images
    for text, share in zip(axes.texts, image.get_array().ravel(), strict=True):
        dark, light = sorted([luminance(text.get_color()), luminance(image.cmap(image.norm(share)))])
        assert (light + 0.05) / (dark + 0.05) >= 4.3, float(share)


def test_the_confusion_matrix_counts_what_the_classifier_says(tuned):
    run = tuned[0] / "run"
    trained = classify.load(run)
    counted = [[0, 0], [0, 0]]
    for line in (run / "test.jsonl").read_text().splitlines():
        entry = json.loads(line)
        (p,) = classify.predict(trained, [entry["text"]])
        assert sum(p.values()) == pytest.approx(1, abs=1e-6)
        counted[LABELS.index(entry["label"])][LABELS.index(max(p, key=p.get))] += 1
    assert counted == json.loads((run / "report.json").read_text())["confusion"]


def test_the_bar_of_the_test_part_comes_to_its_end(tuned, base):
    """`advance` gets the number of texts of each batch."""
    folder = tuned[0]
    trained = classify.load(folder / "run")
    description = checkpoint.read_config(folder / "run" / "config.json")
    task = Classification(tune(folder, base, batch_size=3), folder / "run", trained.tokenizer, description)
    seen: list[int] = []
    _, confusion = task.confusion(trained.model, task.rows["test"], seen.append)
    assert sum(seen) == sum(map(sum, confusion)) == len(task.rows["test"]) == 8
    assert max(seen) <= 3


@pytest.mark.slow
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
    assert classify.predict(classify.load(tmp_path / "run"), ["give me a plum"])


class Crash(BaseException):
    """The process ends here."""


@pytest.mark.slow
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


@pytest.mark.slow
def test_accumulation_equals_one_large_batch(tuned, base, tmp_path):
    losses = []
    for name, split in (("whole", {"batch_size": 8}), ("split", {"batch_size": 2, "grad_accumulation": 4})):
        learn(tune(tuned[0], base, out=tmp_path / name, dropout=0.0, steps=3, **split))
        losses.append([line["loss"] for line in plots.read_metrics(tmp_path / name / "metrics.jsonl")[1:-1]])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.slow
def test_more_than_two_labels(tmp_path, base):
    rows = [*entries(), *(data.Entry("tool", f"take the hammer or saw {i}") for i in range(20))]
    write_tsv(tmp_path / "data.tsv", rows)
    learn(tune(tmp_path, base, balance=False))
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["labels"] == ["drink", "fruit", "tool"]
    assert sum(map(sum, report["confusion"])) == 16


@pytest.mark.skipif(os.name != "posix", reason="there, a process that is sent a signal just ends")
@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.finding("C12")
@pytest.mark.parametrize("unique", [False, True])
def test_accuracy_is_told_with_and_without_repeated_texts(tmp_path, base, unique):
    rows = entries(60)
    write_tsv(tmp_path / "data.tsv", rows + rows[:20])
    config = tune(tmp_path, base, steps=2, unique_texts=unique, balance=False)
    said = " ".join(learn(config).split())
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    parts = {part: data.read(tmp_path / "run" / f"{part}.jsonl", "label", "text") for part in classify.task.PARTS}
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
        max(p, key=p.get) == e.label for p, e in zip(classify.predict(trained, [e.text for e in new]), new, strict=True)
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
    with pytest.raises(ValueError, match="was started with unique_texts False and cannot continue with True"):
        session.resume(Classification, replace(config, unique_texts=True), tmp_path / "run", print)


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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["finetune", "classify"], "the run to start from is missing: gpt finetune classify RUN --data FILE"),
        (["finetune", "classify", "{base}"], "the file of labelled texts is missing: gpt finetune classify RUN"),
        (["finetune", "classify", "{base}", "--data", "nowhere"], "nowhere cannot be read: No such file or directory"),
        (["finetune", "classify", "{base}", "--data", "{tmp}"], "{tmp} is a directory: name the file in it"),
        (["finetune", "classify", "nowhere", "--data", "{data}"], "there is no run nowhere"),
        (
            ["finetune", "classify", "{run}", "--data", "{data}"],
            "{run} is a run of the task 'classify', and one of 'pretrain' or 'instruct' is needed here: gpt classify "
            "{run} uses it, and gpt finetune classify --resume continues it",
        ),
        (
            ["finetune", "classify", "--resume", "{base}"],
            "{base} is a run of the task 'pretrain', and one of 'classify' is needed here: gpt generate {base} uses "
            "it, and gpt train --resume continues it",
        ),
        (["train", "--resume", "{run}"], "{run} is a run of the task 'classify', and one of 'pretrain' is needed here"),
        (["generate", "{run}"], "{run} is a run of the task 'classify', and one of 'pretrain' or 'instruct' is needed"),
        (
            ["classify", "{base}", "x"],
            "{base} was not fine-tuned to label texts: run gpt finetune classify {base} --data FILE first",
        ),
        (["classify", "nowhere", "x"], "there is no run nowhere"),
        (["classify", "{run}", ""], "the text '' has no tokens: give some text"),
        (["classify", "{run}", "x", "--file", "{data}"], "give texts or --file, not both"),
        (["finetune", "classify", "{base}", "--data", "{one}"], "{one} has only one label, 'ham': there is nothing"),
        (
            ["finetune", "classify", "{base}", "--data", "{long}"],
            "14 training texts of 14 are too long: the longest has 44 tokens, and {base} has a context_length of ",
        ),
        (
            ["finetune", "classify", "{base}", "--data", "{data}", "--max-length", 25],
            "--max-length is 25 tokens, and {base} has a context_length of 24: --max-length 24 cuts what is longer",
        ),
        (
            ["finetune", "classify", "{base}", "--data", "{data}", "--batch-size", 29],
            "28 training entries are too few for a batch of 29: give more data or a smaller --batch-size",
        ),
        (["finetune", "classify", "{base}", "--data", "{few}"], "4 entries are too few to split: none is left for"),
        (["finetune", "classify", "{base}", "--data", "{many}"], "{many} has 9 labels in 9 entries: name the right"),
        (["finetune", "classify", "--resume", "{run}", "--layers", "head"], "was started with --layers 'all' and"),
        (["finetune", "classify", "--resume", "{run}", "--batch-size", "2"], "was started with --batch-size 4 and"),
        (["finetune", "classify", "--resume", "{run}", "--epochs", "1"], "--steps cannot be 7: {run} has done 21"),
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
        train(
            TrainConfig(
                text=(text,),
                tokenizer="char",
                n_layer=1,
                n_head=1,
                n_embd=4,
                context_length=8,
                steps=1,
                out=places["chars"],
            )
        )
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
        (["--layers", "some"], "--layers must be one of head, last-block, last-2, all, lora, got 'some'"),
        (["--position", "middle"], "--position must be one of last, last-real, first, mean, got 'middle'"),
        (["--epochs", "0"], "epochs must be an integer of at least 1, got 0"),
        (["--rank", "0"], "rank must be an integer of at least 1, got 0"),
        (["--max-length", "0"], "--max-length must be an integer of at least 1"),
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
