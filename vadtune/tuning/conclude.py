"""The end of a search: its best trials are scored once on the test rows, exported, and set beside baselines."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from vadtune.data.masks import Block, Mar, Mcar, Mnar, Pattern
from vadtune.data.normal import column_means
from vadtune.data.problem import Problem
from vadtune.data.splits import Holdout
from vadtune.data.storage import Storage
from vadtune.data.tables import FloatArray
from vadtune.errors import ConfigError
from vadtune.models.base import Model
from vadtune.models.objective import Posterior, as_tensor
from vadtune.settings import Nested
from vadtune.training.adjustment import adjusted
from vadtune.training.artifact import Artifact, save_artifact
from vadtune.training.calibration import calibration
from vadtune.training.config import TrialConfig
from vadtune.training.evaluation import (
    RATES,
    Arrays,
    Scores,
    cells,
    collect,
    complete,
    gallery,
    hide,
    latents_2d,
    reconstruct_each,
    score,
)
from vadtune.training.run import load_best_model
from vadtune.tuning.study import BestTrial

# Curves over rates and mechanisms repeat the inference 13 times: enough cells for two digits are enough.
MAX_CURVE_ROWS = 150
MAX_CURVE_CELLS = 40_000
N_PICTURES = 10
GALLERY_RATES = (0.3, 0.5, 0.8)


def validation_name(unit: str) -> str:
    """What the objective on validation cells is called: the mean error of a table with codes is no RMSE."""
    return "validation_error" if unit == "mixed" else "validation_rmse"


@dataclass(frozen=True, eq=False)
class Tested:
    """A model and what it made of the test rows: each member's posteriors, reconstruction `(N, D)` scaled, scores.

    `calibration` is whether it is as sure as it should be: see `training.calibration`.
    """

    artifact: Artifact
    posteriors: Sequence[Posterior]
    x_hat: FloatArray
    scores: Scores
    calibration: Nested

    @property
    def validation_error(self) -> float:
        """Over hidden validation cells, by the inference that the artifact has."""
        error: float = self.artifact.metrics[validation_name(self.artifact.dataset["unit"])]
        return error


@dataclass(frozen=True, eq=False)
class Winner:
    """An exported trial, or ensemble of trials.

    Attributes:
        trial: The best trial; of an ensemble the best member.
        tested: What is exported, scored; where `is_refitted`, as it was before it saw all rows.
        folder: Of the artifact.
        is_refitted: Whether the exported model has seen all rows.
        members: Weight in the average by trial number, of an ensemble.
        alone: The best trial's own scores, of an ensemble.
    """

    trial: BestTrial
    tested: Tested
    folder: Path
    is_refitted: bool = False
    members: Mapping[int, float] = field(default_factory=dict)
    alone: Scores | None = None


def export_trial(trial: BestTrial, storage: Storage, problem: Problem, folder: Path) -> Winner:
    """Score a trial's best epoch on the test rows by a cold, converged inference, and write its artifact.

    Raises:
        ConfigError: The trial has no checkpoint.
    """
    tested = score_artifact(load_trial(trial, storage, problem), problem)
    return Winner(trial, tested, save_artifact(tested.artifact, folder))


def load_trial(trial: BestTrial, storage: Storage, problem: Problem) -> Artifact:
    """The model of a trial's best epoch, not scored yet.

    Raises:
        ConfigError: The trial has no checkpoint.
    """
    if trial.checkpoint is None:
        raise ConfigError(
            f"trial {trial.number} has no checkpoint any more. Train it: vadtune.train --from RUN:{trial.number}"
        )
    with storage.fetched(trial.checkpoint) as checkpoint:
        config, model = load_best_model(checkpoint, problem.splits.codec)
    metrics = {validation_name(problem.table.unit): trial.value, "trial": trial.number, "epoch": trial.epoch}
    return artifact_of(config, model, problem, metrics)


def artifact_of(config: TrialConfig, model: Model, problem: Problem, metrics: Nested) -> Artifact:
    """A model of the problem's table, ready to be saved."""
    scaler, table = problem.splits.scaler, problem.table
    return Artifact(model, config, scaler, table.columns, problem.describe(), metrics)


def score_artifact(artifact: Artifact, problem: Problem) -> Tested:
    """Let validation rows adjust a model as it was trained, see `training.adjustment`; score it on the test rows."""
    splits, name = problem.splits, validation_name(problem.table.unit)
    return score_adjusted(adjusted(artifact, splits.validation, len(splits.indices[1]), name), problem)


def score_adjusted(artifact: Artifact, problem: Problem, known: Sequence[Posterior] = ()) -> Tested:
    """Score an artifact on the test rows, and add the scores to its metrics.

    Args:
        artifact: The model.
        problem: Its table.
        known: The first members' posteriors of the test rows, if they were found before.
    """
    splits, x = problem.splits, as_tensor(problem.splits.test.rows.x)
    posteriors = artifact.posteriors(x, known)
    x_hat = artifact.estimate(posteriors).cpu().numpy()
    scores = score(x_hat, splits.test, splits.column_range)
    found = calibration(artifact, posteriors[0], x_hat, splits.test)
    tested = {f"test_{name}": value for name, value in asdict(scores).items()} | {"test_calibration": found}
    return Tested(replace(artifact, metrics=artifact.metrics | tested), posteriors, x_hat, scores, found)


def evaluation_arrays(tested: Tested, problem: Problem) -> Arrays:
    """What the figures of the report show, beyond the study."""
    table, splits, seed = problem.table, problem.splits, problem.config.seed
    artifact, test = tested.artifact, splits.test
    labels = None if table.labels is None else table.labels[splits.indices[2]]
    numbers = splits.codec.numbers
    parts = [
        partial(latents_2d, tested.posteriors[0], tested.x_hat[:, numbers], test.truth[:, numbers], labels),
        partial(_curves, artifact, problem),
    ]
    if table.image_shape:
        pictures = _spread(complete(test), N_PICTURES)
        parts.append(partial(gallery, artifact, pictures, GALLERY_RATES, problem.config.mechanism, seed))
    else:
        parts.append(partial(cells, artifact, tested.x_hat, test, seed))
    return collect(parts)


def _spread(rows: FloatArray, n: int) -> FloatArray:
    """At most `n` rows, evenly from first to last: a table may be sorted, as the digits are."""
    return rows[np.linspace(0, len(rows) - 1, min(n, len(rows))).astype(np.intp)]


def _curves(artifact: Artifact, problem: Problem) -> Arrays:
    """Errors over missing rates and over mechanisms, on the same rows, by one inference."""
    train = problem.splits.train.rows.x
    n_rows = min(MAX_CURVE_ROWS, max(N_PICTURES, MAX_CURVE_CELLS // problem.table.n_features))
    known = _spread(complete(problem.splits.test), n_rows)
    over_rates = dict(_hidden_by_each_rate(known, problem))
    over_mechanisms = dict(_hidden_by_each(known, problem))
    holdouts = [*over_rates.values(), *over_mechanisms.values()]
    codec = problem.splits.codec
    x_hats = reconstruct_each(artifact, holdouts)
    errors = [codec.score(x_hat, holdout.truth) for x_hat, holdout in zip(x_hats, holdouts, strict=True)]
    mean = np.broadcast_to(codec.decode(column_means(codec.encode(train))[None]), known.shape)
    return {
        "rate_grid": np.array(list(over_rates)),
        "rate_rmse": np.array(errors[: len(over_rates)]),
        "rate_baseline_mean": np.array([codec.score(mean, holdout.truth) for holdout in over_rates.values()]),
        "mechanism_names": np.array(list(over_mechanisms)),
        "mechanism_rmse": np.array(errors[len(over_rates) :]),
    }


def _hidden_by_each_rate(known: FloatArray, problem: Problem) -> Iterator[tuple[float, Holdout]]:
    config = problem.config
    for rate in RATES:
        try:
            yield rate, hide(known, config.mechanism, rate, config.seed, problem.table.image_shape)
        except ConfigError:
            continue  # MAR leaves a column as it is: of few columns not nine tenths can be hidden


def _hidden_by_each(known: FloatArray, problem: Problem) -> Iterator[tuple[str, Holdout]]:
    config = problem.config
    rate = config.test_missing_rate if config.test_missing_rate is not None else config.missing_rate
    for mechanism in (Mcar(), Mar(), Mnar(), Block(), Pattern()):
        try:
            yield mechanism.kind, hide(known, mechanism, rate, config.seed, problem.table.image_shape)
        except ConfigError:
            continue  # this table does not allow it: MAR needs a second column
