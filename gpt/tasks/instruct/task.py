"""The task of `gpt finetune instruct`: entries as batches, loss, evaluation, responses.

Training starts from another run's weights. The entries are in the new run as train.jsonl, validation.jsonl and
test.jsonl, and its config.json has the prompt format, so that `gpt chat` uses the same.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from tensorlite import Tensor

from ... import lora
from ...config import GPTConfig
from ...console import bar, passing, visible
from ...fingerprint import fingerprint
from ...model import GPT, inference_mode
from ...tokenizer import END_OF_TEXT, Tokenizer
from ...training import checkpoint
from ...training.task import Epochs, NewRun, Say, batch_generator, to_device
from ..changed_model import with_dropout, with_end_of_text, with_own_head
from .batches import Encoded, chain_turns, collate, encode_all
from .data import Entry, read_entries, split, write
from .inference import generate_responses, save_responses
from .settings import InstructConfig

PARTS = ("train", "validation", "test")
SAMPLES = 3  # entries in a sample
Batch = tuple[Tensor, Tensor]  # inputs and targets, (B, T) each


class Instructions:
    """The task of `gpt finetune instruct`. A batch is inputs and targets, (B, T) each, from `collate`."""

    files: ClassVar = tuple(f"{part}.jsonl" for part in PARTS)
    results: ClassVar[tuple[str, ...]] = ("responses.json", "responses.json.partial", "adapter.safetensors")
    unit = "texts"

    @classmethod
    def begin(cls, config: InstructConfig, run: Path, say: Say) -> NewRun:
        """Check and split the entries into the run, and prepare the base run's model."""
        if config.base is None or config.data is None:
            missing = "the run to start from" if config.base is None else "the file of entries"
            raise ValueError(f"{missing} is missing: gpt finetune instruct RUN --data FILE")
        model, tokenizer = with_end_of_text(*checkpoint.load_model(config.base))
        if config.dropout is not None:
            model = with_dropout(model, config.dropout)
        if config.untie_head:
            model = with_own_head(model)
        data = prepare(config, run, tokenizer, model.config.context_length, say)
        say(f"model      {config.base}: {model.num_parameters():,} parameters")
        adapters: dict[str, Any] | None = None
        if not config.lora:
            lora.check_unused(config, "rank", "alpha", "targets")
        else:
            lora.check_rank(model, config.rank, config.targets)
            adapters = {"rank": config.rank, "alpha": config.alpha, "targets": list(config.targets)}
            names = lora.apply(model, **adapters)
            trained = sum(p.size for p in lora.trainable(model))
            say(f"LoRA       {len(names)} Linears with rank {config.rank}: {trained:,} parameters are trained")
        return NewRun(tokenizer, model, {"data": data, "style": config.style, "lora": adapters})

    @classmethod
    def rebuild(cls, config: InstructConfig, description: Mapping[str, Any]) -> GPT:
        """The model that config.json describes, with random weights."""
        model = GPT(GPTConfig.from_dict(description["model"]))
        if description["lora"]:
            lora.apply(model, **description["lora"])
        return model

    def __init__(self, config: InstructConfig, run: Path, tokenizer: Tokenizer, description: Mapping[str, Any]):
        self.config, self.run, self.tokenizer = config, run, tokenizer
        self.end = tokenizer.special_tokens[END_OF_TEXT]
        context = description["model"]["context_length"]
        self.length = min(context, config.max_length or context)
        self.entries: dict[str, list[Entry]] = {part: [*read_entries(run / f"{part}.jsonl")] for part in PARTS}
        self.texts = {
            part: chain_turns(
                encode_all(entries, tokenizer, config.style), self.end, config.turns, context, config.seed
            )
            for part, entries in self.entries.items()
        }
        self.collate = partial(
            collate, pad=self.end, allowed_max_length=self.length, mask_instruction=config.mask_instruction
        )
        self.epochs = Epochs(self.texts["train"], config.batch_size, self.collate, batch_generator(config))
        self.per_step = config.batch_size * config.grad_accumulation
        self.steps = config.total_steps(len(self.epochs))

    def draw(self) -> Batch:
        """The next batch of shuffled training entries."""
        batch: Batch = next(self.epochs)
        return batch

    @staticmethod
    def targets(batch: Batch) -> int:
        """The number of targets that count: -100 is ignored."""
        return int((batch[1] != -100).sum().item())

    @staticmethod
    def loss(model: GPT, batch: Batch) -> Tensor:
        """Mean cross-entropy in nats."""
        return model.loss(*to_device(model, *batch))

    # ----- evaluation -----

    def evaluate(self, model: GPT) -> dict[str, float]:
        """The loss on `eval_batches` batches of validation entries."""
        return {"validation_loss": self.mean_loss(model, self.spaced("validation", self.config.eval_batches))}

    def spaced(self, part: str, batches: int) -> list[Encoded]:
        """That many batches of a part's texts, evenly spaced."""
        texts = self.texts[part]
        count = min(len(texts), batches * self.config.batch_size)
        return [texts[i * len(texts) // count] for i in range(count)]

    def mean_loss(self, model: GPT, texts: Sequence[Encoded]) -> float:
        """The mean over all targets: a long response has more weight than a short one."""
        total = count = 0.0
        with inference_mode(model):
            for start in range(0, len(texts), self.config.batch_size):
                batch = self.collate(texts[start : start + self.config.batch_size])
                if targets := self.targets(batch):
                    total += self.loss(model, batch).item() * targets
                    count += targets
        if not count:
            raise ValueError(f"max_length {self.length} cuts away every answer: give a larger one")
        return total / count

    def sample(self, model: GPT, step: int) -> str:
        """Some validation entries, different ones each time: instruction and input, expected output, the response."""
        entries = self.entries["validation"]
        first = step // (self.config.sample_every or 1) * SAMPLES
        chosen = [entries[(first + i) % len(entries)] for i in range(min(SAMPLES, len(entries)))]
        texts = []
        for entry, response in zip(chosen, self.responses(model, chosen), strict=True):
            question = entry["instruction"] + (f"\n{entry['input']}" if entry["input"] else "")
            texts.append(f"{question}\nexpected: {entry['output']}\nanswered: {response}")
        return visible("\n\n".join(texts))

    def responses(self, model: GPT, entries: Sequence[Entry]) -> Iterator[str]:
        """The model's responses, in the run's prompt format."""
        return generate_responses(model, self.tokenizer, entries, self.config.style, self.config.max_new_tokens)

    def finish(self, model: GPT) -> tuple[dict[str, Any], dict[str, str]]:
        """The loss on the test part, and responses, saved as responses.json; also saves LoRA's matrices."""
        loss = self.mean_loss(model, self.texts["test"])
        figures, rows = {"test_loss": loss}, {"test loss": f"{loss:.4f}"}
        asked = self.entries["test"][: self.config.responses]
        if asked:
            with bar("answering test entries", len(asked)) as advance:
                new = passing(self.responses(model, asked), advance)
                found = save_responses(self.run / "responses.json", asked, new)
            correct = sum(a == entry["output"].strip() for entry, a in zip(asked, found, strict=True))
            figures["exact_match"] = correct / len(asked)
            rows["answered exactly as expected"] = f"{correct:,} of {len(asked):,} test entries"
            known = {question(entry) for part in ("train", "validation") for entry in self.entries[part]}
            if repeated := sum(question(entry) in known for entry in asked):
                figures["test_repeated"] = repeated
                rows["test entries also in training or validation"] = f"{repeated:,} of {len(asked):,}"
        if lora.adapters(model):
            lora.save(model, self.run / "adapter.safetensors")
            rows["adapter alone"] = f"{(self.run / 'adapter.safetensors').stat().st_size:,} bytes"
        return figures, rows

    def state_dict(self) -> dict[str, Any]:
        """The position in the shuffled training entries."""
        return {"batches": self.epochs.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.epochs.load_state_dict(state["batches"])


def question(entry: Entry) -> tuple[str, str]:
    """Instruction and input."""
    return entry["instruction"], entry["input"]


# ----- a new run's data -------------------------------------------------------------------------------------------


def prepare(config: InstructConfig, run: Path, tokenizer: Tokenizer, context: int, say: Say) -> dict[str, Any]:
    """Write the parts of the data into the run; return config.json's fields on each.

    ValueError for entries that cannot be used, OSError where they cannot be read.
    """
    assert config.data is not None
    entries = read_entries(config.data, note=say)
    try:
        texts = encode_all(entries, tokenizer, config.style, None if config.max_length else context)
    except ValueError as error:
        raise ValueError(f"{config.data}: {error}") from None
    parts = split(entries)
    data = {}
    for part in PARTS:
        path, members = run / f"{part}.jsonl", getattr(parts, part)
        write(path, members)
        data[part] = {"entries": len(members), **fingerprint(path)}
    counts = ", ".join(f"{data[part]['entries']:,} {part}" for part in PARTS)
    say(f"entries    {config.data}: {counts}; at most {max(len(text.ids) for text in texts):,} tokens")
    return data
