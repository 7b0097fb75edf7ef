"""`gpt finetune instruct`: from a pretrained run to a model that answers; resuming, LoRA, and what is refused."""

import io
import json
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from runs import contents, tiny, train
from taught import ENTRIES, config, tune

import tensorlite as tl
from gpt import lora
from gpt.model import GPT
from gpt.tasks import instruct
from gpt.tasks.instruct import Instructions
from gpt.training import checkpoint, run_directory, session
from gpt.training import loop as training


def test_it_learns_to_answer_and_leaves_everything_in_the_run(folder):
    run = folder / "taught"
    rows = json.loads((run / "responses.json").read_text(encoding="utf-8"))
    assert rows == [{**e, "model_response": e["output"]} for e in ENTRIES[25:28]]  # int(.85 * 30), and 3 more
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["validation_loss"] for line in lines if "validation_loss" in line]
    assert len(losses) == 4
    assert losses[-1] < losses[0] / 10
    assert lines[-1]["exact_match"] == 1.0
    assert lines[-1]["test_repeated"] == 3  # all are asked in training, too
    assert lines[-1]["test_loss"] < 0.2
    samples = (run / "samples.txt").read_text(encoding="utf-8")
    assert re.search(r"Say yes\.\nexpected: yes\nanswered: yes\n", samples)
    assert "Say\nno\nexpected: no\nanswered: no\n" in samples
    assert [len((run / f"{part}.jsonl").read_text().splitlines()) for part in ("train", "test", "validation")] == [
        25,
        3,
        2,
    ]
    assert (run / "loss.png").stat().st_size > 10_000
    assert not (run / "adapter.safetensors").exists()


def test_a_run_that_ends_with_weights_of_no_use_is_an_error_and_answers_nothing(folder):
    with pytest.raises(
        FloatingPointError, match=r"step 3, the last one at lr .*A lower lr may help; the checkpoint of"
    ):
        tune(folder, "wild", lr=1e30, steps=3, warmup=0)
    assert run_directory.finished(folder / "wild") is None
    assert not (folder / "wild" / "responses.json").exists()


@pytest.mark.finding("A6")
def test_the_same_command_line_again_is_done_once(folder, call):
    again = ["finetune", "instruct", folder / "base", "--data", folder / "data.json", "--out", folder / "again-again"]
    again += ["--steps", 2, "--style", "phi3", "--responses", 0, "--resume-if-exists"]
    assert call(*again)[0] == 0
    before = contents(folder / "again-again")
    assert call(*again) == (0, f"{folder / 'again-again'} has done all of its steps: there is nothing left to do\n", "")
    assert contents(folder / "again-again") == before


@pytest.mark.slow
def test_resumed_it_ends_in_the_same_bytes(folder):
    tune(folder, "half", steps=20, turns=2, batch_size=4)
    screen = io.StringIO()
    again = config(folder, steps=30, turns=2, batch_size=4, out=None, resume=folder / "half")
    training.train(again, Console(file=screen), Instructions)
    tune(folder, "whole", steps=30, turns=2, batch_size=4)
    assert "resumed" in screen.getvalue()
    half, whole = (contents(folder / name, only_top=True) for name in ("half", "whole"))
    for name in ("model.safetensors", "training.safetensors", "responses.json"):
        assert half[name] == whole[name], name


@pytest.mark.slow
def test_the_run_it_starts_from_is_only_read(folder, tmp_path):
    before = contents(folder / "base")
    tune(folder, "other", steps=1)
    assert contents(folder / "base") == before


def test_lora_trains_the_adapters_alone_and_the_adapter_is_enough(folder):
    run = folder / "adapted"
    plain, tok = instruct.with_end_of_text(*checkpoint.load_model(folder / "base"))
    whole = tl.io.load(checkpoint.files_of(run) / "model.safetensors")
    frozen = {name.replace("linear.", "") for name in whole if "lora_" not in name}
    assert frozen == set(plain.state_dict())
    old = checkpoint.load_model(folder / "base")[0].state_dict()
    for name, weight in whole.items():
        if "lora_" not in name:
            was = old[name.replace("linear.", "")].numpy()
            np.testing.assert_array_equal(weight.numpy()[: len(was)], was, err_msg=name)  # but for the new token's row
    plain.load_state_dict({name.replace("linear.", ""): w for name, w in whole.items() if "lora_" not in name})
    assert len(lora.load(plain, run / "adapter.safetensors")) == 5
    merged, _ = checkpoint.load_model(run)
    ids = tl.tensor([tok.encode("Say yes.")])
    assert not lora.adapters(merged)
    assert all(p.requires_grad for p in merged.parameters())
    np.testing.assert_allclose(merged(ids)[0].numpy(), plain(ids)[0].numpy(), rtol=1e-5, atol=1e-5)


def weights(run: Path) -> dict[str, np.ndarray]:
    return {name: p.numpy() for name, p in tl.io.load(run / "model.safetensors").items()}


@pytest.fixture(scope="module")
def tied(folder):
    """A pretrained run whose head is its token embedding, as GPT-2's is."""
    model, tokenizer = checkpoint.load_model(folder / "base")
    tl.manual_seed(0)
    tied = GPT(replace(model.config, tie_head=True))
    (folder / "tied").mkdir()
    description = json.loads((folder / "base" / "config.json").read_text()) | {"model": tied.config.to_dict()}
    (folder / "tied" / "config.json").write_text(json.dumps(description))
    tokenizer.save(folder / "tied" / "tokenizer.json")
    tl.io.save(folder / "tied" / "model.safetensors", tied.state_dict())
    return folder / "tied"


@pytest.mark.finding("B12")
def test_an_untied_head_begins_as_a_copy_and_learns_by_itself(folder, tied):
    """At first nothing has changed but that there are two matrices; their gradients add up to that of the tied one."""
    before, _ = checkpoint.load_model(tied)
    own = instruct.with_own_head(before)
    idx = tl.tensor([[1, 2, 3, 4]])
    np.testing.assert_array_equal(own(idx)[0].numpy(), before(idx)[0].numpy())
    for model in (before, own):
        model.loss(idx, idx).backward()
    parts = own.token_embedding.weight.grad.numpy(), own.head.weight.grad.numpy()
    assert all(np.abs(part).max() > 1e-3 for part in parts)
    np.testing.assert_allclose(sum(parts), before.token_embedding.weight.grad.numpy(), rtol=1e-4, atol=1e-6)
    assert instruct.with_own_head(own) is own


@pytest.mark.slow
@pytest.mark.finding("B12")
def test_fine_tuning_with_an_untied_head(folder, tied):
    """Both matrices learn, each in its own way; the run is resumed, and asked, with the head that it has."""
    for name, untie_head in (("own-head", True), ("one-matrix", False)):
        tune(folder, name, base=tied, untie_head=untie_head, steps=2)
    assert "head.weight" not in weights(folder / "one-matrix")
    two, start = weights(folder / "own-head"), weights(tied)["token_embedding.weight"]
    embedding, head = two["token_embedding.weight"][: len(start)], two["head.weight"][: len(start)]
    assert (embedding != start).any()
    assert (head != start).any()
    assert (embedding != head).any()
    with pytest.raises(ValueError, match="was started with untie_head True and cannot continue with False"):
        tune(folder, "own-head", out=None, resume=folder / "own-head", base=tied, steps=4)
    tune(folder, "own-head", out=None, resume=folder / "own-head", base=tied, untie_head=True, steps=4)
    assert checkpoint.load_model(folder / "own-head")[0].head is not None


def test_a_taught_run_can_be_taught_again(folder):
    tune(folder, "again", base=folder / "adapted", steps=2)
    assert not (folder / "again" / "adapter.safetensors").exists()
    assert (
        checkpoint.load_model(folder / "again")[1].vocab_size == checkpoint.load_model(folder / "taught")[1].vocab_size
    )


def test_dropout_turns_and_cut_texts_change_what_is_seen(folder):
    tune(folder, "cut", steps=1, dropout=0.5, max_length=12, mask_instruction=False, responses=0)
    description = checkpoint.read_config(folder / "cut" / "config.json")
    assert description["model"]["attention_dropout"] == 0.5
    _, tok = checkpoint.load_model(folder / "cut")
    task = Instructions(config(folder, max_length=12, turns=3), folder / "cut", tok, description)
    assert task.draw()[0].shape == (8, 12)
    whole = Instructions(config(folder, turns=3, mask_instruction=True), folder / "cut", tok, description)
    lengths = {len(text.ids) for text in whole.texts["train"]}
    assert lengths == {36, 34 + 33, 34 + 36, 37 + 36}  # alone, and behind another; a third does not fit
    assert max(lengths) <= 80
    x, y = whole.draw()
    for row, targets in zip(x.tolist(), y.tolist(), strict=True):
        assert tok.decode([t for t in targets if t != -100]) in ("yes<|endoftext|>", "no<|endoftext|>")
        assert len(row) == len(targets)


# ----- what goes wrong --------------------------------------------------------------------------------------------


TEACH, ON = ["finetune", "instruct", "{f}/base"], ["--style", "phi3", "--data", "{f}/data.json"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["chat", "{f}/base"], "{f}/base was not fine-tuned to answer: run gpt finetune instruct {f}/base --data FILE"),
        (["chat", "nowhere"], "there is no run nowhere"),
        (["chat", "{f}/taught", "--once", "é"], "character 'é' (U+00E9) at position 9 is not in the vocabulary"),
        (["finetune", "instruct"], "the run to start from is missing: gpt finetune instruct RUN --data FILE"),
        (TEACH, "the file of entries is missing: gpt finetune instruct RUN --data FILE"),
        ([*TEACH, "--data", "nowhere"], "nowhere cannot be read: No such file or directory"),
        ([*TEACH, "--data", "{f}/text.txt"], "text.txt is neither JSON nor a table whose first line names the columns"),
        (
            [*TEACH, *ON[:-1], "{f}/long.json"],
            "{f}/long.json: 1 of 31 entries are longer than the context of 80 tokens, the first of them entry 31",
        ),
        ([*TEACH, "--data", "{f}/data.json"], "entry 1: character 'B' (U+0042) at position 0 is not in the vocabulary"),
        ([*TEACH, *ON, "--batch-size", "26"], "25 training entries are too few for a batch of 26"),
        (
            [*TEACH, *ON, "--max-length", "9", "--mask-instruction"],
            "--max-length 9 cuts away every answer: give a larger",
        ),
        ([*TEACH, *ON, "--lora", "--targets", "x"], "no Linear of this model is called 'x'"),
        ([*TEACH, *ON, "--lora", "--rank", "99999"], "--rank must be at most 32, the smaller side of the largest Line"),
        ([*TEACH, *ON, "--lora", "--rank", "33"], "--rank must be at most 32, the smaller side of the largest Linear"),
        ([*TEACH, *ON, "--rank", "4"], "--rank has no effect without --lora: add --lora, or omit --rank"),
        ([*TEACH, *ON, "--targets", "head"], "--targets has no effect without --lora: add --lora, or omit --targets"),
        (["finetune", "instruct", "--resume", "{f}/base"], "is a run of the task 'pretrain'"),
        (
            ["finetune", "instruct", "--resume", "{f}/taught", "--style", "alpaca"],
            "started with --style 'phi3' and cannot",
        ),
        (["train", "--resume", "{f}/taught"], "is a run of the task 'instruct'"),
    ],
)
def test_each_fault_is_one_sentence(call, folder, tmp_path, args, says):
    out = [] if "--resume" in args or args[0] == "chat" else ["--out", tmp_path / "out"]
    status, _, errors = call(*(arg.format(f=folder) for arg in args), *out, typed="")
    assert status == 1
    assert re.match(r"gpt: .*\n\Z", errors), errors
    assert says.format(f=folder) in errors


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--history", "--history must be an integer of at least 0, got -1"),
        ("--temperature", "--temperature must be a finite number of at least 0"),
    ],
)
def test_options_of_chat_outside_their_range_are_usage_errors(call, folder, flag, says):
    status, _, errors = call("chat", folder / "taught", flag, "-1", typed="")
    assert status == 2
    assert re.match(rf"gpt: {says}.* \(gpt chat --help\)\n\Z", errors), errors


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"turns": 0}, "turns must be an integer of at least 1, got 0"),
        ({"style": "chatml"}, "style must be one of 'alpaca', 'phi3'"),
        ({"dropout": 1.0}, "dropout must be a finite number of at least 0 and below 1"),
        ({"rank": 0}, "rank must be an integer of at least 1"),
        ({"max_length": 1}, "max_length must be an integer of at least 2, got 1"),
    ],
)
def test_settings_outside_their_range(folder, changes, says):
    with pytest.raises(ValueError, match=says):
        config(folder, **changes)


@pytest.mark.slow
def test_sigint_stops_after_a_step_and_it_can_go_on(folder, call):
    def stop(*_):
        signal.raise_signal(signal.SIGINT)
        return {"validation_loss": 1.0}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Instructions, "evaluate", stop)
        result = training.train(config(folder, "stopped"), Console(file=io.StringIO()), Instructions)
    assert result.stopped_by == signal.SIGINT
    status, output, _ = call("finetune", "instruct", "--resume", folder / "stopped", "--steps", 1)
    assert status == 0
    assert "answered exactly as expected" in output


def test_what_is_learnt_from_is_dropped_as_the_run_says(folder, tmp_path):
    """Also where the model is taken as it is, since its tokenizer knows the end of a text."""
    shape = {"n_embd": 8, "context_length": 40, "steps": 1, "tokenizer": "word"}
    train(tiny(folder, text=(folder / "text.txt",) * 5, out=tmp_path / "base", **shape, dropout=0.5))
    s = session.begin(Instructions, config(folder, base=tmp_path / "base", out=tmp_path), tmp_path, lambda line: None)
    batch = s.task.draw()
    assert s.model.training
    assert s.task.loss(s.model, batch).item() != s.task.loss(s.model, batch).item()


# ----- figures ----------------------------------------------------------------------------------------------------


def a_task(folder, kind=Instructions, **changes) -> Instructions:
    """The task of the finished run taught/, with other settings."""
    run = folder / "taught"
    description = checkpoint.read_config(run / "config.json")
    return kind(config(folder, **changes), run, checkpoint.load_model(run)[1], description)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize("mask_instruction", [True, False])
def test_the_mean_loss_is_over_targets_however_they_are_batched(folder, batch_size, mask_instruction):
    """Answers of 2 to 17 tokens, and a model without knowledge, whose loss differs from one to the next."""
    task = a_task(folder, batch_size=batch_size, mask_instruction=mask_instruction)
    answers = [{"instruction": "Say", "input": "", "output": text} for text in ("n", "yes no yes no ye", "so")]
    texts = instruct.encode_all(answers, task.tokenizer, "phi3")
    tl.manual_seed(0)
    model = GPT(checkpoint.load_model(folder / "taught")[0].config).eval()
    for p in model.parameters():
        p.data[...] *= 20
        p.changed()
    losses = []
    for text in texts:
        ids = [*text.ids, task.end]
        first = text.prompt_length if mask_instruction else 1
        scores = model(tl.tensor([ids[:-1]]))[0].numpy()[0].astype("f8")
        scores -= scores.max(-1, keepdims=True)
        logs = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
        losses += [-logs[i - 1, ids[i]] for i in range(first, len(ids))]
    each = [np.mean(losses[:2]), np.mean(losses[2:])]
    assert abs(each[0] - each[1]) > 0.05
    assert task.mean_loss(model, texts) == pytest.approx(np.mean(losses), rel=1e-4)


def test_a_step_counts_the_texts_of_all_its_batches(folder):
    assert a_task(folder, batch_size=3, grad_accumulation=2).per_step == 6


class Scripted(Instructions):
    """A model that answers what it is told to."""

    answers = ("yes", "yes.", "no")

    def responses(self, model, entries):
        return iter(self.answers)


def test_only_the_expected_answer_itself_is_an_exact_match(folder, tmp_path):
    """An answer that contains the expected one, or is contained in it, is wrong."""
    task = a_task(folder, Scripted)
    shutil.copytree(folder / "taught", tmp_path / "run")
    task.run = tmp_path / "run"
    (task.run / "responses.json").unlink()
    expected = [entry["output"] for entry in task.entries["test"]]
    model, _ = checkpoint.load_model(folder / "taught")
    for change, right in ((lambda a: a, 3), (lambda a: a + "!", 0), (lambda a: a[:-1], 0), (lambda a: "so " + a, 0)):
        task.answers = [change(answer) for answer in expected]
        figures, rows = task.finish(model)
        assert figures["exact_match"] == right / 3
        assert rows["answered exactly as expected"] == f"{right} of 3 test entries"
    task.answers = ["something else", *expected[1:]]
    assert task.finish(model)[0]["exact_match"] == 2 / 3


# ----- LoRA, resumed ----------------------------------------------------------------------------------------------


def test_a_resumed_run_adapts_what_it_adapted(folder, tmp_path):
    """It cannot change which Linears are adapted, nor how; without a word it goes on with the same ones."""
    run = tmp_path / "run"
    shutil.copytree(folder / "adapted", run)
    again = {"out": None, "resume": run, "lora": True, "steps": 61, "responses": 0}
    for changed, says in (
        ({"rank": 4, "alpha": 8.0, "targets": ("head",)}, "targets"),
        ({"rank": 4, "alpha": 8.0}, "targets"),
        ({"rank": 2, "alpha": 8.0, "targets": ("attention", "head")}, "rank"),
        ({"rank": 4, "alpha": 9.0, "targets": ("attention", "head")}, "alpha"),
        ({"lora": False}, "lora"),
    ):
        with pytest.raises(ValueError, match=f"was started with {says} .* and cannot continue with"):
            tune(folder, "run", **{**again, **changed})
    before = set(weights(run))
    tune(folder, "run", **again, rank=4, alpha=8.0, targets=("attention", "head"))
    now, start = weights(run), weights(folder / "adapted")
    assert set(now) == before
    changed = {name.rpartition(".")[2] for name in now if (now[name] != start[name]).any()}
    assert changed == {"lora_A", "lora_B"}
    assert {name.split(".")[-2] for name in now if "lora_" in name} == {
        "W_query",
        "W_key",
        "W_value",
        "out_proj",
        "head",
    }
