"""Models of skewed numbers: what normal scores are good for, and that they are kept."""

import numpy as np
import pytest
import torch

from tests.small_runs import trained
from vadtune.data.metrics import rmse
from vadtune.data.problem import Problem
from vadtune.data.splits import DataConfig, split
from vadtune.data.tables import Column, Table
from vadtune.errors import ConfigError
from vadtune.models.config import VADConfig
from vadtune.training.artifact import load_artifact, save_artifact
from vadtune.training.decoder_export import add_torch


@pytest.fixture(scope="module")
def problem():
    """A level of its own in every row: three numbers are its powers, and one its logarithm, each with some noise."""
    rng = np.random.default_rng(0)
    level = 1.5 * rng.normal(size=(500, 1))
    values = np.hstack([np.exp(level * np.array([1.0, 1.3, 1.6])), level]) * np.exp(0.02 * rng.normal(size=(500, 4)))
    table = Table("powers", "made", values, tuple(Column(f"x{j}", "numeric", "float64") for j in range(4)))
    config = DataConfig(dataset="powers", missing_rate=0.3)
    return Problem(table, config, split(table, config))


def vad(*, normal_scores):
    return VADConfig(
        latent_dim=4, kl_weight=0.3, log_var=-3.0, normal_scores=normal_scores, noise={"kind": "per_column"}
    )


@pytest.fixture(scope="module")
def scored(problem):
    return trained(problem, vad(normal_scores=True))


def test_rows_of_small_numbers_are_told_apart(problem, scored):
    assert problem.splits.codec.scored.tolist() == [0, 1, 2]
    plain = trained(problem, vad(normal_scores=False))
    test = problem.splits.test
    x_hats = (artifact.reconstruct(torch.from_numpy(test.rows.x)).numpy() for artifact in (scored, plain))
    with_scores, without = (rmse(x_hat[:, 3:], test.truth[:, 3:]) for x_hat in x_hats)
    assert with_scores < 0.9 * without


def test_an_artifact_comes_back(problem, scored, tmp_path):
    loaded = load_artifact(save_artifact(scored, tmp_path / "model"))
    x = torch.from_numpy(problem.splits.test.rows.x)
    assert torch.equal(loaded.reconstruct(x), scored.reconstruct(x))


def test_its_decoder_alone_would_mislead_other_programs(scored, tmp_path):
    with pytest.raises(ConfigError, match=r"model\.normal_scores=false"):
        add_torch(scored, save_artifact(scored, tmp_path / "model"))
