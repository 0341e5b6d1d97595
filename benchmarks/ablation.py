"""What each part of `VADImputer`'s model is worth: one setting changed at a time.

    python benchmarks/ablation.py                              three datasets, two rates and seeds; resumable
    python benchmarks/ablation.py --tables mine.csv other.csv  tables of numbers of your own, beside the named datasets
    python benchmarks/ablation.py --changes "train.n_epochs=600,train.n_epochs=600 model.kl_weight=1.0"
    python benchmarks/ablation.py --show                       the table of what has been run
    python benchmarks/ablation.py --quick                      one small case, two changes, seconds

Every model is fitted once, by settings that nothing is chosen for, on the rows that the opponents of `quality.py` fit.
Errors are RMSE over hidden cells of rows that were not seen, and of those that were fitted; changes are geometric means
over the cases in which the setting makes a difference, each with the standard error of that mean. Results go to one
JSON file; what is in it is not run again. A table in Markdown goes to stdout.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import torch
from quality import Case, add_cases, both, cases, is_among, words, write
from quality_ranks import Result

from vadtune import VADImputer
from vadtune.data.metrics import rmse
from vadtune.settings import Nested, flatten, parse_assignments

RESULTS = Path(__file__).with_name("ablation.json")
AS_IT_COMES = ""
DATASETS = ("breast_cancer", "wine", "diabetes")
MECHANISMS = ("mcar:0.2", "mcar:0.5")
CHANGES = (
    "model.noise.kind=learned",
    "model.noise.kind=fixed",
    "model.posterior=fixed",
    "model.posterior=point",
    "model.kl_weight=1.0",
    "model.kl_weight=0.3",
    "model.latent_init=normal",
    "model.normal_scores=false",
    "model.decoder.n_layers=0",
    "model.decoder.n_layers=1",
    "model.decoder.n_layers=3",
    "model.decoder.dropout=0.0",
    "model.decoder.dropout=0.1",
    "model.decoder.layer_norm=true",
    "model.decoder.linear_path=true",
    "train.schedule=constant",
    "train.schedule=cosine",
    "train.batch_size=32",
    "train.batch_size=100000",
    "train.weight_decay=0.0",
    "train.n_epochs=600",
    "infer.method=lbfgs",
    "model.inference_start=zeros",
)


def run(case: Case, change: str) -> Result:
    """Fit the model with a setting changed; its errors on both kinds of rows."""
    problem = case.problem()
    splits, began = problem.splits, time.perf_counter()
    settings = flatten(parse_assignments(change.split()))
    imputer = VADImputer(random_state=0, keep_empty_features=True, settings=settings).fit(splits.final_rows.x)
    x_hat = np.asarray(imputer.transform(both(problem)))
    seconds, n_test = time.perf_counter() - began, len(splits.test.truth)
    errors = {"test": rmse(x_hat[:n_test], splits.test.truth), "train": rmse(x_hat[n_test:], splits.train.truth)}
    return case.known_as() | {"change": change, "seconds": round(seconds, 2)} | errors


def missing(args: argparse.Namespace, results: Sequence[Result]) -> Iterator[tuple[Case, str]]:
    """What is not among the results, case by case."""
    for case in cases(args):
        for change in (AS_IT_COMES, *args.changes):
            if not is_among(case.known_as() | {"change": change}, results):
                yield case, change


def run_all(args: argparse.Namespace, results: Nested) -> None:
    """Run what is missing, side by side on single threads, and write each down when it is there."""
    found: list[Result] = results["results"]
    todo = list(missing(args, found))
    with ProcessPoolExecutor(args.jobs, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        futures: list[Future[Result]] = [pool.submit(run, case, change) for case, change in todo]
        for n_done, future in enumerate(as_completed(futures), start=1):
            found.append(future.result())
            write(results, args.output)
            print(f"\r{n_done} of {len(todo)} fits", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)


def markdown(results: Sequence[Result]) -> str:
    """One line for each change: errors and time by those of the model as it comes."""
    by_change: dict[str, dict[tuple[str, ...], Result]] = {}
    for result in results:
        case = tuple(str(result[key]) for key in ("dataset", "mechanism", "missing_rate", "seed"))
        by_change.setdefault(result["change"], {})[case] = result
    plain = by_change.pop(AS_IT_COMES, {})
    lines = ["| change | cases | unseen rows | fitted rows | time |", "|---|---|---|---|---|"]
    for change, found in by_change.items():
        pairs = [(found[case], plain[case]) for case in found if case in plain]
        pairs = [(new, old) for new, old in pairs if new["train"] != old["train"]]
        if pairs:
            test, train = (worth([new[part] / old[part] for new, old in pairs]) for part in ("test", "train"))
            seconds = np.exp(np.mean([np.log(new["seconds"] / old["seconds"]) for new, old in pairs]))
            lines.append(f"| `{change}` | {len(pairs)} | {test} | {train} | {seconds:.1f} |")
    return "\n".join(lines)


def worth(ratios: Sequence[float]) -> str:
    """The geometric mean of ratios as a change in percent, and its standard error."""
    logs = np.log(ratios)
    error = f" ({logs.std(ddof=1) / len(logs) ** 0.5:.1%})" if len(logs) > 1 else ""
    return f"{np.expm1(logs.mean()):+.1%}{error}"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_cases(parser, DATASETS, MECHANISMS, seeds=2)
    parser.add_argument("--changes", type=words, default=list(CHANGES), help="PATH=VALUE[ PATH=VALUE], …")
    parser.add_argument("--jobs", type=int, default=2, help="fits at once (default: 2)")
    parser.add_argument("--show", action="store_true", help="run nothing")
    parser.add_argument("--quick", action="store_true", help="one small case, two changes")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.quick:
        args.datasets, args.mechanisms, args.seeds = ["synthetic:n_rows=200"], ["mcar:0.2"], 1
        args.changes = ["train.n_epochs=20", "model.posterior=point"]
    return args


def main() -> None:
    args = arguments()
    results = json.loads(args.output.read_text()) if args.output.exists() else {"results": []}
    if not args.show:
        run_all(args, results)
    print(markdown(results["results"]))


if __name__ == "__main__":
    main()
