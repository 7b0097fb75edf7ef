"""Training: what a run leaves behind, what decides its numbers, and what it refuses."""

import builtins
import io
import json
import math
import random
import re
from pathlib import Path

import pytest
from rich.console import Console
from runs import contents, tiny, train

import tensorlite as tl
from gpt import tokenizer
from gpt.config import PRESETS
from gpt.console import visible
from gpt.data import corpus
from gpt.generation import generate
from gpt.model import GPT
from gpt.tasks.pretrain import Pretraining, TrainConfig, evaluate
from gpt.training import checkpoint, plots, run_directory, session, step
from gpt.training import loop as training
from gpt.training.progress import Progress
from tensorlite import optim
from tensorlite.data import TokenFile, token_file, write_tokens


def metrics(run) -> list[dict]:
    return plots.read_metrics(run / "metrics.jsonl")


# ----- what a run leaves behind -----------------------------------------------------------------------------------


def test_a_run_is_a_directory_that_a_person_can_look_into(finished):
    folder, screen = finished
    run = folder / "run"
    for name in (*run_directory.RUN, "train.tokens", "validation.tokens", "run.json"):
        assert (run / name).exists(), name
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert [part.split("\n")[0] for part in (run / "samples.txt").read_text().split("----- ")[1:]] == [
        "step 7", "step 14", "step 21", "step 28", "step 30",
    ]  # fmt: skip
    for row in (
        "parameters",
        "tokens trained on",
        "tokens per second",
        "validation loss",
        "perplexity",
        "bits per byte",
    ):
        assert row in screen
    assert re.search(r"peak memory +│ +[\d,]+ MiB", screen)
    assert [line[21:] for line in (run / "log.txt").read_text().splitlines() if "  step " in line] == [
        line for line in screen.splitlines() if line.startswith("step ")
    ]


def test_metrics_say_what_happened(finished):
    first, *steps, last = metrics(finished[0] / "run")
    assert first["step"] == 0
    assert first["validation_loss"] == pytest.approx(math.log(27), abs=0.2)  # an untrained model guesses
    assert [line["step"] for line in steps] == list(range(1, 31))
    assert [line["step"] for line in steps if "validation_loss" in line] == [5, 10, 15, 20, 25, 30]
    assert all(math.isfinite(line["loss"]) and line["norm"] > 0 for line in steps)
    assert last["bits_per_byte"] == pytest.approx(last["whole_validation_loss"] / math.log(2))  # a character, a byte
    assert last["whole_validation_loss"] < first["validation_loss"]


def test_evaluation_is_the_mean_over_windows(tmp_path):
    ids = [random.Random(0).randrange(5) for _ in range(39)]
    write_tokens(tmp_path / "t", ids, 5)
    model = GPT(TrainConfig(context_length=4, n_layer=1, n_head=1, n_embd=4, dropout=0.5).model(5))

    def loss(start):  # -log softmax, by hand
        logits = model.eval()(tl.tensor([ids[start : start + 4]]))[0].tolist()[0]
        losses = [math.log(sum(map(math.exp, row))) - row[ids[start + 1 + t]] for t, row in enumerate(logits)]
        return sum(losses) / 4

    tokens = TokenFile(tmp_path / "t")
    starts = range(0, 36, 4)  # 9 windows; three tokens are left over
    assert evaluate(model, tokens, 2) == pytest.approx(sum(map(loss, starts)) / 9, rel=1e-5)
    few = sum(map(loss, [0, 12, 24])) / 3
    model.train()  # dropout would show
    assert evaluate(model, tokens, 3, 1) == pytest.approx(few, rel=1e-5)
    assert model.training


# ----- what decides the numbers -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("looks", [{"eval_every": 7, "eval_batches": 3}, {"sample_every": 2}, {"checkpoint_every": 11}])
def test_looking_changes_nothing(finished, tmp_path, looks):
    train(tiny(tmp_path, **looks))
    for name in ("model.safetensors", "training.safetensors"):
        mine, others = (tl.io.load(folder / "run" / name) for folder in (tmp_path, finished[0]))
        assert {k: v.tolist() for k, v in mine.items()} == {k: v.tolist() for k, v in others.items()}
    losses = [[line["loss"] for line in metrics(folder / "run")[1:-1]] for folder in (tmp_path, finished[0])]
    assert losses[0] == losses[1]


def test_each_step_has_its_own_dropout(tmp_path, quick_plots, monkeypatch):
    """The same batch and, but for rounding, the same weights: without dropout every step has the same loss."""
    draw = Pretraining.draw
    first = {}
    monkeypatch.setattr(Pretraining, "draw", lambda task: first.setdefault(task.config.dropout, draw(task)))
    for dropout, different in ((0.5, 3), (0.0, 1)):
        quiet = {"lr": 1e-9, "min_lr": 1e-9, "warmup": 0, "sample_tokens": 0}
        train(tiny(tmp_path, dropout=dropout, steps=3, **quiet, overwrite=True))
        losses = [line["loss"] for line in metrics(tmp_path / "run")[1:-1]]
        assert len({f"{loss:.5f}" for loss in losses}) == different


@pytest.mark.slow
def test_the_seed_decides(finished, tmp_path):
    train(tiny(tmp_path))
    assert metrics(tmp_path / "run") == metrics(finished[0] / "run")
    train(tiny(tmp_path, seed=2, overwrite=True))
    assert metrics(tmp_path / "run") != metrics(finished[0] / "run")


def gradients(model) -> list:
    return [p.grad for p in model.parameters()]


def test_accumulation_equals_one_large_batch_also_with_unequal_targets():
    tl.manual_seed(3)
    model = GPT(TrainConfig(context_length=6, n_layer=1, n_head=2, n_embd=8, dropout=0).model(11)).to(tl.float64)
    x, y = tl.randint(0, 11, (8, 6)), tl.randint(0, 11, (8, 6))
    ignored = tl.tensor([[t < 6 - row % 6 for t in range(6)] for row in range(8)])
    y = tl.where(ignored, y, -100)

    def accumulate(batches):
        return step.accumulate(Pretraining, model, batches, [Pretraining.targets(batch) for batch in batches]).item()

    whole = accumulate([(x, y)])
    expected = gradients(model)
    model.zero_grad()
    parts = accumulate([(x[:1], y[:1]), (x[1:3], y[1:3]), (x[3:4], y[3:4] * 0 - 100), (x[3:], y[3:])])
    assert parts == pytest.approx(whole, rel=1e-12)
    for mine, theirs in zip(gradients(model), expected, strict=True):
        assert (mine - theirs).abs().max().item() < 1e-14
    assert accumulate([(x, y * 0 - 100)]) == 0.0  # nothing to learn, and nothing breaks


@pytest.mark.slow
def test_a_step_may_be_split_into_passes(tmp_path):
    runs = []
    for name, split in (("whole", {"batch_size": 4}), ("split", {"batch_size": 1, "grad_accumulation": 4})):
        (tmp_path / name).mkdir()
        train(tiny(tmp_path / name, dropout=0.0, steps=5, **split))
        runs.append([line["loss"] for line in metrics(tmp_path / name / "run")[1:-1]])
    assert runs[0] == pytest.approx(runs[1], rel=1e-6)


def test_the_learning_rate_rises_and_falls():
    config = TrainConfig(steps=1000, lr=1e-2)
    rates = [training.learning_rate(config, step, config.steps) for step in range(1001)]
    assert rates[100] == max(rates) == pytest.approx(1e-2)
    assert rates[:101] == sorted(rates[:101])
    assert rates[100:] == sorted(rates[100:], reverse=True)
    assert rates[1000] == pytest.approx(1e-3)
    assert rates[550] == pytest.approx((1e-2 + 1e-3) / 2)


@pytest.mark.slow
def test_clipping_and_decay_as_asked(tmp_path, monkeypatch):
    scales = []
    real = optim.AdamW.step
    monkeypatch.setattr(
        optim.AdamW, "step", lambda self, grad_scale: (scales.append(grad_scale.item()), real(self, grad_scale))
    )
    train(tiny(tmp_path, clip=0.01, steps=3, weight_decay=0.3))
    norms = [line["norm"] for line in metrics(tmp_path / "run")[1:-1]]
    assert scales == pytest.approx([0.01 / norm for norm in norms], rel=1e-3)
    train(tiny(tmp_path, clip=0.0, steps=3, overwrite=True))
    assert scales[3:] == [1.0, 1.0, 1.0]
    (tmp_path / "begun").mkdir()
    s = session.begin(Pretraining, tiny(tmp_path, weight_decay=0.3), tmp_path / "begun", lambda line: None)
    decays = {p.ndim: group["weight_decay"] for group in s.optimizer.groups for p in group["params"]}
    assert decays == {2: 0.3, 1: 0.0}


@pytest.mark.slow
def test_samples_and_checkpoints_are_not_counted_as_training(tmp_path, monkeypatch):
    """They move a clock of their own, which a step does not."""
    clock, steps = [0.0], []
    real = {name: getattr(training, name) for name in ("append_sample", "save", "evaluate", "update")}
    for name, seconds in (("append_sample", 100), ("save", 100), ("evaluate", 100), ("update", 1)):

        def slow(*args, name=name, seconds=seconds, **kwargs):
            clock[0] += seconds
            return real[name](*args, **kwargs)

        monkeypatch.setattr(training, name, slow)
    monkeypatch.setattr(training.time, "monotonic", lambda: clock[0])
    step_shown = Progress.step
    monkeypatch.setattr(
        Progress,
        "step",
        lambda self, step, loss, seconds: (steps.append(seconds), step_shown(self, step, loss, seconds)),
    )
    train(tiny(tmp_path, steps=6, eval_every=2, sample_every=2, checkpoint_every=3))
    assert steps == [1] * 6


# ----- what is not finite -----------------------------------------------------------------------------------------


def poison(monkeypatch, steps, what: str):
    """At those steps the loss is nan, or a gradient infinite."""
    real, calls = step.accumulate, []

    def poisoned(task, model, batches, counts):
        loss = real(task, model, batches, counts)
        calls.append(loss)
        if len(calls) not in steps:
            return loss
        if what == "gradient":
            model.blocks[0].norm2.weight.grad.data[3] = math.inf
            return loss
        return loss * math.nan

    monkeypatch.setattr(step, "accumulate", poisoned)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "says"),
    [
        (
            "gradient",
            r"step 6: loss \d.*, gradient norm inf at lr .*: the gradient of blocks\.0\.norm2\.weight; step skip",
        ),
        ("loss", r"step 6: loss nan, gradient norm \d.* at lr .*first not finite: the loss; step skipped"),
    ],
)
def test_a_step_that_is_not_finite_is_skipped(tmp_path, monkeypatch, what, says):
    poison(monkeypatch, {5, 6, 7}, what)
    screen = train(tiny(tmp_path))
    training_state = tl.io.metadata(tmp_path / "run" / "training.safetensors")
    assert set(json.loads(training_state["training"])["optimizer_steps"]) == {27}  # of 30
    assert re.search(says, screen)
    assert [line["step"] for line in metrics(tmp_path / "run")[1:-1] if line["loss"] is None] == [5, 6, 7]
    model, _ = checkpoint.load_model(tmp_path / "run")
    assert all(tl.isfinite(p).all().item() for p in model.parameters())


@pytest.mark.slow
def test_training_that_stays_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    poison(monkeypatch, range(7, 100), "gradient")
    with pytest.raises(FloatingPointError, match=r"step 10: loss .* 4 steps in a row: stopped.*step 6 is kept in"):
        train(tiny(tmp_path, checkpoint_every=1))
    run = tmp_path / "run"
    assert checkpoint.newest(run)[0].step == 6
    monkeypatch.undo()
    train(session.settings(run, TrainConfig))  # with the cause gone, it goes on from there
    assert checkpoint.newest(run)[0].step == 30


def test_a_learning_rate_far_too_high_ends_in_one_sentence(tmp_path):
    with pytest.raises(FloatingPointError, match=r"lr 1\.0e\+38|not finite"):
        train(tiny(tmp_path, lr=1e38, warmup=0, clip=0.0, checkpoint_every=1))
    model, _ = checkpoint.load_model(tmp_path / "run")
    assert all(tl.isfinite(p).all().item() for p in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("bad", [{30}, {29, 30}, {28, 29, 30}])
def test_a_run_whose_last_step_is_skipped_stops_with_an_error_and_reports_nothing(tmp_path, monkeypatch, bad):
    poison(monkeypatch, bad, "loss")
    told = (
        r"^step 30, the last one at lr \S+: it was skipped.*A lower lr may help; the checkpoint of step 24 is kept in"
    )
    with pytest.raises(FloatingPointError, match=told):
        train(tiny(tmp_path, checkpoint_every=24))
    run = tmp_path / "run"
    lines = metrics(run)
    assert "validation_loss" not in lines[-1]
    assert lines[-1]["step"] == 30
    assert "step 30" not in (run / "samples.txt").read_text()
    assert run_directory.finished(run) is None
    monkeypatch.undo()
    train(session.settings(run, TrainConfig))  # with the cause gone, it goes on from there
    assert run_directory.finished(run) == 30


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("lr", [1e30, 1e39])
def test_a_short_run_with_a_learning_rate_far_too_high_is_an_error(tmp_path, lr, steps):
    changes = {"lr": lr, "steps": steps, "warmup": 0, "sample_every": 1, "eval_every": 1, "checkpoint_every": 1}
    with pytest.raises(
        FloatingPointError, match=rf"^step {steps}, the last one at lr .* A lower lr may help; the chec"
    ):
        train(tiny(tmp_path, **changes))
    model, _ = checkpoint.load_model(tmp_path / "run")
    assert all(tl.isfinite(p).all().item() for p in model.parameters())
    assert run_directory.finished(tmp_path / "run") is None


def test_a_sample_of_scores_that_are_not_finite_says_so_and_training_goes_on(tmp_path):
    with pytest.raises(FloatingPointError, match="4 steps in a row"):
        train(tiny(tmp_path, lr=1e30, warmup=0, sample_every=1))
    assert "(no sample: the model's scores are not finite" in (tmp_path / "run" / "samples.txt").read_text()


# ----- the text ---------------------------------------------------------------------------------------------------


def test_byte_pairs_are_learned_from_the_training_text_alone(tmp_path):
    config = tiny(tmp_path, tokenizer="bpe", vocab_size=262, validation=0.5, steps=1)
    config.text[0].write_text("aaab " * 200 + "xyz " * 250, encoding="utf-8")
    train(config)
    _, tokenizer = checkpoint.load_model(tmp_path / "run")
    assert len(tokenizer.encode("aaab")) == 1
    assert len(tokenizer.encode("xyz")) == 3


def test_a_text_may_name_its_special_token(tmp_path):
    config = tiny(tmp_path, tokenizer="bpe", vocab_size=257, steps=1)
    config.text[0].write_text("One story.<|endoftext|>Another one.<|endoftext|>" * 20, encoding="utf-8")
    train(config)
    assert (TokenFile(tmp_path / "run" / "train.tokens").tokens == 256).sum() == 36


@pytest.mark.slow
@pytest.mark.finding("A11")
@pytest.mark.parametrize(
    ("tokenizer", "held", "most"), [("char", 1 << 26, 1), ("bpe", 1 << 26, 1), ("char", 0, 2), ("bpe", 0, 2)]
)
def test_the_text_is_opened_once_or_twice_and_each_token_file_is_read_once(
    tmp_path, monkeypatch, tokenizer, held, most
):
    """The text twice where it is too long to be kept. Token files for their SHA-256, also when training goes on."""
    config, opened, checked = tiny(tmp_path, steps=2, tokenizer=tokenizer, vocab_size=258), [], []
    real = io.open
    monkeypatch.setattr(corpus, "HELD", held)
    monkeypatch.setattr(token_file, "_check_ids", lambda name, *_: checked.append(name))

    def open_and_note(path, mode="r", *args, **kwargs):
        if mode == "rb":
            opened.append(Path(path).name)
        return real(path, mode, *args, **kwargs)

    monkeypatch.setattr(io, "open", open_and_note)
    monkeypatch.setattr(builtins, "open", open_and_note)
    train(config)
    assert opened.count("bottles.txt") == most
    for name in ("train.tokens", "validation.tokens"):
        assert opened.count(name) == 3  # hashed, its header read, and mapped
    assert set(checked) == {"write_tokens"}
    opened.clear()
    train(TrainConfig(**{**vars(session.settings(tmp_path / "run", TrainConfig)), "steps": 4}))
    assert opened.count("bottles.txt") == 1  # whether it has changed
    for name in ("train.tokens", "validation.tokens"):
        assert opened.count(name) == 3
    assert set(checked) == {"write_tokens"}


# ----- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "text", "error", "says"),
    [
        ({}, "", ValueError, r"bottles\.txt' is empty"),
        ({}, "\xff", ValueError, r"not UTF-8: byte 0xff at offset 0"),
        ({}, "a", ValueError, r"too short to (be )?split"),
        (
            {},
            "to be or not to be, that is the question",
            ValueError,
            r"the validation text has 4 tokens, and context_len",
        ),
        (
            {"context_length": 9999},
            None,
            ValueError,
            r"the train text has 3,816 tokens, and context_length 9999 needs at least one more",
        ),
        ({"prompt": "é"}, None, ValueError, r"'é' \(U\+00E9\) at position 0 is not in the vocabulary"),
        ({"prompt": ""}, None, ValueError, r"the prompt '' has no tokens"),
        (
            {"batch_size": 10**9},
            None,
            ValueError,
            r"takes at least [\d,.]+ GiB of memory and this machine has [\d,.]+: a sm",
        ),
        ({"text": ("nowhere.txt",)}, None, FileNotFoundError, r"'nowhere\.txt' cannot be read"),
        ({"text": (".",)}, None, FileNotFoundError, r"\. is a folder without shards: name text files in it, or encode"),
    ],
    ids=[
        "empty",
        "latin1",
        "one-character",
        "short-validation",
        "short",
        "prompt",
        "no-prompt",
        "memory",
        "none",
        "folder",
    ],
)
def test_one_sentence_for_what_cannot_be_trained(tmp_path, changes, text, error, says):
    config = tiny(tmp_path, **changes)
    if text is not None:
        config.text[0].write_bytes(text.encode("latin-1"))
    with pytest.raises(error, match=says):
        train(config)
    assert not (tmp_path / "run").exists()


def test_directories_that_will_not_do(finished, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    for out, error, says in (
        (tmp_path / "file", NotADirectoryError, "file is a file: name a directory for the run"),
        (tmp_path / "other", FileExistsError, r"is not empty and gpt did not write letter\.txt: name another"),
        (finished[0] / "run", FileExistsError, "has a run already: continue it with --resume .* or give --overwrite"),
        (tmp_path / "file" / "below", NotADirectoryError, "Not a directory"),
    ):
        with pytest.raises(error, match=says):
            train(tiny(tmp_path, out=out))
    with pytest.raises(FileNotFoundError, match="there is no run"):
        train(TrainConfig(resume=tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="has no checkpoint"):
        train(TrainConfig(resume=tmp_path / "other"))


@pytest.mark.slow
def test_overwrite_deletes_the_run_and_nothing_else(finished, tmp_path):
    train(tiny(tmp_path, steps=4))
    train(tiny(tmp_path, overwrite=True))
    assert contents(tmp_path / "run").keys() == contents(finished[0] / "run").keys()
    assert metrics(tmp_path / "run") == metrics(finished[0] / "run")


@pytest.mark.slow
def test_without_a_name_a_run_takes_a_free_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        train(tiny(tmp_path, out=None, steps=1))
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["bottles", "bottles-2"]


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("steps", 0, "steps must be an integer of at least 1, got 0"),
        ("batch_size", -1, "batch_size must be"),
        ("eval_batches", 0, "eval_batches must be"),
        ("keep", 0, "keep must be"),
        ("checkpoint_every", 1.5, "checkpoint_every must be an integer"),
        ("seed", -1, "seed must be"),
        ("seed", 2**32, r"seed must be below 2\*\*32"),
        ("lr", math.nan, "lr must be a finite number"),
        ("lr", math.inf, "lr must be a finite number"),
        ("min_lr", -1.0, "min_lr must be from 0 to the learning rate"),
        ("warmup", 1951, "warmup must be from 0 to steps, which is 1950"),
        ("beta2", 1.0, "beta2 must be a finite number of at least 0 and below 1"),
        ("weight_decay", -0.1, "weight_decay must be"),
        ("clip", -1.0, "clip must be"),
        ("validation", 1.0, "validation must be between 0 and 1"),
        ("preset", "mega", "preset must be one of 'nano', 'micro'"),
        ("tokenizer", "wordpiece", "tokenizer must be one of 'bpe'"),
        ("n_head", 3, "n_head must divide n_embd"),
        ("dropout", 1.0, "dropout must be"),
        ("context_length", 0, "context_length must be"),
        ("threads", 100_000, "--threads must be an integer from 1 to 1,024, got 100,000"),
        ("threads", 0, "threads must be an integer of at least 1, got 0"),
        ("resume", "run", "resume continues a run where it is"),
    ],
)
def test_settings_are_checked_by_name(field, value, says):
    with pytest.raises(ValueError, match=says):
        TrainConfig(out="there", **{field: value})


def test_the_lowest_rate_is_not_above_the_peak_rate(tmp_path):
    with pytest.raises(ValueError, match=r"min_lr must be from 0 to the learning rate, which is 0\.001, got 0\.01"):
        TrainConfig(lr=1e-3, min_lr=0.01)
    with pytest.raises(ValueError, match=r"min_lr must be from 0 to the learning rate, which is 0\.003, got 0\.01"):
        train(tiny(tmp_path, lr=None, min_lr=0.01))  # the default rate is known when the model is


def test_settings_go_to_json_and_back():
    config = TrainConfig(text=("a.txt", "b.txt"), preset="book-124m", dropout=0.2, n_layer=2)
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))).to_dict() == config.to_dict()
    assert config.model(65).n_layer == 2
    assert config.model(65).residual_dropout == 0.2
    assert config.model(65).n_embd == PRESETS["book-124m"].n_embd
    with pytest.raises(ValueError, match="unknown learning_rate"):
        TrainConfig.from_dict({"learning_rate": 1})


# ----- on a terminal ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_terminal_gets_a_bar(tmp_path, monkeypatch):
    monkeypatch.setattr("gpt.training.progress.REFRESH", 0.0)
    with open(tmp_path / "screen", "w+", encoding="utf-8") as file:
        training.train(tiny(tmp_path), Console(file=file, force_terminal=True, width=100))
        file.seek(0)
        screen = file.read()
    assert re.search(r"step 17/30 .*57%.* loss \d\.\d+  [\d,]+ tokens/s  \d:\d\d left  validation \d\.\d+", screen)
    assert screen.count("\x1b[?25l") == screen.count("\x1b[?25h") == 1  # the cursor is hidden once, and comes back


@pytest.fixture
def quick_plots(monkeypatch):
    monkeypatch.setattr(plots, "draw_run", lambda run: (run / "loss.png").write_bytes(b"a picture"))


@pytest.mark.parametrize("kind", [{"tokenizer": "char"}, {"tokenizer": "bpe", "vocab_size": 300}])
def test_bits_per_byte_count_the_bytes_of_the_text(tmp_path, quick_plots, kind):
    """Tokens are characters of 1 to 4 bytes, or of several characters: the loss per token is spread over the bytes."""
    text = tmp_path / "text.txt"
    text.write_text("Zwölf Boxkämpfer 🥊 jagen Viktor quer über den großen Sylter Deich. 東京\n" * 20, encoding="utf-8")
    train(tiny(tmp_path, text=(text,), steps=2, **kind))
    last = metrics(tmp_path / "run")[-1]
    ids = TokenFile(tmp_path / "run" / "validation.tokens")[:].tolist()
    written = tokenizer.load(tmp_path / "run" / "tokenizer.json").decode_bytes(ids)
    assert text.read_bytes().endswith(written)
    assert not 0.95 < len(ids) / len(written) < 1.05
    nats_per_byte = last["whole_validation_loss"] * len(ids) / len(written)
    assert last["bits_per_byte"] == pytest.approx(nats_per_byte / math.log(2))


def test_a_sample_is_what_generate_gives_of_temperature_and_seed(tmp_path, quick_plots):
    """At temperature 0.6 from the 40 most probable tokens, with the run's seed plus the step: each sample differs."""
    train(tiny(tmp_path, tokenizer="bpe", vocab_size=290, seed=1000, sample_tokens=40, sample_every=1, steps=2))
    run = tmp_path / "run"
    shown = (run / "samples.txt").read_text(encoding="utf-8").rpartition("----- step 2\n")[2].strip("\n")
    model, tok = checkpoint.load_model(run)
    prompt, texts = tok.encode("\n"), []
    for temperature, top_k, seed in (
        (0.6, 40, 1002),
        (0.6, 40, 1000),
        (0.6, 40, 2),
        (1.0, 40, 1002),
        (0.6, None, 1002),
    ):
        (new,) = generate(model, [prompt], 40, temperature=temperature, top_k=top_k, seed=seed)
        texts.append(visible(tok.decode(prompt + new).strip("\n")))
    assert shown == texts[0]
    assert len(set(texts)) == 5, "other settings give other texts"
