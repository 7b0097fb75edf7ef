"""The layout: which module may import which, where array libraries are imported, and what the wheel holds.

Core modules say what is computed; acceleration modules make it fast and attach themselves from outside. No core module
imports an acceleration module, and imports run one way: a module imports from its own layer or from one above it in
LAYERS, and never in a circle. gpt computes through tensorlite alone.

`python -m tests.meta.test_layout` lists the functions and files above the soft limits (40 and 400 lines).
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Each line is a layer. A name stands for the module and for everything below it; the longest name that fits decides.
LAYERS = {
    "tensorlite": [
        ["typing", "files", "special", "random", "backend", "errors"],
        ["autograd", "grad_mode", "promotion", "indexing", "primitive"],
        ["op_docs", "ops", "derived", "formulas"],
        ["functional", "interop", "tensor", "creation", "derivatives"],
        ["nn", "optim", "data", "io", "inspect", "testing"],
        ["devices", "kernels", "accelerate", "distributed"],
    ],
    "gpt": [
        ["config", "system", "console", "jsonfile", "fingerprint", "download_dir", "http_deadline", "stopping"],
        ["tokenizer"],
        ["data"],
        ["attention", "kv_cache", "model", "generation", "lora"],
        ["training"],
        ["tasks"],
        ["pretrained"],
        ["look"],
        ["fast"],
        ["serve"],
        ["cli", "__main__"],
    ],
}
ACCELERATION = {
    "tensorlite": ("accelerate", "devices", "kernels", "distributed"),
    "gpt": ("fast", "serve", "cli", "__main__"),
}
ARRAYS = {"numpy", "cupy", "cupyx"}
PEERS = {"torch", "transformers", "tensorflow", "jax"}

# (module, what it imports) against the rules. The lists only shrink: an entry that no longer applies fails the test.
KNOWN_ACCELERATION: set[tuple[str, str]] = set()
KNOWN_DIRECTION: set[tuple[str, str]] = set()
KNOWN_CIRCLES = {
    ("tensorlite.kernels.precision", "tensorlite.kernels.cpu.onednn"),
}


# ----- what is imported -------------------------------------------------------------------------------------------


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules(package: str) -> dict[str, Path]:
    return {name_of(file): file for file in sorted((ROOT / package).rglob("*.py"))}


ALL = modules("tensorlite") | modules("gpt")


def imports(name: str) -> Iterator[tuple[str, int]]:
    """(imported module, line) of every import in the module, also inside functions; modules of ours by full name.

    What only type checkers import is left out.
    """
    file = ALL[name]
    package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body.clear()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                below = f"{base}.{alias.name}"
                yield below if below in ALL else base, node.lineno


def layer(name: str) -> int | None:
    """The number of the module's layer; None for a package's __init__ at the top, which may import all of it."""
    package, _, rest = name.partition(".")
    if not rest:
        return None
    found = [
        (len(entry), number)
        for number, entries in enumerate(LAYERS[package])
        for entry in entries
        if rest == entry or rest.startswith(entry + ".")
    ]
    if not found and any(e.startswith(rest + ".") for entries in LAYERS[package] for e in entries):
        return 0
    assert found, f"{name} has no layer: add it to LAYERS where it belongs"
    return max(found)[1]


def accelerates(name: str) -> bool:
    package, _, rest = name.partition(".")
    return rest.split(".")[0] in ACCELERATION.get(package, ())


def differences(found: dict[tuple[str, str], int], known: set[tuple[str, str]]) -> list[str]:
    new = [f"{ALL[name].relative_to(ROOT)}:{line} imports {other}" for (name, other), line in found.items()
           if (name, other) not in known]  # fmt: skip
    gone = [
        f"{name} no longer imports {other}: take it from the list of known ones" for name, other in known - {*found}
    ]
    return [*new, *sorted(gone)]


# ----- the rules --------------------------------------------------------------------------------------------------


def test_no_core_module_imports_an_acceleration_module():
    found = {
        (name, other): line
        for name in ALL
        if layer(name) is not None and not accelerates(name)
        for other, line in imports(name)
        if accelerates(other)
    }
    assert not (wrong := differences(found, KNOWN_ACCELERATION)), "\n".join(wrong)


@pytest.mark.parametrize("package", ["tensorlite", "gpt"])
def test_imports_run_one_way(package):
    found = {
        (name, other): line
        for name in modules(package)
        if layer(name) is not None
        for other, line in imports(name)
        if other.startswith(package + ".") and layer(other) > layer(name)
    }
    known = {(name, other) for name, other in KNOWN_DIRECTION | KNOWN_ACCELERATION if name.startswith(package + ".")}
    known = {(name, other) for name, other in known if other.startswith(package + ".")}
    assert not (wrong := differences(found, known)), "\n".join(wrong)


@pytest.mark.parametrize("package", ["tensorlite", "gpt"])
def test_no_module_imports_itself_through_others(package):
    below = {
        name: {other for other, _ in imports(name) if other in ALL and other != name and layer(other) is not None}
        for name in modules(package)
        if layer(name) is not None
    }
    for exempt, other in KNOWN_DIRECTION | KNOWN_CIRCLES:
        if exempt in below:
            assert other in below[exempt], f"{exempt} no longer imports {other}: take it from the list of known ones"
            below[exempt].remove(other)
    for name in [n for n, file in ALL.items() if file.name == "__init__.py"]:  # a package collects what is below it
        below.pop(name, None)
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, "a circle: " + " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for other in sorted(below.get(name, ())):
                visit(other, (*path, name))
            done.add(name)

    for name in below:
        visit(name, ())


WITHOUT_ACCELERATION = """
import importlib, importlib.abc, sys, types
import numpy as np

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.startswith(tuple({blocked})):
            raise ImportError(name + " is blocked")

package = types.ModuleType("tensorlite")  # without its __init__, which attaches the kernels
package.__path__ = [{folder!r}]
sys.modules["tensorlite"] = package
sys.meta_path.insert(0, Block())
for name in {core}:
    importlib.import_module(name)
F, nn, optim = [importlib.import_module("tensorlite." + name) for name in ("functional", "nn", "optim")]
model, x = nn.Linear(3, 4), np.ones((2, 3), np.float32)
optimizer = optim.AdamW(model.parameters(), lr=0.1)
losses = []
for _ in range(3):
    optimizer.zero_grad()
    loss = F.cross_entropy(F.gelu(model(x)), np.array([0, 1]))
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
assert losses[0] > losses[1] > losses[2], losses
"""


def test_the_core_of_tensorlite_trains_without_the_acceleration_modules():
    """It also notices imports that are no import statements, such as importlib.import_module(name)."""
    core = [name for name in modules("tensorlite") if layer(name) is not None and not accelerates(name)]
    blocked = [f"tensorlite.{name}" for name in ACCELERATION["tensorlite"]]
    code = WITHOUT_ACCELERATION.format(blocked=blocked, folder=str(ROOT / "tensorlite"), core=core)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_gpt_never_imports_an_array_library():
    tops = {(name, other.split(".")[0]) for name in modules("gpt") for other, _ in imports(name)}
    assert not {(name, top) for name, top in tops if top in ARRAYS}


def test_tensorlite_never_imports_gpt_and_cupy_by_backend_alone():
    for name in modules("tensorlite"):
        tops = {other.split(".")[0] for other, _ in imports(name)}
        assert not tops & {"gpt", "cupy", "cupyx"}, name
        calls = [
            node for node in ast.walk(ast.parse(ALL[name].read_text(encoding="utf-8"))) if isinstance(node, ast.Call)
        ]
        named = [ast.unparse(call) for call in calls if ast.unparse(call.func).endswith("import_module")]
        assert name == "tensorlite.backend" or not [call for call in named if "cupy" in call], name


def test_no_file_of_the_wheel_imports_another_framework():
    tops = {(name, other.split(".")[0]) for name in ALL for other, _ in imports(name)}
    assert not {(name, top) for name, top in tops if top in PEERS}


def test_importing_tensorlite_needs_numpy_alone():
    code = "import sys, numpy.random; before = set(sys.modules); import tensorlite; print(*set(sys.modules) - before)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    foreign = {name.split(".")[0] for name in loaded} - set(sys.stdlib_module_names) - {"tensorlite", "numpy"}
    assert not {name for name in foreign if not name.startswith("_")}, foreign


def test_the_rules_see_what_they_forbid():
    """Each rule on a module that breaks it: an import inside a function, a relative one, one of a subpackage."""
    assert ("tensorlite.kernels.cpu", "tensorlite.kernels.cpu.layers") in {
        ("tensorlite.kernels.cpu", other) for other, _ in imports("tensorlite.kernels.cpu")
    }
    assert accelerates("tensorlite.kernels.cpu.layers")
    assert not accelerates("tensorlite.ops")
    assert layer("gpt.jsonfile") < layer("gpt.tokenizer.base") < layer("gpt.data.corpus") < layer("gpt.model")
    assert differences({("gpt.model", "tensorlite.kernels"): 3}, set()) == ["gpt/model.py:3 imports tensorlite.kernels"]
    assert differences({}, {("gpt.model", "torch")}) == [
        "gpt.model no longer imports torch: take it from the list of known ones"
    ]


def test_every_test_file_has_a_line_in_the_readme():
    readme = (ROOT / "tests/README.md").read_text(encoding="utf-8")
    missing = [
        name
        for file in sorted((ROOT / "tests").rglob("test_*.py"))
        if f"`{(name := file.relative_to(ROOT / 'tests').as_posix())}`" not in readme
    ]
    assert not missing, "tests/README.md says nothing of " + ", ".join(missing)


# ----- the soft limits --------------------------------------------------------------------------------------------


def sizes(lines_of_a_function: int = 40, lines_of_a_file: int = 400) -> Iterator[str]:
    for file in ALL.values():
        text = file.read_text(encoding="utf-8")
        shown = file.relative_to(ROOT)
        if (count := text.count("\n")) > lines_of_a_file:
            yield f"{shown}: {count} lines"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and (count := node.end_lineno - node.lineno + 1) > lines_of_a_function:
                yield f"{shown}:{node.lineno} {node.name}: {count} lines"


def totals() -> Iterator[str]:
    for package in ("tensorlite", "gpt"):
        for kind in (False, True):
            files = [file for name, file in modules(package).items() if accelerates(name) == kind]
            count = sum(file.read_text(encoding="utf-8").count("\n") for file in files)
            yield f"{package}, {('core', 'acceleration and applications')[kind]}: {count} lines in {len(files)} files"


if __name__ == "__main__":
    print(*sizes(), *totals(), sep="\n")
