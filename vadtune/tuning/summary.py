"""The result of a search as one document: `summary.json`, and what `--json` prints."""

from collections.abc import Mapping

import numpy as np

from vadtune.data.problem import Problem
from vadtune.data.splits import Splits
from vadtune.settings import Nested
from vadtune.training.evaluation import Scores, score
from vadtune.tuning.baselines import BaselineResult
from vadtune.tuning.conclude import Winner, validation_name
from vadtune.tuning.plan import Outcome, Plan


def summarise(
    plan: Plan,
    problem: Problem,
    outcome: Outcome,
    winner: Winner,
    results: Mapping[str, BaselineResult],
    seconds: float,
) -> Nested:
    """The result as one document: `summary.json`, and what `--json` prints."""
    table = problem.table
    return {
        "run": str(plan.folder),
        "dataset": {
            "name": table.name,
            "sha256": table.sha256,
            "n_rows": table.n_rows,
            "n_features": table.n_features,
        },
        "trials": {state: outcome.trials[state] for state in ("complete", "pruned", "failed", "waiting")},
        "best": summarise_winner(winner),
        "baselines": score_baselines(results, problem.splits),
        "scored_cells": int((~np.isnan(problem.splits.test.truth)).sum()),
        "seconds": round(seconds, 1),
        "seconds_by_phase": rounded(outcome.seconds_by_phase),
        "ended_by": outcome.end,
    }


def rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds of each phase, to a hundredth."""
    return {phase: round(value, 2) for phase, value in seconds.items()}


def score_baselines(results: Mapping[str, BaselineResult], splits: Splits) -> Nested:
    """Scores of the baselines over the same hidden cells; one that did not finish says so."""
    scores: Nested = {}
    for name, result in results.items():
        if result.x_hat is None:
            scores[name] = {"failure": result.failure, "seconds": result.seconds}
            continue
        found = score(result.x_hat, splits.test, splits.column_range)
        scores[name] = {
            "test_rmse": found.rmse,
            "test_rmse_minmax": found.rmse_minmax,
            **mixed_scores(found),
            "seconds": result.seconds,
        }
    return scores


def mixed_scores(scores: Scores) -> Nested:
    """The scores that only a table with codes has."""
    if scores.error is None:
        return {}
    return {"test_error": scores.error, "test_nrmse": scores.nrmse, "test_error_rate": scores.error_rate}


def summarise_winner(winner: Winner) -> Nested:
    """What the result of a search says about its best trial."""
    scores = winner.tested.scores
    return {
        "trial": winner.trial.number,
        "params": winner.trial.params,
        validation_name(winner.tested.artifact.dataset["unit"]): winner.tested.validation_error,
        **_ensemble(winner),
        "test_rmse": scores.rmse,
        "test_rmse_minmax": scores.rmse_minmax,
        "test_mae": scores.mae,
        "observed_rmse": scores.observed_rmse,
        "all_rmse": scores.all_rmse,
        **mixed_scores(scores),
        "calibration": winner.tested.calibration,
        "refitted": winner.is_refitted,
        "is_complete": winner.trial.is_complete,
        "epoch": winner.trial.epoch,
        "artifact": str(winner.folder),
    }


def _ensemble(winner: Winner) -> Nested:
    """What the members are, and what the best of them finds alone, beside the error that trials were compared by."""
    if winner.alone is None:
        return {}
    alone = {"validation": winner.trial.value, "test_rmse": winner.alone.rmse, **mixed_scores(winner.alone)}
    members = {str(number): weight for number, weight in winner.members.items()}
    n_fits = winner.tested.artifact.metrics.get("further_fits", 0)
    return {"ensemble": members, "further_fits": n_fits, "alone": alone}
