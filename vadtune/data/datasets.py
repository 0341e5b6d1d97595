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
from pydantic import Field

from vadtune.data.files import FORMATS, read_npz, suffix
from vadtune.data.tables import Column, IntArray, Table, from_arrays, image_table, read_table
from vadtune.errors import DataError
from vadtune.settings import Settings, nearest, parse, parse_assignments

DIGITS = Path(__file__).with_name("digits.npz")


class Synthetic(Settings):
    """A mixture of Gaussians seen through a random non-linear decoder."""

    n_rows: int = Field(2000, ge=1)
    n_features: int = Field(16, ge=1)
    n_clusters: int = Field(2, ge=1)
    latent_dim: int = Field(4, ge=1)
    seed: int = Field(0, ge=0)


def load(dataset: str, *, data_dir: Path = Path("data")) -> Table:
    """Load a dataset by its name (`NAMES`) or the path of a file of numbers (see `read_table`).

    Args:
        dataset: A name; `synthetic` takes settings after a colon: `synthetic:n_rows=500,seed=3`.
        data_dir: Folder of the datasets that are not part of vadtune, each in a folder of its own name.

    Raises:
        DataError: Neither a name nor a file, or a file that cannot be used.
        ConfigError: A setting of `synthetic` that is not one.
    """
    name, colon, arguments = dataset.partition(":")
    if name == "synthetic":
        config: Synthetic = parse(Synthetic, parse_assignments(filter(None, arguments.split(","))), dataset)
        return synthetic(**dict(config), name=dataset)
    if dataset in _LOADERS:
        return _LOADERS[dataset](data_dir)
    if colon and name in NAMES:
        raise DataError(f"{dataset}: {name} takes no settings after a colon.")
    fetched = fetched_file(name, data_dir) if not colon else None
    if fetched:
        return replace(read_table(fetched), name=name)
    path = Path(os.path.expanduser(dataset))  # noqa: PTH111  (pathlib's raises for a user that is not there)
    if suffix(path) or path.exists():
        return read_table(path)
    raise DataError(
        f"{dataset} is neither a dataset nor a file. {nearest(dataset, NAMES)} A file ends in {', '.join(FORMATS)}; "
        "python -m vadtune.datasets fetch NAME brings a table of OpenML."
    )


def fetched_file(name: str, data_dir: Path) -> Path | None:
    """The file of a dataset that was put into the data folder, `NAME/NAME.*`; None if there is none."""
    if Path(name).name != name:
        return None
    candidates = [data_dir / name / f"{name}{known}" for known in FORMATS]
    return next((path for path in candidates if path.is_file()), None)


def describe(name: str) -> str:
    """One sentence on a dataset of `NAMES`."""
    text = synthetic.__doc__ if name == "synthetic" else _LOADERS[name].__doc__
    return (text or "").splitlines()[0]


def synthetic(
    n_rows: int = 2000,
    n_features: int = 16,
    n_clusters: int = 2,
    latent_dim: int = 4,
    seed: int = 0,
    *,
    name: str = "synthetic",
) -> Table:
    """A mixture of `n_clusters` Gaussians in `latent_dim` dimensions through a random two-layer tanh decoder.

    Labels are the clusters. Cells have a standard deviation of about 1 and noise of 0.01.

    Source: the synthetic data of Zadeh et al. (2019), arXiv:1903.00840, section 4.
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(n_clusters, size=n_rows)
    means = 2 * rng.standard_normal((n_clusters, latent_dim))
    spreads = rng.standard_normal((n_clusters, latent_dim, latent_dim)) / np.sqrt(latent_dim)
    z = means[labels] + np.einsum("nij,nj->ni", spreads[labels], rng.standard_normal((n_rows, latent_dim)))
    hidden = np.tanh(z @ rng.standard_normal((latent_dim, 32)) / np.sqrt(latent_dim) + 0.5 * rng.standard_normal(32))
    x = np.tanh(hidden @ rng.standard_normal((32, 32)) / 4) @ rng.standard_normal((32, n_features)) / 4
    values = x + 0.01 * rng.standard_normal(x.shape)
    source = f"mixture of {n_clusters} Gaussians through a random decoder, seed {seed}"
    return Table(name, source, values, _numeric_columns([f"x{j}" for j in range(n_features)]), labels=labels)


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
    """The complete dataset of a folder: `NAME.npz`, or the IDX files of its authors, packed by gzip or not."""
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
    from sklearn.datasets import load_digits

    del data_dir
    bunch = load_digits()
    return image_table(bunch.images.astype(np.uint8), bunch.target, "digits", "scikit-learn's load_digits", white=16)


def _breast_cancer(data_dir: Path) -> Table:
    """Cell nuclei of 569 tumours, 30 measurements (scikit-learn)."""
    from sklearn.datasets import load_breast_cancer

    del data_dir
    return _from_bunch(load_breast_cancer(), "breast_cancer")


def _wine(data_dir: Path) -> Table:
    """Chemistry of 178 wines, 13 measurements (scikit-learn)."""
    from sklearn.datasets import load_wine

    del data_dir
    return _from_bunch(load_wine(), "wine")


def _diabetes(data_dir: Path) -> Table:
    """442 patients, 10 measurements in original units (scikit-learn)."""
    from sklearn.datasets import load_diabetes

    del data_dir
    return _from_bunch(load_diabetes(scaled=False), "diabetes")


def _from_bunch(bunch: Any, name: str) -> Table:
    is_class = bunch.target.dtype.kind in "iu"
    labels: IntArray | None = bunch.target.astype(np.int64) if is_class else None
    columns = _numeric_columns([str(column) for column in bunch.feature_names])
    return Table(name, f"scikit-learn's load_{name}", bunch.data.astype(np.float64), columns, labels=labels)


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
NAMES: tuple[str, ...] = (*_LOADERS, "synthetic")
