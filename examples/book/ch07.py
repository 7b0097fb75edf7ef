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

# %% tags=["parameters"]
# Settings. In a notebook change them here; as a script, each is a flag: --steps 20.
GPT2: str | None = None  # GPT-2's weights: a folder, or a name to download, gpt2 to gpt2-xl
STEPS = 232  # updates of the weights: two epochs of 116
EVERY = 25  # updates from one printed row of the log to the next, where the page shows none
ANSWERS = 110  # test entries that are answered
JUDGE: str | None = None  # address of Ollama, such as http://localhost:11434; default: scores without a server
THREADS = 2  # for large operations
OUT: str | None = None  # folder for answers, weights and pictures; default: tensorlite-book, for temporary files

# %%
import json
import math
import urllib.request
from functools import partial
from pathlib import Path

import page
from matplotlib.figure import Figure
from page import same

import tensorlite as tl
from gpt import lora, pretrained
from gpt.config import GPTConfig
from gpt.data.download import fetch_model
from gpt.generation import generate
from gpt.model import GPT
from gpt.tasks import instruct
from gpt.tasks.instruct.judge import Api, judge, question, summary
from tensorlite import functional as F
from tensorlite import io, optim
from tensorlite.data import DataLoader
from tensorlite.devices import machine

page.flags(globals())
out = page.folder(OUT)
print(machine.set_threads(THREADS))


def compare(name: str, ours, theirs: str) -> None:
    """page.compare, if the model is the page's: GPT-2 medium."""
    if GPT2 and model.config.n_layer == 24:
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


# %% [markdown]
# An entry becomes a text in Alpaca's format; an empty input is omitted.


# %%
def format_input(entry: dict[str, str]) -> str:
    instruction_text = (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        f"\n\n### Instruction:\n{entry['instruction']}"
    )
    return instruction_text + (f"\n\n### Input:\n{entry['input']}" if entry["input"] else "")


print("-----", format_input(entries[50]) + "\n\n### Response:\n" + entries[50]["output"], "-----", sep="\n")
for i in (50, 999):  # with an input and without
    same(f"format_alpaca, entry {i}", format_input(entries[i]), instruct.format_alpaca(entries[i]))

# %% [markdown]
# **Exercise 7.1.** Phi-3's format is shorter, so that every step costs less:


# %%
def format_phi3(entry: dict[str, str]) -> str:
    return f"<|user|>\n{entry['instruction']}" + (f"\n{entry['input']}" if entry["input"] else "")


tokenizer = page.tokenizer()
print("-----", format_phi3(entries[50]), "-----", sep="\n")
same("format_phi3", format_phi3(entries[50]), instruct.format_phi3(entries[50]))
for style in ("alpaca", "phi3"):
    print(f"   {style}: {sum(len(instruct.encode(entry, tokenizer, style).ids) for entry in parts.train):,} tokens")

# %% [markdown]
# ## 7.3 Batches
#
# A dataset holds each entry's whole text as ids.


# %%
class InstructionDataset:
    """Entries as ids: prompt, header of the response, and output."""

    def __init__(self, data: list[dict[str, str]], tokenizer):
        self.data = data
        texts = [f"{format_input(entry)}\n\n### Response:\n{entry['output']}" for entry in data]
        self.encoded_texts = [tokenizer.encode(text) for text in texts]

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> list[int]:
        return self.encoded_texts[i]


dataset = InstructionDataset(parts.train, tokenizer)
same("encode_all", list(dataset), [text.ids for text in instruct.encode_all(parts.train, tokenizer)])

# %% [markdown]
# Texts of different lengths are padded with the end of text, 50256, to the longest of their batch. The first draft
# makes inputs only: one padding token is added to every text and then cut again, since the targets will need it.


# %%
def custom_collate_draft_1(batch: list[list[int]], pad_token_id: int = 50256) -> tl.Tensor:
    longest = max(len(item) + 1 for item in batch)
    padded = [item + [pad_token_id] * (longest - len(item)) for item in batch]
    return tl.tensor([row[:-1] for row in padded])


batch = [[0, 1, 2, 3, 4], [5, 6], [7, 8, 9]]
inputs, targets = instruct.collate(batch)
same("collate, inputs", custom_collate_draft_1(batch), inputs)

# %% [markdown]
# The second also makes targets, which are one token ahead.


# %%
def custom_collate_draft_2(batch: list[list[int]], pad_token_id: int = 50256) -> tuple[tl.Tensor, tl.Tensor]:
    longest = max(len(item) + 1 for item in batch)
    padded = [item + [pad_token_id] * (longest - len(item)) for item in batch]
    return tl.tensor([row[:-1] for row in padded]), tl.tensor([row[1:] for row in padded])


print(custom_collate_draft_2(batch)[1])

# %% [markdown]
# In the targets the first padding token stays, so that the model learns where an answer ends. The others become -100,
# which the loss ignores.


# %%
def custom_collate_fn(
    batch: list[list[int]], pad_token_id: int = 50256, ignore_index: int = -100, allowed_max_length: int | None = None
) -> tuple[tl.Tensor, tl.Tensor]:
    longest = max(len(item) + 1 for item in batch)
    inputs, targets = [], []
    for item in batch:
        padded = item + [pad_token_id] * (longest - len(item))
        target = padded[1 : len(item) + 1] + [ignore_index] * (longest - len(item) - 1)
        inputs.append(padded[:-1][:allowed_max_length])
        targets.append(target[:allowed_max_length])
    return tl.tensor(inputs), tl.tensor(targets)


inputs, targets = custom_collate_fn(batch)
page.compare("inputs", inputs, "0 1 2 3 4  5 6 50256 50256 50256  7 8 9 50256 50256")
page.compare("targets", targets, "1 2 3 4 50256  6 50256 -100 -100 -100  8 9 50256 -100 -100")
for limit in (None, 3):
    same(f"collate, at most {limit}", custom_collate_fn(batch, allowed_max_length=limit),
         instruct.collate(batch, allowed_max_length=limit))  # fmt: skip

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
tl.manual_seed(123)
ours = DataLoader(dataset, 8, shuffle=True, drop_last=True, collate=partial(custom_collate_fn, allowed_max_length=1024))
drawn = list(ours)
tl.manual_seed(123)
same("batches", drawn, list(loaders["train"]))

# %% [markdown]
# ## 7.5 The model
#
# GPT-2 has one matrix for token embedding and head. The page loads it into both, which are then trained
# separately: `with_own_head` does this, as does `gpt finetune instruct --untie-head`.

# %%
if GPT2:
    folder = Path(GPT2)
    model = pretrained.load(folder if folder.is_dir() else fetch_model(GPT2))
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


def calc_loss_loader(part: str, batches: int = 5) -> float:
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
losses = [calc_loss_loader(part) for part in ("train", "validation")]
compare("loss before, training and validation", losses, "3.8259 3.7619")


def train_model_simple(optimizer: optim.Optimizer, steps: int) -> list[list[float]]:
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
                losses = [calc_loss_loader(part) for part in ("train", "validation")]
                history.append([step, *losses])
                name = f"Ep {epoch} (Step {step:06d}): Train loss, Val loss"
                if step in LOG:
                    compare(name, losses, LOG[step])
                elif step % EVERY == 0:
                    print(f"   {name}: {losses[0]:.3f} {losses[1]:.3f}")
            if step == steps - 1:
                break
    return history


tl.manual_seed(123)
optimizer = optim.AdamW(model.parameters(), lr=5e-5 if GPT2 else 2e-3, weight_decay=0.1)
history = train_model_simple(optimizer, STEPS)


# %%
def plot_losses(history: list[list[float]], path: Path) -> None:
    steps, training, validation = zip(*history, strict=True)
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, training, color="#2f6fb5", label="training")
    axes.plot(steps, validation, "--", color="#c2410c", label="validation")
    axes.set(xlabel="step", ylabel="loss (nats per token)", ylim=(0, None))
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)
    page.picture(figure, "ch07-losses", path)


plot_losses(history, out)

# %% [markdown]
# ## 7.7 Answers
#
# Greedy, up to 256 tokens or the end of text. As on the page the prompt ends before the header of the response: the
# model has learned to write it itself, and it is removed from the answer. All answers are written to a file together
# with the expected ones. `instruct.generate_responses`, and so `gpt chat`, gives the header as part of the prompt.

# %%
model.eval()
asked = parts.test[:ANSWERS]
limit = min(256, model.config.context_length // 2)


def respond(entry: dict[str, str], header: str = "") -> str:
    """The model's text after the prompt, without the header."""
    prompt = format_input(entry)
    ids = tokenizer.encode(prompt + header)
    (new,) = generate(model, [ids], limit, stop_token=50256)
    return tokenizer.decode(ids + new)[len(prompt) :].replace("### Response:", "").strip()


responses = [respond(entry) for entry in asked]
with_header = respond(asked[0], "\n\n### Response:\n")
(theirs,) = instruct.generate_responses(model, tokenizer, asked[:1], max_new_tokens=limit)
same("generate_responses", with_header, theirs.strip())
instruct.save_responses(out / "responses.json", asked, responses)
io.save(out / "instruct.safetensors", model.state_dict())
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
judged = list(judge(rows, model, tokenizer, api=Api(JUDGE) if JUDGE else None))
for name, value in summary(judged).items():
    print(f"   {name}: {value}")

# %% [markdown]
# The judge's question and the request, written out. Seed and temperature make its answers repeatable; the answer may
# come in pieces, one JSON object on each line.


# %%
def query_model(prompt: str, model: str = "llama3", url: str = "http://localhost:11434/api/chat") -> str:
    options = {"seed": 123, "temperature": 0, "num_ctx": 2048}
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], "options": options}
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return "".join(json.loads(line)["message"]["content"] for line in response if line.strip())


def judge_prompt(entry: dict[str, str]) -> str:
    return (
        f"Given the input `{format_input(entry)}` and correct output `{entry['output']}`, score the model response "
        f"`{entry['model_response']}` on a scale from 0 to 100, where 100 is the best score. "
        "Respond with the integer number only."
    )


def generate_model_scores(rows: list[dict[str, str]], url: str) -> list[int]:
    """The judge's scores; answers that are no number are left out."""
    answers = [query_model(judge_prompt(row), url=url.rstrip("/") + "/api/chat") for row in rows]
    return [int(answer) for answer in answers if answer.strip().isdigit()]


same("question", judge_prompt(rows[0]), question(rows[0]))
if JUDGE:
    scores = generate_model_scores(rows, JUDGE)
    print(f"   {len(scores)} of {len(rows)} scores, on average {sum(scores) / max(len(scores), 1):.2f}")
else:
    print("without --judge nothing is asked")

# %% [markdown]
# **Exercise 7.4.** With LoRA: only the narrow matrices are trained. (Exercise 7.3 is Stanford's set of 52,000
# entries; `gpt finetune instruct --data FILE` reads it directly.)

# %%
adapted = lora.apply(model, rank=16, alpha=16)
learning = lora.trainable(model)
print(f"   {len(adapted)} Linears; {sum(p.size for p in learning):,} parameters learn of {model.num_parameters():,}")
tl.manual_seed(123)
LOG = {}
history = train_model_simple(optim.AdamW(learning, lr=5e-4, weight_decay=0.1), min(STEPS, 26))

# %%
page.summary()
