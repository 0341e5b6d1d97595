"""What all speed benchmarks share: two sides that take turns, and a row of the table."""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        values: One for each turn: how many times faster (`x`), or a share (`%`).
        target: What the median is to reach; with `at_most`, what it may not exceed.
        details: Seconds, rates and errors behind the values.
    """

    what: str
    against: str
    unit: Literal["x", "%"]
    target: float
    values: list[float]
    at_most: bool = False
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """What is compared with the target."""
        return statistics.median(self.values)

    @property
    def is_met(self) -> bool:
        """Whether the target is reached."""
        return self.median <= self.target if self.at_most else self.median >= self.target

    def show(self, value: float) -> str:
        """A value with its unit; `never` of what the other side did not come to."""
        if math.isinf(value):
            return "never"
        return f"{value:.0%}" if self.unit == "%" else f"{value:.3g}x"


def seconds(work: Callable[[], object]) -> float:
    """How long some work takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def take_turns(ours: Callable[[], float], theirs: Callable[[], float], turns: range) -> list[tuple[float, float]]:
    """What each side measured, turn by turn: a machine that slows down does so for both."""
    return [(ours(), theirs()) for _ in turns]


def ratios(turns: list[tuple[float, float]]) -> list[float]:
    """Theirs over ours, turn by turn."""
    return [theirs / ours for ours, theirs in turns]


def milliseconds(turns: list[tuple[float, float]]) -> dict[str, list[float]]:
    """Both sides, turn by turn."""
    ours, theirs = ([round(1000 * side_s, 3) for side_s in side] for side in zip(*turns, strict=True))
    return {"ours_ms": ours, "theirs_ms": theirs}
