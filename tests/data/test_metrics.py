import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from vadtune.data.metrics import column_errors, mae, rmse, rmse_minmax
from vadtune.errors import DataError

NAN = np.nan
TRUTH = np.array([[1.0, NAN, NAN], [3.0, 10.0, NAN]])
X_HAT = np.array([[2.0, 77.0, 0.0], [1.0, 14.0, 0.0]])


def test_only_hidden_cells_count():
    assert rmse(X_HAT, TRUTH) == pytest.approx(np.sqrt((1 + 4 + 16) / 3))
    assert mae(X_HAT, TRUTH) == pytest.approx((1 + 2 + 4) / 3)


def test_minmax_error_is_divided_by_the_range_of_its_column():
    assert rmse_minmax(X_HAT, TRUTH, np.array([2.0, 8.0, 1.0])) == pytest.approx(np.sqrt((0.25 + 1 + 0.25) / 3))


def test_a_column_without_a_hidden_cell_has_no_error():
    errors = column_errors(X_HAT, TRUTH)
    np.testing.assert_allclose(errors.rmse, [np.sqrt(2.5), 4, NAN])
    np.testing.assert_allclose(errors.mae, [1.5, 4, NAN])


def test_an_imputer_that_leaves_a_hole_gets_no_score():
    holed = np.where(X_HAT == 14, NAN, X_HAT)
    assert np.isnan([rmse(holed, TRUTH), mae(holed, TRUTH), rmse_minmax(holed, TRUTH, np.ones(3))]).all()
    assert np.isnan(column_errors(holed, TRUTH).rmse).tolist() == [False, True, True]


@pytest.mark.parametrize("score", [rmse, mae, lambda x_hat, truth: rmse_minmax(x_hat, truth, np.ones(3))])
def test_without_a_hidden_cell_there_is_no_score(score):
    with pytest.raises(DataError, match="no hidden cell"):
        score(X_HAT, np.full_like(TRUTH, NAN))


def test_small_errors_of_many_float32_cells_are_summed_in_float64():
    truth = np.full((4000, 1000), 1000, np.float32)
    assert rmse(truth + np.float32(0.5), truth) == 0.5


@given(arrays(np.float32, array_shapes(min_dims=2, max_dims=2), elements=st.floats(-100, 100, width=32)))
def test_column_errors_agree_with_the_whole(truth):
    x_hat = truth[::-1]
    errors = column_errors(x_hat, truth)
    assert np.sqrt(np.mean(np.square(errors.rmse))) == pytest.approx(rmse(x_hat, truth))
    assert np.mean(errors.mae) == pytest.approx(mae(x_hat, truth))
