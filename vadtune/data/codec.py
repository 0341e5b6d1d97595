"""Between a table's columns `(N, D)` and what a model takes and gives `(N, E)`; and how its answers are scored.

Everywhere else a column is one column: masks, splits, truth and baselines' scores. Only here, and in the likelihoods,
a categorical column of R levels becomes R. The order of the E: numbers, booleans, ordinals, one-hot blocks.

Source of the error of a table with codes: Nazabal et al. (2020), Handling incomplete heterogeneous data using VAEs,
arXiv:1807.03653, section 5.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from vadtune.data.metrics import Float64Array, column_errors, rmse
from vadtune.data.normal_scores import normal_scores
from vadtune.data.tables import BoolArray, Column, FloatArray, IntArray

Form = Literal["number", "binary", "ordinal", "one_hot"]
_FORMS: dict[str, Form] = {"boolean": "binary", "ordinal": "ordinal", "categorical": "one_hot"}
# A number has levels if it takes at most so many values, each some times on average; so many levels in all columns.
MOST_LEVELS, LEAST_REPEATS, MOST_IN_ALL = 1000, 4, 3000
# Of more columns none has normal scores: each is an output more.
MOST_SCORED = 128


@dataclass(frozen=True)
class Coding:
    """What was learned of one column.

    Attributes:
        form: How a model sees it.
        codes: Those that were seen, ascending: any other is as good as unknown, and never filled in. Of a number the
            values it takes, if they are few and repeat themselves; else none.
        scores: Of a number that is not nearly normal values that were seen, ascending, each with its normal score.
        low: Smallest value seen, in scaled units.
        high: Largest.
    """

    form: Form
    codes: tuple[float, ...] = ()
    low: float = 0.0
    high: float = 1.0
    scores: tuple[tuple[float, float], ...] = ()

    @property
    def width(self) -> int:
        """How many of the E it is."""
        return len(self.codes) if self.form == "one_hot" else 1


@dataclass(frozen=True)
class MixedError:
    """How wrong an imputation of a table with codes is, over hidden cells.

    Attributes:
        error: Mean over the columns of RMSE by range (numbers) and error rate (codes). The error of an ordinal cell
            is how many levels it is off, by the number of levels.
        nrmse: The mean over the numbers only; None where none is hidden.
        error_rate: The mean over the codes only; None where none is hidden.
    """

    error: float
    nrmse: float | None
    error_rate: float | None


@dataclass(frozen=True)
class Codec:
    """What was learned of the columns from the observed cells of the training rows; nothing else is in it.

    Attributes:
        columns: One for each.
        image_shape: Height and width where a row is an image, whose pixels are columns row by row.
    """

    columns: tuple[Coding, ...]
    image_shape: tuple[int, int] | None = None

    @classmethod
    def fit(cls, x: FloatArray, columns: Sequence[Column]) -> "Codec":
        """Learn the codes and ranges of `x` `(N, D)`, scaled, NaN where not observed."""
        is_narrow = len(columns) <= MOST_SCORED
        return cls(tuple(_fit(x[:, j], column, is_scored=is_narrow) for j, column in enumerate(columns)))

    @classmethod
    def of_numbers(cls, n_features: int) -> "Codec":
        """Of a table of numbers, of which nothing is known."""
        return cls((Coding("number"),) * n_features)

    @classmethod
    def of_images(cls, height: int, width: int) -> "Codec":
        """Of images, of which nothing else is known."""
        return cls((Coding("number"),) * (height * width), (height, width))

    @property
    def is_plain(self) -> bool:
        """Whether all columns are numbers: then D = E, and nothing is to be done."""
        return self.numbers.size == len(self.columns)

    @cached_property
    def numbers(self) -> IntArray:
        """Which columns are numbers."""
        return self._of("number")

    @cached_property
    def leveled(self) -> IntArray:
        """Which of the numbers have levels: their places among the E, those of the fewest levels before too many."""
        places = [place for place, j in enumerate(self.numbers) if len(self.columns[j].codes) > 1]
        places.sort(key=lambda place: len(self.columns[self.numbers[place]].codes))
        in_all = np.cumsum([len(self.columns[self.numbers[place]].codes) for place in places])
        return np.sort(np.array(places, dtype=np.intp)[in_all <= MOST_IN_ALL])

    @cached_property
    def scored(self) -> IntArray:
        """Which of the numbers have normal scores: their places among the E."""
        return np.array([place for place, j in enumerate(self.numbers) if self.columns[j].scores], dtype=np.intp)

    @cached_property
    def binaries(self) -> IntArray:
        """Which columns are booleans."""
        return self._of("binary")

    @cached_property
    def ordinals(self) -> IntArray:
        """Which columns have levels in an order."""
        return self._of("ordinal")

    @cached_property
    def one_hots(self) -> IntArray:
        """Which columns have levels without an order."""
        return self._of("one_hot")

    @cached_property
    def coded(self) -> IntArray:
        """Which columns are codes, in the order of the E."""
        return np.concatenate([self.binaries, self.ordinals, self.one_hots])

    @cached_property
    def is_coded(self) -> BoolArray:
        """`(D,)` whether a column's values are codes."""
        return np.array([column.form != "number" for column in self.columns])

    @cached_property
    def n_levels(self) -> tuple[int, ...]:
        """Levels of each ordinal column."""
        return tuple(len(self.columns[j].codes) for j in self.ordinals)

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """Levels of each column without an order."""
        return tuple(self.columns[j].width for j in self.one_hots)

    @property
    def n_outputs(self) -> int:
        """E."""
        return sum(column.width for column in self.columns)

    @property
    def n_single(self) -> int:
        """Where the one-hot blocks begin among the E."""
        return self.numbers.size + self.binaries.size + self.ordinals.size

    def encode(self, x: FloatArray) -> FloatArray:
        """`(N, D)`, scaled, to `(N, E)` float32: NaN stays NaN, in the whole of a block.

        Ordinal levels become steps from 0 to 1.
        """
        if self.is_plain:
            return x.astype(np.float32, copy=False)
        parts = [x[:, self.numbers], x[:, self.binaries]]
        parts += [self._steps(x[:, [j]], self.columns[j].codes) for j in self.ordinals]
        parts += [self._block(x[:, [j]], self.columns[j].codes) for j in self.one_hots]
        return np.concatenate(parts, axis=1).astype(np.float32)

    def decode(self, expected: FloatArray) -> FloatArray:
        """`(N, E)` to `(N, D)`: of numbers and probabilities, or votes, to values and the likeliest codes."""
        if self.is_plain:
            return expected
        x_hat = np.empty((len(expected), len(self.columns)), dtype=np.float32)
        n_numbers, n_binaries = self.numbers.size, self.binaries.size
        x_hat[:, self.numbers] = expected[:, :n_numbers]
        x_hat[:, self.binaries] = expected[:, n_numbers : n_numbers + n_binaries] >= 0.5
        for place, j in enumerate(self.ordinals, n_numbers + n_binaries):
            codes = np.array(self.columns[j].codes)
            step = np.rint(np.clip(expected[:, place], 0, 1) * (len(codes) - 1))
            x_hat[:, j] = codes[step.astype(np.intp)]
        for j, votes in zip(self.one_hots, self.blocks(expected), strict=True):
            x_hat[:, j] = np.array(self.columns[j].codes)[votes.argmax(axis=1)]
        return x_hat

    def blocks(self, encoded: FloatArray) -> list[FloatArray]:
        """The one-hot blocks of `(N, E)`, one for each of `one_hots`."""
        if not self.widths:
            return []
        return np.split(encoded[:, self.n_single :], np.cumsum(self.widths)[:-1], axis=1)

    def normal_scores(self, encoded: FloatArray, places: IntArray) -> FloatArray:
        """`(N, E)` to `(N, P)` float32: scores of the numbers at some of the `scored` places; NaN stays NaN.

        They are read off between the values that `Coding.scores` holds; those beyond have the score of the nearest.
        """
        scores = np.empty((len(encoded), len(places)), dtype=np.float32)
        for k, place in enumerate(places):
            scores[:, k] = np.interp(encoded[:, place], *np.transpose(self.columns[self.numbers[place]].scores))
        return scores

    def score(self, x_hat: FloatArray, truth: FloatArray) -> float:
        """The objective, lower is better, over hidden cells: RMSE in scaled units, or `MixedError.error`.

        Raises:
            DataError: `truth` hides no cell.
        """
        return rmse(x_hat, truth) if self.is_plain else self.errors(x_hat, truth).error

    def errors(self, x_hat: FloatArray, truth: FloatArray) -> MixedError:
        """The parts of the objective of a table with codes.

        Raises:
            DataError: `truth` hides no cell.
        """
        each, counted = self.column_error(x_hat, truth), (~np.isnan(truth)).any(axis=0)
        error = _mean(each[counted])
        assert error is not None
        return MixedError(error, _mean(each[counted & ~self.is_coded]), _mean(each[counted & self.is_coded]))

    def column_error(self, x_hat: FloatArray, truth: FloatArray) -> Float64Array:
        """`(D,)` RMSE by range, or error rate; NaN for a column that hides no cell, or leaves a hole in one.

        Raises:
            DataError: `truth` hides no cell.
        """
        found = column_errors(x_hat, truth)
        each = found.rmse / self.range
        each[self.ordinals] = found.mae[self.ordinals] / np.maximum(self.n_levels, 1)
        for j in (*self.binaries, *self.one_hots):
            if np.isfinite(each[j]):
                hidden = ~np.isnan(truth[:, j])
                each[j] = np.mean(x_hat[hidden, j] != truth[hidden, j])
        return each

    @cached_property
    def range(self) -> Float64Array:
        """`(D,)` largest minus smallest value seen, in scaled units; 1 where it never varies."""
        spread = np.array([column.high - column.low for column in self.columns])
        return np.where(spread > 0, spread, 1.0)

    @cached_property
    def is_constant(self) -> BoolArray:
        """`(D,)` whether a number never varied, or none was seen."""
        return np.array([column.form == "number" and column.low == column.high for column in self.columns])

    def to_dict(self) -> dict[str, Any]:
        """Plain values, exact in JSON."""
        return {"columns": [asdict(column) for column in self.columns], "image_shape": self.image_shape}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Codec":
        """What `to_dict` gave."""
        columns, shape = tuple(_coding(column) for column in values["columns"]), values["image_shape"]
        if shape is None:
            return cls(columns)
        height, width = shape
        return cls(columns, (int(height), int(width)))

    def _of(self, form: Form) -> IntArray:
        return np.array([j for j, column in enumerate(self.columns) if column.form == form], dtype=np.intp)

    def _block(self, cells: FloatArray, codes: tuple[float, ...]) -> FloatArray:
        """`(N, 1)` to `(N, R)`: 1 at the code, NaN everywhere where it is none."""
        block = (cells == np.array(codes)).astype(np.float32)
        return np.where(block.any(axis=1, keepdims=True), block, np.float32(np.nan))

    def _steps(self, cells: FloatArray, codes: tuple[float, ...]) -> FloatArray:
        """`(N, 1)` to `(N, 1)`: from 0 for the lowest level to 1 for the highest."""
        steps = np.linspace(0, 1, len(codes), dtype=np.float32) if len(codes) > 1 else np.zeros(1, np.float32)
        return (self._block(cells, codes) @ steps)[:, None]


def _coding(values: dict[str, Any]) -> Coding:
    pairs = tuple((value, score) for value, score in values["scores"])
    return Coding(**values | {"codes": tuple(values["codes"]), "scores": pairs})


def _fit(cells: FloatArray, column: Column, *, is_scored: bool) -> Coding:
    form = _FORMS.get(column.kind, "number")
    known = cells[~np.isnan(cells)].astype(np.float64)
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    if form == "number":
        return Coding(form, _levels(known), low, high, normal_scores(known) if is_scored else ())
    if form == "binary":
        return Coding(form, (), low, high)
    # Something must be filled in where nothing was seen.
    return Coding(form, tuple(np.unique(known).tolist() or [0.0]), low, high)


def _levels(known: Float64Array) -> tuple[float, ...]:
    """The values of a number, if they are few and repeat themselves."""
    values = np.unique(known)
    is_few = 1 < len(values) <= min(MOST_LEVELS, len(known) / LEAST_REPEATS)
    return tuple(values.tolist()) if is_few else ()


def _mean(each: Float64Array) -> float | None:
    return float(each.mean()) if each.size else None
