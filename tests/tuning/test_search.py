"""Whole searches on one Ray."""

import dataclasses
import os
import re
import signal
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import optuna
import psutil
import pytest
from optuna.trial import TrialState

from tests.patience import PATIENCE_S
from tests.tuning.conftest import LINE
from tests.tuning.fake_runs import FakeConfig, FakeRuns
from tests.zygote import Zygote
from vadtune.data.storage import open_storage
from vadtune.errors import ConfigError
from vadtune.settings import parse
from vadtune.tuning import runner
from vadtune.tuning.runner import run_search
from vadtune.tuning.samplers import Grid
from vadtune.tuning.schedulers import NoScheduler, Scheduler
from vadtune.tuning.session import GRACE_S, Session
from vadtune.tuning.space import make_space
from vadtune.tuning.study import best_trial, count_states, read_study

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).parents[2]


def trials(plan):
    return read_study(plan.study_path).trials


def checkpoints(plan):
    return sorted(plan.folder.glob("ray/*/checkpoint_*"))


class Snapshots:
    """Keeps what it is told."""

    def __init__(self):
        self.all = []

    def update(self, snapshot):
        self.all.append(snapshot)


def test_every_trial_ends_in_its_true_state_with_all_that_it_reported(search, plan):
    plan = dataclasses.replace(plan, n_trials=12)
    snapshots = Snapshots()
    outcome = search(plan, progress=snapshots)
    assert outcome.end == "finished"
    assert outcome.trials["complete"] + outcome.trials["pruned"] == 12
    assert outcome.trials["complete"] >= 1
    assert outcome.trials["pruned"] >= 1
    for trial in trials(plan):
        assert trial.user_attrs["epochs"] == trial.last_step
        if trial.state == TrialState.COMPLETE:
            assert trial.last_step == 45
            assert trial.value == pytest.approx(trial.intermediate_values[45] - 1e-6)
        else:
            assert trial.last_step in (5, 15)
            assert trial.user_attrs["stopped_by"] == f"rung {trial.last_step}"
    storage = open_storage(str(plan.folder))
    best = best_trial(read_study(plan.study_path), storage.exists)
    assert best.checkpoint is not None
    assert checkpoints(plan) == [plan.folder / best.checkpoint]
    assert (plan.folder / "trials.csv").read_text(encoding="utf-8").count("\n") == 13
    assert not list(plan.folder.glob("ray/*.pkl"))
    assert not (plan.folder / "search.lock").exists()
    assert snapshots.all[-1].n_trials == 12


def test_first_points_pass_all_rungs_until_they_are_far_behind(search, plan, monkeypatch):
    monkeypatch.setattr(runner, "TOGETHER_S", 0.0)
    # Of 45 epochs: before the half the third is up to 1.33 times as high as the first, then 1.4 times and more.
    points = [{"model": {"x": x, "depth": 1}} for x in (0.0, 0.14, 0.6, 3.0)]
    space = make_space(LINE | {"first": points}, FakeConfig, "line.toml")
    search(dataclasses.replace(plan, space=space, concurrent=1, n_trials=9))
    found = trials(plan)
    ends = [(trial.state, trial.last_step, trial.user_attrs.get("stopped_by")) for trial in found[:4]]
    assert ends[:2] == [(TrialState.COMPLETE, 45, None)] * 2
    assert ends[2] == (TrialState.PRUNED, 23, "far behind at epoch 23")
    assert ends[3] == (TrialState.PRUNED, 12, "far behind at epoch 12")
    assert "rung 5" in {trial.user_attrs.get("stopped_by") for trial in found[4:]}


def test_short_trials_do_not_keep_the_second_worker_from_starting(search, plan):
    search(dataclasses.replace(plan, scheduler=NoScheduler(), n_trials=14), FakeRuns(epoch_s=0.02))
    shares = Counter(trial.user_attrs["worker"] for trial in trials(plan))
    assert len(shares) == 2
    assert min(shares.values()) >= 3


@pytest.fixture
def one_try(monkeypatch):
    """Trials are not tried again: a new worker takes seconds."""
    monkeypatch.setattr(runner, "MAX_FAILURES", 0)


@pytest.mark.usefixtures("one_try")
def test_failures_are_told_by_their_reason_and_the_search_goes_on(search, plan):
    kinds = ["quiet", "diverging", "broken", "hungry", "mortal"]
    space = make_space({"model": {"kind": {"choices": kinds}, "fuse": 3}}, FakeConfig, "space")
    plan = dataclasses.replace(
        plan, space=space, sampler=Grid(), scheduler=NoScheduler(), max_epochs=6, n_trials=None, concurrent=2
    )
    assert search(plan).trials == {"complete": 1, "pruned": 0, "failed": 4, "running": 0, "waiting": 0}
    failures = {trial.params["model.kind"]: trial.user_attrs.get("failure") for trial in trials(plan)}
    assert failures["diverging"] == "the loss is nan after epoch 3"
    assert failures["broken"] == "ValueError: a bug in the model"
    assert failures["hungry"] == "memory: cannot allocate 10 TB"
    assert "worker process died" in str(failures["mortal"])


def test_a_trial_whose_worker_is_killed_goes_on_from_its_checkpoint(search, plan, tmp_path):
    space = make_space({"model": {"kind": "killed", "fuse": 20}}, FakeConfig, "space")
    plan = dataclasses.replace(plan, space=space, n_trials=1)
    # At its rung it has worked long enough to be saved.
    runs = FakeRuns(spoils=tmp_path / "killed", journal=tmp_path / "journal", epoch_s=0.08)
    assert search(plan, runs).trials["complete"] == 1
    lines = [line.split(" ", 1)[1] for line in (tmp_path / "journal").read_text(encoding="utf-8").splitlines()]
    assert lines == ["start", "load 15"]


@pytest.mark.usefixtures("one_try")
def test_a_full_disk_ends_the_search_and_fails_no_trial(search, plan):
    space = make_space({"model": {"kind": "full"}}, FakeConfig, "space")
    with pytest.raises(ConfigError, match="no space left for checkpoints"):
        search(dataclasses.replace(plan, space=space))
    assert count_states(read_study(plan.study_path)) == {
        "complete": 0,
        "pruned": 0,
        "failed": 0,
        "running": 0,
        "waiting": 2,
    }


@pytest.mark.usefixtures("one_try")
def test_workers_that_cannot_start_end_the_search_and_fail_no_trial(search, plan):
    with pytest.raises(ConfigError, match=r"Workers cannot start: .*No module named 'vadtune'"):
        search(plan, FakeRuns(home=os.getpid()))
    counts = count_states(read_study(plan.study_path))
    assert counts["failed"] == 0
    assert counts["waiting"] >= 1


@pytest.mark.parametrize("kind", ["hyperband", "median"])
def test_other_schedulers_finish_too(search, plan, kind):
    plan = dataclasses.replace(plan, scheduler=parse(Scheduler, {"kind": kind}, "s"), max_epochs=9, n_trials=8)
    outcome = search(plan)
    assert outcome.trials["complete"] + outcome.trials["pruned"] == 8
    assert outcome.trials["complete"] >= 1
    assert len(checkpoints(plan)) == 1


def test_one_at_a_time_a_seed_repeats_to_the_digit(search, plan):
    def table(name):
        folder = plan.folder / name
        storage = open_storage(str(folder))
        one = dataclasses.replace(plan, folder=folder, storage=storage, concurrent=1, n_trials=14)
        search(one)
        return [(t.number, t.state, t.value, t.params, t.intermediate_values) for t in trials(one)]

    assert table("a") == table("b")


def test_at_the_end_of_the_time_running_trials_are_saved_and_wait_and_are_gone_on_with(search, plan, tmp_path):
    slow = dataclasses.replace(plan, n_trials=None, time_budget_s=12.0, scheduler=NoScheduler())
    journal = tmp_path / "journal"
    outcome = search(slow, FakeRuns(epoch_s=0.5, journal=journal))
    assert outcome.end == "time budget"
    assert outcome.seconds < 17.0
    assert outcome.trials == {"complete": 0, "pruned": 0, "failed": 0, "running": 0, "waiting": 2}
    waiting = trials(slow)
    assert all(t.user_attrs["checkpoint_epoch"] == t.last_step for t in waiting)
    assert len(checkpoints(slow)) == 2
    journal.unlink()
    outcome = search(dataclasses.replace(slow, n_trials=2, time_budget_s=None), FakeRuns(journal=journal))
    assert outcome.trials == {"complete": 2, "pruned": 0, "failed": 0, "running": 0, "waiting": 0}
    loads = sorted(line.split(" ", 1)[1] for line in journal.read_text(encoding="utf-8").splitlines())
    assert loads == sorted(f"load {trial.last_step}" for trial in waiting)
    for before, after in zip(waiting, trials(slow), strict=True):
        assert before.params == after.params
        assert before.intermediate_values.items() <= after.intermediate_values.items()


def test_trials_that_are_nearly_done_at_the_end_of_the_time_come_to_their_own(search, plan, monkeypatch):
    class Hurried(Session):
        def is_over(self):
            if any(trial.epoch >= 41 for trial in self.ledger.live.values()):
                self.request_stop("time budget")
            return super().is_over()

    monkeypatch.setattr(runner, "Session", Hurried)
    plan = dataclasses.replace(plan, n_trials=None, time_budget_s=600.0, scheduler=NoScheduler())
    snapshots = Snapshots()
    outcome = search(plan, FakeRuns(epoch_s=0.1), progress=snapshots)
    assert outcome.end == "time budget"
    assert "finishing trials that are nearly done" in {snapshot.phase for snapshot in snapshots.all}
    done = [trial for trial in trials(plan) if (trial.last_step or 0) >= 41]
    assert done
    assert all(trial.state == TrialState.COMPLETE for trial in done)
    assert outcome.trials["complete"] == len(done)


def test_overtime_ends_by_itself_or_by_an_interrupt(plan, monkeypatch):
    session = Session(dataclasses.replace(plan, time_budget_s=100.0), Snapshots())
    assert session.may_go_on(0.1)
    session.request_stop("time budget")
    assert [session.may_go_on(progress) for progress in (0.89, 0.9)] == [False, True]
    session.request_stop("interrupted")
    assert session.end == "interrupted"
    assert not session.may_go_on(0.99)
    session = Session(dataclasses.replace(plan, time_budget_s=100.0), Snapshots())
    session.request_stop("time budget")
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 10.1)
    assert not session.may_go_on(0.99)
    assert session.give_up_at == pytest.approx(now + 10 + GRACE_S["time budget"], abs=1.0)


@pytest.mark.parametrize(
    ("n_fits", "train_s", "ends_at"),
    [(0, 3.0, 100.0), (4, 3.0, 94.0), (3, 3.0, 94.0), (4, 30.0, 80.0), (4, None, 100.0)],
)
def test_a_search_leaves_of_its_budget_what_further_fits_will_take(plan, monkeypatch, n_fits, train_s, ends_at):
    study = optuna.create_study()
    trial = study.ask()
    trial.set_user_attr("train_s", train_s)
    study.tell(trial, 1.0)
    session = Session(dataclasses.replace(plan, time_budget_s=100.0, n_further_fits=n_fits), Snapshots())
    session.crew, session.ledger = SimpleNamespace(study=study), SimpleNamespace(live={})
    session.concurrent = 2
    for elapsed_s, is_over in ((ends_at - 0.1, False), (ends_at + 0.1, True)):
        monkeypatch.setattr(time, "monotonic", lambda: session.started + elapsed_s)  # noqa: B023
        assert session.is_over() == is_over


def test_a_trial_that_is_too_large_is_refused_before_anything_starts(plan):
    with pytest.raises(ConfigError, match="--cpus-per-trial 1000: this machine has"):
        run_search(dataclasses.replace(plan, cpus_per_trial=1000.0), None, FakeRuns())
    assert not plan.study_path.exists()


def test_a_gpu_that_is_not_there_is_refused(search, plan):
    with pytest.raises(ConfigError, match="--gpus-per-trial 1: the largest node has 0 GPUs"):
        search(dataclasses.replace(plan, gpus_per_trial=1.0))


class Driver:
    """A search in a process of its own."""

    def __init__(self, zygote: Zygote, folder: Path, n_trials: int, epoch_s: float) -> None:
        self.output, self.errors = folder / "stdout", folder / "stderr"
        words = ("tests.tuning.driver", folder, n_trials, epoch_s)
        self.command = zygote.start(*words, log=self.output, errors=self.errors)

    def wait_for(self, pattern: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not re.search(pattern, self.errors.read_text(), re.MULTILINE):
            assert not self.command.ended.is_set(), f"the driver ended without saying {pattern}"
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def end(self) -> tuple[str, str]:
        """What it wrote, to stdout and stderr."""
        self.command.wait(PATIENCE_S)
        return self.output.read_text(), self.errors.read_text()


@pytest.fixture
def drive(zygote, plan):
    drivers = []

    def start(n_trials, epoch_s):
        drivers.append(Driver(zygote, plan.folder, n_trials, epoch_s))
        return drivers[-1]

    yield start
    for driver in drivers:
        driver.command.signal(signal.SIGKILL)


def test_sigterm_saves_what_runs(plan, drive):
    driver = drive(30, 0.1)
    driver.wait_for(r"^ended \d+ running [12] epochs .*[5-9]")
    driver.command.signal(signal.SIGTERM)
    output, errors = driver.end()
    assert output.startswith("interrupted")
    assert "Traceback" not in errors
    counts = count_states(read_study(plan.study_path))
    assert counts["running"] == 0
    assert 1 <= counts["waiting"] <= 2
    waiting = [trial for trial in trials(plan) if trial.state == TrialState.WAITING]
    # One that was about to start has nothing to save.
    begun = [trial for trial in waiting if trial.last_step is not None]
    assert begun
    assert all(trial.user_attrs["checkpoint_epoch"] == trial.last_step for trial in begun)
    assert not (plan.folder / "search.lock").exists()


def test_a_second_interrupt_of_the_whole_terminal_is_not_waited_for_and_leaves_a_whole_study(plan, drive):
    driver = drive(30, 8.0)
    driver.wait_for("^ended 0 running 2")
    os.killpg(driver.command.pid, signal.SIGINT)
    time.sleep(1.0)
    os.killpg(driver.command.pid, signal.SIGINT)
    assert "KeyboardInterrupt" in driver.end()[1]
    assert count_states(read_study(plan.study_path))["waiting"] == 2
    assert (plan.folder / "trials.csv").exists()


def test_a_driver_whose_cluster_dies_ends_and_says_how_to_go_on(plan, drive):
    driver = drive(30, 0.5)
    driver.wait_for("^ended 0 running 2")
    next(child for child in psutil.Process(driver.command.pid).children() if child.name() == "raylet").kill()
    assert "go on with --resume" in driver.end()[1]
    assert driver.command.returncode == 1
    assert count_states(read_study(plan.study_path))["waiting"] == 2
