"""One session of a search: what Ray's loop, signals and the clock agree on."""

import math
import threading
import time

from optuna.trial import TrialState

from vadtune.errors import ConfigError
from vadtune.tuning.cluster import Cluster
from vadtune.tuning.ledger import Ledger
from vadtune.tuning.plan import End, Outcome, Plan
from vadtune.tuning.preflight import check_resources, check_shared, n_fitting
from vadtune.tuning.progress import Progress, RunningTrial, Snapshot
from vadtune.tuning.storage import tidy
from vadtune.tuning.study import (
    checkpoints,
    count_states,
    flush,
    open_study,
    requeue_running,
    write_error,
    write_trial_table,
)

# How long running trials get to come to their next report and be saved.
GRACE_S: dict[End, float] = {"finished": 0.0, "time budget": 30.0, "interrupted": 12.0}


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
        self.marks: dict[str, float] = {}
        self.phase = "starting Ray"
        self.notes: list[str] = []
        self.concurrent, self.n_nodes, self.cpus = 1, 0, 0.0
        self.surveyed = math.inf

    def prepare(self) -> None:
        """Open the study, put back what a kill left RUNNING, enqueue the first points; Ray starts meanwhile."""
        import ray.tune  # noqa: F401 – takes 2 seconds

        plan = self.plan
        self.study = open_study(plan.study_path)
        requeue_running(self.study)
        trials = self.study.get_trials(deepcopy=False)
        self.study.sampler = plan.sampler.build(plan.seed, len(trials))
        n_enqueued = sum("fixed_params" in trial.system_attrs for trial in trials)
        for point in plan.sampler.points(plan.space)[n_enqueued:]:
            self.study.enqueue_trial(point)
        limits = [n for n in (plan.n_trials, plan.sampler.n_points(plan.space)) if n is not None]
        n_trials = min(limits, default=None)
        self.ledger = Ledger(
            self.study,
            plan.space,
            plan.storage,
            seed=plan.seed,
            rungs=plan.rungs,
            n_trials=n_trials,
            keep_top=plan.keep_top,
        )
        self.n_ended_before = self.ledger.ended.total()

    def wait_for(self, cluster: Cluster) -> None:
        """Wait for Ray, telling so; then check that trials fit and nodes see the storage."""
        while not cluster.is_ready(timeout_s=0.2):
            if self.stopping.is_set():
                return
            self.tick()
        import ray

        plan, nodes = self.plan, ray.nodes()  # type: ignore[no-untyped-call]
        check_resources(nodes, plan.cpus_per_trial, plan.gpus_per_trial)
        plan.storage.check_writable()
        check_shared(plan.storage, nodes)
        self.survey()
        self.marks["start"] = time.monotonic()

    def survey(self) -> None:
        """Look which nodes there are: some may have come or gone."""
        import ray

        plan, nodes = self.plan, ray.nodes()  # type: ignore[no-untyped-call]
        alive = [node["Resources"] for node in nodes if node["Alive"]]
        self.surveyed, self.n_nodes = time.monotonic(), len(alive)
        self.cpus = sum(resources.get("CPU", 0.0) for resources in alive)
        room = sum(n_fitting(resources, plan.cpus_per_trial, plan.gpus_per_trial) for resources in alive)
        # Trials that wait for room are what makes a cluster grow, so a number that was asked for stands.
        self.concurrent = plan.concurrent or max(1, room)

    def request_stop(self, end: End) -> None:
        """Begin nothing new; save what runs at its next report, within some seconds."""
        if not self.stopping.is_set():
            self.end, self.phase = end, "saving running trials"
            self.give_up_at = time.monotonic() + GRACE_S[end]
            self.stopping.set()

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
        budget = self.plan.time_budget_s
        if budget is not None and time.monotonic() - self.started > budget:
            self.request_stop("time budget")
        if not self.stopping.is_set():
            return False
        live = self.ledger.live.values()
        busy = any((trial.is_started and not trial.is_paused) or trial.is_saving for trial in live)
        return not busy or time.monotonic() > self.give_up_at

    def tick(self) -> None:
        """Tell the progress, some three times a second."""
        now = time.monotonic()
        if now - self.surveyed > 5.0:
            self.survey()
        if now - self.last_tick > 0.3:
            self.last_tick = now
            self.progress.update(self.snapshot())

    def snapshot(self) -> Snapshot:
        """The state now."""
        ledger, elapsed = self.ledger, time.monotonic() - self.started
        running = [trial for trial in ledger.live.values() if trial.is_started and not trial.is_paused]
        best_value, best_trial = ledger.best or (None, None)
        return Snapshot(
            phase=self.phase,
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
        study = getattr(self, "study", None)
        if study is None:
            return
        error = write_error(study)
        if error is not None:
            raise ConfigError(
                f"{self.plan.study_path}: cannot be written ({error.strerror}). Make space, then go on with --resume."
            ) from None
        # Opened anew: an interrupt may have torn a line.
        study = open_study(self.plan.study_path)
        requeue_running(study)
        write_trial_table(study, self.plan.folder / "trials.csv")
        flush(self.plan.study_path)
        tidy(self.plan.storage, checkpoints(study))
        self.trials = count_states(study)

    def outcome(self) -> Outcome:
        """How it ended."""
        if self.problem is not None:
            raise ConfigError(self.problem)
        now = time.monotonic()
        start = self.marks.get("start", now)
        search = self.marks.get("search", now)
        phases = {"start": start - self.started, "search": search - start, "stop": now - search}
        return Outcome(self.end, self.trials, now - self.started, phases)
