"""Trackers that really write: what they hold afterwards is what the study holds."""

import dataclasses
import struct
import subprocess
import sys
from collections import defaultdict

import pytest
from optuna.trial import TrialState

from tests.patience import PATIENCE_S
from tests.tuning.fake_runs import FakeConfig
from vadtune.errors import ConfigError
from vadtune.search_flags import TRACKERS, trackers
from vadtune.settings import parse
from vadtune.tuning.samplers import Grid
from vadtune.tuning.schedulers import ASHA, NoScheduler
from vadtune.tuning.space import make_space
from vadtune.tuning.study import read_study
from vadtune.tuning.trackers import MLflow, TensorBoard, Tracker, WandB, check_installed, open_tracker

KINDS = {"model": {"kind": {"choices": ["quiet", "diverging"]}, "fuse": 7}}


def intermediate(plan):
    """Number of a trial -> epoch -> imputation_rmse, out of the study."""
    return {trial.number: dict(trial.intermediate_values) for trial in read_study(plan.study_path).trials}


def events(folder):
    """All scalars of a folder of event files, tag -> step -> value, read as the format says: length, crc, data, crc."""
    from tensorboardX.proto.event_pb2 import Event

    found = defaultdict(dict)
    for path in folder.glob("events.out.tfevents.*"):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            for value in event.summary.value:
                found[value.tag][event.step] = value.simple_value
            at += 16 + length
    return found


def wandb_records(path):
    """The records of a .wandb file: LevelDB's log format (blocks of 32 KiB, crc, length, type) after 7 bytes."""
    data, at, parts = path.read_bytes(), 7, []
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
        length, kind = struct.unpack_from("<HB", data, at + 4)
        parts.append(data[at + 7 : at + 7 + length])
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield b"".join(parts)
            parts = []


def test_the_command_knows_every_tracker():
    assert [parse(Tracker, {"kind": kind}, "--log-to").kind for kind in TRACKERS] == list(TRACKERS)
    assert trackers("tensorboard,mlflow") == ["tensorboard", "mlflow"]


def test_a_missing_package_is_told_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(MLflow, "package", "no_such_tracker")
    with pytest.raises(ConfigError, match=r"--log-to mlflow: not installed\. pip install mlflow-skinny"):
        check_installed((TensorBoard(), MLflow()))


def test_no_tracker_is_imported_unless_asked_for():
    modules = "vadtune.search, vadtune.tuning.runner, vadtune.tuning.searcher, vadtune.tuning.trackers, ray.tune"
    code = f"import sys, {modules}; print(sorted({{'mlflow', 'wandb', 'tensorboardX'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE_S)
    assert done.stdout.strip() == "[]"


def test_an_account_that_is_missing_is_told_before_the_search(monkeypatch, tmp_path):
    pytest.importorskip("wandb")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="--log-to wandb: No API key configured"):
        open_tracker(WandB(), tmp_path)


@pytest.mark.cluster
def test_tensorboard_holds_what_the_study_holds(search, plan):
    plan = dataclasses.replace(plan, trackers=(TensorBoard(),))
    search(plan)
    for number, values in intermediate(plan).items():
        logged = events(plan.folder / "tensorboard" / f"trial-{number}")
        assert logged["ray/tune/imputation_rmse"] == pytest.approx(values, rel=1e-5)
        assert "_hparams_/session_start_info" in logged


@pytest.mark.cluster
@pytest.mark.filterwarnings("ignore:.*noload.*:DeprecationWarning")  # MLflow 3.17 with SQLAlchemy 2.1
def test_mlflow_holds_what_the_study_holds(search, plan, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    address = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    space = make_space(KINDS, FakeConfig, "space")
    plan = dataclasses.replace(
        plan, space=space, sampler=Grid(), scheduler=NoScheduler(), n_trials=None, trackers=(MLflow(),)
    )
    search(plan)
    client = mlflow.MlflowClient(address)
    experiment = client.get_experiment_by_name(plan.folder.name)
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    for trial in read_study(plan.study_path).trials:
        run = runs.pop(f"trial {trial.number}")
        history = client.get_metric_history(run.info.run_id, "imputation_rmse")
        assert {m.step: m.value for m in history if m.value == m.value} == pytest.approx(trial.intermediate_values)
        assert run.info.status == ("FAILED" if trial.state == TrialState.FAIL else "FINISHED")
        assert run.data.params["model.kind"] == trial.params["model.kind"]
    assert not runs


@pytest.mark.cluster
def test_weights_and_biases_writes_a_run_a_trial_without_an_account(search, plan, monkeypatch):
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    search(dataclasses.replace(plan, n_trials=2, concurrent=1, scheduler=ASHA(), trackers=(WandB(),)))
    for number, values in intermediate(plan).items():
        folder = plan.folder / "wandb" / f"trial-{number}" / "wandb"
        (path,) = folder.glob("offline-run-*/*.wandb")
        logged = {}
        for data in wandb_records(path):
            record = Record.FromString(data)
            row = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
            if "imputation_rmse" in row:
                logged[int(row["epoch"])] = float(row["imputation_rmse"])
        assert logged == pytest.approx(values)


@pytest.mark.cluster
def test_a_tracker_that_cannot_write_is_told_no_more_and_the_search_goes_on(search, plan):
    (plan.folder / "tensorboard").write_text("a file where the folder should be", encoding="utf-8")
    told = []

    class Listener:
        def update(self, snapshot):
            told.extend(snapshot.notes)

    outcome = search(dataclasses.replace(plan, trackers=(TensorBoard(),)), progress=Listener())
    assert outcome.trials["complete"] + outcome.trials["pruned"] == 6
    assert len(set(told)) == 1
    assert "--log-to tensorboard" in told[0]
    assert "The search goes on without it" in told[0]


def test_a_search_without_trackers_imports_none(search, plan, monkeypatch):
    for name in ("mlflow", "wandb"):
        monkeypatch.setitem(sys.modules, name, None)  # an import of it fails
    for name in ("ray.air.integrations.mlflow", "vadtune.tuning.wandb_runs"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    search(plan)
    assert not {"ray.air.integrations.mlflow", "vadtune.tuning.wandb_runs"} & set(sys.modules)
