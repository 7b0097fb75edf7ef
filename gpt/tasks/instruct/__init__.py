"""Fine-tuning to follow instructions: entries in, a model that answers out (`gpt finetune instruct`, `gpt chat`).

An instruction, an optional input and the expected output are one text in a fixed prompt format. Training is next-token
prediction on such texts; to answer, the model continues a prompt until it generates the end of text. Semantics:
Raschka, "Build a Large Language Model (From Scratch)", chapter 7.

The files, each using those before it: data (entries and prompt formats), settings (InstructConfig), model (end of text,
dropout, separate head), batches (entries as token ids), inference (responses to many entries), chat (a conversation),
judge (scores for responses), task (the protocol of the training loop).
"""

from ..changed_model import with_end_of_text, with_own_head
from .batches import Encoded, chain_turns, collate, encode, encode_all
from .chat import Conversation
from .data import STYLES, Entry, Split, Style, format_alpaca, format_phi3, read_entries, split
from .inference import generate_responses, save_responses
from .settings import InstructConfig
from .task import Instructions

__all__ = [
    "STYLES",
    "Conversation",
    "Encoded",
    "Entry",
    "InstructConfig",
    "Instructions",
    "Split",
    "Style",
    "chain_turns",
    "collate",
    "encode",
    "encode_all",
    "format_alpaca",
    "format_phi3",
    "generate_responses",
    "read_entries",
    "save_responses",
    "split",
    "with_end_of_text",
    "with_own_head",
]
