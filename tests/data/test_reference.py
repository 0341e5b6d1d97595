"""The HDF5 layouts of the VAD paper's code: written and read back, and refused when they contradict themselves."""

from dataclasses import replace

import h5py
import numpy as np
import pytest

from vadtune.data.datasets import load
from vadtune.data.masks import Landmark
from vadtune.data.reference import write_clean, write_masked
from vadtune.data.splits import DataConfig, split
from vadtune.data.synthetic import landmarks, synthetic
from vadtune.data.tables import read_table
from vadtune.errors import DataError


def config(**settings) -> DataConfig:
    return DataConfig(dataset="t", **settings)


def contents(path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        return {key: file[key][...] for key in file}


def rewrite(path, **arrays) -> None:
    kept = contents(path) | arrays
    with h5py.File(path, "w") as file:
        for key, array in kept.items():
            if array is not None:
                file[key] = array


@pytest.fixture
def masked(tmp_path):
    return write_masked(synthetic(40, 6), "artificial", tmp_path, config(missing_rate=0.3))


def test_the_masked_layout_is_that_of_the_paper(masked):
    assert masked.name == "artificial_0.3.h5"
    arrays = contents(masked)
    assert set(arrays) == {"train_y", "train_mask", "test_y", "test_mask", "test_y_true"}
    for part, n_rows in (("train", 36), ("test", 4)):
        y, mask = arrays[f"{part}_y"], arrays[f"{part}_mask"]
        assert y.shape == mask.shape == (n_rows, 6)
        assert np.array_equal(y == -100, mask == 0)
        assert set(np.unique(mask)) == {0, 1}
    assert (arrays["test_y_true"] != -100).all()


def test_a_masked_file_becomes_its_own_split(masked, tmp_path):
    arrays = contents(masked)
    table = load("artificial_0.3", data_dir=tmp_path)
    splits = split(table, config())
    test = splits.test
    assert np.array_equal(~np.isnan(test.rows.x), arrays["test_mask"] == 1)
    assert np.array_equal(~np.isnan(test.truth), arrays["test_mask"] == 0)
    together = splits.scaler.inverse(np.where(np.isnan(test.truth), test.rows.x, test.truth))
    assert together == pytest.approx(arrays["test_y_true"], abs=1e-5)
    train_and_validation = np.union1d(splits.indices[0], splits.indices[1])
    assert np.array_equal(np.isnan(table.values[train_and_validation]), arrays["train_mask"] == 0)
    assert np.isnan(splits.train.truth).all()


def test_the_hash_of_a_masked_file_knows_which_test_cells_are_hidden(masked):
    table = read_table(masked)
    hidden = table.given.hidden.copy()
    hidden[-1] = ~hidden[-1]
    assert replace(table, given=replace(table.given, hidden=hidden)).sha256 != table.sha256


def test_clean_rows_come_back_with_their_split(tmp_path):
    table = synthetic(40, 6)
    path = write_clean(table, "mosi", tmp_path, config())
    assert {key: array.shape for key, array in contents(path).items()} == {"train_data": (36, 6), "test_data": (4, 6)}
    again = load("mosi", data_dir=tmp_path)
    test = split(table, config()).indices[2]
    assert np.array_equal(again.values[again.given.test], table.values[test])
    assert again.given.train.size == 36


def test_clean_images_come_back_as_pixels(tmp_path):
    table = load("mnist")
    table = table.take(np.arange(0, 5000, 50))
    path = write_clean(table, "mnist", tmp_path, config())
    assert contents(path)["train_x"].shape == (90, 28, 28)
    assert contents(path)["train_x"].dtype == np.uint8
    again = load("mnist", data_dir=tmp_path)
    assert (again.image_shape, again.unit, again.name, again.n_rows) == ((28, 28), "pixel", "mnist", 100)
    assert np.array_equal(np.sort(again.values.sum(1)), np.sort(table.values.sum(1)))
    assert again.source == str(path)


def test_flat_images_of_bytes_and_masked_images_are_images_too(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 784)).astype(np.uint8)
    with h5py.File(tmp_path / "mnist.h5", "w") as file:
        file["train_x"], file["test_x"] = pixels[:4], pixels[4:]
    clean = read_table(tmp_path / "mnist.h5")
    assert clean.image_shape == (28, 28)
    path = write_masked(clean, "mnist", tmp_path, config(missing_rate=0.5, validation_share=0.2, test_share=0.4))
    assert contents(path)["train_y"].shape == (4, 784)
    again = load("mnist_0.5", data_dir=tmp_path)
    assert (again.image_shape, again.values.dtype) == ((28, 28), np.float32)
    assert np.array_equal(again.values[again.given.test], clean.values[clean.given.test])


def test_pixels_up_to_255_are_scaled_to_1(tmp_path):
    path = write_masked(load("digits"), "digits", tmp_path, config(missing_rate=0.5))
    arrays = contents(path)
    assert arrays["train_y"].shape[1:] == (8, 8)
    for key in ("train_y", "test_y", "test_y_true"):
        arrays[key] = np.where(arrays[key] == -100, -100, arrays[key] * 255)
    expected = read_table(path).values
    rewrite(path, **arrays)
    assert read_table(path).values == pytest.approx(expected, abs=1e-6, nan_ok=True)


def test_landmarks_come_back_with_their_masks(tmp_path):
    table = landmarks(50, 7)
    values = table.values.copy()
    values[3, 4:6] = np.nan
    path = write_clean(replace(table, values=values), "sfm", tmp_path, config())
    arrays = contents(path)
    assert {key: array.shape for key, array in arrays.items()} == {
        "train_2d": (40, 7, 2), "train_mask": (40, 7), "valid_2d": (5, 7, 2),
        "valid_mask": (5, 7), "test_2d": (5, 7, 2), "test_mask": (5, 7),
    }  # fmt: skip
    again = load("sfm", data_dir=tmp_path)
    assert again.is_landmarks
    assert [part.size for part in (again.given.train, again.given.validation, again.given.test)] == [40, 5, 5]
    assert np.isnan(again.values).sum() == 2
    assert [len(rows) for rows in split(again, config(mechanism=Landmark())).indices] == [40, 5, 5]


@pytest.mark.parametrize("per_landmark", [False, True])
def test_masked_landmarks_have_another_sentinel(tmp_path, per_landmark):
    path = write_masked(landmarks(50, 7), "sfm", tmp_path, config(missing_rate=0.3, mechanism=Landmark()))
    arrays = contents(path)
    assert np.array_equal(arrays["train_y"] == -10, arrays["train_mask"] == 0)
    expected = read_table(path)
    if per_landmark:
        masks = {key: arrays[key][:, ::2] for key in ("train_mask", "test_mask")}
        ys = {key: arrays[key].reshape(-1, 7, 2) for key in ("train_y", "test_y", "test_y_true")}
        rewrite(path, **masks, **ys)
    again = read_table(path)
    assert again.is_landmarks
    assert again.sha256 == expected.sha256
    assert split(again, config(mechanism=Landmark())).test.truth.shape == (5, 14)


def test_complete_rows_without_a_mask_cannot_have_holes(tmp_path):
    table = synthetic(40, 6)
    values = table.values.copy()
    values[0, 0] = np.nan
    with pytest.raises(DataError, match="the clean layout has no mask"):
        write_clean(replace(table, values=values), "mosi", tmp_path, config())
    assert not list(tmp_path.iterdir())


def broken(key, change):
    def apply(path):
        rewrite(path, **{key: change(contents(path)[key])})

    return apply


def one_cell(row, column, value):
    def change(array):
        array = array.astype(np.float64)
        array[row, column] = value
        return array

    return change


@pytest.mark.parametrize(
    ("apply", "words"),
    [
        (broken("test_mask", lambda _: None), "dataset test_mask is missing; found test_y, test_y_true, train_mask"),
        (broken("train_y", lambda x: x[:, 0]), "train_y is float64 (36,); expected numbers of 2 or 3 dimensions"),
        (broken("train_y", lambda x: x.astype("S5")), "train_y"),
        (broken("train_mask", lambda x: x[:-1]), "train_mask has 35 rows; expected 36, as in train_y"),
        (broken("train_mask", lambda x: x[:, :-1]), "train_mask has shape (36, 5); expected (36, 6)"),
        (broken("train_mask", one_cell(1, 2, 2)), "train_mask holds 2; expected 1 (observed) and 0 (missing)"),
        (broken("train_mask", lambda x: 1 - x), "train_mask disagrees with the sentinel in 216 cells of train_y"),
        (broken("test_y", one_cell(2, 3, np.nan)), "test_mask disagrees with the sentinel"),
        (broken("test_y_true", lambda x: x + 1), "test_y_true is "),
        (broken("test_y_true", lambda x: x[:-1]), "test_y_true has 3 rows; expected 4, as in test_y"),
        (broken("test_y_true", lambda x: x[:, :-1]), "test_y_true has 5 columns; expected 6, as in train_y"),
        (broken("test_y", lambda x: x[:0]), "test_y is empty, its shape (0, 6)"),
    ],
)
def test_a_masked_file_that_contradicts_itself_is_refused(masked, apply, words):
    apply(masked)
    with pytest.raises(DataError) as error:
        read_table(masked)
    assert str(masked) in str(error.value)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"train_data": np.eye(3), "test_data": np.ones((2, 4))}, "test_data has 4 columns; expected 3, as in"),
        ({"train_data": np.eye(3)}, "dataset test_data is missing"),
        ({"train_data": np.full((2, 2), np.inf), "test_data": np.eye(2)}, "column 'x0' holds inf in row 0"),
        ({"train_x": np.eye(3), "test_x": np.eye(3)}, "train_x holds float64; expected uint8"),
        ({"train_x": np.ones((2, 7), np.uint8), "test_x": np.ones((2, 7), np.uint8)}, "images have 7 pixels"),
        ({"train_2d": np.ones((2, 3, 2)), "test_2d": np.ones((2, 3, 2))}, "dataset train_mask is missing"),
        ({"other": np.ones(3), "another": np.ones(3)}, "expected `values`"),
    ],
)  # fmt: skip
def test_a_clean_file_that_cannot_be_used_is_refused(tmp_path, arrays, words):
    path = tmp_path / "t.h5"
    with h5py.File(path, "w") as file:
        for key, array in arrays.items():
            file[key] = array
    with pytest.raises(DataError) as error:
        read_table(path)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train_mask": np.ones((40, 14), np.uint8)}, "train_mask has shape (40, 14); expected (40, 7)"),
        ({"train_2d": np.full((40, 7, 2), -10.0)}, "train_mask disagrees with the sentinel in 560 cells of train_2d"),
        ({"valid_2d": np.ones((5, 7))}, "valid_2d has 7 columns; expected 14"),
        (
            {f"{part}_2d": np.ones((n, 7)) for part, n in (("train", 40), ("valid", 5), ("test", 5))},
            "landmarks have 7 columns",
        ),
    ],
)
def test_landmarks_that_contradict_themselves_are_refused(tmp_path, change, words):
    path = write_clean(landmarks(50, 7), "sfm", tmp_path, config())
    if "landmarks have" in words:
        change |= {f"{part}_mask": np.ones((n, 3), np.uint8) for part, n in (("train", 40), ("valid", 5), ("test", 5))}
    rewrite(path, **change)
    with pytest.raises(DataError) as error:
        read_table(path)
    assert words in str(error.value)


def test_pixels_outside_every_range_are_refused(tmp_path):
    path = write_masked(load("digits"), "digits", tmp_path, config(missing_rate=0.5))
    arrays = contents(path)
    rewrite(path, test_y_true=arrays["test_y_true"] + np.where(arrays["test_mask"] == 0, 300, 0))
    with pytest.raises(DataError, match="pixels lie between 0 and 30"):
        read_table(path)
