"""DataFrames as tables and back: kinds inferred, declared or known, dtypes and index given back."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vadtune.data.declared import NOTHING, Declared, texts_of
from vadtune.data.kinds import as_known, find_kind, levels_at
from vadtune.data.tables import BoolArray, Column, FloatArray, Table, check_names, check_values

if TYPE_CHECKING:
    import pandas as pd


def from_frame(frame: "pd.DataFrame", name: str, source: str, declared: Declared = NOTHING) -> Table:
    """Take a DataFrame as a table; kinds that are not declared are inferred.

    Raises:
        DataError: No rows or columns, two columns of one name, a column that cannot be modelled, an infinity.
        ConfigError: A column is declared that is not there.
    """
    names = [str(column) for column in frame.columns]
    check_names(names, source)
    declared.check(names, source)
    kept = [j for j, column in enumerate(names) if column not in declared.left_out]
    check_names([names[j] for j in kept], source)
    pairs = [find_kind(without(frame.iloc[:, j], declared.missing), names[j], source, declared) for j in kept]
    return _table(pairs, frame, name, source)


def from_frame_as(
    frame: "pd.DataFrame", known: Sequence[Column], name: str, source: str, missing: Iterable[str | float] = ()
) -> Table:
    """Take a DataFrame of columns that are known already, in their order; see `kinds.as_known`.

    Raises:
        DataError: A column holds something else, an infinity.
    """
    pairs = [as_known(without(frame.iloc[:, j], missing), column, source) for j, column in enumerate(known)]
    return _table(pairs, frame, name, source)


def _table(pairs: list[tuple[Column, FloatArray]], frame: "pd.DataFrame", name: str, source: str) -> Table:
    columns = tuple(column for column, _ in pairs)
    values = np.column_stack([part for _, part in pairs]) if pairs else np.empty((len(frame), 0))
    check_values(values, [column.name for column in columns], source)
    return Table(name, source, values, columns, index=frame.index)


def without(cells: "pd.Series[Any]", missing: Iterable[str | float]) -> "pd.Series[Any]":
    """The column, unknown where it holds what stands for an unknown cell; text that leaves numbers becomes them."""
    import pandas as pd
    from pandas.api import types

    missing = list(missing)
    if not missing:
        return cells
    numbers = [float(value) for value in missing if _is_number(value)]
    if types.is_numeric_dtype(cells.dtype) and not types.is_bool_dtype(cells.dtype):
        return cells.mask(cells.isin(numbers))
    if isinstance(cells.dtype, pd.CategoricalDtype):
        return cells.cat.remove_categories([level for level in cells.cat.categories if str(level) in texts_of(missing)])
    if not (types.is_string_dtype(cells.dtype) or types.is_object_dtype(cells.dtype)):
        return cells
    left = cells.mask(cells.astype("string").isin(texts_of(missing)).fillna(value=False).astype(bool))
    if left.isna().sum() == cells.isna().sum() or left.isna().all():
        return left
    found = pd.to_numeric(left, errors="coerce")
    return left if (found.isna() & left.notna()).any() else found.mask(found.isin(numbers))


def to_frame(table: Table) -> "pd.DataFrame":
    """The table as a DataFrame with its names, index and, where the values allow it, its dtypes."""
    import pandas as pd

    parts = {
        column.name: _with_dtype(table.values[:, j], column, table.index) for j, column in enumerate(table.columns)
    }
    return pd.DataFrame(parts, index=table.index)


def new_cells(cells: "pd.Series[Any]", unknown: BoolArray, values: FloatArray, column: Column) -> "pd.Series[Any]":
    """The column of levels or dates with its unknown cells replaced; known ones and the dtype are what they were."""
    import pandas as pd

    new = _with_dtype(values[unknown], column, cells.index[unknown])
    if isinstance(cells.dtype, pd.CategoricalDtype):
        missing = [level for level in pd.unique(new) if level not in cells.cat.categories]
        # To add no category may change what they are made of.
        filled = cells.cat.add_categories(missing) if missing else cells.copy()
        filled[unknown] = new.astype(filled.dtype)
        return filled
    if cells.isna().all():
        return new.reindex(cells.index)
    filled = cells.copy()
    filled[unknown] = new.astype(cells.dtype)
    return filled


def is_usable(cells: "pd.Series[Any]", name: str) -> bool:
    """Whether a column of a DataFrame can be one of a table."""
    from vadtune.errors import DataError

    try:
        find_kind(cells, name, "", NOTHING)
    except DataError:
        return False
    return True


def _with_dtype(values: FloatArray, column: Column, index: "pd.Index[Any] | None") -> "pd.Series[Any]":
    """The values with the column's own dtype, if they fit it; as floats otherwise."""
    import pandas as pd

    known = ~np.isnan(values)
    if column.levels:
        cells = np.full(len(values), None, dtype=object)
        cells[known] = levels_at(column, values[known])
        return _levels(pd.Series(cells, index=index), column)
    if column.kind == "date":
        return _dates(values, column, index)
    dtype: Any = _own_dtype(values[known], column, has_holes=not known.all())
    series: pd.Series[Any] = pd.Series(values, index=index).astype(dtype)
    return series


def _levels(cells: "pd.Series[Any]", column: Column) -> "pd.Series[Any]":
    import pandas as pd

    if column.dtype == "category":
        return cells.astype(pd.CategoricalDtype(list(column.levels), ordered=column.kind == "ordinal"))
    dtype: Any = column.dtype
    if column.is_text:
        dtype = dtype if dtype in ("object", "str") else "string"
        texts: pd.Series[Any] = cells.astype(dtype)
        return texts
    numbers: pd.Series[Any] = pd.to_numeric(cells).astype(dtype if cells.notna().all() else "Float64")
    return numbers


def _dates(values: FloatArray, column: Column, index: "pd.Index[Any] | None") -> "pd.Series[Any]":
    import pandas as pd

    # In two steps: a float64 of seconds tells microseconds apart until the year 2242, their product does not.
    fraction, whole = np.modf(np.nan_to_num(values))
    since_1970 = whole.astype(np.int64) * 1_000_000 + np.rint(fraction * 1e6).astype(np.int64)
    since_1970[np.isnan(values)] = np.iinfo(np.int64).min
    dates = pd.Series(since_1970.view("datetime64[us]"), index=index)
    if column.format:
        return dates.dt.strftime(column.format).astype("string")
    zone = column.dtype.partition(",")[2].strip(" ]")
    unit: Any = column.dtype.partition("[")[2].partition("]")[0].partition(",")[0] or "us"
    return dates.dt.as_unit(unit) if not zone else dates.dt.as_unit(unit).dt.tz_localize("UTC").dt.tz_convert(zone)


def _own_dtype(known: FloatArray, column: Column, *, has_holes: bool) -> str:
    if column.kind == "boolean" and np.isin(known, (0, 1)).all():
        return "boolean" if has_holes else column.dtype
    if column.kind == "integer" and np.array_equal(known, np.rint(known)):
        limits = np.iinfo(column.dtype.lower())
        if not known.size or (limits.min <= known.min() and known.max() <= limits.max):
            return column.dtype.replace("u", "U").replace("i", "I") if has_holes else column.dtype
    return column.dtype if column.dtype.lower() == "float32" else "float64"


def _is_number(value: str | float) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
