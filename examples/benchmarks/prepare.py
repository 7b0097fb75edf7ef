"""`gpt data prepare` beside Hugging Face's `datasets` and `tokenizers`: `python -m examples.benchmarks.prepare`.

Text files of these folders are copied until there are enough of them, and both make the same GPT-2 tokens of them, with
the same number of processes: each document's, followed by <|endoftext|>, in files of 16-bit numbers. The other side is
the usual script: `load_dataset`, `map` with `num_proc` and a tokenizer in Rust, and the ids written to a memory map.
They run in turns, each time in new processes and without a cache. That both files hold the same tokens is checked.

CPU seconds are those of all processes of a side, from the system; they depend less than wall time on what else the
machine does. Memory is the most that all its processes held at once, sampled: Pss_Anon, which counts shared pages once
and no pages of files.

    pip install datasets tokenizers
    python -m examples.benchmarks.prepare /usr/lib /usr/share/doc --megabytes 300
"""

import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import tyro

from gpt.data.shards.folder import read, totals
from tensorlite.data import TokenFile

from .report import table

SUFFIXES = (".py", ".md", ".h", ".rst", ".txt")
HEADER = 32  # bytes before the ids of a token file


class Measured(NamedTuple):
    """One run of a side."""

    wall: float  # seconds
    user: float  # CPU seconds of all processes
    system: float
    memory: int  # bytes


@dataclass(frozen=True)
class Bench:
    """Prepare the same text with both, in turns, and print a table."""

    folders: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="FOLDER")]
    megabytes: int = 300  # of text
    processes: int = 2
    rounds: int = 3
    vocabulary: Path | None = None  # a folder with encoder.json and vocab.bpe; default: TIKTOKEN_CACHE_DIR
    work: Path | None = None  # a folder for the copies and results; default: a temporary one
    side: Literal["both", "theirs"] = "both"  # theirs: what a process of the other side does, in `work`

    def __call__(self) -> None:
        vocabulary = self.vocabulary or Path(os.environ.get("TIKTOKEN_CACHE_DIR", ""))
        if not (vocabulary / "encoder.json").is_file():
            raise SystemExit("GPT-2's encoder.json and vocab.bpe are missing: name their folder with --vocabulary")
        if self.side == "theirs":
            assert self.work is not None
            theirs(self.work, vocabulary, self.processes)
            return
        with tempfile.TemporaryDirectory() as temporary:
            self.compare(self.work or Path(temporary), vocabulary)

    def compare(self, work: Path, vocabulary: Path) -> None:
        files, size = copy(self.folders, work / "in", self.megabytes * 10**6)
        print(f"{files:,} files, {size / 1e6:,.1f} MB; {platform.machine()}, {os.cpu_count()} cores, Python "
              f"{platform.python_version()}, load {os.getloadavg()[0]:.1f}", flush=True)  # fmt: skip
        names = {"gpt data prepare": self.ours, f"datasets {version('datasets')}": self.theirs}
        found: dict[str, list[Measured]] = {name: [] for name in names}
        for number in range(self.rounds):
            for name, command in names.items():
                found[name].append(one := measure(command(work), environment(work, vocabulary)))
                print(f"round {number + 1}  {name:20} {one.wall:7.1f} s  {one.user:7.1f} s user  "
                      f"{one.system:5.1f} s system  {one.memory / 2**20:6,.0f} MiB", flush=True)  # fmt: skip
            check(work)
        print(table(["", "user s", "MB / user s", "system s", "wall s", "MB/s", "memory MiB"], rows(found, size / 1e6)))

    def ours(self, work: Path) -> list[str]:
        shutil.rmtree(work / "ours", ignore_errors=True)
        return [sys.executable, "-m", "gpt", "data", "prepare", str(work / "in"), "--tokenizer", "gpt2",
                "--processes", str(self.processes), "--out", str(work / "ours")]  # fmt: skip

    def theirs(self, work: Path) -> list[str]:
        shutil.rmtree(work / "cache", ignore_errors=True)
        return [sys.executable, "-m", "examples.benchmarks.prepare", ".", "--side", "theirs", "--work", str(work),
                "--processes", str(self.processes)]  # fmt: skip


def environment(work: Path, vocabulary: Path) -> dict[str, str]:
    """Of both sides: where the vocabulary is, and an empty cache; a process of `datasets` has one thread."""
    own = {"TIKTOKEN_CACHE_DIR": str(vocabulary), "HF_HOME": str(work / "cache"), "HF_HUB_OFFLINE": "1"}
    return {**os.environ, **own, "TOKENIZERS_PARALLELISM": "false", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}


def rows(found: dict[str, list[Measured]], megabytes: float) -> Iterator[list[str]]:
    """Medians over the rounds."""
    for name, all_of_it in found.items():
        wall, user, system, memory = (statistics.median(values) for values in zip(*all_of_it, strict=True))
        yield [name, f"{user:.1f}", f"{megabytes / user:.2f}", f"{system:.1f}", f"{wall:.1f}",
               f"{megabytes / wall:.2f}", f"{memory / 2**20:,.0f}"]  # fmt: skip


# ----- the text -----------------------------------------------------------------------------------------------------


def copy(folders: Sequence[Path], to: Path, size: int) -> tuple[int, int]:
    """Copy different text files until they have `size` bytes; their number and bytes."""
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir(parents=True)
    files = done = 0
    seen = set()
    for folder in folders:
        for place, below, names in os.walk(folder):
            below.sort()
            for name in sorted(names):
                if not name.endswith(SUFFIXES) or os.path.islink(os.path.join(place, name)):
                    continue
                data = Path(place, name).read_bytes().replace(b"\r\n", b"\n").replace(b"\r", b"\n")
                if not is_text(data) or (known := hash(data)) in seen:
                    continue
                seen.add(known)
                (to / f"{files:07d}.txt").write_bytes(data)
                files, done = files + 1, done + len(data)
                if done >= size:
                    return files, done
    raise SystemExit(f"there are {done / 1e6:,.1f} MB of text in these folders: name more, or a smaller --megabytes")


def is_text(data: bytes) -> bool:
    try:
        return bool(data.decode("utf-8").strip()) and b"\0" not in data and not data.startswith(b"\xef\xbb\xbf")
    except UnicodeDecodeError:
        return False


# ----- the other side -----------------------------------------------------------------------------------------------


def theirs(work: Path, vocabulary: Path, processes: int) -> None:
    """nanoGPT's script with a tokenizer of Hugging Face: the ids of all files in WORK/theirs.bin."""
    import tokenizers
    from datasets import Dataset, load_dataset

    tokenizer = tokenizers.ByteLevelBPETokenizer(str(vocabulary / "encoder.json"), str(vocabulary / "vocab.bpe"))
    end = tokenizer.token_to_id("<|endoftext|>")

    def encode(batch: dict[str, list[str]]) -> dict[str, list[Any]]:
        ids = [[*encoding.ids, end] for encoding in tokenizer.encode_batch(batch["text"])]
        return {"ids": ids, "length": [len(one) for one in ids]}

    texts = load_dataset("text", data_dir=str(work / "in"), sample_by="document", split="train", num_proc=processes)
    assert isinstance(texts, Dataset)
    encoded = texts.map(encode, batched=True, batch_size=100, remove_columns=["text"], num_proc=processes)
    total = int(np.sum(encoded["length"], dtype=np.uint64))
    out = np.memmap(work / "theirs.bin", np.uint16, "w+", shape=(total,))
    at = 0
    for batch in encoded.with_format("numpy").iter(1000):
        ids = np.concatenate(batch["ids"])
        out[at : at + len(ids)] = ids
        at += len(ids)
    out.flush()


def check(work: Path) -> None:
    """Both have the same number of each token, and so many documents as there are files."""
    counts = np.zeros(50257, np.int64)
    manifest = read(work / "ours")
    for shard in manifest["shards"]:
        counts += np.bincount(TokenFile(work / "ours" / shard["name"], check=False).tokens, minlength=50257)
    other = np.bincount(np.memmap(work / "theirs.bin", np.uint16, "r"), minlength=50257)
    documents = sum(totals(manifest, part)["documents"] for part in ("train", "validation"))
    if not np.array_equal(counts, other) or documents != len(os.listdir(work / "in")):
        wrong = np.flatnonzero(counts != other)
        raise SystemExit(f"the tokens differ: {counts.sum():,} and {other.sum():,}; {len(wrong):,} kinds of them")


# ----- measuring ----------------------------------------------------------------------------------------------------


def measure(command: list[str], environment: dict[str, str]) -> Measured:
    """Run a command to its end, with all the processes that it starts."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    peak, ended = [0], threading.Event()
    watch = threading.Thread(target=sample, args=(process.pid, peak, ended))
    watch.start()
    _, errors = process.communicate()
    wall = time.monotonic() - began
    ended.set()
    watch.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{errors.decode()[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Measured(wall, after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime, peak[0])


def sample(pid: int, peak: list[int], ended: threading.Event) -> None:
    """Note the most memory of a process and all below it, four times a second."""
    while not ended.wait(0.25):
        peak[0] = max(peak[0], sum(map(memory, family(pid))))


def family(pid: int) -> Iterator[int]:
    yield pid
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                yield from family(int(child))
    except OSError:  # it has ended
        return


def memory(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Pss_Anon:"))


if __name__ == "__main__":
    tyro.cli(Bench)()
