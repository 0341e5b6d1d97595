"""The best of a search, not just its best trial: several complete trials whose estimates are averaged.

Source: Caruana, Niculescu-Mizil, Crew, Ksikes (2004), Ensemble selection from libraries of models, ICML: greedy, with
replacement, on rows that no member was trained on.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from vadtune.data.problem import Problem
from vadtune.data.storage import Storage
from vadtune.data.tables import FloatArray
from vadtune.models.objective import as_tensor
from vadtune.training.artifact import Artifact, save_artifact
from vadtune.training.evaluation import score
from vadtune.training.run import load_expected
from vadtune.tuning.conclude import Winner, export_trial, load_trial, score_artifact, validation_name
from vadtune.tuning.plan import Plan
from vadtune.tuning.study import BestTrial, read_study, top_trials

# As often as this, for each member wanted, the best addition is sought: how often one is taken is its weight.
STEPS_A_MEMBER = 3


def export_best(plan: Plan, problem: Problem, n_top: int, n_members: int) -> list[Winner]:
    """Write `best/`, of the best trial or of several together, and `top/2` and so on, of single trials.

    Raises:
        NoUsableTrial: Every trial failed.
    """
    best = top_trials(read_study(plan.study_path), plan.keep_top, plan.storage.exists)
    saved = [trial for trial in best if trial.checkpoint is not None] if n_members > 1 else best[:1]
    winner = export_ensemble(saved or best[:1], plan.storage, problem, plan.folder / "best", n_members)
    return [
        winner,
        *(
            export_trial(trial, plan.storage, problem, plan.folder / "top" / str(rank))
            for rank, trial in enumerate(best[1:n_top], start=2)
        ),
    ]


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


def export_ensemble(
    trials: Sequence[BestTrial], storage: Storage, problem: Problem, folder: Path, n_members: int
) -> Winner:
    """Score and write the best trial, averaged with others where that is better on the validation rows.

    Args:
        trials: Candidates with a checkpoint, best first.
        storage: Of their checkpoints.
        problem: What they were trained on.
        folder: Of the artifact to write.
        n_members: How many trials to take at most.
    """
    if n_members == 1 or len(trials) == 1:
        return export_trial(trials[0], storage, problem, folder)
    first = load_trial(trials[0], storage, problem)
    outputs = [_expected(trial, storage, problem) for trial in trials]

    def error(expected: FloatArray) -> float:
        values = first.model.values(torch.from_numpy(np.asarray(expected, np.float32)))
        return first.model.codec.score(values.numpy(), problem.splits.validation.truth)

    weights, value = choose(outputs, error, n_members)
    if len(weights) == 1:
        tested = score_artifact(first, problem)
        return Winner(trials[0], tested, save_artifact(tested.artifact, folder))
    chosen = {place: load_trial(trials[place], storage, problem) if place else first for place in weights}
    tested = score_artifact(_join(chosen, weights, problem, value), problem)
    test = problem.splits.test
    estimate = replace(first, delta=tested.artifact.delta).estimate(tested.posteriors[:1])
    alone = score(estimate.cpu().numpy(), test, problem.splits.column_range)
    members = {trials[place].number: weight for place, weight in weights.items()}
    saved = save_artifact(tested.artifact, folder)
    return Winner(trials[0], tested, saved, members=members, alone=alone)


def _expected(trial: BestTrial, storage: Storage, problem: Problem) -> FloatArray:
    """What a trial expects of the validation rows `(N, E)`: as it was scored, or inferred now if it never was."""
    assert trial.checkpoint is not None
    with storage.fetched(trial.checkpoint) as checkpoint:
        found = load_expected(checkpoint)
    if found is None:
        artifact = load_trial(trial, storage, problem)
        found = artifact.expect(artifact.posterior(as_tensor(problem.splits.validation.rows.x))).cpu().numpy()
    return found


def _join(chosen: Mapping[int, Artifact], weights: dict[int, float], problem: Problem, value: float) -> Artifact:
    first, *others = (replace(chosen[place], weight=weight) for place, weight in weights.items())
    shares = {str(member.metrics["trial"]): member.weight for member in (first, *others)}
    about = {validation_name(problem.table.unit): value, "members": shares}
    return replace(first, others=tuple(others), metrics=first.metrics | about)
