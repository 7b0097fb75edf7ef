"""`python refused.py FOLDER` under mpiexec: runs that are refused, one after another. Process 0 writes refused.json:
the sentence for each, and what is in FOLDER/run afterwards.
"""

import json
import os
import sys
from pathlib import Path

import several
from runs import TEXT, TINY

from gpt.fast import machine
from gpt.fast.distributed import train
from gpt.tasks.pretrain import TrainConfig
from gpt.training import lockfile
from tensorlite import distributed

FEW = {"steps": 3, "threads": 1, "dropout": 0.0}


def few(folder: Path, **changes) -> TrainConfig:
    """The tiny run of runs.py, whose text is there already."""
    return TrainConfig(**{"text": (folder / "bottles.txt",), "out": folder / "run", **TINY, **changes})


def attempt(config) -> str:
    try:
        train(config)
    except SystemExit as error:
        return f"exit {error.code}"
    except Exception as error:
        return str(error)
    return "trained"


def main(folder: Path) -> None:
    world = distributed.join()
    rank, found = world.rank, {}
    made_with = machine.made_with
    found["settings"] = attempt(few(folder, **FEW | {"steps": 3 + rank, "lr": 0.01 * (1 + rank)}))
    found["passes"] = attempt(few(folder, **FEW, grad_accumulation=3, batch_size=5))
    found["dropout"] = attempt(few(folder, **FEW | {"dropout": 0.1}))
    machine.made_with = lambda device: {**made_with(device), "tensorlite": f"9.{rank}"}
    found["version"] = attempt(few(folder, **FEW))
    machine.made_with = made_with
    own = folder / str(rank)
    own.mkdir(exist_ok=True)
    (own / "text.txt").write_text(TEXT if rank == 0 else TEXT.replace("wall", "hall"), encoding="utf-8")
    before = os.getcwd()
    os.chdir(own)
    found["files"] = attempt(few(folder, **FEW, text=("text.txt",)))
    os.chdir(before)
    (folder / "run").mkdir(exist_ok=True)
    with lockfile.lock(folder / "run") if rank == 0 else open(os.devnull):
        found["lock"] = attempt(few(folder, **FEW))
    found["missing"] = attempt(few(folder, **FEW, text=(folder / "none.txt",)))
    found["left"] = sorted(path.name for path in (folder / "run").iterdir())
    found["then"] = attempt(few(folder, **FEW))
    if rank == 1:
        machine.made_with = lambda device: {**made_with(device), "numpy": "1.2.3"}
    found["noted"] = attempt(few(folder, **FEW, overwrite=True))
    every = world.collect(found)
    if rank == 0:
        (folder / "refused.json").write_text(json.dumps(every), encoding="utf-8")


if __name__ == "__main__":
    with several.aborting():
        main(Path(sys.argv[1]))
