"""`python -m vadtune.search`: find the best imputation model for a table with missing values."""

import argparse
import importlib
import shlex
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from vadtune import cli
from vadtune.errors import ConfigError, NoUsableTrial
from vadtune.result import sentences
from vadtune.run_folder import resume_command, run_folder, storage_address
from vadtune.search_flags import parser
from vadtune.settings import Nested, merge, parse, parse_assignments

if TYPE_CHECKING:
    from vadtune.data.problem import Problem
    from vadtune.tuning.cluster import Cluster
    from vadtune.tuning.conclude import Winner
    from vadtune.tuning.fits import Fitter
    from vadtune.tuning.progress import Snapshot
    from vadtune.tuning.runner import Outcome, Plan
    from vadtune.tuning.space import Space

DEFAULT_TIME_BUDGET_S = 120.0
BASELINE_LIMIT_S = 60.0
N_DRY_RUN = 10
UNFINISHED = (
    "No trial came to its end: the best unfinished one is used. Go on with --resume and a longer --time-budget."
)


def main(arguments: list[str]) -> int:
    """Run the command; returns its exit code."""
    args = parser().parse_args(arguments)
    if args.dry_run:
        return dry_run(args)
    command = args.watched_by or shlex.join(["python", "-m", "vadtune.search", *arguments])
    if args.address is not None and args.address.startswith("ray://"):
        from vadtune.search_client import watch

        return watch(args, arguments, command)
    return search(args, command)


def dry_run(args: argparse.Namespace) -> int:
    """Print every configuration of a grid, or a sample of any other space."""
    import optuna

    from vadtune.settings import flatten
    from vadtune.training.config import TrialConfig
    from vadtune.tuning.space import for_table

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    problem = load_problem(args)
    space, sampler, _ = resolve_space(args, is_image=problem.table.image_shape is not None)
    space = for_table(space, problem.splits.train.rows)
    points = sampler.points(space)
    if args.sampler != "grid":
        study = optuna.create_study(sampler=sampler.build(args.seed, 0))
        for point in points:
            study.enqueue_trial(point)
        points = [space.suggest(study.ask()) for _ in range(args.trials or N_DRY_RUN)]
    configs = [parse(TrialConfig, space.config(point), "search space").model_dump(mode="json") for point in points]
    if args.dry_run == "csv":
        cli.show_csv(flatten(config) for config in configs)
    else:
        import json

        for config in configs:
            cli.show(json.dumps(config))
    return 0


def search(args: argparse.Namespace, command: str) -> int:
    """Search, export, compare, report, print."""
    began = time.monotonic()
    folder = run_folder(args)
    try:
        # Ray takes seconds to start: meanwhile the table is read, and the baselines begin while torch is imported.
        with _cluster(args) as cluster:
            problem = load_problem(args)
            with _baselines(problem) as baselines:
                document, is_interrupted = _search(args, command, folder, problem, baselines, cluster, began)
    except KeyboardInterrupt:
        if (folder / "study.log").exists():
            _say_resume(command, folder)
        raise
    if args.json:
        cli.show_json(document)
    else:
        cli.show(sentences(document, folder, problem.table.unit))
    return cli.INTERRUPTED if is_interrupted else 0


def _cluster(args: argparse.Namespace) -> "Cluster":
    """The cluster to search on; starts as it is entered."""
    from vadtune.tuning.cluster import Cluster, shipment
    from vadtune.tuning.preflight import check_local_cpus, fills_machine
    from vadtune.tuning.trackers import check_installed

    if args.address is None:
        check_local_cpus(args.cpus_per_trial)
    check_installed(_trackers(args))
    environment = shipment(with_code=args.ship_code) if args.address is not None else None
    one_each = fills_machine(args.trials, args.concurrent, args.cpus_per_trial, args.gpus_per_trial or 0.0)
    return Cluster(args.address, environment, one_each=one_each)


def _search(
    args: argparse.Namespace,
    command: str,
    folder: Path,
    problem: "Problem",
    baselines: Any,
    cluster: "Cluster",
    began: float,
) -> tuple[Nested, bool]:
    """All between the table and the result's document; True if it was interrupted."""
    from vadtune.tuning.lock import locked
    from vadtune.tuning.preflight import check_folder
    from vadtune.tuning.record import begin, describe_run
    from vadtune.tuning.space import for_table

    space, sampler, scheduler = resolve_space(args, is_image=problem.table.image_shape is not None)
    space = for_table(space, problem.splits.train.rows)
    plan = make_plan(args, folder, space, sampler, scheduler, is_small=problem.splits.is_small)
    _warn_of_strangers(args, folder)
    check_folder(folder)
    with locked(folder):
        begin(folder, describe_run(command, plan, problem), resume=args.resume, database=plan.database)
        _say_begin(problem)
        if args.watched_by is None:
            _say_folder(folder)
        # Trials elsewhere leave the CPUs of this machine to the baselines.
        with baselines.paused() if args.address is None else nullcontext():
            outcome = _run(plan, problem, cluster)
        is_interrupted = outcome.end == "interrupted"
        if is_interrupted:
            _say_resume(command, folder)
        # Not before: torch is loaded while the last trials run.
        from vadtune.tuning.ensemble import export_best
        from vadtune.tuning.fits import Fitter
        from vadtune.tuning.summary import rounded, summarise

        phases = outcome.seconds_by_phase
        try:
            with _timed(phases, "export"):
                winners = export_best(plan, problem, args.top, args.ensemble)
        except NoUsableTrial:
            if is_interrupted:
                raise KeyboardInterrupt from None  # there is nothing to export yet
            raise
        if not winners[0].trial.is_complete:
            cli.say(UNFINISHED)
        if not is_interrupted:
            with _timed(phases, "refit"):
                winners[0] = _refit(winners[0], problem, Fitter(plan, cluster), outcome, args)
        with cluster.closing():
            with _timed(phases, "baselines"):
                results = {} if is_interrupted else baselines.results()
            if not is_interrupted:
                with _timed(phases, "evaluate"):
                    _evaluate(folder, winners[0], problem)
        document = summarise(plan, problem, outcome, winners[0], results, time.monotonic() - began)
        _write_summary(folder, document)
        with _timed(phases, "report"):
            _write_report(folder)
        document |= {"seconds": round(time.monotonic() - began, 1), "seconds_by_phase": rounded(phases)}
        _write_summary(folder, document)
        _publish(plan, outcome)
    return document, is_interrupted


def _warn_of_strangers(args: argparse.Namespace, folder: Path) -> None:
    from vadtune.tuning.preflight import foreign_owner

    owner = foreign_owner(folder) if args.resume else None
    if owner is not None:
        cli.say(
            f"warning: {folder} belongs to {owner}. Its study and checkpoints are read, never unpickled; "
            "what lies in ray/ beside the checkpoints of its study will be deleted."
        )


def resolve_space(args: argparse.Namespace, *, is_image: bool) -> tuple["Space", Any, Any]:
    """Search space, sampler and scheduler of the flags."""
    from vadtune.training.config import TrialConfig
    from vadtune.tuning.past_run import warm_starts
    from vadtune.tuning.samplers import Sampler
    from vadtune.tuning.schedulers import Scheduler
    from vadtune.tuning.space import default_space, find_space, load_space

    name = args.space or default_space(args.model, is_image=is_image)
    overrides = parse_assignments(args.set)
    if args.max_epochs is not None:
        overrides = merge(overrides, {"train": {"n_epochs": args.max_epochs}})
    space = load_space(find_space(name), TrialConfig, overrides)
    kind = space.fixed("model.kind", "vad")
    if kind != args.model:
        raise ConfigError(
            f"--model {args.model}: the search space {name} is for {kind}. Give --model {kind} or another --space."
        )
    if args.warm_start:
        space = space.starting_at(warm_starts(args.warm_start, args.model))
    sampler = parse(Sampler, {"kind": args.sampler}, "--sampler")
    return space, sampler, parse(Scheduler, {"kind": args.scheduler}, "--scheduler")


def load_problem(args: argparse.Namespace) -> "Problem":
    """The table, its splits and what is hidden."""
    from vadtune.data.problem import load_problem
    from vadtune.data.splits import DataConfig

    return load_problem(parse(DataConfig, cli.data_values(args), "flags"), args.data_dir)


def make_plan(
    args: argparse.Namespace, folder: Path, space: "Space", sampler: Any, scheduler: Any, *, is_small: bool
) -> "Plan":
    """Everything the search loop needs to know, resolved."""
    from vadtune.data.storage import open_storage
    from vadtune.training.config import TrainConfig
    from vadtune.training.device import resolve_device
    from vadtune.tuning.database import Database, check_url
    from vadtune.tuning.plan import Plan, n_further_fits, n_kept

    device, gpus_per_trial = resolve_device(args.device, args.gpus_per_trial)
    budget = args.time_budget
    if budget is None and args.trials is None and args.sampler != "grid":
        budget = DEFAULT_TIME_BUDGET_S
    max_epochs = space.fixed("train.n_epochs", TrainConfig().n_epochs)
    return Plan(
        folder=folder,
        storage=open_storage(storage_address(args.storage, folder)),
        space=space,
        sampler=sampler,
        scheduler=scheduler,
        max_epochs=max_epochs,
        n_trials=args.trials,
        time_budget_s=budget,
        concurrent=args.concurrent,
        cpus_per_trial=args.cpus_per_trial,
        gpus_per_trial=gpus_per_trial,
        seed=args.seed,
        device=device,
        n_further_fits=n_further_fits(is_small=is_small, n_members=args.ensemble, asked=args.refit),
        keep_top=n_kept(args.top, args.ensemble),
        database=Database(check_url(args.storage_url), folder.name) if args.storage_url else None,
        trackers=_trackers(args),
    )


def _trackers(args: argparse.Namespace) -> tuple[Any, ...]:
    from vadtune.tuning.trackers import Tracker

    return tuple(parse(Tracker, {"kind": kind}, "--log-to") for kind in dict.fromkeys(args.log_to))


def _say_resume(command: str, folder: Path) -> None:
    cli.say("Interrupted; everything so far is saved. Go on with:", "  " + resume_command(command, folder.name))


@contextmanager
def _baselines(problem: "Problem") -> Iterator[Any]:
    from vadtune.tuning.baselines import RunningBaselines

    with RunningBaselines(problem.splits, BASELINE_LIMIT_S) as running:
        yield running


def _run(plan: "Plan", problem: "Problem", cluster: "Cluster") -> "Outcome":
    from vadtune.tuning.runner import run_search
    from vadtune.tuning.trial_runs import TrialData, TrialRuns

    data = TrialData(problem.splits.train.rows, problem.splits.validation)
    with _Watcher() as watcher:
        return run_search(plan, data, TrialRuns(), watcher, cluster)


class _Watcher:
    """Shows the search on the console, and loads what its end needs, torch and plotly, while the last trials run."""

    LOAD_BEFORE_S = 15.0

    def __init__(self) -> None:
        from vadtune.console import Console

        self.console = Console()
        self.loading = threading.Thread(target=_load_end, daemon=True)

    def update(self, snapshot: "Snapshot") -> None:
        """Show the state."""
        self.console.update(snapshot)
        n_begun = snapshot.complete + snapshot.pruned + snapshot.failed + len(snapshot.running)
        is_last = snapshot.n_trials is not None and n_begun >= snapshot.n_trials
        is_late = snapshot.eta_s is not None and snapshot.eta_s < self.LOAD_BEFORE_S
        if (is_last or is_late) and self.loading.ident is None:
            self.loading.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.console.close()
        if self.loading.ident is not None:
            # Nothing else may happen while Ray ends: garbage of Ray's that a thread collects then ends this process.
            self.loading.join()


def _load_end() -> None:
    for module in ("vadtune.tuning.refits", "vadtune.tuning.summary", "vadtune.report.page"):
        importlib.import_module(module)


def _refit(
    winner: "Winner", problem: "Problem", fitter: "Fitter", outcome: "Outcome", args: argparse.Namespace
) -> "Winner":
    from vadtune.tuning.refits import add_further_fits, is_to_be_refitted, n_affordable, refit

    n_fits = n_affordable(winner, problem, fitter, outcome)
    if n_fits:
        cli.say(
            f"fitting the best settings again, with the {len(problem.splits.indices[1]):,} validation rows "
            "(--no-refit leaves it)"
        )
        winner = add_further_fits(winner, problem, fitter, n_fits)
    if is_to_be_refitted(problem, asked=args.refit):
        cli.say(f"refitting it on all {problem.table.n_rows:,} rows (--no-refit leaves it as it is)")
        winner = refit(winner, problem, fitter)
    return winner


@contextmanager
def _timed(phases: dict[str, float], name: str) -> Iterator[None]:
    began = time.monotonic()
    try:
        yield
    finally:
        phases[name] = time.monotonic() - began


def _evaluate(folder: Path, winner: "Winner", problem: "Problem") -> None:
    from vadtune.tuning.conclude import evaluation_arrays
    from vadtune.tuning.record import write_arrays

    write_arrays(folder / "evaluation.npz", evaluation_arrays(winner.tested, problem))


def _write_report(folder: Path) -> None:
    from vadtune.report.page import write_report

    write_report(folder)


def _write_summary(folder: Path, document: Nested) -> None:
    from vadtune.tuning.record import write_json

    write_json(folder / "summary.json", document)


def _publish(plan: "Plan", outcome: "Outcome") -> None:
    from vadtune.tuning.mirror import is_needed, publish

    if outcome.copy_problem is not None:
        cli.say(f"{plan.storage.address}: the study could not be copied there ({outcome.copy_problem}).")
    if is_needed(plan.folder, plan.storage):
        publish(plan.folder, plan.storage)


def _say_begin(problem: "Problem") -> None:
    from vadtune.data.kinds import skewed

    about, table = problem.describe(), problem.table
    tails = ",".join(skewed(table)[:5]) if table.image_shape is None else ""
    if tails:
        cli.say(f"long tails of positive numbers: --positive {shlex.quote(tails)} would model their logarithms")
    rate = problem.config.missing_rate
    cli.say(
        problem.title,
        f"{about['n_train']:,} rows to train on, {about['n_validation']:,} to compare trials, {about['n_test']:,} for "
        f"the final score; {rate:.0%} of the known cells hidden ({problem.config.mechanism.kind}; --missing-rate)",
    )


def _say_folder(folder: Path) -> None:
    cli.say(f"run folder: {folder}", f"watch it:   python -m vadtune.report {shlex.quote(str(folder))} --live")


if __name__ == "__main__":
    cli.run(main)
