"""The runs of a real search: `training.run.TrialRun`, made in the workers; who only sends for them needs no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vadtune.data.splits import Holdout, Rows
from vadtune.settings import Nested, merge, parse
from vadtune.training.config import TrialConfig

if TYPE_CHECKING:
    from vadtune.training.run import TrialRun


@dataclass(frozen=True, eq=False)
class TrialData:
    """What trials are made of: rows to train on, and rows with hidden cells to compare them by."""

    train: Rows
    validation: Holdout


@dataclass(frozen=True)
class TrialRuns:
    """Makes `TrialRun`s of `TrialData`."""

    def prepare_process(self, seed: int, n_threads: int) -> None:
        """Reset what trials of one process share in torch."""
        import torch

        torch.set_num_threads(n_threads)
        torch.set_default_dtype(torch.float32)
        torch.manual_seed(seed)

    def start(self, config: Nested, data: TrialData, max_epochs: int, device: str) -> "TrialRun":
        """Begin a trial."""
        from vadtune.training.run import TrialRun

        return TrialRun(trial_config(config, max_epochs), data.train, data.validation, device)

    def load(self, folder: Path, config: Nested, data: TrialData, max_epochs: int, device: str) -> "TrialRun":  # noqa: ARG002
        """Go on with a saved trial, under the settings it was saved with."""
        from vadtune.training.run import TrialRun

        return TrialRun.load(folder, data.train, data.validation, device)


def trial_config(config: Nested, max_epochs: int) -> TrialConfig:
    """The settings of a trial, which is to run for `max_epochs`.

    Raises:
        ConfigError: The values do not go together.
    """
    return parse(TrialConfig, merge(config, {"train": {"n_epochs": max_epochs}}), "trial")
