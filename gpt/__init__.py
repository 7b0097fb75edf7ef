"""gpt: build, train and talk to a GPT, on tensorlite alone."""

__version__ = "0.1.0"
