"""VAD against VAE over missing rates, as in the VAD paper: both searched alike, on the same rows and the same masks.

    python benchmarks/paper.py                                    all cases; resumable, some hours on two cores
    python benchmarks/paper.py --datasets mnist,synthetic --rates 0.5,0.7,0.9 --seeds 1
    python benchmarks/paper.py --quick                            a few small cases, some minutes

Every case is one `vadtune.search` of its own. Trials are compared on validation rows; the error is over hidden cells
of test rows, which no search has seen. `shifted` cases are trained on complete rows and tested with cells missing.
Results are added to one JSON file, case by case; what is in it is not run again. A table in Markdown goes to stdout.

Source: Zadeh, Lim, Liang, Morency (2019), Variational Auto-Decoder, arXiv:1903.00840, section 5.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).with_name("paper.json")
MECHANISMS = {"landmarks": "landmark"}
TABLE_HEAD = "| data | missing | VAD MSE | VAE MSE | VAE / VAD |\n|---|---|---|---|---|"


@dataclass(frozen=True)
class Case:
    """One search: a model on a dataset at a missing rate; `shifted` hides cells of test rows only."""

    dataset: str
    model: str
    missing_rate: float
    seed: int
    trials: int
    max_epochs: int | None
    shifted: bool

    def command(self, runs: str) -> list[str]:
        mechanism = MECHANISMS.get(self.dataset, "mcar")
        words = ["-m", "vadtune.search", self.dataset, "--model", self.model, "--mechanism", mechanism, "--json"]
        words += ["--trials", str(self.trials), "--seed", str(self.seed), "--runs", runs]
        rate = ["--missing-rate", "0", "--test-missing-rate"] if self.shifted else ["--missing-rate"]
        words += [*rate, str(self.missing_rate)]
        return [sys.executable, *words, *(["--max-epochs", str(self.max_epochs)] if self.max_epochs else [])]


def cases(args: argparse.Namespace) -> Iterator[Case]:
    for dataset in args.datasets.split(","):
        for rate in args.rates.split(","):
            for seed in range(args.seeds):
                for shifted in [False, True] if args.shifted else [False]:
                    for model in ("vad", "vae"):
                        yield Case(dataset, model, float(rate), seed, args.trials, args.max_epochs, shifted)


def run(case: Case) -> dict[str, float]:
    """Search; returns the winner's errors."""
    with tempfile.TemporaryDirectory() as runs:
        done = subprocess.run(case.command(runs), stdout=subprocess.PIPE, check=True)
    result = json.loads(done.stdout)
    return {name: result["best"][name] for name in ("test_rmse", "validation_rmse")} | {"seconds": result["seconds"]}


def table(results: list[dict[str, float]]) -> str:
    """Mean squared error over seeds, VAD beside VAE."""
    rows = [TABLE_HEAD]
    kinds = sorted({(r["dataset"], r["shifted"], r["missing_rate"]) for r in results})
    for dataset, shifted, rate in kinds:
        here = [r for r in results if (r["dataset"], r["shifted"], r["missing_rate"]) == (dataset, shifted, rate)]
        mse = {m: [r["test_rmse"] ** 2 for r in here if r["model"] == m] for m in ("vad", "vae")}
        if mse["vad"] and mse["vae"]:
            vad, vae = np.mean(mse["vad"]), np.mean(mse["vae"])
            name = f"{dataset}, trained complete" if shifted else dataset
            rows.append(f"| {name} | {rate:.0%} | {vad:.5f} | {vae:.5f} | {vae / vad:.2f} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", default="synthetic,landmarks,mnist")
    parser.add_argument("--rates", default="0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--max-epochs", type=int)
    parser.add_argument("--shifted", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--quick", action="store_true", help="two rates of small data, two trials, few epochs")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.quick:
        args.datasets, args.rates, args.seeds = "synthetic:n_rows=300", "0.5,0.8", 1
        args.trials, args.max_epochs, args.shifted = 2, 20, False
    results = json.loads(args.output.read_text()) if args.output.exists() else []
    for case in cases(args):
        known = asdict(case)
        if any(known.items() <= result.items() for result in results):
            continue
        print(f"{case}", file=sys.stderr)
        results.append(known | run(case))
        args.output.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
