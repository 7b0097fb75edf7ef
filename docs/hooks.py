"""Hooks of mkdocs: pages that are made of the repository's other files, and of the library itself.

Pages may link to any file of the repository by its relative path, as on a code host. The site then has that file too,
below `source/`: text as a page, pictures as they are. So every link works offline, and a link to a missing file fails
the build. `reference/ops.md` and `reference/commands.md` are made of the ops' docstrings and the commands' help, which
exist only at run time.
"""

import contextlib
import inspect
import io
import os
import posixpath
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

ROOT = Path(__file__).parents[1]
PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "README.md": "index.md"}
PICTURES = (".png", ".svg")
LINK = re.compile(r"""(\]\(|\b(?:src|href)=")([^)"\s#:]+)(#[^)"\s]*)?(?=[)"])""")
POWER = re.compile(r"(?<=[\w)\]])\*\*(?=[\w(\-])|(?<=\()\*+(?=\w)")  # x**2, f(*xs)
SHIM = "https://unpkg.com/iframe-worker/shim"  # what the plugin `offline` loads for search; ours is docs/file_worker.js
PLAIN = "---\nsearch:\n  exclude: true\n---\n\n"


# ----- files of the repository ------------------------------------------------------------------------------------


def target(link: str, source: Path) -> Path | None:
    """The file of the repository that `link`, in the file `source`, points to. None for a page of docs/ itself."""
    path = Path(os.path.normpath(source.parent / link))
    if path.is_dir():
        path = path / "README.md"
    inside = path.is_relative_to(ROOT / "docs")
    return None if inside and source.is_relative_to(ROOT / "docs") else path


def uri(path: Path) -> str:
    """Where the site has a file of the repository."""
    name = path.relative_to(ROOT).as_posix()
    if name.startswith("docs/"):
        return name.removeprefix("docs/")
    text = path.suffix not in (*PICTURES, ".md")
    return PAGES.get(name, f"source/{name}{'.md' if text else ''}")


def found(markdown: str, source: Path) -> Iterator[Path]:
    """The files outside of docs/ that a page links to. PluginError for one that does not exist."""
    for link in LINK.finditer(markdown):
        path = target(link[2], source)
        if path is not None:
            if not path.is_file():
                raise PluginError(f"{source.relative_to(ROOT)}: there is no file {link[2]}")
            yield path


def relinked(markdown: str, source: Path, at: str) -> str:
    """The text with links to the pages that the site has instead of the repository's files; `at` is its own place."""

    def link(match: re.Match[str]) -> str:
        path = target(match[2], source)
        if path is None:
            return match[0]
        return match[1] + posixpath.relpath(uri(path), posixpath.dirname(at)) + (match[3] or "")

    return LINK.sub(link, markdown)


def page(path: Path) -> str:
    """A text of the repository as a page."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return relinked(text, path, uri(path))
    language = {".py": "python", ".pyi": "python"}.get(path.suffix, "text")
    return f"{PLAIN}# {path.relative_to(ROOT).as_posix()}\n\n``````{language}\n{text}\n``````\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    files.append(File.generated(config, "reference/ops.md", content=ops()))
    files.append(File.generated(config, "reference/commands.md", content=commands()))
    sources = [Path(file.abs_src_path) for file in files.documentation_pages() if file.abs_src_path]
    waiting, known = [*sources, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"], {*sources}
    while waiting:
        path = waiting.pop()
        if path not in known and not path.is_relative_to(ROOT / "docs") and uri(path) != "index.md":
            if path.suffix in PICTURES:
                files.append(File.generated(config, uri(path), abs_src_path=str(path)))
            else:
                files.append(File.generated(config, uri(path), content=page(path)))
        known.add(path)
        if path.suffix == ".md":
            waiting += {*found(path.read_text(encoding="utf-8"), path)} - known
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    if page.file.generated_by:
        return markdown
    return relinked(markdown, Path(str(page.file.abs_src_path)), page.file.src_uri)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    return output.replace(SHIM, get_relative_url("file_worker.js", page.url))


def on_post_template(output: str, template_name: str, config: MkDocsConfig) -> str:
    return output.replace(SHIM, "file_worker.js")


# ----- what exists only at run time -------------------------------------------------------------------------------


def on_config(config: MkDocsConfig) -> None:
    sys.path.insert(0, str(ROOT))


def ops() -> str:
    """The page of all ops and functions of `tl`, and of the methods of Tensor."""
    import tensorlite as tl

    parts = [
        "# Ops and functions\n\nAll of these are names of `tl`. `x` and `y` are Tensors, arrays or numbers. "
        "An op of the table has its derivative rules below its text: `g` is the incoming gradient, `out` the result.\n"
    ]
    for title, names in (("Ops", tl.ops.__all__), ("Compositions of ops", tl.derived.__all__)):
        parts.append(f"## {title}\n")
        for name in names:
            function = getattr(tl, name)
            signature = re.sub(r"'([^']*)'", r"\1", f"{inspect.signature(function)}")
            parts.append(f"### {name}\n\n```python\ntl.{name}{signature}\n```\n\n{rules(function.__doc__ or '')}\n")
    listed = [*tl.ops.__all__, *tl.derived.__all__]
    methods = [n for n in listed if inspect.getattr_static(tl.Tensor, n, None) is not None]
    parts.append("## Methods of Tensor\n\nThese are methods too, with the Tensor as first argument:\n")
    parts.append(", ".join(f"[`x.{name}`](#{name})" for name in methods) + ".\n")
    return "\n".join(parts)


def rules(docstring: str) -> str:
    """An op's docstring, with its derivative rules as code."""
    text, _, derivative = inspect.cleandoc(docstring).partition("\nDerivative:\n")
    lines = "\n".join(f"    {line.strip()}" for line in derivative.splitlines())
    return escaped(text) + (f"\n\nDerivative:\n\n{lines}" if lines else "")


def commands() -> str:
    """The page with the help of every command."""
    from gpt.cli import COMMANDS, main

    os.environ |= {"COLUMNS": "80", "NO_COLOR": "1"}
    parts = ["# Commands\n\nWhat `gpt COMMAND --help` prints.\n"]
    for name in COMMANDS:
        output = io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
            main.parse([*name.split(), "--help"])
        parts.append(f"## gpt {name}\n\n```text\n{output.getvalue().strip()}\n```\n")
    return "\n".join(parts)


# ----- docstrings -------------------------------------------------------------------------------------------------


def escaped(docstring: str) -> str:
    """A docstring for Markdown: `x**2` outside of code is a power, not the beginning of bold text, and so on."""
    lines = []
    for line in docstring.splitlines():
        if not line.startswith("    "):
            parts = re.split(r"(`+[^`]*`+)", line)
            for i in range(0, len(parts), 2):
                parts[i] = parts[i].replace("][", "]\\[")  # [layer][head] is no reference
                parts[i] = POWER.sub(lambda found: r"\*" * len(found[0]), parts[i])
            line = "".join(parts)
        lines.append(line)
    return "\n".join(lines)


class EscapePowers(griffe.Extension):
    """Every docstring that mkdocstrings shows, escaped."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = escaped(obj.docstring.value)
