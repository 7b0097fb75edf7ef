# %% [markdown]
# # Chapter 2: text
#
# A model computes with vectors, so text must be converted to numbers: words or pieces of words become ids, and each id
# selects a row of a matrix. This chapter goes from a text file to batches of vectors. Each part is first written out,
# under the book's name, and then compared with the library's.
#
#     python examples/book/ch02.py

# %%
import re

import page
from page import compare, same

import tensorlite as tl
from gpt.data import corpus
from gpt.tokenizer import END_OF_TEXT, WordTokenizer
from tensorlite import nn
from tensorlite.data import DataLoader, Windows

page.flags(globals())

# %% [markdown]
# ## 2.2 Words
#
# The text is a short story by Edith Wharton. It is split at white space and punctuation, which is kept
# as separate words; white space is dropped. The parentheses around the pattern keep the separators.

# %%
text = corpus.read_text(page.data("the-verdict"))
compare("characters", len(text), "20479")

SPLIT = r"([,.:;?_!\"()']|--|\s)"
words = [word for piece in re.split(SPLIT, text) if (word := piece.strip())]
print(words[:10])
compare("words", len(words), "4690")

# %% [markdown]
# ## 2.3 Ids
#
# Each distinct word gets a number: its position in the sorted list of all words. Capitals sort before small letters,
# and punctuation before both.

# %%
vocabulary = {word: id for id, word in enumerate(sorted(set(words)))}
compare("different words", len(vocabulary), "1130")
compare("the first eleven", [vocabulary[mark] for mark in sorted(vocabulary)[:11]], "0 1 2 3 4 5 6 7 8 9 10")
print(sorted(vocabulary)[:11])
compare("id of Hermia", vocabulary["Hermia"], "50")

# %% [markdown]
# A tokenizer is this dictionary and its reverse. Decoding joins with spaces and removes those before punctuation, so
# that the words are the same but the spacing may differ.


# %%
class SimpleTokenizerV1:
    """Words to ids and back; a word that is not in the vocabulary is a KeyError."""

    def __init__(self, vocab: dict[str, int]):
        self.str_to_int = vocab
        self.int_to_str = {id: word for word, id in vocab.items()}

    def encode(self, text: str) -> list[int]:
        return [self.str_to_int[word] for piece in re.split(SPLIT, text) if (word := piece.strip())]

    def decode(self, ids: list[int]) -> str:
        text = " ".join(self.int_to_str[id] for id in ids)
        return re.sub(r"\s+([,.?!\"()'])", r"\1", text)


sentence = '"It\'s the last he painted, you know," \n Mrs. Gisburn said with pardonable pride.'
tokenizer = SimpleTokenizerV1(vocabulary)
ids = tokenizer.encode(sentence)
compare("a sentence's ids", ids, "1 56 2 850 988 602 533 746 5 1126 596 5 1 67 7 38 851 1108 754 793 7")
compare("and back", tokenizer.decode(ids),
        "\" It' s the last he painted, you know,\" Mrs. Gisburn said with pardonable pride.")  # fmt: skip

# %% [markdown]
# `WordTokenizer` of the library, trained on the story, is the same. A word that is not in the story has no id. The
# library's error names it and says what to do:

# %%
library = WordTokenizer.train(text)
same("WordTokenizer, ids", ids, library.encode(sentence))
same("WordTokenizer, text", tokenizer.decode(ids), library.decode(ids))
try:
    tokenizer.encode("Hello, do you like tea?")
except KeyError as error:
    print("KeyError:", error)
try:
    library.encode("Hello, do you like tea?")
except ValueError as error:
    print("ValueError:", error)

# %% [markdown]
# ## 2.4 Special tokens
#
# Two more words at the end of the vocabulary: one for unknown words, and one that marks the end of a text, so that
# several texts can be joined.


# %%
class SimpleTokenizerV2(SimpleTokenizerV1):
    """The same, except that an unknown word becomes <|unk|>."""

    def encode(self, text: str) -> list[int]:
        found = [word for piece in re.split(SPLIT, text) if (word := piece.strip())]
        return [self.str_to_int[word if word in self.str_to_int else "<|unk|>"] for word in found]

    def decode(self, ids: list[int]) -> str:
        text = " ".join(self.int_to_str[id] for id in ids)
        return re.sub(r"\s+([,.:;?!\"()'])", r"\1", text)


vocabulary = {word: id for id, word in enumerate([*sorted(set(words)), END_OF_TEXT, "<|unk|>"])}
tokenizer = SimpleTokenizerV2(vocabulary)
compare("different words, with the special ones", len(vocabulary), "1132")
compare("ids of the special ones", [vocabulary[END_OF_TEXT], vocabulary["<|unk|>"]], "1130 1131")

two = f"Hello, do you like tea? {END_OF_TEXT} In the sunlit terraces of the palace."
ids = tokenizer.encode(two)
compare("two texts in one", ids, "1131 5 355 1126 628 975 10 1130 55 988 956 984 722 988 1131 7")
compare("and back", tokenizer.decode(ids),
        "<|unk|>, do you like tea? <|endoftext|> In the sunlit terraces of the <|unk|>.")  # fmt: skip

library = WordTokenizer.train(text, unknown=True)
same("WordTokenizer with special tokens, ids", ids, library.encode(two))
same("WordTokenizer with special tokens, text", tokenizer.decode(ids), library.decode(ids))

# %% [markdown]
# ## 2.5 Pairs of bytes
#
# GPT-2's tokenizer has no unknown words. It starts from the bytes of the text and joins pairs that were
# frequent neighbours in its training text, until there are 50,257 tokens: frequent words are one token, rare ones
# several. A text may contain a special token's characters by accident, so special tokens must be allowed explicitly.

# %%
gpt2 = page.tokenizer()
compare("tokens of GPT-2", gpt2.vocab_size, "50257")

two = f"Hello, do you like tea? {END_OF_TEXT} In the sunlit terracesof someunknownPlace."
ids = gpt2.encode(two, allowed_special={END_OF_TEXT})
compare(
    "two texts in pairs of bytes", ids,
    "15496 11 466 345 588 8887 30 220 50256 554 262 4252 18250 8812 2114 1659 617 34680 27271 13",
)  # fmt: skip
compare("and back", gpt2.decode(ids), two)
try:
    gpt2.encode(two)
except ValueError as error:
    print("ValueError:", error)

# %% [markdown]
# **Exercise 2.1.** Unknown words are split into known pieces, and decoded from them:

# %%
ids = gpt2.encode("Akwirw ier")
compare("unknown words", ids, "33901 86 343 86 220 959")
print([gpt2.decode([id]) for id in ids])
compare("and back", gpt2.decode(ids), "Akwirw ier")

# %% [markdown]
# ## 2.6 The next token
#
# A language model learns to predict the next token, so the text contains its own targets: the inputs, shifted by
# one position.

# %%
ids = gpt2.encode(text)
compare("tokens of the story", len(ids), "5145")
print(len(set(ids)), "of them different")
compare("inputs", ids[50:54], "290 4920 2241 287")
compare("targets", ids[51:55], "4920 2241 287 257")
for end in range(51, 55):
    print(f"{gpt2.decode(ids[50:end])!r} -> {gpt2.decode(ids[end : end + 1])!r}")

# %% [markdown]
# A window of tokens moves over the text; the example is the window, the target the window one token later. A
# DataLoader makes batches of the examples, shuffled if wanted.


# %%
class GPTDatasetV1:
    """Inputs and targets of `max_length` tokens, one every `stride` tokens."""

    def __init__(self, txt: str, tokenizer, max_length: int, stride: int):
        ids = tokenizer.encode(txt)
        starts = range(0, len(ids) - max_length, stride)
        self.input_ids = [tl.tensor(ids[i : i + max_length]) for i in starts]
        self.target_ids = [tl.tensor(ids[i + 1 : i + max_length + 1]) for i in starts]

    def __len__(self) -> int:
        return len(self.input_ids)

    def __getitem__(self, i: int) -> tuple[tl.Tensor, tl.Tensor]:
        return self.input_ids[i], self.target_ids[i]


def create_dataloader_v1(
    txt: str,
    batch_size: int = 4,
    max_length: int = 256,
    stride: int = 128,
    shuffle: bool = True,
    drop_last: bool = True,
) -> DataLoader:
    dataset = GPTDatasetV1(txt, gpt2, max_length, stride)
    return DataLoader(dataset, batch_size=batch_size, shuffle=shuffle, drop_last=drop_last)


batches = list(create_dataloader_v1(text, batch_size=1, max_length=4, stride=1, shuffle=False))
compare("first inputs, stride 1", batches[0][0], "40 367 2885 1464")
compare("first targets", batches[0][1], "367 2885 1464 1807")
compare("second inputs", batches[1][0], "367 2885 1464 1807")
compare("second targets", batches[1][1], "2885 1464 1807 3619")

# %% [markdown]
# `Windows` of the library takes ids, not a text, and cuts a window when it is read, so that a text of any length costs
# no memory. Number, order and content of the examples are the same, also when shuffled with the same seed:

# %%
for length, stride in [(256, 256), (256, 128), (4, 1)]:
    windows, dataset = Windows(ids, length, stride), GPTDatasetV1(text, gpt2, length, stride)
    print(f"length {length}, stride {stride}: {len(dataset)} examples")
    same("Windows", [len(dataset), *dataset[1]], [len(windows), *windows[1]])
tl.manual_seed(123)
ours = list(create_dataloader_v1(text))
tl.manual_seed(123)
same("DataLoader of Windows, shuffled", ours,
     list(DataLoader(Windows(ids, 256, 128), batch_size=4, shuffle=True, drop_last=True)))  # fmt: skip

# %% [markdown]
# **Exercise 2.2.** Other lengths and strides. With a stride equal to the length no token occurs twice in an epoch;
# with a shorter one the examples overlap.

# %%
x, _ = next(iter(create_dataloader_v1(text, batch_size=4, max_length=2, stride=2, shuffle=False)))
compare("length 2, stride 2", x, "40 367  2885 1464  1807 3619  402 271")
x, _ = next(iter(create_dataloader_v1(text, batch_size=4, max_length=8, stride=2, shuffle=False)))
compare(
    "length 8, stride 2", x,
    "40 367 2885 1464 1807 3619 402 271  2885 1464 1807 3619 402 271 10899 2138  "
    "1807 3619 402 271 10899 2138 257 7026  402 271 10899 2138 257 7026 15632 438",
)  # fmt: skip

# %%
x, y = next(iter(create_dataloader_v1(text, batch_size=8, max_length=4, stride=4, shuffle=False)))
compare(
    "a batch of eight, inputs", x,
    "40 367 2885 1464  1807 3619 402 271  10899 2138 257 7026  15632 438 2016 257  "
    "922 5891 1576 438  568 340 373 645  1049 5975 284 502  284 3285 326 11",
)  # fmt: skip
compare(
    "a batch of eight, targets", y,
    "367 2885 1464 1807  3619 402 271 10899  2138 257 7026 15632  438 2016 257 922  "
    "5891 1576 438 568  340 373 645 1049  5975 284 502 284  3285 326 11 287",
)  # fmt: skip

# %% [markdown]
# A text that is shorter than one window has no example. The dataset above is then empty, and a mean loss over it would
# be nan; in the library this is an error:

# %%
print(len(GPTDatasetV1(text[:400], gpt2, max_length=256, stride=256)), "examples")
try:
    Windows(ids[:100], length=256, stride=256)
except ValueError as error:
    print("ValueError:", error)

# %% [markdown]
# ## 2.7 Vectors
#
# An embedding is a matrix with a row for each id, random at first and learned like all parameters. Looking ids up
# selects these rows. The seed gives the page's random numbers.

# %%
tl.manual_seed(123)
embedding = nn.Embedding(6, 3)
compare(
    "a matrix for six ids", embedding.weight,
    "0.3374 -0.1778 -0.1690  0.9178 1.5810 1.3010  1.2753 -0.2010 -0.1606  "
    "-0.4015 0.9666 -1.1481  -1.1589 0.3255 -0.6315  -2.8400 -0.7849 -1.4096",
)  # fmt: skip
compare("id 3", embedding(tl.tensor([3])), "-0.4015 0.9666 -1.1481")
compare(
    "ids 2, 3, 5, 1", embedding(tl.tensor([2, 3, 5, 1])),
    "1.2753 -0.2010 -0.1606  -0.4015 0.9666 -1.1481  -2.8400 -0.7849 -1.4096  0.9178 1.5810 1.3010",
)  # fmt: skip

# %% [markdown]
# A row of the matrix is also the product of the matrix with a vector that is 1 at the id and 0 elsewhere. Looking it up
# is the same without the multiplications by zero.

# %%
one_hot = (tl.arange(6) == tl.tensor([2, 3, 5, 1]).expand_dims(1)).astype(tl.float32)  # (4, 6)
same("Embedding, as a product", one_hot @ embedding.weight, embedding(tl.tensor([2, 3, 5, 1])))

# %% [markdown]
# ## 2.8 Positions
#
# The same token at another position would have the same vector, and attention, the next chapter, does not depend on
# positions by itself. So each position has a learned vector of its own, and the two are added: (B, T, D) + (T, D).

# %%
token_embedding = nn.Embedding(50257, 256)
place_embedding = nn.Embedding(4, 256)
vectors = token_embedding(x) + place_embedding(tl.arange(4))
compare("shape of a batch of vectors", list(vectors.shape), "8 4 256")

# %%
page.summary()
