"""Data: datasets, a loader that yields batches in torch's order, and files of tokens.

A dataset is anything with `len` and `[i]`, such as a list. An epoch is a list of indices: the loader shuffles them, and
its position is the number of batches that were drawn, so that training can stop anywhere and resume with the next
batch. A text of any length is a flat file of token ids that is mapped into memory, not read.

There are no worker processes: an item is a slice of mapped memory and needs no loading.
"""

from ..errors.suggestions import module_getattr
from .loader import DataLoader, Dataset, default_collate
from .token_file import TokenFile, Windows, token_writer, write_tokens

__getattr__ = module_getattr("data")
__all__ = ["DataLoader", "Dataset", "TokenFile", "Windows", "default_collate", "token_writer", "write_tokens"]
