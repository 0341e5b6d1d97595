"""What a search says while it runs."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class RunningTrial:
    """A trial that runs now: its number, the epoch of its last report and the imputation_rmse there (NaN before)."""

    number: int
    epoch: int
    value: float
    host: str | None


@dataclass(frozen=True)
class RungCount:
    """How many trials have reported at a rung, and how many of them it stopped; earlier sessions included."""

    epoch: int
    reached: int
    stopped: int


@dataclass(frozen=True)
class Snapshot:
    """The state of a search.

    Attributes:
        phase: A few words: `starting Ray`, `searching`, `saving 2 running trials`.
        complete, pruned, failed, waiting: Trials by state, those of earlier sessions included.
        running: Trials that run now.
        n_trials: How many trials are to end; None if only time limits the search.
        best_value: The lowest value of a complete trial, and its number; None before there is one.
        eta_s: Seconds until the end, as far as can be told.
        n_nodes: Nodes of the cluster.
        cpus_used, cpus: CPUs that trials hold, and all there are.
        gpus_used, gpus: The same of GPUs.
        rungs: The epochs at which trials are compared, in their order.
        notes: What a person should know, one line each, in the order it happened.
    """

    phase: str
    complete: int
    pruned: int
    failed: int
    waiting: int
    running: tuple[RunningTrial, ...]
    n_trials: int | None
    best_value: float | None
    best_trial: int | None
    elapsed_s: float
    time_budget_s: float | None
    eta_s: float | None
    n_nodes: int
    cpus_used: float
    cpus: float
    gpus_used: float = 0.0
    gpus: float = 0.0
    rungs: tuple[RungCount, ...] = ()
    notes: tuple[str, ...] = ()


class Progress(Protocol):
    """Whoever shows the state of a search."""

    def update(self, snapshot: Snapshot) -> None:
        """Called a few times a second, from the thread of the search: it has to be quick."""
        ...


class Silent:
    """Shows nothing."""

    def update(self, snapshot: Snapshot) -> None:
        """Nothing."""
