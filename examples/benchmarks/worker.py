"""A contestant's process: it gets its Job as an argument and commands on standard input, one per line.

An answer is a line of JSON after a mark, which distinguishes it from the output of libraries.
"""

import importlib
import json
import sys
import traceback
from functools import partial
from pathlib import Path

from gpt.system import peak_memory
from tensorlite import io

from .setup import Job

MARK = "examples.benchmarks: "


def main() -> None:
    job = Job(**json.loads(sys.argv[1]))
    try:
        module = importlib.import_module(f"{__package__}.{side(job)}")
        begin = partial(module.TASKS[job.task], job)
        contestant = begin() if job.device == "cpu" else None
        answer("ready")
        for line in sys.stdin:
            contestant = contestant or begin()  # on a GPU only at its turn, which separates the memory of each
            answer(obey(contestant, job, *line.split()))
    except Exception as error:
        traceback.print_exc()
        lines = str(error).strip().splitlines()
        answer({"failed": f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]})


def side(job: Job) -> str:
    """The module that plays it."""
    if job.task == "service":
        return "service"
    return ("ours" if job.library == "tensorlite" else "theirs") + ("" if job.device == "cpu" else "_gpu")


def obey(contestant, job: Job, command: str, *arguments: str):
    if command == "peak" and job.device == "cpu":
        return peak_memory()
    if command == "answers":
        path = Path(job.folder) / f"{job.who}.answers"
        if job.library == "tensorlite":
            io.save(path, contestant.answers())
        else:
            from safetensors.torch import save_file

            save_file(contestant.answers(), path)
        return str(path)
    return getattr(contestant, command)(*map(int, arguments))


def answer(value) -> None:
    print(MARK + json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
