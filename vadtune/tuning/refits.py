"""The winner, trained again: with the validation rows, while it can still be scored, and at last on all rows."""

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


def is_to_be_fitted_twice(problem: Problem, *, asked: bool | None, n_members: int) -> bool:
    """Whether the winner is: in small tables the validation rows are missed in training; not where one model is asked.

    Args:
        problem: The table.
        asked: Whether to train after the search; None: where it serves.
        n_members: How many models may be averaged.
    """
    train, validation, _ = problem.splits.indices
    is_small = (len(train) + len(validation)) * problem.table.n_features <= MAX_CELLS
    return is_small and n_members > 1 and asked is not False


def fit_twice(winner: Winner, problem: Problem, device: str) -> Winner:
    """Let each member share its weight with a second fit of its settings, on training and validation rows.

    The second fit has another seed and takes as many epochs as the first took to its best. Of the validation rows it
    sees their observed cells, as every model does when it is compared on them; never the hidden ones. The error on
    validation rows, and how sure the model may be, stay those of the first fits.

    Returns:
        The winner, scored and written again; a member whose second fit diverged is left as it was.
    """
    before, rows = winner.tested.artifact, training_and_validation(problem)
    first, *others = (_fitted_twice(member, rows, device) for member in before.members)
    pairs = [first, *others]
    members = [pair[0] for pair in pairs] + [pair[1] for pair in pairs if len(pair) > 1]
    joined = replace(members[0], others=tuple(members[1:]), metrics=before.metrics | {"second_fits": len(pairs)})
    tested = score_calibrated(joined, problem)
    again = replace(winner, tested=tested, folder=save_artifact(tested.artifact, winner.folder))
    if winner.alone is not None:
        return again
    return replace(again, members={winner.trial.number: 1.0}, alone=winner.tested.scores, value=winner.trial.value)


def _fitted_twice(member: Artifact, rows: Rows, device: str) -> list[Artifact]:
    config = member.config.model_copy(update={"seed": member.config.seed + 1})
    try:
        model = fit_rows(config, rows, device, member.metrics["epoch"] or None)
    except NoUsableTrial:
        return [member]
    half = replace(member, weight=member.weight / 2, others=())
    metrics = {"trial": member.metrics["trial"], "epoch": member.metrics["epoch"]}
    return [half, replace(half, model=model, config=config, metrics=metrics)]


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
