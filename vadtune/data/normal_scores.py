"""Normal scores: where a number stands among the others of its column, on the scale of a standard normal variable.

Sources: van der Waerden (1952), Order tests for the two-sample problem and their power; Filliben (1975), The
probability plot correlation coefficient test for normality.
"""

from statistics import NormalDist

import numpy as np

from vadtune.data.metrics import Float64Array

# Ranks of few values say little more than the values.
MOST_WITHOUT = 20
MOST_KNOTS = 128
# The correlation of numbers and their scores, above which scores say what the numbers say.
NEARLY_NORMAL = 0.97
NORMAL = NormalDist()


def normal_scores(known: Float64Array) -> tuple[tuple[float, float], ...]:
    """Values of a column, ascending, each with its normal score, that of the middle of its ranks.

    Args:
        known: `(N,)`, without NaN.

    Returns:
        At most some more than `MOST_KNOTS` pairs, evenly spaced by score, the ends among them. None of few values, or
        where numbers and scores correlate by `NEARLY_NORMAL`.
    """
    values, counts = np.unique(known, return_counts=True)
    if len(values) <= MOST_WITHOUT:
        return ()
    share = (counts.cumsum() - counts / 2) / len(known)
    lowest, highest = NORMAL.inv_cdf(share[0]), NORMAL.inv_cdf(share[-1])
    wanted = [NORMAL.cdf(score) for score in np.linspace(lowest, highest, MOST_KNOTS)[1:-1]]
    knots = np.unique([0, *np.searchsorted(share, wanted), len(values) - 1])
    scores = [NORMAL.inv_cdf(share[knot]) for knot in knots]
    if np.corrcoef(known, np.interp(known, values[knots], scores))[0, 1] >= NEARLY_NORMAL:
        return ()
    return tuple(zip(values[knots].tolist(), scores, strict=True))
