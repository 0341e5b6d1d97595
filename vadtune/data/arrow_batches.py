"""Fill Parquet and Feather files batch by batch: what is known keeps its bits, and all columns their types."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vadtune.data.damage import DAMAGED
from vadtune.data.files import read_csv_frame, read_feather, suffix, written_beside
from vadtune.data.filling import Fill, Output, Tell
from vadtune.data.frames import from_frame, from_frame_as
from vadtune.data.kinds import date_text, levels_at
from vadtune.data.tables import BoolArray, Column, FloatArray, write_table
from vadtune.errors import DataError, first_line

ARROW = (".parquet", ".feather")


class Source(Protocol):
    """A table as a sequence of batches, which may be gone through more than once."""

    path: Path
    schema: Any
    n_rows: int

    def batches(self, size: int, names: Sequence[str] | None = None) -> Iterator[Any]:
        """Parts of so many rows, of some columns or all."""
        ...


class ParquetSource:
    """A Parquet file, of which one batch at a time is in memory."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        self.path = path
        self.file = _checked(path, lambda: pq.ParquetFile(path))
        self.schema = self.file.schema_arrow
        self.n_rows: int = self.file.metadata.num_rows

    def batches(self, size: int, names: Sequence[str] | None = None) -> Iterator[Any]:
        """Read batch by batch."""
        batches = self.file.iter_batches(size, columns=None if names is None else list(names))
        while (batch := _checked(self.path, lambda: next(batches, None))) is not None:
            yield batch


class TableSource:
    """A table that is in memory as a whole: Feather, or CSV that is to become something else."""

    def __init__(self, path: Path, fill: Fill) -> None:
        import pyarrow as pa

        self.path = path
        if suffix(path) == ".feather":
            self.table = _checked(path, lambda: read_feather(path)).unify_dictionaries()
        else:
            texts = [column.name for column in fill.columns if column.is_text or column.format]
            self.table = pa.Table.from_pandas(read_csv_frame(path, texts, fill.missing))
        self.schema = self.table.schema
        self.n_rows: int = self.table.num_rows

    def batches(self, size: int, names: Sequence[str] | None = None) -> Iterator[Any]:
        """Cut into batches."""
        table = self.table if names is None else self.table.select(list(names))
        # Chunks of the file would else end batches early.
        yield from table.combine_chunks().to_batches(max_chunksize=size)


def fill_arrow(source: Source, outputs: Sequence[Output], fill: Fill, chunk_rows: int, tell: Tell) -> int:
    """Fill the unknown cells of a table of typed columns; see `csv_text.fill_csv`.

    A whole-number column stays one, unless the model knows it as one of fractions and it has holes.
    """
    import pyarrow as pa

    names: list[str] = source.schema.names
    positions = fill.positions(names, str(source.path))
    untyped = [names[j] for j, known in zip(positions, fill.columns, strict=True) if known.levels or known.format]
    untyped = [name for name in untyped if pa.types.is_null(source.schema.field(name).type)]
    fractions = [name for name in _become_fractions(source, fill, positions, chunk_rows) if name not in untyped]
    n_rows = 0
    with ExitStack() as stack:
        schemas = [
            with_floats(source.schema, [names[j] for j in positions])
            if output.is_std
            else with_type(with_floats(source.schema, fractions), untyped, pa.string())
            for output in outputs
        ]
        sinks = [_open_sink(stack, output.path, schema) for output, schema in zip(outputs, schemas, strict=True)]
        for batch in source.batches(chunk_rows):
            for sink, part in zip(sinks, _fill_batch(batch, outputs, schemas, fill, positions, source), strict=True):
                sink(part)
            n_rows += batch.num_rows
            tell(n_rows, n_rows / max(source.n_rows, 1))
    return n_rows


def _fill_batch(
    batch: Any, outputs: Sequence[Output], schemas: Sequence[Any], fill: Fill, positions: list[int], source: Source
) -> Iterator[Any]:
    import pyarrow as pa

    frame = batch.select(positions).to_pandas(types_mapper=nullable, ignore_metadata=True)
    table = from_frame_as(frame, fill.columns, source.path.name, str(source.path), fill.missing)
    unknown = np.isnan(table.values)
    for output, schema, values in zip(outputs, schemas, fill(table), strict=True):
        columns = list(batch.columns)
        for j, position in enumerate(positions):
            chosen = np.ones(len(unknown), dtype=np.bool_) if output.is_std else unknown[:, j]
            known = Column("", "numeric", "float64") if output.is_std else fill.columns[j]
            columns[position] = _replace(columns[position], chosen, values[:, j], schema.field(position).type, known)
        yield pa.RecordBatch.from_arrays(columns, schema=schema)


def _replace(column: Any, chosen: BoolArray, values: FloatArray, kind: Any, known: Column) -> Any:
    """The column with new values in the chosen cells, as one of type `kind`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(kind):
        return _replace_in_dictionary(column, chosen, values, kind, known)
    column = column if column.type == kind else column.cast(kind, safe=False)
    if not chosen.any():
        return column
    return pc.if_else(pa.array(chosen), _new_cells(chosen, values, kind, known), column)


def _new_cells(chosen: BoolArray, values: FloatArray, kind: Any, known: Column) -> Any:
    """An array of type `kind` that has the new values in the chosen cells."""
    import pyarrow as pa

    if known.levels:
        cells = np.full(len(values), None, dtype=object)
        cells[chosen] = levels_at(known, values[chosen])
        texts = [None if cell is None else str(cell) for cell in cells] if pa.types.is_string(kind) else cells.tolist()
        return pa.array(texts, None if known.is_text else pa.float64() if pa.types.is_integer(kind) else None).cast(
            kind
        )
    if known.kind == "date":
        return _dates(chosen, values, kind, known)
    if pa.types.is_boolean(kind):
        return pa.array(values >= 0.5)
    if pa.types.is_integer(kind):
        dtype = np.dtype(kind.to_pandas_dtype())
        limits = np.iinfo(dtype)
        return pa.array(np.clip(np.rint(np.where(chosen, values, 0)), limits.min, limits.max).astype(dtype))
    return pa.array(values).cast(kind, safe=False)


def _dates(chosen: BoolArray, values: FloatArray, kind: Any, known: Column) -> Any:
    """Seconds since 1970 as dates, or as the text that the column's dates are."""
    import pyarrow as pa

    seconds = np.where(chosen, values, 0.0)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pa.array([date_text(value, known) for value in seconds.tolist()]).cast(kind)
    dates = pa.array(np.rint(seconds * 1e6).astype(np.int64)).cast(pa.timestamp("us", getattr(kind, "tz", None)))
    return dates.cast(kind, safe=False)


def _replace_in_dictionary(column: Any, chosen: BoolArray, values: FloatArray, kind: Any, known: Column) -> Any:
    """The same of a column of categories: its categories stay in their order, those of the model come after them."""
    import pyarrow as pa

    there = column.dictionary.to_pylist()
    place = {level: number for number, level in enumerate(there)}
    wanted = [str(level) if pa.types.is_string(kind.value_type) else level for level in known.levels]
    for level in wanted:
        place.setdefault(level, len(place))
    codes = column.indices.to_numpy(zero_copy_only=False).astype(np.float64)
    if chosen.any():
        codes[chosen] = np.array([place[level] for level in wanted], np.float64)[values[chosen].astype(np.intp)]
    indices = pa.array(codes, mask=np.isnan(codes)).cast(kind.index_type)
    return pa.DictionaryArray.from_arrays(indices, pa.array(list(place), kind.value_type), ordered=kind.ordered)


def _become_fractions(source: Source, fill: Fill, positions: list[int], size: int) -> list[str]:
    """Columns that cannot keep their type: of whole numbers to be filled with fractions, or of no type at all."""
    import pyarrow as pa

    suspects = []
    for position, column in zip(positions, fill.columns, strict=True):
        kind = source.schema.field(position).type
        is_whole = pa.types.is_integer(kind) or pa.types.is_boolean(kind)
        if pa.types.is_null(kind) or (is_whole and column.kind == "numeric"):
            suspects.append(source.schema.field(position).name)
    return [
        name
        for name in suspects
        if any(batch.column(0).null_count for batch in source.batches(max(size, 65_536), [name]))
    ]


def with_floats(schema: Any, names: Sequence[str]) -> Any:
    """The schema with some columns as float64, in what pandas has noted of them, too."""
    import pyarrow as pa

    schema = with_type(schema, names, pa.float64())
    noted = (schema.metadata or {}).get(b"pandas")
    if noted is None or not names:
        return schema
    about = json.loads(noted)
    for column in about.get("columns", []):
        if column.get("field_name") in names:
            column |= {"pandas_type": "float64", "numpy_type": "float64"}
    return schema.with_metadata({**schema.metadata, b"pandas": json.dumps(about).encode()})


def with_type(schema: Any, names: Sequence[str], kind: Any) -> Any:
    """The schema with some columns of another type."""
    for name in names:
        position = schema.get_field_index(name)
        schema = schema.set(position, schema.field(position).with_type(kind))
    return schema


def _open_sink(stack: ExitStack, path: Path, schema: Any) -> Callable[[Any], None]:
    """Something that takes batches and writes them beside `path`, which is renamed when the stack ends well."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    known = suffix(path)
    if known == ".parquet":
        part = stack.enter_context(written_beside(path))
        parquet = stack.enter_context(pq.ParquetWriter(part, schema))
        return lambda batch: parquet.write_batch(batch)
    if known == ".feather":
        part = stack.enter_context(written_beside(path))
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        ipc = stack.enter_context(pa.ipc.new_file(str(part), schema, options=options))
        return lambda batch: ipc.write_batch(batch)
    if known in (".csv", ".csv.gz"):
        return _CsvSink(stack.enter_context(written_beside(path)))
    kept: list[Any] = []
    # The whole table becomes arrays at the end, if nothing went wrong.
    stack.push(lambda error, *_: _write_arrays(kept, schema, path) if error is None else None)
    return kept.append


class _CsvSink:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_first = True

    def __call__(self, batch: Any) -> None:
        import pandas as pd

        frame = batch.to_pandas(types_mapper=nullable)
        has_index = not isinstance(frame.index, pd.RangeIndex)
        mode = "w" if self.is_first else "a"
        frame.to_csv(self.path, mode=mode, header=self.is_first, index=has_index, index_label="" if has_index else None)
        self.is_first = False


def _write_arrays(batches: list[Any], schema: Any, path: Path) -> None:
    import pyarrow as pa

    frame = pa.Table.from_batches(batches, schema).to_pandas(types_mapper=nullable)
    write_table(from_frame(frame, path.stem, str(path)), path)


def nullable(kind: Any) -> Any:
    """Dtypes of pandas in which whole numbers and booleans stay what they are beside unknown cells."""
    import pandas as pd
    import pyarrow as pa

    if pa.types.is_boolean(kind):
        return pd.BooleanDtype()
    if pa.types.is_integer(kind):
        return pd.api.types.pandas_dtype(str(kind).replace("u", "U").replace("i", "I"))
    return None


def _checked(path: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except DAMAGED as error:
        raise DataError(f"{path}: cannot be read: {first_line(error)}") from None
