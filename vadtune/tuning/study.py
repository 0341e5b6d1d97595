"""The study: the one record of a search, an Optuna journal file that nobody but the driver writes."""

import datetime
import glob
import json
import math
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState

from vadtune.data.damage import DAMAGED
from vadtune.data.files import written_beside
from vadtune.data.formulas import harmless
from vadtune.errors import ConfigError, NoUsableTrial

STATES: tuple[str, ...] = ("complete", "pruned", "failed", "running", "waiting")
_NAMES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
_ATTRIBUTES = ("host", "ray_trial_id", "stopped_by", "failure")


class Journal(BaseJournalBackend):
    """A journal file that takes no further line after one that could not be written whole.

    Optuna's own waits for the disk after every line, which a search with many reports feels. A killed process loses
    nothing without that; so this one waits once a second, for when the machine goes down.

    Attributes:
        broken: Why a line could not be written.
    """

    SYNC_EVERY_S = 1.0

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = JournalFileBackend(str(path))
        self.lock = JournalFileSymlinkLock(str(path))
        self.broken: OSError | None = None
        self.synced = -math.inf

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """The lines from some number on."""
        return self.file.read_logs(log_number_from)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add lines."""
        if self.broken is not None:
            raise self.broken
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        try:
            self.lock.acquire()
            try:
                self._append(lines.encode())
            finally:
                self.lock.release()
        except OSError as error:
            self.broken = error
            raise

    def _append(self, lines: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(lines)
            file.flush()
            if time.monotonic() - self.synced > self.SYNC_EVERY_S:
                os.fsync(file.fileno())
                self.synced = time.monotonic()


def flush(path: Path) -> None:
    """Wait until all of a study is on disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def write_error(study: optuna.Study) -> OSError | None:
    """Why the study could no longer be written, if so."""
    backend = getattr(study._storage, "_backend", None)
    return backend.broken if isinstance(backend, Journal) else None


def open_study(path: Path, sampler: optuna.samplers.BaseSampler | None = None) -> optuna.Study:
    """Open the study of a run, or begin it; the folder of the file must be owned (see `lock.locked`).

    The study's name is that of its folder. A last line that a kill left incomplete is moved to `<name>.torn`.

    Raises:
        ConfigError: It is no journal file, or a study of another direction.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    cut_torn_tail(path)
    # A driver killed in the middle of a write leaves the journal's own lock behind, perhaps renamed to be deleted; the
    # folder is ours.
    for lock in path.parent.glob(f"{glob.escape(path.name)}.lock*"):
        lock.unlink(missing_ok=True)
    return _load(path, sampler)


def read_study(path: Path) -> optuna.Study:
    """Open a study that a search may be writing, without changing the file.

    Raises:
        ConfigError: There is no such file, or it is no journal file, or a study of another direction.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if not path.is_file():
        raise ConfigError(f"{path}: there is no study. Give the folder of a run.")
    return _load(path, None)


def _load(path: Path, sampler: optuna.samplers.BaseSampler | None) -> optuna.Study:
    try:
        storage = optuna.storages.JournalStorage(Journal(path))
        names = optuna.get_all_study_names(storage)
        if names:
            study = optuna.load_study(study_name=names[0], storage=storage, sampler=sampler)
        else:
            name = path.absolute().parent.name
            study = optuna.create_study(study_name=name, storage=storage, sampler=sampler, direction="minimize")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}. Check the disk and the rights of the folder.") from None
    except DAMAGED as error:
        raise ConfigError(f"{path}: not a study that Optuna can read ({error}). Restore it from a copy.") from None
    if study.directions != [optuna.study.StudyDirection.MINIMIZE]:
        raise ConfigError(f"{path}: the study maximizes; imputation_rmse is to be minimized. Take another run name.")
    return study


def cut_torn_tail(path: Path) -> bytes:
    """Cut an incomplete last line off a journal file, keeping a copy beside it.

    Optuna reads such a file once, and never again after the next write (optuna issue 5138).

    Returns:
        What was cut off.
    """
    if not path.exists():
        return b""
    with path.open("r+b") as file:
        keep = _end_of_last_line(file)
        file.seek(keep)
        torn = file.read()
        if torn:
            with path.with_name(f"{path.name}.torn").open("ab") as copy:
                copy.write(torn + b"\n")
            file.truncate(keep)
            os.fsync(file.fileno())
    return torn


def _end_of_last_line(file: Any, block: int = 65_536) -> int:
    end: int = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - block)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + int(found) + 1
        end = start
    return 0


def put_back(study: optuna.Study, trials: Iterable[FrozenTrial]) -> None:
    """Make trials that are RUNNING wait: they go on under their own number, with their params and values."""
    for trial in trials:
        # Optuna has no public way back to WAITING; its ask() takes such trials first and keeps params already set.
        study._storage.set_trial_state_values(trial._trial_id, state=TrialState.WAITING)


def write_journal(study: optuna.Study, path: Path) -> None:
    """Copy a study of a database into a journal file, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        storage = optuna.storages.JournalStorage(Journal(temporary))
        copy = optuna.create_study(study_name=path.absolute().parent.name, storage=storage, direction="minimize")
        copy.add_trials(study.get_trials(deepcopy=False))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def count_states(study: optuna.Study) -> dict[str, int]:
    """How many trials are complete, pruned, failed, running and waiting."""
    counts = Counter(_NAMES[trial.state] for trial in study.get_trials(deepcopy=False))
    return {state: counts[state] for state in STATES}


def checkpoints(study: optuna.Study) -> set[str]:
    """The checkpoints that trials name; those of trials that lost their place may be gone."""
    found = (trial.user_attrs.get("checkpoint") for trial in study.get_trials(deepcopy=False))
    return {checkpoint for checkpoint in found if checkpoint is not None}


@dataclass(frozen=True)
class BestTrial:
    """The trial to keep.

    Attributes:
        value: Validation RMSE: cold and converged at its best epoch if it is complete, else the lowest reported.
        epoch: The epoch of that value.
        is_complete: False if no trial came to its end and this one was merely the best on the way.
        checkpoint: Where its checkpoint lies (see `storage`); None if it is gone.
    """

    number: int
    value: float
    epoch: int
    is_complete: bool
    params: dict[str, Any]
    checkpoint: str | None


def top_trials(study: optuna.Study, n: int, exists: Callable[[str], bool]) -> list[BestTrial]:
    """The best complete trials, best first; if there is none, the best unfinished one that has a checkpoint.

    Args:
        study: The study.
        n: How many at most.
        exists: Whether the checkpoint of a trial still exists.

    Raises:
        NoUsableTrial: There is neither.
    """
    best = complete_trials(study)[:n]
    if best:
        return [_complete(trial, exists) for trial in best]
    trials = study.get_trials(deepcopy=False)
    unfinished = [found for trial in trials if (found := _unfinished(trial, exists)) is not None]
    if not unfinished:
        raise NoUsableTrial(_advice(trials))
    return [min(unfinished, key=lambda found: (found.value, found.number))]


def complete_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Those that came to their end, best first."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    finite = [trial for trial in complete if trial.value is not None and math.isfinite(trial.value)]
    return sorted(finite, key=lambda trial: (trial.value, trial.number))


def best_trial(study: optuna.Study, exists: Callable[[str], bool]) -> BestTrial:
    """The first of `top_trials`."""
    return top_trials(study, 1, exists)[0]


def find_trial(study: optuna.Study, number: int, exists: Callable[[str], bool]) -> BestTrial:
    """A trial by its number, whatever became of it.

    Raises:
        ConfigError: There is none, or it never reported a finite value.
    """
    trials = study.get_trials(deepcopy=False)
    if not 0 <= number < len(trials):
        raise ConfigError(f"trial {number}: the run has the trials 0 to {len(trials) - 1}.")
    trial = trials[number]
    if trial.state == TrialState.COMPLETE:
        return _complete(trial, exists)
    finite = [(value, epoch) for epoch, value in trial.intermediate_values.items() if math.isfinite(value)]
    if not finite:
        raise ConfigError(f"trial {number} ({_NAMES[trial.state]}) has no score. Take another trial.")
    value, epoch = min(finite)
    checkpoint = _checkpoint(trial, exists)
    return BestTrial(number, value, epoch, is_complete=False, params=trial.params, checkpoint=checkpoint)


def _complete(trial: FrozenTrial, exists: Callable[[str], bool]) -> BestTrial:
    assert trial.value is not None
    epoch = int(trial.user_attrs.get("best_epoch", trial.last_step or 0))
    checkpoint = _checkpoint(trial, exists)
    return BestTrial(trial.number, trial.value, epoch, is_complete=True, params=trial.params, checkpoint=checkpoint)


def _unfinished(trial: FrozenTrial, exists: Callable[[str], bool]) -> BestTrial | None:
    finite = [(value, epoch) for epoch, value in trial.intermediate_values.items() if math.isfinite(value)]
    checkpoint = _checkpoint(trial, exists)
    if trial.state not in (TrialState.PRUNED, TrialState.WAITING) or not finite or checkpoint is None:
        return None
    value, epoch = min(finite)
    return BestTrial(trial.number, value, epoch, is_complete=False, params=trial.params, checkpoint=checkpoint)


def _checkpoint(trial: FrozenTrial, exists: Callable[[str], bool]) -> str | None:
    checkpoint = trial.user_attrs.get("checkpoint")
    return checkpoint if isinstance(checkpoint, str) and exists(checkpoint) else None


def _advice(trials: list[FrozenTrial]) -> str:
    reasons = Counter(str(t.user_attrs["failure"]) for t in trials if t.user_attrs.get("failure"))
    if not reasons:
        return "No trial can be used: the search ended before one had a checkpoint. Give it more time, or --resume it."
    reason, n = reasons.most_common(1)[0]
    return (
        f"No trial can be used: {sum(reasons.values())} failed, {n} of them with: {reason.rstrip('.')}. "
        "Lower the learning rates of the search space, or try one set of values with vadtune.train."
    )


def longest_training(study: optuna.Study) -> float:
    """Seconds that the longest complete trial was trained; 0 if there is none."""
    return max((trial.user_attrs.get("train_s") or 0.0 for trial in complete_trials(study)), default=0.0)


def epoch_seconds(study: optuna.Study) -> dict[int, float]:
    """What an epoch of training took in each trial that came to an end of its own or another's, by its number."""
    spent = {trial.number: trial.user_attrs for trial in study.get_trials(deepcopy=False)}
    return {
        number: attributes["train_s"] / attributes["epochs"]
        for number, attributes in spent.items()
        if attributes.get("train_s") and attributes.get("epochs")
    }


def trial_table(study: optuna.Study) -> pd.DataFrame:
    """One row a trial: number, state, value, epochs, seconds, where it ran, why it stopped, and its params."""
    trials = study.get_trials(deepcopy=False)
    paths = sorted({path for trial in trials for path in trial.params})
    columns = ["number", "state", "value", "best_epoch", "epochs", "train_s", "infer_s", "seconds", *_ATTRIBUTES]
    return pd.DataFrame([_row(trial) for trial in trials], columns=[*columns, *paths])


def write_trial_table(study: optuna.Study, path: Path) -> None:
    """Write `trial_table` as CSV, whole or not at all."""
    with written_beside(path) as part:
        trial_table(study).map(harmless).to_csv(part, index=False)


def _row(trial: FrozenTrial) -> dict[str, Any]:
    attributes = trial.user_attrs
    numbers = {key: attributes.get(key) for key in ("best_epoch", "train_s", "infer_s")}
    return {
        "number": trial.number,
        "state": trial.state.name,
        "value": trial.value if trial.state == TrialState.COMPLETE else None,
        "epochs": attributes.get("epochs", trial.last_step),
        "seconds": _seconds(trial),
        **numbers,
        **{key: attributes.get(key) for key in _ATTRIBUTES},
        **trial.params,
    }


def _seconds(trial: FrozenTrial) -> float | None:
    if trial.datetime_start is None or trial.datetime_complete is None:
        return None
    duration: datetime.timedelta = trial.datetime_complete - trial.datetime_start
    return duration.total_seconds()
