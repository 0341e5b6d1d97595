"""The winner is trained again: with the validation rows, and for a table with holes on all that is observed."""

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch

from tests.small_runs import SETTINGS, fitted, make_run, wine
from tests.test_any_table import holed, tips
from vadtune.data import splits
from vadtune.data.frames import from_frame
from vadtune.data.problem import Problem
from vadtune.data.splits import DataConfig, split
from vadtune.errors import ArtifactError, ConfigError, NoUsableTrial
from vadtune.evaluate import main as evaluate
from vadtune.models.objective import as_tensor
from vadtune.settings import parse
from vadtune.training.artifact import load_artifact, save_artifact
from vadtune.training.config import TrialConfig
from vadtune.training.decoder_export import add_torch
from vadtune.training.fitting import fit_to_the_end
from vadtune.training.trainer import Trainer
from vadtune.tuning import fits as where
from vadtune.tuning.conclude import Winner, artifact_of, export_trial, score_artifact
from vadtune.tuning.fits import Fit, Fitter
from vadtune.tuning.past_run import open_run
from vadtune.tuning.plan import N_FURTHER_FITS, Outcome, Plan, n_further_fits
from vadtune.tuning.refits import (
    add_further_fits,
    is_to_be_refitted,
    n_affordable,
    refit,
    shared_out,
    time_taken,
)
from vadtune.tuning.study import BestTrial, epoch_seconds, read_study
from vadtune.tuning.summary import summarise_winner

HERE = Fitter(cast("Plan", SimpleNamespace(device="cpu")))


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
    tested = score_artifact(artifact_of(config, run.best_model(), problem, metrics), problem)
    folder = save_artifact(tested.artifact, tmp_path_factory.mktemp("w") / "best")
    return Winner(trial, tested, folder), problem


def test_a_refitted_model_has_seen_everything_and_its_scores_are_those_of_the_one_before(winner, tmp_path):
    first, problem = winner
    before = load_artifact(first.folder)
    again = refit(replace(first, folder=tmp_path / "best"), problem, HERE)
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
    refit(exported, problem, HERE)
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


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    past = open_run(make_run(folder / "run"))
    problem = past.problem(folder)
    return export_trial(past.best(), past.storage, problem, folder / "best"), problem


def test_a_further_fit_sees_the_observed_cells_of_training_and_validation_rows_and_nothing_else(exported):
    _, problem = exported
    x = problem.splits.final_rows.x
    train, validation, test = problem.splits.indices
    assert len(x) == len(train) + len(validation)
    known = problem.splits.scaler.transform(problem.table.values[np.concatenate([train, validation])])
    seen = ~np.isnan(x)
    assert np.array_equal(x[seen], known[seen])
    hidden = ~np.isnan(problem.splits.validation.truth[: len(validation)])
    assert hidden.any()
    assert np.isnan(x[len(train) :][hidden]).all()
    assert not set(test) & {*train, *validation}


def test_a_model_and_its_further_fits_are_averaged_scored_and_saved(exported, tmp_path):
    first, problem = exported
    again = add_further_fits(replace(first, folder=tmp_path / "best"), problem, HERE)
    fits = one, *_ = again.tested.artifact.members
    assert [fit.weight for fit in fits] == [1 / (1 + N_FURTHER_FITS)] * (1 + N_FURTHER_FITS)
    assert len({fit.config.seed for fit in fits}) == len(fits)
    x = as_tensor(problem.splits.test.rows.x)
    average = sum(fit.decode(fit.posterior(x)) for fit in fits) / len(fits)
    assert load_artifact(tmp_path / "best").reconstruct(x).numpy() == pytest.approx(average.numpy(), abs=1e-6)
    # How sure it may be was chosen by rows that the others have seen: the first one says it.
    assert (one.spread, one.temperature) == (first.tested.artifact.spread, first.tested.artifact.temperature)
    told = summarise_winner(again)
    assert told["test_rmse"] == again.tested.scores.rmse != first.tested.scores.rmse
    assert (told["alone"]["test_rmse"], told["validation_rmse"]) == (first.tested.scores.rmse, first.trial.value)
    assert (told["ensemble"], told["further_fits"]) == ({str(first.trial.number): 1.0}, N_FURTHER_FITS)
    assert "fitted further times" in (tmp_path / "best" / "README.md").read_text()


def test_members_of_an_ensemble_share_their_weights_with_their_further_fits_which_come_after_them(exported, tmp_path):
    first, problem = exported
    artifact = first.tested.artifact
    other = replace(artifact, weight=0.25, metrics=artifact.metrics | {"trial": 7})
    joined = replace(artifact, weight=0.75, others=(other,))
    winner = replace(first, tested=replace(first.tested, artifact=joined), folder=tmp_path / "best")
    members = add_further_fits(winner, problem, HERE).tested.artifact.members
    mine = first.trial.number
    assert [member.metrics["trial"] for member in members] == [mine, 7, mine, mine, mine, 7]
    assert [member.weight for member in members] == pytest.approx([0.1875, 0.125, *[0.1875] * 3, 0.125])


def test_heavy_members_are_fitted_more_often():
    assert shared_out(4, [1.0]) == [(0, 1), (0, 2), (0, 3), (0, 4)]
    assert shared_out(4, [0.25, 0.25, 0.25, 0.25]) == [(0, 1), (1, 1), (2, 1), (3, 1)]
    assert shared_out(4, [0.55, 0.4, 0.05]) == [(0, 1), (0, 2), (1, 1), (1, 2)]


def test_a_further_fit_that_diverges_is_left_out(exported, tmp_path):
    first, problem = exported
    again = add_further_fits(
        replace(first, folder=tmp_path / "best"), problem, lambda _, fits: [NoUsableTrial("no")] * len(fits)
    )
    assert again.tested.scores == first.tested.scores
    assert [member.weight for member in again.tested.artifact.members] == [1.0]


@pytest.mark.parametrize("limit", [{"MAX_SMALL_CELLS": 160 * 13 - 1}, {"MAX_SMALL_ROWS": 159}])
def test_small_tables_are_fitted_further_where_several_models_may_be_averaged(monkeypatch, limit):
    is_small = wine().splits.is_small
    assert n_further_fits(is_small=is_small, n_members=4, asked=None) == N_FURTHER_FITS
    assert n_further_fits(is_small=is_small, n_members=1, asked=None) == 0
    assert n_further_fits(is_small=is_small, n_members=4, asked=False) == 0
    for name, value in limit.items():
        monkeypatch.setattr(splits, name, value)
    assert n_further_fits(is_small=wine().splits.is_small, n_members=4, asked=None) == 0
    assert wine().splits.final_rows is wine().splits.train.rows


def test_further_fits_take_what_the_search_left_of_its_time_budget_or_a_tenth_of_it(monkeypatch, tmp_path):
    past = open_run(make_run(tmp_path / "run"))
    problem = past.problem(tmp_path)
    winner = export_trial(past.best(), past.storage, problem, tmp_path / "best")
    epoch_s = epoch_seconds(read_study(tmp_path / "run" / "study.log"))[winner.trial.number]
    fit_s = epoch_s * winner.trial.epoch * len(problem.splits.final_rows.x) / len(problem.splits.train.rows.x)

    def n_fits(budget_s, spent_s):
        fields = {"study_path": tmp_path / "run" / "study.log", "n_further_fits": N_FURTHER_FITS}
        plan = cast("Plan", SimpleNamespace(**fields, time_budget_s=budget_s, cpus_per_trial=1, gpus_per_trial=0))
        return n_affordable(winner, problem, Fitter(plan), Outcome("finished", {}, spent_s))

    monkeypatch.setattr(where.os, "cpu_count", lambda: 2)
    assert n_fits(None, 1e9) == 4
    assert n_fits(20.1 * fit_s, 25.0 * fit_s) == 4
    assert n_fits(10.1 * fit_s, 10.0 * fit_s) == 2
    assert n_fits(9.9 * fit_s, 10.0 * fit_s) == 0
    assert n_fits(9.9 * fit_s, 8.8 * fit_s) == 2


@pytest.mark.parametrize(("cpus", "gpus", "expected"), [(1, 0, 4), (2, 0, 2), (8, 0, 1), (1, 0.5, 2), (1, 1, 1)])
def test_as_many_models_are_fitted_at_once_as_the_machine_has_room_for(monkeypatch, cpus, gpus, expected):
    monkeypatch.setattr(where.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    plan = cast("Plan", SimpleNamespace(cpus_per_trial=cpus, gpus_per_trial=gpus))
    assert Fitter(plan).n_together == expected


def test_further_fits_take_as_long_as_their_turns():
    halves = [0.5, 0.5]
    assert time_taken(4, halves, [1.0, 2.0], 2) == 3.0
    assert time_taken(2, halves, [1.0, 2.0], 2) == 2.0
    assert time_taken(1, halves, [1.0, 2.0], 2) == 1.0
    assert time_taken(4, halves, [1.0, 2.0], 100) == 2.0
    assert time_taken(4, halves, [1.0, 2.0], 1) == 6.0


def test_all_fits_are_refitted_with_seeds_of_their_own(exported, tmp_path):
    first, problem = exported
    again = add_further_fits(replace(first, folder=tmp_path / "best"), problem, HERE)
    refit(again, problem, HERE)
    x = as_tensor(problem.splits.test.rows.x)
    found = [
        member.decode(member.posterior(x)).numpy().tobytes() for member in load_artifact(tmp_path / "best").members
    ]
    assert len(set(found)) == 1 + N_FURTHER_FITS


def test_a_fit_that_is_cancelled_ends_after_the_epoch_it_is_in(exported):
    first, problem = exported
    rows = problem.splits.final_rows
    trainer = Trainer(first.tested.artifact.config, rows, torch.device("cpu"))
    fit_to_the_end(trainer, 100, lambda: trainer.epoch == 2)
    assert trainer.epoch == 2


@pytest.mark.cluster
def test_models_fitted_by_ray_are_those_that_are_fitted_here(exported, cluster, monkeypatch):
    monkeypatch.setattr(where, "SMALL", 0)
    first, problem = exported
    config = first.tested.artifact.config
    wild = config.model_copy(update={"train": config.train.model_copy(update={"learning_rate": 1e30})})
    fits = [Fit(config, 2), Fit(config.model_copy(update={"seed": 9}), None), Fit(wild, None)]
    rows = problem.splits.final_rows
    plan = cast("Plan", SimpleNamespace(device="cpu", cpus_per_trial=1.0, gpus_per_trial=0.0))
    here, there = (Fitter(plan, cluster)(rows, fits) for cluster in (None, cluster))
    for one, other in zip(here[:2], there[:2], strict=True):
        assert all(one.state_dict()[name].equal(weight) for name, weight in other.state_dict().items())
    assert all(isinstance(found[2], NoUsableTrial) and "diverged" in str(found[2]) for found in (here, there))
