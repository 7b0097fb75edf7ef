"""The routes, one file for each view of the page. A module has its own list ROUTES."""

from . import attention, runs, tokens, write

ROUTES = [
    *attention.ROUTES,
    *runs.ROUTES,
    *tokens.ROUTES,
    *write.ROUTES,
]
