"""What `mutate` changes, and what of it `--changed` chooses: on sources of a few lines."""

import json
import shutil
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("resource", reason="mutants are judged in forked processes with limits, which only Unix has")

from gpt.training.lockfile import lock
from tests.meta import changes, judge_files, judge_rules, mutate
from tests.meta.coverage_map import CoverageMap, content
from tests.meta.cuda_mutants import cuda_mutants
from tests.meta.mutants import mutants
from tests.meta.mutate import KNOWN_EQUIVALENT, RULES, SOURCES_READ, Verdicts, proof, with_table

SOURCE = """
class Saved:
    keep: int = 2

    def save(self, path, betas):
        \'\'\'Write it.\'\'\'
        if not path.exists():
            sync(path)
        size = len(self.text.encode())
        return adam(betas=(betas[0], betas[1])), [s for s in sorted(size) if s][1:]

async def ask(server):
    try:
        await server.get()
    except OSError:
        return None
"""
EXPECTED = {
    "Saved.keep": {"2  ->  3", "2  ->  1"},
    "Saved.save": {
        "sync(path)  ->  pass", "if not path.exists()  ->  if True", "not path.exists()  ->  path.exists()",
        "self.text.encode()  ->  self.text", "(betas[0], betas[1])  ->  (betas[1], betas[0])",
        "adam(betas=(betas[0], betas[1]))  ->  adam()", "sorted(size)  ->  size",
        "for s in sorted(size) if s  ->  for s in sorted(size)", "1:  ->  :",
    },
    "ask": {"await server.get()  ->  pass", "except OSError: return None  ->  except OSError: raise"},
}  # fmt: skip


def write(folder: Path, source: str = SOURCE) -> Path:
    (folder / "gpt").mkdir(exist_ok=True)
    (folder / "gpt" / "saved.py").write_text(source)
    return folder


def test_mistakes_that_people_make_are_among_the_mutants(tmp_path):
    found = list(mutants(write(tmp_path), "gpt/saved.py", everything=True))
    for op, expected in EXPECTED.items():
        assert expected <= {m.change for m in found if m.op == op}
    for m in found:
        compile(m.source(), m.file, "exec")
    assert len({m.key for m in found}) == len(found)


@pytest.mark.parametrize("killers", [["test_a", ""], ["", "test_a"], ["test_a", "", ""]])
def test_a_kill_counts_whatever_other_runs_say_of_the_same_mutant(tmp_path, killers):
    """As when the results of several runs, one of them with fewer tests, are joined to one file."""
    mutant, other = list(mutants(write(tmp_path), "gpt/saved.py", everything=True))[:2]
    said = [{"key": mutant.key, "hash": mutant.hash, "killer": killer} for killer in killers]
    said.append({"key": other.key, "hash": other.hash, "killer": ""})
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in said))
    verdicts = Verdicts(tmp_path / "results.jsonl")
    assert (verdicts.state(mutant), verdicts.state(other)) == ("killed by test_a", "SURVIVED")


def test_a_class_takes_the_methods_and_properties_of_the_changed_one():
    class Old:
        size = property(lambda self: self.set, lambda self, value: vars(self).update(set=value))
        area = property(lambda self: self.set**2)

        def twice(self):
            return 2 * self.set

    class New:
        size = property(lambda self: -self.set, lambda self, value: vars(self).update(set=value + 1))
        area = property(lambda self: 0)

        def twice(self):
            return 3 * self.set

    box = Old()
    judge_rules.take(Old, New)
    box.size = 3
    assert (box.set, box.size, box.area, box.twice()) == (4, -4, 0, 12)


def test_the_tests_of_a_function_are_those_that_run_it_and_of_a_value_all_of_these_files(tmp_path):
    ran = {"tests/a.py": {"gpt/saved.py": {"ask": ("hash", {"1": [0], "2": [0, 1]})}}, "tests/b.py": {}}
    (tmp_path / "lines.json").write_text(
        json.dumps({name: {"tests": [f"{name}::{i}" for i in "012"], "ran": ran[name]} for name in ran})
    )
    known = CoverageMap(tmp_path / "lines.json")
    assert known.tests("gpt/saved.py", "ask", "hash", 1) == {"tests/a.py::0"}
    assert known.tests("gpt/saved.py", "ask", "another hash", 1) == {"tests/a.py::0", "tests/a.py::1"}
    assert known.tests("gpt/saved.py", "LIMIT", "hash", 0) == {f"tests/a.py::{i}" for i in "012"}


def test_a_value_outside_functions_is_judged_by_the_tests_of_its_folder_too(tmp_path):
    judge = object.__new__(judge_files.FileJudge)
    ran = {"gpt/saved.py": {"ask": ("", {"1": [0]})}}
    judge.tree, judge.known, judge.killed = write(tmp_path, f"{SOURCE}LIMIT = 3\n"), CoverageMap(tmp_path), Counter()
    judge.known.files = {
        "tests/gpt/test_a.py": {"tests": ["tests/gpt/test_a.py::0"], "ran": {}},
        "tests/b.py": {"tests": ["tests/b.py::0", "tests/b.py::1"], "ran": ran},
    }
    judge.seconds = {test: 1.0 for entry in judge.known.files.values() for test in entry["tests"]}
    found = {m.op: set(judge.order(m)) for m in mutants(tmp_path, "gpt/saved.py", everything=True)}
    assert found["LIMIT"] == set(judge.seconds)
    assert found["ask"] == {"tests/b.py::0"}


def test_tests_that_only_import_a_line_are_tried_after_those_that_call_its_file(tmp_path):
    judge = object.__new__(judge_files.FileJudge)
    judge.tree, judge.known, judge.killed = write(tmp_path), CoverageMap(tmp_path), Counter()
    ran = {"tests/a.py": {"1": [-1]}, "tests/b.py": {"1": [-1], "2": [1]}}
    judge.known.files = {
        file: {"tests": [f"{file}::0", f"{file}::1"], "ran": {"gpt/saved.py": {"ask": ("", by_number)}}}
        for file, by_number in ran.items()
    }
    judge.seconds = {"tests/a.py::0": 0.1, "tests/a.py::1": 0.2, "tests/b.py::0": 0.3, "tests/b.py::1": 9.0}
    (mutant,) = [
        m for m in mutants(tmp_path, "gpt/saved.py", everything=True) if m.change == "await server.get()  ->  pass"
    ]
    assert judge.order(mutant) == ["tests/b.py::1", "tests/b.py::0", "tests/a.py::0", "tests/a.py::1"]


TREE = {
    "pyproject.toml": "[tool.pytest.ini_options]\npythonpath = ['tests/support']\n",
    "tensorlite/__init__.py": "",
    "gpt/__init__.py": "",
    "gpt/rows.py": "def row(x):\n    if x:\n        return x\n    return 0\n\ndef other():\n    return 1\n"
    "def short(): return 4\n",
    "gpt/table.py": "from .rows import row\nTABLE = row(2)\n",
    "gpt/late.py": "from .table import TABLE\nLIMIT = 3\n",
    "tests/support/cases.py": "from gpt.rows import row\nZERO = row(0)\n",
    "tests/test_table.py": "from gpt.table import TABLE\ndef test_1(): assert TABLE == 2\ndef test_2(): pass\n",
    "tests/test_cases.py": "from cases import ZERO\ndef test_3(): assert not ZERO\n",
    "tests/test_late.py": "import resource, gpt\ndef test_4():\n"  # on a disk that seems to be full
    "    size = resource.RLIMIT_FSIZE\n    soft, hard = resource.getrlimit(size)\n"
    "    resource.setrlimit(size, (10, hard))\n    from gpt.late import LIMIT, TABLE\n"
    "    resource.setrlimit(size, (soft, hard))\n"
    "    assert LIMIT > TABLE\ndef test_5(): assert gpt\n",
    "tests/test_later.py": "from gpt.rows import other, short\ndef test_6():\n    import gpt.late\n"
    "    assert other() == 1\ndef test_7(): assert short() == 4\n",
}


def test_what_runs_while_a_module_is_imported_runs_for_every_test_that_imports_it(tmp_path, monkeypatch):
    """A process imports a module once, but each test file that imports it could fail by what it computed then."""
    pytest.importorskip("coverage")
    for name, text in TREE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    shutil.copytree(Path(__file__).parent, tmp_path / "tests" / "meta", ignore=shutil.ignore_patterns("test_*", "__*"))
    known = CoverageMap(tmp_path / "lines.json")
    files = sorted(name for name in TREE if name.startswith("tests/test_"))
    for name, value in judge_files.environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    assert known.add(tmp_path, files, [], ["-p", "no:cacheprovider"]) == []
    found = {m.change: m for m in mutants(tmp_path, "gpt/rows.py", everything=True) if m.op == "row"}
    ran = {
        change: {test.rpartition("_")[2] for test in known.tests(m.file, m.op, m.hash, m.statement)}
        for change, m in found.items()
    }
    everywhere = {"1", "2", "3", "4", "6"}  # test_5 imports only gpt
    assert ran == {"if x  ->  if True": everywhere, "if x  ->  if False": everywhere, "0  ->  1": {"3"}}
    for file, change, expected in (
        ("gpt/late.py", "3  ->  4", {"4", "5", "6", "7"}),
        ("gpt/rows.py", "4  ->  5", {"7"}),
    ):
        (m,) = [m for m in mutants(tmp_path, file, everything=True) if m.change == change]
        assert {t.rpartition("_")[2] for t in known.tests(m.file, m.op, m.hash, m.statement)} == expected


def test_a_test_file_is_recorded_again_where_a_helper_of_its_helper_has_changed(tmp_path):
    for folder in ("tests/support", "tests/gpt/support"):
        (tmp_path / folder).mkdir(parents=True)
    written = {"tests/gpt/test_a.py": "from cases import CASES\n", "tests/gpt/support/cases.py": "import odd\n",
               "tests/support/odd.py": "CASES = 1\n", "tests/support/other.py": ""}  # fmt: skip
    for name, text in written.items():
        (tmp_path / name).write_text(text)
    known = CoverageMap(tmp_path / "lines.json")
    known.files = {"tests/gpt/test_a.py": {"hash": content(tmp_path, "tests/gpt/test_a.py")}}
    for name in written:
        (tmp_path / name).write_text(written[name] + "x = 1\n")
        changed = known.stale(tmp_path, ["tests/gpt/test_a.py"])
        assert changed == ([] if "other" in name else ["tests/gpt/test_a.py"])
        (tmp_path / name).write_text(written[name])
    assert known.stale(tmp_path, ["tests/gpt/test_a.py"]) == []


def test_tokens_of_a_cuda_kernel_are_changed_and_nothing_else(tmp_path):
    body = "{\n    if (i < n) y[i] = x[i] + 1;  // +\n}\n"
    source = f"// a + b\n#define N 1\n\n__global__ void add(const float* x, int n) {body}"
    (tmp_path / "add.cu").write_text(source)
    found = list(cuda_mutants(tmp_path, "add.cu"))
    assert [(m.op, m.line, m.change.rpartition(": ")[2]) for m in found] == [
        ("add", 5, "<  ->  <="), ("add", 5, "+  ->  -"), ("add", 5, "1  ->  2")
    ]  # fmt: skip
    assert found[0].source() == source.replace("i < n", "i <= n")


DOCUMENT = """# Mutants

## Others

| folder | mutants |
|---|--:|
| gpt/ | 7 |

## Rules

One sentence.

| file | mutants | killed | equivalent | survived |
|---|--:|--:|--:|--:|
| **all** | 12 | 11 | 1 | 0 |
| a.py * | 5 | 5 | 0 | 0 |
| b.py | 4 | 3 | 1 | 0 |
| gone.py | 3 | 3 | 0 | 0 |

Another sentence.

## Last
"""
JUDGED = {
    "a.py": ["killed by t", "killed by u", "SURVIVED"],
    "b.py": ["killed by t", "not judged"],  # not to its end: the old row stays
    "c.py": ["equivalent: proof", "not judged"],  # that has no old row
}
ROWS = """| **all** | 9 | 5 | 2 | 1 | 1 |
| a.py | 3 | 2 | 0 | 1 | 0 |
| b.py | 4 | 3 | 1 | 0 | 0 |
| c.py | 2 | 0 | 1 | 0 | 1 |
"""


def test_a_table_gets_the_rows_that_are_judged_and_keeps_the_others_and_every_sentence(tmp_path):
    one = next(mutants(write(tmp_path), "gpt/saved.py", everything=True))
    found = [(replace(one, file=file), state) for file, states in JUDGED.items() for state in states]
    text = with_table(DOCUMENT, "## Rules", "mutate", found, "file")
    head = "| file | mutants | killed | equivalent | survived | not judged |\n|---|--:|--:|--:|--:|--:|\n"
    old = DOCUMENT[DOCUMENT.index("| file") : DOCUMENT.index("\nAnother")]
    assert text == DOCUMENT.replace(old, head + ROWS)
    assert with_table(text, "## Rules", "mutate", found, "file") == text
    assert with_table(DOCUMENT, "## New", "mutate -x", found[:3], "file") == (
        f"{DOCUMENT}\n## New\n\nThe verdicts of `mutate -x`.\n\n{head}| **all** | 3 | 2 | 0 | 1 | 0 |\n"
        "| a.py | 3 | 2 | 0 | 1 | 0 |\n"
    )


def test_a_mutant_of_a_cuda_source_has_the_name_of_the_function_that_it_is_in(tmp_path):
    (tmp_path / "sums.cu").write_text(
        "struct Pair {\n    int x;\n    __device__ int first() { return x + 1; }\n};\n"
        "__device__ float once(float x) { return x + 1; }\n"
        "template <> __device__ float same<float>(float x) { return x; }\n\n"
        "__device__ float twice(float x) {\n    if (x < 0) {\n        return x;\n    }\n    return x * 2;\n}\n"
        "__device__\nfloat last(Pair p) { return p.x - 1; }\n"
    )
    named = {(m.line, m.op) for m in cuda_mutants(tmp_path, "sums.cu")}
    assert named == {(3, "first"), (5, "once"), (9, "twice"), (12, "twice"), (15, "last")}


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
@pytest.mark.parametrize(
    ("old", "new", "chosen"),
    [
        ("sync(path)", "sync(path, 1)", {"Saved.save"}),
        ("Write it.", "Write all of it.", set()),  # a docstring
        ("keep: int = 2", "keep: float = 4", {"Saved.keep"}),
        ("return None", "return 0  # nothing", {"ask"}),
    ],
)
def test_changed_chooses_the_changed_lines_of_changed_functions(tmp_path, old, new, chosen):
    def git(*args: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *args], cwd=tmp_path, check=True)

    git("init", "-q")
    git("add", write(tmp_path).joinpath("gpt").name)
    git("commit", "-q", "-m", "first")
    write(tmp_path, SOURCE.replace(old, new))
    (tmp_path / "gpt" / "new.py").write_text("LIMIT = 3\n")
    change = changes.since(tmp_path, "HEAD")
    found = [m for m in mutants(tmp_path, "gpt/saved.py", everything=True) if change.touches(m.file, m)]
    assert {m.op for m in found} == chosen
    assert len({m.line for m in found}) == len(chosen)
    assert all(change.touches(m.file, m) for m in mutants(tmp_path, "gpt/new.py", everything=True))
    with pytest.raises(SystemExit, match="'none' is no commit here; give --changed a commit or a branch"):
        changes.since(tmp_path, "none")


@pytest.mark.slow
def test_each_mutant_that_is_listed_as_equivalent_exists():
    """A name that is out of date proves nothing, and its mutant is judged again."""
    root, found = Path(__file__).parents[2], set()
    for file in {key.partition(": ")[0] for key in KNOWN_EQUIVALENT}:
        path = file if file.startswith(("gpt/", "tensorlite/")) else f"tensorlite/{file}"
        if path.endswith((".cu", ".cuh")):
            of_file = cuda_mutants(root, path)
        else:
            of_file = mutants(root, path, everything=path not in RULES)
        found |= {mutant.key.removeprefix("tensorlite/") for mutant in of_file}
    assert {key.removeprefix("tensorlite/") for key in KNOWN_EQUIVALENT} <= found


@pytest.mark.parametrize(
    "file", ["derived.py", "gpt/look/charts.py", "gpt/cli/classify.py", "tensorlite/kernels/cuda/layers.cu"]
)
def test_a_proof_holds_for_the_op_that_it_was_read_for(file):
    """In another source, "place 2" is another place."""
    root = Path(__file__).parents[2]
    if file.endswith(".cu"):
        found = cuda_mutants(root, file)
    else:
        found = mutants(root if "/" in file else root / "tensorlite", file, everything="/" in file)
    listed = [m for m in found if m.key in KNOWN_EQUIVALENT]
    assert listed
    assert [m.key for m in listed if not proof(m)] == []
    assert not any(proof(replace(m, hash="of another source")) for m in listed)


def test_every_proof_names_the_source_that_it_was_read_for():
    assert {": ".join(key.split(": ")[:2]) for key in KNOWN_EQUIVALENT} == SOURCES_READ.keys()


def test_a_second_run_is_refused_while_one_is_at_work(tmp_path, monkeypatch):
    """It would put its mutants into the same copy of the repository, and drop verdicts from the list of the first."""
    monkeypatch.setattr(mutate, "ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["mutate"])
    (tmp_path / "build" / "mutate").mkdir(parents=True)
    with (
        lock(tmp_path / "build" / "mutate", "judging mutants in"),
        pytest.raises(SystemExit, match=r"is judging mutants in .*: wait for it"),
    ):
        mutate.main()
