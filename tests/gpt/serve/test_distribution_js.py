"""static/js/distribution.js, run by Node: the page's probabilities at any setting are those of gpt.generate."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import gpt.serve
import tensorlite as tl
from gpt.generation import probabilities
from gpt.look.next_token import EXACT, histogram

SCRIPT = Path(gpt.serve.__file__).parent / "static/js/distribution.js"
READ = """
let text = "";
for await (const part of process.stdin) text += part;
console.log(JSON.stringify(JSON.parse(text).map(({ expected, options, points }) => {
  const shaped = shape(expected, options);
  return { ...shaped, points: points.map(([logit, rank]) => shaped.probability(logit, rank)) };
})));
"""
SIZES = [(20, 2.0), (65, 3.0), (2048, 2.0), (5000, 0.6), (50257, 0.5), (50257, 3.0)]
OPTIONS = [
    {"temperature": temperature, "topK": k, "topP": p}
    for temperature in (0.05, 0.3, 0.8, 1, 2)
    for k in (None, 1, 10, 300)
    for p in (None, 0.1, 0.5, 0.99, 1)
]
ROUNDING = 3e-4  # gpt.generate computes in float32


def run_node(cases):
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs Node, to run the page's script")
    ran = subprocess.run(
        [node, "--input-type=module", "-e", SCRIPT.read_text(encoding="utf-8") + READ],
        input=json.dumps(cases), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def expected_of(logits):
    """What the server sends of these logits."""
    ascending = np.sort(logits).tolist()
    tail, width = histogram(ascending[:-EXACT])
    return {"logits": ascending[: -EXACT - 1 : -1], "tail": tail, "width": width, "vocab_size": len(logits)}


def true_distribution(logits, temperature, topK, topP):
    """In descending order, normalized; 0 for tokens that cannot be drawn."""
    p = probabilities(tl.tensor(logits), temperature, topK, topP).numpy().astype(np.float64)
    return np.sort(p / p.sum())[::-1]


@pytest.mark.parametrize(
    ("size", "scale"), [pytest.param(*one, marks=pytest.mark.slow if one[0] > 10000 else ()) for one in SIZES]
)
def test_probabilities_are_within_the_stated_error(size, scale):
    logits = np.random.default_rng(size).normal(size=size).astype(np.float32) * np.float32(scale)
    ordered = np.sort(logits)[::-1].tolist()
    options = [one for one in OPTIONS if (one["topK"] or 1) <= size]
    ranks = [rank for rank in (1, 2, 7, 100, 400, 20000) if rank <= size]
    points = [(ordered[rank - 1], rank) for rank in ranks]
    found = run_node([{"expected": expected_of(logits), "options": one, "points": points} for one in options])
    for one, shaped in zip(options, found, strict=True):
        true = true_distribution(logits, **one)
        assert shaped["error"] < (1e-12 if size <= EXACT else 0.5)
        bound = shaped["error"] + ROUNDING
        kept = int((true > 0).sum())
        approximate = shaped["error"] > 0 and one["topP"] not in (None, 1)  # then the place of the cut is, too
        tolerance = max(1, 0.01 * kept) if approximate else 0
        if one["temperature"] >= 0.3:  # below, float32 has zeros where the page has tiny numbers
            assert abs(shaped["kept"] - kept) <= tolerance, (one, kept)
        for rank, p in zip(ranks, shaped["points"], strict=True):
            if p == 0 or true[rank - 1] == 0:
                assert (p < 1e-30 and true[rank - 1] < 1e-30) or abs(rank - kept) <= tolerance, (one, rank)
            elif true[rank - 1] > 1e-30:
                assert p == pytest.approx(true[rank - 1], rel=bound), (one, rank)


def test_the_bound_is_small_where_people_use_it():
    """At temperatures from 0.5 on and without a cut in the histogram: below 0.5 %, for GPT-2's vocabulary."""
    cases = []
    for scale in (0.3, 1.0, 2.5):
        logits = np.random.default_rng(2).normal(size=50257).astype(np.float32) * np.float32(scale)
        for temperature in (0.5, 1, 2):
            options = {"temperature": temperature, "topK": None, "topP": None}
            cases.append({"expected": expected_of(logits), "options": options, "points": []})
    assert 0 < max(shaped["error"] for shaped in run_node(cases)) < 0.005


def test_temperature_0_is_certain():
    logits = np.asarray([1.0, 4.0, 2.0], np.float32)
    options = {"temperature": 0, "topK": None, "topP": 0.5}
    (shaped,) = run_node([{"expected": expected_of(logits), "options": options, "points": [(4.0, 1), (2.0, 2)]}])
    assert shaped == {"kept": 1, "error": 0, "points": [1, 0]}


def test_ties_are_kept_together():
    """As in gpt.generate: by hand, softmax of log(4, 2, 2, 1, 1) is 0.4, 0.2, 0.2, 0.1, 0.1."""
    logits = np.log(np.asarray([1, 2, 4, 2, 1], np.float32))
    ordered = np.sort(logits)[::-1].tolist()
    points = [(ordered[0], 1), (ordered[1], 2), (ordered[2], 2), (ordered[3], 4), (ordered[4], 4)]

    expected = expected_of(logits)
    limits = [
        (None, None),
        (2, None),
        (3, None),
        (None, 0.5),
        (None, 0.75),
        (4, 0.6),
        (4, None),
        (None, 0.85),
        (1, None),
    ]
    options = [{"temperature": 1, "topK": topK, "topP": topP} for topK, topP in limits]
    found = run_node([{"expected": expected, "options": one, "points": points} for one in options])
    assert [shaped["kept"] for shaped in found] == [5, 3, 3, 3, 3, 3, 5, 5, 1]
    assert found[0]["points"] == pytest.approx([0.4, 0.2, 0.2, 0.1, 0.1])
    assert found[1]["points"] == pytest.approx([0.5, 0.25, 0.25, 0, 0])
    assert found[8]["points"] == [1, 0, 0, 0, 0]
    assert all(shaped["error"] == 0 for shaped in found)
