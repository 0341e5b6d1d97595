"""What a search writes down beside its study, each file whole or not at all; `settings.json` at the beginning."""

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vadtune.data.files import written_beside
from vadtune.data.problem import Problem
from vadtune.errors import ConfigError
from vadtune.settings import Nested, read_json
from vadtune.training.environment import hardware, versions
from vadtune.tuning.database import Database, agreed_settings
from vadtune.tuning.past_run import COUNTS, FORMAT_VERSION, run_format
from vadtune.tuning.plan import Plan
from vadtune.tuning.space import Space


def describe_run(command: str, plan: Plan, problem: Problem) -> Nested:
    """`settings.json`: everything resolved."""
    table, about = problem.table, problem.describe()
    counts = {key: about[key] for key in COUNTS}
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


def write_json(path: Path, document: object) -> None:
    """Write a JSON document, whole or not at all."""
    with written_beside(path) as part:
        part.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_arrays(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write arrays as `.npz` in the same way."""
    with written_beside(path) as part, part.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
        file.flush()
        os.fsync(file.fileno())


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
