"""Where the inference of unseen rows begins: one class each, named in `STARTS`. Each depends on the row alone."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vadtune.data.splits import Rows
from vadtune.models.config import InferenceStart
from vadtune.models.decoder import Decoder
from vadtune.models.latents import SMALL_STD, LatentTable, column_means
from vadtune.models.likelihood import Likelihood
from vadtune.models.objective import Batch
from vadtune.models.regression import LatentRegression

# Training latents that are kept for `importance`, and with how many rows at once they are compared.
N_ANCHORS = 256
MAX_COMPARED = 1024
HUGE = 1e30


class Start(nn.Module, ABC):
    """Posterior means to begin with.

    Args:
        latent_dim: L.
        n_outputs: E, how many outputs the decoder has.
    """

    # Whether rows on their way are to ask again as the training goes on.
    is_asked_again = False

    def __init__(self, latent_dim: int, n_outputs: int) -> None:  # noqa: ARG002  of some, E
        super().__init__()
        self.latent_dim = latent_dim

    def see(self, rows: Rows) -> None:
        """Learn from the training rows, before the first epoch."""

    def regression(self, train: Batch) -> LatentRegression | None:  # noqa: ARG002  most want none
        """Of the latents of the training rows on these, where `remember` wants it."""
        return None

    def remember(self, posteriors: LatentTable) -> None:
        """Learn from the latents of the training rows."""

    @abstractmethod
    def mean(self, batch: Batch, decoder: Decoder, likelihood: Likelihood) -> Float[Tensor, "N L"]:
        """Where rows begin."""

    def _zeros(self, batch: Batch) -> Float[Tensor, "N L"]:
        return batch.x.new_zeros(len(batch), self.latent_dim)

    def _draw(self, batch: Batch) -> Float[Tensor, " L"]:
        """A standard normal draw, always the same."""
        return torch.randn(self.latent_dim, generator=torch.Generator().manual_seed(0)).to(batch.x)


class Zeros(Start):
    """The prior's mean."""

    def mean(self, batch: Batch, decoder: Decoder, likelihood: Likelihood) -> Float[Tensor, "N L"]:  # noqa: ARG002
        """Zero."""
        return self._zeros(batch)


class Normal(Start):
    """A draw around zero, the same for every row."""

    def mean(self, batch: Batch, decoder: Decoder, likelihood: Likelihood) -> Float[Tensor, "N L"]:  # noqa: ARG002
        """Close to zero."""
        return self._zeros(batch) + SMALL_STD * self._draw(batch)


class Train(Start):
    """A draw around the training latents, the same for every row."""

    latent_mean: Float[Tensor, " L"]
    latent_std: Float[Tensor, " L"]

    def __init__(self, latent_dim: int, n_outputs: int) -> None:
        super().__init__(latent_dim, n_outputs)
        self.register_buffer("latent_mean", torch.zeros(latent_dim))
        self.register_buffer("latent_std", torch.zeros(latent_dim))

    def remember(self, posteriors: LatentTable) -> None:
        """Learn where they lie."""
        mean = posteriors.all().mean
        self.latent_mean, self.latent_std = mean.mean(0), mean.std(0, correction=0)

    def mean(self, batch: Batch, decoder: Decoder, likelihood: Likelihood) -> Float[Tensor, "N L"]:  # noqa: ARG002
        """Among the training latents."""
        return self._zeros(batch) + self.latent_mean + self.latent_std * self._draw(batch)


class Projection(Start):
    """The mean-filled row, projected."""

    column_mean: Float[Tensor, " E"]
    projection: Float[Tensor, "E L"]

    def __init__(self, latent_dim: int, n_outputs: int) -> None:
        super().__init__(latent_dim, n_outputs)
        self.register_buffer("column_mean", torch.zeros(n_outputs))
        self.register_buffer("projection", torch.zeros(n_outputs, latent_dim))

    def mean(self, batch: Batch, decoder: Decoder, likelihood: Likelihood) -> Float[Tensor, "N L"]:  # noqa: ARG002
        """The projection."""
        return (batch.x - batch.observed * self.column_mean) @ self.projection


class PCA(Projection):
    """The mean-filled row, projected on the principal components of the training rows."""

    def see(self, rows: Rows) -> None:
        """Find the components: those on which latents may begin, see `initial_latents`."""
        components = torch.from_numpy(rows.components[:, : self.latent_dim])
        self.column_mean.copy_(torch.from_numpy(rows.normal.mean))
        self.projection[:, : components.shape[1]] = components


class Linear(Projection):
    """What a ridge regression of the training latents makes of the mean-filled row.

    On MNIST digits 40 steps from there come as far as 100 from zeros.
    """

    def regression(self, train: Batch) -> LatentRegression:
        """On the mean-filled rows."""
        return LatentRegression(train, column_means(train))

    def remember(self, posteriors: LatentTable) -> None:
        """Regress them on their rows."""
        assert posteriors.regression is not None
        self.column_mean = posteriors.regression.column_mean
        self.projection = posteriors.regression.fit(posteriors.all().mean)


class Importance(Start):
    """A mean of 256 latents of training rows, weighted by how likely each makes the row.

    Importance sampling of the posterior mean, with training rows as draws from the prior. Of rows in clusters, descent
    from elsewhere may end in a wrong one.
    """

    is_asked_again = True
    anchors: Float[Tensor, "A L"]

    def __init__(self, latent_dim: int, n_outputs: int) -> None:
        super().__init__(latent_dim, n_outputs)
        self.register_buffer("anchors", torch.zeros(N_ANCHORS, latent_dim))

    def remember(self, posteriors: LatentTable) -> None:
        """Keep some, evenly chosen."""
        mean = posteriors.all().mean
        self.anchors = mean[torch.arange(N_ANCHORS, device=mean.device) * len(mean) // N_ANCHORS]

    def mean(self, batch: Batch, decoder: Decoder, likelihood: Likelihood) -> Float[Tensor, "N L"]:
        """The weighted mean; the prior's mean of a row of which nothing is seen."""
        outputs, mean = decoder(self.anchors), self._zeros(batch)
        for at in range(0, len(batch), MAX_COMPARED):
            rows = batch.rows(slice(at, at + MAX_COMPARED))
            # Of a row that cannot be fitted no error is a number.
            errors = likelihood.pairwise_error(outputs, rows).nan_to_num(nan=HUGE, posinf=HUGE)
            mean[at : at + MAX_COMPARED] = torch.softmax(-errors, 0).T @ self.anchors
        return mean * (batch.observed.sum(-1, keepdim=True) > 0)


STARTS: dict[InferenceStart, type[Start]] = {
    "importance": Importance,
    "linear": Linear,
    "zeros": Zeros,
    "normal": Normal,
    "pca": PCA,
    "train": Train,
}
