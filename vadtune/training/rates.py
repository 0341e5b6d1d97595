"""A trained model on the same rows at many missing rates, in one inference."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np

from vadtune.data.codec import Codec
from vadtune.data.masks import Mechanism
from vadtune.data.metrics import rmse
from vadtune.data.splits import DataConfig, Holdout, Scaler, column_range, hold_out, split_rows, target_masks
from vadtune.data.tables import BoolArray, FloatArray, IntArray, Table
from vadtune.errors import ConfigError, DataError
from vadtune.models.objective import Posterior, as_tensor
from vadtune.settings import Nested, parse
from vadtune.training.artifact import Artifact
from vadtune.training.calibration import calibration
from vadtune.training.evaluation import score

MaskMode = Literal["fixed", "random"]
# Rows of several rates are inferred together as long as they take no more memory than this many numbers.
MAX_CELLS = 30_000_000
NOT_SCORED = dict.fromkeys(("rmse", "rmse_minmax", "mae", "mse", "error", "nrmse", "error_rate"))


@dataclass(frozen=True, eq=False)
class TestRows:
    """Rows that the model has not seen, and how cells of them are hidden.

    Attributes:
        table: With the model's columns, in the model's order.
        rows: Numbers of the rows to score.
        are_own: Whether they are the test rows of the table that the model was trained on.
        config: The mechanism and the seed of the masks.
        scaler: The model's.
        codec: The model's.
    """

    __test__ = False  # pytest, this is no test

    table: Table
    rows: IntArray
    are_own: bool
    config: DataConfig
    scaler: Scaler
    codec: Codec

    def holdout(self, missing_rate: float, mode: MaskMode) -> Holdout:
        """The rows with cells hidden at a rate, scaled.

        A random mask is the one that a search with this mechanism, rate and seed makes of the whole table: so the
        score of the training itself is found again. Rates of one seed hide cells of each other where the mechanism
        allows it.

        Raises:
            ConfigError: The mechanism cannot meet the rate.
        """
        mask = _fixed(self.table, self.config, missing_rate) if mode == "fixed" else self._random(missing_rate)
        known = self.table.values[self.rows]
        return hold_out(known, mask[self.rows] & ~np.isnan(known), self.scaler, self.codec)

    def reachable(self, missing_rates: Sequence[float], mode: MaskMode) -> Sequence[float]:
        """Of ascending rates those that the mechanism can meet; all, if it can meet none."""
        for n in range(len(missing_rates), 0, -1):
            with suppress(ConfigError):
                self.holdout(missing_rates[n - 1], mode)
                return missing_rates[:n]
        return missing_rates

    @property
    def column_range(self) -> FloatArray:
        """`(D,)` largest minus smallest known cell of the whole table, in scaled units."""
        return column_range(self.table.values, self.scaler)

    def _random(self, missing_rate: float) -> BoolArray:
        if missing_rate == 0:
            return np.zeros(self.table.values.shape, dtype=np.bool_)
        config = self.config.model_copy(update={"missing_rate": missing_rate, "test_missing_rate": None})
        return target_masks(self.table, config).test


@dataclass(frozen=True, eq=False)
class RateResult:
    """One missing rate: the rows, the reconstruction of all their cells, and the posteriors behind it; scaled units."""

    missing_rate: float
    holdout: Holdout
    x_hat: FloatArray
    posterior: Posterior

    @property
    def latents(self) -> FloatArray:
        """The posterior means `(N, L)`."""
        means: FloatArray = self.posterior.mean.cpu().numpy()
        return means

    def scores(self, column_range: FloatArray) -> Nested:
        """All scores by name; those over hidden cells are None where no cell is hidden."""
        n_hidden = int((~np.isnan(self.holdout.truth)).sum())
        result = {"missing_rate": self.missing_rate, "n_hidden": n_hidden}
        if n_hidden:
            found = asdict(score(self.x_hat, self.holdout, column_range))
            return result | found | {"mse": None if found["rmse"] is None else found["rmse"] ** 2}
        seen = ~self.codec.is_coded & (~np.isnan(self.holdout.rows.x)).any(0)
        observed = rmse(self.x_hat[:, seen], self.holdout.rows.x[:, seen]) if seen.any() else None
        return result | NOT_SCORED | {"observed_rmse": observed, "all_rmse": observed}

    def calibration(self, artifact: Artifact) -> Nested:
        """Whether the model is as sure as it should be; None where no cell is hidden."""
        if not (~np.isnan(self.holdout.truth)).any():
            return {"calibration": None}
        return {"calibration": calibration(artifact, self.posterior, self.x_hat, self.holdout)}

    @property
    def codec(self) -> Codec:
        """What the columns are."""
        return self.holdout.rows.codec or Codec.of_numbers(self.x_hat.shape[1])


def choose_rows(
    artifact: Artifact, table: Table, mechanism: Mechanism | None = None, seed: int | None = None
) -> TestRows:
    """The rows of a table that a model may be scored on: the test rows of its own table, all rows of another.

    Args:
        artifact: The model.
        table: Has the model's columns; its own table is known by its hash.
        mechanism: By default the one that the model was trained with.
        seed: Of the masks; by default the one that the model was trained with.

    Raises:
        DataError: Columns are missing.
    """
    # Of a model that was trained with nothing hidden, the masks are those of the default settings.
    hidden = artifact.dataset.get("hidden", {"dataset": artifact.dataset["name"]})
    trained: DataConfig = parse(DataConfig, hidden, "config.json: dataset.hidden")
    are_own = table.sha256 == artifact.dataset["sha256"]
    rows = split_rows(table, trained)[2] if are_own else np.arange(table.n_rows)
    over = {"mechanism": mechanism, "seed": seed}
    config = trained.model_copy(update={key: value for key, value in over.items() if value is not None})
    # What a file hides of its own test rows is known here: these cells are hidden by a mechanism like all others.
    matched = replace(table, values=artifact.match(table), columns=artifact.columns, given=None)
    return TestRows(matched, rows, are_own, config, artifact.scaler, artifact.model.codec)


def over_rates(
    artifact: Artifact, rows: TestRows, missing_rates: Sequence[float], mode: MaskMode
) -> Iterator[RateResult]:
    """Hide, infer and reconstruct at each rate; all rates go through one inference while memory allows it."""
    n_cells = rows.rows.size * rows.table.n_features
    n_together = max(1, MAX_CELLS // n_cells)
    for start in range(0, len(missing_rates), n_together):
        together = missing_rates[start : start + n_together]
        holdouts = [rows.holdout(rate, mode) for rate in together]
        x = as_tensor(np.concatenate([holdout.rows.x for holdout in holdouts]))
        posteriors = artifact.posteriors(x)
        x_hat = np.split(artifact.estimate(posteriors).cpu().numpy(), len(together))
        for result in zip(together, holdouts, x_hat, posteriors[0].split(rows.rows.size), strict=True):
            yield RateResult(*result)


def _fixed(table: Table, config: DataConfig, missing_rate: float) -> BoolArray:
    """The same columns for all rows; a higher rate of the same seed hides those of a lower one, too.

    Raises:
        ConfigError: The mechanism looks at the values, which differ from row to row.
    """
    if config.mechanism.kind in ("mar", "mnar", "pattern"):
        raise ConfigError(f"--mask fixed hides the same columns of every row: {config.mechanism.kind} cannot.")
    one_row = np.zeros((1, table.n_features))
    rng = np.random.default_rng(config.seed)
    mask = config.mechanism.target_mask(one_row, missing_rate, rng, table.image_shape)
    return np.broadcast_to(mask, table.values.shape)


def check_scored(results: Sequence[Nested], name: str) -> None:
    """Refuse an evaluation that hid not one cell at any rate above 0.

    Raises:
        DataError: The table is too small for the rates.
    """
    asked = [result for result in results if result["missing_rate"] > 0]
    if asked and not any(result["n_hidden"] for result in asked):
        raise DataError(f"{name}: not one cell is hidden at these rates. Raise them, or take another --seed.")
