"""Mutants outside the rules that change nothing that can be seen, each with the reason (see mutate.py)."""

PROOFS: dict[str, list[str]] = {
    "POSIX replaces a file that is open as well as one that is closed": [
        "gpt/training/lockfile.py: _acquire: os.name != 'posix'  ->  os.name == 'posix'",
    ],
    "before it has begun there is nothing to undo, and a run that is there keeps its lock": [
        "gpt/training/open_run.py: create: place.begun and place.folder == run and is_run(run)  ->  place.folder == run and is_run(run)",
    ],
    "the list of files is written again as it is": [
        "gpt/training/open_run.py: resume: if mine is None or not {*names} <= {*mine}  ->  if True",
    ],
    "only a moment that falls on the limit to the last bit of the clock": [
        "gpt/training/progress.py: Progress.step: time.monotonic() - self.drawn > REFRESH  ->  time.monotonic() - self.drawn >= REFRESH",
    ],
}
EQUIVALENT = {key: proof for proof, keys in PROOFS.items() for key in keys}
