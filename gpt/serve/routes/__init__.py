"""The routes, one file for each view of the page. A module has its own list ROUTES."""

from . import embeddings, lens, residual, runs, tokens

ROUTES = [*runs.ROUTES, *tokens.ROUTES, *lens.ROUTES, *residual.ROUTES, *embeddings.ROUTES]
