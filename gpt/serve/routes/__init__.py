"""The routes, one file for each view of the page. A module has its own list ROUTES."""

from . import attention, backward, chat, classify, embeddings, learn, lens, openai, residual, runs, tokens, write

ROUTES = [
    *attention.ROUTES,
    *backward.ROUTES,
    *chat.ROUTES,
    *classify.ROUTES,
    *embeddings.ROUTES,
    *learn.ROUTES,
    *lens.ROUTES,
    *openai.ROUTES,
    *residual.ROUTES,
    *runs.ROUTES,
    *tokens.ROUTES,
    *write.ROUTES,
]
