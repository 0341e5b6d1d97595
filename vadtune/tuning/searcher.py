"""Ray Tune's three doors, all leading to the ledger: what to run, whether to go on, what happened.

`Proposals` asks, `Governor` lets a scheduler decide and pauses trials when the search is to stop, `Events` records.
Ray's own OptunaSearch records a pruned trial as complete, never the value it was stopped at, and forgets failures.
"""

import threading
from pathlib import Path
from typing import Any, Protocol

from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from vadtune.data.storage import Storage
from vadtune.tuning.ledger import Ledger
from vadtune.tuning.schedulers import TIME, is_far_behind, seed_rungs


class Session(Protocol):
    """Whoever runs the search; see `session`."""

    stopping: threading.Event
    concurrent: int

    def tick(self) -> None:
        """Called ten times a second and more."""
        ...

    def may_go_on(self, progress: float) -> bool:
        """Whether a trial that has done a share of its epochs is to go on rather than be saved."""
        ...

    def is_over(self) -> bool:
        """Whether everything is to be stopped now."""
        ...

    def give_up(self, problem: str) -> None:
        """Stop at once: no trial can go on."""
        ...


class Proposals(Searcher):
    """Hands out trials of the ledger while there is room.

    Args:
        ledger: The study.
        session: Knows how many trials may be active, and when nothing new is to begin.
    """

    def __init__(self, ledger: Ledger, session: Session) -> None:
        super().__init__()
        self.ledger, self.session = ledger, session

    def set_search_properties(self, *_: Any, **__: Any) -> bool:
        """Ray's own space is not used."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """The config of Ray's next trial: None for not now, FINISHED for no more."""
        if self.session.stopping.is_set():
            return Searcher.FINISHED
        if self.ledger.is_exhausted():
            return self._wait_for_others()
        task = self.ledger.ask(trial_id) if self.ledger.n_active < self.session.concurrent else None
        if task is None:
            return None
        return {"number": task.number, "trial": task.config, "checkpoint": task.checkpoint}

    def _wait_for_others(self) -> Any:
        """Trials of other drivers may yet have to be run here: see whether they come to their end."""
        if self.ledger.n_elsewhere == 0:
            return Searcher.FINISHED
        # Ray asks nobody else while it has nothing to run.
        self.session.tick()
        return Searcher.FINISHED if not self.ledger.live and self.session.is_over() else None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002
        """A trial ended without an error; errors come with their reason by the governor."""
        if not error and trial_id in self.ledger.live:
            self.ledger.end(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the study is on disk."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


class Governor(TrialScheduler):
    """A scheduler whose decisions count until the search is to stop; from then on trials are saved and paused.

    Args:
        inner: What decides.
        ledger: The study.
        session: Knows how many trials may be active, and when the search is to stop.
        max_epochs: Of a trial.
    """

    def __init__(self, inner: TrialScheduler, ledger: Ledger, session: Session, max_epochs: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.inner, self.ledger, self.session, self.max_epochs = inner, ledger, session, max_epochs
        seed_rungs(inner, ledger.histories())

    @property
    def supports_buffered_results(self) -> bool:
        """No: Ray's way has a trial go on while it is saved at a rung. Ours is `Job.together_s`."""
        return False

    def set_search_properties(self, *_: Any, **__: Any) -> bool:
        """The scheduler knows its metric."""
        return True

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """A trial begins, or begins again; the rungs behind an interrupted one count as passed."""
        self.inner.on_trial_add(tune_controller, trial)
        if trial.trial_id in self.ledger.live:
            seed_rungs(self.inner, {trial.trial_id: self.ledger.passed(trial.trial_id)})

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Go on, pause or stop."""
        if self.ledger.news:
            seed_rungs(self.inner, self.ledger.histories())
        decision = self.inner.on_trial_result(tune_controller, trial, result)
        progress = result[TIME] / self.max_epochs
        if self._is_spared(trial):
            decision = self._judge_first(trial.trial_id, result, progress)
        if decision == TrialScheduler.CONTINUE and not self.session.may_go_on(progress):
            decision = TrialScheduler.PAUSE
        if decision == TrialScheduler.PAUSE:
            live = self.ledger.live[trial.trial_id]
            live.is_paused = live.is_saving = True
        return decision

    def _is_spared(self, trial: Trial) -> bool:
        """First points are known to work: ASHA compares others with them, and lets them pass its rungs.

        A slow starter among them would be stopped by a quick one at the first rung, where ranks say little: over 12
        cases of six tables they correlated by 0.1 to 0.6 with those at the end. Sparing three of 24 points cost 2% of
        the time and lowered the error by half a percent. Other schedulers keep account of what they stopped.
        """
        live = self.ledger.live.get(trial.trial_id)
        return live is not None and live.is_first and isinstance(self.inner, AsyncHyperBandScheduler)

    def _judge_first(self, ray_id: str, result: dict[str, Any], progress: float) -> str:
        """Whether a first point goes on: until it is far behind all that have come as far."""
        value, lowest = self.ledger.compare(ray_id, result)
        if not is_far_behind(progress, value, lowest):
            return TrialScheduler.CONTINUE
        self.ledger.live[ray_id].is_far_behind = True
        return TrialScheduler.STOP

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """A trial ended; a diverged one is no measure for the others."""
        if "failure" in result:
            self.inner.on_trial_error(tune_controller, trial)
        else:
            self.inner.on_trial_complete(tune_controller, trial, result)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """A trial broke, to be tried again or for good."""
        self.inner.on_trial_error(tune_controller, trial)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """A trial that did not run is dropped."""
        self.inner.on_trial_remove(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Which paused trial is to go on, while there is room and the search is not to stop.

        Ray starts pending trials by itself. Named here, one would take the actor of a trial that has just ended while
        its own is still starting, and throw that away: with short trials, over and over, and one worker did it all.
        """
        if self.session.stopping.is_set():
            return None
        trial = self.inner.choose_trial_to_run(tune_controller)
        has_room = self.ledger.n_active < self.session.concurrent
        return trial if trial is not None and trial.status == Trial.PAUSED and has_room else None

    def debug_string(self) -> str:
        """Whatever the scheduler says."""
        return self.inner.debug_string()


class Events(Callback):
    """Records every report, checkpoint and failure."""

    def __init__(self, ledger: Ledger, storage: Storage, session: Session) -> None:
        self.ledger, self.storage, self.session = ledger, storage, session
        self.has_started = False

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:  # noqa: ARG002
        """Ray's loop went round once."""
        self.session.tick()

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:  # noqa: ARG002
        """A trial runs, for the first time or again."""
        self.has_started = True
        live = self.ledger.live.get(trial.trial_id)
        if live is not None:
            live.is_started, live.is_paused = True, False

    def on_trial_result(
        self,
        iteration: int,  # noqa: ARG002
        trials: list[Trial],  # noqa: ARG002
        trial: Trial,
        result: dict[str, Any],
        **info: Any,  # noqa: ARG002
    ) -> None:
        """Every report comes here, the one that stops a trial included; Ray saves if the result asks for it."""
        if trial.trial_id in self.ledger.live:
            self.ledger.report(trial.trial_id, result)
            result["should_checkpoint"] = self.ledger.wants_checkpoint(result)

    def on_checkpoint(self, iteration: int, trials: list[Trial], trial: Trial, checkpoint: Any, **info: Any) -> None:  # noqa: ARG002
        """A trial was saved."""
        if trial.trial_id in self.ledger.live:
            self.ledger.saved(trial.trial_id, self.storage.relative(checkpoint.path))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:  # noqa: ARG002
        """A trial broke for good."""
        if trial.trial_id not in self.ledger.live:
            return
        text = _error_text(trial)
        problem = _common_problem(text, self.storage) if self.has_started else f"Workers cannot start: {reason(text)}."
        if problem is None:
            self.ledger.end(trial.trial_id, failure=reason(text))
        else:
            self.ledger.forget(trial.trial_id)
            self.session.give_up(problem)


class End(Stopper):
    """Ends Ray's experiment once the session is over."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002
        """No trial is stopped here."""
        return False

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray pickles it into a state that nobody restores."""
        return {}

    def stop_all(self) -> bool:
        """Whether to stop now."""
        return self.session.is_over()


def reason(text: str) -> str:
    """The reason of a failure in one line, from Ray's text of an error."""
    if "OutOfMemoryError" in text or "low on memory" in text:
        return "memory: Ray ended the worker since the machine ran low on memory"
    if "worker process has died" in text or "actor died unexpectedly" in text:
        return "the worker process died, again after each retry (killed, or out of memory)"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:500] if lines else "unknown: Ray kept no text of the error"


def _common_problem(text: str, storage: Storage) -> str | None:
    """What is the fault of no trial, and will stop all others too."""
    if "No space left on device" in text:
        return f"{storage.address}: no space left for checkpoints. Make space, then go on with --resume."
    if "AWS Error" in text and not storage.is_local:
        return f"{storage.address}: does not take checkpoints: {reason(text)}. Go on with --resume when it does."
    return None


def _error_text(trial: Trial) -> str:
    """The last error of a trial; Ray appends every one to a file."""
    path = Path(trial.error_file) if trial.error_file else None
    if path is None or not path.is_file():
        return ""
    return path.read_text(encoding="utf-8", errors="replace").rpartition("Failure # ")[2]
