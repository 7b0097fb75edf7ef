"""The page of `gpt look`, and an OpenAI-compatible server, on one port.

app.py puts the parts together. routes/ has one file for each view of the page (and openai.py); static/ has the page's
files. All computation with a model runs in one thread (worker.py), so that requests wait in a bounded queue.
"""

from .app import create_app

__all__ = ["create_app"]
