"""Memory runs out in a training step, at any of its arrays: one sentence, and the run goes on from its checkpoint."""

import random

import pytest
from cases import FACTOR, Case, case_of
from memory import MEMORY
from writers import call

from gpt.training import loop as training

LARGE = 64  # bytes, for a model so small


@pytest.fixture(scope="module", params=["train", "resume", "classify", "instruct", "overwrite"])
def case(request):
    with case_of(request.param) as case:
        yield case


def out_of_memory(case: Case, monkeypatch, at: int):
    """The command, where the `at`-th array of its training steps finds no memory."""
    real = training.train_step

    def counted(*args, **options):
        MEMORY.counting = True
        try:
            return real(*args, **options)
        finally:
            MEMORY.counting = False

    case.begin()
    with monkeypatch.context() as patch, MEMORY.watched(LARGE, at):
        patch.setattr(training, "train_step", counted)
        return call(case.line(), case.parsed)


@pytest.mark.finding("A2")
@pytest.mark.slow
def test_memory_may_run_out_at_any_array_of_a_step(case, monkeypatch):
    assert out_of_memory(case, monkeypatch, 0).status == 0
    count = MEMORY.counted
    assert count > 100
    numbers = range(1, count + 1)
    for at in sorted(random.Random(case.writer.name).sample(numbers, int(min(6 * FACTOR, count)))):
        ended = out_of_memory(case, monkeypatch, at)
        assert ended.status == 1, (at, ended)
        assert ended.errors.startswith("gpt: out of memory: Unable to allocate")
        assert len(ended.errors.splitlines()) == 1
        found = [*case.badly_left(ended, lasting=False), *case.badly_gone_on(ended.output + ended.errors)]
        assert not found, (at, found, ended.errors)
