"""Tensors and modules as HTML for notebooks: well-formed, with the right numbers, escaped, fast at any size."""

import re
import time
from xml.etree import ElementTree

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import backend, nn
from tensorlite.inspect import display, graph
from tensorlite.testing.strict import strict

SVG = "{http://www.w3.org/2000/svg}"


def shown(x):
    """(header, text of the values, titles of the heat map's cells, note under it) of a Tensor's HTML."""
    root = ElementTree.fromstring(x._repr_html_())
    header = "".join(root[0].itertext())
    titles = [e.text for e in root.iter(f"{SVG}title")]
    notes = ["".join(e.itertext()) for e in root.findall("div")[1:]]
    return header, root.find("pre").text, titles, "".join(notes)


# ----- Tensor -----------------------------------------------------------------------------------------------------


def test_a_small_matrix_is_shown_whole():
    x = tl.tensor([[1.0, -2.0, 0.5], [0.0, 4.0, 1e-3]], requires_grad=True)
    header, values, titles, note = shown(x)
    assert header == "Tensor shape (2, 3) · float32 · requires_grad=True"
    assert f"tensor({values.replace(chr(10), chr(10) + ' ' * 7)}, requires_grad=True)" == repr(x)
    assert titles == ["[0, 0]: 1", "[0, 1]: -2", "[0, 2]: 0.5", "[1, 0]: 0", "[1, 1]: 4", "[1, 2]: 0.001"]
    assert note == "white is 0, orange 4, blue -4"


def test_colours_are_orange_above_zero_blue_below_and_stronger_with_size():
    html = tl.tensor([2.0, -2.0, 1.0, 0.0])._repr_html_()
    assert re.findall(r'fill="(#\w{6})"><title>', html) == ["#c2410c", "#1d4ed8", "#e0a086", "#ffffff"]


def test_the_origin_is_named():
    x = tl.ones(2, requires_grad=True)
    assert shown(x * 3)[0] == "Tensor shape (2,) · float32 · computed by mul"
    assert shown(nn.Linear(2, 1).weight)[0] == "Parameter shape (1, 2) · float32 · requires_grad=True"
    frozen = nn.Parameter([1.0, 2.0], requires_grad=False)
    assert shown(frozen)[0] == "Parameter shape (2,) · float32 · frozen"


@pytest.mark.parametrize(
    ("x", "values", "titles"),
    [
        (tl.tensor(3.5), "3.5", []),
        (tl.tensor([]), "[]", []),
        (tl.zeros((0, 3)), "[]", []),
        (tl.zeros((2, 0, 4)), "[]", []),
        (tl.tensor([[7]]), "[[7]]", []),
        (tl.tensor([True, False]), "[ True, False]", ["[0, 0]: 1", "[0, 1]: 0"]),
        (tl.tensor([2**40, -1]), "[1099511627776,            -1]", ["[0, 0]: 1.1e+12", "[0, 1]: -1"]),
        (tl.tensor([1, 255]).astype(tl.uint8), "[  1, 255]", ["[0, 0]: 1", "[0, 1]: 255"]),
        (tl.tensor([0.5, 3.0]).astype(tl.float16), "[0.5, 3. ]", ["[0, 0]: 0.5", "[0, 1]: 3"]),
        (tl.zeros((1, 1, 1, 1, 2, 1)), "[[[[[[0.],\n     [0.]]]]]]", ["[0, 0]: 0", "[1, 0]: 0"]),
    ],
    ids=["number", "empty", "no rows", "no columns", "one element", "bool", "int64", "uint8", "float16", "six axes"],
)
def test_shapes_and_dtypes(x, values, titles):
    header, text, found, _ = shown(x)
    assert str(x.dtype) in header
    assert " ".join(text.split()) == " ".join(values.split())
    assert found == titles


def test_bfloat16():
    pytest.importorskip("ml_dtypes", reason="bfloat16: pip install ml_dtypes")
    _, text, titles, _ = shown(tl.tensor([0.5, -3.0]).astype(tl.bfloat16))
    assert text == "[0.5, -3]"
    assert titles == ["[0, 0]: 0.5", "[0, 1]: -3"]


def test_nan_and_infinities_are_signs_and_do_not_change_the_scale():
    x = tl.tensor([[np.nan, 1.0], [np.inf, -np.inf], [np.nan, -2.0]])
    _, _, titles, note = shown(x)
    assert titles == ["[0, 0]: nan", "[0, 1]: 1", "[1, 0]: inf", "[1, 1]: -inf", "[2, 0]: nan", "[2, 1]: -2"]
    signs = [e.text for e in ElementTree.fromstring(x._repr_html_()).iter(f"{SVG}text")]
    assert signs == ["n", "+", "-", "n"]
    assert note == (
        "white is 0, orange 2, blue -2; 2 of 6 cells are nan (n); 1 of 6 cells are inf (+); 1 of 6 cells are -inf (-)"
    )
    assert "3 of 3 cells are nan" in shown(tl.tensor([np.nan] * 3))[3]


def test_a_large_matrix_is_shown_by_every_kth_row_and_column():
    data = np.arange(70.0 * 1000).reshape(70, 1000)
    _, text, titles, note = shown(tl.Tensor(data))
    assert text == np.array2string(data, precision=4, separator=", ")  # NumPy's own summary
    places = [re.match(r"\[(\d+), (\d+)\]: (.*)", title).groups() for title in titles]
    assert len(places) == 24 * 32  # every 3rd of 70 rows, every 32nd of 1000 columns
    for i, j, value in places:
        assert value == f"{data[int(i), int(j)]:.4g}"
    assert note == "every 3rd row and every 32nd column; white is 0, orange 6.999e+04"


@pytest.mark.parametrize("shape", [(1001,), (8, 126), (7, 200), (126, 8), (2000, 1), (1, 2000), (3, 400)])
def test_long_values_are_numpys_summary(shape):
    data = np.random.default_rng(0).standard_normal(shape)
    assert shown(tl.Tensor(data))[1] == np.array2string(data, precision=4, separator=", ", threshold=0, edgeitems=3)


def test_of_more_axes_the_first_matrix_is_shown():
    data = np.random.default_rng(0).standard_normal((3, 2, 20, 30)).astype("f4")
    _, text, titles, note = shown(tl.Tensor(data))
    assert text == "x[0, 0] =\n" + np.array2string(data[0, 0], precision=4, separator=", ", threshold=0)
    assert len(titles) == 600
    assert titles[31] == f"[1, 1]: {data[0, 0, 1, 1]:.4g}"
    assert note.startswith("x[0, 0]: the first of the other axes; white is 0, ")


@pytest.mark.parametrize("shape", [(10**4, 10**4), (10**8,), (10, 10, 1000, 1000), (10**7, 1, 10)])
def test_a_hundred_million_elements_are_shown_at_once(shape):
    x = tl.Tensor(np.broadcast_to(np.float32(1), shape))  # takes no memory, but a scan would take seconds
    x._repr_html_()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        html = x._repr_html_()
        times.append(time.perf_counter() - start)
    assert min(times) < 0.05
    assert len(html) < 150_000


def test_of_a_gpu_only_what_is_shown_is_copied(monkeypatch):
    monkeypatch.setitem(backend.DEVICES, "strict", lambda: strict)
    copied = []
    monkeypatch.setattr(display, "to_host", lambda x: copied.append(x.size) or backend.to_host(x))
    data = np.random.default_rng(0).standard_normal((2, 500, 700))
    there = tl.Tensor(backend.to_device(data, "strict"))
    header, *rest = shown(there)
    assert header == "Tensor shape (2, 500, 700) · float64 · strict"
    assert rest == [*shown(tl.Tensor(data))[1:]]
    assert sum(copied[: len(copied) // 2]) <= 32 * 32 + 49


# ----- Module -----------------------------------------------------------------------------------------------------


class Evil(nn.Module):
    """A setting that would be markup if it were not escaped."""

    def __init__(self, name="x"):
        self.name = name


class Net(nn.Module):
    def __init__(self):
        self.embedding = nn.Embedding(7, 4)
        self.layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(2)])
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight  # tied
        self.register_buffer("steps", tl.tensor([1, 2]))
        self.evil = Evil("<script>alert(1)</script>&")


def test_a_module_is_a_tree_with_shapes_and_counts():
    net = Net()
    net.layers[1].weight.requires_grad = False
    root = ElementTree.fromstring(net._repr_html_())
    summaries = ["".join(e.itertext()) for e in root.iter("summary")]
    assert summaries == [
        "Net() 68 parameters, 16 of them frozen",
        "embedding: Embedding(num_embeddings=7, embedding_dim=4) 28 parameters",
        "layers: ModuleList() 40 parameters, 16 of them frozen",
        "0: Linear(in_features=4, out_features=4) 20 parameters",
        "1: Linear(in_features=4, out_features=4) 20 parameters, 16 of them frozen",
        "head: Linear(in_features=4, out_features=7, bias=False) 28 parameters",
    ]
    assert net.num_parameters() == 68
    leaves = ["".join(e.itertext()) for e in root.iter("div") if not len(e)]
    assert leaves == [
        "steps: (2,) · int64 · 2 · not a parameter",
        "weight: (7, 4) · float32 · 28",
        "weight: (4, 4) · float32 · 16",
        "bias: (4,) · float32 · 4",
        "weight: (4, 4) · float32 · 16 · frozen",
        "bias: (4,) · float32 · 4",
        "weight: (7, 4) · float32 · 28 · shared, counted above",
    ]
    assert [e.get("open") is not None for e in root.iter("details")] == [True, *[False] * 5]


def test_every_text_is_escaped():
    html = Net()._repr_html_()
    assert "<script" not in html
    assert "evil: Evil(name='<script>alert(1)</script>&') 0 parameters" in "".join(
        ElementTree.fromstring(html).itertext()
    )


def test_a_module_that_occurs_twice_is_listed_once():
    class Twice(nn.Module):
        def __init__(self):
            self.a = nn.Linear(2, 2)
            self.b = self.a

    texts = "".join(ElementTree.fromstring(Twice()._repr_html_()).itertext())
    assert texts.count("bias: (2,)") == 1
    assert "b: Linear(in_features=2, out_features=2) 6 parameters (listed above)" in texts


# ----- the graph --------------------------------------------------------------------------------------------------


def test_a_graph_is_its_drawing_and_a_large_one_its_listing():
    x = tl.ones(3, requires_grad=True)
    small = graph(tl.tanh(x).sum())
    assert small._repr_svg_() == small.svg()
    y = x
    for _ in range(1000):
        y = y + 1
    large = graph(y.sum())
    assert large._repr_svg_() is None
    printed = []
    large._repr_pretty_(type("Printer", (), {"text": staticmethod(printed.append)})(), False)
    assert printed == [str(large)]


def test_the_smallest_integer_has_a_size_and_zeros_are_white():
    *_, note = shown(tl.tensor(np.array([-128, 64], np.int8)))
    assert note == "white is 0, orange 128, blue -128"
    assert re.findall(r'fill="(#\w{6})"><title>', tl.zeros(2)._repr_html_()) == ["#ffffff", "#ffffff"]


def test_a_small_array_is_shown_whole_whatever_numpys_options_are():
    with np.printoptions(threshold=3):
        _, values, *_ = shown(tl.arange(20))
    assert "..." not in values


def test_ordinal_numbers():
    numbers = [1, 2, 3, 4, 10, 11, 12, 13, 21, 22, 111, 113, 1002]
    assert [display.ordinal(n) for n in numbers] == [
        "1st", "2nd", "3rd", "4th", "10th", "11th", "12th", "13th", "21st", "22nd", "111th", "113th", "1,002nd",
    ]  # fmt: skip
