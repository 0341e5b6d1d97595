"""What happens to trials, told to the study: proposed, reported, saved, ended. Knows nothing of Ray."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import optuna
from optuna.trial import FrozenTrial, TrialState

from vadtune.settings import Nested
from vadtune.tuning.crew import Crew
from vadtune.tuning.progress import RungCount
from vadtune.tuning.samplers import draw_seed
from vadtune.tuning.schedulers import OBJECTIVE, TIME
from vadtune.tuning.space import Space

Result = Mapping[str, Any]
# A search without a number of trials ends after so many failures and nothing else.
HOPELESS = 25


def reports(result: Result) -> list[tuple[int, float]]:
    """Epochs and values of what a trial has reported at once, in the order of epochs."""
    return [*result.get("passed", []), (int(result[TIME]), float(result[OBJECTIVE]))]


class Checkpoints(Protocol):
    """Where checkpoints lie; see `storage.Storage`."""

    def exists(self, checkpoint: str) -> bool:
        """Whether a checkpoint is still there."""
        ...

    def delete(self, checkpoint: str) -> None:
        """Remove a checkpoint."""
        ...


@dataclass(frozen=True)
class Task:
    """A trial to run.

    Attributes:
        config: Nested settings, the trial's own seed included.
        checkpoint: Where to go on from, if it was interrupted.
    """

    number: int
    config: Nested
    checkpoint: str | None


@dataclass
class LiveTrial:
    """A trial between its proposal and its end."""

    trial: optuna.Trial
    values: dict[int, float]
    checkpoint: str | None
    epoch: int
    is_first: bool = False
    value: float = math.nan
    host: str | None = None
    worker: str | None = None
    is_started: bool = False
    is_paused: bool = False
    is_saving: bool = False
    is_far_behind: bool = False
    last: dict[str, Any] = field(default_factory=dict)


class Ledger:
    """The study, and what this driver runs of it.

    Args:
        crew: The study, with its sampler, and who else drives it.
        space: What the study draws from.
        checkpoints: Where checkpoints are; those that nobody needs any more are deleted.
        seed: The search's seed: a trial's own follows from it and the trial's number.
        rungs: The epochs at which the scheduler compares trials.
        n_trials: How many trials may end, those of earlier sessions included; None for any number.
        keep_top: Of how many of the best complete trials to keep the checkpoint.
    """

    def __init__(
        self,
        crew: Crew,
        space: Space,
        checkpoints: Checkpoints,
        *,
        seed: int,
        rungs: tuple[int, ...] = (),
        n_trials: int | None = None,
        keep_top: int = 1,
    ) -> None:
        self.crew, self.study, self.space, self.checkpoints = crew, crew.study, space, checkpoints
        self.seed, self.rungs, self.n_trials, self.keep_top = seed, rungs, n_trials, keep_top
        self.live: dict[str, LiveTrial] = {}
        # Ended trials that the scheduler was told of, and those of other drivers that it was not.
        self.told: set[int] = set()
        self.news: dict[str, dict[int, float]] = {}
        self.read()

    def read(self) -> None:
        """Read what other drivers, or other sessions, did."""
        trials = self.study.get_trials(deepcopy=False)
        self.waiting = {trial.number for trial in trials if trial.state == TrialState.WAITING}
        self.ended = Counter(trial.state for trial in trials if trial.state.is_finished())
        self.n_elsewhere = len(self.crew.others())
        ended = [trial for trial in trials if trial.state.is_finished() and trial.number not in self.told]
        self.told |= {trial.number for trial in ended}
        self.news |= {f"trial {trial.number}": dict(trial.intermediate_values) for trial in ended}
        self.top = sorted(kept for trial in trials if (kept := _kept(trial, TrialState.COMPLETE)) is not None)
        self.runners_up = sorted(kept for trial in trials if (kept := _kept(trial, TrialState.PRUNED)) is not None)
        self.reached = Counter(epoch for trial in trials for epoch in trial.intermediate_values)
        self.stopped_by = Counter(trial.user_attrs.get("stopped_by") for trial in trials)
        self.lowest: dict[int, float] = {}  # of all trials, by epoch
        for trial in trials:
            self._see(trial.intermediate_values)

    @property
    def n_active(self) -> int:
        """Trials that run or are about to; paused ones do not count."""
        return sum(not trial.is_paused for trial in self.live.values())

    @property
    def best(self) -> tuple[float, int] | None:
        """Value and number of the best complete trial."""
        return (self.top[0].value, self.top[0].number) if self.top else None

    def rung_counts(self) -> tuple[RungCount, ...]:
        """What happened at each rung so far."""
        return tuple(RungCount(epoch, self.reached[epoch], self.stopped_by[f"rung {epoch}"]) for epoch in self.rungs)

    def is_exhausted(self) -> bool:
        """Whether no further trial may begin."""
        if self.n_trials is None:
            return self.ended[TrialState.FAIL] >= HOPELESS and self.ended.total() == self.ended[TrialState.FAIL]
        return self.ended.total() + len(self.live) + self.n_elsewhere >= self.n_trials

    def histories(self) -> dict[str, dict[int, float]]:
        """What trials that ended elsewhere, or in earlier sessions, reported, epoch -> imputation_rmse; each once."""
        news, self.news = self.news, {}
        return news

    def forget(self, ray_id: str) -> None:
        """Drop a trial that is to wait: it stays RUNNING, to be put back at the end (see `crew`)."""
        self.live.pop(ray_id)

    def ask(self, ray_id: str) -> Task | None:
        """Propose a trial: an interrupted or enqueued one, else one that the sampler draws; None if others took it."""
        with self.crew.lock():
            if self.crew.is_shared:
                self.read()
            if self.is_exhausted():
                return None
            trial = self.study.ask()
            self.crew.sign(trial)
        return self._begin(trial, ray_id)

    def _begin(self, trial: optuna.Trial, ray_id: str) -> Task:
        before = self.study._storage.get_trial(trial._trial_id)
        params = self.space.suggest(trial)
        trial.set_user_attr("ray_trial_id", ray_id)
        checkpoint = before.user_attrs.get("checkpoint")
        if checkpoint is not None and not self.checkpoints.exists(checkpoint):
            checkpoint = None
        epoch = before.user_attrs.get("checkpoint_epoch", 0) if checkpoint else 0
        self.waiting.discard(trial.number)
        is_first = self.space.holds_first(params)
        self.live[ray_id] = LiveTrial(trial, dict(before.intermediate_values), checkpoint, epoch, is_first)
        config = self.space.config(params) | {"seed": draw_seed(self.seed, trial.number)}
        return Task(trial.number, config, checkpoint)

    def passed(self, ray_id: str) -> dict[int, float]:
        """What a trial reported up to where it is, epoch -> imputation_rmse; more may lie before a resumed one."""
        live = self.live[ray_id]
        return {epoch: value for epoch, value in live.values.items() if epoch <= live.epoch}

    def compare(self, ray_id: str, result: Result) -> tuple[float, float]:
        """The lowest value of a trial with what it reports now, and that of all trials up to the same epoch."""
        epoch, own = int(result[TIME]), self.live[ray_id].values | dict(reports(result))
        return _lowest(own, epoch), _lowest(self.lowest, epoch)

    def _see(self, values: Mapping[int, float]) -> None:
        for epoch, value in values.items():
            self.lowest[epoch] = min(value, self.lowest.get(epoch, math.inf))

    def report(self, ray_id: str, result: Result) -> None:
        """Record a report and those it passed; an epoch that a resumed trial reports again keeps its first value."""
        live = self.live[ray_id]
        live.last = dict(result)
        self._meet(live)
        for live.epoch, live.value in reports(result):
            if math.isfinite(live.value) and live.epoch not in live.values:
                live.values[live.epoch] = live.value
                self.reached[live.epoch] += 1
                self._see({live.epoch: live.value})
                live.trial.report(live.value, live.epoch)

    def _meet(self, live: LiveTrial) -> None:
        """Write down which worker a trial runs on, as soon as it is heard of: trials that are put back have no end."""
        if "hostname" not in live.last:
            return
        live.host, worker = live.last["hostname"], f"{live.last['hostname']}:{live.last['pid']}"
        if worker != live.worker:
            live.worker = worker
            live.trial.set_user_attr("host", live.host)
            live.trial.set_user_attr("worker", worker)

    def wants_checkpoint(self, result: Result) -> bool:
        """Whether a trial that reports this should be saved; a loser at its end should not."""
        if "failure" in result:
            return False
        if "final_rmse" in result:
            return len(self.top) < self.keep_top or result["final_rmse"] < self.top[self.keep_top - 1].value
        if result.get("done"):
            return not self.top and (not self.runners_up or result[OBJECTIVE] < self.runners_up[0].value)
        return bool(result.get("should_checkpoint"))

    def saved(self, ray_id: str, checkpoint: str) -> None:
        """Record a checkpoint of the epoch last reported, and delete the one before."""
        live = self.live[ray_id]
        live.is_saving = False
        live.trial.set_user_attr("checkpoint", checkpoint)
        live.trial.set_user_attr("checkpoint_epoch", live.epoch)
        if live.checkpoint is not None and live.checkpoint != checkpoint:
            self.checkpoints.delete(live.checkpoint)
        live.checkpoint = checkpoint

    def end(self, ray_id: str, failure: str | None = None) -> None:
        """Tell the study how a trial ended: by failure, by a last report, or stopped by the scheduler."""
        live = self.live.pop(ray_id)
        if failure is None and not live.last:
            return  # it was dropped before it ran: to be requeued
        ending = _ending(live, failure, self.rungs)
        kept = self._retain(live, ending)
        if live.checkpoint is not None and not kept:
            live.trial.set_user_attr("checkpoint", None)
        for key, value in _attributes(live, ending).items():
            if value is not None:
                live.trial.set_user_attr(key, value)
        self.study.tell(live.trial, ending.value, state=ending.state, skip_if_finished=True)
        self.ended[ending.state] += 1
        self.told.add(live.trial.number)
        self.stopped_by[ending.stopped_by] += 1
        if live.checkpoint is not None and not kept:
            self.checkpoints.delete(live.checkpoint)

    def _retain(self, live: LiveTrial, ending: "Ending") -> bool:
        """Decide whether the checkpoint of a trial that ends is kept; delete those that it makes useless."""
        value = ending.value if ending.value is not None else live.value
        kept = Kept(value, live.trial.number, live.checkpoint)
        if ending.state == TrialState.COMPLETE:
            self.top = sorted([*self.top, kept])
            useless = self.top[self.keep_top :] + self.runners_up
            self.top, self.runners_up = self.top[: self.keep_top], []
        elif ending.state == TrialState.PRUNED and not self.top and live.checkpoint is not None:
            self.runners_up = sorted([*self.runners_up, kept])
            useless, self.runners_up = self.runners_up[1:], self.runners_up[:1]
        else:
            return False
        for other in useless:
            if other.checkpoint is not None and other != kept:
                self.checkpoints.delete(other.checkpoint)
        return kept not in useless


@dataclass(frozen=True, order=True)
class Kept:
    """An ended trial whose checkpoint is kept, by its value."""

    value: float
    number: int
    checkpoint: str | None = field(compare=False)


@dataclass(frozen=True)
class Ending:
    """How a trial ended."""

    state: TrialState
    value: float | None = None
    stopped_by: str | None = None
    failure: str | None = None


def _lowest(values: Mapping[int, float], epoch: int) -> float:
    """The lowest finite value up to an epoch; infinite if there is none."""
    return min((value for at, value in values.items() if at <= epoch and math.isfinite(value)), default=math.inf)


def _ending(live: LiveTrial, failure: str | None, rungs: tuple[int, ...]) -> Ending:
    failure = failure or live.last.get("failure")
    final = live.last.get("final_rmse")
    if failure is None and final is not None and not math.isfinite(final):
        failure = f"final_rmse is {final}"
    if failure is not None:
        return Ending(TrialState.FAIL, failure=failure)
    if final is not None:
        return Ending(TrialState.COMPLETE, value=float(final))
    if live.is_far_behind:
        return Ending(TrialState.PRUNED, stopped_by=f"far behind at epoch {live.epoch}")
    rung = max((rung for rung in rungs if rung <= live.epoch), default=live.epoch)
    return Ending(TrialState.PRUNED, stopped_by=f"rung {rung}")


def _attributes(live: LiveTrial, ending: Ending) -> dict[str, Any]:
    last = live.last
    return {
        "epochs": live.epoch,
        "best_epoch": last.get("best_epoch"),
        "train_s": last.get("train_s"),
        "infer_s": last.get("infer_s"),
        "stopped_by": ending.stopped_by,
        "failure": ending.failure,
    }


def _kept(trial: FrozenTrial, state: TrialState) -> Kept | None:
    checkpoint = trial.user_attrs.get("checkpoint")
    if trial.state != state or (state == TrialState.PRUNED and checkpoint is None):
        return None
    value = trial.value if state == TrialState.COMPLETE else min(trial.intermediate_values.values(), default=None)
    return None if value is None else Kept(value, trial.number, checkpoint)
