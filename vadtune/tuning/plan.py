"""What a search is to do, and how it ended."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vadtune.data.storage import Storage
from vadtune.tuning.database import Database
from vadtune.tuning.samplers import Sampler
from vadtune.tuning.schedulers import Scheduler
from vadtune.tuning.space import Space
from vadtune.tuning.trackers import Tracker

End = Literal["finished", "time budget", "interrupted"]


N_FURTHER_FITS = 4
N_CANDIDATES = 2  # members are chosen among so many times their number


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
        n_further_fits: How often the winner is fitted again after the search, within the time budget.
        keep_top: Of how many of the best complete trials to keep the checkpoint.
        database: Where the study is, if several drivers share it; its file in the run folder is a copy then.
        trackers: Who else is told what happens.
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
    n_further_fits: int = 0
    keep_top: int = 1
    database: Database | None = None
    trackers: tuple[Tracker, ...] = ()

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
        seconds_by_phase: Its parts: `start` (until Ray is there), `search`, `stop`; a command adds what follows.
        copy_problem: Why the record of the run could not be copied to its storage at last; None if it was.
    """

    end: End
    trials: dict[str, int]
    seconds: float
    seconds_by_phase: dict[str, float] = field(default_factory=dict)
    copy_problem: str | None = None


def n_further_fits(*, is_small: bool, n_members: int, asked: bool | None) -> int:
    """How often to fit a winner further: in small tables the validation rows are missed in training.

    Args:
        is_small: Whether the table is.
        n_members: How many trials may be averaged; no further fits come where one model is asked.
        asked: Whether to train after the search; None: where it serves.
    """
    return N_FURTHER_FITS if is_small and n_members > 1 and asked is not False else 0


def n_kept(n_top: int, n_members: int) -> int:
    """Of how many trials the checkpoints are needed to export the best `n_top` and an ensemble."""
    return max(n_top, N_CANDIDATES * n_members if n_members > 1 else 1)
