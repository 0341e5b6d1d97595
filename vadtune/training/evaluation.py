"""How good a trained model is on rows it has not seen: scores, curves over missing rates, and what figures show."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from vadtune.data.masks import Mechanism
from vadtune.data.metrics import column_errors, mae, rmse, rmse_minmax
from vadtune.data.splits import Holdout, Rows
from vadtune.data.tables import FloatArray, IntArray
from vadtune.errors import DataError
from vadtune.models.objective import Posterior
from vadtune.training.artifact import Artifact
from vadtune.training.inference import with_curvature
from vadtune.training.run import as_tensor

Arrays = dict[str, npt.NDArray[Any]]
RATES = tuple(round(0.1 * step, 1) for step in range(1, 10))


@dataclass(frozen=True)
class Scores:
    """Errors of one imputation; all over hidden cells but the two that say otherwise.

    Attributes:
        rmse: In scaled units: pixels, or standard deviations of the training columns.
        rmse_minmax: On columns scaled by their range.
        mae: In scaled units.
        observed_rmse: Over observed cells, which the model has seen.
        all_rmse: Over observed and hidden cells together.
    """

    rmse: float
    rmse_minmax: float
    mae: float
    observed_rmse: float
    all_rmse: float


def score(x_hat: FloatArray, holdout: Holdout, column_range: FloatArray) -> Scores:
    """Compare a reconstruction `(N, D)`, in scaled units, with hidden and observed cells."""
    truth = holdout.truth
    return Scores(
        rmse=rmse(x_hat, truth),
        rmse_minmax=rmse_minmax(x_hat, truth, column_range),
        mae=mae(x_hat, truth),
        observed_rmse=rmse(x_hat, holdout.rows.x),
        all_rmse=rmse(x_hat, complete(holdout)),
    )


def complete(holdout: Holdout) -> FloatArray:
    """The known values of the rows, hidden ones included: `(N, D)`, NaN where nobody knows."""
    return np.where(np.isnan(holdout.truth), holdout.rows.x, holdout.truth)


def hide(known: FloatArray, mechanism: Mechanism, missing_rate: float, seed: int, shape: Any = None) -> Holdout:
    """Hide some of the known cells: `(N, D)` values, NaN where unknown, to rows and truth."""
    target_mask = mechanism.target_mask(known, missing_rate, np.random.default_rng(seed), shape)
    return Holdout(Rows(np.where(target_mask, np.nan, known)), np.where(target_mask, known, np.nan))


def reconstruct_each(artifact: Artifact, holdouts: Sequence[Holdout]) -> list[FloatArray]:
    """The model's estimates of all cells, in scaled units: one inference costs less than one after the other."""
    x = np.concatenate([holdout.rows.x for holdout in holdouts])
    x_hat = artifact.reconstruct(as_tensor(x)).cpu().numpy()
    return np.split(x_hat, np.cumsum([len(holdout.truth) for holdout in holdouts])[:-1])


def gallery(artifact: Artifact, known: FloatArray, rates: tuple[float, ...], mechanism: Mechanism, seed: int) -> Arrays:
    """Pictures at several missing rates: input, estimate, posterior standard deviation, truth; `(R, G, D)` each."""
    x = np.concatenate([hide(known, mechanism, rate, seed, artifact.image_shape).rows.x for rate in rates])
    posterior = artifact.posterior(as_tensor(x))
    estimate = artifact.decode(posterior).cpu().numpy()
    std = draw(artifact, as_tensor(x), posterior, n_draws=16, seed=seed).std(0).cpu().numpy()
    pictures = {"input": x, "mean": np.where(np.isnan(x), estimate, x), "std": std}
    arrays = {name: values.reshape(len(rates), *known.shape) for name, values in pictures.items()}
    arrays |= {"truth": known, "rates": np.array(rates)}
    return {f"gallery_{name}": values.astype(np.float32) for name, values in arrays.items()}


@torch.no_grad()
def draw(
    artifact: Artifact, x: Float[Tensor, "N D"], posterior: Posterior, n_draws: int, seed: int
) -> Float[Tensor, "K N D"]:
    """Reconstructions at draws of each row's posterior, without observation noise, in scaled units."""
    posterior = with_curvature(artifact.model, x, posterior)
    rng = torch.Generator(posterior.mean.device).manual_seed(seed)
    return torch.stack([artifact.model.decoder(posterior.sample(rng)) for _ in range(n_draws)])


def latents_2d(posterior: Posterior, x_hat: FloatArray, truth: FloatArray, labels: IntArray | None) -> Arrays:
    """Two principal components of the posterior means, with each row's label and RMSE over its hidden cells."""
    mean = posterior.mean.cpu().numpy().astype(np.float64)
    centred = mean - mean.mean(0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    plane = centred @ directions[:2].T
    hidden = ~np.isnan(truth)
    squared = np.where(hidden, x_hat - truth, 0.0) ** 2
    row_rmse = np.sqrt(squared.sum(1) / np.maximum(hidden.sum(1), 1))
    arrays = {"latent_2d": np.pad(plane, ((0, 0), (0, 2 - plane.shape[1]))), "latent_error": row_rmse}
    return arrays if labels is None else arrays | {"latent_label": np.asarray(labels)}


def cells(artifact: Artifact, x_hat: FloatArray, holdout: Holdout, seed: int, n_cells: int = 5000) -> Arrays:
    """Errors by column and a sample of hidden cells, true and imputed, in the columns' own units."""
    scale, inverse = artifact.scaler.scale, artifact.scaler.inverse
    rng = np.random.default_rng(seed)
    row, column = np.nonzero(~np.isnan(holdout.truth))
    pick = rng.permutation(len(row))[:n_cells]
    row, column = row[pick], column[pick]
    errors = column_errors(x_hat, holdout.truth)
    return {
        "cell_column": column,
        "cell_truth": inverse(holdout.truth)[row, column],
        "cell_imputed": inverse(x_hat)[row, column],
        "column_rmse": errors.rmse * scale,
        "column_mae": errors.mae * scale,
        "column_observed_sample": inverse(holdout.rows.x[rng.permutation(len(x_hat))[:1000]]),
    }


def collect(parts: Iterable[Callable[[], Arrays]]) -> Arrays:
    """Merge what each part finds; a part that the table does not allow is left out."""
    arrays: Arrays = {}
    for part in parts:
        try:
            arrays |= part()
        except DataError:
            continue
    return arrays
