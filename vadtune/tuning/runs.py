"""What a trial is to the search: something that advances, is scored and can be saved."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from vadtune.data.storage import Storage
from vadtune.settings import Nested


class Run(Protocol):
    """A trial in the making; see `training.run.TrialRun`."""

    best_epoch: int
    train_s: float
    infer_s: float

    @property
    def epoch(self) -> int:
        """How many epochs are done."""
        ...

    def advance(self, to_epoch: int) -> float:
        """Train up to an epoch; returns the imputation_rmse there. Raises Diverged."""
        ...

    def finish(self) -> float:
        """The imputation_rmse of the best epoch, by a cold and converged inference."""
        ...

    def save(self, folder: Path) -> None:
        """Write all that `RunFactory.load` needs."""
        ...


class RunFactory(Protocol):
    """Makes runs. It travels to the workers: an instance of a class that they can import."""

    def prepare_process(self, seed: int, n_threads: int) -> None:
        """Reset what trials of one process share: threads, random numbers, default types."""
        ...

    def start(self, config: Nested, data: Any, max_epochs: int, device: str) -> Run:
        """Begin a trial; `config` holds its seed."""
        ...

    def load(self, folder: Path, config: Nested, data: Any, max_epochs: int, device: str) -> Run:
        """Go on with a saved trial."""
        ...


@dataclass(frozen=True)
class Job:
    """What all trials of a search share, beside the data.

    Attributes:
        together_s: Reports of so many seconds may come together, but none from behind a rung.
        save_after_s: At a rung a run is saved if that keeps so many seconds of work from being lost.
    """

    runs: RunFactory
    max_epochs: int
    report_epochs: tuple[int, ...]
    rungs: tuple[int, ...]
    device: str
    n_threads: int
    storage: Storage
    together_s: float = 0.0
    save_after_s: float = 0.0
