"""A param's values as positions between 0 and 1 along its range, in the scale in which it was sampled."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

from vadtune.report.evaluation import FloatArray
from vadtune.report.trials import number, word

ABSENT = -0.12


@dataclass(frozen=True)
class Scale:
    """The range of a param: numeric from `low` to `high`, perhaps logarithmic, or one of `choices`."""

    path: str
    low: float
    high: float
    is_log: bool
    is_integer: bool
    choices: tuple[Any, ...]

    def position(self, value: Any) -> float:
        """Where a value lies, 0 at the lower end and 1 at the upper one; NaN for no value or one that is unknown."""
        if self.choices:
            places = [i for i, choice in enumerate(self.choices) if choice == value and type(choice) is type(value)]
            return places[0] / max(len(self.choices) - 1, 1) if places else math.nan
        if not isinstance(value, int | float) or (self.is_log and value <= 0):
            return math.nan
        low, high = self._stretched(self.low), self._stretched(self.high)
        return (self._stretched(float(value)) - low) / (high - low) if high > low else 0.5

    def value(self, position: float) -> float:
        """The number at a position of a numeric scale."""
        low, high = self._stretched(self.low), self._stretched(self.high)
        stretched = low + position * (high - low)
        return math.exp(stretched) if self.is_log else stretched

    def ticks(self, n_most: int = 6) -> tuple[list[float], list[str]]:
        """Positions of round values (or all choices) and their texts."""
        if self.choices:
            return [self.position(choice) for choice in self.choices], [word(choice)[:24] for choice in self.choices]
        values = _round_values(self.low, self.high, n_most, is_log=self.is_log)
        if self.is_integer:
            values = sorted({float(round(v)) for v in values})
        return [self.position(v) for v in values], [number(v, 3) for v in values]

    def range_in_words(self) -> str:
        """`0.0001 … 0.01, logarithmic`, or the choices."""
        if self.choices:
            return ", ".join(word(choice) for choice in self.choices)
        return f"{number(self.low)} … {number(self.high)}{', logarithmic' if self.is_log else ''}"

    def _stretched(self, value: float) -> float:
        return math.log(value) if self.is_log else value


def scales(trials: Sequence[FrozenTrial]) -> dict[str, Scale]:
    """The scale of each param that can vary, over all trials; a range that was widened on the way counts in full."""
    found: dict[str, list[BaseDistribution]] = {}
    for trial in trials:
        for path, distribution in trial.distributions.items():
            if not distribution.single():
                found.setdefault(path, []).append(distribution)
    made = {path: _scale(path, distributions) for path, distributions in found.items()}
    return {path: scale for path, scale in made.items() if scale is not None}


def positions(scale: Scale, trials: Sequence[FrozenTrial]) -> FloatArray:
    """Where each trial's value lies; NaN for a trial that has none."""
    return np.array([scale.position(trial.params.get(scale.path)) for trial in trials], dtype=np.float64)


def _scale(path: str, distributions: Sequence[BaseDistribution]) -> Scale | None:
    choices = [d.choices for d in distributions if isinstance(d, CategoricalDistribution)]
    if choices:
        known = tuple(dict.fromkeys((type(choice), choice) for group in choices for choice in group))
        return Scale(path, 0.0, 1.0, False, False, tuple(choice for _, choice in known))  # noqa: FBT003
    numeric = [d for d in distributions if isinstance(d, FloatDistribution | IntDistribution)]
    if not numeric:
        return None
    low, high = min(float(d.low) for d in numeric), max(float(d.high) for d in numeric)
    is_log = all(d.log for d in numeric) and low > 0
    return Scale(path, low, high, is_log, all(isinstance(d, IntDistribution) for d in numeric), ())


def _round_values(low: float, high: float, n_most: int, *, is_log: bool) -> list[float]:
    if not is_log:
        step = _nice((high - low) / max(n_most - 1, 1))
        first = math.ceil(low / step - 1e-9) * step
        return [first + i * step for i in range(n_most + 2) if first + i * step <= high + 1e-9 * step]
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for mantissas in ((1, 2, 5), (1, 3), (1,)):
        values = [m * 10.0**d for d in decades for m in mantissas if low * 0.999 <= m * 10.0**d <= high * 1.001]
        if len(values) <= n_most:
            break
    return values if len(values) >= 2 else [low, high]


def _nice(step: float) -> float:
    if step <= 0:
        return 1.0
    scale = 10.0 ** math.floor(math.log10(step))
    return next(m * scale for m in (1, 2, 2.5, 5, 10) if m * scale >= step * 0.999)
