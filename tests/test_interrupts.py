"""The real command, told to stop or killed at any moment, its conclusion included: it always goes on."""

import json
import random
import signal
import time
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from tests.zygote import Command, Zygote
from vadtune.training.artifact import load_artifact
from vadtune.tuning.study import count_states, read_study

pytestmark = pytest.mark.cluster
WORDS = ["wine", "--name", "cut", "--missing-rate", "0.2", "--max-epochs", "9", "--set", "model.decoder.hidden_dim=16"]
RESUME = "python -m vadtune.search wine --name cut"
# What has just been written anew as a phase of the conclusion begins.
PHASES = {"evaluation": "best", "report": "summary.json"}


class Run:
    """A run folder, and the command that makes it."""

    def __init__(self, zygote: Zygote, home: Path) -> None:
        self.zygote, self.home, self.folder = zygote, home, home / "runs" / "cut"

    def start(self, n_trials: int) -> Command:
        words = [*WORDS, "--trials", n_trials, *(["--resume"] if (self.folder / "study.log").exists() else [])]
        return self.zygote.start("vadtune.search", *words, cwd=self.home, log=self.home / "log")

    def trials(self) -> list:
        return read_study(self.folder / "study.log").trials

    def ended(self) -> dict:
        return {trial.number: trial for trial in self.trials() if trial.state.is_finished()}

    def check_whole(self) -> None:
        """Whatever is there can be read."""
        load_artifact(self.folder / "best")
        for name in ("settings.json", "summary.json"):
            json.loads((self.folder / name).read_text(encoding="utf-8"))
        assert (self.folder / "report.html").read_text(encoding="utf-8").rstrip().endswith("</html>")

    def hidden(self) -> set[str]:
        return {path.name for path in self.folder.glob(".*")}


@pytest.fixture(scope="module")
def finished(zygote, tmp_path_factory):
    run = Run(zygote, tmp_path_factory.mktemp("finished"))
    command = run.start(3)
    assert command.wait() == 0, command.said()
    return run


def inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def conclude_until(run: Run, phase: str) -> Command:
    """Let the run conclude once more, up to some moment of a phase."""
    (run.home / "log").unlink(missing_ok=True)
    path, deadline = run.folder / PHASES[phase], time.monotonic() + PATIENCE_S
    before, command = inode(path), run.start(3)
    while inode(path) in (None, before):
        assert not command.ended.is_set(), command.said()
        assert time.monotonic() < deadline, command.said()
        time.sleep(0.005)
    return command


def test_a_kill_in_the_conclusion_leaves_what_was_there(finished):
    trials = finished.trials()
    command = conclude_until(finished, "evaluation")
    command.signal(signal.SIGKILL)
    command.wait()
    finished.check_whole()
    assert finished.trials() == trials


@pytest.mark.parametrize("phase", ["evaluation", "report"])
def test_two_interrupts_in_the_conclusion_leave_what_was_there_and_say_how_to_go_on(finished, phase):
    trials = finished.trials()
    command = conclude_until(finished, phase)
    command.signal(signal.SIGTERM)
    time.sleep(0.05)
    command.signal(signal.SIGINT)
    assert command.wait() == 130, command.said()
    assert RESUME in command.said()
    assert "Traceback" not in command.said()
    assert not (finished.folder / "search.lock").exists()
    finished.check_whole()
    assert finished.trials() == trials


def test_after_all_that_a_search_ends_as_ever_and_leaves_nothing_beside_its_result(finished):
    trials = finished.trials()
    command = finished.start(3)
    assert command.wait() == 0, command.said()
    assert finished.trials() == trials
    finished.check_whole()
    assert finished.hidden() == set()


def test_interrupts_at_random_moments_save_what_ran_and_say_how_to_go_on(zygote, tmp_path):
    run, moments = Run(zygote, tmp_path), random.Random(11)
    ended = {}
    for number in range(3):
        (tmp_path / "log").unlink(missing_ok=True)
        command = run.start(500)
        time.sleep(moments.uniform(0.0, 12.0))
        for signal_number in (signal.SIGINT, signal.SIGTERM)[:: 1 if number % 2 else -1]:
            command.signal(signal_number)
            time.sleep(moments.uniform(0.0, 1.0))
        assert command.wait() == 130, command.said()
        assert "Traceback" not in command.said()
        assert "SIGTERM received" not in command.said()
        if not (run.folder / "study.log").exists():
            continue
        assert RESUME in command.said()
        now = {trial.number: trial for trial in run.trials()}
        assert all(now[number] == trial for number, trial in ended.items())
        ended = run.ended()
        assert count_states(read_study(run.folder / "study.log"))["running"] == 0
        assert not (run.folder / "search.lock").exists()
    assert run.trials()
