import json
import math
import os
import socket
import subprocess
import sys

import optuna
import pandas as pd
import pytest
from optuna.trial import TrialState

from vadtune.errors import ConfigError, NoUsableTrial
from vadtune.tuning.lock import LOCK, locked
from vadtune.tuning.study import (
    best_trial,
    count_states,
    cut_torn_tail,
    open_study,
    put_back,
    read_study,
    top_trials,
    trial_table,
    write_error,
    write_trial_table,
)


def everything_exists(checkpoint):
    return not checkpoint.startswith("gone")


def finish(study, value=None, state=None, reports=(), **attributes):
    """One trial, from its proposal to its end."""
    trial = study.ask()
    trial.suggest_float("model.x", 0.0, 1.0)
    for epoch, rmse in reports:
        trial.report(rmse, epoch)
    for key, attribute in attributes.items():
        trial.set_user_attr(key, attribute)
    study.tell(trial, value, state=state)
    return trial.number


@pytest.fixture
def study(tmp_path):
    return open_study(tmp_path / "study.log")


def test_a_study_is_named_after_its_run(tmp_path):
    folder = tmp_path / "mnist-vad"
    folder.mkdir()
    assert open_study(folder / "study.log").study_name == "mnist-vad"


def test_a_study_that_is_opened_twice_is_one(tmp_path):
    finish(open_study(tmp_path / "study.log"), 1.0)
    size = (tmp_path / "study.log").stat().st_size
    assert len(open_study(tmp_path / "study.log").trials) == 1
    assert (tmp_path / "study.log").stat().st_size == size


def test_a_torn_last_line_is_cut_off_and_kept(tmp_path):
    path = tmp_path / "study.log"
    finish(open_study(path), 1.0)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code": 4, "trial')
    study = open_study(path)
    finish(study, 2.0)
    assert path.read_bytes().startswith(whole)
    assert (tmp_path / "study.log.torn").read_bytes() == b'{"op_code": 4, "trial\n'
    assert [trial.value for trial in open_study(path).trials] == [1.0, 2.0]


@pytest.mark.parametrize("length", range(0, 400, 7))
def test_a_file_cut_anywhere_opens_and_goes_on(tmp_path, length):
    path = tmp_path / "study.log"
    finish(open_study(path), 1.0, reports=[(1, 2.0)])
    path.write_bytes(path.read_bytes()[:-length] if length else path.read_bytes())
    study = open_study(path)
    put_back(study, study.get_trials(states=(TrialState.RUNNING,)))
    finish(study, 3.0)
    assert count_states(open_study(path))["running"] == 0


def test_a_whole_file_is_left_alone(tmp_path):
    path = tmp_path / "a.log"
    path.write_bytes(b"one\ntwo\n")
    assert cut_torn_tail(path) == b""
    assert path.read_bytes() == b"one\ntwo\n"
    assert cut_torn_tail(tmp_path / "missing.log") == b""


def test_a_long_torn_line_is_cut_off_too(tmp_path):
    path = tmp_path / "a.log"
    path.write_bytes(b"one\n" + b"x" * 200_000)
    assert len(cut_torn_tail(path)) == 200_000
    assert path.read_bytes() == b"one\n"


def test_a_lock_that_a_killed_driver_left_in_the_journal_does_not_stop_the_next(tmp_path):
    path = tmp_path / "study.log"
    open_study(path)
    (tmp_path / "study.log.lock").symlink_to(path)
    renamed = tmp_path / "study.log.lock1f.rename"
    renamed.symlink_to(path)
    finish(open_study(path), 1.0)
    assert not renamed.is_symlink()


def test_a_study_of_the_other_direction_is_refused(tmp_path):
    path = tmp_path / "study.log"
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    optuna.create_study(storage=storage, direction="maximize", study_name="old")
    with pytest.raises(ConfigError, match="maximizes"):
        open_study(path)


def test_a_file_that_is_no_study_is_refused(tmp_path):
    path = tmp_path / "study.log"
    path.write_bytes(b"hello\nworld\n")
    with pytest.raises(ConfigError, match="not a study"):
        open_study(path)


def test_reading_a_study_does_not_make_one(tmp_path):
    with pytest.raises(ConfigError, match="there is no study"):
        read_study(tmp_path / "study.log")
    assert not (tmp_path / "study.log").exists()


def test_a_running_trial_waits_and_goes_on_under_its_number_with_its_params(tmp_path):
    study = open_study(tmp_path / "study.log")
    trial = study.ask()
    x = trial.suggest_float("model.x", 0.0, 1.0)
    trial.report(0.5, 3)
    trial.set_user_attr("checkpoint", "ray/a/checkpoint_000000")
    study = open_study(tmp_path / "study.log")
    put_back(study, study.trials)
    assert count_states(study) == {"complete": 0, "pruned": 0, "failed": 0, "running": 0, "waiting": 1}
    again = study.ask()
    assert again.number == 0
    assert again.suggest_float("model.x", 0.0, 1.0) == x
    assert study.trials[0].intermediate_values == {3: 0.5}
    assert study.trials[0].user_attrs["checkpoint"] == "ray/a/checkpoint_000000"


def test_nothing_is_written_after_a_line_that_could_not_be(tmp_path, monkeypatch):
    study = open_study(tmp_path / "study.log")
    study._storage._backend.synced = -math.inf

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            study.ask()
    with pytest.raises(OSError, match="No space"):
        study.ask()
    error = write_error(study)
    assert error is not None
    assert error.strerror == "No space left on device"


def test_the_best_is_the_complete_one_of_lowest_value(study):
    finish(study, 0.5, best_epoch=7, checkpoint="a")
    finish(study, 0.2, best_epoch=9, checkpoint="gone/b")
    finish(study, state=TrialState.PRUNED, reports=[(1, 0.01)], checkpoint="c")
    best = best_trial(study, everything_exists)
    assert (best.number, best.value, best.epoch, best.is_complete, best.checkpoint) == (1, 0.2, 9, True, None)
    assert [trial.number for trial in top_trials(study, 5, everything_exists)] == [1, 0]


def test_without_a_complete_trial_the_best_on_the_way_that_was_saved_counts(study):
    finish(study, state=TrialState.PRUNED, reports=[(1, 0.4), (3, 0.3)], checkpoint="a")
    finish(study, state=TrialState.PRUNED, reports=[(1, 0.2)], checkpoint="gone/b")
    finish(study, state=TrialState.FAIL, reports=[(1, 0.1)], checkpoint="c", failure="nan")
    best = best_trial(study, everything_exists)
    assert (best.number, best.value, best.epoch, best.is_complete) == (0, 0.3, 3, False)


def test_without_a_usable_trial_the_reason_is_told(study):
    finish(study, state=TrialState.FAIL, failure="the loss is nan")
    finish(study, state=TrialState.FAIL, failure="the loss is nan")
    with pytest.raises(NoUsableTrial, match="2 failed, 2 of them with: the loss is nan"):
        best_trial(study, everything_exists)


def test_a_value_that_is_infinite_is_not_the_best(study):
    finish(study, -math.inf, checkpoint="a")
    with pytest.raises(NoUsableTrial):
        best_trial(study, everything_exists)


def test_the_table_has_a_row_a_trial_and_a_column_a_param(study, tmp_path):
    finish(study, 0.5, best_epoch=7, epochs=9, host="here", ray_trial_id="a1")
    finish(study, state=TrialState.PRUNED, reports=[(3, 0.4)], stopped_by="rung 3")
    study.ask()
    write_trial_table(study, tmp_path / "trials.csv")
    table = pd.read_csv(tmp_path / "trials.csv")
    assert list(table["state"]) == ["COMPLETE", "PRUNED", "RUNNING"]
    assert table["value"].notna().tolist() == [True, False, False]
    assert table.loc[1, "stopped_by"] == "rung 3"
    assert "model.x" in table
    assert list(tmp_path.glob(".trials*")) == []
    assert len(trial_table(study)) == 3


def test_no_cell_of_the_table_is_a_formula(study, tmp_path):
    finish(study, state=TrialState.FAIL, failure="=cmd|' /C calc'!A0")
    write_trial_table(study, tmp_path / "trials.csv")
    assert "'=cmd" in (tmp_path / "trials.csv").read_text(encoding="utf-8")


def test_an_empty_study_has_an_empty_table(study, tmp_path):
    write_trial_table(study, tmp_path / "trials.csv")
    assert len(pd.read_csv(tmp_path / "trials.csv")) == 0


OWNER = """
import sys, time
from pathlib import Path
from vadtune.tuning.lock import locked
with locked(Path(sys.argv[1])):
    print("mine", flush=True)
    time.sleep(60)
"""


def test_a_folder_that_another_search_owns_is_refused_and_taken_over_when_it_died(tmp_path):
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "mine\n"
    with pytest.raises(ConfigError, match=f"process {owner.pid} on {socket.gethostname()}"), locked(tmp_path):
        pass
    owner.kill()
    owner.wait()
    owner.stdout.close()
    with locked(tmp_path), locked(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text(encoding="utf-8"))["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_of_another_host_is_never_taken_over(tmp_path):
    owner = {"host": "elsewhere", "pid": 1, "started": 0.0}
    (tmp_path / LOCK).write_text(json.dumps(owner), encoding="utf-8")
    with pytest.raises(ConfigError, match="process 1 on elsewhere"), locked(tmp_path):
        pass


def test_a_lock_whose_process_number_is_taken_by_another_process_is_stale(tmp_path):
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "started": 1.0}
    (tmp_path / LOCK).write_text(json.dumps(owner), encoding="utf-8")
    with locked(tmp_path):
        pass


def test_a_lock_that_was_never_written_whole_is_stale(tmp_path):
    (tmp_path / LOCK).write_text('{"host": "e', encoding="utf-8")
    with locked(tmp_path):
        pass
