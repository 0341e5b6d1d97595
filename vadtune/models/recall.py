"""What rows like this one were: outputs at the latents of training rows, weighted by how likely each makes the row.

    E[x | x_o]  ~  sum over i of w_i x_hat(z_i),    w_i proportional to p(x_o | z_i)^(1 / T)

This is importance sampling with the training latents as draws from the prior. A posterior with one maximum says where
the row is likeliest to be; the average, what it is on the whole where several places are as likely: in tables whose
rows lie in clusters, or repeat themselves. A temperature T above 1 takes more rows into account.

Source: training latents as a prior: Tomczak and Welling (2018), VAE with a VampPrior, arXiv:1705.07120; the average:
Nadaraya (1964), On estimating regression, Theory Probab. Appl. 9.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vadtune.models.decoder import Decoder
from vadtune.models.likelihood import Likelihood
from vadtune.models.objective import Batch

MOST_ROWS = 4096  # of training that are kept
# Compared at once are as many rows as make so many numbers with all outputs of those that are kept.
MOST_NUMBERS, MAX_COMPARED = 2**25, 1024
HUGE = 1e30


class Memory(nn.Module):
    """Latents of training rows, evenly chosen if there are many."""

    latents: Float[Tensor, "M L"]
    n_rows: Int[Tensor, ""]

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.register_buffer("latents", torch.zeros(MOST_ROWS, latent_dim))
        self.register_buffer("n_rows", torch.zeros((), dtype=torch.int64))

    def keep(self, mean: Float[Tensor, "N L"]) -> None:
        """Remember some of these, and nothing else."""
        n = min(len(mean), MOST_ROWS)
        self.latents = torch.zeros_like(self.latents)
        self.latents[:n] = mean[torch.arange(n, device=mean.device) * len(mean) // n]
        self.n_rows = torch.tensor(n, device=mean.device)

    @property
    def kept(self) -> Float[Tensor, "M L"]:
        """Those that are kept."""
        return self.latents[: int(self.n_rows)]

    def recall(
        self, batch: Batch, decoder: Decoder, likelihood: Likelihood, temperature: float
    ) -> Float[Tensor, "N E"]:
        """The average of each row."""
        outputs = decoder(self.kept)
        expected, found = likelihood.expect(outputs), []
        n_together = min(MAX_COMPARED, max(1, MOST_NUMBERS // max(1, outputs.numel())))
        for rows in batch.split(n_together):
            # Of a row that cannot be fitted no error is a number.
            errors = likelihood.pairwise_error(outputs, rows).nan_to_num(nan=HUGE, posinf=HUGE)
            found.append(torch.softmax(-errors / temperature, 0).T @ expected)
        return torch.cat(found)
