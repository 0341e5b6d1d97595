"""Whether a model is as sure as it should be: intervals and chances against hidden cells."""

import numpy as np
from scipy.special import ndtr

from vadtune.data.metrics import LEVELS, half_width
from vadtune.data.splits import Holdout
from vadtune.data.tables import FloatArray
from vadtune.models.objective import Posterior
from vadtune.settings import Nested
from vadtune.training.artifact import Artifact
from vadtune.training.fill import std_of_cells
from vadtune.training.inference import with_curvature
from vadtune.training.run import as_tensor


def calibration(artifact: Artifact, posterior: Posterior, x_hat: FloatArray, holdout: Holdout) -> Nested:
    """How often intervals hold the hidden numbers, how near they are, and how often the likeliest codes are right.

    Args:
        artifact: The model.
        posterior: Of the rows.
        x_hat: The best estimates `(N, D)`, scaled.
        holdout: The rows and what is hidden of them.

    Returns:
        `n_numbers` and `n_codes` (hidden cells), `coverage` by level (0.5 of 50% intervals hold the truth in a
        perfect model), `crps` of the numbers in scaled units (lower is better), and of the codes `accuracy` beside
        `confidence`, the mean chance the model gave its answers. None where no such cell is hidden.

    Source: Gneiting and Raftery (2007), Strictly proper scoring rules, JASA 102 (the CRPS of a normal).
    """
    codec = artifact.model.codec
    x = as_tensor(holdout.rows.x)
    wide = with_curvature(artifact.model, x, posterior)
    std = std_of_cells(artifact, wide, np.random.default_rng(0))
    hidden = ~np.isnan(holdout.truth)
    numbers, codes = np.zeros_like(hidden), np.zeros_like(hidden)
    numbers[:, codec.numbers], codes[:, codec.coded] = hidden[:, codec.numbers], hidden[:, codec.coded]
    found: Nested = {"n_numbers": int(numbers.sum()), "coverage": None, "crps": None}
    found |= {"n_codes": int(codes.sum()), "accuracy": None, "confidence": None}
    if numbers.any():
        error = (holdout.truth[numbers] - x_hat[numbers]).astype(np.float64)
        spread = std[numbers]
        inside = {f"{level:g}": float(np.mean(np.abs(error) <= half_width(level) * spread)) for level in LEVELS}
        found |= {"coverage": inside, "crps": float(np.mean(crps(error, spread)))}
    if codes.any():
        right = x_hat[codes] == holdout.truth[codes]
        found |= {"accuracy": float(right.mean()), "confidence": float(1 - std[codes].mean())}
    return found


def crps(error: FloatArray, std: FloatArray) -> FloatArray:
    """The continuous ranked probability score of normal forecasts, given truth less mean."""
    w = error / std
    density = np.exp(-0.5 * np.square(w)) / np.sqrt(2 * np.pi)
    score: FloatArray = std * (w * (2 * ndtr(w) - 1) + 2 * density - 1 / np.sqrt(np.pi))
    return score
