"""What a search writes down beside its study: `settings.json` at the beginning, `summary.json` at the end."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from vadtune.data.problem import Problem
from vadtune.errors import ConfigError
from vadtune.settings import Nested, read_json
from vadtune.training.environment import hardware, versions
from vadtune.tuning.baselines import BaselineResult
from vadtune.tuning.conclude import Winner, score_baselines, summarise_winner, write_json
from vadtune.tuning.database import Database, agreed_settings
from vadtune.tuning.past_run import FORMAT_VERSION, run_format
from vadtune.tuning.runner import Outcome, Plan
from vadtune.tuning.space import Space


def describe_run(command: str, plan: Plan, problem: Problem) -> Nested:
    """`settings.json`: everything resolved."""
    table, about = problem.table, problem.describe()
    counts = {key: about[key] for key in ("n_train", "n_validation", "n_test")}
    return {
        "format_version": FORMAT_VERSION,
        "command": command,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "dataset": {
            **{key: about[key] for key in ("name", "source", "sha256", "n_rows", "n_features", "n_unknown", "unit")},
            "image_shape": table.image_shape,
            "columns": [{"name": column.name, "kind": column.kind} for column in table.columns],
        },
        "data": problem.config.model_dump(mode="json") | counts,
        "model": plan.space.fixed("model.kind", "vad"),
        "space": plan.space.to_dict(),
        "search": {
            "sampler": plan.sampler.kind,
            "scheduler": plan.scheduler.kind,
            "trials": plan.n_trials,
            "max_epochs": plan.max_epochs,
            "time_budget_s": plan.time_budget_s,
            "concurrent": plan.concurrent,
            "cpus_per_trial": plan.cpus_per_trial,
            "gpus_per_trial": plan.gpus_per_trial,
            "seed": plan.seed,
            "rungs": list(plan.rungs),
            # In the run folder if null: a run that was moved is still found.
            "storage": None if plan.storage.address == str(plan.folder) else plan.storage.address,
            "storage_url": plan.database.url if plan.database else None,
        },
        "hardware": hardware(),
    }


def begin(folder: Path, settings: Nested, *, resume: bool, database: Database | None = None) -> None:
    """Write what the run is, or check that the run to resume, or the study to share, is the same search.

    Raises:
        ConfigError: It differs; every difference is shown.
    """
    if resume and (folder / "settings.json").exists():
        _check_same(read_json(folder / "settings.json"), settings, f"--resume: {folder.name}")
    if database is not None:
        _check_same(agreed_settings(database, settings), settings, f"--storage-url: the study {folder.name}")
    write_json(folder / "settings.json", settings)


def _check_same(old: Nested, new: Nested, what: str) -> None:
    problem = run_format(old)
    if problem is not None:
        raise ConfigError(f"{what}: {problem}")
    lines = Space.from_dict(old["space"]).difference(Space.from_dict(new["space"]))
    lines += _differences(old, new)
    if lines:
        raise ConfigError("\n".join([f"{what} was another search:", *lines, "Give it a new --name."]))


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


def _differences(old: Nested, new: Nested) -> list[str]:
    pairs = [
        ("dataset.sha256", old["dataset"]["sha256"], new["dataset"]["sha256"]),
        ("model", old["model"], new["model"]),
    ]
    pairs += [(f"data.{key}", old["data"].get(key), value) for key, value in new["data"].items()]
    pairs += [
        (f"search.{key}", old["search"].get(key), new["search"][key])
        for key in ("max_epochs", "scheduler", "seed", "storage_url")
    ]
    return [f"{path}: {before} became {after}" for path, before, after in pairs if before != after]
