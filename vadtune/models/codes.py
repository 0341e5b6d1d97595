"""What likelihoods of codes are made of: thresholds of ordinal columns, and softmax blocks."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus

MIN_GAP = 1e-3  # between two thresholds of an ordinal column
# Blocks of so many logits in the mean are computed one by one, by torch's own softmax and without gathering a number of
# each block for each of its logits. Loss and gradient of 20 logits and more a block take a third to a half of the time;
# of 8, with 128 rows, about as long.
WIDE = 8


class Thresholds(nn.Module):
    """Thresholds t of ordinal columns: a score h says P(level <= r) = sigmoid(t_r - h).

    Args:
        n_levels: Of each column; a column of one level has no threshold.

    Source: McCullagh (1980), Regression models for ordinal data, JRSS B 42.
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


class Blocks(nn.Module):
    """Softmax blocks side by side, `(N, B)` logits of C columns: all at once, as they differ in width.

    Args:
        widths: Of each column, its levels.
    """

    first: Tensor
    block: Tensor

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        sizes = np.array(widths, dtype=np.int64)
        self.widths = list(sizes.tolist())
        # Which block each of the logits belongs to, and where each block begins.
        self.register_buffer("block", torch.from_numpy(np.arange(len(sizes)).repeat(sizes)), persistent=False)
        self.register_buffer("first", torch.from_numpy(sizes.cumsum() - sizes), persistent=False)

    def __len__(self) -> int:
        return len(self.widths)

    @property
    def are_wide(self) -> bool:
        """Whether they are computed one by one."""
        return bool(self.widths) and len(self.block) >= WIDE * len(self)

    def spread(self, values: Float[Tensor, "N C"]) -> Float[Tensor, "N B"]:
        """The value of its block for each logit."""
        if self.are_wide:
            parts = zip(values.split(1, 1), self.widths, strict=True)
            return torch.cat([part.expand(-1, width) for part, width in parts], 1)
        return values[:, self.block]

    def sums(self, values: Float[Tensor, "N B"]) -> Float[Tensor, "N C"]:
        """The sum over each block."""
        if self.are_wide:
            return torch.stack([part.sum(1) for part in values.split(self.widths, 1)], 1)
        return values.new_zeros(len(values), len(self)).index_add(1, self.block, values)

    def log_sums(self, logits: Float[Tensor, "N B"]) -> Float[Tensor, "N C"]:
        """log sum exp of each block."""
        if self.are_wide:
            return torch.stack([part.logsumexp(1) for part in logits.split(self.widths, 1)], 1)
        shape = (len(logits), len(self))
        index = self.block.expand(len(logits), -1)
        largest = logits.new_full(shape, -torch.inf).scatter_reduce(1, index, logits.detach(), "amax")
        sums = logits.new_zeros(shape).scatter_add(1, index, torch.exp(logits - largest[:, self.block]))
        return sums.log() + largest

    def log_chances(self, logits: Float[Tensor, "N B"]) -> Float[Tensor, "N B"]:
        """The logarithm of the softmax of each block."""
        if self.are_wide:
            return torch.cat([part.log_softmax(1) for part in logits.split(self.widths, 1)], 1)
        return logits - self.spread(self.log_sums(logits))

    def chances(self, logits: Float[Tensor, "N B"]) -> Float[Tensor, "N B"]:
        """The softmax of each block."""
        return torch.exp(self.log_chances(logits)) if len(self) else logits

    def probe(self, logits: Float[Tensor, "N B"], signs: Float[Tensor, " B"]) -> Float[Tensor, "N B"]:
        """sum over k of sign_k sqrt(p_k) (e_k - p): its outer product with itself has the mean diag(p) - p p^T."""
        p = self.chances(logits)
        drawn = signs * p.sqrt()
        return drawn - p * self.spread(self.sums(drawn)) if len(self) else drawn

    def sample(self, logits: Float[Tensor, "N B"], uniform: Float[Tensor, "N C"]) -> Float[Tensor, "N B"]:
        """One-hot blocks: the level at a uniform number's place among the chances."""
        chances = self.chances(logits).split(self.widths, 1) if len(self) else ()
        return torch.cat([logits[:, :0], *(_pick(chance, uniform[:, [k]]) for k, chance in enumerate(chances))], 1)


def _pick(chances: Float[Tensor, "N R"], uniform: Float[Tensor, "N 1"]) -> Float[Tensor, "N R"]:
    """One-hot rows: the level at a uniform number's place among the chances."""
    level = (chances.cumsum(1)[:, :-1] < uniform).sum(1)
    return torch.nn.functional.one_hot(level, chances.shape[1]).to(chances)
