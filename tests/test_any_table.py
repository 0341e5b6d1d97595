"""Six real tables, and random ones, through training and `vadtune.impute`: known cells stay, no cell is missing."""

import json
import shutil
from itertools import pairwise

import numpy as np
import pandas as pd
import plotly.data
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_wine

from tests.small_runs import SETTINGS, assert_filled, train_small
from vadtune.data.frames import from_frame
from vadtune.data.problem import Problem, load_problem
from vadtune.data.splits import DataConfig, split
from vadtune.data.tables import read_table
from vadtune.impute import main
from vadtune.imputer import VADImputer
from vadtune.settings import merge, parse
from vadtune.training.artifact import load_artifact
from vadtune.training.fill import Filler


def holed(frame, rate=0.15, seed=0):
    hidden = np.random.default_rng(seed).random(frame.shape) < rate
    return frame.mask(pd.DataFrame(hidden, index=frame.index, columns=frame.columns))


def tips():
    """Mixed types: numbers, whole numbers, text, an ordered category."""
    frame = plotly.data.tips()
    days = pd.Categorical(frame["day"], ["Thur", "Fri", "Sat", "Sun"], ordered=True)
    return frame.assign(day=days, smoker=frame["smoker"] == "Yes").astype({"size": "Int8", "smoker": "boolean"})


def stocks():
    """Dates, and prices."""
    frame = plotly.data.stocks()
    return frame.assign(date=pd.to_datetime(frame["date"]), day=pd.to_datetime(frame["date"]).dt.date)


def wind():
    """Categories only, but for one column; an odd index."""
    frame = plotly.data.wind()
    return frame.set_index(pd.MultiIndex.from_arrays([frame.index[::-1], frame["direction"]], names=["n", None]))


def experiment():
    """Dtypes of pandas in which unknown cells are pd.NA, and of Arrow."""
    frame = plotly.data.experiment().convert_dtypes()
    return frame.astype({"group": "category", "experiment_1": "float32", "gender": "string[pyarrow]"})


def one_column():
    """One column."""
    return plotly.data.medals_long()[["medal"]].loc[np.repeat(np.arange(9), 6)].reset_index(drop=True)


def wine():
    """Numbers, whole numbers as a category, a constant, a column of which nothing is known, names of the rows."""
    data = load_wine(as_frame=True)
    frame = data.data.iloc[:, :5].assign(kind=data.target.astype("category"), same=7.25, empty=np.nan)
    return frame.set_index(pd.Index([f"wine {k}" for k in range(len(frame))], name="key"))


TABLES = [tips, stocks, wind, experiment, one_column, wine]


def train(path, folder, **columns):
    config = parse(DataConfig, {"dataset": str(path), "missing_rate": 0.4, "columns": columns}, "test")
    return train_small(load_problem(config, path.parent), folder, SETTINGS)


def impute(capsys, *arguments):
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("make", TABLES, ids=lambda make: make.__name__)
@pytest.mark.parametrize("suffix", ["parquet", "feather"])
def test_a_table_keeps_its_known_cells_types_and_index_and_has_no_hole(tmp_path, capsys, make, suffix):
    frame = holed(make())
    path, output = tmp_path / f"in.{suffix}", tmp_path / f"out.{suffix}"
    frame.to_parquet(tmp_path / "in.parquet")
    if suffix == "feather":
        import pyarrow.feather
        import pyarrow.parquet

        pyarrow.feather.write_feather(pyarrow.parquet.read_table(tmp_path / "in.parquet"), str(path))
    model = train(path, tmp_path / "model")
    impute(capsys, model, path, "-o", output, "--chunk-rows", 50)
    read = pd.read_parquet if suffix == "parquet" else pd.read_feather
    before, after = read(path), read(output)
    assert after.dtypes.equals(before.dtypes)
    assert after.index.equals(before.index)
    assert_filled(after, before)
    # One row alone, as a table of its own.
    before.iloc[[3]].to_parquet(tmp_path / "one.parquet")
    impute(capsys, model, tmp_path / "one.parquet", "-o", tmp_path / "one_out.parquet")
    assert not pd.read_parquet(tmp_path / "one_out.parquet").isna().any().any()


@pytest.mark.parametrize("make", TABLES, ids=lambda make: make.__name__)
def test_a_csv_file_keeps_the_text_of_its_known_cells(tmp_path, capsys, make):
    path, output = tmp_path / "in.csv", tmp_path / "out.csv"
    holed(make()).reset_index(drop=True).to_csv(path, index=False)
    impute(capsys, train(path, tmp_path / "model"), path, "-o", output, "--chunk-rows", 50)
    before, after = (pd.read_csv(p, dtype=str, keep_default_na=False) for p in (path, output))
    known = before != ""
    assert (after.where(known, "") == before).all().all()
    assert not (after == "").any().any()
    first, second = read_table(path), read_table(output)
    for one, other in zip(first.columns, second.columns, strict=True):
        assert set(other.levels) <= set(one.levels)
        assert other.format == one.format


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Of two categories, a number whose logarithm is modelled, a boolean and a date, which depend on each other."""
    folder = tmp_path_factory.mktemp("made")
    rng = np.random.default_rng(0)
    size = rng.integers(0, 3, 300)
    price = np.exp(size + rng.normal(0, 0.1, 300))
    frame = pd.DataFrame(
        {
            "size": np.array(["S", "M", "L"])[size],
            "price": price.round(3),
            "big": size == 2,
            "day": (pd.Timestamp("2020-01-01") + pd.to_timedelta(size * 10, unit="D")).strftime("%Y-%m-%d"),
            "note": [f"note {k}" for k in range(300)],
        }
    )
    frame.to_csv(folder / "made.csv", index=False)
    (folder / "made.csv.toml").write_text('positive = ["price"]\nignore = ["note"]\nmissing = ["?"]\n')
    config = parse(DataConfig, {"dataset": str(folder / "made.csv"), "missing_rate": 0.2}, "test")
    settings = merge(SETTINGS, {"train": {"n_epochs": 40, "learning_rate": 0.01}})
    return train_small(load_problem(config, folder), folder / "model", settings), frame


def test_a_model_finds_categories_dates_and_logarithms_of_each_other(model, tmp_path, capsys):
    folder, frame = model
    frame.iloc[::3].assign(size="?", big=None).to_csv(tmp_path / "in.csv", index=False)
    impute(capsys, folder, tmp_path / "in.csv", "-o", tmp_path / "out.csv")
    filled, truth = pd.read_csv(tmp_path / "out.csv"), frame.iloc[::3].reset_index(drop=True)
    assert (filled["size"] == truth["size"]).mean() > 0.95
    assert (filled["big"] == truth["big"]).mean() > 0.95
    assert filled["note"].tolist() == truth["note"].tolist()
    frame.assign(price=None, day=None).to_csv(tmp_path / "in.csv", index=False)
    impute(capsys, folder, tmp_path / "in.csv", "-o", tmp_path / "out.csv", "--force")
    filled = pd.read_csv(tmp_path / "out.csv")
    assert (filled["price"] > 0).all()
    assert np.abs(np.log(filled["price"] / frame["price"])).median() < 0.2
    days = (pd.to_datetime(filled["day"]) - pd.to_datetime(frame["day"])).dt.days
    assert days.abs().median() <= 3


def test_a_level_the_model_does_not_know_stays_and_says_nothing(model, tmp_path, capsys):
    folder, frame = model
    frame.iloc[:4].assign(size="XXL", price=None).to_csv(tmp_path / "new.csv", index=False)
    frame.iloc[:4].assign(size="", price=None).to_csv(tmp_path / "none.csv", index=False)
    for name in ("new", "none"):
        impute(capsys, folder, tmp_path / f"{name}.csv", "-o", tmp_path / f"{name}_out.csv")
    new, none = (pd.read_csv(tmp_path / f"{name}_out.csv") for name in ("new", "none"))
    assert (new["size"] == "XXL").all()
    np.testing.assert_allclose(new["price"], none["price"], rtol=1e-4)


def test_intervals_and_the_chance_to_be_wrong_of_categories_are_told(model, tmp_path, capsys):
    folder, frame = model
    frame.assign(price=None, size=None).to_csv(tmp_path / "in.csv", index=False)
    files = ["-o", tmp_path / "out.csv", "--intervals", "--std", tmp_path / "std.csv"]
    result = impute(capsys, folder, tmp_path / "in.csv", *files)
    assert len(result["intervals"]) == 6
    read = {name: pd.read_csv(tmp_path / f"out{name}.csv") for name in ("", ".low95", ".low50", ".high50", ".high95")}
    prices = [read[name]["price"] for name in (".low95", ".low50", "", ".high50", ".high95")]
    for lower, higher in pairwise(prices):
        assert (lower < higher).all()
    assert (prices[0] > 0).all()
    assert (read[".low95"]["size"] == read[""]["size"]).all()
    std = pd.read_csv(tmp_path / "std.csv")
    assert std["size"].between(0, 2 / 3).all()
    assert (std["big"] == 0).all()
    inside = frame["price"].between(read[".low95"]["price"], read[".high95"]["price"])
    assert 0.85 < inside.mean() <= 1


def test_draws_of_categories_follow_their_chances(model):
    folder, _ = model
    artifact = load_artifact(folder)
    x = np.full((400, 4), np.nan)
    table = from_frame(pd.DataFrame({"a": [1.0]}), "t", "t")
    table = type(table)("t", "t", x, artifact.columns)
    drawn = np.stack(Filler(artifact, 20)(table))
    shares = [(drawn[:, :, 0] == code).mean() for code in range(3)]
    assert sum(shares) == pytest.approx(1)
    assert min(shares) > 0.15


def test_permuting_hidden_values_changes_nothing_that_a_model_or_baseline_can_see():
    frame = holed(tips()).reset_index(drop=True)
    table = from_frame(frame, "tips", "test")
    config = parse(DataConfig, {"dataset": "tips", "missing_rate": 0.3}, "test")
    before = split(table, config)
    values, rng = table.values.copy(), np.random.default_rng(1)
    # Validation rows are shown several times, each time with other cells hidden: these stay.
    for part, rows in ((before.train, before.indices[0]), (before.test, before.indices[2])):
        for j in range(values.shape[1]):
            hidden = rows[~np.isnan(part.truth[:, j])]
            values[hidden, j] = values[rng.permutation(hidden), j]
    after = split(type(table)("tips", "test", values, table.columns), config)
    assert not np.array_equal(values, table.values, equal_nan=True)
    assert after.codec == before.codec
    assert after.scaler.to_dict() == before.scaler.to_dict()
    for one, other in zip(
        (before.train, before.validation, before.test), (after.train, after.validation, after.test), strict=True
    ):
        np.testing.assert_array_equal(one.rows.x, other.rows.x)


def test_scales_and_codes_are_those_of_training_rows_alone():
    table = from_frame(tips().reset_index(drop=True), "tips", "test")
    config = parse(DataConfig, {"dataset": "tips", "missing_rate": 0.3}, "test")
    before = split(table, config)
    values = table.values.copy()
    values[before.indices[2]] = 1.0
    values[before.indices[1]] = 0.0
    after = split(type(table)("tips", "test", values, table.columns), config)
    assert after.codec == before.codec
    assert after.scaler.to_dict() == before.scaler.to_dict()


CELLS = {
    "number": st.none() | st.floats(-1e6, 1e6),
    "text": st.none() | st.sampled_from(["red", "green", 'b"lue, x']),
    "flag": st.none() | st.booleans(),
    "day": st.none()
    | st.dates().map(lambda day: day.replace(year=2000).isoformat()).filter(lambda day: day[5:] != "02-29"),
}


@pytest.fixture(scope="module")
def random_model(tmp_path_factory):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "number": rng.normal(0, 1000, 60),
            "text": rng.choice(["red", "green", 'b"lue, x'], 60),
            "flag": rng.random(60) < 0.5,
            "day": pd.date_range("2000-01-01", periods=60).strftime("%Y-%m-%d"),
        }
    )
    table = from_frame(frame, "random", "test")
    config = parse(DataConfig, {"dataset": "random", "missing_rate": 0.2}, "test")
    return train_small(Problem(table, config, split(table, config)), tmp_path_factory.mktemp("r") / "m")


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.fixed_dictionaries(CELLS), min_size=1, max_size=8), chunk=st.integers(1, 9))
def test_random_tables_keep_what_is_known_and_have_no_hole(random_model, tmp_path, capsys, rows, chunk):
    frame = pd.DataFrame(rows, columns=list(CELLS), dtype=object).astype({"number": "Float64", "flag": "boolean"})
    frame = frame.astype({"text": "string", "day": "string"})
    for suffix in ("csv", "parquet"):
        source, output = tmp_path / f"in.{suffix}", tmp_path / f"out.{suffix}"
        frame.to_csv(source, index=False) if suffix == "csv" else frame.to_parquet(source)
        impute(capsys, random_model, source, "-o", output, "--chunk-rows", chunk, "--force")
        filled = pd.read_csv(output) if suffix == "csv" else pd.read_parquet(output)
        assert_filled(filled, frame)


def test_a_model_loads_without_the_table_it_was_trained_on(model, tmp_path):
    folder, _ = model
    shutil.copytree(folder, tmp_path / "moved")
    assert load_artifact(tmp_path / "moved").missing == ("?",)


@pytest.mark.parametrize("make", TABLES, ids=lambda make: make.__name__)
def test_an_estimator_fills_a_dataframe_of_any_columns(make):
    frame = holed(make())
    imputer = VADImputer(n_epochs=2, hidden_dim=8, latent_dim=2, keep_empty_features=True, random_state=0)
    filled = imputer.set_output(transform="pandas").fit(frame).transform(frame.iloc[::-1])[::-1]
    assert filled.dtypes.equals(frame.dtypes)
    assert filled.index.equals(frame.index)
    assert_filled(filled, frame)
    assert -1.5 < imputer.score(frame) < 0
