"""Named datasets: a name or the path of a file becomes a `Table`."""

import gzip
import os
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vadtune.data.declared import NOTHING, Declared
from vadtune.data.files import FORMATS, read_npz, suffix
from vadtune.data.reference import reference_name
from vadtune.data.synthetic import GENERATORS, Landmarks, Synthetic
from vadtune.data.tables import Column, IntArray, Table, from_arrays, image_table, read_table
from vadtune.errors import ConfigError, DataError
from vadtune.settings import nearest, parse, parse_assignments

# Made by `make_shipped`.
DIGITS, TABLES = (Path(__file__).with_name(name) for name in ("digits.npz", "tables.npz"))


def load(dataset: str, *, data_dir: Path = Path("data"), declared: Declared | None = None) -> Table:
    """Load a dataset by its name (`NAMES`), the path of a file (see `read_table`), or `openml:NAME`.

    Args:
        dataset: A name; `synthetic` and `landmarks` take settings after a colon: `synthetic:n_rows=500,seed=3`. A
            name and a rate, `mosi_0.3`, is a masked file of the VAD paper's code.
        data_dir: Folder of the datasets that are not part of vadtune, each in a folder of its own name.
        declared: What the columns of a file are; None: what the TOML file beside it says.

    Raises:
        DataError: Neither a name nor a file, or a file that cannot be used.
        ConfigError: A setting of `synthetic` or `landmarks` that is not one.
    """
    name, colon, arguments = dataset.partition(":")
    if name in GENERATORS:
        return generate(name, parse_assignments(filter(None, arguments.split(","))), dataset)
    if colon and name in NAMES:
        raise DataError(f"{dataset}: {name} takes no settings after a colon.")
    if dataset in _LOADERS:
        _check_nothing_declared(dataset, declared)
        return _LOADERS[dataset](data_dir)
    if name == "openml" and colon:
        return replace(read_table(_openml(arguments, data_dir), declared), name=dataset)
    stored = stored_file(dataset, data_dir)
    if stored:
        return replace(read_table(stored, declared), name=dataset)
    if reference_name(dataset) in NAMES:
        raise DataError(_where_it_comes_from(dataset, data_dir))
    path = Path(os.path.expanduser(dataset))  # noqa: PTH111  (pathlib's raises for a user that is not there)
    if suffix(path) or path.exists():
        return read_table(path, declared)
    raise DataError(
        f"{dataset} is neither a dataset nor a file. {nearest(dataset, NAMES)} A file ends in {', '.join(FORMATS)}; "
        "python -m vadtune.datasets fetch NAME brings a table of OpenML."
    )


def table_file(dataset: str, data_dir: Path) -> Path | None:
    """The file that `load` would read, beside which a TOML file may say what its columns are; None if there is none."""
    name = dataset.removeprefix("openml:")
    if dataset.partition(":")[0] in GENERATORS or dataset in _LOADERS:
        return None
    return stored_file(name, data_dir) or Path(os.path.expanduser(dataset))  # noqa: PTH111


def _openml(name: str, data_dir: Path) -> Path:
    """The file of an OpenML table, fetched if it is not in the data folder."""
    stored = stored_file(name, data_dir)
    if stored is None:
        from vadtune.data.fetch import fetch

        stored = fetch(name, data_dir).path
    return stored


def _check_nothing_declared(dataset: str, declared: Declared | None) -> None:
    if declared not in (None, NOTHING):
        raise ConfigError(f"{dataset}: its columns are known; columns are declared of files only.")


def generate(name: str, values: dict[str, Any], source: str) -> Table:
    """Make one of `GENERATORS` of plain settings; `source` is how the user named it.

    Raises:
        ConfigError: A setting that is not one.
    """
    config: Synthetic | Landmarks = parse(GENERATORS[name], values, source)
    return config.build(source)


def stored_file(name: str, data_dir: Path) -> Path | None:
    """The file of a dataset in the data folder, `NAME/NAME.*` or `NAME/NAME_RATE.h5`; None if there is none."""
    if Path(name).name != name:
        return None
    files = [data_dir / folder / f"{name}{known}" for folder in (name, reference_name(name)) for known in FORMATS]
    return next((path for path in files if path.is_file()), None)


def describe(name: str) -> str:
    """One sentence on a dataset of `NAMES`."""
    if name in PAPER:
        return PAPER[name]
    text = GENERATORS[name].__doc__ if name in GENERATORS else _LOADERS[name].__doc__
    return (text or "").splitlines()[0]


def _where_it_comes_from(dataset: str, data_dir: Path) -> str:
    name = reference_name(dataset)
    missing = f"{dataset}: there is no {data_dir / name / dataset}.h5."
    if dataset != name:
        rate = dataset.rpartition("_")[2]
        return f"{missing} Make it: python -m vadtune.datasets make {name} --missing-rate {rate} --reference {data_dir}"
    if name in REMADE:
        return f"{missing} Put it there, or make one: python -m vadtune.datasets make {name} --reference {data_dir}"
    return f"{missing} It is not ours to give away: put the file of the VAD paper's code there."


def _mnist(data_dir: Path) -> Table:
    """Handwritten digits, 28 x 28 pixels: 5,000 shipped with vadtune, or the complete set in its folder."""
    folder = data_dir / "mnist"
    complete = _complete_images("mnist", folder)
    if complete is not None:
        return complete
    arrays = read_npz(DIGITS)
    return image_table(
        arrays["images"], arrays["labels"].astype(np.int64), "mnist", "5,000 digits shipped with vadtune"
    )


def _fashion_mnist(data_dir: Path) -> Table:
    """Pictures of clothes, 28 x 28 pixels, from its folder."""
    folder = data_dir / "fashion_mnist"
    complete = _complete_images("fashion_mnist", folder)
    if complete is None:
        raise DataError(
            f"fashion_mnist: not in {folder}. Bring it by: python -m vadtune.datasets fetch fashion_mnist "
            f"--data-dir {data_dir} (or put the four IDX files or fashion_mnist.npz there)."
        )
    return complete


def _complete_images(name: str, folder: Path) -> Table | None:
    """The complete dataset of a folder: `NAME.h5` (VAD paper), `NAME.npz`, or the IDX files of its authors."""
    layout = folder / f"{name}.h5"
    if layout.is_file():
        return replace(read_table(layout), name=name)
    archive = folder / f"{name}.npz"
    if archive.is_file():
        return _from_npz(read_npz(archive), name, archive)
    images = [_find(folder, f"{part}-images", "idx3") for part in ("train", "t10k")]
    labels = [_find(folder, f"{part}-labels", "idx1") for part in ("train", "t10k")]
    if not any(images):
        return None
    pixels = [read_idx(path, 3) for path in images if path]
    digits = [read_idx(path, 1) for path in labels if path]
    if len({part.shape[1:] for part in pixels}) > 1:
        raise DataError(f"{folder}: the images of train and t10k differ in size.")
    known = np.concatenate(digits).astype(np.int64) if digits else None
    together = np.concatenate(pixels)
    if known is not None and len(known) != len(together):
        raise DataError(f"{folder}: {len(together)} images and {len(known)} labels. Put all four IDX files there.")
    return image_table(together, known, name, f"{folder} ({len(together):,} images, IDX)")


def _from_npz(arrays: dict[str, npt.NDArray[Any]], name: str, path: Path) -> Table:
    """`images` and `labels`, or the `x_train`, `y_train`, `x_test`, `y_test` of the Keras file."""
    if "x_train" in arrays:
        both = {
            key: [arrays[f"{key}_{part}"] for part in ("train", "test") if f"{key}_{part}" in arrays] for key in "xy"
        }
        arrays = {"images": np.concatenate(both["x"])} | ({"labels": np.concatenate(both["y"])} if both["y"] else {})
    table = from_arrays(arrays, name, f"{path} ({len(next(iter(arrays.values()))):,} images)")
    if table.image_shape is None:
        raise DataError(f"{path}: no `images` (rows, height, width) in it.")
    return table


def _find(folder: Path, stem: str, kind: str) -> Path | None:
    names = [f"{stem}{mark}{kind}-ubyte{packed}" for mark in "-." for packed in ("", ".gz")]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def read_idx(path: Path, n_dims: int) -> npt.NDArray[np.uint8]:
    """Read an IDX file of bytes with so many dimensions, packed by gzip or not.

    Raises:
        DataError: The file is damaged, or holds something else.

    Source: the format description at the foot of LeCun's MNIST page.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    head = 4 + 4 * n_dims
    if len(content) < head or content[:4] != bytes([0, 0, 8, n_dims]):
        raise DataError(f"{path}: not an IDX file of bytes with {n_dims} dimensions.")
    shape = tuple(int(size) for size in np.frombuffer(content[4:head], dtype=">u4"))
    expected = int(np.prod(shape, dtype=object))
    if len(content) - head != expected:
        raise DataError(f"{path}: {len(content) - head} bytes of values, expected {expected}. Fetch it again.")
    return np.frombuffer(content, dtype=np.uint8, offset=head).reshape(shape)


def _digits(data_dir: Path) -> Table:
    """Handwritten digits of scikit-learn, 1,797 images of 8 x 8 pixels."""
    del data_dir
    values, _, labels = _shipped("digits")
    return image_table(values.reshape(-1, 8, 8), labels, "digits", "scikit-learn's load_digits", white=16)


def _breast_cancer(data_dir: Path) -> Table:
    """Cell nuclei of 569 tumours, 30 measurements (scikit-learn)."""
    del data_dir
    return _shipped_table("breast_cancer")


def _wine(data_dir: Path) -> Table:
    """Chemistry of 178 wines, 13 measurements (scikit-learn)."""
    del data_dir
    return _shipped_table("wine")


def _diabetes(data_dir: Path) -> Table:
    """442 patients, 10 measurements in original units (scikit-learn)."""
    del data_dir
    return _shipped_table("diabetes")


def _shipped_table(name: str) -> Table:
    values, columns, labels = _shipped(name)
    return Table(name, f"scikit-learn's load_{name}", values, _numeric_columns(columns), labels=labels)


def _shipped(name: str) -> tuple[npt.NDArray[Any], list[str], IntArray | None]:
    """Values, names of columns and, where rows have one, the class of each."""
    with np.load(TABLES) as arrays:
        labels = arrays[f"{name}.labels"].astype(np.int64) if f"{name}.labels" in arrays else None
        return arrays[f"{name}.values"], arrays[f"{name}.columns"].tolist(), labels


def _numeric_columns(names: list[str]) -> tuple[Column, ...]:
    return tuple(Column(name, "numeric", "float64") for name in names)


_LOADERS: dict[str, Callable[[Path], Table]] = {
    "mnist": _mnist,
    "fashion_mnist": _fashion_mnist,
    "digits": _digits,
    "breast_cancer": _breast_cancer,
    "wine": _wine,
    "diabetes": _diabetes,
}
# Datasets of the VAD paper's code, from its files; the last two can be made again after its description.
PAPER = {
    "mosi": "Language, voice and face features of opinion videos, from data/mosi/mosi.h5 of the VAD paper's code.",
    "mosei": "The same of many more videos, from data/mosei/mosei.h5 of the VAD paper's code.",
    "artificial": "Synthetic rows of the VAD paper's code, from data/artificial/artificial.h5.",
    "sfm": "Landmarks of faces of the VAD paper's code, from data/sfm/sfm.h5.",
}
REMADE = {"artificial": "synthetic", "sfm": "landmarks"}
NAMES: tuple[str, ...] = (*_LOADERS, *GENERATORS, *PAPER)
