"""The winner, trained again: with the validation rows, while it can still be scored, and at last on all rows."""

from contextlib import suppress
from dataclasses import replace

import numpy as np

from vadtune.data.problem import Problem
from vadtune.data.splits import Rows
from vadtune.data.tables import Table
from vadtune.errors import NoUsableTrial
from vadtune.training.artifact import Artifact, save_artifact
from vadtune.training.fitting import fit_on_all, fit_rows
from vadtune.tuning.conclude import Winner, score_calibrated

# What is larger takes long to fit, and gains little by some more rows.
MAX_CELLS = 150_000
N_FURTHER_FITS = 2


def is_to_be_fitted_further(problem: Problem, *, asked: bool | None, n_members: int) -> bool:
    """Whether the winner is: in small tables the validation rows are missed in training; not where one model is asked.

    Args:
        problem: The table.
        asked: Whether to train after the search; None: where it serves.
        n_members: How many trials may be averaged.
    """
    train, validation, _ = problem.splits.indices
    is_small = (len(train) + len(validation)) * problem.table.n_features <= MAX_CELLS
    return is_small and n_members > 1 and asked is not False


def add_further_fits(winner: Winner, problem: Problem, device: str) -> Winner:
    """Let each member share its weight with further fits of its settings, on training and validation rows.

    They have other seeds and take as many epochs as the first fit took to its best. Of the validation rows they see
    the observed cells, as every model does when it is compared on them; never the hidden ones. The error on validation
    rows, and how sure the model may be, stay those of the first fits.

    Returns:
        The winner, scored and written again; a fit that diverged is left out.
    """
    before, rows = winner.tested.artifact, training_and_validation(problem)
    fits = [_fits(member, rows, device) for member in before.members]
    first, *others = [fit for fit, *_ in fits] + [fit for _, *further in fits for fit in further]
    about = before.metrics | {"further_fits": len(others) + 1 - len(fits)}
    tested = score_calibrated(replace(first, others=tuple(others), metrics=about), problem)
    again = replace(winner, tested=tested, folder=save_artifact(tested.artifact, winner.folder))
    if winner.alone is not None:
        return again
    return replace(again, members={winner.trial.number: 1.0}, alone=winner.tested.scores, value=winner.trial.value)


def _fits(member: Artifact, rows: Rows, device: str) -> list[Artifact]:
    """A member and its further fits, of equal weights."""
    metrics = {name: member.metrics[name] for name in ("trial", "epoch")}
    fits = [replace(member, others=())]
    for number in range(1, N_FURTHER_FITS + 1):
        config = member.config.model_copy(update={"seed": member.config.seed + number})
        with suppress(NoUsableTrial):
            model = fit_rows(config, rows, device, member.metrics["epoch"] or None)
            fits.append(replace(fits[0], model=model, config=config, metrics=metrics))
    return [replace(fit, weight=member.weight / len(fits)) for fit in fits]


def training_and_validation(problem: Problem) -> Rows:
    """What may be seen of these rows, in scaled units: validation rows are there once, below the others."""
    splits = problem.splits
    n_validation = len(splits.indices[1])
    return Rows(np.concatenate([splits.train.rows.x, splits.validation.rows.x[:n_validation]]), splits.codec)


def is_to_be_refitted(problem: Problem, *, asked: bool | None) -> bool:
    """Whether the winner is: if asked for, or else where the table has holes of its own, which are to be filled.

    Never where a file brings its own split: its test rows are to stay unseen.
    """
    if problem.table.given is not None:
        return False
    return bool(np.isnan(problem.table.values).any()) if asked is None else asked


def refit(winner: Winner, problem: Problem, device: str) -> Winner:
    """Train a winner's settings again on every observed cell of every row, as long as it took to its best epoch.

    The scores beside it stay those of the winner itself, which has not seen what it was scored on: nothing is left to
    score the new one.

    Raises:
        NoUsableTrial: The training diverged.
    """
    tested = winner.tested
    first, *others = (_refit(member, problem.table, device) for member in tested.artifact.members)
    save_artifact(replace(first, others=tuple(others)), winner.folder)
    return replace(winner, is_refitted=True)


def _refit(member: Artifact, table: Table, device: str) -> Artifact:
    again = fit_on_all(member.config, table, device, member.metrics["epoch"] or None)
    about, metrics = member.dataset | {"refitted": True}, member.metrics | {"refitted": True}
    factors = {name: getattr(member, name) for name in ("weight", "spread", "temperature")}
    return replace(again, dataset=about, metrics=metrics, **factors)
