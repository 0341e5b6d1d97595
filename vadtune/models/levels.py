"""Numbers that take few values, each as the chances of these values.

A rating, a count, a tax rate of a district: such columns repeat themselves, and where one has a value of its own the
others of the row are known. A Gaussian around one number cannot say so; a softmax over the values can. The estimate is
the mean of the values, so that all else sees a number.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vadtune.data.codec import Codec
from vadtune.data.tables import IntArray
from vadtune.models.backward import Pull
from vadtune.models.codes import Blocks
from vadtune.models.likelihood import Likelihood, Wrapping
from vadtune.models.objective import Batch


class Leveled(Wrapping):
    """Another likelihood but for some of its numbers, whose cells are levels: softmax blocks behind its own outputs.

    A value between two levels, in rows that were not seen in training, counts as the nearer one. The outputs are those
    of the other likelihood, of which those of the levels' columns are not read, and a logit for each level.

    Args:
        inner: Of all columns.
        codec: Says which numbers have levels: `Codec.leveled`, at least one.
    """

    places: Tensor
    values: Tensor
    middles: Tensor
    others: Tensor

    def __init__(self, inner: Likelihood, codec: Codec) -> None:
        super().__init__(inner)
        levels = [codec.columns[codec.numbers[place]].codes for place in codec.leveled]
        self.leveled = codec.leveled
        self.blocks = Blocks([len(values) for values in levels])
        middles = np.full((len(levels), max(map(len, levels)) - 1), np.inf, dtype=np.float32)
        for row, values in zip(middles, levels, strict=True):
            row[: len(values) - 1] = (np.array(values[:-1]) + np.array(values[1:])) / 2
        others = np.ones(codec.n_outputs, dtype=np.float32)
        others[codec.leveled] = 0
        buffers = {
            "places": codec.leveled.astype(np.int64),
            "values": np.concatenate(levels).astype(np.float32),
            "middles": middles,
            "others": others,
        }
        for name, array in buffers.items():
            self.register_buffer(name, torch.from_numpy(array), persistent=False)

    @property
    def n_outputs(self) -> int:
        """Those of the other likelihood, and a logit for each level."""
        return self.inner.n_outputs + len(self.values)

    def loss(self, outputs: Float[Tensor, "N O"], batch: Batch) -> Float[Tensor, " N"]:
        """The other's loss of the other columns, and -log p of the observed levels."""
        return self.inner.loss(self._inner(outputs), self._rest(batch)) + self._surprise(outputs, batch)

    def vjp(self, outputs: Float[Tensor, "N O"], batch: Batch, *, learns: bool) -> tuple[Float[Tensor, " N"], Pull]:
        """See `Likelihood.vjp`; of the levels by hand."""
        rest, pull_rest = self.inner.vjp(self._inner(outputs), self._rest(batch), learns=learns)
        chosen, known = self._chosen(batch), batch.observed[:, self.places]
        log_chances = self.blocks.log_chances(self._own(outputs))

        def pull(gradient: Tensor) -> Tensor:
            weights = known * gradient.unsqueeze(1)
            by_logits = torch.exp(log_chances).mul_(self.blocks.spread(weights))
            return torch.cat([pull_rest(gradient), by_logits.scatter_add_(1, chosen, -weights)], 1)

        return rest - (log_chances.gather(1, chosen) * known).sum(-1), pull

    def error(self, outputs: Float[Tensor, "N O"], batch: Batch) -> Float[Tensor, " N"]:
        """The other's error of the other columns, and -log p of the observed levels."""
        return self.inner.error(self._inner(outputs), self._rest(batch)) + self._surprise(outputs, batch)

    def pairwise_error(self, outputs: Float[Tensor, "A O"], batch: Batch) -> Float[Tensor, "A N"]:
        """The same for every output and every row."""
        logits, known = self._own(outputs), batch.observed[:, self.places]
        chosen = known.new_zeros(len(known), logits.shape[1]).scatter(1, self._chosen(batch), known)
        errors = self.inner.pairwise_error(self._inner(outputs), self._rest(batch))
        return errors + self.blocks.log_sums(logits) @ known.T - logits @ chosen.T

    def probe(self, outputs: Float[Tensor, "N O"], batch: Batch, signs: Float[Tensor, " O"]) -> Float[Tensor, "N O"]:
        """The other's, and that of a category for each level."""
        n = self.inner.n_outputs
        inner = self.inner.probe(outputs[:, :n], self._rest(batch), signs[:n])
        known = self.blocks.spread(batch.observed[:, self.places])
        return torch.cat([inner, self.blocks.probe(outputs[:, n:], signs[n:]) * known], 1)

    @property
    def gaussian(self) -> IntArray:
        """Those without levels."""
        return np.setdiff1d(self.inner.gaussian, self.leveled)

    def number_variance(self, outputs: Float[Tensor, "N O"], temperature: float = 1.0) -> Float[Tensor, "N M"]:
        """That of the values by their chances."""
        chances = self.blocks.chances(self._own(outputs) / temperature)
        mean = self._mean(chances)
        off = (self.values - self.blocks.spread(mean)).square()
        inner = super().number_variance(outputs)
        return inner.index_copy(1, self.places, self.blocks.sums(chances * off))

    def all_chances(
        self, outputs: Float[Tensor, "N O"], batch: Batch, temperature: float = 1.0
    ) -> Float[Tensor, "N K"]:
        """The other's, and those of the batch's levels."""
        levels = torch.exp(-self._losses(self._own(outputs) / temperature, batch))
        return torch.cat([self.chances(outputs, batch, temperature), levels], 1)

    def expect(self, outputs: Float[Tensor, "N O"]) -> Float[Tensor, "N E"]:
        """What the other expects, and the mean of the values by their chances."""
        mean = self._mean(self.blocks.chances(self._own(outputs)))
        return super().expect(outputs).index_copy(1, self.places, mean)

    def sample(
        self, outputs: Float[Tensor, "N O"], normal: Float[Tensor, "N D"], temperature: float = 1.0
    ) -> Float[Tensor, "N E"]:
        """The other's draws, and one of the values for each level's cell."""
        uniform = torch.special.ndtr(normal[:, self.places]).clamp(1e-6, 1 - 1e-6)
        drawn = self._mean(self.blocks.sample(self._own(outputs) / temperature, uniform))
        return super().sample(outputs, normal, temperature).index_copy(1, self.places, drawn)

    def output_at(self, mean: Float[Tensor, " E"]) -> Float[Tensor, " O"]:
        """The other's, and equal chances of all levels."""
        return torch.cat([self.inner.output_at(mean), torch.zeros_like(self.values)])

    def _rest(self, batch: Batch) -> Batch:
        """The batch as if nothing of the levels' columns were observed."""
        return Batch(batch.x * self.others, batch.observed * self.others)

    def _mean(self, chances: Float[Tensor, "N B"]) -> Float[Tensor, "N C"]:
        """The mean value of each column."""
        return self.blocks.sums(chances * self.values)

    def _chosen(self, batch: Batch) -> Int[Tensor, "N C"]:
        """Which of the logits stand for the cells' values; of cells that are not observed, any."""
        nearest = torch.searchsorted(self.middles, batch.x[:, self.places].T.contiguous())
        return nearest.T + self.blocks.first

    def _surprise(self, outputs: Float[Tensor, "N O"], batch: Batch) -> Float[Tensor, " N"]:
        return self._losses(self._own(outputs), batch).sum(-1)

    def _losses(self, logits: Float[Tensor, "N B"], batch: Batch) -> Float[Tensor, "N C"]:
        """-log p of each level, 0 where it is not observed."""
        losses = self.blocks.log_sums(logits) - logits.gather(1, self._chosen(batch))
        return losses * batch.observed[:, self.places]
