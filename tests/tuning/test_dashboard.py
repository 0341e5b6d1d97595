"""The study in optuna-dashboard, started as a person starts it and asked as its page asks."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from tests.patience import PATIENCE_S
from tests.tuning.test_ledger import Shelf, final, play, report
from vadtune.tuning.crew import Alone
from vadtune.tuning.ledger import Ledger
from vadtune.tuning.samplers import TPE
from vadtune.tuning.space import Space
from vadtune.tuning.study import open_study

pytest.importorskip("optuna_dashboard", reason="optuna-dashboard is not installed")


@pytest.fixture
def study(tmp_path: Path, line: Space) -> Path:
    """The study of a search that runs: one trial of each state."""
    path = tmp_path / "night" / "study.log"
    path.parent.mkdir()
    crew = Alone(path)
    crew.study.sampler = TPE().build(0, 0)
    ledger = Ledger(crew, line, Shelf(), seed=7, rungs=(5, 15))
    play(ledger, "complete", report(5, 0.5), report(15, 0.4), final(0.3))
    play(ledger, "pruned", report(5, 0.6), report(15, 0.55))
    ledger.ask("failed")
    ledger.report("failed", report(5, 0.9))
    ledger.end("failed", failure="the loss is nan after epoch 7")
    ledger.ask("running")
    ledger.report("running", report(5, 0.45))
    crew.study.enqueue_trial({"model.x": 1.0})
    return path


def ask(port: int, path: str, process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """What the server answers, once it is there."""
    end = time.monotonic() + PATIENCE_S
    while True:
        assert process.poll() is None, "optuna-dashboard has ended"
        assert time.monotonic() < end, "optuna-dashboard does not answer"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except OSError:
            time.sleep(0.2)


def test_the_dashboard_shows_every_state_and_every_report_and_changes_nothing(study: Path) -> None:
    before = study.read_bytes()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    start = "import sys; from optuna_dashboard._cli import main; sys.exit(main())"
    command = [sys.executable, "-c", start, str(study), "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        (summary,) = ask(port, "/api/studies", process)["study_summaries"]
        shown = ask(port, f"/api/studies/{summary['study_id']}", process)
    finally:
        process.terminate()
        process.wait()
    assert (summary["study_name"], summary["directions"]) == ("night", ["minimize"])
    expected = {trial.number: trial for trial in open_study(study).get_trials()}
    states = [trial["state"] for trial in shown["trials"]]
    assert states == ["Complete", "Pruned", "Fail", "Running", "Waiting"]
    for trial in shown["trials"]:
        mine = expected[trial["number"]]
        reports = {step["step"]: step["value"] for step in trial["intermediate_values"]}
        assert reports == mine.intermediate_values
        attributes = {attribute["key"]: attribute["value"] for attribute in trial["user_attrs"]}
        assert attributes.keys() == mine.user_attrs.keys()
        assert trial.get("values") == (mine.values if mine.state == TrialState.COMPLETE else trial.get("values"))
    assert study.read_bytes() == before
