"""The routes, one file for each view of the page. A module has its own list ROUTES."""

from . import attention, runs, tokens

ROUTES = [*runs.ROUTES, *tokens.ROUTES, *attention.ROUTES]
