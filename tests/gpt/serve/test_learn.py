"""The routes of learning: steps, undo, sessions that other routes see, limits, and one sentence for each error."""

import json

import pytest
from runs import quickly_drawn, short_run, tiny, train  # noqa: F401

from gpt import look
from gpt.serve import create_app
from gpt.serve.requests import Fields
from gpt.serve.routes import learn as routes

pytest.importorskip("httpx2", reason="Starlette's test client needs it: pip install -e '.[test]'")
from starlette.testclient import TestClient

short, _ = short_run(n_layer=2, context_length=32, keep=3, steps=9)
TEXT = "take one down"


@pytest.fixture
def client(short):
    app = create_app([short / "run"])
    with TestClient(app, raise_server_exceptions=False) as client:
        client.look = app.state.look
        yield client


def post(client, route: str, status: int = 200, **fields):
    answer = client.post(f"/api/{route}", json={"run": "run", "text": TEXT, **fields})
    assert answer.status_code == status, answer.text
    return answer.json()


def steps(client, **fields) -> list[dict]:
    answer = client.post("/api/learn/step", json={"run": "run", "text": TEXT, **fields})
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def session_of(client, **fields) -> str:
    return steps(client, **fields)[-1]["session"]["id"]


def test_the_losses_before_are_those_of_the_model(client, short):
    found = post(client, "learn/before", step=4)
    model = look.load(short / "run", 4)
    step = look.learn(model, TEXT)
    assert found["tokens"] == list(TEXT)
    assert found["losses"] == pytest.approx(step.losses_before)
    assert (found["lr"], found["beta2"], found["clip"], found["dropout"]) == (0.02, 0.99, 1.0, 0.1)
    assert found["session"] is None
    assert post(client, "learn/before")["losses"] != found["losses"]  # of the newest checkpoint


def test_steps_are_streamed_with_their_phases_and_equal_look_learn(client, short):
    lines = steps(client, step=4, count=2, lr=0.01)
    phases = [(p["step"], p["of"], p["phase"]) for p in (line["progress"] for line in lines if "progress" in line)]
    assert phases == [
        (1, 2, "copy"), (1, 2, "forward"), (1, 2, "backward"), (1, 2, "update"),
        (2, 2, "forward"), (2, 2, "backward"), (2, 2, "update"),
    ]  # fmt: skip
    results = [line["result"] for line in lines if "result" in line]
    session = look.LearningSession(look.load(short / "run", 4))
    assert len(results) == 2
    for result in results:
        expected = list(session.step(TEXT, lr=0.01))[-1]
        assert result == json.loads(json.dumps(expected.to_dict()))
    described = lines[-1]["session"]
    assert described["losses"] == session.losses
    assert (described["step"], described["undo"]) == (4, 2)
    assert (described["bytes"], described["history_bytes"]) == (session.bytes, session.history_bytes)


def test_other_routes_see_the_learned_model_and_the_checkpoint_stays(client):
    before = post(client, "learn/before")["losses"]
    name = session_of(client, count=3)
    learned = post(client, "learn/before", session=name)
    assert sum(learned["losses"]) < sum(before)
    assert learned["session"]["id"] == name
    assert post(client, "learn/before")["losses"] == before
    assert post(client, "tokens", session=name)["tokens"][0]["text"] == "t"
    plain, own = (post(client, "learn/gradients", **fields) for fields in ({}, {"session": name}))
    assert own["losses"] == learned["losses"]
    assert plain["losses"] == before


def test_undo_and_more_steps(client):
    lines = steps(client, lr=0.01)
    name, first = lines[-1]["session"]["id"], lines[-1]["result"]
    second = steps(client, session=name, lr=0.01)[-1]
    assert second["result"]["rule"]["count"] == 2
    undone = post(client, "learn/undo", session=name)
    assert undone["result"] == first
    assert len(undone["session"]["losses"]) == undone["session"]["undo"] == 1
    assert steps(client, session=name, lr=0.01)[-1]["result"] == second["result"]
    assert post(client, "learn/session", session=name)["result"] == second["result"]
    for _ in range(2):
        last = post(client, "learn/undo", session=name)
    assert (last["result"], last["session"]["losses"]) == (None, [])
    assert post(client, "learn/undo", 400, session=name)["error"] == "there is no step to undo"


def test_a_session_that_is_dropped(client):
    name = session_of(client)
    assert post(client, "learn/reset", session=name) == {"dropped": True}
    assert post(client, "learn/reset", session=name) == {"dropped": False}
    says = "the server does not have this learning session any more: begin again from a checkpoint"
    for route in ("learn/before", "learn/step", "learn/session", "learn/undo", "learn/gradients", "tokens"):
        assert post(client, route, 404, session=name)["error"] == says


def test_the_session_that_was_used_longest_ago_is_dropped(client, monkeypatch):
    monkeypatch.setattr(routes, "MOST_SESSIONS", 2)
    first, second = session_of(client), session_of(client)
    post(client, "tokens", session=first)
    third = session_of(client)
    assert list(client.look.sessions) == [first, third]
    post(client, "learn/session", 404, session=second)


def test_sessions_are_limited_in_bytes_and_the_last_one_stays(client, monkeypatch):
    first = session_of(client)
    monkeypatch.setattr(routes, "SESSION_BYTES", 1)
    second = session_of(client)
    assert list(client.look.sessions) == [second] != [first]


def test_the_history_of_all_sessions_is_limited_in_bytes(client, monkeypatch):
    lines = steps(client, count=2, optimizer="sgd")
    first, result = lines[-1]["session"]["id"], next(line["result"] for line in lines if "result" in line)
    one = client.look.sessions[first].history_bytes // 2  # of weights alone
    monkeypatch.setattr(routes, "HISTORY_BYTES", 3 * one)
    second = steps(client, count=2, optimizer="sgd")[-1]["session"]
    found = post(client, "learn/session", session=first)["session"]
    assert (found["undo"], len(found["losses"])) == (1, 2)
    assert (second["undo"], second["history_bytes"], second["history_limit"]) == (2, 2 * one, 3 * one)
    undone = post(client, "learn/undo", session=first)  # of its newest step: the oldest snapshot was dropped
    assert undone["result"] == result
    assert post(client, "learn/before", session=first)["losses"] == pytest.approx(result["losses_after"])
    assert post(client, "learn/undo", 400, session=first)["error"] == "there is no step to undo"
    monkeypatch.setattr(routes, "HISTORY_BYTES", one)  # the first one has none that could be dropped
    last = steps(client, session=second["id"], optimizer="sgd")[-1]["session"]
    assert (last["undo"], last["history_bytes"], len(last["losses"])) == (1, one, 3)


def test_a_client_that_leaves_before_the_update_changes_nothing(client):
    name = session_of(client)
    values = [p.tolist() for p in client.look.sessions[name].loaded.model.parameters()]
    for leave in ("forward", "backward", "update"):
        lines = routes.steps(client.look, Fields(session=name), TEXT, 3, {"lr": 0.1})
        for line in lines:
            if line["progress"]["phase"] == leave:
                break
        lines.close()
        assert [p.tolist() for p in client.look.sessions[name].loaded.model.parameters()] == values
        assert len(client.look.sessions[name].losses) == 1


def test_gradients_with_and_without_the_parts_of_a_block(client, short):
    model = look.load(short / "run")
    for options in ({}, {"shortcuts": False}, {"norms": False, "fresh": True}, {"fresh": True, "layers": 5}):
        found = post(client, "learn/gradients", **options)
        assert found == json.loads(json.dumps(look.gradients(model, TEXT, **options).to_dict()))


def test_a_loss_that_is_not_finite_is_null(client):
    lines = steps(client, optimizer="sgd", lr=1e30)
    assert lines[-1]["result"]["loss_after"] is None
    after = steps(client, session=lines[-1]["session"]["id"])
    assert after[-1]["error"].startswith("the gradient is not finite")


@pytest.mark.parametrize(
    ("route", "fields", "says"),
    [
        ("before", {"text": ""}, "the text has no tokens"),
        ("before", {"text": "t"}, "the text has one token: give at least two"),
        ("before", {"text": "t" * 33}, "the text has 33 tokens and the model's context has 32"),
        ("before", {"text": 5}, "text must be a string"),
        ("step", {"text": "t"}, "give at least two"),
        ("step", {"count": 0}, "count must be an integer of at least 1"),
        ("step", {"count": 101}, "count must be at most 100"),
        ("step", {"lr": "much"}, "lr must be a finite number"),
        ("step", {"lr": -1}, "lr must be a finite number of at least 0"),
        ("step", {"optimizer": "lion"}, "optimizer must be one of 'adamw', 'sgd'"),
        ("step", {"optimizer": 3}, "optimizer must be a string"),
        ("step", {"moments": "old"}, "moments must be one of 'fresh', 'checkpoint'"),
        ("gradients", {"shortcuts": 1}, "shortcuts must be true or false"),
        ("gradients", {"fresh": "yes"}, "fresh must be true or false"),
        ("gradients", {"layers": 0, "fresh": True}, "layers must be an integer of at least 1"),
        ("gradients", {"layers": 49, "fresh": True}, "layers must be at most 48"),
        ("gradients", {"layers": 3}, "give fresh=True too"),
        ("undo", {}, "session must be a string"),
        ("reset", {"session": 3}, "session must be a string"),
    ],
)
def test_an_invalid_request_is_answered_by_a_sentence(client, route, fields, says):
    assert says in post(client, f"learn/{route}", 400, **fields)["error"]
    assert client.look.sessions == {}


def test_unknown_runs_and_sessions(client):
    for route in ("before", "step", "gradients"):
        post(client, f"learn/{route}", 404, run="elsewhere")
        post(client, f"learn/{route}", 404, session="elsewhere")
        post(client, f"learn/{route}", 400, session=["x"])
    assert client.look.sessions == {}


def test_a_fresh_model_with_too_many_parameters(client, monkeypatch):
    monkeypatch.setattr(routes, "MOST_PARAMETERS", 1000)
    found = post(client, "learn/gradients", 400, fresh=True, layers=10)
    assert found["error"].startswith("a model of 10 blocks has ")
    post(client, "learn/gradients", fresh=True, layers=1)
