"""Every file format gives a table back as it was, and says what is wrong with one that cannot be used."""

import gzip

import h5py
import numpy as np
import pandas as pd
import pytest

from vadtune.data.frames import from_frame, to_frame
from vadtune.data.tables import Column, Table, read_table, write_table
from vadtune.errors import DataError

SUFFIXES = [".csv", ".csv.gz", ".parquet", ".feather", ".npz", ".npy", ".h5", ".hdf5"]
FRAMES = [".csv", ".csv.gz", ".parquet", ".feather"]


def holey_table(index: pd.Index | None = None) -> Table:
    frame = pd.DataFrame(
        {
            "Zürich, km": [0.1 + 0.2, np.nan, 1e-300, -4.0],
            "count": pd.array([1, 2, None, 2**53 - 1], dtype="Int64"),
            "age": [30, 40, 50, 60],
            "smokes": [True, False, True, True],
        },
        index=index,
    )
    return from_frame(frame, "t", "test")


def write_text(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_values_come_back_to_the_last_digit(tmp_path, suffix):
    table, path = holey_table(), tmp_path / f"a.b{suffix}"
    write_table(table, path)
    again = read_table(path)
    assert np.array_equal(again.values, table.values, equal_nan=True)
    assert (again.name, again.source) == ("a.b", str(path))
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [suffix for suffix in SUFFIXES if suffix != ".npy"])
def test_names_come_back(tmp_path, suffix):
    write_table(holey_table(), tmp_path / f"t{suffix}")
    names = [column.name for column in read_table(tmp_path / f"t{suffix}").columns]
    assert names == ["Zürich, km", "count", "age", "smokes"]


@pytest.mark.parametrize("suffix", FRAMES)
def test_kinds_and_index_come_back(tmp_path, suffix):
    write_table(holey_table(pd.Index(["a", "b", "c", "d"])), tmp_path / f"t{suffix}")
    again = read_table(tmp_path / f"t{suffix}")
    assert [column.kind for column in again.columns] == ["numeric", "integer", "integer", "boolean"]
    assert list(again.index) == ["a", "b", "c", "d"]
    assert to_frame(again).dtypes.astype(str).tolist()[:2] == ["float64", "Int64"]


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_images_and_labels_come_back(tmp_path, suffix):
    images = np.arange(48, dtype=np.uint8).reshape(3, 4, 4) * 5
    np.savez(tmp_path / "i.npz", images=images, labels=np.array([2, 0, 1], dtype=np.uint8))
    table = read_table(tmp_path / "i.npz")
    write_table(table, tmp_path / f"j{suffix}")
    again = read_table(tmp_path / f"j{suffix}")
    assert (again.unit, again.image_shape, again.labels.tolist()) == ("pixel", (4, 4), [2, 0, 1])
    assert again.values.dtype == np.float32
    assert again.values == pytest.approx(images.reshape(3, -1) / 255)
    assert again.sha256 == table.sha256


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_images_with_holes_come_back(tmp_path, suffix):
    images = np.random.default_rng(0).random((3, 2, 2)).astype(np.float32)
    images[1, 0, 0] = np.nan
    np.savez(tmp_path / "i.npz", images=images)
    write_table(read_table(tmp_path / "i.npz"), tmp_path / f"j{suffix}")
    assert np.array_equal(read_table(tmp_path / f"j{suffix}").values, images.reshape(3, 4), equal_nan=True)


def test_a_csv_file_of_plain_numbers_is_read_as_it_stands(tmp_path):
    table = read_table(write_text(tmp_path / "t.csv", "a,b\n1,2.5\n,NA\n3,\n"))
    assert np.array_equal(table.values, [[1, 2.5], [np.nan, np.nan], [3, np.nan]], equal_nan=True)
    assert [column.kind for column in table.columns] == ["integer", "numeric"]
    assert table.unit == "sd"


def test_an_imputed_whole_number_column_keeps_fractions():
    table = holey_table()
    values = np.nan_to_num(table.values, nan=0.5)
    frame = to_frame(Table(table.name, table.source, values, table.columns))
    assert frame.dtypes.astype(str).tolist() == ["float64", "float64", "int64", "bool"]


def test_the_hash_knows_values_names_and_holes():
    table = holey_table()
    columns = (Column("other", "numeric", "float64"), *table.columns[1:])
    filled = np.nan_to_num(table.values)
    assert table.sha256 == holey_table(pd.Index(list("abcd"))).sha256
    assert table.sha256 != Table("t", "test", table.values, columns).sha256
    assert table.sha256 != Table("t", "test", filled, table.columns).sha256
    odd_nan = table.values.copy()
    odd_nan[np.isnan(odd_nan)] = np.frombuffer(b"\x01\0\0\0\0\0\xf8\x7f", dtype="<f8")[0]
    assert table.sha256 == Table("t", "test", odd_nan, table.columns).sha256


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_missing_an_empty_and_a_damaged_file_are_told_apart(tmp_path, suffix):
    path = tmp_path / f"t{suffix}"
    with pytest.raises(DataError, match="no such file"):
        read_table(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="the file is empty"):
        read_table(path)
    path.write_bytes(b"\x89\x00 not a table \xff\xfe" * 9)
    with pytest.raises(DataError, match=str(path)):
        read_table(path)


@pytest.mark.parametrize("suffix", [suffix for suffix in SUFFIXES if suffix != ".csv"])  # half a text is a text
def test_a_file_cut_in_half_is_refused(tmp_path, suffix):
    table = from_frame(pd.DataFrame(np.random.default_rng(0).random((500, 5))), "t", "test")
    path = tmp_path / f"t{suffix}"
    write_table(table, path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=str(path)):
        read_table(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n3,4\n3,x?\n", "column 'b' holds text ('x?' in row 2, the first is 0); expected numbers"),
        ("a,b\n1,2\n3,inf\n", "column 'b' holds inf in row 1"),
        ("a,b\n-inf,2\n", "column 'a' holds -inf in row 0"),
        ("a,b,a\n1,2,3\n", "more than one column is named 'a'"),
        ("a,b\n", "no rows"),
        ("a,b\n1,2\n1,2,3\n", "cannot be read as CSV"),
        ("a,b\n1,2,3\n1,2,3\n", "more cells than the first line has names"),
        ("a;b\n1;2\n", "the first line has no comma"),
        ("1.5,2\n3,4\n", "the first line holds numbers"),
        ("id\n9007199254740993\n", "beyond 2**53, an identifier?"),
        ('""\n1\n', "no columns"),
        ("day\n01/02/2020\n", 'day or month first? Write in t.csv.toml: [date] day = "%d/%m/%Y"'),
        ("who\n" + "\n".join(f"n{k}" for k in range(25)), "25 different values in 25 known cells"),
    ],
)
def test_a_csv_file_that_cannot_be_modelled_is_refused(tmp_path, text, words):
    path = write_text(tmp_path / "t.csv", text)
    with pytest.raises(DataError) as error:
        read_table(path)
    assert str(path) in str(error.value)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "named 'a'"),
        (pd.DataFrame({"c": ["1", "2"]}), "column 'c' holds text"),
        (pd.DataFrame({"c": [b"x", b"y"]}), "column 'c' holds \"b'x'\", a bytes"),
        (pd.DataFrame({"c": pd.Categorical([pd.Timestamp(0)])}), "has the category '1970"),
        (pd.DataFrame({"c": pd.Categorical([f"n{k}" for k in range(300)])}), "300 different values"),
        (pd.DataFrame({"c": [1 + 2j]}), "column 'c'"),
        (pd.DataFrame({"c": [np.inf]}), "column 'c' holds inf in row 0"),
        (pd.DataFrame(index=[0, 1]), "no columns"),
        (pd.DataFrame({"a": []}), "no rows"),
    ],
)
def test_a_frame_that_cannot_be_modelled_is_refused(frame, words):
    with pytest.raises(DataError, match=words):
        from_frame(frame, "t", "test")


def test_a_frame_with_objects_that_are_numbers_is_taken():
    frame = pd.DataFrame({"a": [1, None, 3], "b": [True, None, False], "c": [None, None, None]}, dtype=object)
    table = from_frame(frame, "t", "test")
    assert [column.kind for column in table.columns] == ["integer", "boolean", "numeric"]
    assert np.array_equal(table.values[:, 0], [1, np.nan, 3], equal_nan=True)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"images": np.zeros((2, 3), np.uint8)}, r"images is uint8 \(2, 3\)"),
        ({"images": np.zeros((2, 3, 3), np.int64)}, "uint8 or float"),
        ({"images": np.full((2, 3, 3), 2.0)}, "pixels from 2 to 2"),
        ({"images": np.full((2, 3, 3), np.inf)}, "pixels from inf to inf"),
        ({"images": np.zeros((2, 3, 3), np.uint8), "labels": np.zeros(3, np.int64)}, r"labels is int64 \(3,\)"),
        ({"values": np.zeros((2, 3)), "columns": np.array(["a"])}, "1 names in `columns` for 3 columns"),
        ({"values": np.zeros((2, 2)), "columns": np.array(["a", "a"])}, "named 'a'"),
        ({"values": np.zeros(3)}, r"values is float64 \(3,\)"),
        ({"values": np.array([["a"]])}, "expected numbers"),
        ({"values": np.array([[1.0, -np.inf]])}, "column 'x1' holds -inf in row 0"),
        ({"a": np.zeros((2, 3)), "b": np.zeros((2, 3))}, "expected `values`"),
        ({}, "found nothing"),
    ],
)
def test_arrays_that_are_no_table_are_refused(tmp_path, arrays, words):
    np.savez(tmp_path / "t.npz", **arrays)
    with pytest.raises(DataError, match=words):
        read_table(tmp_path / "t.npz")


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_pickled_objects_are_never_loaded(tmp_path, suffix):
    objects = np.array([[{"a": 1}]], dtype=object)
    path = tmp_path / f"t{suffix}"
    if suffix == ".npy":
        np.save(path, objects, allow_pickle=True)
    else:
        np.savez(path, values=objects)
    with pytest.raises(DataError, match=r"cannot be read.*Object arrays cannot be loaded"):
        read_table(path)


def test_an_array_of_images_says_where_it_belongs(tmp_path):
    np.save(tmp_path / "t.npy", np.zeros((2, 3, 3), np.uint8))
    with pytest.raises(DataError, match=r"Save images as `images` in an .npz file"):
        read_table(tmp_path / "t.npy")


def test_one_matrix_of_any_name_is_a_table(tmp_path):
    np.savez(tmp_path / "t.npz", whatever=np.eye(3))
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file["whatever"] = np.eye(3)
    for name in ("t.npz", "t.h5"):
        assert np.array_equal(read_table(tmp_path / name).values, np.eye(3))


def test_an_unknown_suffix_names_the_known_ones(tmp_path):
    with pytest.raises(DataError, match=r"not one of \.csv, .* Did you mean \.csv\?"):
        read_table(tmp_path / "t.csvv")
    with pytest.raises(DataError, match="Give the output another name"):
        write_table(holey_table(), tmp_path / "t.txt")


def test_a_place_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_table(holey_table(), tmp_path / "file" / "t.csv")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = write_text(tmp_path / "t.npz", "old")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(DataError):
        write_table(holey_table(), tmp_path / "folder.npz")
    assert path.read_text() == "old"


@pytest.mark.parametrize("suffix", [suffix for suffix in SUFFIXES if suffix != ".npy"])  # which keeps no names
def test_a_nul_in_a_name_comes_back_or_is_refused(tmp_path, suffix):
    table = from_frame(pd.DataFrame({"a\0b": [1.5, 2.5], "c\0": [3.5, 4.5]}), "t", "test")
    path = tmp_path / f"t{suffix}"
    if suffix in (".npz", ".h5", ".hdf5"):
        with pytest.raises(DataError, match=r"'a\\x00b' has a NUL in its name: write CSV, Parquet"):
            write_table(table, path)
        assert not path.exists()
    else:
        write_table(table, path)
        assert [column.name for column in read_table(path).columns] == ["a\0b", "c\0"]


def test_a_damaged_gzip_file_is_named(tmp_path):
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(b"a,b\n1,2\n")[:-6])
    with pytest.raises(DataError, match="cannot be read as CSV"):
        read_table(path)
