"""Notebooks are executed by Jupyter's own client: what tensorlite and gpt.look return is shown as pictures."""

import base64
import json
import os
import sys
from xml.etree import ElementTree

import pytest
from folders import CONFIG, write

from gpt import pretrained

nbclient = pytest.importorskip("nbclient", reason="executes notebooks: pip install nbclient ipykernel")
nbformat = pytest.importorskip("nbformat", reason="executes notebooks: pip install nbclient ipykernel")
pytest.importorskip("ipykernel", reason="executes notebooks: pip install nbclient ipykernel")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of jupyter_client and zmq

CELLS = {
    "tensor": "import tensorlite as tl\nx = tl.tensor([[1.0, float('nan')], [-2.0, 0.5]], requires_grad=True)\nx",
    "module": "from tensorlite import nn\nnn.Linear(3, 4)",
    "graph": "from tensorlite.inspect import graph\ngraph((x * x).sum(), {'x': x})",
    "attention": "from gpt import look\nmodel = look.load(RUN)\nfound = look.attention(model, 'ab<c>')\nfound",
    "head": "found.head(1, 0)",
    "loaded": "model.model",
    "figure": "from pathlib import Path\nfrom gpt.training import plots\nplots.run_figure(Path(RUN))",
}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """The data of each cell's result by MIME type."""
    folder = tmp_path_factory.mktemp("notebook")
    run = folder / "run"
    pretrained.import_folder(write(folder / "weights", {**CONFIG, "n_positions": 16}), run)
    metrics = [{"step": i, "loss": 3 - i / 10, "lr": 0.1, "validation_loss": 3 - i / 20} for i in range(1, 6)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    kernel = folder / "jupyter" / "kernels" / "here"  # the kernel is this Python, not one that is installed elsewhere
    kernel.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "here", "language": "python"}))
    notebook = nbformat.v4.new_notebook()
    sources = [f"RUN = {str(run)!r}", *CELLS.values()]
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in sources]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder / "jupyter"))
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        patch.setenv("JUPYTER_PLATFORM_DIRS", "1")
        nbclient.NotebookClient(notebook, timeout=120, kernel_name="here").execute(cwd=str(folder))
    found = {}
    for name, cell in zip(CELLS, notebook.cells[1:], strict=True):
        assert [output.output_type for output in cell.outputs] == ["execute_result"], cell.outputs
        found[name] = cell.outputs[0].data
    return found


@pytest.mark.parametrize("name", ["tensor", "module", "attention", "loaded"])
def test_values_and_models_are_html(outputs, name):
    html = outputs[name]["text/html"]
    assert ElementTree.fromstring(html.replace("<wbr>", "")).tag == "div"
    assert "<script" not in html


@pytest.mark.parametrize("name", ["graph", "head"])
def test_graphs_and_heads_are_svg(outputs, name):
    assert ElementTree.fromstring(outputs[name]["image/svg+xml"]).tag == "{http://www.w3.org/2000/svg}svg"


def test_a_figure_is_a_png(outputs):
    assert base64.b64decode(outputs["figure"]["image/png"]).startswith(b"\x89PNG\r\n")


def test_text_is_there_for_terminals(outputs):
    assert outputs["tensor"]["text/plain"].startswith("tensor([[ 1. ,  nan]")
    assert outputs["graph"]["text/plain"].startswith("2 ops on 1 leaf")
