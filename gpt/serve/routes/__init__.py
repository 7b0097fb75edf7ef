"""The routes, one file for each view of the page. A module has its own list ROUTES."""

from . import chat, classify, openai, runs, tokens

ROUTES = [*runs.ROUTES, *tokens.ROUTES, *chat.ROUTES, *classify.ROUTES, *openai.ROUTES]
