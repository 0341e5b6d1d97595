"""The imputers that a winner is compared with, and the process that runs one of them.

`python -m vadtune.tuning.baseline_methods NAME FOLDER SECONDS` is started by `baselines.py`. It imports no torch
and no Ray, and scikit-learn only where a method needs it, so that it stays small beside a search.
"""

import ctypes
import signal
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, final

import numpy as np

from vadtune.data.metrics import rmse
from vadtune.data.normal import column_means
from vadtune.data.tables import FloatArray

INPUT = "seen.npz"
READY = ".ready"  # after the name: it will die with whoever started it
SET_DEATH_SIGNAL = 1  # of Linux's prctl


@dataclass(frozen=True, eq=False)
class Seen:
    """All that a baseline may see: float32 `(N, D)`, scaled, NaN where not observed.

    Attributes:
        train: Rows to fit on while a setting is chosen.
        validation: Rows to choose a setting on.
        validation_truth: Hidden values of the validation rows, NaN elsewhere.
        test: Rows to impute; their hidden values are not here.
        final: Rows to fit on when nothing is left to choose: see `Splits.final_rows`.
    """

    train: FloatArray
    validation: FloatArray
    validation_truth: FloatArray
    test: FloatArray
    final: FloatArray


class Baseline(ABC):
    """A simple imputer. A new one is one class here, named in `METHODS`."""

    name: ClassVar[str]
    max_columns: ClassVar[int | None] = None

    @abstractmethod
    def impute(self, seen: Seen) -> FloatArray:
        """Fill all cells of `seen.test`, `(N, D)`."""


@final
@dataclass(frozen=True)
class Mean(Baseline):
    """The mean of the observed cells of each column."""

    name: ClassVar[str] = "mean"

    def impute(self, seen: Seen) -> FloatArray:
        """Equal rows."""
        return np.broadcast_to(column_means(seen.final), seen.test.shape)


@final
@dataclass(frozen=True)
class Knn(Baseline):
    """Mean of the nearest training rows that know the cell (scikit-learn's KNNImputer)."""

    name: ClassVar[str] = "knn"
    n_neighbors: int = 5

    def impute(self, seen: Seen) -> FloatArray:
        """A cell that no neighbour knows gets the column mean."""
        from sklearn.impute import KNNImputer

        imputer = KNNImputer(n_neighbors=self.n_neighbors, keep_empty_features=True).fit(seen.final)
        return np.asarray(imputer.transform(seen.test))


@final
@dataclass(frozen=True)
class Iterative(Baseline):
    """A regression of each column on all others, in turns (scikit-learn's IterativeImputer with BayesianRidge)."""

    name: ClassVar[str] = "iterative"
    max_columns: ClassVar[int | None] = 64

    def impute(self, seen: Seen) -> FloatArray:
        """As scikit-learn does it by default, in float64."""
        from sklearn.experimental import enable_iterative_imputer  # noqa: F401
        from sklearn.impute import IterativeImputer

        imputer = IterativeImputer(random_state=0, keep_empty_features=True).fit(seen.final.astype(np.float64))
        return np.asarray(imputer.transform(seen.test.astype(np.float64)))


@dataclass(frozen=True, eq=False)
class Subspace:
    """A linear Gaussian model of a row: mean + loadings z + noise, z standard normal.

    Attributes:
        mean: `(D,)`.
        loadings: `(D, K)`, for K components.
        noise_var: Variance of the noise, equal for all columns.
    """

    mean: FloatArray
    loadings: FloatArray
    noise_var: float

    def impute(self, x: FloatArray, ridge: float = 1.0) -> FloatArray:
        """Reconstruct rows from their observed cells: a ridge regression on the loadings for each row.

        Args:
            x: `(N, D)`, NaN where not observed; a row without an observed cell becomes the mean.
            ridge: Penalty in units of the noise variance; 1 gives the posterior mean of probabilistic PCA.
        """
        n_features, rank = self.loadings.shape
        # The normal equations of all rows of a chunk in one product: observed mask times outer products.
        outer = (self.loadings[:, :, None] * self.loadings[:, None, :]).reshape(n_features, rank * rank)
        penalty = ridge * self.noise_var * np.eye(rank)
        x_hat = np.empty_like(x)
        for start in range(0, len(x), 256):
            part = x[start : start + 256]
            observed_mask = ~np.isnan(part)
            gram = (observed_mask.astype(x.dtype) @ outer).reshape(-1, rank, rank) + penalty
            target = np.where(observed_mask, part - self.mean, 0) @ self.loadings
            z = np.linalg.solve(gram, target[..., None].astype(np.float64))[..., 0]
            x_hat[start : start + 256] = self.mean + z.astype(x.dtype) @ self.loadings.T
        return x_hat


@final
@dataclass(frozen=True)
class IterativePca(Baseline):
    """Principal components fitted to a table with holes, their number and their ridge chosen on validation cells.

    Fill, fit, refill until the filled cells rest, with components shrunk by the noise they carry; ranks grow and
    each starts from the fill of the one before. 4,000 digits of 784 pixels, half of them hidden: 8 s on one core.

    Source: Josse and Husson (2012), Handling missing values in exploratory multivariate data analysis methods,
        Journal de la SFdS 153(2); Tipping and Bishop (1999), Probabilistic principal component analysis.

    Attributes:
        ranks: Numbers of components to try.
        ridges: Penalties to try with each rank, in units of the noise variance.
    """

    name: ClassVar[str] = "iterative_pca"
    ranks: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
    ridges: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)

    def impute(self, seen: Seen) -> FloatArray:
        """By the rank and the ridge that are best on validation; two worse ones in a row end the attempts."""
        ranks, ridge, subspace = self._choose(seen)
        if subspace is None:
            return np.broadcast_to(column_means(seen.final), seen.test.shape)
        if seen.final is not seen.train:
            *_, subspace = fit_subspaces(seen.final, ranks)
        return subspace.impute(seen.test, ridge)

    def _choose(self, seen: Seen) -> tuple[tuple[int, ...], float, Subspace | None]:
        """The ranks up to the best one, its ridge and its fit; None where the column means are better."""
        ranks, ridge, n_worse = self._usable_ranks(seen.train), 1.0, 0
        chosen, n_chosen = None, 0
        best = rmse(np.broadcast_to(column_means(seen.train), seen.validation.shape), seen.validation_truth)
        for n_tried, subspace in enumerate(fit_subspaces(seen.train, ranks), start=1):
            error, found = min(
                (rmse(subspace.impute(seen.validation, r), seen.validation_truth), r) for r in self.ridges
            )
            if error < best:
                chosen, n_chosen, ridge, best, n_worse = subspace, n_tried, found, error, 0
            else:
                n_worse += 1
            if n_worse == 2:
                break
        return ranks[:n_chosen], ridge, chosen

    def _usable_ranks(self, x: FloatArray) -> tuple[int, ...]:
        """Ranks below full rank; a wide table skips those that are far too small for it."""
        n_rows, n_features = x.shape
        return tuple(rank for rank in self.ranks if n_features / 64 <= rank < min(n_rows, n_features))


def fit_subspaces(x: FloatArray, ranks: tuple[int, ...]) -> Iterator[Subspace]:
    """Fit one subspace a rank, in order, each started from the fill of the one before.

    Args:
        x: Training rows `(N, D)`, NaN where not observed.
        ranks: Numbers of components, each below N and D.
    """
    observed_mask = ~np.isnan(x)
    filled = np.where(observed_mask, x, column_means(x))
    tolerance = 0.005 * float(filled.std())
    for rank in ranks:
        # 9 rounds bring rank 96 within 0.0005 of where 45 rounds bring it (digits, half of the pixels hidden).
        for _ in range(9):
            subspace, x_hat = fit_complete(filled, rank, float(observed_mask.mean()))
            change = float(np.sqrt(np.mean(np.square(np.where(observed_mask, 0, x_hat - filled)))))
            filled = np.where(observed_mask, x, x_hat)
            if change < tolerance:
                break
        yield subspace


def fit_complete(filled: FloatArray, rank: int, observed_rate: float) -> tuple[Subspace, FloatArray]:
    """Fit a subspace to a filled table, and reconstruct the table by it.

    Args:
        filled: `(N, D)`, without a hole.
        rank: Number of components, below N and D.
        observed_rate: Share of the cells that were observed; a filled cell carries no noise.
    """
    n_features = filled.shape[1]
    mean = filled.mean(axis=0)
    centred = filled - mean
    variances, axes = _largest_components(centred, rank)
    left_over = float(np.square(centred).mean(axis=0).sum() - variances.sum()) / (n_features - rank)
    floor = max(1e-4 * float(variances.sum()) / n_features, 1e-12)
    noise_var = max(left_over / observed_rate, floor)
    signal_var = np.maximum(variances - noise_var, 0)
    x_hat = mean + ((centred @ axes) * (signal_var / np.maximum(variances, floor))) @ axes.T
    return Subspace(mean, axes * np.sqrt(signal_var), noise_var), x_hat


def _largest_components(centred: FloatArray, rank: int) -> tuple[FloatArray, FloatArray]:
    """The largest `rank` variances `(K,)` and their axes `(D, K)`, from the smaller of the two Gram matrices."""
    from scipy.linalg import eigh

    n_rows, n_features = centred.shape
    size = min(n_rows, n_features)
    wide = n_rows < n_features
    gram = (centred @ centred.T if wide else centred.T @ centred) / n_rows
    variances, vectors = eigh(gram, subset_by_index=(size - rank, size - 1))
    variances = np.maximum(variances, 0)
    if wide:
        vectors = centred.T @ vectors / np.sqrt(np.maximum(variances * n_rows, 1e-12))
    return variances, vectors


METHODS: tuple[Baseline, ...] = (Mean(), Knn(), IterativePca(), Iterative())


def main(name: str, folder: Path, time_limit_s: float) -> None:
    """Run one baseline on the arrays in a folder and leave `NAME.npz` there: x_hat and the CPU-seconds it took."""
    # A search that was killed ends nobody: this process ends itself, whatever it is doing.
    signal.setitimer(signal.ITIMER_PROF, time_limit_s)
    if sys.platform == "linux" and ctypes.CDLL(None).prctl(SET_DEATH_SIGNAL, signal.SIGKILL) == 0:
        (folder / f"{name}{READY}").touch()
    baseline = next(baseline for baseline in METHODS if baseline.name == name)
    with np.load(folder / INPUT) as arrays:
        seen = Seen(**arrays) if "final" in arrays else Seen(final=arrays["train"], **arrays)
    x_hat = np.asarray(baseline.impute(seen), np.float32)
    if not np.isfinite(x_hat).all():
        raise FloatingPointError("the imputed values are not finite")
    np.savez(folder / f"{name}.npz", x_hat=x_hat, seconds=time.process_time())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]))
