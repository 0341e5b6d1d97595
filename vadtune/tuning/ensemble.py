"""The best of a search, not just its best trial: several complete trials whose estimates are averaged.

Source: Caruana, Niculescu-Mizil, Crew, Ksikes (2004), Ensemble selection from libraries of models, ICML: greedy, with
replacement, on rows that no member was trained on.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from vadtune.data.tables import FloatArray

# As often as this, for each member wanted, the best addition is sought: how often one is taken is its weight.
STEPS_A_MEMBER = 3


def choose(
    outputs: Sequence[FloatArray], score: Callable[[FloatArray], float], n_members: int
) -> tuple[dict[int, float], float]:
    """Choose members and their weights.

    Args:
        outputs: What each candidate makes of the validation rows, in arrays of one shape, best candidate first.
        score: The error of an average of such arrays, lower is better.
        n_members: How many candidates to take at most.

    Returns:
        Weights, which add up to 1, by the candidate's place; and the error of their average, which is at most that of
        the first candidate.
    """
    chosen, total = Counter({0: 1}), outputs[0].astype(np.float64)
    best, best_error = dict(chosen), score(outputs[0])
    for n in range(2, STEPS_A_MEMBER * n_members + 1):
        allowed = chosen if len(chosen) == n_members else range(len(outputs))
        errors = {place: score((total + outputs[place]) / n) for place in allowed}
        place = min(errors, key=lambda at: (errors[at], at))
        chosen[place] += 1
        total += outputs[place]
        if errors[place] < best_error:
            best, best_error = dict(chosen), errors[place]
    n_steps = sum(best.values())
    return {place: count / n_steps for place, count in best.items()}, best_error
