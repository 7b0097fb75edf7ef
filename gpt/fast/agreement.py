"""What the processes of a run compare at the start: versions, settings, files; and each one's device and threads."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from tensorlite import backend
from tensorlite.devices import gpu, machine
from tensorlite.distributed import World

from ..fingerprint import fingerprint
from ..training import checkpoint
from ..training import machine as plain
from ..training.settings import Settings


def about(world: World, config: Settings) -> dict[str, Any]:
    """What has to be equal in all processes, and where this one is."""
    made = plain.made_with("cpu")
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return {
        "host": world.mpi.Get_processor_name(),
        "pid": os.getpid(),
        "version": made["tensorlite"],
        "settings": {name: str(value) for name, value in asdict(config).items()} | {"task": config.task},
        "files": {str(path): fingerprint(path) for path in config.reads() if path.is_file()},
        "noted": {
            name: made.get(name, "") for name in ("python", "numpy", "machine", "instructions", "numba", "oneDNN")
        },
        "cores": cores,
    }


def differences(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each process whose version, settings or files are not those of process 0."""
    first, problems = found[0], []
    for rank, other in enumerate(found):
        who = f"process {rank} on {other['host']}"
        if other["version"] != first["version"]:
            problems.append(
                f"{who} has tensorlite {other['version']}, and process 0 has {first['version']}: install one version "
                "on all hosts"
            )
        changed = [name for name, value in other["settings"].items() if first["settings"].get(name) != value]
        if changed:
            given = ", ".join(f"{name} {other['settings'][name]}" for name in changed)
            own = ", ".join(f"{name} {first['settings'].get(name)}" for name in changed)
            problems.append(
                f"{who} was started with {given}, and process 0 with {own}: start all with the same command line"
            )
        for path, written in other["files"].items():
            if first["files"].get(path, written) != written:
                problems.append(f"{who} reads another {path} than process 0: copy one of them to all hosts")
    return problems


def notes(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each difference that may change last bits only."""
    return [
        f"process {rank} on {other['host']} has {name} {value}, process 0 has {found[0]['noted'][name]}: the last bits "
        "may differ"
        for rank, other in enumerate(found)
        for name, value in other["noted"].items()
        if value != found[0]["noted"][name]
    ]


def own_device(world: World, device: str) -> str:
    """This process' device: on a host with GPUs, each process has its own. ValueError where they are too few."""
    if backend.use_device(device) == "cpu":
        return "cpu"
    count = gpu.count()
    if device not in ("auto", "cuda") or world.local_size > count:
        raise ValueError(
            f"{world.local_size} processes on this host need a GPU each, and it has {count}: start at most {count} on "
            "a host and omit --device, or give --device cpu"
        )
    return f"cuda:{world.local_rank}"


def resumed(config: Settings, processes: int) -> Settings:
    """Without the number of threads that the run to be resumed has of another number of processes."""
    if config.resume is None or config.threads is None:
        return config
    newest, _ = checkpoint.newest(config.resume, ["config.json"])
    then = checkpoint.read_config(newest.folder / "config.json")
    same = int(then.get("made_with", {}).get("processes", "1")) == processes
    return (
        config if same or config.threads != then.get("training", {}).get("threads") else replace(config, threads=None)
    )


def own_threads(found: Sequence[Mapping[str, Any]], rank: int, config: Settings) -> int:
    """The threads of this process: those that the user gave, or its share of the cores that it may use."""
    given = resumed(config, len(found)).threads
    if given is not None or machine.given_threads():
        return given or machine.default_threads()
    own = found[rank]
    sharing = [other for other in found if (other["host"], other["cores"]) == (own["host"], own["cores"])]
    return max(1, machine.usable_cores() // len(sharing))
