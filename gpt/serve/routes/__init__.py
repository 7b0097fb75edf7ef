"""The routes, one file for each view of the page. A module has its own list ROUTES."""

from . import learn, runs, tokens

ROUTES = [*runs.ROUTES, *tokens.ROUTES, *learn.ROUTES]
