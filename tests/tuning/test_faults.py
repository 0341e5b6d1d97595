"""What goes wrong in trials of a real search fails them alone, with its reason; the others come to their end."""

import dataclasses
from collections import Counter

import pytest

from tests.small_runs import SETTINGS, wine
from tests.tuning import confined
from tests.tuning.confined import ConfinedRuns
from tests.tuning.fake_runs import FakeConfig, FakeRuns
from vadtune.data.storage import open_storage
from vadtune.settings import merge
from vadtune.training.config import TrialConfig
from vadtune.tuning.samplers import Grid, Random
from vadtune.tuning.schedulers import NoScheduler
from vadtune.tuning.space import make_space
from vadtune.tuning.study import read_study
from vadtune.tuning.trial_runs import TrialData, TrialRuns

pytestmark = pytest.mark.cluster
GIGABYTE = 2**30


def trials(plan):
    return read_study(plan.study_path).trials


@pytest.fixture
def data():
    return TrialData(wine().splits.train.rows, wine().splits.validation)


def real(plan, varied, **changes):
    """A search of real trials of three epochs."""
    space = make_space(merge(SETTINGS, varied), TrialConfig, "space")
    return dataclasses.replace(plan, space=space, max_epochs=3, n_trials=None, **changes)


def test_trials_that_need_too_much_memory_fail_for_that_reason_and_the_next_in_their_worker_are_as_ever(
    search, plan, data
):
    import ray

    ray.cloudpickle.register_pickle_by_value(confined)
    # 12,000: gradients do not fit beside the weights. 20,000: weights do not. 500,000: a terabyte, on any machine.
    widths = [8, 12_000, 16, 20_000, 500_000, 24]
    varied = {"model": {"decoder": {"n_layers": 2, "hidden_dim": {"choices": widths}}}}
    plan = real(plan, varied, sampler=Grid(), scheduler=NoScheduler(), concurrent=1)
    outcome = search(plan, ConfinedRuns(GIGABYTE), data=data)
    assert outcome.trials == {"complete": 3, "pruned": 0, "failed": 3, "running": 0, "waiting": 0}
    failures = {t.params["model.decoder.hidden_dim"]: t.user_attrs.get("failure") for t in trials(plan)}
    assert {width for width, failure in failures.items() if failure is None} == {8, 16, 24}
    assert all(failure.startswith("memory: ") for failure in failures.values() if failure is not None)
    # No worker died of it, and none was retried.
    assert len({trial.user_attrs["worker"] for trial in trials(plan)}) == 1


def test_a_worker_that_dies_a_third_time_fails_its_trial_alone(search, plan, tmp_path):
    kinds = ["mortal", "quiet"]
    # As first points they pass all rungs, whichever is the first to reach one.
    model, first = {"kind": {"choices": kinds}, "fuse": 20}, [{"model": {"kind": kind}} for kind in kinds]
    plan = dataclasses.replace(
        plan, space=make_space({"model": model, "first": first}, FakeConfig, "space"), n_trials=2
    )
    journal = tmp_path / "journal"
    # At its rung it has worked long enough to be saved.
    assert search(plan, FakeRuns(journal=journal, epoch_s=0.08)).trials["failed"] == 1
    mortal, quiet = sorted(trials(plan), key=lambda trial: trial.params["model.kind"])
    assert mortal.state.name == "FAIL"
    assert mortal.user_attrs["failure"].startswith("the worker process died, again after each retry")
    assert max(mortal.intermediate_values) == 18
    assert mortal.user_attrs["checkpoint"] is None
    assert quiet.state.name == "COMPLETE"
    lines = Counter(line.split(" ", 1)[1] for line in journal.read_text(encoding="utf-8").splitlines())
    assert lines == {"start": 2, "load 15": 2}


def results(plan):
    """Params and all numbers of every trial, by its number."""
    return [(t.number, t.state, t.value, t.params, t.intermediate_values) for t in trials(plan)]


def test_the_digits_of_a_trial_depend_on_the_seed_and_neither_on_its_worker_nor_on_what_runs_beside_it(
    search, plan, data
):
    varied = {"train": {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}}}
    # So many that the second worker comes before the first one is through with them.
    plan = dataclasses.replace(real(plan, varied, sampler=Random(), scheduler=NoScheduler()), n_trials=40)
    found = {}
    for concurrent in (1, 2):
        folder = plan.folder / str(concurrent)
        found[concurrent] = dataclasses.replace(
            plan, folder=folder, storage=open_storage(str(folder)), concurrent=concurrent
        )
        search(found[concurrent], TrialRuns(), data=data)
    assert len({trial.user_attrs["worker"] for trial in trials(found[2])}) == 2
    assert results(found[1]) == results(found[2])
