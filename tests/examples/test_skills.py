"""examples/assistant/skills.py: answers are right, parts share no question, the text has all skills."""

import pytest

from examples.assistant import skills
from gpt.tasks import instruct

WORDY = ("uppercase", "reverse", "counting")


@pytest.fixture(scope="module")
def made():
    return skills.make(4000, seed=3)


def test_answers_are_right(made):
    """By the words of the question alone, without the generator's tables of answers."""
    for entry in (e for part in made for e in part):
        question, answer = f"{entry['instruction']} {entry['input']}".strip(), entry["output"]
        phrasings = skills.KINDS[entry["kind"]].phrasings
        (x,) = {
            entry["input"]
            if "{x}" not in p
            else question[len(p.split("{x}")[0]) : len(question) - len(p.split("{x}")[1])]
            for p in phrasings
            if (p == entry["instruction"] if "{x}" not in p else not entry["input"] and _fits(p, question))
        }
        match entry["kind"]:
            case "uppercase":
                assert answer == x.upper() != x
            case "reverse":
                assert list(answer) == list(reversed(x))
            case "sums":
                a, b = x.split(" + ")
                assert int(answer) - int(a) == int(b)
            case "counting":
                assert int(answer) == len(x)
            case "opposites":
                assert f"{x} {answer}" in skills.OPPOSITES or f"{answer} {x}" in skills.OPPOSITES
            case kind:
                pytest.fail(f"nothing is known of the answers of kind {kind!r}")


def _fits(phrasing: str, question: str) -> bool:
    before, after = phrasing.split("{x}")
    return question.startswith(before) and question.endswith(after) and len(question) > len(before + after)


def test_parts_share_nothing_that_is_asked(made):
    assert [len(part) for part in made] == [3400, 400, 200]
    assert instruct.split([e for part in made for e in part]) == made
    for kind in skills.KINDS:
        texts = [{f"{e['instruction']}|{e['input']}" for e in part if e["kind"] == kind} for part in made]
        assert len(set.union(*texts)) == sum(map(len, texts))
        assert len([e for e in made.test if e["kind"] == kind]) == (200 if kind == "sums" else 50)
    words = [{w for e in part if e["kind"] in WORDY for w in _tokens(e)} for part in made]
    shared = set.intersection(*words)  # the words of the questions; what is asked about is in one part only
    asking = {w for kind in WORDY for p in skills.KINDS[kind].phrasings for w in _tokens({"instruction": p})}
    assert shared == asking - {"x"}
    sums = [{tuple(t for t in _tokens(e) if t.isdigit()) for e in part if e["kind"] == "sums"} for part in made]
    assert not sums[0] & (sums[1] | sums[2])
    trained_on = {w for e in made.train if e["kind"] == "opposites" for w in _tokens(e)}
    assert all(set(_tokens(e)) <= trained_on for e in made.test if e["kind"] == "opposites")


def _tokens(entry) -> list[str]:
    text = f"{entry['instruction']} {entry.get('input', '')}"
    return "".join(c if c.isalnum() else " " for c in text).split()


def test_a_drill_has_the_skills_of_the_entries_and_all_their_characters(made):
    style = instruct.STYLES["phi3"]
    text = skills.drill(made.train, style)
    assert {c for part in made for e in part for c in style.prompt(e) + e["output"]} <= set(text)
    lines = text.split("\n")
    words = {e["asked"] for e in made.train if e["kind"] in WORDY}
    assert {f"{w} {w.upper()} {w[::-1]} {len(w)}" for w in words} <= set(lines)
    assert {f"{e['asked']} = {e['output']}" for e in made.train if e["kind"] == "sums"} <= set(lines)
    assert text.count("<|assistant|>:\n") == pytest.approx(0.05 * len(made.train), rel=0.3)
    unseen = {e["asked"] for e in [*made.test, *made.validation] if e["kind"] != "opposites"}
    written = {piece for line in lines for piece in (*line.split(" "), line.split(" = ")[0])}
    by_chance = {w for kind in skills.KINDS.values() for p in kind.phrasings for w in p.split()}
    assert unseen & written <= by_chance | skills.ANTONYMS.keys()


def test_the_same_seed_the_same_entries(made):
    assert skills.make(4000, seed=3) == made
    assert skills.make(4000, seed=4) != made
