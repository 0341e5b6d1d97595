"""What all commands share: arguments in, messages and exit codes out. Imports nothing heavy."""

import argparse
import atexit
import contextlib
import csv
import gc
import io
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from vadtune.errors import INTERRUPTED as INTERRUPTED
from vadtune.errors import ArtifactError, VadtuneError

MECHANISMS = ("mcar", "mar", "mnar", "block", "landmark", "pattern")
# What errors are and what they are counted in, by `Table.unit`.
MEASURES = {"pixel": "RMSE", "sd": "RMSE", "mixed": "mean error"}
UNITS = {
    "pixel": "in pixels in [0, 1]",
    "sd": "in standard deviations",
    "mixed": "mean over columns of RMSE by range (numbers) and error rate (categories)",
}
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class OneLineErrors(argparse.ArgumentParser):
    """An argument parser that tells a mistake in one line; `add_subparsers` makes more of them."""

    def error(self, message: str) -> NoReturn:
        """One line on stderr, exit code 2."""
        say(f"error: {message} (see {self.prog} --help)")
        sys.exit(VadtuneError.exit_code)


class Parser(OneLineErrors):
    """The parser of one command; its help keeps its examples' line breaks."""

    def __init__(self, command: str, description: str, examples: str) -> None:
        super().__init__(
            prog=f"python -m vadtune.{command}",
            description=description,
            epilog=f"examples:\n{examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """What is hidden of the table; `data_values` reads the flags."""
    data = parser.add_argument_group("what is hidden")
    data.add_argument(
        "--mechanism", choices=MECHANISMS, help="why cells are missing; pattern: as the table's own (default: mcar)"
    )
    data.add_argument(
        "--missing-rate",
        metavar="R",
        type=rate,
        help="share of the known cells to hide (default: 0.5; of a table with holes as many as it has, 0.1 to 0.5)",
    )
    data.add_argument("--test-missing-rate", metavar="R", type=rate, help="another share in validation and test rows")
    data.add_argument("--seed", metavar="N", type=seed, help="of splits, masks and all else (default: 0)")
    add_data_dir(data)
    add_column_flags(parser)


def add_column_flags(parser: argparse.ArgumentParser) -> None:
    """What the columns of a file are, where it cannot be inferred or is inferred wrongly."""
    columns = parser.add_argument_group("what the columns are (also in TABLE.toml beside the table: my.csv.toml)")
    columns.add_argument("--categorical", metavar="COL,…", type=names, help="codes, though they look like numbers")
    columns.add_argument("--ordinal", metavar="COL,…", type=names, help="numbers that are levels in an order")
    columns.add_argument("--numeric", metavar="COL,…", type=names, help="numbers, though they look like codes")
    columns.add_argument("--positive", metavar="COL,…", type=names, help="modelled by their logarithm: prices, incomes")
    columns.add_argument("--ignore", metavar="COL,…", type=names, help="left out; impute carries them through")
    columns.add_argument("--id", metavar="COL,…", type=names, help="the same, of columns that name the row")
    columns.add_argument("--missing", metavar="VALUE,…", type=names, help="also mean an unknown cell: --missing=-999,?")


def add_data_dir(parser: argparse._ActionsContainer) -> None:
    """Where datasets that have a name, but do not come with vadtune, are kept."""
    parser.add_argument(
        "--data-dir", metavar="DIR", type=Path, default=Path("data"), help="where datasets are kept (default: data)"
    )


def data_values(args: argparse.Namespace) -> dict[str, Any]:
    """The settings of `DataConfig` that the flags give; what no flag gives is left out."""
    values = {key: getattr(args, key) for key in ("dataset", "missing_rate", "test_missing_rate", "seed")}
    values["mechanism"] = None if args.mechanism is None else {"kind": args.mechanism}
    columns = {key: getattr(args, key) for key in ("categorical", "numeric", "positive", "ignore", "id", "missing")}
    columns["ordinal"] = None if args.ordinal is None else dict.fromkeys(args.ordinal, ())
    values["columns"] = {key: value for key, value in columns.items() if value is not None} or None
    return {key: value for key, value in values.items() if value is not None}


def check_model_folder(folder: Path, *, force: bool) -> None:
    """Refuse to write a model to a folder that holds something else, or a model that is not to be replaced.

    Raises:
        ArtifactError: It does.
    """
    if folder.exists() and not folder.is_dir():
        raise ArtifactError(f"-o {folder}: is a file. Choose another folder.")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / "SHA256SUMS").is_file():
        raise ArtifactError(f"-o {folder}: exists and is not an exported model. Choose another folder.")
    if not force:
        raise ArtifactError(f"-o {folder}: exists already. Choose another folder, or replace it by --force.")


def run(command: Callable[[list[str]], int | None]) -> NoReturn:
    """Run a command as a program: its errors become one line on stderr and an exit code."""
    # Before torch is loaded: threads of OpenMP that spin while they wait make a busy machine ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # To import torch, Ray and plotly makes half a million objects, none of them garbage: looking for it took 0.4 s.
    gc.set_threshold(50_000)
    # To be asked to end by whoever runs machines is to be interrupted: what is half written goes, and the code is 130.
    signal.signal(signal.SIGTERM, _terminated)
    sys.unraisablehook = _interrupt_again
    try:
        status = command(sys.argv[1:])
        sys.stdout.flush()
    except VadtuneError as error:
        say(*(f"error: {line}" for line in str(error).splitlines()))
        status = error.exit_code
    except KeyboardInterrupt:
        # All is put in order: whoever interrupts once more does not wait for what Python does at its end.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _leave)
        say("interrupted")
        status = INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone, as `| head` does; there is nobody left to tell.
        status = 0
    # To take torch, Ray and plotly apart would take Python more than a second; and it puts the signals' own effect back
    # first, by which an interrupt would change the code.
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BrokenPipeError):
            stream.flush()
    os._exit(status or 0)


def _terminated(number: int, frame: object) -> NoReturn:  # noqa: ARG001
    signal.alarm(0)  # Ray's handler may have been there first: it gives a process three seconds
    raise KeyboardInterrupt


def _leave(number: int, frame: object) -> NoReturn:  # noqa: ARG001
    os._exit(INTERRUPTED)


def _interrupt_again(lost: "sys.UnraisableHookArgs") -> None:
    """Interrupt once more, a moment later, where an interrupt came while an object was dying: Python drops it there."""
    if issubclass(lost.exc_type, KeyboardInterrupt):
        main = threading.main_thread().ident
        assert main is not None
        threading.Timer(0.01, signal.pthread_kill, (main, signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(lost)


def say(*lines: str) -> None:
    """Messages to the person at the terminal: stderr, never stdout."""
    for line in lines:
        sys.stderr.write(printable(line) + "\n")
    sys.stderr.flush()


def show(text: str) -> None:
    """A result: stdout."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")


def show_json(document: object) -> None:
    """One JSON document on stdout; numbers that are not finite become null."""
    text = json.dumps(_finite(document), indent=2, ensure_ascii=False)
    # JSON escapes some characters that steer a terminal, and leaves others.
    show("".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text))


def show_csv(rows: Iterable[Mapping[str, object]]) -> None:
    """Rows as CSV on stdout, the columns in the order they first appear."""
    rows = list(rows)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    show(text.getvalue())


def duration(text: str) -> float:
    """Seconds of `90`, `90s`, `30m`, `2h` or `1h30m`."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 90s, 30m or 1h30m")
    seconds = sum(float(number) * _UNITS[unit or "s"] for number, unit in parts)
    if seconds <= 0:
        raise argparse.ArgumentTypeError("a time has to be above 0")
    return seconds


def rate(text: str) -> float:
    """A share in [0, 1)."""
    value = number(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 1)")
    return value


def rates(text: str) -> tuple[float, ...]:
    """Missing rates, `0.1,0.5,0.9`."""
    return tuple(rate(part) for part in text.split(","))


def names(text: str) -> tuple[str, ...]:
    """Names of columns, `a,b`; a comma inside a name is written in quotes, as in CSV."""
    return tuple(next(csv.reader([text]), []))


def positive(text: str) -> float:
    """A number above 0."""
    value = number(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def count(text: str) -> int:
    """A whole number above 0."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def seed(text: str) -> int:
    """A whole number from 0 on."""
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def number(text: str) -> float:
    """Any number."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def clock(seconds: float) -> str:
    """`0:45`, `12:03` or `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def title(text: str) -> str:
    """Text that begins a line."""
    return text[:1].upper() + text[1:]


def printable(text: str) -> str:
    """Text without control characters: names in a stranger's table must not steer a terminal."""
    return "".join(character if character.isprintable() or character == "\t" else "?" for character in text)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
