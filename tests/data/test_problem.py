"""How much of a table is hidden where nobody says."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from vadtune.data.problem import load_problem, usual_rate
from vadtune.data.splits import DataConfig
from vadtune.data.tables import Column, Table


def table_with_holes(share, n_rows=200):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(n_rows, 5))
    values.flat[rng.permutation(values.size)[: round(share * values.size)]] = np.nan
    return Table("t", "t", values, tuple(Column(f"x{j}", "numeric", "float64") for j in range(5)))


@pytest.mark.parametrize(("holes", "rate"), [(0, 0.5), (0.01, 0.1), (0.23, 0.23), (0.8, 0.5)])
def test_as_many_cells_are_hidden_as_are_unknown_within_bounds(holes, rate):
    assert usual_rate(table_with_holes(holes)) == rate


def test_columns_of_which_nothing_is_known_and_pictures_do_not_count():
    table = table_with_holes(0)
    table.values[:, 2] = np.nan
    assert usual_rate(table) == 0.5
    assert usual_rate(replace(table_with_holes(0.2), image_shape=(1, 5))) == 0.5


def test_what_is_given_counts(tmp_path):
    frame = pd.DataFrame(table_with_holes(0.2).values).add_prefix("x")
    frame.to_csv(tmp_path / "holes.csv", index=False)
    config = DataConfig(dataset=str(tmp_path / "holes.csv"))
    assert load_problem(config, tmp_path).config.missing_rate == 0.2
    given = DataConfig(dataset=str(tmp_path / "holes.csv"), missing_rate=0.5)
    assert load_problem(given, tmp_path).config.missing_rate == 0.5
