"""The trainable itself, without a Ray around it."""

import json
import shutil

import numpy as np
import pytest

from tests.tuning.fake_runs import FakeRuns
from vadtune.data.storage import Storage
from vadtune.tuning.runs import Job
from vadtune.tuning.trainable import Trainable

CHECKPOINT = "ray/trial/checkpoint_000001"


@pytest.fixture
def begun(tmp_path):
    """Of a trial that was saved at epoch 15: whoever calls it goes on from there."""
    folder = tmp_path / CHECKPOINT
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"epoch": 15, "train_s": 1.0}), encoding="utf-8")
    (folder / "run.safetensors").write_bytes(b"")

    def begin(model=None, epoch_s=0.0, **options) -> Trainable:
        rows = np.arange(5)
        rows.flags.writeable = False
        job = Job(
            runs=FakeRuns(epoch_s=epoch_s),
            max_epochs=45,
            report_epochs=(5, 10, 15, 20, 45),
            device="cpu",
            storage=Storage(str(tmp_path)),
            n_threads=1,
            **{"rungs": ()} | options,
        )
        trainable = Trainable.__new__(Trainable)
        trainable.setup({"trial": {"model": model or {}, "seed": 0}, "checkpoint": CHECKPOINT}, {"rows": rows}, job)
        return trainable

    return begin


def test_an_interrupted_trial_goes_on_from_its_checkpoint(begun):
    assert begun().step()["epoch"] == 20


@pytest.mark.parametrize("left", [["run.safetensors"], []])
def test_a_trial_whose_checkpoint_was_half_deleted_begins_anew(begun, tmp_path, left):
    for path in (tmp_path / CHECKPOINT).iterdir():
        if path.name not in left:
            path.unlink()
    assert begun().step()["epoch"] == 5


def test_a_trial_whose_checkpoint_is_gone_begins_anew(begun, tmp_path):
    shutil.rmtree(tmp_path / CHECKPOINT)
    assert begun().step()["epoch"] == 5


def test_reports_come_one_by_one_unless_they_may_come_together(begun):
    trainable = begun()
    assert [trainable.step()["passed"] for _ in range(2)] == [[], []]


def test_reports_of_some_time_come_together_with_their_values(begun, tmp_path):
    shutil.rmtree(tmp_path / CHECKPOINT)
    apart = begun()
    reports = [apart.step() for _ in range(5)]
    result = begun(together_s=60.0).step()
    assert result["passed"] == [(one["epoch"], one["imputation_rmse"]) for one in reports[:-1]]
    assert result["epoch"] == 45
    assert result["final_rmse"] == reports[-1]["final_rmse"]


def test_no_trial_goes_on_behind_a_rung_before_it_is_judged(begun, tmp_path):
    shutil.rmtree(tmp_path / CHECKPOINT)
    trainable = begun(together_s=60.0, rungs=(10,))
    results = [trainable.step(), trainable.step()]
    assert [result["epoch"] for result in results] == [10, 45]
    assert [[epoch for epoch, _ in result["passed"]] for result in results] == [[5], [15, 20]]
    assert results[0]["should_checkpoint"]


def test_a_trial_is_saved_at_a_rung_only_where_work_enough_would_be_lost(begun, tmp_path):
    options = {"together_s": 60.0, "rungs": (20, 45), "epoch_s": 0.01, "save_after_s": 0.04}
    trainable = begun(**options)
    assert trainable.step()["should_checkpoint"]
    # The second of work that its checkpoint holds is not lost.
    assert not begun(**options | {"save_after_s": 0.06}).step()["should_checkpoint"]
    trainable.save_checkpoint(str(tmp_path))
    trainable.reset_config({"trial": {"model": {}, "seed": 1}, "checkpoint": None})
    assert trainable.step()["should_checkpoint"]


def test_reports_of_a_trial_whose_worker_died_come_one_by_one_and_those_of_the_next_trial_together(begun, tmp_path):
    trainable = begun(together_s=60.0)
    trainable.load_checkpoint(str(tmp_path / CHECKPOINT))
    assert [trainable.step()["epoch"] for _ in range(2)] == [20, 45]
    trainable.reset_config({"trial": {"model": {}, "seed": 1}, "checkpoint": None})
    assert trainable.step()["epoch"] == 45


def test_what_a_trial_reported_before_it_diverged_comes_with_the_failure(begun, tmp_path):
    shutil.rmtree(tmp_path / CHECKPOINT)
    result = begun(together_s=60.0, model={"kind": "diverging", "fuse": 12}).step()
    assert "failure" in result
    assert [epoch for epoch, _ in result["passed"]] == [5, 10]
