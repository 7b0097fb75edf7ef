# %% [markdown]
# # Chapter 3: attention
#
# Attention lets each token's vector take information from the others. The importance of each other token is a number,
# its weight; the weights are positive and add up to one; the result is a weighted average. The sections below compute
# these weights in several ways: in elementary operations, under the book's names, and then compared with
# `gpt.attention`.
#
#     python examples/book/ch03.py

# %%
import math

import page
from page import compare, same

import tensorlite as tl
from gpt import attention as library
from tensorlite import functional as F
from tensorlite import nn

page.flags(globals())

# %% [markdown]
# ## 3.3 Without parameters
#
# Six tokens of three numbers each. The similarity of two tokens is their inner
# product. For the second token:

# %%
inputs = tl.tensor([
    [0.43, 0.15, 0.89],  # Your
    [0.55, 0.87, 0.66],  # journey
    [0.57, 0.85, 0.64],  # starts
    [0.22, 0.58, 0.33],  # with
    [0.77, 0.25, 0.10],  # one
    [0.05, 0.80, 0.55],  # step
])  # fmt: skip
scores = inputs @ inputs[1]
compare("scores of token 2", scores, "0.9544 1.4950 1.4754 0.8434 0.7070 1.0865")

# %% [markdown]
# Divided by their sum, scores add up to one but need not be positive. Softmax takes exponentials first. Written
# out it overflows where a score is large; `F.softmax` subtracts the largest score first.


# %%
def softmax_naive(x: tl.Tensor) -> tl.Tensor:
    return x.exp() / x.exp().sum()


compare("divided by their sum", scores / scores.sum(), "0.1455 0.2278 0.2249 0.1285 0.1077 0.1656")
compare("softmax, written out", softmax_naive(scores), "0.1385 0.2379 0.2333 0.1240 0.1082 0.1581")
weights = F.softmax(scores)
compare("softmax", weights, "0.1385 0.2379 0.2333 0.1240 0.1082 0.1581")
print("scores of 1000:", F.softmax(tl.tensor([1000.0, 1000.0])), "written out: inf / inf")

# %%
compare("what token 2 takes in", weights @ inputs, "0.4419 0.6515 0.5683")

# %% [markdown]
# For all six at once, two matrix products are enough.

# %%
scores = inputs @ inputs.T
compare(
    "all scores", scores,
    "0.9995 0.9544 0.9422 0.4753 0.4576 0.6310  0.9544 1.4950 1.4754 0.8434 0.7070 1.0865  "
    "0.9422 1.4754 1.4570 0.8296 0.7154 1.0605  0.4753 0.8434 0.8296 0.4937 0.3474 0.6565  "
    "0.4576 0.7070 0.7154 0.3474 0.6654 0.2935  0.6310 1.0865 1.0605 0.6565 0.2935 0.9450",
)  # fmt: skip
weights = F.softmax(scores)
compare(
    "all weights", weights,
    "0.2098 0.2006 0.1981 0.1242 0.1220 0.1452  0.1385 0.2379 0.2333 0.1240 0.1082 0.1581  "
    "0.1390 0.2369 0.2326 0.1242 0.1108 0.1565  0.1435 0.2074 0.2046 0.1462 0.1263 0.1720  "
    "0.1526 0.1958 0.1975 0.1367 0.1879 0.1295  0.1385 0.2184 0.2128 0.1420 0.0988 0.1896",
)  # fmt: skip
compare("each row's sum", weights.sum(axis=-1), "1.0000 1.0000 1.0000 1.0000 1.0000 1.0000")
compare(
    "all results", weights @ inputs,
    "0.4421 0.5931 0.5790  0.4419 0.6515 0.5683  0.4431 0.6496 0.5671  "
    "0.4304 0.6298 0.5510  0.4671 0.5910 0.5266  0.4177 0.6503 0.5645",
)  # fmt: skip
same("simple_attention", [weights @ inputs, weights], library.simple_attention(inputs))

# %% [markdown]
# ## 3.4 With learned weights
#
# A token can use different vectors to search, to be found and to pass on information. Three matrices
# compute these: the query, the key and the value. The scores, queries times keys, grow with the number of entries they
# sum over; divided by its square root they stay in a range where softmax has a useful gradient.

# %%
d_in, d_out = 3, 2
tl.manual_seed(123)
W_query, W_key, W_value = (tl.rand(d_in, d_out) for _ in range(3))
query = inputs[1] @ W_query
keys, values = inputs @ W_key, inputs @ W_value
compare("query of token 2", query, "0.4306 1.4551")
compare("its score with itself", query @ keys[1], "1.8524")
scores = keys @ query
compare("its scores", scores, "1.2705 1.8524 1.8111 1.0795 0.5577 1.5440")
weights = F.softmax(scores / math.sqrt(d_out))
compare("its weights", weights, "0.1500 0.2264 0.2199 0.1311 0.0906 0.1820")
compare("what it takes in", weights @ values, "0.3061 0.8210")


# %% [markdown]
# The same as a module. Its attributes are its parameters; there is nothing to register.


# %%
class SelfAttention_v1(nn.Module):
    """softmax(q k^T / sqrt(d_out)) v with three bare matrices."""

    def __init__(self, d_in: int, d_out: int):
        self.W_query = nn.Parameter(tl.rand(d_in, d_out))
        self.W_key = nn.Parameter(tl.rand(d_in, d_out))
        self.W_value = nn.Parameter(tl.rand(d_in, d_out))

    def forward(self, x: tl.Tensor) -> tl.Tensor:
        q, k, v = x @ self.W_query, x @ self.W_key, x @ self.W_value  # (T, d_out)
        return F.softmax(q @ k.T / math.sqrt(k.shape[-1])) @ v


tl.manual_seed(123)
raw = SelfAttention_v1(d_in, d_out)
compare(
    "self-attention, bare matrices", raw(inputs),
    "0.2996 0.8053  0.3061 0.8210  0.3058 0.8203  0.2948 0.7939  0.2927 0.7891  0.2990 0.8040",
)  # fmt: skip

# %% [markdown]
# `nn.Linear` holds such a matrix too, transposed, and initializes it with smaller numbers around zero, which trains
# better. Such a layer is a product with the matrix and a sum with its bias, if it has one.


# %%
class Linear(nn.Module):
    """x W^T + b, its numbers uniform within 1 / sqrt(inputs): (..., inputs) -> (..., outputs)."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True):
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter((tl.rand(outputs, inputs) * 2 - 1) * bound)
        self.bias = nn.Parameter((tl.rand(outputs) * 2 - 1) * bound) if bias else None

    def forward(self, x: tl.Tensor) -> tl.Tensor:
        y = x @ self.weight.T
        return y if self.bias is None else y + self.bias


tl.manual_seed(789)
ours = Linear(d_in, d_out)
tl.manual_seed(789)
same("nn.Linear, its numbers", [ours.weight, ours.bias], list(nn.Linear(d_in, d_out).parameters()), within=1e-6)


class SelfAttention_v2(nn.Module):
    """softmax(q k^T / sqrt(d_out)) v with three Linear layers."""

    def __init__(self, d_in: int, d_out: int, qkv_bias: bool = False):
        self.W_query = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_key = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_value = nn.Linear(d_in, d_out, bias=qkv_bias)

    def forward(self, x: tl.Tensor) -> tl.Tensor:
        q, k, v = self.W_query(x), self.W_key(x), self.W_value(x)  # (T, d_out)
        return F.softmax(q @ k.T / math.sqrt(k.shape[-1])) @ v


tl.manual_seed(789)
attention = SelfAttention_v2(d_in, d_out)
compare(
    "self-attention, Linear", attention(inputs),
    "-0.0739 0.0713  -0.0748 0.0703  -0.0749 0.0702  -0.0760 0.0685  -0.0763 0.0679  -0.0754 0.0693",
)  # fmt: skip
tl.manual_seed(789)
same("SelfAttention", attention(inputs), library.SelfAttention(d_in, d_out)(inputs), within=1e-6)

# %% [markdown]
# **Exercise 3.1.** The two differ only in their numbers: with those of the Linear layers, transposed, the
# bare matrices give the same result.

# %%
raw.load_state_dict({
    name: getattr(attention, name).weight.T.detach().clone() for name in ("W_query", "W_key", "W_value")
})  # fmt: skip
compare(
    "bare matrices with the other's numbers", raw(inputs),
    "-0.0739 0.0713  -0.0748 0.0703  -0.0749 0.0702  -0.0760 0.0685  -0.0763 0.0679  -0.0754 0.0693",
)  # fmt: skip

# %% [markdown]
# ## 3.5 The causal mask
#
# A model that predicts the next token must not see it. Above the diagonal the weights must be zero. One way is to set
# them to zero and divide each row by its sum:

# %%
scores = attention.W_query(inputs) @ attention.W_key(inputs).T
weights = F.softmax(scores / math.sqrt(d_out))
compare(
    "weights, nothing hidden", weights,
    "0.1921 0.1646 0.1652 0.1550 0.1721 0.1510  0.2041 0.1659 0.1662 0.1496 0.1665 0.1477  "
    "0.2036 0.1659 0.1662 0.1498 0.1664 0.1480  0.1869 0.1667 0.1668 0.1571 0.1661 0.1564  "
    "0.1830 0.1669 0.1670 0.1588 0.1658 0.1585  0.1935 0.1663 0.1666 0.1542 0.1666 0.1529",
)  # fmt: skip
HIDDEN = (
    "1.0000 0.0000 0.0000 0.0000 0.0000 0.0000  0.5517 0.4483 0.0000 0.0000 0.0000 0.0000  "
    "0.3800 0.3097 0.3103 0.0000 0.0000 0.0000  0.2758 0.2460 0.2462 0.2319 0.0000 0.0000  "
    "0.2175 0.1983 0.1984 0.1888 0.1971 0.0000  0.1935 0.1663 0.1666 0.1542 0.1666 0.1529"
)
lower = weights.tril()
compare("zeros, then divided by the sums", lower / lower.sum(axis=-1, keepdims=True), HIDDEN)

# %% [markdown]
# In one step less: a score of minus infinity becomes a weight of exactly zero, and softmax normalizes the rest.

# %%
later = tl.ones((6, 6)).triu(1).astype(tl.bool_)
masked = scores.masked_fill(later, -math.inf)
compare(
    "scores that remain", [row[: i + 1] for i, row in enumerate(masked.tolist())],
    "0.2899  0.4656 0.1723  0.4594 0.1703 0.1731  0.2642 0.1024 0.1036 0.0186  "
    "0.2183 0.0874 0.0882 0.0177 0.0786  0.3408 0.1270 0.1290 0.0198 0.1290 0.0078",
)  # fmt: skip
weights = F.softmax(masked / math.sqrt(d_out))
compare("minus infinity, then softmax", weights, HIDDEN)

# %% [markdown]
# **Dropout.** In training some weights are set to zero at random, so that no token relies on a single other one; the
# others are scaled up accordingly, here by two. The choice is drawn from the same stream
# as all random numbers. (The page warns that this may differ on other systems; here it is the same on all.)

# %%
tl.manual_seed(123)
dropout = nn.Dropout(0.5)
compare(
    "half of 36 ones", dropout(tl.ones((6, 6))),
    "2. 2. 0. 2. 2. 0.  0. 0. 0. 2. 0. 2.  2. 2. 2. 2. 0. 2.  0. 2. 2. 0. 0. 2.  0. 2. 0. 2. 0. 2.  0. 2. 2. 2. 2. 0.",
)  # fmt: skip
tl.manual_seed(123)
compare(
    "half of the weights", dropout(weights),
    "2.0000 0.0000 0.0000 0.0000 0.0000 0.0000  0.0000 0.0000 0.0000 0.0000 0.0000 0.0000  "
    "0.7599 0.6194 0.6206 0.0000 0.0000 0.0000  0.0000 0.4921 0.4925 0.0000 0.0000 0.0000  "
    "0.0000 0.3966 0.0000 0.3775 0.0000 0.0000  0.0000 0.3327 0.3331 0.3084 0.3331 0.0000",
)  # fmt: skip
tl.manual_seed(123)
factors = dropout(tl.ones((6, 6)))  # 0 or 1 / (1 - p)
tl.manual_seed(123)
same("Dropout, as a product", weights * factors, dropout(weights))

# %% [markdown]
# All of this as a module, for batches of texts: the last two axes of a batch are what the two axes above were. The
# first T rows and columns of the mask serve a text of T tokens.


# %%
class CausalAttention(nn.Module):
    """Attention to the token itself and to earlier ones, with dropout of weights: (B, T, d_in) -> (B, T, d_out)."""

    def __init__(self, d_in: int, d_out: int, context_length: int, dropout: float, qkv_bias: bool = False):
        self.W_query = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_key = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_value = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.dropout = nn.Dropout(dropout)
        self.mask = tl.ones((context_length, context_length)).triu(1).astype(tl.bool_)

    def forward(self, x: tl.Tensor) -> tl.Tensor:
        T = x.shape[1]
        q, k, v = self.W_query(x), self.W_key(x), self.W_value(x)  # (B, T, d_out)
        scores = (q @ k.swapaxes(1, 2)).masked_fill(self.mask[:T, :T], -math.inf)  # (B, T, T)
        weights = self.dropout(F.softmax(scores / math.sqrt(k.shape[-1])))
        return weights @ v  # (B, T, d_out)


# %% [markdown]
# Two copies of the six tokens are a batch:

# %%
batch = tl.stack([inputs, inputs])  # (2, 6, 3)
tl.manual_seed(123)
causal = CausalAttention(d_in, d_out, context_length=6, dropout=0.0)
CAUSAL = "-0.4519 0.2216  -0.5874 0.0058  -0.6300 -0.0632  -0.5675 -0.0843  -0.5526 -0.0981  -0.5299 -0.1081"
compare("causal attention, first text", causal(batch)[0], CAUSAL)
compare("second text", causal(batch)[1], CAUSAL)
tl.manual_seed(123)
same("CausalAttention", causal(batch), library.CausalAttention(d_in, d_out, 6, 0.0)(batch), within=1e-6)

# %% [markdown]
# ## 3.6 Heads
#
# One set of weights is one pattern of attention. Several heads have several patterns; their results are concatenated,
# so that two heads of two numbers make four.


# %%
class MultiHeadAttentionWrapper(nn.Module):
    """Heads side by side, each a CausalAttention: (B, T, d_in) -> (B, T, num_heads * d_out)."""

    def __init__(
        self, d_in: int, d_out: int, context_length: int, dropout: float, num_heads: int, qkv_bias: bool = False
    ):
        self.heads = nn.ModuleList(
            [CausalAttention(d_in, d_out, context_length, dropout, qkv_bias) for _ in range(num_heads)]
        )

    def forward(self, x: tl.Tensor) -> tl.Tensor:
        return tl.concatenate([head(x) for head in self.heads], axis=-1)


tl.manual_seed(123)
heads = MultiHeadAttentionWrapper(d_in, d_out, context_length=6, dropout=0.0, num_heads=2)
compare("shape of two heads", list(heads(batch).shape), "2 6 4")
compare(
    "two heads side by side", heads(batch)[0],
    "-0.4519 0.2216 0.4772 0.1063  -0.5874 0.0058 0.5891 0.3257  -0.6300 -0.0632 0.6202 0.3860  "
    "-0.5675 -0.0843 0.5478 0.3589  -0.5526 -0.0981 0.5321 0.3428  -0.5299 -0.1081 0.5077 0.3493",
)  # fmt: skip
tl.manual_seed(123)
same("ConcatenatedHeads", heads(batch), library.ConcatenatedHeads(d_in, d_out, 6, 0.0, 2)(batch), within=1e-6)

# %% [markdown]
# **Exercise 3.2.** For two numbers per token instead of four, each head gives one:

# %%
tl.manual_seed(123)
heads = MultiHeadAttentionWrapper(d_in, 1, context_length=6, dropout=0.0, num_heads=2)
compare("shape of two heads of one number", list(heads(batch).shape), "2 6 2")

# %% [markdown]
# All heads in one product: a matrix for all queries, whose result is cut into heads by reshaping, and the same for keys
# and values. A product of four-dimensional tensors is a product of matrices for each text and each head:

# %%
a = tl.tensor([[
    [[0.2745, 0.6584, 0.2775, 0.8573], [0.8993, 0.0390, 0.9268, 0.7388], [0.7179, 0.7058, 0.9156, 0.4340]],
    [[0.0772, 0.3565, 0.1479, 0.5331], [0.4066, 0.2318, 0.4545, 0.9737], [0.4606, 0.5159, 0.4220, 0.5786]],
]])  # fmt: skip  # (1, 2, 3, 4): B texts, H heads, T positions, D channels
compare(
    "products of all heads", a @ a.swapaxes(2, 3),
    "1.3208 1.1631 1.2879  1.1631 2.2150 1.8424  1.2879 1.8424 2.0402  "
    "0.4391 0.7003 0.5903  0.7003 1.3737 1.0620  0.5903 1.0620 0.9912",
)  # fmt: skip
compare(
    "the second head alone", a[0, 1] @ a[0, 1].T,
    "0.4391 0.7003 0.5903  0.7003 1.3737 1.0620  0.5903 1.0620 0.9912",
)  # fmt: skip

# %% [markdown]
# The module cuts queries, keys and values into heads, and mixes the heads by one more Linear at the end. `d_out` is now
# the width of all heads together.


# %%
class MultiHeadAttention(nn.Module):
    """Causal attention with `num_heads` heads of d_out / num_heads numbers: (B, T, d_in) -> (B, T, d_out)."""

    def __init__(
        self, d_in: int, d_out: int, context_length: int, dropout: float, num_heads: int, qkv_bias: bool = False
    ):
        assert d_out % num_heads == 0, "d_out must be divisible by num_heads"
        self.num_heads, self.head_dim = num_heads, d_out // num_heads
        self.W_query = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_key = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_value = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.out_proj = nn.Linear(d_out, d_out)
        self.dropout = nn.Dropout(dropout)
        self.mask = tl.ones((context_length, context_length)).triu(1).astype(tl.bool_)

    def split(self, x: tl.Tensor) -> tl.Tensor:
        B, T, _ = x.shape
        return x.reshape(B, T, self.num_heads, self.head_dim).swapaxes(1, 2)  # (B, T, H, D) -> (B, H, T, D)

    def forward(self, x: tl.Tensor) -> tl.Tensor:
        B, T, _ = x.shape
        q, k, v = self.split(self.W_query(x)), self.split(self.W_key(x)), self.split(self.W_value(x))  # (B, H, T, D)
        scores = (q @ k.swapaxes(2, 3)).masked_fill(self.mask[:T, :T], -math.inf)  # (B, H, T, T)
        weights = self.dropout(F.softmax(scores / math.sqrt(self.head_dim)))
        context = (weights @ v).swapaxes(1, 2).reshape(B, T, -1)  # (B, T, H, D) -> (B, T, d_out)
        return self.out_proj(context)


tl.manual_seed(123)
attention = MultiHeadAttention(d_in, d_out, context_length=6, dropout=0.0, num_heads=2)
HEADS = "0.3190 0.4858  0.2943 0.3897  0.2856 0.3593  0.2693 0.3873  0.2639 0.3928  0.2575 0.4028"
compare("multi-head attention, first text", attention(batch)[0], HEADS)
compare("second text", attention(batch)[1], HEADS)

# %% [markdown]
# The library has this in two forms: `ElementaryMultiHeadAttention`, which is written as above, and
# `MultiHeadAttention`, which computes queries, keys and values in one product and the rest in another function. Both
# agree, also on dropout and on the gradient of every parameter.


# %%
def result_and_gradients(kind: type) -> list[tl.Tensor]:
    """The result for a batch of random numbers, and the gradients of its sum of squares, from seed 123."""
    tl.manual_seed(123)
    module = kind(16, 16, context_length=8, dropout=0.2, num_heads=4)
    y = module(tl.randn(2, 8, 16))
    (y * y).sum().backward()
    return [y, *[p.grad for _, p in sorted(module.named_parameters())]]


ours = result_and_gradients(MultiHeadAttention)
same("ElementaryMultiHeadAttention", ours, result_and_gradients(library.ElementaryMultiHeadAttention), within=1e-6)
same("MultiHeadAttention", ours, result_and_gradients(library.MultiHeadAttention), within=1e-6)

# %% [markdown]
# **Exercise 3.3.** The size of the smallest GPT-2: 768 numbers, 12 heads, 1,024 tokens.

# %%
attention = MultiHeadAttention(768, 768, context_length=1024, dropout=0.0, num_heads=12)
print(f"{attention.num_parameters():,} parameters, heads of {768 // attention.num_heads} numbers")

# %%
page.summary()
