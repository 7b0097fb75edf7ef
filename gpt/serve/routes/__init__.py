"""The routes, one file for each view of the page. A module has its own list ROUTES."""

from . import openai, runs, tokens

ROUTES = [*runs.ROUTES, *tokens.ROUTES, *openai.ROUTES]
