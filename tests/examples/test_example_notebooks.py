"""examples/**/*.ipynb: in sync with the scripts; Jupyter's own client executes them, with small settings."""

import ast
import json
import os
import sys
from pathlib import Path

import pytest

jupytext = pytest.importorskip("jupytext", reason="writes notebooks: pip install -e '.[notebooks]'")
nbclient = pytest.importorskip("nbclient", reason="executes notebooks: pip install -e '.[notebooks]'")
nbformat = pytest.importorskip("nbformat", reason="executes notebooks: pip install -e '.[notebooks]'")
pytest.importorskip("ipykernel", reason="executes notebooks: pip install -e '.[notebooks]'")

from examples import notebooks  # noqa: E402

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL = {  # settings that make a notebook short
    "ch05": {"SMALL": True, "STEPS": 10},
    "ch06": {"STEPS": 2, "VARIANTS": False},
    "ch07": {"STEPS": 2, "ANSWERS": 2},
    "appendix_d": {"SMALL": True, "STEPS": 10},
    "appendix_e": {"STEPS": 2},
}
PICTURES = {"ch04": 1, "ch05": 2, "ch06": 1, "ch07": 1, "appendix_d": 1}
SCRIPTS = notebooks.scripts()


def test_each_script_in_cells_has_a_notebook_and_each_notebook_a_script():
    assert {path.with_suffix(".ipynb") for path in SCRIPTS} == set(EXAMPLES.rglob("*.ipynb"))
    assert {"ch02", "ch07", "appendix_a", "appendix_e", "08_look"} <= {path.stem for path in SCRIPTS}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_notebook_is_what_its_script_makes(script):
    committed = script.with_suffix(".ipynb").read_text(encoding="utf-8")
    assert committed == notebooks.notebook(script), "write the notebooks again: python -m examples.notebooks"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_notebook_has_the_script_s_code_links_and_no_outputs(script):
    """Read as plain JSON, without the libraries that wrote it."""
    found = json.loads(script.with_suffix(".ipynb").read_text(encoding="utf-8"))
    assert (found["nbformat"], found["nbformat_minor"]) == (4, 5)
    code = [cell for cell in found["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert len({cell["id"] for cell in found["cells"]}) == len(found["cells"])
    sources = ["".join(cell["source"]) for cell in code if "setup" not in cell["metadata"].get("tags", [])]
    assert ast.dump(ast.parse("\n".join(sources))) == ast.dump(ast.parse(script.read_text(encoding="utf-8")))
    links = "".join(found["cells"][1]["source"])
    place = script.with_suffix(".ipynb").relative_to(EXAMPLES.parent).as_posix()
    assert "https://colab.research.google.com/github/" in links
    assert links.count(place) == 3
    assert f"({script.name})" in links


def test_check_names_what_differs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(notebooks, "HERE", tmp_path / "examples")
    (tmp_path / "examples").mkdir()
    (tmp_path / "pyproject.toml").write_text('[project]\nurls = {Repository = "https://github.com/me/mine.git"}\n')
    script = tmp_path / "examples" / "one.py"
    script.write_text("# %% [markdown]\n# # One\n\n# %%\nx = 1\n", encoding="utf-8")
    (tmp_path / "examples" / "plain.py").write_text("x = 1\n", encoding="utf-8")
    assert notebooks.main(["--check"]) == 1
    assert "one.ipynb is not what one.py makes" in capsys.readouterr().out
    assert not script.with_suffix(".ipynb").exists()
    assert notebooks.main([]) == 0
    assert notebooks.main(["--check"]) == 0
    made = script.with_suffix(".ipynb").read_text(encoding="utf-8")
    assert "colab.research.google.com/github/me/mine/blob/main/examples/one.ipynb" in made
    assert not (tmp_path / "examples" / "plain.ipynb").exists()
    script.write_text("# %% [markdown]\n# # One\n\n# %%\nx = 2\n", encoding="utf-8")
    assert notebooks.main(["--check"]) == 1
    assert notebooks.main(["--chekc"]) == 2


@pytest.mark.filterwarnings("ignore")  # of jupyter_client and zmq
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
@pytest.mark.slow
def test_a_notebook_runs(script, data_dir, tmp_path, monkeypatch):
    """Cell by cell, with small settings: pictures are PNG, and nothing is shown that was not printed or displayed."""
    kernel = tmp_path / "jupyter" / "kernels" / "here"  # the kernel is this Python, not one that is installed elsewhere
    kernel.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "here", "language": "python"}))
    for name, value in {
        "JUPYTER_PATH": tmp_path / "jupyter", "IPYTHONDIR": tmp_path / "ipython", "JUPYTER_PLATFORM_DIRS": 1,
        "TENSORLITE_DATA": data_dir, "PYTHONPATH": os.pathsep.join([str(EXAMPLES.parent), *filter(None, sys.path)]),
        "OPENBLAS_NUM_THREADS": 1, "TMPDIR": tmp_path,
    }.items():  # fmt: skip
        monkeypatch.setenv(name, str(value))
    notebook = nbformat.read(script.with_suffix(".ipynb"), as_version=4)
    tagged = [i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])]
    if tagged:
        settings = {"OUT": str(tmp_path / "out"), **SMALL.get(script.stem, {})}
        source = "\n".join(f"{name} = {value!r}" for name, value in settings.items())
        notebook.cells.insert(tagged[0] + 1, nbformat.v4.new_code_cell(source))
    nbclient.NotebookClient(notebook, timeout=1800, kernel_name="here").execute(cwd=str(script.parent))
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"stream", "display_data"}, "a cell ends with a stray value"
    printed = [output for output in outputs if output.output_type == "stream"]  # a line may come in two parts
    assert {output.name for output in printed} <= {"stdout"}
    shown = [output.data for output in outputs if output.output_type == "display_data"]
    if script.parent.name == "book":
        assert len(shown) == PICTURES.get(script.stem, 0)
        assert all("image/png" in data for data in shown)
        assert "".join(output.text for output in printed).rstrip().endswith(" 0 !=")


def test_small_settings_exist():
    for stem, settings in SMALL.items():
        source = (EXAMPLES / "book" / f"{stem}.py").read_text(encoding="utf-8")
        cell = source.partition('# %% tags=["parameters"]\n')[2].partition("\n# %%")[0]
        assert all(f"\n{name} = " in cell for name in settings)
