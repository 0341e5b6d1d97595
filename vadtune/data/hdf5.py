"""Reading HDF5 from strangers: nothing outside the file, nothing larger than memory."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vadtune.errors import DataError


@contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """Open a file for reading.

    Raises:
        DataError: The file is not there or is not HDF5, when opened or while it is read.
    """
    import h5py

    if not path.is_file():
        raise DataError(f"{path}: no such file.")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError) as error:
        raise DataError(f"{path}: cannot be read as HDF5: {error}") from None


def read_datasets(file: Any, names: Iterable[str], path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read datasets that are stored in this very file; every one is checked before any is read.

    Raises:
        DataError: A dataset is missing, is a link, lies outside the file, or all together exceed the free memory.
    """
    datasets = {name: _stored_dataset(file, name, path) for name in names}
    check_memory(sum(8 * int(dataset.size) for dataset in datasets.values()), path)
    return {name: _read(dataset) for name, dataset in datasets.items()}


def top_datasets(file: Any) -> list[str]:
    """Names of what lies at the top of the file and is no group; links are not followed."""
    import h5py

    return [
        name
        for name in file
        if not isinstance(file.get(name, getlink=True), h5py.HardLink) or file.get(name, getclass=True) is h5py.Dataset
    ]


def check_memory(n_bytes: int, path: Path) -> None:
    """Refuse what would not fit in the free memory twice over: once as it is stored, once as a table.

    Raises:
        DataError: It says how much is needed and how much there is.
    """
    import psutil

    free = psutil.virtual_memory().available
    if 2 * n_bytes > free:
        raise DataError(f"{path}: declares {n_bytes / 1e9:,.1f} GB of data; {free / 1e9:,.1f} GB of memory are free.")


def _stored_dataset(file: Any, name: str, path: Path) -> Any:
    import h5py

    link = file.get(name, getlink=True) if name in set(file) else None  # a dangling link is not `in` its file
    if link is None:
        raise DataError(f"{path}: dataset {name} is missing; found {', '.join(sorted(file)) or 'an empty file'}.")
    if not isinstance(link, h5py.HardLink):
        raise DataError(f"{path}: {name} is a link; expected a dataset stored in the file itself.")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset):
        raise DataError(f"{path}: {name} is a group; expected a dataset.")
    if dataset.external or dataset.is_virtual:
        raise DataError(f"{path}: {name} keeps its values in other files; expected them in the file itself.")
    if dataset.dtype.kind not in "biuf" and not h5py.check_string_dtype(dataset.dtype):
        raise DataError(f"{path}: {name} holds {dataset.dtype}; expected numbers.")
    return dataset


def _read(dataset: Any) -> npt.NDArray[Any]:
    import h5py

    if h5py.check_string_dtype(dataset.dtype):
        return np.array(dataset.asstr()[...], dtype=str)
    return np.asarray(dataset[...])
