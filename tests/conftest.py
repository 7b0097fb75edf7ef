"""Fixtures and Hypothesis profiles for all tests.

HYPOTHESIS_PROFILE chooses `dev` (default: quick), `ci` (the same examples on every run) or `nightly` (long, random).
"""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# The tests' matrices are small and pytest-xdist fills the cores: more BLAS threads would only wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("dev", max_examples=50, deadline=None)
settings.register_profile("ci", max_examples=200, derandomize=True, deadline=None, print_blob=True)
settings.register_profile("nightly", max_examples=5000, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with the real inputs (the-verdict.txt, GPT-2's files, ...), beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("TENSORLITE_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no data folder {folder}: set TENSORLITE_DATA")
    return folder
