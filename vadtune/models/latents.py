"""Latents of the training rows: where they begin, and how descent moves them.

Source: Zadeh, Lim, Liang, Morency (2019), Variational Auto-Decoder, arXiv:1903.00840.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vadtune.data.splits import Rows
from vadtune.models.base import TrainingPosteriors
from vadtune.models.config import LatentInit, LatentOptimizer, PosteriorKind
from vadtune.models.objective import Batch, Posterior
from vadtune.models.regression import LatentRegression

SMALL_STD = 0.001


class LatentTable(TrainingPosteriors):
    """Latents of all training rows and their Adam state; a step touches the rows of its batch only.

    Adam with dense state over all rows costs a pass over the whole table at every step. Here each row has its own
    moments (Kingma and Ba 2015, arXiv:1412.6980, algorithm 1), and its step count is how often it was updated.

    Args:
        mean: First latent means, `(N, L)`.
        kind: `point` and `fixed` learn the means only, `free` the log variances as well.
        log_var: Log variance of a `fixed` posterior, the first one of a `free` posterior.
        optimizer: `adam`, or `sgd` for plain gradient descent.
        regression: Of the latents on their rows, if unseen rows are to begin there.
    """

    BETAS = (0.9, 0.99)
    EPSILON = 1e-8

    table: Float[Tensor, "N 3 P"]  # value, first and second moment of each latent parameter: one gather fetches all
    n_updates: Float[Tensor, " N"]

    def __init__(
        self,
        mean: Float[Tensor, "N L"],
        kind: PosteriorKind,
        log_var: float,
        optimizer: LatentOptimizer = "adam",
        regression: LatentRegression | None = None,
    ) -> None:
        super().__init__()
        self.optimizer = optimizer
        self.regression = regression
        self.kind = kind
        self.latent_dim = mean.shape[1]
        self.fixed_log_var = log_var
        value = torch.cat([mean, torch.full_like(mean, log_var)], 1) if kind == "free" else mean
        self.register_buffer("table", torch.stack([value, torch.zeros_like(value), torch.zeros_like(value)], 1))
        self.register_buffer("n_updates", torch.zeros(len(mean)))
        self._asked: tuple[Tensor, Tensor, Tensor] | None = None

    def begin_at(self, mean: Float[Tensor, "N L"]) -> None:
        """Set all means."""
        self.table[:, 0, : self.latent_dim] = mean

    def of(self, index: Int[Tensor, " B"], batch: Batch) -> Posterior:  # noqa: ARG002  an encoder would read the batch
        """Posteriors of the rows `index`, as leaves that collect gradients."""
        state = self.table.index_select(0, index)
        leaf = state[:, 0].detach().requires_grad_()
        self._asked = (index, state, leaf)
        return self._posterior(leaf)

    @torch.no_grad()
    def update(self, learning_rate: float) -> None:
        """One step for the rows that `of` handed out last, each along the gradient of its own loss."""
        assert self._asked is not None
        index, state, leaf = self._asked
        assert leaf.grad is not None
        # The batch's loss is the mean of its rows' losses. Without its size a row's moments would mix gradients of
        # different scales: one visit in a small last batch would slow it down for a hundred visits.
        gradient = leaf.grad * len(leaf)
        self._asked = None
        value, moment1, moment2 = state.unbind(1)
        if self.optimizer == "sgd":
            value.sub_(gradient, alpha=learning_rate)
        else:
            beta1, beta2 = self.BETAS
            count = self.n_updates.index_select(0, index).add_(1)
            moment1.lerp_(gradient, 1 - beta1)
            moment2.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            step = (-learning_rate / (1 - beta1**count)).unsqueeze(1) * moment1
            scale = moment2.div((1 - beta2**count).unsqueeze(1)).sqrt_().add_(self.EPSILON)
            value.addcdiv_(step, scale)
            self.n_updates.index_copy_(0, index, count)
        self.table.index_copy_(0, index, state)

    def all(self) -> Posterior:
        """The posteriors of all training rows, without gradients."""
        return self._posterior(self.table[:, 0])

    def _posterior(self, value: Float[Tensor, "B P"]) -> Posterior:
        mean = value[:, : self.latent_dim]
        if self.kind == "point":
            return Posterior(mean, None)
        if self.kind == "free":
            return Posterior(mean, value[:, self.latent_dim :])
        return Posterior(mean, torch.full_like(mean, self.fixed_log_var))


def initial_latents(
    kind: LatentInit, rows: Rows, train: Batch, latent_dim: int, rng: torch.Generator
) -> Float[Tensor, "N L"]:
    """First latent means: zeros, normal with standard deviation 0.001, or the row's principal components.

    `pca` projects rows, whose holes are filled with what a multivariate normal expects, on their first `latent_dim`
    principal components, each scaled to unit variance as the prior has it; components past the rank are zero. From
    there the larger a table is, the fewer epochs are needed: each moves each row's latents but once.
    """
    mean = train.x.new_zeros(len(train), latent_dim)
    if kind == "zeros":
        return mean
    if kind == "normal":
        return mean.normal_(std=SMALL_STD, generator=rng)
    projected = torch.from_numpy(rows.projected(latent_dim))
    mean[:, : projected.shape[1]] = projected
    return mean


def column_means(batch: Batch) -> Float[Tensor, " D"]:
    """Means of the observed cells of each column, 0 for a column without any."""
    return batch.x.sum(0) / batch.observed.sum(0).clamp(min=1.0)
