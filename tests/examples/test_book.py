"""The book's chapters run as scripts, and every number that they print beside the page's is the page's."""

import ast
import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

BOOK = Path(__file__).parents[2] / "examples" / "book"
CHAPTERS = {  # flags that make it short, how many numbers it compares with the page then, and with the library
    "ch02": ("", 31, 9),
    "ch03": ("", 32, 8),
    "ch04": ("--out {out}", 27, 6),
    "ch05": ("--small --steps 10 --out {out}", 12, 5),
    "ch06": ("--steps 2 --out {out}", 8, 6),
    "ch07": ("--steps 2 --answers 2 --out {out}", 17, 10),
    "appendix_a": ("--out {out}", 20, 0),
    "appendix_d": ("--small --steps 10 --out {out}", 3, 0),
    "appendix_e": ("--steps 2 --out {out}", 3, 4),
}


WHOLE = {"ch05": 56, "appendix_d": 47}  # how many numbers and texts their whole runs compare with the page
HOURS = 3  # at most, for a whole run on two cores


def run(chapter: str, flags: str, data: Path, out: Path, script: Path | None = None, hours: float = 0.5) -> str:
    """What a chapter (or a `script` in its place) prints.

    It gets one BLAS thread: with more of them, tests that run side by side wait in turns.
    """
    environment = os.environ | {
        "PYTHONPATH": f"{BOOK.parents[1]}{os.pathsep}{BOOK}", "PYTHONIOENCODING": "utf-8", "OPENBLAS_NUM_THREADS": "1",
        "TENSORLITE_DATA": str(data),
    }  # fmt: skip
    threads = [] if chapter in ("ch02", "ch03", "ch04", "appendix_a") else ["--threads", "1"]
    command = [
        sys.executable,
        "-W",
        "error",
        str(script or BOOK / f"{chapter}.py"),
        *flags.format(out=out).split(),
        *threads,
    ]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, timeout=hours * 3600)
    assert done.returncode == 0, done.stderr
    for path in re.findall(r"^picture: (\S+)", done.stdout, re.MULTILINE):
        assert Path(path).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    return done.stdout


def rows(text: str, sign: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(f"{sign} ")]


@pytest.mark.parametrize("chapter", CHAPTERS)
@pytest.mark.slow
def test_every_number_is_the_page_s(chapter, data_dir, tmp_path):
    flags, compared, written_out = CHAPTERS[chapter]
    text = run(chapter, flags, data_dir, tmp_path)
    assert rows(text, "!=") == []
    assert len(rows(text, "==")) + len(rows(text, "~=")) == compared
    assert text.count("   the library's ") == written_out
    assert f"{compared} comparisons:" in text.splitlines()[-1]
    assert text.splitlines()[-1].endswith(" 0 !=")


def beginning_of(chapter: str, end: str, folder: Path) -> Path:
    """A script of the chapter's cells up to the one that has the line `end`."""
    cells = re.split(r"^(?=# %%)", (BOOK / f"{chapter}.py").read_text(encoding="utf-8"), flags=re.MULTILINE)
    count = next(i for i, cell in enumerate(cells) if end in cell.splitlines())
    path = folder / f"beginning-of-{chapter}.py"
    path.write_text("".join(cells[:count]) + "# %%\npage.summary()\n", encoding="utf-8")
    return path


@pytest.mark.slow
def test_the_first_row_of_the_training_log(data_dir, tmp_path):
    """Chapter 5 up to its training log, which the committed one repeats; what comes behind would sample from and save
    two gigabytes for nothing.
    """
    text = run("ch05", "--steps 1 --out {out}", data_dir, tmp_path, beginning_of("ch05", "# ## 5.3 Sampling", tmp_path))
    assert rows(text, "!=") == []
    (first,) = [row for row in rows(text, "==") if "(Step" in row]
    assert "Ep 1 (Step 000000): Train loss, Val loss: 9.781 9.933 " in first
    log = (BOOK / "ch05.log").read_text(encoding="utf-8")
    logged = [row for row in rows(log, "==") if "(Step" in row]
    assert logged[0] == first  # the committed log begins as this run
    assert "(Step 000005): Train loss, Val loss: 8.111 8.339 " in logged[1]
    steps = re.findall(r"^.. Ep \d+ \(Step (\d{6})\)", log, re.MULTILINE)
    assert [int(step) for step in steps[:18]] == list(range(0, 90, 5))  # and goes on to the end
    assert len(re.findall(r"^.. sample of epoch", log, re.MULTILINE)) == 11  # ten, and one of exercise 5.4


@pytest.mark.skipif(
    "WHOLE_BOOK" not in os.environ, reason="takes an hour or more: WHOLE_BOOK=1 runs it, as CI does at night"
)
@pytest.mark.parametrize("chapter", WHOLE)
@pytest.mark.slow
@pytest.mark.finding("C14")
def test_a_whole_run_is_the_page_s(chapter, data_dir, tmp_path):
    """All texts are the same. After many updates a loss may be 0.002 apart: other processors round sums differently."""
    text = run(chapter, "--out {out}", data_dir, tmp_path, hours=HOURS)
    assert f"\n{WHOLE[chapter]} comparisons:" in text
    for row in rows(text, "!="):
        apart = re.search(r"Train loss, Val loss: .* up to (\S+) apart$", row)
        assert apart is not None, row
        assert float(apart[1]) <= 0.002, row


@pytest.mark.parametrize(
    ("chapter", "name", "steps"),
    [("appendix_d", "LOG", range(0, 135, 5)), ("ch05", "LOG", range(0, 90, 5))],
)
@pytest.mark.finding("C14")
def test_a_log_of_the_page_is_whole(chapter, name, steps):
    """Every row that the loop prints is compared, and every sample: one after each epoch of nine steps."""
    constants = constants_of(chapter)
    assert list(constants[name]) == list(steps)
    assert len(constants["SAMPLES"]) == steps.stop // 9


@pytest.mark.finding("B11")
def test_both_recipes_of_appendix_e_have_a_whole_log_each():
    constants = constants_of("appendix_e")
    assert constants["RECIPES"] == {"page": (16 * 16, 5e-5), "repository": (16, 8e-4)}
    for recipe in constants["RECIPES"]:
        assert list(constants["LOGS"][recipe]) == list(range(0, 650, 50))
        assert len(constants["ACCURACY"][recipe]) == 5
    source = (BOOK / "appendix_e.py").read_text(encoding="utf-8")  # A is drawn behind the first pass over the loaders
    places = [source.index(line) for line in ("before = [calc_", "lora.apply(model", "adapted_before = [calc_")]
    assert places == sorted(places)


def constants_of(chapter: str) -> dict:
    """The values of a script's names in capitals, as far as they are made of literals."""
    found: dict = {}
    for node in ast.parse((BOOK / f"{chapter}.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id.isupper():
            with contextlib.suppress(NameError):  # one that is made of what the script computes
                found[node.targets[0].id] = eval(ast.unparse(node.value), {}, dict(found))
    return found


def test_every_chapter_is_in_cells_and_says_its_command():
    assert sorted(path.stem for path in BOOK.glob("*.py")) == sorted([*CHAPTERS, "page"])
    for chapter in CHAPTERS:
        source = (BOOK / f"{chapter}.py").read_text(encoding="utf-8")
        assert source.startswith("# %% [markdown]\n# # ")
        assert f"python examples/book/{chapter}.py" in source
        assert source.endswith("# %%\npage.summary()\n")


# ----- the comparison itself --------------------------------------------------------------------------------------


@pytest.fixture
def page(monkeypatch):
    monkeypatch.syspath_prepend(str(BOOK))
    import page

    monkeypatch.setattr(page, "rows", [])
    return page


@pytest.mark.parametrize(
    ("ours", "theirs", "sign"),
    [
        (0.12344, "0.1234", "=="),
        (0.12346, "0.1234", "!="),
        (0.12345001, "0.1234", "~="),  # the next float32 would be 0.1234
        ([1, [2.0, 3.25]], "1 2.00 3.25", "=="),
        ([1, 2], "1 3", "!="),
        (124412160, "124,412,160", "=="),
        (124412161, "124,412,160", "!="),  # a count is never on the edge
        (7.45405e-5, "7.4541e-05", "~="),
        (7.4539e-5, "7.4541e-05", "!="),
        ([3.0, 0.0000507], "3.0 0.0000", "~="),  # a small number among larger ones has their noise
        (0.0000507, "0.0000", "!="),
        (-0.00001, "0.0000", "=="),
        (9.7814, "9.781", "=="),
        (9.7824, "9.781", "!="),
        (float("nan"), "1.0", "!="),
        ("the same", "the same", "=="),
        ("the same", "the same ", "!="),
    ],
)
def test_compare(page, capsys, ours, theirs, sign):
    page.compare("it", ours, theirs)
    assert capsys.readouterr().out.startswith(f"{sign} it: ")
    page.summary()
    assert (
        f"1 comparisons: {int(sign == '==')} ==, {int(sign == '~=')} ~=, {int(sign == '!=')} !="
        in capsys.readouterr().out
    )


def test_compare_wants_a_number_for_each(page):
    with pytest.raises(ValueError, match="'it': 2 numbers were computed, 1 are on the page"):
        page.compare("it", [1.0, 2.0], "1.0")


SCRIPT = """# %% [markdown]
# # A chapter
#
# Text.

# %% tags=["parameters"]
# Settings.
STEPS = 3  # updates of the weights
QUICK = False  # whether it is short
GPT2: str | None = None  # a folder
RECIPE: Literal["page", "repository"] = "page"  # whose

# %%
OTHER = 5
"""
SETTINGS = {"STEPS": 3, "QUICK": False, "GPT2": None, "RECIPE": "page", "OTHER": 5}


@pytest.fixture
def scope(tmp_path):
    path = tmp_path / "chapter.py"
    path.write_text(SCRIPT, encoding="utf-8")
    return SETTINGS | {"__file__": str(path)}


@pytest.mark.parametrize(
    ("given", "changed"),
    [
        ("", {}),
        ("--steps 5", {"STEPS": 5}),
        ("--quick --gpt2 some/folder", {"QUICK": True, "GPT2": "some/folder"}),
        ("--recipe repository", {"RECIPE": "repository"}),
    ],
)
def test_settings_of_the_first_cell_are_flags(page, monkeypatch, scope, given, changed):
    monkeypatch.setattr(sys, "argv", ["chapter.py", *given.split()])
    page.flags(scope)
    assert {name: scope[name] for name in SETTINGS} == SETTINGS | changed


@pytest.mark.parametrize("given", ["--other 6", "--steps many", "--recipe mine"])
def test_wrong_flags_are_refused(page, monkeypatch, scope, given):
    monkeypatch.setattr(sys, "argv", ["chapter.py", *given.split()])
    with pytest.raises(SystemExit) as stopped:
        page.flags(scope)
    assert stopped.value.code == 2


def test_help_has_the_title_and_the_comments(page, monkeypatch, scope, capsys):
    monkeypatch.setattr(sys, "argv", ["chapter.py", "--help"])
    with pytest.raises(SystemExit):
        page.flags(scope)
    shown = capsys.readouterr().out
    for expected in ("A chapter", "--steps", "updates of the weights", "whether it is short", "a folder"):
        assert expected in shown


def test_in_a_notebook_the_cell_decides(page, monkeypatch, scope):
    monkeypatch.setattr(page, "IN_NOTEBOOK", True)
    monkeypatch.setattr(sys, "argv", ["kernel", "-f", "/some/kernel.json"])
    page.flags(scope)
    assert {name: scope[name] for name in SETTINGS} == SETTINGS


@pytest.mark.parametrize(
    ("ours", "library", "within", "agrees"),
    [
        ([1.0, [2.0]], [1.0, 2.0], 0.0, True),
        ([1.0, 2.0], [1.0, 2.0000002], 0.0, False),
        ([1.0, 2.0], [1.0, 2.0000002], 1e-6, True),
        ([0.0, 1000.0], [0.0005, 1000.0], 1e-6, True),  # relative to the largest
        ([0.0, 1000.0], [0.005, 1000.0], 1e-6, False),
        ([1.0, float("nan")], [1.0, 1.0], 1e-6, False),
        ("a text", "a text", 0.0, True),
        ("a text", "another", 0.0, False),
    ],
)
def test_same_compares_with_the_library(page, ours, library, within, agrees):
    if agrees:
        page.same("it", ours, library, within)
    else:
        with pytest.raises(AssertionError, match="it: "):
            page.same("it", ours, library, within)


def test_same_wants_as_many_numbers(page):
    with pytest.raises(ValueError, match=r"longer|shorter"):
        page.same("it", [1.0, 2.0], [1.0])
