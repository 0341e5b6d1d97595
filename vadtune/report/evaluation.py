"""`evaluation.npz`: what a finished search measured of its winner, in groups that may each be absent."""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vadtune.data.damage import DAMAGED
from vadtune.errors import ArtifactError

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.integer[Any]]
MAX_BYTES = 1 << 30


@dataclass(frozen=True, eq=False)
class Gallery:
    """G unseen images at R missing rates: `rates (R,)`, `truth (G, D)`, others `(R, G, D)`; input NaN where hidden."""

    rates: FloatArray
    truth: FloatArray
    input: FloatArray
    mean: FloatArray
    std: FloatArray


@dataclass(frozen=True, eq=False)
class Cells:
    """A sample of hidden test cells in original units, all `(C,)`: number of the column, true and imputed value."""

    column: IntArray
    truth: FloatArray
    imputed: FloatArray


@dataclass(frozen=True, eq=False)
class ColumnErrors:
    """RMSE and MAE of every column in original units, both `(D,)`."""

    rmse: FloatArray
    mae: FloatArray


@dataclass(frozen=True, eq=False)
class RateCurve:
    """Test RMSE over the missing rate, all `(K,)`."""

    rate: FloatArray
    rmse: FloatArray
    mean_baseline: FloatArray


@dataclass(frozen=True, eq=False)
class Mechanisms:
    """Test RMSE by the mechanism that hid the cells."""

    names: tuple[str, ...]
    rmse: FloatArray


@dataclass(frozen=True, eq=False)
class Latent:
    """Posterior means of n rows in two dimensions `(n, 2)`; label -1 where there is none; error is a row's RMSE."""

    position: FloatArray
    label: IntArray | None
    error: FloatArray | None


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All groups; None is a group that the search did not (or not yet) write."""

    gallery: Gallery | None = None
    cells: Cells | None = None
    observed: FloatArray | None = None
    columns: ColumnErrors | None = None
    rates: RateCurve | None = None
    mechanisms: Mechanisms | None = None
    latent: Latent | None = None


def read_evaluation(path: Path, n_features: int) -> Evaluation:
    """Read the file; nothing in it is unpickled.

    Args:
        path: `evaluation.npz` of a run; need not exist.
        n_features: D of the run's dataset, which the shapes must fit.

    Raises:
        ArtifactError: The file is not an npz of plain arrays, is too large, or its shapes do not fit together.
    """
    if not path.is_file():
        return Evaluation()
    return _Reader(path, _arrays(path), n_features).evaluation()


def _arrays(path: Path) -> Mapping[str, npt.NDArray[Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > MAX_BYTES:
            raise ArtifactError(f"{path}: unpacks to {size} bytes, more than {MAX_BYTES}. Export it again.")
        with np.load(path, allow_pickle=False) as archive:
            return {name: np.asarray(archive[name]) for name in archive.files}
    except DAMAGED as error:
        raise ArtifactError(f"{path}: not an npz file of plain arrays: {error}") from None


class _Reader:
    """Takes arrays by name and shape; one size letter stands for one number throughout the file."""

    def __init__(self, path: Path, arrays: Mapping[str, npt.NDArray[Any]], n_features: int) -> None:
        self._path = path
        self._arrays = arrays
        self._sizes: dict[str, int] = {"D": n_features, "2": 2}

    def evaluation(self) -> Evaluation:
        return Evaluation(
            self._gallery(),
            self._cells(),
            self._observed(),
            self._columns(),
            self._rates(),
            self._mechanisms(),
            self._latent(),
        )

    def _gallery(self) -> Gallery | None:
        if not self._has("gallery_rates", "gallery_truth", "gallery_input", "gallery_mean"):
            return None
        mean = self._floats("gallery_mean", "RGD")
        std = self._floats("gallery_std", "RGD") if self._has("gallery_std") else np.full_like(mean, np.nan)
        rates = self._floats("gallery_rates", "R")
        return Gallery(rates, self._floats("gallery_truth", "GD"), self._floats("gallery_input", "RGD"), mean, std)

    def _cells(self) -> Cells | None:
        if not self._has("cell_column", "cell_truth", "cell_imputed"):
            return None
        column = self._integers("cell_column", "C")
        if column.size and not (column.min() >= 0 and column.max() < self._sizes["D"]):
            raise ArtifactError(f"{self._path}: cell_column names a column outside 0 … {self._sizes['D'] - 1}.")
        return Cells(column, self._floats("cell_truth", "C"), self._floats("cell_imputed", "C"))

    def _observed(self) -> FloatArray | None:
        return self._floats("column_observed_sample", "SD") if self._has("column_observed_sample") else None

    def _columns(self) -> ColumnErrors | None:
        if not self._has("column_rmse", "column_mae"):
            return None
        return ColumnErrors(self._floats("column_rmse", "D"), self._floats("column_mae", "D"))

    def _rates(self) -> RateCurve | None:
        if not self._has("rate_grid", "rate_rmse"):
            return None
        rmse = self._floats("rate_rmse", "K")
        has_baseline = self._has("rate_baseline_mean")
        baseline = self._floats("rate_baseline_mean", "K") if has_baseline else np.full_like(rmse, np.nan)
        return RateCurve(self._floats("rate_grid", "K"), rmse, baseline)

    def _mechanisms(self) -> Mechanisms | None:
        if not self._has("mechanism_names", "mechanism_rmse"):
            return None
        names = tuple(str(name) for name in self._take("mechanism_names", "M"))
        return Mechanisms(names, self._floats("mechanism_rmse", "M"))

    def _latent(self) -> Latent | None:
        if not self._has("latent_2d"):
            return None
        label = self._integers("latent_label", "n") if self._has("latent_label") else None
        error = self._floats("latent_error", "n") if self._has("latent_error") else None
        return Latent(self._floats("latent_2d", "n2"), label, error)

    def _has(self, *names: str) -> bool:
        return all(name in self._arrays and self._arrays[name].size > 0 for name in names)

    def _floats(self, name: str, shape: str) -> FloatArray:
        array = self._take(name, shape)
        if array.dtype.kind not in "fiub":
            raise ArtifactError(f"{self._path}: {name} holds {array.dtype}, expected numbers.")
        return array.astype(np.float64)

    def _integers(self, name: str, shape: str) -> IntArray:
        values = self._floats(name, shape)
        return np.where(np.isfinite(values), values, -1).astype(np.int64)

    def _take(self, name: str, shape: str) -> npt.NDArray[Any]:
        array = self._arrays[name]
        expected = tuple(self._sizes.get(letter, -1) for letter in shape)
        fits = len(array.shape) == len(shape) and all(
            size in (found, -1) for found, size in zip(array.shape, expected, strict=True)
        )
        if not fits:
            raise ArtifactError(f"{self._path}: {name} has shape {array.shape}, expected {tuple(shape)}.")
        self._sizes.update(dict(zip(shape, array.shape, strict=True)))
        return array
