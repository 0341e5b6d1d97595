"""`python -m vadtune.report`: the report of a run, or the comparison of several."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vadtune.cli import say
from vadtune.errors import ConfigError, VadtuneError

if TYPE_CHECKING:
    from vadtune.report.page import Page
    from vadtune.report.run import Run

DESCRIPTION = "Write the report of a search as one HTML page that needs no network, or compare several searches."
EXAMPLES = """examples:
  python -m vadtune.report runs/mnist-vad                       # writes runs/mnist-vad/report.html
  python -m vadtune.report runs/vad runs/vae -o compare.html    # compares two searches
  python -m vadtune.report runs/mnist-vad --live                # serves it while the search runs
  python -m vadtune.report runs/mnist-vad --images figures      # also PNG and SVG of every figure (needs kaleido)
  python -m vadtune.report runs/mnist-vad --csv trials.csv      # also every trial as a table
  python -m vadtune.report s3://bucket/vadtune/mnist-vad        # of a run's storage, into mnist-vad.html
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit code: 0 done, 2 wrong input (told on stderr in one line).
    """
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except VadtuneError as error:
        say(*str(error).splitlines())  # a stranger's run folder may hold what steers a terminal
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m vadtune.report", description=DESCRIPTION, epilog=EXAMPLES, formatter_class=raw
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="folder of a run, such as runs/mnist-vad, or s3://BUCKET/PREFIX/NAME"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="where to write it (default: report.html in the run)"
    )
    parser.add_argument("--live", action="store_true", help="serve it on 127.0.0.1 and renew it from the study")
    parser.add_argument("--port", type=int, metavar="N", help="port of --live (default: 8237, or any that is free)")
    parser.add_argument("--images", type=Path, metavar="DIR", help="also write every figure as PNG and SVG")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write every trial of all runs as CSV")
    parser.add_argument("--json", action="store_true", help="print one JSON document with the result and the paths")
    return parser


def _run(options: argparse.Namespace) -> int:
    _check(options)
    if options.live:
        return _serve(options)
    from vadtune.data.stored_run import local_copy
    from vadtune.report.page import comparison_page, run_page, write_page
    from vadtune.report.run import read_run

    runs = []
    for run in options.runs:
        with local_copy(run) as run_dir:
            runs.append(read_run(run_dir))
    page = comparison_page(runs) if len(runs) > 1 else run_page(runs[0])
    output = options.output or _default_output(options.runs, runs)
    written: dict[str, Any] = {"report": str(write_page(page, output))}
    written |= _extras(options, runs, page)
    if options.json:
        sys.stdout.write(json.dumps({"runs": [_result(run) for run in runs], **written}, indent=2) + "\n")
    else:
        sys.stdout.write(f"{written['report']}\n")
    return 0


def _default_output(given: Sequence[str], runs: Sequence["Run"]) -> Path:
    if len(runs) > 1:
        return Path("comparison.html")
    return Path(f"{runs[0].name}.html") if "://" in given[0] else runs[0].path / "report.html"


def _check(options: argparse.Namespace) -> None:
    if options.port is not None and not options.live:
        raise ConfigError("--port is for --live. Add --live, or leave it out.")
    given = [name for name in ("output", "images", "csv", "json") if getattr(options, name)]
    if options.live and given:
        raise ConfigError(f"--live serves the page and writes nothing: leave out --{given[0]}.")
    if options.live and any("://" in run for run in options.runs):
        raise ConfigError("--live watches the folder of a run: start it where the search runs.")
    if options.output is not None and options.output.is_dir():
        raise ConfigError(f"-o {options.output}: is a folder. Give the name of a file in it.")


def _serve(options: argparse.Namespace) -> int:
    from vadtune.report.live import HOST, LiveReport, make_server

    server = make_server(LiveReport([Path(run) for run in options.runs]), options.port)
    sys.stdout.write(f"http://{HOST}:{server.server_address[1]}/\n")
    sys.stdout.flush()
    sys.stderr.write("Serving the report; Ctrl-C ends it, not the search.\n")
    try:
        server.serve_forever(poll_interval=0.2)
    except KeyboardInterrupt:
        sys.stderr.write("\n")
    finally:
        server.server_close()
    return 0


def _extras(options: argparse.Namespace, runs: Sequence["Run"], page: "Page") -> dict[str, Any]:
    written: dict[str, Any] = {}
    if options.csv is not None:
        from vadtune.report.tables import write_trials

        written["csv"] = str(write_trials(runs, options.csv))
    if options.images is not None:
        from vadtune.report.images import write_images

        written["images"] = [str(path) for path in write_images(page, options.images)]
    return written


def _result(run: "Run") -> dict[str, Any]:
    """A run in numbers; what is unknown is null."""
    from vadtune.report.figures_verdict import verdict
    from vadtune.report.trials import trials_frame

    found, best = verdict(run), run.best_trial
    counts = trials_frame(run)["state"].value_counts()
    return {
        "run": run.name,
        "dataset": {"name": run.settings.dataset.name, "sha256": run.settings.dataset.sha256},
        "trials": {str(state): int(n) for state, n in counts.items()},
        "best": None if best is None else {"trial": best.number, "params": best.params},
        "test_rmse": found.rmse if found.is_test else None,
        "verdict": f"{found.headline}. {found.sentence}",
    }


if __name__ == "__main__":
    sys.exit(main())
