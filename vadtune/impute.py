"""`python -m vadtune.impute`: fill the holes of a table by an exported model."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vadtune import cli
from vadtune.errors import ConfigError, DataError
from vadtune.terminal import Live

if TYPE_CHECKING:
    from vadtune.data.filling import Output
    from vadtune.training.artifact import Artifact
    from vadtune.training.fill import Filler

EXAMPLES = """\
  python -m vadtune.impute runs/night/best table.csv -o filled.csv
  python -m vadtune.impute runs/night/best table.parquet -o filled.parquet --std spread.parquet
  python -m vadtune.impute runs/night/best table.csv -o filled.csv --draws 5    # filled.1.csv … filled.5.csv
  python -m vadtune.impute runs/night/best table.csv -o filled.csv --intervals  # filled.low95.csv, filled.high95.csv …

Known cells come back as they are; columns, order, index and types stay, columns that the model does not know pass
through. CSV and Parquet are filled in parts, so that tables may be larger than memory; other formats, and CSV that is
to become another, are held in memory. --draws K writes K completed tables, each a draw of what the unknown cells could
have been (multiple imputation); without it they get the model's best estimates. --std writes the standard deviation of
each cell in place of its value, 0 where it is known; of a category, the chance that another one is right. --intervals
writes tables of the lower and upper ends of 50%, 80% and 95% intervals; categories have none."""

CSV = (".csv", ".csv.gz")


def parser() -> cli.Parser:
    """The command's arguments."""
    made = cli.Parser("impute", "Fill the unknown cells of a table by an exported model.", EXAMPLES)
    made.add_argument("artifact", metavar="ARTIFACT", type=Path, help="folder of an exported model, such as RUN/best")
    made.add_argument("table", metavar="TABLE", type=Path, help="CSV, Parquet, Feather, npz, npy or HDF5 file")
    made.add_argument("-o", "--output", metavar="TABLE", type=Path, required=True, help="the completed table")
    made.add_argument("--draws", metavar="K", type=cli.count, help="write K draws, numbered, in place of one table")
    made.add_argument("--std", metavar="FILE", type=Path, help="also write each cell's standard deviation")
    made.add_argument("--intervals", action="store_true", help="also write the ends of 50, 80 and 95%% intervals")
    made.add_argument("--seed", metavar="N", type=cli.seed, default=0, help="of the draws (default: 0)")
    made.add_argument("--force", action="store_true", help="replace files that are there already")
    made.add_argument(
        "--chunk-rows", metavar="N", type=cli.count, default=8192, help="rows to hold at once (default: 8192)"
    )
    made.add_argument("--device", default="auto", help="auto, cpu or cuda:N (default: auto)")
    made.add_argument("--json", action="store_true", help="print the result as one JSON document")
    return made


def main(arguments: list[str]) -> int:
    """Run the command; returns its exit code."""
    args = parser().parse_args(arguments)
    return impute(args, choose_outputs(args))


def choose_outputs(args: argparse.Namespace) -> list["Output"]:
    """The files to write.

    Raises:
        DataError: A format is not known, the input is not there.
        ConfigError: One of them is the input, or is there already.
    """
    from vadtune.data.files import FORMATS, suffix
    from vadtune.data.filling import Output
    from vadtune.data.metrics import LEVELS, half_width

    for path in (args.table, args.output, *([args.std] if args.std else [])):
        if suffix(path) is None:
            raise DataError(f"{path}: the suffix is not one of {', '.join(FORMATS)}.")
    if not args.table.is_file():
        raise DataError(f"{args.table}: no such file. Check the path (the folder is {Path.cwd()}).")
    known = suffix(args.output) or ""
    stem = args.output.name[: -len(known)]
    drawn = [args.output.with_name(f"{stem}.{k}{known}") for k in range(1, (args.draws or 0) + 1)]
    outputs = [Output(path) for path in drawn or [args.output]]
    for level in LEVELS if args.intervals else ():
        for end, deviations in (("low", -half_width(level)), ("high", half_width(level))):
            outputs.append(
                Output(args.output.with_name(f"{stem}.{end}{level * 100:.0f}{known}"), deviations=deviations)
            )
    outputs += [Output(args.std, is_std=True)] if args.std else []
    for output in outputs:
        if output.path.exists() and output.path.samefile(args.table):
            raise ConfigError(f"-o {output.path}: is the table itself. Give another name.")
        if output.path.exists() and not args.force:
            raise ConfigError(f"-o {output.path}: exists already. Give another name, or replace it by --force.")
    if len({output.path.absolute() for output in outputs}) < len(outputs):
        raise ConfigError(f"--std {args.std}: is the output, too. Give another name.")
    return outputs


def impute(args: argparse.Namespace, outputs: Sequence["Output"]) -> int:
    """Fill, write, print."""
    from vadtune.training.artifact import load_artifact
    from vadtune.training.device import resolve_device
    from vadtune.training.fill import Filler

    device, _ = resolve_device(args.device)
    artifact = load_artifact(args.artifact, device)
    deviations = [output.deviations for output in outputs if output.deviations]
    filler = Filler(artifact, args.draws or 0, with_std=args.std is not None, deviations=deviations, seed=args.seed)
    _warn_of_formulas(artifact, outputs)
    progress = Progress()
    try:
        n_rows = fill(args.table, outputs, filler, args.chunk_rows, progress)
    finally:
        progress.line.clear()
    seconds = time.monotonic() - progress.began
    paths = [str(output.path) for output in outputs if not output.is_std and not output.deviations]
    document = {
        "artifact": str(args.artifact),
        "outputs": paths,
        "intervals": [str(output.path) for output in outputs if output.deviations],
        "std": str(args.std) if args.std else None,
        "n_rows": n_rows,
        "n_imputed_cells": filler.n_filled,
        "seconds": round(seconds, 2),
        "rows_per_s": round(n_rows / max(seconds, 1e-9)),
    }
    if args.json:
        cli.show_json(document)
    else:
        what = f"{filler.n_filled:,} unknown cells of {n_rows:,} rows filled in {cli.clock(seconds)}"
        cli.show(cli.printable(f"{', '.join(paths)}: {what}"))
    return 0


def _warn_of_formulas(artifact: "Artifact", outputs: Sequence["Output"]) -> None:
    """Tell of categories that are no harm in a file of text, but where a spreadsheet opens it."""
    from vadtune.data.files import suffix
    from vadtune.data.formulas import is_formula

    if not any(suffix(output.path) in CSV for output in outputs):
        return
    for column in artifact.columns:
        level = next((level for level in column.levels if is_formula(str(level))), None)
        if level is not None:
            cli.say(f"warning: {column.name[:60]!r} may be {str(level)[:60]!r}: a spreadsheet takes it for a formula.")


def fill(source: Path, outputs: Sequence["Output"], filler: "Filler", chunk_rows: int, tell: "Progress") -> int:
    """Fill a table of any format into one of any other; see `data.csv_text` and `data.arrow_batches`.

    Returns:
        How many rows it has.
    """
    from vadtune.data.arrow_batches import ARROW, ParquetSource, TableSource, fill_arrow
    from vadtune.data.csv_text import fill_csv
    from vadtune.data.files import suffix
    from vadtune.data.whole import fill_whole

    known = suffix(source)
    if known in CSV and all(suffix(output.path) in CSV for output in outputs):
        return fill_csv(source, outputs, filler, chunk_rows, tell)
    if known in (*CSV, *ARROW):
        reader = ParquetSource(source) if known == ".parquet" else TableSource(source, filler)
        return fill_arrow(reader, outputs, filler, chunk_rows, tell)
    return fill_whole(source, outputs, filler, chunk_rows, tell)


class Progress:
    """Shows on stderr how far the work is, how fast, and how long it will take."""

    def __init__(self) -> None:
        self.line = Live()
        self.began = time.monotonic()

    def __call__(self, n_rows: int, share: float | None) -> None:
        """So many rows, and this share of all, are done."""
        elapsed = max(time.monotonic() - self.began, 1e-9)
        text = f"{n_rows:,} rows · {n_rows / elapsed:,.0f} rows/s"
        if share:
            text += f" · {share:.0%} · {cli.clock(elapsed / share - elapsed)} left"
        self.line.show_line(text)


if __name__ == "__main__":
    cli.run(main)
