"""The driver is killed again and again, at any moment of its life, and always goes on."""

import json
import random
import signal
import time
from pathlib import Path

import pytest
from optuna.trial import TrialState

from tests.patience import PATIENCE_S
from tests.small_runs import DATA
from tests.tuning.conftest import LINE
from tests.tuning.fake_runs import MAX_EPOCHS, SCHEDULER, FakeConfig
from tests.zygote import Command
from vadtune.errors import ConfigError
from vadtune.report.run import read_run
from vadtune.tuning.record import write_json
from vadtune.tuning.space import make_space
from vadtune.tuning.study import read_study

pytestmark = pytest.mark.cluster
N_KILLS = 20
N_TRIALS = 50


def trials(folder: Path) -> list:
    try:
        return read_study(folder / "study.log").trials
    except ConfigError:
        return []


def n_ended(folder: Path) -> int:
    return sum(trial.state.is_finished() for trial in trials(folder))


def await_an_end(driver: Command, folder: Path) -> None:
    """Wait until one more trial has ended than now."""
    seen, deadline = n_ended(folder), time.monotonic() + PATIENCE_S
    while n_ended(folder) <= seen:
        assert not driver.ended.is_set(), driver.said()
        assert time.monotonic() < deadline, driver.said()
        time.sleep(0.05)


def describe(folder: Path) -> None:
    """What `report` needs to know of a run."""
    folder.mkdir()
    space = make_space(LINE, FakeConfig, "line").to_dict()
    write_json(folder / "settings.json", {"format_version": 1, "dataset": {"name": DATA["dataset"]}, "space": space})


def test_twenty_kills_at_random_moments_lose_and_double_nothing(zygote, tmp_path):
    folder, log, moments = tmp_path / "run", tmp_path / "log", random.Random(5)
    describe(folder)
    ended = {}
    for number in range(N_KILLS):
        driver = zygote.start("tests.tuning.driver", folder, N_TRIALS, 0.03, log=log)
        # Three of four while Ray starts or a little later; one of four after some more trials have ended.
        if number % 4 == 3:
            await_an_end(driver, folder)
            time.sleep(moments.uniform(0.0, 1.0))
        else:
            time.sleep(moments.uniform(0.0, 4.0))
        driver.signal(signal.SIGKILL)
        driver.wait()
        now = {trial.number: trial for trial in trials(folder)}
        # State, value, params and all that was reported: rungs are what ended trials reported there.
        assert all(now[number] == trial for number, trial in ended.items())
        assert len(read_run(folder).trials) == len(now)
        ended = {number: trial for number, trial in now.items() if trial.state.is_finished()}
    assert 5 <= len(ended) < N_TRIALS
    driver = zygote.start("tests.tuning.driver", folder, N_TRIALS, 0.0, log=log)
    assert driver.wait() == 0, driver.said()
    assert driver.said().splitlines()[-1].startswith("finished")
    assert "Traceback" not in driver.said()
    last = trials(folder)
    assert len(last) == N_TRIALS
    assert all(last[number] == trial for number, trial in ended.items())
    assert {trial.state for trial in last} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert len({json.dumps(trial.params) for trial in last}) == N_TRIALS
    values = [trial.value for trial in last if trial.state == TrialState.COMPLETE]
    assert min(values) <= min((trial.value for trial in ended.values() if trial.value is not None), default=9e9)
    rungs = set(SCHEDULER.rungs(MAX_EPOCHS))
    assert all(trial.last_step in rungs for trial in last if trial.state == TrialState.PRUNED)
    assert len(list(folder.glob("ray/*/checkpoint_*"))) == 1
    names = {path.name for path in folder.iterdir()}
    assert names - {"study.log.torn"} == {"ray", "settings.json", "study.log", "trials.csv"}
