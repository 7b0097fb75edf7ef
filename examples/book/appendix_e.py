# %% [markdown]
# # Appendix E: LoRA
#
# A large model, frozen, and beside each of its Linear layers two narrow matrices that learn: x A B, of rank 16 say.
# That is a fiftieth of the parameters, of the gradients and of what AdamW remembers, and a small file to save.
#
#     python examples/book/appendix_e.py                  # counts of the page's model; training of a small one
#     python examples/book/appendix_e.py --gpt2 gpt2      # the page's run

# %%
import math
from dataclasses import dataclass, replace
from pathlib import Path

import page

import tensorlite as tl
from gpt import labelled, lora, pretrained
from gpt.classify import Classifier, Padding, Row, encode
from gpt.config import PRESETS, GPTConfig
from gpt.download import fetch_model
from tensorlite import fused, machine, nn, optim
from tensorlite.data import DataLoader


@dataclass
class Options:
    """Appendix E: LoRA."""

    gpt2: str | None = None  # GPT-2's weights: a folder that has them, or a name to download, gpt2 to gpt2-xl
    steps: int = 650  # updates of the weights: five epochs of 130
    threads: int = 2  # for large operations
    out: Path = page.OUT  # where the adapter goes


options = page.options(Options)
print(machine.set_threads(options.threads))

# %% [markdown]
# ## E.1 The idea in numbers
#
# Training changes a matrix W of 768 x 768 by some matrix of as many entries. LoRA says that a product of two narrow
# ones will do: 768 x 16 and 16 x 768. B starts at zero, so the model computes at first what it did before.

# %%
tl.manual_seed(123)
linear = nn.Linear(768, 768)
layer = lora.LoRALinear(linear, rank=16, alpha=16)
x = tl.rand(2, 768)
assert layer(x).tolist() == linear(x).tolist()
print(f"{linear.num_parameters():,} parameters, beside them {layer.lora_A.size + layer.lora_B.size:,}")

# %% [markdown]
# ## E.4 In the classifier
#
# Chapter 6's model. `lora.apply` freezes all of it and puts a pair of matrices beside every Linear, the head's too.

# %%
tl.manual_seed(123)
whole = Classifier(replace(PRESETS["gpt2"], init="torch"), 2, "last")  # random weights: only counted
page.compare("parameters", whole.num_parameters(), "124,441,346")
for p in whole.parameters():
    p.requires_grad = False
page.compare("that learn, all frozen", sum(p.size for p in whole.parameters() if p.requires_grad), "0")
adapted = lora.apply(whole, rank=16, alpha=16)
page.compare("that learn, with LoRA", sum(p.size for p in lora.trainable(whole)), "2,666,528")
print(f"{len(adapted)} Linears, among them {adapted[0]} and {adapted[-1]}")
del whole

# %% [markdown]
# ## Training
#
# Data and loop are those of chapter 6. Without GPT-2's weights it is a small model with random weights that is
# adapted. That is not what LoRA is for: a frozen model that knows nothing gives the narrow matrices little to work
# with. It is still enough to see that they learn and the rest does not.

# %%
tokenizer = page.tokenizer()
parts = labelled.split(labelled.balanced(labelled.read(page.data("spam")), seed=123), seed=123)
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

if options.gpt2:
    folder = Path(options.gpt2)
    base = pretrained.load(folder if folder.is_dir() else fetch_model(options.gpt2))
    model = Classifier(base.config.with_dropout(0.0), len(LABELS), "last")
    model.body.load_state_dict(base.state_dict())
    tl.manual_seed(123)
    model.head = nn.Linear(model.config.n_embd, len(LABELS))
else:
    print("no --gpt2: a small model with random weights")
    tl.manual_seed(123)
    small = GPTConfig(vocab_size=50257, context_length=longest, n_layer=2, n_head=4, n_embd=64)
    model = Classifier(small, len(LABELS), "last")


def accuracy(loader: DataLoader, batches: int | None = None) -> float:
    """The share of messages told rightly, in the first so many batches or all."""
    model.eval()
    right, seen = 0, 0
    with tl.no_grad():
        for i, (idx, lengths, labels) in enumerate(loader):
            if i == batches:
                break
            right += int((model(idx, lengths).argmax(axis=-1) == labels).sum().item())
            seen += len(labels)
    model.train()
    return right / seen


lora.apply(model, rank=16, alpha=16)
tl.manual_seed(123)
before = [100 * accuracy(loader, 10) for loader in loaders.values()]
if options.gpt2 and model.config.n_layer == 12:  # B is zero: the numbers are chapter 6's
    page.compare("accuracy before, %", before, "46.25 45.00 48.75")
else:
    print("   accuracy before, %:", *(f"{value:.2f}" for value in before))

# %%
frozen = {name: p.tolist() for name, p in model.named_parameters() if not p.requires_grad and p.size < 5000}
optimizer = optim.AdamW(lora.trainable(model), lr=5e-5 if options.gpt2 else 2e-3, weight_decay=0.1)
tl.manual_seed(123)
step = 0
for epoch in range(1, math.ceil(options.steps / len(loaders["train"])) + 1):
    for idx, lengths, labels in loaders["train"]:
        optimizer.zero_grad()
        loss = fused.cross_entropy(model(idx, lengths), labels)
        loss.backward()
        optimizer.step()
        step += 1
        if step == options.steps:
            break
    print(
        f"   epoch {epoch}: loss of the last batch {loss.item():.3f}, validation {accuracy(loaders['validation']):.2%}"
    )
assert all(frozen[name] == p.tolist() for name, p in model.named_parameters() if name in frozen)
assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
print("   what was frozen has not changed")
after = [100 * accuracy(loader) for loader in loaders.values()]
print("   accuracy after, training, validation, test, %:", *(f"{value:.2f}" for value in after))

# %% [markdown]
# ## Merging
#
# W + A B is a matrix like any other: merged, the model has no adapters and computes the same. The adapter alone is a
# small file that fits the weights it was trained beside, and no others.

# %%
options.out.mkdir(parents=True, exist_ok=True)
lora.save(model, options.out / "adapter.safetensors")
model.eval()
with tl.no_grad():
    idx, lengths, _ = next(iter(loaders["test"]))
    scores = model(idx, lengths)
    lora.merge(model)
    difference = (model(idx, lengths) - scores).abs().max().item()
print(f"   adapter of {(options.out / 'adapter.safetensors').stat().st_size / 2**20:.1f} MiB")
print(f"   merged, the scores differ by at most {difference:.1e}")
assert difference < 1e-4

# %%
page.summary()
