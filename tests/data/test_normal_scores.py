"""Normal scores of a column: which columns have them, and what they are."""

import numpy as np
import pytest
from scipy.stats import norm, rankdata

from vadtune.data.codec import MOST_SCORED, Codec
from vadtune.data.normal_scores import MOST_KNOTS, MOST_WITHOUT, normal_scores
from vadtune.data.tables import Column

RNG = np.random.default_rng(0)
INCOMES = np.exp(1.5 * RNG.normal(size=1000))


def columns(n):
    return [Column(f"x{j}", "numeric", "float64") for j in range(n)]


@pytest.mark.parametrize("known", [INCOMES, np.maximum(INCOMES, 0.8)], ids=["all differ", "a third is the lowest"])
def test_scores_are_those_of_the_middle_of_the_ranks(known):
    curve = np.array(normal_scores(known))
    expected = norm.ppf((rankdata(known) - 0.5) / len(known))
    np.testing.assert_allclose(np.interp(known, *curve.T), expected, rtol=0, atol=0.03)  # between the knots
    order = np.searchsorted(np.sort(known), curve[:, 0])
    np.testing.assert_allclose(curve[:, 1], np.sort(expected)[order], rtol=0, atol=1e-9)


def test_they_ascend_from_the_lowest_to_the_highest_and_are_not_many():
    curve = np.array(normal_scores(INCOMES))
    assert len(curve) <= MOST_KNOTS + 2
    assert (np.diff(curve, axis=0) > 0).all()
    assert curve[[0, -1], 0].tolist() == [INCOMES.min(), INCOMES.max()]


def test_numbers_that_are_nearly_normal_or_few_have_none():
    assert not normal_scores(RNG.normal(size=1000))
    assert not normal_scores(RNG.uniform(size=1000))
    assert not normal_scores(np.exp(np.arange(1000) % MOST_WITHOUT).astype(float))
    assert normal_scores(np.exp(np.arange(1000) % (MOST_WITHOUT + 1)).astype(float))
    assert not normal_scores(np.zeros(0))


def test_a_codec_learns_them_of_observed_cells_and_keeps_them():
    x = np.column_stack([RNG.normal(size=1000), INCOMES, RNG.integers(0, 2, 1000)]).astype(np.float32)
    x[::3] = np.nan
    codec = Codec.fit(x, [*columns(2), Column("b", "boolean", "bool")])
    assert codec.scored.tolist() == [1]
    assert codec.columns[1].scores == normal_scores(x[~np.isnan(x[:, 1]), 1].astype(np.float64))
    assert Codec.from_dict(codec.to_dict()) == codec
    found = codec.normal_scores(codec.encode(x), codec.scored)
    assert found.shape == (1000, 1)
    assert np.array_equal(np.isnan(found[:, 0]), np.isnan(x[:, 1]))
    far = codec.normal_scores(np.array([[0, 1e9, 0], [0, -1e9, 0]], np.float32), codec.scored)
    assert far[:, 0].tolist() == pytest.approx([codec.columns[1].scores[-1][1], codec.columns[1].scores[0][1]])


def test_wide_tables_have_none():
    x = np.tile(INCOMES[:, None], MOST_SCORED + 1)
    assert Codec.fit(x[:, 1:], columns(MOST_SCORED)).scored.size == MOST_SCORED
    assert not Codec.fit(x, columns(MOST_SCORED + 1)).scored.size
