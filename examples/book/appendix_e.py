# %% [markdown]
# # Appendix E: LoRA
#
# A large model is frozen, and each of its Linear layers gets two narrow matrices that are trained: x A B, of rank 16
# say. That is a fiftieth of the parameters, the gradients and AdamW's state, and a small file to save.
#
#     python examples/book/appendix_e.py                  # counts of the page's model; training of a small one
#     python examples/book/appendix_e.py --gpt2 gpt2      # the page's run
#     python examples/book/appendix_e.py --gpt2 gpt2 --recipe repository    # the repository's since September 2025

# %% tags=["parameters"]
# Settings. In a notebook change them here; as a script, each is a flag: --recipe repository.
GPT2: str | None = None  # GPT-2's weights: a folder, or a name to download, gpt2 to gpt2-xl
RECIPE = "page"  # or "repository": the factor of the correction, and the learning rate
STEPS = 650  # updates of the weights: five epochs of 130
EVERY = 50  # updates from one row of the log to the next
THREADS = 2  # for large operations
OUT: str | None = None  # folder for the adapter; default: tensorlite-book, in the folder for temporary files

# %%
import math
from dataclasses import replace
from pathlib import Path

import page
from page import same

import tensorlite as tl
from gpt import lora, pretrained
from gpt.config import PRESETS, GPTConfig
from gpt.data.download import fetch_model
from gpt.tasks.classify import Classifier, data
from gpt.tasks.classify.batches import Padding, Row, encode
from tensorlite import functional as F
from tensorlite import nn, optim
from tensorlite.data import DataLoader
from tensorlite.devices import machine

page.flags(globals())
out = page.folder(OUT)
print(machine.set_threads(THREADS))

# %% [markdown]
# ## E.1 The idea in numbers
#
# Training changes a matrix W of 768 x 768 by a matrix of the same size. LoRA replaces this change by a product of two
# narrow ones: 768 x 16 and 16 x 768. B starts at zero, so that the model at first computes the same as before. A is
# uniform within 1 / sqrt(rank), which is torch's `kaiming_uniform_(A, a=math.sqrt(5))`.


# %%
class LoRALayer(nn.Module):
    """alpha x A B: (..., in_dim) -> (..., out_dim)."""

    def __init__(self, in_dim: int, out_dim: int, rank: int, alpha: float):
        bound = 1 / math.sqrt(rank)
        self.A = nn.Parameter((tl.rand(in_dim, rank) * 2 - 1) * bound)
        self.B = nn.Parameter(tl.zeros((rank, out_dim)))
        self.alpha = alpha

    def forward(self, x: tl.Tensor) -> tl.Tensor:
        return self.alpha * (x @ self.A @ self.B)


class LinearWithLoRA(nn.Module):
    """A Linear and a correction to it."""

    def __init__(self, linear: nn.Linear, rank: int, alpha: float):
        self.linear = linear
        self.lora = LoRALayer(linear.in_features, linear.out_features, rank, alpha)

    def forward(self, x: tl.Tensor) -> tl.Tensor:
        return self.linear(x) + self.lora(x)


linear, x = nn.Linear(768, 768), tl.rand(2, 768)
tl.manual_seed(123)
ours = LinearWithLoRA(linear, rank=16, alpha=16)
tl.manual_seed(123)
theirs = lora.LoRALinear(linear, rank=16, alpha=256)  # adds alpha / rank times A B, here 16 times
assert ours(x).tolist() == linear(x).tolist()
same("LoRALinear, A", ours.lora.A, theirs.lora_A, within=1e-6)
ours.lora.B = nn.Parameter(tl.randn(16, 768))
theirs.lora_B = nn.Parameter(ours.lora.B.detach().clone())
same("LoRALinear, its result", ours(x), theirs(x), within=1e-5)
print(f"{linear.num_parameters():,} parameters, beside them {ours.lora.num_parameters():,}")

# %% [markdown]
# ## E.4 In the classifier
#
# Chapter 6's model. All of it is frozen, and every Linear, including the head, is replaced by one with a pair of
# matrices. `lora.apply` does both.


# %%
def replace_linear_with_lora(model: nn.Module, rank: int, alpha: float) -> None:
    for name, child in list(model.children()):
        if isinstance(child, nn.Linear):
            setattr(model, name, LinearWithLoRA(child, rank, alpha))
        else:
            replace_linear_with_lora(child, rank, alpha)


def tiny() -> Classifier:
    """A small frozen classifier, always with the same weights; then the seed that the matrices A are drawn from."""
    tl.manual_seed(0)
    model = Classifier(GPTConfig(vocab_size=50, context_length=8, n_layer=2, n_head=2, n_embd=32), 2, "last").eval()
    for p in model.parameters():
        p.requires_grad = False
    tl.manual_seed(123)
    return model


ours, theirs = tiny(), tiny()
tl.manual_seed(123)
replace_linear_with_lora(ours, rank=4, alpha=4)
tl.manual_seed(123)
lora.apply(theirs, rank=4, alpha=16)
learning = [p for p in ours.parameters() if p.requires_grad]
compared = lora.trainable(theirs)
same("apply, what learns", learning, compared, within=1e-6)
for mine, library in zip(learning, compared, strict=True):  # B is zero at first
    mine.data[...] = library.data[...] = tl.randn(*mine.shape).data
ids = tl.tensor([[1, 2, 3, 4, 5, 6, 7, 8]])
same("apply, scores", ours(ids, [8]), theirs(ids, [8]), within=1e-5)

# %%
tl.manual_seed(123)
with nn.skip_init():  # only counted
    whole = Classifier(replace(PRESETS["gpt2"], init="torch"), 2, "last")
page.compare("parameters", whole.num_parameters(), "124,441,346")
for p in whole.parameters():
    p.requires_grad = False
page.compare("that learn, all frozen", sum(p.size for p in whole.parameters() if p.requires_grad), "0")
adapted = lora.apply(whole, rank=16, alpha=16)
page.compare("that learn, with LoRA", sum(p.size for p in lora.trainable(whole)), "2,666,528")
print(f"{len(adapted)} Linears, among them {adapted[0]} and {adapted[-1]}")
del whole

# %% [markdown]
# ## Two recipes
#
# The page adds alpha A B with alpha 16 and takes chapter 6's learning rate, 5e-5. The repository, since September 2025,
# adds (alpha / rank) A B as Hu et al. do, a sixteenth of that, and takes a rate 16 times as large, 8e-4. Adam's steps
# have the size of the rate, independent of the gradient's size; so both change the correction about equally. One factor
# without the other learns 16 times too slowly. `gpt finetune classify --layers lora` takes the second.

# %%
RECIPES = {"page": (16 * 16, 5e-5), "repository": (16, 8e-4)}  # alpha of our alpha / rank, and the learning rate
ALPHA, RATE = RECIPES[RECIPE]

# %% [markdown]
# ## Training
#
# Data and loop are those of chapter 6. Without GPT-2's weights, a small model with random weights is
# adapted, at a higher rate. That is not LoRA's purpose: a frozen model with random weights gives the narrow matrices
# few useful features. It is still enough to see that they are trained and the rest is not.

# %%
tokenizer = page.tokenizer()
parts = data.split(data.balanced(data.read(page.data("spam")), seed=123), seed=123)
LABELS = ["ham", "spam"]
longest = max(len(tokenizer.encode(entry.text)) for entry in parts["train"])
padding = Padding(tokenizer.special_tokens["<|endoftext|>"], longest, matters=True)
loaders = {
    part: DataLoader(
        [Row(encode(tokenizer, entry.text, longest), LABELS.index(entry.label)) for entry in entries],
        batch_size=8, shuffle=part == "train", drop_last=part == "train", collate=padding.batch,
    )
    for part, entries in parts.items()
}  # fmt: skip

if GPT2:
    folder = Path(GPT2)
    base = pretrained.load(folder if folder.is_dir() else fetch_model(GPT2))
    model = Classifier(base.config.with_dropout(0.0), len(LABELS), "last")
    model.body.load_state_dict(base.state_dict())
    tl.manual_seed(123)
    model.head = nn.Linear(model.config.n_embd, len(LABELS))
else:
    print("no --gpt2: a small model with random weights")
    tl.manual_seed(123)
    small = GPTConfig(vocab_size=50257, context_length=longest, n_layer=2, n_head=4, n_embd=64)
    model = Classifier(small, len(LABELS), "last")


def compare(name: str, ours, theirs: str) -> None:
    """page.compare, if the model and the number of steps are the page's: the smallest GPT-2."""
    if GPT2 and model.config.n_layer == 12 and STEPS == 650:
        page.compare(name, ours, theirs, "page" if RECIPE == "page" else "notebook")
    else:
        print(f"   {name}: {' '.join(f'{value:.3f}' for value in page.flatten(ours))}")


def calc_loss_loader(loader: DataLoader, model: Classifier, num_batches: int) -> float:
    """The mean loss of the first batches, without dropout."""
    model.eval()
    wanted = min(num_batches, len(loader))
    total = 0.0
    with tl.no_grad():
        for i, (idx, lengths, labels) in enumerate(loader):
            if i == wanted:
                break
            total += F.cross_entropy(model(idx, lengths), labels).item()
    model.train()
    return total / wanted


def calc_accuracy_loader(loader: DataLoader, model: Classifier, num_batches: int | None = None) -> float:
    """The percentage of the messages of the first batches (or all) that are labelled correctly."""
    model.eval()
    wanted = len(loader) if num_batches is None else min(num_batches, len(loader))
    right, seen = 0, 0
    with tl.no_grad():
        for i, (idx, lengths, labels) in enumerate(loader):
            if i == wanted:
                break
            right += int((model(idx, lengths).argmax(axis=-1) == labels).sum().item())
            seen += len(labels)
    model.train()
    return 100 * right / seen


# %% [markdown]
# The accuracy before, then the adapters, then the accuracy again: B is zero, so the model is the same, and the numbers
# are chapter 6's. The order matters: each pass over a loader takes random numbers, and the matrices A are drawn from
# the stream after the first three passes.

# %%
tl.manual_seed(123)
before = [calc_accuracy_loader(loader, model, 10) for loader in loaders.values()]
compare("accuracy before, %", before, "46.25 45.00 48.75")
lora.apply(model, rank=16, alpha=ALPHA)
tl.manual_seed(123)
adapted_before = [calc_accuracy_loader(loader, model, 10) for loader in loaders.values()]
compare("accuracy with adapters, before, %", adapted_before, "46.25 45.00 48.75")
assert adapted_before == before

# %%
LOGS = {  # step: training and validation loss; the first is the same, since nothing has been learned yet
    "page": {
        0: "3.820 3.462", 50: "0.396 0.364", 100: "0.111 0.229", 150: "0.135 0.073", 200: "0.008 0.052",
        250: "0.021 0.179", 300: "0.096 0.080", 350: "0.010 0.116", 400: "0.003 0.151", 450: "0.008 0.077",
        500: "0.001 0.147", 550: "0.007 0.094", 600: "0.000 0.056",
    },
    "repository": {
        0: "3.820 3.462", 50: "0.346 0.325", 100: "0.063 0.144", 150: "0.054 0.045", 200: "0.058 0.122",
        250: "0.041 0.199", 300: "0.020 0.153", 350: "0.017 0.186", 400: "0.017 0.099", 450: "0.001 0.170",
        500: "0.117 0.222", 550: "0.038 0.235", 600: "0.019 0.252",
    },
}  # fmt: skip
ACCURACY = {  # after each epoch, of five batches for training and for validation, %
    "page": ["97.50 95.00", "97.50 97.50", "97.50 95.00", "100.00 97.50", "100.00 97.50"],
    "repository": ["100.00 92.50", "100.00 95.00", "100.00 95.00", "97.50 92.50", "100.00 100.00"],
}

frozen = {name: p.tolist() for name, p in model.named_parameters() if not p.requires_grad and p.size < 5000}
# for random weights, a rate that was tried out with both recipes
optimizer = optim.AdamW(lora.trainable(model), lr=RATE if GPT2 else 2.5 * RATE, weight_decay=0.1)
tl.manual_seed(123)
step = -1
for epoch in range(1, math.ceil(STEPS / len(loaders["train"])) + 1):
    for idx, lengths, labels in loaders["train"]:
        optimizer.zero_grad()
        F.cross_entropy(model(idx, lengths), labels).backward()
        optimizer.step()
        step += 1
        if step % EVERY == 0:
            losses = [calc_loss_loader(loaders[part], model, 5) for part in ("train", "validation")]
            compare(f"Ep {epoch} (Step {step:06d}): Train loss, Val loss", losses, LOGS[RECIPE].get(step, "nan nan"))
        if step == STEPS - 1:
            break
    if (step + 1) % len(loaders["train"]) == 0:
        found = [calc_accuracy_loader(loaders[part], model, 5) for part in ("train", "validation")]
        compare(f"accuracy after epoch {epoch}, %", found, ACCURACY[RECIPE][epoch - 1])
assert all(frozen[name] == p.tolist() for name, p in model.named_parameters() if name in frozen)
assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
print("   what was frozen has not changed")
after = [calc_accuracy_loader(loader, model) for loader in loaders.values()]
compare("accuracy after, training, validation, test, %", after, "100.00 96.64 98.00")

# %% [markdown]
# ## Merging
#
# W + A B is an ordinary matrix: after merging, the model has no adapters and computes the same. The adapter alone is a
# small file that fits only the weights it was trained with.

# %%
lora.save(model, out / "adapter.safetensors")
model.eval()
with tl.no_grad():
    idx, lengths, _ = next(iter(loaders["test"]))
    scores = model(idx, lengths)
    lora.merge(model)
    difference = (model(idx, lengths) - scores).abs().max().item()
print(f"   adapter of {(out / 'adapter.safetensors').stat().st_size / 2**20:.1f} MiB")
print(f"   merged, the scores differ by at most {difference:.1e}")
assert difference < 1e-4

# %%
page.summary()
