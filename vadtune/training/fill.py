"""Complete tables by a trained model: its best estimate, draws of what could have been, and their spread."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vadtune.data.tables import FloatArray, Table
from vadtune.models.base import Model
from vadtune.models.objective import Posterior
from vadtune.training.artifact import Artifact
from vadtune.training.inference import with_curvature

N_STD_DRAWS = 32


class Filler:
    """Fills the unknown cells of tables, part after part; how they are cut into parts does not matter.

    A draw is a latent from the row's posterior, decoded, and the model's observation noise added: multiple imputation
    (Rubin 1987). The spread of a cell is the noise's variance and that of the decoder over the posterior together;
    of an ensemble that of its best member. `Artifact.spread` widens or narrows both where noise is Gaussian,
    `Artifact.temperature` does so with the chances of codes and levels.

    Args:
        artifact: The model.
        n_draws: How many completed tables to draw; 0 gives one with the best estimates.
        with_std: Whether to give the standard deviation of each cell as well, 0 where it is known; of a code, the
            chance that another one is right.
        deviations: Give as many further tables, each cell so many standard deviations above its best estimate.
        seed: Of the draws.
    """

    def __init__(
        self,
        artifact: Artifact,
        n_draws: int = 0,
        *,
        with_std: bool = False,
        deviations: Sequence[float] = (),
        seed: int = 0,
    ) -> None:
        self.artifact = artifact
        self.columns = artifact.columns
        self.missing = artifact.missing
        self.rngs = [np.random.default_rng([seed, k]) for k in range(n_draws)]
        self.with_std, self.deviations = with_std, tuple(deviations)
        self.std_rng = np.random.default_rng([seed, n_draws, 1]) if with_std or deviations else None
        self.n_filled = 0

    def positions(self, names: Sequence[str], source: str) -> list[int]:
        """Where the model's columns stand among `names`; see `Artifact.positions`."""
        return self.artifact.positions(names, source)

    def __call__(self, table: Table) -> list[FloatArray]:
        """Complete rows: `(N, D)` for each draw or one of estimates, ends of intervals, perhaps standard deviations."""
        x = self.artifact.match(table)
        unknown = np.isnan(x)
        rows = unknown.any(1)
        self.n_filled += int(unknown.sum())
        found = self._estimates(x[rows]) if rows.any() else []
        filled: list[FloatArray] = []
        for number in range(max(1, len(self.rngs)) + len(self.deviations)):
            values = x.astype(np.float64)
            if found:
                values[unknown] = self.artifact.finish(found[number])[unknown[rows]]
            filled.append(values)
        if self.with_std:
            std = np.zeros(x.shape)
            if found:
                std[unknown] = found[-1][unknown[rows]]
            filled.append(std)
        return filled

    def _estimates(self, x: FloatArray) -> list[FloatArray]:
        artifact = self.artifact
        scaled = torch.from_numpy(artifact.scaler.transform(x))
        posteriors = artifact.posteriors(scaled)
        best: FloatArray = artifact.estimate(posteriors).cpu().numpy()
        units = [artifact.scaler.inverse(values) for values in self._draws(scaled, posteriors) or [best]]
        if self.std_rng is not None:
            posterior = with_curvature(artifact.model, scaled, posteriors[0])
            std = std_of_cells(artifact, posterior, self.std_rng)
            wide = np.where(artifact.model.codec.is_coded, 0.0, std)
            units += [artifact.scaler.inverse(best + number * wide) for number in self.deviations]
            units.append(artifact.scaler.spread(std, artifact.scaler.inverse(best)))
        return units

    def _draws(self, x: Tensor, posteriors: Sequence[Posterior]) -> list[FloatArray]:
        """One table a generator, in scaled units; the members of an ensemble take turns."""
        taken = list(zip(self.artifact.members, posteriors, strict=True))[: len(self.rngs)]
        pairs = [(member, with_curvature(member.model, x, posterior)) for member, posterior in taken]
        return [self._draw(*pairs[k % len(pairs)], rng) for k, rng in enumerate(self.rngs)]

    @torch.no_grad()
    def _draw(self, member: Artifact, posterior: Posterior, rng: np.random.Generator) -> FloatArray:
        """One draw of each row, in scaled units; rows take their random numbers one after the other."""
        n_rows, latent_dim = posterior.mean.shape
        normal = torch.from_numpy(rng.standard_normal((n_rows, latent_dim + len(self.columns)), dtype=np.float32))
        z = latents_at(posterior, normal[:, :latent_dim])
        noise = normal[:, latent_dim:].to(z)
        size = member.config.infer.batch_size
        pairs = zip(z.split(size), noise.split(size), strict=True)
        temperature = self.artifact.temperature
        drawn = torch.cat([member.model.draw(*pair, temperature) for pair in pairs])
        numbers = member.model.gaussian
        at_mean = member.model.values(member.expect_at(posterior.mean))
        middle = at_mean if member.recall is None else member.decode(posterior)
        drawn[:, numbers] = middle[:, numbers] + self.artifact.spread * (drawn - at_mean)[:, numbers]
        moved: FloatArray = self.artifact.moved(drawn).cpu().numpy()
        return moved


@torch.no_grad()
def std_of_cells(artifact: Artifact, posterior: Posterior, rng: np.random.Generator) -> FloatArray:
    """How unsure the model is of every cell, `(N, D)`.

    Of a number: the standard deviation of noise and decoder over the posterior together, in scaled units; of Gaussian
    noise times `Artifact.spread`, of levels at `Artifact.temperature`. Of a code: the chance that the best estimate is
    wrong, at that temperature.

    Args:
        artifact: The model.
        posterior: Of the rows, with its variances.
        rng: Rows take their random numbers one after the other.
    """
    n_rows, latent_dim = posterior.mean.shape
    model, size = artifact.model, artifact.config.infer.batch_size
    normal = torch.from_numpy(rng.standard_normal((n_rows, N_STD_DRAWS, latent_dim), dtype=np.float32))
    spread = Spread(model, posterior.mean, size, artifact.temperature)
    for k in range(N_STD_DRAWS):
        spread.add(latents_at(posterior, normal[:, k]))
    std = spread.std()
    std[:, model.gaussian] *= artifact.spread
    return std


class Spread:
    """Sums over draws of the latents: of numbers the errors and their squares, of codes the chance to be right."""

    def __init__(self, model: Model, mean: Float[Tensor, "N L"], batch_size: int, temperature: float) -> None:
        self.model, self.batch_size, self.temperature = model, batch_size, temperature
        self.best = model.batch(self._each(mean, model.estimate))
        self.center, _, _ = self._look(mean)
        self.total, self.squares = np.zeros(self.center.shape), np.zeros(self.center.shape)
        self.noise_var: FloatArray | float = 0.0
        self.right: FloatArray | float = 0.0
        self.n = 0

    def add(self, z: Float[Tensor, "N L"]) -> None:
        """Add a draw of every row."""
        numbers, noise_var, right = self._look(z)
        error = numbers - self.center
        self.total += error
        self.squares += np.square(error)
        self.noise_var = self.noise_var + noise_var
        self.right = self.right + right
        self.n += 1

    def std(self) -> FloatArray:
        """`(N, D)`; what `std_of_cells` begins with."""
        codec = self.model.codec
        variance = (self.squares - self.total**2 / self.n) / (self.n - 1)
        std = np.zeros((len(self.total), len(codec.columns)))
        std[:, codec.numbers] = np.sqrt(np.maximum(variance, 0) + self.noise_var / self.n)
        # Never 0, which is for known cells: float32 tells no smaller chances.
        std[:, codec.coded] = np.clip(1 - self.right / self.n, np.finfo(np.float32).eps, 1)
        return std

    def _look(self, z: Float[Tensor, "N L"]) -> tuple[FloatArray, FloatArray, FloatArray]:
        """The numbers at the latents, the variance of their noise, and the chances of the best codes there."""
        outputs, likelihood = self._each(z, self.model.decoder), self.model.likelihood
        numbers = likelihood.expect(outputs)[:, : self.model.codec.numbers.size]
        right = likelihood.chances(outputs, self.best, self.temperature)
        return (
            numbers.cpu().numpy(),
            likelihood.number_variance(outputs, self.temperature).cpu().numpy(),
            right.cpu().numpy(),
        )

    def _each(self, z: Float[Tensor, "N L"], function: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.cat([function(part) for part in z.split(self.batch_size)])


def latents_at(posterior: Posterior, normal: Float[Tensor, "N L"]) -> Float[Tensor, "N L"]:
    """The latents that lie so many standard deviations from the mean."""
    if posterior.log_var is None:
        return posterior.mean
    return posterior.mean + torch.exp(0.5 * posterior.log_var) * normal.to(posterior.mean)
