"""Posteriors of unseen rows by gradient descent, the decoder fixed: deterministic, each row on its own.

The latent means go to the maximum of the posterior density; the variances follow in closed form from the curvature
there, if someone asks. No step depends on another row, on noise or on the size of a batch.

Source: Zadeh et al. (2019), arXiv:1903.00840, section 3 (test-time inference); Adam: arXiv:1412.6980.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vadtune.models.base import Model
from vadtune.models.objective import Batch, Posterior
from vadtune.training.config import InferConfig

BETAS = (0.9, 0.99)
CHECK_EVERY = 10
MAX_HALVINGS = 3
N_PROBES = 16


class RowAdam:
    """Latent means with an Adam state and a learning rate for each row: the optimizer holds latents only."""

    def __init__(self, mean: Float[Tensor, "N L"], learning_rate: float) -> None:
        self.mean = mean.clone()
        self.moment1 = torch.zeros_like(mean)
        self.moment2 = torch.zeros_like(mean)
        self.learning_rate = torch.full((len(mean), 1), learning_rate, dtype=mean.dtype, device=mean.device)
        self.n_steps = 0

    def descend(self, model: Model, batch: Batch, n_steps: int) -> Float[Tensor, " N"]:
        """Take some steps down each row's own loss; returns the losses before the last step."""
        losses = self.mean.new_zeros(len(self.mean))
        for _ in range(n_steps):
            mean = self.mean.detach().requires_grad_()
            with torch.enable_grad():
                losses = model.map_loss(batch, mean)
                (gradient,) = torch.autograd.grad(losses.sum(), mean)
            self._step(gradient)
        return losses.detach()

    def keep(self, index: Int[Tensor, " M"]) -> None:
        """Go on with some of the rows only."""
        self.mean, self.moment1, self.moment2, self.learning_rate = (
            tensor[index] for tensor in (self.mean, self.moment1, self.moment2, self.learning_rate)
        )

    def _step(self, gradient: Float[Tensor, "N L"]) -> None:
        beta1, beta2 = BETAS
        self.n_steps += 1
        self.moment1.lerp_(gradient, 1 - beta1)
        self.moment2.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        scale = self.moment2.div(1 - beta2**self.n_steps).sqrt_().add_(1e-8)
        rate = self.learning_rate / (1 - beta1**self.n_steps)
        self.mean.addcdiv_(self.moment1 * rate, scale, value=-1.0)


@torch.no_grad()
def infer(model: Model, batch: Batch, settings: InferConfig) -> Posterior:
    """Find the posterior of each row, from the model's start until it converges.

    A row's learning rate is halved when ten steps lower its loss by less than `settings.tolerance` of the loss; after
    three halvings the row has converged and leaves. `settings.n_steps` bounds the whole; a model with an encoder
    takes as many steps as its own settings say.

    Args:
        model: In evaluation mode afterwards; its weights do not change.
        batch: Unseen rows, in scaled units.
        settings: Steps, rate, tolerance, and how many rows to hold in memory at once.
    """
    model.eval()
    chunks = [batch.rows(slice(at, at + settings.batch_size)) for at in range(0, len(batch), settings.batch_size)]
    means = [_infer_means(model, chunk, settings) for chunk in chunks]
    return Posterior(torch.cat(means), None)


def _infer_means(model: Model, batch: Batch, settings: InferConfig) -> Float[Tensor, "N L"]:
    start = model.start(batch).mean
    limit = model.max_refinement_steps
    if limit is not None:
        adam = RowAdam(start, settings.learning_rate)
        adam.descend(model, batch, limit)
        return adam.mean
    return _converge(model, batch, RowAdam(start, settings.learning_rate), settings)


def _converge(model: Model, batch: Batch, adam: RowAdam, settings: InferConfig) -> Float[Tensor, "N L"]:
    result = adam.mean.clone()
    rows = torch.arange(len(result), device=result.device)
    before = torch.full((len(rows),), torch.inf, dtype=result.dtype, device=result.device)
    while len(rows) and adam.n_steps < settings.n_steps:
        losses = adam.descend(model, batch, min(CHECK_EVERY, settings.n_steps - adam.n_steps))
        stalled = before - losses < settings.tolerance * losses
        adam.learning_rate[stalled] /= 2
        result[rows] = adam.mean
        going = (adam.learning_rate[:, 0] > settings.learning_rate / 2 ** (MAX_HALVINGS - 0.5)).nonzero()[:, 0]
        before = losses
        if len(going) < len(rows):
            adam.keep(going)
            rows, before, batch = rows[going], before[going], batch.rows(going)
    return result


@torch.no_grad()
def with_curvature(model: Model, x: Float[Tensor, "N D"], posterior: Posterior) -> Posterior:
    """Give posterior means the variances that minimise the bound for a decoder linear around them.

        sigma^2 = w / (w + sum over observed cells of (d x_hat / d z)^2 / s^2),   w = the weight of the prior

    The diagonal is estimated with random signs, the same for every row (Bekas, Kokiopoulou, Saad 2007, An estimator
    for the diagonal of a matrix). A model without a prior has point posteriors, which stay points.
    """
    weight = model.prior_weight
    if weight == 0:
        return posterior
    batch = Batch.of(x.to(posterior.mean.device))
    rng = torch.Generator().manual_seed(0)
    weights = torch.exp(-0.5 * model.noise.log_var()) * batch.observed
    curvature = torch.zeros_like(posterior.mean)
    for _ in range(N_PROBES):
        signs = torch.randint(0, 2, (x.shape[1],), generator=rng).to(posterior.mean) * 2 - 1
        mean = posterior.mean.detach().requires_grad_()
        with torch.enable_grad():
            probed = (model.decoder(mean) * weights * signs).sum()
            (gradient,) = torch.autograd.grad(probed, mean)
        curvature += gradient.square() / N_PROBES
    return Posterior(posterior.mean, torch.log(weight / (weight + curvature)))
