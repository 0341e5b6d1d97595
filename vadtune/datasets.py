"""The command that lists, fetches and makes datasets: `python -m vadtune.datasets`."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vadtune import cli

if TYPE_CHECKING:
    from vadtune.data.fetch import Download
    from vadtune.data.tables import Table

EXAMPLES = """\
  python -m vadtune.datasets list
  python -m vadtune.datasets fetch mnist                   # all 70,000 digits, into data/mnist/
  python -m vadtune.datasets fetch kin8nm --data-dir data  # any table of openml.org
  python -m vadtune.datasets make synthetic -o blobs.csv --rows 500 --features 8 --clusters 3 --seed 1
  python -m vadtune.datasets make sfm --reference data --missing-rate 0.3   # data/sfm/sfm_0.3.h5
"""


def main(arguments: Sequence[str] | None = None, *, download: "Download | None" = None) -> None:
    """Run the command; results go to stdout.

    Args:
        arguments: What follows the command; by default those of the process.
        download: Stands in for scikit-learn's `fetch_openml`.

    Raises:
        VadtuneError: A name, a flag or a file will not do.
    """
    options = _parser().parse_args(arguments)
    if options.command == "list":
        _list(options.data_dir)
    elif options.command == "fetch":
        _fetch(options.name, options.data_dir, download)
    else:
        _make(options)


def _list(data_dir: Path) -> None:
    from vadtune.data.datasets import NAMES, describe, stored_file

    fetched = {folder.name for folder in data_dir.glob("*") if stored_file(folder.name, data_dir)}
    for name in NAMES:
        cli.show(f"{name:<15} {describe(name)}")
    for name in sorted(fetched - set(NAMES)):
        cli.show(cli.printable(f"{name:<15} In {stored_file(name, data_dir)}."))


def _fetch(name: str, data_dir: Path, download: "Download | None") -> None:
    from vadtune.data.fetch import fetch

    fetched = fetch(name, data_dir, download)
    if fetched.left_out:
        cli.say(f"Left out, since no model can take them: {', '.join(fetched.left_out)}.")
    _tell(fetched.table, fetched.path)


def _make(options: argparse.Namespace) -> None:
    from vadtune.data.tables import read_table, write_table
    from vadtune.errors import ConfigError

    if options.output and options.missing_rate is not None:
        raise ConfigError("--missing-rate is for --reference: every other command hides cells itself.")
    if options.mechanism and options.missing_rate is None:
        raise ConfigError("--mechanism says how cells are hidden: give --missing-rate, too.")
    table = _table_to_write(options)
    path = options.output or _write_reference(table, options)
    if options.output:
        write_table(table, path)
    _tell(read_table(path), path)


def _table_to_write(options: argparse.Namespace) -> "Table":
    """A made dataset from the flags, or any other by its name."""
    from vadtune.data.datasets import REMADE, generate, load
    from vadtune.data.synthetic import GENERATORS
    from vadtune.errors import ConfigError

    flags = {"n_rows": "rows", "n_features": "features", "n_clusters": "clusters", "n_landmarks": "landmarks"}
    given = {key: getattr(options, flag) for key, flag in flags.items() if getattr(options, flag) is not None}
    name = REMADE.get(options.name, options.name)
    if name in GENERATORS:
        return generate(name, given | {"seed": options.seed}, options.name)
    if given:
        raise ConfigError(f"{options.name} has its size already; --rows and the like are for {', '.join(GENERATORS)}.")
    return load(options.name, data_dir=options.data_dir)


def _write_reference(table: "Table", options: argparse.Namespace) -> Path:
    """Write the layouts of the VAD paper's code: complete, or masked at a rate."""
    from vadtune.data.reference import write_clean, write_masked
    from vadtune.data.splits import DataConfig
    from vadtune.settings import parse

    kind = options.mechanism or ("landmark" if table.is_landmarks else "mcar")
    flags = {"dataset": options.name, "mechanism": {"kind": kind}, "seed": options.seed}
    rate = {} if options.missing_rate is None else {"missing_rate": options.missing_rate}
    config: DataConfig = parse(DataConfig, flags | rate, "flags")
    # `synthetic:seed=1` is a dataset but not a name for a folder.
    name = options.name.partition(":")[0]
    return (write_masked if rate else write_clean)(table, name, options.reference, config)


def _tell(table: "Table", path: Path) -> None:
    cli.show(cli.printable(f"{path}: {table.n_rows:,} rows x {table.n_features:,} columns, sha256 {table.sha256}"))


def _parser() -> argparse.ArgumentParser:
    parser = cli.Parser("datasets", "List, fetch and make datasets.", EXAMPLES)
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="list | fetch | make", parser_class=cli.OneLineErrors
    )
    show = commands.add_parser("list", help="names that every command takes, and what lies in the data folder")
    bring = commands.add_parser("fetch", help="bring complete MNIST, Fashion-MNIST or a table of OpenML")
    bring.add_argument("name", metavar="NAME", help="mnist, fashion_mnist or a name on openml.org")
    make = commands.add_parser("make", help="write a synthetic dataset, or the files of the VAD paper's code")
    for command in (show, bring, make):
        cli.add_data_dir(command)
    _add_make(make)
    return parser


def _add_make(make: argparse.ArgumentParser) -> None:
    make.add_argument("name", metavar="NAME", help="synthetic, landmarks, artificial, sfm or any other dataset")
    target = make.add_mutually_exclusive_group(required=True)
    target.add_argument("-o", "--output", type=Path, metavar="FILE", help=".csv, .parquet, .npz, .h5 and others")
    target.add_argument("--reference", type=Path, metavar="DIR", help="write DIR/NAME/NAME[_RATE].h5 instead")
    make.add_argument("--rows", type=int, metavar="N")
    make.add_argument("--features", type=int, metavar="N", help="columns of synthetic")
    make.add_argument("--clusters", type=int, metavar="K", help="Gaussians of synthetic")
    make.add_argument("--landmarks", type=int, metavar="N", help="points of landmarks; each has two columns")
    make.add_argument("--missing-rate", type=float, metavar="R", help="with --reference: hide this share of the cells")
    make.add_argument("--mechanism", metavar="M", help="with --missing-rate; default: mcar, for landmarks landmark")
    make.add_argument("--seed", type=int, default=0, metavar="N")


if __name__ == "__main__":
    cli.run(main)
