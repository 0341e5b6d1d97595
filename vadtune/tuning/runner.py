"""The search: a fresh Tuner over a study, which may have a past."""

import io
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from optuna.trial import TrialState

from vadtune.errors import ConfigError, VadtuneError
from vadtune.tuning.cluster import Cluster, ClusterLost, Watchdog, interrupt_main_thread, landmarks, quiet_ray
from vadtune.tuning.ledger import Ledger
from vadtune.tuning.lock import locked
from vadtune.tuning.preflight import check_folder, check_local_cpus, check_resources, check_shared
from vadtune.tuning.progress import Progress, RunningTrial, Silent, Snapshot
from vadtune.tuning.runs import Job, RunFactory
from vadtune.tuning.samplers import Sampler
from vadtune.tuning.schedulers import Scheduler, report_epochs
from vadtune.tuning.space import Space
from vadtune.tuning.storage import RAY_FOLDER, Storage
from vadtune.tuning.study import count_states, open_study, requeue_running, write_error, write_trial_table

End = Literal["finished", "time budget", "interrupted"]


@dataclass(frozen=True)
class Plan:
    """Everything about a search, resolved.

    Attributes:
        folder: The run folder; the study is `study.log` in it.
        storage: Where checkpoints go; by default the run folder.
        n_trials: How many trials are to end, those of earlier sessions included; None: until the time is up.
        max_epochs: How long a trial runs if nothing stops it.
        time_budget_s: Seconds of this session after which running trials are saved and left waiting.
        concurrent: How many trials run at once; None: as many as the cluster has room for.
        seed: One at a time, searches of equal seeds are equal to the digit.
        device: `cpu`, or `cuda`: which GPU is Ray's choice.
        keep_top: Of how many of the best complete trials to keep the checkpoint.
    """

    folder: Path
    storage: Storage
    space: Space
    sampler: Sampler
    scheduler: Scheduler
    max_epochs: int
    n_trials: int | None = None
    time_budget_s: float | None = None
    concurrent: int | None = None
    cpus_per_trial: float = 1.0
    gpus_per_trial: float = 0.0
    seed: int = 0
    device: str = "cpu"
    keep_top: int = 1

    @property
    def study_path(self) -> Path:
        """The study's file."""
        return self.folder / "study.log"

    @property
    def rungs(self) -> tuple[int, ...]:
        """The epochs at which trials are compared."""
        return self.scheduler.rungs(self.max_epochs)


@dataclass(frozen=True)
class Outcome:
    """How a session of a search ended.

    Attributes:
        end: Why it ended.
        trials: Trials by state: complete, pruned, failed, running (none), waiting.
        seconds: Of this session.
        seconds_by_phase: Its parts: `start` (until Ray is there), `search`, `stop`.
    """

    end: End
    trials: dict[str, int]
    seconds: float
    seconds_by_phase: dict[str, float] = field(default_factory=dict)


# How often a trial whose worker died begins again, from its last checkpoint.
MAX_FAILURES = 2
# How long running trials get to come to their next report and be saved.
GRACE_S: dict[End, float] = {"finished": 0.0, "time budget": 30.0, "interrupted": 12.0}


def run_search(
    plan: Plan, data: Any, runs: RunFactory, progress: Progress | None = None, cluster: Cluster | None = None
) -> Outcome:
    """Search until the trials or the time are used up, or someone interrupts.

    A study that exists goes on: interrupted trials first, from their checkpoints, under their own numbers.

    Args:
        plan: What to do.
        data: What `runs` makes trials of; it is put into Ray's object store once, and its arrays become read-only.
        runs: Makes the runs of trials, in the workers.
        progress: Is told the state a few times a second.
        cluster: Where; one that is starting already saves time. By default one of this machine.

    Raises:
        ConfigError: The folder is taken or cannot be written, or the resources are not there.
        ClusterLost: The cluster does not answer any more; the study is saved.
        KeyboardInterrupt: A second interrupt, while the first was being obeyed; the study is saved.
    """
    check_folder(plan.folder)
    with locked(plan.folder), quiet_ray():
        session = Session(plan, progress or Silent())
        with _signals(session), _running(cluster, plan) as ray_cluster:
            try:
                session.prepare()
                if not session.ledger.is_exhausted():
                    session.wait_for(ray_cluster)
                    if not session.stopping.is_set():
                        session.search(data, runs)
            except ClusterLost:
                ray_cluster.abandon()
                raise
            finally:
                session.close()
        return session.outcome()


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
        self.nodes: tuple[int, float] = (0, 0.0)

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
            self.tick()
        import ray

        plan, nodes = self.plan, ray.nodes()  # type: ignore[no-untyped-call]
        fitting = check_resources(nodes, plan.cpus_per_trial, plan.gpus_per_trial)
        plan.storage.check_writable()
        check_shared(plan.storage, nodes)
        self.concurrent = min(plan.concurrent or fitting, fitting)
        alive = [node for node in nodes if node["Alive"]]
        self.nodes = (len(alive), sum(node["Resources"].get("CPU", 0.0) for node in alive))
        self.marks["start"] = time.monotonic()

    def search(self, data: Any, runs: RunFactory) -> None:
        """Run Ray's loop."""
        self.phase = "searching"
        from ray.tune.error import TuneError

        try:
            with Watchdog(*landmarks(), interrupt_main_thread), redirect_stdout(io.StringIO()):
                _tune(self, data, runs)
        except (KeyboardInterrupt, VadtuneError, SystemError, TuneError):
            # What a signal's handler raises may come out of Ray as something else.
            if self.abrupt is None:
                raise
            raise self.abrupt from None
        self.marks["search"] = time.monotonic()

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
        if time.monotonic() - self.last_tick > 0.3:
            self.last_tick = time.monotonic()
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
            n_nodes=self.nodes[0],
            cpus_used=len(running) * self.plan.cpus_per_trial,
            cpus=self.nodes[1],
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
        _tidy(self.plan.storage)
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


def _tune(session: Session, data: Any, runs: RunFactory) -> None:
    from ray import tune

    from vadtune.tuning.searcher import End as EndOfExperiment
    from vadtune.tuning.searcher import Events, Governor, Proposals
    from vadtune.tuning.trainable import Trainable

    plan, ledger = session.plan, session.ledger
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(session.concurrent)
    job = Job(
        runs=runs,
        max_epochs=plan.max_epochs,
        report_epochs=report_epochs(plan.rungs, plan.max_epochs),
        rungs=plan.rungs,
        device=plan.device,
        n_threads=max(1, int(plan.cpus_per_trial)),
        storage=plan.storage,
    )
    resources = {"CPU": plan.cpus_per_trial} | ({"GPU": plan.gpus_per_trial} if plan.gpus_per_trial else {})
    tune.run(
        tune.with_parameters(Trainable, data=data, job=job),
        name=RAY_FOLDER,
        storage_path=plan.storage.address,
        num_samples=-1,
        search_alg=Proposals(ledger, session.concurrent, session.stopping),
        scheduler=Governor(plan.scheduler.build(plan.max_epochs), ledger, session.concurrent, session.stopping),
        callbacks=[Events(ledger, plan.storage, session)],
        stop=EndOfExperiment(session),
        resources_per_trial=tune.PlacementGroupFactory([resources]),
        reuse_actors=True,
        max_failures=MAX_FAILURES,
        trial_dirname_creator=lambda trial: trial.trial_id,
        raise_on_failed_trial=False,
        verbose=0,
    )


@contextmanager
def _running(cluster: Cluster | None, plan: Plan) -> Iterator[Cluster]:
    """The cluster that was given, or one of this machine for the time being."""
    if cluster is not None:
        yield cluster
        return
    check_local_cpus(plan.cpus_per_trial)
    with Cluster() as own:
        yield own


@contextmanager
def _signals(session: Session) -> Iterator[None]:
    """SIGINT and SIGTERM stop the search and save; a second one is not waited for. SIGUSR2 is the watchdog's."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:  # noqa: ARG001
        if session.is_closing:
            return  # it takes no time, and has to be whole
        if session.stopping.is_set():
            session.end_abruptly(KeyboardInterrupt())
        session.request_stop("interrupted")

    def lost(number: int, frame: object) -> None:  # noqa: ARG001
        if session.is_closing:
            return
        problem = "The Ray cluster does not answer any more. The study is saved: go on with --resume."
        session.end_abruptly(ClusterLost(problem))

    handlers = {signal.SIGINT: stop, signal.SIGTERM: stop, signal.SIGUSR2: lost}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    # Ray Tune sets a handler of its own for this one, and leaves it.
    before[signal.SIGUSR1] = signal.getsignal(signal.SIGUSR1)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tidy(storage: Storage) -> None:
    """Remove what Ray left: its state, which nobody restores from (and which is pickle), and empty trial folders."""
    root = Path(storage.address) / RAY_FOLDER
    if not storage.is_local or not root.is_dir():
        return
    for path in root.iterdir():
        if path.is_file():
            path.unlink()
        elif not any(path.glob("checkpoint_*/*")):
            shutil.rmtree(path, ignore_errors=True)
