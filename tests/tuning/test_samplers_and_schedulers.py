import typing
import warnings
from types import SimpleNamespace

import optuna
import pytest
from ray.tune.schedulers import TrialScheduler

from tests.tuning.fake_runs import FakeConfig
from vadtune.errors import ConfigError
from vadtune.settings import parse
from vadtune.tuning.samplers import SAMPLERS, Sampler
from vadtune.tuning.schedulers import ASHA, SCHEDULERS, HyperBand, Scheduler, is_far_behind, report_epochs, seed_rungs
from vadtune.tuning.space import make_space

SPACE = {"model": {"x": {"low": -3.0, "high": 3.0, "step": 0.5}, "kind": {"choices": ["quiet", "loud"]}}}


def members(union):
    return typing.get_args(typing.get_args(union)[0])


@pytest.fixture
def space():
    return make_space(SPACE, FakeConfig, "space")


def proposals(sampler, space, seed, n_asked=0, n=4):
    study = optuna.create_study(sampler=sampler.build(seed, n_asked))
    found = []
    for _ in range(n):
        trial = study.ask()
        params = space.suggest(trial)
        study.tell(trial, params["model.x"] ** 2)
        found.append(params)
    return found


def test_the_names_are_those_of_the_unions():
    assert tuple(member().kind for member in members(Sampler)) == SAMPLERS
    assert tuple(member().kind for member in members(Scheduler)) == SCHEDULERS


@pytest.mark.parametrize("kind", SAMPLERS)
def test_a_sampler_proposes_points_of_the_space_and_repeats_with_its_seed(kind, space):
    sampler = parse(Sampler, {"kind": kind}, "--sampler")
    first = proposals(sampler, space, seed=3)
    assert all(space.leaves[path].contains(value) for params in first for path, value in params.items())
    assert proposals(sampler, space, seed=3) == first
    assert proposals(sampler, space, seed=4) != first


@pytest.mark.parametrize("kind", ["tpe", "gp", "cmaes", "random"])
def test_a_resumed_sampler_draws_other_numbers(kind, space):
    sampler = parse(Sampler, {"kind": kind}, "--sampler")
    assert proposals(sampler, space, seed=3, n_asked=4) != proposals(sampler, space, seed=3)


@pytest.mark.parametrize("kind", ["tpe", "gp"])
def test_a_model_based_sampler_works_past_its_random_start_without_a_warning(kind, space):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        proposals(parse(Sampler, {"kind": kind, "n_startup_trials": 2}, "s"), space, seed=0, n=5)


def test_a_grid_tries_every_point_and_no_more(space):
    grid = parse(Sampler, {"kind": "grid"}, "--sampler")
    assert grid.n_points(space) == len(grid.points(space)) == 13 * 2


def test_other_samplers_begin_with_the_first_points_of_the_space():
    space = make_space(SPACE | {"first": [{"model": {"x": 1.0}}]}, FakeConfig, "space")
    for kind in SAMPLERS:
        if kind != "grid":
            assert parse(Sampler, {"kind": kind}, "s").points(space) == [{"model.x": 1.0}]


def test_an_unknown_name_is_refused_with_the_right_ones():
    with pytest.raises(ConfigError, match=r"--sampler: .*'tpa'.*Did you mean tpe"):
        parse(Sampler, {"kind": "tpa"}, "--sampler")


@pytest.mark.parametrize("kind", SCHEDULERS)
@pytest.mark.parametrize("max_epochs", [1, 2, 3, 10, 27, 45, 60, 81, 100, 1000])
def test_rungs_rise_and_lie_before_the_end_and_are_reported(kind, max_epochs):
    scheduler = parse(Scheduler, {"kind": kind}, "--scheduler")
    rungs = scheduler.rungs(max_epochs)
    assert list(rungs) == sorted(set(rungs))
    assert all(1 <= rung < max_epochs for rung in rungs)
    reports = report_epochs(rungs, max_epochs)
    assert set(rungs) <= set(reports)
    assert reports[-1] == max_epochs
    assert len(reports) <= 22 + len(rungs)
    assert isinstance(scheduler.build(max_epochs), TrialScheduler)


def test_a_trial_does_not_report_just_before_or_behind_a_rung():
    assert report_epochs((19, 76), 300)[:8] == (1, 19, 30, 45, 60, 76, 90, 105)
    assert report_epochs((), 300)[:3] == (1, 15, 30)


@pytest.mark.parametrize("max_epochs", [1, 2, 3, 10, 27, 45, 60, 81, 100, 1000])
def test_the_rungs_of_asha_are_those_that_ray_uses(max_epochs):
    bracket = ASHA().build(max_epochs)._brackets[0]
    assert tuple(int(rung) for rung, _ in reversed(bracket._rungs) if rung < max_epochs) == ASHA().rungs(max_epochs)


@pytest.mark.parametrize("max_epochs", [3, 10, 27, 45, 60, 81, 100])
def test_the_rungs_of_hyperband_hold_all_that_ray_uses(max_epochs):
    hyperband = HyperBand().build(max_epochs)
    for s in range(hyperband._s_max_1):
        rung = hyperband._get_r0(s)
        while 0 < rung < max_epochs:
            assert rung in HyperBand().rungs(max_epochs)
            rung *= 3


def test_seeded_rungs_judge_as_if_the_trials_had_been_seen():
    scheduler = ASHA().build(80)
    seed_rungs(scheduler, {f"trial {i}": {5: 0.1 * i, 20: 0.05 * i} for i in range(9)})
    decisions = {}
    for name, rmse in (("good", 0.05), ("bad", 0.7)):
        trial = SimpleNamespace(trial_id=name)
        scheduler.on_trial_add(None, trial)
        decisions[name] = scheduler.on_trial_result(None, trial, {"epoch": 5, "imputation_rmse": rmse})
    assert decisions == {"good": TrialScheduler.CONTINUE, "bad": TrialScheduler.STOP}


def test_a_trial_whose_rung_is_seeded_is_not_judged_there_again():
    scheduler = ASHA().build(80)
    seed_rungs(scheduler, {f"trial {i}": {5: 0.1, 20: 0.1} for i in range(9)} | {"mine": {5: 0.9}})
    trial = SimpleNamespace(trial_id="mine")
    scheduler.on_trial_add(None, trial)
    assert scheduler.on_trial_result(None, trial, {"epoch": 7, "imputation_rmse": 0.9}) == TrialScheduler.CONTINUE
    assert scheduler.on_trial_result(None, trial, {"epoch": 20, "imputation_rmse": 0.9}) == TrialScheduler.STOP


@pytest.mark.parametrize(
    ("progress", "value", "is_behind"),
    [(0.2, 9.0, False), (0.25, 1.4, False), (0.3, 1.41, True), (0.5, 1.25, False), (0.5, 1.26, True), (1.0, 1.3, True)],
)
def test_a_first_point_is_far_behind_by_a_factor_that_falls_with_its_progress(progress, value, is_behind):
    assert is_far_behind(progress, value, 1.0) == is_behind
