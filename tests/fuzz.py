"""A fuzzer of every reader of files: what is in a file that somebody else made decides neither memory nor traceback.

    python -m tests.fuzz --minutes 30            every target, guided by coverage where atheris is installed
    python -m tests.fuzz --cases 200 --random    the same cases on every machine, which the tests run
    python -m tests.fuzz --target run --case HEX what one case raises, with its traceback

A target is a folder of good files and a function that reads them. A case is a string of bytes: it chooses which files
are changed, where, and to what. Reading must end within `SECONDS` of processor time and `MEMORY`, change nothing
outside the folder, and either work or raise one of `ALLOWED` with a message of at most `LONGEST` characters.
atheris (`pip install atheris`) is not a dependency: without it the bytes of the cases are drawn from a seed.
"""

import argparse
import contextlib
import csv
import importlib.util
import io
import json
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

SECONDS = 10.0  # of processor time for one case; a good folder takes a hundredth of a second
MEMORY = 1 << 29  # bytes of address space beyond what the process had before the first case
LONGEST = 20_000  # characters of a message, of which a terminal gets fewer (cli.LONGEST)
ALLOWED = (ValueError, OSError, FloatingPointError)
RAW = (UnicodeError, json.JSONDecodeError, csv.Error)  # ValueErrors that say nothing about the file
LENGTHS = (6, 12, 24, 48)  # of drawn cases, in bytes
VICTIM = "a file of somebody else"


class Target(NamedTuple):
    """What is read, and how."""

    make: Callable[[Path], Any]  # writes the good files into an empty folder
    read: Callable[[Path], Any]
    seal: Callable[[Path], Any] = lambda folder: None  # makes checksums agree with the changed files


# ----- the good files ---------------------------------------------------------------------------------------------


def quiet_run(folder: Path, config: Any, task: Any) -> None:
    from rich.console import Console

    from gpt import train

    train.train(config, Console(file=io.StringIO()), task)


def pretrained_run(folder: Path, **changes: Any) -> Path:
    """A run of one step; the files that reading a model does not need are left out, so that a case is written fast."""
    from runs import tiny

    from gpt.pretraining import Pretraining

    with tempfile.TemporaryDirectory() as work:
        config = tiny(Path(work), out=folder / "run", **{"steps": 1, "sample_every": 0, "keep": 1, **changes})
        quiet_run(folder, config, Pretraining)
    return folder / "run"


def only_checkpoint(run: Path) -> None:
    for path in run.iterdir():
        if path.is_file():
            path.unlink()


def make_run(folder: Path) -> None:
    only_checkpoint(pretrained_run(folder, tokenizer="bpe", vocab_size=270))


def make_bare(folder: Path) -> None:
    run = pretrained_run(folder)
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        shutil.copy(run / name, folder / name)
    shutil.rmtree(run)


def make_adapted(folder: Path) -> None:
    """An instruct run with LoRA."""
    from gpt.instruct import InstructConfig, Instructions

    entries = [{"instruction": "Say", "input": "yes", "output": "yes"}] * 30
    base = pretrained_run(folder / "base", context_length=80, tokenizer="bpe", vocab_size=270)
    data = save_json(folder / "data.json", entries)
    changes = {"steps": 1, "sample_every": 0, "keep": 1, "responses": 0, "style": "phi3", "eval_batches": 1}
    config = InstructConfig(base=base, data=data, out=folder / "run", lora=True, rank=2, **changes)
    quiet_run(folder, config, Instructions)
    only_checkpoint(folder / "run")
    shutil.rmtree(folder / "base")
    data.unlink()


def make_classifier(folder: Path) -> None:
    from gpt.classify import Classification
    from gpt.config import ClassifyConfig

    data = folder / "data.tsv"
    data.write_text("drink\tone bottle\nfruit\ta wall\n" * 20, encoding="utf-8")
    base = pretrained_run(folder / "base", context_length=24, tokenizer="bpe", vocab_size=270)
    changes = {"batch_size": 4, "steps": 1, "sample_every": 0, "keep": 1, "layers": "all", "position": "last-real"}
    quiet_run(folder, ClassifyConfig(base=base, data=data, out=folder / "run", **changes), Classification)
    only_checkpoint(folder / "run")
    shutil.rmtree(folder / "base")
    data.unlink()


def save_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def make_hugging_face(folder: Path) -> None:
    """With a tokenizer.json."""
    import folders

    from gpt.pretrained import vocabulary

    folders.write(folder, tokenizer=False)
    for name, text in vocabulary.tokenizer_files(folders.TOKENIZER, 6).items():
        if name != "vocab.json" and name != "merges.txt":
            (folder / name).write_text(text, encoding="utf-8")


def make_shards(folder: Path) -> None:
    """In three files, with a vocab.json and a merges.txt."""
    import folders
    import safetensors.numpy as st

    folders.write(folder)
    tensors = st.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    where = {name: f"model-{i % 2}.safetensors" for i, name in enumerate(tensors)}
    for file in set(where.values()):
        st.save_file({name: x for name, x in tensors.items() if where[name] == file}, folder / file)
    save_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": 1}, "weight_map": where})


def make_release(folder: Path) -> None:
    """OpenAI's, as TensorFlow wrote it."""
    import folders

    shutil.copytree(Path(__file__).parent / "gpt" / "release", folder, dirs_exist_ok=True)
    save_json(folder / "encoder.json", folders.vocabulary())
    (folder / "vocab.bpe").write_text(folders.MERGES)


def make_tensors(folder: Path) -> None:
    import tensorlite as tl
    from tensorlite import io as tensors

    kinds = ("float32", "float16", "int64", "bool", "uint8")
    some = {f"x.{kind}": tl.ones((2, 3)).astype(kind) for kind in kinds} | {
        "empty": tl.zeros((0, 3)),
        "0-d": tl.ones(()),
    }
    tensors.save(folder / "x.safetensors", some, {"about": "a test"})


def make_tokenizers(folder: Path) -> None:
    from gpt.tokenizer import BPETokenizer, CharTokenizer, WordTokenizer

    text = "the cat sat on the mat, the cat sat"
    BPETokenizer.train(text, 265).save(folder / "bpe.json")
    CharTokenizer("abc é", ["<|endoftext|>"]).save(folder / "char.json")
    WordTokenizer.train(text, unknown=True).save(folder / "word.json")


def make_labelled(folder: Path) -> None:
    rows = [("ham", 'one "two", three'), ("spam", "four; five\u2028six"), ("ham", "seven"), ("spam", "é")]
    objects = [{"label": label, "text": text} for label, text in rows]
    save_json(folder / "a.json", objects)
    (folder / "b.jsonl").write_text("".join(json.dumps(each) + "\n" for each in objects), encoding="utf-8")
    (folder / "c.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in rows), encoding="utf-8")
    with open(folder / "d.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("label", "text"), *rows])


def make_entries(folder: Path) -> None:
    entries = [
        {"instruction": f"do {i}", "input": "é" * i, "output": "done", "model 1 response": "x"} for i in range(4)
    ]
    save_json(folder / "a.json", entries)
    (folder / "b.jsonl").write_text("".join(json.dumps(each) + "\n" for each in entries), encoding="utf-8")


def make_tokens(folder: Path) -> None:
    from tensorlite.data import write_tokens

    write_tokens(folder / "a.tokens", range(100), 100)
    write_tokens(folder / "b.tokens", [70000, 1, 2], 70001)


def make_texts(folder: Path) -> None:
    (folder / "a.txt").write_text("one\r\ntwo é\n", encoding="utf-8-sig", newline="")
    lines = [{"step": 0, "validation_loss": 2.5}, {"step": 1, "loss": 2.0, "lr": 1e-3, "validation_loss": 2.0}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


# ----- reading them -----------------------------------------------------------------------------------------------


def read_run(folder: Path) -> None:
    from gpt import checkpoint

    checkpoint.load_model(folder / "run")


def read_bare(folder: Path) -> None:
    from gpt import checkpoint

    checkpoint.load_model(folder)


def some_model() -> Any:
    import tensorlite as tl
    from gpt.config import GPTConfig
    from gpt.model import GPT

    tl.manual_seed(0)
    return GPT(GPTConfig(vocab_size=9, context_length=4, n_layer=1, n_head=1, n_embd=4))


def make_adapter(folder: Path) -> None:
    from gpt import lora

    model = some_model()
    lora.apply(model, rank=2, targets=("attention",))
    lora.save(model, folder / "adapter.safetensors")


def read_adapter(folder: Path) -> None:
    from gpt import lora

    lora.load(some_model(), folder / "adapter.safetensors")


def read_classifier(folder: Path) -> None:
    from gpt import classify

    classify.classify(classify.load(folder / "run"), ["a bottle"])


def read_weights(folder: Path) -> None:
    from gpt import pretrained

    model = pretrained.load(folder)
    pretrained.load_tokenizer(folder, model.config.vocab_size)


def read_release(folder: Path) -> None:
    """Checksums are taken to agree: anybody can compute them."""
    from gpt.pretrained import bundle

    bundle._masked = lambda crc: AnyNumber()
    read_weights(folder)


class AnyNumber:
    def __ne__(self, other: object) -> bool:
        return False


def read_tensors(folder: Path) -> None:
    from tensorlite import io as tensors

    tensors.metadata(folder / "x.safetensors")
    tensors.load(folder / "x.safetensors")


def each_file(read: Callable[[Path], Any]) -> Callable[[Path], None]:
    """A reader of a folder whose files are read one by one: an error of one does not hide that of another."""

    def read_all(folder: Path) -> None:
        errors = []
        for path in sorted(folder.iterdir()):
            try:
                read(path)
            except ALLOWED as error:
                check(error)
                errors.append(error)
        if errors:
            raise errors[0]

    return read_all


def read_tokenizer(path: Path) -> None:
    from gpt import tokenizer

    found = tokenizer.load(path)
    assert found.vocab_size == len(found.encode("") or range(found.vocab_size))


def read_labelled(path: Path) -> None:
    from gpt import labelled

    labelled.read(path)


def read_entries(path: Path) -> None:
    from gpt.instruct import read_entries

    read_entries(path)


def read_tokens(path: Path) -> None:
    from tensorlite.data import TokenFile

    TokenFile(path)


def read_texts(path: Path) -> None:
    from gpt import corpus, plots

    plots.read_metrics(path) if path.suffix == ".jsonl" else corpus.read_text(path)


def read_reply(path: Path) -> None:
    """What a judge's server sends."""
    from gpt import judge

    with contextlib.suppress(judge.NoAnswer):
        judge.said(path.read_bytes().splitlines()).encode("utf-8")


def make_reply(folder: Path) -> None:
    parts = [{"message": {"content": "8"}, "done": False}, {"message": {"content": "5"}, "done": True}]
    (folder / "reply.jsonl").write_text("".join(json.dumps(each) + "\n" for each in parts), encoding="utf-8")


def seal_run(folder: Path) -> None:
    """Sizes and SHA-256 of the manifests are those of the changed files."""
    from gpt import checkpoint

    for path in folder.glob("run/checkpoints/step_*/manifest.json"):
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            manifest["files"] = {name: checkpoint.fingerprint(path.parent / name) for name in manifest["files"]}
            checkpoint.write_json(path, manifest)
        except (ValueError, LookupError, TypeError, AttributeError, OSError, RecursionError):
            pass  # the case changed the manifest itself


TARGETS = {
    "run": Target(make_run, read_run, seal_run),
    "bare": Target(make_bare, read_bare),
    "adapted": Target(make_adapted, read_run, seal_run),
    "adapter": Target(make_adapter, read_adapter),
    "classifier": Target(make_classifier, read_classifier, seal_run),
    "hugging-face": Target(make_hugging_face, read_weights),
    "shards": Target(make_shards, read_weights),
    "release": Target(make_release, read_release),
    "tensors": Target(make_tensors, read_tensors),
    "tokenizers": Target(make_tokenizers, each_file(read_tokenizer)),
    "labelled": Target(make_labelled, each_file(read_labelled)),
    "entries": Target(make_entries, each_file(read_entries)),
    "tokens": Target(make_tokens, each_file(read_tokens)),
    "texts": Target(make_texts, each_file(read_texts)),
    "reply": Target(make_reply, each_file(read_reply)),
}

# ----- changes ----------------------------------------------------------------------------------------------------

DEEP = "@deep@"  # stands for a list that nests 100,000 times, HUGE for an integer of 400 digits
HUGE = "@huge@"
ODD: tuple[Any, ...] = (
    0, 1, -1, 2, 255, 2**31, 2**32, 2**63, 2**64, 10**9, 10**18, -(2**63), HUGE, 0.5, -0.0, 1e308, float("nan"),
    float("inf"), True, False, None, "", "a", "x" * 5000, "\ud800", "\0", "\x1b[31m", "a\nb", "\u2028", "1" * 5000,
    "../../victim", "/etc/passwd", "..", [], {}, [[]], [0], [None], ["a"], {"a": 1}, {"": {}}, [10**9] * 9, DEEP,
)  # fmt: skip


class Choices:
    """Decisions, read from a string of bytes; when it has ended, all are 0."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def below(self, n: int) -> int:
        size = 1 if n <= 256 else 3
        value = int.from_bytes(self.data[self.at : self.at + size], "little")
        self.at += size
        return value % max(n, 1)

    def of(self, items: Any) -> Any:
        return items[self.below(len(items))]


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) inside a JSON value."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        for key in list(each) if isinstance(each, dict) else range(len(each)):
            yield each, key
            if isinstance(each[key], dict | list):
                waiting.append(each[key])


def change_value(choices: Choices, value: Any) -> Any:
    """A JSON value with one place in it changed, taken away, given another name or added."""
    found = list(places(value)) if isinstance(value, dict | list) else []
    if not found:
        return choices.of(ODD)
    # Few places near the top decide more than the many items of a long list.
    container, key = found[choices.below(min(len(found), 40) if choices.below(3) else len(found))]
    what = choices.below(8)
    if what == 0:
        del container[key]
    elif what == 1 and isinstance(container, dict):
        container[choices.of(ODD[21:])] = container.pop(key) if choices.below(2) else choices.of(ODD)
    elif what == 2 and isinstance(container, list):
        container += [container[key]] * (1 + choices.below(3))
    elif what == 3 and isinstance(container[key], int | float):
        container[key] = container[key] * choices.of((-1, 2, 3, 10**6)) + choices.of((-1, 0, 1))
    elif what == 4 and choices.below(4) == 0:
        return choices.of(ODD)
    elif what == 5:
        other, name = found[choices.below(len(found))]
        container[key] = other[name]
        if what and isinstance(container[key], dict | list):
            container[key] = json.loads(json.dumps(container[key]))  # no cycles
    else:
        container[key] = choices.of(ODD)
    return value


def dump(value: Any) -> bytes:
    text = json.dumps(value, default=str, ensure_ascii=True, skipkeys=True)
    return text.replace(f'"{DEEP}"', "[" * 100_000 + "]" * 100_000).replace(f'"{HUGE}"', "9" * 400).encode()


def change_bytes(choices: Choices, data: bytes) -> bytes:
    begin = choices.below(len(data) + 1)
    end = min(len(data), begin + choices.of((0, 1, 1, 2, 4, 8, 100)))
    odd = (
        b"", b"\0", b"\xff", b"\xff" * 8, b"\x80" * 20, b"\xff\xff\xff\xff\xff\xff\xff\x7f", b"\n", b"\r", b"\t", b'"',
        b",", b"[" * 100_000, b"9" * 5000, b"\xed\xa0\x80", "\u2028".encode(), bytes(1000), data[begin:end] * 3,
        bytes([choices.below(256)]), b" ", b"{", data[:200],
    )  # fmt: skip
    return data[:begin] + choices.of(odd) + data[end:]


def change_file(choices: Choices, name: str, data: bytes) -> bytes:
    how = choices.below(8)
    try:
        if name.endswith(".safetensors") and how < 6:
            size = struct.unpack("<Q", data[:8])[0]
            header = dump(change_value(choices, json.loads(data[8 : 8 + size])))
            return struct.pack("<Q", len(header)) + header + data[8 + size :]
        if name.endswith(".json") and how < 6:
            return dump(change_value(choices, json.loads(data)))
        if name.endswith(".jsonl") and how < 6:
            lines = [json.loads(line) for line in data.splitlines()]
            return b"\n".join(map(dump, change_value(choices, lines)))
    except (ValueError, TypeError, LookupError, struct.error, RecursionError, OverflowError):
        pass  # an earlier change has left nothing to parse
    return change_bytes(choices, data)


def remove(path: Path) -> None:
    path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def change(choices: Choices, folder: Path, names: list[str]) -> None:
    """One to three changes to the files in `folder`."""
    for _ in range(1 + max(0, choices.below(8) - 5)):
        name, how = choices.of(names), choices.below(32)
        path = folder / name
        if how == 0:
            remove(path)
            os.symlink(choices.of(("../victim", "../../../../victim", name, "/dev/null", "nowhere")), path)
        elif how == 1:
            remove(path)
            if choices.below(2):
                path.mkdir()
        elif path.is_file() and not path.is_symlink():
            path.write_bytes(change_file(choices, name, path.read_bytes()))


# ----- cases ------------------------------------------------------------------------------------------------------


class TooLong(BaseException):
    """A case has used its processor time."""


def check(error: Exception) -> None:
    """Whether an error says in a bounded sentence what is wrong."""
    assert isinstance(error, ALLOWED), "an error that is not documented"
    assert type(error) not in RAW, "an error that does not say which file"
    assert len(str(error)) <= LONGEST, f"a message of {len(str(error)):,} characters"


class Fuzz:
    """The good files of a target in memory, and what its cases have shown."""

    def __init__(self, name: str):
        self.name, self.target = name, TARGETS[name]
        self.root = Path(tempfile.mkdtemp(prefix="fuzz-"))
        self.folder = self.root / "folder"
        self.folder.mkdir()
        (self.root / "victim").write_text(VICTIM)
        self.target.make(self.folder)
        self.good = {str(p.relative_to(self.folder)): p.read_bytes() for p in self.folder.rglob("*") if p.is_file()}
        self.target.read(self.folder)  # the good files can be read
        self.cases, self.refused, self.finds, self.begun = 0, 0, {}, time.process_time()
        signal.signal(signal.SIGPROF, self.stop)
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, resource.RLIM_INFINITY))

    @staticmethod
    def stop(*_: object) -> None:
        raise TooLong

    def write(self, case: bytes) -> None:
        """The folder of a case."""
        shutil.rmtree(self.folder)
        for name, data in self.good.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        choices = Choices(case)
        change(choices, self.folder, sorted(self.good))
        if choices.below(8):
            self.target.seal(self.folder)

    def run(self, case: bytes) -> None:
        """Read what a case makes of the folder, and check all that must hold."""
        self.write(case)
        self.cases += 1
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            self.target.read(self.folder)
        except ALLOWED as error:
            check(error)
            self.refused += 1
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        assert sorted(p.name for p in self.root.iterdir()) == ["folder", "victim"], "a file outside the folder"
        assert (self.root / "victim").read_text() == VICTIM, "a file outside the folder was changed"

    def __call__(self, case: bytes) -> None:
        """Run a case and note what it finds: one of each kind of error and place."""
        try:
            self.run(bytes(case))
        except (Exception, TooLong) as error:
            cause = error.__context__ if isinstance(error, AssertionError) and error.__context__ else error
            ours = [f for f in traceback.extract_tb(cause.__traceback__) if "/tests/" not in f.filename]
            frames = [f for f in ours if "/gpt/" in f.filename or "/tensorlite/" in f.filename]
            where = f"{'/'.join(Path(frames[-1].filename).parts[-2:])}:{frames[-1].lineno}" if frames else "?"
            what = f"{type(cause).__name__} at {where}: {error!s:.200}"
            if (key := (type(cause).__name__, where)) not in self.finds:
                self.finds[key] = f"{what}\n    --target {self.name} --case {bytes(case[:400]).hex()}"
                print(self.finds[key], flush=True)

    def summary(self, how: str) -> None:
        print(
            f"{self.name:12} {self.cases:7,} cases {how}, {self.refused:7,} refused, {len(self.finds)} finds, "
            f"{(time.process_time() - self.begun) / 60:.1f} CPU minutes",
            flush=True,
        )
        shutil.rmtree(self.root)


def drawn(name: str, cases: int, seconds: float, seed: int) -> int:
    """Cases drawn from a seed; how many finds there are."""
    fuzz, draw, end = Fuzz(name), random.Random(f"{name} {seed}"), time.process_time() + seconds
    while fuzz.cases < cases and time.process_time() < end:
        fuzz(draw.randbytes(draw.choice(LENGTHS)))
    fuzz.summary("drawn from a seed")
    return len(fuzz.finds)


def guided(name: str, seconds: float) -> None:
    """Cases that atheris makes of those that reached new code."""
    import atheris

    sys.modules["numba"] = None  # type: ignore[assignment]  # it cannot compile what is instrumented
    with atheris.instrument_imports(include=["gpt", "tensorlite"]):
        fuzz = Fuzz(name)

    end = time.process_time() + seconds

    def one(data: bytes) -> None:
        fuzz(data)
        if time.process_time() > end:
            fuzz.summary("guided by coverage")
            os._exit(bool(fuzz.finds))

    corpus, draw = tempfile.mkdtemp(prefix="fuzz-corpus-"), random.Random(name)
    for i in range(200):
        (Path(corpus) / str(i)).write_bytes(draw.randbytes(draw.choice(LENGTHS)))
    flags = ["-max_len=200", "-len_control=0", "-rss_limit_mb=0", "-malloc_limit_mb=0", "-timeout=600", "-verbosity=0"]
    atheris.Setup([sys.argv[0], corpus, *flags], one)
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=0, help="CPU minutes, shared by all targets")
    parser.add_argument("--cases", type=int, default=1 << 60, help="cases of each target")
    parser.add_argument("--target", choices=TARGETS, help="this target alone")
    parser.add_argument("--case", type=bytes.fromhex, help="this case alone, with its traceback")
    parser.add_argument("--random", action="store_true", help="draw cases from the seed, also where atheris is")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent / "gpt"))
    names = [args.target] if args.target else list(TARGETS)
    seconds = 60 * args.minutes / len(names) or 1e9
    if args.case is not None:
        Fuzz(names[0]).run(args.case)
    elif args.random or not importlib.util.find_spec("atheris"):
        return bool(sum([drawn(name, args.cases, seconds, args.seed) for name in names]))
    elif args.target:
        guided(args.target, seconds)
    else:  # a process for each: atheris ends it
        command = [sys.executable, "-m", "tests.fuzz", "--minutes", str(seconds / 60), "--target"]
        return max([subprocess.run([*command, name]).returncode for name in names])
    return 0


if __name__ == "__main__":
    sys.exit(main())
