"""Instructions: the second fine-tuning task. Entries in, a model that answers out.

One idea: an instruction, an optional input and the expected answer are one text in a fixed form, and what follows the
form's last header is the answer. Training is next-token prediction on such texts; asking is to write all but the
answer and let the model go on until it writes the end of text.

Semantics: Raschka, "Build a Large Language Model (From Scratch)", chapter 7. The parts, from the bottom: entries,
batches, answers, chat, task (what the training loop asks for), generated (a set that small models can learn).
"""

from .answers import answers, save_responses
from .batches import Encoded, collate, conversations, encode, encode_all, with_end_of_text
from .chat import Conversation
from .data import STYLES, Entry, Split, Style, format_alpaca, format_phi3, read_entries, split
from .task import InstructConfig, Instructions, with_own_head

__all__ = [
    "STYLES",
    "Conversation",
    "Encoded",
    "Entry",
    "InstructConfig",
    "Instructions",
    "Split",
    "Style",
    "answers",
    "collate",
    "conversations",
    "encode",
    "encode_all",
    "format_alpaca",
    "format_phi3",
    "read_entries",
    "save_responses",
    "split",
    "with_end_of_text",
    "with_own_head",
]
