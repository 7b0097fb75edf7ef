# %% [markdown]
# # Chapter 4: the model
#
# The model adds a few simple parts to attention: a norm that keeps numbers in a good range, a small network for each
# token, shortcuts around both. A GPT is twelve such blocks, with embeddings before and a head, which scores every
# token, after. Each part is written out in elementary operations, under the book's name, and then compared with the
# library's.
#
#     python examples/book/ch04.py

# %% tags=["parameters"]
# Settings. In a notebook change them here; as a script, each is a flag: --out FOLDER.
OUT: str | None = None  # folder for pictures; default: tensorlite-book, in the folder for temporary files

# %%
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import page
from matplotlib.figure import Figure
from page import compare, same

import tensorlite as tl
from gpt import model as library
from gpt.attention import MultiHeadAttention
from gpt.config import PRESETS
from gpt.generation import generate
from gpt.model import parameter_table
from tensorlite import functional as F
from tensorlite import nn

page.flags(globals())
out = page.folder(OUT)

# %% [markdown]
# ## 4.1 The outside
#
# The input is two texts of four tokens, the output a score for each of 50,257 tokens at each position. First without
# blocks: embeddings, dropout and head alone. The numbers depend on which random numbers each of them takes, in which
# order, which makes them a sensitive test. `GPT_CONFIG_124M` is the book's configuration, the preset "book-124m" the
# library's with the same content.

# %%
GPT_CONFIG_124M = {
    "vocab_size": 50257,
    "context_length": 1024,
    "emb_dim": 768,
    "n_heads": 12,
    "n_layers": 12,
    "drop_rate": 0.1,
    "qkv_bias": False,
}
config = PRESETS["book-124m"]
tokenizer = page.tokenizer()
batch = tl.tensor([tokenizer.encode(text) for text in ("Every effort moves you", "Every day holds a")])
compare("two texts", batch, "6109 3626 6100 345  6109 1110 6622 257")


def corners(logits: tl.Tensor) -> list:
    """The first three and the last three scores of each row, which the page shows."""
    return [[row[:3].tolist(), row[-3:].tolist()] for text in logits for row in text]


class DummyGPTModel(nn.Module):
    """A GPT without its blocks and norm: token ids (B, T) -> scores (B, T, V)."""

    def __init__(self, cfg: dict):
        self.tok_emb = nn.Embedding(cfg["vocab_size"], cfg["emb_dim"])
        self.pos_emb = nn.Embedding(cfg["context_length"], cfg["emb_dim"])
        self.drop_emb = nn.Dropout(cfg["drop_rate"])
        self.out_head = nn.Linear(cfg["emb_dim"], cfg["vocab_size"], bias=False)

    def forward(self, in_idx: tl.Tensor) -> tl.Tensor:
        x = self.tok_emb(in_idx) + self.pos_emb(tl.arange(in_idx.shape[1]))  # (B, T, C)
        return self.out_head(self.drop_emb(x))


tl.manual_seed(123)
with tl.no_grad():
    logits = DummyGPTModel(GPT_CONFIG_124M)(batch)
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
# As a module it divides by n, not n - 1, as GPT-2 does, adds 1e-5 under the root, and has a learned factor and offset
# for each channel. `nn.LayerNorm` is the same.


# %%
class LayerNorm(nn.Module):
    """(x - mean) / sqrt(variance + 1e-5), times a factor, plus an offset: (..., C) -> (..., C)."""

    def __init__(self, emb_dim: int):
        self.eps = 1e-5
        self.scale = nn.Parameter(tl.ones((emb_dim,)))
        self.shift = nn.Parameter(tl.zeros((emb_dim,)))

    def forward(self, x: tl.Tensor) -> tl.Tensor:
        mean = x.mean(axis=-1, keepdims=True)
        variance = x.var(axis=-1, ddof=0, keepdims=True)
        return self.scale * ((x - mean) / (variance + self.eps).sqrt()) + self.shift


normalized = LayerNorm(5)(example)
same("LayerNorm", normalized, nn.LayerNorm(5)(example), within=1e-6)
compare("means after", normalized.mean(axis=-1).abs(), "0.0000 0.0000")
compare("variances after", normalized.var(axis=-1), "1.0000 1.0000")

# %% [markdown]
# ## 4.3 GELU and the network for each token
#
# ReLU is zero for all negative numbers, with a corner at zero. GELU is smooth and not zero for negative numbers, so
# that a negative number still has a gradient. Exactly it is x times the normal distribution's cumulative function; this
# is GPT-2's approximation of it.


# %%
class GELU(nn.Module):
    """0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), for each number."""

    def forward(self, x: tl.Tensor) -> tl.Tensor:
        return 0.5 * x * (1 + tl.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


x = tl.linspace(-3, 3, 100)
same("gelu", GELU()(x), F.gelu(x), within=1e-6)


# %%
def draw(path: Path) -> None:
    x = tl.linspace(-3, 3, 100)
    figure = Figure(figsize=(8, 3), layout="constrained")
    for axes, name, y in zip(figure.subplots(1, 2), ("GELU", "ReLU"), (GELU()(x), F.relu(x)), strict=True):
        axes.plot(x.tolist(), y.tolist(), color="#2f6fb5")
        axes.set(title=name, xlabel="x", ylabel=f"{name}(x)")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    page.picture(figure, "ch04-gelu", path)


draw(out)

# %% [markdown]
# The network for each token: four times as wide inside.


# %%
class FeedForward(nn.Module):
    """Linear, GELU, Linear: (..., C) -> (..., 4 C) -> (..., C)."""

    def __init__(self, cfg: dict):
        width = cfg["emb_dim"]
        self.layers = nn.Sequential(nn.Linear(width, 4 * width), GELU(), nn.Linear(4 * width, width))

    def forward(self, x: tl.Tensor) -> tl.Tensor:
        return self.layers(x)


tl.manual_seed(123)
feed_forward = FeedForward(GPT_CONFIG_124M)
tl.manual_seed(123)
theirs = library.FeedForward(config.n_embd)
x = tl.rand(2, 3, 768)
compare("shape is kept", list(feed_forward(x).shape), "2 3 768")
same("FeedForward", feed_forward(x), theirs(x), within=2e-6)

# %% [markdown]
# ## 4.4 Shortcuts
#
# A gradient is multiplied at each layer on its way back, usually by numbers below one. In five
# small layers it nearly vanishes. A layer that adds to its input instead of replacing it has a path back
# without a factor.


# %%
class ExampleDeepNeuralNetwork(nn.Module):
    """Five Linear layers with GELU, with or without shortcuts: (..., 3) -> (..., 1)."""

    def __init__(self, layer_sizes: list[int], use_shortcut: bool):
        self.layers = nn.ModuleList([nn.Sequential(nn.Linear(a, b), GELU()) for a, b in pairwise(layer_sizes)])
        self.use_shortcut = use_shortcut

    def forward(self, x: tl.Tensor) -> tl.Tensor:
        for layer in self.layers:
            y = layer(x)
            x = x + y if self.use_shortcut and x.shape == y.shape else y
        return x


def gradients(use_shortcut: bool) -> list[float]:
    """The mean absolute gradient of each weight matrix; the target is 0."""
    tl.manual_seed(123)
    model = ExampleDeepNeuralNetwork([3, 3, 3, 3, 3, 1], use_shortcut)
    F.mse_loss(model(tl.tensor([[1.0, 0.0, -1.0]])), tl.zeros((1, 1))).backward()
    return [layer[0].weight.grad.abs().mean().item() for layer in model.layers]


compare("gradients without shortcuts", gradients(False),
        "0.00020173587 0.00012011161 0.00071520416 0.00139887386 0.00504964636")  # fmt: skip
compare("gradients with shortcuts", gradients(True), "0.22169793 0.20694105 0.32896995 0.26657325 1.32585418")

# %% [markdown]
# ## 4.5 A block
#
# Attention, then the network; the input of each is normalized, and its output is added to the input. Attention is
# chapter 3's, from the library, with which it was compared there.


# %%
class TransformerBlock(nn.Module):
    """x + attention(norm x), then x + feed-forward(norm x), both with dropout: (B, T, C) -> (B, T, C)."""

    def __init__(self, cfg: dict):
        self.att = MultiHeadAttention(
            d_in=cfg["emb_dim"],
            d_out=cfg["emb_dim"],
            context_length=cfg["context_length"],
            num_heads=cfg["n_heads"],
            dropout=cfg["drop_rate"],
            qkv_bias=cfg["qkv_bias"],
        )
        self.ff = FeedForward(cfg)
        self.norm1 = LayerNorm(cfg["emb_dim"])
        self.norm2 = LayerNorm(cfg["emb_dim"])
        self.drop_shortcut = nn.Dropout(cfg["drop_rate"])

    def forward(self, x: tl.Tensor) -> tl.Tensor:
        x = x + self.drop_shortcut(self.att(self.norm1(x)))
        return x + self.drop_shortcut(self.ff(self.norm2(x)))


tl.manual_seed(123)
x = tl.rand(2, 4, 768)
tl.manual_seed(123)
ours = TransformerBlock(GPT_CONFIG_124M)(x)
tl.manual_seed(123)
theirs = library.Block(config)(x)
compare("shape of a block's result", list(ours.shape), "2 4 768")
same("Block, dropout on", ours, theirs, within=2e-6)

# %% [markdown]
# ## 4.6 GPT
#
# The whole model, with dropout on as on the page. It draws 163 million random weights and 37
# dropout masks. These are the page's numbers because all are drawn in its order; the last digit of some
# may differ, since these are sums of thousands of float32 numbers.


# %%
class GPTModel(nn.Module):
    """Token ids (B, T) -> scores (B, T, V)."""

    def __init__(self, cfg: dict):
        self.tok_emb = nn.Embedding(cfg["vocab_size"], cfg["emb_dim"])
        self.pos_emb = nn.Embedding(cfg["context_length"], cfg["emb_dim"])
        self.drop_emb = nn.Dropout(cfg["drop_rate"])
        self.trf_blocks = nn.Sequential(*[TransformerBlock(cfg) for _ in range(cfg["n_layers"])])
        self.final_norm = LayerNorm(cfg["emb_dim"])
        self.out_head = nn.Linear(cfg["emb_dim"], cfg["vocab_size"], bias=False)

    def forward(self, in_idx: tl.Tensor) -> tl.Tensor:
        x = self.tok_emb(in_idx) + self.pos_emb(tl.arange(in_idx.shape[1]))  # (B, T, C)
        x = self.trf_blocks(self.drop_emb(x))
        return self.out_head(self.final_norm(x))


tl.manual_seed(123)
model = GPTModel(GPT_CONFIG_124M)
with tl.no_grad():
    logits = model(batch)
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
compare("without the head", model.num_parameters() - model.out_head.num_parameters(), "124,412,160")
compare("MB in float32", model.num_parameters() * 4 / 2**20, "621.83")

# %% [markdown]
# **Exercise 4.1.** Which is larger, attention or the network? The network is twice as large.

# %%
block = model.trf_blocks[0]
compare("attention of a block", block.att.num_parameters(), "2,360,064")
compare("feed-forward of a block", block.ff.num_parameters(), "4,722,432")
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
def generate_text_simple(model: nn.Module, idx: tl.Tensor, max_new_tokens: int, context_size: int) -> tl.Tensor:
    """`idx` (B, T) and `max_new_tokens` more columns, each the most probable token after what precedes it."""
    for _ in range(max_new_tokens):
        with tl.no_grad():
            logits = model(idx[:, -context_size:])[:, -1]  # (B, V), of the last position
        best = F.softmax(logits).argmax(axis=-1, keepdims=True)  # (B, 1)
        idx = tl.concatenate([idx, best], axis=1)
    return idx


start = tokenizer.encode("Hello, I am")
model.eval()  # without dropout
compare("Hello, I am", start, "15496 11 314 716")
(new,) = generate_text_simple(model, tl.tensor([start]), 10, GPT_CONFIG_124M["context_length"])[
    :, len(start) :
].tolist()
compare("what comes next", new[:6], "27018 24086 47843 30961 42348 7267")
compare("and after that", new[6:], "49706 43231 47062 34657")
compare("as text", tokenizer.decode(new[:6]), " Featureiman Byeswickattribute argue")

# %% [markdown]
# **The library's.** `gpt.model.GPT` has the same parts under names of its own and draws in the same order. Its
# `forward` returns a loss too where targets are given. `generate` keeps the keys and values of earlier tokens, so that
# a step computes only the newest one.

# %%
del model  # 0.6 GB
tl.manual_seed(123)
model = library.GPT(config)
with tl.no_grad():
    same("GPT, dropout on", corners(logits), corners(model(batch)[0]), within=2e-5)
model.eval()
same("generate", new, generate(model, [start], 10)[0])

# %%
page.summary()
