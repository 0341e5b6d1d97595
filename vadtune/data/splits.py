"""Row splits: what a model may see of a table, and what it is scored on."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from pydantic import Field, model_validator

from vadtune.data.masks import Mcar, Mechanism
from vadtune.data.tables import BoolArray, FloatArray, IntArray, Table, Unit
from vadtune.errors import ConfigError, DataError
from vadtune.settings import Settings


class DataConfig(Settings):
    """Which table, how its rows are split and which of its cells are hidden; equal for all trials of a search."""

    dataset: str
    mechanism: Mechanism = Mcar()
    missing_rate: float = Field(0.5, ge=0, lt=1)
    test_missing_rate: float | None = Field(None, ge=0, lt=1)
    validation_share: float = Field(0.1, gt=0, lt=1)
    test_share: float = Field(0.1, gt=0, lt=1)
    max_rows: int | None = Field(None, ge=3)
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _some_rows_remain(self) -> Self:
        if self.validation_share + self.test_share >= 1:
            raise ValueError("validation_share and test_share leave no rows to train on: their sum must be below 1")
        return self


@dataclass(frozen=True, eq=False)
class Rows:
    """What a model may see: `x` `(N, D)` float32, scaled, NaN where not observed."""

    x: FloatArray


@dataclass(frozen=True, eq=False)
class Holdout:
    """Rows, and the `truth` of their hidden cells: `(N, D)` float32, scaled, NaN in all other cells."""

    rows: Rows
    truth: FloatArray


@dataclass(frozen=True, eq=False)
class Scaler:
    """The columns' own units to those of a model and back; `center` and `scale` are float64 `(D,)`."""

    center: FloatArray
    scale: FloatArray

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

    def transform(self, x: FloatArray) -> FloatArray:
        """Original units `(N, D)` to scaled float32; NaN stays NaN."""
        # In the precision of `x`: a second copy of many images as float64 is large.
        scaled = (x - self.center.astype(x.dtype)) / self.scale.astype(x.dtype)
        return scaled.astype(np.float32, copy=False)

    def inverse(self, x: FloatArray) -> FloatArray:
        """Scaled values `(N, D)` to original units, float64; NaN stays NaN."""
        return x.astype(np.float64) * self.scale + self.center

    def to_dict(self) -> dict[str, list[float]]:
        """Plain numbers, exact in JSON."""
        return {"center": self.center.tolist(), "scale": self.scale.tolist()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Scaler":
        """What `to_dict` gave."""
        return cls(np.array(values["center"], dtype=np.float64), np.array(values["scale"], dtype=np.float64))


@dataclass(frozen=True, eq=False)
class Splits:
    """Three disjoint sets of rows, hidden and scaled.

    Attributes:
        train: Rows to fit; its truth is there for figures only.
        validation: Rows by which trials are compared.
        test: Rows that are scored once.
        scaler: Fitted on the observed cells of `train`.
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


def split(table: Table, config: DataConfig) -> Splits:
    """Split the rows of a table, hide cells, and scale what remains.

    The mechanism meets the whole table with a generator of its own, once for each rate: so the same columns drive it
    in all splits, and another test rate leaves the training rows as they are. A row may be left with no observed cell.

    Raises:
        DataError: Fewer than three rows, or not one cell hidden in validation or test.
        ConfigError: The mechanism cannot meet the rate.
    """
    indices = split_rows(table.n_rows, config, table.name)
    used = np.sort(np.concatenate(indices))
    values = table.values[used] if used.size < table.n_rows else table.values
    inside = tuple(np.searchsorted(used, part) for part in indices)
    test_rate = config.missing_rate if config.test_missing_rate is None else config.test_missing_rate
    train_mask = _target_mask(table, values, config, config.missing_rate)
    test_mask = train_mask if test_rate == config.missing_rate else _target_mask(table, values, config, test_rate)
    masks = [mask[part] for mask, part in zip((train_mask, test_mask, test_mask), inside, strict=True)]
    parts = [values[part] for part in inside]
    _check_something_hidden(masks, test_rate, table.name)
    scaler = Scaler.fit(np.where(masks[0], np.nan, parts[0]), table.unit)
    train, validation, test = (hold_out(part, mask, scaler) for part, mask in zip(parts, masks, strict=True))
    return Splits(train, validation, test, scaler, indices, _column_range(values, scaler))


def split_rows(n_rows: int, config: DataConfig, name: str) -> tuple[IntArray, IntArray, IntArray]:
    """Rows of train, validation and test, each ascending, of a random order that only the seed decides.

    Raises:
        DataError: Fewer than three rows.
    """
    n_used = min(n_rows, config.max_rows or n_rows)
    n_validation = max(1, round(n_used * config.validation_share))
    n_test = max(1, round(n_used * config.test_share))
    n_train = n_used - n_validation - n_test
    if n_train < 1:
        raise DataError(
            f"{name}: {n_used} rows are too few for {n_validation} validation and {n_test} test rows and one to train "
            "on. Give a table with more rows, or smaller shares."
        )
    order = _generator(config.seed, 0).permutation(n_rows)[:n_used]
    train, validation, test = np.split(order, [n_train, n_train + n_validation])
    return np.sort(train), np.sort(validation), np.sort(test)


def hold_out(x: FloatArray, target_mask: BoolArray, scaler: Scaler) -> Holdout:
    """Hide the cells of `target_mask` in rows in original units, and keep their truth apart, both scaled."""
    scaled = scaler.transform(x)
    return Holdout(
        Rows(np.where(target_mask, np.float32(np.nan), scaled)), np.where(target_mask, scaled, np.float32(np.nan))
    )


def _target_mask(table: Table, values: FloatArray, config: DataConfig, rate: float) -> BoolArray:
    return config.mechanism.target_mask(values, rate, _generator(config.seed, 1), table.image_shape)


def _generator(seed: int, stream: int) -> np.random.Generator:
    return np.random.default_rng([seed, stream])


def _check_something_hidden(masks: list[BoolArray], test_rate: float, name: str) -> None:
    if test_rate == 0:
        raise ConfigError("test_missing_rate is 0: there is nothing to score. Give --test-missing-rate, such as 0.5.")
    for part, mask in zip(("validation", "test"), masks[1:], strict=True):
        if not mask.any():
            raise DataError(
                f"{name}: not one cell is hidden in the {len(mask)} {part} rows at rate {test_rate:g}. "
                "Raise the rate or the share of these rows, or take another seed."
            )


def _column_range(values: FloatArray, scaler: Scaler) -> FloatArray:
    high, low = _highest(values), _lowest(values)
    varies = high > low
    return np.where(varies, (np.where(varies, high, 1) - np.where(varies, low, 0)) / scaler.scale, 1.0)


def _highest(x: FloatArray) -> FloatArray:
    """`(D,)`, -inf where all is unknown."""
    return np.asarray(np.fmax.reduce(x, axis=0, initial=-np.inf), dtype=np.float64)


def _lowest(x: FloatArray) -> FloatArray:
    """`(D,)`, inf where all is unknown."""
    return np.asarray(np.fmin.reduce(x, axis=0, initial=np.inf), dtype=np.float64)
