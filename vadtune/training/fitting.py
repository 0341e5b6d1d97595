"""A model of a whole table, outside of any search: of all that is observed, or with some rows held back."""

from collections.abc import Callable

import numpy as np
import torch

from vadtune.data.masks import mcar
from vadtune.data.splits import Holdout, Rows, Scaler, fit_units, hold_out
from vadtune.data.tables import Table
from vadtune.errors import DataError, Diverged, NoUsableTrial
from vadtune.models.base import Model
from vadtune.settings import Nested
from vadtune.training.adjustment import adjusted
from vadtune.training.artifact import Artifact
from vadtune.training.config import TrialConfig
from vadtune.training.run import TrialRun
from vadtune.training.trainer import Trainer

# Hidden in the rows that are held back, by which the best epoch is chosen.
HIDDEN_RATE = 0.2
N_CHECKS = 20


def fit_on_all(config: TrialConfig, table: Table, device: str, n_epochs: int | None = None) -> Artifact:
    """Train on every observed cell of a table: nothing is hidden, so nothing is known about the error.

    Args:
        config: The trial.
        table: N rows, at least one.
        device: Where to train.
        n_epochs: When to stop, if not at the last epoch; learning rates fall as if it were not the end.

    Returns:
        The model, on the CPU.

    Raises:
        NoUsableTrial: The training diverged.
    """
    scaler, codec = fit_units(table.values, table)
    trainer = Trainer(config, Rows(scaler.transform(table.values), codec), torch.device(device))
    return _artifact(fit_to_the_end(trainer, n_epochs), config, scaler, table, {})


def fit_to_the_end(trainer: Trainer, n_epochs: int | None, is_cancelled: Callable[[], bool] = bool) -> Model:
    """Train for so many epochs, or as many as its settings say.

    Args:
        trainer: Fresh, or as far as it is.
        n_epochs: When to stop, if not at the last epoch; learning rates fall as if it were not the end.
        is_cancelled: Asked before every epoch; what is there is returned once it says so.

    Returns:
        The model, on the CPU.

    Raises:
        NoUsableTrial: The training diverged.
    """
    try:
        while trainer.epoch < (n_epochs or trainer.settings.n_epochs) and not is_cancelled():
            trainer.fit_epoch()
    except Diverged as error:
        raise diverged(error) from None
    trainer.model.remember(trainer.posteriors)
    return trainer.model.cpu().eval()


def fit_watched(config: TrialConfig, table: Table, validation_share: float, device: str) -> Artifact:
    """Hold some rows back, hide cells in them, and keep the epoch that finds these best.

    Args:
        config: The trial; its seed chooses rows and cells, too.
        table: N rows.
        validation_share: Share of the rows to hold back, in (0, 1).
        device: Where to train.

    Returns:
        The model, on the CPU; its metrics are `validation_rmse` and `epoch`.

    Raises:
        DataError: Too few rows or cells.
        NoUsableTrial: The training diverged.
    """
    train, validation, scaler = _held_back(table, validation_share, config.seed)
    run = TrialRun(config, train, validation, device)
    n_epochs = config.train.n_epochs
    step = max(1, n_epochs // N_CHECKS)
    try:
        for epoch in [*range(step, n_epochs, step), n_epochs]:
            run.advance(epoch)
        metrics = {"validation_rmse": run.finish(), "epoch": run.best_epoch}
    except Diverged as error:
        raise diverged(error) from None
    artifact = _artifact(run.best_model(), config, scaler, table, metrics)
    return adjusted(artifact, validation, len(validation.truth), "validation_rmse")


def diverged(error: Diverged) -> NoUsableTrial:
    """What to tell a person whose training diverged."""
    return NoUsableTrial(
        f"The training diverged: {error}. Lower learning_rate or latent_learning_rate, or look for columns with "
        "extreme values."
    )


def _held_back(table: Table, share: float, seed: int) -> tuple[Rows, Holdout, Scaler]:
    rng = np.random.default_rng([seed, 2])
    order = rng.permutation(table.n_rows)
    n_validation = max(1, round(table.n_rows * share))
    chosen, rest = np.sort(order[:n_validation]), np.sort(order[n_validation:])
    hidden = mcar(table.values[chosen], HIDDEN_RATE, rng)
    if not rest.size or not hidden.any():
        raise DataError(
            f"{table.source}: {table.n_rows} rows are too few to hold {n_validation} back for validation. "
            "Give more rows or another validation_share."
        )
    scaler, codec = fit_units(table.values[rest], table)
    rows = Rows(scaler.transform(table.values[rest]), codec)
    return rows, hold_out(table.values[chosen], hidden, scaler, codec), scaler


def _artifact(model: Model, config: TrialConfig, scaler: Scaler, table: Table, metrics: Nested) -> Artifact:
    about = {
        "name": table.name,
        "source": table.source,
        "sha256": table.sha256,
        "n_rows": table.n_rows,
        "n_features": table.n_features,
        "unit": table.unit,
        "refitted": True,  # no rows are left to score it on
    }
    return Artifact(model.cpu().eval(), config, scaler, table.columns, about, metrics)
