"""Models fitted side by side, after a search, where its trials ran."""

import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import repeat

import torch

from vadtune.data.splits import Rows
from vadtune.errors import NoUsableTrial
from vadtune.models.base import Model
from vadtune.training.config import TrialConfig
from vadtune.training.device import side_by_side
from vadtune.training.fitting import fit_to_the_end
from vadtune.training.trainer import Trainer
from vadtune.tuning.cluster import GONE, Cluster, ClusterLost, Watchdog, landmarks
from vadtune.tuning.plan import Plan
from vadtune.tuning.trial_runs import TrialRuns

POLL_S = 0.2
# Cells of a table that is fitted before a worker would have started that is no fork: 2 to 5 s later.
SMALL = 150_000


@dataclass(frozen=True)
class Fit:
    """Settings to train with, and for how many epochs: all that they say, if None."""

    config: TrialConfig
    n_epochs: int | None


class Fitter:
    """Fits models with the resources of a trial each, or more.

    Args:
        plan: Of the search.
        cluster: Where it ran; None: fit here, as small tables are anyway where workers take long to start.
    """

    def __init__(self, plan: Plan, cluster: Cluster | None = None) -> None:
        self.plan, self.cluster = plan, cluster

    @property
    def n_together(self) -> int:
        """How many models are fitted at once, on one machine; on a cluster it is taken to have room for all."""
        if self.cluster is not None and self.cluster.address is not None:
            return sys.maxsize
        room = (os.cpu_count() or 1) // self.plan.cpus_per_trial
        if self.plan.gpus_per_trial:
            room = min(room, torch.cuda.device_count() // self.plan.gpus_per_trial)
        return max(1, int(room))

    def __call__(self, rows: Rows, fits: Sequence[Fit]) -> list[Model | NoUsableTrial]:
        """Train on all that is observed of the rows.

        Returns:
            A model for each fit, on the CPU, or why it is none.

        Raises:
            ClusterLost: The cluster does not answer any more.
        """
        if self.cluster is None or (rows.x.size <= SMALL and not self.cluster.forks_workers):
            return _fit_here(rows, fits)
        return self._fit_by_ray(self.cluster, rows, fits)

    def _fit_by_ray(self, cluster: Cluster, rows: Rows, fits: Sequence[Fit]) -> list[Model | NoUsableTrial]:
        while not cluster.is_ready(POLL_S):
            pass
        import ray

        lost = threading.Event()
        with Watchdog(*landmarks(), lost.set):
            n_cpus = self._cpus_each(cluster, len(fits))
            task = ray.remote(_fit_there).options(num_cpus=n_cpus, num_gpus=self.plan.gpus_per_trial)
            there = ray.put(rows)
            promised = [task.remote(there, fit, self.plan.device, max(1, int(n_cpus))) for fit in fits]
            waiting = promised
            while waiting and not lost.is_set():
                _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=POLL_S)
        if lost.is_set():
            cluster.abandon()
            raise ClusterLost(GONE)
        return [self._collect(ref, rows, fit) for ref, fit in zip(promised, fits, strict=True)]

    def _cpus_each(self, cluster: Cluster, n_fits: int) -> float:
        """Those of a trial; on one machine more, if some would be left over."""
        n_cpus = (os.cpu_count() or 1) // n_fits if cluster.address is None else 0
        return max(self.plan.cpus_per_trial, n_cpus)

    def _collect(self, ref: object, rows: Rows, fit: Fit) -> Model | NoUsableTrial:
        import ray
        from ray.exceptions import RayError

        try:
            found: Model | NoUsableTrial = ray.get(ref)  # type: ignore[call-overload]
        except RayError:  # its worker died again and again: no node may have memory left
            return _fit_here(rows, [fit])[0]
        return found


def _fit_here(rows: Rows, fits: Sequence[Fit]) -> list[Model | NoUsableTrial]:
    # First weights come from torch's one generator.
    trainers = [Trainer(fit.config, rows, torch.device("cpu")) for fit in fits]
    cancelled = threading.Event()
    with side_by_side(len(fits)) as jobs:
        try:
            lengths = [fit.n_epochs for fit in fits]
            return list(jobs.map(_fit, trainers, lengths, repeat(cancelled.is_set)))
        except BaseException:
            cancelled.set()
            raise


def _fit_there(rows: Rows, fit: Fit, device: str, n_threads: int) -> Model | NoUsableTrial:
    TrialRuns().prepare_process(fit.config.seed, n_threads)
    return _fit(Trainer(fit.config, rows, torch.device(device)), fit.n_epochs)


def _fit(trainer: Trainer, n_epochs: int | None, is_cancelled: Callable[[], bool] = bool) -> Model | NoUsableTrial:
    try:
        return fit_to_the_end(trainer, n_epochs, is_cancelled)
    except NoUsableTrial as error:
        return error
