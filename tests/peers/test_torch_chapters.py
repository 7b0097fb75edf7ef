"""The chapters' scripts beside the book's recipes in torch, from the same weights: every printed number of 26 steps.

The weights are random, in a folder of GPT-2's format with two narrow layers. The model, the loops, the order of random
draws and the prompts in torch are those of the book's chapters 4 to 7 and appendix E.
"""

import csv
import json
import math
import os
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the peer of this test: pip install -e '.[peers]'")
import safetensors.numpy  # noqa: E402

from gpt.tokenizer import gpt2  # noqa: E402

pytestmark = pytest.mark.slow
nn, F = torch.nn, torch.nn.functional
BOOK = Path(__file__).parents[2] / "examples" / "book"
V, C, H, LAYERS = 50257, 32, 2, 2
STEPS, EVERY, END = 26, 5, 50256
PRINTED = 0.0006  # half of the third decimal, and rounding


# ----- the book's model in torch ----------------------------------------------------------------------------------


class Attention(nn.Module):
    def __init__(self, bias, dropout):
        super().__init__()
        self.W_query, self.W_key, self.W_value = (nn.Linear(C, C, bias=bias) for _ in range(3))
        self.out_proj, self.dropout = nn.Linear(C, C), nn.Dropout(dropout)

    def forward(self, x):
        B, T, _ = x.shape
        q, k, v = (f(x).view(B, T, H, C // H).transpose(1, 2) for f in (self.W_query, self.W_key, self.W_value))
        scores = (q @ k.transpose(2, 3)).masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), -torch.inf)
        weights = self.dropout(torch.softmax(scores / (C // H) ** 0.5, dim=-1))
        return self.out_proj((weights @ v).transpose(1, 2).reshape(B, T, C))


class Block(nn.Module):
    def __init__(self, bias, dropout):
        super().__init__()
        self.att = Attention(bias, dropout)
        self.ff = nn.Sequential(nn.Linear(C, 4 * C), nn.GELU(approximate="tanh"), nn.Linear(4 * C, C))
        self.norm1, self.norm2, self.drop = nn.LayerNorm(C), nn.LayerNorm(C), nn.Dropout(dropout)

    def forward(self, x):
        x = x + self.drop(self.att(self.norm1(x)))
        return x + self.drop(self.ff(self.norm2(x)))


class Model(nn.Module):
    def __init__(self, context, bias=False, dropout=0.0):
        super().__init__()
        self.tok_emb, self.pos_emb, self.drop_emb = nn.Embedding(V, C), nn.Embedding(context, C), nn.Dropout(dropout)
        self.trf_blocks = nn.Sequential(*[Block(bias, dropout) for _ in range(LAYERS)])
        self.final_norm, self.out_head = nn.LayerNorm(C), nn.Linear(C, V, bias=False)

    def forward(self, idx, positions=slice(None)):
        x = self.drop_emb(self.tok_emb(idx) + self.pos_emb(torch.arange(idx.shape[1])))
        return self.out_head(self.final_norm(self.trf_blocks(x))[:, positions])


def random_weights():
    """GPT-2's names -> arrays."""
    shapes = {"wte.weight": (V, C), "wpe.weight": (1024, C), "ln_f.weight": (C,), "ln_f.bias": (C,)}
    for i in range(LAYERS):
        for norm in ("ln_1", "ln_2"):
            shapes |= {f"h.{i}.{norm}.weight": (C,), f"h.{i}.{norm}.bias": (C,)}
        for name, a, b in (
            ("attn.c_attn", C, 3 * C), ("attn.c_proj", C, C), ("mlp.c_fc", C, 4 * C), ("mlp.c_proj", 4 * C, C),
        ):  # fmt: skip
            shapes |= {f"h.{i}.{name}.weight": (a, b), f"h.{i}.{name}.bias": (b,)}
    rng = np.random.default_rng(0)
    found = {name: (0.15 * rng.standard_normal(shape)).astype("f4") for name, shape in shapes.items()}
    return {name: x + 1 if "ln" in name and name.endswith("weight") else x for name, x in found.items()}


def loaded(params):
    """The book's model with these weights; the head is a copy of the token embedding that is trained separately."""
    model = Model(1024, bias=True)
    p = {name: torch.tensor(x) for name, x in params.items()}
    with torch.no_grad():
        for module, name, rows in [
            (model.tok_emb, "wte", True), (model.pos_emb, "wpe", True), (model.final_norm, "ln_f", True),
            *[(getattr(b, f"norm{n}"), f"h.{i}.ln_{n}", True) for i, b in enumerate(model.trf_blocks) for n in (1, 2)],
            *[(b.att.out_proj, f"h.{i}.attn.c_proj", False) for i, b in enumerate(model.trf_blocks)],
            *[(b.ff[0], f"h.{i}.mlp.c_fc", False) for i, b in enumerate(model.trf_blocks)],
            *[(b.ff[2], f"h.{i}.mlp.c_proj", False) for i, b in enumerate(model.trf_blocks)],
        ]:  # fmt: skip
            module.weight.copy_(p[f"{name}.weight"] if rows else p[f"{name}.weight"].T)
            if f"{name}.bias" in p:
                module.bias.copy_(p[f"{name}.bias"])
        for i, block in enumerate(model.trf_blocks):
            parts = (block.att.W_query, block.att.W_key, block.att.W_value)
            for part, w, b in zip(
                parts, p[f"h.{i}.attn.c_attn.weight"].chunk(3, 1), p[f"h.{i}.attn.c_attn.bias"].chunk(3), strict=True
            ):
                part.weight.copy_(w.T)
                part.bias.copy_(b)
        model.out_head.weight.copy_(p["wte.weight"])
    return model


def continued(model, ids, tokens, context, temperature=0.0, top_k=None, stop=None):
    """The book's generate: `ids` and what follows."""
    idx = torch.tensor([ids])
    for _ in range(tokens):
        with torch.no_grad():
            logits = model(idx[:, -context:], slice(-1, None))[:, -1]  # the head of one position: V is large
        if top_k is not None:
            logits = torch.where(logits < logits.topk(top_k)[0][:, -1:], -torch.inf, logits)
        if temperature > 0:
            new = torch.multinomial(torch.softmax(logits / temperature, dim=-1), 1)
        else:
            new = logits.argmax(dim=-1, keepdim=True)
        if new.item() == stop:
            break
        idx = torch.cat([idx, new], dim=1)
    return idx[0].tolist()


def token_loss(model, x, y):
    return F.cross_entropy(model(x).flatten(0, 1), y.flatten())


def label_loss(model, x, y):
    return F.cross_entropy(model(x)[:, -1], y)


def mean_loss(loss, model, loader, batches=None):
    with torch.no_grad():
        found = [loss(model, x, y).item() for x, y in islice(loader, batches)]
    return sum(found) / len(found)


def accuracy(model, loader, batches=None):
    """Percent."""
    model.eval()
    with torch.no_grad():
        right = [(model(x)[:, -1].argmax(dim=-1) == y) for x, y in islice(loader, batches)]
    return 100 * torch.cat(right).float().mean().item()


def train(loss, model, optimizer, loaders, every=EVERY, each_epoch=lambda: None):
    """The rows of the log: [step, training loss, validation loss]."""
    rows, step = [], -1
    while True:
        model.train()
        for x, y in loaders["train"]:
            optimizer.zero_grad()
            loss(model, x, y).backward()
            optimizer.step()
            step += 1
            if step % every == 0:
                model.eval()
                rows.append([step, *[mean_loss(loss, model, loaders[part], 5) for part in ("train", "validation")]])
                model.train()
            if step == STEPS - 1:
                return rows
        each_epoch()


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """With more of them, tests that run side by side wait in turns."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# ----- the scripts ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights():
    return random_weights()


@pytest.fixture(scope="module")
def folder(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("gpt2")
    safetensors.numpy.save_file(weights, path / "model.safetensors")
    sizes = {"vocab_size": V, "n_positions": 1024, "n_embd": C, "n_layer": LAYERS, "n_head": H}
    (path / "config.json").write_text(json.dumps({"model_type": "gpt2", **sizes}))
    return path


@pytest.fixture(scope="module")
def tokenizer(data_dir):
    return gpt2(data_dir)


def script(chapter, data, *flags):
    """What a chapter's script prints."""
    environment = os.environ | {
        "PYTHONPATH": f"{BOOK.parents[1]}{os.pathsep}{BOOK}", "PYTHONIOENCODING": "utf-8", "OPENBLAS_NUM_THREADS": "1",
        "TENSORLITE_DATA": str(data),
    }  # fmt: skip
    command = [sys.executable, str(BOOK / f"{chapter}.py"), "--threads", "1", "--steps", str(STEPS), *map(str, flags)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, timeout=1800)
    assert done.returncode == 0, done.stderr
    return done.stdout


def numbers(text, name):
    """The numbers behind `name` in the one line that has it."""
    (line,) = [line for line in text.splitlines() if line.strip().startswith(f"{name}: ")]
    return [float(x) for x in re.findall(r"-?\d+\.\d+(?:e-?\d+)?", line.rpartition(f"{name}: ")[2])]


def rows_of(text):
    """[step, training loss, validation loss] of each row of a log."""
    found = re.findall(r"\(Step (\d{6})\): Train loss, Val loss: \[?([\d.]+),? ([\d.]+)", text)
    return [[int(step), float(a), float(b)] for step, a, b in found]


def close(ours, theirs, within=PRINTED):
    assert [row[0] for row in ours] == [row[0] for row in theirs]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=within)
    assert abs(theirs[0][1] - theirs[-1][1]) > 5 * within  # otherwise the steps would not be compared


def windows(ids, T=256):
    return [(torch.tensor(ids[i : i + T]), torch.tensor(ids[i + 1 : i + T + 1])) for i in range(0, len(ids) - T, T)]


def loader(items, size, shuffle, collate=None):
    return torch.utils.data.DataLoader(items, size, shuffle=shuffle, drop_last=shuffle, collate_fn=collate)


def test_chapter_5(data_dir, tokenizer, folder, weights, tmp_path):
    text = script("ch05", data_dir, "--small", "--gpt2", folder, "--out", tmp_path)
    story = (data_dir / "the-verdict.txt").read_text(encoding="utf-8")
    cut = int(0.9 * len(story))
    loaders = {
        "train": loader(windows(tokenizer.encode(story[:cut])), 2, True),
        "validation": loader(windows(tokenizer.encode(story[cut:])), 2, False),
    }
    torch.manual_seed(123)
    model = Model(256, dropout=0.1).eval()
    torch.manual_seed(123)
    for part, name in (("train", "training"), ("validation", "validation")):
        expected = mean_loss(token_loss, model, loaders[part])
        assert numbers(text, f"{name} loss before training") == pytest.approx([expected], abs=1e-5)
    start, samples = tokenizer.encode("Every effort moves you"), []

    def sample():
        model.eval()
        samples.append(tokenizer.decode(continued(model, start, 50, 256)).replace("\n", " "))

    torch.manual_seed(123)
    model = Model(256, dropout=0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-4, weight_decay=0.1)
    rows = train(token_loss, model, optimizer, loaders, each_epoch=sample)
    assert len(rows) == 6
    close(rows_of(text), rows, 1e-4)
    assert re.findall(r"sample of epoch \d+: (.*)", text) == samples
    # GPT-2's weights: a drawn text, and the losses on the story
    model = loaded(weights).eval()
    torch.manual_seed(123)
    drawn = tokenizer.decode(continued(model, start, 25, 1024, temperature=1.5, top_k=50))
    torch.manual_seed(123)
    losses = [mean_loss(token_loss, model, loaders[part]) for part in loaders]
    *_, found = re.findall(r"^\[([\d.]+), ([\d.]+)\]$", text, re.MULTILINE)
    assert [float(x) for x in found] == pytest.approx(losses, abs=1e-4)
    assert f"\n{drawn}\n[" in text


@pytest.fixture(scope="module")
def spam(data_dir, tokenizer):
    """The loaders of chapter 6."""
    with (data_dir / "SMSSpamCollection").open(encoding="utf-8", newline="") as file:
        rows = [row[:2] for row in csv.reader(file, delimiter="\t")]
    ham, spam = ([row for row in rows if row[0] == label] for label in ("ham", "spam"))
    balanced = [*[ham[i] for i in np.random.RandomState(123).choice(len(ham), len(spam), replace=False)], *spam]
    mixed = [balanced[i] for i in np.random.RandomState(123).permutation(len(balanced))]
    encoded = [(tokenizer.encode(text)[:120], int(label == "spam")) for label, text in mixed]
    items = [(torch.tensor(ids + [END] * (120 - len(ids))), label) for ids, label in encoded]
    return {
        "train": loader(items[:1045], 8, True),
        "validation": loader(items[1045:1194], 8, False),
        "test": loader(items[1194:], 8, False),
    }


def classifier(weights):
    model = loaded(weights).requires_grad_(False)
    torch.manual_seed(123)
    model.out_head = nn.Linear(C, 2)
    return model


def test_chapter_6(data_dir, folder, weights, spam, tmp_path):
    text = script("ch06", data_dir, "--gpt2", folder, "--every", EVERY, "--no-variants", "--out", tmp_path)
    model = classifier(weights)
    model.trf_blocks[-1].requires_grad_(True)
    model.final_norm.requires_grad_(True)
    torch.manual_seed(123)
    before = [accuracy(model, part, 10) for part in spam.values()]
    assert numbers(text, "accuracy before, %") == pytest.approx(before, abs=PRINTED)
    losses = [mean_loss(label_loss, model, part, 5) for part in spam.values()]
    assert numbers(text, "loss before") == pytest.approx(losses, abs=PRINTED)
    torch.manual_seed(123)
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=5e-5, weight_decay=0.1)
    close(rows_of(text), train(label_loss, model, optimizer, spam))
    after = [accuracy(model, part) for part in spam.values()]
    assert numbers(text, "accuracy, %") == pytest.approx(after, abs=PRINTED)


class LinearWithLoRA(nn.Module):
    def __init__(self, linear, rank, factor):
        super().__init__()
        self.linear, self.factor = linear, factor
        self.A = nn.Parameter(torch.empty(linear.in_features, rank))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.B = nn.Parameter(torch.zeros(rank, linear.out_features))

    def forward(self, x):
        return self.linear(x) + self.factor * (x @ self.A @ self.B)


def with_lora(model, rank, factor):
    for name, child in model.named_children():
        if isinstance(child, nn.Linear):
            setattr(model, name, LinearWithLoRA(child, rank, factor))
        else:
            with_lora(child, rank, factor)


@pytest.mark.parametrize(("recipe", "factor", "rate"), [("page", 16, 5e-5), ("repository", 1, 8e-4)])
def test_appendix_e(data_dir, folder, weights, spam, tmp_path, recipe, factor, rate):
    text = script("appendix_e", data_dir, "--gpt2", folder, "--every", EVERY, "--recipe", recipe, "--out", tmp_path)
    model = classifier(weights).requires_grad_(False)
    torch.manual_seed(123)
    before = [accuracy(model, part, 10) for part in spam.values()]
    with_lora(model, 16, factor)
    assert numbers(text, "accuracy before, %") == pytest.approx(before, abs=PRINTED)
    torch.manual_seed(123)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate, weight_decay=0.1)
    close(rows_of(text), train(label_loss, model, optimizer, spam))
    after = [accuracy(model, part) for part in spam.values()]
    assert numbers(text, "accuracy after, training, validation, test, %") == pytest.approx(after, abs=PRINTED)


def prompt(entry):
    about = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    given = f"\n\n### Input:\n{entry['input']}" if entry["input"] else ""
    return f"{about}\n\n### Instruction:\n{entry['instruction']}{given}"


def collate(batch):
    """The book's custom_collate_fn."""
    longest = max(len(item) + 1 for item in batch)
    inputs, targets = [], []
    for item in batch:
        padded = torch.tensor(item + [END] * (longest - len(item)))
        target = padded[1:].clone()
        pads = torch.nonzero(target == END).squeeze(1)
        target[pads[1:]] = -100
        inputs.append(padded[:-1])
        targets.append(target)
    return torch.stack(inputs), torch.stack(targets)


def test_chapter_7(data_dir, folder, weights, tokenizer, tmp_path):
    text = script("ch07", data_dir, "--gpt2", folder, "--every", EVERY, "--answers", 2, "--out", tmp_path)
    entries = json.loads((data_dir / "instruction-data.json").read_text(encoding="utf-8"))
    parts = {"train": entries[:935], "test": entries[935:1045], "validation": entries[1045:]}
    loaders = {}
    for name, part in parts.items():
        texts = [tokenizer.encode(f"{prompt(entry)}\n\n### Response:\n{entry['output']}") for entry in part]
        loaders[name] = loader(texts, 8, name == "train", collate)
    model = loaded(weights).eval()
    asked = tokenizer.encode(prompt(parts["validation"][0]))
    before = tokenizer.decode(continued(model, asked, 35, 1024, stop=END)[len(asked) :]).strip()
    assert f"   before training: {before!r}\n" in text
    torch.manual_seed(123)
    losses = [mean_loss(token_loss, model, loaders[part], 5) for part in ("train", "validation")]
    assert numbers(text, "loss before, training and validation") == pytest.approx(losses, abs=PRINTED)
    torch.manual_seed(123)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.1)
    rows = train(token_loss, model, optimizer, loaders)
    close(rows_of(text)[: len(rows)], rows)
    model.eval()
    for entry, saved in zip(parts["test"], json.loads((tmp_path / "responses.json").read_text("utf-8")), strict=False):
        start = prompt(entry)
        whole = tokenizer.decode(continued(model, tokenizer.encode(start), 256, 1024, stop=END))
        assert saved["model_response"] == whole[len(start) :].replace("### Response:", "").strip()
