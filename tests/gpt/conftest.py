"""Fixtures of the tests of gpt."""

import pytest
from runs import tiny, train


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A tiny run that has ended: the folder that it lies in, and what it printed."""
    folder = tmp_path_factory.mktemp("finished")
    return folder, train(tiny(folder))
