"""Whether, and how much, the estimates of a model are averaged with what it recalls of training rows."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

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
    posteriors = artifact.posteriors(as_tensor(holdout.rows.x)) if posteriors is None else posteriors
    before = _errors(artifact, posteriors, holdout, groups)
    best, best_gain = (artifact, posteriors), 0.0
    for temperature in TEMPERATURES:
        found = _recalled(artifact, holdout, temperature, posteriors)
        if found is None:
            break
        for share in SHARES:
            candidate = _with(artifact, Recall(share, temperature))
            gains = before - _errors(candidate, found, holdout, groups)
            gain = float(gains.mean())
            if gain > best_gain and gain > LEAST_CERTAINTY * gains.std(ddof=1) / len(gains) ** 0.5:
                best, best_gain = (candidate, found), gain
    return best


def _groups(holdout: Holdout, n_distinct: int) -> list[IntArray]:
    """Rows that hide a cell in groups; a row is in one of them as often as it comes."""
    place = np.arange(len(holdout.truth)) % n_distinct % N_GROUPS
    hiding = (~np.isnan(holdout.truth)).any(1)
    groups = [np.flatnonzero(hiding & (place == group)) for group in range(N_GROUPS)]
    return [group for group in groups if group.size]


def _recalled(
    artifact: Artifact, holdout: Holdout, temperature: float, posteriors: Sequence[Posterior]
) -> list[Posterior] | None:
    x = as_tensor(holdout.rows.x).to(posteriors[0].mean)
    found = []
    for member, posterior in zip(artifact.members, posteriors, strict=True):
        recalled = member.model.recall(member.model.batch(x), temperature)
        if recalled is None:
            return None
        found.append(replace(posterior, recalled=recalled))
    return found


def _with(artifact: Artifact, recall: Recall) -> Artifact:
    first, *others = (replace(member, recall=recall) for member in artifact.members)
    return replace(first, others=tuple(others))


def _errors(
    artifact: Artifact, posteriors: Sequence[Posterior], holdout: Holdout, groups: Sequence[IntArray]
) -> FloatArray:
    """The objective in each group."""
    x_hat = artifact.estimate(posteriors).cpu().numpy()
    return np.array([artifact.model.codec.score(x_hat[group], holdout.truth[group]) for group in groups])
