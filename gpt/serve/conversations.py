"""A run that was fine-tuned on instructions, as the conversation that `gpt chat` has with it."""

from collections.abc import Mapping
from typing import Any

from ..look import LoadedModel
from ..tasks.instruct import STYLES, Conversation, InstructConfig
from ..tokenizer import END_OF_TEXT


class NotChat(ValueError):
    """The model was not fine-tuned to answer."""


def conversation(loaded: LoadedModel, history: int | None = None, **options: Any) -> Conversation:
    """A new conversation; by default the model sees as many earlier turns as in training. Options as there.

    NotChat for a model that was not fine-tuned to answer.
    """
    style = loaded.description.get("style")
    end = loaded.tokenizer.special_tokens.get(END_OF_TEXT)
    if loaded.task != "instruct" or style not in STYLES or end is None:
        raise NotChat(
            f"{loaded.run.name} was not fine-tuned to chat: gpt finetune instruct makes a model that answers, and this "
            "one continues texts"
        )
    history = trained_turns(loaded.description) - 1 if history is None else history
    return Conversation(loaded.model, loaded.tokenizer, STYLES[style], end, history=history, **options)


def trained_turns(description: Mapping[str, Any]) -> int:
    """How many turns the longest conversations of the model's training had."""
    training: Any = description.get("training")
    return InstructConfig.from_dict(training).turns
