"""Recorded and pending steps, as far as a CPU can tell: what they hand to the step, and when results are read."""

import pytest
from runs import tiny

import tensorlite as tl
from gpt.fast import machine as fast_machine
from gpt.fast import pending
from gpt.fast.recorded_step import RecordedStep
from gpt.tasks.pretrain import Pretraining
from gpt.training import loop, machine, session


@pytest.fixture
def begun(tmp_path):
    (tmp_path / "run").mkdir()
    config, _ = machine.prepare(tiny(tmp_path, grad_accumulation=2))
    return session.begin(Pretraining, config, tmp_path / "run", lambda line: None)


def seen(step, optimizer, *calls):
    """What a recorded step gave, and what it handed on."""
    handed = []

    def note(batches, counts):
        handed.append((batches, list(counts)))
        return step(batches, counts)

    recorded = RecordedStep(note, MODEL, optimizer, print)
    return [recorded(*call) for call in calls], handed


MODEL = tl.nn.Linear(2, 1)


def total(batches, counts):
    return sum((x.sum() for batch in batches for x in batch), tl.zeros(()))


def test_batches_of_tensors_come_out_as_they_went_in():
    batches = [(tl.ones(2), tl.ones(3)), (tl.ones(4), tl.ones(5))]
    optimizer = tl.optim.AdamW(MODEL.parameters())
    (result,), (handed,) = seen(total, optimizer, (batches, [2, 4]))
    assert result.item() == 14
    assert [[x.shape for x in batch] for batch in handed[0]] == [[(2,), (3,)], [(4,), (5,)]]
    assert handed[1] == [2, 4]


def test_batches_of_anything_else_are_computed_as_they_are():
    batches = [([1, 2], tl.ones(2))]
    optimizer = tl.optim.AdamW(MODEL.parameters())
    _, (handed,) = seen(lambda batches, counts: tl.zeros(2), optimizer, (batches, [2]))
    assert handed[0] is batches


def test_the_reason_why_a_step_is_not_recorded_is_said_once():
    lines = []
    recorded = RecordedStep(total, MODEL, tl.optim.AdamW(MODEL.parameters()), lines.append)
    recorded.graph.why_not = "the driver is too old"
    for _ in range(3):
        recorded([(tl.ones(1),)], [1])
    assert lines == ["cuda graph off: the driver is too old"]


def test_results_are_read_together_or_when_they_are_asked_for(begun, monkeypatch):
    monkeypatch.setattr(pending, "READ_EVERY", 3)
    steps = pending.PendingSteps(begun, print)
    given = [[result.step for result in steps.next(read)] for read in (False, False, False, False, True, False)]
    assert given == [[], [], [1, 2, 3], [], [4, 5], []]
    assert [result.step for result in steps.rest()] == [6]
    assert steps.rest() == []


def test_pending_steps_give_what_steps_read_one_by_one_give(tmp_path, begun):
    read = loop.PlainSteps(begun, print)
    expected = [read.next(True)[0][:4] for _ in range(4)]
    (tmp_path / "again").mkdir()
    again = session.begin(Pretraining, begun.config, tmp_path / "again", lambda line: None)
    steps = pending.PendingSteps(again, print)
    found = [result[:4] for n in range(4) for result in steps.next(n == 3)]
    assert found == expected


def test_a_cpu_reads_each_step(begun):
    assert type(fast_machine.make_steps(begun, print)) is loop.PlainSteps
