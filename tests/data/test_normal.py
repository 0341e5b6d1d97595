"""Holes are filled with what a multivariate normal expects: against closed forms, and the same EM row by row."""

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vadtune.data import normal
from vadtune.data.codec import Codec
from vadtune.data.normal import MOST_COLUMNS, N_STEPS, RIDGE, MultivariateNormal, column_means, principal_components
from vadtune.data.splits import DataConfig, Rows, split
from vadtune.data.tables import Column, Table

NAN = np.nan
cells = st.one_of(st.floats(-10, 10), st.just(NAN), st.just(3.0), st.floats(-1e-30, 1e-30))
tables = hnp.arrays(np.float64, st.tuples(st.integers(1, 12), st.integers(1, 6)), elements=cells)


def complete(x):
    return MultivariateNormal.fit(x).complete(x)


def correlated(n_rows: int, n_columns: int, missing_rate: float, seed: int = 0) -> np.ndarray:
    """Columns of unit variance that depend on each other, far from 0, with holes."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n_rows, n_columns)) @ rng.standard_normal((n_columns, n_columns))
    x = x / x.std(0) + np.arange(n_columns)
    x[rng.random(x.shape) < missing_rate] = NAN
    return x.astype(np.float32)


def regression(row, mean, covariance):
    """A centred row, filled by the regression of what is not seen on what is; the covariance that is left."""
    o, m = ~np.isnan(row), np.isnan(row)
    slopes = covariance[np.ix_(m, o)] @ np.linalg.inv(covariance[np.ix_(o, o)])
    filled, left = row - mean, np.zeros_like(covariance)
    filled[m] = slopes @ filled[o]
    left[np.ix_(m, m)] = covariance[np.ix_(m, m)] - slopes @ covariance[np.ix_(o, m)]
    return filled, left


def one_by_one(x, fitted_on=None):
    """The same by its definition: each row alone, and only its own cells."""
    x = x.astype(np.float64)
    seen = x if fitted_on is None else fitted_on.astype(np.float64)
    mean = np.nanmean(seen, axis=0)
    centred, ridge = np.nan_to_num(seen - mean), RIDGE * np.eye(x.shape[1])
    covariance = centred.T @ centred / len(seen) + ridge
    for _ in range(N_STEPS):
        pairs = [regression(row, mean, covariance) for row in seen]
        filled = np.array([row for row, _ in pairs]) + mean
        mean = filled.mean(0)
        covariance = np.cov(filled.T, bias=True) + np.mean([left for _, left in pairs], axis=0) + ridge
    return np.array([regression(row, mean, covariance)[0] for row in x])


def test_a_table_without_holes_is_centred_and_nothing_else():
    x = correlated(50, 4, 0.0)
    found = complete(x)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, x - x.mean(0, dtype=np.float64), rtol=0, atol=1e-6)


def test_of_two_columns_a_hole_is_filled_by_the_regression_on_the_other():
    rng = np.random.default_rng(0)
    a = rng.standard_normal(20_000)
    b = 0.9 * a + np.sqrt(1 - 0.9**2) * rng.standard_normal(20_000)
    hidden = rng.random((20_000, 2)) < 0.3
    found = complete(np.where(hidden, NAN, np.column_stack([a + 5, b - 2])))
    only_a, only_b = hidden[:, 1] & ~hidden[:, 0], hidden[:, 0] & ~hidden[:, 1]
    np.testing.assert_allclose(found[only_a, 1], 0.9 * a[only_a], rtol=0.03, atol=0.03)
    np.testing.assert_allclose(found[only_b, 0], 0.9 * b[only_b], rtol=0.03, atol=0.03)


@pytest.mark.parametrize(("n_rows", "n_columns", "missing_rate"), [(80, 6, 0.4), (30, 2, 0.7), (8, 12, 0.5)])
def test_holes_are_filled_as_by_em_row_by_row(n_rows, n_columns, missing_rate):
    x = correlated(n_rows, n_columns, missing_rate)
    np.testing.assert_allclose(complete(x), one_by_one(x), rtol=0, atol=1e-5)


def test_expectations_are_closer_to_the_truth_than_means_are():
    full, seen = correlated(500, 6, 0.0), correlated(500, 6, 0.4)
    hidden = np.isnan(seen)
    error = (full - np.nanmean(seen, axis=0))[hidden]
    left = (full - np.nanmean(seen, axis=0) - complete(seen))[hidden]
    assert np.square(left).mean() < 0.5 * np.square(error).mean()


@settings(deadline=None)
@given(x=tables)
def test_any_table_is_filled_and_what_is_observed_only_moves_with_its_column(x):
    found, seen = complete(x), ~np.isnan(x)
    assert found.dtype == np.float32
    assert found.shape == x.shape
    assert np.isfinite(found).all()
    assert (found[~seen.any(axis=1)] == 0).all()
    for j in np.flatnonzero(seen.any(axis=0)):
        assert np.ptp((x - found)[seen[:, j], j]) < 1e-4


@settings(deadline=None)
@given(x=tables, seed=st.integers(0, 99))
def test_the_order_of_rows_and_columns_does_not_matter(x, seed):
    rng = np.random.default_rng(seed)
    rows, columns = rng.permutation(x.shape[0]), rng.permutation(x.shape[1])
    np.testing.assert_allclose(complete(x[rows][:, columns]), complete(x)[rows][:, columns], rtol=0, atol=1e-3)


def test_where_a_column_begins_does_not_matter():
    x = correlated(60, 4, 0.4).astype(np.float64)
    np.testing.assert_allclose(complete(x + np.array([100, 0, -7, 3])), complete(x), rtol=0, atol=1e-5)


def test_a_row_of_which_nothing_is_observed_is_0():
    x = correlated(60, 4, 0.3)
    x[7] = NAN
    assert (complete(x)[7] == 0).all()


def test_a_column_of_which_nothing_is_observed_is_0_and_changes_no_other():
    x = correlated(60, 4, 0.3)
    found = complete(np.insert(x, 2, NAN, axis=1))
    np.testing.assert_allclose(found, np.insert(complete(x), 2, 0, axis=1), rtol=0, atol=1e-6)


def test_a_constant_column_is_0_and_changes_no_other():
    x = correlated(60, 4, 0.3)
    constant = np.where(np.arange(60) % 3, 7.0, NAN)
    found = complete(np.insert(x, 2, constant, axis=1))
    np.testing.assert_allclose(found, np.insert(complete(x), 2, 0, axis=1), rtol=0, atol=1e-5)


def test_a_copy_of_a_column_fills_its_holes():
    rng = np.random.default_rng(0)
    column = rng.standard_normal(200)
    x = np.where(rng.random((200, 2)) < 0.2, NAN, column[:, None])
    x = np.column_stack([x, x])
    known = ~np.isnan(x).all(axis=1)
    found = complete(x)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[known], np.tile(column[known, None], 4) - np.nanmean(x), rtol=0, atol=0.1)


def test_holes_of_very_many_columns_are_filled_with_their_means():
    x = correlated(20, MOST_COLUMNS + 1, 0.3)
    expected = np.nan_to_num(x - np.nanmean(x, axis=0, dtype=np.float64))
    found = complete(x)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert (found[np.isnan(x)] == 0).all()


def test_every_hole_of_many_rows_is_filled_by_a_normal_of_some_of_them(monkeypatch):
    monkeypatch.setattr(normal, "MOST_WORK", 1)
    monkeypatch.setattr(normal, "LEAST_ROWS_EACH", 5)
    x = correlated(100, 4, 0.4)  # one row in five: 5 rows for each of 4 columns
    np.testing.assert_allclose(complete(x), one_by_one(x, fitted_on=x[::5]), rtol=0, atol=1e-5)


def test_few_rows_are_all_looked_at(monkeypatch):
    x = correlated(39, 4, 0.4)
    expected = complete(x)
    monkeypatch.setattr(normal, "MOST_WORK", 20 * 4**3)  # less than twice as many rows as may be looked at
    monkeypatch.setattr(normal, "LEAST_ROWS_EACH", 1)
    assert np.array_equal(complete(x), expected)


@pytest.mark.parametrize("most_numbers", [1, 100, 16 * 59])
def test_the_size_of_the_parts_does_not_matter(monkeypatch, most_numbers):
    x = correlated(60, 4, 0.4)
    expected = complete(x)
    monkeypatch.setattr(normal, "MOST_NUMBERS", most_numbers)
    np.testing.assert_allclose(complete(x), expected, rtol=0, atol=1e-6)


def test_the_table_is_not_written_to():
    x = correlated(20, 3, 0.4)
    before = x.copy()
    complete(x)
    assert np.array_equal(x, before, equal_nan=True)


def test_rows_are_completed_by_a_normal_that_is_fitted_once():
    rows = Rows(correlated(20, 3, 0.4))
    assert np.array_equal(rows.completed(), complete(rows.x))
    assert rows.normal is rows.normal
    assert rows.components is rows.components
    assert np.array_equal(rows.components, principal_components(rows.completed()))


def test_rows_are_completed_once_to_be_projected_on_their_components(monkeypatch):
    rows, calls = Rows(correlated(20, 3, 0.4)), []
    completed = rows.completed()
    components = principal_components(completed)
    monkeypatch.setattr(MultivariateNormal, "complete", lambda *_: calls.append(1) or completed)
    assert np.array_equal(rows.projected(2), completed @ components[:, :2])
    assert np.array_equal(rows.components, components)
    assert len(calls) == 1
    assert rows.projected(9).shape == (20, 3)


def test_what_varies_by_less_than_a_thousandth_of_the_first_component_is_no_component():
    rng = np.random.default_rng(0)
    rotation, scores = (np.linalg.qr(rng.standard_normal((n, 4)))[0] for n in (4, 30))
    centred = scores * [5.0, 0.1, 5.5e-3, 4.5e-3] @ rotation.T
    components = principal_components(centred)
    assert components.shape == (4, 3)
    np.testing.assert_allclose(np.square(centred @ components).mean(0), 1, rtol=1e-3)


def test_components_of_very_many_rows_are_those_of_some_of_them(monkeypatch):
    monkeypatch.setattr(normal, "MOST_ROWS", 10)
    x = correlated(40, 3, 0.0)
    assert np.array_equal(principal_components(x), principal_components(x[::4]))


def test_rows_are_completed_as_a_model_sees_them():
    columns = (Column("colour", "categorical", "str", ("r", "g", "b")), Column("height", "numeric", "float64"))
    x = np.array([[0, 1.5], [1, NAN], [NAN, 0.5], [2, -1.0], [0, 1.0]], dtype=np.float32)
    codec = Codec.fit(x, columns)
    found = Rows(x, codec).completed()
    assert found.shape == (5, 4)
    assert np.array_equal(found, complete(codec.encode(x)))


def test_hidden_cells_do_not_matter():
    values = correlated(200, 5, 0.1).astype(np.float64)
    columns = tuple(Column(f"x{j}", "numeric", "float64") for j in range(5))
    config = DataConfig(dataset="t")
    before = split(Table("t", "test", values, columns), config)
    altered = values.copy()
    train = before.indices[0]
    altered[train] = np.where(np.isnan(before.train.truth), altered[train], 1e6)
    after = split(Table("t", "test", altered, columns), config)
    assert (after.train.truth[~np.isnan(after.train.truth)] > 1e3).all()
    assert np.array_equal(before.train.rows.completed(), after.train.rows.completed())


def test_column_means_are_over_observed_cells_in_the_precision_of_the_table():
    x = np.array([[1, NAN, NAN], [3, 5, NAN]], dtype=np.float32)
    assert column_means(x).tolist() == [2.0, 5.0, 0.0]
    assert column_means(x).dtype == np.float32
