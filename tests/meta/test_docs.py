"""The documentation site: its code runs, its commands exist, its links lead to a place, and it loads no foreign files.

The Python blocks of a page run in order in one process, in an empty folder, as a reader would paste them. A `text`
block that follows is what the block prints (`...` matches anything). The commands of `bash` blocks are parsed: those of
gpt by gpt's own parser, without being run; scripts and extras that others name must exist. A block that cannot run has
the line `<!-- not run: REASON -->` before it.
"""

import contextlib
import doctest
import html.parser
import importlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if path.name != "mutants.md")
BLOCK = re.compile(
    r"^(?P<note><!-- not run: [^\n]+ -->\n+)?```(?P<language>\S*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
LANGUAGES = {"python", "bash", "text", "json"}
MATCH = doctest.OutputChecker().check_output


def name(path: Path) -> str:
    return path.relative_to(DOCS).as_posix()


def blocks(text: str) -> list[tuple[int, str, str, bool]]:
    """(line, language, code, whether it runs) of each fenced block."""
    return [
        (text.count("\n", 0, found.start("code")), found["language"], found["code"], not found["note"])
        for found in BLOCK.finditer(text)
    ]


def pages_with(language: str) -> list[Path]:
    return [
        path for path in PAGES if any(found[1] == language and found[3] for found in blocks(path.read_text("utf-8")))
    ]


SERVER = "http://127.0.0.1:8990"  # of `gpt look` on the pages; the tests start their own, and set DOCS_SERVER

# ----- Python -----------------------------------------------------------------------------------------------------

ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
RUN = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from pathlib import Path
from test_docs import run_page
run_page(Path(sys.argv.pop(1)))
"""


def run_page(path: Path) -> None:
    """Run the Python blocks of a page in order; AssertionError for one that prints something else than its `text`."""
    found, names = blocks(path.read_text("utf-8")), {"__name__": "page"}
    for i, (line, language, code, runs) in enumerate(found):
        if language == "python" and runs:
            printed = io.StringIO()
            code = code.replace(SERVER, os.environ.get("DOCS_SERVER", SERVER))
            with contextlib.redirect_stdout(printed):
                exec(compile("\n" * line + code, str(path), "exec"), names)
            if i + 1 < len(found) and found[i + 1][1] == "text":
                expected = found[i + 1][2]
                same = MATCH(expected, printed.getvalue(), doctest.ELLIPSIS)
                assert same, f"{path}:{line}: it prints\n{printed.getvalue()}and not\n{expected}"


def run_in_a_new_process(path: Path, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", RUN, str(ROOT / "tests/meta"), str(path)]
    environment = ENVIRONMENT | variables
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", timeout=300)


@contextlib.contextmanager
def runs_of_look(folder: Path) -> Iterator[dict[str, str]]:
    """What docs/look.md has: runs with checkpoints at steps 0, 100, 200 and 300, and `gpt look` on them."""

    def gpt(*arguments: str) -> None:
        command = [sys.executable, "-m", "gpt", *arguments]
        subprocess.run(command, cwd=folder, env=ENVIRONMENT, check=True, capture_output=True)

    shape = "--n-layer 3 --n-head 2 --n-embd 16 --context-length 128 --batch-size 1 --eval-batches 1 --sample-tokens 1"
    gpt("train", *shape.split(), "--steps", "300", "--out", "runs/shakespeare")
    shutil.copytree(folder / "runs/shakespeare", folder / "runs/reference")
    entry = {"instruction": "Name a colour.", "input": "", "output": "red"}
    (folder / "data.json").write_text(json.dumps([entry] * 20))
    gpt("finetune", "instruct", "runs/reference", "--data", "data.json", "--epochs", "1", "--out", "runs/instruct")
    command = [sys.executable, "-m", "gpt", "look", "runs", "--no-browser", "--port", "0"]
    with subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as look:
        try:
            yield {"DOCS_SERVER": look.stdout.readline().strip().rstrip("/")}
        finally:
            look.terminate()


SETUP = {"look.md": runs_of_look}


def missing(path: Path) -> list[str]:
    """Packages beyond the extra `test` that a page imports and this Python does not have."""
    imported = re.findall(r"^(?:import|from) (openai|torch|transformers)\b", path.read_text("utf-8"), re.MULTILINE)
    return [each for each in imported if importlib.util.find_spec(each) is None]


@pytest.mark.slow
@pytest.mark.parametrize("path", pages_with("python"), ids=name)
def test_the_python_of_a_page_runs_and_prints_what_it_shows(path, tmp_path):
    if absent := missing(path):
        pytest.skip(f"needs {', '.join(absent)}")
    with SETUP.get(name(path), lambda folder: contextlib.nullcontext({}))(tmp_path) as variables:
        ran = run_in_a_new_process(path, tmp_path, **variables)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_every_block_is_of_a_language_that_is_checked(path):
    text = path.read_text("utf-8")
    assert {language for _, language, _, _ in blocks(text)} <= LANGUAGES
    assert len(re.findall(r"^```", text, re.MULTILINE)) == 2 * len(blocks(text)), "a fence is not closed"


def test_a_page_with_wrong_output_or_an_error_fails(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nx = 2\n```\n\n```python\nprint(x)\n```\n\n```text\n2\n```\n")
    run_page(page)
    page.write_text(page.read_text().replace("\n2\n", "\n3\n"))
    with pytest.raises(AssertionError, match=r"(?s):5: it prints\s+2\s+and not\s+3"):
        run_page(page)
    page.write_text("<!-- not run: an example -->\n```python\n1 / 0\n```\n\n```python\n1 / 0\n```\n")
    with pytest.raises(ZeroDivisionError):
        run_page(page)
    page.write_text(page.read_text().replace("\n\n", "\n\n<!-- not run: another -->\n"))
    run_page(page)


def test_every_page_is_in_the_navigation():
    listed = set(re.findall(r"^ +- (?:\S+: )?([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE))
    assert {name(path) for path in PAGES} <= listed, "add it to `nav` in mkdocs.yml"


# ----- commands ---------------------------------------------------------------------------------------------------

OTHERS = {"curl", "source", "cd", "git", "mypy", "ruff", "pytest", "mkdocs", "deactivate"}


def commands(code: str) -> list[list[str]]:
    """The words of every command of a `bash` block: lines joined at a backslash, split at `&&`, `|` and `;`."""
    found: list[list[str]] = []
    for line in code.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split, lexer.commenters = True, "#"
        found.append([])
        for word in lexer:
            if word in ("&&", "||", "|", ";", "&"):
                found.append([])
            else:
                found[-1].append(word)
    return [words for words in found if words]


def without_redirections(words: list[str]) -> list[str]:
    kept = list(words)
    for sign in ("<", ">", ">>"):
        while sign in kept:
            del kept[kept.index(sign) : kept.index(sign) + 2]
    return kept


def check_command(words: list[str]) -> None:
    """AssertionError for a command that does not exist, or has arguments that do not."""
    program, *arguments = without_redirections(words)
    if program == "mpiexec" and arguments[0] == "-n":
        program, *arguments = arguments[2:]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    if program == "gpt":
        parse(arguments)
    elif program in ("pip", "python", "python3") and "pip" in (program, *arguments[1:2]):
        wanted = re.findall(r"\[([\w,]+)\]", " ".join(arguments))
        assert {extra for group in wanted for extra in group.split(",")} <= {*extras}, words
    elif program in ("python", "python3") and arguments[0] != "-m":
        assert (ROOT / arguments[0]).is_file(), words
    elif program in ("python", "python3"):
        assert arguments[1] == "venv" or importlib.util.find_spec(arguments[1]), words
    else:
        assert program in OTHERS or (ROOT / program).exists(), f"unknown program: {words}"


def parse(arguments: list[str]) -> None:
    from gpt.cli import main

    given = [word for word in arguments if not word.startswith("--resume=")]
    if "--resume" in given:  # its settings are read from the run: without one, the other flags are parsed
        at = given.index("--resume")
        given[at : at + 2] = []
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            main.parse(given)
        except (Exception, SystemExit) as end:
            if getattr(end, "code", 1):  # 0: help
                raise AssertionError(f"gpt {shlex.join(arguments)}: {end} {errors.getvalue()}") from None


@pytest.mark.parametrize("path", pages_with("bash"), ids=name)
def test_the_commands_of_a_page_exist_with_their_flags(path):
    for line, language, code, runs in blocks(path.read_text("utf-8")):
        if language == "bash" and runs:
            for words in commands(code):
                try:
                    check_command(words)
                except (AssertionError, ValueError) as error:
                    raise AssertionError(f"{name(path)}:{line}: {error}") from None


def test_wrong_commands_are_found():
    assert commands('gpt train \\\n  --out a # "x\ngpt chat r | head -1 && ls') == [
        ["gpt", "train", "--out", "a"], ["gpt", "chat", "r"], ["head", "-1"], ["ls"]
    ]  # fmt: skip
    for line, says in {
        "gpt trian": "there is no command 'trian'",
        "gpt train --stepps 3": "no flag --stepps",
        "gpt train --steps many": "an integer is needed, got 'many'",
        "gpt params gpt9": "PRESET must be one of",
        "pip install -e '.[tset]'": "tset",
        "python examples/99.py": "99.py",
        "python -m nothing_of_that_name": "nothing_of_that_name",
        "gtp train": "unknown program",
        "gpt train --resume runs/a --stepps 3": "no flag --stepps",
    }.items():
        with pytest.raises((AssertionError, ValueError), match=re.escape(says)):
            check_command(commands(line)[0])
    check_command(commands("gpt classify runs/spam --json < messages.txt > labels.txt")[0])


# ----- tables ---------------------------------------------------------------------------------------------------------


def table_faults(text: str) -> list[str]:
    """Rows with another number of cells than the first row of their table, and lines that a table would swallow.

    A pipe ends a cell, also in code. `\\|` does not, but mkdocs shows the backslash in code. &#124; is shown as a pipe.
    """
    faults, cells = [], 0
    for number, line in enumerate(re.sub(BLOCK, lambda block: "\n" * block[0].count("\n"), text).split("\n"), 1):
        found = line.count("|") if line.startswith("|") else 0
        if (cells and line.strip() and found != cells) or "\\|" in line:
            faults.append(f"{number}: {line:.80}")
        cells = found and (cells or found)
    return faults


@pytest.mark.parametrize(
    "path", [*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "tests/README.md"], ids=lambda path: path.name
)
def test_the_rows_of_a_table_have_its_columns(path):
    assert table_faults(path.read_text("utf-8")) == []


def test_rows_with_other_columns_are_found():
    table = "| a | b |\n|---|---|\n| c | d |\n"
    assert table_faults(table + "\ntext\n```text\n| x\n```\n") == []
    assert table_faults(table + "| `x | y` | z |\n") == ["4: | `x | y` | z |"]
    assert table_faults(table + "text\n") == ["4: text"]


# ----- the built site ---------------------------------------------------------------------------------------------


class Links(html.parser.HTMLParser):
    """The links of a page and what it loads, and the names that links can lead to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        self.ids |= {values[key] for key in ("id", "name") if key in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag == "link" and values.get("rel") not in ("canonical", "next", "prev") and "href" in values:
            self.loaded.append(values["href"])
        elif "src" in values:
            self.loaded.append(values["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for package in ("material", "mkdocstrings"):
        pytest.importorskip(package, reason="builds the site: pip install -e '.[docs]'")
    if already := os.environ.get("DOCS_SITE"):  # .ci/run has built it
        return Path(already)
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    built = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="module")
def parsed(site):
    return {path: Links(path.read_text("utf-8")) for path in site.rglob("*.html")}


@pytest.mark.slow
def test_every_link_of_the_site_leads_to_a_page_and_a_place_in_it(site, parsed):
    wrong = []
    for path, page in parsed.items():
        for link in (*page.links, *page.loaded):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or path.name == "404.html":
                continue
            to = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            to = to / "index.html" if to.is_dir() else to
            fragment = unquote(parts.fragment)
            if not to.is_file() or (fragment and to in parsed and fragment not in parsed[to].ids):
                wrong.append(f"{path.relative_to(site)}: {link}")
    assert not wrong, "\n".join(wrong[:50])
    assert len(parsed) > 40


@pytest.mark.slow
def test_the_site_loads_nothing_from_elsewhere(site, parsed):
    assert not {each for page in parsed.values() for each in page.loaded if urlsplit(each).netloc}
    for path in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//|@import", path.read_text("utf-8")), path


@pytest.mark.slow
def test_every_public_name_is_in_the_reference(site, parsed):
    for module in ("functional", "formulas", "nn", "optim", "inspect"):
        page = parsed[site / "reference" / f"{module}.html"]
        for each in importlib.import_module(f"tensorlite.{module}").__all__:
            assert any(place.endswith(f".{each}") for place in page.ids), f"tensorlite.{module}.{each}"
    ids = parsed[site / "reference/gpt-look.html"].ids
    for each in importlib.import_module("gpt.look").__all__:
        assert any(place.endswith(f".{each}") for place in ids), f"gpt.look.{each}"
    import tensorlite as tl

    ops = parsed[site / "reference/ops.html"].ids
    assert {*tl.ops.__all__, *tl.derived.__all__} <= ops


@pytest.mark.slow
def test_search_works_from_the_disk(site):
    playwright = pytest.importorskip("playwright.sync_api", reason="opens the site: pip install -e '.[browser]'")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.goto((site / "learn/autograd.html").as_uri())
        page.click("input.md-search__input")
        page.keyboard.type("softplus")
        page.wait_for_selector(".md-search-result__link[href*='reference/ops.html']", timeout=30_000)
        browser.close()
    assert not [url for url in requests if urlsplit(url).scheme not in ("file", "data", "about")]
