"""What all routes share: the runs that are served, the models in memory, and the thread that computes."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import look
from ..fast.weights_dtype import Dtype, set_weights_dtype, weight_bytes
from ..look import LoadedModel
from ..look.metrics import Log
from ..look.run_list import find_runs as find_runs
from ..training import run_directory
from .logs import Logs
from .worker import Worker

MOST_BYTES = 4 << 30  # of the models in memory; the one used last is always kept


class NotFound(LookupError):
    """A run or a session that the server does not have; its text is the sentence for the client."""


@dataclass
class State:
    """The server's state. Models are loaded and used in the worker's thread only."""

    folders: tuple[Path, ...]  # runs, and folders of runs
    device: str | None = None
    dtype: Dtype = "float32"  # of the weights of models that only write
    worker: Worker = field(default_factory=Worker)
    attention: Any = None  # the one computed last, with what it was computed from (routes/attention.py)
    models: OrderedDict[tuple[str, int | None, int, str], LoadedModel] = field(default_factory=OrderedDict)
    logs: Logs = field(default_factory=Logs)
    sessions: dict[str, Any] = field(default_factory=dict)  # of learning: each has `.loaded`, a LoadedModel

    def runs(self) -> dict[str, Path]:
        """The runs by name: those given, and those below the folders given, also if they were begun since."""
        found: dict[str, Path] = {}
        for folder in self.folders:
            for run in find_runs(folder):
                base = name = run.resolve().name
                number = 2
                while name in found and found[name] != run:
                    name, number = f"{base} ({number})", number + 1
                found[name] = run
        return found

    def run(self, name: Any) -> Path:
        """The directory of the run of that name. NotFound for any other."""
        runs = self.runs()
        if not isinstance(name, str) or name not in runs:
            raise NotFound(f"there is no run {name!r:.80} here: the runs are {', '.join(runs) or 'none'}")
        return runs[name]

    def read(self, describe: Callable[[Log], dict[str, Any]]) -> list[dict[str, Any]]:
        """For each run its name and what `describe` makes of its log; for an unreadable one, its name and the error."""

        def one(name: str, run: Path) -> dict[str, Any]:
            try:
                return {"name": name, **self.logs.use(run, describe)}
            except (OSError, ValueError) as error:
                return {"name": name, "error": str(error)}

        return [one(name, run) for name, run in self.runs().items()]

    def writer(self, wanted: Mapping[str, Any]) -> LoadedModel:
        """As `model`, with weights in `self.dtype`: for generation alone."""
        return self.model(wanted, self.dtype)

    def model(self, wanted: Mapping[str, Any], dtype: Dtype = "float32") -> LoadedModel:
        """The model that a request means by its "run", "step" and "session"; call it in the worker's thread.

        `session` is a learning session (routes/learn.py), whose weights differ from the checkpoint's.
        """
        if session := wanted.get("session"):
            if not isinstance(session, str) or session not in self.sessions:
                raise NotFound("the server does not have this learning session any more: begin again from a checkpoint")
            self.sessions[session] = self.sessions.pop(session)  # used last: the end of the dict
            learning: LoadedModel = self.sessions[session].loaded
            return learning
        run, step = self.run(wanted.get("run")), wanted.get("step")
        if step is None and (kept := look.kept_steps(run)):
            step = kept[-1]
        key = (str(run), step, written(run, step), dtype)
        if key not in self.models:
            loaded = look.load(run, step, self.device)
            set_weights_dtype(loaded.model, dtype)
            self.models[key] = loaded
            while len(self.models) > 1 and sum(map(size, self.models.values())) > MOST_BYTES:
                self.models.popitem(last=False)
        self.models.move_to_end(key)
        return self.models[key]


def written(run: Path, step: int | None) -> int:
    """When a checkpoint was written, in nanoseconds: --overwrite makes others of the same step. 0: it is not kept."""
    folder = next((path for path in run_directory.steps(run) if run_directory.step_of(path) == step), None)
    try:
        return (folder / "model.safetensors").stat().st_mtime_ns if folder else 0
    except FileNotFoundError:  # deleted meanwhile
        return 0


def size(loaded: LoadedModel) -> int:
    """The bytes of a model's weights."""
    return weight_bytes(loaded.model)
