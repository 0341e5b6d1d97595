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

    def begin() -> Trainable:
        rows = np.arange(5)
        rows.flags.writeable = False
        job = Job(
            runs=FakeRuns(),
            max_epochs=45,
            report_epochs=(5, 10, 15, 20, 45),
            rungs=(),
            device="cpu",
            storage=Storage(str(tmp_path)),
            n_threads=1,
        )
        trainable = Trainable.__new__(Trainable)
        trainable.setup({"trial": {"model": {}, "seed": 0}, "checkpoint": CHECKPOINT}, {"rows": rows}, job)
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
