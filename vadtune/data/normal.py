"""What a multivariate normal, fitted to rows with holes, expects of the holes.

Source: Dempster, Laird, Rubin (1977), Maximum likelihood from incomplete data via the EM algorithm, section 4.1.3;
Little and Rubin (2002), Statistical Analysis with Missing Data, section 11.2.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vadtune.data.tables import BoolArray, FloatArray

N_STEPS = 5
# Added to each variance: columns may be copies of each other.
RIDGE = 3e-3
# A step of EM may look at as many rows as make this much work, each the cube of the columns; but at some for a column.
MOST_WORK, LEAST_ROWS_EACH = 3e7, 5
# Above it the holes of all rows would take minutes.
MOST_COLUMNS = 128
MOST_ROWS = 5000  # whose principal components are sought
LEAST_SINGULAR = 1e-3
MOST_NUMBERS = 2**21  # in one array of many matrices


@dataclass(frozen=True, eq=False)
class MultivariateNormal:
    """A multivariate normal of E columns.

    Attributes:
        mean: `(E,)`.
        covariance: `(E, E)`; None of more than `MOST_COLUMNS` columns, which are taken as independent.
    """

    mean: FloatArray
    covariance: FloatArray | None

    @classmethod
    def fit(cls, x: FloatArray) -> "MultivariateNormal":
        """Fit to rows, or to some of them, if they are many.

        Args:
            x: `(N, E)`, NaN where not observed; columns of about unit variance.
        """
        n_rows, n_columns = x.shape
        if n_columns > MOST_COLUMNS:
            return cls(column_means(x), None)
        n_seen = int(max(MOST_WORK / n_columns**3, LEAST_ROWS_EACH * n_columns))
        every = max(1, n_rows // n_seen)
        return cls(*_fit(x[::every].astype(np.float64)))

    def complete(self, x: FloatArray) -> FloatArray:
        """Fill the holes of rows.

        Args:
            x: `(N, E)`, NaN where not observed.

        Returns:
            `(N, E)` float32, less the mean. What is not observed is its expectation given the rest of its row; a row of
            which nothing is observed is 0.
        """
        filled = np.empty(x.shape, dtype=np.float32)
        for part in _parts(*x.shape):
            if self.covariance is None:
                filled[part] = _centred(x[part], self.mean)
            else:
                filled[part] = _expect(x[part], self.mean, self.covariance)[0]
        return filled


def column_means(x: FloatArray) -> FloatArray:
    """Mean of the observed cells of each column, `(D,)`; 0 for a column without any."""
    seen = ~np.isnan(x)
    return np.asarray(np.where(seen, x, 0).sum(0) / np.maximum(seen.sum(0), 1), x.dtype)


def principal_components(centred: FloatArray) -> FloatArray:
    """Directions onto which rows have a mean square of 1, those of the most spread first.

    Args:
        centred: `(N, E)`; of more than `MOST_ROWS` rows evenly chosen ones are looked at.

    Returns:
        `(E, R)` float32: R is the rank, the number of singular values of `LEAST_SINGULAR` of the largest or more.
    """
    centred = centred[:: max(1, len(centred) // MOST_ROWS)]
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    rank = int((singular > singular[0] * LEAST_SINGULAR).sum())
    components: FloatArray = directions[:rank].T / singular[:rank] * len(centred) ** 0.5
    return components.astype(np.float32)


def _fit(x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean `(E,)` and covariance `(E, E)` by expectation maximisation."""
    n_rows, n_columns = x.shape
    ridge = RIDGE * np.eye(n_columns)
    mean = column_means(x)
    centred = _centred(x, mean)
    covariance = centred.T @ centred / n_rows + ridge
    for _ in range(N_STEPS):
        second = np.zeros_like(covariance)
        first = np.zeros(n_columns)
        for part in _parts(n_rows, n_columns):
            filled, gain, seen = _expect(x[part], mean, covariance, all_columns=True)
            unsure = covariance - (covariance * seen[:, None, :]) @ gain
            second += filled.T @ filled + (unsure * ~seen[:, :, None] * ~seen[:, None, :]).sum(0)
            first += filled.sum(0)
        shift = first / n_rows
        mean = mean + shift
        covariance = second / n_rows - np.outer(shift, shift) + ridge
    return mean, covariance


def _centred(x: FloatArray, mean: FloatArray) -> FloatArray:
    """Rows less the mean, 0 in holes."""
    return np.where(np.isnan(x), 0, x - mean)


def _expect(
    x: FloatArray, mean: FloatArray, covariance: FloatArray, *, all_columns: bool = False
) -> tuple[FloatArray, FloatArray, BoolArray]:
    """Rows less the mean, filled; the solutions that filled them; what was observed.

    The observed part of each covariance is solved for; cells that are not observed stand in it as if of unit variance
    and independent, so that all matrices have one shape.
    """
    seen, centred = ~np.isnan(x), _centred(x, mean)
    observed = covariance * (seen[:, :, None] & seen[:, None, :])
    diagonal = np.einsum("nii->ni", observed)
    diagonal += ~seen
    if all_columns:
        gain = np.linalg.solve(observed, covariance * seen[:, :, None])
        expected = np.einsum("noe,no->ne", gain, centred)
    else:
        gain = np.linalg.solve(observed, centred[:, :, None])
        expected = (gain[:, :, 0] * seen) @ covariance
    return np.where(seen, centred, expected), gain, seen


def _parts(n_rows: int, n_columns: int) -> Iterator[slice]:
    size = max(1, MOST_NUMBERS // n_columns**2)
    return (slice(at, at + size) for at in range(0, n_rows, size))
