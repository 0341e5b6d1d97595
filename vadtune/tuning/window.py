"""A sampler that looks at a part of a study: what a proposal costs stops growing with it."""

import bisect
import heapq
from collections.abc import Container, Sequence
from copy import deepcopy as deep_copy
from typing import Any, cast

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from vadtune.tuning.leaves import Params

USABLE = (TrialState.COMPLETE, TrialState.PRUNED)


class Windowed(BaseSampler):
    """Shows another sampler the best trials, the latest that ended and the latest that run; all, while there are few.

    TPE counts at most 25 trials as good and weighs the others the less the older they are, so little is lost.

    Args:
        inner: The sampler.
        n_best: How many of the best ended trials it sees, by TPE's order: complete ones, then pruned ones by how far
            they came.
        n_recent: How many of the latest ended trials it sees.
        n_open: How many of the latest others: TPE keeps away from what runs, and a thousand would be all it sees.
    """

    def __init__(self, inner: BaseSampler, n_best: int = 25, n_recent: int = 150, n_open: int = 25) -> None:
        self.inner, self.n_best, self.n_recent, self.n_open = inner, n_best, n_recent, n_open
        self._n_seen = 0
        self._open: set[int] = set()
        self._best: list[tuple[tuple[float, float, float], int]] = []
        self._recent: list[int] = []

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """As the inner sampler does."""
        return self.inner.infer_relative_search_space(self._view(study), trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> Params:
        """As the inner sampler does."""
        return self.inner.sample_relative(self._view(study), trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """As the inner sampler does."""
        return self.inner.sample_independent(self._view(study), trial, param_name, param_distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """As the inner sampler does."""
        self.inner.before_trial(study, trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """As the inner sampler does."""
        self.inner.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        """As the inner sampler does."""
        self.inner.reseed_rng()

    def window(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """The trials that are shown, by number; looks only at those that had not ended the last time.

        Args:
            trials: All trials of the study, by number.
        """
        self._open |= set(range(self._n_seen, len(trials)))
        self._n_seen = len(trials)
        for number in [number for number in self._open if trials[number].state.is_finished()]:
            self._open.discard(number)
            self._note(trials[number])
        shown = {*self._recent, *(number for _, number in self._best), *heapq.nlargest(self.n_open, self._open)}
        return [trials[number] for number in sorted(shown)]

    def _note(self, trial: FrozenTrial) -> None:
        if trial.state not in USABLE:
            return
        bisect.insort(self._best, (_rank(trial), trial.number))
        bisect.insort(self._recent, trial.number)
        del self._best[self.n_best :]
        del self._recent[: -self.n_recent]

    def _view(self, study: optuna.Study) -> optuna.Study:
        return cast("optuna.Study", _View(study, self.window(study._get_trials(deepcopy=False, use_cache=True))))


class _View:
    """A study of which some trials are seen."""

    def __init__(self, study: optuna.Study, trials: list[FrozenTrial]) -> None:
        self._study, self._trials = study, trials

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def get_trials(self, deepcopy: bool = True, states: Container[TrialState] | None = None) -> list[FrozenTrial]:  # noqa: FBT001, FBT002
        """As `Study.get_trials`."""
        found = [trial for trial in self._trials if states is None or trial.state in states]
        return deep_copy(found) if deepcopy else found

    def _get_trials(
        self,
        deepcopy: bool = True,  # noqa: FBT001, FBT002
        states: Container[TrialState] | None = None,
        use_cache: bool = False,  # noqa: ARG002, FBT001, FBT002
    ) -> list[FrozenTrial]:
        return self.get_trials(deepcopy, states)


def _rank(trial: FrozenTrial) -> tuple[float, float, float]:
    """TPE's order, lower is better."""
    if trial.state == TrialState.COMPLETE:
        return 0.0, 0.0, cast("float", trial.value)
    if not trial.intermediate_values:
        return 2.0, 0.0, 0.0
    step, value = max(trial.intermediate_values.items())
    return 1.0, -step, value
