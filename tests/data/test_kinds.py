"""What columns are: inferred, declared by flags or beside the file, refused with advice; dates and levels and back."""

from datetime import datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vadtune.data.datasets import load, table_file
from vadtune.data.declared import Declared, beside
from vadtune.data.frames import from_frame, from_frame_as, to_frame
from vadtune.data.kinds import skewed
from vadtune.data.tables import Column, read_table
from vadtune.errors import ConfigError, DataError

PEOPLE = """\
id,born,joined,sex,size,income,smokes,zip,rating,empty
a1,1970-01-02,02.03.2019 10:30,m,M,1000.5,True,01234,3,
a2,,03.03.2019 11:00,f,S,,False,99999,,
a3,1969-12-31,,f,,250,,01234,1,
a4,2000-02-29,28.02.2019 00:00,m,L,99,True,,5,
"""


def write_people(folder, toml=""):
    (folder / "people.csv").write_text(PEOPLE)
    if toml:
        (folder / "people.csv.toml").write_text(toml)
    return folder / "people.csv"


def kinds(table):
    return {column.name: column.kind for column in table.columns}


def test_kinds_are_inferred_from_the_cells(tmp_path):
    assert kinds(read_table(write_people(tmp_path))) == {
        "id": "categorical",
        "born": "date",
        "joined": "date",
        "sex": "categorical",
        "size": "categorical",
        "income": "numeric",
        "smokes": "boolean",
        "zip": "integer",
        "rating": "integer",
        "empty": "integer",
    }


def test_kinds_are_declared_in_the_file_beside_the_table_and_flags_beat_it(tmp_path):
    toml = """
    id = ["id"]
    ignore = ["empty"]
    categorical = ["zip"]
    positive = ["income"]
    [ordinal]
    size = ["S", "M", "L"]
    rating = []
    """
    path = write_people(tmp_path, toml)
    table = read_table(path)
    assert kinds(table) == {
        "born": "date",
        "joined": "date",
        "sex": "categorical",
        "size": "ordinal",
        "income": "positive",
        "smokes": "boolean",
        "zip": "categorical",
        "rating": "ordinal",
    }
    columns = {column.name: column for column in table.columns}
    assert columns["zip"].levels == ("01234", "99999")
    assert columns["size"].levels == ("S", "M", "L")
    assert columns["rating"].levels == (1, 3, 5)
    again = beside(path, Declared(ignore=("empty", "sex")))
    assert again.ignore == ("empty", "sex")
    assert again.categorical == ("zip",)
    assert table_file(str(path), tmp_path) == path


def test_dates_are_seconds_and_come_back_as_they_were_written(tmp_path):
    table = read_table(write_people(tmp_path))
    born, joined = table.columns[1], table.columns[2]
    np.testing.assert_array_equal(table.values[:, 1], [86400, np.nan, -86400, 951782400])
    assert (born.step, joined.step, joined.format) == (86400, 60, "%d.%m.%Y %H:%M")
    frame = to_frame(table)
    assert frame["born"].tolist()[0] == "1970-01-02"
    assert frame["joined"].tolist()[3] == "28.02.2019 00:00"
    assert frame["joined"].isna().tolist() == [False, False, True, False]


@pytest.mark.parametrize(
    "cells",
    [
        pd.Series(pd.to_datetime(["2020-01-01 00:00:00", None, "1999-12-31 23:59:59"])),
        pd.Series(pd.to_datetime(["2020-01-01", None]).tz_localize("Europe/Zurich")),
        pd.Series(pd.Categorical(["b", None, "a"], categories=["c", "b", "a"], ordered=True)),
        pd.Series(pd.Categorical([3, None, 1])),
        pd.Series(["x", None, "y"], dtype="string"),
        pd.Series(["x", None, "y"], dtype="str"),
        pd.Series([True, None], dtype="boolean"),
        pd.Series([1, None], dtype="Int16"),
        pd.Series([1.5, None], dtype="float32"),
        pd.Series([1, 2], dtype="uint8"),
    ],
    ids=lambda cells: str(cells.dtype),
)
def test_a_column_of_any_dtype_comes_back_with_its_cells_and_dtype(cells):
    frame = cells.set_axis([f"row {k}" for k in range(len(cells))]).to_frame("c")
    again = to_frame(from_frame(frame, "t", "test"))
    pd.testing.assert_series_equal(again["c"], frame["c"], check_freq=False)


def test_python_dates_and_decimals_in_objects_are_dates_and_numbers():
    import datetime
    import decimal

    dates = pd.Series([datetime.date(1970, 1, 2), None], dtype=object)
    prices = pd.Series([decimal.Decimal("1.5"), None], dtype=object)
    table = from_frame(pd.DataFrame({"d": dates, "p": prices}), "t", "test")
    assert kinds(table) == {"d": "date", "p": "numeric"}
    np.testing.assert_array_equal(table.values[0], [86400, 1.5])


def test_what_stands_for_an_unknown_cell_is_one(tmp_path):
    (tmp_path / "t.csv").write_text("a,b,c\n1,?,x\n-999,2.5,?\n3,-999,y\n")
    table = read_table(tmp_path / "t.csv", Declared(missing=("-999", "?")))
    assert np.isnan(table.values).tolist() == [[False, True, False], [True, False, True], [False, True, False]]
    assert kinds(table) == {"a": "integer", "b": "numeric", "c": "categorical"}
    frame = pd.DataFrame({"a": [1, -999, 3], "b": ["?", "2.5", "-999"], "c": pd.Categorical(["x", "?", "y"])})
    again = from_frame(frame, "t", "test", Declared(missing=(-999, "?")))
    assert np.array_equal(np.isnan(again.values), np.isnan(table.values))
    assert again.columns[2].levels == ("x", "y")


def test_a_level_that_is_not_known_is_known_and_no_level():
    column = Column("c", "categorical", "str", ("a", "b"))
    table = from_frame_as(pd.DataFrame({"c": ["b", "z", None, "a"]}), [column], "t", "test")
    np.testing.assert_array_equal(table.values[:, 0], [1, 2, np.nan, 0])


@pytest.mark.parametrize(
    ("frame", "declared", "error", "words"),
    [
        ({"a": [1]}, {"ignore": ("b",)}, ConfigError, "there is no column 'b' to declare"),
        ({"age": [1]}, {"categorical": ("agee",)}, ConfigError, "Did you mean age"),
        ({"a": [1]}, {"ignore": ("a",)}, DataError, "no columns"),
        ({"a": ["x", "y"]}, {"ordinal": {"a": ()}}, ConfigError, r"order of the levels of 'a' is not known"),
        ({"a": ["x", "y"]}, {"ordinal": {"a": ("x",)}}, ConfigError, "holds 'y', which is not among"),
        ({"a": [1.0, 0.0]}, {"positive": ("a",)}, DataError, "declared positive and holds 0 in row 1"),
        ({"a": [1.0, 9.0]}, {"bounds": {"a": (0, 5)}}, DataError, "holds 9 in row 1, outside its declared bounds"),
        ({"a": ["u", "v"]}, {"date": {"a": "%Y"}}, DataError, "expected a date written as %Y"),
        ({"a": [f"n{k}" for k in range(900)]}, {}, DataError, r"900 different values.*--id a or --ignore a"),
        ({"a": list(range(900))}, {"categorical": ("a",)}, DataError, "at most 200 levels"),
        ({"a": ["1", "2", "?"]}, {}, DataError, r"--missing \?"),
        ({"a": [np.inf]}, {}, DataError, "column 'a' holds inf in row 0"),
        ({"a": [2**60]}, {}, DataError, "an identifier. Leave it out: --id a"),
    ],
)
def test_what_cannot_be_modelled_is_refused_with_advice(frame, declared, error, words):
    with pytest.raises(error, match=words):
        from_frame(pd.DataFrame(frame), "t", "test", Declared(**declared))


def test_a_column_is_declared_once():
    with pytest.raises(ValueError, match="column 'a' is declared twice"):
        Declared(ignore=("a",), categorical=("a",))


def test_a_mistake_in_the_file_beside_the_table_is_told_by_its_key(tmp_path):
    path = write_people(tmp_path, "categoricals = ['zip']\n")
    with pytest.raises(ConfigError, match=r"people.csv.toml: categoricals is not a setting. Did you mean categorical"):
        read_table(path)


def test_columns_of_a_named_dataset_cannot_be_declared():
    with pytest.raises(ConfigError, match="columns are declared of files only"):
        load("wine", declared=Declared(ignore=("x",)))


COLUMNS = st.sampled_from(
    [
        st.none() | st.floats(-1e6, 1e6),
        st.none() | st.integers(-999, 999),
        st.none() | st.booleans(),
        st.none() | st.sampled_from(["a", "b", "ä,ö", 'q"']),
        st.none() | st.datetimes(datetime(1700, 1, 1), datetime(2200, 1, 1)),
    ]
)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_frame_comes_back_from_its_table(data):
    n_rows = data.draw(st.integers(1, 6))
    made = [data.draw(st.lists(data.draw(COLUMNS), min_size=n_rows, max_size=n_rows)) for _ in range(3)]
    frame = pd.DataFrame({f"c{j}": pd.Series(cells, dtype=object).convert_dtypes() for j, cells in enumerate(made)})
    table = from_frame(frame, "t", "test")
    assert np.array_equal(np.isnan(table.values), frame.isna().to_numpy())
    again = to_frame(table)
    for name in frame:
        for before, after in zip(frame[name], again[name], strict=True):
            assert (pd.isna(before) and pd.isna(after)) or before == after


def test_a_long_tail_of_positive_numbers_is_seen():
    rng = np.random.default_rng(0)
    normal = rng.normal(0, 1, 500)
    frame = pd.DataFrame({"income": np.exp(2 * normal), "height": 170 + normal, "signed": normal**3, "few": 1.0})
    assert skewed(from_frame(frame, "t", "test")) == ["income"]
