"""Checkpoints: whatever fails while one is written, whatever becomes of its bytes, only a whole one is loaded."""

import errno
import json
import os
import random
import re
import shutil
import warnings
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from faults import watching
from power import Disk
from runs import contents, tiny, train
from trained import CONFIG, Killed, Trained, failing, restored

import tensorlite as tl
from gpt.tasks.pretrain import TrainConfig
from gpt.tokenizer import CharTokenizer
from gpt.training import checkpoint, run_directory, session


@pytest.fixture
def two_steps(tmp_path) -> Trained:
    """A run with checkpoints of steps 1 and 2."""
    trained = Trained(tmp_path)
    for step in (1, 2):
        trained.step(step)
        trained.save(step)
    return trained


# ----- what is written --------------------------------------------------------------------------------------------


def test_everything_comes_back(two_steps):
    again, state = restored(two_steps.run)
    assert again.weights() == two_steps.weights()
    assert state["said"] == "after 2"
    assert state["step"] == 2
    for trained in (two_steps, again):
        trained.step(3)  # Adam's averages and step counts decide it
    assert again.weights() == two_steps.weights()


def test_the_newest_files_are_shown_and_old_checkpoints_go(two_steps):
    run = two_steps.run
    two_steps.step(3)
    two_steps.save(3)
    assert [path.name for path in sorted((run / "checkpoints").iterdir())] == ["step_00000002", "step_00000003"]
    for name in checkpoint.FILES:
        shown, kept = run / name, run / "checkpoints" / "step_00000003" / name
        assert shown.read_bytes() == kept.read_bytes()
        assert shown.samefile(kept) == name.endswith(".safetensors")  # what people edit is a copy
        assert (run / name).stat().st_mode & 0o777 == 0o666 & ~current_umask()


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_the_same_state_gives_the_same_bytes(tmp_path):
    runs = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        tl.manual_seed(1)
        trained = Trained(tmp_path / name)
        trained.step(1)
        trained.save(1)
        runs.append(contents(tmp_path / name))
    assert runs[0] == runs[1]


def test_a_file_system_without_hard_links_gets_copies(two_steps, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    two_steps.step(3)
    two_steps.save(3)
    shown = two_steps.run / "model.safetensors"
    assert shown.read_bytes() == (two_steps.run / "checkpoints" / "step_00000003" / shown.name).read_bytes()


# ----- what fails while it is written -----------------------------------------------------------------------------


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), Killed()], ids=["error", "killed"])
@pytest.mark.slow
def test_a_failure_at_any_call_leaves_a_whole_checkpoint(tmp_path, monkeypatch, error):
    start = tmp_path / "start"
    start.mkdir()
    trained = Trained(start)
    wanted = {}
    for step in (1, 2):
        trained.step(step)
        wanted[step] = trained.weights()
        trained.save(step)
    trained.step(3)
    wanted[3] = trained.weights()
    for at in range(1, 200):
        run = tmp_path / "run"
        shutil.copytree(start, run)
        trained.run = run
        raised = None
        with failing(monkeypatch, run, at, error) as calls, warnings.catch_warnings():
            warnings.simplefilter("ignore", checkpoint.RunWarning)  # where it is saved, but not shown
            try:
                trained.save(3)
            except (OSError, Killed) as reached:
                raised = reached
        if len(calls) < at:
            assert {"write", "fsync", "rename", "replace", "link", "open", "mkdir"} <= set(calls)
            assert at > 30, calls
            return
        if isinstance(raised, OSError):
            saved = (run / "checkpoints" / "step_00000003").exists()
            says = "step 3 is saved as .*: No space left on device" if saved else (
                "step 3 cannot be saved in .*: No space left on device.*; newest checkpoint there: step_00000002"
            )  # fmt: skip
            assert re.fullmatch(says, str(raised))
            assert not (run / "checkpoints" / "step_00000003.tmp").exists()
        again, state = restored(run)
        assert state["step"] in (2, 3), calls
        assert again.weights() == wanted[state["step"]]
        again.step(4)
        again.save(4)
        assert checkpoint.newest(run)[0].step == 4
        assert not [*run.rglob("*.tmp"), *run.rglob("*.new")]
        shutil.rmtree(run)
    pytest.fail("the save never came to its end")


def test_a_full_disk(two_steps):
    """A real refusal of the operating system: files may grow to 2000 bytes."""
    resource = pytest.importorskip("resource", reason="only Unix limits the size of files")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    two_steps.step(3)
    before = contents(two_steps.run)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(
            OSError, match=r"step 3 cannot be saved in .*: File too large.*; newest checkpoint there: step_00000002"
        ):
            two_steps.save(3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert contents(two_steps.run) == before


def test_too_little_room_is_seen_before_writing(two_steps, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 2000, 2000))
    with pytest.raises(
        OSError, match=r"it takes more than .* and 1.953 KiB are free; newest checkpoint there: step_00000002"
    ):
        two_steps.save(3)


def test_weights_that_are_not_finite_are_not_saved(two_steps):
    bad = two_steps.model.final_norm.weight
    bad.data[1] = float("nan")
    before = contents(two_steps.run)
    with pytest.raises(FloatingPointError, match=r"step 3: final_norm\.weight has values that are not finite"):
        two_steps.save(3)
    assert contents(two_steps.run) == before


# ----- what becomes of it afterwards ------------------------------------------------------------------------------


def flip(path: Path, position: int, chance: random.Random) -> bytes:
    """Change one bit in a file; its content before."""
    before = path.read_bytes()
    changed = bytearray(before)
    changed[position] ^= 1 << chance.randrange(8)
    path.write_bytes(changed)
    return before


@pytest.mark.parametrize("name", [*checkpoint.FILES, "manifest.json"])
@pytest.mark.slow
def test_a_flipped_bit_anywhere_is_fallen_back_from(two_steps, name):
    chance, path = random.Random(7), two_steps.run / "checkpoints" / "step_00000002" / name
    size = path.stat().st_size
    for position in chance.sample(range(size), min(size, 400)):
        before = flip(path, position, chance)
        found, problems = checkpoint.newest(two_steps.run)
        if found.step == 2:  # in what it says about a log: then that is not believed
            assert checkpoint.cut_logs(two_steps.run, found, print), position
            path.write_bytes(before)
            continue
        path.write_bytes(before)
        assert found.step == 1, position
        assert len(problems) == 1
        assert "step_00000002 is damaged" in problems[0]
    assert checkpoint.newest(two_steps.run)[0].step == 2


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda f: (f / "model.safetensors").write_bytes(b""), r"model\.safetensors is not what was written"),
        (lambda f: (f / "tokenizer.json").unlink(), r"tokenizer\.json is not what was written"),
        (lambda f: (f / "manifest.json").unlink(), r"No such file"),
        (lambda f: (f / "manifest.json").write_text("[]"), r"manifest\.json is not what was written"),
        (lambda f: (f / "manifest.json").write_bytes(b"\xff"), r"can't decode"),
        (lambda f: edit(f / "manifest.json", version=2), r"its version is 2, and this gpt reads version 1"),
        (lambda f: edit(f / "manifest.json", step=7), r"manifest\.json is not what was written"),
        (lambda f: f.rename(f.with_name("step_00000009")), r"manifest\.json is not what was written"),
    ],
    ids=["cut", "lost", "no-manifest", "list", "not-utf8", "newer", "other-step", "renamed"],
)
def test_a_damaged_checkpoint_is_named_and_set_aside(two_steps, damage, says):
    folder = two_steps.run / "checkpoints"
    damage(folder / "step_00000002")
    found, (problem,) = checkpoint.newest(two_steps.run)
    assert found.step == 1
    assert re.search(says, problem), problem
    again, state = restored(two_steps.run)
    assert state["step"] == 1
    assert [path.suffix for path in sorted(folder.iterdir())] == ["", ".damaged"]
    again.step(2)
    again.save(2)
    assert again.weights() == two_steps.weights()
    assert checkpoint.newest(two_steps.run)[0].step == 2


def test_a_step_that_is_damaged_twice_is_set_aside_twice(two_steps):
    """The second time the folder has the name that the first one got: the newer damage is kept."""
    folder = two_steps.run / "checkpoints"
    for spoilt in (b"first", b"second"):
        (folder / "step_00000002" / "model.safetensors").write_bytes(spoilt)
        again, state = restored(two_steps.run)
        assert state["step"] == 1
        assert (folder / "step_00000002.damaged" / "model.safetensors").read_bytes() == spoilt
        again.step(2)
        again.save(2)
    assert sorted(path.name for path in folder.iterdir()) == ["step_00000001", "step_00000002", "step_00000002.damaged"]


def test_a_step_that_is_not_kept_is_refused_with_those_that_are(two_steps):
    with pytest.raises(FileNotFoundError, match="does not keep a checkpoint of step 3: it keeps 1, 2"):
        checkpoint.folder_of(two_steps.run, 3)
    shutil.rmtree(two_steps.run / "checkpoints")
    with pytest.raises(FileNotFoundError, match="does not keep a checkpoint of step 2: it keeps none"):
        checkpoint.folder_of(two_steps.run, 2)


def test_where_nothing_is_whole_nothing_is_loaded(two_steps):
    for folder in (two_steps.run / "checkpoints").iterdir():
        (folder / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"no intact checkpoint; .*2 is damaged: config.*1 is damaged: config"):
        checkpoint.load_model(two_steps.run)


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes, indent=2) + "\n")


# ----- a model to generate with -----------------------------------------------------------------------------------


def test_load_model_gives_the_newest(two_steps):
    model, tokenizer = checkpoint.load_model(two_steps.run)
    assert [p.tolist() for p in model.parameters()] == two_steps.weights()
    assert not model.training
    assert tokenizer.encode("cab") == [2, 0, 1]


def test_load_model_needs_three_files_and_no_checkpoint(two_steps, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in checkpoint.FILES[:3]:
        shutil.copy(two_steps.run / name, copy)
    model, _ = checkpoint.load_model(copy)
    assert [p.tolist() for p in model.parameters()] == two_steps.weights()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda run: (run / "config.json").write_text("{"), r"config\.json is not JSON"),
        (lambda run: (run / "config.json").write_text("[1]"), r"is not the config of a gpt run"),
        (lambda run: edit(run / "config.json", version=2), r"has version 2, and this gpt reads version 1"),
        (lambda run: edit(run / "config.json", model={"n_layer": 1}), r"missing vocab_size, context_length"),
        (
            lambda run: edit(run / "config.json", model=CONFIG.to_dict() | {"n_embd": 8}),
            r"this state does not fit GPT",
        ),
        (lambda run: CharTokenizer.train("ab").save(run / "tokenizer.json"), r"tokenizer has 2 tokens, the model 5"),
        (lambda run: (run / "model.safetensors").write_bytes(b"\x80\x04rest"), r"pickle"),
    ],
    ids=["not-json", "list", "newer", "fields", "other-shape", "other-tokenizer", "pickle"],
)
def test_load_model_says_what_does_not_fit(two_steps, tmp_path, spoil, says):
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in checkpoint.FILES[:3]:
        shutil.copy(two_steps.run / name, copy)
    spoil(copy)
    with pytest.raises(ValueError, match=says):
        checkpoint.load_model(copy)


def test_a_changed_token_file_is_never_trained_on(tmp_path):
    train(tiny(tmp_path, steps=4))
    path = tmp_path / "run" / "train.tokens"
    flip(path, 200, random.Random(0))
    with pytest.raises(ValueError, match=r"train\.tokens is not the file that the run was started with"):
        train(session.settings(tmp_path / "run", TrainConfig))


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [(1e3, 12), (1.3e6, 12), (4e6, 4), (124e6, 2)],
)
def test_a_run_keeps_as_many_checkpoints_as_take_200_mb(parameters, expected):
    """12 bytes a parameter: float32 weights and two averages."""
    assert session.default_keep(int(parameters)) == expected


def test_the_number_of_checkpoints_that_a_run_keeps_is_recorded_and_resumed(tmp_path):
    run, config = tmp_path / "run", tiny(tmp_path, keep=None, steps=28, checkpoint_every=2)
    for steps in (28, 32):
        train(replace(config, resume=run, out=None, steps=steps) if run.exists() else config)
        kept = [run_directory.step_of(path) for path in run_directory.steps(run)]
        assert kept == [steps - 2 * i for i in range(12)]
        assert json.loads((run / "config.json").read_text(encoding="utf-8"))["training"]["keep"] == 12


# ----- a loss of power --------------------------------------------------------------------------------------------


class Forced(random.Random):
    """Decides what becomes of names and data that were not synced: "none" is there, "all", or "each" by chance."""

    def __init__(self, names: str, data: str, seed: int = 0):
        super().__init__(seed)
        self.answers = [names, data]

    def choice(self, options):
        return self.answers.pop(0) if self.answers else super().choice(options)


def after_a_loss_of_power(start: Path, run: Path, calls, folder: Path, *chances):
    """What the disk holds, as `folder`, after each number of these calls since `start`; yields the last call."""
    for count in range(len(calls) + 1):
        for chance in chances:
            disk = Disk(start, run)
            for call in calls[:count]:
                disk.do(call)
            disk.fail(Forced(*chance))
            shutil.rmtree(folder, ignore_errors=True)
            disk.write(folder)
            yield calls[count - 1] if count else None


@contextmanager
def written_down(run: Path):
    """The calls in the block that change something below `run`."""
    calls: list = []
    with watching(run, lambda call: calls.append(call) if call.writes else None):
        yield calls


@pytest.mark.parametrize("names", ["none", "all"])
@pytest.mark.parametrize("data", ["none", "all"])
def test_power_may_fail_after_any_call_of_a_save(tmp_path, names, data):
    """At each point the last checkpoint that was reported as saved is whole, and the files that are shown are complete.

    After the save, the new checkpoint, its logs and what is shown survive without a further sync.
    """
    run, start, after = tmp_path / "run", tmp_path / "start", tmp_path / "after"
    run.mkdir()
    trained = Trained(run)
    trained.step(1)
    trained.save(1)
    shutil.copytree(run, start)
    with written_down(run) as calls:
        trained.step(2)
        trained.save(2, keep=1)
    versions = {name: {(start / name).read_bytes(), (run / name).read_bytes()} for name in checkpoint.FILES}
    for last in after_a_loss_of_power(start, run, calls, after, (names, data)):
        found, problems = checkpoint.newest(after)
        assert problems == [], last
        for name, either in versions.items():
            assert (after / name).read_bytes() in either, last
    assert found.step == 2
    assert contents(after, only_top=True) == contents(run, only_top=True)
    assert checkpoint.cut_logs(after, found, print) == []


def test_a_first_checkpoint_is_there_with_its_logs_or_not_at_all(tmp_path):
    run, start, after = tmp_path / "run", tmp_path / "start", tmp_path / "after"
    run.mkdir()
    start.mkdir()
    trained, seen = Trained(run), set()
    with written_down(run) as calls:
        trained.step(1)
        trained.save(1)
    for last in after_a_loss_of_power(start, run, calls, after, *[("each", "all", seed) for seed in range(4)]):
        try:
            found, problems = checkpoint.newest(after)
        except FileNotFoundError:
            seen.add("nothing")
            continue
        seen.add("all")
        assert problems == checkpoint.cut_logs(after, found, print) == [], last
    assert seen == {"nothing", "all"}


def test_lines_that_are_moved_to_the_log_are_never_lost(two_steps, tmp_path):
    run, start, after = two_steps.run, tmp_path / "start", tmp_path / "after"
    (run / "log.txt").write_text("it began\n")
    with open(run / "samples.txt", "a") as file:
        file.write("what a user wrote\n")
    shutil.copytree(run, start, ignore=shutil.ignore_patterns("start"))
    with written_down(run) as calls:
        assert checkpoint.cut_logs(run, checkpoint.newest(run)[0], lambda line: None) == []
    assert "user" not in (run / "samples.txt").read_text()
    for last in after_a_loss_of_power(start, run, calls, after, *[("all", "each", seed) for seed in range(12)]):
        texts = [(after / name).read_bytes() for name in ("samples.txt", "log.txt")]
        assert any(b"what a user wrote" in text for text in texts), last
