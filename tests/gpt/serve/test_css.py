"""The page's style sheets: what one view's block says does not change another view, and every colour is the theme's."""

import re
from pathlib import Path

CSS = Path(__file__).parents[3] / "gpt" / "serve" / "static" / "css"
# Meant for several views: the first block that has them defines them, and others may add to what is inside.
SHARED = {".token", ".legend", ".field", ".tooltip", ".row", ".note", ".panel", ".scroll", ".space"}


def blocks() -> dict[str, str]:
    """The rules of views.css by the name of their block, without comments."""
    text = (CSS / "views.css").read_text(encoding="utf-8")
    parts = re.split(r"/\* -{5} (.*?) -{5} \*/", text)
    return {
        name: re.sub(r"/\*.*?\*/", "", rules, flags=re.DOTALL)
        for name, rules in zip(parts[1::2], parts[2::2], strict=True)
    }


def first_classes(rules: str) -> set[str]:
    """The classes that selectors begin with; those with an element's name, such as table.best, are another matter."""
    found = set()
    for selectors in re.findall(r"([^{}]+){", rules):
        for selector in re.split(r",(?![^(]*\))", selectors):
            if match := re.match(r"\s*(\.[\w-]+)", selector):
                found.add(match[1])
    return found


def test_no_class_belongs_to_two_views():
    owner: dict[str, str] = {}
    found = blocks()
    assert len(found) > 8
    for name, rules in found.items():
        for one in first_classes(rules) - SHARED:
            assert owner.setdefault(one, name) == name, f"{one} is in two blocks: {owner[one]!r}, {name!r}"


def test_a_view_does_not_restyle_what_the_frame_has():
    frame = first_classes(re.sub(r"/\*.*?\*/", "", (CSS / "base.css").read_text(encoding="utf-8"), flags=re.DOTALL))
    assert {".button", ".row"} & frame, frame
    for name, rules in blocks().items():
        for selector in re.findall(r"([^{}]+){", rules):
            alone = selector.strip()
            assert alone not in frame, f"{alone} of base.css is changed for all views in the block {name!r}"
