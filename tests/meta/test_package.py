"""The wheel: its files, metadata, size and version; the time of its import; and a fresh environment that it works in.

The wheel is built by `python -m build`, from the source distribution, as it would be published.
"""

import email
import email.message
import os
import re
import statistics
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
LARGEST = 1_500_000  # bytes of the wheel
IMPORT_SECONDS = 0.15  # of `import tensorlite` beyond `import numpy`

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def distributions(tmp_path_factory) -> Path:
    pytest.importorskip("build", reason="builds the wheel: pip install -e '.[dev]'")
    folder = tmp_path_factory.mktemp("dist")
    built = subprocess.run(
        [sys.executable, "-m", "build", "--outdir", folder, ROOT], capture_output=True, encoding="utf-8"
    )
    if built.returncode and "No matching distribution found for hatchling" in built.stdout + built.stderr:
        pytest.skip("builds the wheel: needs hatchling from a package index")
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(distributions) -> Path:
    (path,) = distributions.glob("*.whl")
    return path


def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as file:
        return file.namelist()


def metadata(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as file:
        (name,) = [name for name in file.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(file.read(name))


# ----- the version ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["*.whl", "*.tar.gz"])
def test_the_version_is_that_of_the_package(distributions, kind):
    import gpt
    import tensorlite

    (path,) = distributions.glob(kind)
    assert path.name.startswith(f"tensorlite-{tensorlite.__version__}")
    assert gpt.__version__ == tensorlite.__version__


def test_the_version_is_written_in_one_place_and_agrees_where_it_is_repeated():
    import tensorlite

    assert re.fullmatch(r"\d+\.\d+\.\d+", tensorlite.__version__), "a semantic version"
    assert "version" not in PROJECT
    assert PROJECT["dynamic"] == ["version"]
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert re.findall(r"^version: (.*)$", citation, re.MULTILINE) == [tensorlite.__version__]
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert next(heading for heading in headings if heading != "Unreleased") == tensorlite.__version__


# ----- files ------------------------------------------------------------------------------------------------------


def test_the_wheel_has_every_file_of_both_packages_and_no_other(wheel):
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "tensorlite", "gpt"], cwd=ROOT, capture_output=True, encoding="utf-8"
    )
    if tracked.returncode:
        pytest.skip("compares with the files that git knows")
    files = {name for name in tracked.stdout.split("\0") if name}
    packaged = {name for name in names(wheel) if ".dist-info/" not in name}
    wanted = {"gpt/serve/static/vendor/d3.min.js", "tensorlite/kernels/cuda/layers.cu"}
    assert wanted | {"gpt/py.typed", "tensorlite/py.typed"} <= packaged
    assert packaged == files


def test_the_wheel_is_small(wheel):
    assert wheel.stat().st_size < LARGEST


def test_the_wheel_has_the_licence_of_every_vendored_file(wheel):
    licences = {name.split("/licenses/")[1] for name in names(wheel) if "/licenses/" in name}
    vendored = {name.rsplit(".", 2)[0] for name in names(wheel) if "/vendor/" in name and name.endswith(".js")}
    assert licences == {"LICENSE"} | {f"{name.removesuffix('.min')}.LICENSE" for name in vendored}
    assert set(metadata(wheel).get_all("License-File")) == licences


def test_the_source_distribution_can_be_tested(distributions):
    (path,) = distributions.glob("*.tar.gz")
    with tarfile.open(path) as file:
        top = {name.split("/")[1] for name in file.getnames() if "/" in name}
    assert {"tensorlite", "gpt", "tests", "examples", "docs", "mkdocs.yml", "pyproject.toml", "README.md"} <= top
    assert not top & {"runs", "build", "dist", ".venv", ".git"}


# ----- metadata ---------------------------------------------------------------------------------------------------


def test_the_metadata_is_complete(wheel):
    found = metadata(wheel)
    assert found["Name"] == "tensorlite"
    assert found["Summary"] == PROJECT["description"]
    assert found["License-Expression"] == "MIT AND ISC"
    assert found["Requires-Python"] == ">=3.11"
    assert found["Description-Content-Type"] == "text/markdown"
    classifiers = found.get_all("Classifier")
    for version in ("3.11", "3.12", "3.13", "3.14"):
        assert f"Programming Language :: Python :: {version}" in classifiers
    assert not [each for each in classifiers if each.startswith("License ::")], "PEP 639: the expression alone"
    required = [each for each in found.get_all("Requires-Dist") if "extra ==" not in each]
    assert len(required) == len(PROJECT["dependencies"])
    assert not [each for each in required if re.match("torch|transformers|tensorflow|jax", each)]


def test_twine_accepts_the_distributions(distributions):
    pytest.importorskip("twine", reason="checks the metadata: pip install -e '.[dev]'")
    files = [str(path) for path in distributions.iterdir()]
    checked = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *files], capture_output=True)
    assert checked.returncode == 0, checked.stdout


# ----- use --------------------------------------------------------------------------------------------------------


def test_gpt_works_from_the_wheel_without_the_source(wheel, tmp_path):
    """The wheel's files alone, in an environment that has its dependencies and not this folder."""
    venv.create(tmp_path / "venv", with_pip=False)
    (python,) = [p for p in (tmp_path / "venv").glob("*/python*") if p.stem == "python"]
    packages = tmp_path / "packages"
    with zipfile.ZipFile(wheel) as file:
        file.extractall(packages)
    dependencies = [path for path in sys.path if path.endswith("site-packages")]
    start = f"import sys; sys.path[:0] = [{str(packages)!r}]; sys.path += {dependencies!r}\n"
    train = ["train", "--steps", "2", "--eval-every", "2", "--sample-tokens", "4", "--n-layer", "1", "--out", "run"]
    for arguments in (train, ["generate", "run", "--prompt", "The", "--max-new-tokens", "4"]):
        where = f"assert m.__file__.startswith({str(packages)!r})"
        code = f"{start}sys.argv[1:] = {arguments!r}\nimport gpt.__main__ as m\n{where}\nm.main()"
        ran = subprocess.run([python, "-I", "-c", code], cwd=tmp_path, capture_output=True, encoding="utf-8")
        assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("The")


def test_importing_tensorlite_takes_little_more_than_numpy(tmp_path):
    """Measured 0.06 s; with compiled files (bytecode), as every import but the first has them."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(tmp_path)

    def seconds(code: str) -> float:
        timed = f"import time; start = time.process_time(); {code}; print(time.process_time() - start)"
        ran = subprocess.run(
            [sys.executable, "-c", timed], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        return float(ran.stdout)

    seconds("import tensorlite")  # compiles the files
    pairs = [(seconds("import numpy"), seconds("import numpy, tensorlite")) for _ in range(7)]
    beyond = statistics.median(both for _, both in pairs) - statistics.median(numpy for numpy, _ in pairs)
    assert beyond < IMPORT_SECONDS
