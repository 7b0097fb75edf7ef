"""The graph described, drawn, and walked: nothing is left out, counted twice, or changed by looking at it."""

import itertools
import re
import tracemalloc
import weakref
from collections import Counter
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorlite as tl
from tensorlite import functional as F
from tensorlite.inspect import drawing, graph, steps
from tensorlite.inspect.describe import size


def regression():
    """A result with everything in its graph: leaves, a constant, a shared value, a number, a keyword."""
    x = tl.tensor(np.arange(24.0).reshape(8, 3) / 24)
    w = tl.tensor(np.array([[0.5], [-1.0], [0.25]]), requires_grad=True)
    b = tl.tensor(np.array([0.1]), requires_grad=True)
    h = tl.tanh(x @ w + b)
    return (h * h * 0.5).sum(axis=0).max(), {"x": x, "w": w, "b": b, "h": h, "z": tl.ones(3)}


def layer(T=5, C=4):
    """What a transformer is made of, from fused ops: (loss, parameters by name)."""
    g = tl.Generator(0)
    shapes = {"scale": (C,), "shift": (C,), "qkv": (3 * C, C), "up": (2 * C, C), "down": (C, 2 * C)}
    p = {name: tl.randn(*shape, generator=g, requires_grad=True) for name, shape in shapes.items()}
    x = tl.randn(2, T, C, generator=g)
    h = F.linear(F.layer_norm(x, p["scale"], p["shift"]), p["qkv"])
    q, k, v = (h[..., i * C : (i + 1) * C] for i in range(3))
    h = x + F.scaled_dot_product_attention(q, k, v, is_causal=True)
    h = h + F.linear(F.gelu(F.linear(h, p["up"])), p["down"])
    return F.cross_entropy(h, tl.randint(0, C, (2, T), generator=g)), p


picks = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(0, 2)), max_size=25)


def tangle(picks):
    """A random graph: each step joins two earlier values, the result depends on all. (result, leaves)"""
    leaves = [tl.tensor(np.array([0.3, -0.2]) * (i + 1), requires_grad=True) for i in range(3)]
    values = list(leaves)
    for i, j, op in picks:
        x, y = values[i % len(values)], values[j % len(values)]
        values.append(x + y if op == 0 else x * y if op == 1 else tl.tanh(x))
    return sum(values[1:], start=values[0]).sum(), leaves


# ----- described, and as text -------------------------------------------------------------------------------------


def test_the_listing_says_all_of_it():
    loss, names = regression()
    assert str(graph(loss, names)).split("\n") == [
        "7 ops on 2 leaves, keeping 272 B until backward",
        "#1   w leaf           (3, 1)  float64",
        "#2   x constant       (8, 3)  float64",
        "#3   matmul(x, w)     (8, 1)  float64  keeps x: 192 B",
        "#4   b leaf           (1,)    float64",
        "#5   add(#3, b)       (8, 1)  float64",
        "#6   h = tanh(#5)     (8, 1)  float64  keeps out: 64 B",
        "#7   mul(h, h)        (8, 1)  float64  keeps x, y: held anyway",
        "#8   mul(#7, 0.5)     (8, 1)  float64",
        "#9   sum(#8, axis=0)  (1,)    float64",
        "#10  max(#9)          ()      float64  keeps x, out: 16 B",
        "not recorded here: z",
    ]
    unnamed = str(graph(loss))
    assert "#2  matmul(·, #1)" in unnamed
    assert "· stands for a value that needs no gradient" in unnamed


def test_indices_and_members_are_shown_as_one_writes_them():
    x = tl.ones((4, 6), requires_grad=True)
    rows = tl.tensor([0, 2])
    listing = str(graph(tl.concatenate([x[1:3, ..., ::2], x[rows][:, 3:]], axis=0)))
    for part in ("getitem(#1, index=(1:3, ..., ::2))", "getitem(#1)", "keeps index: 16 B", "concat(#2, #4, axis=0)"):
        assert part in listing


def test_what_is_kept_is_what_memory_holds():
    """Once the user lets go of all but the leaves and the loss, the graph's bytes are all that is still alive."""
    n = 100_000
    w = tl.ones(n, requires_grad=True)

    def compute():
        h = tl.tanh(w * tl.full((n,), 0.5))  # keeps the constant, and the output
        wide = h.reshape(1, n).broadcast_to(3, n)  # views: nothing new
        return (tl.exp(wide) * wide + w).sum()  # exp: its output; mul: that again, and the memory of h

    compute()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    loss = compute()
    alive = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert graph(loss).bytes == 4 * n * (1 + 1 + 3)
    assert graph(loss).bytes == pytest.approx(alive, rel=0.02)


def test_a_description_outlives_what_it_describes():
    loss, names = regression()
    described, text = graph(loss, names), str(graph(loss, names))
    watched = weakref.ref(names["w"].data)
    loss.backward()
    freed = str(graph(loss))
    del loss, names
    assert watched() is None
    assert str(described) == text
    assert "max, freed by backward" in freed


def test_a_leaf_is_a_graph_and_what_was_not_recorded_is_none():
    w = tl.ones(3, requires_grad=True)
    assert str(graph(w, {"w": w})).endswith("#1  w leaf  (3,)  float32")
    with tl.no_grad():
        silent = w * 2
    for look in (graph, lambda x: next(steps(x))):
        with pytest.raises(RuntimeError, match="so nothing was recorded: create the inputs with"):
            look(silent)


def test_fused_ops_are_one_node_and_their_steps_under_unfused():
    loss, parameters = layer()
    fast = graph(loss, parameters)
    with tl.unfused():
        loss, parameters = layer()
    slow = graph(loss, parameters)
    ops = Counter(node.op for node in fast.nodes)
    assert (ops["linear"], ops["layer_norm"], ops["attention"], ops["gelu"], ops["cross_entropy"]) == (3, 1, 1, 1, 1)
    assert not {"linear", "layer_norm", "attention", "gelu", "cross_entropy"} & {node.op for node in slow.nodes}
    assert len(slow.nodes) > 2 * len(fast.nodes)
    assert fast.absent == slow.absent == ()
    assert "attention(#" in str(fast)
    assert "is_causal=True" in str(fast)


@given(picks)
def test_every_node_stands_once_and_after_its_inputs(picks):
    result, leaves = tangle(picks)
    nodes = graph(result, {"a": leaves[0]}).nodes
    assert [node.number for node in nodes] == list(range(1, len(nodes) + 1))
    assert len(nodes) == 3 + len(picks) + (2 + len(picks)) + 1  # leaves, joins, their sum's additions, the sum
    assert all(number < node.number for node in nodes for _, number in node.inputs if number)
    assert [node.kind for node in nodes].count("result") == (nodes[-1].kind == "result") == 1


# ----- drawn ------------------------------------------------------------------------------------------------------


def test_dot_has_every_node_and_arrow_and_quotes_names():
    w = tl.ones(3, requires_grad=True)
    lines = graph((w * w).sum(), {'the "w"\\': w}).dot().split("\n")
    assert lines[2:] == [
        r'  n1 [label="the \"w\"\\\n(3,) float32" fillcolor="#dcf1e1"]',
        r'  n2 [label="mul\n(3,) float32\nkeeps x, y: held anyway" fillcolor="#e6eefa"]',
        r'  n3 [label="sum\n() float32" fillcolor="#fce5c8"]',
        '  n1 -> n2 [label="x"]',
        '  n1 -> n2 [label="y"]',
        "  n2 -> n3",
        "}",
    ]


def parsed(svg: str):
    """(boxes as (left, top, right, bottom), arrows as path data, texts) of a drawing."""
    elements = [(e.tag.rpartition("}")[2], e) for e in ElementTree.fromstring(svg)]
    rects = [e for tag, e in elements if tag == "rect"][1:]  # the first is the background
    rects = [[float(e.get(k)) for k in ("x", "y", "width", "height")] for e in rects]
    paths = [e.get("d") for tag, e in elements if tag == "path"]
    texts = [e.text for tag, e in elements if tag == "text"]
    return [(x, y, x + w, y + h) for x, y, w, h in rects], paths, texts


@pytest.mark.slow
@given(picks)
def test_boxes_never_overlap_and_arrows_go_down_from_box_to_box(picks):
    result, _ = tangle(picks)
    described = graph(result)
    boxes, arrows, texts = parsed(described.svg())
    assert len(boxes) == len(described.nodes)
    for a, b in itertools.combinations(boxes, 2):
        assert a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1]
    expected = [(number, node.number) for node in described.nodes for _, number in node.inputs]
    assert len(arrows) == len(expected)
    drawn = []
    for path in arrows:
        points = [float(number) for number in re.findall(r"-?[\d.]+", path)]
        (start,) = [i for i, box in enumerate(boxes, 1) if touches(points[:2], box, bottom=True)]
        (end,) = [i for i, box in enumerate(boxes, 1) if touches(points[-2:], box, bottom=False)]
        assert boxes[start - 1][3] < boxes[end - 1][1]
        drawn.append((start, end))
        for x, top, bottom in (map(float, part) for part in re.findall(r"(-?[\d.]+) (-?[\d.]+) V(-?[\d.]+)", path)):
            assert not [box for box in boxes if box[0] < x < box[2] and box[1] < bottom and top < box[3]]
    assert sorted(drawn) == sorted(expected)
    assert texts[-1] == described.summary


def test_the_drawing_as_numbers_is_that_of_the_svg():
    loss, names = regression()
    described = graph(loss, names)
    drawing = described.drawing()
    boxes, arrows, _ = parsed(described.svg())
    corners = [(b.x, b.y, b.x + b.box.width, b.y + b.box.height) for b in drawing.boxes]
    np.testing.assert_allclose(corners, boxes, atol=0.2)
    assert [b.box.number for b in drawing.boxes] == [node.number for node in described.nodes]
    assert [arrow.path for arrow in drawing.arrows] == arrows
    assert max(right for _, _, right, _ in corners) == pytest.approx(drawing.width)
    assert max(bottom for *_, bottom in corners) == pytest.approx(drawing.height)
    ends = [(a.argument, a.source, a.target) for a in drawing.arrows]
    assert sorted(ends) == sorted((x, n, node.number) for node in described.nodes for x, n in node.inputs if n)


def touches(point, box, bottom: bool) -> bool:
    left, _, right, _ = box
    return left < point[0] < right and abs(point[1] - box[3 if bottom else 1]) < 0.2


def test_the_drawing_escapes_names_and_refuses_what_nobody_can_see():
    w = y = tl.ones(2, requires_grad=True)
    assert "<w> & co" in parsed(graph(w.sum(), {"<w> & co": w}).svg())[2]
    for _ in range(1000):
        y = y + 1
    with pytest.raises(ValueError, match="1001 nodes are too many to draw"):
        graph(y).svg()


@pytest.mark.slow
def test_a_deep_graph_is_listed_and_walked_without_recursion():
    w = y = tl.ones((), requires_grad=True)
    for _ in range(20_000):
        y = y + 1
    assert str(graph(y)).count("add(") == 20_000
    assert sum(1 for _ in steps(y)) == 20_001
    assert w.grad is None


# ----- backward, step by step -------------------------------------------------------------------------------------


def test_the_steps_of_a_small_graph():
    x, y = tl.tensor(3.0, requires_grad=True), tl.tensor(4.0, requires_grad=True)
    taken = [str(step) for step in steps(x * y + x * x, names={"x": x, "y": y})]
    assert taken == [
        "#5 add: g = 1\n    by x: rule(g) sends 1 to #3\n    by y: rule(g) sends 1 to #4",
        "#4 mul: g = 1\n    by x: rule(g, y) sends 3 to x\n    by y: rule(g, x) sends 3 to x",
        "#3 mul: g = 1\n    by x: rule(g, y) sends 4 to x\n    by y: rule(g, x) sends 3 to y",
        "#2 y leaf: g = 3",
        "#1 x leaf: g = 10",
    ]


@given(picks)
def test_steps_find_the_gradients_of_backward_and_leave_the_graph_as_it_was(picks):
    result, leaves = tangle(picks)
    names = dict(zip("abc", leaves, strict=True))
    arrived, ends = Counter(), {}
    for step in steps(result, names=names):
        label = step.name or f"#{step.number}"
        if step.op != "sum":
            np.testing.assert_allclose(step.gradient.numpy(), arrived[label], rtol=1e-12)
        for piece in step.pieces:
            arrived[piece.to] = arrived[piece.to] + piece.gradient.numpy()
        if not step.op:
            ends[step.name] = step.gradient.numpy().copy()
        step.gradient.data[...] = np.nan  # a copy: writing to it must not change anything
    assert all(leaf.grad is None for leaf in leaves)
    result.backward()
    for name, leaf in names.items():
        np.testing.assert_array_equal(leaf.grad.numpy(), ends[name])


def test_steps_walk_through_fused_ops_and_a_given_gradient():
    loss, parameters = layer()
    ends = {step.name: step.gradient for step in steps(loss, tl.tensor(2.0), names=parameters) if not step.op}
    asked = {step.op: step.pieces[0].asked for step in steps(loss) if step.op}
    loss.backward(tl.tensor(2.0))
    assert ends.keys() == parameters.keys()
    for name, p in parameters.items():
        np.testing.assert_array_equal(ends[name].numpy(), p.grad.numpy())
    assert asked["layer_norm"] == ("x", "weight", "mean", "rstd")


def test_steps_raise_where_backward_does():
    loss, names = regression()
    names["x"].changed()
    with pytest.raises(RuntimeError, match="backward through matmul: a value that it needs was changed"):
        list(steps(loss))
    loss, names = regression()
    loss.backward()
    with pytest.raises(RuntimeError, match="backward through max a second time"):
        next(steps(loss))
    with pytest.raises(RuntimeError, match="a gradient is needed for shape"):
        next(steps(names["h"]))


# ----- the layout of a drawing ------------------------------------------------------------------------------------


def boxes(*sources):
    return [drawing.Box(i, "op", [f"op {i}", "float32 ()"], [("x", s) for s in each]) for i, each in enumerate(sources)]


def test_the_order_of_a_row_avoids_crossings():
    placed = drawing.place(boxes((), (), (), (2,), (1,), (0,)))
    x = {p.box.number: p.x for p in placed.boxes}
    assert [(x[i] < x[j]) == (x[5 - i] < x[5 - j]) for i, j in itertools.combinations(range(3), 2)] == [True] * 3


def test_neighbours_stand_side_by_side():
    left, right, _ = sorted(drawing.place(boxes((), (), (0, 1))).boxes, key=lambda p: (p.y, p.x))
    assert 10 < right.x - (left.x + left.box.width) < 40


def test_arrows_pass_boxes_at_a_distance_and_bend_between_rows():
    beside = 0
    for seed in range(20):
        random = np.random.default_rng(seed)
        sources = [()] + [tuple(random.choice(i, min(i, 1 + random.integers(2)), replace=False)) for i in range(1, 9)]
        drawn = drawing.place(boxes(*[[int(s) for s in each] for each in sources]))
        assert len(drawn.arrows) == sum(map(len, sources))
        for arrow in drawn.arrows:
            x, y = map(float, re.match(r"M([-\d.]+) ([-\d.]+)", arrow.path).groups())
            assert any(x == pytest.approx(p.x + p.box.width / 2, abs=p.box.width / 2) for p in drawn.boxes)
            curves = re.findall(r"C([-\d. ]+)(?:V([-\d.]+))?", arrow.path)
            assert curves
            for curve, down in curves:
                _, bend, _, bend_too, x, top = map(float, curve.split())
                assert y <= bend == bend_too <= top
                y = top
                if down:
                    for p in drawn.boxes:
                        if p.y < float(down) and p.y + p.box.height > top:  # beside the vertical part
                            assert x < p.x - 20 or x > p.x + p.box.width + 20
                            beside += 1
                    y = float(down)
    assert beside > 20


def test_text_stands_in_the_middle_of_its_box_on_a_light_ground():
    w = tl.ones((2, 3), requires_grad=True)
    root = ElementTree.fromstring(graph((w * 2).sum(), {"w": w}).svg())
    rects = [e for e in root.iter() if e.tag.endswith("rect")][1:]
    assert len(rects) == 3  # w, the product, the sum
    for rect in rects:
        x, top, width, height = (float(rect.get(name)) for name in ("x", "y", "width", "height"))
        lines = [
            float(e.get("y"))
            for e in root.iter()
            if e.tag.endswith("text")
            and x < float(e.get("x")) < x + width
            and top < float(e.get("y")) < top + height + 8
        ]
        step = lines[1] - lines[0]
        assert lines[0] - 0.75 * step - top == pytest.approx(top + height - (lines[-1] + 0.25 * step), abs=0.3)
        fill, stroke = (sum(bytes.fromhex(rect.get(name)[1:])) for name in ("fill", "stroke"))
        assert stroke < fill > 3 * 200


def test_numbers_of_bytes_and_gradients_are_short():
    texts = ["96 B", "1.23 kB", "999 kB", "1 MB", "45.6 MB", "2 GB"]
    assert [size(n) for n in (96, 1230, 999_400, 999_500, 45.6e6, 2e9)] == texts
    x = tl.ones(7, requires_grad=True)
    assert "(7,) of norm 2.646" in str(next(iter(steps(x * 1.0, tl.ones(7)))))
    x = tl.ones(6, requires_grad=True)
    assert "g = [1, 1, 1, 1, 1, 1]" in str(next(iter(steps(x * 1.0, tl.ones(6)))))
