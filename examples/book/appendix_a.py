# %% [markdown]
# # Appendix A: tensors, gradients, training
#
# The book's introduction to PyTorch, with tensorlite: tensors, derivatives, a network, a loader, a loop.
#
#     python examples/book/appendix_a.py

# %% tags=["parameters"]
# Settings. In a notebook change them here; as a script, each is a flag: --out FOLDER.
OUT: str | None = None  # folder for weights; default: tensorlite-book, in the folder for temporary files

# %%
import timeit

import page
from page import compare

import tensorlite as tl
from tensorlite import functional as F
from tensorlite import io, nn, optim
from tensorlite.data import DataLoader

page.flags(globals())
out = page.folder(OUT)

# %% [markdown]
# ## A.2 Tensors
#
# Arrays of any number of axes. The names are NumPy's: `reshape`, `swapaxes`, `axis=`. Python's ints make int64, its
# floats float32.

# %%
for nested in (1, [1, 2, 3], [[1, 2], [3, 4]], [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]):
    x = tl.tensor(nested)
    print(f"{x.ndim} axes, shape {x.shape}, {x.dtype}")
print(tl.tensor([1.0, 2.0]).dtype, tl.tensor([1, 2]).astype(tl.float32).dtype)

x = tl.tensor([[1, 2, 3], [4, 5, 6]])
compare("three rows of two", x.reshape(3, 2), "1 2 3 4 5 6")
compare("turned around", x.T, "1 4 2 5 3 6")
compare("product with itself", x @ x.T, "14 32 32 77")

# %% [markdown]
# ## A.3 and A.4 A graph, and derivatives from it
#
# Logistic regression with one input. Each operation records its inputs; `backward` walks from the loss back
# to the leaves and stores the gradient in `.grad`.

# %%
x, y = tl.tensor([1.1]), tl.tensor([1.0])
w, b = tl.tensor([2.2], requires_grad=True), tl.tensor([0.0], requires_grad=True)
a = tl.sigmoid(w * x + b)
loss = -(y * a.log() + (1 - y) * (1 - a).log()).mean()  # binary cross-entropy
compare("loss", loss, "0.0852")
loss.backward()
compare("gradients", [w.grad, b.grad], "-0.0898 -0.0817")

# %% [markdown]
# By hand: the derivative of this loss with respect to w is (a - y) x, and the second one a (1 - a) x². The page stops
# at the first; a gradient that is differentiated again needs a graph of its own, `create_graph`.

# %%
a = tl.sigmoid(w * x + b)
loss = -(y * a.log() + (1 - y) * (1 - a).log()).mean()
first = tl.grad(loss, w, create_graph=True)
second = tl.grad(first.sum(), w)
print(f"by hand   {((a - y) * x).item():.7f} and {(a * (1 - a) * x * x).item():.7f}")
print(f"autograd  {first.item():.7f} and {second.item():.7f}")


# %% [markdown]
# ## A.5 A network
#
# Three Linear layers with ReLU between them. `forward` says what is computed; the parameters are found among the
# attributes.


# %%
class Network(nn.Module):
    """Two hidden layers, of 30 and 20: (B, inputs) -> scores (B, outputs)."""

    def __init__(self, inputs: int, outputs: int):
        self.layers = nn.Sequential(
            nn.Linear(inputs, 30), nn.ReLU(), nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, outputs)
        )  # fmt: skip

    def forward(self, x: tl.Tensor) -> tl.Tensor:
        return self.layers(x)


tl.manual_seed(123)
model = Network(50, 3)
print(model)
compare("parameters", model.num_parameters(), "2213")
weight = model.layers[0].weight
compare("shape of the first matrix", list(weight.shape), "30 50")
compare("its first numbers", weight[:3, :3], "-0.0577 0.0047 -0.0702  0.0502 0.0307 0.0333  0.1077 -0.1108 0.0122")

tl.manual_seed(123)
x = tl.rand(1, 50)
compare("scores", model(x), "-0.1262 0.1080 -0.1792")
with tl.no_grad():  # no graph is recorded here
    compare("as probabilities", F.softmax(model(x)), "0.3113 0.3934 0.2952")

# %% [markdown]
# ## A.6 A loader
#
# A dataset is anything with a length and items. Five points in a plane, of two classes; batches of two.

# %%
points = [([-1.2, 3.1], 0), ([-0.9, 2.9], 0), ([-0.5, 2.6], 0), ([2.3, -1.1], 1), ([2.7, -1.5], 1)]
train_set = [(tl.tensor(place), label) for place, label in points]
test_set = [(tl.tensor([-0.8, 2.8]), 0), (tl.tensor([2.6, -1.6]), 1)]

tl.manual_seed(123)
batches = list(DataLoader(train_set, batch_size=2, shuffle=True))
compare("batches, points", [x.tolist() for x, _ in batches], "2.3 -1.1 -0.9 2.9  -1.2 3.1 -0.5 2.6  2.7 -1.5")
compare("batches, labels", [y.tolist() for _, y in batches], "1 0  0 0  1")

# %% [markdown]
# A last batch of one point would count as much as one of two; `drop_last` omits it.

# %%
train_loader = DataLoader(train_set, batch_size=2, shuffle=True, drop_last=True)
test_loader = DataLoader(test_set, batch_size=2)
batches = list(train_loader)
compare("full batches alone, points", [x.tolist() for x, _ in batches], "-1.2 3.1 -0.5 2.6  2.3 -1.1 -0.9 2.9")
compare("full batches alone, labels", [y.tolist() for _, y in batches], "0 0  1 0")

# %% [markdown]
# ## A.7 A loop
#
# Forward, loss, backward, step, and reset the gradients, which would add up otherwise.

# %%
tl.manual_seed(123)
model = Network(2, 2)
optimizer = optim.SGD(model.parameters(), lr=0.5)
losses = []
for _epoch in range(3):
    for x, y in train_loader:
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
compare("losses of three epochs", losses, "0.75 0.65 0.44 0.13 0.03 0.00")

# %%
model.eval()
everything = tl.stack([x for x, _ in train_set])
with tl.no_grad():
    scores = model(everything)
compare("scores", scores, "2.8569 -4.1618 2.5382 -3.7548 2.0944 -3.1820 -1.4814 1.4816 -1.7176 1.7342")
compare("probabilities", F.softmax(scores),
        "0.9991 0.0009 0.9982 0.0018 0.9949 0.0051 0.0491 0.9509 0.0307 0.9693")  # fmt: skip
compare("classes", scores.argmax(axis=1), "0 0 0 1 1")


def accuracy(loader: DataLoader) -> float:
    """The share of a loader's points that are classified correctly."""
    with tl.no_grad():
        right = [(model(x).argmax(axis=1) == y).tolist() for x, y in loader]
    return sum(map(sum, right)) / sum(map(len, right))


compare("accuracy, training and test", [accuracy(train_loader), accuracy(test_loader)], "1.0 1.0")

# %% [markdown]
# **Exercise A.3.** How many parameters has the network of the loop?

# %%
compare("parameters", model.num_parameters(), "752")

# %% [markdown]
# **Exercises A.1, A.2 and A.4.** What is installed, and is there a GPU? `gpt doctor` says so in a table. How long does
# a product of two matrices take? On a GPU a small one would mostly be launch time.

# %%
for sizes in ((100, 200, 300), (1000, 2000, 300)):
    a, b = tl.rand(*sizes[:2]), tl.rand(*sizes[1:])
    fastest = min(timeit.repeat(lambda a=a, b=b: a @ b, number=5, repeat=5)) / 5
    print(f"   {a.shape} times {b.shape}: {1e6 * fastest:,.0f} microseconds")

# %% [markdown]
# ## A.8 Saving and loading
#
# The file holds numbers under names, and loading checks all of them: a pickle could hold a program.

# %%
io.save(out / "network.safetensors", model.state_dict())
other = Network(2, 2)
other.load_state_dict(io.load(out / "network.safetensors"))
with tl.no_grad():
    assert other(everything).tolist() == scores.tolist()

# %%
page.summary()
