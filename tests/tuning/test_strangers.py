"""A run folder from a stranger is gone on with: nothing in it is unpickled, and nothing outside it is touched."""

import dataclasses
import json
import os
import pickle
from pathlib import Path

import pytest
from optuna.trial import TrialState

from vadtune.data.storage import open_storage
from vadtune.errors import ConfigError
from vadtune.tuning.preflight import foreign_owner
from vadtune.tuning.study import open_study, read_study

pytestmark = pytest.mark.cluster
# What Ray would unpickle if it restored an experiment or a checkpoint.
RAYS = [
    "tuner.pkl",
    "trainable.pkl",
    "searcher-state-2024.pkl",
    "search_gen_state-2024.json",
    "experiment_state-2024.json",
]
CHECKPOINT = "ray/theirs/checkpoint_000000"


class Marker:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (Path.touch, (Path(self.path),))


def poison(folder, marker):
    text = pickle.dumps(Marker(marker))
    checkpoint = folder / CHECKPOINT
    checkpoint.mkdir(parents=True)
    (checkpoint / "run.json").write_text(json.dumps({"epoch": 15, "train_s": 1.0}))
    for path in (checkpoint / ".tune_metadata", checkpoint / ".metadata.pkl", checkpoint / "dict_checkpoint.pkl"):
        path.write_bytes(text)
    for name in RAYS:
        (folder / "ray" / name).write_bytes(text)


def test_a_poisoned_run_is_gone_on_with_and_runs_no_code_and_deletes_nothing_else(search, plan, tmp_path):
    marker, thesis = tmp_path.with_name("marker"), tmp_path.with_name("thesis")
    thesis.mkdir()
    (thesis / "chapter1").write_text("years of work")
    poison(plan.folder, marker)
    study = open_study(plan.study_path)
    for state, checkpoint in [
        (TrialState.RUNNING, CHECKPOINT),
        (TrialState.RUNNING, f"../{thesis.name}"),
        (TrialState.PRUNED, f"ray/../../{thesis.name}"),
        (TrialState.COMPLETE, str(thesis)),
    ]:
        trial = study.ask()
        plan.space.suggest(trial)
        trial.report(9.0, 5)
        trial.set_user_attr("checkpoint", checkpoint)
        if state == TrialState.COMPLETE:
            study.tell(trial, 9.0)
        elif state == TrialState.PRUNED:
            study.tell(trial, state=state)
    assert search(dataclasses.replace(plan, n_trials=5)).trials["running"] == 0
    assert not marker.exists()
    assert (thesis / "chapter1").read_text() == "years of work"
    assert not list(plan.folder.glob("ray/*.pkl"))
    ends = [trial.state for trial in read_study(plan.study_path).trials]
    assert len(ends) == 5
    assert all(state.is_finished() for state in ends)


@pytest.mark.parametrize("name", ["../thesis", "/thesis", "ray/../../thesis", "ray", "", ".", "thesis", "ray/x\0y"])
def test_what_lies_elsewhere_is_no_checkpoint_and_is_not_deleted(tmp_path, name):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "run" / "ray" / "x").mkdir(parents=True)
    (tmp_path / "run" / "thesis").mkdir()
    storage = open_storage(str(tmp_path / "run"))
    name = str(tmp_path / "thesis") if name == "/thesis" else name
    assert not storage.exists(name)
    storage.delete(name)
    with pytest.raises(ConfigError, match="no checkpoint"), storage.fetched(name):
        pass
    assert all((tmp_path / path).is_dir() for path in ("thesis", "run/ray/x", "run/thesis"))


def test_a_link_out_of_the_run_is_removed_and_not_followed(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1").write_text("years of work")
    (tmp_path / "run" / "ray").mkdir(parents=True)
    (tmp_path / "run" / "ray" / "link").symlink_to(tmp_path / "thesis")
    open_storage(str(tmp_path / "run")).delete("ray/link")
    assert (tmp_path / "thesis" / "chapter1").read_text() == "years of work"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("name", [".", "study.log", "ray"])
def test_whose_run_it_is_is_told(tmp_path, name):
    (tmp_path / "ray").mkdir()
    (tmp_path / "study.log").write_text("")
    assert foreign_owner(tmp_path) is None
    os.chown(tmp_path / name, 12345, -1)
    assert foreign_owner(tmp_path) == "user 12345"
