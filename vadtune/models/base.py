"""What training and inference ask of a model: a decoder, a row loss, and where posteriors come from."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vadtune.data.codec import Codec
from vadtune.data.splits import Rows
from vadtune.data.tables import IntArray
from vadtune.errors import ConfigError
from vadtune.models.config import DecoderConfig, VADConfig, VAEConfig
from vadtune.models.decoder import Decoder
from vadtune.models.levels import Leveled
from vadtune.models.likelihood import Gaussian, Likelihood, Mixed, Noise
from vadtune.models.normal_scores import Scored
from vadtune.models.objective import Batch, Posterior


class Visit(ABC):
    """Some training rows, whose posteriors one batch after another asks for, each row once."""

    @abstractmethod
    def of(self, rows: slice, batch: Batch) -> Posterior:
        """Posteriors of some of the rows.

        Args:
            rows: Which, among those of the visit.
            batch: What is known of them.
        """

    @abstractmethod
    def update(self, gradients: list[Float[Tensor, "B L"]], learning_rate: float) -> None:
        """Move what `of` handed out last along the gradients of its mean row loss."""

    @abstractmethod
    def end(self) -> None:
        """Keep where the rows have moved."""


class TrainingPosteriors(nn.Module, ABC):
    """The posteriors of the training rows."""

    @abstractmethod
    def visit(self, index: Int[Tensor, " K"]) -> Visit:
        """Begin to move those of some rows, all of which have been visited equally often."""


@dataclass(frozen=True)
class Parts:
    """What every model is made of, beside where its posteriors come from."""

    decoder: Decoder
    likelihood: Likelihood
    codec: Codec

    @classmethod
    def build(cls, config: VADConfig | VAEConfig, codec: Codec) -> "Parts":
        """Make the likelihood of a codec's columns, and a decoder of the outputs that it reads, with fresh weights.

        Raises:
            ConfigError: The decoder is not one for columns of codes, of levels, or of normal scores.
        """
        likelihood: Likelihood
        if codec.is_plain:
            likelihood = Gaussian(config.noise.build(codec.n_outputs), codec.n_outputs)
        else:
            likelihood = Mixed(config.noise.build(codec.numbers.size), codec)
        scored = codec.scored
        if config.levels and codec.leveled.size:
            likelihood = Leveled(likelihood, codec)
            scored = np.setdiff1d(scored, codec.leveled)
        if config.normal_scores and scored.size:
            likelihood = Scored(likelihood, codec, scored, config.noise.build(scored.size))
        decoder = config.decoder
        is_free = isinstance(decoder, DecoderConfig) and decoder.output == "identity"
        if not (is_free or isinstance(likelihood, Gaussian)):
            raise ConfigError(
                "model.decoder: 'projective', 'convolutional' and output 'sigmoid' are for numbers alone, and there "
                "are codes, levels or normal scores."
            )
        return cls(decoder.build(config.latent_dim, likelihood.n_outputs, codec.image_shape), likelihood, codec)


class Model(nn.Module, ABC):
    """A decoder, a likelihood and a prior N(0, 1); subclasses say how a row gets its posterior."""

    def __init__(self, parts: Parts, kl_weight: float) -> None:
        super().__init__()
        self.decoder = parts.decoder
        self.likelihood = parts.likelihood
        self.codec = parts.codec
        self.kl_weight = kl_weight

    @property
    def noise(self) -> Noise:
        """The noise of the numbers."""
        return self.likelihood.noise

    @property
    def gaussian(self) -> IntArray:
        """Which columns are numbers with Gaussian noise; what is discrete has chances instead."""
        return self.codec.numbers[self.likelihood.gaussian]

    def work(self, n_rows: int) -> int:
        """About how many multiplications one pass of so many rows takes."""
        return n_rows * (sum(weight.numel() for weight in self.parameters()) + self.decoder.n_repeated)

    def batch(self, x: Float[Tensor, "N D"]) -> Batch:
        """Rows ready for the hot loop, of values that are NaN wherever a model must not see."""
        if self.codec.is_plain:
            return self.likelihood.prepare(Batch.of(x))
        return self.likelihood.prepare(Batch.of(torch.from_numpy(self.codec.encode(x.cpu().numpy())).to(x)))

    def start_at(self, column_mean: Float[Tensor, " E"]) -> None:
        """Set the output bias so that z = 0 begins near the column means."""
        self.decoder.start_at(self.likelihood.output_at(column_mean))

    def estimate(self, z: Float[Tensor, "N L"]) -> Float[Tensor, "N D"]:
        """The best estimate of all cells: numbers in scaled units, the likeliest codes."""
        return self.values(self.likelihood.expect(self.decoder(z)))

    def draw(
        self, z: Float[Tensor, "N L"], normal: Float[Tensor, "N D"], temperature: float = 1.0
    ) -> Float[Tensor, "N D"]:
        """A draw of all cells by one standard normal number each; see `Likelihood.sample`."""
        return self.values(self.likelihood.sample(self.decoder(z), normal, temperature))

    def values(self, expected: Float[Tensor, "N E"]) -> Float[Tensor, "N D"]:
        """Columns of what `Likelihood.expect` or `sample` gives."""
        if self.codec.is_plain:
            return expected
        return torch.from_numpy(self.codec.decode(expected.detach().cpu().numpy())).to(expected)

    def losses(
        self,
        batch: Batch,
        posterior: Posterior,
        noise: Float[Tensor, "N L"] | Float[Tensor, " L"],
        share: float,
        *,
        learns: bool,
    ) -> tuple[Float[Tensor, " N"], list[Float[Tensor, "N L"]]]:
        """Row losses (negative evidence lower bound, nats) at the draw that some noise makes of the posterior.

        To be called where autograd is off: gradients are made by hand.

        Args:
            batch: The rows.
            posterior: Theirs.
            noise: Standard normal, for each row or one for all.
            share: Gradients are those of the row losses' sum times this.
            learns: Whether weights get theirs, as `.grad`, which is to be None before.

        Returns:
            The losses, and the gradients by the posterior's means and, if they are learned, log variances.
        """
        z, kl, drawn = posterior.vjp(noise)
        outputs, pull_decoder = self.decoder.vjp(z, learns=learns)
        losses, pull_likelihood = self.likelihood.vjp(outputs, batch, learns=learns)
        by_loss = torch.full_like(losses, share)
        by_z, by_kl = pull_decoder(pull_likelihood(by_loss)), self.kl_weight * by_loss
        gradients = [drawn.by_mean(by_z, by_kl)]
        if self.learns_log_var:
            gradients.append(drawn.by_log_var(by_z, by_kl))
        return torch.add(losses, kl, alpha=self.kl_weight), gradients

    def map_loss(self, batch: Batch, mean: Float[Tensor, "N L"]) -> Float[Tensor, " N"]:
        """What inference minimises, without constants: -log p(x | z) - kl_weight log p(z) at z = mean. Not negative."""
        data = self.likelihood.error(self.decoder(mean), batch)
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
    def training_posteriors(self, train: Batch) -> TrainingPosteriors:
        """Posteriors for the training rows, to `begin` or to be restored."""

    @abstractmethod
    def begin(self, posteriors: TrainingPosteriors, rows: Rows, train: Batch, rng: torch.Generator) -> None:
        """Learn of the training rows what is wanted before the first epoch, and set their first posteriors.

        Args:
            posteriors: What `training_posteriors` gave.
            rows: The training rows as they are.
            train: The model's `batch` of them.
            rng: Of what is random in them.
        """

    @abstractmethod
    def start(self, batch: Batch) -> Posterior:
        """Where the inference of unseen rows begins; depends on each row alone."""

    def restart(self, batch: Batch, warm: Posterior, posteriors: TrainingPosteriors) -> Posterior:  # noqa: ARG002
        """Where inference goes on that has begun on an earlier state of the decoder: where it was."""
        return warm

    @abstractmethod
    def remember(self, posteriors: TrainingPosteriors) -> None:
        """Keep of the training posteriors what `start` needs."""

    def recall(self, batch: Batch, temperature: float) -> Float[Tensor, "N E"] | None:  # noqa: ARG002
        """What rows like these were in training, see recall.py; None of a model that recalls nothing."""
        return None

    @property
    @abstractmethod
    def max_refinement_steps(self) -> int | None:
        """How many gradient steps inference may take from `start`; None where only convergence ends it."""
