"""How good imputations are: vadtune against other imputers, on the same rows, hidden cells and time limit.

    python benchmarks/quality.py                               everything, resumable: days on two cores
    python benchmarks/quality.py --datasets wine,diabetes --mechanisms mcar:0.2,mcar:0.5 --seeds 1 --methods mean,vad
    python benchmarks/quality.py --tables mine.csv other.csv   tables of numbers of your own, beside the named datasets
    python benchmarks/quality.py --show                        the table and the figure of what has been run
    python benchmarks/quality.py --anytime wine                do validation and test errors of single trials agree?
    python benchmarks/quality.py --budgets 10,30,60,300        is what 10 trials find as good as what 300 do?
    python benchmarks/quality.py --quick                       one small case, three methods, seconds

A case is a dataset, a mechanism with its rate, and a seed, which draws rows and hidden cells. Every method runs in a
process of its own, one after the other, and is killed at the limit. It sees the observed cells of all rows, fits on the
training rows, and may choose settings on the hidden cells of validation rows; `vad` and `vae` are whole searches of
`--trials` trials, which end by themselves before the limit, `vad_imputer` is `VADImputer` as it comes. `test` are
hidden cells of rows that were not seen, `train` hidden cells of the rows that were fitted. Results go to one JSON file,
one by one; what is in it is not run again.
A table in Markdown goes to stdout, a figure beside the JSON.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from opponents import FILLERS, N_DRAWS, middle_80
from quality_anytime import anytime, budgets_table
from quality_ranks import SEARCHES, Result, coverage, figure, markdown, score

from vadtune.data.problem import Problem, load_problem
from vadtune.data.splits import DataConfig
from vadtune.data.tables import FloatArray
from vadtune.errors import DataError
from vadtune.models.objective import as_tensor
from vadtune.settings import Nested, parse
from vadtune.training.artifact import load_artifact
from vadtune.training.environment import environment
from vadtune.training.fill import Filler

RESULTS = Path(__file__).with_name("quality.json")
DATASETS = ("breast_cancer", "wine", "diabetes", "digits", "synthetic", "mnist")
MECHANISMS = ("mcar:0.2", "mcar:0.5", "mcar:0.8", "mar:0.3", "mnar:0.3")
METHODS = (*FILLERS, *SEARCHES)
MAX_DRAWN_CELLS = 2_000_000  # of a table: intervals of more would take more memory than they tell


class Failed(Exception):
    """A method that gave no imputation, and why."""


@dataclass(frozen=True)
class Case:
    """A table with cells hidden; `dataset` is a name or a file."""

    dataset: str
    mechanism: str
    missing_rate: float
    seed: int

    def known_as(self) -> Nested:
        """What tells this case from others in the results; of a file its name without folders."""
        name = Path(self.dataset).name.partition(".")[0]
        return {"dataset": name, "mechanism": self.mechanism, "missing_rate": self.missing_rate, "seed": self.seed}

    def problem(self) -> Problem:
        """Its rows and hidden cells: those that `vadtune.search` makes of the same flags."""
        values: Nested = {"dataset": self.dataset, "mechanism": {"kind": self.mechanism}}
        values |= {"missing_rate": self.missing_rate, "seed": self.seed}
        problem = load_problem(parse(DataConfig, values, "benchmark"), Path("data"))
        if any(column.levels for column in problem.table.columns):
            raise DataError(f"{self.dataset}: has columns of categories; this benchmark compares imputers of numbers.")
        return problem


@dataclass(frozen=True, eq=False)
class Filled:
    """Test rows and below them training rows, filled: `(N, D)` in scaled units; perhaps ends of 80% intervals."""

    x_hat: FloatArray
    seconds: float
    interval: tuple[FloatArray, FloatArray] | None = None


def run_method(method: str, case: Case, problem: Problem, args: argparse.Namespace) -> Result:
    """One entry of the results."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="vadtune-quality-") as folder:
        try:
            filled = (search if method in SEARCHES else fill)(method, case, problem, args, Path(folder))
        except Failed as failure:
            return {"failure": str(failure), "seconds": round(time.monotonic() - began, 2)}
    return {"seconds": round(filled.seconds, 2)} | scores(filled, problem)


def scores(filled: Filled, problem: Problem) -> Result:
    """Errors over the hidden cells of test rows and of training rows."""
    n_test, found = len(problem.splits.test.truth), {}
    for name, rows in (("test", slice(n_test)), ("train", slice(n_test, None))):
        truth = getattr(problem.splits, name).truth
        found[name] = score(filled.x_hat[rows], truth, problem.splits.column_range)
        if filled.interval is not None:
            low, high = filled.interval
            found[name]["coverage_80"] = coverage(low[rows], high[rows], truth)
    return found


def both(problem: Problem) -> FloatArray:
    """What may be seen of test rows and, below them, of training rows."""
    return np.concatenate([problem.splits.test.rows.x, problem.splits.train.rows.x])


def fill(method: str, case: Case, problem: Problem, args: argparse.Namespace, folder: Path) -> Filled:
    """Fill by one of `FILLERS`, in a process of its own."""
    del case
    splits = problem.splits
    seen = {"validation": splits.validation.rows.x, "validation_truth": splits.validation.truth}
    seen |= {"train": splits.train.rows.x, "test": both(problem), "final": splits.final_rows.x}
    np.savez(folder / "seen.npz", allow_pickle=False, **seen)
    call([str(Path(__file__).with_name("opponents.py")), method, str(folder)], args.limit)
    with np.load(folder / f"{method}.npz") as arrays:
        x_hat = arrays["x_hat"]
        if not np.isfinite(x_hat).all():
            raise Failed("left holes")
        interval = (arrays["low"], arrays["high"]) if "low" in arrays else None
        return Filled(x_hat, float(arrays["seconds"]), interval)


def search(method: str, case: Case, problem: Problem, args: argparse.Namespace, folder: Path) -> Filled:
    """Fill by the winner of a search; its time is that of the whole search."""
    words = ["-m", "vadtune.search", case.dataset, "--model", method, "--mechanism", case.mechanism]
    words += ["--missing-rate", str(case.missing_rate), "--seed", str(case.seed), "--trials", str(args.trials)]
    # The last trials, the comparison with baselines and the report come after the budget.
    words += ["--time-budget", f"{0.8 * args.limit:.0f}s", "--runs", str(folder), "--json", *args.search]
    document = json.loads(call(words, args.limit))
    artifact = load_artifact(Path(document["best"]["artifact"]))
    x_hat = artifact.reconstruct(as_tensor(both(problem))).cpu().numpy()
    return Filled(x_hat, document["seconds"], drawn_interval(artifact, problem))


def drawn_interval(artifact: Any, problem: Problem) -> tuple[FloatArray, FloatArray] | None:
    """The middle 80% of what `vadtune.impute --draws` would write."""
    x, table = both(problem), problem.table
    if N_DRAWS * x.size > MAX_DRAWN_CELLS:
        return None
    own_units = np.where(np.isnan(x), np.nan, problem.splits.scaler.inverse(x))
    rows = type(table)(table.name, table.source, own_units, table.columns, table.image_shape)
    draws = [problem.splits.scaler.transform(draw) for draw in Filler(artifact, N_DRAWS)(rows)]
    return middle_80(np.asarray(draws))


def call(words: list[str], limit_s: float) -> str:
    """What a Python process of ours writes to stdout.

    Raises:
        Failed: It ended with an error, or was killed at the limit.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", *words], capture_output=True, text=True, timeout=limit_s, check=True
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"did not finish in {limit_s:g} s") from None
    except subprocess.CalledProcessError as error:
        raise Failed(error.stderr.strip().rpartition("\n")[2] or f"exit code {error.returncode}") from None
    return done.stdout


def cases(args: argparse.Namespace) -> Iterator[Case]:
    """Seed by seed, so that whatever is done when it is stopped is balanced."""
    for seed in range(args.seeds):
        for mechanism in args.mechanisms:
            kind, _, rate = mechanism.partition(":")
            for dataset in [*args.datasets, *map(str, args.tables)]:
                yield Case(dataset, kind, float(rate), seed)


def run_all(args: argparse.Namespace, results: Nested) -> None:
    """Run what is not among the results, method by method, and write each down when it is there."""
    for method in args.methods:
        for case in cases(args):
            run_missing(case.known_as() | {"method": method}, case, args, results, "results")


def run_budgets(args: argparse.Namespace, results: Nested) -> None:
    """Searches by our methods with each number of trials; as `run_all`, case by case."""
    for case in cases(args):
        for method in sorted({*args.methods} & {*SEARCHES}):
            for n_trials in args.budgets:
                known = case.known_as() | {"method": method, "trials": n_trials}
                run_missing(known, case, argparse.Namespace(**vars(args) | {"trials": n_trials}), results, "budgets")


def run_missing(known: Nested, case: Case, args: argparse.Namespace, results: Nested, part: str) -> None:
    """Add an entry to a part of the results and write them, unless one is there that is known by the same."""
    found = results.setdefault(part, [])
    if is_among(known, found):
        return
    method = known["method"]
    print(case, method, known.get("trials", ""), file=sys.stderr)
    problem = case.problem()
    about = {key: problem.describe()[key] for key in ("sha256", "n_rows", "n_features")}
    about |= {"limit_s": args.limit, "date": f"{datetime.now(UTC):%Y-%m-%d}"}
    about |= {"trials": args.trials} if method in SEARCHES else {}
    found.append(known | about | run_method(method, case, problem, args))
    write(results, args.output)


def is_among(known: Nested, results: Sequence[Result]) -> bool:
    """Whether a result is there that is known by this."""
    return any(known.items() <= result.items() for result in results)


def write(results: Nested, path: Path) -> None:
    about: Nested = dict(environment())
    about["hardware"] = {key: value for key, value in about["hardware"].items() if key != "host"}
    path.write_text(json.dumps(results | {"environment": about}, indent=1) + "\n")


def show(results: Nested, path: Path) -> None:
    """The table, and the figure as HTML, and as PNG where there is a browser."""
    print(markdown(results["results"]))
    made = figure(results["results"])
    made.write_html(path.with_suffix(".html"), include_plotlyjs="cdn")
    try:
        made.write_image(path.with_suffix(".png"), scale=2)
    except (ValueError, RuntimeError) as error:
        print(f"no PNG: {str(error).strip().partition(chr(10))[0]}", file=sys.stderr)


def words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def numbers(text: str) -> list[int]:
    return [int(word) for word in words(text)]


def add_cases(parser: argparse.ArgumentParser, datasets: Sequence[str], mechanisms: Sequence[str], seeds: int) -> None:
    """Add the flags of which `cases` are made, with their defaults."""
    parser.add_argument("--datasets", type=words, default=list(datasets))
    parser.add_argument("--tables", type=Path, nargs="+", default=[], metavar="FILE")
    parser.add_argument("--mechanisms", type=words, default=list(mechanisms), help="KIND:RATE, …")
    parser.add_argument("--seeds", type=int, default=seeds)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_cases(parser, DATASETS, MECHANISMS, seeds=3)
    parser.add_argument("--methods", type=words, default=list(METHODS), help=", ".join(METHODS))
    parser.add_argument("--trials", type=int, default=60, help="of each search (default: 60)")
    parser.add_argument("--budgets", type=numbers, default=[], help="searches of so many trials each: N,…")
    parser.add_argument("--search", type=str.split, default=[], help="more flags of each search, in one word")
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds for one method on one case")
    parser.add_argument("--show", action="store_true", help="run nothing")
    parser.add_argument("--anytime", metavar="DATASET", help="one long search, at the first mechanism")
    parser.add_argument("--quick", action="store_true", help="one small case, three methods")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    unknown = set(args.methods) - set(METHODS)
    if unknown:
        parser.error(f"--methods: {', '.join(sorted(unknown))} not among {', '.join(METHODS)}")
    if args.quick:
        args.datasets, args.mechanisms, args.seeds = ["synthetic:n_rows=200"], ["mcar:0.2"], 1
        args.methods = ["mean", "iterative_pca", "iterative"]
    return args


def main() -> None:
    args = arguments()
    results = json.loads(args.output.read_text()) if args.output.exists() else {"results": [], "anytime": []}
    if args.anytime:
        results["anytime"].append(anytime(args.anytime, args.mechanisms[0], args.trials, call, args.limit))
        write(results, args.output)
        print(json.dumps(results["anytime"][-1], indent=1))
        return
    if args.budgets:
        run_budgets(args, results)
        print(budgets_table(results["budgets"]))
        return
    if not args.show:
        run_all(args, results)
    show(results, args.output)


if __name__ == "__main__":
    main()
