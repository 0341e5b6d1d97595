"""What the decoder's outputs say of a cell: a Gaussian around a number, chances of a boolean, a level or a category.

Outputs are `(N, E)` in the order of `data.codec`: numbers, booleans, ordinals, one-hot blocks.

Source: Nazabal et al. (2020), Handling incomplete heterogeneous data using VAEs, arXiv:1807.03653, section 4;
McCullagh (1980), Regression models for ordinal data, JRSS B 42 (the ordinal thresholds).
"""

from abc import ABC, abstractmethod
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus

from vadtune.data.codec import Codec
from vadtune.models.objective import Batch, pairwise_error, reconstruction_error, reconstruction_loss
from vadtune.settings import Settings

# Below this a column that is fitted exactly (a constant one, say) would draw all gradients to itself.
MIN_NOISE_LOG_VAR = -9.0
MIN_GAP = 1e-3  # between two thresholds of an ordinal column


class NoiseConfig(Settings):
    """Observation noise of numbers: `log_var` is its value when `fixed`, and where learning begins otherwise."""

    kind: Literal["fixed", "learned", "per_column"] = "learned"
    log_var: float = Field(-2.0, ge=MIN_NOISE_LOG_VAR, le=10.0)

    def build(self, n_features: int) -> "Noise":
        """Make the noise of `n_features` columns."""
        shape = (n_features,) if self.kind == "per_column" else ()
        return Noise(torch.full(shape, self.log_var), learned=self.kind != "fixed")


class Noise(nn.Module):
    """Holds noise_log_var, of shape `()` or `(D,)`, in scaled units squared."""

    def __init__(self, log_var: Tensor, *, learned: bool) -> None:
        super().__init__()
        self.raw = nn.Parameter(log_var, requires_grad=learned)

    def log_var(self) -> Float[Tensor, ""] | Float[Tensor, " D"]:
        """The log variance, never below `MIN_NOISE_LOG_VAR`."""
        return self.raw.clamp(min=MIN_NOISE_LOG_VAR)


class Likelihood(nn.Module, ABC):
    """How likely cells are under the decoder's outputs, and what the outputs say of unknown cells."""

    def __init__(self, noise: Noise) -> None:
        super().__init__()
        self.noise = noise

    @abstractmethod
    def loss(self, outputs: Float[Tensor, "N E"], batch: Batch) -> Float[Tensor, " N"]:
        """Negative log likelihood of each row's observed cells, without constants."""

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

    @abstractmethod
    def chances(self, outputs: Float[Tensor, "N E"], batch: Batch, temperature: float = 1.0) -> Float[Tensor, "N C"]:
        """The chances of the batch's codes, in the order of `Codec.coded`; hotter, nearer to equal."""

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
    """All columns are numbers."""

    def loss(self, outputs: Float[Tensor, "N E"], batch: Batch) -> Float[Tensor, " N"]:
        """Half the squared error by the noise's variance, and the logarithm of its deviation."""
        return reconstruction_loss(outputs, batch, self.noise.log_var())

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

    first: Tensor
    block: Tensor

    def __init__(self, noise: Noise, codec: Codec) -> None:
        super().__init__(noise)
        self.codec = codec
        ends = [codec.numbers.size, codec.numbers.size + codec.binaries.size, codec.n_single]
        self.ends = ends
        self.thresholds = Thresholds(codec.n_levels)
        widths = np.array(codec.widths, dtype=np.int64)
        # Which block each of the one-hot outputs belongs to, and where each block begins.
        self.register_buffer("block", torch.from_numpy(np.arange(len(widths)).repeat(widths)), persistent=False)
        self.register_buffer("first", torch.from_numpy(widths.cumsum() - widths), persistent=False)

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
        if self.block.numel():
            logits, known = outputs[:, c:], observed[:, c:][:, self.first]
            errors = errors + self._log_sums(logits) @ known.T - logits @ x[:, c:].T
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
        if self.block.numel():
            logits, known = outputs[:, c:], observed[:, c:][:, self.first]
            chosen = torch.zeros_like(known).index_add(1, self.block, logits * x[:, c:])
            parts.append(self._log_sums(logits) * known - chosen)
        return parts

    def _log_sums(self, logits: Float[Tensor, "N B"]) -> Float[Tensor, "N C"]:
        """log sum exp of each block, all at once: blocks differ in width, and a loop over them costs more."""
        shape = (len(logits), len(self.first))
        index = self.block.expand(len(logits), -1)
        largest = logits.new_full(shape, -torch.inf).scatter_reduce(1, index, logits.detach(), "amax")
        sums = logits.new_zeros(shape).scatter_add(1, index, torch.exp(logits - largest[:, self.block]))
        return sums.log() + largest

    def _chances(self, logits: Float[Tensor, "N B"]) -> Float[Tensor, "N B"]:
        return torch.exp(logits - self._log_sums(logits)[:, self.block])

    def probe(self, outputs: Float[Tensor, "N E"], batch: Batch, signs: Float[Tensor, " E"]) -> Float[Tensor, "N E"]:
        """1 / s for numbers; a root of diag(p) - p p^T for categories, of p (1 - p) for booleans."""
        a, b, c = self.ends
        numbers = torch.exp(-0.5 * self.noise.log_var()) * batch.observed[:, :a] * signs[:a]
        chance = torch.sigmoid(outputs[:, a:b])
        booleans = torch.sqrt(chance * (1 - chance)) * signs[a:b]
        ordinals = self.thresholds.information(outputs[:, b:c]).sqrt() * signs[b:c]
        p = self._chances(outputs[:, c:]) if self.block.numel() else outputs[:, c:]
        # sum over k of sign_k sqrt(p_k) (e_k - p): its outer product with itself has the mean diag(p) - p p^T.
        drawn = signs[c:] * p.sqrt()
        sums = p.new_zeros(len(p), len(self.first)).index_add(1, self.block, drawn)
        categories = drawn - p * sums[:, self.block]
        coded = torch.cat([booleans, ordinals, categories], 1) * batch.observed[:, a:]
        return torch.cat([numbers, coded], 1)

    def expect(self, outputs: Float[Tensor, "N E"]) -> Float[Tensor, "N E"]:
        """Numbers, chances of True, the median level, chances of each category."""
        a, b, c = self.ends
        categories = self._chances(outputs[:, c:]) if self.block.numel() else outputs[:, c:]
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
        parts = [numbers, booleans, ordinals]
        if self.block.numel():
            chances = self._chances(outputs[:, c:]).split(list(self.codec.widths), 1)
            parts += [_pick(chance, uniform[:, [c + k]]) for k, chance in enumerate(chances)]
        return torch.cat(parts, 1)

    def output_at(self, mean: Float[Tensor, " E"]) -> Float[Tensor, " E"]:
        """Numbers as they are, logits of the shares of booleans and categories; ordinals begin in the middle."""
        a, b, c = self.ends
        booleans = torch.logit(mean[a:b].clamp(0.01, 0.99))
        return torch.cat([mean[:a], booleans, torch.zeros_like(mean[b:c]), mean[c:].clamp(min=1e-3).log()])


class Thresholds(nn.Module):
    """Thresholds t of ordinal columns: a score h says P(level <= r) = sigmoid(t_r - h).

    Args:
        n_levels: Of each column; a column of one level has no threshold.
    """

    ends: Tensor
    top: Tensor

    FAR = 30.0  # beyond all thresholds: sigmoid(30) is 1 in float32

    def __init__(self, n_levels: tuple[int, ...]) -> None:
        super().__init__()
        n_columns, self.n_gaps = len(n_levels), max(max(n_levels, default=1) - 2, 0)
        top = torch.tensor(n_levels, dtype=torch.long) - 1
        self.register_buffer("top", top, persistent=False)
        # Vectors, not matrices: weight decay is not for them. softplus(0.55) is 1: thresholds begin one apart.
        self.start = nn.Parameter(-(top - 1).clamp(min=0) / 2)
        self.gaps = nn.Parameter(torch.full((n_columns * self.n_gaps,), 0.55))

    def values(self, temperature: float = 1.0) -> Float[Tensor, "O R1"]:
        """The thresholds below and above each level, by the temperature, `-FAR` and `FAR` around all."""
        start = self.start[:, None]
        steps = torch.cat([start, softplus(self.gaps).view(len(start), self.n_gaps) + MIN_GAP], 1).cumsum(1)
        number = torch.arange(steps.shape[1], device=steps.device)
        inner = torch.where(number < self.top[:, None], steps / temperature, self.FAR)
        edge = torch.full_like(start, self.FAR)
        return torch.cat([-edge, inner, edge], 1)

    def loss(
        self, scores: Float[Tensor, "N O"], x: Float[Tensor, "N O"], temperature: float = 1.0
    ) -> Float[Tensor, "N O"]:
        """-log p of levels, which are steps from 0 to 1; scores are divided by the temperature already."""
        level = torch.round(x * self.top).long()
        values = self.values(temperature)
        column = torch.arange(len(self.top), device=x.device).expand_as(level)
        upper, lower = values[column, level + 1] - scores, values[column, level] - scores
        # sigmoid(u) - sigmoid(l) = sigmoid(u) sigmoid(-l) (1 - exp(l - u)), which keeps its digits.
        return -(logsigmoid(upper) + logsigmoid(-lower) + torch.log(-torch.expm1(lower - upper)))

    def below(self, scores: Float[Tensor, "N O"], temperature: float = 1.0) -> Float[Tensor, "N O R"]:
        """P(level <= r), for every level but the highest possible."""
        return torch.sigmoid(self.values(temperature)[:, 1:-1] - scores[..., None])

    def median(self, scores: Float[Tensor, "N O"]) -> Float[Tensor, "N O"]:
        """The level that half of the chances lie below, as a step from 0 to 1."""
        return self._as_step((self.below(scores) < 0.5).sum(-1))

    def sample(
        self, scores: Float[Tensor, "N O"], uniform: Float[Tensor, "N O"], temperature: float = 1.0
    ) -> Float[Tensor, "N O"]:
        """The level at a uniform number's place among the chances."""
        return self._as_step((self.below(scores, temperature) < uniform[..., None]).sum(-1))

    def information(self, scores: Float[Tensor, "N O"]) -> Float[Tensor, "N O"]:
        """The Fisher information of each score: the mean square of the slope of log p."""
        edges = torch.sigmoid(self.values() - scores[..., None])
        chances = (edges[..., 1:] - edges[..., :-1]).clamp(min=1e-12)
        density = edges * (1 - edges)
        return ((density[..., 1:] - density[..., :-1]).square() / chances).sum(-1)

    def _as_step(self, level: Tensor) -> Tensor:
        return torch.minimum(level, self.top) / self.top.clamp(min=1)


def _pick(chances: Float[Tensor, "N R"], uniform: Float[Tensor, "N 1"]) -> Float[Tensor, "N R"]:
    """One-hot rows: the level at a uniform number's place among the chances."""
    level = (chances.cumsum(1)[:, :-1] < uniform).sum(1)
    return torch.nn.functional.one_hot(level, chances.shape[1]).to(chances)
