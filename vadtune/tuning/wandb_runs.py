"""Weights & Biases: a run per trial, all of them kept by one thread of the search's own process.

Ray's callback starts two processes for each trial, and on a busy machine ends before these have begun to write.
"""

import os
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import wandb
from ray.tune.logger import LoggerCallback

from vadtune.tuning.schedulers import TIME


class WandBRuns(LoggerCallback):
    """Tells W&B what happens to trials; what fails there is raised at the next call.

    Args:
        project: Of the runs.
        group: What they are of: the run folder's name.

    Raises:
        wandb.errors.UsageError: There is no account, and it was not said to do without.
    """

    def __init__(self, project: str, group: str) -> None:
        self.mode: Any = os.environ.get("WANDB_MODE", "online")
        if self.mode not in ("offline", "disabled"):
            wandb.login()
        self.project, self.group = project, group
        self.runs: dict[str, Any] = {}
        self.told: list[Future[None]] = []
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="vadtune-wandb")

    def log_trial_start(self, trial: Any) -> None:
        """A trial runs, for the first time or again."""
        self._tell(self._start, trial)

    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:  # noqa: ARG002
        """A report; its step is the epoch."""
        self._tell(self._log, trial, result)

    def log_trial_end(self, trial: Any, failed: bool = False) -> None:  # noqa: FBT001, FBT002 – as Ray calls it
        """A trial came to its end."""
        self._tell(self._finish, trial, int(failed))

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:  # noqa: ARG002
        """The search ends: what is not written yet is waited for."""
        self.thread.shutdown()
        self._raise_what_failed(self.told)

    def _tell(self, what: Any, *args: Any) -> None:
        done = [call for call in self.told if call.done()]
        self.told = [call for call in self.told if not call.done()]
        self._raise_what_failed(done)
        self.told.append(self.thread.submit(what, *args))

    def _raise_what_failed(self, calls: list[Future[None]]) -> None:
        for call in calls:
            call.result()

    def _start(self, trial: Any) -> None:
        if trial.trial_id not in self.runs:
            self.runs[trial.trial_id] = wandb.init(
                mode=self.mode,
                project=self.project,
                group=self.group,
                id=trial.trial_id,
                name=str(trial),
                config=trial.config,
                dir=trial.local_path,
                reinit="create_new",  # beside the runs of other trials
                settings=wandb.Settings(console="off", silent=True),
            )

    def _log(self, trial: Any, result: dict[str, Any]) -> None:
        self._start(trial)
        self.runs[trial.trial_id].log(result, step=result[TIME])

    def _finish(self, trial: Any, exit_code: int) -> None:
        self.runs.pop(trial.trial_id).finish(exit_code=exit_code)
