"""DataFrames of any library in, tables; and the same DataFrames with their holes filled."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vadtune.data.arrow_batches import nullable
from vadtune.data.frames import new_cells
from vadtune.data.kinds import INEXACT
from vadtune.data.tables import BoolArray, Column, FloatArray, IntArray, Table, check_names, check_values
from vadtune.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


def as_frame(x: Any) -> "pd.DataFrame | None":
    """A DataFrame of pandas, polars, Arrow, or whatever speaks Arrow's C interface, as one of pandas; None of others.

    Whole numbers and booleans become nullable dtypes, so that they stay what they are beside unknown cells.
    """
    import pandas as pd

    if isinstance(x, pd.DataFrame):
        return x
    if isinstance(x, pd.Series) or not hasattr(x, "__arrow_c_stream__") or not hasattr(x, "columns"):
        return None
    import pyarrow as pa

    frame: pd.DataFrame = pa.table(x).to_pandas(types_mapper=nullable)
    return frame


def to_polars(frame: "pd.DataFrame") -> Any:
    """A DataFrame of pandas as one of polars, which has no index."""
    import polars as pl
    import pyarrow as pa

    return pl.DataFrame(pa.Table.from_pandas(frame, preserve_index=False))


def plain_array(x: Any) -> Any:
    """Whatever says "unknown" in an array, as NaN: the masked cells, None, pd.NA.

    Raises:
        DataError: Whole numbers that float64 cannot hold.
    """
    import pandas as pd

    if isinstance(x, np.ma.MaskedArray):
        return np.where(np.ma.getmaskarray(x), np.nan, np.ma.getdata(x))
    if isinstance(x, np.ndarray) and x.dtype == object:
        return np.where(pd.isna(x), np.nan, x)
    if isinstance(x, np.ndarray) and x.dtype.kind in "iu" and x.size and np.abs(x.astype(np.float64)).max() >= INEXACT:
        raise DataError("X: holds whole numbers beyond 2**53, identifiers? Drop their columns.")
    return x


def from_matrix(values: FloatArray, names: list[str], source: str) -> Table:
    """Take numbers `(N, D)`, NaN where unknown, as a table of numeric columns.

    Raises:
        DataError: Two columns of one name, an infinity.
    """
    check_names(names, source)
    check_values(values, names, source)
    columns = tuple(Column(name, "numeric", str(values.dtype)) for name in names)
    return Table(source, source, values.astype(np.float64), columns)


def fill_frame(
    frame: "pd.DataFrame", unknown: BoolArray, values: FloatArray, known: Sequence[Column]
) -> "pd.DataFrame":
    """The DataFrame with its unknown cells replaced; known cells, columns, dtypes and index are what they were.

    Args:
        frame: D columns.
        unknown: `(N, D)`.
        values: `(N, D)`, read where a cell is unknown. A column of whole numbers that is given fractions becomes one
            of floats.
        known: What the columns are to the model.
    """
    import pandas as pd

    columns = [_fill_column(frame.iloc[:, j], unknown[:, j], values[:, j], column) for j, column in enumerate(known)]
    filled = pd.concat(columns, axis=1) if columns else frame.copy()
    filled.columns = frame.columns
    return filled


def _fill_column(column: "pd.Series[Any]", unknown: BoolArray, values: FloatArray, known: Column) -> "pd.Series[Any]":
    import pandas as pd
    from pandas.api import types

    if not unknown.any():
        return column
    if known.levels or known.kind == "date":
        return new_cells(column, unknown, values, known)
    if types.is_object_dtype(column.dtype):
        column = column.convert_dtypes()
    if not types.is_numeric_dtype(column.dtype):  # an empty column of no dtype: booleans are numeric
        column = column.astype("float64")
    found: npt.NDArray[Any] = values[unknown]
    if types.is_bool_dtype(column.dtype):
        found = found >= 0.5
    elif types.is_integer_dtype(column.dtype):
        if np.array_equal(found, np.rint(found)):
            found = _within(found, column.dtype)
        else:
            column = column.astype("Float64")
    cells: Any = column.array.copy()
    cells[unknown] = pd.Series(found).astype(column.dtype).array
    return pd.Series(cells, index=column.index, name=column.name)


def _within(found: FloatArray, dtype: Any) -> IntArray:
    """Whole numbers as ones that the dtype can hold."""
    kind = np.dtype(getattr(dtype, "numpy_dtype", dtype))
    limits = np.iinfo(kind)
    # The float nearest to the largest int64 is larger than it.
    high = np.nextafter(float(limits.max), 0) if limits.max > INEXACT else limits.max
    return np.clip(found, limits.min, high).astype(kind)
