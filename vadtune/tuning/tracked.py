"""What trackers hear of a search: trials by their numbers, params by dotted path, epochs as steps."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.tune.logger import LoggerCallback

from vadtune.errors import first_line
from vadtune.settings import flatten
from vadtune.tuning.ledger import reports
from vadtune.tuning.schedulers import OBJECTIVE, TIME
from vadtune.tuning.trackers import Tracker, open_tracker

# Of a report; the rest is Ray's housekeeping.
METRICS = ("imputation_rmse", "final_rmse", "best_epoch", "train_s", "infer_s")


@dataclass(frozen=True, eq=False)
class ShownTrial:
    """What a tracker sees in the place of Ray's trial, which is numbered by chance and whose files go with Ray.

    Attributes:
        trial_id: Ray's.
        config: Settings by dotted path.
        local_path: A folder that is the tracker's own.
        experiment_dir_name: The name of the run folder.
    """

    number: int
    trial_id: str
    config: dict[str, Any]
    local_path: str
    experiment_dir_name: str

    @property
    def evaluated_params(self) -> dict[str, Any]:
        """The settings, under the name by which Ray's callback for TensorBoard asks for them."""
        return self.config

    def init_local_path(self) -> None:
        """Nothing: the folder is there."""

    def __str__(self) -> str:
        return f"trial {self.number}"


class Tracked(Callback):
    """Tells a tracker what happens. One that fails is told no more: no search ends because of its tracker.

    Args:
        tracker: What to tell it to.
        folder: The run folder.
        note: Is told, in a line, why a tracker is told no more.

    Raises:
        ConfigError: The tracker is not installed, or finds no server or key.
    """

    def __init__(self, tracker: Tracker, folder: Path, note: Callable[[str], None]) -> None:
        self.tracker, self.folder, self.note = tracker, folder, note
        self.inner: LoggerCallback = open_tracker(tracker, folder)
        self.errors = tracker.errors()
        self.makes_folders = tracker.has_files
        self.shown: dict[str, ShownTrial] = {}
        self.failed: set[str] = set()

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:  # noqa: ARG002
        """A trial runs, for the first time or again."""
        shown = self._show(trial)
        with self._told() as inner:
            if self.makes_folders:
                Path(shown.local_path).mkdir(parents=True, exist_ok=True)
            inner.log_trial_start(shown)

    def on_trial_result(
        self,
        iteration: int,
        trials: list[Trial],  # noqa: ARG002
        trial: Trial,
        result: dict[str, Any],
        **info: Any,  # noqa: ARG002
    ) -> None:
        """A report."""
        if "failure" in result:
            self.failed.add(trial.trial_id)
        metrics = {name: result[name] for name in METRICS if name in result}
        *passed, (last, _) = reports(result)
        with self._told() as inner:
            for epoch, report in [*((epoch, {OBJECTIVE: value}) for epoch, value in passed), (last, metrics)]:
                step = {"training_iteration": epoch, TIME: epoch}
                inner.log_trial_result(iteration, self._show(trial), step | report)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:  # noqa: ARG002
        """A trial came to its end, was stopped by the scheduler, or diverged."""
        self._end(trial.trial_id, failed=trial.trial_id in self.failed)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:  # noqa: ARG002
        """A trial broke for good."""
        self._end(trial.trial_id, failed=True)

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        """The search ends; trials that wait for the next session are closed, too."""
        for trial_id in list(self.shown):
            self._end(trial_id, failed=False)
        with self._told() as inner:
            inner.on_experiment_end(trials=trials, **info)

    def _show(self, trial: Trial) -> ShownTrial:
        if trial.trial_id not in self.shown:
            number = trial.config["number"]
            place = self.folder / self.tracker.kind / f"trial-{number}"
            shown = ShownTrial(number, trial.trial_id, flatten(trial.config["trial"]), str(place), self.folder.name)
            self.shown[trial.trial_id] = shown
        return self.shown[trial.trial_id]

    def _end(self, trial_id: str, *, failed: bool) -> None:
        shown = self.shown.pop(trial_id, None)
        self.failed.discard(trial_id)
        if shown is not None:
            with self._told() as inner:
                inner.log_trial_end(shown, failed=failed)

    @contextmanager
    def _told(self) -> Iterator[Any]:
        """Ray's callback, while it works; the block of one that does not comes to nothing."""
        try:
            yield self.inner
        except self.errors as error:
            self.inner, self.makes_folders = _Nobody(), False
            self.note(f"--log-to {self.tracker.kind}: {first_line(error)} The search goes on without it.")


class _Nobody(LoggerCallback):
    """Listens to nothing, as Ray's own base class does."""
