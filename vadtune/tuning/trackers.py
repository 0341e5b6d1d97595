"""TensorBoard, MLflow and Weights & Biases: one class each, named in the union `Tracker`.

The study stays the record of a run. A tracker is a copy for people who look there: it costs the search's loop 4 ms a
report and more, so there is none unless asked for, and none is imported before.
"""

import importlib.util
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from vadtune.errors import ConfigError, first_line
from vadtune.settings import Settings

if TYPE_CHECKING:
    from ray.tune.logger import LoggerCallback

Errors = tuple[type[Exception], ...]


class TensorBoard(Settings):
    """Event files in `tensorboard/trial-N` of the run folder: `tensorboard --logdir runs/NAME/tensorboard`."""

    kind: Literal["tensorboard"] = "tensorboard"
    package: ClassVar[str] = "tensorboardX"
    requirement: ClassVar[str] = "tensorboardX"
    has_files: ClassVar[bool] = True

    def open(self, folder: Path) -> "LoggerCallback":  # noqa: ARG002 – it writes where its trials are
        """Ray's callback."""
        from ray.tune.logger import TBXLoggerCallback

        return TBXLoggerCallback()  # type: ignore[no-untyped-call]

    def errors(self) -> Errors:
        """What it raises when it cannot write."""
        return (OSError, ValueError)


class MLflow(Settings):
    """A run per trial, in an experiment named like the run folder, where MLFLOW_TRACKING_URI says."""

    kind: Literal["mlflow"] = "mlflow"
    package: ClassVar[str] = "mlflow"
    requirement: ClassVar[str] = "mlflow-skinny"
    has_files: ClassVar[bool] = False

    def open(self, folder: Path) -> "LoggerCallback":
        """Ray's callback, connected."""
        # MLflow tells its makers about its use unless it is asked not to; who wants that sets the variable.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        callback = MLflowLoggerCallback(experiment_name=folder.name)
        callback.setup()  # type: ignore[no-untyped-call]
        return callback

    def errors(self) -> Errors:
        """What it raises when its store or server does not answer."""
        from mlflow.exceptions import MlflowException

        return (MlflowException, OSError, ValueError)


class WandB(Settings):
    """A run per trial, grouped by run folder, in the project WANDB_PROJECT_NAME, else `vadtune`.

    WANDB_MODE=offline needs no account.
    """

    kind: Literal["wandb"] = "wandb"
    package: ClassVar[str] = "wandb"
    requirement: ClassVar[str] = "wandb"
    has_files: ClassVar[bool] = True

    def open(self, folder: Path) -> "LoggerCallback":
        """The callback, its account found."""
        from vadtune.tuning.wandb_runs import WandBRuns

        return WandBRuns(os.environ.get("WANDB_PROJECT_NAME", "vadtune"), folder.name)

    def errors(self) -> Errors:
        """What it raises when it has no account, no server or no space."""
        from wandb.errors import Error

        return (Error, OSError, ValueError)


Tracker = Annotated[TensorBoard | MLflow | WandB, Field(discriminator="kind")]


def check_installed(trackers: tuple[Tracker, ...]) -> None:
    """Look for the packages without importing them.

    Raises:
        ConfigError: One is missing.
    """
    missing = [tracker for tracker in trackers if importlib.util.find_spec(tracker.package) is None]
    if missing:
        kinds = ",".join(tracker.kind for tracker in missing)
        packages = " ".join(tracker.requirement for tracker in missing)
        raise ConfigError(f"--log-to {kinds}: not installed. pip install {packages}")


def open_tracker(tracker: Tracker, folder: Path) -> "LoggerCallback":
    """The callback of a tracker, which has found its server, store or key.

    Raises:
        ConfigError: It has not.
    """
    check_installed((tracker,))
    try:
        return tracker.open(folder)
    except tracker.errors() as error:
        raise ConfigError(f"--log-to {tracker.kind}: {first_line(error)}") from None
