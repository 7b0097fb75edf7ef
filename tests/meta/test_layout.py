"""The house's order (DESIGN): imports run one way, gpt never sees an array library, CuPy is imported in one place."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TENSORLITE = [
    "torchwords", "workers", "machine", "backend", "checks", "habits", "errors", "files", "special", "random",
    "autograd", "nograd", "promotion", "indexing", "primitive", "ops", "derived", "functional", "kernels", "fused",
    "interop", "tensor", "graph", "nn", "recompute", "optim", "data", "io", "inspect", "testing",
]  # fmt: skip
GPT = [
    "system", "cache", "jsonfile", "progress", "results", "exchange", "rundir", "lockfile", "placing", "config",
    "tokenizer", "corpus", "attention", "model", "generate", "lora", "weights", "checkpoint", "plots", "task", "step",
    "pretraining", "session", "train", "pretrained", "sources", "download", "evaluate", "records", "labelled",
    "classify", "instruct", "judge", "doctor", "commands", "cli", "__main__", "bench",
]  # fmt: skip


def modules(package: str):
    """(module name as in the lists above, file) of every file of the package."""
    for file in sorted((ROOT / package).rglob("*.py")):
        yield file.relative_to(ROOT / package).parts[0].removesuffix(".py"), file


def imports(file: Path, package: str):
    """(top-level package, module below it or None, line) of every import in the file, relative ones resolved."""
    here = file.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [*here[: len(here) - node.level + 1]] if node.level else []
            base += node.module.split(".") if node.module else []
            names = [base if len(base) > 1 else [*base, alias.name] for alias in node.names]
        else:
            continue
        for name in names:
            yield name[0], name[1] if len(name) > 1 else None, node.lineno


@pytest.mark.parametrize(("package", "order"), [("tensorlite", TENSORLITE), ("gpt", GPT)])
def test_a_file_imports_only_from_files_above_it(package, order):
    wrong = []
    for module, file in modules(package):
        if module == "__init__":
            continue
        assert module in order, f"{file.relative_to(ROOT)} has no place in the order: add it where it belongs"
        for top, below, line in imports(file, package):
            if top == package and below in order and order.index(below) > order.index(module):
                wrong.append(f"{file.relative_to(ROOT)}:{line} imports {below}")
    assert not wrong, "\n".join(wrong)


def test_gpt_never_imports_an_array_library():
    found = [(file.name, top) for _, file in modules("gpt") for top, *_ in imports(file, "gpt")]
    assert not [f for f in found if f[1] in ("numpy", "cupy", "cupyx")]


def test_tensorlite_never_imports_gpt_and_cupy_only_where_it_may():
    for module, file in modules("tensorlite"):
        tops = {top for top, *_ in imports(file, "tensorlite")}
        assert "gpt" not in tops
        assert not tops & {"cupy", "cupyx"} or module in ("backend", "kernels"), file


def test_importing_tensorlite_needs_numpy_alone():
    code = "import sys, numpy.random; before = set(sys.modules); import tensorlite; print(*set(sys.modules) - before)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    foreign = {name.split(".")[0] for name in loaded} - set(sys.stdlib_module_names) - {"tensorlite", "numpy"}
    assert not {name for name in foreign if not name.startswith("_")}, foreign
