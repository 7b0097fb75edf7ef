"""What several processes refuse, each in one sentence of process 0, before a run's directory is changed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import several
from runs import ONE_THREAD, write_text

from gpt.cli import main as cli
from gpt.fast import distributed as distributed_training
from gpt.fast.share import Share, share_of
from gpt.fingerprint import fingerprint
from gpt.tasks.pretrain import TrainConfig
from tensorlite import distributed

SENTENCES = {
    "settings": r"process 1 on \S+ was started with (steps 4, lr 0.02|lr 0.02, steps 4), and process 0 with .*: "
    "start all with the same command line",
    "passes": r"2 processes cannot share 3 passes of 5 sequences equally: start 1, 3 or 5 processes, or set "
    r"--grad-accumulation or --batch-size to a multiple of 2",
    "dropout": r"with dropout 0.1, each of 2 processes computes whole passes: set --grad-accumulation to a multiple .*",
    "version": r"process 1 on \S+ has tensorlite 9.1, and process 0 has 9.0: install one version on all hosts",
    "files": r"process 1 on \S+ reads another text.txt than process 0: copy one of them to all hosts",
    "lock": r"process \d+ is training in .*run: wait for it, or name another directory",
    "missing": r"the text file '.*none.txt' cannot be read: No such file or directory",
}


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    folder = tmp_path_factory.mktemp("refused")
    write_text(folder)
    several.launch(2, "refused.py", folder)
    return folder, json.loads((folder / "refused.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", SENTENCES)
def test_it_is_refused_by_name(refused, name):
    first, second = refused[1]
    assert re.fullmatch(SENTENCES[name], first[name])
    assert second[name] == "exit 1"


@pytest.mark.slow
def test_nothing_is_left_and_training_is_possible_afterwards(refused):
    folder, (first, second) = refused
    assert set(first["left"]) <= {"lock"}
    assert (first["then"], second["then"]) == ("trained", "trained")
    assert "has numpy 1.2.3, process 0 has" in (folder / "run" / "log.txt").read_text()


# ----- without MPI --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "passes", "rows"), [(1, 1, 3), (2, 2, 1), (2, 1, 2), (4, 2, 2), (6, 4, 9), (3, 6, 1)])
def test_every_sequence_of_a_step_is_computed_once(size, passes, rows):
    config = TrainConfig(batch_size=rows, grad_accumulation=passes)
    batches = [([f"{i}.{j}" for j in range(rows)], list(range(rows))) for i in range(passes)]
    shares = [share_of(rank, size, config) for rank in range(size)]
    found = [share.rows(batches[i])[0] for share in shares for i in share.passes]
    assert sorted(text for texts in found for text in texts) == sorted(text for texts, _ in batches for text in texts)
    assert len({len(share.passes) * len(share.rows(batches[0])[0]) for share in shares}) == 1
    assert [i for share in shares[:: shares[0].parts] for i in share.passes] == list(range(passes))


def test_a_process_that_does_not_see_the_runs_files_says_which(tmp_path):
    (tmp_path / "train.tokens").write_bytes(b"1")
    description = {"data": {"train": fingerprint(tmp_path / "train.tokens")}}
    distributed_training.check_files(tmp_path, ["train.tokens"], description)
    (tmp_path / "train.tokens").write_bytes(b"2")
    with pytest.raises(ValueError, match=r"train.tokens is not that of process 0"):
        distributed_training.check_files(tmp_path, ["train.tokens"], description)
    with pytest.raises(FileNotFoundError, match=r"train.tokens is missing"):
        distributed_training.check_files(tmp_path / "elsewhere", ["train.tokens"], description)


def test_two_processes_take_one_pass_each():
    assert share_of(1, 2, TrainConfig(batch_size=3, grad_accumulation=2)) == Share(range(1, 2), 0, 1)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, (0, 1, 0)),
        ({"PMI_RANK": "3", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1"}, (3, 4, 1)),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, (1, 2, 1)),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "0"}, (1, 2, 0)),
        ({"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1", "SLURM_NTASKS": "8"}, (5, 8, 1)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0"}, (0, 1, 0)),  # the batch script itself
    ],
)
def test_what_a_launcher_says(monkeypatch, variables, expected):
    for name in [name for names in distributed.LAUNCHERS for name in names]:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert distributed.launched() == expected


@pytest.mark.parametrize("local", [0, 1])
def test_a_launched_process_without_mpi4py_does_not_train_alone(monkeypatch, capsys, local):
    """Otherwise each of them would train the whole run. The first process of a host says it."""
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    monkeypatch.setattr(distributed, "launched", lambda: (local, 2, local))
    with pytest.raises(SystemExit) as left:
        cli.main(["train", "--steps", "1"])
    assert left.value.code == 1
    errors = capsys.readouterr().err
    if local:
        assert errors == ""
    else:
        assert re.fullmatch(
            r"gpt: this is process 0 of 2 of one run, and mpi4py is not installed: pip install .*\n", errors
        )


def test_training_alone_imports_no_mpi(tmp_path):
    text = write_text(tmp_path)
    code = (
        "import sys; from gpt.cli.main import main\n"
        f"try: main(['train', '--text', {str(text)!r}, '--tokenizer', 'char', '--steps', '1', '--context-length', '8',"
        f" '--sample-tokens', '2', '--out', {str(tmp_path / 'run')!r}])\n"
        "except SystemExit as error: assert not error.code, error.code\n"
        "assert 'tensorlite.distributed' in sys.modules and not [m for m in sys.modules if 'mpi' in m.split('.')[0]]"
    )
    subprocess.run([sys.executable, "-c", code], env=ONE_THREAD, check=True, capture_output=True, text=True)


@pytest.mark.slow
def test_every_host_says_wrong_usage_once(tmp_path):
    ran = subprocess.run(
        [several.mpiexec(), "-n", "2", sys.executable, "-m", "gpt", "train", "--stepz", "3"],
        env={**ONE_THREAD, "PYTHONPATH": os.pathsep.join(map(str, [Path(__file__).parents[3]]))},
        capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 2
    assert ran.stderr.count("gpt train has no flag --stepz") == 1
