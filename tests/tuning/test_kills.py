"""The driver is killed again and again, at any moment of its life, and always goes on."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from optuna.trial import TrialState

from vadtune.errors import ConfigError
from vadtune.tuning.schedulers import ASHA
from vadtune.tuning.study import read_study

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).parents[2]
N_TRIALS = 40


def start(folder: Path, log: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "tests.tuning.driver", str(folder), str(N_TRIALS), "0.03"]
    with log.open("a") as file:
        return subprocess.Popen(
            command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=file
        )


def trials(folder: Path) -> list:
    try:
        return read_study(folder / "study.log").trials
    except ConfigError:
        return []


def test_ten_kills_at_random_moments_lose_and_double_nothing(tmp_path):
    folder, log, moments = tmp_path / "run", tmp_path / "log", random.Random(5)
    ended = {}
    for _ in range(10):
        driver = start(folder, log)
        seen = len(ended)
        # Some while Ray starts, some at some moment after the next trial has ended.
        delay, waits = moments.uniform(0.0, 2.5), moments.random() < 0.4
        deadline = time.monotonic() + 60
        while waits and sum(trial.state.is_finished() for trial in trials(folder)) <= seen:
            assert driver.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(delay)
        driver.kill()
        driver.communicate()
        now = {trial.number: trial for trial in trials(folder)}
        # State, value, params and all that was reported: rungs are what ended trials reported there.
        assert all(now[number] == trial for number, trial in ended.items())
        ended = {number: trial for number, trial in now.items() if trial.state.is_finished()}
    assert len(ended) < N_TRIALS
    driver = start(folder, log)
    output = driver.communicate(timeout=120)[0].decode()
    assert output.startswith("finished"), log.read_text()
    last = trials(folder)
    assert len(last) == N_TRIALS
    assert all(last[number] == trial for number, trial in ended.items())
    assert {trial.state for trial in last} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert len({json.dumps(trial.params) for trial in last}) == N_TRIALS
    values = [trial.value for trial in last if trial.state == TrialState.COMPLETE]
    assert min(values) <= min((trial.value for trial in ended.values() if trial.value is not None), default=9e9)
    rungs = set(ASHA().rungs(45))
    assert all(trial.last_step in rungs for trial in last if trial.state == TrialState.PRUNED)
    assert "Traceback" not in log.read_text()
    checkpoints = list(folder.glob("ray/*/checkpoint_*"))
    assert len(checkpoints) == 1
