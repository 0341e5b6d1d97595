"""One session of a search: what Ray's loop, signals and the clock agree on."""

import math
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from optuna.trial import TrialState

from vadtune.data.storage import Sweeper, orphans
from vadtune.errors import ConfigError, DataError
from vadtune.tuning.autoscaling import WorkerType, worker_types
from vadtune.tuning.cluster import Cluster
from vadtune.tuning.crew import Alone, Crew, Shared
from vadtune.tuning.database import database_errors
from vadtune.tuning.ledger import Ledger, LiveTrial
from vadtune.tuning.mirror import Mirror, is_needed
from vadtune.tuning.plan import End, Outcome, Plan
from vadtune.tuning.preflight import check_nodes, check_resources, n_fitting
from vadtune.tuning.progress import Progress, RunningTrial, Snapshot
from vadtune.tuning.sigterm import own_sigterm
from vadtune.tuning.study import (
    checkpoints,
    count_states,
    longest_training,
    write_error,
    write_trial_table,
)

# After how many seconds without a worker a hint is due: machines take five minutes to come.
HINT_S = 600.0
# At most so many trials wait for workers that are still to come: their params are drawn without what others learn.
MAX_PENDING = 256
# How long the end waits for checkpoints to be deleted; the next session finds the others.
SWEEP_S = 30.0
# How long running trials get to come to their next report and be saved.
GRACE_S: dict[End, float] = {"finished": 0.0, "time budget": 30.0, "interrupted": 12.0}
# Trials that have come so far by the end of the budget come to their own, if that takes no more than a share of it.
NEARLY_DONE = 0.9
OVERTIME, MAX_OVERTIME_S = 0.1, 300.0
# Of the budget, for further fits of the winner.
MOST_RESERVED = 0.2


class Session:
    """One session of a search: what Ray's loop, signals and the clock agree on."""

    def __init__(self, plan: Plan, progress: Progress) -> None:
        self.plan, self.progress = plan, progress
        self.stopping = threading.Event()
        self.end: End = "finished"
        self.problem: str | None = None
        self.abrupt: BaseException | None = None
        self.is_closing = False
        self.started = self.last_tick = time.monotonic()
        self.give_up_at = math.inf
        self.overtime_until = -math.inf
        self.reserved_s: float | None = None
        self.marks: dict[str, float] = {}
        self.phase = "starting Ray"
        self.notes: list[str] = []
        self.concurrent, self.n_nodes, self.cpus, self.gpus = 1, 0, 0.0, 0.0
        self.launchable: tuple[WorkerType, ...] | None = None
        self.roomless_since: float | None = None
        self.surveyed = math.inf
        self.sweeper = Sweeper(plan.storage)
        self.mirror: Mirror | None = None
        self.crew: Crew

    def prepare(self) -> None:
        """Open the study, put back what a kill left RUNNING, enqueue the first points; Ray starts meanwhile."""
        import ray.tune  # noqa: F401 – takes a second

        plan = self.plan
        self.crew = Shared(plan.database, plan.study_path) if plan.database else Alone(plan.study_path)
        with self.crew.lock():
            self.crew.reap()
            self._enqueue()
        limits = [n for n in (plan.n_trials, plan.sampler.n_points(plan.space)) if n is not None]
        n_trials = min(limits, default=None)
        self.ledger = Ledger(
            self.crew,
            plan.space,
            self.sweeper,
            seed=plan.seed,
            rungs=plan.rungs,
            n_trials=n_trials,
            keep_top=plan.keep_top,
        )
        self.n_ended_before = self.ledger.ended.total()
        is_elsewhere = is_needed(plan.folder, plan.storage)
        if is_elsewhere or self.crew.is_shared:
            self.mirror = Mirror(plan.folder, plan.storage if is_elsewhere else None, self._write_copies)
            self.mirror.start()

    def _enqueue(self) -> None:
        plan, study = self.plan, self.crew.study
        trials = study.get_trials(deepcopy=False)
        # Drivers that come at once must not draw alike.
        study.sampler = plan.sampler.build(plan.seed, len(trials) + 1_000_003 * self.crew.number)
        n_enqueued = sum("fixed_params" in trial.system_attrs for trial in trials)
        for point in plan.sampler.points(plan.space)[n_enqueued : plan.n_trials]:
            study.enqueue_trial(point)

    def wait_for(self, cluster: Cluster) -> None:
        """Wait for Ray, telling so; then check that trials fit and nodes see the storage."""
        with own_sigterm():
            while not cluster.is_ready(timeout_s=0.01):
                if self.stopping.is_set():
                    return
                self.tick()
        import ray

        plan, nodes = self.plan, ray.nodes()  # type: ignore[no-untyped-call]
        self.launchable = worker_types() if cluster.address is not None else None
        check_resources(nodes, plan.cpus_per_trial, plan.gpus_per_trial, self.launchable)
        plan.storage.check_writable()
        check_nodes(plan.storage, nodes)
        # Before a trial starts, whose checkpoints the study does not name yet.
        self._sweep()
        self.survey()
        self.marks["start"] = time.monotonic()

    def survey(self) -> None:
        """Look which nodes there are: some may have come or gone."""
        import ray

        plan, nodes = self.plan, ray.nodes()  # type: ignore[no-untyped-call]
        alive = [node["Resources"] for node in nodes if node["Alive"]]
        self.surveyed, self.n_nodes = time.monotonic(), len(alive)
        self.cpus, self.gpus = (sum(resources.get(kind, 0.0) for resources in alive) for kind in ("CPU", "GPU"))
        room = room_now = sum(n_fitting(resources, plan.cpus_per_trial, plan.gpus_per_trial) for resources in alive)
        # Trials that wait for room are what makes a cluster grow: as many as its workers could hold at most.
        for kind in self.launchable or ():
            largest = kind.max_workers * n_fitting(kind.resources, plan.cpus_per_trial, plan.gpus_per_trial)
            room = max(room, min(largest, MAX_PENDING))
        self.concurrent = plan.concurrent or max(1, room)
        self.phase = self._phase(has_room=room_now > 0)

    def _phase(self, *, has_room: bool) -> str:
        """Whether trials can run at all: on a cluster that grows, the first worker takes minutes to come."""
        if self.stopping.is_set():
            return self.phase
        if has_room:
            self.roomless_since = None
            return "searching"
        now = time.monotonic()
        self.roomless_since = self.roomless_since or now
        if now - self.roomless_since < HINT_S:
            return "waiting for workers"
        return "waiting for workers (`ray status` says why none comes; cluster/README.md what to do)"

    def _phase_of(self, running: Sequence[LiveTrial]) -> str:
        """The phase; in overtime, as long as there is something to wait for, that."""
        if self.is_overtime and any(self.may_go_on(trial.epoch / self.plan.max_epochs) for trial in running):
            return "finishing trials that are nearly done"
        return self.phase

    def request_stop(self, end: End) -> None:
        """Begin nothing new; save what runs at its next report, within some seconds. An interrupt ends overtime."""
        if self.stopping.is_set() and not (self.is_overtime and end == "interrupted"):
            return
        overtime_s = min(OVERTIME * (self.plan.time_budget_s or 0.0), MAX_OVERTIME_S) if end == "time budget" else 0.0
        self.end, self.phase = end, "saving running trials"
        self.overtime_until = time.monotonic() + overtime_s
        self.give_up_at = self.overtime_until + GRACE_S[end]
        self.stopping.set()

    @property
    def is_overtime(self) -> bool:
        """Whether the budget is used up, and trials that are nearly done may go on."""
        return self.end == "time budget" and time.monotonic() < self.overtime_until

    def may_go_on(self, progress: float) -> bool:
        """Whether a trial that has done a share of its epochs is to go on rather than be saved."""
        return not self.stopping.is_set() or (self.is_overtime and progress >= NEARLY_DONE)

    def give_up(self, problem: str) -> None:
        """No trial can go on: stop at once, and say why."""
        self.problem = problem
        self.give_up_at = -math.inf
        self.stopping.set()

    def end_abruptly(self, error: BaseException) -> None:
        """Leave Ray's loop at once."""
        self.abrupt = error
        raise error

    def is_over(self) -> bool:
        """Whether the search is to stop and all that runs is saved, or had its time."""
        budget_s, elapsed_s = self.plan.time_budget_s, time.monotonic() - self.started
        if budget_s is not None and elapsed_s > budget_s - self._reserved_s(budget_s, elapsed_s):
            self.request_stop("time budget")
        if not self.stopping.is_set():
            return False
        live = self.ledger.live.values()
        busy = any((trial.is_started and not trial.is_paused) or trial.is_saving for trial in live)
        return not busy or time.monotonic() > self.give_up_at

    def _reserved_s(self, budget_s: float, elapsed_s: float) -> float:
        """What further fits will need of the budget: each as long as the longest complete trial, in turns."""
        most_s, n_fits = MOST_RESERVED * budget_s, self.plan.n_further_fits
        if not n_fits or elapsed_s < budget_s - most_s:
            return 0.0
        if self.reserved_s is None:
            turns = math.ceil(n_fits / self.concurrent)
            self.reserved_s = min(most_s, turns * longest_training(self.crew.study))
        return self.reserved_s

    def tick(self) -> None:
        """Tell the progress, some three times a second."""
        now = time.monotonic()
        if now - self.surveyed > 5.0:
            self.survey()
            self._hear()
        if now - self.last_tick > 0.3:
            self.last_tick = now
            self.tell()

    def tell(self) -> None:
        """Tell the progress how things are."""
        self.progress.update(self.snapshot())

    def _hear(self) -> None:
        """Look what other drivers do: their trials count, and those of one that is gone are to be run here."""
        if self.crew.is_shared:
            with self.crew.lock():
                self.crew.reap()
                self.ledger.read()

    def snapshot(self) -> Snapshot:
        """The state now."""
        ledger, elapsed = self.ledger, time.monotonic() - self.started
        running = [trial for trial in ledger.live.values() if trial.is_started and not trial.is_paused]
        best_value, best_trial = ledger.best or (None, None)
        return Snapshot(
            phase=self._phase_of(running),
            complete=ledger.ended[TrialState.COMPLETE],
            pruned=ledger.ended[TrialState.PRUNED],
            failed=ledger.ended[TrialState.FAIL],
            waiting=len(ledger.waiting),
            running=tuple(RunningTrial(t.trial.number, t.epoch, t.value, t.host) for t in running),
            n_trials=ledger.n_trials,
            best_value=best_value,
            best_trial=best_trial,
            elapsed_s=elapsed,
            time_budget_s=self.plan.time_budget_s,
            eta_s=self._eta(elapsed),
            n_nodes=self.n_nodes,
            cpus_used=len(running) * self.plan.cpus_per_trial,
            cpus=self.cpus,
            gpus_used=len(running) * self.plan.gpus_per_trial,
            gpus=self.gpus,
            rungs=ledger.rung_counts(),
            notes=tuple(self.notes),
        )

    def _eta(self, elapsed: float) -> float | None:
        budget, n_trials = self.plan.time_budget_s, self.ledger.n_trials
        etas = [] if budget is None else [max(0.0, budget - elapsed)]
        n_ended = self.ledger.ended.total()
        if n_trials is not None and n_ended > self.n_ended_before and "start" in self.marks:
            pace = (time.monotonic() - self.marks["start"]) / (n_ended - self.n_ended_before)
            etas.append(pace * max(0, n_trials - n_ended))
        return min(etas, default=None)

    def close(self) -> None:
        """Leave a study in which nothing is RUNNING, and its table."""
        self.is_closing = True
        if not hasattr(self, "crew"):
            return
        error = write_error(self.crew.study)
        if error is not None:
            raise ConfigError(_unwritten(self.plan.study_path, error)) from None
        if self.mirror is not None:
            self.mirror.stop()
        self.sweeper.close(SWEEP_S)
        if self.problem is not None:
            self._sweep_all()  # what was written of a checkpoint may be what fills the disk
        self._settle()
        self._sweep_all()
        if self.mirror is not None:
            self.mirror.finish()

    def _settle(self) -> None:
        """Leave the study.

        Raises:
            ConfigError: It cannot be written.
        """
        try:
            self.crew.leave()
            self._write_table()
        except OSError as error:
            raise ConfigError(_unwritten(self.plan.study_path, error)) from None
        self.trials = count_states(self.crew.study)

    def _write_copies(self) -> None:
        # The search itself finds out what is wrong with a database, or a disk.
        with suppress(*database_errors(), OSError, DataError):
            self.crew.write_copy()
            self._write_table()

    def _write_table(self) -> None:
        write_trial_table(self.crew.study, self.plan.folder / "trials.csv")

    def _sweep_all(self) -> None:
        self.sweeper = Sweeper(self.plan.storage, n_threads=16)
        self._sweep()
        self.sweeper.close(SWEEP_S)

    def _sweep(self) -> None:
        if self.crew.others():
            return  # they may be writing what the study does not name yet
        try:
            for name in orphans(self.plan.storage, checkpoints(self.crew.study)):
                self.sweeper.delete(name)
        except OSError:
            return  # the next session looks again

    def outcome(self) -> Outcome:
        """How it ended."""
        if self.problem is not None:
            raise ConfigError(self.problem)
        now = time.monotonic()
        start = self.marks.get("start", now)
        search = self.marks.get("search", now)
        phases = {"start": start - self.started, "search": search - start, "stop": now - search}
        problem = self.mirror.problem if self.mirror is not None else None
        return Outcome(self.end, self.trials, now - self.started, phases, problem)


def _unwritten(path: Path, error: OSError) -> str:
    return f"{path}: cannot be written ({error.strerror}). Make space, then go on with --resume."
