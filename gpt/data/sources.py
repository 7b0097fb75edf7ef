"""A table of all downloads: names, their files, the addresses of these, and checksums to verify them.

The SHA-256 of the data sets and of GPT-2's tokenizer were computed from the files
themselves. Those of GPT-2's weights could not be: they are the ones that Hugging Face shows for its repositories, as
several independent public projects have recorded them, and Hugging Face's own answer must match (download.py).
"""

from typing import NamedTuple


class File(NamedTuple):
    """One file in the download folder."""

    name: str
    urls: tuple[str, ...]  # the official address first, then mirrors
    sha256: str | None  # None: taken from Hugging Face's answer (X-Linked-Etag)
    size: int | None = None  # bytes, where known for certain
    member: str | None = None  # the urls lead to a zip archive, of which this is the member


class Source(NamedTuple):
    """The files of a name."""

    about: str
    size: str  # of all files together
    origin: str
    licence: str
    files: tuple[File, ...]


def _book(path: str) -> tuple[str, ...]:
    """A file of the book's repository."""
    return (
        f"https://raw.githubusercontent.com/rasbt/LLMs-from-scratch/main/{path}",
        f"https://cdn.jsdelivr.net/gh/rasbt/LLMs-from-scratch@main/{path}",
    )


def _hub(model: str, revision: str, name: str) -> tuple[str, ...]:
    """A file of one of Hugging Face's GPT-2 repositories."""
    path = f"openai-community/{model}/resolve/{revision}/{name}"
    return (f"https://huggingface.co/{path}", f"https://hf-mirror.com/{path}")


_GPT2 = "607a30d783dfa663caf39e06633721c8d4cfcd7e"  # the revision of Hugging Face's openai-community/gpt2
_VOCAB = "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783", 1_042_301
_MERGES = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5", 456_318
_OPENAI = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"


def _model(name: str, parameters: str, size: str, revision: str, config: File, weights: File) -> Source:
    """GPT-2 of one size; the tokenizer is the same for all."""
    tokenizer = (
        File("vocab.json", _hub("gpt2", _GPT2, "vocab.json"), *_VOCAB),
        File("merges.txt", _hub("gpt2", _GPT2, "merges.txt"), *_MERGES),
        File(
            "tokenizer.json", _hub("gpt2", _GPT2, "tokenizer.json"),
            "8414cab924d8b9b33013f0d221c5862f365ee9be39c5c2bfae8a5a9e970478a6", 1_355_256,
        ),
    )  # fmt: skip
    # Files whose checksum only the server knows come from Hugging Face itself, not from mirrors.
    own = (file._replace(urls=_hub(name, revision, file.name)[: 2 if file.sha256 else 1]) for file in (config, weights))
    return Source(f"{parameters} parameters", size, "Hugging Face", "modified MIT", (*own, *tokenizer))


DATA: dict[str, Source] = {
    "the-verdict": Source(
        "a short story", "20 kB", "Wharton, 1908", "public domain",
        (File(
            "the-verdict.txt", _book("ch02/01_main-chapter-code/the-verdict.txt"),
            "b41e41a68f0398a3154ae69e2e4c0e2694e17fe0d66730536837f1b01935b31f", 20_479,
        ),),
    ),
    "shakespeare": Source(
        "1.1M characters", "1.1 MB", "char-rnn", "public domain",
        (File(
            "tinyshakespeare.txt",
            ("https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
             "https://storage.googleapis.com/download.tensorflow.org/data/shakespeare.txt"),
            "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed", 1_115_394,
        ),),
    ),
    # Tiago A. Almeida, José María Gómez Hidalgo: SMS Spam Collection v.1, doi 10.24432/C5CC84
    "spam": Source(
        "5,574 messages", "478 kB", "UCI", "CC BY 4.0",
        (File(
            "SMSSpamCollection",
            ("https://archive.ics.uci.edu/static/public/228/sms+spam+collection.zip",
             "https://f001.backblazeb2.com/file/LLMs-from-scratch/sms%2Bspam%2Bcollection.zip"),
            "7d039a24a6083ed9ef0f806ebad56bbb976e3aeb8de05669173bfdc4996c239d", 477_907, "SMSSpamCollection",
        ),),
    ),
    "instructions": Source(
        "1,100 entries", "204 kB", "the book", "Apache-2.0",
        (File(
            "instruction-data.json", _book("ch07/01_main-chapter-code/instruction-data.json"),
            "7e09a9af353722ca15c18bc580f093f9c39d3178335a75177319cb1e1d163944", 203_524,
        ),),
    ),
    "gpt2-tokenizer": Source(
        "50,257 tokens", "1.5 MB", "OpenAI", "modified MIT",
        (File("vocab.bpe", (_OPENAI + "vocab.bpe", *_hub("gpt2", _GPT2, "merges.txt")), *_MERGES),
         File("encoder.json", (_OPENAI + "encoder.json", *_hub("gpt2", _GPT2, "vocab.json")), *_VOCAB)),
    ),
}  # fmt: skip

MODELS: dict[str, Source] = {
    "gpt2": _model(
        "gpt2", "124M", "551 MB", _GPT2,
        File("config.json", (), "0daed7749b4f02b8f76240d5444551d7b08712dab4d0adb8239c56ba823bb7b4", 665),
        File(
            "model.safetensors", (),
            "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707", 548_105_171,
        ),
    ),
    "gpt2-medium": _model(
        "gpt2-medium", "355M", "1.52 GB", "6dcaa7a952f72f9298047fd5137cd6e4f05f41da",
        File("config.json", (), "ef1a44d889ad1a0acc7731c78134f1b87d2d222f110e97dd10fd4117331caf22", 718),
        File(
            "model.safetensors", (),
            "fc5a354a19255ad494f3d71549390baca1ccf61d1d822b9408971705c687c9cd", 1_519_984_962,
        ),
    ),
    "gpt2-large": _model(
        "gpt2-large", "774M", "3.25 GB", "32b71b12589c2f8d625668d2335a01cac3249519",
        File("config.json", (), None),
        File("model.safetensors", (), "5f47f3e12f91cd33b662ce7e433b6150ad5512b5884a2cee961b50e9c3bbebce"),
    ),
    "gpt2-xl": _model(
        "gpt2-xl", "1.56B", "6.43 GB", "15ea56dee5df4983c59b2538573817e1667135e2",
        File("config.json", (), "be48115d52314bc27327e160bf10197760db02ea689d10adb24db4102edf7a8a"),
        File("model.safetensors", (), "0f8b28eb05a8075f48b61b6f35332978c74fc7763fa9fb4051a1c30511736a6a"),
    ),
}  # fmt: skip
