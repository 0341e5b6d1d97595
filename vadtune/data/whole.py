"""Fill tables of arrays (npz, npy, HDF5), which are in memory as a whole."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from vadtune.data.files import read, suffix
from vadtune.data.filling import Fill, Output, Tell
from vadtune.data.kinds import codes_of, levels_at
from vadtune.data.tables import BoolArray, Column, FloatArray, Table, write_table

ARRAYS = (".npz", ".npy", ".h5", ".hdf5")


def fill_whole(source: Path, outputs: Sequence[Output], fill: Fill, chunk_rows: int, tell: Tell) -> int:
    """Fill the unknown cells of a file of arrays; see `csv_text.fill_csv`."""
    table = read(source)
    if table.given is not None and table.given.hidden is not None:
        # What a file of the VAD paper's code hides of its test rows is unknown, though the file tells it.
        table = replace(table, values=np.where(table.given.hidden, np.nan, table.values))
    positions = fill.positions([column.name for column in table.columns], str(source))
    results = [table.values.copy() for _ in outputs]
    for start in range(0, table.n_rows, chunk_rows):
        rows = slice(start, start + chunk_rows)
        numbers = table.values[rows][:, positions]
        coded = [_codes(numbers[:, j], column) for j, column in enumerate(fill.columns)]
        part = Table(table.name, table.source, np.column_stack(coded), tuple(fill.columns))
        unknown = np.isnan(numbers)
        for output, result, values in zip(outputs, results, fill(part), strict=True):
            new = values if output.is_std else _numbers(values, unknown, fill.columns)
            result[rows, positions] = np.where(unknown, new, 0.0 if output.is_std else numbers)
        tell(min(start + chunk_rows, table.n_rows), min(1.0, (start + chunk_rows) / table.n_rows))
    for output, values in zip(outputs, results, strict=True):
        write_table(_as_stored(replace(table, values=values, given=None), output), output.path)
    return table.n_rows


def _codes(numbers: FloatArray, column: Column) -> FloatArray:
    """The codes of a column's levels, which are numbers in a file of arrays."""
    import pandas as pd

    return codes_of(pd.Series(numbers), column.levels) if column.levels else numbers


def _numbers(values: FloatArray, unknown: BoolArray, columns: Sequence[Column]) -> FloatArray:
    """The numbers that the codes of unknown cells stand for."""
    numbers = values.copy()
    for j, column in enumerate(columns):
        if column.levels:
            numbers[unknown[:, j], j] = [float(level) for level in levels_at(column, values[unknown[:, j], j])]
    return numbers


def _as_stored(table: Table, output: Output) -> Table:
    """The table with the dtype its array had in the file; spreads are numbers, whatever their column holds."""
    if output.is_std:
        columns = tuple(Column(column.name, "numeric", "float64") for column in table.columns)
        # Spreads of pixels may leave [0, 1] in principle: they are no image.
        return replace(table, columns=columns, image_shape=None)
    dtypes = {column.dtype for column in table.columns}
    if suffix(output.path) in ARRAYS and table.image_shape is None and len(dtypes) == 1:
        stored: FloatArray = table.values.astype(dtypes.pop().lower())
        return replace(table, values=stored)
    return table
