"""The command that lists, fetches and makes datasets: `python -m vadtune.datasets`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vadtune.errors import VadtuneError

if TYPE_CHECKING:
    from vadtune.data.fetch import Download
    from vadtune.data.tables import Table

EXAMPLES = """\
examples:
  python -m vadtune.datasets list
  python -m vadtune.datasets fetch mnist                   # all 70,000 digits, into data/mnist/
  python -m vadtune.datasets fetch kin8nm --data-dir data  # any table of openml.org
  python -m vadtune.datasets make synthetic -o blobs.csv --rows 500 --features 8 --clusters 3 --seed 1
"""


def main(arguments: Sequence[str] | None = None, *, download: "Download | None" = None) -> int:
    """Run the command; results go to stdout, a mistake is one line on stderr.

    Args:
        arguments: What follows the command; by default those of the process.
        download: Stands in for scikit-learn's `fetch_openml`.

    Returns:
        The exit code: 0, 2 for a mistake, 130 when interrupted.
    """
    options = _parser().parse_args(arguments)
    try:
        if options.command == "list":
            _list(options.data_dir)
        elif options.command == "fetch":
            _fetch(options.name, options.data_dir, download)
        else:
            _make(options)
    except VadtuneError as error:
        sys.stderr.write(f"vadtune.datasets: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("vadtune.datasets: interrupted; nothing half-done was left.\n")
        return 130
    return 0


def _list(data_dir: Path) -> None:
    from vadtune.data.datasets import NAMES, describe, fetched_file

    fetched = {folder.name for folder in data_dir.glob("*") if fetched_file(folder.name, data_dir)}
    for name in NAMES:
        sys.stdout.write(f"{name:<15} {describe(name)}\n")
    for name in sorted(fetched - set(NAMES)):
        sys.stdout.write(f"{name:<15} In {fetched_file(name, data_dir)}.\n")


def _fetch(name: str, data_dir: Path, download: "Download | None") -> None:
    from vadtune.data.fetch import fetch

    fetched = fetch(name, data_dir, download)
    if fetched.left_out:
        sys.stderr.write(f"Left out, since they hold no numbers: {', '.join(fetched.left_out)}.\n")
    _tell(fetched.table, fetched.path)


def _make(options: argparse.Namespace) -> None:
    from vadtune.data.datasets import Synthetic, synthetic
    from vadtune.data.tables import write_table
    from vadtune.settings import parse

    asked = {
        "n_rows": options.rows,
        "n_features": options.features,
        "n_clusters": options.clusters,
        "latent_dim": options.latents,
        "seed": options.seed,
    }
    config: Synthetic = parse(Synthetic, {key: value for key, value in asked.items() if value is not None}, "flags")
    table = synthetic(**dict(config))
    write_table(table, options.output)
    _tell(table, options.output)


def _tell(table: "Table", path: Path) -> None:
    sys.stdout.write(f"{path}: {table.n_rows:,} rows x {table.n_features:,} columns, sha256 {table.sha256}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m vadtune.datasets",
        description="List, fetch and make datasets.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="list | fetch | make")
    show = commands.add_parser("list", help="names that every command takes, and what lies in the data folder")
    bring = commands.add_parser("fetch", help="bring complete MNIST, Fashion-MNIST or a table of OpenML")
    bring.add_argument("name", metavar="NAME", help="mnist, fashion_mnist or a name on openml.org")
    for command in (show, bring):
        command.add_argument("--data-dir", type=Path, default=Path("data"), metavar="DIR", help="default: data")
    _add_make(commands.add_parser("make", help="write a synthetic dataset to a file"))
    return parser


def _add_make(make: argparse.ArgumentParser) -> None:
    make.add_argument("name", choices=["synthetic"], help="a mixture of Gaussians through a random decoder")
    make.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help=".csv, .parquet, .npz, .h5 …")
    make.add_argument("--rows", type=int, metavar="N")
    make.add_argument("--features", type=int, metavar="N")
    make.add_argument("--clusters", type=int, metavar="K")
    make.add_argument("--latents", type=int, metavar="N")
    make.add_argument("--seed", type=int, metavar="N")


if __name__ == "__main__":
    sys.exit(main())
