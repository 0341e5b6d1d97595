"""A disk that is really full, at any moment: a clear error, whole files, and the search goes on once there is room."""

import dataclasses
import io
import os
import subprocess
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_wine

from tests.small_runs import FAST, make_run
from tests.tuning.fake_runs import FAT, FakeConfig, FakeRuns
from vadtune import export, impute, train
from vadtune.data.storage import open_storage
from vadtune.errors import ConfigError, DataError, VadtuneError
from vadtune.report import __main__ as report
from vadtune.tuning import runner
from vadtune.tuning.record import write_arrays, write_json
from vadtune.tuning.space import make_space
from vadtune.tuning.study import STATES, count_states, read_study

MEGABYTE = 2**20


class Disk:
    """A small disk. What is free of it is decided by a file that takes the rest."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ballast = folder, folder / "ballast"

    def leave(self, n_bytes: int) -> None:
        """Make so much room, in whole pages."""
        self.make_room()
        with self.ballast.open("wb") as file:
            while True:
                free = os.statvfs(self.folder)
                try:
                    os.posix_fallocate(file.fileno(), 0, max(1, free.f_bavail * free.f_bsize - n_bytes))
                except OSError:
                    continue  # a search took some of it meanwhile
                return

    def make_room(self) -> None:
        self.ballast.unlink(missing_ok=True)


@pytest.fixture
def disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root mounts a small disk")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def whole(*paths):
    """What stands in the files stays, to the byte, and nothing half written lies beside them."""
    before = [path.read_bytes() for path in paths]
    yield
    assert [path.read_bytes() for path in paths] == before
    for path in paths:
        assert not [other for other in path.parent.iterdir() if other.name.startswith(".")]


@pytest.mark.cluster
def test_a_disk_that_is_full_at_a_checkpoint_fails_no_trial_and_with_room_the_search_goes_on(
    search, plan, disk, monkeypatch
):
    monkeypatch.setattr(runner, "MAX_FAILURES", 0)  # a new worker takes seconds
    space = make_space({"model": {"kind": "fat", "x": {"low": -3.0, "high": 3.0}}}, FakeConfig, "space")
    folder = disk.folder / "run"
    plan = dataclasses.replace(plan, space=space, folder=folder, storage=open_storage(str(folder)), n_trials=3)
    disk.leave(3 * MEGABYTE)
    with pytest.raises(ConfigError, match=r"no space left for checkpoints.*--resume"):
        search(plan)
    assert count_states(read_study(plan.study_path)) | {"waiting": 0} == dict.fromkeys(STATES, 0)
    disk.make_room()
    assert search(plan).trials["failed"] == 0
    assert all(trial.state.is_finished() for trial in read_study(plan.study_path).trials)
    (weights,) = folder.glob("ray/*/checkpoint_*/weights")
    assert weights.stat().st_size == FAT
    assert not (folder / "search.lock").exists()


@pytest.mark.cluster
def test_a_disk_that_is_full_at_the_study_loses_no_trial_and_with_room_the_search_goes_on(search, plan, disk, tmp_path):
    folder = disk.folder / "run"
    # Checkpoints lie elsewhere: one of them could be the first that finds no room.
    plan = dataclasses.replace(plan, folder=folder, storage=open_storage(str(tmp_path / "storage")), n_trials=12)

    class Fills:
        def update(self, snapshot):
            if snapshot.complete + snapshot.pruned >= 3:
                disk.leave(0)

    with pytest.raises(ConfigError, match=r"study.log: cannot be written \(No space left on device\).*--resume"):
        search(plan, FakeRuns(epoch_s=0.02), Fills())
    ended = [trial for trial in read_study(plan.study_path).trials if trial.state.is_finished()]
    assert len(ended) >= 3
    disk.make_room()
    assert sum(search(plan).trials.values()) == 12
    after = read_study(plan.study_path).trials
    assert all(after[trial.number] == trial for trial in ended)
    assert all(trial.state.is_finished() for trial in after)
    assert (folder / "trials.csv").read_text(encoding="utf-8").count("\n") == 13


@pytest.fixture
def finished(disk):
    """A run, a model, a report and a filled table on the small disk."""
    run, model, table = make_run(disk.folder / "run"), disk.folder / "model", disk.folder / "table.csv"
    load_wine(as_frame=True).data.iloc[:50].mask(lambda x: x > 3).to_csv(table, index=False)
    commands = {
        "report": (report, [run]),
        "export": (export, [run, "-o", model, "--force"]),
        "impute": (impute, [model, table, "-o", disk.folder / "filled.csv", "--force"]),
        "train": (train, ["wine", "-o", model, "--force", "--max-epochs", "2", *FAST]),
    }
    for name in ("report", "export", "impute"):
        assert call(*commands[name])[0] == 0
    return commands


def call(module, words):
    """The exit code of a command, and what it told of a mistake."""
    with redirect_stderr(io.StringIO()) as said:
        try:
            return module.main([str(word) for word in words]), said.getvalue()
        except VadtuneError as error:
            return error.exit_code, str(error)


def test_a_command_that_finds_the_disk_full_says_so_and_leaves_what_was_there(finished, disk):
    files = [disk.folder / path for path in ("run/report.html", "model/model.safetensors", "filled.csv")]
    for name, command in finished.items():
        disk.leave(0)
        with whole(*files):
            code, said = call(*command)
            assert (code, said.count("No space left on device")) == (2, 1), (name, said)
        disk.make_room()
        assert call(*command)[0] == 0


@pytest.mark.parametrize("write", [write_json, write_arrays])
def test_a_result_that_does_not_fit_leaves_the_one_before(disk, write):
    path, document = disk.folder / "result", {"a": np.arange(3)} if write == write_arrays else {"a": 1}
    write(path, document)
    disk.leave(0)
    with whole(path), pytest.raises(DataError, match="cannot be written: No space left on device"):
        write(path, document)
