"""docs/coming-from-torch.md: every cell of tensorlite runs, and gives what PyTorch's cell gives."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorlite as tl

PAGE = (Path(__file__).parents[2] / "docs" / "coming-from-torch.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
ROWS = re.findall(r"^\| (`.+`) \| `(.+)` \|$", PAGE, re.MULTILINE)
# expressions of the PyTorch column that use the same names and have a value to compare
COMPARED = [(theirs.split("`")[1], ours) for theirs, ours in ROWS if re.match(r"`(x[.\[]|torch\.|F\.|\(x)", theirs)]
NOT_COMPARED = re.compile(r"array|cuda|_\(|jacobian|autograd|\] = |save|load|set_num_threads")
COMPARED = [pair for pair in COMPARED if not NOT_COMPARED.search(pair[0])]


def run(code: str, names: dict[str, Any]) -> Any:
    """Execute the statements before the last ";", and evaluate the last one, if it is an expression."""
    *before, last = code.split("; ")
    exec("\n".join(before), names)
    try:
        return eval(last, names)
    except SyntaxError:
        exec(last, names)
        return None


@pytest.fixture
def names(tmp_path) -> dict[str, Any]:
    found: dict[str, Any] = {"path": tmp_path / "model.safetensors"}
    exec(BLOCKS[0], found)
    tl.io.save(found["path"], found["model"].state_dict())
    return found


def test_the_page_has_its_tables():
    assert len(BLOCKS) == 2
    assert len(ROWS) > 50
    assert len(ROWS) == sum(line.startswith("| `") for line in PAGE.splitlines())
    assert len(COMPARED) > 35


@pytest.mark.parametrize("code", [ours for _, ours in ROWS])
def test_a_cell_runs(names, code):
    run(code, names)


def test_the_loop_of_the_page_runs(names):
    def loss():
        return tl.functional.cross_entropy(names["model"](np.eye(3, dtype=np.float32)), np.arange(3)).item()

    before = loss()
    exec(BLOCKS[1], names)
    assert loss() < before  # it learns the three rows that it is shown


@pytest.mark.parametrize(("theirs", "ours"), COMPARED)
def test_a_cell_gives_what_pytorchs_gives(names, theirs, ours):
    torch = pytest.importorskip("torch")
    given = {name: torch.from_numpy(np.array(names[name].numpy())) for name in ("x", "y", "mask", "ids")}
    expected = run(theirs, {"torch": torch, "F": torch.nn.functional, **given})
    found = run(ours, names)
    expected, found = (np.asarray(v.numpy() if hasattr(v, "numpy") else v) for v in (expected, found))
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
