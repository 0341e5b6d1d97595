"""`python -m vadtune.export`: export trials of a search again, or their decoders for other programs."""

import argparse
import shlex
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vadtune import cli
from vadtune.errors import ConfigError
from vadtune.settings import Nested

if TYPE_CHECKING:
    from vadtune.data.problem import Problem
    from vadtune.tuning.conclude import Winner
    from vadtune.tuning.past_run import PastRun
    from vadtune.tuning.study import BestTrial

EXAMPLES = """\
  python -m vadtune.export runs/night -o models/best
  python -m vadtune.export runs/night --trial 17 -o models/trial17
  python -m vadtune.export runs/night --top 3 -o models/top            # models/top/1, models/top/2, models/top/3
  python -m vadtune.export runs/night --format onnx -o models/onnx     # also decoder.onnx, and how to impute with it
  python -m vadtune.export s3://bucket/vadtune/night -o models/best    # from any machine that sees the storage

A search keeps the checkpoints of as many trials as its --top says; others are trained again by vadtune.train --from."""


def parser() -> cli.Parser:
    """The command's arguments."""
    made = cli.Parser("export", "Export trials of a search, each scored on the test rows.", EXAMPLES)
    made.add_argument("run", metavar="RUN", help="folder of a run, such as runs/mnist-vad, or s3://BUCKET/PREFIX/NAME")
    which = made.add_mutually_exclusive_group()
    which.add_argument("--trial", metavar="N", type=cli.seed, help="the trial of that number (default: the best)")
    which.add_argument("--top", metavar="K", type=cli.count, help="the best K trials, into DIR/1 … DIR/K")
    made.add_argument("-o", "--output", metavar="DIR", type=Path, required=True, help="where to write")
    made.add_argument(
        "--format",
        choices=("safetensors", "torch", "onnx"),
        default="safetensors",
        help="torch and onnx add the decoder for other programs (default: safetensors)",
    )
    made.add_argument("--force", action="store_true", help="replace models that are there already")
    cli.add_data_dir(made)
    made.add_argument("--json", action="store_true", help="print the result as one JSON document")
    return made


def main(arguments: list[str]) -> int:
    """Run the command; returns its exit code."""
    args = parser().parse_args(arguments)
    folders = [args.output] if args.top is None else [args.output / str(rank) for rank in range(1, args.top + 1)]
    for folder in folders:
        cli.check_model_folder(folder, force=args.force)
    return export(args, folders)


def export(args: argparse.Namespace, folders: list[Path]) -> int:
    """Find the trials, export them, print."""
    from vadtune.data.stored_run import local_copy
    from vadtune.training.decoder_export import check_onnx
    from vadtune.tuning.past_run import open_run

    if args.format == "onnx":
        check_onnx()
    with local_copy(args.run) as run:
        past = open_run(run)
        trials = choose_trials(past, args)
        check_checkpoints(trials, args.run)
        problem = past.problem(args.data_dir)
        pairs = zip(trials, folders, strict=False)
        winners = [export_one(past, trial, problem, folder, args.format) for trial, folder in pairs]
    document = {"run": args.run, "format": args.format, "exported": [describe(winner) for winner in winners]}
    if args.json:
        cli.show_json(document)
    else:
        for winner in winners:
            cli.show(cli.printable(sentence(winner)))
    return 0


def choose_trials(past: "PastRun", args: argparse.Namespace) -> list["BestTrial"]:
    """The trials of the flags."""
    if args.trial is not None:
        return [past.trial(args.trial)]
    return past.top(args.top or 1)


def check_checkpoints(trials: list["BestTrial"], run: str) -> None:
    """Refuse, before anything is written, what cannot be exported.

    Raises:
        ConfigError: A trial has no checkpoint; says how to train it.
    """
    gone = [trial.number for trial in trials if trial.checkpoint is None]
    if gone:
        commands = [f"python -m vadtune.train --from {shlex.quote(f'{run}:{number}')} -o DIR" for number in gone]
        raise ConfigError(
            "\n".join([f"No checkpoint any more of trial {', '.join(map(str, gone))}. Train:", *commands])
        )


def export_one(past: "PastRun", trial: "BestTrial", problem: "Problem", folder: Path, kind: str) -> "Winner":
    """Export a trial into a temporary folder beside its place, then rename it."""
    from vadtune.training.artifact import put_in_place
    from vadtune.training.decoder_export import add_onnx, add_torch
    from vadtune.tuning.conclude import export_trial
    from vadtune.tuning.preflight import check_folder

    cli.say(f"trial {trial.number}: scoring it on the test rows")
    check_folder(folder.parent)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        staged = Path(temporary) / folder.name
        winner = export_trial(trial, past.storage, problem, staged)
        if kind != "safetensors":
            (add_onnx if kind == "onnx" else add_torch)(winner.tested.artifact, staged)
        put_in_place(staged, folder)
    return replace(winner, folder=folder)


def describe(winner: "Winner") -> Nested:
    """What is told of one exported trial."""
    from vadtune.tuning.conclude import validation_name
    from vadtune.tuning.summary import mixed_scores

    scores = winner.tested.scores
    return {
        "trial": winner.trial.number,
        "artifact": str(winner.folder),
        "files": sorted(path.name for path in winner.folder.iterdir()),
        validation_name(winner.tested.artifact.dataset["unit"]): winner.tested.validation_error,
        "test_rmse": scores.rmse,
        "test_rmse_minmax": scores.rmse_minmax,
        **mixed_scores(scores),
        "params": winner.trial.params,
    }


def sentence(winner: "Winner") -> str:
    """The same for a person."""
    tested, measure = winner.tested, cli.MEASURES[winner.tested.artifact.dataset["unit"]]
    scores = f"validation {measure} {tested.validation_error:.4f}, test {measure} {tested.scores.objective:.4f}"
    return f"trial {winner.trial.number}: {winner.folder} ({scores})"


if __name__ == "__main__":
    cli.run(main)
