"""Latents of the training rows: where they begin, and how descent moves them.

Source: Zadeh, Lim, Liang, Morency (2019), Variational Auto-Decoder, arXiv:1903.00840.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vadtune.data.splits import Rows
from vadtune.models.base import TrainingPosteriors, Visit
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

    table: Float[Tensor, "P 3 N L"]  # means, and log variances if learned: value, first and second moment of each
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
        self.fixed_log_var = log_var
        values = [mean, torch.full_like(mean, log_var)] if kind == "free" else [mean]
        self.register_buffer("table", torch.stack([_without_moments(value) for value in values]))
        self.register_buffer("n_updates", torch.zeros(len(mean)))

    def begin_at(self, mean: Float[Tensor, "N L"]) -> None:
        """Set all means."""
        self.table[0, 0] = mean

    def visit(self, index: Int[Tensor, " K"]) -> "LatentVisit":
        """Begin to move some rows, all of which have been visited equally often."""
        return LatentVisit(self, index)

    def all(self) -> Posterior:
        """The posteriors of all training rows, without gradients."""
        return self.posterior(list(self.table[:, 0]))

    def posterior(self, values: list[Tensor]) -> Posterior:
        """Of means, and of log variances if they are learned."""
        mean = values[0]
        if self.kind == "point":
            return Posterior(mean, None)
        return Posterior(mean, values[1] if self.kind == "free" else torch.full_like(mean, self.fixed_log_var))


def _without_moments(value: Float[Tensor, "N L"]) -> Float[Tensor, "3 N L"]:
    return torch.stack([value, torch.zeros_like(value), torch.zeros_like(value)])


class LatentVisit(Visit):
    """Rows of a table, gathered once for many batches, and put back at the end."""

    def __init__(self, table: LatentTable, index: Int[Tensor, " K"]) -> None:
        self.table, self.index = table, index
        self.state = table.table.index_select(2, index)
        self.parts = [list(kind.unbind()) for kind in self.state.unbind()]
        self.n_updates = table.n_updates[index[0]] + 1
        self.asked = slice(0)

    def of(self, rows: slice, batch: Batch) -> Posterior:  # noqa: ARG002  an encoder would read the batch
        """Posteriors of some of the rows, which move in place."""
        self.asked = rows
        return self.table.posterior([value[rows] for value, _, _ in self.parts])

    def update(self, gradients: list[Tensor], learning_rate: float) -> None:
        """One step for the rows that `of` handed out last, each along the gradient of its own loss."""
        # The batch's loss is the mean of its rows' losses. Without its size a row's moments would mix gradients of
        # different scales: one visit in a small last batch would slow it down for a hundred visits.
        own = torch._foreach_mul(gradients, len(gradients[0]))
        values, first, second = ([parts[place][self.asked] for parts in self.parts] for place in range(3))
        if self.table.optimizer == "sgd":
            torch._foreach_add_(values, own, alpha=-learning_rate)
            return
        beta1, beta2 = self.table.BETAS
        # What torch.optim.Adam calls when it is told to be fused.
        torch._fused_adam_(
            values,
            own,
            first,
            second,
            [],
            [self.n_updates] * len(values),
            lr=learning_rate,
            beta1=beta1,
            beta2=beta2,
            weight_decay=0.0,
            eps=self.table.EPSILON,
            amsgrad=False,
            maximize=False,
        )

    def end(self) -> None:
        """Put all rows back."""
        self.table.table.index_copy_(2, self.index, self.state)
        self.table.n_updates[self.index] = self.n_updates


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
