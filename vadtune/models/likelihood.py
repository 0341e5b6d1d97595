"""What the decoder's outputs say of a cell: a Gaussian around a number, chances of a boolean, a level or a category.

Outputs are `(N, E)` in the order of `data.codec`: numbers, booleans, ordinals, one-hot blocks.

Source: Nazabal et al. (2020), Handling incomplete heterogeneous data using VAEs, arXiv:1807.03653, section 4.
"""

from abc import ABC, abstractmethod

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from vadtune.data.codec import Codec
from vadtune.data.tables import IntArray
from vadtune.models.backward import Pull, by_autograd
from vadtune.models.codes import Blocks, Thresholds
from vadtune.models.config import MIN_NOISE_LOG_VAR
from vadtune.models.objective import Batch, gaussian_vjp, pairwise_error, reconstruction_error, reconstruction_loss


class Noise(nn.Module):
    """Holds noise_log_var, of shape `()` or `(D,)`, in scaled units squared."""

    def __init__(self, log_var: Tensor, *, learned: bool) -> None:
        super().__init__()
        self.raw = nn.Parameter(log_var, requires_grad=learned)

    def log_var(self) -> Float[Tensor, ""] | Float[Tensor, " D"]:
        """The log variance, never below `MIN_NOISE_LOG_VAR`."""
        return self.raw.clamp(min=MIN_NOISE_LOG_VAR)

    def pull(self, by_log_var: Float[Tensor, " D"]) -> None:
        """Take the gradient by the log variance of each column, if it is learned."""
        if self.raw.requires_grad:
            by_log_var = by_log_var if self.raw.ndim else by_log_var.sum()
            self.raw.grad = by_log_var * (self.raw >= MIN_NOISE_LOG_VAR)


class Likelihood(nn.Module, ABC):
    """How likely cells are under the decoder's outputs, and what the outputs say of unknown cells."""

    def __init__(self, noise: Noise) -> None:
        super().__init__()
        self.noise = noise

    def prepare(self, batch: Batch) -> Batch:
        """The batch with all that the other methods look at."""
        return batch

    @abstractmethod
    def loss(self, outputs: Float[Tensor, "N E"], batch: Batch) -> Float[Tensor, " N"]:
        """Negative log likelihood of each row's observed cells, without constants."""

    def vjp(self, outputs: Float[Tensor, "N E"], batch: Batch, *, learns: bool) -> tuple[Float[Tensor, " N"], Pull]:
        """`loss`, and from a gradient by it that by the outputs; with `learns` parameters get theirs, too."""
        return by_autograd(lambda leaf: self.loss(leaf, batch), outputs, learns=learns)

    @abstractmethod
    def error(self, outputs: Float[Tensor, "N E"], batch: Batch) -> Float[Tensor, " N"]:
        """The same without what the outputs do not change; not negative."""

    @abstractmethod
    def pairwise_error(self, outputs: Float[Tensor, "A E"], batch: Batch) -> Float[Tensor, "A N"]:
        """`error` of every output on every row, good to some digits."""

    @abstractmethod
    def probe(self, outputs: Float[Tensor, "N E"], batch: Batch, signs: Float[Tensor, " E"]) -> Float[Tensor, "N E"]:
        """Weights w, such that the square of the derivative of sum(w * outputs) has the Fisher information as its mean.

        Args:
            outputs: Where the information is asked for.
            batch: Which cells are observed.
            signs: Random, each -1 or 1.
        """

    @property
    @abstractmethod
    def n_outputs(self) -> int:
        """How many outputs of the decoder it reads."""

    @property
    @abstractmethod
    def gaussian(self) -> IntArray:
        """Which of the numbers have Gaussian noise, by their places among the E."""

    @abstractmethod
    def number_variance(self, outputs: Float[Tensor, "N O"], temperature: float = 1.0) -> Float[Tensor, "N M"]:
        """The variance of each number's cell around what `expect` says of it, in scaled units squared."""

    @abstractmethod
    def chances(self, outputs: Float[Tensor, "N E"], batch: Batch, temperature: float = 1.0) -> Float[Tensor, "N C"]:
        """The chances of the batch's codes, in the order of `Codec.coded`; hotter, nearer to equal."""

    def all_chances(
        self, outputs: Float[Tensor, "N O"], batch: Batch, temperature: float = 1.0
    ) -> Float[Tensor, "N K"]:
        """The chances of all that has chances: of numbers that are levels, too."""
        return self.chances(outputs, batch, temperature)

    @abstractmethod
    def expect(self, outputs: Float[Tensor, "N E"]) -> Float[Tensor, "N E"]:
        """Numbers, and chances: what `Codec.decode` takes."""

    @abstractmethod
    def sample(
        self, outputs: Float[Tensor, "N E"], normal: Float[Tensor, "N D"], temperature: float = 1.0
    ) -> Float[Tensor, "N E"]:
        """Draws of the cells themselves, by one standard normal number each: what `Codec.decode` takes.

        Args:
            outputs: Of the decoder.
            normal: In the order of the E, a one-hot block as one.
            temperature: Of the codes' chances, as in `chances`.
        """

    def output_at(self, mean: Float[Tensor, " E"]) -> Float[Tensor, " E"]:
        """Outputs that say of every row what the columns' means say."""
        return mean


class Gaussian(Likelihood):
    """All columns are numbers.

    Args:
        noise: Of the numbers.
        n_numbers: How many there are.
    """

    def __init__(self, noise: Noise, n_numbers: int) -> None:
        super().__init__(noise)
        self.n_numbers = n_numbers

    @property
    def n_outputs(self) -> int:
        """One for each number."""
        return self.n_numbers

    @property
    def gaussian(self) -> IntArray:
        """All of them."""
        return np.arange(self.n_numbers)

    def number_variance(
        self,
        outputs: Float[Tensor, "N O"],
        temperature: float = 1.0,  # noqa: ARG002
    ) -> Float[Tensor, "N M"]:
        """That of the noise."""
        return torch.exp(self.noise.log_var()).expand(len(outputs), self.n_numbers)

    def loss(self, outputs: Float[Tensor, "N E"], batch: Batch) -> Float[Tensor, " N"]:
        """Half the squared error by the noise's variance, and the logarithm of its deviation."""
        return reconstruction_loss(outputs, batch, self.noise.log_var())

    def vjp(self, outputs: Float[Tensor, "N E"], batch: Batch, *, learns: bool) -> tuple[Float[Tensor, " N"], Pull]:
        """See `Likelihood.vjp`; by hand."""
        losses, pulls = gaussian_vjp(outputs, batch, self.noise.log_var())

        def pull(gradient: Tensor) -> Tensor:
            if learns:
                self.noise.pull(pulls.by_log_var(gradient))
            return pulls.by_x_hat(gradient)

        return losses, pull

    def error(self, outputs: Float[Tensor, "N E"], batch: Batch) -> Float[Tensor, " N"]:
        """Half the squared error by the noise's variance."""
        return reconstruction_error(outputs, batch, self.noise.log_var())

    def pairwise_error(self, outputs: Float[Tensor, "A E"], batch: Batch) -> Float[Tensor, "A N"]:
        """`error` of every output on every row, good to some digits."""
        return pairwise_error(outputs, batch, self.noise.log_var())

    def probe(
        self,
        outputs: Float[Tensor, "N E"],  # noqa: ARG002
        batch: Batch,
        signs: Float[Tensor, " E"],
    ) -> Float[Tensor, "N E"]:
        """1 / s, whatever the outputs."""
        return torch.exp(-0.5 * self.noise.log_var()) * batch.observed * signs

    def chances(
        self,
        outputs: Float[Tensor, "N E"],
        batch: Batch,  # noqa: ARG002
        temperature: float = 1.0,  # noqa: ARG002
    ) -> Float[Tensor, "N C"]:
        """There are no codes."""
        return outputs[:, :0]

    def expect(self, outputs: Float[Tensor, "N E"]) -> Float[Tensor, "N E"]:
        """The outputs."""
        return outputs

    def sample(
        self,
        outputs: Float[Tensor, "N E"],
        normal: Float[Tensor, "N D"],
        temperature: float = 1.0,  # noqa: ARG002
    ) -> Float[Tensor, "N E"]:
        """The outputs and noise."""
        return outputs + torch.exp(0.5 * self.noise.log_var()) * normal


class Mixed(Likelihood):
    """Numbers as in `Gaussian`, booleans by a logit, ordinals by a score among thresholds, categories by a softmax."""

    def __init__(self, noise: Noise, codec: Codec) -> None:
        super().__init__(noise)
        self.codec = codec
        self.ends = [codec.numbers.size, codec.numbers.size + codec.binaries.size, codec.n_single]
        self.thresholds = Thresholds(codec.n_levels)
        self.blocks = Blocks(codec.widths)

    @property
    def n_outputs(self) -> int:
        """One for each of the E."""
        return self.codec.n_outputs

    @property
    def gaussian(self) -> IntArray:
        """All of them."""
        return np.arange(self.ends[0])

    def number_variance(
        self,
        outputs: Float[Tensor, "N O"],
        temperature: float = 1.0,  # noqa: ARG002
    ) -> Float[Tensor, "N M"]:
        """That of the noise."""
        return torch.exp(self.noise.log_var()).expand(len(outputs), self.ends[0])

    def loss(self, outputs: Float[Tensor, "N E"], batch: Batch) -> Float[Tensor, " N"]:
        """The sum over all four parts."""
        end = self.ends[0]
        numbers = reconstruction_loss(outputs[:, :end], batch.columns(slice(0, end)), self.noise.log_var())
        return numbers + self._codes(outputs, batch)

    def error(self, outputs: Float[Tensor, "N E"], batch: Batch) -> Float[Tensor, " N"]:
        """The sum over all four parts."""
        end = self.ends[0]
        numbers = reconstruction_error(outputs[:, :end], batch.columns(slice(0, end)), self.noise.log_var())
        return numbers + self._codes(outputs, batch)

    def pairwise_error(self, outputs: Float[Tensor, "A E"], batch: Batch) -> Float[Tensor, "A N"]:
        """The sum over all four parts; all but the ordinals are matrix products."""
        a, b, c = self.ends
        x, observed = batch.x, batch.observed
        errors = pairwise_error(outputs[:, :a], batch.columns(slice(0, a)), self.noise.log_var())
        errors = errors + softplus(outputs[:, a:b]) @ observed[:, a:b].T - outputs[:, a:b] @ x[:, a:b].T
        if c > b:
            pairs = (len(outputs), len(x), c - b)
            scores, levels = outputs[:, None, b:c].expand(pairs), x[None, :, b:c].expand(pairs)
            losses = self.thresholds.loss(scores.reshape(-1, c - b), levels.reshape(-1, c - b)).view(pairs)
            errors = errors + (losses * observed[:, b:c]).sum(-1)
        if len(self.blocks):
            logits, known = outputs[:, c:], observed[:, c:][:, self.blocks.first]
            errors = errors + self.blocks.log_sums(logits) @ known.T - logits @ x[:, c:].T
        return errors

    def chances(self, outputs: Float[Tensor, "N E"], batch: Batch, temperature: float = 1.0) -> Float[Tensor, "N C"]:
        """The chances of the batch's codes, booleans first, then ordinals and categories."""
        return torch.exp(-torch.cat(self._code_losses(outputs, batch, temperature), 1))

    def _codes(self, outputs: Float[Tensor, "N E"], batch: Batch) -> Float[Tensor, " N"]:
        """-log p of the observed booleans, ordinals and categories."""
        return torch.cat(self._code_losses(outputs, batch), 1).sum(-1)

    def _code_losses(
        self, outputs: Float[Tensor, "N E"], batch: Batch, temperature: float = 1.0
    ) -> list[Float[Tensor, "N C"]]:
        """-log p of each boolean, ordinal and category, 0 where it is not observed."""
        a, b, c = self.ends
        x, observed = batch.x, batch.observed
        outputs = outputs if temperature == 1 else outputs / temperature
        parts = [(softplus(outputs[:, a:b]) - outputs[:, a:b] * x[:, a:b]) * observed[:, a:b]]
        if c > b:
            parts.append(self.thresholds.loss(outputs[:, b:c], x[:, b:c], temperature) * observed[:, b:c])
        if len(self.blocks):
            logits, known = outputs[:, c:], observed[:, c:][:, self.blocks.first]
            parts.append(self.blocks.log_sums(logits) * known - self.blocks.sums(logits * x[:, c:]))
        return parts

    def probe(self, outputs: Float[Tensor, "N E"], batch: Batch, signs: Float[Tensor, " E"]) -> Float[Tensor, "N E"]:
        """1 / s for numbers; a root of diag(p) - p p^T for categories, of p (1 - p) for booleans."""
        a, b, c = self.ends
        numbers = torch.exp(-0.5 * self.noise.log_var()) * batch.observed[:, :a] * signs[:a]
        chance = torch.sigmoid(outputs[:, a:b])
        booleans = torch.sqrt(chance * (1 - chance)) * signs[a:b]
        ordinals = self.thresholds.information(outputs[:, b:c]).sqrt() * signs[b:c]
        categories = self.blocks.probe(outputs[:, c:], signs[c:])
        coded = torch.cat([booleans, ordinals, categories], 1) * batch.observed[:, a:]
        return torch.cat([numbers, coded], 1)

    def expect(self, outputs: Float[Tensor, "N E"]) -> Float[Tensor, "N E"]:
        """Numbers, chances of True, the median level, chances of each category."""
        a, b, c = self.ends
        categories = self.blocks.chances(outputs[:, c:])
        ordinals = self.thresholds.median(outputs[:, b:c])
        return torch.cat([outputs[:, :a], torch.sigmoid(outputs[:, a:b]), ordinals, categories], 1)

    def sample(
        self, outputs: Float[Tensor, "N E"], normal: Float[Tensor, "N D"], temperature: float = 1.0
    ) -> Float[Tensor, "N E"]:
        """Numbers with noise; levels where a uniform number falls among the chances."""
        a, b, c = self.ends
        numbers = outputs[:, :a] + torch.exp(0.5 * self.noise.log_var()) * normal[:, :a]
        outputs = outputs if temperature == 1 else outputs / temperature
        uniform = torch.special.ndtr(normal).clamp(1e-6, 1 - 1e-6)
        booleans = (uniform[:, a:b] < torch.sigmoid(outputs[:, a:b])).to(outputs)
        ordinals = self.thresholds.sample(outputs[:, b:c], uniform[:, b:c], temperature)
        return torch.cat([numbers, booleans, ordinals, self.blocks.sample(outputs[:, c:], uniform[:, c:])], 1)

    def output_at(self, mean: Float[Tensor, " E"]) -> Float[Tensor, " E"]:
        """Numbers as they are, logits of the shares of booleans and categories; ordinals begin in the middle."""
        a, b, c = self.ends
        booleans = torch.logit(mean[a:b].clamp(0.01, 0.99))
        return torch.cat([mean[:a], booleans, torch.zeros_like(mean[b:c]), mean[c:].clamp(min=1e-3).log()])


class Wrapping(Likelihood):
    """Another likelihood, and further outputs behind its own, of which a subclass says what they are.

    Args:
        inner: The other; its noise is that of both.
    """

    def __init__(self, inner: Likelihood) -> None:
        super().__init__(inner.noise)
        # The noise is a part of the other: it is not to be there twice.
        del self.noise
        self.inner = inner
        self.__dict__["noise"] = inner.noise

    @property
    def gaussian(self) -> IntArray:
        """The other's."""
        return self.inner.gaussian

    def number_variance(self, outputs: Float[Tensor, "N O"], temperature: float = 1.0) -> Float[Tensor, "N M"]:
        """The other's."""
        return self.inner.number_variance(self._inner(outputs), temperature)

    def chances(self, outputs: Float[Tensor, "N O"], batch: Batch, temperature: float = 1.0) -> Float[Tensor, "N C"]:
        """The other's."""
        return self.inner.chances(self._inner(outputs), batch, temperature)

    def all_chances(
        self, outputs: Float[Tensor, "N O"], batch: Batch, temperature: float = 1.0
    ) -> Float[Tensor, "N K"]:
        """The other's."""
        return self.inner.all_chances(self._inner(outputs), batch, temperature)

    def expect(self, outputs: Float[Tensor, "N O"]) -> Float[Tensor, "N E"]:
        """What the other expects."""
        return self.inner.expect(self._inner(outputs))

    def sample(
        self, outputs: Float[Tensor, "N O"], normal: Float[Tensor, "N D"], temperature: float = 1.0
    ) -> Float[Tensor, "N E"]:
        """The other's draws."""
        return self.inner.sample(self._inner(outputs), normal, temperature)

    def _inner(self, outputs: Float[Tensor, "N O"]) -> Float[Tensor, "N I"]:
        return outputs[:, : self.inner.n_outputs]

    def _own(self, outputs: Float[Tensor, "N O"]) -> Float[Tensor, "N X"]:
        return outputs[:, self.inner.n_outputs :]
