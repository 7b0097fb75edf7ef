# %% [markdown]
# # Appendix D: a better training loop
#
# Three parts of long runs that chapter 5 does not have: a learning rate that first rises and then falls, and
# gradients of limited norm. On a short story they have little effect; each is a few lines of code.
#
#     python examples/book/appendix_d.py               # the page's run: 124M parameters, 135 updates
#     python examples/book/appendix_d.py --steps 16    # the rows that the page shows of its beginning
#     python examples/book/appendix_d.py --small       # every cell in seconds

# %% tags=["parameters"]
# Settings. In a notebook change them here; as a script, each is a flag: --steps 16.
STEPS = 135  # updates of the weights; 135 on the page, fifteen epochs of nine
SMALL = False  # a model of two narrow layers, which is not on the page
THREADS = 2  # for large operations
OUT: str | None = None  # folder for pictures; default: tensorlite-book, in the folder for temporary files

# %%
import math
from dataclasses import replace

import page
from matplotlib.figure import Figure

import tensorlite as tl
from gpt.config import PRESETS
from gpt.data import corpus
from gpt.generation import generate
from gpt.model import GPT
from tensorlite import optim
from tensorlite.data import DataLoader, Windows
from tensorlite.devices import machine

page.flags(globals())
out = page.folder(OUT)
print(machine.set_threads(THREADS))


def compare(name: str, ours, theirs: str, source: str = "page") -> None:
    """page.compare, if the model is the page's."""
    if SMALL:
        print(f"   {name}: {ours}")
    else:
        page.compare(name, ours, theirs, source)


# %% [markdown]
# Model and data are chapter 5's. (The page makes the model before the loaders, and seeds again in between; the order of
# the batches below depends on that second seed alone.)

# %%
config = replace(PRESETS["book-124m"], context_length=256)
if SMALL:
    config = replace(config, n_layer=2, n_head=2, n_embd=32)
tokenizer = page.tokenizer()
T = config.context_length
parts = [tokenizer.encode(part) for part in corpus.split(corpus.read_text(page.data("the-verdict")), 0.9)]
tl.manual_seed(123)
train_loader = DataLoader(Windows(parts[0], T, stride=T), batch_size=2, shuffle=True, drop_last=True)
validation_loader = DataLoader(Windows(parts[1], T, stride=T), batch_size=2)

# %% [markdown]
# ## D.1 Warm-up
#
# AdamW divides by an average of past gradients, which at first covers only a few steps. The learning
# rate therefore rises linearly from a small value, here for a fifth of the run.

# %%
EPOCHS, INITIAL, PEAK = 15, 0.0001, 0.01
total = EPOCHS * len(train_loader)
warmup = int(0.2 * total)
page.compare("steps of warm-up", warmup, "27")
rising = [min(INITIAL + step * (PEAK - INITIAL) / warmup, PEAK) for step in range(total)]

# %% [markdown]
# ## D.2 Cosine decay
#
# Later steps should become smaller: from the peak the rate falls along half a cosine, slowly at both ends.
# `optim.warmup_cosine` does both, as a function of the step alone; its formula is
# min + (peak - min) (1 + cos(pi progress)) / 2.

# %%
LOWEST = 0.1 * INITIAL
rates = [
    optim.warmup_cosine(step, lr=PEAK, min_lr=LOWEST, warmup=warmup, total=total, initial=INITIAL)
    for step in range(total)
]
assert max(abs(a - b) for a, b in zip(rates[: warmup + 1], rising, strict=False)) < 1e-12
progress = (80 - warmup) / (total - warmup)
print("step 80:", rates[80], "by hand", LOWEST + (PEAK - LOWEST) * (1 + math.cos(math.pi * progress)) / 2)

figure = Figure(figsize=(8, 3), layout="constrained")
for axes, values, title in zip(figure.subplots(1, 2), (rising, rates), ("warm-up", "warm-up and cosine"), strict=True):
    axes.plot(values, color="#2f6fb5")
    axes.set(title=title, xlabel="step", ylabel="learning rate", ylim=(0, 1.05 * PEAK))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
page.picture(figure, "appendix-d-rates", out)

# %% [markdown]
# ## D.3 Clipping
#
# An unusual batch can have a gradient a hundred times as long as the others. If the norm of the whole gradient
# exceeds 1, it is scaled to norm 1, in the same direction. First the norm of a simple vector:

# %%
g = tl.tensor([[1.0, 2.0], [2.0, 4.0]])
page.compare("length of (1, 2, 2, 4)", g.norm(), "5")
page.compare("shortened to 1", g * optim.clip_scale(5.0, 1.0), "0.2 0.4 0.4 0.8")

# %% [markdown]
# Then of the model's gradient. The page takes the last batch of its two loops over fifteen epochs, one for each picture
# above; so we draw as many. Here the gradients themselves are not changed: the factor is passed to `step`.

# %%
for _ in range(2 * EPOCHS):
    for x, y in train_loader:  # noqa: B007
        pass
tl.manual_seed(123)
model = GPT(config)
model(x, y)[1].backward()
largest = max(p.grad.max().item() for p in model.parameters())
compare("largest entry of the gradient", largest, "0.0411")
factor = optim.clip_scale(optim.grad_norm(model.parameters()), 1.0)
compare("after clipping", largest * factor, "0.0185")

# %% [markdown]
# ## D.4 All of it
#
# Chapter 5's loop with three more lines. Clipping begins after the warm-up, as on the page. Each evaluation uses
# one batch here, and the peak rate is 0.001. (The repository's notebook sets a `peak_lr` that its optimizer never gets:
# AdamW's own default, 0.001, is what both print.) The page shows the rows of steps 0, 5, 10, 15 and 130 and the samples
# of epochs 1, 2 and 15; the rest are from the notebook before November 2025, which agrees with the page in these.

# %%
LOG = {  # step: the training and validation loss that the repository's notebook prints; the page shows five of the rows
    0: "10.934 10.939", 5: "9.151 9.461", 10: "7.949 8.184", 15: "6.362 6.876", 20: "5.851 6.607", 25: "5.750 6.634",
    30: "5.225 6.944", 35: "4.304 6.512", 40: "3.736 6.383", 45: "2.395 6.244", 50: "2.948 6.279", 55: "2.316 6.169",
    60: "1.003 6.343", 65: "0.860 6.348", 70: "1.117 6.375", 75: "0.367 6.498", 80: "0.289 6.612", 85: "0.263 6.700",
    90: "0.151 6.788", 95: "0.097 6.805", 100: "0.081 6.832", 105: "0.089 6.900", 110: "0.045 6.911",
    115: "0.047 6.903", 120: "0.038 6.907", 125: "0.040 6.912", 130: "0.041 6.915",
}  # fmt: skip
START = "Every effort moves you"
RECITED = (
    '?"  "Yes--quite insensible to the irony. She wanted him vindicated--and by me!"  He laughed again, and threw '
    'back his head to look up at the sketch of the donkey. "There were days when I'
)
SAMPLES = [  # after each epoch; line ends are shown as spaces
    50 * ",",
    ",,,,,,,,,,,,,,,,,,, the,,,,,,,,, the,,,,,,,,,,, the,,,,,,,,",
    '. "I"I and I had to the to the to the and the of the to the of the to Gisburn, and the of the the of the of the '
    "to the to the of the of the of the to the of",
    ' know   "--and--and--I                 ", and, and, and, and I had been, and, and " it.   ',
    ' know the picture to have the picture--his--his, the donkey of a little: "strong, with a little of the donkey, '
    "in the picture--as, with a little of his painting, the donkey, the donkey, with a little",
    "?\"     I, and he had a little the in a flash that he was a little the fact, and in the picture. Gisburn's my "
    "unexpected discovery; and as I had the picture--the. He was his",
    '?"  "Yes--I glanced after him, so inevitably the last word. Gisburn\'s past! The women had been his pictures I '
    "remember getting off a prodigious phrase about the honour being _mine_--because he didn't say",
    '?" "I that my hostess was "interesting": on that point I could have given Miss Croft the fact, and Mrs. "I must '
    "have Jack himself, I had again run over from Monte Carlo; and Mrs. Gis",
    '?" " on--forming, as it were, so inevitably the background of the house."  " went on groping and muddling; then I '
    "looked at the donkey again. I may be pardoned the bull--that I found",
    *(6 * [RECITED]),
]


def first_losses() -> list[float]:
    """The loss of the first batch of each loader, without dropout."""
    model.eval()
    with tl.no_grad():
        losses = [model(*next(iter(loader)))[1].item() for loader in (train_loader, validation_loader)]
    model.train()
    return losses


def train(optimizer: optim.Optimizer, steps: int, peak: float, initial: float, lowest: float) -> None:
    step = -1
    for epoch in range(1, math.ceil(steps / len(train_loader)) + 1):
        model.train()
        for x, y in train_loader:
            step += 1
            optimizer.zero_grad()
            optimizer.lr = optim.warmup_cosine(
                step, lr=peak, min_lr=lowest, warmup=warmup, total=total, initial=initial
            )
            model(x, y)[1].backward()
            clip = step > warmup
            scale = optim.clip_scale(optim.grad_norm(model.parameters()), 1.0) if clip else 1.0
            optimizer.step(grad_scale=scale)
            if step % 5 == 0:
                name, losses = f"Ep {epoch} (Iter {step:06d}): Train loss, Val loss", first_losses()
                compare(name, losses, LOG[step], "page" if step in (0, 5, 10, 15, 130) else "notebook")
            if step == steps - 1:
                break
        if (step + 1) % len(train_loader) == 0:
            ids = tokenizer.encode(START)
            (new,) = generate(model, [ids], 50)
            written = tokenizer.decode(ids + new).replace("\n", " ")
            source = "page" if epoch in (1, 2, 15) else "notebook"
            compare(f"sample of epoch {epoch}", written, START + SAMPLES[epoch - 1], source)


tl.manual_seed(123)
model = GPT(config)
optimizer = optim.AdamW(model.parameters(), weight_decay=0.1)
train(optimizer, STEPS, peak=0.001, initial=1e-5, lowest=1e-5)

# %%
page.summary()
