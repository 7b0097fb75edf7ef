"""Changes to a model before fine-tuning: a token for the end of text, dropout, a separate output head."""

from dataclasses import replace

from ...model import GPT
from ...tokenizer import END_OF_TEXT, CharTokenizer, Tokenizer


def with_end_of_text(model: GPT, tokenizer: Tokenizer) -> tuple[GPT, Tokenizer]:
    """Model and tokenizer with a token for the end of text: unchanged where there is one, else with one token more.

    A CharTokenizer may lack it. The token becomes the last id; its row of the embedding (and of the head) is
    initialized as in a new model, all other weights are the same. ValueError for another tokenizer without the token.
    """
    if END_OF_TEXT in tokenizer.special_tokens:
        return model, tokenizer
    if not isinstance(tokenizer, CharTokenizer):
        raise ValueError(f"{tokenizer} has no {END_OF_TEXT} token, which ends an answer: use bpe or char")
    extended = CharTokenizer(tokenizer.characters, special_tokens=(END_OF_TEXT,))
    larger = GPT(replace(model.config, vocab_size=extended.vocab_size)).to(model.token_embedding.weight.device)
    for (_, p), (_, old) in zip(larger.named_parameters(), model.named_parameters(), strict=True):
        p.data[: len(old)] = old.data
        p.changed()
    return larger, extended


def with_dropout(model: GPT, p: float) -> GPT:
    """A model with the same weights and the dropout probability `p`."""
    changed = GPT(model.config.with_dropout(p))
    changed.load_state_dict(model.state_dict())
    return changed


def with_own_head(model: GPT) -> GPT:
    """A model with the same weights and a head of its own, initialized as a copy of the token embedding.

    GPT-2 uses one matrix for both (a tied head). The book loads it twice, so that token embedding and head diverge from
    the first step on. A model with an untied head is returned unchanged.
    """
    if not model.config.tie_head:
        return model
    untied = GPT.without_init(replace(model.config, tie_head=False))
    untied.load_state_dict({**model.state_dict(), "head.weight": model.token_embedding.weight})
    return untied
