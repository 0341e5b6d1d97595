"""How good a trained model is on rows it has not seen: scores, curves over missing rates, and what figures show."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from vadtune.data.codec import Codec
from vadtune.data.masks import Mechanism
from vadtune.data.metrics import column_errors, mae, rmse, rmse_minmax
from vadtune.data.splits import Holdout, Rows
from vadtune.data.tables import FloatArray, IntArray
from vadtune.errors import DataError
from vadtune.models.objective import Posterior, as_tensor
from vadtune.training.artifact import Artifact
from vadtune.training.inference import with_curvature

Arrays = dict[str, npt.NDArray[Any]]
RATES = tuple(round(0.1 * step, 1) for step in range(1, 10))


@dataclass(frozen=True)
class Scores:
    """Errors of one imputation; all over hidden cells but the two that say otherwise.

    Those in which cells are near or far are over columns of numbers only; None where no such cell is hidden.

    Attributes:
        rmse: In scaled units: pixels, or standard deviations of the training columns.
        rmse_minmax: On columns scaled by their range.
        mae: In scaled units.
        observed_rmse: Over observed cells, which the model has seen.
        all_rmse: Over observed and hidden cells together.
        error: Of a table with codes, the mean over its columns: `Codec.errors`; None without codes.
        nrmse: The part of its numbers.
        error_rate: The part of its codes.
    """

    rmse: float | None
    rmse_minmax: float | None
    mae: float | None
    observed_rmse: float | None
    all_rmse: float | None
    error: float | None = None
    nrmse: float | None = None
    error_rate: float | None = None

    @property
    def objective(self) -> float:
        """What trials are compared by: `error` where there are codes, else `rmse`."""
        found = self.rmse if self.error is None else self.error
        assert found is not None
        return found


def score(x_hat: FloatArray, holdout: Holdout, column_range: FloatArray) -> Scores:
    """Compare a reconstruction `(N, D)`, in scaled units, with hidden and observed cells.

    Raises:
        DataError: No cell is hidden.
    """
    codec, truth = holdout.rows.codec, holdout.truth
    mixed = {} if codec is None or codec.is_plain else asdict(codec.errors(x_hat, truth))
    n = slice(None) if codec is None or codec.is_plain else codec.numbers
    numbers, hidden, seen, known = (values[:, n] for values in (x_hat, truth, holdout.rows.x, complete(holdout)))
    has_hidden = not mixed or not np.isnan(hidden).all()
    has_known = not mixed or not np.isnan(known).all()
    return Scores(
        rmse=rmse(numbers, hidden) if has_hidden else None,
        rmse_minmax=rmse_minmax(numbers, hidden, column_range[n]) if has_hidden else None,
        mae=mae(numbers, hidden) if has_hidden else None,
        observed_rmse=rmse(numbers, seen) if not np.isnan(seen).all() or not mixed else None,
        all_rmse=rmse(numbers, known) if has_known else None,
        **mixed,
    )


def complete(holdout: Holdout) -> FloatArray:
    """The known values of the rows, hidden ones included: `(N, D)`, NaN where nobody knows."""
    return np.where(np.isnan(holdout.truth), holdout.rows.x, holdout.truth)


def hide(
    known: FloatArray,
    mechanism: Mechanism,
    missing_rate: float,
    seed: int,
    shape: tuple[int, int] | None = None,
    codec: Codec | None = None,
) -> Holdout:
    """Hide some of the known cells: `(N, D)` values, NaN where unknown, to rows and truth."""
    target_mask = mechanism.target_mask(known, missing_rate, np.random.default_rng(seed), shape)
    return Holdout(Rows(np.where(target_mask, np.nan, known), codec), np.where(target_mask, known, np.nan))


def reconstruct_each(artifact: Artifact, holdouts: Sequence[Holdout]) -> list[FloatArray]:
    """The model's estimates of all cells, in scaled units: one inference costs less than one after the other."""
    x = np.concatenate([holdout.rows.x for holdout in holdouts])
    x_hat = artifact.reconstruct(as_tensor(x)).cpu().numpy()
    return np.split(x_hat, np.cumsum([len(holdout.truth) for holdout in holdouts])[:-1])


def gallery(artifact: Artifact, known: FloatArray, rates: tuple[float, ...], mechanism: Mechanism, seed: int) -> Arrays:
    """Pictures at several missing rates: input, estimate, posterior standard deviation, truth; `(R, G, D)` each."""
    x = np.concatenate([hide(known, mechanism, rate, seed, artifact.image_shape).rows.x for rate in rates])
    posteriors = artifact.posteriors(as_tensor(x))
    estimate = artifact.estimate(posteriors).cpu().numpy()
    std = draw(artifact, as_tensor(x), posteriors[0], n_draws=16, seed=seed).std(0).cpu().numpy()
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
    return torch.stack([artifact.model.estimate(posterior.sample(rng)) for _ in range(n_draws)])


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
    """Errors by column and a sample of hidden cells, true and imputed, in the columns' own units.

    Of a column of codes the errors are its error rate, and no cells are sampled: they lie on no line.
    """
    codec, inverse = artifact.model.codec, artifact.scaler.inverse
    rng = np.random.default_rng(seed)
    truth, imputed = inverse(holdout.truth), inverse(x_hat)
    row, column = np.nonzero(~np.isnan(holdout.truth))
    pick = rng.permutation(len(row))[:n_cells]
    pick = pick[~codec.is_coded[column[pick]]]
    row, column = row[pick], column[pick]
    errors, rates = column_errors(imputed, truth), codec.column_error(x_hat, holdout.truth)
    return {
        "cell_column": column,
        "cell_truth": truth[row, column],
        "cell_imputed": imputed[row, column],
        "column_rmse": np.where(codec.is_coded, rates, errors.rmse),
        "column_mae": np.where(codec.is_coded, rates, errors.mae),
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
