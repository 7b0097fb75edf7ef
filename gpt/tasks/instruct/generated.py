"""Instructions that small models can learn: made by rule, as many as you like, with answers that are right or wrong.

One idea: exact match means something only on what was never seen. Words are strings of random letters or syllables: a
word that is asked about in testing is asked about nowhere in training, forwards or backwards (it may happen to be an
English word of the list of opposites). The pairs of numbers in test sums are in no training sum. Opposites are a finite
list: of them only the combination of word and phrasing is pending, and every word was trained on in others.

What it refuses is to be a measure of language: there are five kinds, and a few ways to ask for each.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

from .data import Entry, Split, Style

OPPOSITES = (
    "hot cold, big small, tall short, fast slow, up down, left right, day night, light dark, open shut, old new, "
    "rich poor, full empty, hard soft, happy sad, early late, wet dry, high low, near far, thick thin, strong weak, "
    "clean dirty, loud quiet, good bad, black white, in out, over under, push pull, give take, love hate, win lose, "
    "start stop, buy sell, true false, yes no, first last, above below, north south, east west, deep shallow, "
    "wide narrow"
)
PAIRS = dict(pair.split(" ") for pair in OPPOSITES.split(", "))
ANTONYMS = PAIRS | {b: a for a, b in PAIRS.items()}
LARGEST = 99, 9  # numbers of a sum


class Kind(NamedTuple):
    """A kind of task: ways to ask, with {x} where the words go (or else they are the entry's input), and its answer."""

    phrasings: tuple[str, ...]
    answer: Callable[[str], str]


KINDS = {
    "uppercase": Kind(
        ("Write {x} in capital letters.", "Make {x} uppercase.", "Convert the word to uppercase.", "In capitals: {x}"),
        str.upper,
    ),
    "reverse": Kind(
        ("Spell {x} backwards.", "Reverse {x}.", "Write the word from back to front.", "Backwards: {x}"),
        lambda x: x[::-1],
    ),
    "opposites": Kind(
        ("What is the opposite of {x}?", "Give the opposite of {x}.", "Name an antonym of the word.", "Not {x}, but?"),
        ANTONYMS.__getitem__,
    ),
    "sums": Kind(
        ("What is {x}?", "Calculate {x}.", "Add the two numbers.", "How much is {x}?"),
        lambda x: str(sum(map(int, x.split(" + ")))),
    ),
    "counting": Kind(
        ("How many letters has {x}?", "Count the letters of {x}.", "How long is the word?", "Letters in {x}:"),
        lambda x: str(len(x)),
    ),
}  # fmt: skip

TURNS = ("uppercase", "sums", "reverse", "sums", "opposites", "sums", "counting", "sums")  # sums are the hardest


def make(count: int = 20_000, seed: int = 0) -> Split:
    """`count` entries {instruction, input, output, kind, asked}: 85 % to train, 10 % to test, 5 % to validate.

    Half of them are sums, the other kinds are equally frequent. What is asked about in one part is in no other, as the
    module says. The same seed, the same entries.
    """
    random = Random(seed)
    sizes = int(count * 0.85), int(count * 0.1)
    cuts = (*sizes, count - sum(sizes))
    sums = [f"{a} + {b}" for a in range(LARGEST[0] + 1) for b in range(LARGEST[1] + 1)]
    asked = [(x, phrasing) for x in ANTONYMS for phrasing in KINDS["opposites"].phrasings]
    random.shuffle(sums)
    random.shuffle(asked)
    seen: set[str] = set()
    parts = []
    for size, share_of_sums, share_of_asked in zip(cuts, _cut(sums), _cut(asked), strict=True):
        words = _words(random, size, seen)
        seen |= set(words)
        parts.append([_entry(random, i, words, share_of_sums, share_of_asked) for i in range(size)])
    return Split(*parts)


def _cut(items: Sequence) -> tuple[Sequence, Sequence, Sequence]:
    """85 %, 10 % and 5 % of them."""
    first, second = int(len(items) * 0.85), int(len(items) * 0.95)
    return items[:first], items[first:second], items[second:]


def _words(random: Random, count: int, seen: set[str]) -> list[str]:
    """Different words of 3 to 7 letters, not in `seen` from either end: half of them syllables, half any letters."""
    words: dict[str, None] = {}
    while len(words) < count:
        length = random.randint(3, 7)
        if random.random() < 0.5:
            word = "".join(random.choices("abcdefghijklmnopqrstuvwxyz", k=length))
        else:
            word = "".join(random.choice("bcdfghklmnprstvwz") + random.choice("aeiou") for _ in range(4))[:length]
        if word not in seen and word[::-1] not in seen:  # a word read backwards is another word's answer
            words[word] = None
    return list(words)


def _entry(random: Random, i: int, words: list[str], sums: Sequence, asked: Sequence) -> Entry:
    name = TURNS[i % len(TURNS)]
    kind = KINDS[name]
    x, phrasing = words[i], random.choice(kind.phrasings)
    if name == "sums":
        x = random.choice(sums)
    elif name == "opposites":
        x, phrasing = random.choice(asked)
    return {
        "instruction": phrasing.format(x=x),
        "input": "" if "{x}" in phrasing else x,
        "output": kind.answer(x),
        "kind": name,
        "asked": x,
    }


def drill(entries: Sequence[Entry], style: Style, seed: int = 0, entire: float = 0.05) -> str:
    """A text to pretrain on: what the entries ask about, a line each, in random order.

    A word stands with all that can be asked about it ("cat CAT tac 3"), a sum and an opposite with its answer. A plain
    line shows a skill in fewer tokens than a question with its headers. A share `entire` of the entries stands in full,
    so that a tokenizer made of the text knows all their characters.
    """
    random = Random(seed)
    lines = []
    for entry in entries:
        x, answer = entry["asked"], entry["output"]
        plain = {"sums": f"{x} = {answer}", "opposites": f"{x} not {answer}"}
        lines.append(plain.get(entry["kind"], f"{x} {x.upper()} {x[::-1]} {len(x)}"))
        if random.random() < entire:
            lines.append(style.prompt(entry) + answer)
    random.shuffle(lines)
    return "\n".join(lines) + "\n"
