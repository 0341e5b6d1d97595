"""The evidence lower bound over observed cells: what VAD and VAE training and test-time inference minimise.

    row loss = sum over observed cells of (x - x_hat)^2 / (2 s^2) + log s,    s^2 = exp(noise_log_var)
             + kl_weight * sum over latents of (mu^2 + sigma^2 - 1 - log sigma^2) / 2

Source: Zadeh, Lim, Liang, Morency (2019), Variational Auto-Decoder, arXiv:1903.00840, section 3;
the KL term in closed form: Kingma and Welling (2014), Auto-Encoding Variational Bayes, appendix B.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from vadtune.data.tables import FloatArray, IntArray


def as_tensor(x: FloatArray) -> Float[Tensor, "N D"]:
    """A copy of rows as float32: arrays of the object store are read-only."""
    return torch.tensor(np.asarray(x), dtype=torch.float32)


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows ready for the hot loop: select, then compute, done once.

    Args:
        x: Observed values, 0 where a cell is not observed.
        observed: 1.0 where a cell is observed, 0.0 elsewhere.
        scored: The same with normal scores of some of the columns behind them, if the model looks at these; see
            normal_scores.py.
    """

    x: Float[Tensor, "N D"]
    observed: Float[Tensor, "N D"]
    scored: "Batch | None" = None

    @staticmethod
    def of(x: Float[Tensor, "N D"]) -> "Batch":
        """Make a batch of values that are NaN wherever a model must not see."""
        observed: Bool[Tensor, "N D"] = ~x.isnan()
        return Batch(torch.where(observed, x, 0.0), observed.to(x.dtype))

    def rows(self, index: Int[Tensor, " B"] | slice) -> "Batch":
        """The chosen rows, in the order of the index."""
        scored = None if self.scored is None else self.scored.rows(index)
        if isinstance(index, slice):
            return Batch(self.x[index], self.observed[index], scored)
        return Batch(self.x.index_select(0, index), self.observed.index_select(0, index), scored)

    def split(self, n_rows: int) -> list["Batch"]:
        """The same rows in parts of so many; one part of none."""
        return [self.rows(slice(start, start + n_rows)) for start in range(0, max(1, len(self)), n_rows)]

    def columns(self, index: slice) -> "Batch":
        """Some of the columns, without scores."""
        return Batch(self.x[:, index], self.observed[:, index])

    def to(self, device: torch.device) -> "Batch":
        """The same rows on another device."""
        scored = None if self.scored is None else self.scored.to(device)
        return Batch(self.x.to(device), self.observed.to(device), scored)

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True, eq=False)
class Posterior:
    """q(z | x) of each row: a normal with independent latents, or a point where `log_var` is None."""

    mean: Float[Tensor, "N L"]
    log_var: Float[Tensor, "N L"] | None

    def sample(self, rng: torch.Generator) -> Float[Tensor, "N L"]:
        """One reparametrised draw of each row; a point is its own draw."""
        if self.log_var is None:
            return self.mean
        return torch.addcmul(self.mean, torch.exp(0.5 * self.log_var), self.noise(rng))

    def noise(self, rng: torch.Generator) -> Float[Tensor, "N L"]:
        """Standard normal numbers for `draw`."""
        return torch.empty_like(self.mean).normal_(generator=rng)

    def draw(
        self, noise: Float[Tensor, "N L"] | Float[Tensor, " L"]
    ) -> tuple[Float[Tensor, "N L"], Float[Tensor, " N"]]:
        """The reparametrised draw by some noise, and `kl`; a point is its own draw."""
        if self.log_var is None:
            return self.mean, self.kl()
        z: Tensor
        kl: Tensor
        z, kl = _Draw.apply(self.mean, self.log_var, noise)  # type: ignore[no-untyped-call]
        return z, kl

    def take(self, index: IntArray) -> "Posterior":
        """Some of the rows."""
        chosen = torch.from_numpy(index).to(self.mean.device)
        return Posterior(self.mean[chosen], None if self.log_var is None else self.log_var[chosen])

    def split(self, n_rows: int) -> list["Posterior"]:
        """The same rows in parts of so many."""
        means = self.mean.split(n_rows)
        log_vars: Sequence[Tensor | None] = [None] * len(means)
        if self.log_var is not None:
            log_vars = self.log_var.split(n_rows)
        return [Posterior(mean, log_var) for mean, log_var in zip(means, log_vars, strict=True)]

    def kl(self) -> Float[Tensor, " N"]:
        """KL(q || N(0, 1)) of each row in nats; 0 for a point, whose density has no KL to the prior."""
        if self.log_var is None:
            return self.mean.new_zeros(len(self.mean))
        return 0.5 * (self.mean.square() + self.log_var.exp() - 1.0 - self.log_var).sum(-1)


def reconstruction_error(
    x_hat: Float[Tensor, "N D"],
    batch: Batch,
    noise_log_var: Float[Tensor, ""] | Float[Tensor, " D"],
) -> Float[Tensor, " N"]:
    """Sum over the observed cells of each row of (x - x_hat)^2 / (2 s^2).

    Args:
        x_hat: The decoder's reconstruction, finite everywhere.
        batch: The rows, zero-filled, and which of their cells are observed.
        noise_log_var: log s^2, one for all columns or one per column.
    """
    squared = (x_hat * batch.observed - batch.x).square()
    precision = torch.exp(-noise_log_var)
    return 0.5 * (squared.sum(-1) * precision if precision.ndim == 0 else squared @ precision)


def pairwise_error(
    x_hat: Float[Tensor, "A D"],
    batch: Batch,
    noise_log_var: Float[Tensor, ""] | Float[Tensor, " D"],
) -> Float[Tensor, "A N"]:
    """`reconstruction_error` of every reconstruction on every row, by matrix products: good to some digits."""
    precision = torch.exp(-noise_log_var)
    squared = (x_hat.square() * precision) @ batch.observed.T + (batch.x.square() * precision).sum(-1)
    return 0.5 * squared - (x_hat * precision) @ batch.x.T


def reconstruction_loss(
    x_hat: Float[Tensor, "N D"],
    batch: Batch,
    noise_log_var: Float[Tensor, ""] | Float[Tensor, " D"],
) -> Float[Tensor, " N"]:
    """Negative log likelihood of each row's observed cells under Gaussian noise, without the constant log(2 pi) / 2."""
    losses: Tensor = _GaussianLoss.apply(x_hat, batch.x, batch.observed, noise_log_var)  # type: ignore[no-untyped-call]
    return losses


# Of a step of a small model, most of the time went into telling autograd of many small operations, and into asking it
# for their gradients one by one. These two know their gradients.


class _GaussianLoss(Function):
    """`reconstruction_loss`: the sum of (r^2 / s^2 + log s^2) / 2, r = x_hat - x, over observed cells."""

    @staticmethod
    def forward(ctx: Any, x_hat: Tensor, x: Tensor, observed: Tensor, log_var: Tensor) -> Tensor:
        residual = (x_hat * observed).sub_(x)
        weighted = residual * torch.exp(-log_var)
        squared = residual.mul_(weighted)
        ctx.save_for_backward(weighted, squared, observed)
        ctx.is_one_for_all = log_var.ndim == 0
        return torch.addcmul(squared, observed, log_var).sum(-1).mul_(0.5)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weighted, squared, observed = ctx.saved_tensors
        by_x_hat = weighted * gradient.unsqueeze(1) if ctx.needs_input_grad[0] else None
        by_log_var = None
        if ctx.needs_input_grad[3]:
            by_log_var = (0.5 * gradient) @ (observed - squared)
            by_log_var = by_log_var.sum() if ctx.is_one_for_all else by_log_var
        return by_x_hat, None, None, by_log_var


class _Draw(Function):
    """`Posterior.draw`: z = mu + sigma e, and KL(q || N(0, 1))."""

    @staticmethod
    def forward(ctx: Any, mean: Tensor, log_var: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        std = torch.exp(0.5 * log_var)
        off = std * noise
        less_one = (std * std).sub_(1.0)
        ctx.save_for_backward(mean, off, less_one)
        kl = torch.addcmul(less_one, mean, mean).sub_(log_var).sum(-1).mul_(0.5)
        return mean + off, kl

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_z: Tensor, by_kl: Tensor) -> tuple[Tensor | None, ...]:
        mean, off, less_one = ctx.saved_tensors
        weight = by_kl.unsqueeze(1)
        by_mean = torch.addcmul(by_z, weight, mean) if ctx.needs_input_grad[0] else None
        by_log_var = None
        if ctx.needs_input_grad[1]:
            by_log_var = (by_z * off).addcmul_(weight.expand_as(by_z), less_one).mul_(0.5)
        return by_mean, by_log_var, None
