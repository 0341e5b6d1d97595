"""Intervals, chances and the CRPS against what is known of them."""

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import ndtr

from tests.models.examples import linear_vad, normal
from vadtune.data.codec import Codec
from vadtune.data.metrics import half_width
from vadtune.data.splits import Holdout, Rows, Scaler
from vadtune.data.tables import Column
from vadtune.training.artifact import Artifact
from vadtune.training.calibration import calibration, crps
from vadtune.training.config import InferConfig, TrialConfig


@pytest.mark.parametrize(("error", "std"), [(0.0, 1.0), (0.7, 0.3), (-2.0, 1.5)])
def test_the_crps_is_the_integral_of_the_squared_distance_of_distributions(error, std):
    below, _ = quad(lambda u: ndtr(u / std) ** 2, -30, error, limit=200)
    above, _ = quad(lambda u: (1 - ndtr(u / std)) ** 2, error, 30, limit=200)
    assert crps(np.array([error]), np.array([std]))[0] == pytest.approx(below + above, rel=1e-6)


def test_half_of_a_normal_lies_within_its_half_width():
    assert half_width(0.95) == pytest.approx(1.96, abs=0.001)


def test_intervals_of_the_true_model_hold_what_they_promise():
    torch.manual_seed(0)
    weight, noise_std = normal(6, 2), 0.5
    full = (torch.randn(3000, 2) @ weight.T + noise_std * torch.randn(3000, 6)).numpy()
    hidden = np.random.default_rng(0).random(full.shape) < 0.3
    model = linear_vad(weight, torch.zeros(6), noise_std)
    columns = tuple(Column(f"x{j}", "numeric", "float64") for j in range(6))
    config = TrialConfig(model=model.config, infer=InferConfig(method="lbfgs"))
    artifact = Artifact(model.eval(), config, Scaler(np.zeros(6), np.ones(6)), columns)
    rows = Rows(np.where(hidden, np.nan, full).astype(np.float32), Codec.of_numbers(6))
    holdout = Holdout(rows, np.where(hidden, full, np.nan).astype(np.float32))
    posterior = artifact.posterior(torch.from_numpy(rows.x))
    found = calibration(artifact, posterior, artifact.decode(posterior).numpy(), holdout)
    assert found["n_numbers"] == int(hidden.sum())
    assert (found["n_codes"], found["accuracy"], found["confidence"]) == (0, None, None)
    for level, share in found["coverage"].items():
        assert share == pytest.approx(float(level), abs=0.06)
