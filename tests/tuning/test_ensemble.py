"""An ensemble is chosen by validation rows alone, and is never worse on them than its best trial."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.small_runs import SETTINGS, fitted, wine
from vadtune.data.metrics import rmse
from vadtune.errors import ArtifactError
from vadtune.models.objective import as_tensor
from vadtune.settings import merge, parse
from vadtune.training.artifact import load_artifact, save_artifact
from vadtune.training.checksums import write_sums
from vadtune.training.config import TrialConfig
from vadtune.tuning.conclude import artifact_of, score_artifact
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


def test_an_ensemble_is_scored_saved_and_loaded_as_one_artifact(tmp_path):
    problem = wine()
    members = []
    for seed, weight in ((0, 0.75), (1, 0.25)):
        config = parse(TrialConfig, merge(SETTINGS, {"seed": seed}), "test")
        run = fitted(config, problem)
        metrics = {"validation_rmse": run.finish(), "trial": seed, "epoch": run.best_epoch}
        members.append(replace(artifact_of(config, run.best_model(), problem, metrics), weight=weight))
    joined = replace(members[0], others=(members[1],))
    x = as_tensor(problem.splits.test.rows.x)
    expected = sum(member.weight * member.decode(member.posterior(x)) for member in members)
    torch.testing.assert_close(joined.reconstruct(x), expected)

    folder = save_artifact(joined, tmp_path / "best")
    loaded = load_artifact(folder)
    assert loaded.reconstruct(x).equal(joined.reconstruct(x))
    assert score_artifact(loaded, problem).scores == score_artifact(joined, problem).scores

    # A member that was changed, even with its own checksums made anew, is not believed.
    shutil.copyfile(folder / "model.safetensors", folder / "members" / "2" / "model.safetensors")
    write_sums(folder / "members" / "2")
    with pytest.raises(ArtifactError, match="not the member that was exported"):
        load_artifact(folder)
