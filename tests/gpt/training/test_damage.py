"""A run that is damaged: every command names the damage and what it reads instead; logs are no reason to stop."""

import errno
import json
import os
import random
import re
import shutil
from pathlib import Path

import pytest
from runs import contents, short_run, train, write_text
from trained import Trained

from gpt.tasks.pretrain import TrainConfig
from gpt.training import checkpoint, plots, run_directory, session

short, run = short_run(steps=2, eval_every=2, sample_every=1, checkpoint_every=1)


def spoil(path: Path, position: int = -1) -> None:
    """Flip a bit of a file."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.unlink()  # it may be a hard link
    path.write_bytes(data)


def weights(model) -> list:
    return [p.tolist() for p in model.parameters()]


def further(run: Path, steps: int = 4) -> str:
    """Go on with it; what was printed."""
    return train(TrainConfig(**{**vars(session.settings(run, TrainConfig)), "steps": steps}))


# ----- a damaged checkpoint ---------------------------------------------------------------------------------------

READERS = {
    "generate": ("generate", "{run}", "--max-new-tokens", 1),
    "evaluate": ("evaluate", "{run}", "--text", "{text}"),
    "export": ("export", "{run}", "{tmp}/out"),
    "chat": ("chat", "{run}", "--once", "x"),
    "classify": ("classify", "{run}", "x"),
    "judge": ("judge", "{run}", "--data", "{data}"),
    "finetune classify": ("finetune", "classify", "{run}", "--data", "{data}", "--out", "{tmp}/tuned"),
    "finetune instruct": ("finetune", "instruct", "{run}", "--data", "{data}", "--out", "{tmp}/tuned"),
}


@pytest.mark.slow
@pytest.mark.finding("A3")
@pytest.mark.parametrize("args", READERS.values(), ids=READERS)
def test_every_command_names_the_damage_and_what_it_reads_instead(run, tmp_path, call, args):
    """In one line of its own, once, whatever else it says: some of these want another kind of run."""
    (tmp_path / "data.json").write_text(json.dumps([{"instruction": "a", "input": "", "output": "b"}] * 20))
    spoil(run / "checkpoints" / "step_00000002" / "model.safetensors")
    names = {"run": run, "tmp": tmp_path, "text": write_text(tmp_path), "data": tmp_path / "data.json"}
    _, _, errors = call(*(str(arg).format(**names) for arg in args))
    said = [line for line in errors.splitlines() if line.startswith("gpt: warning: ")]
    folder = run / "checkpoints"
    assert said == [
        f"gpt: warning: {folder}/step_00000002 is damaged: model.safetensors is not what was written; "
        f"{folder}/step_00000001 is read instead"
    ]


@pytest.mark.slow
@pytest.mark.finding("A3")
@pytest.mark.parametrize("name", [*checkpoint.MODEL, "manifest.json"])
def test_no_flipped_bit_is_answered_in_silence(run, name):
    """From Python it is a warning too; what is then read is the older checkpoint, whole."""
    folder = run / "checkpoints"
    newest, older = (weights(checkpoint.load_model(run, folder=folder / f"step_0000000{step}")[0]) for step in (2, 1))
    assert newest != older
    path = folder / "step_00000002" / name
    whole = path.read_bytes()
    training = whole.index(b'"training.safetensors"') if name == "manifest.json" else len(whole)  # is not read
    for position in random.Random(3).sample(range(training), 40):
        spoil(path, position)
        with pytest.warns(
            run_directory.RunWarning, match=r"step_00000002 is damaged: .*; .*step_00000001 is read instead"
        ):
            assert weights(checkpoint.load_model(run)[0]) == older
        path.write_bytes(whole)
    assert weights(checkpoint.load_model(run)[0]) == newest


@pytest.mark.finding("A3")
@pytest.mark.parametrize(
    "old", [b'"sha256"', b'"bytes"', b'"logs"', b'"files"', b'"step"', b'"version"', b'"metrics.jsonl"']
)
def test_a_damaged_key_of_a_manifest_is_damage(run, old):
    path = run / "checkpoints" / "step_00000002" / "manifest.json"
    data = path.read_bytes()
    for at in {data.index(old), data.rindex(old)}:
        path.write_bytes(data[:at] + old.swapcase() + data[at + len(old) :])
        found, (problem,) = checkpoint.newest(run)
        assert found.step == 1
        assert problem.endswith("step_00000002 is damaged: manifest.json is not what was written")
    path.write_text("[" * 100_000)
    assert checkpoint.newest(run)[0].step == 1


@pytest.mark.finding("A3")
def test_editing_what_a_run_shows_damages_no_checkpoint(run):
    further(run, steps=3)  # a copied directory has no hard links, and this one has
    assert (run / "model.safetensors").samefile(run / "checkpoints" / "step_00000003" / "model.safetensors")
    for name in ("config.json", "tokenizer.json"):
        with open(run / name, "a") as file:
            file.write(" ")
    found, problems = checkpoint.newest(run)
    assert (found.step, problems) == (3, [])


@pytest.mark.finding("A3")
def test_three_files_alone_have_no_checksum_which_is_said(run, tmp_path, call):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in checkpoint.MODEL:
        shutil.copy(run / name, bare)
    status, _, errors = call("generate", bare, "--max-new-tokens", 1)
    assert status == 0
    warnings = [line for line in errors.splitlines() if line.startswith("gpt: warning: ")]
    assert len(warnings) == 1
    assert re.fullmatch(r"gpt: warning: .*bare has no checkpoints: config\.json, .* without a checksum", warnings[0])


@pytest.mark.finding("A11")
def test_reading_a_model_reads_nothing_of_training(run, monkeypatch):
    """So it starts in a third of the time, and damage there changes nothing."""
    spoil(run / "checkpoints" / "step_00000002" / "training.safetensors")
    real, read = checkpoint.fingerprint, []
    monkeypatch.setattr(checkpoint, "fingerprint", lambda path, size=None: read.append(path.name) or real(path, size))
    _, (problem,) = checkpoint.newest(run)
    newest = weights(checkpoint.load_model(run, folder=run / "checkpoints" / "step_00000002")[0])
    read.clear()
    assert weights(checkpoint.load_model(run)[0]) == newest
    assert sorted(read) == sorted(checkpoint.MODEL)
    assert "training.safetensors is not what was written" in problem
    assert "step_00000002 is damaged: training.safetensors is not" in further(run)


@pytest.mark.finding("A7")
@pytest.mark.parametrize("field", ["n_layer", "n_embd", "vocab_size", "context_length"])
@pytest.mark.parametrize("command", ["generate {run}", "export {run} {run}-out", "train --resume {run}"])
def test_a_config_that_asks_for_a_giant_is_refused_before_anything_is_built(run, call, field, command):
    """By a run that is whole by its checksums: somebody else may have made it."""
    for folder in (run / "checkpoints").iterdir():
        description = json.loads((folder / "config.json").read_text())
        description["model"][field] = 10**9
        if field in description["training"]:
            description["training"][field] = 10**9
        checkpoint.write_json(folder / "config.json", description)
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"]["config.json"] = checkpoint.fingerprint(folder / "config.json")
        checkpoint.write_json(folder / "manifest.json", manifest)
    status, _, errors = call(*command.format(run=run).split())
    assert status == 1
    assert re.search(r"does not hold the weights of the model in config\.json", errors)


# ----- damaged logs -----------------------------------------------------------------------------------------------

DAMAGES = {
    "missing": lambda path: path.unlink(),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:40]),
    "changed": lambda path: spoil(path, 3),
    "garbage": lambda path: path.write_bytes(b"\xff\0" * 900),
    "empty": lambda path: path.write_bytes(b""),
}


@pytest.fixture(scope="module")
def continued(short):
    """The same run after four steps."""
    run = Path(shutil.copytree(short / "run", short / "continued"))
    further(run)
    return run


@pytest.mark.finding("A5")
@pytest.mark.parametrize(
    ("name", "damage"),
    [*(("metrics.jsonl", damage) for damage in DAMAGES), ("samples.txt", "missing"), ("samples.txt", "garbage"),
     ("log.txt", "missing"), ("log.txt", "garbage")],
)  # fmt: skip
@pytest.mark.slow
def test_good_weights_go_on_whatever_becomes_of_a_log(run, continued, name, damage):
    DAMAGES[damage](run / name)
    left = (run / name).read_bytes() if (run / name).exists() else b""
    screen = further(run)
    for file in ("model.safetensors", "training.safetensors"):
        assert (run / file).read_bytes() == (continued / file).read_bytes()
    if name in run_directory.LOGS:
        says = "is missing, and was there at" if damage == "missing" else "has changed since"
        assert re.search(rf"warning: .*{re.escape(name)} {says} step 2: training continues, and the rest", screen)
    now = (run / name).read_bytes()
    assert now.startswith(left)
    if name == "metrics.jsonl":
        new = [line for line in now[len(left) :].decode().split("\n") if line]
        assert [json.loads(line)["step"] for line in new] == [3, 4, 4]
    assert ("loss.png is not drawn, metrics.jsonl is damaged" in screen) == (
        name == "metrics.jsonl" and damage not in ("missing", "empty")
    )


def test_logs_are_cut_to_where_the_checkpoint_was_made_and_not_touched_otherwise(run, monkeypatch):
    whole = {name: (run / name).read_bytes() for name in run_directory.LOGS}
    found, _ = checkpoint.newest(run)
    monkeypatch.setattr(os, "truncate", None)  # there is nothing to cut: a file system may not know how
    for name, entry in found.logs.items():
        (run / name).write_bytes(whole[name][: entry["bytes"]])
    assert checkpoint.cut_logs(run, found, print) == []
    monkeypatch.undo()
    for name in run_directory.LOGS:
        with open(run / name, "ab") as file:
            file.write(b'{"half a l')
    assert checkpoint.cut_logs(run, found, print) == []
    assert plots.read_metrics(run / "metrics.jsonl")[-1]["step"] == 2


# ----- file systems -----------------------------------------------------------------------------------------------


@pytest.mark.finding("A4")
@pytest.mark.parametrize("name", ["ENOSYS", "EXDEV", "EACCES", "EPERM", "EOPNOTSUPP", "EMLINK", "EIO", "EROFS", None])
def test_where_there_are_no_hard_links_there_are_copies(tmp_path, monkeypatch, name):
    def refuse(*_):
        raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)))

    if name is None:
        monkeypatch.delattr(os, "link")  # Android
    else:
        monkeypatch.setattr(os, "link", refuse)
    trained = Trained(tmp_path)
    for step in (1, 2):
        trained.step(step)
        trained.save(step)
    for shown in checkpoint.FILES:
        kept = tmp_path / "checkpoints" / "step_00000002" / shown
        assert (tmp_path / shown).read_bytes() == kept.read_bytes()
        assert not (tmp_path / shown).samefile(kept)
    found, problems = checkpoint.newest(tmp_path)
    assert (found.step, problems) == (2, [])
    checkpoint.restore(tmp_path, found, trained.model, trained.optimizer)
    assert not [path for path in tmp_path.rglob("*") if "tensorlite" in path.name]


def test_what_cannot_be_shown_or_deleted_ends_no_training(tmp_path, monkeypatch):
    trained = Trained(tmp_path)
    trained.step(1)
    trained.save(1)
    trained.step(2)
    before = contents(tmp_path, only_top=True)
    with monkeypatch.context() as patch:

        def refuse(*_):
            raise OSError(28, "No space left on device")

        patch.setattr(shutil, "copyfile", refuse)
        with pytest.warns(
            run_directory.RunWarning, match="step 2 is saved as .*, but its files could not be copied to .*: No"
        ):
            trained.save(2)
    assert contents(tmp_path, only_top=True)["model.safetensors"] == before["model.safetensors"]
    assert checkpoint.newest(tmp_path)[0].step == 2
