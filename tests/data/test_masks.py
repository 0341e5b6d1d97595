"""The contract of every mechanism, and what each does beyond it."""

from typing import get_args

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vadtune.data.masks import MECHANISMS, Block, Landmark, Mar, Mcar, Mechanism, Mnar, mar, mnar, pattern
from vadtune.data.splits import DataConfig
from vadtune.errors import ConfigError
from vadtune.settings import parse

KINDS = [kind() for kind in get_args(get_args(Mechanism)[0])]
every_mechanism = pytest.mark.parametrize("mechanism", KINDS, ids=lambda mechanism: mechanism.kind)

cells = st.one_of(st.floats(-1e6, 1e6), st.just(np.nan), st.just(3.0), st.floats(-1e-200, 1e-200))
tables = hnp.arrays(np.float64, st.tuples(st.integers(1, 12), st.integers(2, 8)), elements=cells)


def holey_table(n_rows: int = 3000, n_features: int = 20) -> np.ndarray:
    """Correlated columns, one constant, one cell in five unknown."""
    rng = np.random.default_rng(7)
    x = rng.standard_normal((n_rows, 4)) @ rng.standard_normal((4, n_features))
    x[:, 3] = 5.0
    x[rng.random(x.shape) < 0.2] = np.nan
    return x


def test_the_names_are_those_of_the_union():
    assert MECHANISMS == ("mcar", "mar", "mnar", "block", "landmark", "pattern")
    with pytest.raises(ConfigError, match=r"mechanism.kind is 'mca'. Did you mean mcar\?"):
        parse(DataConfig, {"dataset": "wine", "mechanism": {"kind": "mca"}}, "flags")


@every_mechanism
@settings(deadline=None)
@given(x=tables, rate=st.floats(0, 0.99), seed=st.integers(0, 2**32 - 1))
def test_only_known_cells_are_hidden_and_equal_seeds_give_equal_masks(mechanism, x, rate, seed):
    def draw():
        try:
            return mechanism.target_mask(x.copy(), rate, np.random.default_rng(seed))
        except ConfigError:
            return None  # a rate that this small table has no room for

    mask, again = draw(), draw()
    if mask is None:
        assert again is None
        return
    assert mask.dtype == bool
    assert mask.shape == x.shape
    assert not mask[np.isnan(x)].any()
    assert np.array_equal(mask, again)


@every_mechanism
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_rate_over_the_known_cells_is_met(mechanism, rate):
    x = holey_table()
    known = ~np.isnan(x)
    mask = mechanism.target_mask(x, rate, np.random.default_rng(0))
    # A rectangle's cells come and go together, so its share varies a little more than that of single cells.
    assert mask.sum() / known.sum() == pytest.approx(rate, abs=4 / np.sqrt(known.sum()))


@every_mechanism
def test_the_rate_over_the_known_pixels_of_images_is_met(mechanism):
    rng = np.random.default_rng(1)
    x = rng.random((2000, 64)).astype(np.float32)
    x[:, :20] = 0.0
    x[:, 40:48] = np.nan
    x[rng.random(x.shape) < 0.1] = np.nan
    mask = mechanism.target_mask(x, 0.3, rng, image_shape=(8, 8))
    assert mask.sum() / (~np.isnan(x)).sum() == pytest.approx(0.3, abs=0.01)


@every_mechanism
def test_rate_zero_hides_nothing(mechanism):
    assert not mechanism.target_mask(holey_table(50), 0.0, np.random.default_rng(0)).any()


@every_mechanism
@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan")])
def test_a_rate_outside_the_range_is_refused(mechanism, rate):
    with pytest.raises(ConfigError, match=r"missing_rate is .* below 1"):
        mechanism.target_mask(holey_table(50), rate, np.random.default_rng(0))


@every_mechanism
def test_constant_and_unknown_columns_do_no_harm(mechanism):
    x = np.ones((40, 6))
    x[:, 2] = np.nan
    x[np.random.default_rng(1).random(x.shape) < 0.2] = np.nan
    mask = mechanism.target_mask(x, 0.4, np.random.default_rng(0))
    assert mask.sum() == pytest.approx(0.4 * (~np.isnan(x)).sum(), abs=25)


@every_mechanism
def test_other_seeds_give_other_masks(mechanism):
    first, second = (mechanism.target_mask(holey_table(), 0.5, np.random.default_rng(seed)) for seed in (0, 1))
    assert not np.array_equal(first, second)


def test_mar_and_mnar_meet_the_rate_to_one_cell():
    x = holey_table(31, 7)
    wanted = round(0.37 * (~np.isnan(x)).sum())
    for mechanism in (Mar(), Mnar()):
        assert mechanism.target_mask(x, 0.37, np.random.default_rng(0)).sum() == wanted


def test_mar_leaves_columns_observed_and_does_not_look_at_the_cells_that_it_hides():
    x = holey_table()
    mask = mar(x, 0.5, np.random.default_rng(0))
    driven = mask.any(axis=0)
    assert 1 <= (~driven).sum() < x.shape[1]
    changed = np.where(driven, np.random.default_rng(9).permuted(np.nan_to_num(x), axis=0), x)
    changed[np.isnan(x)] = np.nan
    assert np.array_equal(mar(changed, 0.5, np.random.default_rng(0)), mask)


def test_mar_depends_on_the_observed_columns():
    x = np.random.default_rng(0).standard_normal((4000, 2))
    mask = mar(x, 0.25, np.random.default_rng(0), strength=3.0)
    driver = int(np.flatnonzero(~mask.any(axis=0))[0])
    hidden = mask[:, 1 - driver]
    assert abs(x[hidden, driver].mean() - x[~hidden, driver].mean()) > 1


def test_mar_with_one_column_says_why_it_cannot_meet_the_rate():
    with pytest.raises(ConfigError, match="mar keeps a column observed and can hide at most 0 of"):
        mar(np.ones((5, 1)), 0.5, np.random.default_rng(0))


def test_mar_says_how_much_of_a_narrow_table_it_can_hide():
    with pytest.raises(ConfigError, match=r"at most 0.667 of the known cells"):
        mar(np.random.default_rng(0).random((30, 3)), 0.8, np.random.default_rng(0))


def test_mnar_hides_large_values():
    x = np.random.default_rng(0).standard_normal((4000, 3)) * [1, 10, 1e-8]
    mask = mnar(x, 0.5, np.random.default_rng(0), strength=2.0)
    for j in range(3):
        assert x[mask[:, j], j].mean() > x[~mask[:, j], j].mean()


def test_mnar_follows_the_logistic_model():
    x = np.random.default_rng(0).standard_normal((200_000, 1))
    mask = mnar(x, 0.3, np.random.default_rng(1), strength=1.5)[:, 0]
    standard = (x[:, 0] - x.mean()) / x.std()
    # The log odds are linear in the value with slope 1.5: compare two narrow bands one deviation apart.
    odds = [mask[np.abs(standard - centre) < 0.1].mean() for centre in (-0.5, 0.5)]
    slope = np.diff(np.log(np.array(odds) / (1 - np.array(odds))))[0]
    assert slope == pytest.approx(1.5, abs=0.1)


def test_block_hides_a_rectangle_of_an_image():
    x = np.random.default_rng(0).random((300, 12 * 9)).astype(np.float32)
    masks = Block().target_mask(x, 0.3, np.random.default_rng(0), image_shape=(12, 9)).reshape(-1, 12, 9)
    for mask in masks:
        rows, columns = mask.any(axis=1), mask.any(axis=0)
        assert np.array_equal(mask, rows[:, None] & columns)
        assert (np.diff(np.flatnonzero(rows)) == 1).all()
        assert (np.diff(np.flatnonzero(columns)) == 1).all()


def test_block_hides_a_run_of_the_known_columns_of_a_table():
    x = holey_table(200, 15)
    for row, mask in zip(x, Block().target_mask(x, 0.4, np.random.default_rng(0)), strict=True):
        run = np.flatnonzero(mask[~np.isnan(row)])
        assert (np.diff(run) == 1).all()
        assert abs(run.size - 0.4 * (~np.isnan(row)).sum()) < 1


def test_landmark_hides_both_coordinates_or_none():
    x = np.zeros((3000, 8))
    x[:, 0] = np.nan
    mask = Landmark().target_mask(x, 0.4, np.random.default_rng(0))
    assert np.array_equal(mask[:, 2::2], mask[:, 3::2])
    assert mask[:, 1:].mean() == pytest.approx(0.4, abs=0.02)


def test_landmark_refuses_a_column_without_its_pair():
    with pytest.raises(ConfigError, match="hides pairs of columns, and this table has 3"):
        Landmark().target_mask(np.zeros((5, 3)), 0.4, np.random.default_rng(0))


def test_mcar_hides_each_cell_at_the_rate():
    x = np.zeros((20_000, 3))
    assert Mcar().target_mask(x, 0.7, np.random.default_rng(0)).mean(axis=0) == pytest.approx([0.7] * 3, abs=0.015)


def test_pattern_hides_what_is_unknown_elsewhere_together_and_as_often():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4000, 4))
    together = rng.random(4000) < 0.3
    x[together, 1], x[together, 2] = np.nan, np.nan
    x[rng.random(4000) < 0.1, 3] = np.nan
    mask = mechanism_pattern(x, 0.08)
    assert not mask[:, 0].any()
    known = ~np.isnan(x)
    both = known[:, 1] & known[:, 2]
    assert np.array_equal(mask[both, 1], mask[both, 2])
    assert mask[:, 1].sum() / mask[:, 3].sum() == pytest.approx(0.3 * 0.7 / (0.1 * 0.9), rel=0.15)


def test_pattern_needs_unknown_cells_to_imitate():
    with pytest.raises(ConfigError, match="pattern imitates the table's own unknown cells"):
        mechanism_pattern(np.ones((20, 3)), 0.2)


def mechanism_pattern(x, rate):
    return pattern(x, rate, np.random.default_rng(1))
