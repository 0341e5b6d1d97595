"""Whether, and how much, the estimates of a model are averaged with what it recalls of training rows."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vadtune.data.splits import Holdout
from vadtune.data.tables import FloatArray, IntArray
from vadtune.models.objective import Posterior, as_tensor
from vadtune.training.artifact import Artifact, Recall

SHARES = (0.25, 0.5, 0.75, 1.0)
TEMPERATURES = (1.0, 4.0)
# The gain is to be more than so many of its standard errors, by groups of rows: in small tables the largest is luck.
N_GROUPS = 10
LEAST_CERTAINTY = 2.0


@torch.no_grad()
def recalling(
    artifact: Artifact, holdout: Holdout, n_distinct: int, posteriors: Sequence[Posterior] | None
) -> tuple[Artifact, Sequence[Posterior] | None]:
    """Let a model recall training rows, see models/recall.py, where that serves rows that it was not trained on.

    Args:
        artifact: The model; that of images, or one with an encoder, recalls nothing.
        holdout: Such rows, those of validation.
        n_distinct: How many they are; they may come several times, one after the other, with other cells hidden.
        posteriors: Of these rows, of each member, if they are known.

    Returns:
        The model and the posteriors, if they are known by now: as they were, or with the share and the temperature of
        the largest gain.
    """
    groups = _groups(holdout, n_distinct)
    if artifact.image_shape or len(groups) < N_GROUPS:
        return artifact, posteriors
    x = as_tensor(holdout.rows.x).to(next(artifact.model.parameters()))
    recalled = {temperature: _recalled(artifact, x, temperature) for temperature in TEMPERATURES}
    if not all(recalled.values()):
        return artifact, posteriors
    posteriors = artifact.posteriors(x) if posteriors is None else posteriors
    plain = artifact.average([member.expect(at) for member, at in zip(artifact.members, posteriors, strict=True)])
    before = _errors(artifact, plain, holdout, groups)
    best, best_gain = None, 0.0
    for temperature, parts in recalled.items():
        there = artifact.average(parts)
        for share in SHARES:
            gains = before - _errors(artifact, torch.lerp(plain, there, share), holdout, groups)
            gain = float(gains.mean())
            if gain > best_gain and gain > LEAST_CERTAINTY * gains.std(ddof=1) / len(gains) ** 0.5:
                best, best_gain = Recall(share, temperature), gain
    if best is None:
        return artifact, posteriors
    found = [replace(at, recalled=part) for at, part in zip(posteriors, recalled[best.temperature], strict=True)]
    return _with(artifact, best), found


def _groups(holdout: Holdout, n_distinct: int) -> list[IntArray]:
    """Rows that hide a cell in groups; a row is in one of them as often as it comes."""
    place = np.arange(len(holdout.truth)) % n_distinct % N_GROUPS
    hiding = (~np.isnan(holdout.truth)).any(1)
    groups = [np.flatnonzero(hiding & (place == group)) for group in range(N_GROUPS)]
    return [group for group in groups if group.size]


def _recalled(artifact: Artifact, x: Float[Tensor, "N D"], temperature: float) -> list[Float[Tensor, "N E"]]:
    """What each member recalls; none at all if one recalls nothing."""
    found = [member.model.recall(member.model.batch(x), temperature) for member in artifact.members]
    recalled = [part for part in found if part is not None]
    return recalled if len(recalled) == len(found) else []


def _with(artifact: Artifact, recall: Recall) -> Artifact:
    first, *others = (replace(member, recall=recall) for member in artifact.members)
    return replace(first, others=tuple(others))


def _errors(
    artifact: Artifact, expected: Float[Tensor, "N E"], holdout: Holdout, groups: Sequence[IntArray]
) -> FloatArray:
    """The objective in each group."""
    x_hat = artifact.model.values(expected).cpu().numpy()
    return np.array([artifact.model.codec.score(x_hat[group], holdout.truth[group]) for group in groups])
