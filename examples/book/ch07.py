# %% [markdown]
# # Chapter 7: following instructions
#
# A model that continues text is trained to answer. It needs no new head and no new loss: instruction and answer are
# one text in a fixed format, and the model learns to continue it. Its text after "### Response:" is the answer.
#
# The page starts from GPT-2 medium, 1.4 GB that this script downloads only on request. Without those weights a
# small model is trained from scratch. It learns the form of an answer and little else: eleven hundred entries
# teach a style, not a language.
#
#     python examples/book/ch07.py                          # a small model from random weights
#     python examples/book/ch07.py --gpt2 gpt2-medium       # the page's run; --gpt2 FOLDER for downloaded weights
#     python examples/book/ch07.py --steps 20               # a shorter run
#
# `gpt finetune instruct`, `gpt chat` and `gpt judge` do the same, with checkpoints, a chat and tables.

# %%
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import page
from matplotlib.figure import Figure

import tensorlite as tl
from gpt import lora, pretrained
from gpt.config import GPTConfig
from gpt.data.download import fetch_model
from gpt.generate import generate
from gpt.model import GPT
from gpt.tasks import instruct
from gpt.tasks.instruct.judge import Api, judge, summary
from tensorlite import functional as F
from tensorlite import io, optim
from tensorlite.data import DataLoader
from tensorlite.devices import machine


@dataclass
class Options:
    """Chapter 7: following instructions."""

    gpt2: str | None = None  # GPT-2's weights: a folder, or a name to download, gpt2 to gpt2-xl
    steps: int = 232  # updates of the weights: two epochs of 116
    answers: int = 110  # test entries that are answered
    judge: str | None = None  # address of Ollama, such as http://localhost:11434; default: scores without a server
    threads: int = 2  # for large operations
    out: Path = page.OUT  # folder for answers, weights and pictures


options = page.options(Options)
print(machine.set_threads(options.threads))


def compare(name: str, ours, theirs: str) -> None:
    """page.compare, if the model is the page's: GPT-2 medium."""
    if options.gpt2 and model.config.n_layer == 24:
        page.compare(name, ours, theirs)
    elif isinstance(ours, str):
        print(f"   {name}: {ours!r}")
    else:
        print(f"   {name}: {' '.join(f'{value:.3f}' for value in page.flatten(ours))}")


# %% [markdown]
# ## 7.2 The entries
#
# 1,100 entries: an instruction, sometimes an input, an expected answer. The first 85 % are for training, the next
# 10 % for testing, the rest for validation.

# %%
entries = instruct.read_entries(page.data("instructions"))
page.compare("entries", len(entries), "1100")
page.compare("input of entry 50", entries[50]["input"], "Ocassion")
page.compare("output of entry 50", entries[50]["output"], "The correct spelling is 'Occasion.'")
page.compare("output of entry 999", entries[999]["output"], "An antonym of 'complicated' is 'simple'.")
parts = instruct.split(entries)
page.compare("training, validation, test", [len(parts.train), len(parts.validation), len(parts.test)], "935 55 110")

print("-----", instruct.format_alpaca(entries[50]) + "\n\n### Response:\n" + entries[50]["output"], "-----", sep="\n")

# %% [markdown]
# **Exercise 7.1.** Phi-3's format is shorter, so that every step costs less:

# %%
tokenizer = page.tokenizer()
print("-----", instruct.format_phi3(entries[50]), "-----", sep="\n")
for style in ("alpaca", "phi3"):
    print(f"   {style}: {sum(len(instruct.encode(entry, tokenizer, style).ids) for entry in parts.train):,} tokens")

# %% [markdown]
# ## 7.3 Batches
#
# Texts of different lengths are padded with the end of text, 50256. In the targets the first padding
# token stays, so that the model learns where an answer ends. The others become -100, which the loss ignores.

# %%
inputs, targets = instruct.collate([[0, 1, 2, 3, 4], [5, 6], [7, 8, 9]])
page.compare("inputs", inputs, "0 1 2 3 4  5 6 50256 50256 50256  7 8 9 50256 50256")
page.compare("targets", targets, "1 2 3 4 50256  6 50256 -100 -100 -100  8 9 50256 -100 -100")

# %% [markdown]
# The effect of -100: with a third target that is ignored, the loss is that of the first two.

# %%
scores = tl.tensor([[-1.0, 1.0], [-0.5, 1.5], [-0.5, 1.5]])
page.compare("loss of two", F.cross_entropy(scores[:2], tl.tensor([0, 1])), "1.1269")
page.compare("loss of three", F.cross_entropy(scores, tl.tensor([0, 1, 1])), "0.7936")
page.compare("the third left out", F.cross_entropy(scores, tl.tensor([0, 1, -100])), "1.1269")

# %% [markdown]
# **Exercise 7.2.** The loss can also ignore the instruction, so that only answers are learned. `collate` gets the
# number of ids of a text's prompt. The page's mask ends where `format_alpaca` ends: the header "### Response:" is still
# learned. `instruct.encode`, and so `gpt finetune instruct --mask-instruction`, counts the header as prompt, since
# `gpt chat` writes it itself.

# %%
sample = [
    {"instruction": "What is an antonym of 'complicated'?", "input": "",
     "output": "An antonym of 'complicated' is 'simple'."},
    {"instruction": "Sort the following list in alphabetical order.", "input": "Zebra, Elephant, Crocodile",
     "output": "Crocodile, Elephant, Zebra"},
    {"instruction": "Arrange the given numbers in descending order.", "input": "5, 12, 8, 3, 15",
     "output": "15, 12, 8, 5, 3."},
]  # fmt: skip


def as_the_page_masks(entry: instruct.Entry) -> instruct.Encoded:
    """An entry's ids, of which those of the instruction and the input count as prompt."""
    return instruct.Encoded(len(tokenizer.encode(instruct.format_alpaca(entry))), instruct.encode(entry, tokenizer).ids)


_, masked = instruct.collate([as_the_page_masks(entry) for entry in sample], mask_instruction=True)
page.compare("shape of the targets", list(masked.shape), "3 64")
page.compare("left out of the second text: 46 of its prompt, 2 of its padding", masked[1].tolist().count(-100), "48")
page.compare(
    "what remains of it", masked[1, 46:62], "198 198 21017 18261 25 198 34 12204 375 576 11 42651 11 1168 37052 50256"
)
for whose, encoded in (("page", as_the_page_masks(entries[50])), ("ours", instruct.encode(entries[50], tokenizer))):
    _, (masked,) = instruct.collate([encoded], mask_instruction=True)
    learned = [token for token in masked.tolist() if token != -100]
    print(f"   entry 50, {whose}: {masked.size - len(learned)} targets left out, learned {tokenizer.decode(learned)!r}")

# %% [markdown]
# ## 7.4 Loaders
#
# Batches of eight, each as long as its longest text. Those for training are in the order of seed 123.

# %%
collate = partial(instruct.collate, allowed_max_length=1024)
texts = {part: instruct.encode_all(getattr(parts, part), tokenizer) for part in ("train", "validation", "test")}
tl.manual_seed(123)
loaders = {
    part: DataLoader(texts[part], 8, shuffle=part == "train", drop_last=part == "train", collate=collate)
    for part in texts
}
widths = [x.shape[1] for x, _ in loaders["train"]]
page.compare("batches", len(widths), "116")
page.compare("widths of the first training batches", widths[:10], "61 76 73 68 65 72 80 67 62 75")
page.compare(
    "widths of the test batches", [x.shape[1] for x, _ in loaders["test"]],
    "64 83 62 58 66 63 69 67 72 73 68 65 85 76",
)  # fmt: skip

# %% [markdown]
# ## 7.5 The model
#
# GPT-2 has one matrix for token embedding and head. The page loads it into both, which are then trained
# separately: `with_own_head` does this, as does `gpt finetune instruct --untie-head`.

# %%
if options.gpt2:
    folder = Path(options.gpt2)
    model = pretrained.load(folder if folder.is_dir() else fetch_model(options.gpt2))
    weights = model.state_dict()
    model = GPT(model.config.with_dropout(0.0))
    model.load_state_dict(weights)
    model = instruct.with_own_head(model)
else:
    print("no --gpt2: a small model with random weights")
    tl.manual_seed(123)
    model = GPT(GPTConfig(vocab_size=50257, context_length=256, n_layer=2, n_head=4, n_embd=64))
print(f"{model.num_parameters():,} parameters")

# %% [markdown]
# Before training it continues the instruction as any other text. (It is not followed by a header for the answer: the
# model writes one itself.)

# %%
asked = instruct.format_alpaca(parts.validation[0])
page.compare(
    "first validation entry", asked.partition("### Instruction:\n")[2],
    "Convert the active sentence to passive: 'The chef cooks the meal every day.'",
)  # fmt: skip
(new,) = generate(model, [tokenizer.encode(asked)], 35, stop_token=tokenizer.special_tokens["<|endoftext|>"])
compare(
    "before training", tokenizer.decode(new).strip(),
    "### Response:\n\nThe chef cooks the meal every day.\n\n### Instruction:\n\nConvert the active sentence to "
    "passive: 'The chef cooks the",
)  # fmt: skip


def mean_loss(part: str, batches: int = 5) -> float:
    """The mean loss of the first batches of a part."""
    model.eval()
    total = 0.0
    with tl.no_grad():
        for i, (x, y) in enumerate(loaders[part]):
            if i == batches:
                break
            total += model(x, y)[1].item()
    model.train()
    return total / batches


# %% [markdown]
# ## 7.6 Training
#
# Chapter 5's loop, two epochs.

# %%
LOG = {0: "2.637 2.626", 5: "1.174 1.103", 10: "0.872 0.944", 15: "0.857 0.906"}  # of the page's model, GPT-2 medium
tl.manual_seed(123)
losses = [mean_loss(part) for part in ("train", "validation")]
compare("loss before, training and validation", losses, "3.8259 3.7619")


def train(optimizer: optim.Optimizer, steps: int) -> list[list[float]]:
    """Train for that many updates; return [step, training loss, validation loss] of every fifth."""
    history, step = [], -1
    for epoch in range(1, math.ceil(steps / len(loaders["train"])) + 1):
        model.train()
        for x, y in loaders["train"]:
            optimizer.zero_grad()
            model(x, y)[1].backward()
            optimizer.step()
            step += 1
            if step % 5 == 0:
                losses = [mean_loss(part) for part in ("train", "validation")]
                history.append([step, *losses])
                name = f"Ep {epoch} (Step {step:06d}): Train loss, Val loss"
                if step in LOG:
                    compare(name, losses, LOG[step])
                elif step % 25 == 0:
                    print(f"   {name}: {losses[0]:.3f} {losses[1]:.3f}")
            if step == steps - 1:
                break
    return history


tl.manual_seed(123)
optimizer = optim.AdamW(model.parameters(), lr=5e-5 if options.gpt2 else 2e-3, weight_decay=0.1)
history = train(optimizer, options.steps)

# %%
figure = Figure(figsize=(6, 3.4), layout="constrained")
axes = figure.subplots()
steps, training, validation = zip(*history, strict=True)
axes.plot(steps, training, color="#2f6fb5", label="training")
axes.plot(steps, validation, "--", color="#c2410c", label="validation")
axes.set(xlabel="step", ylabel="loss (nats per token)", ylim=(0, None))
axes.legend(frameon=False)
axes.grid(alpha=0.25)
page.picture(figure, "ch07-losses", options.out)

# %% [markdown]
# ## 7.7 Answers
#
# Greedy, up to 256 tokens or the end of text. All are written to a file together with the expected answers.

# %%
model.eval()
asked = parts.test[: options.answers]
limit = min(256, model.config.context_length // 2)
responses = list(instruct.generate_responses(model, tokenizer, asked, max_new_tokens=limit))
options.out.mkdir(parents=True, exist_ok=True)
instruct.save_responses(options.out / "responses.json", asked, responses)
io.save(options.out / "instruct.safetensors", model.state_dict())
for entry, response in list(zip(asked, responses, strict=True))[:3]:
    print(f"   {entry['instruction']} {entry['input']}\n      expected: {entry['output']}\n      answered: {response}")

# %% [markdown]
# ## 7.8 Judging
#
# The quality of an answer is hard to measure. Three scores need no other model: is it exactly the expected one,
# how many words have both in common, and how probable is the expected one for the model? The page's judge is a larger
# model, Llama 3, asked through Ollama for a number from 0 to 100; the page's answers got 50.32 on average. `--judge
# URL` uses one.

# %%
rows = [{**entry, "model_response": response} for entry, response in zip(asked, responses, strict=True)]
judged = list(judge(rows, model, tokenizer, api=Api(options.judge) if options.judge else None))
for name, value in summary(judged).items():
    print(f"   {name}: {value}")

# %% [markdown]
# **Exercise 7.4.** With LoRA: only the narrow matrices are trained. (Exercise 7.3 is Stanford's set of 52,000
# entries; `gpt finetune instruct --data FILE` reads it directly.)

# %%
adapted = lora.apply(model, rank=16, alpha=16)
learning = lora.trainable(model)
print(f"   {len(adapted)} Linears; {sum(p.size for p in learning):,} parameters learn of {model.num_parameters():,}")
tl.manual_seed(123)
LOG = {}
train(optim.AdamW(learning, lr=5e-4, weight_decay=0.1), min(options.steps, 26))

# %%
page.summary()
