"""What `gpt finetune instruct` learns: answers. A Task for the one training loop (gpt/training/loop.py).

One idea: fine-tuning is pretraining on other texts, from weights that already know the language. The run starts from
another run's model; its entries lie in it as train.jsonl, validation.jsonl and test.jsonl, and config.json says in
which style it asks, so that `gpt chat` asks in the same.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from tensorlite import Tensor
from tensorlite.files import naming

from ... import lora
from ...config import GPTConfig, check_choice, check_integer, check_number
from ...console import bar, passing, visible
from ...fingerprint import fingerprint
from ...model import GPT
from ...tokenizer import END_OF_TEXT, Tokenizer
from ...training import checkpoint
from ...training.settings import FineTuneConfig
from ...training.task import Epochs, NewRun, Say, batch_generator, eval_mode, to_device
from .answers import answers, save_responses
from .batches import Encoded, collate, conversations, encode_all, with_end_of_text
from .data import STYLES, Entry, read_entries, split

PARTS = ("train", "validation", "test")
SAMPLES = 3  # entries of a sample


@dataclass(frozen=True, kw_only=True)
class InstructConfig(FineTuneConfig):
    """Learn to follow instructions. (Every field is a flag of `gpt finetune instruct`, and its comment is its help.)"""

    task = "instruct"
    fixed = (
        *FineTuneConfig.fixed, "style", "mask_instruction", "turns", "max_length", "untie_head", "lora", "rank",
        "alpha", "targets",
    )  # fmt: skip

    epochs: int = 2  # passes over the training entries
    style: Literal["alpaca", "phi3"] = "alpaca"  # how an entry becomes a text; phi3 is shorter
    mask_instruction: bool = False  # learn from the answers alone, not from the questions and the answer's header
    turns: int = 1  # longest conversation: up to this many entries in a row, so that chat may look back at earlier ones
    # cut longer texts at this many tokens; default: what the context cannot hold is refused
    max_length: int | None = None
    untie_head: bool = False  # train a head of its own, begun as a copy of the token embedding, as the book does
    lora: bool = False  # train small matrices beside the Linears, all else is frozen
    rank: int = 16  # of LoRA's matrices
    alpha: float = 16.0  # LoRA's correction counts alpha / rank
    targets: tuple[str, ...] = ("*",)  # the Linears that LoRA adapts: attention, feed_forward, W_query, head; *: all
    dropout: float | None = None  # share of activations dropped in training; default: as the run has it
    eval_batches: int = 20  # batches per evaluation, spread evenly over the validation entries
    sample_every: int = 100  # steps between samples in samples.txt; 0: only at the end
    responses: int | None = None  # test entries that are answered at the end; default: all
    max_new_tokens: int = 256  # longest answer

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("style", self.style, tuple(STYLES))
        for name in ("mask_instruction", "untie_head", "lora"):
            check_choice(name, getattr(self, name), (True, False))
        for name in ("turns", "eval_batches", "max_new_tokens", "rank"):
            check_integer(name, getattr(self, name), low=1)
        check_number("alpha", self.alpha, low=0)
        for name, low in (("max_length", 2), ("responses", 0)):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), low=low)
        if self.dropout is not None:
            check_number("dropout", self.dropout, low=0, below=1)

    @property
    def adapts(self) -> bool:
        """Whether LoRA's matrices are what learns."""
        return self.lora


class Instructions:
    """The task of `gpt finetune instruct`. A batch is inputs and targets, (B, T) each, of `collate`."""

    files: ClassVar = tuple(f"{part}.jsonl" for part in PARTS)
    results: ClassVar[tuple[str, ...]] = ("responses.json", "responses.json.partial", "adapter.safetensors")
    unit = "texts"

    @classmethod
    def begin(cls, config: InstructConfig, run: Path, say: Say) -> NewRun:
        """Another run's model and tokenizer, with an end of text; the entries, checked and split."""
        if config.base is None or config.data is None:
            missing = "the run to start from" if config.base is None else "the file of entries"
            raise ValueError(f"{missing} is missing: gpt finetune instruct RUN --data FILE")
        model, tokenizer = with_end_of_text(*checkpoint.load_model(config.base))
        if config.dropout is not None:
            model = with_dropout(model, config.dropout)
        if config.untie_head:
            model = with_own_head(model)
        entries = read_entries(config.data, note=say)
        length = model.config.context_length
        try:
            texts = encode_all(entries, tokenizer, config.style, None if config.max_length else length)
        except ValueError as error:
            raise ValueError(f"{config.data}: {error}") from None
        parts = split(entries)
        data = {}
        for part in PARTS:
            path = run / f"{part}.jsonl"
            rows = [json.dumps(entry, ensure_ascii=False) for entry in getattr(parts, part)]
            with naming(path):
                path.write_text("\n".join(rows) + "\n", encoding="utf-8", newline="\n")
            data[part] = {"entries": len(rows), **fingerprint(path)}
        counts = ", ".join(f"{data[part]['entries']:,} {part}" for part in PARTS)
        say(f"entries    {config.data}: {counts}; at most {max(len(text.ids) for text in texts):,} tokens")
        say(f"model      {config.base}: {model.num_parameters():,} parameters")
        adapters: dict[str, Any] | None = None
        if not config.lora:
            lora.check_unused(config, "rank", "alpha", "targets")
        else:
            lora.check_rank(model, config.rank, config.targets)
            adapters = {"rank": config.rank, "alpha": config.alpha, "targets": list(config.targets)}
            names = lora.apply(model, **adapters)
            learning = sum(p.size for p in lora.trainable(model))
            say(f"LoRA       {len(names)} Linears with rank {config.rank}: {learning:,} parameters learn")
        return NewRun(tokenizer, model, {"data": data, "style": config.style, "lora": adapters})

    @classmethod
    def rebuild(cls, config: InstructConfig, description: Mapping[str, Any]) -> GPT:
        model = GPT(GPTConfig.from_dict(description["model"]))
        if description["lora"]:
            lora.apply(model, **description["lora"])
        return model

    def __init__(self, config: InstructConfig, run: Path, tokenizer: Tokenizer, description: Mapping[str, Any]):
        self.config, self.run, self.tokenizer = config, run, tokenizer
        self.end = tokenizer.special_tokens[END_OF_TEXT]
        context = description["model"]["context_length"]
        self.context = min(context, config.max_length or context)
        self.entries: dict[str, list[Entry]] = {part: [*read_entries(run / f"{part}.jsonl")] for part in PARTS}
        self.texts = {
            part: conversations(
                encode_all(entries, tokenizer, config.style), self.end, config.turns, context, config.seed
            )
            for part, entries in self.entries.items()
        }
        self.collate = partial(
            collate, pad=self.end, allowed_max_length=self.context, mask_instruction=config.mask_instruction
        )
        self.epochs = Epochs(self.texts["train"], config.batch_size, self.collate, batch_generator(config))
        self.per_step = config.batch_size * config.grad_accumulation
        self.steps = config.total_steps(len(self.epochs))

    def draw(self) -> tuple[Tensor, Tensor]:
        """The next batch of shuffled entries."""
        return next(self.epochs)

    @staticmethod
    def targets(batch: tuple[Tensor, Tensor]) -> int:
        """Those of -100 are none."""
        return int((batch[1] != -100).sum().item())

    @staticmethod
    def loss(model: GPT, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Mean cross-entropy in nats."""
        return model.loss(*to_device(model, *batch))

    # ----- looking at it -----

    def evaluate(self, model: GPT) -> dict[str, float]:
        """Over `eval_batches` batches of validation entries."""
        return {"validation_loss": self.mean_loss(model, self.spread("validation", self.config.eval_batches))}

    def spread(self, part: str, batches: int) -> list[Encoded]:
        """That many batches of a part's texts, from evenly spread places."""
        texts = self.texts[part]
        count = min(len(texts), batches * self.config.batch_size)
        return [texts[i * len(texts) // count] for i in range(count)]

    def mean_loss(self, model: GPT, texts: Sequence[Encoded]) -> float:
        """Per target: a long answer counts for more than a short one."""
        total = count = 0.0
        with eval_mode(model):
            for start in range(0, len(texts), self.config.batch_size):
                batch = self.collate(texts[start : start + self.config.batch_size])
                if targets := self.targets(batch):
                    total += self.loss(model, batch).item() * targets
                    count += targets
        if not count:
            raise ValueError(f"max_length {self.context} cuts away every answer: give a larger one")
        return total / count

    def answers(self, model: GPT, entries: Sequence[Entry]) -> list[str]:
        return list(answers(model, self.tokenizer, entries, self.config.style, self.config.max_new_tokens))

    def sample(self, model: GPT, step: int) -> str:
        """Some validation entries, others each time: the question, the expected answer, the model's."""
        entries = self.entries["validation"]
        first = step // (self.config.sample_every or 1) * SAMPLES
        chosen = [entries[(first + i) % len(entries)] for i in range(min(SAMPLES, len(entries)))]
        texts = []
        for entry, answer in zip(chosen, self.answers(model, chosen), strict=True):
            question = entry["instruction"] + (f"\n{entry['input']}" if entry["input"] else "")
            texts.append(f"{question}\nexpected: {entry['output']}\nanswered: {answer}")
        return visible("\n\n".join(texts))

    def finish(self, model: GPT) -> tuple[dict[str, Any], dict[str, str]]:
        """Over the test entries: the loss, and their answers, saved as responses.json; adapters saved alone."""
        loss = self.mean_loss(model, self.texts["test"])
        figures, rows = {"test_loss": loss}, {"test loss": f"{loss:.4f}"}
        asked = self.entries["test"][: self.config.responses]
        if asked:
            new = answers(model, self.tokenizer, asked, self.config.style, self.config.max_new_tokens)
            with bar("answering test entries", len(asked)) as advance:
                found = save_responses(self.run / "responses.json", asked, passing(new, advance))
            right = sum(a == entry["output"].strip() for entry, a in zip(asked, found, strict=True))
            figures["exact_match"] = right / len(asked)
            rows["answered exactly as expected"] = f"{right:,} of {len(asked):,} test entries"
            seen = {question(entry) for part in ("train", "validation") for entry in self.entries[part]}
            if again := sum(question(entry) in seen for entry in asked):
                figures["test_repeated"] = again
                rows["asked in training or validation too"] = f"{again:,} of {len(asked):,}"
        if lora.adapters(model):
            lora.save(model, self.run / "adapter.safetensors")
            rows["adapter alone"] = f"{(self.run / 'adapter.safetensors').stat().st_size:,} bytes"
        return figures, rows

    # ----- where it stands -----

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self.epochs.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.epochs.load_state_dict(state["batches"])


def question(entry: Entry) -> tuple[str, str]:
    """All that is asked."""
    return entry["instruction"], entry["input"]


def with_dropout(model: GPT, p: float) -> GPT:
    """The same weights in a model that drops a share `p` of its activations while it learns."""
    changed = GPT(model.config.with_dropout(p))
    changed.load_state_dict(model.state_dict())
    return changed


def with_own_head(model: GPT) -> GPT:
    """A copy of the model whose head learns by itself: it begins as a copy of the token embedding, and as large.

    GPT-2's weights have one matrix for both (a tied head). The book loads it twice, so that from the first step on
    token embedding and head differ. A model that has its own head already is returned as it is.
    """
    if not model.config.tie_head:
        return model
    own = GPT.without_init(replace(model.config, tie_head=False))
    own.load_state_dict({**model.state_dict(), "head.weight": model.token_embedding.weight})
    return own
