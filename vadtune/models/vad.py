"""Variational auto-decoder: no encoder; gradient descent finds each row's posterior.

Source: Zadeh, Lim, Liang, Morency (2019), Variational Auto-Decoder, arXiv:1903.00840.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from vadtune.data.codec import Codec
from vadtune.data.splits import Rows
from vadtune.models.base import Model, Parts, TrainingPosteriors
from vadtune.models.config import VADConfig
from vadtune.models.latents import LatentTable, initial_latents
from vadtune.models.objective import Batch, Posterior
from vadtune.models.recall import Memory
from vadtune.models.starts import STARTS


class VAD(Model):
    """A decoder whose rows own their posteriors."""

    latent_log_var: Float[Tensor, " L"]

    def __init__(self, config: VADConfig, codec: Codec) -> None:
        parts = Parts.build(config, codec)
        super().__init__(parts, config.kl_weight)
        self.config = config
        self.beginning = STARTS[config.inference_start](config.latent_dim, codec.n_outputs)
        self.memory = Memory(config.latent_dim)
        if config.posterior != "point":
            self.register_buffer("latent_log_var", torch.full((config.latent_dim,), config.log_var))

    def training_posteriors(self, train: Batch) -> LatentTable:
        """A table of latents, one row for each training row."""
        config, regression = self.config, self.beginning.regression(train)
        zeros = train.x.new_zeros(len(train), config.latent_dim)
        return LatentTable(zeros, config.posterior, config.log_var, config.latent_optimizer, regression)

    def begin(self, posteriors: TrainingPosteriors, rows: Rows, train: Batch, rng: torch.Generator) -> None:
        """Set the first latents; see the rows for where inference begins."""
        assert isinstance(posteriors, LatentTable)
        posteriors.begin_at(initial_latents(self.config.latent_init, rows, train, self.config.latent_dim, rng))
        self.beginning.see(rows)

    @torch.no_grad()
    def start(self, batch: Batch) -> Posterior:
        """Where inference begins: see `starts`; log variances begin at the average of those of the training rows."""
        mean = self.beginning.mean(batch, self.decoder, self.likelihood)
        if self.config.posterior == "point":
            return Posterior(mean, None)
        return Posterior(mean, self.latent_log_var.expand_as(mean))

    @torch.no_grad()
    def restart(self, batch: Batch, warm: Posterior, posteriors: TrainingPosteriors) -> Posterior:
        """Rows that a fresh start suits better by now than where they are begin there, if that start moves at all."""
        if not self.beginning.is_asked_again:
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
        """Keep training latents, and what they say of where inference begins."""
        assert isinstance(posteriors, LatentTable)
        self.beginning.remember(posteriors)
        found = posteriors.all()
        self.memory.keep(found.mean)
        if found.log_var is not None:
            self.latent_log_var = found.log_var.mean(0)

    @torch.no_grad()
    def recall(self, batch: Batch, temperature: float) -> Float[Tensor, "N E"] | None:
        """See `Model.recall`."""
        return self.memory.recall(batch, self.decoder, self.likelihood, temperature)

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
