"""Stop strings: a text that arrives in pieces ends before the first of them, and none of it is shown before that."""

from collections.abc import Sequence


class StopText:
    """A text in pieces, released up to its first stop string; what may become part of one is held back."""

    def __init__(self, stops: Sequence[str] = ()):
        self.stops, self.held, self.ended = check_stops(stops), "", False

    def feed(self, text: str) -> str:
        """Add a piece and return what can be shown now. After a stop string, `ended` is True and all else is dropped.

        Of several stop strings the one that is complete first ends the text, and of those the longest.
        """
        if self.ended:
            return ""
        self.held += text
        found = find_stop(self.held, self.stops)
        if found is not None:
            ready, self.held, self.ended = self.held[:found], "", True
            return ready
        count = len(self.held) - kept_back(self.held, self.stops)
        ready, self.held = self.held[:count], self.held[count:]
        return ready

    def rest(self) -> str:
        """What is held back, once nothing follows that could complete a stop string."""
        ready, self.held = self.held, ""
        return ready


def check_stops(stops: Sequence[str]) -> tuple[str, ...]:
    """The stop strings. ValueError for an empty one: it would end every text before it begins."""
    if isinstance(stops, str):
        stops = (stops,)
    if "" in stops:
        raise ValueError("a stop string is empty: give at least one character")
    return tuple(stops)


def find_stop(text: str, stops: Sequence[str]) -> int | None:
    """Where the stop string begins that is complete first, the longest of those; None where there is none."""
    found = [(at + len(stop), at) for stop in stops if (at := text.find(stop)) >= 0]
    return min(found)[1] if found else None


def kept_back(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end of `text`, which has no stop string, may begin one."""
    lengths = range(1, max(map(len, stops), default=1))
    return max((n for n in lengths if any(stop[:n] == text[-n:] for stop in stops)), default=0)
