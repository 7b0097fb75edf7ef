"""`gpt doctor`: what this machine brings."""

from dataclasses import dataclass

from rich.console import Console

from . import diagnosis as doctor


@dataclass(frozen=True)
class Doctor:
    """Show what this machine brings, and what each missing part would."""

    def __call__(self) -> int:
        return doctor.report(Console())
