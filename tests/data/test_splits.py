"""What a model may see of a table, and what it must not."""

import json
from dataclasses import replace

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vadtune.data.datasets import load
from vadtune.data.masks import Block, Landmark, Mar, Mcar, Mnar
from vadtune.data.splits import DataConfig, Scaler, split
from vadtune.data.tables import Column, GivenSplit, Table
from vadtune.errors import ConfigError, DataError
from vadtune.settings import parse

cells = st.one_of(st.floats(-1e9, 1e9), st.just(np.nan), st.just(3.0), st.floats(-1e-200, 1e-200))
matrices = hnp.arrays(np.float64, st.tuples(st.integers(1, 12), st.integers(1, 6)), elements=cells)


def table_of(values: np.ndarray) -> Table:
    return Table("t", "test", values, tuple(Column(f"x{j}", "numeric", "float64") for j in range(values.shape[1])))


def some_table(n_rows: int = 200, n_features: int = 6) -> Table:
    rng = np.random.default_rng(3)
    values = rng.standard_normal((n_rows, n_features)) * 10 + 100
    values[rng.random(values.shape) < 0.1] = np.nan
    return table_of(values)


def holdouts(splits):
    return splits.train, splits.validation, splits.test


@pytest.mark.parametrize("mechanism", [Mcar(), Mar(), Mnar(), Block()], ids=lambda mechanism: mechanism.kind)
def test_no_cell_is_both_seen_and_scored_and_none_is_lost(mechanism):
    table = some_table()
    splits = split(table, DataConfig(dataset="t", mechanism=mechanism))
    for part, index in zip(holdouts(splits), splits.indices, strict=True):
        rows = np.tile(index, len(part.truth) // len(index))
        observed, hidden = ~np.isnan(part.rows.x), ~np.isnan(part.truth)
        assert not (observed & hidden).any()
        assert np.array_equal(observed | hidden, ~np.isnan(table.values[rows]))
        assert part.rows.x.dtype == part.truth.dtype == np.float32


def test_every_row_is_in_one_split():
    splits = split(some_table(), DataConfig(dataset="t", validation_share=0.2, test_share=0.3))
    assert [len(rows) for rows in splits.indices] == [100, 40, 60]
    assert np.array_equal(np.sort(np.concatenate(splits.indices)), np.arange(200))


@pytest.mark.parametrize("mechanism", [Mcar(), Block()], ids=lambda mechanism: mechanism.kind)
def test_nothing_that_a_model_sees_depends_on_hidden_values(mechanism):
    table, config = some_table(14_000), DataConfig(dataset="t", mechanism=mechanism)  # validation rows come once
    before = split(table, config)
    altered = table.values.copy()
    for part, rows in zip(holdouts(before), before.indices, strict=True):
        altered[rows] = np.where(np.isnan(part.truth), altered[rows], 1e6 * np.random.default_rng(1).random())
    after = split(table_of(altered), config)
    for old, new in zip(holdouts(before), holdouts(after), strict=True):
        assert np.array_equal(old.rows.x, new.rows.x, equal_nan=True)
    assert before.scaler.to_dict() == after.scaler.to_dict()


def test_the_scaler_does_not_know_the_rows_of_validation_and_test():
    table = some_table()
    before = split(table, DataConfig(dataset="t"))
    altered = table.values.copy()
    altered[np.concatenate(before.indices[1:])] *= 100
    after = split(table_of(altered), DataConfig(dataset="t"))
    assert before.scaler.to_dict() == after.scaler.to_dict()


def test_equal_seeds_give_equal_splits_and_others_do_not():
    first, again, other = (split(some_table(), DataConfig(dataset="t", seed=seed)) for seed in (5, 5, 6))
    for a, b in zip(holdouts(first), holdouts(again), strict=True):
        assert np.array_equal(a.rows.x, b.rows.x, equal_nan=True)
        assert np.array_equal(a.truth, b.truth, equal_nan=True)
    assert not np.array_equal(first.indices[0], other.indices[0])


def test_another_test_rate_leaves_the_training_rows_as_they_are():
    table = some_table()
    plain, shifted = (split(table, DataConfig(dataset="t", test_missing_rate=rate)) for rate in (None, 0.9))
    assert np.array_equal(plain.train.rows.x, shifted.train.rows.x, equal_nan=True)
    assert np.isnan(shifted.test.rows.x).mean() > 0.85


def test_train_on_complete_rows_and_score_on_holes():
    splits = split(load("wine"), DataConfig(dataset="wine", missing_rate=0, test_missing_rate=0.5))
    assert not np.isnan(splits.train.rows.x).any()
    assert np.isnan(splits.train.truth).all()
    assert 0.3 < np.isnan(splits.validation.rows.x).mean() < 0.7


def test_mar_observes_the_same_columns_in_every_split():
    splits = split(some_table(), DataConfig(dataset="t", mechanism=Mar()))
    driven = [(~np.isnan(part.truth)).any(axis=0).tolist() for part in holdouts(splits)]
    assert driven[0] == driven[1] == driven[2]


@pytest.mark.parametrize("mechanism", [Mcar(), Mar(), Mnar(), Block()], ids=lambda mechanism: mechanism.kind)
def test_validation_rows_of_a_small_table_come_again_with_other_cells_hidden(mechanism):
    table = some_table()
    splits = split(table, DataConfig(dataset="t", mechanism=mechanism, missing_rate=0.3))
    rows = splits.indices[1]
    copies = splits.validation.truth.reshape(8, len(rows), 6)
    hidden = ~np.isnan(copies)
    assert len({copy.tobytes() for copy in hidden}) == 8
    expected = splits.scaler.transform(table.values[rows])
    assert np.array_equal(copies[hidden], np.broadcast_to(expected, copies.shape)[hidden])
    assert hidden.mean() == pytest.approx(0.3 * (~np.isnan(table.values)).mean(), abs=0.06)


def test_scaled_training_cells_have_mean_zero_and_deviation_one():
    x = split(some_table(), DataConfig(dataset="t")).train.rows.x
    assert np.nanmean(x, axis=0) == pytest.approx(np.zeros(6), abs=1e-5)
    assert np.nanstd(x, axis=0) == pytest.approx(np.ones(6), abs=1e-5)


def test_pixels_are_not_scaled():
    table = load("digits")
    splits = split(table, DataConfig(dataset="digits", missing_rate=0, test_missing_rate=0.5))
    assert np.array_equal(splits.train.rows.x, table.values[splits.indices[0]])


def test_max_rows_are_drawn_at_random():
    splits = split(load("mnist"), DataConfig(dataset="mnist", max_rows=100))
    assert [len(rows) for rows in splits.indices] == [80, 10, 10]
    assert len(np.unique(load("mnist").labels[splits.indices[0]])) == 10  # the file is sorted by digit


@settings(deadline=None)
@given(matrices)
def test_scaling_and_back_is_the_identity_up_to_float32(x):
    scaler = Scaler.fit(x, "sd")
    assert np.isfinite(scaler.center).all()
    assert (scaler.scale > 0).all()
    back = scaler.inverse(scaler.transform(x))
    assert np.array_equal(np.isnan(back), np.isnan(x))
    size = np.abs(np.nan_to_num(x)).max(initial=0) + 1
    assert np.nan_to_num(back) == pytest.approx(np.nan_to_num(x), abs=1e-5 * size)


def test_columns_that_never_vary_or_are_unknown_have_scale_one():
    x = np.array([[0.1, np.nan, 1.0], [0.1, np.nan, 3.0], [0.1, np.nan, np.nan]])
    scaler = Scaler.fit(x, "sd")
    assert scaler.center == pytest.approx([0.1, 0.0, 2.0])
    assert scaler.scale.tolist() == [1.0, 1.0, 1.0]


def test_a_scaler_survives_json():
    scaler = Scaler.fit(some_table().values, "sd")
    again = Scaler.from_dict(json.loads(json.dumps(scaler.to_dict())))
    assert np.array_equal(scaler.center, again.center)
    assert np.array_equal(scaler.scale, again.scale)


def test_landmarks_share_one_scale_and_one_center_for_each_axis():
    table = load("landmarks:n_rows=200,n_landmarks=9")
    splits = split(table, DataConfig(dataset="landmarks", mechanism=Landmark()))
    assert np.unique(splits.scaler.scale).size == 1
    assert np.unique(splits.scaler.center[::2]).size == np.unique(splits.scaler.center[1::2]).size == 1
    points = splits.train.rows.x.reshape(-1, 2)
    assert np.nanmean(points, axis=0) == pytest.approx([0, 0], abs=1e-5)
    assert np.nanmean(points**2) == pytest.approx(1, abs=1e-5)


def given_table(hidden: bool) -> Table:
    table = some_table()
    cells = np.zeros(table.values.shape, dtype=bool)
    cells[150:] = np.random.default_rng(0).random((50, 6)) < 0.4
    cells &= ~np.isnan(table.values)
    given = GivenSplit(np.arange(150), np.empty(0, int), np.arange(150, 200), cells if hidden else None)
    return replace(table, given=given)


@pytest.mark.parametrize("hidden", [False, True])
def test_a_split_that_comes_with_the_data_is_kept(hidden):
    table = given_table(hidden)
    splits = split(table, DataConfig(dataset="t"))
    train, validation, test = splits.indices
    assert np.array_equal(test, np.arange(150, 200))
    assert np.array_equal(np.union1d(train, validation), np.arange(150))
    assert validation.size == 20
    if hidden:
        assert np.array_equal(~np.isnan(splits.test.truth), table.given.hidden[150:])
        assert np.isnan(splits.train.truth).all()
    assert not np.isnan(splits.validation.truth).all()


def test_max_rows_takes_the_same_share_of_a_given_split():
    splits = split(given_table(hidden=True), DataConfig(dataset="t", max_rows=40))
    assert [len(rows) for rows in splits.indices] == [26, 4, 10]
    assert (splits.indices[2] >= 150).all()
    truth = given_table(hidden=True).given.hidden[splits.indices[2]]
    assert np.array_equal(~np.isnan(splits.test.truth), truth)


def test_column_range_turns_errors_into_min_max_units():
    values = np.column_stack([np.linspace(10, 30, 50), np.full(50, 7.0)])
    splits = split(table_of(values), DataConfig(dataset="t"))
    assert splits.column_range * splits.scaler.scale == pytest.approx([20, 1])


def test_a_row_without_an_observed_cell_is_allowed():
    values = some_table().values
    values[:40] = np.nan
    splits = split(table_of(values), DataConfig(dataset="t", missing_rate=0.9))
    assert any(np.isnan(part.rows.x).all(axis=1).any() for part in holdouts(splits))


def test_too_few_rows_are_refused():
    with pytest.raises(DataError, match="t: 2 rows are too few"):
        split(table_of(np.ones((2, 3))), DataConfig(dataset="t"))


def test_nothing_hidden_is_refused():
    with pytest.raises(ConfigError, match=r"there is nothing to score. Give --test-missing-rate"):
        split(some_table(), DataConfig(dataset="t", missing_rate=0))
    with pytest.raises(DataError, match="not one cell is hidden in the 1 validation rows"):
        split(table_of(np.ones((10, 1))), DataConfig(dataset="t", missing_rate=1e-6))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"missing_rate": 1}, "missing_rate is 1: it should be less than 1"),
        ({"missing_rate": -0.1}, "missing_rate"),
        ({"test_missing_rate": 2}, "test_missing_rate"),
        ({"validation_share": 0.5, "test_share": 0.5}, "leave no rows to train on"),
        ({"max_rows": 2}, "max_rows"),
        ({"missing_rat": 0.5}, "Did you mean missing_rate"),
    ],
)
def test_settings_that_make_no_sense_are_refused(flags, words):
    with pytest.raises(ConfigError, match=words):
        parse(DataConfig, {"dataset": "wine"} | flags, "flags")


@pytest.mark.parametrize(("n_rows", "n_copies"), [(600, 8), (900, 5), (6000, 1)])
def test_the_more_validation_rows_the_fewer_times_they_come(n_rows, n_copies):
    splits = split(some_table(n_rows, 2), DataConfig(dataset="t", missing_rate=0.2, validation_share=0.4))
    assert len(splits.validation.truth) == n_copies * len(splits.indices[1])


def test_of_a_large_table_no_more_rows_are_held_back_than_help():
    splits = split(some_table(60_000, 2), DataConfig(dataset="t"))
    assert [len(part) for part in splits.indices] == [52_500, 2500, 5000]
