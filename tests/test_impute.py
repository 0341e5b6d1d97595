"""`python -m vadtune.impute`: known cells keep their bits, unknown ones are filled, all else stays as it is."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.small_runs import SETTINGS, modules_after, train_small
from vadtune.data.csv_text import _split
from vadtune.data.frames import from_frame
from vadtune.data.problem import Problem
from vadtune.data.splits import DataConfig, split
from vadtune.data.tables import Column, Table, read_table, write_table
from vadtune.errors import ConfigError, DataError
from vadtune.impute import main
from vadtune.settings import parse
from vadtune.training.artifact import load_artifact
from vadtune.training.fill import Filler

NAMES = ("height", "age", "smokes")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of a number, a whole number and a boolean, that depend on each other."""
    rng = np.random.default_rng(0)
    height = rng.normal(170, 10, 200)
    age = np.rint(height / 4 + rng.normal(0, 1, 200))
    values = np.column_stack([height, age, age > 42]).astype(np.float64)
    columns = (Column("height", "numeric", "float64"), Column("age", "integer", "int64"))
    table = Table("people", "made", values, (*columns, Column("smokes", "boolean", "bool")))
    config = parse(DataConfig, {"dataset": "people", "missing_rate": 0.2}, "test")
    settings = SETTINGS | {"train": {"n_epochs": 20, "batch_size": 32}}
    return train_small(Problem(table, config, split(table, config)), tmp_path_factory.mktemp("m") / "m", settings)


def people(n_rows=40, seed=1):
    """A frame with holes, an index, and columns that the model does not know."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "name": [f'Ms "{k}", née' for k in range(n_rows)],
            "smokes": pd.array(rng.random(n_rows) < 0.5, dtype="boolean"),
            "height": rng.normal(170, 10, n_rows),
            "when": pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(n_rows), unit="h"),
            "age": pd.array(rng.integers(20, 60, n_rows), dtype="Int64"),
        },
        index=pd.Index([f"id{k}" for k in range(n_rows)], name="key"),
    )
    for name in NAMES:
        frame.loc[rng.random(n_rows) < 0.3, name] = pd.NA if name != "height" else np.nan
    return frame


def impute(capsys, *arguments):
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_parquet_keeps_types_index_order_and_all_known_cells(folder, tmp_path, capsys):
    frame = people()
    frame.to_parquet(tmp_path / "in.parquet")
    result = impute(capsys, folder, tmp_path / "in.parquet", "-o", tmp_path / "out.parquet", "--chunk-rows", 7)
    filled = pd.read_parquet(tmp_path / "out.parquet")
    assert result["n_imputed_cells"] == int(frame[list(NAMES)].isna().sum().sum())
    assert filled.dtypes.equals(frame.dtypes)
    assert filled.index.equals(frame.index)
    assert not filled.isna().any().any()
    pd.testing.assert_frame_equal(filled.where(frame.notna()), frame, check_exact=True)
    assert pq.read_schema(tmp_path / "out.parquet").equals(pq.read_schema(tmp_path / "in.parquet"), check_metadata=True)


def test_csv_keeps_the_text_of_every_known_cell(folder, tmp_path, capsys):
    text = (
        '\ufeff"id",age,height,note,smokes\r\n'
        '007,31,1.700e2,"a, ""b""\nc",True\r\n'
        '008,,+170.50,5" pipe,\r\n'
        "\r\n"
        '009,"44",,NA,False'
    )
    (tmp_path / "in.csv").write_bytes(text.encode())
    result = impute(capsys, folder, tmp_path / "in.csv", "-o", tmp_path / "out.csv", "--chunk-rows", 1)
    lines = (tmp_path / "out.csv").read_bytes().decode().split("\r\n")
    before = text.split("\r\n")
    assert (result["n_rows"], result["n_imputed_cells"]) == (3, 3)
    assert lines[:2] == before[:2]
    assert lines[3] == ""
    number, age, height, note, smokes = lines[2].split(",")
    assert (number, height, note) == ("008", "+170.50", '5" pipe')
    assert int(age) > 0
    assert smokes in ("True", "False")
    assert lines[4].startswith('009,"44",1')
    assert lines[4].endswith(",NA,False")


def test_a_table_without_holes_comes_back_to_the_byte(folder, tmp_path, capsys):
    people().fillna({"height": 1.5, "age": 3, "smokes": True}).to_csv(tmp_path / "in.csv.gz")
    impute(capsys, folder, tmp_path / "in.csv.gz", "-o", tmp_path / "out.csv.gz")
    known, filled = (gzip.decompress((tmp_path / name).read_bytes()) for name in ("in.csv.gz", "out.csv.gz"))
    assert known == filled


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.tuples(st.none() | st.floats(-1e6, 1e6), st.none() | st.integers(-999, 999), st.none() | st.booleans()),
        min_size=1,
        max_size=12,
    ),
    chunk=st.integers(1, 13),
)
def test_known_cells_come_back_unchanged_and_no_cell_is_missing(folder, tmp_path, capsys, rows, chunk):
    columns = zip(NAMES, zip(*rows, strict=True), strict=True)
    frame = pd.DataFrame({name: pd.Series(values, dtype="object") for name, values in columns})
    frame = frame.astype({"height": "Float64", "age": "Int64", "smokes": "boolean"})
    for known in ("csv", "parquet"):
        source, output = tmp_path / f"in.{known}", tmp_path / f"out.{known}"
        frame.to_csv(source, index=False) if known == "csv" else frame.to_parquet(source)
        impute(capsys, folder, source, "-o", output, "--chunk-rows", chunk, "--force")
        filled = read_table(output).values
        truth = frame.to_numpy(dtype=np.float64, na_value=np.nan)
        assert not np.isnan(filled).any()
        np.testing.assert_array_equal(filled[~np.isnan(truth)], truth[~np.isnan(truth)])


@pytest.mark.parametrize("before", ["csv", "parquet", "feather", "npz", "npy", "h5"])
@pytest.mark.parametrize("after", ["csv.gz", "parquet", "feather", "npz"])
def test_any_format_goes_in_and_out(folder, tmp_path, capsys, before, after):
    table = from_frame(people()[list(NAMES)].reset_index(drop=True), "people", "made")
    if before == "npy":
        table = replace(table, columns=tuple(Column(f"x{j}", "numeric", "float64") for j in range(3)))
        folder = renamed(folder, tmp_path)
    write_table(table, tmp_path / f"in.{before}")
    impute(capsys, folder, tmp_path / f"in.{before}", "-o", tmp_path / f"out.{after}")
    filled = read_table(tmp_path / f"out.{after}")
    known = ~np.isnan(table.values)
    np.testing.assert_array_equal(filled.values[known], table.values[known])
    assert not np.isnan(filled.values).any()
    assert [column.name for column in filled.columns] == [column.name for column in table.columns]


def renamed(folder, tmp_path):
    from vadtune.training.artifact import save_artifact

    artifact = load_artifact(folder)
    columns = tuple(replace(column, name=f"x{j}") for j, column in enumerate(artifact.columns))
    return save_artifact(replace(artifact, columns=columns), tmp_path / "renamed")


def test_arrays_of_float32_stay_so(folder, tmp_path, capsys):
    values = from_frame(people()[list(NAMES)], "people", "made").values.astype(np.float32)
    np.savez(tmp_path / "in.npz", values=values, columns=np.array(NAMES))
    impute(capsys, folder, tmp_path / "in.npz", "-o", tmp_path / "out.npz")
    filled = np.load(tmp_path / "out.npz")["values"]
    assert filled.dtype == np.float32
    np.testing.assert_array_equal(filled[~np.isnan(values)], values[~np.isnan(values)])


def test_the_size_of_chunks_does_not_matter(folder, tmp_path, capsys):
    people(50).to_csv(tmp_path / "in.csv")
    results = []
    for chunk in (50, 3):
        files = ["-o", tmp_path / "out.csv", "--std", tmp_path / "std.csv", "--draws", 2, "--force"]
        impute(capsys, folder, tmp_path / "in.csv", *files, "--chunk-rows", chunk)
        results.append([pd.read_csv(tmp_path / name)["height"] for name in ("out.1.csv", "out.2.csv", "std.csv")])
    for whole, parts in zip(*results, strict=True):
        np.testing.assert_allclose(parts, whole, rtol=1e-3)


def test_draws_spread_around_the_estimate_as_the_std_says(folder):
    x = np.full((400, 3), np.nan)
    x[:, 1] = 45
    table = Table("people", "made", x, load_artifact(folder).columns)
    (mean,) = Filler(load_artifact(folder))(table)
    *draws, std = Filler(load_artifact(folder), 20, with_std=True, seed=3)(table)
    drawn = np.stack(draws)[:, :, 0]
    assert drawn.mean() == pytest.approx(mean[0, 0], abs=0.2 * std[0, 0])
    assert drawn.std() == pytest.approx(std[0, 0], rel=0.2)
    assert (std[:, 1] == 0).all()
    assert set(np.unique(draws[0][:, 2])) <= {0.0, 1.0}


def test_draws_repeat_with_their_seed(folder, tmp_path, capsys):
    people().to_csv(tmp_path / "in.csv")
    texts = []
    for seed in (1, 1, 2):
        result = impute(
            capsys, folder, tmp_path / "in.csv", "-o", tmp_path / "o.csv", "--draws", 2, "--seed", seed, "--force"
        )
        texts.append([Path(path).read_text() for path in result["outputs"]])
    assert texts[0] == texts[1] != texts[2]
    assert texts[0][0] != texts[0][1]


def test_std_is_a_table_of_numbers_beside_the_columns_that_pass_through(folder, tmp_path, capsys):
    frame = people()
    frame.to_parquet(tmp_path / "in.parquet")
    impute(capsys, folder, tmp_path / "in.parquet", "-o", tmp_path / "o.parquet", "--std", tmp_path / "s.parquet")
    std = pd.read_parquet(tmp_path / "s.parquet")
    assert (std[list(NAMES)].dtypes == "float64").all()
    assert ((std[list(NAMES)] > 0) == frame[list(NAMES)].isna()).all().all()
    pd.testing.assert_series_equal(std["name"], frame["name"])


def test_whole_numbers_that_the_model_knows_as_fractions_become_fractions_only_where_there_are_holes(
    folder, tmp_path, capsys
):
    table = {"height": pa.array([170, None, 180]), "age": pa.array([30, 40, None], pa.int16())}
    pq.write_table(pa.table({**table, "smokes": pa.nulls(3)}), tmp_path / "in.parquet")
    impute(capsys, folder, tmp_path / "in.parquet", "-o", tmp_path / "out.parquet")
    schema = pq.read_schema(tmp_path / "out.parquet")
    assert [str(field.type) for field in schema] == ["double", "int16", "double"]


def test_a_row_with_no_known_cell_is_filled(folder, tmp_path, capsys):
    (tmp_path / "in.csv").write_text("height,age,smokes\n,,\n170,40,True\n")
    impute(capsys, folder, tmp_path / "in.csv", "-o", tmp_path / "out.csv")
    assert not np.isnan(read_table(tmp_path / "out.csv").values).any()


def test_an_interrupt_leaves_nothing_half_written(folder, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    people().to_csv(tmp_path / "in.csv")
    monkeypatch.setattr("vadtune.training.fill.Filler.__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main([str(folder), str(tmp_path / "in.csv"), "-o", str(tmp_path / "out.csv"), "--draws", "2"])
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


@pytest.mark.parametrize(
    ("text", "arguments", "error", "words"),
    [
        ("height,age\n1,2\n", [], DataError, "1 of the model's 3 columns are not in the table: 'smokes'"),
        ("height,age,smoke\n1,2,\n", [], DataError, "Did you mean smoke"),
        ("height,age,smokes\n1,2\n", [], DataError, "row 1 has 2 cells, the first line names 3"),
        ("height,age,smokes\n1,old,True\n", [], DataError, r"column 'age' holds text \('old' in row 0"),
        ("height,age,smokes\ninf,2,\n", [], DataError, "column 'height' holds inf in row 0"),
        ('height,age,smokes\n"1,2,True\n', [], DataError, "cell in quotes has no end"),
        ("height;age;smokes\n1;2;3\n", [], DataError, "no comma"),
        ("", [], DataError, "first line is empty"),
        ("height,age,smokes\n1,2,\n", ["-o", "{}/in.csv", "--force"], ConfigError, "is the table itself"),
        ("height,age,smokes\n1,2,\n", ["-o", "{}/there.csv"], ConfigError, "exists already.*--force"),
        ("height,age,smokes\n1,2,\n", ["-o", "{}/out.xlsx"], DataError, "suffix is not one of"),
        ("height,age,smokes\n1,2,\n", ["--std", "{}/out.csv"], ConfigError, "is the output, too"),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(folder, tmp_path, text, arguments, error, words):
    (tmp_path / "in.csv").write_text(text)
    (tmp_path / "there.csv").touch()
    given = [argument.format(tmp_path) for argument in arguments]
    output = [] if "-o" in given else ["-o", str(tmp_path / "out.csv")]
    with pytest.raises(error, match=words):
        main([str(folder), str(tmp_path / "in.csv"), *output, *given])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "there.csv"]


@settings(max_examples=100)
@given(st.lists(st.text(alphabet='ab," \n', max_size=6), min_size=1, max_size=5))
def test_a_line_that_is_split_and_joined_is_the_same_line(cells):
    import csv
    import io

    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    split_cells = _split(text.getvalue())
    assert split_cells is not None
    assert ",".join(split_cells) == text.getvalue()
    assert len(split_cells) == len(cells)


def test_neither_ray_nor_optuna_is_imported(folder, tmp_path):
    people().to_csv(tmp_path / "in.csv")
    arguments = [str(folder), str(tmp_path / "in.csv"), "-o", str(tmp_path / "out.csv")]
    assert modules_after(f"from vadtune.impute import main\nmain({arguments!r})") & {"ray", "optuna"} == set()


def test_help_imports_nothing_heavy():
    assert modules_after("from vadtune.impute import parser; parser().format_help()") == set()
