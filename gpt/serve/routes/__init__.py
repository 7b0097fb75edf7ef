"""The routes, one file for each view of the page. A module has its own list ROUTES."""

from . import runs, tokens, write

ROUTES = [*runs.ROUTES, *tokens.ROUTES, *write.ROUTES]
