"""What stops trials: one class each, named in the union `Scheduler`.

Ray is imported where a scheduler is built, so that commands which only name one start quickly.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from vadtune.settings import Settings

if TYPE_CHECKING:
    from ray.tune.schedulers import (
        AsyncHyperBandScheduler,
        FIFOScheduler,
        HyperBandScheduler,
        MedianStoppingRule,
        TrialScheduler,
    )

OBJECTIVE = "imputation_rmse"
TIME = "epoch"
# From which share of its epochs on a first point can be far behind, and how far above the lowest error at equal
# progress that is. Measured in benchmarks/README.md, "What ideas were worth".
FAR_BEHIND = ((0.5, 1.25), (0.25, 1.4))
# Ray's name of a trial, and what it reported: epoch -> imputation_rmse.
Histories = Mapping[str, Mapping[int, float]]


class ASHA(Settings):
    """Asynchronous successive halving, one bracket: at every rung the best quarter goes on.

    The stopping variant: nothing is paused, and the first trial to reach a rung always passes. So do the first points
    of a space; they are stopped once they are far behind, see `is_far_behind`.

    Source: Li et al. (2020), A system for massively parallel hyperparameter tuning, MLSys.
    """

    decides_at_rungs: ClassVar[bool] = True
    kind: Literal["asha"] = "asha"
    reduction_factor: int = Field(4, ge=2)
    grace: int | None = Field(None, ge=1, description="First rung; a sixteenth of the epochs if not given.")

    def rungs(self, max_epochs: int) -> tuple[int, ...]:
        """The epochs at which trials are compared, below `max_epochs`."""
        return _geometric(self._first_rung(max_epochs), self.reduction_factor, max_epochs)

    def build(self, max_epochs: int) -> "AsyncHyperBandScheduler":
        """Ray's scheduler."""
        from ray.tune.schedulers import AsyncHyperBandScheduler

        return AsyncHyperBandScheduler(
            time_attr=TIME,
            metric=OBJECTIVE,
            mode="min",
            max_t=max_epochs,
            grace_period=self._first_rung(max_epochs),
            reduction_factor=self.reduction_factor,
        )

    def _first_rung(self, max_epochs: int) -> int:
        # Rounded up: of 300 epochs rungs at 18, 72, 288 would stop trials that are as good as done; they are 19, 76.
        return min(max_epochs, self.grace or math.ceil(max_epochs / self.reduction_factor**2))


class HyperBand(Settings):
    """Synchronous HyperBand: several brackets that trade the number of trials against their epochs.

    Paused trials keep a checkpoint. A resumed search begins with empty brackets.

    Source: Li et al. (2018), Hyperband, JMLR 18(185).
    """

    decides_at_rungs: ClassVar[bool] = False
    kind: Literal["hyperband"] = "hyperband"
    reduction_factor: int = Field(3, ge=2)

    def rungs(self, max_epochs: int) -> tuple[int, ...]:
        """The epochs at which some bracket compares its trials, below `max_epochs`."""
        n_brackets = round(math.log(max_epochs) / math.log(self.reduction_factor)) + 1
        starts = {int(max_epochs * self.reduction_factor**-s) for s in range(n_brackets)} - {0}
        rungs = {rung for start in starts for rung in _geometric(start, self.reduction_factor, max_epochs)}
        return tuple(sorted(rungs))

    def build(self, max_epochs: int) -> "HyperBandScheduler":
        """Ray's scheduler."""
        from ray.tune.schedulers import HyperBandScheduler

        return HyperBandScheduler(
            time_attr=TIME,
            metric=OBJECTIVE,
            mode="min",
            max_t=max_epochs,
            reduction_factor=self.reduction_factor,
        )


class Median(Settings):
    """Stops a trial whose best value is worse than the median of the others' running means.

    Source: Golovin et al. (2017), Google Vizier, KDD.
    """

    decides_at_rungs: ClassVar[bool] = False
    kind: Literal["median"] = "median"
    grace: int | None = Field(None, ge=1, description="No trial is stopped before; a ninth of the epochs if not given.")
    min_trials: int = Field(3, ge=1)

    def rungs(self, max_epochs: int) -> tuple[int, ...]:
        """The epochs at which trials are compared: every ninth of the whole after the grace."""
        first = self._first_rung(max_epochs)
        return tuple(range(first, max_epochs, max(1, round(max_epochs / 9))))

    def build(self, max_epochs: int) -> "MedianStoppingRule":
        """Ray's scheduler."""
        from ray.tune.schedulers import MedianStoppingRule

        return MedianStoppingRule(
            time_attr=TIME,
            metric=OBJECTIVE,
            mode="min",
            grace_period=self._first_rung(max_epochs),
            min_samples_required=self.min_trials,
            # Anything finite pauses trials while there are too few to compare.
            min_time_slice=math.inf,  # type: ignore[arg-type]
        )

    def _first_rung(self, max_epochs: int) -> int:
        return min(max_epochs, self.grace or max(1, round(max_epochs / 9)))


class NoScheduler(Settings):
    """Lets every trial run to its end."""

    decides_at_rungs: ClassVar[bool] = True
    kind: Literal["none"] = "none"

    def rungs(self, max_epochs: int) -> tuple[int, ...]:  # noqa: ARG002
        """There are none."""
        return ()

    def build(self, max_epochs: int) -> "FIFOScheduler":  # noqa: ARG002
        """Ray's scheduler."""
        from ray.tune.schedulers import FIFOScheduler

        return FIFOScheduler()  # type: ignore[no-untyped-call]


Scheduler = Annotated[ASHA | HyperBand | Median | NoScheduler, Field(discriminator="kind")]
SCHEDULERS: tuple[str, ...] = ("asha", "hyperband", "median", "none")


def report_epochs(rungs: tuple[int, ...], max_epochs: int, n_reports: int = 20) -> tuple[int, ...]:
    """The epochs at which a trial reports: all rungs, some twenty evenly spaced ones that are near none, the last.

    A report is an inference, which takes a quarter of a short trial's time.
    """
    half = max_epochs / n_reports / 2
    even = {math.ceil(max_epochs * i / n_reports) for i in range(1, n_reports + 1)}
    apart = {epoch for epoch in even if all(abs(epoch - rung) >= half for rung in rungs)}
    return tuple(sorted(apart | set(rungs) | {1, max_epochs}))


def is_far_behind(progress: float, value: float, lowest: float) -> bool:
    """Whether a first point has no hope of serving, not even in an ensemble.

    Args:
        progress: Share of its epochs that are done.
        value: Its lowest error so far.
        lowest: That of all trials when they had come as far.
    """
    excess = next((excess for share, excess in FAR_BEHIND if progress >= share), math.inf)
    return value > excess * lowest


def seed_rungs(scheduler: "TrialScheduler", histories: Histories) -> None:
    """Tell Ray's scheduler what trials reported before it existed.

    ASHA and the median rule remember; the others have no use for it.
    """
    from ray.tune.schedulers import AsyncHyperBandScheduler, MedianStoppingRule

    if isinstance(scheduler, AsyncHyperBandScheduler):
        _seed_asha(scheduler, histories)
    elif isinstance(scheduler, MedianStoppingRule):
        # The rule looks at the last report of every trial it knows: one without any would break it.
        for name, history in ((name, history) for name, history in histories.items() if history):
            reports = [{TIME: epoch, OBJECTIVE: value} for epoch, value in sorted(history.items())]
            scheduler._results[name].extend(reports)


def _seed_asha(scheduler: "AsyncHyperBandScheduler", histories: Histories) -> None:
    for bracket in scheduler._brackets:
        for milestone, recorded in bracket._rungs:
            rung = int(milestone)
            recorded.update({name: -history[rung] for name, history in histories.items() if rung in history})


def _geometric(first: int, factor: int, below: int) -> tuple[int, ...]:
    rungs = []
    rung = first
    while rung < below:
        rungs.append(rung)
        rung *= factor
    return tuple(rungs)
