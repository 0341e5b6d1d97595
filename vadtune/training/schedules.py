"""Learning-rate schedules: a factor on all learning rates, as a function of the share of the training that is done."""

import math


def one_cycle(progress: float) -> float:
    """Rise from 1/25 to 1 over the first 30%, then fall to nearly 0 along a cosine.

    Source: Smith and Topin (2018), Super-convergence, arXiv:1708.07120.
    """
    if progress < WARM_UP:
        return _cosine(1 / 25, 1.0, progress / WARM_UP)
    return _cosine(1.0, 1e-3, (progress - WARM_UP) / (1 - WARM_UP))


def cosine(progress: float) -> float:
    """Fall from 1 to nearly 0 along a cosine (Loshchilov and Hutter 2017, arXiv:1608.03983)."""
    return _cosine(1.0, 1e-3, progress)


class Plateau:
    """Halve the factor when the epoch's loss has not fallen for `PATIENCE` epochs."""

    PATIENCE = 10

    def __init__(self) -> None:
        self.factor = 1.0
        self.best = math.inf
        self.n_bad = 0

    def observe(self, loss: float) -> None:
        """Take note of the mean loss of an epoch."""
        if loss < self.best:
            self.best, self.n_bad = loss, 0
            return
        self.n_bad += 1
        if self.n_bad > self.PATIENCE:
            self.factor, self.n_bad = self.factor / 2, 0


WARM_UP = 0.3


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2
