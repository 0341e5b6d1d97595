"""By how much estimates are moved where cells are unknown because of what they are."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.models.examples import linear_vad, normal
from vadtune.data.codec import Codec
from vadtune.data.masks import mcar, mnar
from vadtune.data.metrics import rmse
from vadtune.data.splits import Holdout, Rows, Scaler
from vadtune.data.tables import Column, Table
from vadtune.training.artifact import Artifact, load_artifact, save_artifact
from vadtune.training.calibration import calibrated, calibration
from vadtune.training.config import InferConfig, TrialConfig
from vadtune.training.delta import delta_of
from vadtune.training.fill import Filler

N_COLUMNS = 6
NUMBERS = np.arange(N_COLUMNS)


def hidden_by(mechanism, n_rows, seed=0):
    """Rows of a linear model, some of their cells hidden, and the artifact of that model."""
    torch.manual_seed(seed)
    weight = normal(N_COLUMNS, 2)
    full = (torch.randn(n_rows, 2) @ weight.T + 0.5 * torch.randn(n_rows, N_COLUMNS)).numpy()
    mask = mechanism(full, 0.3, np.random.default_rng(seed))
    model = linear_vad(weight, torch.zeros(N_COLUMNS), 0.5)
    columns = tuple(Column(f"x{j}", "numeric", "float64") for j in range(N_COLUMNS))
    config = TrialConfig(model=model.config, infer=InferConfig(method="lbfgs"))
    artifact = Artifact(model.eval(), config, Scaler(np.zeros(N_COLUMNS), np.ones(N_COLUMNS)), columns)
    rows = Rows(np.where(mask, np.nan, full).astype(np.float32), Codec.of_numbers(N_COLUMNS))
    return artifact, Holdout(rows, np.where(mask, full, np.nan).astype(np.float32))


def off_by(bias, n_rows, seed=0, noise=1.0, n_columns=N_COLUMNS):
    """Estimates, and hidden cells that lie so far above them on average."""
    rng = np.random.default_rng(seed)
    x_hat, known = rng.normal(size=(2, n_rows, n_columns))
    truth = x_hat + bias + noise * rng.normal(size=x_hat.shape)
    hidden = rng.random(x_hat.shape) < 0.5
    return x_hat, Holdout(Rows(np.where(hidden, np.nan, known)), np.where(hidden, truth, np.nan))


def test_of_many_cells_it_is_what_columns_are_off_on_average():
    bias = np.array([0.5, 0.0, 1.0, 0.2, -0.3, 0.0])
    x_hat, holdout = off_by(bias, 20_000)
    assert delta_of(x_hat, holdout, NUMBERS) == pytest.approx(bias, abs=0.05)


def test_of_few_cells_it_is_drawn_towards_nothing():
    x_hat, holdout = off_by(np.array([1.0, 0.8, 1.2, 0.6, 1.0, 0.9]), 30)
    mean = np.nanmean(holdout.truth - x_hat, axis=0)
    delta = delta_of(x_hat, holdout, NUMBERS)
    assert (np.abs(delta) < np.abs(mean)).all()
    assert (np.sign(delta) == np.sign(mean)).all()
    assert (np.abs(delta) > 0.5 * np.abs(mean)).all()


def test_chance_moves_nothing():
    moved = [delta_of(*off_by(0.0, 200, seed=seed), NUMBERS).any() for seed in range(100)]
    assert sum(moved) <= 6  # 2 of 100 on average


def test_chance_of_columns_that_are_wrong_together_moves_nothing():
    def wrong_together(seed):
        x_hat, holdout = off_by(0.0, 200, seed=seed, noise=0.1)
        return x_hat, replace(holdout, truth=holdout.truth + np.random.default_rng([seed, 1]).normal(size=(200, 1)))

    assert sum(delta_of(*wrong_together(seed), NUMBERS).any() for seed in range(100)) <= 6


def test_a_row_that_comes_several_times_counts_once():
    def several(seed, n_times):
        rng = np.random.default_rng(seed)
        known = np.repeat(rng.normal(size=(40, N_COLUMNS)), n_times, axis=0)
        hidden = rng.random(known.shape) < 0.3
        return np.zeros_like(known), Holdout(Rows(np.where(hidden, np.nan, known)), np.where(hidden, known, np.nan))

    assert sum(delta_of(*several(seed, 8), NUMBERS).any() for seed in range(100)) <= 8


def test_codes_and_columns_of_which_hardly_a_cell_is_hidden_stay():
    x_hat, holdout = off_by(1.0, 500)
    holdout.truth[3:, 4] = np.nan
    delta = delta_of(x_hat, holdout, np.array([0, 1, 4]))
    assert (delta[:2] > 0.5).all()
    assert not delta[2:].any()


def test_where_nothing_is_hidden_nothing_moves():
    x_hat, holdout = off_by(1.0, 50)
    assert not delta_of(x_hat, Holdout(holdout.rows, np.full_like(holdout.truth, np.nan)), NUMBERS).any()


def test_large_values_that_are_hidden_are_found_better_and_those_hidden_by_chance_stay():
    artifact, validation = hidden_by(mnar, 400)
    _, test = hidden_by(mnar, 400, seed=1)
    fitted = calibrated(artifact, validation)
    assert (fitted.delta > 0).all()
    plain, moved = (found.reconstruct(torch.from_numpy(test.rows.x)).numpy() for found in (artifact, fitted))
    assert rmse(moved, test.truth) < 0.98 * rmse(plain, test.truth)
    # Intervals lie around what is filled in.
    found = calibration(fitted, fitted.posterior(torch.from_numpy(test.rows.x)), moved, test)
    assert found["coverage"]["0.8"] == pytest.approx(0.8, abs=0.05)
    assert calibrated(fitted, validation).delta.tolist() == fitted.delta.tolist()
    assert calibrated(fitted, hidden_by(mcar, 400)[1]).delta is None


def test_estimates_intervals_and_draws_are_moved_and_known_cells_are_not(tmp_path):
    artifact, holdout = hidden_by(mcar, 50)
    moved = replace(artifact, delta=np.arange(1.0, 7.0))
    loaded = load_artifact(save_artifact(moved, tmp_path / "model"))
    assert loaded.delta.tolist() == moved.delta.tolist()
    table = Table("t", "t", holdout.rows.x.astype(np.float64), artifact.columns)
    unknown = np.isnan(table.values)
    off = np.broadcast_to(moved.delta, unknown.shape)[unknown]
    for settings in ({}, {"n_draws": 2}, {"deviations": (-1.0, 1.0)}):
        pairs = zip(Filler(artifact, **settings)(table), Filler(loaded, **settings)(table), strict=True)
        for before, after in pairs:
            assert after[unknown] - before[unknown] == pytest.approx(off, abs=1e-4)
            assert (after[~unknown] == before[~unknown]).all()


def test_an_ensemble_is_moved_once():
    artifact, holdout = hidden_by(mcar, 20)
    member, x = replace(artifact, weight=0.5), torch.from_numpy(holdout.rows.x)
    both = replace(member, others=(replace(member, delta=np.full(N_COLUMNS, 9.0)),), delta=np.ones(N_COLUMNS))
    assert torch.allclose(both.reconstruct(x), artifact.reconstruct(x) + 1, atol=1e-4)
