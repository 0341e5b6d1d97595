"""Variational auto-decoder: no encoder; gradient descent finds each row's posterior.

Source: Zadeh, Lim, Liang, Morency (2019), Variational Auto-Decoder, arXiv:1903.00840.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from vadtune.data.codec import Codec
from vadtune.models.base import Model, Parts, TrainingPosteriors
from vadtune.models.decoder import AnyDecoderConfig, DecoderConfig
from vadtune.models.likelihood import NoiseConfig
from vadtune.models.objective import Batch, Posterior
from vadtune.models.regression import LatentRegression
from vadtune.settings import Settings

PosteriorKind = Literal["point", "fixed", "free"]
LatentOptimizer = Literal["adam", "sgd"]
LatentInit = Literal["zeros", "normal", "pca"]
InferenceStart = Literal["importance", "linear", "zeros", "normal", "pca", "train"]
SMALL_STD = 0.001
# Training latents that are kept for `importance`, and with how many rows at once they are compared.
N_ANCHORS = 256
MAX_COMPARED = 1024
HUGE = 1e30


class VADConfig(Settings):
    """Auto-decoder: a posterior per row, no encoder (Zadeh et al. 2019, arXiv:1903.00840)."""

    kind: Literal["vad"] = "vad"
    latent_dim: int = Field(32, ge=1)
    posterior: PosteriorKind = "free"
    log_var: float = Field(-6.0, ge=-20.0, le=4.0)
    kl_weight: float = Field(1.0, ge=0.0)
    latent_init: LatentInit = "normal"
    latent_optimizer: LatentOptimizer = "adam"
    inference_start: InferenceStart = "importance"
    decoder: AnyDecoderConfig = DecoderConfig()
    noise: NoiseConfig = NoiseConfig()

    def build(self, columns: int | Codec) -> "VAD":
        """Make a VAD with fresh weights from torch's global generator; of so many numbers, or of any columns."""
        return VAD(self, Codec.of_numbers(columns) if isinstance(columns, int) else columns)


class VAD(Model):
    """A decoder whose rows own their posteriors."""

    latent_log_var: Float[Tensor, " L"]
    latent_mean: Float[Tensor, " L"]
    latent_std: Float[Tensor, " L"]
    column_mean: Float[Tensor, " E"]
    projection: Float[Tensor, "E L"]
    anchors: Float[Tensor, "A L"]

    def __init__(self, config: VADConfig, codec: Codec) -> None:
        super().__init__(Parts.build(config.decoder, config.latent_dim, config.noise, codec), config.kl_weight)
        self.config = config
        # What `start` needs of the training rows.
        if config.posterior != "point":
            self.register_buffer("latent_log_var", torch.full((config.latent_dim,), config.log_var))
        if config.inference_start == "importance":
            self.register_buffer("anchors", torch.zeros(N_ANCHORS, config.latent_dim))
        if config.inference_start == "train":
            self.register_buffer("latent_mean", torch.zeros(config.latent_dim))
            self.register_buffer("latent_std", torch.zeros(config.latent_dim))
        if config.inference_start in ("linear", "pca"):
            self.register_buffer("column_mean", torch.zeros(codec.n_outputs))
            self.register_buffer("projection", torch.zeros(codec.n_outputs, config.latent_dim))

    def training_posteriors(self, train: Batch, rng: torch.Generator) -> "LatentTable":
        """A table of latents, one row for each training row."""
        regression = None
        if self.config.inference_start == "pca":
            self.column_mean, components = principal_components(train, self.config.latent_dim)
            self.projection = components.T.contiguous()
        if self.config.inference_start == "linear":
            self.column_mean = column_means(train)
            regression = LatentRegression(train, self.column_mean)
        mean = initial_latents(self.config.latent_init, train, self.config.latent_dim, rng)
        kind, log_var, optimizer = self.config.posterior, self.config.log_var, self.config.latent_optimizer
        return LatentTable(mean, kind, log_var, optimizer, regression)

    def start(self, batch: Batch) -> Posterior:
        """Where inference begins; it depends on the row alone.

        `importance` is a mean of 256 latents of training rows, weighted by how likely each makes the row: importance
        sampling of the posterior mean, with training rows as draws from the prior. Of rows in clusters, descent from
        elsewhere may end in a wrong one. `zeros` is the prior's mean; `linear` what a
        ridge regression of the training latents makes of the mean-filled row: on MNIST digits 40 steps from there come
        as far as 100 from zeros. `normal` and `train` are a draw around zero and around the training latents, the same
        draw for every row; `pca` projects the mean-filled row on the components of the training rows. Log variances
        begin at the average of those of the training rows.
        """
        mean = self._start_mean(batch)
        if self.config.posterior == "point":
            return Posterior(mean, None)
        return Posterior(mean, self.latent_log_var.expand_as(mean))

    def _start_mean(self, batch: Batch) -> Float[Tensor, "N L"]:
        zeros = batch.x.new_zeros(len(batch), self.config.latent_dim)
        if self.config.inference_start in ("linear", "pca"):
            return (batch.x - batch.observed * self.column_mean) @ self.projection
        draw = torch.randn(self.config.latent_dim, generator=torch.Generator().manual_seed(0)).to(zeros)
        match self.config.inference_start:
            case "importance":
                return self._weighted(batch)
            case "normal":
                return zeros + SMALL_STD * draw
            case "train":
                return zeros + self.latent_mean + self.latent_std * draw
            case _:
                return zeros

    @torch.no_grad()
    def _weighted(self, batch: Batch) -> Float[Tensor, "N L"]:
        outputs, start = self.decoder(self.anchors), batch.x.new_zeros(len(batch), self.config.latent_dim)
        for at in range(0, len(batch), MAX_COMPARED):
            rows = batch.rows(slice(at, at + MAX_COMPARED))
            # Of a row that cannot be fitted no error is a number.
            errors = self.likelihood.pairwise_error(outputs, rows).nan_to_num(nan=HUGE, posinf=HUGE)
            start[at : at + MAX_COMPARED] = torch.softmax(-errors, 0).T @ self.anchors
        # A row of which nothing is seen begins at the prior's mean.
        return start * (batch.observed.sum(-1, keepdim=True) > 0)

    @torch.no_grad()
    def restart(self, batch: Batch, warm: Posterior, posteriors: TrainingPosteriors) -> Posterior:
        """Of `importance`: rows that a fresh start suits better by now than where they are begin there."""
        if self.config.inference_start != "importance":
            return warm
        self.remember(posteriors)
        fresh = self.start(batch)
        is_better = (self.map_loss(batch, fresh.mean) < self.map_loss(batch, warm.mean))[:, None]
        mean = torch.where(is_better, fresh.mean, warm.mean)
        if warm.log_var is None or fresh.log_var is None:
            return Posterior(mean, None)
        return Posterior(mean, torch.where(is_better, fresh.log_var, warm.log_var))

    @torch.no_grad()
    def remember(self, posteriors: TrainingPosteriors) -> None:
        """Keep what the training latents say of where inference begins."""
        assert isinstance(posteriors, LatentTable)
        known = posteriors.all()
        if self.config.inference_start == "importance":
            self.anchors = known.mean[torch.arange(N_ANCHORS, device=known.mean.device) * len(known.mean) // N_ANCHORS]
        if known.log_var is not None:
            self.latent_log_var = known.log_var.mean(0)
        if posteriors.regression is not None:
            self.projection = posteriors.regression.fit(known.mean)
        if self.config.inference_start == "train":
            mean = known.mean
            self.latent_mean = mean.mean(0)
            self.latent_std = mean.std(0, correction=0)

    @property
    def prior_weight(self) -> float:
        """The KL weight; 0 for point posteriors, which have no KL term."""
        return 0.0 if self.config.posterior == "point" else self.kl_weight

    @property
    def learns_log_var(self) -> bool:
        """For `free` posteriors only."""
        return self.config.posterior == "free"

    @property
    def max_refinement_steps(self) -> int | None:
        """None: there is no encoder, inference runs until it converges."""
        return None


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
        self._asked: tuple[Tensor, Tensor] | None = None

    def of(self, index: Int[Tensor, " B"], batch: Batch) -> Posterior:  # noqa: ARG002  an encoder would read the batch
        """Posteriors of the rows `index`, as leaves that collect gradients."""
        leaf = self.table[index, 0].requires_grad_()
        self._asked = (index, leaf)
        return self._posterior(leaf)

    @torch.no_grad()
    def update(self, learning_rate: float) -> None:
        """One step for the rows that `of` handed out last, each along the gradient of its own loss."""
        assert self._asked is not None
        index, leaf = self._asked
        assert leaf.grad is not None
        # The batch's loss is the mean of its rows' losses. Without its size a row's moments would mix gradients of
        # different scales: one visit in a small last batch would slow it down for a hundred visits.
        gradient = leaf.grad * len(leaf)
        self._asked = None
        if self.optimizer == "sgd":
            self.table[index, 0] -= learning_rate * gradient
            return
        beta1, beta2 = self.BETAS
        state = self.table[index]
        count = self.n_updates[index] + 1
        moment1 = state[:, 1].lerp_(gradient, 1 - beta1)
        moment2 = state[:, 2].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        step = (-learning_rate / (1 - beta1**count)).unsqueeze(1) * moment1
        scale = moment2.div((1 - beta2**count).unsqueeze(1)).sqrt_().add_(self.EPSILON)
        state[:, 0].addcdiv_(step, scale)
        self.table[index] = state
        self.n_updates[index] = count

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


def initial_latents(kind: LatentInit, batch: Batch, latent_dim: int, rng: torch.Generator) -> Float[Tensor, "N L"]:
    """First latent means: zeros, normal with standard deviation 0.001, or the row's principal components.

    `pca` projects the mean-filled rows on their first `latent_dim` principal components, each scaled to unit
    variance as the prior has it; components past the rank are zero.
    """
    mean = batch.x.new_zeros(len(batch), latent_dim)
    if kind == "zeros":
        return mean
    if kind == "normal":
        return mean.normal_(std=SMALL_STD, generator=rng)
    column_mean, components = principal_components(batch, latent_dim)
    return (batch.x - batch.observed * column_mean) @ components.T


def principal_components(batch: Batch, latent_dim: int) -> tuple[Float[Tensor, " D"], Float[Tensor, "L D"]]:
    """Column means, and directions onto which mean-filled rows have unit variance; zero past the rank."""
    column_mean = column_means(batch)
    # Mean-filled and centred: a cell that is not observed is 0, the centre.
    centred = batch.x - batch.observed * column_mean
    _, s, v = torch.linalg.svd(centred, full_matrices=False)
    rank = min(latent_dim, int((s > s[0] * 1e-6).sum()))
    components = batch.x.new_zeros(latent_dim, centred.shape[1])
    components[:rank] = v[:rank] / s[:rank, None] * len(batch) ** 0.5
    return column_mean, components


def column_means(batch: Batch) -> Float[Tensor, " D"]:
    """Means of the observed cells of each column, 0 for a column without any."""
    return batch.x.sum(0) / batch.observed.sum(0).clamp(min=1.0)
