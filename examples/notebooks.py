"""Write a notebook for each script in cells, with jupytext (pip install -e '.[notebooks]').

    python -m examples.notebooks            # write examples/**/*.ipynb
    python -m examples.notebooks --check    # only name those that differ from their script; exit status 1

A notebook has its script's cells without outputs, and after the title two more: links that open it elsewhere, and the
set-up that Colab needs. The scripts are the sources: change those, and write the notebooks again. The address of the
links is `Repository` of pyproject.toml's [project.urls].
"""

import sys
import tomllib
from pathlib import Path

import jupytext
import nbformat

HERE = Path(__file__).resolve().parent
ADDRESS = "https://github.com/tensorlite/tensorlite"  # where pyproject.toml has none
BRANCH = "main"

SETUP = """import os
import sys

if "google.colab" in sys.modules:  # elsewhere nothing is done: the notebook is part of a checkout that is installed
    get_ipython().system("git clone --quiet --depth 1 {address} repository")
    get_ipython().system("pip install --quiet ./repository")
    os.chdir("repository/{folder}")"""


def scripts() -> list[Path]:
    """The scripts in cells: those whose first line begins a cell."""
    return [path for path in sorted(HERE.rglob("*.py")) if path.read_text(encoding="utf-8").startswith("# %%")]


def address() -> str:
    """The repository's."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project.get("urls", {}).get("Repository", ADDRESS)).removesuffix(".git").rstrip("/")


def links(path: Path) -> str:
    """Markdown that opens a notebook in Colab, Kaggle and Binder, and its script."""
    place, there = path.with_suffix(".ipynb").relative_to(HERE.parent).as_posix(), address()
    name = there.removeprefix("https://github.com/")
    targets = {
        "Open in Colab": f"https://colab.research.google.com/github/{name}/blob/{BRANCH}/{place}",
        "Open in Kaggle": f"https://kaggle.com/kernels/welcome?src={there}/blob/{BRANCH}/{place}",
        "Open in Binder": f"https://mybinder.org/v2/gh/{name}/{BRANCH}?filepath={place}",
        "The same as a script": path.name,
    }
    return " · ".join(f"[{text}]({target})" for text, target in targets.items())


def notebook(path: Path) -> str:
    """The text of a script's notebook."""
    made = jupytext.read(path, fmt="py:percent")
    folder = path.parent.relative_to(HERE.parent).as_posix()
    setup = nbformat.v4.new_code_cell(SETUP.format(address=address(), folder=folder), metadata={"tags": ["setup"]})
    made.cells[1:1] = [nbformat.v4.new_markdown_cell(links(path)), setup]
    for i, cell in enumerate(made.cells):
        cell["id"] = f"{path.stem.replace('_', '-')}-{i}"  # jupytext's are random
    made.metadata = nbformat.from_dict({
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    })  # fmt: skip
    made.nbformat, made.nbformat_minor = 4, 5
    return str(nbformat.writes(made)) + "\n"


def main(arguments: list[str]) -> int:
    """Write the notebooks, or with --check name those that differ."""
    if unknown := [one for one in arguments if one != "--check"]:
        print(f"unknown argument {unknown[0]!r}\n\n{__doc__}", file=sys.stderr)
        return 2
    differ = 0
    for script in scripts():
        path, text = script.with_suffix(".ipynb"), notebook(script)
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        differ += 1
        if "--check" in arguments:
            print(f"{path} is not what {script.name} makes: python -m examples.notebooks")
        else:
            path.write_text(text, encoding="utf-8", newline="\n")
            print(f"written: {path}")
    return int("--check" in arguments and differ > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
