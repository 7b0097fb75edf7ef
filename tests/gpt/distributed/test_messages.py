"""What process 0 sends and what another one makes of it, with the messages in a list in place of MPI."""

import pickle
from collections import deque
from types import SimpleNamespace

import numpy as np
import pytest
from runs import tiny

from gpt.fast import agreement, distributed
from gpt.fingerprint import fingerprint
from gpt.tasks.classify import ClassifyConfig
from gpt.tasks.pretrain import Pretraining
from gpt.training import loop, machine, session
from gpt.training.signals import stop_signals


class Wire:
    """The World of one of `size` processes: process 0 appends its messages to `sent`, another one takes them."""

    mpi = SimpleNamespace(Get_processor_name=lambda: "here")
    hosts, local_rank, notice = 1, 0, None

    def __init__(self, rank=0, size=1, sent=None):
        self.rank, self.size, self.local_size = rank, size, size
        self.sent = deque() if sent is None else sent
        self.others = deque()  # what the others give to `collect`; by default the same

    def collect(self, value):
        return [value, *(self.others.popleft() if self.others else [value] * (self.size - 1))]

    def share(self, value=None):
        if self.rank:
            return pickle.loads(self.sent.popleft())
        self.sent.append(pickle.dumps(value))
        return value

    def share_number(self, number=0):
        return self.share(number)

    def broadcast(self, x):
        x[...] = self.share(x)

    def noticed(self):
        return self.notice

    def all_reduce(self, x):
        assert self.size == 1

    def start_all_reduce(self, x):
        assert self.size == 1

    def wait(self, request):
        assert request is None


@pytest.fixture
def begun(tmp_path):
    """Makes a session of the same run each time, in a folder of its own."""

    def begin(name):
        config, _ = machine.prepare(tiny(tmp_path, out=tmp_path / name, grad_accumulation=2))
        (tmp_path / name).mkdir()
        return session.begin(Pretraining, config, tmp_path / name, lambda line: None)

    return begin


def steps(s, count, step=None):
    """Step, learning rate, loss and norm of the next steps."""
    made = loop.PlainSteps(s, print, step)
    return [result[:4] for _ in range(count) for result in made.next(True)]


def same_weights(s, other):
    expected, found = (x.model.state_dict() | x.optimizer.state_dict()["tensors"] for x in (s, other))
    assert expected.keys() == found.keys()
    for name, x in expected.items():
        np.testing.assert_array_equal(found[name].numpy(), x.numpy(), err_msg=name)


@pytest.mark.parametrize("before", [0, 3])
def test_another_process_has_the_weights_the_averages_and_the_place_in_the_data(begun, before):
    s, sent = begun("run"), deque()
    steps(s, before)
    session.save(s)
    distributed.begin(s, distributed.Team(Wire(0, 2, sent), s.config))
    assert pickle.loads(sent.popleft()) == distributed.BEGIN
    other = distributed.build(distributed.Team(Wire(1, 2, sent), s.config), Pretraining)
    assert not sent
    same_weights(s, other)
    assert steps(other, 4) == steps(s, 4)
    same_weights(s, other)


def test_a_step_of_one_process_is_the_plain_step(begun):
    s, plain = begun("run"), begun("plain")
    step = distributed.SharedStep(s, distributed.Team(Wire(), s.config), print)
    assert steps(s, 4, step) == steps(plain, 4)
    same_weights(s, plain)


def test_what_another_process_finds_wrong_is_said_by_process_0(tmp_path):
    config, world = tiny(tmp_path), Wire(0, 2)
    same = agreement.about(world, config)
    world.others += [[same], [["process 1 needs a GPU", "both have it"]]]
    team = distributed.Team(world, config)
    assert team.problems == ["process 1 needs a GPU", "both have it"]
    with pytest.raises(ValueError, match=r"^process 1 needs a GPU; both have it$"):
        distributed.lead(team, None, Pretraining, lambda run: None)
    assert [pickle.loads(one) for one in world.sent] == [distributed.END, 1]  # the others end, with an error
    assert not (tmp_path / "run").exists()


def test_a_signal_that_another_process_got_ends_training_after_the_step(tmp_path):
    world = Wire(0, 2)
    team = distributed.Team(world, tiny(tmp_path))
    with stop_signals() as signals:
        team.command(distributed.STEP)
        assert signals == []
        world.notice = 15
        team.command(distributed.STEP)
        assert signals == [15]
    assert [pickle.loads(one) for one in world.sent] == [distributed.STEP] * 2


def test_the_files_that_a_run_starts_from_are_compared_and_folders_are_not(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "data.json").write_text("[]")
    config = ClassifyConfig(base=tmp_path / "base", data=tmp_path / "data.json", out=tmp_path / "run")
    found = agreement.about(Wire(), config)
    assert found["files"] == {str(tmp_path / "data.json"): fingerprint(tmp_path / "data.json")}
