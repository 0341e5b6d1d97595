"""Intervals, chances and the CRPS against what is known of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import ndtr
from torch.nn.functional import softplus

from tests.models.examples import linear_vad, normal
from tests.small_runs import SETTINGS, train_small
from tests.tuning.test_refit import mixed_problem
from vadtune.data.codec import Codec
from vadtune.data.metrics import half_width
from vadtune.data.splits import Holdout, Rows, Scaler
from vadtune.data.tables import Column, Table
from vadtune.models.config import DecoderConfig, VADConfig
from vadtune.settings import merge
from vadtune.training.artifact import Artifact, load_artifact, save_artifact
from vadtune.training.calibration import calibrated, calibration, crps
from vadtune.training.config import InferConfig, TrialConfig
from vadtune.training.fill import Filler
from vadtune.training.inference import with_curvature


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


def measured(artifact, holdout):
    posterior = artifact.posterior(torch.from_numpy(holdout.rows.x))
    return calibration(artifact, posterior, artifact.decode(posterior).numpy(), holdout)


def part(holdout, rows):
    return Holdout(Rows(holdout.rows.x[rows], holdout.rows.codec), holdout.truth[rows])


def test_intervals_of_the_true_model_hold_what_they_promise():
    artifact, holdout = true_and_believed(0.5, 0.5, n_rows=3000)
    found = measured(artifact, holdout)
    assert found["n_numbers"] == int((~np.isnan(holdout.truth)).sum())
    assert (found["n_codes"], found["accuracy"], found["confidence"]) == (0, None, None)
    for level, share in found["coverage"].items():
        assert share == pytest.approx(float(level), abs=0.06)


def test_a_model_that_is_too_sure_learns_from_validation_rows_how_unsure_to_be(tmp_path):
    artifact, holdout = true_and_believed(0.5, 0.2, n_rows=2000)
    validation, test = part(holdout, slice(0, 500)), part(holdout, slice(500, None))
    assert measured(artifact, test)["coverage"]["0.8"] < 0.55
    fitted = calibrated(artifact, validation)
    after = measured(fitted, test)["coverage"]
    for level, share in after.items():
        assert share == pytest.approx(float(level), abs=0.06)
    # Fitted once or twice, it is the same: it does not multiply with what was there.
    assert calibrated(fitted, validation).spread == fitted.spread
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
    assert calibrated(artifact, Holdout(holdout.rows, np.full_like(holdout.truth, np.nan))).spread == 1


COLOURS = (
    Column("colour", "categorical", "str", ("r", "g", "b")),
    Column("size", "ordinal", "str", ("S", "M", "L", "XL")),
    Column("smokes", "boolean", "bool"),
)


def too_sure_of_codes(factor, n_rows):
    """Rows of codes that do not depend on each other, and an artifact that takes their logits for larger ones."""
    rng, codec = np.random.default_rng(0), Codec.fit(np.array([[0, 0, 0], [1, 1, 1], [2, 2, 1], [2, 3, 1.0]]), COLOURS)
    model = VADConfig(latent_dim=1, decoder=DecoderConfig(n_layers=0)).build(codec)
    true = torch.tensor([0.7, 0.5, 1.0, 0.0, -0.6])  # boolean, ordinal, three categories
    with torch.no_grad():
        model.decoder.network[-1].weight.zero_()
        model.decoder.network[-1].bias.copy_(true)
        normal_numbers = torch.from_numpy(rng.standard_normal((n_rows, 3)).astype(np.float32))
        full = model.draw(torch.zeros(n_rows, 1), normal_numbers).numpy()
        model.decoder.network[-1].bias.copy_(factor * true)
        model.likelihood.thresholds.start.mul_(factor)
        model.likelihood.thresholds.gaps.copy_(torch.expm1(factor * softplus(torch.tensor(0.55))).log().expand(2))
    hidden = rng.random(full.shape) < 0.5
    rows = Rows(np.where(hidden, np.nan, full).astype(np.float32), codec)
    config = TrialConfig(model=model.config, infer=InferConfig(method="lbfgs"))
    artifact = Artifact(model.eval(), config, Scaler(np.zeros(3), np.ones(3)), COLOURS)
    return artifact, Holdout(rows, np.where(hidden, full, np.nan).astype(np.float32))


def test_chances_of_codes_that_are_too_sure_learn_a_temperature_from_validation_rows(tmp_path):
    artifact, holdout = too_sure_of_codes(2.0, n_rows=3000)
    validation, test = part(holdout, slice(0, 1500)), part(holdout, slice(1500, None))
    before = measured(artifact, test)
    assert before["confidence"] > before["accuracy"] + 0.1
    fitted = calibrated(artifact, validation)
    assert fitted.temperature == pytest.approx(2, rel=0.2)
    after = measured(fitted, test)
    assert after["confidence"] == pytest.approx(after["accuracy"], abs=0.03)
    assert after["accuracy"] == before["accuracy"]
    assert calibrated(fitted, validation).temperature == fitted.temperature
    assert load_artifact(save_artifact(fitted, tmp_path / "model")).temperature == fitted.temperature


def test_draws_of_codes_are_right_as_often_as_their_chances_say():
    artifact, holdout = too_sure_of_codes(2.0, n_rows=40)
    artifact = replace(artifact, temperature=2.0)
    table = Table("t", "t", holdout.rows.x.astype(np.float64), COLOURS)
    unknown = np.isnan(table.values)
    *drawn, wrong = Filler(artifact, 400, with_std=True)(table)
    (best,) = Filler(artifact)(table)
    differs = (np.stack(drawn) != best).mean(axis=0)
    for column in range(3):
        cells = unknown[:, column]
        assert differs[cells, column].mean() == pytest.approx(wrong[cells, column].mean(), abs=0.03)


def test_the_temperature_of_few_codes_stays_near_one():
    artifact, holdout = too_sure_of_codes(1.0, n_rows=2)
    assert 0.5 <= calibrated(artifact, holdout).temperature <= 2


def test_numbers_and_codes_are_calibrated_by_variances_that_are_sought_once(tmp_path, monkeypatch):
    problem, calls = mixed_problem(), []
    found = load_artifact(train_small(problem, tmp_path / "m", merge(SETTINGS, {"infer": {"method": "lbfgs"}})))
    monkeypatch.setattr(
        "vadtune.training.calibration.with_curvature", lambda *args: calls.append(1) or with_curvature(*args)
    )
    again = calibrated(found, problem.splits.validation)
    assert (again.spread, again.temperature) == (found.spread, found.temperature)
    assert 1 not in (again.spread, again.temperature)
    assert len(calls) == 1
