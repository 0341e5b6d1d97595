"""What the estimators of `vadtune.imputer` share: scikit-learn's contract for imputers, around any model."""

import copy
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.impute import MissingIndicator
from sklearn.utils import check_random_state
from sklearn.utils._set_output import _get_output_config
from sklearn.utils.validation import FLOAT_DTYPES, _check_feature_names_in, check_is_fitted, validate_data

from vadtune.data.frames import from_frame, from_frame_as
from vadtune.data.interchange import as_frame, fill_frame, from_matrix, plain_array, to_polars
from vadtune.data.masks import mcar
from vadtune.data.tables import BoolArray, Column, FloatArray, Table, check_names
from vadtune.errors import ConfigError, DataError
from vadtune.training.artifact import Artifact, save_artifact
from vadtune.training.device import resolve_device
from vadtune.training.fill import Filler

SCORED_RATE = 0.2
# Flags of the commands that have other names here than their own.
NAMES = {"set": "settings", "trials": "n_trials", "concurrent": "n_jobs", "seed": "random_state"}


class Imputer(TransformerMixin, BaseEstimator, ABC):  # type: ignore[misc]  # scikit-learn has no types
    """All but where the model comes from.

    Arrays in, arrays out; DataFrames out after `set_output(transform="pandas")` or `"polars"`, with the dtypes they
    came with. Known cells come back as they were.

    Attributes:
        artifact_: The model; it knows the columns of which a value was observed.
        is_empty_: `(n_features_in_,)`, True for columns of which no value was.
        indicator_: The `MissingIndicator`, or None.
        n_features_in_: How many columns `fit` saw.
        feature_names_in_: Their names, if all were strings.
    """

    MIN_ROWS: ClassVar[int] = 1

    add_indicator: bool
    keep_empty_features: bool
    device: str
    random_state: Any

    @abstractmethod
    def _train(self, table: Table) -> Artifact:
        """A model of all observed cells of a table, on the CPU."""

    def fit(self, X: Any, y: Any = None) -> Self:  # noqa: ARG002
        """Learn from all observed cells.

        Args:
            X: An array of numbers `(N, D)`, or a DataFrame of columns of any kind: NaN, None, pd.NA, NaT and masked
                cells are unknown.
            y: Ignored.

        Raises:
            DataError: Not numbers, an infinity, or no observed cell at all.
            ConfigError: A parameter is not allowed; all that are not are named.
            NoUsableTrial: The training diverged.
        """
        table, _ = self._read(X, reset=True)
        unknown = np.isnan(table.values)
        if unknown.all():
            raise DataError("X: not one cell is observed. Give a table with some values.")
        self.is_empty_: BoolArray = np.all(unknown, axis=0)
        self._warn_of_empty(table)
        self.indicator_ = MissingIndicator(error_on_new=False).fit(table.values) if self.add_indicator else None
        self.artifact_ = self._train(_columns(table, ~self.is_empty_))
        return self

    def transform(self, X: Any) -> Any:
        """Fill the unknown cells; each row on its own, whatever rows are beside it.

        Columns that were empty in `fit` are left out, or filled with 0 if `keep_empty_features`. DataFrames keep
        their dtypes; whole-number and boolean columns get whole numbers and booleans.
        """
        check_is_fitted(self, "artifact_")
        table, frame = self._read(X, reset=False)
        unknown = np.isnan(table.values)
        values = np.where(unknown & self.is_empty_, 0.0, table.values)
        known = _columns(table, ~self.is_empty_)
        # By position: a table of arrays has no names, and scikit-learn has compared those of the others.
        values[:, ~self.is_empty_] = self._filler()(replace(known, columns=self.artifact_.columns))[0]
        kept = np.flatnonzero(self._is_kept())
        container = _get_output_config("transform", self)["dense"]
        if frame is None or container == "default":
            return self._as_array(values[:, kept].astype(_common_dtype(table)), table)
        columns = [table.columns[j] for j in kept]
        filled = self._as_frame(fill_frame(frame.iloc[:, kept], unknown[:, kept], values[:, kept], columns), table)
        return to_polars(filled) if container == "polars" else filled

    def score(self, X: Any, y: Any = None) -> float:  # noqa: ARG002
        """How well hidden cells are found again: minus their RMSE, in standard deviations of the columns of `fit`.

        (Of a table with codes, minus the mean error over its columns.)

        A fifth of the observed cells is hidden completely at random, always the same ones; 0 is perfect, -1 is about
        what column means reach.
        """
        check_is_fitted(self, "artifact_")
        table = _columns(self._read(X, reset=False)[0], ~self.is_empty_)
        hidden = mcar(table.values, SCORED_RATE, np.random.default_rng(0))
        if not hidden.any():
            raise DataError("X: too few observed cells to hide some of them for a score.")
        seen = replace(table, values=np.where(hidden, np.nan, table.values), columns=self.artifact_.columns)
        transform, codec = self.artifact_.scaler.transform, self.artifact_.model.codec
        return -codec.score(transform(self._filler()(seen)[0]), transform(np.where(hidden, table.values, np.nan)))

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[Any]:
        """Names of the columns that `transform` gives."""
        check_is_fitted(self, "artifact_")
        names = _check_feature_names_in(self, input_features)
        kept: npt.NDArray[Any] = names[self._is_kept()]
        if self.indicator_ is None:
            return kept
        return np.concatenate([kept, self.indicator_.get_feature_names_out(names)])

    def to_artifact(self, path: str | Path) -> Path:
        """Write the model as a folder, for `vadtune.impute` and `from_artifact`; one of that path is replaced."""
        check_is_fitted(self, "artifact_")
        return save_artifact(self.artifact_, Path(path))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _read(self, X: Any, *, reset: bool) -> tuple[Table, Any]:
        """The table, and the DataFrame of pandas that it is, if it is one."""
        frame = as_frame(X)
        if frame is not None:
            check_names([str(column) for column in frame.columns], "X")
            validate_data(self, frame, reset=reset, skip_check_array=True)
            if reset:
                return from_frame(frame, "X", "X"), frame
            return self._known(frame), frame
        # Infinities are ours to refuse: with their column and row.
        values = validate_data(
            self,
            plain_array(X),
            reset=reset,
            dtype=FLOAT_DTYPES,
            ensure_all_finite=False,
            ensure_min_samples=self.MIN_ROWS if reset else 1,
        )
        return from_matrix(values, [f"x{j}" for j in range(values.shape[1])], "X"), None

    def _known(self, frame: Any) -> Table:
        """The DataFrame in the codes of the one that `fit` saw; a column that was empty there may hold anything."""
        known = iter(self.artifact_.columns)
        columns = [
            Column(str(name), "numeric", "float64") if is_empty else next(known)
            for name, is_empty in zip(frame.columns, self.is_empty_, strict=True)
        ]
        return from_frame_as(frame, columns, "X", "X")

    def _warn_of_empty(self, table: Table) -> None:
        names = [table.columns[j].name for j in np.flatnonzero(self.is_empty_)]
        if names and not self.keep_empty_features:
            warnings.warn(
                f"X: columns {names} have no observed cell and are left out by transform; keep_empty_features=True "
                "fills them with 0.",
                UserWarning,
                stacklevel=3,
            )

    def _filler(self) -> Filler:
        # In float64, on a copy: there a row differs by 1e-14 standard deviations when other rows are beside it, since
        # kernels sum in another order; in float32 it is 4e-7 (by `bound`; by `lbfgs` 1e-11 and 2e-4).
        device = self._resolve_device()
        return Filler(replace(self.artifact_, model=copy.deepcopy(self.artifact_.model).to(device).double()))

    def _resolve_device(self) -> str:
        with parameters_not_flags():
            return resolve_device(self.device)[0]

    def _is_kept(self) -> BoolArray:
        return ~self.is_empty_ | bool(self.keep_empty_features)

    def _as_array(self, values: FloatArray, table: Table) -> FloatArray:
        if self.indicator_ is None:
            return values
        return np.hstack([values, self.indicator_.transform(table.values).astype(values.dtype)])

    def _as_frame(self, filled: Any, table: Table) -> Any:
        if self.indicator_ is None:
            return filled
        import pandas as pd

        marks = pd.DataFrame(self.indicator_.transform(table.values), index=filled.index)
        return pd.concat([filled, marks], axis=1)

    def _seed(self) -> int:
        if isinstance(self.random_state, int | np.integer):
            if self.random_state < 0:
                raise ConfigError(
                    f"{type(self).__name__}: random_state is {self.random_state}: it should be 0 or more."
                )
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31 - 1))


@contextmanager
def parameters_not_flags() -> Iterator[None]:
    """Tell of mistakes in the words of an estimator: what is a flag of the commands, `--n-x`, is `n_x` here."""
    try:
        yield
    except ConfigError as error:
        text = re.sub(r"--([a-z][a-z-]*)", lambda flag: NAMES.get(flag[1], flag[1].replace("-", "_")), str(error))
        raise ConfigError(text) from None


def _columns(table: Table, chosen: BoolArray) -> Table:
    """Some of the columns."""
    index = np.flatnonzero(chosen)
    return replace(table, values=table.values[:, index], columns=tuple(table.columns[j] for j in index))


def _common_dtype(table: Table) -> npt.DTypeLike:
    """float32 if all columns are, else float64."""
    dtypes = {column.dtype.lower() for column in table.columns}
    return np.float32 if dtypes == {"float32"} else np.float64
