"""Fill CSV files cell by cell: what is known keeps its text, to the byte, and memory stays constant."""

import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TextIO

import numpy as np

from vadtune.data.declared import texts_of
from vadtune.data.files import check_head, written_beside
from vadtune.data.filling import Fill, Output, Tell
from vadtune.data.frames import from_frame_as
from vadtune.data.kinds import date_text, levels_at
from vadtune.data.tables import BoolArray, Column, FloatArray, Table
from vadtune.errors import DataError

# A cell in quotes, or one without; quotes inside an unquoted cell are text.
_CELL = re.compile(r'"(?:[^"]|"")*+"[^,]*+|(?!")[^,]*+')
MAX_RECORD = 2**20  # characters: a quote that nobody closes must not swallow the file


@dataclass(frozen=True)
class Record:
    """One line of cells, as it stands in the file; `ending` is its line break, or none at the end of the file."""

    cells: list[str]
    ending: str

    @property
    def text(self) -> str:
        """The line."""
        return ",".join(self.cells) + self.ending


def fill_csv(source: Path, outputs: Sequence[Output], fill: Fill, chunk_rows: int, tell: Tell) -> int:
    """Fill the unknown cells of a CSV file.

    Args:
        source: `.csv` or `.csv.gz`.
        outputs: What to write, as many as `fill` gives.
        fill: Completes a part of the table.
        chunk_rows: How many rows to hold at once.
        tell: Is told the rows and the share of the file that are done.

    Returns:
        How many rows there are.

    Raises:
        DataError: It cannot be read, lacks a column, or a line has too many or too few cells.
    """
    n_rows = 0
    with _reading(source) as (file, share), ExitStack() as stack:
        lines = _records(file, source)
        head = _read_head(lines, source)
        names = next(csv.reader([head.text.lstrip("\ufeff")]))
        check_head(names, source)
        positions = fill.positions(names, str(source))
        parts = [_writing(stack, output.path) for output in outputs]
        for part in parts:
            part.write(head.text)
        for records in _chunks(lines, chunk_rows):
            n_rows += _fill_chunk(records, parts, outputs, fill, positions, _Place(source, names, n_rows))
            tell(n_rows, share())
    return n_rows


@dataclass(frozen=True)
class _Place:
    """Where a chunk begins."""

    source: Path
    names: list[str]
    first_row: int


def _fill_chunk(
    records: list[Record],
    parts: Sequence[TextIO],
    outputs: Sequence[Output],
    fill: Fill,
    positions: list[int],
    place: _Place,
) -> int:
    rows = [record for record in records if not _is_blank(record)]
    for number, record in enumerate(rows, place.first_row + 1):
        if len(record.cells) != len(place.names):
            raise DataError(
                f"{place.source}: row {number} has {len(record.cells)} cells, the first line names {len(place.names)}."
            )
    if rows:
        table = _parse(rows, positions, place, fill)
        unknown: BoolArray = np.isnan(table.values)
        for part, output, values in zip(parts, outputs, fill(table), strict=True):
            chosen = np.ones_like(unknown) if output.is_std else unknown
            texts = _replaced(rows, positions, chosen, values, _written_as(table, fill, output))
            part.writelines(record.text if _is_blank(record) else next(texts) for record in records)
    else:
        for part in parts:
            part.writelines(record.text for record in records)
    return len(rows)


def _replaced(
    rows: list[Record], positions: list[int], chosen: BoolArray, values: FloatArray, columns: list[Column]
) -> Iterator[str]:
    """The lines, with new text in the chosen cells `(N, D)`."""
    changed = set(np.nonzero(chosen)[0].tolist())
    for number, record in enumerate(rows):
        if number not in changed:
            yield record.text
            continue
        cells = list(record.cells)
        new = values[number].tolist()
        for j in np.flatnonzero(chosen[number]).tolist():
            cells[positions[j]] = _text(new[j], columns[j])
        yield ",".join(cells) + record.ending


def _written_as(table: Table, fill: Fill, output: Output) -> list[Column]:
    """How the new cells of each column are written: as the model knows it, but booleans as this file writes them."""
    if output.is_std:
        return [Column(column.name, "numeric", "float64") for column in table.columns]
    columns: list[Column] = []
    for column, known, values in zip(table.columns, fill.columns, table.values.T, strict=True):
        has_zeros_and_ones = known.kind == "boolean" != column.kind and not np.isnan(values).all()
        columns.append(Column(known.name, "integer", "int64") if has_zeros_and_ones else known)
    return columns


def _text(value: float, column: Column) -> str:
    if column.levels:
        return quoted(str(levels_at(column, np.array([value]))[0]))
    if column.kind == "boolean":
        return str(value >= 0.5)
    if column.kind == "date":
        return quoted(date_text(value, column))
    return str(int(value)) if column.kind == "integer" else repr(value)


def quoted(text: str) -> str:
    """Text as a cell: in quotes where it needs them."""
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',"\r\n') or text == "" else text


def _parse(rows: list[Record], positions: list[int], place: _Place, fill: Fill) -> Table:
    """The values of the model's columns, in its order."""
    import pandas as pd

    names = [place.names[j] for j in positions]
    text = "".join(",".join([record.cells[j] for j in positions]) + "\n" for record in rows)
    source = f"{place.source} (rows counted from {place.first_row:,})" if place.first_row else str(place.source)
    try:
        frame = pd.read_csv(
            io.StringIO(text),
            header=None,
            names=names,
            index_col=False,
            skip_blank_lines=False,
            low_memory=False,
            dtype_backend="numpy_nullable",
            dtype={
                name: "string"
                for name, column in zip(names, fill.columns, strict=True)
                if column.is_text or column.format
            },
            na_values=texts_of(fill.missing),
        )
    except ValueError as error:  # pandas' parser errors, and text that is not UTF-8
        raise DataError(f"{source}: cannot be read as CSV: {str(error).splitlines()[0]}") from None
    floats = {column: "float64" for column, dtype in frame.dtypes.items() if dtype == "Float64"}
    return from_frame_as(frame.astype(floats), fill.columns, place.source.name, source)


def _chunks(records: Iterator[Record], size: int) -> Iterator[list[Record]]:
    chunk: list[Record] = []
    for record in records:
        chunk.append(record)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _read_head(records: Iterator[Record], source: Path) -> Record:
    """The line of names."""
    head = next(records, None)
    if head is None or _is_blank(head):
        raise DataError(f"{source}: the first line is empty; expected column names.")
    return head


def _records(file: TextIO, source: Path) -> Iterator[Record]:
    """The lines of a file; a cell in quotes may go on over several."""
    try:
        for line in file:
            text, cells = line, _split(line)
            while cells is None:
                more = file.readline()
                if not more or len(text) > MAX_RECORD:
                    raise DataError(f"{source}: a cell in quotes has no end: {text[:40]!r}…")
                text += more
                cells = _split(text) if '"' in more else None
            ending = cells[-1][len(cells[-1].rstrip("\r\n")) :]
            cells[-1] = cells[-1][: len(cells[-1]) - len(ending)]
            yield Record(cells, ending)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{source}: cannot be read: {error}") from None


def _split(text: str) -> list[str] | None:
    """The cells of a line with its line break, quotes and all; None if a cell in quotes goes on."""
    if '"' not in text:
        return text.split(",")
    cells, at = [], 0
    while True:
        match = _CELL.match(text, at)
        if match is None:
            return None
        cells.append(match[0])
        at = match.end() + 1
        if at > len(text):
            return cells


def _is_blank(record: Record) -> bool:
    return record.cells == [""]


@contextmanager
def _reading(path: Path) -> Iterator[tuple[TextIO, "_Share"]]:
    """The text of a file, byte for byte, and how much of it has been read."""
    try:
        raw = path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    with raw:
        packed: Any = gzip.GzipFile(fileobj=raw) if path.name.lower().endswith(".gz") else raw
        with io.TextIOWrapper(packed, encoding="utf-8", errors="surrogateescape", newline="") as file:
            yield file, _Share(raw, max(path.stat().st_size, 1))


@dataclass(frozen=True)
class _Share:
    file: IO[bytes]
    size: int

    def __call__(self) -> float:
        return self.file.tell() / self.size


def _writing(stack: ExitStack, path: Path) -> TextIO:
    """A text file beside `path`, renamed when the stack ends well."""
    part = stack.enter_context(written_beside(path))
    if path.name.lower().endswith(".gz"):
        packed = stack.enter_context(gzip.GzipFile(part, "wb", compresslevel=6))
        return stack.enter_context(io.TextIOWrapper(packed, encoding="utf-8", errors="surrogateescape", newline=""))
    return stack.enter_context(part.open("w", encoding="utf-8", errors="surrogateescape", newline=""))
