"""The leaves of a search space: one value, a few values, or a range, each perhaps under a condition."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any

import optuna
from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr, field_validator, model_validator

from vadtune.settings import Settings, flatten

Scalar = StrictBool | StrictInt | StrictFloat | StrictStr
Number = StrictInt | StrictFloat
Params = dict[str, Any]

# A table with one of these keys is a leaf; any other table is a group of settings.
LEAF_KEYS = frozenset({"low", "high", "choices", "value"})
# Of a value that is less for more rows, whatever their number.
LEAST_SHARE = 0.02


class Leaf(Settings, ABC):
    """What may stand at one path; `when` names the paths and values that make it apply."""

    when: dict[str, tuple[Scalar, ...]] = Field(default_factory=dict)

    @field_validator("when", mode="before")
    @classmethod
    def _lists_of_values(cls, when: object) -> object:
        if not isinstance(when, Mapping):
            raise ValueError('write it as when = {"model.posterior" = "fixed"}')
        return {path: tuple(v) if isinstance(v, list | tuple) else (v,) for path, v in flatten(when).items()}

    def applies(self, values: Params) -> bool:
        """Whether the values chosen so far make this leaf count."""
        return all(path in values and is_one_of(values[path], allowed) for path, allowed in self.when.items())

    def plain(self) -> Any:
        """The leaf as it would stand in a file."""
        return {key: _plain(value) for key, value in self.model_dump(exclude_defaults=True).items()}

    @abstractmethod
    def ends(self) -> tuple[Any, ...]:
        """The values that have to be valid for all others to be."""

    @abstractmethod
    def points(self) -> tuple[Any, ...] | None:
        """All values, or None if there is no telling."""

    @abstractmethod
    def contains(self, value: object) -> bool:
        """Whether a value may be drawn."""

    @abstractmethod
    def suggest(self, trial: optuna.Trial, path: str) -> Any:
        """Draw a value."""

    @abstractmethod
    def read(self, value: Any) -> Any:
        """A value that is contained, in the type that is drawn."""


class Fixed(Leaf):
    """One value, which is not drawn; with `rows` a whole number that is less where a table has more rows to train on.

    Each epoch of a larger table has more steps: 8 times the rows take a quarter of the epochs, but at least a fiftieth.
    No condition may name such a value.
    """

    value: Any
    rows: StrictInt | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _whole_by_rows(self) -> "Fixed":
        is_count = isinstance(self.value, int) and not isinstance(self.value, bool) and self.value > 0
        if self.rows is not None and not is_count:
            raise ValueError(f"rows is for whole numbers above 0, and value is {self.value!r}: drop it")
        return self

    def at(self, n_rows: int) -> "Fixed":
        """The leaf for a table of so many rows to train on."""
        if self.rows is None:
            return self
        share = max(min(1.0, (self.rows / n_rows) ** (2 / 3)), LEAST_SHARE)
        return Fixed(value=max(1, round(self.value * share)), when=self.when)

    def plain(self) -> Any:
        """The bare value, if there is nothing beside it."""
        beside = super().plain()
        return beside | {"value": self.value} if self.when or self.rows else self.value

    def ends(self) -> tuple[Any, ...]:
        """The value."""
        return (self.value,)

    def points(self) -> tuple[Any, ...]:
        """The value."""
        return (self.value,)

    def contains(self, value: object) -> bool:
        """Whether it is the value."""
        return is_one_of(value, (self.value,))

    def suggest(self, trial: optuna.Trial, path: str) -> Any:  # noqa: ARG002
        """The value; the study does not hear of it."""
        return self.value

    def read(self, value: Any) -> Any:
        """The value."""
        return value


class Choices(Leaf):
    """A few values without an order."""

    choices: Annotated[tuple[Scalar, ...], Field(min_length=1)]

    @field_validator("choices", mode="before")
    @classmethod
    def _scalars(cls, choices: object) -> object:
        if not isinstance(choices, list | tuple):
            raise ValueError("expected a list of values, such as choices = [16, 32, 64]")
        if not choices:
            raise ValueError("it is empty: give at least one value")
        for value in choices:
            if not isinstance(value, str | int | float | bool):
                raise ValueError(f"{value!r} is a {type(value).__name__}; choices are numbers, words or true and false")
        if any(is_one_of(value, choices[:i]) for i, value in enumerate(choices)):
            raise ValueError("a value stands in it twice")
        return choices

    def ends(self) -> tuple[Any, ...]:
        """All choices."""
        return self.choices

    def points(self) -> tuple[Any, ...]:
        """All choices."""
        return self.choices

    def contains(self, value: object) -> bool:
        """Whether it is one of them."""
        return is_one_of(value, self.choices)

    def suggest(self, trial: optuna.Trial, path: str) -> Any:
        """Draw one."""
        return trial.suggest_categorical(path, self.choices)

    def read(self, value: Any) -> Any:
        """The choice that equals the value."""
        return next(choice for choice in self.choices if is_one_of(value, (choice,)))


class Range(Leaf):
    """Numbers between two ends, both included; whole numbers if both ends are."""

    low: Number
    high: Number
    log: StrictBool = False
    step: Number | None = None

    @model_validator(mode="after")
    def _possible(self) -> "Range":
        if self.low > self.high:
            raise ValueError(f"low = {self.low} is above high = {self.high}: exchange them")
        if self.log and self.low <= 0:
            raise ValueError(f"log = true needs low above 0, found low = {self.low}")
        if self.step is not None:
            self._check_step(self.step)
        return self

    def _check_step(self, step: float) -> None:
        if self.log:
            raise ValueError("log and step exclude each other: drop one")
        if step <= 0:
            raise ValueError(f"step = {step} must be above 0")
        if self.is_whole and not isinstance(step, int):
            raise ValueError(f"step = {step} must be whole, since low and high are")
        n_steps = (self.high - self.low) / step
        if not math.isclose(n_steps, round(n_steps), rel_tol=1e-9, abs_tol=1e-9):
            raise ValueError(f"high = {self.high} is not low = {self.low} plus a number of steps of {step}")

    @property
    def is_whole(self) -> bool:
        """Whether whole numbers are drawn."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def ends(self) -> tuple[Any, ...]:
        """Both ends."""
        return (self.low, self.high) if self.is_whole else (float(self.low), float(self.high))

    def points(self) -> tuple[Any, ...] | None:
        """All steps, or None without a step."""
        if self.step is None:
            return None
        n_steps = round((self.high - self.low) / self.step)
        return tuple(self.low + i * self.step for i in range(n_steps + 1))

    def contains(self, value: object) -> bool:
        """Whether it lies between the ends and on a step."""
        if isinstance(value, bool) or not isinstance(value, int if self.is_whole else int | float):
            return False
        points = self.points()
        on_a_step = points is None or any(math.isclose(value, point, rel_tol=1e-9) for point in points)
        return self.low <= value <= self.high and on_a_step

    def suggest(self, trial: optuna.Trial, path: str) -> Any:
        """Draw a number."""
        if self.is_whole:
            return trial.suggest_int(path, int(self.low), int(self.high), step=int(self.step or 1), log=self.log)
        return trial.suggest_float(path, self.low, self.high, step=self.step, log=self.log)

    def read(self, value: Any) -> Any:
        """The value as a whole number or a float."""
        return int(value) if self.is_whole else float(value)


def leaf_class(raw: object) -> type[Leaf]:
    """The class of a leaf as it stands in a file."""
    if not isinstance(raw, Mapping) or "value" in raw:
        return Fixed
    return Choices if "choices" in raw else Range


def is_one_of(value: object, allowed: tuple[Any, ...] | list[Any]) -> bool:
    """Membership where `1`, `1.0` and `true` are three values, as they are in a file."""
    return any(type(value) is type(other) and value == other for other in allowed)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
