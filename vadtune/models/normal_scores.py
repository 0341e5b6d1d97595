"""Skewed numbers, seen a second time as normal scores of their ranks.

Of an income or a concentration a Gaussian sees the largest values and hardly tells the others apart, among which a
column beside it may vary most. The decoder explains both: the number, which is what is estimated, and its normal score,
by which small values weigh as much as large ones in what is inferred of the row.

Source of the scores: van der Waerden (1952), Order tests for the two-sample problem and their power.
"""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vadtune.data.codec import Codec
from vadtune.data.tables import IntArray
from vadtune.models.backward import Pull
from vadtune.models.likelihood import Gaussian, Likelihood, Noise, Wrapping
from vadtune.models.objective import Batch, gaussian_vjp, pairwise_error, reconstruction_error, reconstruction_loss


class Scored(Wrapping):
    """Another likelihood, and Gaussians around the normal scores of skewed numbers: one output more for each.

    Args:
        inner: Of all columns.
        codec: Holds the scores.
        places: Of the numbers that are seen so, among the E: of `Codec.scored`, at least one.
        noise: Of the scores.
    """

    places: Tensor

    def __init__(self, inner: Likelihood, codec: Codec, places: IntArray, noise: Noise) -> None:
        super().__init__(inner)
        self.codec = codec
        self.score_noise = noise
        self.register_buffer("places", torch.from_numpy(places.astype(np.int64)), persistent=False)

    @property
    def n_outputs(self) -> int:
        """Those of the other likelihood, and one for each skewed number."""
        return self.inner.n_outputs + len(self.places)

    def prepare(self, batch: Batch) -> Batch:
        """The batch with the scores of its observed cells."""
        observed = batch.observed[:, self.places]
        scores = torch.from_numpy(self.codec.normal_scores(batch.x.cpu().numpy(), self.places.cpu().numpy()))
        x = torch.cat([batch.x, scores.to(observed) * observed], 1)
        return replace(batch, scored=Batch(x, torch.cat([batch.observed, observed], 1)))

    def loss(self, outputs: Float[Tensor, "N O"], batch: Batch) -> Float[Tensor, " N"]:
        """The other's, and that of the observed scores."""
        if self._is_one:
            return reconstruction_loss(outputs, _scored(batch), self._log_var())
        own = reconstruction_loss(self._own(outputs), _scores(batch), self.score_noise.log_var())
        return self.inner.loss(self._inner(outputs), batch) + own

    def vjp(self, outputs: Float[Tensor, "N O"], batch: Batch, *, learns: bool) -> tuple[Float[Tensor, " N"], Pull]:
        """See `Likelihood.vjp`; of the scores by hand."""
        if self._is_one:
            return self._vjp_of_one(outputs, batch, learns=learns)
        losses, pull_inner = self.inner.vjp(self._inner(outputs), batch, learns=learns)
        own, pulls = gaussian_vjp(self._own(outputs), _scores(batch), self.score_noise.log_var())

        def pull(gradient: Tensor) -> Tensor:
            if learns:
                self.score_noise.pull(pulls.by_log_var(gradient))
            return torch.cat([pull_inner(gradient), pulls.by_x_hat(gradient)], 1)

        return losses + own, pull

    def _vjp_of_one(
        self, outputs: Float[Tensor, "N O"], batch: Batch, *, learns: bool
    ) -> tuple[Float[Tensor, " N"], Pull]:
        losses, pulls = gaussian_vjp(outputs, _scored(batch), self._log_var())

        def pull(gradient: Tensor) -> Tensor:
            if learns:
                by_log_var, n = pulls.by_log_var(gradient), self.inner.n_outputs
                self.noise.pull(by_log_var[:n])
                self.score_noise.pull(by_log_var[n:])
            return pulls.by_x_hat(gradient)

        return losses, pull

    def error(self, outputs: Float[Tensor, "N O"], batch: Batch) -> Float[Tensor, " N"]:
        """The other's, and that of the observed scores."""
        if self._is_one:
            return reconstruction_error(outputs, _scored(batch), self._log_var())
        own = reconstruction_error(self._own(outputs), _scores(batch), self.score_noise.log_var())
        return self.inner.error(self._inner(outputs), batch) + own

    def pairwise_error(self, outputs: Float[Tensor, "A O"], batch: Batch) -> Float[Tensor, "A N"]:
        """The same for every output and every row."""
        own = pairwise_error(self._own(outputs), _scores(batch), self.score_noise.log_var())
        return self.inner.pairwise_error(self._inner(outputs), batch) + own

    def probe(self, outputs: Float[Tensor, "N O"], batch: Batch, signs: Float[Tensor, " O"]) -> Float[Tensor, "N O"]:
        """The other's, and 1 / s for each score."""
        n = self.inner.n_outputs
        own = torch.exp(-0.5 * self.score_noise.log_var()) * _scores(batch).observed * signs[n:]
        return torch.cat([self.inner.probe(outputs[:, :n], batch, signs[:n]), own], 1)

    def output_at(self, mean: Float[Tensor, " E"]) -> Float[Tensor, " O"]:
        """The other's, and 0, about which normal scores lie."""
        return torch.cat([self.inner.output_at(mean), mean.new_zeros(len(self.places))])

    @property
    def _is_one(self) -> bool:
        """Whether numbers and scores are Gaussians side by side, computed as one: many small steps cost more."""
        return isinstance(self.inner, Gaussian)

    def _log_var(self) -> Float[Tensor, " O"]:
        """Of the noise of all outputs."""
        parts = (self.noise.log_var(), self.inner.n_outputs), (self.score_noise.log_var(), len(self.places))
        return torch.cat([log_var.expand(n) for log_var, n in parts])


def _scored(batch: Batch) -> Batch:
    """Cells and scores, side by side."""
    assert batch.scored is not None
    return batch.scored


def _scores(batch: Batch) -> Batch:
    return _scored(batch).columns(slice(batch.x.shape[1], None))
