"""Tokens that a user names: by id, by their text, or by a part of it."""

from ..config import check_integer
from .loaded import LoadedModel

Token = int | str  # a token's id, or its text


def token_id(model: LoadedModel, token: Token) -> int:
    """The id of a token, given by its id or its text.

    ValueError for an id outside the vocabulary, and for a text that is not exactly one token.
    """
    size = model.model.config.vocab_size
    if not isinstance(token, str):
        check_integer("token", token, low=0)
        if token >= size:
            raise ValueError(f"token {token} is not in the vocabulary: ids are 0 to {size - 1}")
        return int(token)
    ids = model.encode(token)
    if len(ids) > 1:
        parts = ", ".join(f"{model.text_of(id)!r} ({id})" for id in ids[:8])
        more = ", ..." if len(ids) > 8 else ""
        raise ValueError(f"{token!r:.80} is {len(ids)} tokens, not one: {parts}{more}; give one of them, or an id")
    return ids[0]


def find_tokens(model: LoadedModel, query: str, most: int = 24) -> list[tuple[int, str]]:
    """(id, text) of at most `most` tokens that `query` may mean, the most likely first.

    These are: the token of that text, the token of that id, the tokens that contain the text (the shortest first), and
    the tokens into which the text is split.
    """
    size = model.model.config.vocab_size
    if not query:
        return []
    try:
        parts = model.encode(query)
    except ValueError:  # the tokenizer does not have a character of it, or the text is too long
        parts = []
    number = int(query) if query.isascii() and query.isdecimal() and len(query) < 12 else size
    first = [*(parts if len(parts) == 1 else []), *([number] if number < size else [])]
    last = list(dict.fromkeys(parts))[: most // 2] if len(parts) > 1 else []
    texts = [model.text_of(id) for id in range(size)]
    containing = sorted((id for id in range(size) if query in texts[id]), key=lambda id: (len(texts[id]), id))
    ids = dict.fromkeys([*list(dict.fromkeys([*first, *containing]))[: most - len(last)], *last])
    return [(id, texts[id]) for id in ids]
