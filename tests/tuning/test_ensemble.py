"""An ensemble is chosen by validation rows alone, and is never worse on them than its best trial."""

import numpy as np
import pytest

from vadtune.data.metrics import rmse
from vadtune.tuning.ensemble import choose

TRUTH = np.random.default_rng(0).standard_normal((40, 5))


def noisy(*scales: float) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [TRUTH + scale * rng.standard_normal(TRUTH.shape) for scale in scales]


def error(x_hat: np.ndarray) -> float:
    return rmse(x_hat, TRUTH)


def test_errors_that_are_independent_are_averaged_away():
    weights, found = choose(noisy(1.0, 1.0, 1.0, 1.0), error, n_members=4)
    assert set(weights) == {0, 1, 2, 3}
    assert sum(weights.values()) == pytest.approx(1)
    assert found == pytest.approx(0.5, rel=0.1)


def test_the_returned_error_is_that_of_the_weighted_average():
    outputs = noisy(1.0, 1.2, 1.5)
    weights, found = choose(outputs, error, n_members=3)
    assert error(sum(weight * outputs[place] for place, weight in weights.items())) == pytest.approx(found)


def test_no_more_members_than_wanted_are_taken():
    weights, _ = choose(noisy(1.0, 1.0, 1.0, 1.0, 1.0), error, n_members=2)
    assert len(weights) == 2


def test_candidates_that_only_do_harm_are_left_out():
    outputs = noisy(0.1, 5.0, 5.0)
    assert choose(outputs, error, n_members=3) == ({0: 1.0}, error(outputs[0]))


def test_a_twin_adds_nothing():
    one = noisy(1.0)[0]
    weights, found = choose([one, one.copy()], error, n_members=2)
    assert found == error(one)
    assert weights == {0: 1.0}
