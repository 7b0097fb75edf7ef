"""The routes of runs: lists, curves, comparison, and server-sent events while a run is written."""

import asyncio
import json
import shutil
from pathlib import Path

import pytest
from runs import quickly_drawn, tiny, train

pytest.importorskip("httpx2", reason="Starlette's test client needs it: pip install -e '.[test]'")
from starlette.testclient import TestClient

from gpt import look
from gpt.look.metrics import Log
from gpt.serve import create_app, live
from gpt.serve.state import State

__all__ = ["quickly_drawn"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folder")
    for name, lr in (("one", 0.02), ("two", 0.01)):
        train(tiny(folder, out=folder / name, steps=12, lr=lr))
    return folder


@pytest.fixture(scope="module")
def client(folder):
    return TestClient(create_app((folder,)), raise_server_exceptions=False)


@pytest.fixture
def run(folder, tmp_path):
    """A copy of a run that is not finished: as it was after step 9."""
    run = Path(shutil.copytree(folder / "one", tmp_path / "run"))
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:10]))
    manifest = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**manifest, "finished": None}))
    return run


# ----- lists and curves ---------------------------------------------------------------------------------------------


def test_the_runs_with_their_kept_checkpoints(client):
    one, two = client.get("/api/runs").json()
    assert (one["name"], two["name"]) == ("one", "two")
    assert one["steps"] == [8, 12]
    assert (one["keep"], one["finished"]) == (2, True)


def test_an_unreadable_run_has_its_error(folder, tmp_path):
    shutil.copytree(folder / "one", tmp_path / "one")
    (tmp_path / "one" / "config.json").write_text("no JSON")
    client = TestClient(create_app((tmp_path,)))
    for path in ("/api/runs", "/api/runs/summary"):
        (found,) = client.get(path).json()
        assert set(found) == {"name", "error"}
        assert "is not JSON" in found["error"]


def test_the_curves_are_the_numbers_of_the_metrics(client, folder):
    found = client.get("/api/runs/one/curves?smooth=1").json()
    lines = [json.loads(line) for line in (folder / "one" / "metrics.jsonl").read_text().splitlines()]
    for name in ("loss", "norm", "lr", "validation_loss"):
        expected = [(line["step"], line[name]) for line in lines if name in line]
        curve = found["curves"][name]
        assert curve["step"] == [step for step, _ in expected]
        for part in ("low", "high", "smooth"):
            assert curve[part] == pytest.approx([value for _, value in expected], rel=1e-5)
    assert (found["last"], found["total"], found["steps"]) == (12, 12, [8, 12])
    assert [sample["step"] for sample in found["samples"]] == [7, 12]


def test_many_steps_are_few_points(client, run):
    with open(run / "metrics.jsonl", "w") as file:
        for step in range(1, 5001):
            file.write(json.dumps({"step": step, "loss": 9.0 if step == 1234 else 1.0, "norm": 1.0, "lr": 0.1}) + "\n")
    client = TestClient(create_app((run,)))
    loss = client.get("/api/runs/run/curves?points=100").json()["curves"]["loss"]
    assert len(loss["step"]) == 100
    assert max(loss["high"]) == 9.0  # one step in 5,000, and still seen


@pytest.mark.parametrize(
    ("path", "status", "sentence"),
    [
        ("/api/runs/three/curves", 404, "there is no run 'three'"),
        ("/api/runs/three/events", 404, "there is no run 'three'"),
        ("/api/runs/one/curves?points=1", 400, "points must be an integer of at least 2"),
        ("/api/runs/one/curves?points=99999", 400, "points must be at most 5,000"),
        ("/api/runs/one/curves?smooth=x", 400, "smooth must be an integer"),
        ("/api/runs/one/curves?smooth=" + "9" * 5000, 400, "smooth must be an integer"),
        ("/api/runs/one/curves?smooth=²", 400, "smooth must be an integer"),
        ("/api/compare", 400, "choose from 1 to 12 runs"),
        ("/api/compare?" + "&".join(f"run={i}" for i in range(13)), 400, "choose from 1 to 12 runs"),
        ("/api/compare?run=one&run=three", 404, "there is no run 'three'"),
    ],
)
def test_an_invalid_request_is_one_sentence(client, path, status, sentence):
    answer = client.get(path)
    assert answer.status_code == status
    assert answer.json()["error"].startswith(sentence)


def test_a_comparison_is_that_of_look(client, folder):
    found = client.get("/api/compare?run=one&run=two&smooth=1").json()
    expected = look.compare([folder / "one", folder / "two"]).to_dict()
    assert {name: found[name] for name in expected} == expected
    assert [row["name"] for row in found["settings"] if row["differs"]] == ["lr"]
    curves = [run["curves"]["loss"] for run in found["runs"]]
    assert all(curve["step"] == list(range(1, 13)) for curve in curves)
    assert curves[0]["smooth"] != curves[1]["smooth"]
    assert found["runs"][0]["tokens_per_step"] == 16  # 2 sequences of 8 tokens


def test_a_run_alone_can_be_shown(client):
    assert client.get("/api/compare?run=two").json()["names"] == ["two"]


def test_a_model_is_read_again_where_its_run_was_replaced(folder, tmp_path):
    train(tiny(tmp_path, steps=4))
    state = State((tmp_path / "run",))
    before = state.model({"run": "run"})
    assert state.model({"run": "run", "step": 4}) is before
    train(tiny(tmp_path, steps=4, seed=7, overwrite=True))
    after = state.model({"run": "run", "step": 4})
    assert next(after.model.parameters()).tolist() != next(before.model.parameters()).tolist()


def test_a_checkpoint_that_was_deleted_is_one_sentence(client):
    answer = client.post("/api/tokens", json={"run": "one", "step": 4, "text": "60"})
    assert answer.status_code == 404
    assert "does not keep a checkpoint of step 4: it keeps 8, 12" in answer.json()["error"]


# ----- events -------------------------------------------------------------------------------------------------------


def parsed(text: str) -> list[tuple[str, str, object]]:
    """(name, id, data) of each event."""
    found = []
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        if "event" in fields:
            found.append((fields["event"], fields["id"], json.loads(fields["data"])))
    return found


def follow(run: Path, position: str, *actions) -> list[tuple[str, str, object]]:
    """The events of a run; after each look at its files, the next action changes them, and after the last it ends."""

    async def collect() -> str:
        left, text = list(actions), ""
        real = asyncio.sleep

        async def act(seconds):
            await real(0)
            if not left:
                raise EOFError
            left.pop(0)()

        live.asyncio.sleep = act
        try:
            async for piece in live.events(run, position):
                text += piece.decode()
        except EOFError:
            pass
        finally:
            live.asyncio.sleep = real
        return text

    return parsed(asyncio.run(collect()))


def append(run: Path, *lines: str, name: str = "metrics.jsonl"):
    def act():
        with open(run / name, "a") as file:
            file.write("".join(lines))

    return act


LINE = '{"step": %d, "loss": 1.5, "norm": 1.0, "lr": 0.1}\n'


def test_new_lines_samples_and_checkpoints_arrive(run):
    position = Log(run).update().place
    new = run / "checkpoints" / "step_00000014"
    events = follow(
        run, position,
        append(run, LINE % 10, '{"step": 11, "lo'),
        append(run, 'ss": 1.25}\n'),
        append(run, "----- step 14\ntext\n\n", name="samples.txt"),
        lambda: shutil.copytree(run / "checkpoints" / "step_00000012", new),
        lambda: shutil.rmtree(run / "checkpoints" / "step_00000008"),
        lambda: None,
    )  # fmt: skip
    assert [(name, data) for name, _, data in events] == [
        ("checkpoints", {"steps": [8, 12]}),
        ("lines", [{"step": 10, "loss": 1.5, "norm": 1.0, "lr": 0.1}]),
        ("lines", [{"step": 11, "loss": 1.25}]),
        ("samples", [{"step": 14, "text": "text"}]),
        ("checkpoints", {"steps": [8, 12, 14]}),
        ("checkpoints", {"steps": [12, 14]}),
    ]


def test_a_client_that_reconnects_gets_what_it_has_missed(run):
    events = follow(run, "now", append(run, LINE % 10), append(run, LINE % 11))
    (first,) = [id for name, id, data in events if name == "lines" and data[0]["step"] == 10]
    append(run, LINE % 12)()
    missed = [data for name, _, data in follow(run, first) if name == "lines"]
    assert [[line["step"] for line in lines] for lines in missed] == [[11, 12]]


def test_the_id_of_the_last_event_is_taken_from_its_header(client, folder):
    position = "0-00000000.0-00000000"
    whole = parsed(client.get(f"/api/runs/one/events?position={position}").text)
    assert [name for name, _, _ in whole] == ["lines", "samples", "checkpoints", "finished"]
    assert whole[0][2][-1]["step"] == 12
    last = whole[-1][1]
    again = parsed(client.get(f"/api/runs/one/events?position={position}", headers={"Last-Event-ID": last}).text)
    assert [name for name, _, _ in again] == ["checkpoints", "finished"]


def test_a_finished_run_that_goes_on_does_not_end_its_events(run):
    manifest = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**manifest, "finished": 10}))
    append(run, LINE % 10, LINE % 11)()
    assert [name for name, _, _ in follow(run, "now")] == ["checkpoints"]
    (run / "run.json").write_text(json.dumps({**manifest, "finished": 11}))
    assert [name for name, _, _ in follow(run, "now")] == ["checkpoints", "finished"]


@pytest.mark.parametrize("position", ["", "x", "1-00000000.0-00000000", "999999-00000000.0-00000000", "..", "now."])
def test_a_position_that_does_not_fit_begins_again(run, position):
    assert [name for name, _, _ in follow(run, position)] == ["restart"]


def test_a_resumed_run_begins_again(run):
    def cut():
        lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
        (run / "metrics.jsonl").write_text("".join(lines[:5]))

    assert [name for name, _, _ in follow(run, "now", cut)] == ["checkpoints", "restart"]


def test_a_client_far_behind_begins_again(run):
    append(run, *(LINE % step for step in range(10, 8000)))()
    assert [name for name, _, _ in follow(run, "0-00000000.0-00000000")] == ["restart"]


def test_a_deleted_run_is_one_event(run):
    events = follow(run, "now", lambda: shutil.rmtree(run), lambda: None)
    assert [name for name, _, _ in events] == ["checkpoints", "restart"]


def test_a_quiet_stream_has_a_heartbeat(run, monkeypatch):
    monkeypatch.setattr(live, "HEARTBEAT", 0.0)

    async def first(count):
        stream = live.events(run, "now", poll=0.001)
        return [await anext(stream) for _ in range(count)]

    pieces = asyncio.run(first(4))
    assert pieces[0] == b"retry: 2000\n\n"
    assert pieces[2:] == [b": still here\n\n"] * 2  # a comment: clients ignore it


def test_only_numbers_of_a_line_are_sent(run):
    position = Log(run).update().place
    append(run, '{"step": 10, "loss": null, "text": "x", "deep": [[[]]], "yes": true, "lr": NaN}\n')()
    (lines,) = [data for name, _, data in follow(run, position) if name == "lines"]
    assert lines == [{"step": 10, "loss": None, "lr": None}]
