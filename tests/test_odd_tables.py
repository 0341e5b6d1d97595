"""Tables at the ends of what a table can be: filled with known cells to the bit, or refused by a named mistake."""

import json

import numpy as np
import pandas as pd
import pytest

from tests.small_runs import SETTINGS, train_small
from vadtune.data.problem import load_problem
from vadtune.data.splits import DataConfig
from vadtune.errors import DataError
from vadtune.impute import main
from vadtune.settings import parse

RNG = np.random.default_rng(3)
N = 60


def numbers(n=N, n_columns=3, rate=0.2):
    values = RNG.normal(size=(n, 1)) + 0.1 * RNG.normal(size=(n, n_columns))
    values[RNG.random(values.shape) < rate] = np.nan
    return pd.DataFrame(values, columns=[f"x{j}" for j in range(n_columns)])


def rarely_known():
    frame = pd.DataFrame(np.full((2000, 5), np.nan), columns=list("abcde"))
    for k in range(10):
        frame.iloc[k * 190, k % 5] = float(k)
    return frame


def a_split_of_nothing():
    """Only ten rows of 200 have values."""
    frame = numbers(200)
    frame.iloc[10:] = np.nan
    return frame


FILLED = {
    "rows of nothing": lambda: numbers().mask(np.tile(np.arange(N)[:, None] % 3 == 0, 3)),
    "a column of nothing": lambda: numbers().assign(x1=np.nan),
    "a constant column": lambda: numbers().assign(x1=7.25),
    "a column of one known value": lambda: numbers().assign(x1=[1.5] + [np.nan] * (N - 1)),
    "one column": lambda: numbers(n_columns=1),
    "fewer rows than a batch": lambda: numbers(20),
    "nothing missing": lambda: numbers(rate=0.0),
    "huge": lambda: numbers() * 1e300,
    "tiny": lambda: numbers() * 1e-300,
    "subnormal": lambda: numbers() * 1e-320,
    "huge and tiny": lambda: numbers().assign(x1=lambda f: f["x1"] * 1e300, x2=lambda f: f["x2"] * 1e-300),
    "huge and tiny in one column": lambda: numbers().assign(x1=np.where(np.arange(N) % 2, 1e300, 1e-300)),
    "far from zero": lambda: numbers() + 1e15,
    "whole numbers up to 2**53": lambda: numbers().assign(x1=np.arange(N) + 2**53 - N),
    "two equal rows": lambda: pd.concat([numbers(30)] * 2, ignore_index=True),
    "wide": lambda: numbers(12, 80),
}
REFUSED = {
    "one row": (lambda: numbers(1, rate=0.0), "1 rows are too few"),
    "no row": (lambda: numbers().iloc[:0], "no rows"),
    "nothing at all": (lambda: numbers() * np.nan, "not one cell is hidden"),
    "99.9% missing": (rarely_known, "not one cell is hidden"),
    "a split of nothing": (a_split_of_nothing, "not one cell is hidden"),
    "whole numbers beyond 2**53": (lambda: numbers().assign(x1=np.arange(N) + 2**60), "x1"),
}


def fill(frame, tmp_path, capsys, suffix):
    path = tmp_path / f"odd{suffix}"
    frame.to_parquet(path) if suffix == ".parquet" else frame.to_csv(path, index=False)
    problem = load_problem(parse(DataConfig, {"dataset": str(path), "missing_rate": 0.3}, "test"), tmp_path)
    artifact = train_small(problem, tmp_path / "best", SETTINGS)
    assert main([str(artifact), str(path), "-o", str(tmp_path / f"filled{suffix}"), "--json"]) == 0
    json.loads(capsys.readouterr().out)
    filled = tmp_path / f"filled{suffix}"
    return pd.read_parquet(filled) if suffix == ".parquet" else pd.read_csv(filled)


def check(frame, filled):
    assert filled.shape == frame.shape
    assert list(filled.columns) == list(frame.columns)
    known = frame.notna().to_numpy()
    assert np.isfinite(filled.to_numpy(dtype=float)).all()
    assert (filled.to_numpy(dtype=float)[known] == frame.to_numpy(dtype=float)[known]).all()


@pytest.mark.parametrize("name", FILLED)
def test_an_odd_table_is_filled_and_keeps_its_known_cells(name, tmp_path, capsys):
    frame = FILLED[name]()
    check(frame, fill(frame, tmp_path, capsys, ".parquet"))


@pytest.mark.parametrize("name", ["rows of nothing", "huge", "tiny", "subnormal", "whole numbers up to 2**53"])
def test_odd_text_comes_back_as_it_was(name, tmp_path, capsys):
    frame = FILLED[name]()
    filled = fill(frame, tmp_path, capsys, ".csv")
    check(pd.read_csv(tmp_path / "odd.csv"), filled)


@pytest.mark.parametrize("name", REFUSED)
def test_a_table_that_says_too_little_is_refused_by_a_named_mistake(name, tmp_path, capsys):
    make, words = REFUSED[name]
    frame = make()
    with pytest.raises(DataError, match=words):
        fill(frame, tmp_path, capsys, ".csv")


def test_two_columns_of_one_name_are_refused_in_every_format(tmp_path):
    path = tmp_path / "odd.csv"
    path.write_text("a,a\n1,2\n3,\n")
    with pytest.raises(DataError, match="more than one column is named 'a'"):
        load_problem(parse(DataConfig, {"dataset": str(path)}, "test"), tmp_path)
