"""How far imputed values are from the hidden ones. Every score of the project is computed here, in float64.

`x_hat` is an imputation `(N, D)`; `truth` holds the hidden values and is NaN everywhere else, so it alone
decides which cells count. A NaN in `x_hat` at a hidden cell makes the score NaN: an imputer that leaves a hole
gets no score. A score without a single hidden cell would mean nothing and is refused with `DataError`.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from vadtune.data.tables import FloatArray
from vadtune.errors import DataError

Float64Array = npt.NDArray[np.float64]
# Of the intervals that are given and checked: their share of the chances.
LEVELS = (0.5, 0.8, 0.95)


@dataclass(frozen=True, eq=False)
class ColumnErrors:
    """Errors of each column over its hidden cells, `(D,)`, NaN for a column that hides none."""

    rmse: Float64Array
    mae: Float64Array


def half_width(level: float) -> float:
    """Standard deviations from the middle of a normal to the ends of an interval that holds this share of it."""
    return NormalDist().inv_cdf(0.5 + level / 2)


def rmse(x_hat: FloatArray, truth: FloatArray) -> float:
    """Root mean squared error over the hidden cells, in the unit of the arguments.

    Raises:
        DataError: `truth` hides no cell.
    """
    return _root_mean_square(_hidden_errors(x_hat, truth))


def mae(x_hat: FloatArray, truth: FloatArray) -> float:
    """Mean absolute error over the hidden cells, in the unit of the arguments.

    Raises:
        DataError: `truth` hides no cell.
    """
    return float(np.mean(np.abs(_hidden_errors(x_hat, truth))))


def rmse_minmax(x_hat: FloatArray, truth: FloatArray, column_range: FloatArray) -> float:
    """Root mean squared error over the hidden cells, each error divided by the range of its column.

    Args:
        x_hat: The imputation, in the same unit as `truth` and `column_range`.
        truth: NaN everywhere but in hidden cells.
        column_range: `(D,)`, greatest less smallest known value of each column, above 0.

    Raises:
        DataError: `truth` hides no cell.
    """
    ranges = np.broadcast_to(np.asarray(column_range, np.float64), truth.shape)
    return _root_mean_square(_hidden_errors(x_hat, truth) / ranges[~np.isnan(truth)])


def column_errors(x_hat: FloatArray, truth: FloatArray) -> ColumnErrors:
    """Errors of each column, in the unit of the arguments; NaN for a column without a hidden cell."""
    target_mask = ~np.isnan(truth)
    errors = np.zeros(truth.shape)
    errors[target_mask] = _hidden_errors(x_hat, truth)
    n_hidden = np.where(target_mask.any(axis=0), target_mask.sum(axis=0), np.nan)
    return ColumnErrors(
        rmse=np.sqrt(np.square(errors).sum(axis=0) / n_hidden), mae=np.abs(errors).sum(axis=0) / n_hidden
    )


def _hidden_errors(x_hat: FloatArray, truth: FloatArray) -> Float64Array:
    """Imputed less true value of every hidden cell, in row order."""
    assert x_hat.shape == truth.shape, f"x_hat is {x_hat.shape}, truth is {truth.shape}"
    target_mask = ~np.isnan(truth)
    if not target_mask.any():
        raise DataError("There is no hidden cell to score. Hide some: --missing-rate above 0, or a larger table.")
    return np.subtract(x_hat[target_mask], truth[target_mask], dtype=np.float64)


def _root_mean_square(errors: Float64Array) -> float:
    return float(np.sqrt(np.mean(np.square(errors))))
