"""The search: a fresh Tuner over a study, which may have a past."""

import io
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from vadtune.data.storage import RAY_FOLDER
from vadtune.errors import VadtuneError
from vadtune.tuning.cluster import GONE, Cluster, ClusterLost, Watchdog, interrupt_main_thread, landmarks, quiet_ray
from vadtune.tuning.database import StudyLost, database_errors, first_line
from vadtune.tuning.lock import locked
from vadtune.tuning.plan import Outcome, Plan
from vadtune.tuning.preflight import check_folder, check_local_cpus, clear_leftovers, fills_machine
from vadtune.tuning.progress import Progress, Silent
from vadtune.tuning.runs import Job, RunFactory
from vadtune.tuning.schedulers import report_epochs
from vadtune.tuning.session import Session

__all__ = ["Outcome", "Plan", "run_search"]

# How often a trial whose worker died begins again, from its last checkpoint.
MAX_FAILURES = 2
# Reports of so many seconds come together, where nothing but a rung decides on them.
TOGETHER_S = 0.5
# To save a small trial takes 20 ms, at every rung; workers die seldom, and then so much of a trial is done again.
SAVE_AFTER_S = 1.0


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
        ConfigError: The folder is taken or cannot be written, or the resources or trackers are not there.
        ClusterLost: The cluster does not answer any more; the study is saved.
        StudyLost: The study's database does not.
        KeyboardInterrupt: A second interrupt, while the first was being obeyed; the study is saved.
    """
    check_folder(plan.folder)
    try:
        return _run(Session(plan, progress or Silent()), data, runs, cluster)
    except database_errors() as error:
        problem = f"The database of the study does not answer: {first_line(error)}. Go on with --resume when it does."
        raise StudyLost(problem) from None


def _run(session: Session, data: Any, runs: RunFactory, cluster: Cluster | None) -> Outcome:
    plan = session.plan
    with locked(plan.folder), quiet_ray():
        clear_leftovers(plan.folder)
        tracked = _trackers(session)
        with _signals(session), _running(cluster, plan) as ray_cluster:
            try:
                session.prepare()
                if not session.ledger.is_exhausted():
                    session.wait_for(ray_cluster)
                    if not session.stopping.is_set():
                        _search(session, data, runs, tracked)
            except ClusterLost:
                ray_cluster.abandon()
                raise
            finally:
                session.close()
        session.tell()  # what was noted since the last time, which in a short search may be all
        return session.outcome()


def _search(session: Session, data: Any, runs: RunFactory, tracked: list[Any]) -> None:
    from ray.tune.error import TuneError

    session.phase = "searching"
    try:
        with Watchdog(*landmarks(), interrupt_main_thread), redirect_stdout(io.StringIO()), _light(), _hushed():
            _tune(session, data, runs, tracked)
    except (KeyboardInterrupt, VadtuneError, SystemError, TuneError):
        # What a signal's handler raises may come out of Ray as something else.
        if session.abrupt is None:
            raise
        raise session.abrupt from None
    session.marks["search"] = time.monotonic()


def _tune(session: Session, data: Any, runs: RunFactory, tracked: list[Any]) -> None:
    from ray import tune

    from vadtune.tuning.searcher import End, Events, Governor, Proposals
    from vadtune.tuning.trainable import Trainable

    plan, ledger = session.plan, session.ledger
    resources = {"CPU": plan.cpus_per_trial} | ({"GPU": plan.gpus_per_trial} if plan.gpus_per_trial else {})
    tune.run(
        tune.with_parameters(Trainable, data=data, job=_job(plan, runs)),
        name=RAY_FOLDER,
        storage_path=plan.storage.address,
        num_samples=-1,
        search_alg=Proposals(ledger, session),
        scheduler=Governor(plan.scheduler.build(plan.max_epochs), ledger, session, plan.max_epochs),
        callbacks=[Events(ledger, plan.storage, session), *tracked],
        stop=End(session),
        resources_per_trial=tune.PlacementGroupFactory([resources]),
        reuse_actors=True,
        max_failures=MAX_FAILURES,
        trial_dirname_creator=lambda trial: trial.trial_id,
        raise_on_failed_trial=False,
        verbose=0,
    )


@contextmanager
def _light() -> Iterator[None]:
    """Keep Ray from what nobody asks for.

    It counts callbacks: to tell whose they are it imports MLflow and W&B where they are installed. And at the end,
    while no trial runs, it writes the state of all of them for a Tuner to restore, at 10 ms a trial, and looks for that
    to analyse: the study is all this.
    """
    from ray.air._internal import usage
    from ray.tune import tune
    from ray.tune.execution.tune_controller import TuneController

    instead: list[tuple[Any, str, Any]] = [
        (usage, "tag_callbacks", lambda callbacks: not callbacks),
        (TuneController, "checkpoint", lambda *_, **__: None),
        (tune, "ExperimentAnalysis", lambda **_: None),
    ]
    before = [(where, name, getattr(where, name)) for where, name, _ in instead]
    try:
        for where, name, replacement in instead:
            setattr(where, name, replacement)
        yield
    finally:
        for where, name, kept in before:
            setattr(where, name, kept)


@contextmanager
def _hushed() -> Iterator[None]:
    """Keep Ray from sending an environment with each trial: its workers have ours, see `cluster`.

    AWS keys in it would lie open in its store, its dashboard and its logs; and a trial that brings none can have a
    worker that was started before the driver had anything to run.
    """
    from ray.tune.execution import class_cache

    kept = class_cache.ENV_VARS_TO_PROPAGATE, class_cache.DEFAULT_ENV_VARS
    class_cache.ENV_VARS_TO_PROPAGATE, class_cache.DEFAULT_ENV_VARS = set(), {}
    try:
        yield
    finally:
        class_cache.ENV_VARS_TO_PROPAGATE, class_cache.DEFAULT_ENV_VARS = kept


def _trackers(session: Session) -> list[Any]:
    if not session.plan.trackers:
        return []
    from vadtune.tuning.tracked import Tracked

    return [Tracked(tracker, session.plan.folder, session.notes.append) for tracker in session.plan.trackers]


def _job(plan: Plan, runs: RunFactory) -> Job:
    return Job(
        runs=runs,
        max_epochs=plan.max_epochs,
        report_epochs=report_epochs(plan.rungs, plan.max_epochs),
        rungs=plan.rungs,
        device=plan.device,
        n_threads=max(1, int(plan.cpus_per_trial)),
        storage=plan.storage,
        together_s=TOGETHER_S if plan.scheduler.decides_at_rungs else 0.0,
        save_after_s=SAVE_AFTER_S,
    )


@contextmanager
def _running(cluster: Cluster | None, plan: Plan) -> Iterator[Cluster]:
    """The cluster that was given, or one of this machine for the time being."""
    if cluster is not None:
        yield cluster
        return
    check_local_cpus(plan.cpus_per_trial)
    one_each = fills_machine(plan.n_trials, plan.concurrent, plan.cpus_per_trial, plan.gpus_per_trial)
    with Cluster(one_each=one_each) as own:
        yield own


@contextmanager
def _signals(session: Session) -> Iterator[None]:
    """SIGINT and SIGTERM stop the search and save; a second one is not waited for. SIGUSR2 is the watchdog's."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:  # noqa: ARG001
        signal.alarm(0)  # Ray's handler may have been there first: it gives a process three seconds
        if session.is_closing:
            return  # it takes no time, and has to be whole
        if session.stopping.is_set() and not session.is_overtime:
            session.end_abruptly(KeyboardInterrupt())
        session.request_stop("interrupted")

    def lost(number: int, frame: object) -> None:  # noqa: ARG001
        if session.is_closing:
            return
        session.end_abruptly(ClusterLost(GONE))

    handlers = {signal.SIGINT: stop, signal.SIGTERM: stop, signal.SIGUSR2: lost}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    # Ray Tune sets a handler of its own for this one, and leaves it.
    before[signal.SIGUSR1] = signal.getsignal(signal.SIGUSR1)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
