# %% [markdown]
# # Chapter 4: the model
#
# The model adds a few simple parts to attention: a norm that keeps numbers in a good range, a small network for each
# token, shortcuts around both. A GPT is twelve such blocks, with embeddings before and a head, which scores every
# token, after.
#
#     python examples/book/ch04.py

# %%
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import page
from matplotlib.figure import Figure
from page import compare

import tensorlite as tl
from gpt.config import PRESETS
from gpt.generate import generate
from gpt.model import GPT, Block, FeedForward, parameter_table
from tensorlite import functional as F
from tensorlite import nn


@dataclass
class Options:
    """Chapter 4: the model."""

    out: Path = page.OUT  # folder for pictures


options = page.options(Options)

# %% [markdown]
# ## 4.1 The outside
#
# The input is two texts of four tokens, the output a score for each of 50,257 tokens at each position. First without
# blocks: embeddings, dropout and head alone. The numbers depend on which random numbers each of them takes, in which
# order, which makes them a sensitive test.

# %%
config = PRESETS["book-124m"]
tokenizer = page.tokenizer()
batch = tl.tensor([tokenizer.encode(text) for text in ("Every effort moves you", "Every day holds a")])
compare("two texts", batch, "6109 3626 6100 345  6109 1110 6622 257")


def corners(logits: tl.Tensor) -> list:
    """The first three and the last three scores of each row, which the page shows."""
    return [[row[:3].tolist(), row[-3:].tolist()] for text in logits for row in text]


class Outside(nn.Module):
    """A GPT without its blocks: token ids (B, T) -> scores (B, T, V)."""

    def __init__(self):
        self.token_embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.position_embedding = nn.Embedding(config.context_length, config.n_embd)
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)

    def forward(self, idx: tl.Tensor) -> tl.Tensor:
        x = self.token_embedding(idx) + self.position_embedding(tl.arange(idx.shape[1]))  # (B, T, C)
        return self.head(self.dropout(x))


tl.manual_seed(123)
with tl.no_grad():
    logits = Outside()(batch)
compare("shape", list(logits.shape), "2 4 50257")
compare(
    "scores without blocks", corners(logits),
    "-1.2034 0.3201 -0.7130 -1.5548 -0.2390 -0.4667  -0.1192 0.4539 -0.4432 0.2392 1.3469 1.2430  "
    "0.5307 1.6720 -0.4695 1.1966 0.0111 0.5835  0.0139 1.6754 -0.3388 1.1586 -0.0435 -1.0400  "
    "-1.0908 0.1798 -0.9484 -1.6047 0.2439 -0.4530  -0.7860 0.5581 -0.0610 0.4835 -0.0077 1.6621  "
    "0.3567 1.2698 -0.6398 -0.0162 -0.1296 0.3717  -0.2407 -0.7349 -0.5102 2.0057 -0.3694 0.1814",
)  # fmt: skip

# %% [markdown]
# ## 4.2 Layer norm
#
# Subtract the mean and divide by the standard deviation: the next layer then always gets numbers of the same
# size. Each row is normalized separately.

# %%
tl.manual_seed(123)
example = tl.randn(2, 5)
y = nn.Sequential(nn.Linear(5, 6), nn.ReLU())(example)
compare("a small layer", y, "0.2260 0.3470 0.0000 0.2216 0.0000 0.0000  0.2133 0.2394 0.0000 0.5198 0.3297 0.0000")
mean, variance = y.mean(axis=-1, keepdims=True), y.var(axis=-1, ddof=1, keepdims=True)
compare("means", mean, "0.1324 0.2170")
compare("variances", variance, "0.0231 0.0398")
compare(
    "normalized", (y - mean) / variance.sqrt(),
    "0.6159 1.4126 -0.8719 0.5872 -0.8719 -0.8719  -0.0189 0.1121 -1.0876 1.5173 0.5647 -1.0876",
)  # fmt: skip

# %% [markdown]
# `nn.LayerNorm` divides by n, not n - 1, as GPT-2 does, adds 1e-5 under the root, and has a learned factor and offset
# for each channel.

# %%
normalized = nn.LayerNorm(5)(example)
compare("means after", normalized.mean(axis=-1).abs(), "0.0000 0.0000")
compare("variances after", normalized.var(axis=-1), "1.0000 1.0000")

# %% [markdown]
# ## 4.3 GELU and the network for each token
#
# ReLU is zero for all negative numbers, with a corner at zero. GELU is smooth and not zero for negative numbers, so
# that a negative number still has a gradient.


# %%
def draw(path: Path) -> None:
    x = tl.linspace(-3, 3, 100)
    figure = Figure(figsize=(8, 3), layout="constrained")
    for axes, name, y in zip(figure.subplots(1, 2), ("GELU", "ReLU"), (F.gelu(x), F.relu(x)), strict=True):
        axes.plot(x.tolist(), y.tolist(), color="#2f6fb5")
        axes.set(title=name, xlabel="x", ylabel=f"{name}(x)")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    page.picture(figure, "ch04-gelu", path)


draw(options.out)

# %%
feed_forward = FeedForward(config.n_embd)
compare("shape is kept", list(feed_forward(tl.rand(2, 3, 768)).shape), "2 3 768")

# %% [markdown]
# ## 4.4 Shortcuts
#
# A gradient is multiplied at each layer on its way back, usually by numbers below one. In five
# small layers it nearly vanishes. A layer that adds to its input instead of replacing it has a path back
# without a factor.


# %%
class Deep(nn.Module):
    """Five Linear layers with GELU, with or without shortcuts: (..., 3) -> (..., 1)."""

    def __init__(self, sizes: list[int], shortcut: bool):
        self.layers = nn.ModuleList([nn.Linear(a, b) for a, b in pairwise(sizes)])
        self.shortcut = shortcut

    def forward(self, x: tl.Tensor) -> tl.Tensor:
        for layer in self.layers:
            y = F.gelu(layer(x))
            x = x + y if self.shortcut and x.shape == y.shape else y
        return x


def gradients(shortcut: bool) -> list[float]:
    """The mean absolute gradient of each weight matrix; the target is 0."""
    tl.manual_seed(123)
    model = Deep([3, 3, 3, 3, 3, 1], shortcut)
    F.mse_loss(model(tl.tensor([[1.0, 0.0, -1.0]])), tl.zeros((1, 1))).backward()
    return [layer.weight.grad.abs().mean().item() for layer in model.layers]


compare("gradients without shortcuts", gradients(False),
        "0.00020173587 0.00012011161 0.00071520416 0.00139887386 0.00504964636")  # fmt: skip
compare("gradients with shortcuts", gradients(True), "0.22169793 0.20694105 0.32896995 0.26657325 1.32585418")

# %% [markdown]
# ## 4.5 A block
#
# Attention, then the network; the input of each is normalized, and its output is added to the input.

# %%
tl.manual_seed(123)
x = tl.rand(2, 4, 768)
block = Block(config)
compare("shape of a block's result", list(block(x).shape), "2 4 768")

# %% [markdown]
# ## 4.6 GPT
#
# The whole model, with dropout on as on the page. It draws 163 million random weights and 37
# dropout masks. These are the page's numbers because all are drawn in its order; the last digit of some
# may differ, since these are sums of thousands of float32 numbers.

# %%
tl.manual_seed(123)
model = GPT(config)
with tl.no_grad():
    logits, _ = model(batch)
compare("shape", list(logits.shape), "2 4 50257")
compare(
    "scores", corners(logits),
    "0.3613 0.4222 -0.0711 0.3483 0.4661 -0.2838  -0.1792 -0.5660 -0.9485 0.0477 0.5181 -0.3168  "
    "0.7120 0.0332 0.1085 0.1018 -0.4327 -0.2553  -1.0076 0.3418 -0.1190 0.7195 0.4023 0.0532  "
    "-0.2564 0.0900 0.0335 0.2659 0.4454 -0.6806  0.1230 0.3653 -0.2074 0.7705 0.2710 0.2246  "
    "1.0558 1.0318 -0.2800 0.6936 0.3205 -0.3178  -0.1565 0.3926 0.3288 1.2630 -0.1858 0.0388",
)  # fmt: skip

# %% [markdown]
# Why is it called 124M? OpenAI's model also uses the token embedding as its head; the page's has a separate head.

# %%
compare("parameters", model.num_parameters(), "163,009,536")
compare("without the head", model.num_parameters() - model.head.num_parameters(), "124,412,160")
compare("MB in float32", model.num_parameters() * 4 / 2**20, "621.83")

# %% [markdown]
# **Exercise 4.1.** Which is larger, attention or the network? The network is twice as large.

# %%
block = model.blocks[0]
compare("attention of a block", block.attention.num_parameters(), "2,360,064")
compare("feed-forward of a block", block.feed_forward.num_parameters(), "4,722,432")
for part in parameter_table(replace(config, tie_head=True)):  # nothing is allocated for it
    print(f"   {part.name:<20} {part.parameters:>12,} {part.share:>7.1%}")

# %% [markdown]
# **Exercise 4.2.** The larger models. Only the config differs; the code is the same.

# %%
for name, theirs in {
    "gpt2-medium": "406,212,608 354,749,440 1,549.58",
    "gpt2-large": "838,220,800 773,891,840 3,197.56",
    "gpt2-xl": "1,637,792,000 1,557,380,800 6,247.68",
}.items():
    *_, total = parameter_table(replace(PRESETS[name], qkv_bias=False, tie_head=False))
    head = PRESETS[name].vocab_size * PRESETS[name].n_embd
    compare(f"{name}: parameters, without the head, MB",
            [total.parameters, total.parameters - head, total.bytes / 2**20], theirs)  # fmt: skip

# %% [markdown]
# **Exercise 4.3.** Three dropouts instead of one: three fields of the config.

# %%
print(replace(config, embedding_dropout=0.1, attention_dropout=0.2, residual_dropout=0.05))

# %% [markdown]
# ## 4.7 Generating text
#
# Score all tokens, take the best, append it, repeat. Random weights give nonsense, but always the same.

# %%
model.eval()  # without dropout
compare("Hello, I am", tokenizer.encode("Hello, I am"), "15496 11 314 716")
(new,) = generate(model, [tokenizer.encode("Hello, I am")], 10)
compare("what comes next", new[:6], "27018 24086 47843 30961 42348 7267")
compare("and after that", new[6:], "49706 43231 47062 34657")
compare("as text", tokenizer.decode(new[:6]), " Featureiman Byeswickattribute argue")

# %%
page.summary()
