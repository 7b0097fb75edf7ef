"""Fixtures and Hypothesis profiles for all tests.

HYPOTHESIS_PROFILE chooses `dev` (default: quick), `ci` (the same examples on every run) or `nightly` (long,
random, failures remembered). A nightly run takes hours: with NIGHTLY_PASSED=FILE each test that passes is written to
that file, and a later run skips the tests in it.
"""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from skips import skips_by_reason

import tensorlite
from tensorlite import backend

# The tests' matrices are small and pytest-xdist fills the cores: more BLAS threads would only wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A test's first optimizer changes nothing of the process that all tests share.
os.environ.setdefault("TENSORLITE_PREPARE", "0")

# rich draws no bars in a terminal that calls itself dumb, as some editors' do.
os.environ["TERM"] = "xterm-256color"

# No limit looks at the clock. The parent is Hypothesis' own default: where $CI is set another would be in force.
DEFAULT = settings(
    settings.get_profile("default"), deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
# What the user has downloaded decides nothing here.
os.environ["GPT_DOWNLOAD_DIR"] = str(Path(__file__).parent / "no cache")

settings.register_profile("dev", DEFAULT, max_examples=10, derandomize=True)
settings.register_profile("ci", DEFAULT, max_examples=100, derandomize=True)
settings.register_profile("nightly", DEFAULT, max_examples=5000)
for profile, examples in (("mutants", 200), ("quick-mutants", 10)):  # tests/meta/mutate.py: one failure is enough
    settings.register_profile(
        profile,
        DEFAULT,
        max_examples=examples,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        report_multiple_bugs=False,
    )
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))
if settings().derandomize and (providers := sys.modules.get("hypothesis.internal.conjecture.providers")):
    # Hypothesis draws numbers from the source of the modules imported so far: without this, the examples would depend
    # on which tests the same worker ran before, and on what is installed.
    no_constants = providers.Constants()
    providers._get_local_constants = lambda: no_constants


PASSED = os.environ.get("NIGHTLY_PASSED")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if PASSED and report.when == "call" and report.passed and "PYTEST_XDIST_WORKER" not in os.environ:
        with open(PASSED, "a", encoding="utf-8") as file:
            file.write(report.nodeid + "\n")


# Their tests take up to a minute. They begin first: at the end all other processes would wait for one of them.
LONGEST = ("test_torch_chapters.py", "test_book.py")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What passed before is left out; what needs a GPU is skipped, with the reason, where there is none."""
    if PASSED and os.path.exists(PASSED):
        passed = set(Path(PASSED).read_text(encoding="utf-8").splitlines())
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in passed])
        items[:] = [item for item in items if item.nodeid not in passed]
    items.sort(key=lambda item: item.path.name not in LONGEST)
    wanting = [item for item in items if item.get_closest_marker("gpu")]
    try:
        if wanting:
            backend.library_of("cuda")
    except RuntimeError as error:
        for item in wanting:
            item.add_marker(pytest.mark.skip(reason=str(error)))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """The weights that a test draws without a seed of its own do not depend on which tests ran before it."""
    tensorlite.manual_seed(0)


def pytest_terminal_summary(terminalreporter) -> None:
    if lines := skips_by_reason(terminalreporter.stats.get("skipped", [])):
        terminalreporter.section("skipped, by reason")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with the real inputs (the-verdict.txt, GPT-2's files, ...), beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("TENSORLITE_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no data folder {folder}: set TENSORLITE_DATA")
    return folder
