import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState

from vadtune.tuning.samplers import TPE
from vadtune.tuning.window import Windowed


def add(study, value=None, *, step=1, state=TrialState.COMPLETE):
    trial = study.ask()
    trial.suggest_float("x", -3.0, 3.0)
    if value is not None:
        trial.report(value, step)
    if state.is_finished():
        study.tell(trial, value if state == TrialState.COMPLETE else None, state=state)
    return trial.number


def shown(sampler, study):
    return [trial.number for trial in sampler.window(study.get_trials(deepcopy=False))]


def test_the_best_the_latest_and_those_that_have_not_ended_are_seen():
    study = optuna.create_study()
    sampler = Windowed(optuna.samplers.RandomSampler(seed=0), n_best=3, n_recent=2)
    open_one = add(study, state=TrialState.RUNNING)
    far = add(study, 0.9, step=15, state=TrialState.PRUNED)
    add(study, 0.1, step=5, state=TrialState.PRUNED)
    best = add(study, 0.2)
    add(study, state=TrialState.FAIL)
    second = add(study, 0.3)
    assert shown(sampler, study) == [open_one, far, best, second]
    others = [add(study, 0.8) for _ in range(4)]
    assert shown(sampler, study) == [open_one, best, second, others[0], *others[2:]]
    study.tell(open_one, 0.1)
    assert shown(sampler, study) == [open_one, best, second, *others[2:]]


def test_of_many_that_run_the_latest_are_seen():
    study = optuna.create_study()
    sampler = Windowed(optuna.samplers.RandomSampler(seed=0), n_open=2)
    numbers = [add(study, state=TrialState.RUNNING) for _ in range(5)]
    assert shown(sampler, study) == numbers[-2:]
    study.tell(numbers[0], 0.3)
    study.tell(numbers[3], 0.5)
    assert shown(sampler, study) == [0, 2, 3, 4]


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, None, "fail", "open"]), max_size=60), st.integers(1, 7))
def test_what_is_seen_does_not_depend_on_how_often_it_is_asked(values, every):
    study = optuna.create_study()
    often, once = (Windowed(optuna.samplers.RandomSampler(), n_best=4, n_recent=5, n_open=3) for _ in range(2))
    for number, value in enumerate(values):
        if value == "open":
            add(study, state=TrialState.RUNNING)
        else:
            add(study, value if isinstance(value, float) else None, state=states(value))
        if number % every == 0:
            often.window(study.get_trials(deepcopy=False))
    assert shown(often, study) == shown(once, study)


def states(value):
    return TrialState.FAIL if value == "fail" else TrialState.PRUNED if value is None else TrialState.COMPLETE


def minimum(sampler, n_trials=120):
    study = optuna.create_study(sampler=sampler)
    study.optimize(lambda trial: sum(trial.suggest_float(name, -3.0, 3.0) ** 2 for name in "abc"), n_trials=n_trials)
    return study


def test_a_study_that_fits_into_the_window_is_searched_as_without_one():
    plain = minimum(optuna.samplers.TPESampler(seed=4), n_trials=40)
    windowed = minimum(Windowed(optuna.samplers.TPESampler(seed=4)), n_trials=40)
    assert [trial.params for trial in plain.trials] == [trial.params for trial in windowed.trials]


def test_a_narrow_window_still_finds_the_minimum():
    study = minimum(Windowed(optuna.samplers.TPESampler(seed=4), n_best=12, n_recent=30))
    assert study.best_value < 0.5
    assert isinstance(TPE().build(0, 0), Windowed)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_the_inner_sampler_is_shown_the_window_only():
    seen = []

    class Spy(optuna.samplers.RandomSampler):
        def sample_independent(self, study, trial, param_name, param_distribution):
            seen.append(len(study.get_trials(states=(TrialState.COMPLETE,))))
            assert study.direction == optuna.study.StudyDirection.MINIMIZE
            return super().sample_independent(study, trial, param_name, param_distribution)

    minimum(Windowed(Spy(seed=0), n_best=2, n_recent=5), n_trials=30)
    assert max(seen) == 7
