"""A table with holes: values with NaN, columns with kinds; from a file and back to one."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from vadtune.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from vadtune.data.declared import Declared

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.integer[Any]]
BoolArray = npt.NDArray[np.bool_]
Kind = Literal["numeric", "positive", "integer", "date", "boolean", "ordinal", "categorical"]
Unit = Literal["pixel", "sd", "mixed"]
Level = str | int | float | bool
# Kinds whose values are codes: to be right or wrong about, not near or far.
CODED = ("boolean", "ordinal", "categorical")
# Seconds since 1970 that every library of dates can hold: the years 1678 to 2261.
FIRST_SECOND, LAST_SECOND = -9_214_000_000.0, 9_214_000_000.0


@dataclass(frozen=True)
class Column:
    """One column: its name, what its numbers mean, and the dtype it had where it came from.

    Attributes:
        name: Unique in its table.
        kind: Says how it is modelled; `positive` is a number whose logarithm is.
        dtype: Of pandas.
        levels: What the codes 0, 1, … of an ordinal or categorical column stand for; a code past the last stands for
            a level that is not known here.
        step: Seconds between two dates of the column: 86,400 where all are whole days.
        format: How its dates are written where they are text (strftime).
        low: Nothing below it is filled in.
        high: Nothing above it is filled in.
    """

    name: str
    kind: Kind
    dtype: str
    levels: tuple[Level, ...] = ()
    step: float = 1.0
    format: str = ""
    low: float | None = None
    high: float | None = None

    @property
    def is_coded(self) -> bool:
        """Whether its values are codes: to be right or wrong about, not near or far."""
        return self.kind in CODED

    @property
    def is_text(self) -> bool:
        """Whether a known cell of it is text in a file."""
        return any(isinstance(level, str) for level in self.levels)

    @property
    def is_whole(self) -> bool:
        """Whether its values are multiples of a step."""
        return self.kind in ("integer", "date", *CODED)

    def finish(self, values: "FloatArray") -> "FloatArray":
        """Estimates as the column can hold them: within its bounds and whole where it holds whole numbers."""
        low, high = self.low, self.high
        if self.kind == "date":
            low, high = max(low or FIRST_SECOND, FIRST_SECOND), min(high or LAST_SECOND, LAST_SECOND)
        if self.kind == "boolean":
            low, high = 0.0, 1.0
        if self.is_whole:
            step = self.step if self.kind == "date" else 1.0
            values = np.rint(values / step) * step
        return values if low is None and high is None else np.clip(values, low, high)


@dataclass(frozen=True, eq=False)
class GivenSplit:
    """The split that came with the data: rows of a table, and the cells of test rows that are to be scored.

    Attributes:
        train: Row numbers; `validation` may be empty and is then taken from these.
        validation: Row numbers.
        test: Row numbers.
        hidden: `(N, D)`, True in test cells that the file hides; None when cells are hidden by a mechanism.
    """

    train: IntArray
    validation: IntArray
    test: IntArray
    hidden: BoolArray | None = None


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of numbers, some of them unknown.

    Attributes:
        name: What the user calls it.
        source: Where the values came from: a path, or a sentence.
        values: `(N, D)`, NaN where unknown: images float32 in [0, 1], tables float64 in original units.
        columns: One for each feature.
        image_shape: Height and width when a row is an image.
        labels: `(N,)`, for the colours of figures only; never shown to a model.
        index: The row labels of the file, given back when the table is written.
        given: The split that the file brings, if it brings one.
    """

    name: str
    source: str
    values: FloatArray
    columns: tuple[Column, ...]
    image_shape: tuple[int, int] | None = None
    labels: IntArray | None = None
    index: "pd.Index[Any] | None" = None
    given: GivenSplit | None = None

    def __post_init__(self) -> None:
        assert self.values.shape[1:] == (len(self.columns),)
        assert self.image_shape is None or self.image_shape[0] * self.image_shape[1] == len(self.columns)
        assert self.labels is None or self.labels.shape == self.values.shape[:1]

    @property
    def n_rows(self) -> int:
        """N."""
        return int(self.values.shape[0])

    @property
    def n_features(self) -> int:
        """D."""
        return int(self.values.shape[1])

    @property
    def unit(self) -> Unit:
        """What errors are counted in: pixels in [0, 1], or standard deviations of the training columns.

        `mixed` where some columns are codes: the mean over columns of error rate, or RMSE by the column's range.
        """
        if any(column.is_coded for column in self.columns):
            return "mixed"
        return "pixel" if self.image_shape else "sd"

    def take(self, rows: IntArray) -> "Table":
        """Some of the rows, ascending, without the split that came with the data; its hidden cells stay."""
        hidden = None if self.given is None or self.given.hidden is None else self.given.hidden[rows]
        none = np.empty(0, dtype=np.intp)
        return replace(
            self,
            values=self.values[rows],
            labels=None if self.labels is None else self.labels[rows],
            index=None if self.index is None else self.index[rows],
            given=None if hidden is None else GivenSplit(none, none, none, hidden),
        )

    @property
    def is_landmarks(self) -> bool:
        """Whether the columns are the coordinates of points in a plane: `x0, y0, x1, y1, …`."""
        names = [column.name for column in self.columns]
        return names == [f"{axis}{k}" for k in range(len(names) // 2) for axis in "xy"]

    @cached_property
    def sha256(self) -> str:
        """Hash of shape, dtype, column names, values and hidden cells: equal tables, equal hash."""
        names = [column.name for column in self.columns]
        digest = hashlib.sha256(repr((self.values.shape, self.values.dtype.str, names)).encode())
        levels = [column.levels for column in self.columns]
        if any(levels):
            digest.update(repr(levels).encode())
        # A NaN has many bit patterns, all of them unknown.
        digest.update(np.where(np.isnan(self.values), np.nan, self.values).tobytes())
        if self.given is not None and self.given.hidden is not None:
            digest.update(np.packbits(self.given.hidden).tobytes())
        return digest.hexdigest()


def read_table(path: "Path", declared: "Declared | None" = None) -> Table:
    """Read a file; its suffix says how.

    `.csv`, `.csv.gz`, `.parquet` and `.feather` have columns with names, whose kinds are inferred where nobody
    declares them (see `vadtune.data.kinds`); empty cells are unknown. `.npy` is
    one `(N, D)` array. `.npz` and `.h5` hold `values` `(N, D)` with an optional `columns` (names), or `images`
    `(N, h, w)` (uint8, or float in [0, 1]), which are scored in pixels; both with optional `labels` `(N,)`. `.h5` may
    have one of the layouts of `vadtune.data.reference`, too.

    Raises:
        DataError: No such file, a suffix that is not known, or a column that cannot be used.
        ConfigError: A column is declared that is not there.
    """
    from vadtune.data.files import read

    return read(path, declared)


def write_table(table: Table, path: "Path") -> None:
    """Write a table so that `read_table` gives it back, first beside `path`, then renamed.

    Whole-number and boolean columns get their dtype back if all their values allow it.

    Raises:
        DataError: The suffix is not known, or the place cannot be written to.
    """
    from vadtune.data.files import write

    write(table, path)


def from_arrays(arrays: Mapping[str, npt.NDArray[Any]], name: str, source: str) -> Table:
    """Take the arrays of an `.npz` or `.h5` file as a table: `values` or `images`, see `read_table`.

    Raises:
        DataError: Neither is there, or one has a shape, dtype or value that cannot be used.
    """
    if "images" in arrays:
        return _from_images(arrays["images"], arrays.get("labels"), name, source)
    matrices = [key for key, array in arrays.items() if array.ndim == 2 and array.dtype.kind in "biuf"]
    key = "values" if "values" in arrays else matrices[0] if len(matrices) == 1 else None
    if key is None:
        found = ", ".join(f"{key} {array.shape} {array.dtype}" for key, array in arrays.items()) or "nothing"
        raise DataError(
            f"{source}: found {found}; expected `values` (rows, columns) or `images` (rows, height, width)."
        )
    array = arrays[key]
    if array.ndim != 2 or array.dtype.kind not in "biuf":
        raise DataError(f"{source}: {key} is {array.dtype} {array.shape}; expected numbers of shape (rows, columns).")
    names = [str(column) for column in arrays.get("columns", [f"x{j}" for j in range(array.shape[1])])]
    if len(names) != array.shape[1]:
        raise DataError(f"{source}: {len(names)} names in `columns` for {array.shape[1]} columns of `{key}`.")
    check_names(names, source)
    values = array.astype(np.float64)
    check_values(values, names, source)
    kinds: dict[str, Kind] = {"b": "boolean", "i": "integer", "u": "integer", "f": "numeric"}
    columns = tuple(Column(column, kinds[array.dtype.kind], str(array.dtype)) for column in names)
    return Table(name, source, values, columns, labels=_labels(arrays.get("labels"), len(array), source))


def to_arrays(table: Table) -> dict[str, npt.NDArray[Any]]:
    """The arrays that `from_arrays` reads; images without holes become uint8 if nothing is lost by it.

    Raises:
        DataError: A column holds text or dates, or its name a NUL: HDF5 takes none, numpy drops one at the end.
    """
    for column in table.columns:
        problem = "is no number" if column.levels or column.kind == "date" else ""
        problem = problem or ("has a NUL in its name" if "\0" in column.name else "")
        if problem:
            raise DataError(f"{table.source}: column {column.name!r} {problem}: write CSV, Parquet or Feather instead.")
    arrays: dict[str, npt.NDArray[Any]] = {}
    if table.image_shape is None:
        arrays["values"] = table.values
        arrays["columns"] = np.array([column.name for column in table.columns])
    else:
        images = table.values.reshape(-1, *table.image_shape)
        known = np.nan_to_num(images)
        as_bytes = np.rint(known * 255).astype(np.uint8)
        exact = np.array_equal(as_bytes.astype(np.float32) / np.float32(255), images)
        arrays["images"] = as_bytes if exact else images
    return arrays if table.labels is None else arrays | {"labels": table.labels}


def image_table(
    images: npt.NDArray[np.uint8], labels: IntArray | None, name: str, source: str, *, white: int = 255
) -> Table:
    """Images `(N, h, w)` of whole numbers up to `white` as a table of pixels in [0, 1]."""
    n_rows, height, width = images.shape
    values = images.reshape(n_rows, height * width).astype(np.float32) / np.float32(white)
    return Table(name, source, values, pixel_columns(height, width), (height, width), labels)


def check_names(names: list[str], source: str) -> None:
    """Refuse a table without columns and two columns of one name."""
    if not names:
        raise DataError(f"{source}: no columns. Give a table of numbers with at least one.")
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise DataError(f"{source}: more than one column is named {twice[0]!r}. Give each its own name.")


def check_values(values: FloatArray, names: list[str], source: str) -> None:
    """Refuse a table without rows, and an infinity by its column and row."""
    if len(values) == 0:
        raise DataError(f"{source}: no rows. Give a table with at least one.")
    row, column = np.nonzero(np.isinf(values))
    if row.size:
        raise DataError(
            f"{source}: column {names[column[0]]!r} holds {values[row[0], column[0]]} in row {row[0]} "
            "(the first is 0). Replace it by a number, or leave the cell empty when it is unknown."
        )


def _from_images(images: npt.NDArray[Any], labels: npt.NDArray[Any] | None, name: str, source: str) -> Table:
    if images.ndim != 3 or images.size == 0 or not (images.dtype == np.uint8 or images.dtype.kind == "f"):
        raise DataError(
            f"{source}: images is {images.dtype} {images.shape}; expected (rows, height, width), "
            "uint8 or float in [0, 1]."
        )
    labels = _labels(labels, len(images), source)
    if images.dtype == np.uint8:
        return image_table(images, labels, name, source)
    n_rows, height, width = images.shape
    values = images.reshape(n_rows, -1).astype(np.float32)
    known = values[~np.isnan(values)]
    if known.size and (known.min() < 0 or known.max() > 1):
        raise DataError(
            f"{source}: images has pixels from {known.min():g} to {known.max():g}; expected [0, 1], or uint8."
        )
    return Table(name, source, values, pixel_columns(height, width), (height, width), labels)


def _labels(labels: npt.NDArray[Any] | None, n_rows: int, source: str) -> IntArray | None:
    if labels is None:
        return None
    if labels.shape != (n_rows,) or labels.dtype.kind not in "biu":
        raise DataError(f"{source}: labels is {labels.dtype} {labels.shape}; expected whole numbers ({n_rows},).")
    return labels.astype(np.int64)


def pixel_columns(height: int, width: int) -> tuple[Column, ...]:
    """`pixel_0_0, pixel_0_1, …`, row by row."""
    return tuple(Column(f"pixel_{i}_{j}", "numeric", "float32") for i in range(height) for j in range(width))
