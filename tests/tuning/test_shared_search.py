"""Two searches, each a process with a Ray of its own, on one study in PostgreSQL."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from optuna.trial import TrialState

from tests.patience import PATIENCE_S
from tests.tuning import postgres
from vadtune.tuning.study import read_study

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).parents[2]
N_TRIALS = 10


@pytest.fixture(scope="module")
def server():
    pytest.importorskip("psycopg", reason="needs psycopg")
    with postgres.server() as url:
        yield url


class Driver:
    """A search of fake runs in a process of its own; see `driver.py`."""

    def __init__(self, folder: Path, url: str) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        command = [sys.executable, "-m", "tests.tuning.driver", str(folder), str(N_TRIALS), "0.12", url]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PGPASSWORD": postgres.PASSWORD}
        with (folder.parent / f"{folder.name}.log").open("w") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=log)

    def said(self) -> str:
        return (self.folder.parent / f"{self.folder.name}.log").read_text(encoding="utf-8")

    def wait_for(self, pattern: str) -> None:
        end = time.monotonic() + PATIENCE_S
        while not re.search(pattern, self.said()):
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < end, self.said()
            time.sleep(0.1)

    def end(self) -> str:
        return self.process.communicate(timeout=PATIENCE_S)[0].decode()


def test_two_searches_share_one_study_and_one_that_is_interrupted_leaves_its_trials_to_the_other(server, tmp_path):
    one, two = (Driver(tmp_path / name / "run", server) for name in ("one", "two"))
    try:
        for driver in (one, two):
            driver.wait_for(r"ended \d+ running 1 epochs .*[5-9]")
        one.process.send_signal(signal.SIGINT)
        assert one.end().startswith("interrupted")
        assert two.end().startswith("finished")
    finally:
        for driver in (one, two):
            driver.process.kill()
            driver.process.communicate()
    trials = read_study(two.folder / "study.log").trials
    assert len(trials) == N_TRIALS
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert len({json.dumps(trial.params) for trial in trials}) == N_TRIALS
    # Both have run some: the one that left at least one to its end or to its first checkpoint.
    assert len({trial.user_attrs["driver"] for trial in read_study(one.folder / "study.log").trials}) == 2
    assert (two.folder / "trials.csv").read_text(encoding="utf-8").count("\n") == N_TRIALS + 1
