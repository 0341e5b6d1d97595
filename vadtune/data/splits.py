"""Row splits: what a model may see of a table, and what it is scored on."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from pydantic import Field, model_validator

from vadtune.data.codec import Codec
from vadtune.data.declared import NOTHING, Declared
from vadtune.data.masks import Mcar, Mechanism
from vadtune.data.normal import MultivariateNormal, principal_components
from vadtune.data.tables import BoolArray, Column, FloatArray, IntArray, Table, Unit
from vadtune.errors import ConfigError, DataError
from vadtune.settings import Settings

SMALLEST = 1e-300
LARGEST_LOG = 700.0  # the exponential of more is infinite
# The choice among 60 trials of the breast cancer table by the 342 cells of one mask was luck: its winner's test error
# varied by 20% from search to search.
WANTED_VALIDATION_CELLS = 4000
MAX_VALIDATION_MASKS = 8
# Of many rows copies take longer than they are worth: inference on them is a part of every trial.
MOST_COPIED_ROWS = 2000
# Held back of a table, whatever the shares: more rows tell little more, and each takes as long as one to train on.
MOST_VALIDATION_ROWS, MOST_TEST_ROWS = 2500, 5000
# Of training and validation rows; what is larger takes long to fit again, and gains little by some more rows.
MAX_SMALL_ROWS, MAX_SMALL_CELLS = 2000, 150_000


class DataConfig(Settings):
    """Which table, how its rows are split and which of its cells are hidden; equal for all trials of a search.

    Shares are of all rows, but no more than `MOST_VALIDATION_ROWS` and `MOST_TEST_ROWS` are held back, where the table
    brings no split of its own.
    """

    dataset: str
    mechanism: Mechanism = Mcar()
    missing_rate: float = Field(0.5, ge=0, lt=1)
    test_missing_rate: float | None = Field(None, ge=0, lt=1)
    validation_share: float = Field(0.1, gt=0, lt=1)
    test_share: float = Field(0.1, gt=0, lt=1)
    max_rows: int | None = Field(None, ge=3)
    seed: int = Field(0, ge=0)
    columns: Declared = NOTHING

    @model_validator(mode="after")
    def _some_rows_remain(self) -> Self:
        if self.validation_share + self.test_share >= 1:
            raise ValueError("validation_share and test_share leave no rows to train on: their sum must be below 1")
        return self


@dataclass(frozen=True, eq=False)
class Rows:
    """What a model may see: `x` `(N, D)` float32, scaled, NaN where not observed, and what its columns are.

    Without a codec all columns are numbers.
    """

    x: FloatArray
    codec: Codec | None = None

    @property
    def encoded(self) -> FloatArray:
        """`(N, E)`."""
        return self.x if self.codec is None else self.codec.encode(self.x)

    @cached_property
    def normal(self) -> MultivariateNormal:
        """Fitted to what is observed, once for all trials of a process."""
        return MultivariateNormal.fit(self.encoded)

    @cached_property
    def components(self) -> FloatArray:
        """`(E, R)` principal components of the completed rows, once for all trials of a process."""
        return principal_components(self.completed())

    def projected(self, n_components: int) -> FloatArray:
        """`(N, n_components or R)` float32: the completed rows on their first components."""
        completed = self.completed()
        if "components" not in vars(self):
            # Of these rows, which are kept nowhere: they are as large as the table.
            vars(self)["components"] = principal_components(completed)
        projected: FloatArray = completed @ self.components[:, :n_components]
        return projected

    def completed(self) -> FloatArray:
        """`(N, E)` float32, centred, holes filled with what the normal expects."""
        return self.normal.complete(self.encoded)


@dataclass(frozen=True, eq=False)
class Holdout:
    """Rows, and the `truth` of their hidden cells: `(N, D)` float32, scaled, NaN in all other cells."""

    rows: Rows
    truth: FloatArray


@dataclass(frozen=True, eq=False)
class Scaler:
    """The columns' own units to those of a model and back; `center` and `scale` are float64 `(D,)`.

    Where `is_log`, `(D,)`, they are of the logarithm; None: nowhere.
    """

    center: FloatArray
    scale: FloatArray
    is_log: BoolArray | None = None

    @classmethod
    def fit(cls, x: FloatArray, unit: Unit) -> "Scaler":
        """Pixels stay as they are; other columns get mean 0 and standard deviation 1 over the known cells of `x`.

        A column that never varies has scale 1; one that is all unknown has center 0 and scale 1, too.
        """
        n_features = x.shape[1]
        if unit == "pixel":
            return cls(np.zeros(n_features), np.ones(n_features))
        known = ~np.isnan(x)
        n_known = np.maximum(known.sum(0), 1)
        filled = np.where(known, x, 0).astype(np.float64)
        center = (filled / n_known).sum(0)
        error = np.where(known, filled - center, 0)
        varies = _highest(x) > _lowest(x)
        largest = np.where(varies, np.abs(error).max(0, initial=0), 1)
        # Divide by the largest first: squares of very small or large numbers leave the range of floats.
        scale = largest * np.sqrt((np.square(error / largest) / n_known).sum(0))
        return cls(center, np.where(varies & (scale > 0), scale, 1.0))

    @classmethod
    def fit_points(cls, x: FloatArray) -> "Scaler":
        """Landmarks `(N, 2 * P)`: one center for each axis and one scale for all, so that shapes stay shapes."""
        axes = cls.fit(x.reshape(-1, 2), "sd")
        n_points = x.shape[1] // 2
        return cls(np.tile(axes.center, n_points), np.full(x.shape[1], np.sqrt(np.square(axes.scale).mean())))

    @classmethod
    def fit_columns(cls, x: FloatArray, columns: Sequence[Column]) -> "Scaler":
        """Each as its kind wants: codes stay as they are, positive numbers are scaled by their logarithm."""
        is_log = np.array([column.kind == "positive" for column in columns])
        is_coded = np.array([column.is_coded for column in columns])
        found = cls.fit(_logarithm(x, is_log) if is_log.any() else x, "sd")
        center, scale = np.where(is_coded, 0.0, found.center), np.where(is_coded, 1.0, found.scale)
        return cls(center, scale, is_log if is_log.any() else None)

    def transform(self, x: FloatArray) -> FloatArray:
        """Original units `(N, D)` to scaled float32; NaN stays NaN."""
        if self.is_log is not None:
            x = _logarithm(x, self.is_log)
        # In the precision of `x`: a second copy of many images as float64 is large.
        scaled = (x - self.center.astype(x.dtype)) / self.scale.astype(x.dtype)
        return scaled.astype(np.float32, copy=False)

    def inverse(self, x: FloatArray) -> FloatArray:
        """Scaled values `(N, D)` to original units, float64; NaN stays NaN."""
        values = x.astype(np.float64) * self.scale + self.center
        return values if self.is_log is None else np.where(self.is_log, _exponential(values), values)

    def spread(self, std: FloatArray, at: FloatArray) -> FloatArray:
        """Standard deviations `(N, D)` in scaled units to original ones, near values `at` in original units."""
        wide = std * self.scale
        # d exp(u) = exp(u) du
        return wide if self.is_log is None else np.where(self.is_log, wide * at, wide)

    def to_dict(self) -> dict[str, list[float] | list[bool] | None]:
        """Plain numbers, exact in JSON."""
        is_log = None if self.is_log is None else self.is_log.tolist()
        return {"center": self.center.tolist(), "scale": self.scale.tolist(), "is_log": is_log}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Scaler":
        """What `to_dict` gave."""
        is_log = None if values["is_log"] is None else np.array(values["is_log"], dtype=np.bool_)
        center, scale = (np.array(values[key], dtype=np.float64) for key in ("center", "scale"))
        return cls(center, scale, is_log)


@dataclass(frozen=True, eq=False)
class Splits:
    """Three disjoint sets of rows, hidden and scaled.

    Attributes:
        train: Rows to fit; its truth is there for figures only.
        validation: Rows by which trials are compared; those of a small table come several times, each time with other
            cells hidden, so that the choice among trials rests on more of them.
        test: Rows that are scored once.
        scaler: Fitted on the observed cells of `train`.
        codec: Fitted on the same.
        indices: The rows of the table in train, validation and test, ascending.
        column_range: `(D,)` largest minus smallest known cell of the whole table, in scaled units; 1 where a column
            never varies. An error divided by it is the error on min-max scaled columns.
    """

    train: Holdout
    validation: Holdout
    test: Holdout
    scaler: Scaler
    indices: tuple[IntArray, IntArray, IntArray]
    column_range: FloatArray
    codec: Codec

    @property
    def is_small(self) -> bool:
        """Whether so little is left to train on that validation rows are missed there."""
        n_rows, n_features = len(self.indices[0]) + len(self.indices[1]), len(self.column_range)
        return n_rows <= MAX_SMALL_ROWS and n_rows * n_features <= MAX_SMALL_CELLS

    @property
    def final_rows(self) -> Rows:
        """What to fit on once all is chosen: training rows, and below them those of validation if that `is_small`.

        Of validation rows, too, no hidden cell is there; each comes once.
        """
        if not self.is_small:
            return self.train.rows
        n_validation = len(self.indices[1])
        return Rows(np.concatenate([self.train.rows.x, self.validation.rows.x[:n_validation]]), self.codec)


def split(table: Table, config: DataConfig) -> Splits:
    """Split the rows of a table, hide cells, and scale what remains.

    Rows and hidden cells are those that the table brings, if it brings any (`Table.given`); see `split_rows` and
    `target_masks` for all others. A row may be left with no observed cell.

    Raises:
        DataError: Fewer than three rows, or not one cell hidden in validation or test.
        ConfigError: The mechanism cannot meet the rate.
    """
    indices = split_rows(table, config)
    used = np.sort(np.concatenate(indices))
    table = table if used.size == table.n_rows else table.take(used)
    inside: list[IntArray] = [np.searchsorted(used, part) for part in indices]
    masks = target_masks(table, config)
    hidden = [mask[rows] for mask, rows in zip((masks.train, masks.validation, masks.test), inside, strict=True)]
    _check_something_hidden(hidden, table.name)
    inside[1], hidden[1] = _repeat_validation(table, config, inside[1], hidden[1])
    parts = [table.values[rows] for rows in inside]
    seen = np.where(hidden[0], np.nan, parts[0])
    scaler, codec = fit_units(seen, table)
    train, validation, test = (hold_out(part, mask, scaler, codec) for part, mask in zip(parts, hidden, strict=True))
    return Splits(train, validation, test, scaler, indices, column_range(table.values, scaler), codec)


def fit_units(seen: FloatArray, table: Table) -> tuple[Scaler, Codec]:
    """Learn the units and the codes of a table's columns from what may be seen of it: `(N, D)` in original units."""
    if table.is_landmarks:
        scaler = Scaler.fit_points(seen)
    elif table.image_shape:
        scaler = Scaler.fit(seen, table.unit)
    else:
        scaler = Scaler.fit_columns(seen, table.columns)
    if table.image_shape:
        return scaler, Codec.of_images(*table.image_shape)
    return scaler, Codec.fit(scaler.transform(seen), table.columns)


def split_rows(table: Table, config: DataConfig) -> tuple[IntArray, IntArray, IntArray]:
    """Rows of train, validation and test, each ascending, in a random choice that only the seed decides.

    A split that the table brings is kept; validation rows that it lacks are taken from its training rows. `max_rows`
    takes the same share of each.

    Raises:
        DataError: Too few rows.
    """
    rng = _generator(config.seed, 0)
    n_used = min(table.n_rows, config.max_rows or table.n_rows)
    if table.given is None:
        order = rng.permutation(table.n_rows)[:n_used]
        n_test = max(1, min(MOST_TEST_ROWS, round(n_used * config.test_share)))
        rest, test = order[: n_used - n_test], order[n_used - n_test :]
    else:
        used = n_used / table.n_rows
        rest, validation, test = (
            rng.permutation(part)[: max(min(1, part.size), round(used * part.size))]
            for part in (table.given.train, table.given.validation, table.given.test)
        )
        if validation.size:
            return np.sort(rest), np.sort(validation), np.sort(test)
    n_validation = max(1, min(MOST_VALIDATION_ROWS, round(n_used * config.validation_share)))
    if rest.size <= n_validation:
        raise DataError(
            f"{table.name}: {n_used} rows are too few for {n_validation} validation and {test.size} test rows and one "
            "to train on. Give a table with more rows, or smaller shares."
        )
    train, validation = np.split(rest, [rest.size - n_validation])
    return np.sort(train), np.sort(validation), np.sort(test)


def _repeat_validation(
    table: Table, config: DataConfig, rows: IntArray, hidden: BoolArray
) -> tuple[IntArray, BoolArray]:
    """Validation rows, again and again with other cells hidden, until about as many as wanted are.

    The mechanism meets copies of the whole table with the same generator: what it fixes for all rows, such as which
    columns drive it, is fixed for all copies.
    """
    n_copies = min(MAX_VALIDATION_MASKS, round(WANTED_VALIDATION_CELLS / hidden.sum()), MOST_COPIED_ROWS // len(rows))
    if n_copies < 2:
        return rows, hidden
    rate = config.missing_rate if config.test_missing_rate is None else config.test_missing_rate
    copies = _target_mask(table, config, rate, n_copies).reshape(n_copies, *table.values.shape)
    return np.tile(rows, n_copies), copies[:, rows].reshape(-1, table.n_features)


@dataclass(frozen=True, eq=False)
class Masks:
    """Three target masks `(N, D)` of a whole table: each counts for the rows of its split."""

    train: BoolArray
    validation: BoolArray
    test: BoolArray


def target_masks(table: Table, config: DataConfig) -> Masks:
    """Choose the cells to hide in each split.

    The mechanism meets the whole table with a generator of its own, once for each rate: so the same columns drive it
    in all splits, and another test rate leaves the training rows as they are. When the table brings its hidden test
    cells, nothing more is hidden in train and test, and the mechanism chooses among the others for validation.

    Raises:
        ConfigError: The mechanism cannot meet the rate, or it is 0 for rows that are to be scored.
    """
    test_rate = config.missing_rate if config.test_missing_rate is None else config.test_missing_rate
    if test_rate == 0:
        raise ConfigError("test_missing_rate is 0: there is nothing to score. Give --test-missing-rate, such as 0.5.")
    if table.given is not None and table.given.hidden is not None:
        hidden = table.given.hidden
        return Masks(np.zeros_like(hidden), _target_mask(table, config, test_rate), hidden)
    test = _target_mask(table, config, test_rate)
    train = test if test_rate == config.missing_rate else _target_mask(table, config, config.missing_rate)
    return Masks(train, test, test)


def hold_out(x: FloatArray, target_mask: BoolArray, scaler: Scaler, codec: Codec | None = None) -> Holdout:
    """Hide the cells of `target_mask` in rows in original units, and keep their truth apart, both scaled."""
    scaled = scaler.transform(x)
    return Holdout(
        Rows(np.where(target_mask, np.float32(np.nan), scaled), codec),
        np.where(target_mask, scaled, np.float32(np.nan)),
    )


def _target_mask(table: Table, config: DataConfig, missing_rate: float, n_copies: int = 1) -> BoolArray:
    hidden = None if table.given is None else table.given.hidden
    values = table.values if hidden is None else np.where(hidden, np.nan, table.values)
    values = values if n_copies == 1 else np.tile(values, (n_copies, 1))
    return config.mechanism.target_mask(values, missing_rate, _generator(config.seed, 1), table.image_shape)


def _generator(seed: int, stream: int) -> np.random.Generator:
    return np.random.default_rng([seed, stream])


def _check_something_hidden(masks: list[BoolArray], name: str) -> None:
    for part, mask in zip(("validation", "test"), masks[1:], strict=True):
        if not mask.any():
            raise DataError(
                f"{name}: not one cell is hidden in the {len(mask)} {part} rows. "
                "Raise the rate or the share of these rows, or take another seed."
            )


def column_range(values: FloatArray, scaler: Scaler) -> FloatArray:
    """`(D,)` largest minus smallest known cell of each column, in scaled units; 1 where it never varies."""
    if scaler.is_log is not None:
        values = _logarithm(values, scaler.is_log)
    high, low = _highest(values), _lowest(values)
    varies = high > low
    return np.where(varies, (np.where(varies, high, 1) - np.where(varies, low, 0)) / scaler.scale, 1.0)


def _logarithm(x: FloatArray, is_log: BoolArray) -> FloatArray:
    """`(N, D)` with the logarithm of some columns; a value that has none is as small as can be."""
    return np.where(is_log, np.log(np.maximum(x, SMALLEST)), x)


def _exponential(values: FloatArray) -> FloatArray:
    """`(N, D)`, finite wherever the argument is."""
    return np.exp(np.minimum(values, LARGEST_LOG))


def _highest(x: FloatArray) -> FloatArray:
    """`(D,)`, -inf where all is unknown."""
    return np.asarray(np.fmax.reduce(x, axis=0, initial=-np.inf), dtype=np.float64)


def _lowest(x: FloatArray) -> FloatArray:
    """`(D,)`, inf where all is unknown."""
    return np.asarray(np.fmin.reduce(x, axis=0, initial=np.inf), dtype=np.float64)
