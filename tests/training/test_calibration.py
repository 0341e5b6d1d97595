"""Intervals, chances and the CRPS against what is known of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import ndtr

from tests.models.examples import linear_vad, normal
from vadtune.data.codec import Codec
from vadtune.data.metrics import half_width
from vadtune.data.splits import Holdout, Rows, Scaler
from vadtune.data.tables import Column, Table
from vadtune.training.artifact import Artifact, load_artifact, save_artifact
from vadtune.training.calibration import calibration, crps, fit_spread
from vadtune.training.config import InferConfig, TrialConfig
from vadtune.training.fill import Filler


@pytest.mark.parametrize(("error", "std"), [(0.0, 1.0), (0.7, 0.3), (-2.0, 1.5)])
def test_the_crps_is_the_integral_of_the_squared_distance_of_distributions(error, std):
    below, _ = quad(lambda u: ndtr(u / std) ** 2, -30, error, limit=200)
    above, _ = quad(lambda u: (1 - ndtr(u / std)) ** 2, error, 30, limit=200)
    assert crps(np.array([error]), np.array([std]))[0] == pytest.approx(below + above, rel=1e-6)


def test_half_of_a_normal_lies_within_its_half_width():
    assert half_width(0.95) == pytest.approx(1.96, abs=0.001)


def true_and_believed(noise_std, believed_std, n_rows):
    """Rows of a linear model, and an artifact of it that takes its noise for `believed_std`."""
    torch.manual_seed(0)
    weight = normal(6, 2)
    full = (torch.randn(n_rows, 2) @ weight.T + noise_std * torch.randn(n_rows, 6)).numpy()
    hidden = np.random.default_rng(0).random(full.shape) < 0.3
    model = linear_vad(weight, torch.zeros(6), believed_std)
    columns = tuple(Column(f"x{j}", "numeric", "float64") for j in range(6))
    config = TrialConfig(model=model.config, infer=InferConfig(method="lbfgs"))
    artifact = Artifact(model.eval(), config, Scaler(np.zeros(6), np.ones(6)), columns)
    rows = Rows(np.where(hidden, np.nan, full).astype(np.float32), Codec.of_numbers(6))
    return artifact, Holdout(rows, np.where(hidden, full, np.nan).astype(np.float32))


def calibrated(artifact, holdout):
    posterior = artifact.posterior(torch.from_numpy(holdout.rows.x))
    return calibration(artifact, posterior, artifact.decode(posterior).numpy(), holdout)


def part(holdout, rows):
    return Holdout(Rows(holdout.rows.x[rows], holdout.rows.codec), holdout.truth[rows])


def test_intervals_of_the_true_model_hold_what_they_promise():
    artifact, holdout = true_and_believed(0.5, 0.5, n_rows=3000)
    found = calibrated(artifact, holdout)
    assert found["n_numbers"] == int((~np.isnan(holdout.truth)).sum())
    assert (found["n_codes"], found["accuracy"], found["confidence"]) == (0, None, None)
    for level, share in found["coverage"].items():
        assert share == pytest.approx(float(level), abs=0.06)


def test_a_model_that_is_too_sure_learns_from_validation_rows_how_unsure_to_be(tmp_path):
    artifact, holdout = true_and_believed(0.5, 0.2, n_rows=2000)
    validation, test = part(holdout, slice(0, 500)), part(holdout, slice(500, None))
    assert calibrated(artifact, test)["coverage"]["0.8"] < 0.55
    fitted = fit_spread(artifact, validation)
    after = calibrated(fitted, test)["coverage"]
    for level, share in after.items():
        assert share == pytest.approx(float(level), abs=0.06)
    # Fitted once or twice, it is the same: it does not multiply with what was there.
    assert fit_spread(fitted, validation).spread == fitted.spread
    loaded = load_artifact(save_artifact(fitted, tmp_path / "model"))
    assert loaded.spread == fitted.spread > 1.5


def test_draws_spread_as_far_as_the_standard_deviations_say():
    artifact, holdout = true_and_believed(0.5, 0.2, n_rows=60)
    artifact = replace(artifact, spread=2.5)
    table = Table("t", "t", holdout.rows.x.astype(np.float64), artifact.columns)
    unknown = np.isnan(table.values)
    *drawn, std = Filler(artifact, 400, with_std=True)(table)
    ratio = np.std(np.stack(drawn), axis=0)[unknown] / std[unknown]
    assert np.median(ratio) == pytest.approx(1, abs=0.05)


def test_rows_without_hidden_numbers_leave_the_deviations_as_they_are():
    artifact, holdout = true_and_believed(0.5, 0.2, n_rows=20)
    assert fit_spread(artifact, Holdout(holdout.rows, np.full_like(holdout.truth, np.nan))).spread == 1
