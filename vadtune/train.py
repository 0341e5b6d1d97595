"""`python -m vadtune.train`: train one configuration and export it."""

import argparse
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vadtune import cli
from vadtune.errors import ConfigError, Diverged, NoUsableTrial
from vadtune.settings import Nested, merge, parse, parse_assignments, read_json, read_toml

if TYPE_CHECKING:
    from vadtune.data.problem import Problem
    from vadtune.data.tables import FloatArray
    from vadtune.training.artifact import Artifact
    from vadtune.training.config import TrialConfig
    from vadtune.training.run import TrialRun
    from vadtune.tuning.past_run import PastRun

EXAMPLES = """\
  python -m vadtune.train mnist -o models/digits
  python -m vadtune.train table.csv --model vae --missing-rate 0.2 --set model.latent_dim=24 -o models/mine
  python -m vadtune.train --from runs/night -o models/again             # the best trial, trained again
  python -m vadtune.train --from runs/night:17 --max-epochs 500 -o models/longer
  python -m vadtune.search mnist --dry-run | sed -n 3p > third.json
  python -m vadtune.train mnist --config third.json -o models/third

Without --config and --from, the first point of the default search space is trained. The command line beats the file.
Hidden cells of validation rows choose the epoch, whether inference takes more than infer.n_steps, up to four times as
many, and how much a VAD recalls of training rows: as those of a search's winner.
--reference-output writes what the VAD paper's code writes: results.json, pred.h5 (y_pred, all cells of the test rows,
in the table's units) and final_latents.h5 (latents of the test rows, train_latents)."""


def parser() -> cli.Parser:
    """The command's arguments."""
    made = cli.Parser("train", "Train one configuration, score it on unseen rows, export it.", EXAMPLES)
    made.add_argument(
        "dataset",
        metavar="DATASET",
        nargs="?",
        help="a name (see vadtune.datasets list) or a CSV, Parquet, npz or HDF5 file; with --from, the run's",
    )
    made.add_argument("-o", "--output", metavar="ARTIFACT", type=Path, required=True, help="folder of the model")
    made.add_argument("--force", action="store_true", help="replace a model that is there already")
    what = made.add_argument_group("what is trained")
    what.add_argument("--model", choices=("vad", "vae"), help="auto-decoder or auto-encoder (default: vad)")
    source = what.add_mutually_exclusive_group()
    source.add_argument("--config", metavar="FILE", type=Path, help="settings, TOML or JSON: all or some of them")
    source.add_argument("--from", dest="run", metavar="RUN[:TRIAL]", help="data and settings of a search's trial")
    what.add_argument("--set", metavar="PATH=VALUE", action="append", default=[], help="set one of the settings")
    what.add_argument("--max-epochs", metavar="N", type=cli.count, help="the same as --set train.n_epochs=N")
    cli.add_data_flags(made)
    made.add_argument("--device", default="auto", help="auto, cpu or cuda:N (default: auto)")
    made.add_argument("--reference-output", metavar="DIR", type=Path, help="also write the files of the paper's code")
    made.add_argument("--json", action="store_true", help="print the result as one JSON document")
    return made


def main(arguments: list[str]) -> int:
    """Run the command; returns its exit code."""
    args = parser().parse_args(arguments)
    if args.dataset is None and args.run is None:
        raise ConfigError("Give a DATASET, or --from RUN to take that of a search.")
    cli.check_model_folder(args.output, force=args.force)
    return train(args)


def train(args: argparse.Namespace) -> int:
    """Train, score, export, print."""
    from vadtune.training.artifact import save_artifact
    from vadtune.training.device import resolve_device
    from vadtune.tuning.conclude import artifact_of, score_artifact, validation_name
    from vadtune.tuning.trial_runs import TrialRuns

    began = time.monotonic()
    device, _ = resolve_device(args.device)
    with open_past(args.run) as (past, number):
        problem = load(args, past)
        config = resolve_config(args, past, number, problem)
    _say_begin(problem, config)
    if past is not None:
        TrialRuns().prepare_process(config.seed, past.n_threads)
    run, value = fit(config, problem, device, past.rungs if past else None)
    metrics = {validation_name(problem.table.unit): value, "epoch": run.best_epoch}
    tested = score_artifact(artifact_of(config, run.best_model(), problem, metrics), problem)
    artifact, x_hat = tested.artifact, tested.x_hat
    save_artifact(artifact, args.output)
    document = describe(artifact, args.output, run) | {"seconds": round(time.monotonic() - began, 1)}
    if args.reference_output:
        from vadtune.training.reference_output import write_predictions, write_results

        latents = {
            "latents": tested.posteriors[0].mean.cpu().numpy(),
            "train_latents": _latents(artifact, problem.splits.train.rows.x),
        }
        write_predictions(args.reference_output, artifact.scaler.inverse(x_hat), latents)
        write_results(args.reference_output, document)
    if args.json:
        cli.show_json(document)
    else:
        cli.show(_sentences(document, problem))
    return 0


@contextmanager
def open_past(text: str | None) -> Iterator[tuple["PastRun | None", int | None]]:
    """The run and the number of its trial, of `RUN[:TRIAL]`."""
    if text is None:
        yield None, None
        return
    from vadtune.data.stored_run import local_copy
    from vadtune.tuning.past_run import open_run

    run, colon, number = text.rpartition(":")
    has_number = bool(colon) and number.isdigit()
    with local_copy(run if has_number else text) as folder:
        yield open_run(folder), int(number) if has_number else None


def load(args: argparse.Namespace, past: "PastRun | None") -> "Problem":
    """The table and what is hidden of it: of the flags, and where they are silent of the run."""
    from vadtune.data.problem import load_problem
    from vadtune.data.splits import DataConfig

    given = cli.data_values(args)
    if past is not None:
        return past.problem(args.data_dir, given)
    return load_problem(parse(DataConfig, given, "flags"), args.data_dir)


def resolve_config(
    args: argparse.Namespace, past: "PastRun | None", number: int | None, problem: "Problem"
) -> "TrialConfig":
    """The settings of the trial: default, file or run, and over them the command line.

    Raises:
        ConfigError: Names all that is not a setting, or not allowed.
    """
    from vadtune.training.config import TrialConfig

    if past is not None:
        number = past.best().number if number is None else number
        base, source = past.config(number), f"{past.folder}: trial {number}"
    elif args.config is not None:
        base, source = read_config(args.config), str(args.config)
    else:
        base, source = default_config(args.model or "vad", problem), "default settings"
    values = merge(base, parse_assignments(args.set))
    if args.max_epochs is not None:
        values = merge(values, {"train": {"n_epochs": args.max_epochs}})
    if args.seed is not None:
        values["seed"] = args.seed
    _check_model(values, args.model, source)
    return parse(TrialConfig, values, f"{source} and --set" if args.set else source)


def read_config(path: Path) -> Nested:
    """Read settings from TOML, or from JSON such as one line of `search --dry-run`."""
    if path.suffix == ".toml":
        return read_toml(path)
    return read_json(path)


def default_config(model: str, problem: "Problem") -> Nested:
    """The first point of the default search space for a table; what it leaves open is drawn by a fixed seed."""
    import optuna

    from vadtune.training.config import TrialConfig
    from vadtune.tuning.space import default_space, find_space, for_table, load_space

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    name = default_space(model, is_image=problem.table.image_shape is not None)
    space = for_table(load_space(find_space(name), TrialConfig), problem.splits.train.rows)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for point in space.first[:1]:
        study.enqueue_trial(point)
    return space.config(space.suggest(study.ask()))


def fit(
    config: "TrialConfig", problem: "Problem", device: str, rungs: tuple[int, ...] | None = None
) -> tuple["TrialRun", float]:
    """Train to the last epoch, watched on validation rows at the epochs at which a search would.

    Returns:
        The run, and the objective on validation rows at its best epoch by a cold, converged inference.

    Raises:
        NoUsableTrial: The training diverged.
    """
    from vadtune.terminal import Live
    from vadtune.training.run import TrialRun
    from vadtune.tuning.schedulers import ASHA, report_epochs

    n_epochs, line, began = config.train.n_epochs, Live(), time.monotonic()
    measure = cli.MEASURES[problem.table.unit]
    run = TrialRun(config, problem.splits.train.rows, problem.splits.validation, device)
    try:
        for epoch in report_epochs(rungs or ASHA().rungs(n_epochs), n_epochs):
            if epoch > n_epochs:
                break
            value = run.advance(epoch)
            left = (time.monotonic() - began) / epoch * (n_epochs - epoch)
            line.show_line(
                f"epoch {epoch}/{n_epochs} · loss {run.loss:.4g} · validation {measure} {value:.4f} "
                f"(best {run.best_rmse:.4f} at {run.best_epoch}) · {cli.clock(left)} left",
                is_news=epoch == n_epochs,
            )
        return run, run.finish()
    except Diverged as error:
        raise NoUsableTrial(
            f"The training diverged: {error}. Lower train.learning_rate or train.latent_learning_rate by --set, "
            "or look for columns with extreme values."
        ) from None
    finally:
        line.clear()


def describe(artifact: "Artifact", folder: Path, run: "TrialRun") -> Nested:
    """The result as one document; mean squared errors are there since the paper counts in them."""
    metrics = artifact.metrics
    scores = {key: metrics[f"test_{key}"] for key in ("rmse", "rmse_minmax", "mae", "observed_rmse", "all_rmse")}
    validation = {key: value for key, value in metrics.items() if key.startswith("validation_")}
    mixed = {key: metrics[key] for key in ("test_error", "test_nrmse", "test_error_rate") if metrics[key] is not None}
    return {
        "artifact": str(folder),
        "dataset": {key: artifact.dataset[key] for key in ("name", "sha256", "n_rows", "n_features")},
        "model": artifact.config.model.kind,
        "config": artifact.config.model_dump(mode="json"),
        "epochs": run.epoch,
        "best_epoch": run.best_epoch,
        **validation,
        **mixed,
        "test_rmse": scores["rmse"],
        "test_rmse_minmax": scores["rmse_minmax"],
        "test_mae": scores["mae"],
        "test_mse": None if scores["rmse"] is None else scores["rmse"] ** 2,
        "observed_rmse": scores["observed_rmse"],
        "all_rmse": scores["all_rmse"],
        "train_s": round(run.train_s, 3),
        "infer_s": round(run.infer_s, 3),
    }


def _latents(artifact: "Artifact", x: "FloatArray") -> "FloatArray":
    from vadtune.models.objective import as_tensor

    latents: FloatArray = artifact.posterior(as_tensor(x)).mean.cpu().numpy()
    return latents


def _check_model(values: Nested, model: str | None, source: str) -> None:
    """Settings without a kind are of the model that --model names; others must agree with it."""
    if not isinstance(values.get("model", {}), dict):
        return
    kind = values.setdefault("model", {}).setdefault("kind", model or "vad")
    if model is not None and kind != model:
        raise ConfigError(f"--model {model}: {source} is of {kind}. Leave --model out, or take other settings.")


def _say_begin(problem: "Problem", config: "TrialConfig") -> None:
    about = problem.describe()
    cli.say(
        problem.title,
        f"{about['n_train']:,} rows to train a {config.model.kind} on, {about['n_validation']:,} to choose its epoch, "
        f"{about['n_test']:,} for the score; {problem.config.missing_rate:.0%} of the known cells hidden "
        f"({problem.config.mechanism.kind})",
    )


def _sentences(document: Nested, problem: "Problem") -> str:
    unit = problem.table.unit
    validation = next(value for key, value in document.items() if key.startswith("validation_"))
    test = document.get("test_error", document["test_rmse"])
    lines = [
        f"{document['model']} trained for {document['epochs']} epochs in {cli.clock(document['seconds'])}; "
        f"the best was epoch {document['best_epoch']}",
        "",
        f"{cli.title(cli.MEASURES[unit])} over hidden cells, {cli.UNITS[unit]}:",
        f"  validation rows {validation:.4f}",
        f"  test rows       {test:.4f}",
        "",
        f"model:    {document['artifact']}",
        f"use it:   python -m vadtune.impute {shlex.quote(document['artifact'])} TABLE -o FILLED",
    ]
    return "\n".join(cli.printable(line) for line in lines)


if __name__ == "__main__":
    cli.run(main)
