"""Complete tables by a trained model: its best estimate, draws of what could have been, and their spread."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vadtune.data.tables import Column, FloatArray, Table
from vadtune.models.objective import Posterior
from vadtune.training.artifact import Artifact
from vadtune.training.inference import with_curvature

N_STD_DRAWS = 32


class Filler:
    """Fills the unknown cells of tables, part after part; how they are cut into parts does not matter.

    A draw is a latent from the row's posterior, decoded, and the model's observation noise added: multiple imputation
    (Rubin 1987). The spread of a cell is the noise's variance and that of the decoder over the posterior together.

    Args:
        artifact: The model.
        n_draws: How many completed tables to draw; 0 gives one with the best estimates.
        with_std: Whether to give the standard deviation of each cell as well, 0 where it is known.
        seed: Of the draws.
    """

    def __init__(self, artifact: Artifact, n_draws: int = 0, *, with_std: bool = False, seed: int = 0) -> None:
        self.artifact = artifact
        self.columns = artifact.columns
        self.rngs = [np.random.default_rng([seed, k]) for k in range(n_draws)]
        self.std_rng = np.random.default_rng([seed, n_draws, 1]) if with_std else None
        self.n_filled = 0

    def positions(self, names: Sequence[str], source: str) -> list[int]:
        """Where the model's columns stand among `names`; see `Artifact.match`."""
        columns = tuple(Column(name, "numeric", "float64") for name in names)
        numbers = Table("", source, np.arange(len(names), dtype=np.float64)[None], columns)
        return [int(position) for position in self.artifact.match(numbers)[0]]

    def __call__(self, table: Table) -> list[FloatArray]:
        """Complete rows: one `(N, D)` array for each draw or one of estimates, then perhaps the standard deviations."""
        x = self.artifact.match(table)
        unknown = np.isnan(x)
        rows = unknown.any(1)
        self.n_filled += int(unknown.sum())
        found = self._estimates(x[rows]) if rows.any() else []
        filled: list[FloatArray] = []
        for number in range(max(1, len(self.rngs))):
            values = x.astype(np.float64)
            if found:
                values[unknown] = self._of_kind(found[number])[unknown[rows]]
            filled.append(values)
        if self.std_rng is not None:
            std = np.zeros(x.shape)
            if found:
                std[unknown] = found[-1][unknown[rows]]
            filled.append(std)
        return filled

    def _estimates(self, x: FloatArray) -> list[FloatArray]:
        artifact = self.artifact
        scaled = torch.from_numpy(artifact.scaler.transform(x))
        posterior = artifact.posterior(scaled)
        if self.rngs or self.std_rng is not None:
            posterior = with_curvature(artifact.model, scaled, posterior)
        found = [self._draw(posterior, rng) for rng in self.rngs] or [artifact.decode(posterior).cpu().numpy()]
        units = [artifact.scaler.inverse(values) for values in found]
        if self.std_rng is not None:
            units.append(self._std(posterior, self.std_rng) * artifact.scaler.scale)
        return units

    def _draw(self, posterior: Posterior, rng: np.random.Generator) -> FloatArray:
        """One draw of each row, in scaled units; rows take their random numbers one after the other."""
        n_rows, latent_dim = posterior.mean.shape
        normal = rng.standard_normal((n_rows, latent_dim + len(self.columns)), dtype=np.float32)
        z = _at(posterior, torch.from_numpy(normal[:, :latent_dim]))
        x_hat: FloatArray = self.artifact.decode(Posterior(z, None)).cpu().numpy()
        return x_hat + self._noise_std() * normal[:, latent_dim:]

    def _std(self, posterior: Posterior, rng: np.random.Generator) -> FloatArray:
        n_rows, latent_dim = posterior.mean.shape
        normal = torch.from_numpy(rng.standard_normal((n_rows, N_STD_DRAWS, latent_dim), dtype=np.float32))
        total = np.zeros((n_rows, len(self.columns)))
        squares = np.zeros_like(total)
        center: FloatArray = self.artifact.decode(posterior).cpu().numpy()
        for k in range(N_STD_DRAWS):
            error = self.artifact.decode(Posterior(_at(posterior, normal[:, k]), None)).cpu().numpy() - center
            total += error
            squares += np.square(error)
        variance = (squares - total**2 / N_STD_DRAWS) / (N_STD_DRAWS - 1)
        return np.sqrt(np.maximum(variance, 0) + self._noise_std() ** 2)

    @torch.no_grad()
    def _noise_std(self) -> FloatArray:
        std: FloatArray = torch.exp(0.5 * self.artifact.model.noise.log_var()).cpu().numpy()
        return std

    def _of_kind(self, values: FloatArray) -> FloatArray:
        """Whole numbers where the column holds them, 0 or 1 where it is a boolean; pixels in [0, 1]."""
        result = np.clip(values, 0, 1) if self.artifact.image_shape else values
        kinds = np.array([column.kind for column in self.columns])
        result = np.where(kinds == "boolean", np.clip(result, 0, 1), result)
        return np.where((kinds == "integer") | (kinds == "boolean"), np.rint(result), result)


def _at(posterior: Posterior, normal: Float[Tensor, "N L"]) -> Float[Tensor, "N L"]:
    """The latents that lie so many standard deviations from the mean."""
    if posterior.log_var is None:
        return posterior.mean
    return posterior.mean + torch.exp(0.5 * posterior.log_var) * normal.to(posterior.mean)
