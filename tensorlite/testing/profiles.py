"""How many examples the property tests draw: Hypothesis profiles, made on demand."""

from typing import Any

from hypothesis import settings

EXAMPLES = {"dev": 10, "ci": 200, "nightly": 5000}
chosen: dict[str, Any] = {}  # by the options of the pytest plugin: profile, seed, op
checked: set[str] = set()  # with --op: the names of the rows that check_op was called with


def profile(name: str | None = None) -> settings:
    """The settings of a profile; without a name those of --op-profile, or else what is in force (`dev` where that is
    Hypothesis' own default). No limit looks at the clock.
    """
    name = name or chosen.get("profile")
    if name is None and settings.get_current_profile_name() != "default":
        return settings(deadline=None, print_blob=False)
    name = name or "dev"
    if name not in EXAMPLES:
        raise ValueError(f"check_op: unknown profile {name!r:.80}: choose one of {', '.join(EXAMPLES)}")
    return settings(
        settings.get_profile("default"), max_examples=EXAMPLES[name], deadline=None, print_blob=False,
        derandomize=name != "nightly",
    )  # fmt: skip
