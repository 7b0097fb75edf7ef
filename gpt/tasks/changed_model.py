"""Changes to a trained model before it is trained further: more tokens, a shorter context, dropout, an own head."""

from collections.abc import Sequence
from dataclasses import replace

from ..model import GPT
from ..tokenizer import END_OF_TEXT, BPETokenizer, CharTokenizer, Tokenizer


def with_special_tokens(model: GPT, tokenizer: Tokenizer, tokens: Sequence[str]) -> tuple[GPT, Tokenizer]:
    """Model and tokenizer with more special tokens, which get the ids after the last one.

    Their rows of the embedding (and of the head) are initialized as in a new model, all other weights are the same.
    ValueError for a token that the tokenizer has, and for a tokenizer of words, whose vocabulary is its text's.
    """
    if known := [token for token in tokens if token in tokenizer.special_tokens]:
        raise ValueError(f"the vocabulary has the special token {known[0]!r} already: omit it")
    if not isinstance(tokenizer, BPETokenizer | CharTokenizer):
        raise ValueError(f"{tokenizer} cannot be extended by special tokens: start from a run with bpe, char or gpt2")
    larger_tokenizer = tokenizer.with_special_tokens(tokens)
    larger = GPT(replace(model.config, vocab_size=larger_tokenizer.vocab_size)).to(model.device)
    for (_, p), (_, old) in zip(larger.named_parameters(), model.named_parameters(), strict=True):
        p.data[: len(old)] = old.data
        p.changed()
    return larger, larger_tokenizer


def with_context_length(model: GPT, context_length: int) -> GPT:
    """The model with the embeddings of its first positions only. ValueError for more positions than it has."""
    longest = model.config.context_length
    if context_length > longest:
        raise ValueError(
            f"context_length must be at most {longest}, the run's own, got {context_length}: a position that was never "
            "trained has no embedding"
        )
    shorter = GPT.without_init(replace(model.config, context_length=context_length))
    positions = model.position_embedding.weight[:context_length].detach()
    shorter.load_state_dict({**model.state_dict(), "position_embedding.weight": positions})
    return shorter


def with_end_of_text(model: GPT, tokenizer: Tokenizer) -> tuple[GPT, Tokenizer]:
    """Model and tokenizer with a token for the end of text: unchanged where there is one, else with one token more.

    A CharTokenizer may lack it. ValueError for another tokenizer without the token.
    """
    if END_OF_TEXT in tokenizer.special_tokens:
        return model, tokenizer
    if not isinstance(tokenizer, CharTokenizer):
        raise ValueError(f"{tokenizer} has no {END_OF_TEXT} token, which ends an answer: use bpe or char")
    return with_special_tokens(model, tokenizer, (END_OF_TEXT,))


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
