"""The bank of planted faults (`python -m tests.meta.bank`): check_op sees them and accepts the right ops.

The tests take a sample, the same one on every run; docs/checker.md has the figures of the whole bank.
"""

import random
import sys

import numpy as np
import pytest

from tests.meta import bank, bank_libraries
from tests.meta.bank_faults import FAULTS
from tests.meta.bank_ops import BY_NAME, RIGHT

EXAMPLES = 10  # of each property


def test_the_bank_has_a_hundred_faults_and_sixty_right_ops():
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 100
    assert len(BY_NAME) == len(RIGHT) >= 60
    assert {fault.of for fault in FAULTS} <= BY_NAME.keys()


@pytest.mark.slow
def test_95_of_100_planted_faults_are_caught():
    sample = random.Random(0).sample(FAULTS, 30)
    verdicts = {fault.name: bank.checked(fault.op(), EXAMPLES)[0] for fault in sample}
    missed = [name for name, verdict in verdicts.items() if verdict != bank.CAUGHT]
    assert len(missed) <= 1, missed


@pytest.mark.slow
def test_right_ops_raise_no_alarm():
    found = {op.name: bank.checked(op, EXAMPLES) for op in random.Random(0).sample(RIGHT, 12)}
    assert {name: text for name, (verdict, _, text) in found.items() if verdict == bank.CAUGHT} == {}
    assert sum(inputs for _, inputs, _ in found.values()) > 400


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torch", "autograd", "jax"])
def test_an_op_has_the_same_value_and_gradient_in_every_library(name):
    """So that all checkers are asked about the same function: each op beside NumPy, and its gradient under ones."""
    library = bank_libraries.LIBRARIES[name]
    if not library.installed:
        pytest.skip(f"could not import '{library.package}': it is not installed")
    for op in random.Random(0).sample(RIGHT, 20):
        for xs, meta in bank.draws(op.name, 2):
            out = np.asarray(op.forward(bank_libraries.ON_ARRAYS, *xs, **meta))
            ones = np.ones(out.shape)
            expected = bank_libraries.gradients(op, bank_libraries.ON_ARRAYS, ones, xs, out, meta)
            value, pieces = library.pull(library.make(op, meta), xs)
            np.testing.assert_allclose(value, out, rtol=1e-12, atol=1e-12, err_msg=op.name)
            for got, piece in zip(pieces, expected, strict=True):
                np.testing.assert_allclose(got, piece, rtol=1e-9, atol=1e-12, err_msg=op.name)


def test_a_library_that_is_not_installed_is_left_out(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bank_libraries.Library, "installed", False)
    page = tmp_path / "page.md"
    flags = ["--only", "difference: sign", "--peers", "--examples", "5", "--right", "1", "--draws", "2"]
    flags += ["--results", str(tmp_path / "build" / "bank.json"), "--table", str(page)]
    monkeypatch.setattr(sys, "argv", ["bank", *flags])
    assert bank.main() == 0
    said, text = capsys.readouterr().out, page.read_text("utf-8")
    assert "torch is not installed" in said
    assert "`check_op`: 1 of 1 faults caught" in said
    assert "| difference: sign | sign or order | ✓ | ✓ | ✓ |" in text
    monkeypatch.setattr(bank, "of_right_ops", None)  # a second run has what the first one found
    assert bank.main() == 0
    assert page.read_text("utf-8") == text
    monkeypatch.setattr(sys, "argv", ["bank", *flags, "--examples", "6"])
    with pytest.raises(TypeError, match="'NoneType' object is not callable"):  # but not for other examples
        bank.main()


def test_text_that_no_name_has_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bank", "--only", "no such fault"])
    assert bank.main() == 2
    assert capsys.readouterr().out == "no op or fault has 'no such fault' in its name\n"
