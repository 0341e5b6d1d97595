"""The winner for a table with holes is trained again on all that is observed, and says so."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.small_runs import SETTINGS, fitted, make_run, wine
from tests.test_any_table import holed, tips
from vadtune.data.frames import from_frame
from vadtune.data.problem import Problem
from vadtune.data.splits import DataConfig, split
from vadtune.errors import ArtifactError, ConfigError
from vadtune.evaluate import main as evaluate
from vadtune.settings import parse
from vadtune.training.artifact import load_artifact, save_artifact
from vadtune.training.config import TrialConfig
from vadtune.training.decoder_export import add_torch
from vadtune.tuning.conclude import Winner, export_trial, is_to_be_refitted, refit, scored, summarise_winner
from vadtune.tuning.past_run import open_run
from vadtune.tuning.study import BestTrial


def mixed_problem():
    table = from_frame(holed(tips()), "tips", "made")
    config = parse(DataConfig, {"dataset": "tips", "missing_rate": 0.3}, "test")
    return Problem(table, config, split(table, config))


@pytest.fixture(scope="module")
def winner(tmp_path_factory):
    problem = mixed_problem()
    config = parse(TrialConfig, SETTINGS, "test")
    run = fitted(config, problem)
    trial = BestTrial(number=0, value=run.finish(), epoch=run.best_epoch, params={}, checkpoint=None, is_complete=True)
    metrics = {"validation_error": trial.value, "trial": 0, "epoch": trial.epoch}
    tested = scored(config, run.best_model(), problem, metrics)
    folder = save_artifact(tested.artifact, tmp_path_factory.mktemp("w") / "best")
    return Winner(trial, tested, folder), problem


def test_a_refitted_model_has_seen_everything_and_its_scores_are_those_of_the_one_before(winner, tmp_path):
    first, problem = winner
    before = load_artifact(first.folder)
    again = refit(replace(first, folder=tmp_path / "best"), problem, "cpu")
    artifact = load_artifact(tmp_path / "best")
    assert again.is_refitted
    assert artifact.metrics == before.metrics | {"refitted": True}
    assert artifact.dataset["refitted"] is True
    # Units of all rows, not of the training rows.
    x = problem.table.values[:, 0]
    assert artifact.scaler.center[0] == pytest.approx(np.nanmean(x))
    assert before.scaler.center[0] != artifact.scaler.center[0]
    assert "trained again" in (tmp_path / "best" / "README.md").read_text()


def test_only_tables_with_holes_are_refitted_unless_it_is_asked_for():
    assert is_to_be_refitted(mixed_problem(), asked=None)
    assert not is_to_be_refitted(mixed_problem(), asked=False)
    assert not is_to_be_refitted(wine(), asked=None)
    assert is_to_be_refitted(wine(), asked=True)


def test_a_refitted_model_cannot_be_scored_on_its_own_table(tmp_path):
    past = open_run(make_run(tmp_path / "run"))
    problem = past.problem(tmp_path)
    exported = export_trial(past.best(), past.storage, problem, tmp_path / "best")
    refit(exported, problem, "cpu")
    with pytest.raises(ArtifactError, match="nothing is left to score it on"):
        evaluate([str(tmp_path / "best")])


def test_a_winner_of_a_table_with_codes_tells_both_parts_of_its_error(winner):
    first, problem = winner
    told = summarise_winner(first)
    codec, x_hat, truth = problem.splits.codec, first.tested.x_hat, problem.splits.test.truth
    assert told["test_error"] == codec.errors(x_hat, truth).error
    assert {"test_nrmse", "test_error_rate", "validation_error"} <= set(told)
    assert "validation_rmse" not in told
    found = told["calibration"]
    assert found["n_numbers"] + found["n_codes"] == int((~np.isnan(truth)).sum())
    assert 0 <= found["accuracy"] <= 1
    json.dumps(told, allow_nan=False)


def test_the_decoder_of_a_table_with_codes_is_not_exported_for_other_programs(winner, tmp_path):
    first, _ = winner
    with pytest.raises(ConfigError, match="are for tables of numbers"):
        add_torch(first.tested.artifact, tmp_path)
    assert list(tmp_path.iterdir()) == []
