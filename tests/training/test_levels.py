"""Models of numbers that take few values: what they learn, keep and say of a table of towns."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.small_runs import trained
from vadtune.data.metrics import rmse
from vadtune.data.problem import Problem
from vadtune.data.splits import DataConfig, split
from vadtune.data.tables import Column, Table
from vadtune.errors import ConfigError
from vadtune.models.config import VADConfig, VAEConfig
from vadtune.training.artifact import load_artifact, save_artifact
from vadtune.training.calibration import calibrated, calibration
from vadtune.training.decoder_export import add_torch
from vadtune.training.fill import Filler
from vadtune.tuning.conclude import score_artifact

N_TOWNS, N_ROWS = 12, 400


@pytest.fixture(scope="module")
def problem():
    """Every row lives in a town, which decides four of its five numbers: no two towns are alike in any of them."""
    rng = np.random.default_rng(0)
    towns = np.stack([rng.permutation(N_TOWNS) for _ in range(4)], axis=1).astype(np.float64)
    rows = towns[rng.integers(0, N_TOWNS, N_ROWS)]
    values = np.column_stack([rows, rows @ rng.normal(size=4) + rng.normal(size=N_ROWS)])
    columns = tuple(Column(f"x{j}", "numeric", "float64") for j in range(5))
    table, config = Table("towns", "made", values, columns), DataConfig(dataset="towns", missing_rate=0.3)
    return Problem(table, config, split(table, config))


def vad(*, levels):
    return VADConfig(latent_dim=8, kl_weight=0.3, log_var=-3.0, levels=levels, noise={"kind": "per_column"})


@pytest.fixture(scope="module")
def leveled(problem):
    return trained(problem, vad(levels=True))


def error_of_towns(artifact, problem):
    test = problem.splits.test
    x_hat = artifact.reconstruct(torch.from_numpy(test.rows.x)).numpy()
    return rmse(x_hat[:, :4], test.truth[:, :4])


def test_levels_tell_the_town_better_than_numbers(problem, leveled):
    assert problem.splits.codec.leveled.tolist() == [0, 1, 2, 3]
    plain = trained(problem, vad(levels=False))
    assert error_of_towns(leveled, problem) < 0.75 * error_of_towns(plain, problem)


def test_a_vae_takes_levels_too(problem):
    model = VAEConfig(latent_dim=8, kl_weight=0.3, levels=True)
    assert error_of_towns(trained(problem, model), problem) < 1.0


def test_an_artifact_comes_back(problem, leveled, tmp_path):
    loaded = load_artifact(save_artifact(leveled, tmp_path / "model"))
    x = torch.from_numpy(problem.splits.test.rows.x)
    assert torch.equal(loaded.reconstruct(x), leveled.reconstruct(x))


def test_it_is_scored_and_calibrated_as_numbers_are(problem, leveled):
    tested = score_artifact(leveled, problem)
    assert tested.scores.rmse is not None
    assert tested.scores.error is None
    found = calibration(tested.artifact, tested.posteriors[0], tested.x_hat, problem.splits.test)
    assert found["n_numbers"] == (~np.isnan(problem.splits.test.truth)).sum()
    assert 0.8 < found["coverage"]["0.95"] <= 1


def test_how_sure_it_is_of_levels_is_learned_from_validation_rows(problem, leveled):
    sharp = replace(leveled, model=copy.deepcopy(leveled.model))
    with torch.no_grad():
        last = sharp.model.decoder.network[-1]
        for parameter in (last.weight, last.bias):
            parameter[5:] *= 4.0
    found = calibrated(sharp, problem.splits.validation)
    assert found.temperature > calibrated(leveled, problem.splits.validation).temperature


def test_filled_cells_have_deviations_and_draws_that_are_levels(problem, leveled):
    table = problem.table
    holes = np.random.default_rng(1).random(table.values.shape) < 0.3
    open_table = Table("towns", "made", np.where(holes, np.nan, table.values), table.columns)
    drawn, _, std = Filler(replace(leveled, spread=3.0), n_draws=2, with_std=True)(open_table)
    assert np.isfinite(drawn).all()
    assert (std[holes] > 0).all()
    towns = drawn[:, :4][holes[:, :4]]
    np.testing.assert_allclose(towns, np.rint(towns), atol=1e-4)


def test_its_decoder_alone_would_mislead_other_programs(leveled, tmp_path):
    with pytest.raises(ConfigError, match=r"model\.levels=false"):
        add_torch(leveled, save_artifact(leveled, tmp_path / "model"))
