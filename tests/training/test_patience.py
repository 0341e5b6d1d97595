"""Inference takes more steps only where they serve hidden validation cells."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.data.test_splits import table_of
from tests.small_runs import SETTINGS, fitted, train_small, wine
from vadtune.data.metrics import rmse
from vadtune.data.problem import Problem
from vadtune.data.splits import DataConfig, Holdout, Rows, split
from vadtune.settings import merge, parse
from vadtune.training import patience
from vadtune.training.artifact import load_artifact
from vadtune.training.calibration import hidden_rows
from vadtune.training.config import TrialConfig
from vadtune.training.patience import patient
from vadtune.tuning.conclude import artifact_of, score_artifact


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    return load_artifact(train_small(wine(), tmp_path_factory.mktemp("patience") / "model"))


def n_steps(artifact):
    return [member.config.infer.n_steps for member in artifact.members]


@pytest.mark.parametrize(
    ("errors", "doublings"),
    [((1.0, 0.995), 0), ((1.0, 1.2), 0), ((1.0, np.nan), 0), ((1.0, 0.98, 0.975), 1), ((1.0, 0.9, 0.8), 2)],
)
def test_steps_double_as_long_as_that_lowers_the_error_by_a_percent(artifact, monkeypatch, errors, doublings):
    left = list(errors)
    monkeypatch.setattr(patience, "_error", lambda *_: left.pop(0))
    before = n_steps(artifact)[0]
    found = patient(replace(artifact, others=(artifact,)), wine().splits.validation)
    assert n_steps(found) == [before * 2**doublings] * 2
    assert n_steps(artifact) == [before]
    assert not left


def slow():
    """A model of columns that determine each other, whose inference takes few steps; and its validation error."""
    rng = np.random.default_rng(0)
    table, data = table_of(rng.normal(size=(300, 2)) @ rng.normal(size=(2, 8))), DataConfig(dataset="t")
    problem = Problem(table, data, split(table, data))
    few = {"model": {"inference_start": "zeros"}, "train": {"n_epochs": 30}, "infer": {"n_steps": 3}}
    config = parse(TrialConfig, merge(SETTINGS, few), "test")
    run = fitted(config, problem)
    error = run.finish()
    return artifact_of(config, run.best_model(), problem, {"validation_rmse": error}), problem, error


def test_where_columns_determine_each_other_more_steps_are_taken():
    found, problem, _ = slow()
    longer = patience._longer(found)
    errors = [patience._error(a, problem.splits.validation) for a in (found, longer, patience._longer(longer))]
    assert errors[2] < 0.9 * errors[1] < 0.9**2 * errors[0]
    assert n_steps(patient(found, problem.splits.validation)) == [12]


def test_the_validation_error_beside_a_model_is_that_of_the_steps_that_it_takes():
    found, problem, error = slow()
    tested, validation = score_artifact(found, problem), problem.splits.validation
    x_hat = tested.artifact.reconstruct(torch.from_numpy(validation.rows.x)).numpy()
    assert tested.validation_error == tested.artifact.metrics["validation_rmse"]
    assert tested.validation_error == pytest.approx(rmse(x_hat, validation.truth))
    assert tested.validation_error < 0.8 * error


def test_of_a_model_that_keeps_steps_and_estimates_nothing_is_inferred_again(artifact, monkeypatch):
    monkeypatch.setattr("vadtune.training.calibration.delta_of", lambda x_hat, *_: np.zeros(x_hat.shape[1]))
    kept = replace(artifact, metrics={"validation_rmse": 7.0})
    assert score_artifact(kept, wine()).validation_error == 7.0


def test_the_validation_error_beside_a_model_is_that_of_estimates_that_were_moved(artifact, monkeypatch):
    validation = wine().splits.validation
    delta = np.where(np.arange(13) < 3, 0.5, 0)
    monkeypatch.setattr("vadtune.training.calibration.delta_of", lambda *_: delta)
    tested = score_artifact(replace(artifact, metrics={"validation_rmse": 7.0}), wine())
    assert tested.artifact.delta is delta
    assert tested.artifact.metrics["moved_columns"] == 3
    x_hat = tested.artifact.reconstruct(torch.from_numpy(validation.rows.x)).numpy()
    assert tested.validation_error == pytest.approx(rmse(x_hat, validation.truth))


def test_what_is_not_hidden_tells_nothing(artifact):
    validation = wine().splits.validation
    nothing = Holdout(validation.rows, np.full_like(validation.truth, np.nan))
    assert patient(artifact, nothing) is artifact


def test_few_hidden_cells_are_found_among_many_rows(artifact):
    validation = wine().splits.validation
    x, truth = (np.tile(part, (20, 1)) for part in (validation.rows.x, validation.truth))
    truth[np.arange(len(truth)) != 1] = np.nan
    assert np.isfinite(patience._error(artifact, hidden_rows(Holdout(Rows(x, validation.rows.codec), truth))))
    patient(artifact, Holdout(Rows(x, validation.rows.codec), truth))


OTHERS = {
    "adam": merge(SETTINGS, {"infer": {"method": "adam"}}),
    "point": merge(SETTINGS, {"model": {"posterior": "point"}}),
    "vae": {"model": {"kind": "vae"}, "train": SETTINGS["train"], "infer": SETTINGS["infer"]},
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_methods_points_and_encoders_keep_their_steps(tmp_path, monkeypatch, artifact, name):
    other = load_artifact(train_small(wine(), tmp_path / "model", OTHERS[name]))
    assert patient(other, wine().splits.validation) is other
    left = [1.0, 0.9, 0.9]
    monkeypatch.setattr(patience, "_error", lambda *_: left.pop(0))
    assert n_steps(patient(replace(artifact, others=(other,)), wine().splits.validation)) == [40, 20]
