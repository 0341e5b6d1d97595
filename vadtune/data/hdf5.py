"""Reading HDF5 from strangers: nothing outside the file, nothing larger than memory."""

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vadtune.data.damage import DAMAGED
from vadtune.errors import DataError, first_line

_TEXT_LIMIT_S = 60.0
_TEXTS = "import sys, json, h5py; json.dump(h5py.File(sys.argv[1])[sys.argv[2]].asstr()[...].tolist(), sys.stdout)"


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
    except DAMAGED as error:
        raise DataError(f"{path}: cannot be read as HDF5: {first_line(error)}") from None


def read_datasets(file: Any, names: Iterable[str], path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read datasets that are stored in this very file; every one is checked before any is read.

    Raises:
        DataError: A dataset is missing, is a link, lies outside the file, or all together exceed the free memory.
    """
    datasets = {name: _stored_dataset(file, name, path) for name in names}
    check_memory(sum(8 * int(dataset.size) for dataset in datasets.values()), path)
    return {name: _read(dataset, path) for name, dataset in datasets.items()}


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


def _read(dataset: Any, path: Path) -> npt.NDArray[Any]:
    import h5py

    text = h5py.check_string_dtype(dataset.dtype)
    if text is None:
        return np.asarray(dataset[...])
    if text.length is None:
        return np.array(_read_texts(path, dataset.name), dtype=str)
    return np.array(dataset.asstr()[...], dtype=str)


def _read_texts(path: Path, name: str) -> list[Any]:
    """Text of any length, read by another process: in a damaged heap HDF5 may search for ever, or crash."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _TEXTS, str(path.absolute()), name],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TEXT_LIMIT_S,
            check=True,
        )
    except subprocess.TimeoutExpired:
        raise DataError(f"{path}: {name} cannot be read in {_TEXT_LIMIT_S:g} s: the file is damaged.") from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().splitlines() or [f"HDF5 crashed ({error.returncode})"]
        raise DataError(f"{path}: {name} cannot be read: {said[-1]}") from None
    texts = json.loads(done.stdout)
    return texts if isinstance(texts, list) else [texts]
