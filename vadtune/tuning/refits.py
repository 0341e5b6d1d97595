"""The winner, trained again: with the validation rows, while it can still be scored, and at last on all rows."""

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vadtune.data.problem import Problem
from vadtune.data.splits import Rows, Scaler, fit_units
from vadtune.errors import NoUsableTrial
from vadtune.models.base import Model
from vadtune.training.artifact import Artifact, save_artifact
from vadtune.tuning.conclude import Winner, score_adjusted
from vadtune.tuning.fits import Fit, Fitter
from vadtune.tuning.plan import N_FURTHER_FITS, Outcome
from vadtune.tuning.study import epoch_seconds, read_study

# Further fits may take so much of a time budget that the search has used up.
LEAST_SHARE = 0.1


def n_affordable(winner: Winner, problem: Problem, fitter: Fitter, outcome: Outcome) -> int:
    """How many of the planned further fits fit into what the search left of its time budget."""
    plan, members = fitter.plan, winner.tested.artifact.members
    if plan.n_further_fits == 0 or plan.time_budget_s is None:
        return plan.n_further_fits
    epoch_s = epoch_seconds(read_study(plan.study_path))
    growth = len(problem.splits.final_rows.x) / len(problem.splits.train.rows.x)
    fit_s = [growth * epoch_s.get(member.metrics["trial"], 0.0) * member.metrics["epoch"] for member in members]
    within_s = max(plan.time_budget_s - outcome.seconds, LEAST_SHARE * plan.time_budget_s)
    weights = [member.weight for member in members]
    counts = range(plan.n_further_fits, 0, -1)
    return next((n for n in counts if time_taken(n, weights, fit_s, fitter.n_together) <= within_s), 0)


def time_taken(n_fits: int, weights: Sequence[float], fit_s: Sequence[float], n_together: int) -> float:
    """Seconds of so many further fits of members with these weights, that take so long each."""
    busy_s = [0.0] * min(n_together, n_fits)
    for place, _ in shared_out(n_fits, weights):
        heapq.heapreplace(busy_s, busy_s[0] + fit_s[place])  # the next one begins where one ends first
    return max(busy_s)


def add_further_fits(winner: Winner, problem: Problem, fitter: Fitter, n_fits: int = N_FURTHER_FITS) -> Winner:
    """Let the members share their weights with further fits of their settings, on training and validation rows.

    These have other seeds and take as many epochs as the first fit took to its best. Of the validation rows they see
    the observed cells, as every model does when it is compared on them; never the hidden ones. The error on validation
    rows, and how sure the model may be, stay those of the first fits.

    Returns:
        The winner, scored and written again; a fit that diverged is left out, and the winner as it was if all did.
    """
    before = winner.tested.artifact
    chosen = shared_out(n_fits, [member.weight for member in before.members])
    further = [_again(before.members[place], number) for place, number in chosen]
    models = fitter(problem.splits.final_rows, [_fit(member) for member in further])
    fitted = [
        (place, replace(member, model=model))
        for (place, _), member, model in zip(chosen, further, models, strict=True)
        if isinstance(model, Model)
    ]
    if not fitted:
        return winner
    n_models = Counter(range(len(before.members))) + Counter(place for place, _ in fitted)
    first, *others = [
        replace(member, weight=before.members[place].weight / n_models[place])
        for place, member in [*enumerate(before.members), *fitted]
    ]
    about = before.metrics | {"further_fits": len(fitted)}
    joined = replace(first, others=tuple(others), metrics=about)
    tested = score_adjusted(joined, problem, winner.tested.posteriors)
    again = replace(winner, tested=tested, folder=save_artifact(tested.artifact, winner.folder))
    if winner.alone is not None:
        return again
    return replace(again, members={winner.trial.number: 1.0}, alone=winner.tested.scores)


def shared_out(n_fits: int, weights: Sequence[float]) -> list[tuple[int, int]]:
    """Which members are fitted further: each time the one whose weight rests on the fewest fits.

    Returns:
        Place of a member and number of its fit, from 1; in the order of their places.
    """
    n_further = [0] * len(weights)
    for _ in range(n_fits):
        n_further[max(range(len(weights)), key=lambda place: weights[place] / (1 + n_further[place]))] += 1
    return [(place, number) for place, n in enumerate(n_further) for number in range(1, n + 1)]


def _again(member: Artifact, number: int) -> Artifact:
    """A member under another seed; its model is still the old one."""
    config = member.config.model_copy(update={"seed": member.config.seed + number})
    return replace(
        member, config=config, others=(), metrics={name: member.metrics[name] for name in ("trial", "epoch")}
    )


def _fit(member: Artifact) -> Fit:
    """As long as the member took to its best epoch."""
    return Fit(member.config, member.metrics["epoch"] or None)


def is_to_be_refitted(problem: Problem, *, asked: bool | None) -> bool:
    """Whether the winner is: if asked for, or else where the table has holes of its own, which are to be filled.

    Never where a file brings its own split: its test rows are to stay unseen.
    """
    if problem.table.given is not None:
        return False
    return bool(np.isnan(problem.table.values).any()) if asked is None else asked


def refit(winner: Winner, problem: Problem, fitter: Fitter) -> Winner:
    """Train a winner's settings again on every observed cell of every row, as long as it took to its best epoch.

    The scores beside it stay those of the winner itself, which has not seen what it was scored on: nothing is left to
    score the new one.

    Raises:
        NoUsableTrial: The training diverged.
    """
    table, members = problem.table, winner.tested.artifact.members
    scaler, codec = fit_units(table.values, table)
    models = fitter(Rows(scaler.transform(table.values), codec), [_fit(member) for member in members])
    first, *others = [_refitted(member, model, scaler) for member, model in zip(members, models, strict=True)]
    save_artifact(replace(first, others=tuple(others)), winner.folder)
    return replace(winner, is_refitted=True)


def _refitted(member: Artifact, model: Model | NoUsableTrial, scaler: Scaler) -> Artifact:
    if isinstance(model, NoUsableTrial):
        raise model
    about, metrics = member.dataset | {"refitted": True}, member.metrics | {"refitted": True}
    return replace(member, model=model, scaler=scaler, dataset=about, metrics=metrics, others=())
