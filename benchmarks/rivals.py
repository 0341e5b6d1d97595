"""The same model, space and data in plain Optuna and in plain Ray Tune, as their tutorials have it; and random search.

    python benchmarks/rivals.py optuna breast_cancer --trials 40 --missing-rate 0.2 -o reports.json
    python benchmarks/rivals.py ray breast_cancer --trials 40 --missing-rate 0.2 -o reports.json
    python benchmarks/rivals.py draws breast_cancer --trials 40 --missing-rate 0.2 -o reports.json
    python benchmarks/rivals.py grid mnist --trials 216 --limit 600 -o reports.json

`optuna` and `ray` try the first points of the space first, as vadtune does; `draws` is `optuna` without them.
They train and score as their users would write it (`plain_training.py`), or with `--our-trainer` by vadtune's code.
`grid` draws from the grid of the VAD paper's code and trains each configuration to the end, always by our trainer,
whose steps are faster than those of the paper's code. Writes one JSON document: every report's time since the start and
error; with `--level` as soon as one is as low, with `--limit` after so many seconds at the latest.
"""

import argparse
import json
import math
import multiprocessing
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import psutil
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from plain_training import PlainRun

from vadtune.data.problem import load_problem
from vadtune.data.splits import DataConfig
from vadtune.settings import parse
from vadtune.training.config import TrainConfig, TrialConfig
from vadtune.tuning.runs import Run
from vadtune.tuning.schedulers import ASHA, report_epochs
from vadtune.tuning.space import Space, default_space, find_space, for_table, load_space
from vadtune.tuning.trial_runs import TrialData, TrialRuns, trial_config

N_PROCESSES = 2


class Task:
    """What all sides search: a table, a space, the epochs at which a trial reports."""

    def __init__(self, args: argparse.Namespace) -> None:
        values = {"dataset": args.dataset, "missing_rate": args.missing_rate, "seed": args.seed}
        problem = load_problem(parse(DataConfig, values, "benchmark"), Path("data"))
        self.data = TrialData(problem.splits.train.rows, problem.splits.validation)
        name = default_space("vad", is_image=problem.table.image_shape is not None)
        space = load_space(find_space("reference_grid" if args.side == "grid" else name), TrialConfig)
        self.space: Space = for_table(space, problem.splits.train.rows)
        self.max_epochs: int = self.space.fixed("train.n_epochs", TrainConfig().n_epochs)
        self.epochs = report_epochs(ASHA().rungs(self.max_epochs), self.max_epochs)
        self.seed: int = args.seed
        self.is_plain: bool = not (args.our_trainer or args.side == "grid")

    def train(self, params: dict[str, Any], report: Callable[[int, float], None]) -> float:
        """Run one trial, whose every report may raise to end it; its final error."""
        runs = TrialRuns()
        runs.prepare_process(self.seed, 1)
        config = self.space.config(params) | {"seed": self.seed}
        run: PlainRun | Run
        if self.is_plain:
            run = PlainRun(trial_config(config, self.max_epochs), self.data)
        else:
            run = runs.start(config, self.data, self.max_epochs, "cpu")
        for epoch in self.epochs:
            report(epoch, run.advance(epoch))
        return run.finish()


def log(path: Path, error: float) -> None:
    """Add a line to the log that all processes share."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps([time.time(), error]) + "\n")


def optuna_worker(args: argparse.Namespace, folder: Path) -> None:
    """One of the processes that share a study."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    task = Task(args)

    def objective(trial: optuna.Trial) -> float:
        def report(epoch: int, error: float) -> None:
            log(folder / "log", error)
            trial.report(error, epoch)
            if args.side != "grid" and trial.should_prune():
                raise optuna.TrialPruned

        return task.train(task.space.suggest(trial), report)

    storage = JournalStorage(JournalFileBackend(str(folder / "journal")))
    # Both processes draw from the operating system's entropy: seeds would have them draw the same.
    sampler = optuna.samplers.RandomSampler() if args.side == "grid" else None
    study = optuna.create_study(storage=storage, study_name="rival", load_if_exists=True, sampler=sampler)
    callbacks = [optuna.study.MaxTrialsCallback(args.trials, states=None)]
    study.optimize(objective, callbacks=callbacks)


def search_with_optuna(args: argparse.Namespace, folder: Path) -> None:
    """Two processes and a journal file; sampler and pruner are Optuna's defaults (TPE, median), but for `grid`."""
    storage = JournalStorage(JournalFileBackend(str(folder / "journal")))
    study = optuna.create_study(storage=storage, study_name="rival")
    if args.side != "draws":
        for point in Task(args).space.first:
            study.enqueue_trial(point)
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=optuna_worker, args=(args, folder)) for _ in range(N_PROCESSES)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


class Suggested:
    """A space as OptunaSearch asks for it; it pickles it."""

    def __init__(self, space: Space) -> None:
        self.space = space

    def __call__(self, trial: optuna.Trial) -> None:
        self.space.suggest(trial)


def search_with_ray(args: argparse.Namespace, folder: Path) -> None:
    """A function trainable and OptunaSearch, all else as Ray has it by default."""
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    task = Task(args)

    def trainable(config: dict[str, Any], task: Task) -> None:
        def report(epoch: int, error: float) -> None:
            log(folder / "log", error)
            tune.report({"imputation_rmse": error, "epoch": epoch})

        task.train(config, report)

    search = OptunaSearch(
        Suggested(task.space), metric="imputation_rmse", mode="min", points_to_evaluate=list(task.space.first)
    )
    tuner = tune.Tuner(
        tune.with_parameters(trainable, task=task),
        tune_config=tune.TuneConfig(search_alg=search, num_samples=args.trials),
        run_config=tune.RunConfig(storage_path=str(folder), verbose=0),
    )
    tuner.fit()


SIDES = {
    "optuna": search_with_optuna,
    "draws": search_with_optuna,
    "ray": search_with_ray,
    "grid": search_with_optuna,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("dataset")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--missing-rate", type=float, default=0.5)
    parser.add_argument("--limit", type=float, help="end after so many seconds")
    parser.add_argument("--level", type=float, help="end at the first report at this error or below")
    parser.add_argument("--our-trainer", action="store_true", help="train and score by vadtune's code")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True, help="where the JSON goes: Ray writes to stdout")
    args = parser.parse_args()
    began = time.time()
    with tempfile.TemporaryDirectory() as folder:
        threading.Thread(target=end_early, args=(args, Path(folder), began), daemon=True).start()
        SIDES[args.side](args, Path(folder))
        args.output.write_text(json.dumps({"reports": read_log(Path(folder), began)}))


def read_log(folder: Path, began: float) -> list[tuple[float, float]]:
    """Seconds since the start and error of every report so far."""
    log = folder / "log"
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.exists() else []
    return [(at - began, error) for at, error in map(json.loads, filter(lambda line: line.endswith("\n"), lines))]


def end_early(args: argparse.Namespace, folder: Path, began: float) -> None:
    """Wait for the level or the limit; then write the reports and end this process and all that it started."""
    level, limit = -math.inf if args.level is None else args.level, args.limit or math.inf
    while time.time() - began < limit and not any(error <= level for _, error in read_log(folder, began)):
        time.sleep(0.2)
    args.output.write_text(json.dumps({"reports": read_log(folder, began)}))
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


if __name__ == "__main__":
    main()
