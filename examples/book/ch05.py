# %% [markdown]
# # Chapter 5: pretraining
#
# A model with random weights, a short story, and ninety updates. At the end the model can recite the story, which is
# not the purpose of a language model, but shows that every part works: loss, gradient, optimizer, sampling.
#
# The numbers on the page are those of seed 123. All random numbers are from one stream: the weights, the order of
# the batches, the dropout masks. A program that draws in the same order has the same run.
#
#     python examples/book/ch05.py               # the page's run: 124M parameters, 90 updates, 9 more in exercise 5.4
#     python examples/book/ch05.py --steps 26    # only for the page's rows 0 to 25
#     python examples/book/ch05.py --small       # every cell in seconds, with a model that is not on the page

# %% tags=["parameters"]
# Settings. In a notebook change them here; as a script, each is a flag: --steps 26.
STEPS = 90  # updates of the weights; 90 on the page, ten epochs of nine
SMALL = False  # a model of two narrow layers, which is not on the page
THREADS = 2  # for large operations
GPT2: str | None = None  # GPT-2's weights: a folder, or a name to download, gpt2 to gpt2-xl
OUT: str | None = None  # folder for weights and pictures; default: tensorlite-book, in the folder for temporary files

# %%
import json
import math
import time
from dataclasses import replace
from pathlib import Path

import page
from matplotlib.figure import Figure
from page import same

import tensorlite as tl
from gpt import pretrained
from gpt.config import PRESETS
from gpt.data import corpus
from gpt.data.download import fetch_model
from gpt.generation import generate, probabilities
from gpt.model import GPT
from tensorlite import functional as F
from tensorlite import io, nn, optim
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
# ## 5.1 Measuring a model's text
#
# The configuration is chapter 4's, with a context of 256 tokens instead of 1,024: attention and memory cost less, and
# the story is short. `init="torch"` and `tie_head=False` are in the preset: the page's model starts from torch's
# default distributions and has a separate head.

# %%
config = replace(PRESETS["book-124m"], context_length=256)
if SMALL:
    config = replace(config, n_layer=2, n_head=2, n_embd=32)
tokenizer = page.tokenizer()

tl.manual_seed(123)
model = GPT(config).eval()  # eval: no dropout until training starts
print(f"{model.num_parameters():,} parameters")


# %% [markdown]
# Text becomes a batch of one row of ids, and such a row becomes text again. `write` is `gpt.generate`, which was
# compared with chapter 4's `generate_text_simple` there.


# %%
def text_to_token_ids(text: str, tokenizer) -> tl.Tensor:
    return tl.tensor([tokenizer.encode(text, allowed_special={"<|endoftext|>"})])  # (1, T)


def token_ids_to_text(token_ids: tl.Tensor, tokenizer) -> str:
    (ids,) = token_ids.tolist()
    return tokenizer.decode(ids)


def write(start: str, tokens: int, **how) -> str:
    """`start` and the model's continuation."""
    idx = text_to_token_ids(start, tokenizer)
    new = tl.tensor(generate(model, idx.tolist(), tokens, **how))
    return token_ids_to_text(tl.concatenate([idx, new], axis=1), tokenizer)


START = "Every effort moves you"
compare("untrained, greedy", write(START, 10), "Every effort moves you rentingetic wasnم refres RexMeCHicular stren")

# %% [markdown]
# **The loss.** Two texts of three tokens, and for each position the correct next token. The model gives every
# token of the vocabulary a probability; only that of the correct one counts. An untrained model gives
# about 1/50,257 to each.

# %%
inputs = tl.tensor([[16833, 3626, 6100], [40, 1107, 588]])  # "every effort moves", "I really like"
targets = tl.tensor([[3626, 6100, 345], [1107, 588, 11311]])  # " effort moves you", " really like chocolate"

with tl.no_grad():
    logits, loss = model(inputs, targets)
p = F.softmax(logits)  # (2, 3, V)
compare("most probable next tokens", p.argmax(axis=-1), "16657 339 42826 49906 29669 41751")

right = p.take_along_axis(targets.expand_dims(-1)).squeeze(-1)  # (2, 3): probabilities of the correct tokens
compare("text 1, p of the right tokens", right[0], "7.4541e-05 3.1061e-05 1.1563e-05")
compare("text 2, p of the right tokens", right[1], "1.0337e-05 5.6776e-05 4.7559e-06")
compare("their logarithms", right.log(), "-9.5042 -10.3796 -11.3677 -11.4798 -9.7764 -12.2561")

# %% [markdown]
# The loss is minus the mean of these logarithms: cross-entropy. The model's `forward` computes it in one pass without
# the logarithm of a tiny number, and `F.cross_entropy` too; written out it is the same. Its exponential, the
# perplexity, is the number of equally likely tokens with the same loss: nearly all of the vocabulary.


# %%
def cross_entropy(logits: tl.Tensor, targets: tl.Tensor) -> tl.Tensor:
    """Minus the mean log-probability of the targets (B, T) in the logits (B, T, V)."""
    shifted = logits - logits.max(axis=-1, keepdims=True)  # so that no exponential overflows
    logarithms = shifted - shifted.exp().sum(axis=-1, keepdims=True).log()
    return -logarithms.take_along_axis(targets.expand_dims(-1)).mean()


same("cross_entropy", [cross_entropy(logits, targets)] * 2, [F.cross_entropy(logits, targets), loss], within=1e-6)
compare("mean logarithm", right.log().mean(), "-10.7940")
compare("cross-entropy", loss, "10.7940")
compare("perplexity", loss.exp(), "48725.8203")

# %% [markdown]
# From March to May 2024 the notebook in the book's repository had other targets for the second text, and another loss.
# Since then it shows 10.7940, as in print.

# %%
with tl.no_grad():
    _, other = model(inputs, tl.tensor([[3626, 6100, 345], [588, 428, 11311]]))
compare("cross-entropy, the targets of March to May 2024", other, "10.7722")

# %% [markdown]
# **The data.** The first nine tenths of the characters are for training. Windows of 256 tokens do not overlap (the
# stride is as long as the window), two make a batch: nine batches for training, one for validation.

# %%
text = corpus.read_text(page.data("the-verdict"))
train_text, validation_text = corpus.split(text, 0.9)
train_ids, validation_ids = tokenizer.encode(train_text), tokenizer.encode(validation_text)
page.compare("characters", len(text), "20479")
page.compare("tokens", len(tokenizer.encode(text)), "5145")

T = config.context_length
train_loader = DataLoader(Windows(train_ids, T, stride=T), batch_size=2, shuffle=True, drop_last=True)
validation_loader = DataLoader(Windows(validation_ids, T, stride=T), batch_size=2)
page.compare("batches", [len(train_loader), len(validation_loader)], "9 1")
page.compare(
    "tokens in them", [sum(x.size for x, _ in loader) for loader in (train_loader, validation_loader)], "4608 512"
)  # fmt: skip


# %%
def calc_loss_batch(input_batch: tl.Tensor, target_batch: tl.Tensor, model: GPT) -> tl.Tensor:
    logits, _ = model(input_batch)
    return F.cross_entropy(logits, target_batch)


def calc_loss_loader(data_loader: DataLoader, model: GPT, num_batches: int | None = None) -> float:
    """The mean loss of the first batches or of all. Takes random numbers from the loader's stream."""
    wanted = len(data_loader) if num_batches is None else min(num_batches, len(data_loader))
    total = 0.0
    for i, (x, y) in enumerate(data_loader):
        if i == wanted:
            break
        total += calc_loss_batch(x, y, model).item()
    return total / wanted


tl.manual_seed(123)
with tl.no_grad():
    compare("training loss before training", calc_loss_loader(train_loader, model), "10.98758")
    compare("validation loss before training", calc_loss_loader(validation_loader, model), "10.98111")

# %% [markdown]
# ## 5.2 Training
#
# The loop. After every fifth update both losses are measured, over five batches each. This evaluation changes the
# run: each pass over the training loader shuffles it, and that takes two numbers from the same stream
# as the dropout masks. `gpt train` evaluates on fixed windows instead, so that the frequency of evaluations
# does not matter; here the order must be the page's.
#
# The optimizer decays all parameters, including biases and norms (`decay_groups` would exclude those).

# %%
LOG = {  # step: training and validation loss; the page prints those to step 25, the notebook all
    0: "9.781 9.933", 5: "8.111 8.339", 10: "6.661 7.048", 15: "5.961 6.616", 20: "5.726 6.600", 25: "5.201 6.348",
    30: "4.417 6.278", 35: "4.069 6.226", 40: "3.732 6.160", 45: "2.850 6.179", 50: "2.427 6.141", 55: "2.104 6.134",
    60: "1.882 6.233", 65: "1.320 6.238", 70: "0.985 6.242", 75: "0.717 6.293", 80: "0.541 6.393", 85: "0.391 6.452",
}  # fmt: skip
SAMPLES = [  # after each epoch; line ends are shown as spaces
    ",,,,,,,,,,,,." + 37 * " ",
    ", and, and, and, and, and, and, and, and, and, and, and, and, and, and, and, and, and, and, and, and, and, and,, "
    "and, and,",
    ", and I had been." + 44 * " ",
    " know the" + 26 * " " + '"I he had the donkey and I had the and I had the donkey and down the room, I had',
    " know it was not that the picture--I had the fact by the last I had been--his, and in the" + 12 * " "
    + '"Oh, and he said, and down the room, and in',
    ' know," was one of the picture. The--I had a little of a little: "Yes, and in fact, and in the picture was, and I '
    "had been at my elbow and as his pictures, and down the room, I had",
    ' know," was one of the picture for nothing--I told Mrs.  "I was no--as! The women had been, in the moment--as '
    "Jack himself, as once one had been the donkey, and were, and in his",
    ' know," was one of the axioms he had been the tips of a self-confident moustache, I felt to see a smile behind '
    'his close grayish beard--as if he had the donkey. "strongest," as his',
    '?"  "Yes--quite insensible to the irony. She wanted him vindicated--and by me!"  He laughed again, and threw back '
    'the window-curtains, I had the donkey. "There were days when I',
    ' know," was one of the axioms he laid down across the Sevres and silver of an exquisitely appointed '
    "luncheon-table, when, on a later day, I had again run over from Monte Carlo; and Mrs. Gis",
]  # fmt: skip


def evaluate_model(model: GPT, train_loader: DataLoader, val_loader: DataLoader, eval_iter: int) -> list[float]:
    """The mean loss on training and on validation batches, without dropout."""
    model.eval()
    with tl.no_grad():
        losses = [calc_loss_loader(loader, model, eval_iter) for loader in (train_loader, val_loader)]
    model.train()
    return losses


def train_model_simple(
    model: GPT, train_loader: DataLoader, val_loader: DataLoader, optimizer: optim.Optimizer, steps: int,
    eval_freq: int, eval_iter: int, log: dict[int, str], samples: list[str],
) -> list[list[float]]:  # fmt: skip
    """Train for that many updates; print a row of the log after every `eval_freq`, and a sample after every epoch.

    Returns the rows: tokens seen, training loss, validation loss.
    """
    history: list[list[float]] = []
    tokens_seen, global_step = 0, -1
    for epoch in range(math.ceil(steps / len(train_loader))):
        model.train()
        for x, y in train_loader:
            optimizer.zero_grad()
            loss = calc_loss_batch(x, y, model)
            loss.backward()
            optimizer.step()
            tokens_seen, global_step = tokens_seen + x.size, global_step + 1
            if global_step % eval_freq == 0:
                losses = evaluate_model(model, train_loader, val_loader, eval_iter)
                history.append([tokens_seen, *losses])
                source = "page" if global_step <= 25 else "notebook"
                compare(
                    f"Ep {epoch + 1} (Step {global_step:06d}): Train loss, Val loss", losses, log[global_step], source
                )
            if global_step == steps - 1:
                break
        if (global_step + 1) % len(train_loader) == 0:
            compare(f"sample of epoch {epoch + 1}", write(START, 50).replace("\n", " "), START + samples[epoch])
    return history


# %% [markdown]
# The page's run. The seed is set again, so that it does not depend on the random numbers used above;
# from here on all numbers are drawn in the page's order. Each row is compared when it is printed. README.md in this
# folder says what may differ, and why.

# %%
tl.manual_seed(123)
model = GPT(config)
optimizer = optim.AdamW(model.parameters(), lr=4e-4, weight_decay=0.1)
begun = time.perf_counter()
history = train_model_simple(model, train_loader, validation_loader, optimizer, STEPS, 5, 5, LOG, SAMPLES)
print(f"{STEPS} updates in {time.perf_counter() - begun:.0f} s")

# %% [markdown]
# The curves diverge early: the model memorizes the story, which does not help with the tenth of it that it has not
# seen. More text would help; the chapters on fine-tuning start from weights that were trained on much more.


# %%
def plot_losses(history: list[list[float]], path: Path) -> None:
    seen, training, validation = zip(*history, strict=True)
    epochs = [tokens / (len(train_loader) * 2 * T) for tokens in seen]
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(epochs, training, "o-", color="#2f6fb5", markersize=3, label="training")
    axes.plot(epochs, validation, "o--", color="#c2410c", markersize=3, label="validation")
    axes.set(xlabel="epochs", ylabel="loss (nats per token)", ylim=(0, 1.05 * max(*training, *validation)))
    axes.secondary_xaxis(
        "top", functions=(lambda e: e * len(train_loader) * 2 * T, lambda n: n / (len(train_loader) * 2 * T))
    ).set_xlabel("tokens seen")
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)
    page.picture(figure, "ch05-losses", path)


if history:
    plot_losses(history, out)

# %% [markdown]
# ## 5.3 Sampling
#
# Always taking the most probable token gives a text that repeats itself. Instead a token can be drawn: from the
# probabilities themselves, or from sharper or flatter ones. Dividing the logits by a *temperature* below 1 sharpens,
# above 1 flattens. An example with nine words and their logits:

# %%
words = ["closer", "every", "effort", "forward", "inches", "moves", "pizza", "toward", "you"]
next_logits = tl.tensor([4.51, 0.89, -1.90, 6.75, 1.63, -1.62, -1.89, 6.28, 1.79])
temperatures = [1.0, 0.1, 5.0]


def softmax_with_temperature(logits: tl.Tensor, temperature: float) -> tl.Tensor:
    return F.softmax(logits / temperature)


scaled = [softmax_with_temperature(next_logits, temperature) for temperature in temperatures]
same("probabilities", scaled, [probabilities(next_logits, temperature) for temperature in temperatures])
print("the most probable word:", words[int(next_logits.argmax().item())])


def sampled_tokens(p: tl.Tensor, draws: int = 1000) -> list[int]:
    """How often each word is drawn in that many draws, from seed 123."""
    tl.manual_seed(123)
    drawn = [int(tl.multinomial(p).item()) for _ in range(draws)]
    return [drawn.count(i) for i in range(len(words))]


page.compare("drawn at temperature 1", sampled_tokens(scaled[0]), "73 0 0 582 2 0 0 343 0")
page.compare("drawn at temperature 0.1", sampled_tokens(scaled[1]), "0 0 0 985 0 0 0 15 0")
page.compare("drawn at temperature 5", sampled_tokens(scaled[2]), "165 75 42 239 71 46 32 227 103")

# %%
figure = Figure(figsize=(6, 3.4), layout="constrained")
axes = figure.subplots()
for i, (temperature, p) in enumerate(zip(temperatures, scaled, strict=True)):
    places = [place + 0.27 * (i - 1) for place in range(len(words))]
    axes.bar(places, p.tolist(), 0.25, label=f"temperature {temperature:g}", color=["#2f6fb5", "#0f172a", "#f59e0b"][i])
axes.set_xticks(range(len(words)), words, rotation=45)
axes.set_ylabel("probability")
axes.legend(frameon=False)
axes.spines[["top", "right"]].set_visible(False)
page.picture(figure, "ch05-temperature", out)

# %% [markdown]
# **Exercise 5.1.** How likely is pizza at temperature 5? A thousand draws gave 3.2 %; no draw is needed, since the
# probability itself is known.

# %%
page.compare("pizza, in a thousand draws", sampled_tokens(scaled[2])[words.index("pizza")] / 1000, "0.032")
page.compare("pizza, exactly", scaled[2][words.index("pizza")], "0.0430")

# %% [markdown]
# **Top-k.** Flat probabilities also give unsuitable tokens a chance. So keep only the k largest logits, and give all
# others probability zero.

# %%
top, places = next_logits.topk(3)
page.compare("the three largest logits", top, "6.7500 6.2800 4.5100")
page.compare("their places", places, "3 7 0")
smallest = top[-1]
kept = F.softmax(next_logits.masked_fill(next_logits < smallest, -math.inf))
same("probabilities, top 3", kept, probabilities(next_logits, top_k=3))
page.compare(
    "probabilities of the top 3", kept,
    "0.0615 0.0000 0.0000 0.5775 0.0000 0.0000 0.0000 0.3610 0.0000",
)  # fmt: skip

# %% [markdown]
# Both together, with the model: the logits of the last position, restricted to the k largest, divided by the
# temperature (0: the most probable token is taken), and a draw. The text ends before the token `eos_id`. (It is the
# page's text only if training was the page's to the last digit: each drawn token depends on 50,257 probabilities.)


# %%
def generate_by_hand(
    model: GPT, idx: tl.Tensor, max_new_tokens: int, context_size: int,
    temperature: float = 0.0, top_k: int | None = None, eos_id: int | None = None,
) -> tl.Tensor:  # fmt: skip
    """`idx` (1, T) and up to `max_new_tokens` more columns."""
    for _ in range(max_new_tokens):
        with tl.no_grad():
            logits = model(idx[:, -context_size:])[0][:, -1]  # (1, V)
        if top_k is not None:
            smallest = logits.topk(top_k)[0][:, -1:]
            logits = logits.masked_fill(logits < smallest, -math.inf)
        if temperature > 0:
            idx_next = tl.multinomial(softmax_with_temperature(logits, temperature))  # (1, 1)
        else:
            idx_next = logits.argmax(axis=-1, keepdims=True)
        if eos_id is not None and idx_next.item() == eos_id:
            break
        idx = tl.concatenate([idx, idx_next.reshape(1, 1)], axis=1)
    return idx


model.eval()
tl.manual_seed(123)
ours = generate_by_hand(model, text_to_token_ids(START, tokenizer), 15, T, top_k=25, temperature=1.4)
drawn = token_ids_to_text(ours, tokenizer)
if STEPS == 90:
    theirs = " stand to work on surprise, a one of us had gone with random-"
    compare("drawn, top 25, temperature 1.4", drawn, START + theirs)
else:
    print(drawn)
tl.manual_seed(123)
same("generate", drawn, write(START, 15, top_k=25, temperature=1.4))

# %% [markdown]
# **Exercise 5.2.** Low temperature and small k where there is one correct continuation: code, facts, instructions. High
# values for variety. Here are three settings of each, with the same random numbers:

# %%
for temperature, k in [(0.2, 5), (1.0, 25), (2.0, None)]:
    print(f"temperature {temperature}, top {k}: {write(START, 15, temperature=temperature, top_k=k, seed=123)!r}")

# %% [markdown]
# **Exercise 5.3.** Two settings are deterministic: temperature 0, and k = 1.

# %%
greedy = write(START, 25)
for seed in (1, 2):
    assert greedy == write(START, 25, temperature=5.0, top_k=1, seed=seed)
if STEPS == 90:
    theirs = ' know," was one of the axioms he laid down across the Sevres and silver of an exquisitely appointed lun'
    compare("greedy, 25 tokens", greedy, START + theirs)

# %% [markdown]
# ## 5.4 Saving and loading
#
# Weights are saved in a safetensors file, which holds numbers and no code. To continue training, AdamW's
# state is needed too: two averages for every weight, a file twice as large.

# %%
out.mkdir(parents=True, exist_ok=True)
io.save(out / "model.safetensors", model.state_dict())
memory = optimizer.state_dict()
io.save(out / "optimizer.safetensors", memory["tensors"], {"steps": " ".join(map(str, memory["steps"]))})

del model, optimizer, memory  # as in a new session, and 2.6 GB less
model = GPT(config)
model.load_state_dict(io.load(out / "model.safetensors"))
optimizer = optim.AdamW(model.parameters(), lr=4e-4, weight_decay=0.1)
steps = [int(n) for n in io.metadata(out / "optimizer.safetensors")["steps"].split()]
optimizer.load_state_dict({"steps": steps, "tensors": io.load(out / "optimizer.safetensors")})
assert write(START, 25) == greedy

# %% [markdown]
# **Exercise 5.4.** One more epoch from the saved state, again with seed 123. (The saved optimizer is 1.3 GB for the
# page's model; delete the folder afterwards.)

# %%
if STEPS == 90:
    more = (
        '?"  "Yes--quite insensible to the irony. She wanted him vindicated--and by me!"  He laughed again, and threw '
        'back his head to look up at the sketch of the donkey. "There were days when I'
    )
    tl.manual_seed(123)
    further = {0: "0.271 6.545", 5: "0.244 6.614"}
    train_model_simple(model, train_loader, validation_loader, optimizer, len(train_loader), 5, 5, further, [more])

# %% [markdown]
# ## 5.5 GPT-2's weights
#
# The same class holds OpenAI's weights: with biases on queries, keys and values, and a head tied to the token
# embedding. In their files a matrix is (inputs, outputs), and queries, keys and values are side by side in one. Here a
# folder of that format with small random matrices is written first, so that the code runs without a download.


# %%
def assign(left: nn.Parameter, right: tl.Tensor) -> nn.Parameter:
    """The numbers of `right` as a Parameter of the shape of `left`."""
    if left.shape != right.shape:
        raise ValueError(f"shapes differ: {left.shape} and {right.shape}")
    return nn.Parameter(right.clone())


def load_weights_into_gpt(gpt: GPT, params: dict[str, tl.Tensor]) -> None:
    """Give the model the weights `params`, by their names in Hugging Face's files."""

    def load(layer, name: str, weight: tl.Tensor | None = None, bias: tl.Tensor | None = None) -> None:
        layer.weight = assign(layer.weight, params[f"{name}.weight"].T if weight is None else weight)
        layer.bias = assign(layer.bias, params[f"{name}.bias"] if bias is None else bias)

    gpt.token_embedding.weight = assign(gpt.token_embedding.weight, params["wte.weight"])
    gpt.position_embedding.weight = assign(gpt.position_embedding.weight, params["wpe.weight"])
    for i, block in enumerate(gpt.blocks):
        weights = tl.split(params[f"h.{i}.attn.c_attn.weight"], 3, axis=-1)
        biases = tl.split(params[f"h.{i}.attn.c_attn.bias"], 3)
        for name, weight, bias in zip(("W_query", "W_key", "W_value"), weights, biases, strict=True):
            load(getattr(block.attention, name), "", weight.T, bias)
        load(block.attention.out_proj, f"h.{i}.attn.c_proj")
        load(block.feed_forward.expand, f"h.{i}.mlp.c_fc")
        load(block.feed_forward.contract, f"h.{i}.mlp.c_proj")
        load(block.norm1, f"h.{i}.ln_1")
        load(block.norm2, f"h.{i}.ln_2")
    load(gpt.final_norm, "ln_f")
    gpt.head.weight = assign(gpt.head.weight, params["wte.weight"])  # the page's head is a copy of the embedding


def random_gpt2(V: int, T: int, C: int, layers: int) -> dict[str, tl.Tensor]:
    """Random weights under the names of GPT-2's."""
    shapes: dict[str, tuple[int, ...]] = {"wte.weight": (V, C), "wpe.weight": (T, C)}
    matrices = {"attn.c_attn": (C, 3 * C), "attn.c_proj": (C, C), "mlp.c_fc": (C, 4 * C), "mlp.c_proj": (4 * C, C)}
    for i in range(layers):
        for name, shape in matrices.items():
            shapes |= {f"h.{i}.{name}.weight": shape, f"h.{i}.{name}.bias": shape[1:]}
    norms = ["ln_f", *[f"h.{i}.ln_{n}" for i in range(layers) for n in (1, 2)]]
    shapes |= {f"{norm}.{kind}": (C,) for norm in norms for kind in ("weight", "bias")}
    return {name: tl.randn(*shape) for name, shape in shapes.items()}


folder = out / "small-gpt2"
folder.mkdir(exist_ok=True)
tl.manual_seed(123)
params = random_gpt2(V=100, T=16, C=8, layers=2)
io.save(folder / "model.safetensors", params)
sizes = {"vocab_size": 100, "n_positions": 16, "n_embd": 8, "n_layer": 2, "n_head": 2}
(folder / "config.json").write_text(json.dumps({"model_type": "gpt2", **sizes}), encoding="utf-8")

library = pretrained.load(folder).eval()
ours = GPT(replace(library.config, tie_head=False)).eval()
load_weights_into_gpt(ours, params)
ids = tl.tensor([[1, 2, 3, 4, 5]])
with tl.no_grad():
    same("pretrained.load", ours(ids)[0], library(ids)[0], within=1e-6)

# %% [markdown]
# OpenAI's are 0.5 GB, which this script downloads only on request: `--gpt2` names a folder that has them, or downloads
# them, as in `--gpt2 gpt2`.
#
# **Exercises 5.5 and 5.6.** The loss of those weights on the story, which is about the same on both of its parts: this
# model has not memorized it. A larger one, `--gpt2 gpt2-xl`, has a lower loss.

# %%
if GPT2 is None:
    print("without --gpt2 this part is skipped")
else:
    folder = Path(GPT2)
    model = pretrained.load(folder if folder.is_dir() else fetch_model(GPT2)).eval()
    print(f"{GPT2}: {model.num_parameters():,} parameters")
    theirs = {  # by the number of layers: a drawn text, and the losses on the story
        12: (" toward finding an ideal new way to practice something!\n\nWhat makes us want to be on top of that?\n\n",
             "3.75475 3.55962"),
        48: (" toward finding an ideal life. You don't have to accept your current one at once, because if you do "
             "you'll never", "3.30463 3.11951"),
    }.get(model.config.n_layer)  # fmt: skip
    tl.manual_seed(123)
    drawn = write(START, 25, top_k=50, temperature=1.5)
    tl.manual_seed(123)
    with tl.no_grad():
        losses = [calc_loss_loader(loader, model) for loader in (train_loader, validation_loader)]
    if theirs:
        page.compare("drawn, top 50, temperature 1.5", drawn, START + theirs[0])
        page.compare("losses on the story", losses, theirs[1])
    else:
        print(drawn, losses, sep="\n")

# %%
page.summary()
