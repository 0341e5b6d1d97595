"""The flags of `python -m vadtune.search`."""

import argparse
from pathlib import Path

from vadtune import cli

EXAMPLES = """\
  python -m vadtune.search mnist --model vad
  python -m vadtune.search breast_cancer --model vad --missing-rate 0.2 --trials 60
  python -m vadtune.search table.csv --model vae --time-budget 1h --name tonight
  python -m vadtune.search table.csv --model vae --time-budget 1h --name tonight --resume
  python -m vadtune.search june.csv --trials 20 --warm-start runs/may
  python -m vadtune.search mnist --set model.latent_dim=64 --set "train.learning_rate={low=1e-4, high=1e-2, log=true}"
  python -m vadtune.search digits --model vad --space my_space.toml --dry-run csv
  python -m vadtune.search mnist --address auto --storage s3://bucket/vadtune --gpus-per-trial 0.25
  python -m vadtune.search table.csv --address ray://localhost:10001 --time-budget 1h

Without --trials and --time-budget the search takes about two minutes. What is shown and printed is the error over
cells that were hidden on purpose: no model and no search has seen them."""

SAMPLERS = ("tpe", "gp", "cmaes", "qmc", "random", "grid")
SCHEDULERS = ("asha", "hyperband", "median", "none")
TRACKERS = ("tensorboard", "mlflow", "wandb")
N_MEMBERS = 4


def parser() -> cli.Parser:
    """The command's arguments."""
    made = cli.Parser("search", "Search the best imputation model for data with missing values.", EXAMPLES)
    made.add_argument(
        "dataset", metavar="DATASET", help="a name (see vadtune.datasets list) or a CSV, Parquet, npz or HDF5 file"
    )
    made.add_argument(
        "--model", choices=("vad", "vae"), default="vad", help="auto-decoder or auto-encoder (default: vad)"
    )
    space = made.add_argument_group("what is searched")
    space.add_argument(
        "--space", metavar="FILE", help="search space: a TOML file or the name of one that comes with vadtune"
    )
    space.add_argument(
        "--set", metavar="PATH=VALUE", action="append", default=[], help="fix or replace a setting of the space"
    )
    space.add_argument(
        "--warm-start",
        metavar="RUN",
        type=Path,
        action="append",
        default=[],
        help="try the best settings of an earlier run first, of this table or of one like it",
    )
    space.add_argument("--trials", metavar="N", type=cli.count, help="end after N trials")
    space.add_argument(
        "--max-epochs", metavar="N", type=cli.count, help="epochs of a trial that nothing stops (default: the space's)"
    )
    space.add_argument(
        "--time-budget",
        metavar="TIME",
        type=cli.duration,
        help="end after 90s, 30m, 2h …; trials that are nearly done by then get up to a tenth more, 5m at most; "
        "further fits of small tables are part of it",
    )
    space.add_argument("--sampler", choices=SAMPLERS, default="tpe", help="proposes settings (default: tpe)")
    space.add_argument("--scheduler", choices=SCHEDULERS, default="asha", help="stops poor trials (default: asha)")
    cli.add_data_flags(made)
    made.set_defaults(seed=0)
    where = made.add_argument_group("where it runs")
    where.add_argument(
        "--cpus-per-trial", metavar="X", type=cli.positive, default=1.0, help="CPUs or a share of one (default: 1)"
    )
    where.add_argument(
        "--gpus-per-trial", metavar="X", type=float, help="GPUs or a share of one (default: 1 if there is one)"
    )
    where.add_argument("--concurrent", metavar="N", type=cli.count, help="trials at once (default: as many as fit)")
    where.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    where.add_argument(
        "--address",
        metavar="ADDR",
        help="a running Ray cluster: auto or HOST:PORT; ray://HOST:PORT runs all of the search there, in ~/runs/NAME, "
        "and fetches the run folder without its checkpoints (default: this machine)",
    )
    # What was typed on the machine that watches a search of ray://: the command that goes on with it.
    where.add_argument("--watched-by", metavar="COMMAND", help=argparse.SUPPRESS)
    where.add_argument(
        "--ship-code", action="store_true", help="send this vadtune to nodes of --address that have none, or another"
    )
    where.add_argument(
        "--storage", metavar="PATH", help="where checkpoints go: a folder or address that every node sees"
    )
    where.add_argument(
        "--storage-url", metavar="URL", help="a study that several searches share: postgresql://USER@HOST/DATABASE"
    )
    result = made.add_argument_group("the result")
    result.add_argument(
        "--runs", metavar="DIR", type=Path, default=Path("runs"), help="folder of run folders (default: runs)"
    )
    result.add_argument("--name", help="of the run folder (default: dataset, model and time)")
    result.add_argument("--resume", action="store_true", help="go on with the run of that --name")
    result.add_argument(
        "--ensemble",
        metavar="K",
        type=cli.count,
        default=N_MEMBERS,
        help=f"average at most K complete trials where that is better on validation rows (default: {N_MEMBERS})",
    )
    result.add_argument("--top", metavar="K", type=cli.count, default=1, help="export the best K trials (default: 1)")
    result.add_argument(
        "--refit",
        action=argparse.BooleanOptionalAction,
        help="train the winner again on all that is observed, after it was scored (default: if the table has holes); "
        "--no-refit leaves out the fits with the validation rows that small tables get, too",
    )
    result.add_argument(
        "--log-to",
        metavar="TRACKER",
        type=trackers,
        action="extend",
        default=[],
        help=f"tell trackers, too: {', '.join(TRACKERS)} (default: none)",
    )
    result.add_argument(
        "--dry-run",
        nargs="?",
        const="jsonl",
        choices=("jsonl", "csv"),
        help="print the configurations and train nothing",
    )
    result.add_argument("--json", action="store_true", help="print the result as one JSON document")
    return made


def trackers(text: str) -> list[str]:
    """Names of trackers, `tensorboard,mlflow`."""
    names = text.split(",")
    for name in names:
        if name not in TRACKERS:
            raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(TRACKERS)}")
    return names
