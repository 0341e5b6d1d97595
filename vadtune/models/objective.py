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
        xs, observed = self.x.split(n_rows), self.observed.split(n_rows)
        scored: Sequence[Batch | None] = [None] * len(xs) if self.scored is None else self.scored.split(n_rows)
        return [Batch(*parts) for parts in zip(xs, observed, scored, strict=True)]

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
    """q(z | x) of each row: a normal with independent latents, or a point where `log_var` is None.

    `recalled` is what rows like these were, if the model recalls any: see recall.py.
    """

    mean: Float[Tensor, "N L"]
    log_var: Float[Tensor, "N L"] | None
    recalled: Float[Tensor, "N E"] | None = None

    def sample(self, rng: torch.Generator) -> Float[Tensor, "N L"]:
        """One reparametrised draw of each row; a point is its own draw."""
        if self.log_var is None:
            return self.mean
        return torch.addcmul(self.mean, torch.exp(0.5 * self.log_var), self.noise(rng))

    def noise(self, rng: torch.Generator) -> Float[Tensor, "N L"]:
        """Standard normal numbers for `draw`."""
        return torch.empty_like(self.mean).normal_(generator=rng)

    def vjp(
        self, noise: Float[Tensor, "N L"] | Float[Tensor, " L"]
    ) -> tuple[Float[Tensor, "N L"], Float[Tensor, " N"], "DrawPull"]:
        """The reparametrised draw by some noise, `kl`, and what tells the gradients; a point is its own draw."""
        if self.log_var is None:
            return self.mean, self.kl(), DrawPull(self.mean, None, None)
        std = torch.exp(0.5 * self.log_var)
        off, less_one = std * noise, (std * std).sub_(1.0)
        kl = torch.addcmul(less_one, self.mean, self.mean).sub_(self.log_var).sum(-1).mul_(0.5)
        return self.mean + off, kl, DrawPull(self.mean, off, less_one)

    def take(self, index: IntArray) -> "Posterior":
        """Some of the rows."""
        chosen = torch.from_numpy(index).to(self.mean.device)
        parts = (None if part is None else part[chosen] for part in (self.log_var, self.recalled))
        return Posterior(self.mean[chosen], *parts)

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


@dataclass(frozen=True, eq=False)
class DrawPull:
    """From the gradients by the draw and by the KL of `Posterior.vjp` to those by means and log variances.

    Args:
        mean: Of the posterior.
        off: How far each draw is off the mean.
        less_one: sigma^2 - 1.
    """

    mean: Float[Tensor, "N L"]
    off: Float[Tensor, "N L"] | None
    less_one: Float[Tensor, "N L"] | None

    def by_mean(self, by_z: Float[Tensor, "N L"], by_kl: Float[Tensor, " N"]) -> Float[Tensor, "N L"]:
        """By the means."""
        return by_z if self.off is None else torch.addcmul(by_z, by_kl.unsqueeze(1), self.mean)

    def by_log_var(self, by_z: Float[Tensor, "N L"], by_kl: Float[Tensor, " N"]) -> Float[Tensor, "N L"]:
        """By the log variances, of a posterior that has them."""
        assert self.off is not None
        assert self.less_one is not None
        return (by_z * self.off).addcmul_(by_kl.unsqueeze(1), self.less_one).mul_(0.5)


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
    losses: Tensor = _GaussianLoss.apply(x_hat, batch, noise_log_var)  # type: ignore[no-untyped-call]
    return losses


def gaussian_vjp(
    x_hat: Float[Tensor, "N D"],
    batch: Batch,
    noise_log_var: Float[Tensor, ""] | Float[Tensor, " D"],
) -> tuple[Float[Tensor, " N"], "GaussianPull"]:
    """`reconstruction_loss`, and what tells its gradients."""
    residual = (x_hat * batch.observed).sub_(batch.x)
    weighted = residual * torch.exp(-noise_log_var)
    squared = residual.mul_(weighted)
    losses = torch.addcmul(squared, batch.observed, noise_log_var).sum(-1).mul_(0.5)
    return losses, GaussianPull(weighted, squared, batch.observed)


@dataclass(frozen=True, eq=False)
class GaussianPull:
    """From the gradient by the losses of `reconstruction_loss` to those by what it is a function of.

    Args:
        weighted: r / s^2, r = x_hat - x, 0 where a cell is not observed.
        squared: r^2 / s^2.
        observed: 1.0 where a cell is observed.
    """

    weighted: Float[Tensor, "N D"]
    squared: Float[Tensor, "N D"]
    observed: Float[Tensor, "N D"]

    def by_x_hat(self, gradient: Float[Tensor, " N"]) -> Float[Tensor, "N D"]:
        """By the reconstruction."""
        return self.weighted * gradient.unsqueeze(1)

    def by_log_var(self, gradient: Float[Tensor, " N"]) -> Float[Tensor, " D"]:
        """By the log variance of each column; of one for all it is the sum."""
        return (0.5 * gradient) @ (self.observed - self.squared)


class _GaussianLoss(Function):
    """`reconstruction_loss` for autograd, in one step and not in ten."""

    @staticmethod
    def forward(ctx: Any, x_hat: Tensor, batch: Batch, log_var: Tensor) -> Tensor:
        losses, ctx.pull = gaussian_vjp(x_hat, batch, log_var)
        ctx.is_one_for_all = log_var.ndim == 0
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        by_log_var = None
        if ctx.needs_input_grad[2]:
            by_log_var = ctx.pull.by_log_var(gradient)
            by_log_var = by_log_var.sum() if ctx.is_one_for_all else by_log_var
        return ctx.pull.by_x_hat(gradient) if ctx.needs_input_grad[0] else None, None, by_log_var
