"""A search from a table to a model, called from Python: what `vadtune.search` does, without the terminal."""

import logging
import shlex
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from vadtune.data.problem import Problem
from vadtune.data.splits import DataConfig, split
from vadtune.data.storage import open_storage
from vadtune.data.tables import Table
from vadtune.errors import ConfigError, DataError
from vadtune.settings import Nested, Settings, flatten, parse, unflatten
from vadtune.training.artifact import Artifact, load_artifact
from vadtune.training.config import TrainConfig, TrialConfig
from vadtune.training.device import resolve_device
from vadtune.tuning.cluster import Cluster
from vadtune.tuning.conclude import evaluation_arrays
from vadtune.tuning.ensemble import export_best
from vadtune.tuning.fits import Fitter
from vadtune.tuning.plan import n_further_fits, n_kept
from vadtune.tuning.preflight import check_folder, fills_machine
from vadtune.tuning.record import begin, describe_run, write_arrays, write_json
from vadtune.tuning.refits import add_further_fits, n_affordable, refit
from vadtune.tuning.runner import Plan, run_search
from vadtune.tuning.samplers import Sampler
from vadtune.tuning.schedulers import Scheduler
from vadtune.tuning.space import Space, default_space, find_space, for_table, load_space, make_space
from vadtune.tuning.summary import summarise
from vadtune.tuning.trial_runs import TrialData, TrialRuns

logger = logging.getLogger(__name__)

HIDDEN_CELLS = 10  # of the validation and of the test rows, if there are rows enough
LEAST_SHARE, MOST_SHARE = 0.1, 0.3
N_SEEDS = 10


class SearchSettings(Settings):
    """What a search is told; `vadtune.imputer.SearchImputer` says what each is."""

    model: Literal["vad", "vae"]
    n_trials: int | None = Field(ge=1)
    time_budget_s: float | None = Field(gt=0)
    n_jobs: int | None = Field(ge=-1)
    address: str | None
    storage: str | None
    space: str | Path | dict[str, Any] | None
    settings: dict[str, Any] | None
    missing_rate: float = Field(gt=0, lt=1)
    mechanism: str
    sampler: str
    scheduler: str
    ensemble: int = Field(ge=1)
    runs: Path
    device: str
    seed: int = Field(ge=0)


@dataclass(frozen=True, eq=False)
class Found:
    """What a search found.

    Attributes:
        artifact: The model of the best settings, or an ensemble, trained on all rows; its metrics are from before.
        params: The settings that were searched, by dotted path, of the best trial.
        error: Over hidden validation cells, of the best trial or of the ensemble.
        folder: The run folder.
    """

    artifact: Artifact
    params: dict[str, Any]
    error: float
    folder: Path


def search_and_refit(settings: SearchSettings, table: Table) -> Found:
    """Search, score the winner on rows that no trial saw, and train it again on all rows.

    Raises:
        ConfigError: A setting is not allowed, or what it asks for is not there.
        ValueError: Too few rows or columns to hide cells in.
        NoUsableTrial: Every trial failed.
        KeyboardInterrupt: The search was interrupted; its run folder is whole.
    """
    began = time.monotonic()
    _check_end(settings)
    problem = _problem(settings, table)
    space = for_table(_space(settings), problem.splits.train.rows)
    plan = _plan(settings, space, is_small=problem.splits.is_small)
    logger.info(
        "run folder: %s; watch it: python -m vadtune.report %s --live", plan.folder, shlex.quote(str(plan.folder))
    )
    one_each = fills_machine(plan.n_trials, plan.concurrent, plan.cpus_per_trial, plan.gpus_per_trial)
    with Cluster(settings.address, one_each=one_each) as cluster:
        begin(plan.folder, describe_run("vadtune.SearchImputer", plan, problem), resume=False)
        data = TrialData(problem.splits.train.rows, problem.splits.validation)
        outcome = run_search(plan, data, TrialRuns(), cluster=cluster)
        if outcome.end == "interrupted":
            raise KeyboardInterrupt(f"the study is in {plan.folder}")
        winner, fitter = export_best(plan, problem, 1, settings.ensemble)[0], Fitter(plan, cluster)
        n_fits = n_affordable(winner, problem, fitter, outcome)
        if n_fits:
            winner = add_further_fits(winner, problem, fitter, n_fits)
        winner = refit(winner, problem, fitter)
    write_arrays(plan.folder / "evaluation.npz", evaluation_arrays(winner.tested, problem))
    write_json(plan.folder / "summary.json", summarise(plan, problem, outcome, winner, {}, time.monotonic() - began))
    return Found(load_artifact(winner.folder), winner.trial.params, winner.tested.validation_error, plan.folder)


def _problem(settings: SearchSettings, table: Table) -> Problem:
    """The table and what is hidden of it; in a small one more rows are held back, until they hide some cells."""
    share = min(max(HIDDEN_CELLS / (settings.missing_rate * table.values.size), LEAST_SHARE), MOST_SHARE)
    given: Nested = {"dataset": table.source, "missing_rate": settings.missing_rate}
    given |= {"mechanism": {"kind": settings.mechanism}, "validation_share": share, "test_share": share}
    problem: DataError | None = None
    for seed in range(settings.seed, settings.seed + N_SEEDS):
        config: DataConfig = parse(DataConfig, given | {"seed": seed}, "SearchImputer")
        try:
            found = Problem(table, config, split(table, config))
            if np.isnan(found.splits.test.rows.x).all():
                raise DataError("X: all cells of the test rows are hidden.")
        except DataError as error:
            problem = error
        else:
            return found
    size = f"{table.n_rows} sample(s) and {table.n_features} feature(s)"
    # A ValueError that says so is what scikit-learn asks of an estimator that needs more.
    raise ValueError(f"{problem} X has {size}.")


def _space(settings: SearchSettings) -> Space:
    over = unflatten(flatten(settings.settings or {}))
    if isinstance(settings.space, dict):
        space = make_space(unflatten(flatten(settings.space)), TrialConfig, "space", over)
    else:
        name = settings.space or default_space(settings.model, is_image=False)
        space = load_space(find_space(str(name)), TrialConfig, over)
    kind = space.fixed("model.kind", "vad")
    if kind != settings.model:
        raise ConfigError(f"SearchImputer: model is {settings.model!r} and the search space is for {kind!r}.")
    return space


def _plan(settings: SearchSettings, space: Space, *, is_small: bool) -> Plan:
    device, gpus_per_trial = resolve_device(settings.device)
    folder = _new_folder(settings)
    return Plan(
        folder=folder,
        storage=open_storage(f"{settings.storage}/{folder.name}" if settings.storage else str(folder)),
        space=space,
        sampler=parse(Sampler, {"kind": settings.sampler}, "SearchImputer: sampler"),
        scheduler=parse(Scheduler, {"kind": settings.scheduler}, "SearchImputer: scheduler"),
        max_epochs=space.fixed("train.n_epochs", TrainConfig().n_epochs),
        n_trials=settings.n_trials,
        time_budget_s=settings.time_budget_s,
        concurrent=None if settings.n_jobs == -1 else settings.n_jobs,
        gpus_per_trial=gpus_per_trial,
        seed=settings.seed,
        device=device,
        n_further_fits=n_further_fits(is_small=is_small, n_members=settings.ensemble, asked=None),
        keep_top=n_kept(1, settings.ensemble),
    )


def _new_folder(settings: SearchSettings) -> Path:
    runs = settings.runs.absolute()
    check_folder(runs)
    # Searches of a cross-validation may begin in the same second.
    folder = Path(tempfile.mkdtemp(prefix=f"imputer-{settings.model}-{datetime.now():%Y%m%d-%H%M%S}-", dir=runs))
    folder.chmod(0o755)
    return folder


def _check_end(settings: SearchSettings) -> None:
    """Refuse a search that would not end, or not begin."""
    if settings.n_trials is None and settings.time_budget_s is None and settings.sampler != "grid":
        raise ConfigError("SearchImputer: give n_trials or time_budget_s, or the search would not end.")
    if settings.n_jobs == 0:
        raise ConfigError("SearchImputer: n_jobs is 0: give how many trials run at once, or -1 for as many as fit.")
