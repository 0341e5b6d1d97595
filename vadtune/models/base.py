"""What training and inference ask of a model: a decoder, a row loss, and where posteriors come from."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vadtune.models.decoder import Decoder
from vadtune.models.likelihood import Noise
from vadtune.models.objective import Batch, Posterior, reconstruction_error, reconstruction_loss


class TrainingPosteriors(nn.Module, ABC):
    """The posteriors of the training rows, as one batch after another asks for them."""

    @abstractmethod
    def of(self, index: Int[Tensor, " B"], batch: Batch) -> Posterior:
        """Posteriors of some training rows, with gradients."""

    @abstractmethod
    def update(self, learning_rate: float) -> None:
        """Move what the last batch asked for along its gradients; called after backward of its mean row loss."""


class Model(nn.Module, ABC):
    """A decoder with noise and a prior N(0, 1); subclasses say how a row gets its posterior."""

    def __init__(self, decoder: Decoder, noise: Noise, kl_weight: float) -> None:
        super().__init__()
        self.decoder = decoder
        self.noise = noise
        self.kl_weight = kl_weight

    def loss(self, batch: Batch, posterior: Posterior, z: Float[Tensor, "N L"]) -> Float[Tensor, " N"]:
        """Row losses (negative evidence lower bound, nats) at one draw `z` of the posterior."""
        loss = reconstruction_loss(self.decoder(z), batch, self.noise.log_var())
        return loss + self.kl_weight * posterior.kl() if self.kl_weight > 0 else loss

    def map_loss(self, batch: Batch, mean: Float[Tensor, "N L"]) -> Float[Tensor, " N"]:
        """What inference minimises, without constants: -log p(x | z) - kl_weight log p(z) at z = mean. Not negative."""
        data = reconstruction_error(self.decoder(mean), batch, self.noise.log_var())
        return data + 0.5 * self.prior_weight * mean.square().sum(-1)

    @property
    @abstractmethod
    def prior_weight(self) -> float:
        """Weight of the prior N(0, 1) on the latent means: `kl_weight`, or 0 where there is no KL term."""

    @property
    @abstractmethod
    def learns_log_var(self) -> bool:
        """Whether each row learns the variances of its posterior."""

    @abstractmethod
    def training_posteriors(self, train: Batch, rng: torch.Generator) -> TrainingPosteriors:
        """Fresh posteriors for the training rows."""

    @abstractmethod
    def start(self, batch: Batch) -> Posterior:
        """Where the inference of unseen rows begins; depends on each row alone."""

    @abstractmethod
    def remember(self, posteriors: TrainingPosteriors) -> None:
        """Keep of the training posteriors what `start` needs."""

    @property
    @abstractmethod
    def max_refinement_steps(self) -> int | None:
        """How many gradient steps inference may take from `start`; None where only convergence ends it."""
