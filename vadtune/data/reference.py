"""The HDF5 layouts of the VAD paper's code, `data/NAME/NAME.h5` and `data/NAME/NAME_RATE.h5`: read and written.

| layout | datasets |
|---|---|
| masked | `train_y, train_mask, test_y, test_mask, test_y_true`: mask 1 = observed, -100 (landmarks: -10) elsewhere |
| images | `train_x, test_x`: uint8 |
| rows | `train_data, test_data` |
| landmarks | `train_2d, train_mask, valid_2d, valid_mask, test_2d, test_mask`: one mask for each landmark |

Images are `(N, h, w)` or, if square, `(N, h * w)`; landmarks `(N, P, 2)` or `(N, 2 * P)`.

Source: Zadeh, Lim, Liang, Morency (2019), Variational auto-decoder, arXiv:1903.00840, and the description of its files.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vadtune.data.files import written_beside
from vadtune.data.hdf5 import open_hdf5, read_datasets, top_datasets
from vadtune.data.splits import DataConfig, split_rows, target_masks
from vadtune.data.synthetic import landmark_columns
from vadtune.data.tables import BoolArray, Column, FloatArray, GivenSplit, Table, check_values, pixel_columns
from vadtune.errors import DataError

SENTINEL = -100.0
LANDMARK_SENTINEL = -10.0
IMAGE_NAMES = ("mnist", "fashion_mnist")

Arrays = dict[str, npt.NDArray[Any]]


def reference_name(name: str) -> str:
    """The dataset of a file: `mnist_0.5` is one of `mnist`."""
    stem, _, rate = name.rpartition("_")
    return stem if stem and rate.replace(".", "", 1).isdigit() else name


def is_reference(found: Collection[str]) -> bool:
    """Whether a file with these datasets has one of the layouts, complete or not."""
    return any(set(layout.marks) & set(found) for layout in LAYOUTS)


def read_reference(path: Path, name: str) -> Table:
    """Read a file of any of the layouts; the table remembers the split, and the test cells that the file hides.

    A row is unknown where its mask says so. In the masked layout, `test_y_true` is what the hidden test cells are
    scored by; the hidden cells of training rows are not known to anybody.

    Raises:
        DataError: A dataset is missing, misshapen or empty, train and test differ in width, a mask disagrees with the
            sentinel. It names file, dataset, what was expected and what was found.
    """
    with open_hdf5(path) as file:
        found = top_datasets(file)
        layout = next((layout for layout in LAYOUTS if set(layout.marks) & set(found)), None)
        if layout is None:
            expected = "; or ".join(", ".join(layout.datasets) for layout in LAYOUTS)
            raise DataError(f"{path}: expected the datasets {expected}; found {', '.join(found) or 'none'}.")
        arrays = read_datasets(file, layout.datasets, path)
    _check_shapes(arrays, path)
    return layout.read(arrays, name, path)


def write_clean(table: Table, name: str, folder: Path, config: DataConfig) -> Path:
    """Write `folder/NAME/NAME.h5` in the layout of the table's kind: images, landmarks, or rows.

    Args:
        table: Complete, but for landmarks, whose unknown ones are masked.
        name: The dataset's name in its path.
        folder: What the paper's code calls `data`.
        config: Which rows are for validation and test; only landmarks have a place for validation rows.

    Returns:
        The path of the file.

    Raises:
        DataError: The table has unknown cells that the layout cannot tell, or the folder cannot be written to.
    """
    train, validation, test = split_rows(table, config)
    both = np.union1d(train, validation)
    if table.is_landmarks:
        parts = {"train": train, "valid": validation, "test": test}
        return _write(_clean_landmarks(table, parts), folder / name / f"{name}.h5")
    if np.isnan(table.values).any():
        raise DataError(f"{table.name}: has unknown cells, and the clean layout has no mask. Give a missing rate.")
    if table.image_shape:
        pixels = np.rint(table.values * 255).astype(np.uint8).reshape(-1, *table.image_shape)
        return _write({"train_x": pixels[both], "test_x": pixels[test]}, folder / name / f"{name}.h5")
    return _write({"train_data": table.values[both], "test_data": table.values[test]}, folder / name / f"{name}.h5")


def write_masked(table: Table, name: str, folder: Path, config: DataConfig) -> Path:
    """Write `folder/NAME/NAME_RATE.h5`: rows of train and test, hidden by the mechanism and the rates of `config`.

    Returns:
        The path of the file.

    Raises:
        DataError: The folder cannot be written to.
        ConfigError: The mechanism cannot meet the rate.
    """
    train, validation, test = split_rows(table, config)
    both = np.union1d(train, validation)
    masks = target_masks(table, config)
    sentinel = LANDMARK_SENTINEL if table.is_landmarks else SENTINEL
    arrays: Arrays = {"test_y_true": table.values[test]}
    for part, rows, target_mask in (("train", both, masks.train), ("test", test, masks.test)):
        observed = ~(np.isnan(table.values[rows]) | target_mask[rows])
        arrays[f"{part}_y"] = np.where(observed, table.values[rows], table.values.dtype.type(sentinel))
        arrays[f"{part}_mask"] = observed.astype(np.uint8)
    if table.image_shape and reference_name(name) not in IMAGE_NAMES:  # of those it is known that a row is an image
        arrays = {key: array.reshape(-1, *table.image_shape) for key, array in arrays.items()}
    return _write(arrays, folder / name / f"{name}_{config.missing_rate:g}.h5")


def _write(arrays: Arrays, path: Path) -> Path:
    import h5py

    with written_beside(path) as part, h5py.File(part, "w") as file:
        for key, array in arrays.items():
            file.create_dataset(key, data=array, compression="gzip", compression_opts=1, shuffle=True)
    return path


def _clean_landmarks(table: Table, parts: dict[str, npt.NDArray[np.integer[Any]]]) -> Arrays:
    points = table.values.reshape(table.n_rows, -1, 2)
    observed = ~np.isnan(points[..., :1] + points[..., 1:])
    arrays: Arrays = {}
    for part, rows in parts.items():
        arrays[f"{part}_2d"] = np.where(observed[rows], points[rows], LANDMARK_SENTINEL)
        arrays[f"{part}_mask"] = observed[rows, :, 0].astype(np.uint8)
    return arrays


def _read_masked(arrays: Arrays, name: str, path: Path) -> Table:
    sentinel = _sentinel_of(arrays, path)
    shape = arrays["train_y"].shape[1:]
    y = {key: _flat(arrays[key]) for key in ("train_y", "test_y", "test_y_true")}
    _check_width(y, path)
    train_observed = _observed(arrays["train_mask"], y["train_y"], "train", sentinel, path)
    test_observed = _observed(arrays["test_mask"], y["test_y"], "test", sentinel, path)
    truth = _truth(y["test_y_true"], y["test_y"], test_observed, sentinel, path)
    hidden = np.concatenate([np.zeros_like(train_observed), ~test_observed & ~np.isnan(truth)])
    values = np.concatenate([np.where(train_observed, y["train_y"], np.nan), truth])
    given = _given(len(train_observed), 0, len(test_observed))
    is_landmarks = sentinel == LANDMARK_SENTINEL or shape[1:] == (2,) or reference_name(name) == "sfm"
    table = _table(values, shape, name, path, is_landmarks=is_landmarks)
    return replace(table, given=replace(given, hidden=hidden))


def _read_images(arrays: Arrays, name: str, path: Path) -> Table:
    for key, array in arrays.items():
        if array.dtype != np.uint8:
            raise DataError(f"{path}: {key} holds {array.dtype}; expected uint8 pixels.")
    flat = {key: _flat(array) for key, array in arrays.items()}
    _check_width(flat, path)
    shape = arrays["train_x"].shape[1:]
    values = np.concatenate(list(flat.values())).astype(np.float32) / np.float32(255)
    table = _table(values, shape if len(shape) == 2 else _square(shape[0], path), name, path)
    return replace(table, given=_given(len(arrays["train_x"]), 0, len(arrays["test_x"])))


def _read_rows(arrays: Arrays, name: str, path: Path) -> Table:
    flat = {key: _flat(array) for key, array in arrays.items()}
    _check_width(flat, path)
    values = np.concatenate(list(flat.values())).astype(np.float64)
    table = _table(values, values.shape[1:], name, path)
    return replace(table, given=_given(len(arrays["train_data"]), 0, len(arrays["test_data"])))


def _read_landmarks(arrays: Arrays, name: str, path: Path) -> Table:
    parts = ("train", "valid", "test")
    points = {f"{part}_2d": _flat(arrays[f"{part}_2d"]) for part in parts}
    _check_width(points, path)
    _check_pairs(points["train_2d"].shape[1], path)
    seen = []
    for part in parts:
        x = points[f"{part}_2d"]
        observed = _mask(arrays[f"{part}_mask"], (len(x), x.shape[1] // 2), f"{part}_mask", path).repeat(2, axis=1)
        _check_sentinel(observed & (x == LANDMARK_SENTINEL), f"{part}_mask", f"{part}_2d", path)
        # What lies under a mask of 0 is not told: the sentinel, or whatever the annotator left there.
        seen.append(np.where(observed, x, np.nan))
    table = _table(np.concatenate(seen), points["train_2d"].shape[1:], name, path, is_landmarks=True)
    return replace(table, given=_given(*(len(part) for part in seen)))


@dataclass(frozen=True)
class _Layout:
    datasets: tuple[str, ...]
    marks: tuple[str, ...]  # datasets that no other layout has
    read: Callable[[Arrays, str, Path], Table]


LAYOUTS = (
    _Layout(("train_y", "train_mask", "test_y", "test_mask", "test_y_true"), ("train_y", "test_y"), _read_masked),
    _Layout(("train_x", "test_x"), ("train_x", "test_x"), _read_images),
    _Layout(("train_data", "test_data"), ("train_data", "test_data"), _read_rows),
    _Layout(
        ("train_2d", "train_mask", "valid_2d", "valid_mask", "test_2d", "test_mask"),
        ("train_2d", "test_2d"),
        _read_landmarks,
    ),
)


def _check_shapes(arrays: Arrays, path: Path) -> None:
    for key, array in arrays.items():
        if array.ndim not in (2, 3) or array.dtype.kind not in "biuf":
            raise DataError(f"{path}: {key} is {array.dtype} {array.shape}; expected numbers of 2 or 3 dimensions.")
        if array.size == 0:
            raise DataError(f"{path}: {key} is empty, its shape {array.shape}; expected at least one row and column.")


def _flat(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return array.reshape(len(array), -1)


def _check_width(arrays: Arrays, path: Path) -> None:
    """All datasets are as wide as the first, and the truth has as many rows as the rows it is of."""
    first, *others = arrays
    for key in others:
        if arrays[key].shape[1] != arrays[first].shape[1]:
            found, expected = arrays[key].shape[1], arrays[first].shape[1]
            raise DataError(f"{path}: {key} has {found} columns; expected {expected}, as in {first}.")
    if "test_y_true" in arrays and arrays["test_y_true"].shape != arrays["test_y"].shape:
        found, expected = arrays["test_y_true"].shape[0], arrays["test_y"].shape[0]
        raise DataError(f"{path}: test_y_true has {found} rows; expected {expected}, as in test_y.")


def _check_pairs(width: int, path: Path) -> None:
    if width % 2:
        raise DataError(f"{path}: landmarks have {width} columns; expected pairs of x and y.")


def _mask(mask: npt.NDArray[Any], shape: tuple[int, int], key: str, path: Path) -> BoolArray:
    """The mask as booleans of `shape`, True where observed."""
    flat = _flat(mask)
    if flat.shape != shape:
        raise DataError(f"{path}: {key} has shape {mask.shape}; expected {shape}.")
    strange = flat[(flat != 0) & (flat != 1)]
    if strange.size:
        raise DataError(f"{path}: {key} holds {strange[0]:g}; expected 1 (observed) and 0 (missing) only.")
    return np.asarray(flat == 1)


def _observed(mask: npt.NDArray[Any], y: npt.NDArray[Any], part: str, sentinel: float, path: Path) -> BoolArray:
    """The mask of cells, checked against the sentinel; that of a landmark counts for both coordinates."""
    n_rows, width = y.shape
    per_landmark = sentinel == LANDMARK_SENTINEL and _flat(mask).shape == (n_rows, width // 2)
    shape = (n_rows, width // 2) if per_landmark else (n_rows, width)
    observed = _mask(mask, shape, f"{part}_mask", path)
    observed = observed.repeat(2, axis=1) if per_landmark else observed
    is_missing = (y == sentinel) | np.isnan(y)
    _check_sentinel(observed == is_missing, f"{part}_mask", f"{part}_y", path)
    return observed


def _check_sentinel(disagrees: BoolArray, mask_key: str, key: str, path: Path) -> None:
    rows, columns = np.nonzero(disagrees)
    if rows.size:
        raise DataError(
            f"{path}: {mask_key} disagrees with the sentinel in {rows.size} cells of {key}, first in row {rows[0]}, "
            f"column {columns[0]}; expected {SENTINEL:g} (landmarks {LANDMARK_SENTINEL:g}) where the mask is 0, only."
        )


def _sentinel_of(arrays: Arrays, path: Path) -> float:
    """-10 in a file of landmarks, by what stands in the first cell that a mask calls missing; else -100."""
    for part in ("train", "test"):
        mask, y = _flat(arrays[f"{part}_mask"]), _flat(arrays[f"{part}_y"])
        if len(mask) != len(y):
            raise DataError(f"{path}: {part}_mask has {len(mask)} rows; expected {len(y)}, as in {part}_y.")
        if mask.shape[1] * 2 == y.shape[1]:
            return LANDMARK_SENTINEL
        if mask.shape == y.shape and (y[mask == 0] == LANDMARK_SENTINEL).any():
            return LANDMARK_SENTINEL
    return SENTINEL


def _truth(
    truth: npt.NDArray[Any], y: npt.NDArray[Any], observed: BoolArray, sentinel: float, path: Path
) -> FloatArray:
    """The true test rows, NaN where nobody knows; they must repeat what is observed."""
    rows, columns = np.nonzero(observed & ~np.isclose(truth, y, rtol=1e-5, atol=1e-6))
    if rows.size:
        raise DataError(
            f"{path}: test_y_true is {truth[rows[0], columns[0]]:g} in row {rows[0]}, column {columns[0]}; expected "
            f"{y[rows[0], columns[0]]:g}, which test_y observes there."
        )
    known: FloatArray = np.where(truth == sentinel, np.nan, truth)
    return np.where(observed, y, known)


def _given(n_train: int, n_validation: int, n_test: int) -> GivenSplit:
    train, validation, test = np.split(np.arange(n_train + n_validation + n_test), [n_train, n_train + n_validation])
    return GivenSplit(train, validation, test)


def _table(
    values: npt.NDArray[Any], shape: tuple[int, ...], name: str, path: Path, *, is_landmarks: bool = False
) -> Table:
    """Rows of one of three kinds: landmarks by their file, images by their shape or name, others."""
    width = values.shape[1]
    if is_landmarks:
        _check_pairs(width, path)
        columns, image_shape = landmark_columns(width // 2), None
    elif len(shape) == 2 or reference_name(name) in IMAGE_NAMES:
        image_shape = (shape[0], shape[1]) if len(shape) == 2 else _square(width, path)
        return _image_table(values, image_shape, name, path)
    else:
        columns, image_shape = tuple(Column(f"x{j}", "numeric", "float64") for j in range(width)), None
    check_values(values, [column.name for column in columns], str(path))
    return Table(name, str(path), values.astype(np.float64), columns, image_shape)


def _image_table(values: npt.NDArray[Any], image_shape: tuple[int, int], name: str, path: Path) -> Table:
    low, high = np.fmin.reduce(values, axis=None), np.fmax.reduce(values, axis=None)
    if low < 0 or high > 255:
        raise DataError(f"{path}: pixels lie between {low:g} and {high:g}; expected 0 to 1, or 0 to 255.")
    pixels = (values / (255 if high > 1 else 1)).astype(np.float32)
    return Table(name, str(path), pixels, pixel_columns(*image_shape), image_shape)


def _square(width: int, path: Path) -> tuple[int, int]:
    side = isqrt(width)
    if side * side != width:
        raise DataError(f"{path}: images have {width} pixels; expected a square number, or (rows, height, width).")
    return side, side
