"""What tests/meta/fuzz.py tries: for each kind of files that others may have made, good ones, and their reader."""

import contextlib
import csv
import io
import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

LONGEST = 20_000  # characters of a message, of which a terminal gets fewer (cli.LONGEST)
ALLOWED = (ValueError, OSError, FloatingPointError)
RAW = (UnicodeError, json.JSONDecodeError, csv.Error)  # ValueErrors that say nothing about the file


class Target(NamedTuple):
    """What is read, and how."""

    make: Callable[[Path], Any]  # writes the good files into an empty folder
    read: Callable[[Path], Any]
    seal: Callable[[Path], Any] = lambda folder: None  # makes checksums agree with the changed files


def check(error: Exception) -> None:
    """Whether an error says in a bounded sentence what is wrong."""
    assert isinstance(error, ALLOWED), "an error that is not documented"
    assert type(error) not in RAW, "an error that does not say which file"
    assert len(str(error)) <= LONGEST, f"a message of {len(str(error)):,} characters"


# ----- the good files ---------------------------------------------------------------------------------------------


def quiet_run(folder: Path, config: Any, task: Any) -> None:
    from rich.console import Console

    from gpt.training import loop as train

    train.train(config, Console(file=io.StringIO()), task)


def pretrained_run(folder: Path, **changes: Any) -> Path:
    """A run of one step; the files that reading a model does not need are left out, so that a case is written fast."""
    from runs import tiny

    from gpt.tasks.pretrain import Pretraining

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
    from gpt.tasks.instruct import InstructConfig, Instructions

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
    from gpt.tasks.classify import Classification, ClassifyConfig

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

    shutil.copytree(Path(__file__).parents[1] / "gpt" / "support" / "release", folder, dirs_exist_ok=True)
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
    from gpt.training import checkpoint

    checkpoint.load_model(folder / "run")


def read_bare(folder: Path) -> None:
    from gpt.training import checkpoint

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
    from gpt.tasks import classify

    classify.predict(classify.load(folder / "run"), ["a bottle"])


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
    from gpt.tasks.classify import data

    data.read(path)


def read_entries(path: Path) -> None:
    from gpt.tasks.instruct import read_entries

    read_entries(path)


def read_tokens(path: Path) -> None:
    from tensorlite.data import TokenFile

    TokenFile(path)


def read_texts(path: Path) -> None:
    from gpt.data import corpus
    from gpt.training import plots

    plots.read_metrics(path) if path.suffix == ".jsonl" else corpus.read_text(path)


def read_reply(path: Path) -> None:
    """What a judge's server sends."""
    from gpt.tasks.instruct import judge

    with contextlib.suppress(judge.NoAnswer):
        judge.read_answer(path.read_bytes().splitlines()).encode("utf-8")


def make_reply(folder: Path) -> None:
    parts = [{"message": {"content": "8"}, "done": False}, {"message": {"content": "5"}, "done": True}]
    (folder / "reply.jsonl").write_text("".join(json.dumps(each) + "\n" for each in parts), encoding="utf-8")


def make_archive(folder: Path) -> None:
    with zipfile.ZipFile(folder / "file.part", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("other", "member", "folder/member"):
            archive.writestr(name, name * 20)


def read_archive(folder: Path) -> None:
    """What a download unpacks."""
    from rich.console import Console

    from gpt.data import download
    from gpt.data.sources import File

    file = File("file", ("http://localhost/",), None, 120, "member")
    with contextlib.suppress(download.Other):
        download.Transfer(file, folder, Console(file=io.StringIO())).unpack()
    (folder / "file.unpacked").unlink(missing_ok=True)


def seal_run(folder: Path) -> None:
    """Sizes and SHA-256 of the manifests are those of the changed files."""
    from gpt.fingerprint import fingerprint
    from gpt.training import checkpoint

    for path in folder.glob("run/checkpoints/step_*/manifest.json"):
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            manifest["files"] = {name: fingerprint(path.parent / name) for name in manifest["files"]}
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
    "archive": Target(make_archive, read_archive),
    "reply": Target(make_reply, each_file(read_reply)),
}
