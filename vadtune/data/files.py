"""The file formats of a table, by suffix."""

import gzip
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vadtune.data.damage import DAMAGED
from vadtune.data.declared import NOTHING, Declared, beside, texts_of
from vadtune.data.filling import Known
from vadtune.data.frames import from_frame, from_frame_as, to_frame
from vadtune.data.hdf5 import check_memory, open_hdf5, read_datasets, top_datasets
from vadtune.data.tables import Table, check_names, from_arrays, to_arrays
from vadtune.errors import DataError, first_line
from vadtune.settings import nearest

if TYPE_CHECKING:
    import pandas as pd


def suffix(path: Path) -> str | None:
    """The suffix of a file that can be read and written, or None."""
    return next((known for known in FORMATS if path.name.lower().endswith(known)), None)


def read(path: Path, declared: Declared | None = None) -> Table:
    """See `vadtune.data.tables.read_table`; without a declaration, what the file beside the table says counts."""
    known = suffix(path)
    if known is None:
        raise DataError(f"{path}: the suffix is not one of {', '.join(FORMATS)}. {nearest(path.suffix, FORMATS)}")
    if not path.is_file():
        raise DataError(f"{path}: no such file. Check the path (the folder is {Path.cwd()}).")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty.")
    stem = path.name[: -len(known)]
    return FORMATS[known][0](path, stem, beside(path, NOTHING) if declared is None else declared)


def read_known(path: Path, model: Known) -> Table:
    """The columns that a model knows, in its order and as it knows them; of a file of arrays all columns.

    Raises:
        DataError: The file cannot be read, a named column is missing or holds something else.
    """
    known = suffix(path) or ""
    if known not in FRAMES:
        return read(path, Declared(missing=tuple(model.missing)))
    frame = _read_frame(path, model)
    positions = model.positions([str(name) for name in frame.columns], str(path))
    stem = path.name[: -len(known)]
    return from_frame_as(frame.iloc[:, positions], model.columns, stem, str(path), model.missing)


def _read_frame(path: Path, model: Known) -> "pd.DataFrame":

    match suffix(path):
        case ".parquet":
            return _frame(_parquet_frame, path)
        case ".feather":
            return _frame(_feather_frame, path)
    texts = [column.name for column in model.columns if column.is_text or column.format]
    return read_csv_frame(path, texts, model.missing)


def write(table: Table, path: Path) -> None:
    """See `vadtune.data.tables.write_table`."""
    known = suffix(path)
    if known is None:
        raise DataError(f"{path}: the suffix is not one of {', '.join(FORMATS)}. Give the output another name.")
    with written_beside(path) as part:
        FORMATS[known][1](table, part)


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to, renamed at the end: nobody ever sees half a file.

    Raises:
        DataError: The folder cannot be made or written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            part = Path(folder) / path.name
            yield part
            os.replace(part, path)  # noqa: PTH105  (the same, and it reads as what it is: atomic)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from None


def _read_csv(path: Path, stem: str, declared: Declared) -> Table:
    ordered = (name for name, levels in declared.ordinal.items() if any(isinstance(level, str) for level in levels))
    frame = read_csv_frame(path, (*declared.categorical, *ordered, *declared.date), declared.missing)
    floats = {column: "float64" for column, dtype in frame.dtypes.items() if dtype == "Float64"}
    return from_frame(frame.astype(floats), stem, str(path), declared)


def read_csv_frame(path: Path, texts: Iterable[str] = (), missing: Iterable[str | float] = ()) -> "pd.DataFrame":
    """A CSV file as a DataFrame of nullable dtypes: whole numbers stay whole beside empty cells.

    Args:
        path: `.csv` or `.csv.gz`.
        texts: Columns to leave as they are written: 007 is not 7.
        missing: What stands for an unknown cell, beside nothing, NA, NaN and the like.

    Raises:
        DataError: It cannot be read, or its first line is not one of column names.
    """
    import pandas as pd

    try:
        check_memory(_text_size(path), path)
        head = pd.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False).iloc[0].tolist()
        check_head(head, path)
        index_col = 0 if head[0] == "" else None
        frame = pd.read_csv(
            path,
            index_col=index_col,
            low_memory=False,
            dtype_backend="numpy_nullable",
            dtype=dict.fromkeys(set(texts) & set(head), "string"),
            na_values=texts_of(missing),
        )
    except DAMAGED as error:
        raise DataError(f"{path}: cannot be read as CSV: {first_line(error)}") from None
    if index_col is None and not isinstance(frame.index, pd.RangeIndex):
        raise DataError(f"{path}: the rows have more cells than the first line has names.")
    return frame


def _text_size(path: Path) -> int:
    """How long the text of a file is; a packed one is not unpacked past what memory holds."""
    if not path.name.lower().endswith(".gz"):
        return path.stat().st_size
    size = 0
    with gzip.open(path) as file:
        while part := file.read(2**22):
            size += len(part)
            check_memory(size, path)
    return size


def check_head(head: list[str], path: Path) -> None:
    """Refuse what pandas would silently mend: equal names, numbers for names, another separator."""
    names = head[1:] if head[0] == "" else head
    if len(head) == 1 and any(mark in head[0] for mark in ";\t|"):
        raise DataError(f"{path}: the first line has no comma: {head[0][:60]!r}. Separate columns by commas.")
    if names and all(_is_number(name) for name in names) and not all(name.strip().isdigit() for name in names):
        raise DataError(f"{path}: the first line holds numbers. Put a line of column names above it.")
    check_names(names, str(path))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _write_csv(table: Table, path: Path) -> None:
    import pandas as pd

    frame = to_frame(table)
    frame.to_csv(path, index=not isinstance(frame.index, pd.RangeIndex), index_label="")


def _read_parquet(path: Path, stem: str, declared: Declared) -> Table:
    return _read_arrow(_parquet_frame, path, stem, declared)


def _parquet_frame(path: Path) -> "pd.DataFrame":
    import pandas as pd
    import pyarrow.parquet as pq

    about = pq.read_metadata(path)
    check_memory(8 * about.num_rows * about.num_columns, path)
    return pd.read_parquet(path)


def _write_parquet(table: Table, path: Path) -> None:
    to_frame(table).to_parquet(path)


def _read_feather(path: Path, stem: str, declared: Declared) -> Table:
    return _read_arrow(_feather_frame, path, stem, declared)


def _feather_frame(path: Path) -> "pd.DataFrame":
    import pandas as pd

    read_feather(path)
    return pd.read_feather(path)


def read_feather(path: Path) -> Any:
    """The Arrow table of a Feather file; Arrow believes offsets, and a false one would end the process later."""
    from pyarrow import feather

    table = feather.read_table(path)
    table.validate(full=True)
    return table


def _write_feather(table: Table, path: Path) -> None:
    import pyarrow as pa
    from pyarrow import feather

    feather.write_feather(pa.Table.from_pandas(to_frame(table)), str(path))  # pandas' own refuses an index


def _read_arrow(reader: "Callable[[Path], pd.DataFrame]", path: Path, stem: str, declared: Declared) -> Table:
    return from_frame(_frame(reader, path), stem, str(path), declared)


def _frame(reader: "Callable[[Path], pd.DataFrame]", path: Path) -> "pd.DataFrame":
    try:
        return reader(path)
    except DAMAGED as error:
        raise DataError(f"{path}: cannot be read: {first_line(error)}") from None


def _read_npy(path: Path, stem: str, declared: Declared) -> Table:
    array = _load(path)
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path}: found an archive, expected one array. Name it {stem}.npz.")
    if array.ndim == 3:
        raise DataError(f"{path}: found {array.dtype} {array.shape}. Save images as `images` in an .npz file.")
    return declare(from_arrays({"values": array}, stem, str(path)), declared)


def _write_npy(table: Table, path: Path) -> None:
    np.save(path, table.values, allow_pickle=False)


def _read_npz(path: Path, stem: str, declared: Declared) -> Table:
    return declare(from_arrays(read_npz(path), stem, str(path)), declared)


def read_npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    """All arrays of an archive; objects are refused, for to read them is to run them.

    Raises:
        DataError: Not an archive of arrays, damaged, or larger than the memory.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            check_memory(sum(member.file_size for member in archive.infolist()), path)
        loaded = _load(path)
        arrays = {key: loaded[key] for key in loaded.files}
    except DAMAGED as error:
        raise DataError(f"{path}: cannot be read as .npz: {first_line(error)}") from None
    others = [key for key, array in arrays.items() if not isinstance(array, np.ndarray)]
    if others:
        raise DataError(f"{path}: {others[0]!r} in it is no array. Write it by numpy's savez.")
    return arrays


def _load(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except DAMAGED as error:
        raise DataError(f"{path}: cannot be read: {first_line(error)}") from None


def _write_npz(table: Table, path: Path) -> None:
    np.savez_compressed(path, allow_pickle=False, **to_arrays(table))


def _read_h5(path: Path, stem: str, declared: Declared) -> Table:
    from vadtune.data.reference import is_reference, read_reference

    with open_hdf5(path) as file:
        found = top_datasets(file)
    if is_reference(found):
        return read_reference(path, stem)
    with open_hdf5(path) as file:
        known = [name for name in ("images", "values", "columns", "labels") if name in found]
        arrays = read_datasets(file, known if {"images", "values"} & set(known) else found, path)
    return declare(from_arrays(arrays, stem, str(path)), declared)


def declare(table: Table, declared: Declared) -> Table:
    """A table of numbers, with what is declared of its columns.

    Raises:
        DataError: A column is not what it is declared to be.
        ConfigError: A column is declared that is not there.
    """
    if declared == NOTHING:
        return table
    found = from_frame(to_frame(table), table.name, table.source, declared)
    return replace(found, labels=table.labels, index=None, given=table.given)


def _write_h5(table: Table, path: Path) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        for name, array in to_arrays(table).items():
            is_text = array.dtype.kind == "U"
            file.create_dataset(
                name, data=array.astype(object) if is_text else array, dtype=h5py.string_dtype() if is_text else None
            )


FRAMES = (".csv", ".csv.gz", ".parquet", ".feather")
FORMATS: dict[str, tuple[Callable[[Path, str, Declared], Table], Callable[[Table, Path], None]]] = {
    ".csv": (_read_csv, _write_csv),
    ".csv.gz": (_read_csv, _write_csv),
    ".parquet": (_read_parquet, _write_parquet),
    ".feather": (_read_feather, _write_feather),
    ".npz": (_read_npz, _write_npz),
    ".npy": (_read_npy, _write_npy),
    ".h5": (_read_h5, _write_h5),
    ".hdf5": (_read_h5, _write_h5),
}
