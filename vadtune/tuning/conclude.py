"""The end of a search: its best trials are scored once on the test rows, exported, and set beside baselines."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vadtune.data.datasets import load
from vadtune.data.masks import Block, Mar, Mcar, Mnar
from vadtune.data.metrics import rmse, rmse_minmax
from vadtune.data.splits import DataConfig, Splits, split
from vadtune.data.tables import FloatArray, Table
from vadtune.errors import ConfigError
from vadtune.models.base import Model
from vadtune.settings import Nested
from vadtune.training.artifact import Artifact, save_artifact
from vadtune.training.config import TrialConfig
from vadtune.training.evaluation import (
    Arrays,
    Scores,
    cells,
    collect,
    column_mean_over_rates,
    complete,
    gallery,
    hide,
    latents_2d,
    reconstruct,
    score,
    score_over_rates,
)
from vadtune.training.run import load_best_model
from vadtune.tuning.baselines import BaselineResult
from vadtune.tuning.storage import Storage
from vadtune.tuning.study import BestTrial

# Curves over rates and mechanisms repeat the inference 13 times: enough rows for two digits are enough rows.
MAX_CURVE_ROWS = 200
N_PICTURES = 10


@dataclass(frozen=True, eq=False)
class Problem:
    """A table, what is hidden in it, and its splits."""

    table: Table
    config: DataConfig
    splits: Splits

    def describe(self) -> Nested:
        """What an artifact says about the table it was trained on."""
        train, validation, test = (len(part) for part in self.splits.indices)
        return {
            "name": self.table.name,
            "source": self.table.source,
            "sha256": self.table.sha256,
            "n_rows": self.table.n_rows,
            "n_features": self.table.n_features,
            "unit": self.table.unit,
            "n_train": train,
            "n_validation": validation,
            "n_test": test,
            "hidden": self.config.model_dump(mode="json"),
        }


def load_problem(config: DataConfig, data_dir: Path) -> Problem:
    """Load the table, split its rows and hide cells."""
    table = load(config.dataset, data_dir=data_dir)
    return Problem(table, config, split(table, config))


@dataclass(frozen=True, eq=False)
class Winner:
    """An exported trial."""

    trial: BestTrial
    artifact: Artifact
    x_hat: Any
    scores: Scores
    folder: Path


def export_trial(trial: BestTrial, storage: Storage, problem: Problem, folder: Path) -> Winner:
    """Score a trial's best epoch on the test rows by a cold, converged inference, and write its artifact.

    Raises:
        ConfigError: The trial has no checkpoint.
    """
    if trial.checkpoint is None:
        raise ConfigError(
            f"trial {trial.number} has no checkpoint any more. Train it: vadtune.train --from RUN:{trial.number}"
        )
    with storage.fetched(trial.checkpoint) as checkpoint:
        config, model = load_best_model(checkpoint, problem.table.n_features)
    return export_model(config, model, trial, problem, folder)


def export_model(config: TrialConfig, model: Model, trial: BestTrial, problem: Problem, folder: Path) -> Winner:
    """Score a model on the test rows and write its artifact."""
    metrics = {"validation_rmse": trial.value, "trial": trial.number, "epoch": trial.epoch}
    artifact, x_hat, scores = scored(config, model, problem, metrics)
    return Winner(trial, artifact, x_hat, scores, save_artifact(artifact, folder))


def scored(config: TrialConfig, model: Model, problem: Problem, metrics: Nested) -> tuple[Artifact, FloatArray, Scores]:
    """An artifact whose metrics are those given and the scores on the test rows, beside these scores.

    Returns:
        The artifact, its reconstruction of the test rows `(N, D)` in scaled units, and the scores.
    """
    table, splits = problem.table, problem.splits
    artifact = Artifact(model, config, splits.scaler, table.columns, table.image_shape, problem.describe())
    x_hat = reconstruct(artifact, splits.test)
    scores = score(x_hat, splits.test, splits.column_range)
    tested = {f"test_{name}": value for name, value in asdict(scores).items()}
    return replace(artifact, metrics=metrics | tested), x_hat, scores


def score_baselines(results: Mapping[str, BaselineResult], splits: Splits) -> Nested:
    """Scores of the baselines over the same hidden cells; one that did not finish says so."""
    scores: Nested = {}
    for name, result in results.items():
        if result.x_hat is None:
            scores[name] = {"failure": result.failure, "seconds": result.seconds}
            continue
        truth = splits.test.truth
        scores[name] = {
            "test_rmse": rmse(result.x_hat, truth),
            "test_rmse_minmax": rmse_minmax(result.x_hat, truth, splits.column_range),
            "seconds": result.seconds,
        }
    return scores


def summarise_winner(winner: Winner) -> Nested:
    """What the result of a search says about its best trial."""
    scores = winner.scores
    return {
        "trial": winner.trial.number,
        "params": winner.trial.params,
        "validation_rmse": winner.trial.value,
        "test_rmse": scores.rmse,
        "test_rmse_minmax": scores.rmse_minmax,
        "test_mae": scores.mae,
        "observed_rmse": scores.observed_rmse,
        "all_rmse": scores.all_rmse,
        "is_complete": winner.trial.is_complete,
        "epoch": winner.trial.epoch,
        "artifact": str(winner.folder),
    }


def evaluation_arrays(winner: Winner, problem: Problem) -> Arrays:
    """What the figures of the report show, beyond the study."""
    artifact, table, splits, seed = winner.artifact, problem.table, problem.splits, problem.config.seed
    known = complete(splits.test)[:MAX_CURVE_ROWS]
    mechanism, rate = problem.config.mechanism, problem.config.test_missing_rate or problem.config.missing_rate
    labels = None if table.labels is None else table.labels[splits.indices[2]]
    center = np.nanmean(splits.train.rows.x, 0) if table.unit == "pixel" else np.zeros(table.n_features)
    parts = [
        partial(latents_2d, artifact, splits.test, labels),
        partial(_rates, artifact, known, mechanism, seed, np.nan_to_num(center)),
        partial(_mechanisms, artifact, known, rate or 0.3, seed),
    ]
    if table.image_shape:
        parts.append(partial(gallery, artifact, known[:N_PICTURES], (0.3, 0.5, 0.8), mechanism, seed))
    else:
        parts.append(partial(cells, artifact, winner.x_hat, splits.test, seed))
    return collect(parts)


def write_json(path: Path, document: object) -> None:
    """Write a JSON document into a temporary file beside its place, then rename it."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)


def write_arrays(path: Path, arrays: Arrays) -> None:
    """Write arrays as `.npz` in the same way."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _rates(artifact: Artifact, known: Any, mechanism: Any, seed: int, center: Any) -> Arrays:
    from vadtune.training.evaluation import RATES

    return {
        "rate_grid": np.array(RATES),
        "rate_rmse": score_over_rates(artifact, known, mechanism, seed),
        "rate_baseline_mean": column_mean_over_rates(center, known, mechanism, seed, artifact.image_shape),
    }


def _mechanisms(artifact: Artifact, known: Any, rate: float, seed: int) -> Arrays:
    names, errors = [], []
    for mechanism in (Mcar(), Mar(), Mnar(), Block()):
        try:
            holdout = hide(known, mechanism, rate, seed, artifact.image_shape)
        except ConfigError:
            continue  # a mechanism that this table does not allow, such as MAR with one column
        names.append(mechanism.kind)
        errors.append(rmse(reconstruct(artifact, holdout), holdout.truth))
    return {"mechanism_names": np.array(names), "mechanism_rmse": np.array(errors)}
