"""Datasets from OpenML, into the data folder."""

import http.client
import re
import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vadtune.data.frames import from_frame, is_usable
from vadtune.data.tables import Table, image_table, write_table
from vadtune.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

# Takes and gives what scikit-learn's `fetch_openml` does.
Download = Callable[..., Any]

IMAGES = {"mnist": "mnist_784", "fashion_mnist": "Fashion-MNIST"}
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Fetched:
    """What was written where, and the columns that no model can take and were left out."""

    table: Table
    path: Path
    left_out: tuple[str, ...]


def fetch(name: str, data_dir: Path, download: Download | None = None) -> Fetched:
    """Bring complete MNIST, Fashion-MNIST or any OpenML table into `data_dir/NAME/`, where `load(NAME)` finds it.

    Args:
        name: `mnist`, `fashion_mnist`, or a name on openml.org (its active version, without the target column).
        data_dir: Folder of the datasets.
        download: Brings the data; by default scikit-learn's `fetch_openml`.

    Raises:
        DataError: No network, no such dataset, no usable column, or the folder cannot be written to.
    """
    if not re.fullmatch(r"\w[\w.()+-]*", name):
        raise DataError(f"{name!r} cannot be a dataset of OpenML: expected letters, digits and _ . ( ) + - only.")
    bunch = _download(name, download or _fetch_openml)
    if name in IMAGES:
        return _write(_images(bunch, name), data_dir / name / f"{name}.npz", ())
    usable, left_out = _usable_columns(bunch.data)
    if usable.shape[1] == 0:
        raise DataError(f"{name}: none of its {bunch.data.shape[1]} columns can be modelled. Take another dataset.")
    return _write(from_frame(usable, name, f"OpenML: {name}"), data_dir / name / f"{name}.parquet", left_out)


def _download(name: str, download: Download) -> Any:
    try:
        with _patience():
            return download(name=IMAGES.get(name, name), version=1 if name in IMAGES else "active")
    except (OSError, http.client.HTTPException) as error:
        raise DataError(
            f"{name}: openml.org cannot be reached ({error}). Check the network, or bring the file by hand: "
            "any path of a CSV, Parquet, npz or HDF5 file is a dataset."
        ) from None
    except ValueError as error:  # scikit-learn's OpenMLError is one
        raise DataError(f"{name}: OpenML refuses it: {str(error).splitlines()[0]}") from None


def _fetch_openml(name: str, version: int | str) -> Any:
    from sklearn.datasets import fetch_openml

    return fetch_openml(name=name, version=version, as_frame=True, parser="auto", cache=False)


@contextmanager
def _patience() -> Iterator[None]:
    """No download hangs for ever; the warnings of a retry are of no use when the retry succeeds."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_S)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        socket.setdefaulttimeout(before)


def _images(bunch: Any, name: str) -> Table:
    pixels = bunch.data.to_numpy()
    if pixels.ndim != 2 or pixels.shape[1] != 28 * 28 or pixels.min() < 0 or pixels.max() > 255:
        raise DataError(f"{name}: OpenML sent {pixels.shape}; expected (rows, 784) pixels from 0 to 255.")
    labels = np.asarray(bunch.target).astype(np.int64)
    return image_table(pixels.astype(np.uint8).reshape(-1, 28, 28), labels, name, f"OpenML: {IMAGES[name]}")


def _usable_columns(frame: "pd.DataFrame") -> "tuple[pd.DataFrame, tuple[str, ...]]":
    kept = [is_usable(frame[column], str(column)) for column in frame.columns]
    left_out = tuple(str(column) for column, keep in zip(frame.columns, kept, strict=True) if not keep)
    return frame.loc[:, kept], left_out


def _write(table: Table, path: Path, left_out: tuple[str, ...]) -> Fetched:
    write_table(table, path)
    return Fetched(table, path, left_out)
