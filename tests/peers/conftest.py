"""PyTorch and transformers take seconds to import, and as long to collect: only a run that asks for them does."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave this folder out of the default run (-m 'not slow'), unless the command line names it."""
    named = [Path(config.invocation_params.dir, arg.partition("::")[0]).resolve() for arg in config.args]
    asked = any(path == HERE or HERE in path.parents for path in named)
    return None if asked or config.option.markexpr != "not slow" else True
