"""Variational auto-encoder for incomplete rows: an encoder reads the zero-filled row and its observed mask.

Source: Kingma and Welling (2014), arXiv:1312.6114; zero-filling and the mask as inputs: Nazabal et al. (2020),
Handling incomplete heterogeneous data using VAEs, arXiv:1807.03653; an encoder that learns to do with less than is
observed: Ivanov, Figurnov, Vetrov (2019), Variational autoencoder with arbitrary conditioning, arXiv:1806.02382;
refinement of the encoder's answer by gradient steps: Mattei and Frellsen (2018), Refit your encoder when new data comes
by; Kim et al. (2018), arXiv:1802.02550.
"""

import torch
from jaxtyping import Int
from torch import Tensor, nn

from vadtune.data.codec import Codec
from vadtune.data.splits import Rows
from vadtune.models.base import Model, Parts, TrainingPosteriors, Visit
from vadtune.models.config import VAEConfig
from vadtune.models.decoder import mlp
from vadtune.models.dropout import drop_cells
from vadtune.models.objective import Batch, Posterior

# Exponentials of larger log variances overflow before a loss can push them back.
MAX_LOG_VAR = 10.0


class VAE(Model):
    """A decoder whose rows are given their posteriors by an encoder."""

    def __init__(self, config: VAEConfig, codec: Codec) -> None:
        parts = Parts.build(config, codec)
        super().__init__(parts, config.kl_weight)
        self.config = config
        self.encoder = mlp(2 * codec.n_outputs, 2 * config.latent_dim, config.encoder)

    def start(self, batch: Batch) -> Posterior:
        """The encoder's answer."""
        return encode(self.encoder, batch)

    def training_posteriors(self, train: Batch) -> "Amortized":  # noqa: ARG002
        """The encoder itself: it learns with the network's optimizer and holds nothing of any row."""
        return Amortized(self.encoder, self.config.mask_rate)

    def begin(self, posteriors: TrainingPosteriors, rows: Rows, train: Batch, rng: torch.Generator) -> None:
        """Nothing: the encoder is there."""

    def remember(self, posteriors: TrainingPosteriors) -> None:
        """Nothing: the encoder knows where to begin."""

    @property
    def prior_weight(self) -> float:
        """The KL weight."""
        return self.kl_weight

    @property
    def learns_log_var(self) -> bool:
        """Always: the encoder gives them."""
        return True

    @property
    def max_refinement_steps(self) -> int | None:
        """As many as the settings say."""
        return self.config.refinement_steps


class Amortized(TrainingPosteriors, Visit):
    """Posteriors straight from the encoder, which moves with the network: by the network's optimizer, afterwards.

    Args:
        encoder: The encoder.
        mask_rate: See `VAEConfig`.
    """

    def __init__(self, encoder: nn.Module, mask_rate: float) -> None:
        super().__init__()
        self.mask_rate = mask_rate
        self._encoder = [encoder]  # in a list: the model owns its weights, they are not saved twice
        self._asked: list[Tensor] = []

    def visit(self, index: Int[Tensor, " K"]) -> Visit:  # noqa: ARG002
        """Nothing is held of any row."""
        return self

    def of(self, rows: slice, batch: Batch) -> Posterior:  # noqa: ARG002
        """Encode what is left of the batch."""
        if self.mask_rate:
            kept = drop_cells(batch.observed, self.mask_rate)
            batch = Batch(batch.x * kept, kept)
        with torch.enable_grad():
            posterior = encode(self._encoder[0], batch)
        assert posterior.log_var is not None
        self._asked = [posterior.mean, posterior.log_var]
        return posterior

    def update(self, gradients: list[Tensor], learning_rate: float) -> None:  # noqa: ARG002
        """Pass the gradients on to the encoder."""
        torch.autograd.backward(self._asked, gradients)
        self._asked = []

    def end(self) -> None:
        """Nothing."""


def encode(encoder: nn.Module, batch: Batch) -> Posterior:
    """q(z | x) from the zero-filled row and the observed mask."""
    mean, log_var = encoder(torch.cat([batch.x, batch.observed], 1)).chunk(2, dim=1)
    return Posterior(mean, log_var.clamp(-MAX_LOG_VAR, MAX_LOG_VAR))
